"""Rows C1 to C4, C9 to C11, C13."""

from tests.security.mutants import Mutant

INPUT = "netstack/tcp/input.pyx"
CORE = "netstack/stack/core.pyx"
DATAGRAMS = "netstack/stack/datagrams.pyx"
MTU = "netstack/tcp/mtu.pyx"

EDGES = "if seq_gt(seg.ack, tcb.snd_nxt) or seq_lt(seg.ack, tcb.snd_una - tcb.max_snd_wnd):"
OUTSTANDING = ("if (seq_lt(m.embedded_seq, tcb.snd_una) or seq_ge(m.embedded_seq, tcb.snd_nxt)) and not (\n"
               "            tcb.state == SYN_SENT and m.embedded_seq == tcb.iss):\n        return\n")
NAMES = "if mtu < floor or mtu >= mtu_of(tcb) or tcb.snd_nxt - seq <= mtu - head - options:"
QUOTED = "if seq_lt(seq, tcb.snd_una) or not seq_lt(seq, tcb.snd_nxt):"

MUTANTS = [
    Mutant("C1", "a RST counts anywhere in the window", INPUT,
           "if seg.seq != tcb.rcv_nxt:\n        challenge(tcb)\n        return DROP_TCP_SEQUENCE\n    tcb.tcp.counters",
           "tcb.tcp.counters"),
    Mutant("C1", "a RST beside RCV.NXT is dropped in silence", INPUT,
           "if seg.seq != tcb.rcv_nxt:\n        challenge(tcb)\n        return DROP_TCP_SEQUENCE\n    tcb.tcp.counters",
           "if seg.seq != tcb.rcv_nxt:\n        return DROP_TCP_SEQUENCE\n    tcb.tcp.counters"),
    Mutant("C1", "a RST outside of the window is answered", INPUT,
           "if seg.flags & RST:\n            return DROP_TCP_SEQUENCE\n", "pass\n"),
    Mutant("C1", "a RST at the right edge is in the window", INPUT,
           "(not seg.flags & RST or window == 0 or seg.seq != tcb.rcv_nxt + window)", "True"),
    Mutant("C2", "a SYN in the window is not challenged", INPUT,
           "if not seg.flags & SYN:\n        return DROP_NONE\n    challenge(tcb)\n    return DROP_TCP_FLAGS",
           "return DROP_NONE"),
    Mutant("C2", "a SYN outside of the window is taken for an old segment", INPUT,
           "challenge(tcb)\n            return DROP_TCP_SEQUENCE\n        if length and",
           "pass\n        if length and"),
    Mutant("C3", "an ACK of what was never sent is taken", INPUT,
           EDGES, "if seq_lt(seg.ack, tcb.snd_una - tcb.max_snd_wnd):"),
    Mutant("C3", "any old ACK is taken", INPUT, EDGES, "if seq_gt(seg.ack, tcb.snd_nxt):"),
    Mutant("C3", "the upper edge is one too low", INPUT,
           EDGES, "if seq_ge(seg.ack, tcb.snd_nxt) or seq_lt(seg.ack, tcb.snd_una - tcb.max_snd_wnd):"),
    Mutant("C3", "the lower edge is one too high", INPUT,
           EDGES, "if seq_gt(seg.ack, tcb.snd_nxt) or seq_le(seg.ack, tcb.snd_una - tcb.max_snd_wnd):"),
    Mutant("C3", "header prediction does not look at the ACK", INPUT,
           "seg.ack - tcb.snd_una > tcb.snd_nxt - tcb.snd_una or ", ""),
    Mutant("C4", "one limit for all connections", INPUT,
           "if tcb.challenge_count >= tcb.tcp.config.challenge_ack_limit:",
           "if tcb.tcp.counters.tcp_challenge_acks >= tcb.tcp.config.challenge_ack_limit:"),
    Mutant("C4", "no limit", INPUT,
           "if tcb.challenge_count >= tcb.tcp.config.challenge_ack_limit:\n        return\n", "pass\n"),
    Mutant("C4", "a limit that never comes back", INPUT,
           "if now - tcb.challenge_ns >= NS_PER_S or tcb.challenge_ns == 0:", "if tcb.challenge_ns == 0:"),
    Mutant("C9", "a RST ends TIME-WAIT", CORE,
           "if seg.flags & RST:\n        return DROP_TCP_FLAGS\n    if seg.flags & SYN and not seg.flags & ACK:",
           "if seg.flags & RST:\n        demux_tw_remove(&stack.demux, tw)\n        return DROP_TCP_FLAGS\n"
           "    if seg.flags & SYN and not seg.flags & ACK:",
           ("test_c9_time_wait_is_not_assassinated",)),
    Mutant("C9", "any SYN takes the names over", CORE,
           "if later > 0 or (later == 0 and seq_gt(seg.seq, tw.rcv_nxt)):", "if True:"),
    Mutant("C9", "a SYN with an older timestamp takes the names over", CORE,
           "if later > 0 or (later == 0 and seq_gt(seg.seq, tw.rcv_nxt)):", "if seq_gt(seg.seq, tw.rcv_nxt):",
           ("test_c9_only_a_newer_syn_takes_the_names_over",)),
    Mutant("C9", "any segment restarts the time", CORE,
           "if seg.flags & FIN and seg.seq + seg.length + 1 == tw.rcv_nxt:", "if True:",
           ("test_c9_time_wait_is_not_assassinated",)),
    Mutant("C10", "a report needs not quote what is outstanding", DATAGRAMS, OUTSTANDING, "pass\n"),
    Mutant("C10", "a hard error ends an established connection", DATAGRAMS,
           "if tcb.state == SYN_SENT and hard:", "if hard:",
           ("test_c10_hard_icmp_errors_are_soft_once_the_connection_stands",)),
    Mutant("C11", "no size is too small", MTU, NAMES,
           "if mtu >= mtu_of(tcb) or tcb.snd_nxt - seq <= mtu - head - options:",
           ("test_c11_a_path_mtu_no_path_may_have_is_ignored",)),
    Mutant("C11", "a size above what is sent is believed", MTU, NAMES,
           "if mtu < floor or tcb.snd_nxt - seq <= mtu - head - options:",
           ("test_c11_a_path_mtu_no_path_may_have_is_ignored",)),
    Mutant("C11", "the report needs no segment of that size", MTU, NAMES, "if mtu < floor or mtu >= mtu_of(tcb):",
           ("test_c11_only_a_segment_that_large_can_have_been_too_large",)),
    Mutant("C11", "the quoted number may lie below what is outstanding", MTU, QUOTED,
           "if not seq_lt(seq, tcb.snd_nxt):",
           ("test_c11_a_report_about_data_that_is_not_outstanding_is_ignored",)),
    Mutant("C11", "the quoted number may lie beyond what was sent", MTU, QUOTED, "if seq_lt(seq, tcb.snd_una):",
           ("test_c11_a_report_about_data_that_is_not_outstanding_is_ignored",)),
    Mutant("C11", "what is believed is believed for ever", MTU,
           "if tcb.pmtu and tcb.tcp.now_ns >= tcb.pmtu_until_ns:", "if False:",
           ("test_c11_what_is_believed_ages_ten_minutes",)),
    Mutant("C13", "a SYN,ACK of anything is taken", INPUT,
           "    if seg.flags & ACK:\n        if seq_le(seg.ack, tcb.iss) or seq_gt(seg.ack, tcb.snd_nxt):",
           "    if seg.flags & ACK:\n        if False:",
           ("test_c13_a_syn_ack_of_something_else_is_reset",)),
    Mutant("C13", "an ACK alone opens", INPUT,
           "if not seg.flags & SYN:\n        return DROP_TCP_FLAGS\n    tcb.irs = seg.seq", "tcb.irs = seg.seq",
           ("test_c13_a_split_handshake_is_a_simultaneous_open_and_nothing_else",)),
    Mutant("C13", "a crossing SYN opens at once", INPUT,
           "tcb.state = SYN_RCVD\n        tcb.rtx_nxt = tcb.iss", "connection_established(tcb)",
           ("test_c13_crossing_syns_become_one_connection",)),
]
