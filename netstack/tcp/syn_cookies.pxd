"""SYN cookies (RFC 4987 section 3.6): a half-open connection that is kept by the peer."""

from libc.stdint cimport uint32_t

from netstack.tcp.tcb cimport request_t, segment_t, tcp_t

cdef enum:
    COOKIE_FAILED = 0
    COOKIE_GOOD = 1
    COOKIE_REFUSED = 2           # good, but of options that are switched off by now: no answer


# The initial sequence number of an answer to the SYN that *r* was made from; r.peer_mss becomes what the cookie can say.
cdef uint32_t cookie_isn(const tcp_t *tcp, request_t *r) noexcept nogil
# The timestamp of that answer: options of the SYN in its lowest bits.
cdef uint32_t cookie_timestamp(const tcp_t *tcp, const request_t *r) noexcept nogil
# Does this acknowledgement bring a cookie of ours back? Then *r* is what was known of the SYN.
cdef int cookie_check(tcp_t *tcp, const segment_t *seg, request_t *r) noexcept nogil
