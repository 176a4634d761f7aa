"""An acknowledgement: window, selective blocks, what leaves the scoreboard, round trip, delivery rate, congestion control.

The usual one, nothing lost and nothing selective, takes records from the front of the scoreboard and gives the algorithm a
sample; everything else goes through ``recovery_alert``.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.sock cimport EVENT_OUT, sock_event
from netstack.tcp.accounting cimport account_limits, account_timeouts_over
from netstack.tcp.buffers cimport send_acknowledged, send_tune, send_writable
from netstack.tcp.congestion.controller cimport congestion_ack
from netstack.tcp.ecn cimport ecn_acknowledged
from netstack.tcp.isn cimport timestamp_now
from netstack.tcp.mtu cimport mtu_probe_arrived
from netstack.tcp.rack cimport probe_schedule, rack_adapt, rack_delivered, rto_rearm
from netstack.tcp.recovery cimport (
    ACK_ADVANCED, ACK_DATA, ACK_DSACK, ACK_DSACK_PROBE, ACK_ECE, ACK_ORIGINAL, ACK_RENEGED, ACK_RESENT, ACK_SACKED,
    ACK_SET_TIMER, ACK_WINDOW, ack_t, check_reordering, note_delivery, recovery_alert, recovery_probe_answered,
    recovery_reduce, recovery_remove_duplicates,
)
from netstack.tcp.rtt cimport rto_reset, rtt_sample
from netstack.tcp.scoreboard cimport (
    forget_again, in_flight, mark_sacked, recovery_release, scoreboard_find, scoreboard_pop, scoreboard_skip,
    scoreboard_trim, sent_at,
)
from netstack.tcp.seq cimport seq_ge, seq_gt, seq_le, seq_lt
from netstack.tcp.tcb cimport (
    CA_CWR, CA_LOSS, CA_OPEN, CA_RECOVERY, CC_OWNS_CWND, FIN, SENT_AGAIN, SENT_SACKED, SENT_TWICE, SYN, TF_FIN_QUEUED,
    TF_MORE, TF_PERSIST, TF_SACK_OK, TF_TS_OK, TF_WANT_WRITE, TIMER_RTO, rate_sample_t, recovery_t, sent_t, tcp_t, want_output,
)

cdef enum:
    DSACK_RECORDS = 128          # a report of duplicates is of a segment; of more than so many the rest is not looked at
    MIN_RTT_S = 300              # how long a smallest round trip is believed (Linux's tcp_min_rtt_wlen)
    TS_LIMIT_MS = 120000         # an echo older than the longest RTO is nobody's


cdef void acknowledge(tcb_t *tcb, segment_t *seg) noexcept nogil:
    cdef tcp_t *tcp = tcb.tcp
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t acked = seg.ack - tcb.snd_una
    cdef ack_t a
    memset(&a, 0, sizeof(a))
    a.prior_una = tcb.snd_una
    a.prior_in_flight = in_flight(tcb)
    a.prior_highest = rec.highest_sack
    a.prior_delivered = tcb.cc.delivered
    a.prior_lost = tcb.hist.lost_ever
    a.has_ts = seg.has_ts
    a.tsecr = seg.tsecr
    tcb.last_ack_ns = tcp.now_ns
    if seg.length or seg.flags & (SYN | FIN):
        a.flags |= ACK_DATA
    update_window(tcb, seg, &a)
    if acked:
        a.flags |= ACK_ADVANCED
        a.acked = acked
        tcb.flags &= ~TF_MORE                         # as Linux: MSG_MORE holds back until the next acknowledgement
        tcb.retries = 0
        tcb.soft_error = 0
        if tcb.timeouts_since_ns:
            account_timeouts_over(tcb)
    elif tcb.flags & TF_PERSIST or tcb.snd_wnd == 0:
        tcb.retries = 0                               # the peer lives, it only has no room
    if rec.sent_count == 0:
        if tcb.ecn_mode:
            ecn_acknowledged(tcb, seg, &a)
        return
    if seg.sack_count and tcb.flags & TF_SACK_OK:
        take_blocks(tcb, seg, &a)
    if acked:
        take_cumulative(tcb, seg.ack, &a)
    if tcb.ecn_mode:
        ecn_acknowledged(tcb, seg, &a)
    rack_adapt(tcb, a.rate_delivered if a.rate_ns else 0)
    if rec.probing:
        recovery_probe_answered(tcb, &a, seg.ack)
    if not a.flags & (ACK_ADVANCED | ACK_DATA | ACK_WINDOW) or a.flags & (ACK_SACKED | ACK_ECE | ACK_DSACK) or \
            rec.state != CA_OPEN:
        recovery_alert(tcb, &a)
    if a.flags & ACK_SET_TIMER and not probe_schedule(tcb, True):
        rec.timer = TIMER_RTO
        rto_rearm(tcb)
    control(tcb, &a)
    if rec.sent_count == 0:
        if not tcb.flags & TF_PERSIST:
            tcb.rtx_deadline = 0
        rec.timer = TIMER_RTO
        if rec.state == CA_OPEN:
            recovery_release(tcb)
    if tcb.snd_len or tcb.flags & TF_FIN_QUEUED:
        want_output(tcb)
    if tcb.flags & TF_WANT_WRITE:
        send_tune(tcb)
        if send_writable(tcb):
            tcb.flags &= ~TF_WANT_WRITE
            sock_event(&tcp.events, &tcb.sock, EVENT_OUT)


cdef void acknowledge_overtaken(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """An acknowledgement below SND.UNA, which a later one overtook: what it says of blocks above may be news."""
    cdef recovery_t *rec = tcb.rec
    cdef ack_t a
    if rec.sent_count == 0 or not tcb.flags & TF_SACK_OK:
        return
    memset(&a, 0, sizeof(a))
    a.prior_una = tcb.snd_una
    a.prior_in_flight = in_flight(tcb)
    a.prior_highest = rec.highest_sack
    a.prior_delivered = tcb.cc.delivered
    a.prior_lost = tcb.hist.lost_ever
    take_blocks(tcb, seg, &a)
    if not a.flags & (ACK_SACKED | ACK_DSACK):
        return
    rack_adapt(tcb, 0)
    recovery_alert(tcb, &a)
    if tcb.cc.delivered != a.prior_delivered:
        rec.delivered_ns = tcb.tcp.now_ns
    want_output(tcb)


cdef void update_window(tcb_t *tcb, const segment_t *seg, ack_t *a) noexcept nogil:
    """SND.WND by the rule of SND.WL1 and SND.WL2. With an acknowledgement of more, as Linux, whatever its sequence number: the
    window counts from SND.UNA, and the old one would reach further than the peer ever offered."""
    cdef uint32_t window
    if seg.ack == tcb.snd_una and not seq_lt(tcb.snd_wl1, seg.seq) and not (
            tcb.snd_wl1 == seg.seq and seq_le(tcb.snd_wl2, seg.ack)):
        return
    window = seg.wnd << tcb.snd_wscale
    tcb.snd_wl1 = seg.seq
    tcb.snd_wl2 = seg.ack
    if window == tcb.snd_wnd:
        return
    a.flags |= ACK_WINDOW
    if window > tcb.snd_wnd:
        want_output(tcb)
        if tcb.flags & TF_PERSIST:
            tcb.flags &= ~TF_PERSIST
            tcb.rtx_deadline = 0
            tcb.retries = 0
            rto_reset(tcb)
    tcb.snd_wnd = window
    if window > tcb.max_snd_wnd:
        tcb.max_snd_wnd = window


# --- selective acknowledgements ---------------------------------------------------------------------------------------

cdef bint take_dsack(tcb_t *tcb, const segment_t *seg, ack_t *a) noexcept nogil:
    """RFC 2883: a first block below the acknowledgement, or within the second, tells of what arrived twice."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t start = seg.sack[0].start, end = seg.sack[0].end, segments = 1
    if not seq_lt(start, end):
        return False
    if not seq_lt(start, seg.ack) and not (
            seg.sack_count > 1 and seq_le(end, seg.sack[1].end) and seq_ge(start, seg.sack[1].start)):
        return False
    if seq_gt(end, tcb.snd_nxt) or end - start > tcb.max_snd_wnd:
        return True                                   # not of anything we sent: no block either
    if tcb.cc.mss and end - start > tcb.cc.mss:
        segments = (end - start + tcb.cc.mss - 1) // tcb.cc.mss
    tcb.hist.dsack_seen += segments
    if tcb.hist.dsack_seen > tcb.retransmits:
        return True                                   # more than we ever sent twice: the network's duplicates
    a.flags |= ACK_DSACK
    if rec.probing == 2 and end == rec.probe_high:
        a.flags |= ACK_DSACK_PROBE
    else:
        rec.rack_dsack = 1
    if rec.undo and rec.undo_again > 0 and not seq_gt(end, a.prior_una) and seq_gt(end, rec.undo_marker):
        rec.undo_again -= <int32_t> segments
        if rec.undo_again < 0:
            rec.undo_again = 0
    return True


cdef void take_blocks(tcb_t *tcb, segment_t *seg, ack_t *a) noexcept nogil:
    """Blocks within SND.UNA .. SND.NXT (security row D9), each record once. A record counts when all of it is covered."""
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t k, start, end
    cdef bint duplicate = take_dsack(tcb, seg, a)
    for k in range(seg.sack_count):
        start = seg.sack[k].start
        end = seg.sack[k].end
        if k == 0 and duplicate:
            if not seq_gt(end, seg.ack):
                continue
        if seq_lt(seg.ack, tcb.snd_una) and not seq_gt(end, tcb.snd_una):
            continue                                  # overtaken by the acknowledgement that took it off
        if not seq_lt(start, end) or seq_lt(start, tcb.snd_una) or seq_gt(end, tcb.snd_nxt) or rec.sent_count == 0:
            if not duplicate or k:
                tcb.tcp.counters.tcp_sack_invalid += 1
            continue
        if not seq_gt(end, seg.ack):
            continue
        if k == 0 and duplicate:
            take_block(tcb, start, end, True, a)
            continue
        take_block(tcb, start, end, False, a)
    if a.any_reordered and (rec.state != CA_LOSS or rec.undo):
        check_reordering(tcb, a.reordered)


cdef void take_block(tcb_t *tcb, uint32_t start, uint32_t end, bint duplicate, ack_t *a) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef sent_t *r
    cdef uint32_t i = scoreboard_find(tcb, start), last = i + DSACK_RECORDS
    if i < rec.sent_count and seq_lt(sent_at(tcb, i).start, start):
        i += 1                                        # covered in part
    while i < rec.sent_count:
        if not duplicate:
            i = scoreboard_skip(tcb, i)
            if i == rec.sent_count:
                break
        elif i == last:
            break
        r = sent_at(tcb, i)
        i += 1
        tcb.tcp.counters.tcp_sack_steps += 1
        if seq_gt(r.end, end):
            break
        if duplicate and r.flags & SENT_AGAIN:
            if rec.undo and rec.undo_again > 0 and seq_gt(r.end, rec.undo_marker):
                rec.undo_again -= 1
            if r.flags & SENT_SACKED:
                forget_again(tcb, r)
        if not r.flags & SENT_SACKED:
            sacked(tcb, r, a)


cdef void sacked(tcb_t *tcb, sent_t *r, ack_t *a) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t length = r.end - r.start
    rack_delivered(tcb, r)
    note_delivery(tcb, r, a)
    if not r.flags & SENT_TWICE:
        if rec.sacked_out and seq_lt(r.start, rec.highest_sack) and (
                not a.any_reordered or seq_lt(r.start, a.reordered)):
            a.reordered = r.start                     # it filled a hole without having been sent again
            a.any_reordered = 1
        if not seq_gt(r.end, rec.high_seq):
            a.flags |= ACK_ORIGINAL
        if a.sack_sent_ns == 0:
            a.sack_sent_ns = r.sent_ns
    if rec.sacked_out == 0 or seq_gt(r.end, rec.highest_sack):
        rec.highest_sack = r.end
    mark_sacked(tcb, r)
    a.flags |= ACK_SACKED
    a.delivered += 1
    a.sacked += length
    tcb.cc.delivered += length


# --- cumulative -------------------------------------------------------------------------------------------------------

cdef void take_cumulative(tcb_t *tcb, uint32_t ack, ack_t *a) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef bint sack = (tcb.flags & TF_SACK_OK) != 0
    cdef uint32_t data = a.acked if a.acked < tcb.snd_len else tcb.snd_len, late = ack
    cdef bint any_late = False
    cdef sent_t *r
    while rec.sent_count:
        r = sent_at(tcb, 0)
        if seq_gt(r.end, ack):
            if seq_lt(r.start, ack):
                if sack and not r.flags & SENT_SACKED:
                    tcb.cc.delivered += ack - r.start
                scoreboard_trim(tcb, ack)
            elif r.flags & SENT_SACKED:
                a.flags |= ACK_RENEGED
            break
        a.segments += 1
        if not r.flags & SENT_SACKED:
            a.delivered += 1
        if r.flags & SENT_TWICE:
            a.flags |= ACK_RESENT
            if a.again_sent_ns == 0 or r.sent_ns < a.again_sent_ns:
                a.again_sent_ns = r.sent_ns
        elif not r.flags & SENT_SACKED:
            a.last_sent_ns = r.sent_ns
            if a.first_sent_ns == 0:
                a.first_sent_ns = r.sent_ns
            if sack and not any_late and rec.sacked_out and seq_lt(r.start, a.prior_highest):
                late = r.start
                any_late = True
            if not seq_gt(r.end, rec.high_seq):
                a.flags |= ACK_ORIGINAL
        if sack and not r.flags & SENT_SACKED:
            tcb.cc.delivered += r.end - r.start
            rack_delivered(tcb, r)
        note_delivery(tcb, r, a)
        scoreboard_pop(tcb)
    tcb.counts.segments_acked += a.segments
    if data:
        send_acknowledged(tcb, data)
    tcb.snd_una = ack
    if tcb.snd_len == 0:
        account_limits(tcb)
    if tcb.mtu_probe_size:
        mtu_probe_arrived(tcb)
    if not sack:
        recovery_remove_duplicates(tcb, a.acked, a.segments)
    elif any_late:
        check_reordering(tcb, late)
    a.flags |= ACK_SET_TIMER
    round_trip(tcb, a)


cdef void round_trip(tcb_t *tcb, const ack_t *a) noexcept nogil:
    """Karn's rule per segment: a sample from what was sent once; else from the echoed timestamp, which names the transmission
    (RFC 7323 section 4), and only for something newly acknowledged.

    What names a time before a timeout, or before all that was sent again, says how long answers were lost, not how long the
    path is: a receiver that has a segment answers each copy of it with the echo of the first, and an acknowledgement that
    a retransmission brought covers what had arrived long before. Taken for round trips, such times drive the RTO up with
    the RTO. It stays backed off instead (RFC 6298 section 5.5) until a sample is true."""
    cdef int64_t now = tcb.tcp.now_ns, rtt = 0, most = now - tcb.rtt_time_ns
    cdef int32_t ms
    if a.first_sent_ns and not a.flags & ACK_RESENT:
        rtt = now - a.first_sent_ns
    elif a.sack_sent_ns:
        rtt = now - a.sack_sent_ns
    elif a.has_ts and tcb.flags & TF_TS_OK and a.tsecr:
        ms = <int32_t> (timestamp_now(tcb) - a.tsecr)
        if ms < 0 or ms >= TS_LIMIT_MS:
            return                                    # no echo of ours
        rtt = <int64_t> (ms if ms else 1) * NS_PER_MS
        if a.again_sent_ns > tcb.rtt_time_ns:
            most = now - a.again_sent_ns
        most += NS_PER_MS                             # the clock of timestamps is no finer
    else:
        return
    if rtt > most:
        return
    if rtt < 1:
        rtt = 1
    if tcb.cc.min_rtt_ns == 0 or rtt <= tcb.cc.min_rtt_ns or now - tcb.hist.min_rtt_at_ns > <int64_t> MIN_RTT_S * NS_PER_S:
        tcb.cc.min_rtt_ns = rtt
        tcb.hist.min_rtt_at_ns = now
    rtt_sample(tcb, rtt)
    tcb.cc.srtt_ns = tcb.srtt_ns


# --- congestion control -----------------------------------------------------------------------------------------------

cdef void control(tcb_t *tcb, ack_t *a) noexcept nogil:
    """The sample, and either the core reduces the window or the algorithm sets it."""
    cdef recovery_t *rec = tcb.rec
    cdef rate_sample_t rs
    cdef int64_t now = tcb.tcp.now_ns, interval
    cdef uint64_t newly = tcb.cc.delivered - a.prior_delivered
    rs.now_ns = now
    rs.rtt_ns = now - a.last_sent_ns if a.last_sent_ns and not a.flags & ACK_RESENT else (
        now - a.sack_sent_ns if a.sack_sent_ns else 0)
    rs.interval_ns = 0
    rs.prior_delivered = 0
    rs.delivered = 0
    rs.tx_in_flight = a.rate_in_flight
    if newly:
        rec.delivered_ns = now
        if tcb.hist.app_limited and tcb.cc.delivered > tcb.hist.app_limited:
            tcb.hist.app_limited = 0
    if a.rate_ns:
        rs.prior_delivered = a.rate_delivered
        rs.delivered = <uint32_t> (tcb.cc.delivered - a.rate_delivered)
        interval = now - a.rate_ns
        if a.rate_interval_ns > interval:
            interval = a.rate_interval_ns
        if interval >= tcb.cc.min_rtt_ns and interval > 0:
            rs.interval_ns = interval
            if rs.delivered >= tcb.counts.rate_delivered or not a.rate_app_limited:
                tcb.counts.rate_delivered = rs.delivered
                tcb.counts.rate_interval_ns = interval
                tcb.counts.rate_app_limited = a.rate_app_limited
    rs.acked = <uint32_t> newly if a.flags & ACK_ADVANCED else 0   # what was selectively acknowledged before was paid then
    rs.sacked = a.sacked
    rs.lost = <uint32_t> (tcb.hist.lost_ever - a.prior_lost)
    rs.prior_in_flight = a.prior_in_flight
    rs.in_flight = in_flight(tcb)
    rs.ce_bytes = a.ce_bytes
    rs.app_limited = a.rate_app_limited
    rs.ece = (a.flags & ACK_ECE) != 0
    rs.in_recovery = rec.state == CA_CWR or rec.state == CA_RECOVERY
    rs.cwnd_limited = rec.cwnd_limited or (tcb.cc.cwnd < tcb.cc.ssthresh and tcb.cc.cwnd < 2 * rec.largest_flight)
    if rs.in_recovery and not tcb.cc_ops.flags & CC_OWNS_CWND:
        recovery_reduce(tcb, <uint32_t> newly, rs.lost, a.flags)
    if a.flags & (ACK_ADVANCED | ACK_SACKED):
        congestion_ack(tcb, &rs)
