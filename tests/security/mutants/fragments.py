"""Rows B2 to B7, C12 and G5: pieces, numbers of datagrams, limits of errors."""

from tests.security.mutants import Mutant

REASSEMBLY = "netstack/ip/reassembly.pyx"
SHARED = "netstack/ip/shared.pyx"

MUTANTS = [
    Mutant("B2", "a piece may reach into the one behind it", REASSEMBLY,
           "(at < d.count and offset + length > d.pieces[at].offset)", "(False)"),
    Mutant("B2", "a piece may begin in the one before it", REASSEMBLY,
           "(at > 0 and d.pieces[at - 1].offset + d.pieces[at - 1].length > offset)", "(False)"),
    Mutant("B2", "a copy may have other bytes", REASSEMBLY,
           "memcmp(p.memory + (d.head_length if p.offset == 0 else 0), data, length) == 0", "True",
           ("test_b2_an_exact_copy_is_passed_over_and_one_with_another_byte_is_not",)),
    Mutant("B2", "what comes after an overlap is a datagram again", REASSEMBLY, "    d.dead = 1\n", "    d.dead = 0\n"),
    Mutant("B3", "the first piece may cut TCP's header", REASSEMBLY,
           "return length < 20 or length < <uint32_t> (data[12] >> 4) * 4", "return False"),
    Mutant("B3", "a piece at offset 8 may hold TCP's flags", REASSEMBLY,
           "return protocol == PROTOCOL_TCP and offset < 20", "return False"),
    Mutant("B4", "a piece may reach beyond the largest datagram", REASSEMBLY, " or offset + length > most:", ":",
           ("test_b4_a_piece_beyond_the_largest_datagram_is_dropped",)),
    Mutant("B4", "a piece that is not the last may have any length", REASSEMBLY,
           "(packet.fragment.more and length & 7) or ", "",
           ("test_b4_pieces_that_are_not_the_last_are_multiples_of_eight",)),
    Mutant("B6", "bytes are not bounded", REASSEMBLY, "while r.bytes > r.high_bytes:", "while False:"),
    Mutant("B6", "a source may have any number of datagrams", REASSEMBLY,
           "if r.sources[list].count >= REASSEMBLY_PER_SOURCE:", "if False:",
           ("test_b6_a_flood_of_unfinished_datagrams_takes_bounded_memory_and_delays_nobody[1]",)),
    Mutant("B7", "numbers count for all", SHARED, "return <uint16_t> permuted(ip, src, dst, 8)",
           "ip.id_counters[0] += 1\n    return <uint16_t> ip.id_counters[0]"),
    Mutant("B7", "numbers of two hosts go through one permutation", SHARED,
           "key[0] = pair_hash(ip, src, dst, SALT_ID)", "key[0] = 7",
           ("test_b7_a_second_host_learns_nothing_from_the_numbers_it_gets",)),
    Mutant("C12", "a host may use up the share of all", SHARED, "if place.next_ns + wait > now_ns:", "if False:",
           ("test_c12_a_scan_with_forged_sources_reveals_no_open_port",)),
    Mutant("C12", "the share of all can be counted", SHARED, "chance = random_next(ip.random) >> 32", "chance = 0",
           ("test_c12_the_share_of_all_is_random",)),
    Mutant("G5", "errors to all hosts are not limited", SHARED, "if all_ns[0] + step > now_ns:", "if False:",
           ("test_g5_errors_to_all_hosts_are_limited_to_a_burst_and_a_thousand_a_second",)),
]
