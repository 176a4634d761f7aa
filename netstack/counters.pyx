"""Counters as Python sees them: one flat dictionary, drops under ``drop_*``."""

REASON_NAMES = {int(v): k.lower() for k, v in DropReason.__members__.items()}


cdef dict counters_as_dict(const counters_t *c):
    """All counters of one stack by name; drops that never happened are left out."""
    cdef dict out = {
        "packets_in": c.packets_in, "packets_out": c.packets_out,
        "bytes_in": c.bytes_in, "bytes_out": c.bytes_out,
        "ip_delivered": c.ip_delivered,
        "ip_fragments_in": c.ip_fragments_in, "ip_fragments_used": c.ip_fragments_used,
        "ip_fragment_steps": c.ip_fragment_steps, "ip_reassembled": c.ip_reassembled,
        "ip_fragmented": c.ip_fragmented, "ip_fragments_out": c.ip_fragments_out,
        "ip_pmtu_lowered": c.ip_pmtu_lowered, "icmp_errors_in": c.icmp_errors_in, "raw_in": c.raw_in,
        "igmp_in": c.igmp_in, "igmp_out": c.igmp_out,
        "address_conflicts": c.address_conflicts, "arp_refused": c.arp_refused,
        "icmp_in": c.icmp_in, "icmp_out": c.icmp_out,
        "udp_in": c.udp_in, "udp_out": c.udp_out,
        "udplite_in": c.udplite_in, "udplite_out": c.udplite_out,
        "tcp_segments_in": c.tcp_segments_in, "tcp_segments_out": c.tcp_segments_out,
        "tcp_payload_in": c.tcp_payload_in, "tcp_payload_out": c.tcp_payload_out,
        "tcp_retransmits": c.tcp_retransmits, "tcp_timeouts": c.tcp_timeouts,
        "tcp_fast_retransmits": c.tcp_fast_retransmits, "tcp_fast_path": c.tcp_fast_path,
        "tcp_tail_probes": c.tcp_tail_probes, "tcp_undos": c.tcp_undos, "tcp_sack_invalid": c.tcp_sack_invalid,
        "tcp_sack_steps": c.tcp_sack_steps, "tcp_recovery_steps": c.tcp_recovery_steps,
        "tcp_out_of_order": c.tcp_out_of_order,
        "tcp_resets_in": c.tcp_resets_in, "tcp_resets_out": c.tcp_resets_out,
        "tcp_challenge_acks": c.tcp_challenge_acks,
        "tcp_active_opens": c.tcp_active_opens, "tcp_passive_opens": c.tcp_passive_opens,
        "tcp_attempt_fails": c.tcp_attempt_fails,
        "tcp_established_resets": c.tcp_established_resets,
        "tcp_time_wait": c.tcp_time_wait, "tcp_pmtu_lowered": c.tcp_pmtu_lowered,
        "tcp_memory_aborts": c.tcp_memory_aborts,
        "tcp_mtu_probes": c.tcp_mtu_probes, "tcp_mtu_probes_arrived": c.tcp_mtu_probes_arrived,
        "tcp_syncookies_sent": c.tcp_syncookies_sent,
        "tcp_syncookies_received": c.tcp_syncookies_received,
        "tcp_syncookies_failed": c.tcp_syncookies_failed,
        "tcp_listen_overflows": c.tcp_listen_overflows,
        "tcp_fast_open_active": c.tcp_fast_open_active,
        "tcp_fast_open_active_fail": c.tcp_fast_open_active_fail,
        "tcp_fast_open_passive": c.tcp_fast_open_passive,
        "tcp_fast_open_passive_fail": c.tcp_fast_open_passive_fail,
        "tcp_fast_open_cookies_asked": c.tcp_fast_open_cookies_asked,
        "tcp_fast_open_overflows": c.tcp_fast_open_overflows,
        "tcp_fast_open_blackholes": c.tcp_fast_open_blackholes,
        "congestion_clamped": c.congestion_clamped, "congestion_fallbacks": c.congestion_fallbacks,
        "ip6_extension_headers": c.ip6_extension_headers, "nd_conflicts": c.nd_conflicts,
    }
    cdef int i
    for i in range(1, <int>DROP_REASONS):
        if c.drops[i]:
            out[REASON_NAMES[i]] = c.drops[i]
    return out
