"""struct tcp_info (linux/tcp.h, 280 bytes) of a connection: computed when asked, so that nothing is kept for it that TCP
does not need or `netstack.tcp.accounting` does not count.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from netstack.clock cimport NS_PER_MS
from netstack.sock cimport SOCK_TCP
from netstack.stack.core cimport stack_link_mss
from netstack.tcp.accounting cimport LIMIT_BUSY, LIMIT_RWND, LIMIT_SNDBUF, limited_ns
from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport (
    CE, CLOSED, CLOSE_WAIT, CLOSING, ECN_OFF, ECT_0, ECT_1, EF_SEEN, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, FO_ACKED, FO_CHILD, LAST_ACK, LISTEN, SYN_RCVD, SYN_SENT,
    TF_FIN_RECEIVED, TF_FIN_SENT, TF_PASSIVE, TF_PERSIST, TF_SACK_OK, TF_TS_OK,
    TF_WS_OK, data_end, send_segment_limit,
)
from netstack.udp.endpoint cimport udp_endpoint_t

cdef enum:                       # options
    OPT_TIMESTAMPS = 1
    OPT_SACK = 2
    OPT_WSCALE = 4
    OPT_ECN = 8
    OPT_ECN_SEEN = 16
    OPT_SYN_DATA = 32            # the SYN's data was acknowledged, or taken
    OPT_FAST_OPEN_CHILD = 128

cdef enum:
    INFINITE_SSTHRESH = 0x7fffffff
    MSS_DEFAULT = 536            # RFC 9293 section 3.7.1


cdef uint8_t linux_state(uint8_t state) noexcept nogil:
    if state == CLOSED:
        return 7
    if state == LISTEN:
        return 10
    if state == SYN_SENT:
        return 2
    if state == SYN_RCVD:
        return 3
    if state == ESTABLISHED:
        return 1
    if state == FIN_WAIT_1:
        return 4
    if state == FIN_WAIT_2:
        return 5
    if state == CLOSE_WAIT:
        return 8
    if state == CLOSING:
        return 11
    if state == LAST_ACK:
        return 9
    return 6


cdef inline uint32_t clamp(uint64_t v) noexcept nogil:
    return <uint32_t> v if v < <uint64_t> 1 << 32 else ~<uint32_t> 0


cdef inline uint32_t microseconds(int64_t ns) noexcept nogil:
    """At least 1 of what is not 0: a round trip of 300 ns is a round trip."""
    return clamp(<uint64_t> ((ns + 999) // 1000 if ns < 1000 else ns // 1000)) if ns > 0 else 0


cdef inline uint32_t milliseconds_since(int64_t then, int64_t now) noexcept nogil:
    return clamp(<uint64_t> ((now - then) // NS_PER_MS)) if then and now > then else 0


cdef uint8_t ca_state(const tcb_t *tcb) noexcept nogil:
    return tcb.rec.state


cdef void fill_sender(const tcb_t *tcb, tcp_info_t *info) noexcept nogil:
    """The scoreboard, the window and the rates."""
    cdef uint32_t mss = send_segment_limit(tcb), flight = tcb.snd_nxt - tcb.snd_una
    cdef bint fin_acked = tcb.flags & TF_FIN_SENT and flight == 0
    info.ca_state = ca_state(tcb)
    info.backoff = tcb.retries
    if tcb.flags & TF_PERSIST:
        info.probes = tcb.retries
    else:
        info.retransmits = tcb.retries
        info.probes = tcb.keepalive_probes
    info.snd_mss = mss
    info.unacked = tcb.rec.sent_count if tcb.state >= ESTABLISHED else flight
    info.snd_ssthresh = INFINITE_SSTHRESH
    if tcb.cc.ssthresh < <uint32_t> 1 << 30:
        info.snd_ssthresh = tcb.cc.ssthresh // (tcb.cc.mss if tcb.cc.mss else 1)
    info.sacked = tcb.rec.sacked_out
    info.lost = tcb.rec.lost_out
    info.retrans = tcb.rec.again_out
    info.dsack_dups = tcb.hist.dsack_seen
    info.reord_seen = tcb.hist.reordering_seen
    info.total_retrans = clamp(tcb.retransmits)
    info.min_rtt = microseconds(tcb.cc.min_rtt_ns) if tcb.cc.min_rtt_ns else ~<uint32_t> 0
    if tcb.counts.rate_interval_ns > 0:
        info.delivery_rate = <uint64_t> (<double> tcb.counts.rate_delivered * 1e9 / <double> tcb.counts.rate_interval_ns)
        info.rate_flags |= tcb.counts.rate_app_limited & 1
    # As Linux counts: a SYN of ours and a FIN are a byte each.
    info.bytes_acked = tcb.bytes_sent + (0 if tcb.flags & TF_PASSIVE or tcb.state == SYN_SENT else 1)
    if flight and tcb.state >= ESTABLISHED:
        info.bytes_acked -= flight - (1 if tcb.flags & TF_FIN_SENT else 0)
    elif fin_acked:
        info.bytes_acked += 1
    info.bytes_sent = tcb.bytes_sent + tcb.counts.bytes_resent
    info.bytes_retrans = tcb.counts.bytes_resent
    info.segs_out = tcb.counts.segments_out
    info.data_segs_out = tcb.counts.data_segments_out
    if tcb.snd_len and seq_gt(data_end(tcb), tcb.snd_nxt):
        info.notsent_bytes = data_end(tcb) - tcb.snd_nxt
    info.delivered = tcb.counts.segments_acked + tcb.rec.sacked_out + (0 if tcb.state == SYN_SENT else 1)
    info.rwnd_limited = limited_ns(tcb, LIMIT_RWND) // 1000
    info.sndbuf_limited = limited_ns(tcb, LIMIT_SNDBUF) // 1000
    info.busy_time = limited_ns(tcb, LIMIT_BUSY) // 1000 + info.rwnd_limited + info.sndbuf_limited
    info.snd_wnd = tcb.snd_wnd
    info.total_rto = <uint16_t> (tcb.counts.timeouts if tcb.counts.timeouts < 0xffff else 0xffff)
    info.total_rto_recoveries = <uint16_t> (
        tcb.counts.timeout_episodes if tcb.counts.timeout_episodes < 0xffff else 0xffff)
    info.total_rto_time = clamp(<uint64_t> (tcb.counts.timeouts_ns // NS_PER_MS))
    if tcb.timeouts_since_ns:
        info.total_rto_time += milliseconds_since(tcb.timeouts_since_ns, tcb.tcp.now_ns)


cdef void fill_receiver(const tcb_t *tcb, tcp_info_t *info) noexcept nogil:
    info.rcv_mss = tcb.counts.largest_in if tcb.counts.largest_in > MSS_DEFAULT else MSS_DEFAULT
    if tcb.counts.data_segments_in:
        info.ato = clamp(<uint64_t> tcb.tcp.config.delayed_ack_ms * 1000)
    info.rcv_ssthresh = tcb.rcv_wanted
    info.rcv_rtt = microseconds(tcb.rcv_rtt_ns)
    info.rcv_space = tcb.tune_space if tcb.tune_space else 10 * tcb.mss
    info.bytes_received = tcb.bytes_received + (1 if tcb.flags & TF_FIN_RECEIVED else 0)
    info.segs_in = tcb.counts.segments_in
    info.data_segs_in = tcb.counts.data_segments_in
    info.rcv_ooopack = tcb.counts.out_of_order
    info.rcv_wnd = tcb.rcv_adv - tcb.rcv_nxt if seq_gt(tcb.rcv_adv, tcb.rcv_nxt) else 0


cdef void fill_ecn(const tcb_t *tcb, tcp_info_t *info) noexcept nogil:
    if tcb.ecn_mode != ECN_OFF:
        info.options |= OPT_ECN
        if tcb.ecn.flags & EF_SEEN:
            info.options |= OPT_ECN_SEEN
    info.ecn_flags = tcb.ecn_mode | <uint32_t> tcb.ecn.option_seen << 2 | <uint32_t> tcb.ecn.fail << 4
    info.delivered_ce = tcb.ecn.delivered_ce
    info.received_ce = tcb.ecn.received_ce
    info.delivered_e1_bytes = tcb.ecn.delivered_bytes[ECT_1 - 1]
    info.delivered_e0_bytes = tcb.ecn.delivered_bytes[ECT_0 - 1]
    info.delivered_ce_bytes = tcb.ecn.delivered_bytes[CE - 1]
    info.received_e1_bytes = tcb.ecn.received_bytes[ECT_1 - 1]
    info.received_e0_bytes = tcb.ecn.received_bytes[ECT_0 - 1]
    info.received_ce_bytes = tcb.ecn.received_bytes[CE - 1]


cdef void tcp_info_fill(const stack_t *stack, const tcb_t *tcb, tcp_info_t *info) noexcept nogil:
    cdef int64_t now = stack.tcp.now_ns
    memset(info, 0, sizeof(tcp_info_t))
    info.state = linux_state(tcb.state)
    info.pacing_rate = tcb.cc.pacing_rate if tcb.cc.pacing_rate else ~<uint64_t> 0
    info.max_pacing_rate = tcb.settings.max_pacing_rate if tcb.settings.max_pacing_rate else ~<uint64_t> 0
    info.reordering = tcb.hist.reordering
    info.snd_cwnd = tcb.cc.cwnd // tcb.cc.mss if tcb.cc.mss else tcb.tcp.config.initial_cwnd_segments
    if tcb.state == LISTEN:                            # as Linux: the accept queue, and its limit
        info.unacked = tcb.listener.accept_count
        info.sacked = tcb.listener.backlog
        return
    if tcb.flags & TF_TS_OK:
        info.options |= OPT_TIMESTAMPS
    if tcb.flags & TF_SACK_OK:
        info.options |= OPT_SACK
    if tcb.flags & TF_WS_OK:
        info.options |= OPT_WSCALE
        info.wscale = tcb.snd_wscale | tcb.rcv_wscale << 4
    if tcb.fast_open & FO_ACKED:
        info.options |= OPT_SYN_DATA
    if tcb.fast_open & FO_CHILD:
        info.options |= OPT_FAST_OPEN_CHILD
    info.rate_flags |= tcb.fast_open_fail << 1
    info.rto = microseconds(tcb.rto_ns)
    info.rtt = microseconds(tcb.srtt_ns)
    info.rttvar = microseconds(tcb.rttvar_ns)
    info.last_data_sent = milliseconds_since(tcb.last_send_ns, now)
    info.last_data_recv = milliseconds_since(tcb.last_data_ns, now)
    info.last_ack_recv = milliseconds_since(tcb.last_ack_ns, now)
    if tcb.route_interface < stack.interface_count:
        info.pmtu = tcb.pmtu if tcb.pmtu else stack.interfaces[tcb.route_interface].mtu
        info.advmss = stack_link_mss(stack, tcb)
        if tcb.settings.user_mss and tcb.settings.user_mss < info.advmss:
            info.advmss = tcb.settings.user_mss
        if tcb.flags & TF_TS_OK:
            info.advmss -= 12
    fill_sender(tcb, info)
    fill_receiver(tcb, info)
    fill_ecn(tcb, info)


cdef uint32_t cc_info_fill(const tcb_t *tcb, uint8_t *out) noexcept nogil:
    if tcb.cc_ops.info == NULL or tcb.state < ESTABLISHED:
        return 0
    memset(out, 0, CC_INFO_BYTES)
    return tcb.cc_ops.info(&tcb.cc, out)


cdef void meminfo_fill(const sock_t *sock, uint32_t *words) noexcept nogil:
    """rmem_alloc, rcvbuf, wmem_alloc, sndbuf, fwd_alloc, wmem_queued, optmem, backlog, drops: bytes, drops packets."""
    cdef const tcb_t *tcb = <const tcb_t *> sock
    cdef const udp_endpoint_t *ep = <const udp_endpoint_t *> sock
    cdef uint32_t i
    memset(words, 0, MEMINFO_WORDS * sizeof(uint32_t))
    if sock.kind == SOCK_TCP:
        words[0] = tcb.rcv_nxt - tcb.rcv_read - (1 if tcb.flags & TF_FIN_RECEIVED else 0)
        for i in range(tcb.range_count):
            words[0] += tcb.ranges[i].end - tcb.ranges[i].start
        words[1] = tcb.rcv_wanted
        words[3] = tcb.snd_wanted
        words[5] = tcb.snd_len
        words[4] = tcb.rcv_cap + tcb.snd_cap
        words[4] = words[4] - words[0] - words[5] if words[4] > words[0] + words[5] else 0
    else:
        words[0] = ep.queued_bytes
        words[1] = ep.rcvbuf
        words[3] = ep.sndbuf
        words[8] = ep.dropped


def layout():
    """``{name: (offset, size)}`` of the 280 bytes; names as in linux/tcp.h without ``tcpi_``."""
    cdef tcp_info_t s
    cdef char *base = <char *> &s
    assert sizeof(tcp_info_t) == TCP_INFO_BYTES
    return {
        "state": (<char *> &s.state - base, sizeof(s.state)),
        "ca_state": (<char *> &s.ca_state - base, sizeof(s.ca_state)),
        "retransmits": (<char *> &s.retransmits - base, sizeof(s.retransmits)),
        "probes": (<char *> &s.probes - base, sizeof(s.probes)),
        "backoff": (<char *> &s.backoff - base, sizeof(s.backoff)),
        "options": (<char *> &s.options - base, sizeof(s.options)),
        "wscale": (<char *> &s.wscale - base, sizeof(s.wscale)),
        "rate_flags": (<char *> &s.rate_flags - base, sizeof(s.rate_flags)),
        "rto": (<char *> &s.rto - base, sizeof(s.rto)),
        "ato": (<char *> &s.ato - base, sizeof(s.ato)),
        "snd_mss": (<char *> &s.snd_mss - base, sizeof(s.snd_mss)),
        "rcv_mss": (<char *> &s.rcv_mss - base, sizeof(s.rcv_mss)),
        "unacked": (<char *> &s.unacked - base, sizeof(s.unacked)),
        "sacked": (<char *> &s.sacked - base, sizeof(s.sacked)),
        "lost": (<char *> &s.lost - base, sizeof(s.lost)),
        "retrans": (<char *> &s.retrans - base, sizeof(s.retrans)),
        "fackets": (<char *> &s.fackets - base, sizeof(s.fackets)),
        "last_data_sent": (<char *> &s.last_data_sent - base, sizeof(s.last_data_sent)),
        "last_ack_sent": (<char *> &s.last_ack_sent - base, sizeof(s.last_ack_sent)),
        "last_data_recv": (<char *> &s.last_data_recv - base, sizeof(s.last_data_recv)),
        "last_ack_recv": (<char *> &s.last_ack_recv - base, sizeof(s.last_ack_recv)),
        "pmtu": (<char *> &s.pmtu - base, sizeof(s.pmtu)),
        "rcv_ssthresh": (<char *> &s.rcv_ssthresh - base, sizeof(s.rcv_ssthresh)),
        "rtt": (<char *> &s.rtt - base, sizeof(s.rtt)),
        "rttvar": (<char *> &s.rttvar - base, sizeof(s.rttvar)),
        "snd_ssthresh": (<char *> &s.snd_ssthresh - base, sizeof(s.snd_ssthresh)),
        "snd_cwnd": (<char *> &s.snd_cwnd - base, sizeof(s.snd_cwnd)),
        "advmss": (<char *> &s.advmss - base, sizeof(s.advmss)),
        "reordering": (<char *> &s.reordering - base, sizeof(s.reordering)),
        "rcv_rtt": (<char *> &s.rcv_rtt - base, sizeof(s.rcv_rtt)),
        "rcv_space": (<char *> &s.rcv_space - base, sizeof(s.rcv_space)),
        "total_retrans": (<char *> &s.total_retrans - base, sizeof(s.total_retrans)),
        "pacing_rate": (<char *> &s.pacing_rate - base, sizeof(s.pacing_rate)),
        "max_pacing_rate": (<char *> &s.max_pacing_rate - base, sizeof(s.max_pacing_rate)),
        "bytes_acked": (<char *> &s.bytes_acked - base, sizeof(s.bytes_acked)),
        "bytes_received": (<char *> &s.bytes_received - base, sizeof(s.bytes_received)),
        "segs_out": (<char *> &s.segs_out - base, sizeof(s.segs_out)),
        "segs_in": (<char *> &s.segs_in - base, sizeof(s.segs_in)),
        "notsent_bytes": (<char *> &s.notsent_bytes - base, sizeof(s.notsent_bytes)),
        "min_rtt": (<char *> &s.min_rtt - base, sizeof(s.min_rtt)),
        "data_segs_in": (<char *> &s.data_segs_in - base, sizeof(s.data_segs_in)),
        "data_segs_out": (<char *> &s.data_segs_out - base, sizeof(s.data_segs_out)),
        "delivery_rate": (<char *> &s.delivery_rate - base, sizeof(s.delivery_rate)),
        "busy_time": (<char *> &s.busy_time - base, sizeof(s.busy_time)),
        "rwnd_limited": (<char *> &s.rwnd_limited - base, sizeof(s.rwnd_limited)),
        "sndbuf_limited": (<char *> &s.sndbuf_limited - base, sizeof(s.sndbuf_limited)),
        "delivered": (<char *> &s.delivered - base, sizeof(s.delivered)),
        "delivered_ce": (<char *> &s.delivered_ce - base, sizeof(s.delivered_ce)),
        "bytes_sent": (<char *> &s.bytes_sent - base, sizeof(s.bytes_sent)),
        "bytes_retrans": (<char *> &s.bytes_retrans - base, sizeof(s.bytes_retrans)),
        "dsack_dups": (<char *> &s.dsack_dups - base, sizeof(s.dsack_dups)),
        "reord_seen": (<char *> &s.reord_seen - base, sizeof(s.reord_seen)),
        "rcv_ooopack": (<char *> &s.rcv_ooopack - base, sizeof(s.rcv_ooopack)),
        "snd_wnd": (<char *> &s.snd_wnd - base, sizeof(s.snd_wnd)),
        "rcv_wnd": (<char *> &s.rcv_wnd - base, sizeof(s.rcv_wnd)),
        "rehash": (<char *> &s.rehash - base, sizeof(s.rehash)),
        "total_rto": (<char *> &s.total_rto - base, sizeof(s.total_rto)),
        "total_rto_recoveries": (<char *> &s.total_rto_recoveries - base, sizeof(s.total_rto_recoveries)),
        "total_rto_time": (<char *> &s.total_rto_time - base, sizeof(s.total_rto_time)),
        "received_ce": (<char *> &s.received_ce - base, sizeof(s.received_ce)),
        "delivered_e1_bytes": (<char *> &s.delivered_e1_bytes - base, sizeof(s.delivered_e1_bytes)),
        "delivered_e0_bytes": (<char *> &s.delivered_e0_bytes - base, sizeof(s.delivered_e0_bytes)),
        "delivered_ce_bytes": (<char *> &s.delivered_ce_bytes - base, sizeof(s.delivered_ce_bytes)),
        "received_e1_bytes": (<char *> &s.received_e1_bytes - base, sizeof(s.received_e1_bytes)),
        "received_e0_bytes": (<char *> &s.received_e0_bytes - base, sizeof(s.received_e0_bytes)),
        "received_ce_bytes": (<char *> &s.received_ce_bytes - base, sizeof(s.received_ce_bytes)),
        "ecn_flags": (<char *> &s.ecn_flags - base, sizeof(s.ecn_flags)),
    }
