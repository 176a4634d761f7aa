"""The states of loss recovery, as Linux names them: Open, Disorder, CWR, Recovery, Loss.

Losses are found by RACK (RFC 8985) or, without SACK, by duplicates (RFC 6582, the duplicates standing for segments that
arrived); the window shrinks by proportional rate reduction (RFC 6937, RFC 9937); a timeout first asks whether it was
needed (F-RTO, RFC 5682); a reduction that turns out to be needless, by timestamps (RFC 3522, RFC 4015) or D-SACK
(RFC 3708), is taken back. None of it looks at more records per acknowledgement than it changes; a timeout and taking back
look at all, once.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from netstack.clock cimport NS_PER_MS
from netstack.tcp.congestion.controller cimport (
    congestion_ecn, congestion_loss, congestion_recovered, congestion_rto, congestion_undo,
)
from netstack.tcp.ecn cimport ecn_reduced, ecn_restored
from netstack.tcp.mtu cimport mtu_probe_lost
from netstack.tcp.rack cimport (
    rack_detect_loss, rack_mark_lost, rack_remaining, rto_rearm,
)
from netstack.tcp.rtt cimport rto_backoff
from netstack.tcp.scoreboard cimport (
    in_flight, mark_lost, mark_lost_below, scoreboard_cut, scoreboard_find, sent_at, unmark_all_lost, unmark_sacked,
)
from netstack.tcp.seq cimport seq_ge, seq_gt, seq_lt
from netstack.tcp.tcb cimport (
    CA_CWR, CA_DISORDER, CA_LOSS, CA_OPEN, CA_RECOVERY, CC_OWNS_CWND, SENT_APP_LIMITED, SENT_LOST, SENT_SACKED,
    SENT_SAMPLED, TF_RTX_HEAD, TF_SACK_OK, TF_TS_OK, TIMER_RTO, data_end, recovery_t,
    send_segment_limit, want_output,
)
from netstack.tcp.timers cimport timer_update

cdef enum:
    CWND_INFINITE = 1 << 30      # ssthresh before the first loss
    RACK = 1                     # bit of net.ipv4.tcp_recovery
    ROUNDS_WIDE = 16
    NO_HISTORY = -1
    RENEGE_MS = 10               # at least this long a peer may make good for taking back what it acknowledged


cdef inline bint has_sack(const tcb_t *tcb) noexcept nogil:
    return (tcb.flags & TF_SACK_OK) != 0


cdef inline bint uses_rack(const tcb_t *tcb) noexcept nogil:
    return has_sack(tcb) and tcb.tcp.config.recovery & RACK


# --- what arrived -----------------------------------------------------------------------------------------------------

cdef void note_delivery(tcb_t *tcb, sent_t *r, ack_t *a) noexcept nogil:
    """Delivery rate (draft-ietf-ccwg-bbr section 4.1.2.3): the sample is that of the segment sent last."""
    cdef recovery_t *rec = tcb.rec
    if r.flags & SENT_SAMPLED:
        return
    r.flags |= SENT_SAMPLED
    if a.rate_ns and (r.sent_ns < rec.first_sent_ns or (r.sent_ns == rec.first_sent_ns and not seq_gt(r.end, a.rate_end))):
        return
    a.rate_delivered = r.delivered
    a.rate_ns = r.delivered_ns
    a.rate_lost = r.lost
    a.rate_in_flight = r.in_flight
    a.rate_end = r.end
    a.rate_app_limited = (r.flags & SENT_APP_LIMITED) != 0
    rec.first_sent_ns = r.sent_ns
    a.rate_interval_ns = r.sent_ns - r.first_sent_ns


cdef void check_reordering(tcb_t *tcb, uint32_t low) noexcept nogil:
    """Something below the highest selectively acknowledged byte arrived without having been sent twice."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t metric = rec.highest_sack - low, most = tcb.tcp.config.max_reordering, mss = tcb.cc.mss
    if not seq_lt(low, rec.highest_sack) or mss == 0:
        return
    if metric > tcb.hist.reordering * mss:
        metric = (metric + mss - 1) // mss
        tcb.hist.reordering = metric if metric < most else most
    tcb.hist.reordering_seen += 1


# --- without SACK: duplicates stand for segments ----------------------------------------------------------------------

cdef void set_emulated(tcb_t *tcb, uint32_t segments) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t room = tcb.snd_nxt - tcb.snd_una - rec.lost
    rec.sacked_out = segments
    rec.sacked = segments * tcb.cc.mss
    if rec.sacked > room:
        rec.sacked = room


cdef void add_duplicate(tcb_t *tcb) noexcept nogil:
    """One more duplicate; never so many that no hole is left, nor, in recovery, more than were out when the loss was seen:
    invented ones must not keep us sending (RFC 5681 section 5, security row D11)."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t holes = rec.lost_out if rec.lost_out else 1
    cdef uint32_t most = scoreboard_find(tcb, rec.high_seq) if rec.state >= CA_RECOVERY else rec.sent_count
    if rec.sacked_out + 1 + holes > most:
        return
    set_emulated(tcb, rec.sacked_out + 1)
    tcb.cc.delivered += tcb.cc.mss


cdef void recovery_remove_duplicates(tcb_t *tcb, uint32_t acked, uint32_t segments) noexcept nogil:
    """One acknowledgement fills one hole; the rest of what it covers had been announced by duplicates."""
    cdef uint32_t rest = segments - 1 if segments else 0
    if acked > tcb.rec.sacked:
        tcb.cc.delivered += acked - tcb.rec.sacked
    else:
        tcb.cc.delivered += acked if acked < tcb.cc.mss else tcb.cc.mss
    if rest >= tcb.rec.sacked_out:
        reset_duplicates(tcb)
    else:
        set_emulated(tcb, tcb.rec.sacked_out - rest)


cdef void reset_duplicates(tcb_t *tcb) noexcept nogil:
    tcb.rec.sacked_out = 0
    tcb.rec.sacked = 0


# --- reducing ---------------------------------------------------------------------------------------------------------

cdef void start_undo(tcb_t *tcb) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    rec.undo_marker = tcb.snd_una
    rec.undo = 1
    rec.undo_again = <int32_t> rec.again_out if rec.again_out else NO_HISTORY


cdef void start_reduction(tcb_t *tcb, bint ecn) noexcept nogil:
    """The algorithm says how far (ssthresh); how fast is PRR's."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t flight = tcb.snd_nxt - tcb.snd_una
    ecn_reduced(tcb)
    rec.high_seq = tcb.snd_nxt
    rec.probing = 0
    rec.prior_cwnd = tcb.cc.cwnd
    rec.prr_delivered = 0
    rec.prr_out = 0
    if flight > tcb.cc.cwnd:
        flight = tcb.cc.cwnd                 # without what limited transmit sent (RFC 5681 section 3.2 step 2)
    if ecn:
        congestion_ecn(tcb, flight)
    else:
        congestion_loss(tcb, flight)
    if not tcb.cc_ops.flags & CC_OWNS_CWND:
        tcb.cc.cwnd = rec.prior_cwnd


cdef uint32_t current_ssthresh(const tcb_t *tcb) noexcept nogil:
    """Never below three quarters of the window that held until now."""
    cdef uint32_t part = tcb.cc.cwnd // 2 + tcb.cc.cwnd // 4
    if tcb.rec.state == CA_CWR or tcb.rec.state == CA_RECOVERY or tcb.cc.ssthresh > part:
        return tcb.cc.ssthresh
    return part


cdef void enter_recovery(tcb_t *tcb) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    rec.prior_ssthresh = 0
    start_undo(tcb)
    rec.high_seq = tcb.snd_nxt
    if rec.state != CA_CWR and rec.state != CA_RECOVERY:
        rec.prior_ssthresh = current_ssthresh(tcb)
        start_reduction(tcb, False)
    rec.state = CA_RECOVERY
    tcb.tcp.counters.tcp_fast_retransmits += 1


cdef void recovery_reduce(tcb_t *tcb, uint32_t delivered, uint32_t lost, uint32_t flags) noexcept nogil:
    """Proportional rate reduction (RFC 9937 section 6) in whole segments: while more is in flight than ssthresh, send in
    proportion to what is delivered; below it, slow start back to it, unless more was lost."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t pipe = in_flight(tcb), mss = tcb.cc.mss, most
    cdef int64_t count, allowed
    if delivered == 0 or rec.prior_cwnd == 0:
        return
    rec.prr_delivered += delivered
    if pipe > tcb.cc.ssthresh:
        allowed = <int64_t> tcb.cc.ssthresh * rec.prr_delivered // rec.prior_cwnd
        allowed = (allowed + mss - 1) // mss * mss
        count = allowed - rec.prr_out
    else:
        count = <int64_t> rec.prr_delivered - rec.prr_out
        if count < delivered:
            count = delivered
        if flags & ACK_ADVANCED and lost == 0:
            count += mss
        most = tcb.cc.ssthresh - pipe
        if count > most:
            count = most
    if count < 0:
        count = 0
    if rec.prr_out == 0 and count < mss:
        count = mss                          # the first retransmission goes at once
    tcb.cc.cwnd = pipe + <uint32_t> count
    if tcb.cc.cwnd < mss:
        tcb.cc.cwnd = mss


cdef void end_reduction(tcb_t *tcb) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    if not tcb.cc_ops.flags & CC_OWNS_CWND and tcb.cc.ssthresh < CWND_INFINITE and (rec.state == CA_CWR or rec.undo):
        tcb.cc.cwnd = tcb.cc.ssthresh if tcb.cc.ssthresh > tcb.cc.mss else tcb.cc.mss
    congestion_recovered(tcb)


cdef void keep_open(tcb_t *tcb) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef uint8_t state = CA_OPEN
    if rec.sacked_out or rec.lost_out or rec.again_out:
        state = CA_DISORDER
    if rec.state != state:
        rec.state = state
        rec.high_seq = tcb.snd_nxt


cdef void try_to_open(tcb_t *tcb, uint32_t flags) noexcept nogil:
    if tcb.rec.again_out == 0:
        tcb.rec.again_ns = 0
    if flags & ACK_ECE:
        recovery_on_ecn(tcb)
    if tcb.rec.state != CA_CWR:
        keep_open(tcb)


cdef void recovery_on_ecn(tcb_t *tcb) noexcept nogil:
    """RFC 3168 section 6.1.2: as for a loss, once per window, nothing sent again."""
    cdef recovery_t *rec = tcb.rec
    if rec.sent_count == 0:
        return                               # the window it was about is over
    rec.prior_ssthresh = 0
    if rec.state < CA_CWR:
        rec.undo = 0
        start_reduction(tcb, True)
        rec.state = CA_CWR


# --- taking back ------------------------------------------------------------------------------------------------------

cdef bint answered_first(const tcb_t *tcb, const ack_t *a) noexcept nogil:
    """Eifel (RFC 3522): nothing was sent again, or the echo is of before the first retransmission."""
    if tcb.rec.again_ns == 0:
        return has_sack(tcb) or seq_lt(tcb.snd_una, tcb.rec.high_seq)
    return tcb.flags & TF_TS_OK and a.has_ts and a.tsecr and <int32_t> (a.tsecr - tcb.rec.stamp) < 0


cdef bint may_undo(const tcb_t *tcb, const ack_t *a) noexcept nogil:
    return tcb.rec.undo and (tcb.rec.undo_again == 0 or answered_first(tcb, a))


cdef void undo_reduction(tcb_t *tcb, bint unmark) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t before = tcb.cc.cwnd
    if unmark:
        unmark_all_lost(tcb)
    if rec.prior_ssthresh:
        congestion_undo(tcb)
        ecn_restored(tcb)
        if not tcb.cc_ops.flags & CC_OWNS_CWND:
            tcb.cc.cwnd = before if before > rec.prior_cwnd else rec.prior_cwnd
        if rec.prior_ssthresh > tcb.cc.ssthresh:
            tcb.cc.ssthresh = rec.prior_ssthresh
        tcb.tcp.counters.tcp_undos += 1
    rec.undo = 0
    rec.rack_advanced = 1                    # look again


cdef bint not_yet_above(tcb_t *tcb) noexcept nogil:
    """Without SACK the state is kept until something above high_seq is acknowledged (RFC 6582 section 4)."""
    if tcb.snd_una == tcb.rec.high_seq and not has_sack(tcb):
        if tcb.rec.again_out == 0:
            tcb.rec.again_ns = 0
        return True
    return False


cdef bint undo_recovery(tcb_t *tcb, const ack_t *a) noexcept nogil:
    """Everything of the episode is acknowledged. True: the state stays."""
    cdef recovery_t *rec = tcb.rec
    if may_undo(tcb, a):
        undo_reduction(tcb, False)
    elif tcb.hist.rack_persist:
        tcb.hist.rack_persist -= 1
    if not_yet_above(tcb):
        return True
    rec.state = CA_OPEN
    return False


cdef bint undo_by_dsack(tcb_t *tcb) noexcept nogil:
    if tcb.rec.undo and tcb.rec.undo_again == 0:
        if tcb.hist.rack_persist < ROUNDS_WIDE:
            tcb.hist.rack_persist += 1
        undo_reduction(tcb, False)
        return True
    return False


cdef bint undo_loss(tcb_t *tcb, const ack_t *a, bint by_frto) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    if not by_frto and not may_undo(tcb, a):
        return False
    undo_reduction(tcb, True)
    tcb.retries = 0
    if not_yet_above(tcb):
        return True
    if by_frto or has_sack(tcb):
        rec.state = CA_OPEN
    return True


cdef bint undo_partial(tcb_t *tcb, const ack_t *a) noexcept nogil:
    """The hole was filled by the late original. True: wait for the retransmissions in flight."""
    cdef recovery_t *rec = tcb.rec
    if rec.undo and answered_first(tcb, a):
        check_reordering(tcb, a.prior_una)
        if rec.again_out:
            return True
        rec.again_ns = 0
        undo_reduction(tcb, True)
        keep_open(tcb)
    return False


# --- an acknowledgement out of the ordinary ---------------------------------------------------------------------------

cdef void identify_losses(tcb_t *tcb, ack_t *a) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t again = rec.again_out
    cdef bint advanced = (a.flags & ACK_ADVANCED) != 0
    if rec.sent_count == 0:
        return
    if not has_sack(tcb):
        # RFC 6582: the threshold of duplicates, and each partial acknowledgement, say that the first is lost.
        if (rec.state < CA_RECOVERY and rec.sacked_out >= tcb.hist.reordering) or (rec.state >= CA_RECOVERY and advanced):
            if not sent_at(tcb, 0).flags & SENT_LOST:
                mark_lost(tcb, sent_at(tcb, 0))
                set_emulated(tcb, rec.sacked_out)
    elif uses_rack(tcb):
        if rack_mark_lost(tcb):
            a.flags &= ~<uint32_t> ACK_SET_TIMER
        if again > rec.again_out:
            a.flags |= ACK_LOST_AGAIN
    else:
        mark_lost_below(tcb, tcb.hist.reordering)     # RFC 6675 section 4, IsLost by segments


cdef void process_loss(tcb_t *tcb, ack_t *a, bint duplicate) noexcept nogil:
    """In Loss: F-RTO (RFC 5682 section 3.1, with SACK) finds out whether the timeout was needless."""
    cdef recovery_t *rec = tcb.rec
    cdef bint recovered = seq_ge(tcb.snd_una, rec.high_seq), advanced = (a.flags & ACK_ADVANCED) != 0
    if advanced and undo_loss(tcb, a, False):
        return
    if rec.frto:
        if a.flags & ACK_ORIGINAL and undo_loss(tcb, a, True):
            return                               # step 3.b: something sent before the timeout, and once, has arrived
        if seq_gt(tcb.snd_nxt, rec.high_seq):
            if a.flags & ACK_SACKED or duplicate:
                rec.frto = 0                     # step 3.a: the loss was real
        elif advanced and not recovered:
            rec.high_seq = tcb.snd_nxt           # step 2.b: new data, and see what it brings
            if seq_gt(data_end(tcb), tcb.snd_nxt) and seq_gt(tcb.snd_una + tcb.snd_wnd, tcb.snd_nxt):
                rec.new_first = 1
                return
            rec.frto = 0
    if recovered:
        undo_recovery(tcb, a)
        return
    if not has_sack(tcb):
        if seq_gt(tcb.snd_nxt, rec.high_seq) and duplicate:
            add_duplicate(tcb)
        elif advanced:
            reset_duplicates(tcb)


cdef bint reneged(tcb_t *tcb, ack_t *a) noexcept nogil:
    """The peer has taken back what it selectively acknowledged (RFC 2018 section 8): a short while to make good, then a
    timeout that forgets all of it."""
    cdef int64_t wait
    if not (a.flags & ACK_RENEGED and a.flags & ACK_ADVANCED):
        return False
    wait = tcb.srtt_ns // 2
    if wait < <int64_t> RENEGE_MS * NS_PER_MS:
        wait = <int64_t> RENEGE_MS * NS_PER_MS
    tcb.rec.timer = TIMER_RTO
    tcb.rtx_deadline = tcb.tcp.now_ns + wait
    timer_update(tcb)
    a.flags &= ~<uint32_t> ACK_SET_TIMER
    return True


cdef void recovery_alert(tcb_t *tcb, ack_t *a) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef bint advanced = (a.flags & ACK_ADVANCED) != 0
    cdef bint duplicate = not a.flags & (ACK_ADVANCED | ACK_DATA | ACK_WINDOW) and rec.sent_count != 0
    rec.new_first = 0
    if rec.sent_count == 0 and rec.sacked_out:
        reset_duplicates(tcb)
    if reneged(tcb, a):
        return
    if rec.state == CA_OPEN:
        if rec.again_out == 0:
            rec.again_ns = 0
    elif seq_ge(tcb.snd_una, rec.high_seq):
        if rec.state == CA_CWR:
            if tcb.snd_una != rec.high_seq:
                end_reduction(tcb)
                rec.state = CA_OPEN
        elif rec.state == CA_RECOVERY:
            if not has_sack(tcb):
                reset_duplicates(tcb)
            if undo_recovery(tcb, a):
                return
            rec.state = CA_RECOVERY
            end_reduction(tcb)
            rec.state = CA_OPEN
    if rec.state == CA_RECOVERY:
        if not advanced:
            if not has_sack(tcb) and duplicate:
                add_duplicate(tcb)
        elif undo_partial(tcb, a):
            return
        if undo_by_dsack(tcb):
            try_to_open(tcb, a.flags)
        identify_losses(tcb, a)
        if rec.state != CA_RECOVERY:
            if not time_to_recover(tcb):
                return
            enter_recovery(tcb)
    elif rec.state == CA_LOSS:
        process_loss(tcb, a, duplicate)
        identify_losses(tcb, a)
        if rec.state != CA_OPEN and not a.flags & ACK_LOST_AGAIN:
            want_output(tcb)
            return
        decide(tcb, a, duplicate)
    else:
        decide(tcb, a, duplicate)
    want_output(tcb)


cdef bint time_to_recover(const tcb_t *tcb) noexcept nogil:
    return tcb.rec.lost_out != 0


cdef void decide(tcb_t *tcb, ack_t *a, bint duplicate) noexcept nogil:
    """In Open, Disorder and CWR: is something lost?"""
    cdef recovery_t *rec = tcb.rec
    if not has_sack(tcb):
        if a.flags & ACK_ADVANCED:
            reset_duplicates(tcb)
        if duplicate:
            add_duplicate(tcb)
    if rec.state <= CA_DISORDER:
        undo_by_dsack(tcb)
    identify_losses(tcb, a)
    if not time_to_recover(tcb):
        try_to_open(tcb, a.flags)
        return
    if rec.state < CA_CWR and tcb.mtu_probe_size and tcb.snd_una == tcb.mtu_probe_start:
        mtu_probe_lost(tcb)                  # too large, not congestion (RFC 4821 section 7.5)
        recovery_resend(tcb)
        return
    enter_recovery(tcb)


cdef void recovery_probe_answered(tcb_t *tcb, const ack_t *a, uint32_t ack) noexcept nogil:
    """RFC 8985 section 7.4: a loss that the probe repaired, and nobody saw, still shrinks the window."""
    cdef recovery_t *rec = tcb.rec
    if seq_lt(ack, rec.probe_high):
        return
    if rec.probing == 1 or a.flags & ACK_DSACK_PROBE:
        rec.probing = 0
    elif seq_gt(ack, rec.probe_high):
        start_reduction(tcb, False)
        rec.undo = 0
        rec.state = CA_CWR
        end_reduction(tcb)
        keep_open(tcb)
    elif not a.flags & (ACK_ADVANCED | ACK_DATA | ACK_WINDOW | ACK_SACKED):
        rec.probing = 0


# --- timers -----------------------------------------------------------------------------------------------------------

cdef void recovery_on_timeout(tcb_t *tcb) noexcept nogil:
    """RFC 6298 sections 5.4 to 5.6. What was sent only just now is not lost yet (RFC 8985 section 6.3)."""
    cdef recovery_t *rec = tcb.rec
    cdef bint new_recovery = rec.state < CA_RECOVERY, renege
    cdef uint32_t i, flight
    cdef sent_t *r
    if rec.sent_count == 0:
        return
    renege = (sent_at(tcb, 0).flags & SENT_SACKED) != 0
    if not has_sack(tcb):
        reset_duplicates(tcb)
    tcb.tcp.counters.tcp_recovery_steps += rec.sent_count
    for i in range(rec.sent_count):
        r = sent_at(tcb, i)
        if renege:
            unmark_sacked(tcb, r)
        elif i and uses_rack(tcb) and not r.flags & SENT_SACKED and rack_remaining(tcb, r, 0) > 0:
            continue
        mark_lost(tcb, r)
    flight = tcb.snd_nxt - tcb.snd_una
    if rec.state <= CA_DISORDER or not seq_gt(rec.high_seq, tcb.snd_una) or (rec.state == CA_LOSS and tcb.retries == 0):
        rec.prior_ssthresh = current_ssthresh(tcb)
        rec.prior_cwnd = tcb.cc.cwnd
        congestion_rto(tcb, flight if flight < tcb.cc.cwnd else tcb.cc.cwnd)
        ecn_reduced(tcb)
        start_undo(tcb)
    if not tcb.cc_ops.flags & CC_OWNS_CWND:
        tcb.cc.cwnd = in_flight(tcb) + tcb.cc.mss
    if rec.state <= CA_DISORDER and rec.sacked_out >= tcb.tcp.config.reordering and \
            tcb.hist.reordering > tcb.tcp.config.reordering:
        tcb.hist.reordering = tcb.tcp.config.reordering
    rec.frto = tcb.tcp.config.frto and (new_recovery or tcb.retries) and not tcb.mtu_probe_size
    rec.new_first = 0
    rec.state = CA_LOSS
    rec.high_seq = tcb.snd_nxt
    rec.probing = 0
    tcb.rtt_time_ns = tcb.tcp.now_ns
    tcb.flags |= TF_RTX_HEAD
    rto_backoff(tcb)
    rec.timer = TIMER_RTO
    tcb.rtx_deadline = tcb.tcp.now_ns + tcb.rto_ns
    timer_update(tcb)
    tcb.tcp.counters.tcp_timeouts += 1
    want_output(tcb)


cdef void recovery_on_reorder_timer(tcb_t *tcb) noexcept nogil:
    """The reordering window is over: what it kept from being lost is lost now."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t before = in_flight(tcb)
    rack_detect_loss(tcb)
    if in_flight(tcb) != before:
        if rec.state != CA_RECOVERY:
            enter_recovery(tcb)
            if not tcb.cc_ops.flags & CC_OWNS_CWND:
                recovery_reduce(tcb, tcb.cc.mss, 0, 0)
        want_output(tcb)
    rto_rearm(tcb)


cdef void recovery_resend(tcb_t *tcb) noexcept nogil:
    """What is in flight was too large for the path: it goes again in smaller segments, and nothing says congestion."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t limit = send_segment_limit(tcb), i, before
    cdef sent_t *r
    for i in range(rec.sent_count):
        r = sent_at(tcb, i)
        if r.end - r.start > limit and not r.flags & SENT_SACKED:
            mark_lost(tcb, r)
    if rec.waiting == 0 or not scoreboard_cut(tcb, limit):
        return
    if not has_sack(tcb):
        reset_duplicates(tcb)
    before = rec.state
    if before != CA_LOSS:
        rec.high_seq = tcb.snd_nxt
        rec.prior_ssthresh = 0
        rec.undo = 0
        rec.frto = 0
        rec.state = CA_LOSS
    want_output(tcb)
