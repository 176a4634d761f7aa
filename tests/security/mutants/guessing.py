"""Rows C5 to C8."""

from tests.security.mutants import Mutant

ISN = "netstack/tcp/isn.pyx"
SOCKETS = "netstack/stack/sockets.pyx"
CORE = "netstack/stack/core.pyx"

KEYED = "tcb.tcp.secret, &tcb.local, &tcb.remote, tcb.lport, tcb.rport, SALT_ISN)"

MUTANTS = [
    Mutant("C5", "the clock alone makes the number", ISN,
           "tcb.iss = clock + <uint32_t> tuple_hash(\n        " + KEYED, "tcb.iss = clock",
           ("test_c5_initial_sequence_numbers_are_as_hard_to_guess_as_the_kernels",
            "test_c5_no_line_stands_out_in_the_spectrum")),
    Mutant("C5", "no clock in it", ISN, "tcb.iss = clock + <uint32_t> tuple_hash(", "tcb.iss = <uint32_t> tuple_hash(",
           ("test_c5_one_connections_numbers_rise_with_the_clock",)),
    Mutant("C5", "the same secret for all stacks", ISN, KEYED,
           "<const uint64_t *> tcb.tcp.path_mtus, &tcb.local, &tcb.remote, tcb.lport, tcb.rport, SALT_ISN)",
           ("test_c5_another_secret_gives_other_numbers",)),
    Mutant("C5", "the ports do not enter", ISN, KEYED,
           "tcb.tcp.secret, &tcb.local, &tcb.remote, 0, 0, SALT_ISN)",
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
           "b.ecn, 64, 0, True)", "b.ecn, 64, <uint16_t> stack.tcp.counters.tcp_resets_out, True)"),
    Mutant("C7", "packets may be fragmented on the way", CORE,
           "tcb.ttl, 0, True)", "tcb.ttl, 0, False)"),
    Mutant("C8", "timestamps tell the uptime", ISN,
           "tcb.ts_offset = <uint32_t> tuple_hash(\n"
           "        tcb.tcp.secret, &tcb.local, &tcb.remote, tcb.lport, tcb.rport, SALT_TIMESTAMP)",
           "tcb.ts_offset = 0",
           ("test_c8_timestamps_do_not_tell_the_uptime_nor_each_other",)),
    Mutant("C8", "the offset is new for each incarnation", ISN,
           "tcb.lport, tcb.rport, SALT_TIMESTAMP)",
           "tcb.lport, tcb.rport, SALT_TIMESTAMP) + <uint32_t> random_next(tcb.tcp.random)",
           ("test_c8_reconnecting_under_the_same_names_goes_on_with_the_same_clock",)),
    Mutant("C8", "the clock ticks every 4 ms", ISN,
           "<uint64_t> (tcb.tcp.now_ns + tcb.tcp.clock_shift_ns) // NS_PER_MS) + tcb.ts_offset",
           "<uint64_t> (tcb.tcp.now_ns + tcb.tcp.clock_shift_ns) // (4 * NS_PER_MS)) + tcb.ts_offset",
           ("test_c8_the_clock_of_a_connection_ticks_in_milliseconds",)),
]
