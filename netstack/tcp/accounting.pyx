"""Where a sender's time goes: busy, held back by the peer's window, by its own buffer; and how long timeouts took."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.tcp.scoreboard cimport in_flight
from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport ESTABLISHED, TF_WANT_WRITE, data_end, send_segment_limit


cdef inline uint8_t limit_of(const tcb_t *tcb) noexcept nogil:
    cdef uint32_t unsent, used, room, limit
    if tcb.snd_len == 0 or tcb.state < ESTABLISHED:
        return LIMIT_IDLE
    if not seq_gt(data_end(tcb), tcb.snd_nxt):
        return LIMIT_SNDBUF if tcb.flags & TF_WANT_WRITE else LIMIT_BUSY
    unsent = data_end(tcb) - tcb.snd_nxt
    limit = send_segment_limit(tcb)
    if unsent > limit:
        unsent = limit
    used = tcb.snd_nxt - tcb.snd_una
    room = tcb.snd_wnd - used if tcb.snd_wnd > used else 0
    if room < unsent and in_flight(tcb) + unsent <= tcb.cc.cwnd:
        return LIMIT_RWND
    return LIMIT_BUSY


cdef void account_limits(tcb_t *tcb) noexcept nogil:
    cdef uint8_t by = limit_of(tcb), before = tcb.counts.limited_by
    if by == before:
        return
    if before != LIMIT_IDLE:
        tcb.counts.limited_ns[before - 1] += tcb.tcp.now_ns - tcb.limited_since_ns
    tcb.counts.limited_by = by
    tcb.limited_since_ns = tcb.tcp.now_ns


cdef int64_t limited_ns(const tcb_t *tcb, uint8_t by) noexcept nogil:
    cdef int64_t t = tcb.counts.limited_ns[by - 1]
    if tcb.counts.limited_by == by:
        t += tcb.tcp.now_ns - tcb.limited_since_ns
    return t


cdef void account_timeout(tcb_t *tcb) noexcept nogil:
    if not tcb.timeouts_since_ns:
        tcb.timeouts_since_ns = tcb.tcp.now_ns
        tcb.counts.timeout_episodes += 1
    tcb.counts.timeouts += 1


cdef void account_timeouts_over(tcb_t *tcb) noexcept nogil:
    tcb.counts.timeouts_ns += tcb.tcp.now_ns - tcb.timeouts_since_ns
    tcb.timeouts_since_ns = 0
