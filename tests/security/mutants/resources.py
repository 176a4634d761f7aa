"""Rows D4 to D15 and E1."""

from tests.security.mutants import Mutant

INPUT = "netstack/tcp/input.pyx"
CORE = "netstack/stack/core.pyx"
ACK = "netstack/tcp/ack.pyx"
BUFFERS = "netstack/tcp/buffers.pyx"
CONNECTION = "netstack/tcp/connection.pyx"
OUTPUT = "netstack/tcp/output.pyx"
RANGES = "netstack/tcp/ranges.pyx"

VALID = "if not seq_lt(start, end) or seq_lt(start, tcb.snd_una) or seq_gt(end, tcb.snd_nxt) or rec.sent_count == 0:"
EDGES = "if seq_gt(seg.ack, tcb.snd_nxt) or seq_lt(seg.ack, tcb.snd_una - tcb.max_snd_wnd):"

MUTANTS = [
    Mutant("D4", "buffers without a bound", BUFFERS,
           "if tcp.buffer_bytes + capacity > tcp.config.mem_max:\n        return NULL\n", "pass\n"),
    Mutant("D4", "nobody is ended when memory is short", CORE,
           "tcp.counters.tcp_memory_aborts += 1\n            connection_abort(tcb, ETIMEDOUT, True)\n"
           "            send_forget(tcb)", "continue"),
    Mutant("D4", "who moves data is ended, too", CORE,
           "tcb.state < ESTABLISHED or not tcb.flags & TF_PERSIST or tcb.snd_wnd:", "tcb.state < ESTABLISHED:"),
    Mutant("D5", "an orphan waits in FIN-WAIT-2 for ever", INPUT,
           "tcb.state_deadline = tcb.tcp.now_ns + fin_timeout_ns(tcb)", "pass",
           ("test_d5_what_a_vanished_peer_leaves_is_freed_at_the_set_time",)),
    Mutant("D5", "a socket closed in FIN-WAIT-2 waits for ever", CONNECTION,
           "tcb.state_deadline = tcp.now_ns + fin_timeout_ns(tcb)", "pass",
           ("test_d5_what_a_vanished_peer_leaves_is_freed_at_the_set_time",)),
    Mutant("D5", "an orphan tries as often as others", OUTPUT,
           "return tcb.tcp.config.orphan_retries", "return tcb.tcp.config.retries2",
           ("test_d5_what_a_vanished_peer_leaves_is_freed_at_the_set_time",)),
    Mutant("D5", "TIME-WAIT takes ten times as long", CORE,
           "stack.tcp.now_ns + <int64_t> stack.tcp.config.time_wait_ms * NS_PER_MS,\n"
           "                    stack.tcp.config",
           "stack.tcp.now_ns + <int64_t> stack.tcp.config.time_wait_ms * 10 * NS_PER_MS,\n"
           "                    stack.tcp.config",
           ("test_d5_what_a_vanished_peer_leaves_is_freed_at_the_set_time",)),
    Mutant("D5", "orphans without number", CONNECTION,
           "if tcp.orphans > tcp.config.max_orphans:", "if False:", ("test_d5_orphans_are_limited_in_number",)),
    Mutant("D6", "blocks are looked up from the front", ACK,
           "cdef uint32_t i = scoreboard_find(tcb, start), last = i + DSACK_RECORDS\n",
           "cdef uint32_t i = 0, last = DSACK_RECORDS\n"
           "    while i < rec.sent_count and not seq_gt(sent_at(tcb, i).end, start):\n"
           "        i += 1\n        tcb.tcp.counters.tcp_sack_steps += 1\n"),
    Mutant("D6", "every block is walked through anew", ACK,
           "if seq_gt(r.end, end):\n            break\n", "pass\n"),
    Mutant("D6", "no floor below the peer's MSS", CONNECTION, "if mss < tcp.config.min_snd_mss:", "if False:"),
    Mutant("D7", "no floor below the peer's MSS", CONNECTION, "if mss < tcp.config.min_snd_mss:", "if False:"),
    Mutant("D7", "an MSS of 0 is taken as it is", CONNECTION, "seg.mss if seg.mss else 536", "seg.mss"),
    Mutant("D8", "pieces without number", RANGES, "if tcb.range_count >= MAX_RANGES:\n        return -1\n", "pass\n"),
    Mutant("D9", "a block below SND.UNA is taken", ACK, VALID,
           "if not seq_lt(start, end) or seq_gt(end, tcb.snd_nxt) or rec.sent_count == 0:"),
    Mutant("D9", "a block beyond SND.NXT is taken", ACK, VALID,
           "if not seq_lt(start, end) or seq_lt(start, tcb.snd_una) or rec.sent_count == 0:"),
    Mutant("D9", "a segment counts when a part of it is covered", ACK,
           "if seq_gt(r.end, end):\n            break\n", "if not seq_lt(r.start, end):\n            break\n"),
    Mutant("D10", "an ACK of what was never sent is taken", INPUT,
           EDGES, "if seq_lt(seg.ack, tcb.snd_una - tcb.max_snd_wnd):"),
    Mutant("D11", "acknowledgements count, not bytes", ACK,
           "rs.acked = <uint32_t> newly if a.flags & ACK_ADVANCED else 0",
           "rs.acked = tcb.cc.mss if a.flags & ACK_ADVANCED else 0",
           ("test_d11_splitting_an_acknowledgement_grows_the_window_no_faster",)),
    Mutant("D11", "duplicates stand for segments without bound", "netstack/tcp/recovery.pyx",
           "if rec.sacked_out + 1 + holes > most:\n        return\n", "pass\n",
           ("test_d11_invented_duplicates_send_no_more_than_is_out",)),
    Mutant("D12", "new data goes beyond the window", OUTPUT,
           "if seq_lt(tcb.snd_una + tcb.snd_wnd, seq):\n        offered = 0\n", "pass\n"),
    Mutant("D12", "a smaller window is not believed", ACK,
           "tcb.snd_wnd = window\n    if window > tcb.max_snd_wnd:",
           "if window > tcb.snd_wnd:\n        tcb.snd_wnd = window\n    if window > tcb.max_snd_wnd:"),
    Mutant("D13", "the table's hash has no key", "netstack/demux.pyx",
           "return <uint32_t> tuple_hash(tcp.secret, local, remote, lport, rport, SALT_DEMUX)",
           "return ((rport * 31 + lport) & 0x3FF) << 6"),
    Mutant("D14", "an echo may be as old as it likes", ACK, "if ms < 0 or ms >= TS_LIMIT_MS:", "if ms < 0:",
           ("test_d14_a_forged_echo_does_not_move_the_rto_out_of_its_bounds",)),
    Mutant("D14", "the RTO has no upper bound", "netstack/tcp/rtt.pyx",
           "tcb.rto_ns = tcb.srtt_ns + spread\n    if tcb.rto_ns > <int64_t> RTO_MAX_S * NS_PER_S:\n"
           "        tcb.rto_ns = <int64_t> RTO_MAX_S * NS_PER_S\n", "tcb.rto_ns = tcb.srtt_ns + spread\n"),
    Mutant("D14", "the RTO has no lower bound", "netstack/tcp/rtt.pyx", "if spread < floor:", "if False:"),
    Mutant("D15", "segments are counted in 16 bits", CORE,
           "stack.tcp.counters.tcp_segments_in += 1",
           "stack.tcp.counters.tcp_segments_in = <uint16_t> (stack.tcp.counters.tcp_segments_in + 1)"),
    Mutant("D15", "pieces out of order are counted in 16 bits", INPUT,
           "tcb.tcp.counters.tcp_out_of_order += 1",
           "tcb.tcp.counters.tcp_out_of_order = <uint16_t> (tcb.tcp.counters.tcp_out_of_order + 1)"),
    Mutant("E1", "acknowledgements are delayed for ever", OUTPUT,
           "tcb.ack_deadline = 0\n        tcb.flags |= TF_ACK_NOW\n        want_output(tcb)\n    if tcb.pace_deadline",
           "tcb.ack_deadline = 0\n    if tcb.pace_deadline"),
    Mutant("E1", "nothing is sent again", OUTPUT,
           "if tcb.rtx_deadline and tcb.rtx_deadline <= now:\n        on_retransmit_timer(tcb)",
           "if tcb.rtx_deadline and tcb.rtx_deadline <= now:\n        tcb.rtx_deadline = 0"),
    Mutant("E1", "a closed window is not probed", OUTPUT,
           "tcb.flags |= TF_PROBE\n        rto_backoff(tcb)", "rto_backoff(tcb)"),
    Mutant("E1", "no keepalive", OUTPUT,
           "if tcb.keepalive_deadline and tcb.keepalive_deadline <= now:\n        on_keepalive_timer(tcb)",
           "if tcb.keepalive_deadline and tcb.keepalive_deadline <= now:\n        tcb.keepalive_deadline = 0"),
    Mutant("E1", "keepalive probes do not wait for each other", OUTPUT,
           "tcb.keepalive_deadline = now + interval", "tcb.keepalive_deadline = now + NS_PER_MS"),
]
