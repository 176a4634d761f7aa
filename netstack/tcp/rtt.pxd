"""Round-trip time and retransmission timeout (RFC 6298)."""

from libc.stdint cimport int64_t

from netstack.tcp.tcb cimport tcb_t


cdef void rtt_sample(tcb_t *tcb, int64_t rtt_ns) noexcept nogil
cdef void rto_reset(tcb_t *tcb) noexcept nogil       # from srtt again, after new data was acknowledged
cdef void rto_backoff(tcb_t *tcb) noexcept nogil     # RFC 6298 section 5.5
