"""DCTCP (RFC 8257): cut the window by as much as the share of bytes that met congestion asks for.

Growth is Reno's. alpha, the estimated share, is of 1024 and moves once per window (section 3.3); ECN cuts by alpha / 2, a loss
by half as in any TCP (section 3.5).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from netstack.tcp.congestion.controller cimport CWND_MAX, congestion_register
from netstack.tcp.congestion.reno cimport reno_after_idle
from netstack.tcp.congestion.window cimport additive_increase, slow_start
from netstack.tcp.tcb cimport CC_ECHOES_CE, CC_NEEDS_ECN, congestion_ops_t, congestion_t, rate_sample_t

cdef enum:
    ONE = 1024
    G_SHIFT = 4                  # g = 1/16 (section 4.2)


cdef struct dctcp_t:
    uint32_t credit
    uint32_t alpha
    uint32_t round_end           # DCTCP.WindowEnd, in bytes delivered
    uint32_t started
    uint64_t delivered           # DCTCP.BytesAcked
    uint64_t marked              # DCTCP.BytesMarked
    uint32_t last_delivered
    uint32_t last_marked


cdef inline dctcp_t *state(congestion_t *cc) noexcept nogil:
    return <dctcp_t *> cc.private_state


cdef void dctcp_init(congestion_t *cc, int64_t now_ns) noexcept nogil:
    state(cc).alpha = ONE                              # section 3.3: 1, so that the first mark is taken seriously


cdef void end_of_window(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    """DCTCP.Alpha = DCTCP.Alpha * (1 - g) + g * M."""
    cdef dctcp_t *s = state(cc)
    cdef uint32_t fade = s.alpha >> G_SHIFT
    if fade == 0 and s.alpha:
        fade = s.alpha                                 # what the shift would keep for ever
    s.alpha -= fade
    if s.delivered:
        s.alpha += <uint32_t> ((s.marked * ONE >> G_SHIFT) // s.delivered)
    if s.alpha > ONE:
        s.alpha = ONE
    s.last_delivered = <uint32_t> s.delivered
    s.last_marked = <uint32_t> s.marked
    s.delivered = 0
    s.marked = 0
    s.round_end = <uint32_t> cc.delivered + rs.in_flight


cdef void dctcp_on_ack(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    cdef dctcp_t *s = state(cc)
    cdef uint32_t acked = rs.acked
    if not s.started:
        s.started = 1
        s.round_end = <uint32_t> cc.delivered + rs.in_flight
    s.delivered += acked if acked else rs.sacked       # what moves snd_una has what it selectively acknowledges in it
    s.marked += rs.ce_bytes
    if <int32_t> (<uint32_t> cc.delivered - s.round_end) >= 0:
        end_of_window(cc, rs)
    if rs.in_recovery or not rs.cwnd_limited:
        return
    if cc.cwnd < cc.ssthresh:
        acked = slow_start(cc, acked)
        if acked == 0:
            return
    if cc.cwnd < CWND_MAX:
        additive_increase(cc, &s.credit, cc.cwnd, acked)


cdef void cut(congestion_t *cc, uint32_t window) noexcept nogil:
    cc.ssthresh = window if window > 2 * cc.mss else 2 * cc.mss
    state(cc).credit = 0


cdef void dctcp_on_ecn(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    """cwnd = cwnd * (1 - DCTCP.Alpha / 2) (section 3.3)."""
    cut(cc, cc.cwnd - <uint32_t> (<uint64_t> cc.cwnd * state(cc).alpha // (2 * ONE)))
    cc.cwnd = cc.ssthresh


cdef void dctcp_on_loss(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    cut(cc, cc.cwnd // 2)
    cc.cwnd = cc.ssthresh


cdef void dctcp_on_rto(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    cut(cc, cc.cwnd // 2)
    cc.cwnd = cc.mss


cdef uint32_t dctcp_info(const congestion_t *cc, uint8_t *out) noexcept nogil:
    """struct tcp_dctcp_info: enabled, CE state, alpha, marked and all bytes of the last window."""
    cdef const dctcp_t *s = <const dctcp_t *> cc.private_state
    cdef uint16_t enabled = 1
    memcpy(out, &enabled, 2)
    memcpy(out + 4, &s.alpha, 4)
    memcpy(out + 8, &s.last_marked, 4)
    memcpy(out + 12, &s.last_delivered, 4)
    return 16


cdef congestion_t one
cdef congestion_ops_t ops
ops.name = b"dctcp"
ops.flags = CC_NEEDS_ECN | CC_ECHOES_CE
ops.init = dctcp_init
ops.on_ack = dctcp_on_ack
ops.on_loss = dctcp_on_loss
ops.on_rto = dctcp_on_rto
ops.on_ecn = dctcp_on_ecn
ops.after_idle = reno_after_idle
ops.info = dctcp_info
if sizeof(dctcp_t) > sizeof(one.private_state):
    raise SystemError("the state of DCTCP does not fit")
congestion_register(&ops)
