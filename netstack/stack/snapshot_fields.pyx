"""What a snapshot has of each structure. A field that is not here keeps its default in a restored stack.

A table is a list of (name, offset, size, is it a time). Names are what versions know fields by: one that changes its
meaning gets a new name.
"""

from netstack.demux cimport tw_t
from netstack.ip.shared cimport ip_t
from netstack.tcp.tcb cimport (
    ecn_t, fast_open_cache_t, listener_t, recovery_t, request_t, settings_t, tcb_t, tcp_config_t,
)
from netstack.udp.endpoint cimport udp_endpoint_t


cdef list tcb_fields():
    cdef tcb_t s
    cdef char *base = <char *> &s
    return [
        ("sock.id", <char *> &s.sock.id - base, sizeof(s.sock.id), False),
        ("sock.kind", <char *> &s.sock.kind - base, sizeof(s.sock.kind), False),
        ("sock.flags", <char *> &s.sock.flags - base, sizeof(s.sock.flags), False),
        ("sock.error", <char *> &s.sock.error - base, sizeof(s.sock.error), False),
        ("sock.device", <char *> &s.sock.device - base, sizeof(s.sock.device), False),
        ("flags", <char *> &s.flags - base, sizeof(s.flags), False),
        ("state", <char *> &s.state - base, sizeof(s.state), False),
        ("snd_wscale", <char *> &s.snd_wscale - base, sizeof(s.snd_wscale), False),
        ("rcv_wscale", <char *> &s.rcv_wscale - base, sizeof(s.rcv_wscale), False),
        ("snd_una", <char *> &s.snd_una - base, sizeof(s.snd_una), False),
        ("snd_nxt", <char *> &s.snd_nxt - base, sizeof(s.snd_nxt), False),
        ("rtx_nxt", <char *> &s.rtx_nxt - base, sizeof(s.rtx_nxt), False),
        ("snd_wnd", <char *> &s.snd_wnd - base, sizeof(s.snd_wnd), False),
        ("snd_wl1", <char *> &s.snd_wl1 - base, sizeof(s.snd_wl1), False),
        ("snd_wl2", <char *> &s.snd_wl2 - base, sizeof(s.snd_wl2), False),
        ("max_snd_wnd", <char *> &s.max_snd_wnd - base, sizeof(s.max_snd_wnd), False),
        ("rcv_nxt", <char *> &s.rcv_nxt - base, sizeof(s.rcv_nxt), False),
        ("rcv_adv", <char *> &s.rcv_adv - base, sizeof(s.rcv_adv), False),
        ("rcv_acked", <char *> &s.rcv_acked - base, sizeof(s.rcv_acked), False),
        ("rcv_read", <char *> &s.rcv_read - base, sizeof(s.rcv_read), False),
        ("ts_recent", <char *> &s.ts_recent - base, sizeof(s.ts_recent), False),
        ("mss", <char *> &s.mss - base, sizeof(s.mss), False),
        ("snd_len", <char *> &s.snd_len - base, sizeof(s.snd_len), False),
        ("ack_pending", <char *> &s.ack_pending - base, sizeof(s.ack_pending), False),
        ("snd_wanted", <char *> &s.snd_wanted - base, sizeof(s.snd_wanted), False),
        ("rcv_wanted", <char *> &s.rcv_wanted - base, sizeof(s.rcv_wanted), False),
        ("cc.cwnd", <char *> &s.cc.cwnd - base, sizeof(s.cc.cwnd), False),
        ("cc.ssthresh", <char *> &s.cc.ssthresh - base, sizeof(s.cc.ssthresh), False),
        ("cc.mss", <char *> &s.cc.mss - base, sizeof(s.cc.mss), False),
        ("cc.cwnd_clamp", <char *> &s.cc.cwnd_clamp - base, sizeof(s.cc.cwnd_clamp), False),
        ("cc.pacing_rate", <char *> &s.cc.pacing_rate - base, sizeof(s.cc.pacing_rate), False),
        ("cc.delivered", <char *> &s.cc.delivered - base, sizeof(s.cc.delivered), False),
        ("cc.min_rtt_ns", <char *> &s.cc.min_rtt_ns - base, sizeof(s.cc.min_rtt_ns), False),
        ("cc.srtt_ns", <char *> &s.cc.srtt_ns - base, sizeof(s.cc.srtt_ns), False),
        ("cc.private_state", <char *> &s.cc.private_state - base, sizeof(s.cc.private_state), False),
        ("rtx_deadline", <char *> &s.rtx_deadline - base, sizeof(s.rtx_deadline), True),
        ("ack_deadline", <char *> &s.ack_deadline - base, sizeof(s.ack_deadline), True),
        ("local", <char *> &s.local - base, sizeof(s.local), False),
        ("remote", <char *> &s.remote - base, sizeof(s.remote), False),
        ("lport", <char *> &s.lport - base, sizeof(s.lport), False),
        ("rport", <char *> &s.rport - base, sizeof(s.rport), False),
        ("hash", <char *> &s.hash - base, sizeof(s.hash), False),
        ("srtt_ns", <char *> &s.srtt_ns - base, sizeof(s.srtt_ns), False),
        ("rttvar_ns", <char *> &s.rttvar_ns - base, sizeof(s.rttvar_ns), False),
        ("rto_ns", <char *> &s.rto_ns - base, sizeof(s.rto_ns), False),
        ("rtt_time_ns", <char *> &s.rtt_time_ns - base, sizeof(s.rtt_time_ns), True),
        ("rtt_seq", <char *> &s.rtt_seq - base, sizeof(s.rtt_seq), False),
        ("ts_offset", <char *> &s.ts_offset - base, sizeof(s.ts_offset), False),
        ("ts_recent_ns", <char *> &s.ts_recent_ns - base, sizeof(s.ts_recent_ns), True),
        ("last_send_ns", <char *> &s.last_send_ns - base, sizeof(s.last_send_ns), True),
        ("last_receive_ns", <char *> &s.last_receive_ns - base, sizeof(s.last_receive_ns), True),
        ("state_deadline", <char *> &s.state_deadline - base, sizeof(s.state_deadline), True),
        ("keepalive_deadline", <char *> &s.keepalive_deadline - base, sizeof(s.keepalive_deadline), True),
        ("hist.reordering", <char *> &s.hist.reordering - base, sizeof(s.hist.reordering), False),
        ("hist.reordering_seen", <char *> &s.hist.reordering_seen - base, sizeof(s.hist.reordering_seen), False),
        ("hist.dsack_seen", <char *> &s.hist.dsack_seen - base, sizeof(s.hist.dsack_seen), False),
        ("hist.lost_ever", <char *> &s.hist.lost_ever - base, sizeof(s.hist.lost_ever), False),
        ("hist.app_limited", <char *> &s.hist.app_limited - base, sizeof(s.hist.app_limited), False),
        ("hist.rack_delivered", <char *> &s.hist.rack_delivered - base, sizeof(s.hist.rack_delivered), False),
        ("hist.min_rtt_at_ns", <char *> &s.hist.min_rtt_at_ns - base, sizeof(s.hist.min_rtt_at_ns), True),
        ("hist.rack_steps", <char *> &s.hist.rack_steps - base, sizeof(s.hist.rack_steps), False),
        ("hist.rack_persist", <char *> &s.hist.rack_persist - base, sizeof(s.hist.rack_persist), False),
        ("burst_seq", <char *> &s.burst_seq - base, sizeof(s.burst_seq), False),
        ("snd_small", <char *> &s.snd_small - base, sizeof(s.snd_small), False),
        ("iss", <char *> &s.iss - base, sizeof(s.iss), False),
        ("irs", <char *> &s.irs - base, sizeof(s.irs), False),
        ("fin_seq", <char *> &s.fin_seq - base, sizeof(s.fin_seq), False),
        ("ooo_acks", <char *> &s.ooo_acks - base, sizeof(s.ooo_acks), False),
        ("sack_recent", <char *> &s.sack_recent - base, sizeof(s.sack_recent), False),
        ("duplicate", <char *> &s.duplicate - base, sizeof(s.duplicate), False),
        ("retries", <char *> &s.retries - base, sizeof(s.retries), False),
        ("keepalive_probes", <char *> &s.keepalive_probes - base, sizeof(s.keepalive_probes), False),
        ("quickack", <char *> &s.quickack - base, sizeof(s.quickack), False),
        ("syn_retries", <char *> &s.syn_retries - base, sizeof(s.syn_retries), False),
        ("ttl", <char *> &s.ttl - base, sizeof(s.ttl), False),
        ("hops", <char *> &s.hops - base, sizeof(s.hops), False),
        ("tos", <char *> &s.tos - base, sizeof(s.tos), False),
        ("tclass", <char *> &s.tclass - base, sizeof(s.tclass), False),
        ("soft_error", <char *> &s.soft_error - base, sizeof(s.soft_error), False),
        ("challenge_count", <char *> &s.challenge_count - base, sizeof(s.challenge_count), False),
        ("challenge_ns", <char *> &s.challenge_ns - base, sizeof(s.challenge_ns), True),
        ("route_interface", <char *> &s.route_interface - base, sizeof(s.route_interface), False),
        ("peer_mss", <char *> &s.peer_mss - base, sizeof(s.peer_mss), False),
        ("next_hop", <char *> &s.next_hop - base, sizeof(s.next_hop), False),
        ("flow_label", <char *> &s.flow_label - base, sizeof(s.flow_label), False),
        ("cc_peak", <char *> &s.cc_peak - base, sizeof(s.cc_peak), False),
        ("pace_left", <char *> &s.pace_left - base, sizeof(s.pace_left), False),
        ("pace_at_ns", <char *> &s.pace_at_ns - base, sizeof(s.pace_at_ns), True),
        ("pace_deadline", <char *> &s.pace_deadline - base, sizeof(s.pace_deadline), True),
        ("cc_prior_cwnd", <char *> &s.cc_prior_cwnd - base, sizeof(s.cc_prior_cwnd), False),
        ("cc_prior_ssthresh", <char *> &s.cc_prior_ssthresh - base, sizeof(s.cc_prior_ssthresh), False),
        ("modes", <char *> &s.modes - base, sizeof(s.modes), False),
        ("snd_up", <char *> &s.snd_up - base, sizeof(s.snd_up), False),
        ("fast_open", <char *> &s.fast_open - base, sizeof(s.fast_open), False),
        ("fast_open_fail", <char *> &s.fast_open_fail - base, sizeof(s.fast_open_fail), False),
        ("fast_open_parent", <char *> &s.fast_open_parent - base, sizeof(s.fast_open_parent), False),
        ("mss_clamp", <char *> &s.mss_clamp - base, sizeof(s.mss_clamp), False),
        ("mtu_probing", <char *> &s.mtu_probing - base, sizeof(s.mtu_probing), False),
        ("pmtu", <char *> &s.pmtu - base, sizeof(s.pmtu), False),
        ("mtu_low", <char *> &s.mtu_low - base, sizeof(s.mtu_low), False),
        ("mtu_high", <char *> &s.mtu_high - base, sizeof(s.mtu_high), False),
        ("mtu_probe_size", <char *> &s.mtu_probe_size - base, sizeof(s.mtu_probe_size), False),
        ("mtu_probe_start", <char *> &s.mtu_probe_start - base, sizeof(s.mtu_probe_start), False),
        ("mtu_probe_end", <char *> &s.mtu_probe_end - base, sizeof(s.mtu_probe_end), False),
        ("mtu_probe_ns", <char *> &s.mtu_probe_ns - base, sizeof(s.mtu_probe_ns), True),
        ("pmtu_until_ns", <char *> &s.pmtu_until_ns - base, sizeof(s.pmtu_until_ns), True),
        ("tune_seq", <char *> &s.tune_seq - base, sizeof(s.tune_seq), False),
        ("tune_space", <char *> &s.tune_space - base, sizeof(s.tune_space), False),
        ("tune_tsecr", <char *> &s.tune_tsecr - base, sizeof(s.tune_tsecr), False),
        ("tune_ns", <char *> &s.tune_ns - base, sizeof(s.tune_ns), True),
        ("rcv_rtt_ns", <char *> &s.rcv_rtt_ns - base, sizeof(s.rcv_rtt_ns), False),
        ("bytes_sent", <char *> &s.bytes_sent - base, sizeof(s.bytes_sent), False),
        ("bytes_received", <char *> &s.bytes_received - base, sizeof(s.bytes_received), False),
        ("retransmits", <char *> &s.retransmits - base, sizeof(s.retransmits), False),
        ("last_data_ns", <char *> &s.last_data_ns - base, sizeof(s.last_data_ns), True),
        ("last_ack_ns", <char *> &s.last_ack_ns - base, sizeof(s.last_ack_ns), True),
        ("limited_since_ns", <char *> &s.limited_since_ns - base, sizeof(s.limited_since_ns), True),
        ("timeouts_since_ns", <char *> &s.timeouts_since_ns - base, sizeof(s.timeouts_since_ns), True),
        ("ecn_mode", <char *> &s.ecn_mode - base, sizeof(s.ecn_mode), False),
        ("predicted", <char *> &s.predicted - base, sizeof(s.predicted), False),
        ("counts", <char *> &s.counts - base, sizeof(s.counts), False),
    ]


cdef list settings_fields():
    cdef settings_t s
    cdef char *base = <char *> &s
    return [
        ("keepalive_idle_s", <char *> &s.keepalive_idle_s - base, sizeof(s.keepalive_idle_s), False),
        ("keepalive_interval_s", <char *> &s.keepalive_interval_s - base, sizeof(s.keepalive_interval_s), False),
        ("keepalive_count", <char *> &s.keepalive_count - base, sizeof(s.keepalive_count), False),
        ("defer_accept", <char *> &s.defer_accept - base, sizeof(s.defer_accept), False),
        ("fast_open_key_count", <char *> &s.fast_open_key_count - base, sizeof(s.fast_open_key_count), False),
        ("user_mss", <char *> &s.user_mss - base, sizeof(s.user_mss), False),
        ("linger_s", <char *> &s.linger_s - base, sizeof(s.linger_s), False),
        ("user_timeout_ms", <char *> &s.user_timeout_ms - base, sizeof(s.user_timeout_ms), False),
        ("linger2_ms", <char *> &s.linger2_ms - base, sizeof(s.linger2_ms), False),
        ("notsent_lowat", <char *> &s.notsent_lowat - base, sizeof(s.notsent_lowat), False),
        ("window_clamp", <char *> &s.window_clamp - base, sizeof(s.window_clamp), False),
        ("fast_open_max", <char *> &s.fast_open_max - base, sizeof(s.fast_open_max), False),
        ("max_pacing_rate", <char *> &s.max_pacing_rate - base, sizeof(s.max_pacing_rate), False),
        ("fast_open_keys", <char *> &s.fast_open_keys - base, sizeof(s.fast_open_keys), False),
    ]


cdef list ecn_fields():
    cdef ecn_t s
    cdef char *base = <char *> &s
    return [
        ("flags", <char *> &s.flags - base, sizeof(s.flags), False),
        ("fail", <char *> &s.fail - base, sizeof(s.fail), False),
        ("option_seen", <char *> &s.option_seen - base, sizeof(s.option_seen), False),
        ("syn_sent", <char *> &s.syn_sent - base, sizeof(s.syn_sent), False),
        ("syn_received", <char *> &s.syn_received - base, sizeof(s.syn_received), False),
        ("last_received", <char *> &s.last_received - base, sizeof(s.last_received), False),
        ("estimate", <char *> &s.estimate - base, sizeof(s.estimate), False),
        ("option_demand", <char *> &s.option_demand - base, sizeof(s.option_demand), False),
        ("option_least", <char *> &s.option_least - base, sizeof(s.option_least), False),
        ("ce_pending", <char *> &s.ce_pending - base, sizeof(s.ce_pending), False),
        ("received_ce", <char *> &s.received_ce - base, sizeof(s.received_ce), False),
        ("delivered_ce", <char *> &s.delivered_ce - base, sizeof(s.delivered_ce), False),
        ("received_bytes", <char *> &s.received_bytes - base, sizeof(s.received_bytes), False),
        ("delivered_bytes", <char *> &s.delivered_bytes - base, sizeof(s.delivered_bytes), False),
        ("acked_average", <char *> &s.acked_average - base, sizeof(s.acked_average), False),
        ("prior_ack", <char *> &s.prior_ack - base, sizeof(s.prior_ack), False),
        ("option_ns", <char *> &s.option_ns - base, sizeof(s.option_ns), True),
    ]


cdef list recovery_fields():
    cdef recovery_t s
    cdef char *base = <char *> &s
    return [
        ("highest_sack", <char *> &s.highest_sack - base, sizeof(s.highest_sack), False),
        ("high_seq", <char *> &s.high_seq - base, sizeof(s.high_seq), False),
        ("undo_marker", <char *> &s.undo_marker - base, sizeof(s.undo_marker), False),
        ("undo_again", <char *> &s.undo_again - base, sizeof(s.undo_again), False),
        ("stamp", <char *> &s.stamp - base, sizeof(s.stamp), False),
        ("again_ns", <char *> &s.again_ns - base, sizeof(s.again_ns), True),
        ("prior_cwnd", <char *> &s.prior_cwnd - base, sizeof(s.prior_cwnd), False),
        ("prior_ssthresh", <char *> &s.prior_ssthresh - base, sizeof(s.prior_ssthresh), False),
        ("prr_delivered", <char *> &s.prr_delivered - base, sizeof(s.prr_delivered), False),
        ("prr_out", <char *> &s.prr_out - base, sizeof(s.prr_out), False),
        ("probe_high", <char *> &s.probe_high - base, sizeof(s.probe_high), False),
        ("largest_flight", <char *> &s.largest_flight - base, sizeof(s.largest_flight), False),
        ("usage_seq", <char *> &s.usage_seq - base, sizeof(s.usage_seq), False),
        ("rack_sent_ns", <char *> &s.rack_sent_ns - base, sizeof(s.rack_sent_ns), True),
        ("rack_rtt_ns", <char *> &s.rack_rtt_ns - base, sizeof(s.rack_rtt_ns), False),
        ("delivered_ns", <char *> &s.delivered_ns - base, sizeof(s.delivered_ns), True),
        ("first_sent_ns", <char *> &s.first_sent_ns - base, sizeof(s.first_sent_ns), True),
        ("rack_end", <char *> &s.rack_end - base, sizeof(s.rack_end), False),
        ("rack_advanced", <char *> &s.rack_advanced - base, sizeof(s.rack_advanced), False),
        ("rack_dsack", <char *> &s.rack_dsack - base, sizeof(s.rack_dsack), False),
        ("state", <char *> &s.state - base, sizeof(s.state), False),
        ("timer", <char *> &s.timer - base, sizeof(s.timer), False),
        ("probing", <char *> &s.probing - base, sizeof(s.probing), False),
        ("frto", <char *> &s.frto - base, sizeof(s.frto), False),
        ("new_first", <char *> &s.new_first - base, sizeof(s.new_first), False),
        ("undo", <char *> &s.undo - base, sizeof(s.undo), False),
        ("cwnd_limited", <char *> &s.cwnd_limited - base, sizeof(s.cwnd_limited), False),
        ("sacked", <char *> &s.sacked - base, sizeof(s.sacked), False),
        ("sacked_out", <char *> &s.sacked_out - base, sizeof(s.sacked_out), False),
    ]


cdef list config_fields():
    cdef tcp_config_t s
    cdef char *base = <char *> &s
    return [
        ("timestamps", <char *> &s.timestamps - base, sizeof(s.timestamps), False),
        ("sack", <char *> &s.sack - base, sizeof(s.sack), False),
        ("syncookies", <char *> &s.syncookies - base, sizeof(s.syncookies), False),
        ("abort_on_overflow", <char *> &s.abort_on_overflow - base, sizeof(s.abort_on_overflow), False),
        ("max_syn_backlog", <char *> &s.max_syn_backlog - base, sizeof(s.max_syn_backlog), False),
        ("fastopen", <char *> &s.fastopen - base, sizeof(s.fastopen), False),
        ("fastopen_blackhole_timeout_s", <char *> &s.fastopen_blackhole_timeout_s - base, sizeof(s.fastopen_blackhole_timeout_s), False),
        ("window_scaling", <char *> &s.window_scaling - base, sizeof(s.window_scaling), False),
        ("slow_start_after_idle", <char *> &s.slow_start_after_idle - base, sizeof(s.slow_start_after_idle), False),
        ("syn_retries", <char *> &s.syn_retries - base, sizeof(s.syn_retries), False),
        ("synack_retries", <char *> &s.synack_retries - base, sizeof(s.synack_retries), False),
        ("retries2", <char *> &s.retries2 - base, sizeof(s.retries2), False),
        ("orphan_retries", <char *> &s.orphan_retries - base, sizeof(s.orphan_retries), False),
        ("quickack_segments", <char *> &s.quickack_segments - base, sizeof(s.quickack_segments), False),
        ("moderate_rcvbuf", <char *> &s.moderate_rcvbuf - base, sizeof(s.moderate_rcvbuf), False),
        ("notsent_lowat", <char *> &s.notsent_lowat - base, sizeof(s.notsent_lowat), False),
        ("dsack", <char *> &s.dsack - base, sizeof(s.dsack), False),
        ("early_retrans", <char *> &s.early_retrans - base, sizeof(s.early_retrans), False),
        ("recovery", <char *> &s.recovery - base, sizeof(s.recovery), False),
        ("frto", <char *> &s.frto - base, sizeof(s.frto), False),
        ("reordering", <char *> &s.reordering - base, sizeof(s.reordering), False),
        ("max_reordering", <char *> &s.max_reordering - base, sizeof(s.max_reordering), False),
        ("mtu_probing", <char *> &s.mtu_probing - base, sizeof(s.mtu_probing), False),
        ("ecn", <char *> &s.ecn - base, sizeof(s.ecn), False),
        ("ecn_fallback", <char *> &s.ecn_fallback - base, sizeof(s.ecn_fallback), False),
        ("ecn_option", <char *> &s.ecn_option - base, sizeof(s.ecn_option), False),
        ("ecn_option_beacon", <char *> &s.ecn_option_beacon - base, sizeof(s.ecn_option_beacon), False),
        ("base_mss", <char *> &s.base_mss - base, sizeof(s.base_mss), False),
        ("retries1", <char *> &s.retries1 - base, sizeof(s.retries1), False),
        ("rmem_default", <char *> &s.rmem_default - base, sizeof(s.rmem_default), False),
        ("rmem_max", <char *> &s.rmem_max - base, sizeof(s.rmem_max), False),
        ("wmem_default", <char *> &s.wmem_default - base, sizeof(s.wmem_default), False),
        ("wmem_max", <char *> &s.wmem_max - base, sizeof(s.wmem_max), False),
        ("fin_timeout_ms", <char *> &s.fin_timeout_ms - base, sizeof(s.fin_timeout_ms), False),
        ("time_wait_ms", <char *> &s.time_wait_ms - base, sizeof(s.time_wait_ms), False),
        ("max_tw", <char *> &s.max_tw - base, sizeof(s.max_tw), False),
        ("max_orphans", <char *> &s.max_orphans - base, sizeof(s.max_orphans), False),
        ("mem_max", <char *> &s.mem_max - base, sizeof(s.mem_max), False),
        ("challenge_ack_limit", <char *> &s.challenge_ack_limit - base, sizeof(s.challenge_ack_limit), False),
        ("min_snd_mss", <char *> &s.min_snd_mss - base, sizeof(s.min_snd_mss), False),
        ("cubic_hystart", <char *> &s.cubic_hystart - base, sizeof(s.cubic_hystart), False),
        ("pacing", <char *> &s.pacing - base, sizeof(s.pacing), False),
        ("min_tso_segs", <char *> &s.min_tso_segs - base, sizeof(s.min_tso_segs), False),
        ("pacing_ss_ratio", <char *> &s.pacing_ss_ratio - base, sizeof(s.pacing_ss_ratio), False),
        ("pacing_ca_ratio", <char *> &s.pacing_ca_ratio - base, sizeof(s.pacing_ca_ratio), False),
        ("initial_cwnd_segments", <char *> &s.initial_cwnd_segments - base, sizeof(s.initial_cwnd_segments), False),
        ("somaxconn", <char *> &s.somaxconn - base, sizeof(s.somaxconn), False),
        ("delayed_ack_ms", <char *> &s.delayed_ack_ms - base, sizeof(s.delayed_ack_ms), False),
        ("rto_min_ms", <char *> &s.rto_min_ms - base, sizeof(s.rto_min_ms), False),
        ("keepalive_time_s", <char *> &s.keepalive_time_s - base, sizeof(s.keepalive_time_s), False),
        ("keepalive_intvl_s", <char *> &s.keepalive_intvl_s - base, sizeof(s.keepalive_intvl_s), False),
        ("keepalive_probes", <char *> &s.keepalive_probes - base, sizeof(s.keepalive_probes), False),
        ("port_first", <char *> &s.port_first - base, sizeof(s.port_first), False),
        ("port_last", <char *> &s.port_last - base, sizeof(s.port_last), False),
    ]


cdef list request_fields():
    cdef request_t s
    cdef char *base = <char *> &s
    return [
        ("local", <char *> &s.local - base, sizeof(s.local), False),
        ("remote", <char *> &s.remote - base, sizeof(s.remote), False),
        ("lport", <char *> &s.lport - base, sizeof(s.lport), False),
        ("rport", <char *> &s.rport - base, sizeof(s.rport), False),
        ("iss", <char *> &s.iss - base, sizeof(s.iss), False),
        ("irs", <char *> &s.irs - base, sizeof(s.irs), False),
        ("ts_recent", <char *> &s.ts_recent - base, sizeof(s.ts_recent), False),
        ("ts_offset", <char *> &s.ts_offset - base, sizeof(s.ts_offset), False),
        ("peer_mss", <char *> &s.peer_mss - base, sizeof(s.peer_mss), False),
        ("mss", <char *> &s.mss - base, sizeof(s.mss), False),
        ("peer_window", <char *> &s.peer_window - base, sizeof(s.peer_window), False),
        ("window", <char *> &s.window - base, sizeof(s.window), False),
        ("flags", <char *> &s.flags - base, sizeof(s.flags), False),
        ("snd_wscale", <char *> &s.snd_wscale - base, sizeof(s.snd_wscale), False),
        ("rcv_wscale", <char *> &s.rcv_wscale - base, sizeof(s.rcv_wscale), False),
        ("retries", <char *> &s.retries - base, sizeof(s.retries), False),
        ("sent", <char *> &s.sent - base, sizeof(s.sent), False),
        ("interface", <char *> &s.interface - base, sizeof(s.interface), False),
        ("ecn", <char *> &s.ecn - base, sizeof(s.ecn), False),
        ("ecn_syn", <char *> &s.ecn_syn - base, sizeof(s.ecn_syn), False),
        ("ecn_fail", <char *> &s.ecn_fail - base, sizeof(s.ecn_fail), False),
        ("challenge_count", <char *> &s.challenge_count - base, sizeof(s.challenge_count), False),
        ("challenge_ns", <char *> &s.challenge_ns - base, sizeof(s.challenge_ns), True),
        ("deadline_ns", <char *> &s.deadline_ns - base, sizeof(s.deadline_ns), True),
        ("sent_ns", <char *> &s.sent_ns - base, sizeof(s.sent_ns), True),
    ]


cdef list listener_fields():
    cdef listener_t s
    cdef char *base = <char *> &s
    return [
        ("backlog", <char *> &s.backlog - base, sizeof(s.backlog), False),
        ("overflow_ns", <char *> &s.overflow_ns - base, sizeof(s.overflow_ns), True),
        ("refused_ns", <char *> &s.refused_ns - base, sizeof(s.refused_ns), True),
        ("refused", <char *> &s.refused - base, sizeof(s.refused), False),
        ("refused_limit", <char *> &s.refused_limit - base, sizeof(s.refused_limit), False),
        ("fast_open_count", <char *> &s.fast_open_count - base, sizeof(s.fast_open_count), False),
    ]


cdef list fast_open_fields():
    cdef fast_open_cache_t s
    cdef char *base = <char *> &s
    return [
        ("local", <char *> &s.local - base, sizeof(s.local), False),
        ("remote", <char *> &s.remote - base, sizeof(s.remote), False),
        ("used_ns", <char *> &s.used_ns - base, sizeof(s.used_ns), True),
        ("lost_ns", <char *> &s.lost_ns - base, sizeof(s.lost_ns), True),
        ("mss", <char *> &s.mss - base, sizeof(s.mss), False),
        ("lost", <char *> &s.lost - base, sizeof(s.lost), False),
        ("try_experimental", <char *> &s.try_experimental - base, sizeof(s.try_experimental), False),
        ("length", <char *> &s.length - base, sizeof(s.length), False),
        ("experimental", <char *> &s.experimental - base, sizeof(s.experimental), False),
        ("cookie", <char *> &s.cookie - base, sizeof(s.cookie), False),
    ]


cdef list time_wait_fields():
    cdef tw_t s
    cdef char *base = <char *> &s
    return [
        ("local", <char *> &s.local - base, sizeof(s.local), False),
        ("remote", <char *> &s.remote - base, sizeof(s.remote), False),
        ("lport", <char *> &s.lport - base, sizeof(s.lport), False),
        ("rport", <char *> &s.rport - base, sizeof(s.rport), False),
        ("snd_nxt", <char *> &s.snd_nxt - base, sizeof(s.snd_nxt), False),
        ("rcv_nxt", <char *> &s.rcv_nxt - base, sizeof(s.rcv_nxt), False),
        ("ts_recent", <char *> &s.ts_recent - base, sizeof(s.ts_recent), False),
        ("ts_offset", <char *> &s.ts_offset - base, sizeof(s.ts_offset), False),
        ("hash", <char *> &s.hash - base, sizeof(s.hash), False),
        ("wnd", <char *> &s.wnd - base, sizeof(s.wnd), False),
        ("has_ts", <char *> &s.has_ts - base, sizeof(s.has_ts), False),
        ("interface", <char *> &s.interface - base, sizeof(s.interface), False),
        ("ace", <char *> &s.ace - base, sizeof(s.ace), False),
        ("ecn", <char *> &s.ecn - base, sizeof(s.ecn), False),
        ("expires_ns", <char *> &s.expires_ns - base, sizeof(s.expires_ns), True),
    ]


cdef list datagram_fields():
    cdef udp_endpoint_t s
    cdef char *base = <char *> &s
    return [
        ("sock.id", <char *> &s.sock.id - base, sizeof(s.sock.id), False),
        ("sock.kind", <char *> &s.sock.kind - base, sizeof(s.sock.kind), False),
        ("sock.flags", <char *> &s.sock.flags - base, sizeof(s.sock.flags), False),
        ("sock.error", <char *> &s.sock.error - base, sizeof(s.sock.error), False),
        ("local", <char *> &s.local - base, sizeof(s.local), False),
        ("remote", <char *> &s.remote - base, sizeof(s.remote), False),
        ("lport", <char *> &s.lport - base, sizeof(s.lport), False),
        ("rport", <char *> &s.rport - base, sizeof(s.rport), False),
        ("connected", <char *> &s.connected - base, sizeof(s.connected), False),
        ("shutdown", <char *> &s.shutdown - base, sizeof(s.shutdown), False),
        ("ttl", <char *> &s.ttl - base, sizeof(s.ttl), False),
        ("hops", <char *> &s.hops - base, sizeof(s.hops), False),
        ("tos", <char *> &s.tos - base, sizeof(s.tos), False),
        ("tclass", <char *> &s.tclass - base, sizeof(s.tclass), False),
        ("sock.device", <char *> &s.sock.device - base, sizeof(s.sock.device), False),
        ("dont_fragment", <char *> &s.dont_fragment - base, sizeof(s.dont_fragment), False),
        ("rcvbuf", <char *> &s.rcvbuf - base, sizeof(s.rcvbuf), False),
        ("sndbuf", <char *> &s.sndbuf - base, sizeof(s.sndbuf), False),
        ("dropped", <char *> &s.dropped - base, sizeof(s.dropped), False),
        ("protocol", <char *> &s.protocol - base, sizeof(s.protocol), False),
        ("pmtu_discovery", <char *> &s.pmtu_discovery - base, sizeof(s.pmtu_discovery), False),
        ("multicast_loop", <char *> &s.multicast_loop - base, sizeof(s.multicast_loop), False),
        ("multicast_ttl", <char *> &s.multicast_ttl - base, sizeof(s.multicast_ttl), False),
        ("multicast_interface", <char *> &s.multicast_interface - base, sizeof(s.multicast_interface), False),
        ("multicast_source", <char *> &s.multicast_source - base, sizeof(s.multicast_source), False),
        ("wants", <char *> &s.wants - base, sizeof(s.wants), False),
        ("modes", <char *> &s.modes - base, sizeof(s.modes), False),
        ("send_coverage", <char *> &s.send_coverage - base, sizeof(s.send_coverage), False),
        ("receive_coverage", <char *> &s.receive_coverage - base, sizeof(s.receive_coverage), False),
        ("check_offset", <char *> &s.check_offset - base, sizeof(s.check_offset), False),
        ("filter", <char *> &s.filter - base, sizeof(s.filter), False),
        ("big_length", <char *> &s.big_length - base, sizeof(s.big_length), False),
        ("big_dst", <char *> &s.big_dst - base, sizeof(s.big_dst), False),
        ("big_ns", <char *> &s.big_ns - base, sizeof(s.big_ns), True),
    ]


cdef list ip_fields():
    cdef ip_t s
    cdef char *base = <char *> &s
    return [
        ("config.echo_ignore_all", <char *> &s.config.echo_ignore_all - base, sizeof(s.config.echo_ignore_all), False),
        ("config.echo_ignore_broadcasts", <char *> &s.config.echo_ignore_broadcasts - base,
         sizeof(s.config.echo_ignore_broadcasts), False),
        ("config.no_pmtu_disc", <char *> &s.config.no_pmtu_disc - base, sizeof(s.config.no_pmtu_disc), False),
        ("config.default_ttl", <char *> &s.config.default_ttl - base, sizeof(s.config.default_ttl), False),
        ("config.ratelimit_ms", <char *> &s.config.ratelimit_ms - base, sizeof(s.config.ratelimit_ms), False),
        ("config.msgs_per_sec", <char *> &s.config.msgs_per_sec - base, sizeof(s.config.msgs_per_sec), False),
        ("config.msgs_burst", <char *> &s.config.msgs_burst - base, sizeof(s.config.msgs_burst), False),
        ("config.max_memberships", <char *> &s.config.max_memberships - base, sizeof(s.config.max_memberships), False),
        ("config.max_msf", <char *> &s.config.max_msf - base, sizeof(s.config.max_msf), False),
        ("config.igmp_version", <char *> &s.config.igmp_version - base, sizeof(s.config.igmp_version), False),
        ("config.acd", <char *> &s.config.acd - base, sizeof(s.config.acd), False),
        ("random", <char *> &s.random - base, sizeof(s.random), False),
        ("id_counters", <char *> &s.id_counters - base, sizeof(s.id_counters), False),
        ("icmp_next_ns", <char *> &s.icmp_next_ns - base, sizeof(s.icmp_next_ns), True),
        ("reset_next_ns", <char *> &s.reset_next_ns - base, sizeof(s.reset_next_ns), True),
    ]


cdef dict tables():
    return {
        "tcp": tcb_fields(), "recovery": recovery_fields(), "config": config_fields(), "time_wait": time_wait_fields(),
        "datagram": datagram_fields(), "ip": ip_fields(), "settings": settings_fields(), "ecn": ecn_fields(),
        "request": request_fields(), "listener": listener_fields(), "fast_open": fast_open_fields(),
    }
