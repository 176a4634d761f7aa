"""Slow start, congestion avoidance, halving (RFC 5681). Bytes throughout, so that many small acknowledgements earn nothing."""

from libc.stdint cimport int64_t, uint32_t

from netstack.tcp.tcb cimport rate_sample_t

cdef enum:
    CWND_MAX = 1 << 30           # bytes: the largest window TCP can use (RFC 7323 section 2.3)
    BYTES_ACKED = 0              # private_state: towards the next increase in congestion avoidance (RFC 3465)


cdef void reno_init(congestion_t *cc, int64_t now_ns) noexcept nogil:
    cc.ssthresh = CWND_MAX
    cc.private_state[BYTES_ACKED] = 0


cdef void reno_on_ack(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    cdef uint32_t limit = 2 * cc.mss, acked = rs.acked
    if rs.in_recovery or not rs.cwnd_limited:
        return
    if cc.cwnd < cc.ssthresh:                          # slow start, section 3.1; bytes, as RFC 3465, but without its limit:
        # one acknowledgement may stand for a whole batch here: it earns what its segments would have earned, and
        # what it covers is bounded by the flight it was sent for, so splitting or inventing ACKs gains nothing.
        if cc.cwnd + acked <= cc.ssthresh:
            cc.cwnd += acked
            if cc.cwnd > CWND_MAX:
                cc.cwnd = CWND_MAX
            return
        acked -= cc.ssthresh - cc.cwnd
        cc.cwnd = cc.ssthresh
    cc.private_state[BYTES_ACKED] += acked
    if cc.private_state[BYTES_ACKED] >= cc.cwnd:                      # congestion avoidance: one MSS per window
        cc.private_state[BYTES_ACKED] -= cc.cwnd
        if cc.private_state[BYTES_ACKED] > limit:
            cc.private_state[BYTES_ACKED] = limit
        if cc.cwnd + cc.mss <= CWND_MAX:
            cc.cwnd += cc.mss


cdef uint32_t half(const congestion_t *cc, uint32_t flight) noexcept nogil:
    """Equation 4 of section 3.1: max(FlightSize / 2, 2 * SMSS)."""
    cdef uint32_t h = flight // 2
    return h if h > 2 * cc.mss else 2 * cc.mss


cdef void reno_on_loss(congestion_t *cc, uint32_t flight, int64_t now_ns) noexcept nogil:
    cc.ssthresh = half(cc, flight)
    cc.cwnd = cc.ssthresh
    cc.private_state[BYTES_ACKED] = 0


cdef void reno_on_rto(congestion_t *cc, uint32_t flight, int64_t now_ns) noexcept nogil:
    cc.ssthresh = half(cc, flight)
    cc.cwnd = cc.mss
    cc.private_state[BYTES_ACKED] = 0


cdef void reno_after_idle(congestion_t *cc, int64_t idle_ns, int64_t rto_ns) noexcept nogil:
    """Section 4.1, halving per RTO of silence as RFC 2861 has it, never below the initial window."""
    cdef uint32_t floor = 10 * cc.mss
    if cc.cwnd <= floor:
        return
    if cc.ssthresh < cc.cwnd - cc.cwnd // 4:
        cc.ssthresh = cc.cwnd - cc.cwnd // 4
    while idle_ns >= rto_ns and cc.cwnd > floor:
        idle_ns -= rto_ns
        cc.cwnd //= 2
    if cc.cwnd < floor:
        cc.cwnd = floor


cdef congestion_ops_t reno_ops
reno_ops.name = b"reno"
reno_ops.init = reno_init
reno_ops.on_ack = reno_on_ack
reno_ops.on_loss = reno_on_loss
reno_ops.on_rto = reno_on_rto
reno_ops.after_idle = reno_after_idle
