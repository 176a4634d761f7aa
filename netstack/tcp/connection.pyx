"""Opening, establishing, closing and aborting (RFC 9293 sections 3.5, 3.6 and 3.10.1 to 3.10.6)."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.sock cimport (
    EVENT_ERR, EVENT_HUP, EVENT_IN, EVENT_OUT, EVENT_RDHUP, SF_KEEPALIVE, SF_ORPHAN, sock_event,
)
from netstack.tcp.accounting cimport account_timeouts_over
from netstack.tcp.buffers cimport buffers_free, receive_take, receive_tune, send_writable
from netstack.tcp.congestion.controller cimport congestion_start, congestion_stop
from netstack.tcp.ecn cimport ecn_ack_codepoint, ecn_ack_flags, ecn_from_request, ecn_open
from netstack.tcp.fast_open cimport fast_open_ended, fast_open_over
from netstack.tcp.records cimport records_clear
from netstack.tcp.settings cimport fin_timeout_ns, keepalive_idle_ns
from netstack.tcp.isn cimport choose_isn, timestamp_now
from netstack.tcp.listener cimport listener_close, listener_forget
from netstack.tcp.mtu cimport mtu_start
from netstack.tcp.scoreboard cimport recovery_release
from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport (
    ACK, CLOSED, CLOSE_WAIT, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, FO_DEFERRED, FO_SETTINGS, INHERITED_FLAGS, LAST_ACK, LISTEN, MAX_BARE, RQ_ACKED,
    RQ_SACK, RQ_TIMESTAMPS, RQ_WSCALE, RST, SYN_RCVD, SYN_SENT, TF_ACK_NOW, TF_FIN_QUEUED, TF_FIN_RECEIVED, TF_IN_DEMUX,
    TF_LINGER, TF_OUTPUT, TF_PASSIVE, TF_RTT_TIMING, TF_SACK_OK, TF_SHUT_RD, TF_SYN_SENT, TF_TS_OK, TF_WS_OK, TIME_WAIT,
    TM_FAST_OPEN, TM_ORPHAN, TM_RCVBUF_SET, TM_URGENT, bare_t, receive_end, want_output,
)
from netstack.tcp.timers cimport timer_remove, timer_update

cdef uint8_t window_shift(const tcb_t *tcb) noexcept nogil:
    """The smallest shift that lets the 16-bit field say the largest receive buffer (RFC 7323 section 2.3)."""
    cdef uint32_t space = tcb.tcp.config.rmem_max
    cdef uint8_t shift = 0
    if tcb.modes & TM_RCVBUF_SET:
        space = tcb.rcv_wanted // 2        # it stays as it was set: twice what was asked for
    elif tcb.rcv_wanted > space:
        space = tcb.rcv_wanted
    while shift < 14 and (space >> shift) > 65535:
        shift += 1
    return shift


cdef void forget_last_attempt(tcb_t *tcb) noexcept nogil:
    """A socket whose connection failed may connect again: settings stay, the rest is as new."""
    buffers_free(tcb)
    tcb.flags &= INHERITED_FLAGS | TF_OUTPUT | TF_IN_DEMUX
    tcb.retries = 0
    tcb.syn_retries = 0
    tcb.keepalive_probes = 0
    recovery_release(tcb)
    memset(&tcb.hist, 0, sizeof(tcb.hist))
    tcb.hist.reordering = tcb.tcp.config.reordering
    tcb.hist.rack_steps = 1
    tcb.cc.min_rtt_ns = 0
    tcb.cc.srtt_ns = 0
    tcb.cc.delivered = 0
    tcb.soft_error = 0
    tcb.peer_mss = 0
    tcb.srtt_ns = 0
    tcb.rto_ns = NS_PER_S                  # RFC 6298 section 2.1
    tcb.last_send_ns = 0
    tcb.bytes_sent = tcb.bytes_received = tcb.retransmits = 0
    tcb.last_data_ns = tcb.last_ack_ns = tcb.limited_since_ns = tcb.timeouts_since_ns = 0
    memset(&tcb.counts, 0, sizeof(tcb.counts))
    tcb.ack_pending = 0
    tcb.modes &= ~TM_URGENT
    records_clear(tcb)
    tcb.fast_open &= FO_SETTINGS
    tcb.fast_open_fail = 0
    tcb.tune_space = 0
    tcb.rcv_rtt_ns = 0
    tcb.quickack = tcb.tcp.config.quickack_segments


cdef void connection_raise_isn(tcb_t *tcb, uint32_t last) noexcept nogil:
    """Begin above *last*, the end of the connection that had these names before (RFC 6191 section 3): a fast one can outrun
    the clock that ISNs are made from. Before the SYN is sent."""
    if seq_gt(tcb.iss, last):
        return
    tcb.iss = last + ISN_STEP
    tcb.snd_una = tcb.iss
    tcb.snd_nxt = tcb.iss
    tcb.rtx_nxt = tcb.iss
    tcb.snd_wl2 = tcb.iss


cdef void connection_open(tcb_t *tcb, uint32_t link_mss) noexcept nogil:
    """Active OPEN (3.10.1): a SYN is due."""
    cdef tcp_t *tcp = tcb.tcp
    forget_last_attempt(tcb)
    choose_isn(tcb)
    tcb.state = SYN_SENT
    tcb.snd_una = tcb.iss
    tcb.snd_nxt = tcb.iss
    tcb.rtx_nxt = tcb.iss
    tcb.rcv_adv = 0
    tcb.rcv_wscale = window_shift(tcb) if tcp.config.window_scaling else 0
    tcb.mss = link_mss
    tcb.cc.mss = link_mss
    tcb.last_receive_ns = tcp.now_ns
    ecn_open(tcb)
    tcp.counters.tcp_active_opens += 1
    want_output(tcb)


cdef void connection_from_request(tcb_t *child, const request_t *r) noexcept nogil:
    """A SYN reached a listener and was answered (3.10.7.2): SYN-RECEIVED, where the third segment finds it."""
    cdef segment_t syn
    child.state = SYN_RCVD
    child.flags |= TF_PASSIVE | TF_SYN_SENT
    child.iss = r.iss
    child.ts_offset = r.ts_offset
    child.snd_una = r.iss
    child.snd_nxt = r.iss + 1
    child.rtx_nxt = child.snd_nxt
    child.cc.mss = r.mss                   # what our SYN,ACK says
    child.irs = r.irs
    child.rcv_nxt = r.irs + 1
    child.rcv_read = child.rcv_nxt
    child.rcv_adv = child.rcv_nxt + (
        (r.window + (<uint32_t> 1 << r.rcv_wscale) - 1) >> r.rcv_wscale << r.rcv_wscale)   # as the scaled field can say it
    child.rcv_acked = child.rcv_nxt
    child.rcv_wscale = r.rcv_wscale
    child.last_receive_ns = child.tcp.now_ns
    memset(&syn, 0, sizeof(syn))
    syn.mss = r.peer_mss
    syn.has_ts = (r.flags & RQ_TIMESTAMPS) != 0
    syn.tsval = r.ts_recent
    syn.sack_permitted = (r.flags & RQ_SACK) != 0
    syn.wscale = r.snd_wscale if r.flags & RQ_WSCALE else 255
    connection_options(child, &syn, r.mss)
    ecn_from_request(child, r)
    child.snd_wnd = r.peer_window          # never scaled on a SYN (RFC 7323 section 2.2)
    child.max_snd_wnd = r.peer_window
    child.snd_wl1 = r.irs
    child.snd_wl2 = r.iss
    child.syn_retries = r.retries
    child.counts.segments_out = r.sent
    child.counts.timeouts = r.retries
    child.counts.timeout_episodes = 1 if r.retries else 0
    child.retransmits = r.sent - 1 if r.sent else 0
    if r.sent == 1 and not r.flags & RQ_ACKED:         # who was made to wait says nothing of the path
        child.flags |= TF_RTT_TIMING
        child.rtt_seq = r.iss
        child.rtt_time_ns = r.sent_ns


cdef void connection_options(tcb_t *tcb, const segment_t *seg, uint32_t link_mss) noexcept nogil:
    """What the peer's SYN offers, against what we do."""
    cdef tcp_t *tcp = tcb.tcp
    cdef uint32_t mss = seg.mss if seg.mss else 536
    if mss < tcp.config.min_snd_mss:
        mss = tcp.config.min_snd_mss       # against amplification by tiny segments (CVE-2019-11479)
    tcb.peer_mss = mss
    if tcb.settings.user_mss and tcb.settings.user_mss < mss:
        mss = tcb.settings.user_mss
    tcb.mss = mss if mss < link_mss else link_mss
    mtu_start(tcb)
    if seg.has_ts and tcp.config.timestamps:
        tcb.flags |= TF_TS_OK
        tcb.ts_recent = seg.tsval
        tcb.ts_recent_ns = tcp.now_ns
    if seg.sack_permitted and tcp.config.sack:
        tcb.flags |= TF_SACK_OK
    if seg.wscale != 255 and tcp.config.window_scaling:
        tcb.flags |= TF_WS_OK
        tcb.snd_wscale = seg.wscale
    else:
        tcb.snd_wscale = 0
        tcb.rcv_wscale = 0


cdef void connection_established(tcb_t *tcb) noexcept nogil:
    """Both SYNs are acknowledged: congestion control starts, the application is told."""
    cdef tcp_t *tcp = tcb.tcp
    tcb.state = ESTABLISHED
    tcb.retries = 0
    tcb.last_data_ns = tcb.last_ack_ns = tcp.now_ns    # idle times count from here
    if tcb.timeouts_since_ns:
        account_timeouts_over(tcb)
    tcb.cc.mss = tcb.mss - 12 if tcb.flags & TF_TS_OK else tcb.mss
    # RFC 6928; one segment when the SYN was lost (RFC 5681 section 3.1)
    congestion_start(tcb, tcb.cc.mss if tcb.syn_retries else tcp.config.initial_cwnd_segments * tcb.cc.mss)
    tcb.rtx_deadline = 0
    tcb.state_deadline = 0
    tcb.rtx_nxt = tcb.snd_nxt
    tcb.snd_small = tcb.snd_una
    tcb.burst_seq = tcb.snd_una
    tcb.tune_seq = tcb.rcv_read
    tcb.tune_ns = tcp.now_ns
    if tcb.sock.flags & SF_KEEPALIVE:
        keepalive_start(tcb)
    sock_event(&tcp.events, &tcb.sock, EVENT_OUT)


cdef void keepalive_start(tcb_t *tcb) noexcept nogil:
    tcb.keepalive_probes = 0
    tcb.keepalive_deadline = tcb.tcp.now_ns + keepalive_idle_ns(tcb)
    timer_update(tcb)


cdef void adopt_orphan(tcb_t *tcb) noexcept nogil:
    if tcb.modes & TM_ORPHAN:
        tcb.modes &= ~TM_ORPHAN
        tcb.tcp.orphans -= 1


cdef void leave(tcb_t *tcb) noexcept nogil:
    """Out of every list of TCP, CLOSED; the stack frees it when no handle is left."""
    cdef tcp_t *tcp = tcb.tcp
    fast_open_over(tcb, False)
    fast_open_ended(tcb)
    listener_forget(tcb)
    adopt_orphan(tcb)
    congestion_stop(tcb)
    tcb.state = CLOSED
    tcb.rtx_deadline = 0
    tcb.ack_deadline = 0
    tcb.state_deadline = 0
    tcb.keepalive_deadline = 0
    timer_remove(tcb)
    tcp.released(tcp.stack, tcb)


cdef void connection_abort(tcb_t *tcb, int32_t error, bint reset) noexcept nogil:
    """The connection is over, in error. Data in order that was acknowledged stays readable; nothing more is sent.

    reset: tell the peer (3.10.5: <SEQ=SND.NXT><CTL=RST,ACK>).
    """
    cdef tcp_t *tcp = tcb.tcp
    cdef bare_t *b
    if tcb.state == CLOSED:
        return
    if reset and tcb.state in (SYN_RCVD, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT) and bare_reserve(tcp) == 0:
        b = &tcp.bare[tcp.bare_count]
        tcp.bare_count += 1
        memset(b, 0, sizeof(bare_t))
        b.src = tcb.local
        b.dst = tcb.remote
        b.sport = tcb.lport
        b.dport = tcb.rport
        b.seq = tcb.snd_nxt
        b.ack = tcb.rcv_nxt
        b.flags = RST | ACK
        b.wnd = 0
        b.ecn = 0
        b.has_ts = (tcb.flags & TF_TS_OK) != 0
        b.tsval = timestamp_now(tcb)
        b.tsecr = tcb.ts_recent
        b.interface = tcb.route_interface
        tcp.counters.tcp_resets_out += 1
    if tcb.state in (SYN_SENT, SYN_RCVD):
        tcp.counters.tcp_attempt_fails += 1
    else:
        tcp.counters.tcp_established_resets += 1
    if error:
        tcb.sock.error = error
    leave(tcb)
    if not tcb.sock.flags & SF_ORPHAN:
        sock_event(&tcp.events, &tcb.sock, EVENT_IN | EVENT_OUT | EVENT_ERR | EVENT_HUP)


cdef void connection_finished(tcb_t *tcb) noexcept nogil:
    """LAST-ACK was acknowledged: nothing more to say on either side."""
    leave(tcb)
    if not tcb.sock.flags & SF_ORPHAN:
        sock_event(&tcb.tcp.events, &tcb.sock, EVENT_IN | EVENT_OUT | EVENT_HUP)


cdef void connection_time_wait(tcb_t *tcb) noexcept nogil:
    """A small record answers late segments from here on (3.6.1); the TCB is only the application's handle now."""
    cdef tcp_t *tcp = tcb.tcp
    cdef bare_t *b
    if tcb.flags & TF_ACK_NOW and bare_reserve(tcp) == 0:
        b = &tcp.bare[tcp.bare_count]
        tcp.bare_count += 1
        memset(b, 0, sizeof(bare_t))
        b.src = tcb.local
        b.dst = tcb.remote
        b.sport = tcb.lport
        b.dport = tcb.rport
        b.seq = tcb.snd_nxt
        b.ack = tcb.rcv_nxt
        b.flags = ACK | ecn_ack_flags(tcb)
        b.ecn = ecn_ack_codepoint(tcb)
        b.wnd = receive_window_field(tcb, False)
        b.has_ts = (tcb.flags & TF_TS_OK) != 0
        b.tsval = timestamp_now(tcb)
        b.tsecr = tcb.ts_recent
        b.interface = tcb.route_interface
        tcb.flags &= ~TF_ACK_NOW
    adopt_orphan(tcb)
    congestion_stop(tcb)
    tcb.state = TIME_WAIT
    tcp.counters.tcp_time_wait += 1
    tcp.to_time_wait(tcp.stack, tcb)
    tcb.rtx_deadline = 0
    tcb.ack_deadline = 0
    tcb.state_deadline = 0
    tcb.keepalive_deadline = 0
    timer_remove(tcb)
    if tcb.sock.flags & SF_ORPHAN:
        tcb.state = CLOSED
        tcp.released(tcp.stack, tcb)
    else:
        sock_event(&tcp.events, &tcb.sock, EVENT_IN | EVENT_OUT | EVENT_HUP)


cdef void connection_shutdown_write(tcb_t *tcb) noexcept nogil:
    """No more data from the application: a FIN follows the last byte (3.10.4)."""
    if tcb.flags & TF_FIN_QUEUED:
        return
    if tcb.state == ESTABLISHED:
        tcb.state = FIN_WAIT_1
    elif tcb.state == CLOSE_WAIT:
        tcb.state = LAST_ACK
    elif tcb.state != SYN_RCVD:            # there the FIN waits for the handshake to end
        return
    tcb.flags |= TF_FIN_QUEUED
    want_output(tcb)


cdef void connection_close(tcb_t *tcb) noexcept nogil:
    """The application lets go of the socket. Data it sent is still delivered, unless data it never read is left
    (RFC 2525 section 2.17: then the peer must hear a reset) or SO_LINGER says zero seconds."""
    cdef tcp_t *tcp = tcb.tcp
    cdef uint8_t state = tcb.state
    tcb.sock.flags |= SF_ORPHAN
    tcb.lent = NULL
    if state == LISTEN:
        listener_close(tcb)
        return
    if state == CLOSED or state == TIME_WAIT:
        tcb.state = CLOSED
        tcp.released(tcp.stack, tcb)
        return
    if state == SYN_SENT:
        connection_abort(tcb, 0, False)
        return
    if (tcb.flags & TF_LINGER and tcb.settings.linger_s == 0) or receive_end(tcb) != tcb.rcv_read:
        connection_abort(tcb, 0, True)
        return
    connection_shutdown_write(tcb)
    tcb.modes |= TM_ORPHAN
    tcp.orphans += 1
    if tcp.orphans > tcp.config.max_orphans:
        connection_abort(tcb, 0, True)     # nobody waits for it, and there are too many such
        return
    if tcb.state == FIN_WAIT_2:
        tcb.state_deadline = tcp.now_ns + fin_timeout_ns(tcb)
        timer_update(tcb)


cdef uint32_t receive_space(const tcb_t *tcb) noexcept nogil:
    """What the window may say: the receive buffer less what the application has not read."""
    cdef uint32_t held = tcb.rcv_nxt - tcb.rcv_read, space = tcb.rcv_wanted - held if held < tcb.rcv_wanted else 0
    return tcb.settings.window_clamp if tcb.settings.window_clamp and space > tcb.settings.window_clamp else space


cdef void connection_consumed(tcb_t *tcb) noexcept nogil:
    """The application took data: say so when the window can grow by enough (RFC 9293 section 3.8.6.2.2)."""
    cdef uint32_t free_bytes, offered, threshold
    if tcb.state < ESTABLISHED or tcb.state > FIN_WAIT_2 or tcb.flags & TF_FIN_RECEIVED:
        return
    receive_tune(tcb)
    free_bytes = receive_space(tcb)
    offered = tcb.rcv_adv - tcb.rcv_nxt
    if free_bytes > <uint32_t> 65535 << tcb.rcv_wscale:
        free_bytes = <uint32_t> 65535 << tcb.rcv_wscale      # more the field cannot say
    threshold = tcb.rcv_wanted // 2
    if offered < 2 * tcb.mss and tcb.mss < threshold:
        threshold = tcb.mss                # the peer may be waiting for this
    elif tcb.rcv_wanted // 4 < threshold:
        threshold = tcb.rcv_wanted // 4
    if free_bytes >= offered + threshold:
        tcb.flags |= TF_ACK_NOW
        want_output(tcb)


cdef uint16_t receive_window_field(tcb_t *tcb, bint syn) noexcept nogil:
    """The window field, by which ``rcv_adv`` moves: never to the left, and to the right only by enough (RFC 9293 section 3.8.6.2.2)."""
    cdef uint32_t space = receive_space(tcb)
    cdef uint32_t offered, window, step, field
    if tcb.state == SYN_SENT:              # nobody is heard yet: rcv_adv is how much, not up to where
        field = space if space < 65535 else 65535
        if field > tcb.rcv_adv:
            tcb.rcv_adv = field
        return <uint16_t> field
    offered = tcb.rcv_adv - tcb.rcv_nxt if seq_gt(tcb.rcv_adv, tcb.rcv_nxt) else 0
    step = tcb.rcv_wanted // 2
    if tcb.mss < step:
        step = tcb.mss
    window = space if space >= offered + step else offered
    if syn:                                # never scaled there (RFC 7323 section 2.2)
        field = window if window < 65535 else 65535
        if seq_gt(tcb.rcv_nxt + field, tcb.rcv_adv):
            tcb.rcv_adv = tcb.rcv_nxt + field
        return <uint16_t> field
    field = window >> tcb.rcv_wscale
    if (field << tcb.rcv_wscale) < offered:
        field += 1
    if field > 65535:
        field = 65535
    if seq_gt(tcb.rcv_nxt + (field << tcb.rcv_wscale), tcb.rcv_adv):
        tcb.rcv_adv = tcb.rcv_nxt + (field << tcb.rcv_wscale)
    return <uint16_t> field


cdef uint32_t connection_poll(const tcb_t *tcb) noexcept nogil:
    """What poll(2) would say."""
    cdef uint32_t mask = 0
    if tcb.state == LISTEN:
        return EVENT_IN if tcb.listener.accept_count else 0
    if tcb.sock.error:
        mask |= EVENT_ERR | EVENT_IN | EVENT_OUT
    if tcb.state == CLOSED or tcb.state == TIME_WAIT:
        return mask | EVENT_IN | EVENT_OUT | EVENT_HUP | EVENT_RDHUP
    if tcb.state == SYN_SENT or (tcb.state == SYN_RCVD and not tcb.modes & TM_FAST_OPEN):
        return mask | EVENT_OUT if tcb.fast_open & FO_DEFERRED else mask
    if receive_end(tcb) != tcb.rcv_read or tcb.lent_filled or tcb.flags & (TF_FIN_RECEIVED | TF_SHUT_RD):
        mask |= EVENT_IN
    if tcb.flags & (TF_FIN_RECEIVED | TF_SHUT_RD):
        mask |= EVENT_RDHUP
    if tcb.flags & TF_FIN_QUEUED:
        mask |= EVENT_OUT                  # a write would not block: it fails with EPIPE
        if tcb.flags & (TF_FIN_RECEIVED | TF_SHUT_RD):
            mask |= EVENT_HUP
    elif send_writable(tcb):
        mask |= EVENT_OUT
    return mask


cdef void lent_drain(tcb_t *tcb) noexcept nogil:
    """Readable bytes into the lent buffer."""
    if tcb.lent != NULL and tcb.lent_filled < tcb.lent_size:
        tcb.lent_filled += receive_take(tcb, tcb.lent + tcb.lent_filled, tcb.lent_size - tcb.lent_filled, False)


# --- segments without a connection -----------------------------------------------------------------------------------

cdef int bare_reserve(tcp_t *tcp) noexcept nogil:
    """Room for one segment of our own. What strangers provoke stops at MAX_BARE; what our connections owe does not."""
    cdef bare_t *grown
    if tcp.bare_count < tcp.bare_capacity:
        return 0
    grown = <bare_t *> realloc(tcp.bare, 2 * tcp.bare_capacity * sizeof(bare_t))
    if grown == NULL:
        return -1
    tcp.bare = grown
    tcp.bare_capacity *= 2
    return 0


cdef void queue_bare(tcp_t *tcp, const segment_t *seg, uint32_t seq, uint32_t ack, uint8_t flags) noexcept nogil:
    """A segment without payload in answer to *seg*, sent at the end of the pass. More than MAX_BARE a pass are dropped,
    which limits what a flood of strays can make us send."""
    cdef bare_t *b
    if tcp.bare_count >= MAX_BARE or seg.broadcast:
        return
    b = &tcp.bare[tcp.bare_count]
    tcp.bare_count += 1
    memset(b, 0, sizeof(bare_t))
    b.src = seg.dst
    b.dst = seg.src
    b.sport = seg.dport
    b.dport = seg.sport
    b.seq = seq
    b.ack = ack
    b.flags = flags
    b.interface = seg.interface
    if flags & RST:
        tcp.counters.tcp_resets_out += 1
