"""Whose packet is it: connections by four names, listeners and datagram sockets by port, TIME-WAIT records."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.link.link cimport port_keeper_t
from netstack.sock cimport sock_t
from netstack.tcp.tcb cimport request_t, tcb_t, tcp_t
from netstack.udp.endpoint cimport udp_endpoint_t

cdef enum:
    BIND_BUCKETS = 256


cdef struct tw_t:
    # What is left of a connection in TIME-WAIT: enough to answer late segments and to judge a new SYN.
    address_t local
    address_t remote
    uint16_t lport
    uint16_t rport
    uint32_t snd_nxt
    uint32_t rcv_nxt
    uint32_t ts_recent
    uint32_t ts_offset
    uint32_t hash
    uint16_t wnd
    uint8_t has_ts
    uint8_t interface
    uint16_t ace                 # of AccECN, flags of what we still send
    uint8_t ecn                  # and its IP codepoint
    int64_t expires_ns
    tw_t *next                   # in order of expiry: all live equally long
    tw_t *back


cdef struct slot_t:
    void *p                      # tcb_t *, tw_t * with bit 0 set, request_t * with bit 1 set; NULL: free
    uint32_t hash


cdef struct demux_t:
    slot_t *slots                # open addressing, linear probing; size a power of two
    uint32_t mask
    uint32_t count
    tw_t *tw_first
    tw_t *tw_last
    uint32_t tw_count
    sock_t *bound[BIND_BUCKETS]
    port_keeper_t *keeper        # of ports we share with others; NULL: ours alone
    tcb_t *any_listener          # has the addresses and ports that no other listener has; NULL: nobody


cdef inline bint is_tw(void *p) noexcept nogil:
    return <uint64_t> p & 1


cdef inline tw_t *as_tw(void *p) noexcept nogil:
    return <tw_t *> (<uint64_t> p & ~<uint64_t> 1)


cdef inline bint is_request(void *p) noexcept nogil:
    return <uint64_t> p & 2


cdef inline request_t *as_request(void *p) noexcept nogil:
    return <request_t *> (<uint64_t> p & ~<uint64_t> 2)


cdef inline tcb_t *as_tcb(void *p) noexcept nogil:
    """NULL when it is no whole connection."""
    return NULL if <uint64_t> p & 3 else <tcb_t *> p


cdef uint32_t demux_hash(const tcp_t *tcp, const address_t *local, const address_t *remote,
                         uint16_t lport, uint16_t rport) noexcept nogil
cdef void *demux_find(const demux_t *d, uint32_t hash, const address_t *local, const address_t *remote,
                      uint16_t lport, uint16_t rport) noexcept nogil
cdef int demux_insert(demux_t *d, tcb_t *tcb) noexcept nogil                 # 0, or -1: no memory; tcb.hash is set
cdef void demux_remove(demux_t *d, tcb_t *tcb) noexcept nogil
cdef int demux_request_insert(demux_t *d, request_t *r) noexcept nogil
cdef void demux_request_remove(demux_t *d, request_t *r) noexcept nogil
cdef tw_t *demux_time_wait(demux_t *d, tcb_t *tcb, int64_t expires_ns, uint32_t limit) noexcept nogil
cdef void demux_tw_restart(demux_t *d, tw_t *tw, int64_t expires_ns) noexcept nogil
cdef void demux_tw_remove(demux_t *d, tw_t *tw) noexcept nogil
cdef int demux_tw_insert(demux_t *d, const tw_t *like) noexcept nogil        # a copy, at the end; for restore
cdef void demux_free(demux_t *d) noexcept nogil

cdef uint16_t sock_port(const sock_t *sock) noexcept nogil
cdef const address_t *sock_address(const sock_t *sock) noexcept nogil
# Would *sock* at *local* share addresses with *other*, where that is?
cdef bint demux_overlap(const sock_t *sock, const address_t *local, const sock_t *other) noexcept nogil
cdef bint demux_port_taken(const demux_t *d, const sock_t *sock, const address_t *local, uint16_t port,
                           bint connecting) noexcept nogil
cdef bint demux_port_in_use(const demux_t *d, const sock_t *sock, const address_t *local, uint16_t port) noexcept nogil
# May the socket have that port, of which nobody of ours thinks otherwise? It is claimed then, and has to be bound at
# once. 0 or -errno.
cdef int demux_claim(demux_t *d, const sock_t *sock, uint16_t port) noexcept nogil
# Who keeps the ports may also say which one to try for who wants any: the i-th, > 0; -errno: no more. 0: nobody says.
cdef int demux_pick(demux_t *d, const sock_t *sock, uint32_t random, uint32_t i) noexcept nogil
cdef void demux_bind(demux_t *d, sock_t *sock) noexcept nogil                # its port and address are set
cdef void demux_unbind(demux_t *d, sock_t *sock) noexcept nogil
# The first of the chain in which sockets of that kind and port stand; bind_next leads on, also to others.
cdef sock_t *demux_first(const demux_t *d, uint8_t kind, uint16_t port) noexcept nogil
# The listener on exactly this address, else on any; one of its own version is closer than one of both. Last the one that takes
# whatever others do not, if there is such a one. Where several are alike (SO_REUSEPORT) the *hash* of the flow decides.
cdef tcb_t *demux_listener(const demux_t *d, const address_t *local, uint16_t port, uint32_t hash) noexcept nogil
# Best match: connected to this peer, then bound to this address, then any, its own version before both. Where several that
# have SO_REUSEPORT are alike, the hash of the flow decides.
cdef udp_endpoint_t *demux_datagram(const demux_t *d, const tcp_t *tcp, uint8_t kind, const address_t *local, uint16_t lport,
                                    const address_t *remote, uint16_t rport) noexcept nogil
