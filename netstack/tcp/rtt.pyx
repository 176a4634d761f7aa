"""RFC 6298 with Linux's lower bound: the variance term, not the whole, is at least rto_min.

Samples come from one timed segment per round trip, never from one that was sent twice (Karn). Nanoseconds throughout:
same-host round trips are about a microsecond, and a sample is at least 1.
"""

from libc.stdint cimport int64_t

from netstack.clock cimport NS_PER_MS, NS_PER_S

cdef enum:
    RTO_MAX_S = 120              # RFC 6298 section 2.5 allows any bound of 60 s or more


cdef void rtt_sample(tcb_t *tcb, int64_t rtt_ns) noexcept nogil:
    """Sections 2.2 and 2.3: alpha 1/8, beta 1/4."""
    cdef int64_t error
    if rtt_ns < 1:
        rtt_ns = 1
    if tcb.srtt_ns == 0:
        tcb.srtt_ns = rtt_ns
        tcb.rttvar_ns = rtt_ns // 2
    else:
        error = tcb.srtt_ns - rtt_ns
        if error < 0:
            error = -error
        tcb.rttvar_ns += (error - tcb.rttvar_ns) // 4
        tcb.srtt_ns += (rtt_ns - tcb.srtt_ns) // 8
        if tcb.srtt_ns < 1:
            tcb.srtt_ns = 1
    rto_reset(tcb)


cdef void rto_reset(tcb_t *tcb) noexcept nogil:
    cdef int64_t spread = 4 * tcb.rttvar_ns
    cdef int64_t floor = <int64_t> tcb.tcp.config.rto_min_ms * NS_PER_MS
    if tcb.srtt_ns == 0:
        tcb.rto_ns = NS_PER_S                # RFC 6298 section 2.1
        return
    if spread < floor:
        spread = floor                       # as Linux: srtt + max(4 * rttvar, 200 ms)
    tcb.rto_ns = tcb.srtt_ns + spread
    if tcb.rto_ns > <int64_t> RTO_MAX_S * NS_PER_S:
        tcb.rto_ns = <int64_t> RTO_MAX_S * NS_PER_S


cdef void rto_backoff(tcb_t *tcb) noexcept nogil:
    tcb.rto_ns *= 2
    if tcb.rto_ns > <int64_t> RTO_MAX_S * NS_PER_S:
        tcb.rto_ns = <int64_t> RTO_MAX_S * NS_PER_S
