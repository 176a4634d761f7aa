"""TCP Fast Open (RFC 7413): data on the SYN, for peers that have shown a cookie before."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from netstack.address cimport address_t
from netstack.tcp.output cimport plan_t
from netstack.tcp.tcb cimport fast_open_cache_t, listener_t, request_t, segment_t, tcb_t, tcp_t

cdef enum:                       # bits of net.ipv4.tcp_fastopen
    TFO_CLIENT = 1
    TFO_SERVER = 2
    TFO_CLIENT_NO_COOKIE = 4
    TFO_SERVER_NO_COOKIE = 0x200
    TFO_SERVER_ALL = 0x400       # every listener, without the socket option

# --- server
cdef void fast_open_make_keys(tcp_t *tcp) noexcept nogil                 # random ones, unless there are some
cdef uint8_t fast_open_cookie(tcb_t *listener, const address_t *local, const address_t *remote,
                              uint8_t *out) noexcept nogil               # its length
# A child that takes the SYN's data at once; NULL: an ordinary handshake, with what r.flags say of a cookie.
cdef tcb_t *fast_open_server(request_t *r, const segment_t *seg) noexcept nogil
cdef void fast_open_over(tcb_t *child, bint reset) noexcept nogil        # a child's handshake ended; reset: by the peer's RST
cdef void fast_open_reset(tcb_t *child) noexcept nogil                   # the peer's RST before accept()
cdef void fast_open_listen(tcb_t *listener) noexcept nogil               # listen(): the queue that TFO_SERVER_ALL gives
cdef void fast_open_forget_resets(listener_t *l) noexcept nogil
# --- client
cdef bint fast_open_blocked(const tcp_t *tcp) noexcept nogil             # the network eats SYNs with data: not now
cdef bint fast_open_may_defer(tcb_t *tcb) noexcept nogil                 # connect() may wait for data: it could go on the SYN
cdef void fast_open_start(tcb_t *tcb) noexcept nogil                     # after connection_open: the SYN says it
cdef uint32_t fast_open_room(tcb_t *tcb) noexcept nogil                  # bytes that fit on it
cdef void fast_open_syn(tcb_t *tcb, plan_t *plan) noexcept nogil
cdef void fast_open_syn_sent(tcb_t *tcb, const plan_t *plan) noexcept nogil
cdef bint fast_open_answered(tcb_t *tcb, const segment_t *seg) noexcept nogil   # by a SYN,ACK; False: data has to go again
cdef void fast_open_timeout(tcb_t *tcb, bint last) noexcept nogil        # the RTO fired: a black hole?
cdef void fast_open_ended(tcb_t *tcb) noexcept nogil                     # a client's connection is over: the same question
cdef fast_open_cache_t *fast_open_remember(tcp_t *tcp, const address_t *local, const address_t *remote) noexcept nogil
