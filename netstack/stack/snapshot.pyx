"""A stack as a versioned record format, and back: what migration, live upgrade and the determinism tests stand on.

Layout: magic, length of the header, header (JSON), records. The header names the fields of each structure with their
sizes, so that a later version reads what it still knows and leaves the rest at its default; it also carries the small
state of the stack (interfaces, neighbours, routes, settings). A record is {u16 type, u16 0, u32 length} and its bytes,
little-endian throughout.

Times are kept as the difference to the clock of the restored stack: a timer goes on with what it had left. The clock
that timestamps and initial sequence numbers come from goes on without a step (``tcp_t.clock_shift_ns``).

What is not in it: frames inside links, buffers lent by waiting threads, and the list of events; a driver ends loans before
and looks at every socket after.
"""

import json
import struct

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from netstack.address cimport address_t
from netstack.demux cimport (
    BIND_BUCKETS, demux_bind, demux_insert, demux_tw_insert, tw_t,
)
from netstack.ip.interface cimport interface_add_address, interface_t
from netstack.ip.ip6_state cimport ip6_restore, ip6_save
from netstack.ip.route cimport route_add
from netstack.ip.shared cimport ICMP_LIMIT_PLACES, icmp_limit_t, ip_t
from netstack.ip.state cimport (
    fragments_restore, fragments_save, interface_restore, interface_save, limits_restore, limits_save,
)
from netstack.link.link cimport MEDIA_ETHERNET, Link
from netstack.link.queue cimport QueueLink
from netstack.sock cimport SF_BOUND, SF_ORPHAN, SF_QUEUED_EVENT, SOCK_RAW, SOCK_TCP, sock_t
from netstack.stack.core cimport (
    stack_add_interface, stack_init, stack_new_tcb, stack_register, stack_t,
)
from netstack.tcp.buffers cimport receive_reserve, receive_store, send_append, send_reserve
from netstack.tcp.congestion.controller cimport congestion_default, congestion_find, congestion_reload
from netstack.tcp.ecn cimport ecn_reserve
from netstack.tcp.fast_open cimport fast_open_remember
from netstack.tcp.listener cimport request_join
from netstack.tcp.ranges cimport range_insert
from netstack.tcp.scoreboard cimport NONE, recovery_reserve, scoreboard_append, scoreboard_reserve, sent_at
from netstack.tcp.tcb cimport (
    CC_UNSAVED, CE, CLOSED, ECN_ACCURATE, ECN_ASKED, ECN_OFF, LISTEN, MAX_FAST_OPEN_CACHE, MAX_PATH_MTUS, MAX_RECORD_ENDS,
    REQUEST_LEVELS, SENT_AGAIN, SENT_LISTED, SENT_LOST, SENT_SACKED, TF_IN_ACCEPT, TF_IN_DEMUX, TF_OUTPUT, TF_SACK_OK,
    TIME_WAIT, TM_ORPHAN, congestion_ops_t, ecn_t, fast_open_cache_t, listener_t, path_mtu_t, range_t, receive_end, records_t, recovery_t,
    settings_t,
    request_t, sent_t, tcb_t, tcp_config_t,
    want_output,
)
from netstack.tcp.settings cimport settings_own
from netstack.tcp.timers cimport timer_update
from netstack.udp.endpoint cimport datagram_t, membership_t, udp_endpoint_init, udp_endpoint_t
from netstack.wire.tcp cimport ACCECN_FIELDS

from netstack.config import InterfaceConfig, StackConfig
from netstack.errors import SnapshotError

MAGIC = b"netstack snapshot 2\n"
QUEUED_FORM = "<16sHI16sBBBBBBiI16s"      # a datagram in a queue: source, how it came; its bytes follow
MEMBERSHIP_FORM = "<16sIBI"
SENT_FORM = "<IIqQqqQIB"         # a segment in flight

cdef enum:                       # record types
    RECORD_TCP = 1
    RECORD_DATAGRAM = 2
    RECORD_TIME_WAIT = 3
    RECORD_REQUEST = 4

cdef enum:
    MAX_RECORDS = 1 << 22
    MAX_DATA = 1 << 30
    NO_SIZE = 0xffffffff         # of no algorithm's state


# --- the fields of each structure: name, offset, size, is it a time ---------------------------------------------------

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



cdef dict TABLES = {
    "tcp": tcb_fields(), "recovery": recovery_fields(), "config": config_fields(), "time_wait": time_wait_fields(), "datagram": datagram_fields(),
    "ip": ip_fields(),
    "settings": settings_fields(), "ecn": ecn_fields(), "request": request_fields(), "listener": listener_fields(), "fast_open": fast_open_fields(),
}


cdef bytes pack(list fields, const void *p):
    """The fields one behind the other."""
    cdef list out = []
    for _, offset, size, _ in fields:
        out.append((<const char *> p)[<size_t> offset:<size_t> offset + <size_t> size])
    return b"".join(out)


cdef class Reader:
    """Bytes of a snapshot, never read past their end."""
    cdef bytes data
    cdef Py_ssize_t at

    def __init__(self, bytes data):
        self.data = data
        self.at = 0

    cdef bytes take(self, Py_ssize_t n):
        cdef bytes out
        if n < 0 or n > len(self.data) - self.at:
            raise SnapshotError("the snapshot ends too early")
        out = self.data[self.at:self.at + n]
        self.at += n
        return out

    cdef object number(self, str form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]


cdef object unpack(Reader reader, list plan, void *p, int64_t shift):
    """Read fields as *plan* says: (offset or -1, size, is it a time). Times move by *shift*."""
    cdef bytes raw
    cdef int64_t t
    for offset, size, is_time in plan:
        raw = reader.take(size)
        if offset < 0:
            continue
        memcpy(<char *> p + <size_t> offset, <const char *> raw, <size_t> size)
        if is_time:
            memcpy(&t, <const char *> raw, 8)
            if t:
                t += shift
                if t == 0:
                    t = 1
                memcpy(<char *> p + <size_t> offset, &t, 8)


cdef dict plans_of(dict header):
    """How to read each structure of this snapshot into ours, by the names both know."""
    out = {}
    for table, fields in TABLES.items():
        ours = {name: (offset, size, is_time) for name, offset, size, is_time in fields}
        plan = []
        for name, size in header["fields"][table]:
            known = ours.get(name)
            if known is None:
                plan.append((-1, size, False))
            elif known[1] != size:
                raise SnapshotError(f"field {table}.{name} has {size} bytes in the snapshot and {known[1]} here")
            else:
                plan.append(known)
        out[table] = plan
    return out


# --- out --------------------------------------------------------------------------------------------------------------

cdef bytes ring_bytes(const uint8_t *ring, uint32_t capacity, uint32_t seq, uint32_t n):
    cdef uint32_t at, first
    if n == 0:
        return b""
    at = seq & (capacity - 1)
    first = capacity - at
    if first >= n:
        return (<const char *> ring)[at:at + n]
    return (<const char *> ring)[at:capacity] + (<const char *> ring)[:n - first]


cdef bytes sent_records(const tcb_t *tcb):
    """What is in flight, in the order of sequence numbers; then the order of sending, by number."""
    cdef list out = [struct.pack("<I", tcb.rec.sent_count)]
    cdef list order = []
    cdef uint32_t i, at = tcb.rec.order_first
    cdef sent_t *r
    for i in range(tcb.rec.sent_count):
        r = sent_at(tcb, i)
        out.append(struct.pack(SENT_FORM, r.start, r.end, r.sent_ns, r.delivered, r.delivered_ns, r.first_sent_ns, r.lost,
                               r.in_flight, r.flags & ~SENT_LISTED))
    while tcb.rec.sent_count and at != NONE:
        order.append((at - tcb.rec.sent_first) & (tcb.rec.sent_capacity - 1))
        at = tcb.rec.sent[at].later
    out.append(struct.pack(f"<I{len(order)}I", len(order), *order))
    return b"".join(out)


cdef object restore_sent(tcb_t *tcb, Reader r, int64_t shift):
    """Fill the scoreboard; the sums follow from the records, but for what duplicates stand for without SACK."""
    cdef uint32_t n = r.number("<I"), k, at = tcb.snd_una, sacked = tcb.rec.sacked, sacked_out = tcb.rec.sacked_out
    cdef sent_t *record
    cdef int64_t delivered_ns = tcb.rec.delivered_ns, first_sent_ns = tcb.rec.first_sent_ns
    tcb.rec.sacked = tcb.rec.sacked_out = 0
    if n > MAX_RECORDS:
        raise SnapshotError("an impossible number of segments in flight")
    for k in range(n):
        start, end, sent, delivered, delivered_at, first, lost, flight, flag = struct.unpack(
            SENT_FORM, r.take(struct.calcsize(SENT_FORM)))
        if start != at or not 0 < ((end - start) & 0xffffffff) <= MAX_DATA:
            raise SnapshotError("segments in flight that do not join")
        at = end
        need(scoreboard_reserve(tcb))
        record = scoreboard_append(tcb, start, end)
        record.sent_ns = sent + shift
        record.delivered = delivered
        record.delivered_ns = delivered_at + shift
        record.first_sent_ns = first + shift
        record.lost = lost
        record.in_flight = flight
        record.flags = flag | SENT_LISTED
    order = [r.number("<I") for _ in range(r.number("<I"))]
    if any(i >= n for i in order) or len(set(order)) != len(order):
        raise SnapshotError("an order of sending that names other segments")
    scoreboard_restore(tcb, order)
    tcb.rec.delivered_ns = delivered_ns
    tcb.rec.first_sent_ns = first_sent_ns
    if not tcb.flags & TF_SACK_OK:
        tcb.rec.sacked = sacked
        tcb.rec.sacked_out = sacked_out


cdef object scoreboard_restore(tcb_t *tcb, list order):
    cdef recovery_t *rec = tcb.rec
    cdef uint32_t i, k, last = NONE
    cdef sent_t *record
    rec.order_first = NONE
    for i in range(rec.sent_count):
        record = sent_at(tcb, i)
        record.flags &= ~<uint8_t> SENT_LISTED
        if record.flags & SENT_SACKED:
            rec.sacked += record.end - record.start
            rec.sacked_out += 1
            record.later = rec.sent_first + i + 1
        if record.flags & SENT_LOST:
            if record.flags & SENT_SACKED:
                raise SnapshotError("a segment both lost and arrived")
            rec.lost += record.end - record.start
            rec.lost_out += 1
            if not record.flags & SENT_AGAIN:
                rec.waiting += 1
        if record.flags & SENT_AGAIN:
            rec.again += record.end - record.start
            rec.again_out += 1
    for i in order:
        k = (rec.sent_first + i) & (rec.sent_capacity - 1)
        record = &rec.sent[k]
        if record.flags & SENT_SACKED or record.flags & (SENT_LOST | SENT_AGAIN) == SENT_LOST:
            raise SnapshotError("an order of sending with a segment that is in flight no more")
        record.earlier = last
        record.later = NONE
        record.flags |= SENT_LISTED
        if last == NONE:
            rec.order_first = k
        else:
            rec.sent[last].later = k
        last = k
    rec.order_last = last


cdef bytes tcp_record(const tcb_t *tcb):
    """One connection or listener: fields, congestion control, lists it heads, ranges, both buffers."""
    cdef list out = [pack(TABLES["tcp"], tcb)]
    cdef uint32_t i, held, k
    cdef const tcb_t *child
    k = tcb.cc_ops.extended_size if tcb.cc.extended != NULL else 0
    out.append(struct.pack("<16sI", (<bytes> tcb.cc_ops.name)[:16], k))
    out.append(bytes(k) if not k or tcb.cc_ops.flags & CC_UNSAVED else (<const char *> tcb.cc.extended)[:k])
    out.append(b"\1" + pack(TABLES["settings"], tcb.settings) if tcb.settings.users else b"\0")
    out.append(b"\1" + pack(TABLES["ecn"], tcb.ecn) if tcb.ecn != &tcb.tcp.no_ecn else b"\0")
    k = tcb.records.count if tcb.records != NULL else 0
    out.append(struct.pack("<I", k) + ((<const char *> tcb.records.ends)[:4 * k] if k else b""))
    if tcb.listener != NULL:
        accept = []
        child = tcb.listener.accept_first
        while child != NULL:
            accept.append(child.sock.id)
            child = child.sibling
        out.append(b"\1")
        out.append(pack(TABLES["listener"], tcb.listener))
        resets = [tcb.listener.resets[(tcb.listener.reset_first + i) % tcb.listener.reset_capacity] - tcb.tcp.now_ns
                  for i in range(tcb.listener.reset_count)]
        out.append(struct.pack(f"<I{len(accept)}II{len(resets)}q", len(accept), *accept, len(resets), *resets))
    else:
        out.append(b"\0")
    out.append(struct.pack("<H", tcb.range_count))
    for i in range(tcb.range_count):
        out.append(struct.pack("<II", tcb.ranges[i].start, tcb.ranges[i].end))
    out.append(ring_bytes(tcb.snd_buf, tcb.snd_cap, tcb.snd_una, tcb.snd_len))   # as many as the field snd_len says
    held = receive_end(tcb) - tcb.rcv_read if tcb.rcv_cap else 0
    out.append(struct.pack("<I", held))
    out.append(ring_bytes(tcb.rcv_buf, tcb.rcv_cap, tcb.rcv_read, held))
    for k in range(tcb.range_count):
        out.append(ring_bytes(tcb.rcv_buf, tcb.rcv_cap, tcb.ranges[k].start, tcb.ranges[k].end - tcb.ranges[k].start))
    if tcb.rec == &tcb.tcp.idle:
        out.append(b"\0")
    else:
        out.append(b"\1")
        out.append(pack(TABLES["recovery"], tcb.rec))
        out.append(sent_records(tcb))
    return b"".join(out)


cdef bytes datagram_record(const udp_endpoint_t *ep):
    cdef list out = [pack(TABLES["datagram"], ep)]
    cdef const datagram_t *d = ep.first
    cdef const membership_t *m = ep.memberships
    cdef uint32_t n = 0
    while d != NULL:
        out.append(queued_datagram(d))
        n += 1
        d = d.next
    out.insert(1, struct.pack("<I", n))
    n = 0
    d = ep.first_error
    at = len(out)
    while d != NULL:
        out.append(queued_datagram(d))
        n += 1
        d = d.next
    out.insert(at, struct.pack("<I", n))
    n = 0
    at = len(out)
    while m != NULL:
        out.append(struct.pack(MEMBERSHIP_FORM, (<const char *> &m.group)[:16], m.interface, m.exclude, m.source_count))
        out.append((<const char *> m.sources)[:16 * m.source_count] if m.source_count else b"")
        n += 1
        m = m.next
    out.insert(at, struct.pack("<I", n))
    return b"".join(out)


cdef bytes queued_datagram(const datagram_t *d):
    return struct.pack(QUEUED_FORM, (<const char *> &d.src)[:16], d.sport, d.length,
                       (<const char *> &d.how.dst)[:16], d.how.interface, d.how.ttl, d.how.tos, d.how.origin, d.how.type,
                       d.how.code, d.how.error, d.how.info, (<const char *> &d.how.offender)[:16]) + \
        (<const char *> (d + 1))[:d.length]


cdef datagram_t *read_datagram(Reader r) except NULL:
    """The opposite; the caller puts it into a queue."""
    cdef datagram_t *d
    cdef bytes src, dst, offender, raw
    src, port, length, dst, interface, ttl, tos, origin, type, code, error, info, offender = struct.unpack(
        QUEUED_FORM, r.take(struct.calcsize(QUEUED_FORM)))
    raw = r.take(length)
    d = <datagram_t *> calloc(1, sizeof(datagram_t) + <size_t> length)
    need(d != NULL)
    memcpy(&d.src, <const char *> src, 16)
    memcpy(&d.how.dst, <const char *> dst, 16)
    memcpy(&d.how.offender, <const char *> offender, 16)
    d.sport = port
    d.length = length
    d.how.interface, d.how.ttl, d.how.tos, d.how.origin = interface, ttl, tos, origin
    d.how.type, d.how.code, d.how.error, d.how.info = type, code, error, info
    memcpy(d + 1, <const char *> raw, d.length)
    return d


cdef dict interface_state(const interface_t *ifc, int64_t now_ns):
    """Its settings, and what the interface itself saves: neighbours, waiting packets, limits."""
    return {
        "media": "ethernet" if ifc.media == MEDIA_ETHERNET else "ip", "mtu": ifc.mtu,
        "mac": (<const char *> ifc.mac)[:6].hex(),
        "addresses": [[(<const char *> &ifc.addresses[k])[:16].hex(), ifc.prefix_lengths[k]]
                      for k in range(ifc.address_count)],
        "state": interface_save(ifc, now_ns).hex(), "ipv6": ip6_save(ifc, now_ns),
    }


cdef list path_mtus(stack_t *c):
    """What paths were said to carry, oldest first, with the time that is left."""
    cdef list out = []
    cdef path_mtu_t *entry
    cdef uint32_t i
    for i in range(<uint32_t> MAX_PATH_MTUS):
        entry = &c.tcp.path_mtus[(c.tcp.path_mtu_next + i) % MAX_PATH_MTUS]
        if entry.mtu and entry.until_ns > c.tcp.now_ns:
            out.append([(<const char *> &entry.remote)[:16].hex(), entry.mtu, entry.until_ns - c.tcp.now_ns])
    return out


cdef object restore_path_mtus(stack_t *c, list paths):
    cdef bytes raw
    cdef uint32_t i
    for remote, mtu, left in paths[:<int> MAX_PATH_MTUS]:
        raw = bytes.fromhex(remote)
        if len(raw) != 16:
            raise SnapshotError("a path MTU of no address")
        i = c.tcp.path_mtu_next % MAX_PATH_MTUS
        memcpy(&c.tcp.path_mtus[i].remote, <const char *> raw, 16)
        c.tcp.path_mtus[i].mtu = mtu
        c.tcp.path_mtus[i].until_ns = c.tcp.now_ns + <int64_t> left
        c.tcp.path_mtu_next += 1


cdef bytes snapshot_stack(Stack stack):
    """See `Stack.snapshot`."""
    cdef stack_t *c = stack.c
    cdef uint32_t i
    cdef sock_t *sock
    cdef tcb_t *tcb
    cdef tw_t *tw
    cdef request_t *request
    cdef list records = []
    cdef list bound = [], output = []
    for i in range(<uint32_t> BIND_BUCKETS):
        chain = []
        sock = c.demux.bound[i]
        while sock != NULL:
            chain.append(sock.id)
            sock = sock.bind_next
        bound.extend(reversed(chain))                  # bound in this order, the chains come out the same
    tcb = c.tcp.output_first
    while tcb != NULL:
        output.append(tcb.sock.id)
        tcb = tcb.output_next
    for i in range(c.sock_count):
        sock = c.socks[i]
        if sock.kind == SOCK_TCP:
            if (<tcb_t *> sock).state == CLOSED and sock.flags & SF_ORPHAN and not (<tcb_t *> sock).flags & TF_IN_ACCEPT:
                continue                               # dead, waiting to be freed
            records.append((RECORD_TCP, tcp_record(<tcb_t *> sock)))
        else:
            records.append((RECORD_DATAGRAM, datagram_record(<udp_endpoint_t *> sock)))
    for i in range(REQUEST_LEVELS + 1):                # each list in its order: so they are restored
        request = c.tcp.requests[i].first if i < REQUEST_LEVELS else c.tcp.requests_due.first
        while request != NULL:
            records.append((RECORD_REQUEST, struct.pack("<I", request.listener.sock.id) + pack(TABLES["request"], request)))
            request = request.later
    tw = c.demux.tw_first
    while tw != NULL:
        records.append((RECORD_TIME_WAIT, pack(TABLES["time_wait"], tw)))
        tw = tw.next
    header = {
        "fields": {table: [[name, size] for name, _, size, _ in fields] for table, fields in TABLES.items()},
        "now": c.tcp.now_ns, "clock_shift": c.tcp.clock_shift_ns,
        "secret": (<const char *> c.tcp.secret)[:16].hex(), "random": (<const char *> c.tcp.random)[:16].hex(),
        "congestion": c.tcp.congestion.name.decode(), "next_sock_id": c.next_sock_id,
        "config": pack(TABLES["config"], &c.tcp.config).hex(),
        "counters": (<const char *> &c.tcp.counters)[:sizeof(c.tcp.counters)].hex(),
        "interfaces": [interface_state(c.interfaces[k], c.tcp.now_ns) for k in range(c.interface_count) if not c.interfaces[k].loopback],
        "routes": [[(<const char *> &c.routes.routes[k].prefix)[:16].hex(), c.routes.routes[k].prefix_length,
                    (<const char *> &c.routes.routes[k].gateway)[:16].hex(), c.routes.routes[k].interface]
                   for k in range(c.routes.count)],
        "settings": [{"addresses": list(s.addresses), "gateway": s.gateway, "mtu": s.mtu, "media": s.media, "mac": s.mac}
                     for s in stack.config.interfaces],
        "bound": bound, "output": output,
        "ip": pack(TABLES["ip"], &c.ip).hex(), "icmp_limits": limits_save(&c.ip, c.tcp.now_ns).hex(),
        "path_mtus": path_mtus(c), "fragments": fragments_save(&c.fragments, c.tcp.now_ns).hex(),
        "fast_open": {
            "keys": (<const char *> c.tcp.fast_open.keys)[:32].hex(), "key_count": c.tcp.fast_open.key_count,
            "cache": [pack(TABLES["fast_open"], &c.tcp.fast_open.cache[k]).hex()
                      for k in range(c.tcp.fast_open.cache_count)],
            "blackholes": c.tcp.fast_open.blackholes, "since": c.tcp.now_ns - c.tcp.fast_open.blackhole_ns,
        },
        "ipv6": {"bindv6only": c.bindv6only, "auto_flowlabels": c.auto_flowlabels},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    parts = [MAGIC, struct.pack("<II", len(text), len(records)), text]
    for kind, payload in records:
        parts.append(struct.pack("<HHI", kind, 0, len(payload)))
        parts.append(payload)
    return b"".join(parts)


# --- in ---------------------------------------------------------------------------------------------------------------

cdef object need(bint ok):
    if not ok:
        raise MemoryError("no memory to restore the snapshot")


cdef object restore_interface(stack_t *c, Link link, dict state, int64_t now_ns):
    cdef interface_t *ifc = stack_add_interface(c, &link.link)
    cdef address_t a
    cdef bytes raw
    need(ifc != NULL)
    ifc.mtu = min(int(state["mtu"]), ifc.mtu)
    raw = bytes.fromhex(state["mac"])
    memcpy(ifc.mac, <const char *> raw, 6)
    for text, prefix in state["addresses"]:
        raw = bytes.fromhex(text)
        memcpy(&a, <const char *> raw, 16)
        interface_add_address(ifc, &a, prefix)
    interface_restore(ifc, bytes.fromhex(state["state"]), now_ns)
    ip6_restore(ifc, state["ipv6"], now_ns)


cdef object restore_extras(tcb_t *tcb, Reader r, dict plans, int64_t shift):
    """What only some connections have: settings of their own, state of ECN, ends of records."""
    cdef bytes raw
    cdef uint32_t n
    if r.number("<B"):
        need(settings_own(tcb) != NULL)
        unpack(r, plans["settings"], tcb.settings, shift)
        if tcb.settings.fast_open_key_count > 2:
            raise SnapshotError("a listener with an impossible number of keys")
    if r.number("<B"):
        need(ecn_reserve(tcb))
        unpack(r, plans["ecn"], tcb.ecn, shift)
    elif tcb.ecn_mode != ECN_OFF:
        raise SnapshotError("a connection without the state of its ECN")
    if tcb.ecn_mode > ECN_ASKED or tcb.ecn.estimate > CE or tcb.ecn.option_least > ACCECN_FIELDS:
        raise SnapshotError("a connection with an impossible kind of ECN")
    n = r.number("<I")
    if n > MAX_RECORD_ENDS:
        raise SnapshotError("a connection with too many ends of records")
    if n:
        raw = r.take(4 * n)
        tcb.records = <records_t *> malloc(sizeof(records_t))
        need(tcb.records != NULL)
        tcb.records.count = n
        memcpy(tcb.records.ends, <const char *> raw, 4 * n)


cdef tcb_t *restore_tcp(stack_t *c, Reader r, dict plans, int64_t shift, dict families) except NULL:
    cdef tcb_t *tcb = stack_new_tcb(c)
    cdef uint32_t i, length, held
    cdef bytes raw, extended
    cdef range_t duplicate
    cdef const congestion_ops_t *ops
    need(tcb != NULL)
    unpack(r, plans["tcp"], tcb, shift)
    if tcb.route_interface != 255 and tcb.route_interface > c.interface_count or tcb.state > TIME_WAIT:
        raise SnapshotError("a connection with an impossible interface or state")
    tcb.sock.kind = SOCK_TCP
    tcb.sock.flags &= ~<uint8_t> (SF_QUEUED_EVENT | SF_BOUND)
    length = tcb.snd_len
    if length > MAX_DATA:
        raise SnapshotError("a send buffer of impossible size")
    tcb.snd_len = 0
    raw = r.take(16)
    ops = congestion_find(raw.rstrip(b"\0"))
    extended = r.take(r.number("<I"))
    tcb.cc_ops = ops if ops != NULL else congestion_default()
    if tcb.modes & TM_ORPHAN:
        c.tcp.orphans += 1
    congestion_reload(tcb, <const char *> extended, <uint32_t> len(extended) if ops != NULL else NO_SIZE, shift)
    restore_extras(tcb, r, plans, shift)
    if r.number("<B"):
        tcb.listener = <listener_t *> calloc(1, sizeof(listener_t))
        need(tcb.listener != NULL)
        unpack(r, plans["listener"], tcb.listener, shift)
        families[tcb.sock.id] = [r.number("<I") for _ in range(r.number("<I"))]
        resets = [r.number("<q") for _ in range(r.number("<I"))]
        if len(resets) > tcb.settings.fast_open_max:
            raise SnapshotError("more resets remembered than Fast Open has places")
        if resets:
            tcb.listener.resets = <int64_t *> calloc(tcb.settings.fast_open_max, sizeof(int64_t))
            need(tcb.listener.resets != NULL)
            tcb.listener.reset_capacity = tcb.settings.fast_open_max
            tcb.listener.reset_count = <uint32_t> len(resets)
            for k, until in enumerate(resets):
                tcb.listener.resets[k] = c.tcp.now_ns + until
    elif tcb.state == LISTEN:
        raise SnapshotError("a listener without a queue")
    ranges = [(r.number("<I"), r.number("<I")) for _ in range(r.number("<H"))]
    raw = r.take(length)
    if length:
        need(send_reserve(tcb, length) == 0)
        send_append(tcb, <const uint8_t *> <const char *> raw, length)
    held = r.number("<I")
    if held > MAX_DATA:
        raise SnapshotError("a receive buffer of impossible size")
    raw = r.take(held)
    recent = [tcb.sack_recent[k] for k in range(3)]
    duplicate = tcb.duplicate
    if held:
        need(receive_reserve(tcb, tcb.rcv_read + held) == 0)
        receive_store(tcb, tcb.rcv_read, <const uint8_t *> <const char *> raw, held)
    for start, end in ranges:
        length = (<uint32_t> end) - (<uint32_t> start)
        if length > MAX_DATA:
            raise SnapshotError("an out-of-order range of impossible size")
        raw = r.take(length)
        need(receive_reserve(tcb, end) == 0)
        need(range_insert(tcb, start, end) == 0)
        receive_store(tcb, start, <const uint8_t *> <const char *> raw, length)
    for k in range(3):
        tcb.sack_recent[k] = recent[k]
    tcb.duplicate = duplicate
    if r.number("<B"):
        need(recovery_reserve(tcb))
        unpack(r, plans["recovery"], tcb.rec, shift)
        restore_sent(tcb, r, shift)
    if tcb.flags & TF_IN_DEMUX:
        need(demux_insert(&c.demux, tcb) == 0)
    tcb.flags &= ~TF_OUTPUT
    timer_update(tcb)
    return tcb


cdef object restore_datagram(stack_t *c, Reader r, list plan, int64_t shift):
    cdef udp_endpoint_t *ep = <udp_endpoint_t *> calloc(1, sizeof(udp_endpoint_t))
    cdef datagram_t *d
    cdef membership_t *m
    cdef membership_t **last
    cdef bytes raw, group
    need(ep != NULL)
    udp_endpoint_init(ep)
    unpack(r, plan, ep, shift)
    ep.sock.flags &= ~<uint8_t> (SF_QUEUED_EVENT | SF_BOUND)
    if stack_register(c, &ep.sock) != 0:
        free(ep)
        need(False)
    c.raw_count += ep.sock.kind == SOCK_RAW
    for _ in range(r.number("<I")):
        d = read_datagram(r)
        if ep.last == NULL:
            ep.first = d
        else:
            ep.last.next = d
        ep.last = d
        ep.queued += 1
        ep.queued_bytes += d.length + <uint32_t> sizeof(datagram_t)
    for _ in range(r.number("<I")):
        d = read_datagram(r)
        if ep.last_error == NULL:
            ep.first_error = d
        else:
            ep.last_error.next = d
        ep.last_error = d
        ep.error_bytes += d.length + <uint32_t> sizeof(datagram_t)
    last = &ep.memberships
    for _ in range(r.number("<I")):
        group, interface, exclude, count = struct.unpack(MEMBERSHIP_FORM, r.take(struct.calcsize(MEMBERSHIP_FORM)))
        raw = r.take(16 * count)
        m = <membership_t *> calloc(1, sizeof(membership_t))
        need(m != NULL)
        last[0] = m
        last = &m.next
        memcpy(&m.group, <const char *> group, 16)
        m.interface = interface
        m.exclude = exclude
        if count:
            m.sources = <address_t *> malloc(16 * <size_t> count)
            need(m.sources != NULL)
            memcpy(m.sources, <const char *> raw, 16 * <size_t> count)
        m.source_count = count


cdef sock_t *by_id(stack_t *c, dict index, object id) except NULL:
    if id not in index:
        raise SnapshotError(f"the snapshot names a socket {id} it does not have")
    return c.socks[<uint32_t> index[id]]


cdef object restore_request(stack_t *c, dict index, Reader one, list plan, int64_t shift):
    """One half-open connection; they come in the order of their lists."""
    cdef sock_t *parent = by_id(c, index, one.number("<I"))
    cdef request_t *request
    if parent.kind != SOCK_TCP or (<tcb_t *> parent).listener == NULL:
        raise SnapshotError("a half-open connection without a listener")
    request = <request_t *> calloc(1, sizeof(request_t))
    need(request != NULL)
    unpack(one, plan, request, shift)
    request.listener = <tcb_t *> parent
    if request.interface >= c.interface_count or request.ecn > ECN_ACCURATE or request.ecn_syn > CE:
        free(request)
        raise SnapshotError("a half-open connection with an impossible interface or ECN")
    if not c.tcp.request_keep(c, request):
        free(request)
        need(False)
    request_join(request)


cdef object restore_fast_open(stack_t *c, dict state, list plan, int64_t shift):
    """Keys, what a client remembers, and black holes."""
    cdef fast_open_cache_t one
    cdef fast_open_cache_t *entry
    cdef bytes raw = bytes.fromhex(state["keys"])
    if len(raw) != 32 or not 0 <= state["key_count"] <= 2:
        raise SnapshotError("Fast Open keys of the wrong size")
    memcpy(c.tcp.fast_open.keys, <const char *> raw, 32)
    c.tcp.fast_open.key_count = state["key_count"]
    for text in state["cache"][:MAX_FAST_OPEN_CACHE]:
        raw = bytes.fromhex(text)
        memset(&one, 0, sizeof(one))
        unpack(Reader(raw), plan, &one, shift)
        if one.length > 16:
            raise SnapshotError("a Fast Open cookie of impossible size")
        entry = fast_open_remember(&c.tcp, &one.local, &one.remote)
        need(entry != NULL)
        entry[0] = one
    c.tcp.fast_open.blackholes = state["blackholes"]
    c.tcp.fast_open.blackhole_ns = c.tcp.now_ns - state["since"]


cdef object rejoin(stack_t *c, dict header, dict families, list requests, dict plans, int64_t shift):
    """Lists among the sockets: accept queues, half-open connections, bound ports, output."""
    cdef uint32_t i
    cdef tcb_t *parent
    cdef tcb_t *child
    cdef tcb_t *last
    index = {c.socks[i].id: i for i in range(c.sock_count)}
    for id, accept in families.items():
        parent = <tcb_t *> by_id(c, index, id)
        last = NULL
        for child_id in accept:
            child = <tcb_t *> by_id(c, index, child_id)
            if child.sock.kind != SOCK_TCP or child == parent or child.parent != NULL:
                raise SnapshotError("a listener's queue that is none")
            child.parent = parent
            child.sibling = NULL
            child.sibling_back = last
            if last != NULL:
                last.sibling = child
            else:
                parent.listener.accept_first = child
            last = child
            child.flags |= TF_IN_ACCEPT
            parent.listener.accept_count += 1
            parent.listener.accept_last = child
    for one in requests:
        restore_request(c, index, one, plans["request"], shift)
    for id in header["bound"]:
        if id in index:
            demux_bind(&c.demux, by_id(c, index, id))
    for id in header["output"]:
        if id in index and by_id(c, index, id).kind == SOCK_TCP:
            want_output(<tcb_t *> by_id(c, index, id))


cdef Stack restore_stack(object cls, object data, object now_ns, object links):
    """See `Stack.restore`."""
    cdef Reader r = Reader(bytes(data))
    cdef Stack stack
    cdef stack_t *c
    cdef int64_t shift
    cdef bytes raw
    cdef address_t a, gateway
    cdef tw_t tw
    cdef dict families = {}
    cdef list requests = []
    if r.take(min(len(MAGIC), len(r.data))) != MAGIC:
        raise SnapshotError("these bytes are no snapshot of a stack, or one of a version this stack does not read")
    size, count = r.number("<I"), r.number("<I")
    if count > MAX_RECORDS:
        raise SnapshotError(f"a snapshot of {count} records")
    try:
        header = json.loads(r.take(size))
        plans = plans_of(header)
        settings = tuple(InterfaceConfig(**s) for s in header["settings"])
    except (ValueError, KeyError, TypeError) as e:
        raise SnapshotError(f"the snapshot's header cannot be read: {e}") from e
    if links is not None and len(links) != len(header["interfaces"]):
        raise SnapshotError(f"{len(header['interfaces'])} interfaces need as many links, not {len(links)}")
    stack = cls.__new__(cls)
    c = stack.c
    stack.config = StackConfig(interfaces=settings)
    raw = bytes.fromhex(header["secret"]) + bytes.fromhex(header["random"])
    if len(raw) != 32:
        raise SnapshotError("secrets of the wrong size")
    stack_init(c, <const uint8_t *> <const char *> raw)
    shift = now_ns - header["now"]
    c.tcp.now_ns = now_ns
    c.tcp.clock_shift_ns = header["clock_shift"] - shift
    raw = bytes.fromhex(header["config"])
    unpack(Reader(raw), plans["config"], &c.tcp.config, 0)
    raw = bytes.fromhex(header["counters"])
    memcpy(&c.tcp.counters, <const char *> raw, min(<size_t> len(raw), sizeof(c.tcp.counters)))
    name = header["congestion"].encode()
    c.tcp.congestion = congestion_find(name) if congestion_find(name) != NULL else congestion_default()
    for i, state in enumerate(header["interfaces"]):
        link = links[i] if links is not None else QueueLink(mtu=state["mtu"], media=state["media"])
        stack.links.append(link)
        try:
            restore_interface(c, link, state, now_ns)
        except (ValueError, KeyError, TypeError) as e:
            raise SnapshotError(f"an interface of the snapshot cannot be restored: {e}") from e
    stack.add_loopback()
    raw = bytes.fromhex(header["ip"])
    unpack(Reader(raw), plans["ip"], &c.ip, shift)
    try:
        limits_restore(&c.ip, bytes.fromhex(header["icmp_limits"]), now_ns)
        fragments_restore(&c.fragments, bytes.fromhex(header["fragments"]), now_ns, c.interfaces, c.interface_count)
    except ValueError as e:
        raise SnapshotError(f"limits or fragments of the snapshot cannot be restored: {e}") from e
    restore_path_mtus(c, header["path_mtus"])
    c.bindv6only = bool(header["ipv6"]["bindv6only"])
    c.auto_flowlabels = int(header["ipv6"]["auto_flowlabels"]) & 3
    for prefix, length, text, interface in header["routes"]:
        raw = bytes.fromhex(prefix)
        memcpy(&a, <const char *> raw, 16)
        raw = bytes.fromhex(text)
        memcpy(&gateway, <const char *> raw, 16)
        route_add(&c.routes, &a, length, &gateway, interface)
    for _ in range(count):
        kind = r.number("<H")
        r.number("<H")
        length = r.number("<I")
        one = Reader(r.take(length))
        if kind == RECORD_TCP:
            restore_tcp(c, one, plans, shift, families)
        elif kind == RECORD_DATAGRAM:
            restore_datagram(c, one, plans["datagram"], shift)
        elif kind == RECORD_REQUEST:
            requests.append(one)
        elif kind == RECORD_TIME_WAIT:
            memset(&tw, 0, sizeof(tw))
            unpack(one, plans["time_wait"], &tw, shift)
            need(demux_tw_insert(&c.demux, &tw) == 0)
    c.next_sock_id = header["next_sock_id"]
    rejoin(c, header, families, requests, plans, shift)
    restore_fast_open(c, header["fast_open"], plans["fast_open"], shift)
    return stack
