"""When a paced connection may send: a burst whenever the last one has drained at the rate.

Bursts are what leaves in a millisecond, at least two segments, at most 64 KiB, as Linux sizes them (draft-ietf-ccwg-bbr
section 5.6.3 says the same); above 5 Gbit/s 100 us worth, for no timer is much finer. A timer that comes late is caught up
with, to a limit, so that the rate is kept on a machine that is busy.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.tcp.timers cimport timer_update

cdef enum:
    BURST_MAX = 65536            # bytes


cdef uint32_t burst(const tcb_t *tcb) noexcept nogil:
    cdef uint64_t rate = tcb.cc.pacing_rate, n = rate // 1000
    if n > BURST_MAX:
        n = rate // 10000
        if n < BURST_MAX:
            n = BURST_MAX
    if n < 2 * tcb.cc.mss:
        n = 2 * tcb.cc.mss
    return <uint32_t> (n if n < (1 << 30) else 1 << 30)


cdef bint pacing_holds(tcb_t *tcb) noexcept nogil:
    if tcb.pace_at_ns <= tcb.tcp.now_ns:
        if tcb.pace_left == 0 or tcb.tcp.now_ns - tcb.pace_at_ns > NS_PER_MS:
            tcb.pace_left = burst(tcb)
        return False
    if tcb.pace_left:
        return False
    if tcb.pace_deadline != tcb.pace_at_ns:
        tcb.pace_deadline = tcb.pace_at_ns
        timer_update(tcb)
    return True


cdef void pacing_sent(tcb_t *tcb, uint32_t bytes) noexcept nogil:
    cdef int64_t now = tcb.tcp.now_ns
    if now - tcb.pace_at_ns > NS_PER_MS:
        tcb.pace_at_ns = now               # nothing to send meanwhile: that earns nothing
    tcb.pace_at_ns += <int64_t> (<uint64_t> bytes * NS_PER_S // tcb.cc.pacing_rate)
    tcb.pace_left = tcb.pace_left - bytes if tcb.pace_left > bytes else 0
