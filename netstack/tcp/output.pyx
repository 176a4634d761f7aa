"""What to send and when (RFC 9293 sections 3.7 and 3.8), and the timers that ask for it."""

from libc.errno cimport ECONNABORTED, ETIMEDOUT
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.tcp.accounting cimport account_timeout, count_segment_out
from netstack.sock cimport EVENT_OUT, SF_ORPHAN, sock_event
from netstack.tcp.buffers cimport send_append_and_copy, send_copy_out, send_writable, unsent_mark
from netstack.tcp.congestion.controller cimport congestion_idle, congestion_sent
from netstack.tcp.connection cimport connection_abort, receive_window_field
from netstack.tcp.ecn cimport OPTION_SPACE, ecn_limit, ecn_plan, ecn_sent, ecn_syn_flags, ecn_syn_option
from netstack.tcp.fast_open cimport fast_open_cookie, fast_open_syn, fast_open_syn_sent, fast_open_timeout
from netstack.tcp.isn cimport timestamp_now
from netstack.tcp.mtu cimport mtu_black_hole, mtu_probe_limit, mtu_probe_sent, mtu_refresh
from netstack.tcp.pacing cimport pacing_holds, pacing_sent
from netstack.tcp.rack cimport probe_schedule, rto_rearm
from netstack.tcp.records cimport record_limit, record_sent
from netstack.tcp.recovery cimport recovery_on_reorder_timer, recovery_on_timeout
from netstack.tcp.ranges cimport sack_blocks
from netstack.tcp.rtt cimport rto_backoff, rto_reset
from netstack.tcp.scoreboard cimport (
    in_flight, scoreboard_again, scoreboard_append, scoreboard_cut, scoreboard_find, scoreboard_next_lost,
    scoreboard_reserve, sent_at,
)
from netstack.tcp.seq cimport seq_ge, seq_gt, seq_lt
from netstack.tcp.settings cimport keepalive_count, keepalive_idle_ns, keepalive_interval_ns
from netstack.tcp.tcb cimport (
    ACK, AE, CA_CWR, CA_RECOVERY, CLOSED, CLOSE_WAIT, CWR, ECE, EF_PRIOR_ECHO, ESTABLISHED, FIN, FIN_WAIT_2, FO_ASKED,
    FO_DEFERRED, FO_EXPERIMENTAL, FO_SYN, FO_SYN_DATA, LISTEN, NOT_ECT, PSH, SYN, SYN_RCVD, SYN_SENT,
    TF_ACK_NOW, TF_CORK, TF_FIN_QUEUED, TF_FIN_SENT, TF_FORCE, TF_MORE, TF_NODELAY, TF_PERSIST, TF_PRIOR_ACK, TF_PROBE, TF_RTT_TIMING,
    TF_RTX_HEAD, TF_SACK_OK, TF_SYN_SENT, TF_TAIL_PROBE, TF_TS_OK, TF_WANT_WRITE, TF_WS_OK, TIMER_PROBE, TIMER_REORDER,
    TIMER_RTO, TIME_WAIT, TM_FAST_OPEN, TM_MORE_LAST, TM_URGENT, URG, data_end, range_t, recovery_t, send_segment_limit, sent_t, tcp_config_t, tcp_t,
    want_output,
)
from netstack.tcp.timers cimport timer_note, timer_update
from netstack.wire.checksum cimport (
    checksum_combine, checksum_finish, checksum_partial, checksum_pseudo,
)
from netstack.wire.byte_order cimport store_be16, store_native16
from netstack.wire.tcp cimport ACCECN_FIELDS, NO_ACCECN, NO_FASTOPEN, tcp_options_length, write_tcp, write_tcp_options


cdef enum:
    MAX_OPTIONS = 40             # bytes of a TCP header behind the fixed ones


cdef enum:
    BURST_MAX = 65536            # bytes; Linux's gso_max_size
    BURST_RTT_NS = 524288        # 2^9 us: tcp_tso_rtt_log


# --- deciding ---------------------------------------------------------------------------------------------------------

cdef inline bint has_report(const tcb_t *tcb) noexcept nogil:
    """Something beyond a gap, or received twice, that the peer wants to know."""
    return (tcb.range_count or tcb.duplicate.start != tcb.duplicate.end) and tcb.flags & TF_SACK_OK and tcb.tcp.config.sack


cdef uint32_t report_length(const tcb_t *tcb) noexcept nogil:
    """Bytes that SACK blocks take from a segment of new data (RFC 6691); Linux makes room for them too."""
    cdef uint32_t n = tcb.range_count, most = 3 if tcb.flags & TF_TS_OK else 4
    if tcb.duplicate.start != tcb.duplicate.end:
        n += 1
    return 4 + 8 * (n if n < most else most)


cdef inline uint32_t taken_by_options(const tcb_t *tcb, const plan_t *plan) noexcept nogil:
    """What SACK blocks and counters of ECN took from a segment: as full as they let it be, it is no small one."""
    cdef uint32_t n = 4 + 8 * plan.options.sack_count if plan.options.sack_count else 0
    return n + OPTION_SPACE if plan.options.accecn_fields != NO_ACCECN or (n and tcb.ecn_mode) else n


cdef void options_plain(tcb_t *tcb, plan_t *plan) noexcept nogil:
    """Options of a segment that is no SYN: timestamps, and while there is something to report as many SACK blocks as find
    room (RFC 2018). What is sent again keeps its size, and has mostly none."""
    cdef range_t[4] blocks
    cdef int i, n, room
    plan.options.mss = 0
    plan.options.wscale = 255
    plan.options.sack_permitted = 0
    plan.options.sack_count = 0
    plan.options.has_ts = 0
    plan.options.accecn_fields = NO_ACCECN
    plan.prior = 0
    plan.ecn = NOT_ECT
    plan.options.fastopen_length = NO_FASTOPEN
    plan.header_length = 20
    if tcb.flags & TF_TS_OK:
        plan.options.has_ts = 1
        plan.options.tsval = timestamp_now(tcb)
        plan.options.tsecr = tcb.ts_recent
        plan.header_length = 32
    if has_report(tcb):
        n = 3 if plan.options.has_ts else 4
        if plan.length:
            room = <int> tcb.mss - (<int> plan.header_length - 20) - <int> plan.length
            if (room - 4) // 8 < n:
                n = (room - 4) // 8
        if n > 0:
            n = sack_blocks(tcb, blocks, n)
            for i in range(n):
                plan.options.sack[i].start = blocks[i].start
                plan.options.sack[i].end = blocks[i].end
            plan.options.sack_count = <uint8_t> n
            plan.header_length += 4 + 8 * n
    if tcb.ecn_mode:
        ecn_plan(tcb, plan)


cdef bint plan_syn(tcb_t *tcb, plan_t *plan) noexcept nogil:
    """SYN or SYN,ACK, options in Linux's order; a SYN,ACK answers only what was offered."""
    cdef tcp_t *tcp = tcb.tcp
    cdef bint passive = tcb.state == SYN_RCVD
    cdef uint32_t mss
    if tcb.fast_open & FO_DEFERRED:
        return False
    if tcb.flags & TF_SYN_SENT and tcb.rtx_nxt != tcb.iss:
        if not tcb.flags & TF_ACK_NOW or not passive:
            return False
        plan_ack(tcb, plan, tcb.snd_nxt)
        return True
    plan.seq = tcb.iss
    plan.length = 0
    plan.fresh = 0
    plan.retransmit = (tcb.flags & TF_SYN_SENT) != 0
    plan.flags = <uint16_t> ((SYN | ACK if passive else SYN) | ecn_syn_flags(tcb))
    plan.prior = 0
    plan.ecn = tcb.ecn.syn_sent if plan.flags & (AE | CWR | ECE) else NOT_ECT
    mss = tcb.cc.mss
    if tcb.modes & TM_FAST_OPEN:           # congestion control has begun: there it is what the peer takes
        mss = tcp.link_mss(tcp.stack, &tcb.remote, tcb.route_interface)
    plan.options.mss = <uint16_t> (tcb.settings.user_mss if tcb.settings.user_mss and tcb.settings.user_mss < mss else mss)
    plan.options.sack_count = 0
    plan.options.sack_permitted = tcp.config.sack
    plan.options.has_ts = tcp.config.timestamps
    plan.options.wscale = tcb.rcv_wscale if tcp.config.window_scaling else 255
    if tcb.peer_mss:                       # the peer's SYN is known: only what it offered
        plan.options.sack_permitted = (tcb.flags & TF_SACK_OK) != 0
        plan.options.has_ts = (tcb.flags & TF_TS_OK) != 0
        if not tcb.flags & TF_WS_OK:
            plan.options.wscale = 255
    if plan.options.has_ts:
        plan.options.tsval = timestamp_now(tcb)
        plan.options.tsecr = tcb.ts_recent if passive else 0
    plan.options.fastopen_length = NO_FASTOPEN
    plan.options.accecn_fields = NO_ACCECN
    if ecn_syn_option(tcb, plan.retransmit):
        plan.options.accecn_fields = ACCECN_FIELDS
        plan.options.accecn[0] = plan.options.accecn[2] = 1    # the counters of ECT begin there (RFC 9768 section 3.2.1)
        plan.options.accecn[1] = 0
        if tcp_options_length(&plan.options) > MAX_OPTIONS:
            plan.options.accecn_fields = NO_ACCECN
    if tcb.fast_open & FO_SYN and not passive:
        fast_open_syn(tcb, plan)
    elif tcb.modes & TM_FAST_OPEN and tcb.fast_open & FO_ASKED and not plan.retransmit and tcb.parent != NULL:
        plan.options.fastopen_length = fast_open_cookie(tcb.parent, &tcb.local, &tcb.remote, plan.options.fastopen)
        plan.options.fastopen_experimental = (tcb.fast_open & FO_EXPERIMENTAL) != 0
    plan.header_length = 20 + tcp_options_length(&plan.options)
    return True


cdef void plan_ack(tcb_t *tcb, plan_t *plan, uint32_t seq) noexcept nogil:
    plan.seq = seq
    plan.length = 0
    plan.fresh = 0
    plan.retransmit = 0
    plan.flags = ACK
    options_plain(tcb, plan)


cdef void plan_prior_ack(tcb_t *tcb, plan_t *plan) noexcept nogil:
    """What had come before CE began or ended (RFC 8257 section 3.2)."""
    plan_ack(tcb, plan, tcb.snd_nxt)
    plan.prior = 1
    plan.flags &= ~<uint16_t> ECE
    if tcb.ecn.flags & EF_PRIOR_ECHO:
        plan.flags |= ECE


cdef bint may_send_small(tcb_t *tcb, uint32_t length, bint all_of_it) noexcept nogil:
    """Nagle and the sender's side of silly window avoidance (RFC 9293 sections 3.7.4 and 3.8.6.2.1)."""
    if length >= tcb.max_snd_wnd // 2 and tcb.max_snd_wnd:
        return True
    if not all_of_it:
        return (tcb.flags & TF_FORCE) != 0
    if tcb.flags & (TF_FIN_QUEUED | TF_FORCE):
        return True
    if tcb.flags & (TF_CORK | TF_MORE):
        return False
    # Nagle as Linux has it (Minshall): only another small segment on its way holds this one back, so that the tail of a
    # large write needs no round trip.
    return (tcb.flags & TF_NODELAY) != 0 or tcb.snd_nxt == tcb.snd_una or not seq_gt(tcb.snd_small, tcb.snd_una)


cdef bint plan_again(tcb_t *tcb, sent_t *r, uint32_t limit, plan_t *plan) noexcept nogil:
    """A segment once more, as it was; in pieces when segments have become smaller since."""
    cdef uint32_t start = r.start, length = r.end - r.start
    cdef bint fin = tcb.flags & TF_FIN_SENT and r.end == data_end(tcb) + 1
    if fin:
        length -= 1
    if length > limit:
        if not scoreboard_cut(tcb, limit):
            return False
        r = sent_at(tcb, scoreboard_find(tcb, start))
        length = r.end - r.start
        fin = tcb.flags & TF_FIN_SENT and r.end == data_end(tcb) + 1
        if fin:
            length -= 1
    plan.seq = r.start
    plan.length = length
    plan.fresh = 0
    plan.retransmit = 1
    plan.flags = ACK
    if length and start + length == data_end(tcb):
        plan.flags |= PSH
    if fin:
        plan.flags |= FIN
    options_plain(tcb, plan)
    return True


cdef bint may_send_again(const tcb_t *tcb, const sent_t *r) noexcept nogil:
    """cwnd has room, if only for a part of it: what is reduced in proportion need not come to whole segments, and new data
    must not go first. The peer's window still covers it; the first is asked for whatever the window says."""
    cdef uint32_t used = in_flight(tcb)
    if used and used >= tcb.cc.cwnd:
        return False
    return r.start == tcb.snd_una or seq_lt(r.start, tcb.snd_una + tcb.snd_wnd)


cdef bint plan_forced(tcb_t *tcb, plan_t *plan, uint32_t limit) noexcept nogil:
    """The first segment in flight after a timeout; or a tail loss probe: new data if there is some, else the last segment."""
    cdef uint32_t available, end
    if tcb.rec.sent_count == 0:
        tcb.flags &= ~(TF_RTX_HEAD | TF_TAIL_PROBE)
        return False
    if tcb.flags & TF_RTX_HEAD:
        return plan_again(tcb, sent_at(tcb, 0), limit, plan)
    end = tcb.snd_una + tcb.snd_wnd
    available = data_end(tcb) - tcb.snd_nxt if seq_gt(data_end(tcb), tcb.snd_nxt) else 0
    if available and seq_lt(tcb.snd_nxt, end) and scoreboard_reserve(tcb):
        limit = ecn_limit(tcb, limit)
        if has_report(tcb):
            limit -= report_length(tcb)
        plan.seq = tcb.snd_nxt
        plan.length = record_limit(tcb, tcb.snd_nxt, available if available < limit else limit)
        if plan.length > end - tcb.snd_nxt:
            plan.length = end - tcb.snd_nxt
        plan.fresh = 0
        plan.retransmit = 0
        plan.flags = ACK | PSH if plan.length == available else ACK
        options_plain(tcb, plan)
        return True
    return plan_again(tcb, sent_at(tcb, tcb.rec.sent_count - 1), limit, plan)


cdef uint32_t burst_size(const tcb_t *tcb, uint32_t limit) noexcept nogil:
    """Bytes that Linux hands to a card at once: a millisecond's worth at the rate it would pace at, more on a short path,
    at least tcp_min_tso_segs segments, at most half a window."""
    cdef const tcp_config_t *config = &tcb.tcp.config
    cdef uint32_t most = tcb.cc.cwnd // 2
    cdef double size = BURST_MAX
    cdef int64_t shift = tcb.cc.min_rtt_ns // BURST_RTT_NS
    if tcb.srtt_ns and shift:
        size = <double> tcb.cc.cwnd * (
            config.pacing_ss_ratio if tcb.cc.cwnd < tcb.cc.ssthresh // 2 else config.pacing_ca_ratio
        ) / 100 * NS_PER_S / tcb.srtt_ns / 1024 + (BURST_MAX >> shift if shift < 16 else 0)
    if size < config.min_tso_segs * limit:
        size = config.min_tso_segs * limit
    if size > BURST_MAX:
        size = BURST_MAX
    return <uint32_t> size if size < most else most


cdef inline bint ends_burst(const tcb_t *tcb, uint32_t end, uint32_t limit, uint32_t room, uint32_t rest) noexcept nogil:
    """The last of several segments that leave together says PSH, as one that a card had cut to size would: the peer need not
    wait for more. room, rest: what cwnd, and the data, leave for others."""
    if tcb.last_send_ns != tcb.tcp.now_ns or tcb.burst_seq == tcb.snd_nxt:
        return False
    if room < limit or rest < limit:
        return True
    return end - tcb.burst_seq + limit > burst_size(tcb, limit)


cdef bint next_segment(tcb_t *tcb, uint32_t fresh, plan_t *plan) noexcept nogil:
    cdef uint32_t limit, used, available, length, record, seq, room, offered
    cdef recovery_t *rec = tcb.rec
    cdef bint all_of_it, ends_record
    cdef sent_t *r
    if tcb.state < ESTABLISHED:
        if tcb.state != SYN_SENT and tcb.state != SYN_RCVD:
            return False
        if not tcb.modes & TM_FAST_OPEN or tcb.rtx_nxt == tcb.iss:
            return plan_syn(tcb, plan)
    if tcb.state == TIME_WAIT:
        return False
    limit = send_segment_limit(tcb)
    if tcb.flags & (TF_PROBE | TF_PRIOR_ACK):
        if tcb.flags & TF_PRIOR_ACK:
            plan_prior_ack(tcb, plan)
        else:
            plan_ack(tcb, plan, tcb.snd_una - 1)
        return True
    if tcb.flags & TF_ACK_NOW and (tcb.range_count or tcb.duplicate.start != tcb.duplicate.end):
        plan_ack(tcb, plan, tcb.snd_nxt)   # a duplicate counts only without data (RFC 5681 section 2)
        return True
    if tcb.flags & (TF_RTX_HEAD | TF_TAIL_PROBE) and plan_forced(tcb, plan, limit):
        return True
    if rec.waiting and not rec.new_first:
        r = scoreboard_next_lost(tcb)
        if r != NULL and may_send_again(tcb, r) and not (tcb.cc.pacing_rate and pacing_holds(tcb)) and \
                plan_again(tcb, r, limit, plan):
            return True
    seq = tcb.snd_nxt
    available = data_end(tcb) - seq        # wraps when the FIN has been sent: seq is one beyond the data
    if seq_gt(seq, data_end(tcb)):
        available = 0
    available += fresh
    if available and tcb.snd_una == tcb.snd_nxt and tcb.last_send_ns and tcb.tcp.config.slow_start_after_idle and \
            tcb.tcp.now_ns - tcb.last_send_ns > tcb.rto_ns:
        congestion_idle(tcb, tcb.tcp.now_ns - tcb.last_send_ns)
        tcb.last_send_ns = tcb.tcp.now_ns  # decayed once for this silence
    if tcb.pmtu:
        mtu_refresh(tcb)
        limit = send_segment_limit(tcb)
    if tcb.ecn_mode:
        limit = ecn_limit(tcb, limit)
    if has_report(tcb):
        limit -= report_length(tcb)
    used = in_flight(tcb)
    room = tcb.cc.cwnd - used if tcb.cc.cwnd > used else 0
    offered = tcb.snd_una + tcb.snd_wnd - seq
    if seq_lt(tcb.snd_una + tcb.snd_wnd, seq):
        offered = 0
    if not available and room and not rec.waiting and not tcb.hist.app_limited:
        tcb.hist.app_limited = tcb.cc.delivered + used if tcb.cc.delivered + used else 1
    if offered < room:
        room = offered
    if tcb.mtu_probing and available > limit:
        limit = mtu_probe_limit(tcb, limit, available, room)
    if available and tcb.cc.pacing_rate and pacing_holds(tcb):
        available = 0                      # its timer goes on with it; an acknowledgement may still be owed
    elif available:
        length = available if available < limit else limit
        record = record_limit(tcb, seq, length)
        ends_record = record < length      # and more follows, so that no Nagle holds it back
        length = record
        if length > room:
            ends_record = False
            # A whole segment does not fit: wait for room, unless the peer's window is what is small.
            length = room
            if length and room < offered and tcb.snd_una != tcb.snd_nxt:
                length = 0                 # cwnd's remainder: wait, rather than cut a segment short
        if length and scoreboard_reserve(tcb):
            all_of_it = length == available
            if length == limit or ends_record or rec.new_first or may_send_small(tcb, length, all_of_it):
                plan.seq = seq
                plan.length = length
                plan.fresh = length > available - fresh
                plan.retransmit = 0
                plan.flags = ACK
                if ends_burst(tcb, seq + length, limit, room - length, available - length) or (
                        offered - length < limit and not all_of_it) or ends_record:
                    plan.flags |= PSH
                if all_of_it and (not tcb.modes & TM_MORE_LAST or tcb.flags & TF_FORCE):
                    plan.flags |= PSH
                if all_of_it:
                    if tcb.flags & TF_FIN_QUEUED and fresh == 0 and length < room:
                        plan.flags |= FIN
                options_plain(tcb, plan)
                return True
        if tcb.snd_una == tcb.snd_nxt and not tcb.rtx_deadline and not fresh:
            # Nothing in flight that could bring a window update: persist (3.8.6.1).
            tcb.flags |= TF_PERSIST
            tcb.rtx_deadline = tcb.tcp.now_ns + tcb.rto_ns
            timer_update(tcb)
    elif tcb.flags & TF_FIN_QUEUED and not tcb.flags & TF_FIN_SENT:
        if room and scoreboard_reserve(tcb):
            plan.seq = seq
            plan.length = 0
            plan.fresh = 0
            plan.retransmit = 0
            plan.flags = ACK | FIN
            options_plain(tcb, plan)
            return True
        if tcb.snd_una == tcb.snd_nxt and not tcb.rtx_deadline:
            tcb.flags |= TF_PERSIST
            tcb.rtx_deadline = tcb.tcp.now_ns + tcb.rto_ns
            timer_update(tcb)
    if rec.new_first and rec.waiting and tcb.snd_nxt == rec.high_seq and not fresh:
        rec.new_first = 0                  # F-RTO had hoped for new data
        rec.frto = 0
        return next_segment(tcb, 0, plan)
    if tcb.flags & TF_ACK_NOW:
        plan_ack(tcb, plan, tcb.snd_nxt)
        return True
    return False


# --- writing ----------------------------------------------------------------------------------------------------------

cdef void write_urgent(tcb_t *tcb, const plan_t *plan, uint8_t *head) noexcept nogil:
    """URG and the pointer to the byte after the urgent data (RFC 6093 section 3.1), at most 65,535 ahead."""
    cdef uint32_t distance = tcb.snd_up - plan.seq
    if not seq_lt(tcb.snd_una, tcb.snd_up):
        tcb.modes &= ~TM_URGENT            # all of it has arrived
    elif seq_lt(plan.seq, tcb.snd_up):
        head[13] |= URG
        store_be16(head + 18, <uint16_t> (distance if distance < 65535 else 65535))


cdef void write_header(tcb_t *tcb, const plan_t *plan, uint8_t *head, uint32_t payload_sum) noexcept nogil:
    cdef uint32_t total, received = tcb.rcv_nxt
    if plan.prior:
        tcb.rcv_nxt = tcb.ecn.prior_ack    # its window reaches as far as the next one's
    write_tcp(head, tcb.lport, tcb.rport, plan.seq, tcb.rcv_nxt if plan.flags & ACK else 0,
              <uint8_t> plan.header_length, plan.flags, receive_window_field(tcb, plan.flags & SYN))
    tcb.rcv_nxt = received
    write_tcp_options(head + 20, &plan.options)
    if tcb.modes & TM_URGENT:
        write_urgent(tcb, plan, head)
    total = checksum_combine(payload_sum, checksum_partial(head, plan.header_length), 0)
    total = checksum_combine(total, checksum_pseudo(&tcb.local, &tcb.remote, 6, plan.header_length + plan.length), 0)
    store_native16(head + 16, checksum_finish(total))


cdef void write_segment(tcb_t *tcb, const plan_t *plan, uint8_t *head, uint8_t *body, bint stream) noexcept nogil:
    cdef uint32_t seq = plan.seq + 1 if plan.flags & SYN else plan.seq
    write_header(tcb, plan, head, send_copy_out(tcb, seq, body, plan.length, stream) if plan.length else 0)


cdef void write_fresh_segment(tcb_t *tcb, const plan_t *plan, uint8_t *head, uint8_t *body,
                              const uint8_t *data, bint stream) noexcept nogil:
    cdef uint32_t buffered = data_end(tcb) - plan.seq, total = 0
    if buffered:
        # A rest of the last write, shorter than a segment, goes first; the new bytes need no detour because of it.
        total = send_copy_out(tcb, plan.seq, body, buffered, False)
    total = checksum_combine(
        total, send_append_and_copy(tcb, body + buffered, data, plan.length - buffered, stream), buffered)
    write_header(tcb, plan, head, total)


cdef inline void bare_options(const bare_t *b, tcp_options_t *o) noexcept nogil:
    cdef bint syn = b.flags & SYN
    o.mss = b.mss if syn else 0
    o.wscale = b.wscale if syn else 255
    o.sack_permitted = b.sack_permitted if syn else 0
    o.sack_count = 0
    o.accecn_fields = NO_ACCECN
    if syn and b.accecn:
        o.accecn_fields = ACCECN_FIELDS
        o.accecn[0] = o.accecn[2] = 1      # the counters of ECT begin there (RFC 9768 section 3.2.1)
        o.accecn[1] = 0
    o.has_ts = b.has_ts
    o.tsval = b.tsval
    o.tsecr = b.tsecr
    o.fastopen_length = b.fastopen_length if syn else <uint8_t> NO_FASTOPEN
    if o.fastopen_length != NO_FASTOPEN:
        o.fastopen_experimental = b.fastopen_experimental
        memcpy(o.fastopen, b.fastopen, b.fastopen_length)
    if tcp_options_length(o) > MAX_OPTIONS:
        o.accecn_fields = NO_ACCECN


cdef uint32_t bare_length(const bare_t *b) noexcept nogil:
    cdef tcp_options_t options
    bare_options(b, &options)
    return 20 + tcp_options_length(&options)


cdef uint32_t write_bare(const bare_t *b, uint8_t *head) noexcept nogil:
    cdef tcp_options_t options
    cdef uint32_t n
    bare_options(b, &options)
    n = 20 + tcp_options_length(&options)
    write_tcp(head, b.sport, b.dport, b.seq, b.ack, <uint8_t> n, b.flags, b.wnd)
    write_tcp_options(head + 20, &options)
    store_native16(head + 16, checksum_finish(
        checksum_combine(checksum_partial(head, n), checksum_pseudo(&b.src, &b.dst, 6, n), 0)))
    return n


# --- committing -------------------------------------------------------------------------------------------------------

cdef void on_sent(tcb_t *tcb, const plan_t *plan) noexcept nogil:
    """The segment is in the link's hands: sequence numbers, timers and what it acknowledged move on."""
    cdef tcp_t *tcp = tcb.tcp
    cdef uint32_t occupied = plan.length, end
    tcp.counters.tcp_segments_out += 1
    count_segment_out(tcb, plan.length, plan.retransmit)
    if tcb.ecn_mode:
        ecn_sent(tcb, plan)
    if plan.prior:
        tcb.flags &= ~TF_PRIOR_ACK
        tcb.rcv_acked = tcb.ecn.prior_ack
        tcb.duplicate.end = tcb.duplicate.start
    elif plan.flags & ACK:
        tcb.flags &= ~TF_ACK_NOW
        tcb.ack_pending = 0
        tcb.ack_deadline = 0
        tcb.rcv_acked = tcb.rcv_nxt
        if plan.length == 0 or plan.options.sack_count:
            tcb.duplicate.end = tcb.duplicate.start            # reported, once (RFC 2883 section 4)
    if plan.flags & (SYN | FIN):
        occupied += 1
        if plan.flags & SYN:
            tcb.flags |= TF_SYN_SENT
        else:
            tcb.flags |= TF_FIN_SENT
    if occupied == 0:
        tcb.flags &= ~TF_PROBE
        return
    end = plan.seq + occupied
    if plan.flags & SYN:
        tcb.flags &= ~TF_FORCE
        tcb.last_send_ns = tcp.now_ns
        syn_sent(tcb, plan, end)
        return
    if plan.length:
        congestion_sent(tcb, plan.length, in_flight(tcb))
        if tcb.cc.pacing_rate:
            pacing_sent(tcb, plan.length)
        if tcb.counts.data_segments_in:
            tcb.quickack = 0               # a conversation: acknowledgements ride on data from here on
        if plan.retransmit:
            tcb.burst_seq = tcb.snd_nxt    # what is new begins a run of its own
        elif plan.flags & PSH:
            tcb.burst_seq = plan.seq + plan.length
        elif tcb.last_send_ns != tcp.now_ns:
            tcb.burst_seq = plan.seq
        if plan.length < tcb.cc.mss and not plan.retransmit and plan.length + taken_by_options(tcb, plan) < tcb.cc.mss:
            tcb.snd_small = plan.seq + plan.length
    tcb.flags &= ~TF_FORCE
    tcb.last_send_ns = tcp.now_ns
    if plan.retransmit:
        sent_again(tcb, plan, end)
    else:
        sent_new(tcb, plan, end)


cdef void syn_sent(tcb_t *tcb, const plan_t *plan, uint32_t end) noexcept nogil:
    """The handshake is timed on its own: once sent, once answered."""
    cdef tcp_t *tcp = tcb.tcp
    tcb.rtx_nxt = end
    if tcb.fast_open & FO_SYN:
        fast_open_syn_sent(tcb, plan)
    if plan.retransmit:
        tcb.retransmits += 1
        tcp.counters.tcp_retransmits += 1
        tcb.flags &= ~TF_RTT_TIMING        # Karn: what was sent twice is not timed
    else:
        tcb.flags |= TF_RTT_TIMING
        tcb.rtt_seq = plan.seq
    tcb.rtt_time_ns = tcp.now_ns
    if seq_gt(end, tcb.snd_nxt):
        tcb.snd_nxt = end
    if not tcb.rtx_deadline:
        tcb.rtx_deadline = tcp.now_ns + tcb.rto_ns
        timer_update(tcb)


cdef void sent_again(tcb_t *tcb, const plan_t *plan, uint32_t end) noexcept nogil:
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t i = scoreboard_find(tcb, plan.seq)
    cdef sent_t *r
    tcb.retransmits += 1
    tcb.tcp.counters.tcp_retransmits += 1
    if i >= rec.sent_count:
        return
    r = sent_at(tcb, i)
    if rec.again_ns == 0:
        rec.again_ns = tcb.tcp.now_ns
        rec.stamp = plan.options.tsval
    if rec.undo:
        if rec.undo_again < 0:
            rec.undo_again = 0
        rec.undo_again += 1
    scoreboard_again(tcb, r)
    r.in_flight = in_flight(tcb)
    if rec.state == CA_CWR or rec.state == CA_RECOVERY:
        rec.prr_out += (end - plan.seq + tcb.cc.mss - 1) // tcb.cc.mss * tcb.cc.mss
    if tcb.flags & TF_TAIL_PROBE and not tcb.flags & TF_RTX_HEAD:
        probe_is_out(tcb, 2)
    elif i == 0 and rec.timer != TIMER_REORDER and not tcb.flags & TF_RTX_HEAD:
        rec.timer = TIMER_RTO
        tcb.rtx_deadline = tcb.tcp.now_ns + tcb.rto_ns
        timer_update(tcb)
    tcb.flags &= ~(TF_RTX_HEAD | TF_TAIL_PROBE)


cdef void probe_is_out(tcb_t *tcb, uint8_t kind) noexcept nogil:
    """kind: 1 new data, 2 a retransmission."""
    tcb.rec.probing = kind
    tcb.rec.probe_high = tcb.snd_nxt
    rto_rearm(tcb)


cdef void sent_new(tcb_t *tcb, const plan_t *plan, uint32_t end) noexcept nogil:
    cdef tcp_t *tcp = tcb.tcp
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t used
    cdef bint first = rec.sent_count == 0
    cdef sent_t *r = scoreboard_append(tcb, plan.seq, end)
    if tcb.mtu_probing and plan.length > send_segment_limit(tcb):
        mtu_probe_sent(tcb, plan.seq, end)
    tcb.bytes_sent += plan.length
    tcp.counters.tcp_payload_out += plan.length
    tcb.snd_nxt = end
    tcb.rtx_nxt = end
    if tcb.records != NULL:
        record_sent(tcb)
    used = in_flight(tcb)
    r.in_flight = used
    if rec.state == CA_CWR or rec.state == CA_RECOVERY:
        rec.prr_out += (end - plan.seq + tcb.cc.mss - 1) // tcb.cc.mss * tcb.cc.mss
    # RFC 7661, as Linux has it: was cwnd what held us back in the window that ends at usage_seq?
    if seq_ge(tcb.snd_una, rec.usage_seq) or used + tcb.cc.mss > tcb.cc.cwnd or \
            (not rec.cwnd_limited and used > rec.largest_flight):
        rec.cwnd_limited = used + tcb.cc.mss > tcb.cc.cwnd
        rec.largest_flight = used
        rec.usage_seq = end
    if tcb.flags & TF_WANT_WRITE and unsent_mark(tcb) and send_writable(tcb):
        tcb.flags &= ~TF_WANT_WRITE
        sock_event(&tcp.events, &tcb.sock, EVENT_OUT)
    if tcb.state < ESTABLISHED:
        return                             # Fast Open: only the SYN,ACK has a timer until it is acknowledged
    if tcb.flags & TF_TAIL_PROBE:
        tcb.flags &= ~TF_TAIL_PROBE
        probe_is_out(tcb, 1)
        return
    if first or not tcb.rtx_deadline or tcb.flags & TF_PERSIST:
        tcb.flags &= ~TF_PERSIST
        rec.timer = TIMER_RTO
        tcb.rtx_deadline = tcp.now_ns + tcb.rto_ns
    if rec.timer != TIMER_REORDER and not probe_schedule(tcb, False):
        if rec.timer == TIMER_PROBE:
            rto_rearm(tcb)
    timer_note(tcb, tcb.rtx_deadline)


# --- timers -----------------------------------------------------------------------------------------------------------

cdef void give_up(tcb_t *tcb) noexcept nogil:
    """R2 is over (3.8.3): what ICMP said meanwhile is the better reason (RFC 5927). Nobody was heard, so nobody is told
    (3.10.8), as in Linux."""
    connection_abort(tcb, tcb.soft_error if tcb.soft_error else ETIMEDOUT, False)


cdef uint32_t retry_limit(const tcb_t *tcb) noexcept nogil:
    if tcb.state == SYN_SENT:
        return tcb.tcp.config.syn_retries
    if tcb.state == SYN_RCVD:
        return tcb.tcp.config.synack_retries + (1 if tcb.modes & TM_FAST_OPEN else 0)
    if tcb.sock.flags & SF_ORPHAN and tcb.parent == NULL:
        return tcb.tcp.config.orphan_retries
    return tcb.tcp.config.retries2


cdef inline int64_t unanswered_since(const tcb_t *tcb) noexcept nogil:
    """As Linux: the first retransmission of what is not acknowledged; of a closed window, the peer's last word."""
    if tcb.flags & TF_PERSIST or tcb.state < ESTABLISHED:
        return tcb.last_receive_ns
    return tcb.rec.again_ns if tcb.rec.again_ns else tcb.tcp.now_ns


cdef void clamp_to_user_timeout(tcb_t *tcb) noexcept nogil:
    """RFC 5482: the connection ends when the time is over, not at the RTO after it."""
    cdef int64_t end
    if tcb.settings.user_timeout_ms == 0:
        return
    end = unanswered_since(tcb) + <int64_t> tcb.settings.user_timeout_ms * NS_PER_MS
    if tcb.rtx_deadline > end:
        tcb.rtx_deadline = end if end > tcb.tcp.now_ns else tcb.tcp.now_ns + NS_PER_MS
        timer_update(tcb)


cdef void on_tail_probe_timer(tcb_t *tcb) noexcept nogil:
    """RFC 8985 section 7.3: one probe at a time; the RTO runs behind it."""
    if not tcb.rec.probing and tcb.rec.sent_count:
        tcb.flags |= TF_TAIL_PROBE
        tcb.tcp.counters.tcp_tail_probes += 1
        want_output(tcb)
    rto_rearm(tcb)


cdef void on_retransmit_timer(tcb_t *tcb) noexcept nogil:
    tcb.rtx_deadline = 0
    if tcb.rec.timer == TIMER_PROBE:
        on_tail_probe_timer(tcb)
        return
    if tcb.rec.timer == TIMER_REORDER:
        recovery_on_reorder_timer(tcb)
        return
    if tcb.fast_open & (FO_ASKED | FO_SYN_DATA):
        fast_open_timeout(tcb, tcb.retries >= retry_limit(tcb))
    if tcb.retries >= retry_limit(tcb):
        give_up(tcb)
        return
    if tcb.settings.user_timeout_ms and tcb.retries and tcb.tcp.now_ns - unanswered_since(tcb) >= \
            <int64_t> tcb.settings.user_timeout_ms * NS_PER_MS:
        give_up(tcb)
        return
    if tcb.flags & TF_PERSIST and tcb.snd_wnd:
        # Held back by a cork or by a window too small to be worth it: send what there is (3.8.6.2.1, override).
        tcb.flags &= ~(TF_PERSIST | TF_MORE)
        tcb.flags |= TF_FORCE
        want_output(tcb)
        return
    if tcb.flags & TF_PERSIST:
        tcb.flags |= TF_PROBE
        rto_backoff(tcb)
        tcb.rtx_deadline = tcb.tcp.now_ns + tcb.rto_ns
    elif tcb.state < ESTABLISHED:
        tcb.syn_retries += 1
        account_timeout(tcb)
        tcb.rtx_nxt = tcb.iss
        rto_backoff(tcb)
        tcb.flags &= ~TF_RTT_TIMING
        tcb.tcp.counters.tcp_timeouts += 1
    elif tcb.snd_una != tcb.snd_nxt:
        account_timeout(tcb)
        if tcb.retries >= tcb.tcp.config.retries1:
            mtu_black_hole(tcb)
        recovery_on_timeout(tcb)
        clamp_to_user_timeout(tcb)
    else:
        return
    tcb.retries += 1
    want_output(tcb)


cdef void retry_now(tcb_t *tcb) noexcept nogil:
    """What was sent while the way was interrupted is lost, and the timer may have backed off far: it fires now, and its
    next waits are as long as if this were the first. RFC 6069 does so when ICMP errors told of the interruption."""
    if tcb.state == CLOSED or not tcb.rtx_deadline:
        return
    tcb.retries = 0
    rto_reset(tcb)
    if tcb.rec.sent_count:
        tcb.rec.timer = TIMER_RTO
    tcb.rtx_deadline = tcb.tcp.now_ns
    timer_update(tcb)


cdef void on_keepalive_timer(tcb_t *tcb) noexcept nogil:
    """RFC 9293 section 3.8.4: only on an idle connection, and only after a long silence."""
    cdef int64_t idle = keepalive_idle_ns(tcb), interval = keepalive_interval_ns(tcb)
    cdef int64_t now = tcb.tcp.now_ns
    tcb.keepalive_deadline = 0
    if tcb.snd_una != tcb.snd_nxt or tcb.snd_len:
        tcb.keepalive_deadline = now + idle          # data outstanding: its own timer judges the peer
        return
    if tcb.keepalive_probes and now - tcb.last_receive_ns <= interval:
        tcb.keepalive_probes = 0                     # the last probe was answered, by whatever
    if now - tcb.last_receive_ns < idle and not tcb.keepalive_probes:
        tcb.keepalive_deadline = tcb.last_receive_ns + idle
        return
    if tcb.keepalive_probes >= keepalive_count(tcb):
        connection_abort(tcb, tcb.soft_error if tcb.soft_error else ETIMEDOUT, True)
        return
    tcb.keepalive_probes += 1
    tcb.flags |= TF_PROBE
    tcb.keepalive_deadline = now + interval
    want_output(tcb)


cdef void on_timer(tcb_t *tcb) noexcept nogil:
    """Fire what is due, in the order of the list; any of them may end the connection."""
    cdef int64_t now = tcb.tcp.now_ns
    if tcb.ack_deadline and tcb.ack_deadline <= now:
        tcb.ack_deadline = 0
        tcb.flags |= TF_ACK_NOW
        want_output(tcb)
    if tcb.pace_deadline and tcb.pace_deadline <= now:
        tcb.pace_deadline = 0
        want_output(tcb)
    if tcb.rtx_deadline and tcb.rtx_deadline <= now:
        on_retransmit_timer(tcb)
    if tcb.keepalive_deadline and tcb.keepalive_deadline <= now:
        on_keepalive_timer(tcb)
    if tcb.state_deadline and tcb.state_deadline <= now:
        tcb.state_deadline = 0
        if tcb.state != CLOSED:
            connection_abort(tcb, ETIMEDOUT, tcb.state != FIN_WAIT_2)
    if tcb.state != CLOSED:
        timer_update(tcb)
