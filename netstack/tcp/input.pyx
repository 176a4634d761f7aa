"""Segment arrives: header prediction for the expected segment, else the steps of RFC 9293 section 3.10.7 in their order.

Nothing of a segment acts before its checksum is good. On the fast path the payload is summed while it is copied to its
final place, where nobody looks until ``rcv_nxt`` moves; every other segment is first copied, and summed in the same pass,
into private memory. Input never transmits: it sets flags and puts the connection into the output list.
"""

from libc.errno cimport ECONNREFUSED, ECONNRESET, EPIPE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport malloc

from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.counters cimport (
    DROP_NONE, DROP_TCP_ACK, DROP_TCP_BACKLOG, DROP_TCP_CHECKSUM, DROP_TCP_CLOSED, DROP_TCP_DUPLICATE, DROP_TCP_FLAGS,
    DROP_TCP_NO_PORT, DROP_TCP_OOO_LIMIT, DROP_TCP_OUT_OF_MEMORY, DROP_TCP_PAWS, DROP_TCP_SEQUENCE,
)
from netstack.sock cimport EVENT_FINISHED, EVENT_IN, EVENT_OUT, EVENT_RDHUP, SF_KEEPALIVE, SF_ORPHAN, sock_event
from netstack.tcp.accounting cimport count_segment_in
from netstack.tcp.ack cimport acknowledge, acknowledge_overtaken
from netstack.tcp.buffers cimport (
    receive_reserve, receive_shrink, receive_store, receive_store_and_sum,
)
from netstack.tcp.connection cimport (
    connection_abort, connection_established, connection_finished, connection_options, connection_time_wait, lent_drain,
    queue_bare,
)
from netstack.tcp.ecn cimport (
    ecn_answer_again, ecn_duplicate, ecn_established, ecn_received, ecn_syn_again, ecn_syn_answered, ecn_syn_crossed,
)
from netstack.tcp.fast_open cimport fast_open_answered, fast_open_over, fast_open_reset
from netstack.tcp.isn cimport timestamp_now
from netstack.tcp.listener cimport listener_adopt
from netstack.tcp.rack cimport rto_rearm
from netstack.tcp.ranges cimport range_absorb, range_insert
from netstack.tcp.rtt cimport rtt_sample
from netstack.tcp.seq cimport seq_ge, seq_gt, seq_le, seq_lt
from netstack.tcp.settings cimport fin_timeout_ns
from netstack.tcp.tcb cimport (
    ACK, CLOSED, CLOSE_WAIT, CLOSING, ESTABLISHED, FIN, FIN_WAIT_1, FIN_WAIT_2, FO_ASKED, FO_SYN_DATA, LAST_ACK, PSH, RST,
    SCRATCH_BYTES, SYN, SYN_RCVD, SYN_SENT, TF_ACK_NOW, TF_FIN_AHEAD, TF_FIN_QUEUED, TF_FIN_RECEIVED, TF_FIN_SENT,
    TF_IN_ACCEPT, TF_PASSIVE, TF_RTT_TIMING, TF_SACK_OK, TF_SYN_SENT, TF_TS_OK, TIME_WAIT, TM_FAST_OPEN, TM_RCVBUF_SET,
    receive_end, want_output,
)
from netstack.tcp.timers cimport timer_note, timer_update
from netstack.wire.checksum cimport checksum_and_copy, checksum_combine, checksum_fold, checksum_partial

cdef enum:
    NOT_PREDICTED = -1
    # Where something still flows: data of both, or the acknowledgements of ours, which may be much after a close too.
    PREDICTED = 1 << ESTABLISHED | 1 << FIN_WAIT_1 | 1 << FIN_WAIT_2 | 1 << CLOSE_WAIT | 1 << CLOSING | 1 << LAST_ACK
    RTO_AFTER_SYN_LOSS_S = 3     # RFC 6298 section 5.7
    PAWS_IDLE_DAYS = 24          # RFC 7323 section 5.5: an older ts_recent proves nothing


# --- the sum ----------------------------------------------------------------------------------------------------------

cdef bint segment_verify(tcp_t *tcp, segment_t *seg) noexcept nogil:
    """Check the sum of a whole segment; a payload moves to private memory in the same pass, and seg.payload with it."""
    cdef uint32_t total = seg.partial
    if seg.length:
        if tcp.scratch == NULL:
            tcp.scratch = <uint8_t *> malloc(SCRATCH_BYTES)
            if tcp.scratch == NULL:
                return False
        total = checksum_combine(total, checksum_and_copy(tcp.scratch, seg.payload, seg.length), 0)
        seg.payload = tcp.scratch
    return seg.trusted or checksum_fold(total) == 0xffff


cdef DropReason segment_for_nobody(tcp_t *tcp, segment_t *seg) noexcept nogil:
    """3.10.7.1: everything but a RST is answered by one."""
    cdef uint32_t length
    if not segment_verify(tcp, seg):
        return DROP_TCP_CHECKSUM
    if not seg.flags & RST:
        if seg.flags & ACK:
            queue_bare(tcp, seg, seg.ack, 0, RST)
        else:
            length = seg.length + (1 if seg.flags & SYN else 0) + (1 if seg.flags & FIN else 0)
            queue_bare(tcp, seg, 0, seg.seq + length, RST | ACK)
    return DROP_TCP_NO_PORT


# --- entry ------------------------------------------------------------------------------------------------------------

cdef DropReason segment_arrives(tcb_t *tcb, segment_t *seg) noexcept nogil:
    cdef int verdict
    if PREDICTED >> tcb.state & 1 and (seg.flags & ~PSH) == tcb.predicted and seg.seq == tcb.rcv_nxt:
        verdict = header_prediction(tcb, seg)
        if verdict != NOT_PREDICTED:
            return <DropReason> verdict
    if not segment_verify(tcb.tcp, seg):
        return DROP_TCP_CHECKSUM
    return synchronized_segment(tcb, seg)


cdef DropReason synchronized_segment(tcb_t *tcb, segment_t *seg) noexcept nogil:
    cdef DropReason reason
    count_segment_in(tcb, seg.length)
    if tcb.state == SYN_SENT:
        return syn_sent_state(tcb, seg)
    reason = synchronized_states(tcb, seg)
    if tcb.state != CLOSED and tcb.state != TIME_WAIT:
        timer_update(tcb)
    return reason


cdef inline void note_newer(const tcb_t *tcb, segment_t *seg) noexcept nogil:
    """Is the segment newer than the last by its timestamp? Before that one is remembered."""
    seg.newer = seg.has_ts and tcb.flags & TF_TS_OK and <int32_t> (seg.tsval - tcb.ts_recent) > 0


cdef int header_prediction(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """The next expected segment of a connection that flows, one way at least: in order, acceptable ACK, nothing special.

    Everything that is not exactly that is NOT_PREDICTED, before anything changed.
    """
    cdef tcp_t *tcp = tcb.tcp
    cdef uint32_t n = seg.length, lent = 0, total = seg.partial
    if tcb.range_count or seg.ack - tcb.snd_una > tcb.snd_nxt - tcb.snd_una or n > tcb.rcv_adv - tcb.rcv_nxt or \
            tcb.flags & TF_FIN_AHEAD:
        return NOT_PREDICTED
    if tcb.flags & TF_TS_OK and (not seg.has_ts or <int32_t> (seg.tsval - tcb.ts_recent) < 0):
        return NOT_PREDICTED
    if n:
        if (tcb.sock.flags & SF_ORPHAN and tcb.parent == NULL) or tcb.state > FIN_WAIT_2:
            return NOT_PREDICTED
        if tcb.lent != NULL and tcb.rcv_read == tcb.rcv_nxt:
            lent = tcb.lent_size - tcb.lent_filled
            if lent > n:
                lent = n
        if lent < n and receive_reserve(tcb, tcb.rcv_nxt + n) != 0:
            return DROP_TCP_OUT_OF_MEMORY
        if lent:
            total = checksum_combine(total, checksum_and_copy(tcb.lent + tcb.lent_filled, seg.payload, lent), 0)
        if lent < n:
            total = checksum_combine(
                total, receive_store_and_sum(tcb, tcb.rcv_nxt + lent, seg.payload + lent, n - lent), lent)
    if checksum_fold(total) != 0xffff and not seg.trusted:
        receive_shrink(tcb)
        return DROP_TCP_CHECKSUM
    tcp.counters.tcp_fast_path += 1
    count_segment_in(tcb, n)
    tcb.last_receive_ns = tcp.now_ns
    if tcb.ecn_mode:
        note_newer(tcb, seg)
        ecn_received(tcb, seg)
    tcb.snd_wl1 = seg.seq                             # even when its window says nothing new: 2 GiB later it would look old
    tcb.snd_wl2 = seg.ack
    if seg.has_ts and seq_le(seg.seq, tcb.rcv_acked):
        tcb.ts_recent = seg.tsval
        tcb.ts_recent_ns = tcp.now_ns
    if n and seg.tsecr != tcb.tune_tsecr and seg.has_ts:
        receiver_round_trip(tcb, seg)
    if seg.ack != tcb.snd_una or seg.wnd << tcb.snd_wscale != tcb.snd_wnd or n == 0 or seg.sack_count:
        acknowledge(tcb, seg)
        if tcb.state != ESTABLISHED:
            after_ack(tcb)
            if tcb.state == CLOSED or tcb.state == TIME_WAIT:
                return DROP_NONE
        timer_update(tcb)
    if n:
        tcb.rcv_nxt += n
        tcb.rcv_read += lent
        tcb.lent_filled += lent
        delivered(tcb, n)
        schedule_ack(tcb, n)
    if tcb.ack_deadline:
        timer_note(tcb, tcb.ack_deadline)
    return DROP_NONE


# --- SYN-SENT -----------------------------------------------------------------------------------------------------------

cdef DropReason syn_sent_state(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """3.10.7.3. Data on a SYN is not taken: the peer sends it again once the handshake is over."""
    cdef tcp_t *tcp = tcb.tcp
    cdef bint acked = False
    if seg.flags & ACK:
        if seq_le(seg.ack, tcb.iss) or seq_gt(seg.ack, tcb.snd_nxt):
            if not seg.flags & RST:
                queue_bare(tcp, seg, seg.ack, 0, RST)
            return DROP_TCP_ACK
        acked = True
    if seg.flags & RST:
        if not acked:
            return DROP_TCP_FLAGS
        tcp.counters.tcp_resets_in += 1
        connection_abort(tcb, ECONNREFUSED, False)
        return DROP_NONE
    if not seg.flags & SYN:
        return DROP_TCP_FLAGS
    tcb.irs = seg.seq
    tcb.rcv_nxt = seg.seq + 1
    tcb.rcv_read = tcb.rcv_nxt
    tcb.rcv_adv = tcb.rcv_nxt + tcb.rcv_adv           # as our SYN said, whatever became of the buffer since
    tcb.rcv_acked = tcb.rcv_nxt
    tcb.last_receive_ns = tcp.now_ns
    connection_options(tcb, seg, tcb.cc.mss)
    tcb.snd_wnd = seg.wnd
    tcb.max_snd_wnd = seg.wnd
    tcb.snd_wl1 = seg.seq
    tcb.snd_wl2 = seg.ack
    if acked:
        ecn_syn_answered(tcb, seg)
    if acked and tcb.fast_open & (FO_ASKED | FO_SYN_DATA):
        first_round_trip(tcb, seg)
        connection_established(tcb)
        tcb.flags |= TF_ACK_NOW
        if fast_open_answered(tcb, seg) and tcb.fast_open & FO_ASKED and (seg.length or seg.flags & FIN):
            seg.seq += 1                              # Fast Open lets the SYN,ACK bring data too, and an end
            process_text(tcb, seg)
            check_fin(tcb, seg)
            tcb.flags |= TF_ACK_NOW
    elif acked:
        tcb.snd_una = seg.ack
        tcb.rtx_nxt = seg.ack
        first_round_trip(tcb, seg)
        connection_established(tcb)
        tcb.flags |= TF_ACK_NOW
    else:
        # Simultaneous open (figure 7): our SYN goes again, now with an acknowledgement.
        ecn_syn_crossed(tcb, seg)
        tcb.state = SYN_RCVD
        tcb.rtx_nxt = tcb.iss
    want_output(tcb)
    return DROP_NONE


# --- the other states, step by step -----------------------------------------------------------------------------------

cdef DropReason synchronized_states(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """3.10.7.4, with the checks of RFC 5961 and RFC 7323 where they belong."""
    cdef DropReason reason
    if tcb.state == CLOSED or tcb.state == TIME_WAIT:
        return DROP_TCP_CLOSED
    if tcb.ecn_mode:
        note_newer(tcb, seg)
    reason = check_timestamps(tcb, seg)
    if reason == DROP_NONE:
        reason = check_sequence(tcb, seg)
    if reason == DROP_NONE:
        reason = check_rst(tcb, seg)
    if reason == DROP_NONE and tcb.state != CLOSED:
        reason = check_syn(tcb, seg)
    if reason == DROP_NONE and tcb.state != CLOSED:
        reason = check_ack(tcb, seg)
    if reason == DROP_NONE and tcb.state != CLOSED and tcb.state != TIME_WAIT:
        remember_timestamp(tcb, seg)
        if tcb.ecn_mode:
            ecn_received(tcb, seg)
        # Sixth, URG: urgent data is delivered in line and its pointer drives nothing (RFC 6093).
        reason = process_text(tcb, seg)
    if reason == DROP_NONE and tcb.state != CLOSED and tcb.state != TIME_WAIT:
        check_fin(tcb, seg)
    return reason


cdef void challenge(tcb_t *tcb) noexcept nogil:
    """An ACK to a suspicious segment, limited per connection and second, never globally (RFC 5961 section 7, CVE-2016-5696)."""
    cdef int64_t now = tcb.tcp.now_ns
    if now - tcb.challenge_ns >= NS_PER_S or tcb.challenge_ns == 0:
        tcb.challenge_ns = now
        tcb.challenge_count = 0
    if tcb.challenge_count >= tcb.tcp.config.challenge_ack_limit:
        return
    tcb.challenge_count += 1
    tcb.tcp.counters.tcp_challenge_acks += 1
    tcb.flags |= TF_ACK_NOW
    want_output(tcb)


cdef DropReason check_timestamps(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """PAWS (RFC 7323 section 5.3 R1); a RST is exempt (section 5.2)."""
    if not tcb.flags & TF_TS_OK or not seg.has_ts or seg.flags & RST:
        return DROP_NONE
    if <int32_t> (seg.tsval - tcb.ts_recent) < 0 and \
            tcb.tcp.now_ns - tcb.ts_recent_ns < <int64_t> PAWS_IDLE_DAYS * 86400 * NS_PER_S:
        if seg.length:
            tcb.flags |= TF_ACK_NOW
            want_output(tcb)
        else:
            challenge(tcb)
        return DROP_TCP_PAWS
    return DROP_NONE


cdef void report_duplicate(tcb_t *tcb, uint32_t start, uint32_t end) noexcept nogil:
    """What came again is told in the next acknowledgement (RFC 2883), which leaves before another can need the place."""
    if tcb.ecn_mode:
        ecn_duplicate(tcb, start)
    if not tcb.tcp.config.dsack:
        return
    tcb.duplicate.start = start
    tcb.duplicate.end = end
    tcb.tcp.ack_urgent = 1


cdef DropReason check_sequence(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """First: the sequence number. An unacceptable segment is answered with an ACK, unless it carries RST."""
    cdef uint32_t window = tcb.rcv_adv - tcb.rcv_nxt if seq_gt(tcb.rcv_adv, tcb.rcv_nxt) else 0
    cdef uint32_t length = seg.length + (1 if seg.flags & SYN else 0) + (1 if seg.flags & FIN else 0)
    cdef uint32_t end = seg.seq + length
    cdef bint acceptable
    if length == 0:
        # A bare ACK just beyond the window is a peer's whose whole window is on its way; a RST has no such excuse.
        acceptable = seq_ge(seg.seq, tcb.rcv_nxt) and seq_le(seg.seq, tcb.rcv_nxt + window) and \
            (not seg.flags & RST or window == 0 or seg.seq != tcb.rcv_nxt + window)
    else:
        # Some of it lies in the window; with a window of zero the next segment's ACK and RST still count.
        acceptable = seg.seq == tcb.rcv_nxt or (seq_gt(end, tcb.rcv_nxt) and seq_lt(seg.seq, tcb.rcv_nxt + window))
    if not acceptable:
        if seg.flags & RST:
            return DROP_TCP_SEQUENCE
        if tcb.state == SYN_RCVD and not tcb.flags & TF_PASSIVE and seg.flags & (SYN | ACK) == SYN | ACK and \
                seg.seq == tcb.irs:
            ecn_answer_again(tcb, seg)
            seg.seq += 1                              # simultaneous open: the SYN is known, its ACK is what we wait for
            seg.flags &= ~<uint16_t> SYN
            return DROP_NONE
        if tcb.state == SYN_RCVD and seg.flags & SYN and seg.seq == tcb.irs:
            ecn_syn_again(tcb, seg)
            tcb.rtx_nxt = tcb.iss                     # the peer's SYN again: so is our answer
            want_output(tcb)
            return DROP_TCP_DUPLICATE
        if seg.flags & SYN:
            ecn_answer_again(tcb, seg)
            challenge(tcb)
            return DROP_TCP_SEQUENCE
        if length and seq_le(end, tcb.rcv_nxt):
            tcb.flags |= TF_ACK_NOW                   # old data: our ACK was lost
            want_output(tcb)
            if tcb.ecn_mode and not seq_lt(end, tcb.rcv_acked):
                ecn_received(tcb, seg)                # the newest of what is known: its counters are the peer's too
            if seg.length:
                report_duplicate(tcb, seg.seq, seg.seq + seg.length)
            acknowledge_duplicate_segment(tcb, seg)
            return DROP_TCP_DUPLICATE
        challenge(tcb)
        return DROP_TCP_SEQUENCE
    tcb.last_receive_ns = tcb.tcp.now_ns
    tcb.keepalive_probes = 0
    return DROP_NONE


cdef void remember_timestamp(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """TS.Recent (RFC 7323 section 4.3), only from a segment whose ACK is good too: a forged one cannot move it (VU#637934)."""
    if seg.has_ts and tcb.flags & TF_TS_OK and seq_le(seg.seq, tcb.rcv_acked):     # PAWS has let it pass
        tcb.ts_recent = seg.tsval
        tcb.ts_recent_ns = tcb.tcp.now_ns


cdef void acknowledge_duplicate_segment(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """A retransmission we do not need may still carry the acknowledgement we do."""
    if seg.flags & ACK and tcb.state >= ESTABLISHED and seq_gt(seg.ack, tcb.snd_una) and seq_le(seg.ack, tcb.snd_nxt) \
            and not seg.flags & (SYN | RST):
        acknowledge(tcb, seg)
        after_ack(tcb)


cdef DropReason check_rst(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """Second: RST counts only exactly at RCV.NXT; elsewhere in the window it is challenged (RFC 5961 section 3.2)."""
    if not seg.flags & RST:
        return DROP_NONE
    if seg.seq != tcb.rcv_nxt:
        challenge(tcb)
        return DROP_TCP_SEQUENCE
    tcb.tcp.counters.tcp_resets_in += 1
    if tcb.modes & TM_FAST_OPEN and tcb.flags & TF_IN_ACCEPT:
        fast_open_reset(tcb)
    elif tcb.modes & TM_FAST_OPEN:
        fast_open_over(tcb, True)
        connection_abort(tcb, ECONNRESET, False)
    elif tcb.state == SYN_RCVD:
        connection_abort(tcb, ECONNREFUSED, False)
    else:
        # As Linux: whoever has read to the end hears of it when it writes. A FIN that is not acknowledged may be lost.
        connection_abort(tcb, EPIPE if tcb.state == CLOSE_WAIT else ECONNRESET, False)
    return DROP_NONE


cdef DropReason check_syn(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """Fourth: a SYN in a synchronized state is challenged, wherever it lies (RFC 5961 section 4.2)."""
    if not seg.flags & SYN:
        return DROP_NONE
    challenge(tcb)
    return DROP_TCP_FLAGS


cdef DropReason check_ack(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """Fifth: the ACK field."""
    cdef tcp_t *tcp = tcb.tcp
    if not seg.flags & ACK:
        return DROP_TCP_FLAGS
    if tcb.state == SYN_RCVD:
        if seq_le(seg.ack, tcb.iss) or seq_gt(seg.ack, tcb.snd_nxt):
            queue_bare(tcp, seg, seg.ack, 0, RST)
            return DROP_TCP_ACK
        return establish_passive(tcb, seg)
    # RFC 5961 section 5.2: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT
    if seq_gt(seg.ack, tcb.snd_nxt) or seq_lt(seg.ack, tcb.snd_una - tcb.max_snd_wnd):
        challenge(tcb)
        return DROP_TCP_ACK
    if seq_ge(seg.ack, tcb.snd_una):
        acknowledge(tcb, seg)
        after_ack(tcb)
    elif seg.sack_count:
        acknowledge_overtaken(tcb, seg)
    return DROP_NONE


cdef DropReason establish_passive(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """Our SYN,ACK is acknowledged; a listener's child needs room in the accept queue."""
    cdef uint8_t shift = tcb.snd_wscale
    cdef bint begun = tcb.modes & TM_FAST_OPEN != 0
    if not listener_adopt(tcb):
        return DROP_TCP_BACKLOG
    tcb.snd_una = tcb.iss + 1
    tcb.rtx_nxt = tcb.snd_nxt
    if seg.seq == tcb.irs + 1 and seg.wscale != 255:
        shift = 0                                     # the window of a SYN,ACK is never scaled (RFC 7323 section 2.2)
    tcb.snd_wnd = seg.wnd << shift
    tcb.max_snd_wnd = tcb.snd_wnd
    tcb.snd_wl1 = seg.seq
    tcb.snd_wl2 = seg.ack
    ecn_established(tcb, seg)
    first_round_trip(tcb, seg)
    if begun:
        fast_open_over(tcb, False)                    # data flows already
        tcb.state = ESTABLISHED
        tcb.retries = 0
        tcb.rtx_deadline = 0
        rto_rearm(tcb)
        if seg.ack != tcb.snd_una:
            acknowledge(tcb, seg)
    else:
        connection_established(tcb)
        if tcb.fast_open & FO_SYN_DATA:
            fast_open_answered(tcb, seg)              # simultaneous open with data on both SYNs
    if tcb.flags & TF_FIN_QUEUED:                     # closed before the handshake was over (3.10.4)
        tcb.state = FIN_WAIT_1
        after_ack(tcb)
    want_output(tcb)
    return DROP_NONE


cdef bint sample_from_timestamp(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """After a retransmission only a timestamp tells which transmission this answers (RFC 7323 section 4), and only the echo
    of the last says how long the way is. Forged ones are bounded: from 1 ms to what the longest RTO allows."""
    cdef int32_t ms = <int32_t> (timestamp_now(tcb) - seg.tsecr)
    if not seg.has_ts or not tcb.flags & TF_TS_OK or seg.tsecr == 0 or ms <= 0 or ms >= 120000 or \
            <int64_t> (ms - 1) * NS_PER_MS > tcb.tcp.now_ns - tcb.rtt_time_ns:
        return False
    rtt_sample(tcb, <int64_t> ms * NS_PER_MS)
    return True


cdef void first_round_trip(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """The handshake's sample. Without one, because the SYN was sent again, data starts at 3 s (RFC 6298 section 5.7)."""
    if tcb.flags & TF_RTT_TIMING:
        tcb.flags &= ~TF_RTT_TIMING
        rtt_sample(tcb, tcb.tcp.now_ns - tcb.rtt_time_ns)
    elif not sample_from_timestamp(tcb, seg) and tcb.retransmits:      # a cookie's handshake was not timed, and lost nothing
        tcb.rto_ns = <int64_t> RTO_AFTER_SYN_LOSS_S * NS_PER_S


cdef void after_ack(tcb_t *tcb) noexcept nogil:
    """States that wait for the acknowledgement of our FIN."""
    if not tcb.flags & TF_FIN_SENT or tcb.snd_una != tcb.snd_nxt:
        return
    if tcb.state == FIN_WAIT_1:
        tcb.state = FIN_WAIT_2
        sock_event(&tcb.tcp.events, &tcb.sock, EVENT_FINISHED)
        if tcb.sock.flags & SF_ORPHAN and tcb.parent == NULL:
            tcb.state_deadline = tcb.tcp.now_ns + fin_timeout_ns(tcb)
    elif tcb.state == CLOSING:
        connection_time_wait(tcb)
    elif tcb.state == LAST_ACK:
        connection_finished(tcb)


cdef void receiver_round_trip(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """How long the answer to what we echoed takes: what the receive buffer is tuned by. Below the clock's millisecond the
    sender's own estimate serves instead."""
    cdef int32_t ms = <int32_t> (timestamp_now(tcb) - seg.tsecr)
    cdef int64_t rtt = <int64_t> ms * NS_PER_MS
    tcb.tune_tsecr = seg.tsecr
    if ms < 0 or ms >= 120000 or seg.tsecr == 0:
        return
    if ms == 0 or tcb.rcv_rtt_ns == 0 or rtt < tcb.rcv_rtt_ns:
        tcb.rcv_rtt_ns = rtt
    else:
        tcb.rcv_rtt_ns += (rtt - tcb.rcv_rtt_ns) // 8


# --- text and FIN -----------------------------------------------------------------------------------------------------

cdef void delivered(tcb_t *tcb, uint32_t n) noexcept nogil:
    """n more bytes are in order."""
    tcb.bytes_received += n
    tcb.tcp.counters.tcp_payload_in += n
    sock_event(&tcb.tcp.events, &tcb.sock, EVENT_IN)


cdef void schedule_ack(tcb_t *tcb, uint32_t n) noexcept nogil:
    """Every second segment at the end of the pass, at once at the start of a connection, else delayed (3.8.6.3)."""
    tcb.ack_pending += 1
    if tcb.quickack:
        tcb.quickack -= 1
        tcb.flags |= TF_ACK_NOW
        want_output(tcb)
    elif tcb.ack_pending >= 2 or n >= 2 * tcb.mss:
        tcb.flags |= TF_ACK_NOW
        want_output(tcb)
    elif not tcb.ack_deadline:
        tcb.ack_deadline = tcb.tcp.now_ns + <int64_t> tcb.tcp.config.delayed_ack_ms * NS_PER_MS


cdef inline void make_room_beyond_gap(tcb_t *tcb, uint32_t held) noexcept nogil:
    """What waits beyond a gap takes window from what fills it: the buffer grows to twice that, within tcp_rmem."""
    cdef uint32_t most = tcb.tcp.config.rmem_max
    if held > tcb.rcv_wanted // 2 and tcb.rcv_wanted < most:
        tcb.rcv_wanted = 2 * held if 2 * held < most else most


cdef DropReason process_text(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """Seventh: the payload, already verified and private. Trimmed to the window, stored at its place. When nothing waits to
    be read, what begins in the window is taken whole, as Linux does: the sender believes in more than we said, and to cut
    its segments would make it send each of them twice."""
    cdef uint32_t start = seg.seq, end = seg.seq + seg.length, before = tcb.rcv_nxt, edge, last
    cdef uint32_t newest = tcb.sack_recent[0]
    cdef const uint8_t *data = seg.payload
    cdef bint holes
    if seg.length == 0:
        return DROP_NONE
    if tcb.state not in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
        return DROP_NONE                              # 3.10.7.4: "should not occur", the segment text is ignored
    if tcb.sock.flags & SF_ORPHAN and tcb.parent == NULL:
        if seq_gt(end, tcb.rcv_nxt):
            connection_abort(tcb, 0, True)            # nobody will ever read it: say so (RFC 9293 section 3.6.1)
            return DROP_TCP_CLOSED
        return DROP_NONE
    if seq_lt(start, tcb.rcv_nxt):
        report_duplicate(tcb, start, tcb.rcv_nxt)
        tcb.flags |= TF_ACK_NOW
        want_output(tcb)
        data += tcb.rcv_nxt - start
        start = tcb.rcv_nxt
    edge = tcb.rcv_adv
    if tcb.flags & TF_FIN_AHEAD and seq_lt(tcb.fin_seq, edge):
        edge = tcb.fin_seq
    if seq_gt(end, edge):
        if edge == tcb.rcv_adv and edge != start and start == tcb.rcv_nxt and receive_end(tcb) == tcb.rcv_read:
            edge = end
        else:
            end = edge
            seg.flags &= ~<uint16_t> FIN               # what lies beyond the window has not been received
    if not seq_lt(start, end):
        tcb.flags |= TF_ACK_NOW
        want_output(tcb)
        return DROP_NONE
    last = end
    if tcb.range_count and seq_gt(tcb.ranges[tcb.range_count - 1].end, last):
        last = tcb.ranges[tcb.range_count - 1].end
    if receive_reserve(tcb, last) != 0:
        return DROP_TCP_OUT_OF_MEMORY
    if start != tcb.rcv_nxt:
        tcb.tcp.counters.tcp_out_of_order += 1
        tcb.counts.out_of_order += 1
        if range_insert(tcb, start, end) != 0:
            return DROP_TCP_OOO_LIMIT
        receive_store(tcb, start, data, end - start)
        if tcb.parent == NULL and tcb.tcp.config.moderate_rcvbuf and not tcb.modes & TM_RCVBUF_SET:
            make_room_beyond_gap(tcb, last - tcb.rcv_nxt)
        tcb.flags |= TF_ACK_NOW                       # a duplicate ACK, at once (RFC 5681 section 4.2)
        want_output(tcb)
        # One for each such segment as long as the sender may be counting them, and whenever one would hide another;
        # what only makes the same range longer may share the acknowledgement at the end of the pass.
        if tcb.ooo_acks < 255:
            tcb.ooo_acks += 1
        if tcb.ooo_acks <= 3 or tcb.sack_recent[0] != newest or not tcb.flags & TF_SACK_OK or \
                tcb.duplicate.start != tcb.duplicate.end:
            tcb.tcp.ack_urgent = 1
        return DROP_NONE
    receive_store(tcb, start, data, end - start)
    holes = tcb.range_count != 0
    if holes and seq_gt(end, tcb.ranges[0].start) and tcb.duplicate.start == tcb.duplicate.end:
        report_duplicate(tcb, tcb.ranges[0].start, end if seq_lt(end, tcb.ranges[0].end) else tcb.ranges[0].end)
    tcb.rcv_nxt = end
    if seq_gt(end, tcb.rcv_adv):
        tcb.rcv_adv = end
    tcb.ooo_acks = 0
    range_absorb(tcb)
    delivered(tcb, tcb.rcv_nxt - before)
    lent_drain(tcb)
    if holes:
        tcb.flags |= TF_ACK_NOW
        want_output(tcb)
    else:
        schedule_ack(tcb, end - start)
    return DROP_NONE


cdef void check_fin(tcb_t *tcb, segment_t *seg) noexcept nogil:
    """Eighth: the FIN, once everything before it is here."""
    cdef uint32_t at = seg.seq + seg.length
    if seg.flags & FIN and not tcb.flags & (TF_FIN_RECEIVED | TF_FIN_AHEAD) and seq_ge(at, tcb.rcv_nxt) and \
            not (tcb.range_count and seq_gt(tcb.ranges[tcb.range_count - 1].end, at)):   # data beyond an end: no end
        tcb.fin_seq = at
        tcb.flags |= TF_FIN_AHEAD
        if at != tcb.rcv_nxt:
            tcb.flags |= TF_ACK_NOW
            want_output(tcb)
    if not tcb.flags & TF_FIN_AHEAD or tcb.rcv_nxt != tcb.fin_seq:
        return
    tcb.flags &= ~TF_FIN_AHEAD
    tcb.flags |= TF_FIN_RECEIVED
    tcb.rcv_nxt += 1
    tcb.duplicate.start = tcb.duplicate.end           # the end of the stream is here: no need to say what came twice
    sock_event(&tcb.tcp.events, &tcb.sock, EVENT_IN | EVENT_RDHUP)
    if tcb.state == ESTABLISHED and tcb.counts.data_segments_out and not tcb.flags & TF_ACK_NOW:
        # In a conversation our own FIN is likely to follow, and to carry the acknowledgement.
        if not tcb.ack_deadline:
            tcb.ack_deadline = tcb.tcp.now_ns + <int64_t> tcb.tcp.config.delayed_ack_ms * NS_PER_MS
    else:
        tcb.flags |= TF_ACK_NOW
        want_output(tcb)
    if tcb.state == SYN_RCVD or tcb.state == ESTABLISHED:
        tcb.state = CLOSE_WAIT
    elif tcb.state == FIN_WAIT_1:
        tcb.state = CLOSING
    elif tcb.state == FIN_WAIT_2:
        connection_time_wait(tcb)
