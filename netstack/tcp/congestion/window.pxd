"""Window arithmetic that algorithms share. Bytes throughout, so that many small acknowledgements earn nothing."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.tcp.tcb cimport congestion_t


cdef inline uint32_t slow_start(congestion_t *cc, uint32_t acked) noexcept nogil:
    """Grow by what was acknowledged, up to ssthresh; what is left counts for congestion avoidance (RFC 5681 section 3.1).

    RFC 3465's limit L does not apply: one acknowledgement may stand for a whole batch here and earns what its segments would
    have earned; it covers no more than the flight it was sent for, so splitting or inventing ACKs gains nothing.
    """
    cdef uint32_t room = cc.ssthresh - cc.cwnd
    if acked <= room:
        cc.cwnd += acked
        return 0
    cc.cwnd = cc.ssthresh
    return acked - room


cdef inline void additive_increase(congestion_t *cc, uint32_t *credit, uint32_t window, uint32_t acked) noexcept nogil:
    """One segment for every *window* bytes acknowledged; credit: bytes towards the next."""
    cdef uint64_t have
    if window < cc.mss:
        window = cc.mss
    if credit[0] >= window:                            # gathered while the price was higher: one, not a burst
        credit[0] = 0
        cc.cwnd += cc.mss
    have = <uint64_t> credit[0] + acked
    if have >= window:
        cc.cwnd += <uint32_t> (have // window) * cc.mss
        have %= window
    credit[0] = <uint32_t> have


cdef inline void window_after_idle(congestion_t *cc, int64_t idle_ns, int64_t rto_ns, uint32_t initial) noexcept nogil:
    """RFC 5681 section 4.1, halving per RTO of silence as RFC 2861 and Linux have it, not below *initial*."""
    cdef uint32_t three_quarters = cc.cwnd - cc.cwnd // 4
    if initial > cc.cwnd:
        initial = cc.cwnd
    if cc.ssthresh < three_quarters:
        cc.ssthresh = three_quarters
    idle_ns -= rto_ns
    while idle_ns > 0 and cc.cwnd > initial:
        cc.cwnd //= 2
        idle_ns -= rto_ns
    if cc.cwnd < initial:
        cc.cwnd = initial
