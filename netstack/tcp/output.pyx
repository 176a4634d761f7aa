"""What to send and when (RFC 9293 sections 3.7 and 3.8), and the timers that ask for it."""

from libc.errno cimport ECONNABORTED, ETIMEDOUT
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from netstack.address cimport address_is_v4, address_t, address_v4
from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.tcp.accounting cimport account_timeout, count_segment_out
from netstack.sock cimport EVENT_OUT, SF_ORPHAN, sock_event
from netstack.tcp.buffers cimport send_append_and_copy, send_copy_out, send_writable
from netstack.tcp.congestion.controller cimport congestion_idle, congestion_sent
from netstack.tcp.connection cimport connection_abort, receive_window_field
from netstack.tcp.isn cimport timestamp_now
from netstack.tcp.mtu cimport mtu_black_hole, mtu_probe_limit, mtu_probe_sent, mtu_refresh
from netstack.tcp.pacing cimport pacing_holds, pacing_sent
from netstack.tcp.recovery cimport flight_size, recovery_on_timeout
from netstack.tcp.rtt cimport rto_backoff
from netstack.tcp.ranges cimport sack_blocks
from netstack.tcp.seq cimport seq_ge, seq_gt, seq_lt
from netstack.tcp.tcb cimport (
    ACK, CLOSED, CLOSE_WAIT, ESTABLISHED, FIN, FIN_WAIT_2, LISTEN, PSH, SYN, SYN_RCVD, SYN_SENT, TF_ACK_NOW, TF_CORK,
    TF_FIN_QUEUED, TF_FIN_SENT, TF_FORCE, TF_IN_RECOVERY, TF_MORE, TF_RTO_RECOVERY, TF_NODELAY, TF_PERSIST, TF_PROBE, TF_RTT_TIMING, TF_RTX_HEAD, TF_SACK_OK,
    TF_SYN_SENT, TF_TS_OK, TF_WANT_WRITE, TF_WS_OK, TIME_WAIT, TM_URGENT, URG, data_end, range_t, send_segment_limit, tcp_t,
    want_output,
)
from netstack.tcp.timers cimport timer_update
from netstack.wire.checksum cimport (
    checksum_combine, checksum_finish, checksum_partial, checksum_pseudo_ipv4, checksum_pseudo_ipv6,
)
from netstack.wire.byte_order cimport store_be16, store_native16
from netstack.wire.tcp cimport tcp_options_length, write_tcp, write_tcp_options


# --- deciding ---------------------------------------------------------------------------------------------------------

cdef void options_plain(tcb_t *tcb, plan_t *plan) noexcept nogil:
    """Options of a segment that is no SYN: timestamps, and SACK blocks while data waits beyond a gap (RFC 2018)."""
    cdef range_t[4] blocks
    cdef int i, n
    cdef tcp_t *tcp = tcb.tcp
    plan.options.mss = 0
    plan.options.wscale = 255
    plan.options.sack_permitted = 0
    plan.options.sack_count = 0
    plan.options.has_ts = 0
    plan.header_length = 20
    if tcb.flags & TF_TS_OK:
        plan.options.has_ts = 1
        plan.options.tsval = timestamp_now(tcb)
        plan.options.tsecr = tcb.ts_recent
        plan.header_length = 32
    if (tcb.range_count or tcb.duplicate.start != tcb.duplicate.end) and tcb.flags & TF_SACK_OK and tcp.config.sack \
            and plan.length == 0:
        n = sack_blocks(tcb, blocks, 3 if plan.options.has_ts else 4)
        for i in range(n):
            plan.options.sack[i].start = blocks[i].start
            plan.options.sack[i].end = blocks[i].end
        plan.options.sack_count = <uint8_t> n
        plan.header_length += 4 + 8 * n


cdef bint plan_syn(tcb_t *tcb, plan_t *plan) noexcept nogil:
    """SYN or SYN,ACK, options in Linux's order; a SYN,ACK answers only what was offered."""
    cdef tcp_t *tcp = tcb.tcp
    cdef bint passive = tcb.state == SYN_RCVD
    if tcb.flags & TF_SYN_SENT and tcb.rtx_nxt != tcb.iss:
        if not tcb.flags & TF_ACK_NOW or not passive:
            return False
        plan_ack(tcb, plan, tcb.snd_nxt)
        return True
    plan.seq = tcb.iss
    plan.length = 0
    plan.fresh = 0
    plan.retransmit = (tcb.flags & TF_SYN_SENT) != 0
    plan.flags = SYN | ACK if passive else SYN
    plan.options.mss = <uint16_t> (tcb.user_mss if tcb.user_mss and tcb.user_mss < tcb.cc.mss else tcb.cc.mss)
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
    plan.header_length = 20 + tcp_options_length(&plan.options)
    return True


cdef void plan_ack(tcb_t *tcb, plan_t *plan, uint32_t seq) noexcept nogil:
    plan.seq = seq
    plan.length = 0
    plan.fresh = 0
    plan.retransmit = 0
    plan.flags = ACK
    options_plain(tcb, plan)


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


cdef bint next_segment(tcb_t *tcb, uint32_t fresh, plan_t *plan) noexcept nogil:
    cdef uint32_t limit, window, used, available, length, seq, room
    cdef bint all_of_it
    if tcb.state < ESTABLISHED:
        if tcb.state == SYN_SENT or tcb.state == SYN_RCVD:
            return plan_syn(tcb, plan)
        return False
    if tcb.state == TIME_WAIT:
        return False
    limit = send_segment_limit(tcb)
    if tcb.flags & TF_PROBE:
        plan_ack(tcb, plan, tcb.snd_una - 1)
        return True
    if tcb.flags & TF_RTX_HEAD and tcb.snd_una != tcb.snd_nxt:
        length = tcb.snd_len if tcb.snd_len < limit else limit
        if length > tcb.snd_nxt - tcb.snd_una:
            length = tcb.snd_nxt - tcb.snd_una
        plan.seq = tcb.snd_una
        plan.length = length
        plan.fresh = 0
        plan.retransmit = 1
        plan.flags = ACK
        if length == tcb.snd_len:
            plan.flags |= PSH
            if tcb.flags & TF_FIN_SENT and tcb.snd_nxt == tcb.snd_una + length + 1:
                plan.flags |= FIN
        options_plain(tcb, plan)
        return True
    seq = tcb.rtx_nxt
    available = data_end(tcb) - seq        # wraps when the FIN alone has been sent: seq is one beyond the data
    if seq_gt(seq, data_end(tcb)):
        available = 0
    available += fresh
    used = seq - tcb.snd_una
    if available and tcb.snd_una == tcb.snd_nxt and tcb.last_send_ns and tcb.tcp.config.slow_start_after_idle and \
            tcb.tcp.now_ns - tcb.last_send_ns > tcb.rto_ns:
        congestion_idle(tcb, tcb.tcp.now_ns - tcb.last_send_ns)
        tcb.last_send_ns = tcb.tcp.now_ns  # decayed once for this silence
    if tcb.pmtu:
        mtu_refresh(tcb)
        limit = send_segment_limit(tcb)
    window = tcb.cc.cwnd
    if tcb.dupacks and seq == tcb.snd_nxt and not tcb.flags & (TF_IN_RECOVERY | TF_RTO_RECOVERY):
        window += (tcb.dupacks if tcb.dupacks < 2 else 2) * tcb.cc.mss       # limited transmit (RFC 3042)
    if window > tcb.snd_wnd:
        window = tcb.snd_wnd
    room = window - used if window > used else 0
    if tcb.mtu_probing and seq == tcb.snd_nxt and available > limit:
        limit = mtu_probe_limit(tcb, limit, available, room)
    if available and tcb.cc.pacing_rate and pacing_holds(tcb):
        available = 0                      # its timer goes on with it; an acknowledgement may still be owed
    elif available:
        length = available if available < limit else limit
        if length > room:
            # A whole segment does not fit: wait for room, unless the peer's window is what is small.
            length = room
            if length and room < tcb.snd_wnd - used and used and not seq_lt(seq, tcb.snd_nxt):
                length = 0                 # cwnd's remainder: wait, rather than cut a segment short
        if length:
            all_of_it = length == available
            if length == limit or seq_lt(seq, tcb.snd_nxt) or may_send_small(tcb, length, all_of_it):
                plan.seq = seq
                plan.length = length
                plan.fresh = length > available - fresh
                plan.retransmit = seq_lt(seq, tcb.snd_nxt)
                plan.flags = ACK
                if all_of_it:
                    plan.flags |= PSH
                    if tcb.flags & TF_FIN_QUEUED and fresh == 0 and length < room:
                        plan.flags |= FIN
                options_plain(tcb, plan)
                return True
        if tcb.snd_una == tcb.snd_nxt and not tcb.rtx_deadline and not fresh:
            # Nothing in flight that could bring a window update: persist (3.8.6.1).
            tcb.flags |= TF_PERSIST
            tcb.rtx_deadline = tcb.tcp.now_ns + tcb.rto_ns
            timer_update(tcb)
    elif tcb.flags & TF_FIN_QUEUED and (not tcb.flags & TF_FIN_SENT or seq == data_end(tcb) and seq_lt(seq, tcb.snd_nxt)):
        if room:
            plan.seq = seq
            plan.length = 0
            plan.fresh = 0
            plan.retransmit = (tcb.flags & TF_FIN_SENT) != 0
            plan.flags = ACK | FIN
            options_plain(tcb, plan)
            return True
        if tcb.snd_una == tcb.snd_nxt and not tcb.rtx_deadline:
            tcb.flags |= TF_PERSIST
            tcb.rtx_deadline = tcb.tcp.now_ns + tcb.rto_ns
            timer_update(tcb)
    if tcb.flags & TF_ACK_NOW:
        plan_ack(tcb, plan, tcb.snd_nxt)
        return True
    return False


# --- writing ----------------------------------------------------------------------------------------------------------

cdef inline uint32_t pseudo_sum(const address_t *src, const address_t *dst, uint32_t length) noexcept nogil:
    if address_is_v4(src):
        return checksum_pseudo_ipv4(address_v4(src), address_v4(dst), 6, <uint16_t> length)
    return checksum_pseudo_ipv6(<const uint8_t *> src, <const uint8_t *> dst, 6, length)


cdef void write_urgent(tcb_t *tcb, const plan_t *plan, uint8_t *head) noexcept nogil:
    """URG and the pointer to the byte after the urgent data (RFC 6093 section 3.1), at most 65,535 ahead."""
    cdef uint32_t distance = tcb.snd_up - plan.seq
    if not seq_lt(tcb.snd_una, tcb.snd_up):
        tcb.modes &= ~TM_URGENT            # all of it has arrived
    elif seq_lt(plan.seq, tcb.snd_up):
        head[13] |= URG
        store_be16(head + 18, <uint16_t> (distance if distance < 65535 else 65535))


cdef void write_header(tcb_t *tcb, const plan_t *plan, uint8_t *head, uint32_t payload_sum) noexcept nogil:
    cdef uint32_t total
    write_tcp(head, tcb.lport, tcb.rport, plan.seq, tcb.rcv_nxt if plan.flags & ACK else 0,
              <uint8_t> plan.header_length, plan.flags, receive_window_field(tcb, plan.flags & SYN))
    write_tcp_options(head + 20, &plan.options)
    if tcb.modes & TM_URGENT:
        write_urgent(tcb, plan, head)
    total = checksum_combine(payload_sum, checksum_partial(head, plan.header_length), 0)
    total = checksum_combine(total, pseudo_sum(&tcb.local, &tcb.remote, plan.header_length + plan.length), 0)
    store_native16(head + 16, checksum_finish(total))


cdef void write_segment(tcb_t *tcb, const plan_t *plan, uint8_t *head, uint8_t *body, bint stream) noexcept nogil:
    write_header(tcb, plan, head, send_copy_out(tcb, plan.seq, body, plan.length, stream) if plan.length else 0)


cdef void write_fresh_segment(tcb_t *tcb, const plan_t *plan, uint8_t *head, uint8_t *body,
                              const uint8_t *data, bint stream) noexcept nogil:
    cdef uint32_t buffered = data_end(tcb) - plan.seq, total = 0
    if buffered:
        # A rest of the last write, shorter than a segment, goes first; the new bytes need no detour because of it.
        total = send_copy_out(tcb, plan.seq, body, buffered, False)
    total = checksum_combine(
        total, send_append_and_copy(tcb, body + buffered, data, plan.length - buffered, stream), buffered)
    write_header(tcb, plan, head, total)


cdef uint32_t bare_length(const bare_t *b) noexcept nogil:
    return 32 if b.has_ts else 20


cdef uint32_t write_bare(const bare_t *b, uint8_t *head) noexcept nogil:
    cdef tcp_options_t options
    cdef uint32_t n = bare_length(b)
    write_tcp(head, b.sport, b.dport, b.seq, b.ack, <uint8_t> n, b.flags, b.wnd)
    if b.has_ts:
        options.mss = 0
        options.wscale = 255
        options.sack_permitted = 0
        options.sack_count = 0
        options.has_ts = 1
        options.tsval = b.tsval
        options.tsecr = b.tsecr
        write_tcp_options(head + 20, &options)
    store_native16(head + 16, checksum_finish(
        checksum_combine(checksum_partial(head, n), pseudo_sum(&b.src, &b.dst, n), 0)))
    return n


# --- committing -------------------------------------------------------------------------------------------------------

cdef void on_sent(tcb_t *tcb, const plan_t *plan) noexcept nogil:
    """The segment is in the link's hands: sequence numbers, timers and what it acknowledged move on."""
    cdef tcp_t *tcp = tcb.tcp
    cdef uint32_t occupied = plan.length, end
    tcp.counters.tcp_segments_out += 1
    count_segment_out(tcb, plan.length, plan.retransmit)
    if plan.flags & ACK:
        tcb.flags &= ~TF_ACK_NOW
        tcb.ack_pending = 0
        tcb.ack_deadline = 0
        tcb.rcv_acked = tcb.rcv_nxt
        if plan.length == 0:
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
    if plan.length:
        congestion_sent(tcb, plan.length, flight_size(tcb))
        if tcb.cc.pacing_rate:
            pacing_sent(tcb, plan.length)
        tcb.quickack = 0                   # a conversation: acknowledgements ride on data from here on
        if plan.length < tcb.cc.mss and not plan.retransmit:
            tcb.snd_small = plan.seq + plan.length
    end = plan.seq + occupied
    tcb.flags &= ~TF_FORCE
    tcb.last_send_ns = tcp.now_ns
    if tcb.flags & TF_RTX_HEAD and plan.seq == tcb.snd_una and plan.retransmit:
        tcb.flags &= ~TF_RTX_HEAD
        if seq_lt(tcb.rtx_nxt, end):
            tcb.rtx_nxt = end
    else:
        tcb.rtx_nxt = end
    if plan.retransmit:
        tcb.retransmits += 1
        tcp.counters.tcp_retransmits += 1
        if tcb.flags & TF_RTT_TIMING and seq_ge(tcb.rtt_seq, plan.seq) and seq_lt(tcb.rtt_seq, end):
            tcb.flags &= ~TF_RTT_TIMING    # Karn: what was sent twice is not timed
    elif not tcb.flags & TF_RTT_TIMING:
        tcb.flags |= TF_RTT_TIMING
        tcb.rtt_seq = plan.seq
        tcb.rtt_time_ns = tcp.now_ns
    if tcb.mtu_probing and plan.length > send_segment_limit(tcb) and not plan.retransmit:
        mtu_probe_sent(tcb, plan.seq, end)
    if seq_gt(end, tcb.snd_nxt):
        occupied = plan.length             # of a segment sent again with new data behind, only that counts
        if seq_lt(plan.seq, tcb.snd_nxt):
            occupied = plan.seq + plan.length - tcb.snd_nxt if seq_gt(plan.seq + plan.length, tcb.snd_nxt) else 0
        tcb.bytes_sent += occupied
        tcp.counters.tcp_payload_out += occupied
        tcb.snd_nxt = end
        if tcb.notsent_lowat and tcb.flags & TF_WANT_WRITE and send_writable(tcb):
            tcb.flags &= ~TF_WANT_WRITE
            sock_event(&tcp.events, &tcb.sock, EVENT_OUT)
    if not tcb.rtx_deadline or tcb.flags & TF_PERSIST:
        tcb.flags &= ~TF_PERSIST
        tcb.rtx_deadline = tcp.now_ns + tcb.rto_ns
        timer_update(tcb)


# --- timers -----------------------------------------------------------------------------------------------------------

cdef void give_up(tcb_t *tcb) noexcept nogil:
    """R2 is over (3.8.3): what ICMP said meanwhile is the better reason (RFC 5927)."""
    connection_abort(tcb, tcb.soft_error if tcb.soft_error else ETIMEDOUT, tcb.state > SYN_RCVD)


cdef uint32_t retry_limit(const tcb_t *tcb) noexcept nogil:
    if tcb.state == SYN_SENT:
        return tcb.tcp.config.syn_retries
    if tcb.state == SYN_RCVD:
        return tcb.tcp.config.synack_retries
    if tcb.sock.flags & SF_ORPHAN and tcb.parent == NULL:
        return tcb.tcp.config.orphan_retries
    return tcb.tcp.config.retries2


cdef void on_retransmit_timer(tcb_t *tcb) noexcept nogil:
    tcb.rtx_deadline = 0
    if tcb.retries >= retry_limit(tcb):
        give_up(tcb)
        return
    if tcb.user_timeout_ms and tcb.retries and \
            tcb.tcp.now_ns - tcb.last_receive_ns >= <int64_t> tcb.user_timeout_ms * NS_PER_MS:
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
        if tcb.snd_wnd == 0:
            tcb.flags |= TF_RTX_HEAD       # the peer shrank its window: keep asking with the first segment
    else:
        return
    tcb.retries += 1
    want_output(tcb)


cdef void on_keepalive_timer(tcb_t *tcb) noexcept nogil:
    """RFC 9293 section 3.8.4: only on an idle connection, and only after a long silence."""
    cdef int64_t idle = <int64_t> tcb.keepalive_idle_s * NS_PER_S
    cdef int64_t interval = <int64_t> tcb.keepalive_interval_s * NS_PER_S
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
    if tcb.keepalive_probes >= tcb.keepalive_count:
        give_up(tcb)
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
