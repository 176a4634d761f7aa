"""Rows C5 to C8."""

from tests.security.mutants import Mutant

ISN = "netstack/tcp/isn.pyx"
SOCKETS = "netstack/stack/sockets.pyx"
CORE = "netstack/stack/core.pyx"

KEYED = "tuple_hash(tcp.secret, local, remote, lport, rport, SALT_ISN)"

MUTANTS = [
    Mutant("C5", "the clock alone makes the number", ISN,
           "return clock + <uint32_t> " + KEYED, "return clock",
           ("test_c5_initial_sequence_numbers_are_as_hard_to_guess_as_the_kernels",
            "test_c5_no_line_stands_out_in_the_spectrum")),
    Mutant("C5", "no clock in it", ISN, "return clock + <uint32_t> tuple_hash(", "return <uint32_t> tuple_hash(",
           ("test_c5_one_connections_numbers_rise_with_the_clock",)),
    Mutant("C5", "the same secret for all stacks", ISN, KEYED,
           "tuple_hash(<const uint64_t *> tcp.path_mtus, local, remote, lport, rport, SALT_ISN)",
           ("test_c5_another_secret_gives_other_numbers",)),
    Mutant("C5", "the ports do not enter", ISN, KEYED,
           "tuple_hash(tcp.secret, local, remote, 0, 0, SALT_ISN)",
           ("test_c5_initial_sequence_numbers_are_as_hard_to_guess_as_the_kernels",
            "test_c5_no_line_stands_out_in_the_spectrum")),
    Mutant("C6", "one port after the other", SOCKETS,
           "tcb.lport = <uint16_t> (first + random_below(&stack.tcp, n))",
           "tcb.lport = <uint16_t> (first + stack.tcp.counters.tcp_active_opens % n)"),
    Mutant("C6", "the destination's hash and a counter", SOCKETS,
           "tcb.lport = <uint16_t> (first + random_below(&stack.tcp, n))",
           "tcb.lport = <uint16_t> (first + (demux_hash(&stack.tcp, &tcb.local, &tcb.remote, 0, tcb.rport) + "
           "2 * stack.tcp.counters.tcp_active_opens) % n)",
           ("test_c6_ports_towards_a_second_destination_tell_nothing",)),
    Mutant("C7", "packets are counted in the identification", CORE,
           "tcb.ttl, 0, True)", "tcb.ttl, <uint16_t> stack.tcp.counters.packets_out, True)"),
    Mutant("C7", "resets are counted in the identification", CORE,
           "b.tos | b.ecn, ttl, 0, True)",
           "b.tos | b.ecn, ttl, <uint16_t> stack.tcp.counters.tcp_resets_out, True)"),
    Mutant("C7", "packets may be fragmented on the way", CORE,
           "tcb.ttl, 0, True)", "tcb.ttl, 0, False)"),
    Mutant("C8", "timestamps tell the uptime", ISN,
           "return <uint32_t> tuple_hash(tcp.secret, local, remote, lport, rport, SALT_TIMESTAMP)", "return 0",
           ("test_c8_timestamps_do_not_tell_the_uptime_nor_each_other",)),
    Mutant("C8", "the offset is new for each incarnation", ISN,
           "lport, rport, SALT_TIMESTAMP)",
           "lport, rport, SALT_TIMESTAMP) + <uint32_t> random_next((<tcp_t *> tcp).random)",
           ("test_c8_reconnecting_under_the_same_names_goes_on_with_the_same_clock",)),
    Mutant("C8", "the clock ticks every 4 ms", ISN,
           "<uint64_t> (tcp.now_ns + tcp.clock_shift_ns) // NS_PER_MS)",
           "<uint64_t> (tcp.now_ns + tcp.clock_shift_ns) // (4 * NS_PER_MS))",
           ("test_c8_the_clock_of_a_connection_ticks_in_milliseconds",)),
]
