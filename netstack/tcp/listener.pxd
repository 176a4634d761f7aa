"""A listener's queues: half-open connections as small records, whole ones that wait for accept()."""

from libc.stdint cimport int64_t, uint32_t

from netstack.counters cimport DropReason
from netstack.tcp.tcb cimport bare_t, listener_t, request_t, segment_t, tcb_t, tcp_t

# A segment for a listener (RFC 9293 section 3.10.7.2), its sum not looked at yet. above: the answer has to begin above that
# sequence number (RFC 6191); NULL: anywhere. child: what came to be, to be traced, or NULL.
cdef DropReason listen_state(tcb_t *listener, segment_t *seg, const uint32_t *above, tcb_t **child) noexcept nogil
# A segment for a half-open connection, its sum not looked at yet. child: what it became, or NULL.
cdef DropReason request_arrives(tcp_t *tcp, request_t *r, segment_t *seg, tcb_t **child) noexcept nogil
cdef void request_answer(const tcp_t *tcp, const request_t *r, bare_t *out) noexcept nogil   # its SYN,ACK
cdef void request_sent(tcp_t *tcp, request_t *r) noexcept nogil          # the link has it: the timer runs
cdef int64_t requests_next(const tcp_t *tcp) noexcept nogil              # the next deadline, or NEVER
cdef void requests_fire(tcp_t *tcp, int64_t now_ns) noexcept nogil       # what is due by then
cdef void request_join(request_t *r) noexcept nogil                      # into its listener's lists and its timer's; for restore
cdef uint32_t queue_limit(const listener_t *l) noexcept nogil            # of half-open connections

cdef void listener_forget(tcb_t *child) noexcept nogil                   # leaves the accept queue
cdef bint listener_adopt(tcb_t *child) noexcept nogil                    # into the accept queue; False: full
cdef tcb_t *listener_accept(tcb_t *tcb) noexcept nogil
cdef void listener_refuse(tcb_t *tcb, int error) noexcept nogil          # everything in both queues; those established hear a RST
cdef void listener_close(tcb_t *tcb) noexcept nogil
cdef void listener_discard(tcb_t *tcb) noexcept nogil                    # its memory; what waits for accept() is the caller's
