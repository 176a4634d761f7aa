"""NewReno's window (RFC 5681, RFC 3465 without its limit); who retransmits what is ``tcp/recovery``."""

from libc.stdint cimport int64_t, uint32_t

from netstack.tcp.tcb cimport congestion_t, rate_sample_t

# What others build on.
cdef void reno_on_ack(congestion_t *cc, const rate_sample_t *rs) noexcept nogil
cdef void reno_after_idle(congestion_t *cc, int64_t idle_ns, int64_t rto_ns) noexcept nogil
