"""Slow start, congestion avoidance, halving (RFC 5681)."""

from libc.stdint cimport int64_t, uint32_t

from netstack.tcp.congestion.controller cimport CWND_MAX, congestion_register, tcb_of
from netstack.tcp.congestion.window cimport additive_increase, slow_start, window_after_idle
from netstack.tcp.tcb cimport congestion_ops_t


cdef void reno_init(congestion_t *cc, int64_t now_ns) noexcept nogil:
    cc.private_state[0] = 0                            # bytes towards the next increase


cdef void reno_on_ack(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    cdef uint32_t acked = rs.acked
    if rs.in_recovery or not rs.cwnd_limited:
        return
    if cc.cwnd < cc.ssthresh:
        acked = slow_start(cc, acked)
        if acked == 0:
            return
    if cc.cwnd < CWND_MAX:
        additive_increase(cc, <uint32_t *> cc.private_state, cc.cwnd, acked)     # one segment per window (section 3.1)


cdef uint32_t half(const congestion_t *cc) noexcept nogil:
    """max(cwnd / 2, 2 * SMSS). Equation 4 of section 3.1 halves the flight; as Linux, cwnd, which grows only while it is used."""
    cdef uint32_t h = cc.cwnd // 2
    h -= h % cc.mss
    return h if h > 2 * cc.mss else 2 * cc.mss


cdef void reno_on_loss(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    cc.ssthresh = half(cc)
    cc.cwnd = cc.ssthresh
    cc.private_state[0] = 0


cdef void reno_on_rto(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    cc.ssthresh = half(cc)
    cc.cwnd = cc.mss
    cc.private_state[0] = 0


cdef void reno_after_idle(congestion_t *cc, int64_t idle_ns, int64_t rto_ns) noexcept nogil:
    window_after_idle(cc, idle_ns, rto_ns, tcb_of(cc).tcp.config.initial_cwnd_segments * cc.mss)


cdef congestion_ops_t ops
ops.name = b"reno"
ops.init = reno_init
ops.on_ack = reno_on_ack
ops.on_loss = reno_on_loss
ops.on_rto = reno_on_rto
ops.after_idle = reno_after_idle
congestion_register(&ops)
