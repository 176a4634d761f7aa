"""RACK-TLP (RFC 8985) with Linux's constants.

A segment is lost when one sent later, by more than the reordering window, has arrived. Records hang in the order of
sending, so a look at the list ends at the first one that may still come. The reordering window is a quarter of the
smallest round trip, widened by a step for every round in which D-SACK shows that we were too fast.
"""

from netstack.clock cimport NS_PER_MS
from netstack.tcp.scoreboard cimport NONE, mark_lost, sent_at
from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport (
    CA_CWR, CA_OPEN, CA_RECOVERY, SENT_TWICE, TF_SACK_OK, TIMER_PROBE, TIMER_REORDER, TIMER_RTO, recovery_t,
)
from netstack.tcp.timers cimport timer_note, timer_update

cdef enum:
    RACK_FIXED_WINDOW = 2        # bits of net.ipv4.tcp_recovery
    RACK_NO_THRESHOLD = 4
    ROUNDS_WIDE = 16             # recoveries without D-SACK after which the window is narrow again (RFC 8985 section 6.2)
    STEPS_MAX = 255
    TIMER_SLACK_MS = 2           # Linux's TCP_TIMEOUT_MIN: two ticks
    PROBE_FIRST_MS = 1000        # without a round trip (RFC 8985 section 7.2)


cdef inline bint sent_after(int64_t t1, int64_t t2, uint32_t seq1, uint32_t seq2) noexcept nogil:
    return t1 > t2 or (t1 == t2 and seq_gt(seq1, seq2))


cdef void rack_delivered(tcb_t *tcb, const sent_t *r) noexcept nogil:
    """Section 6.2 step 2: the segment sent last among those that have arrived."""
    cdef int64_t rtt = tcb.tcp.now_ns - r.sent_ns
    if r.flags & SENT_TWICE and rtt < tcb.cc.min_rtt_ns:
        return                               # the answer to its first transmission
    tcb.rec.rack_advanced = 1
    tcb.rec.rack_rtt_ns = rtt
    if sent_after(r.sent_ns, tcb.rec.rack_sent_ns, r.end, tcb.rec.rack_end):
        tcb.rec.rack_sent_ns = r.sent_ns
        tcb.rec.rack_end = r.end


cdef int64_t reorder_window(const tcb_t *tcb) noexcept nogil:
    """Section 6.2 step 4."""
    cdef int64_t window, most = tcb.srtt_ns
    if not tcb.hist.reordering_seen:
        if tcb.rec.state >= CA_RECOVERY:
            return 0
        if tcb.rec.sacked_out >= tcb.hist.reordering and not tcb.tcp.config.recovery & RACK_NO_THRESHOLD:
            return 0
    window = tcb.cc.min_rtt_ns // 4 * tcb.hist.rack_steps
    return window if window < most else most


cdef int64_t rack_remaining(const tcb_t *tcb, const sent_t *r, int64_t reorder_window_ns) noexcept nogil:
    return tcb.rec.rack_rtt_ns + reorder_window_ns - (tcb.tcp.now_ns - r.sent_ns)


cdef int64_t rack_detect_loss(tcb_t *tcb) noexcept nogil:
    """Section 6.2 step 5. The list is in the order of sending: what is due lies at its front, and the last that was
    overtaken waits longest. The place of that one is remembered, since what arrives can only overtake more."""
    cdef recovery_t *rec = tcb.rec
    cdef int64_t window = reorder_window(tcb), remaining
    cdef uint64_t steps = 0
    cdef uint32_t at = rec.order_first if rec.rack_at == NONE else rec.sent[rec.rack_at].later
    while at != NONE and sent_after(rec.rack_sent_ns, rec.sent[at].sent_ns, rec.rack_end, rec.sent[at].end):
        rec.rack_at = at
        at = rec.sent[at].later
        steps += 1
    while rec.rack_at != NONE and rack_remaining(tcb, &rec.sent[rec.order_first], window) <= 0:
        mark_lost(tcb, &rec.sent[rec.order_first])
        steps += 1
    tcb.tcp.counters.tcp_recovery_steps += steps
    if rec.rack_at == NONE:
        return 0
    remaining = rack_remaining(tcb, &rec.sent[rec.rack_at], window)
    return remaining if remaining > 0 else 0


cdef bint rack_mark_lost(tcb_t *tcb) noexcept nogil:
    cdef int64_t wait
    if not tcb.rec.rack_advanced or tcb.rec.sent_count == 0:
        return False
    tcb.rec.rack_advanced = 0
    wait = rack_detect_loss(tcb)
    if wait == 0:
        return False
    tcb.rec.timer = TIMER_REORDER
    tcb.rtx_deadline = tcb.tcp.now_ns + wait + <int64_t> TIMER_SLACK_MS * NS_PER_MS
    timer_update(tcb)
    return True


cdef void rack_adapt(tcb_t *tcb, uint64_t prior_delivered) noexcept nogil:
    """Section 6.2 step 4: a step wider for a round with D-SACK, narrow again after 16 recoveries without."""
    cdef recovery_t *rec = tcb.rec
    if tcb.tcp.config.recovery & RACK_FIXED_WINDOW or prior_delivered == 0:
        return
    if prior_delivered < tcb.hist.rack_delivered:
        rec.rack_dsack = 0                   # not yet a round since the last step
    if rec.rack_dsack:
        if tcb.hist.rack_steps < STEPS_MAX:
            tcb.hist.rack_steps += 1
        rec.rack_dsack = 0
        tcb.hist.rack_delivered = tcb.cc.delivered
        tcb.hist.rack_persist = ROUNDS_WIDE
    elif tcb.hist.rack_persist == 0:
        tcb.hist.rack_steps = 1


# --- the tail ---------------------------------------------------------------------------------------------------------

cdef bint probe_schedule(tcb_t *tcb, bint advancing) noexcept nogil:
    """Section 7.2: the probe timeout, never beyond the RTO."""
    cdef recovery_t *rec = tcb.rec
    cdef int64_t wait, rto
    if rec.sent_count == 0 or not tcb.flags & TF_SACK_OK or (rec.state != CA_OPEN and rec.state != CA_CWR) or \
            tcb.tcp.config.early_retrans < 3:
        return False
    if tcb.srtt_ns:
        wait = 2 * tcb.srtt_ns
        if rec.sent_count == 1:
            wait += <int64_t> tcb.tcp.config.rto_min_ms * NS_PER_MS      # its acknowledgement may be delayed
        else:
            wait += <int64_t> TIMER_SLACK_MS * NS_PER_MS
    else:
        wait = <int64_t> PROBE_FIRST_MS * NS_PER_MS
    rto = tcb.rto_ns
    if not advancing:
        rto += sent_at(tcb, 0).sent_ns - tcb.tcp.now_ns
    if 0 < rto < wait:
        wait = rto
    rec.timer = TIMER_PROBE
    tcb.rtx_deadline = tcb.tcp.now_ns + wait
    timer_note(tcb, tcb.rtx_deadline)
    return True


cdef void rto_rearm(tcb_t *tcb) noexcept nogil:
    """RFC 6298 section 5.3; instead of another timer, what is left since the first segment in flight was sent."""
    cdef recovery_t *rec = tcb.rec
    cdef int64_t wait = tcb.rto_ns
    if rec.sent_count == 0:
        tcb.rtx_deadline = 0
        return
    if rec.timer != TIMER_RTO:
        wait += sent_at(tcb, 0).sent_ns - tcb.tcp.now_ns
        if wait < 1:
            wait = 1
    rec.timer = TIMER_RTO
    tcb.rtx_deadline = tcb.tcp.now_ns + wait
    timer_note(tcb, tcb.rtx_deadline)
