"""TCP Vegas: keep a few segments of one's own in the bottleneck's queue (Brakmo and Peterson, "TCP Vegas: End to End Congestion
Avoidance on a Global Internet", IEEE JSAC 13(8), 1995).

Once per round trip: with BaseRTT the round trip without queues and RTT the smallest of the round, cwnd (RTT - BaseRTT) / RTT
segments wait in the queue (the paper's Diff, times BaseRTT). Fewer than ALPHA: one more; more than BETA: one less. Slow start
doubles every other round trip only, so that the one between compares like with like, and ends above GAMMA.

What its critics asked for:

* BaseRTT of a path that became longer was never forgotten (La, Walrand, Anantharam 1999), and a flow that starts behind
  others takes their queue for distance: when BaseRTT has not been seen for ten seconds the window is cut for two round trips
  to what the pipe holds by itself, and what is measured then is the new BaseRTT.
* A delayed acknowledgement looks like a queue: the smallest sample of a round decides, and one sample alone that covers a
  single segment never shrinks the window.
* Losses at an old rate must not cut the window twice: the core asks once per episode. The cut is a quarter, as in the paper's
  implementation, for a loss that is recovered fast; half for a timeout.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from netstack.clock cimport NS_PER_MS
from netstack.tcp.congestion.controller cimport CWND_MAX, congestion_register
from netstack.tcp.congestion.reno cimport reno_after_idle
from netstack.tcp.congestion.window cimport slow_start
from netstack.tcp.tcb cimport congestion_ops_t, congestion_t, rate_sample_t

cdef enum:
    ALPHA = 2                    # segments in the queue, section III.B
    BETA = 4
    GAMMA = 1                    # section III.C
    REFRESH_MS = 10000           # how long BaseRTT may go unseen
    LOOK_ROUNDS = 2
    NO_RTT = 0xffffffff


cdef struct vegas_t:
    uint32_t base_us             # BaseRTT; NO_RTT: none yet
    uint32_t min_us              # of the round
    uint32_t last_us             # of the round before, for TCP_CC_INFO
    uint32_t round_end           # congestion_t.delivered
    uint32_t samples
    uint32_t seen_ms             # when BaseRTT was last seen
    uint32_t saved               # cwnd before the look at the empty pipe
    uint8_t started
    uint8_t hold                 # slow start: this round only measures
    uint8_t looking              # rounds left of the look
    uint8_t covered              # a sample of the round covered two segments or more


cdef inline vegas_t *state(congestion_t *cc) noexcept nogil:
    return <vegas_t *> cc.private_state


cdef void new_round(congestion_t *cc, uint32_t in_flight) noexcept nogil:
    cdef vegas_t *s = state(cc)
    s.min_us = NO_RTT
    s.samples = 0
    s.covered = 0
    s.round_end = <uint32_t> cc.delivered + in_flight


cdef void vegas_init(congestion_t *cc, int64_t now_ns) noexcept nogil:
    cdef vegas_t *s = state(cc)
    s.base_us = <uint32_t> (cc.min_rtt_ns // 1000) if cc.min_rtt_ns else NO_RTT
    s.seen_ms = <uint32_t> (now_ns // NS_PER_MS)
    new_round(cc, 0)


cdef void vegas_on_ack(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    cdef vegas_t *s = state(cc)
    cdef uint32_t us
    if not s.started:
        s.started = 1
        s.round_end = <uint32_t> cc.delivered + rs.in_flight
    if rs.rtt_ns > 0 and not rs.in_recovery:
        us = <uint32_t> (rs.rtt_ns // 1000)
        if us == 0:
            us = 1
        if us <= s.base_us:
            s.base_us = us
            s.seen_ms = <uint32_t> (rs.now_ns // NS_PER_MS)
        if us < s.min_us:
            s.min_us = us
        s.samples += 1
        if rs.acked >= 2 * cc.mss:
            s.covered = 1
    if <int32_t> (<uint32_t> cc.delivered - s.round_end) >= 0:
        if not rs.in_recovery:
            end_of_round(cc, rs)
        new_round(cc, rs.in_flight)
    if cc.cwnd < cc.ssthresh and not s.hold and not s.looking and not rs.in_recovery and rs.cwnd_limited:
        slow_start(cc, rs.acked)


cdef void end_of_round(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    cdef vegas_t *s = state(cc)
    cdef uint32_t queue_100, now_ms = <uint32_t> (rs.now_ns // NS_PER_MS), pipe
    if s.min_us == NO_RTT:
        return
    s.last_us = s.min_us
    if s.looking:
        look(cc, now_ms)
        return
    queue_100 = <uint32_t> (<uint64_t> cc.cwnd * 100 // cc.mss * (s.min_us - s.base_us) // s.min_us)
    if cc.cwnd < cc.ssthresh:
        if queue_100 > 100 * GAMMA:
            pipe = <uint32_t> (<uint64_t> cc.cwnd * s.base_us // s.min_us) + cc.mss
            if pipe < cc.cwnd and cc.cwnd > 2 * cc.mss:
                cc.cwnd = pipe if pipe > 2 * cc.mss else 2 * cc.mss
            cc.ssthresh = cc.cwnd if cc.cwnd > 2 * cc.mss else 2 * cc.mss
        s.hold = not s.hold
        return
    if now_ms - s.seen_ms > REFRESH_MS:
        s.saved = cc.cwnd
        pipe = <uint32_t> (<uint64_t> cc.cwnd * s.base_us // s.min_us)
        pipe = pipe - cc.mss if pipe > 3 * cc.mss else 2 * cc.mss
        if pipe < cc.cwnd:
            cc.cwnd = pipe
        s.looking = LOOK_ROUNDS
        return
    if queue_100 > 100 * BETA:
        if (s.samples > 1 or s.covered) and cc.cwnd > 2 * cc.mss:
            cc.cwnd -= cc.mss
    elif queue_100 < 100 * ALPHA and rs.cwnd_limited and cc.cwnd < CWND_MAX:
        cc.cwnd += cc.mss
    if cc.ssthresh > cc.cwnd and cc.cwnd >= 2 * cc.mss:
        cc.ssthresh = cc.cwnd                          # slow start is over for good


cdef void look(congestion_t *cc, uint32_t now_ms) noexcept nogil:
    """The window was cut a round ago: in the first round the queue drains, the second measures."""
    cdef vegas_t *s = state(cc)
    s.looking -= 1
    if s.looking:
        return
    s.base_us = s.min_us
    s.seen_ms = now_ms
    cc.cwnd = s.saved
    if cc.ssthresh > cc.cwnd and cc.cwnd >= 2 * cc.mss:
        cc.ssthresh = cc.cwnd


cdef void reduce(congestion_t *cc, uint32_t window) noexcept nogil:
    cdef vegas_t *s = state(cc)
    window -= window % cc.mss
    cc.ssthresh = window if window > 2 * cc.mss else 2 * cc.mss
    s.looking = 0
    s.hold = 0


cdef void vegas_on_loss(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    reduce(cc, cc.cwnd - cc.cwnd // 4)
    cc.cwnd = cc.ssthresh


cdef void vegas_on_rto(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    reduce(cc, cc.cwnd // 2)
    cc.cwnd = cc.mss


cdef void vegas_load(congestion_t *cc, int64_t now_ns, int64_t shift_ns) noexcept nogil:
    state(cc).seen_ms += <uint32_t> (shift_ns // NS_PER_MS)


cdef uint32_t vegas_info(const congestion_t *cc, uint8_t *out) noexcept nogil:
    """struct tcpvegas_info: enabled, samples of the round, RTT and BaseRTT in microseconds."""
    cdef const vegas_t *s = <const vegas_t *> cc.private_state
    cdef uint32_t words[4]
    words[0] = 1
    words[1] = s.samples
    words[2] = s.min_us if s.min_us != NO_RTT else s.last_us
    words[3] = s.base_us if s.base_us != NO_RTT else 0x7fffffff
    memcpy(out, words, sizeof(words))
    return sizeof(words)


cdef congestion_t one
cdef congestion_ops_t ops
ops.name = b"vegas"
ops.init = vegas_init
ops.on_ack = vegas_on_ack
ops.on_loss = vegas_on_loss
ops.on_rto = vegas_on_rto
ops.after_idle = reno_after_idle
ops.load = vegas_load
ops.info = vegas_info
if sizeof(vegas_t) > sizeof(one.private_state):
    raise SystemError("the state of Vegas does not fit")
congestion_register(&ops)
