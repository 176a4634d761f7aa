"""Rows A6 to A8."""

from tests.security.mutants import Mutant

TCP = "netstack/wire/tcp.pyx"
INPUT = "netstack/tcp/input.pyx"

MUTANTS = [
    Mutant("A6", "a data offset below 5 words is taken", TCP,
           "if header_length < 20 or header_length > segment_length or header_length > available:",
           "if header_length > segment_length or header_length > available:"),
    Mutant("A6", "a data offset beyond the segment is taken", TCP,
           "if header_length < 20 or header_length > segment_length or header_length > available:",
           "if header_length < 20:"),
    Mutant("A7", "an option of length 1 is taken", TCP,
           "if size < 2 or i + size > n:", "if size < 1 or i + size > n:",
           ("test_a7_every_option_kind_and_length_at_every_offset_ends_the_walk_or_is_read_right",)),
    Mutant("A7", "an option of length 0 is taken: the walk does not end", TCP,
           "if size < 2 or i + size > n:", "if size == 1 or i + size > n:",
           ("test_a7_every_option_kind_and_length_at_every_offset_ends_the_walk_or_is_read_right",)),
    Mutant("A7", "an option that reaches past the end is read", TCP,
           "if size < 2 or i + size > n:", "if size < 2:",
           ("test_a7_every_option_kind_and_length_at_every_offset_ends_the_walk_or_is_read_right",)),
    Mutant("A7", "an MSS option of any length is read", TCP,
           "if kind == OPT_MSS and size == 4:", "if kind == OPT_MSS:",
           ("test_a7_every_option_kind_and_length_at_every_offset_ends_the_walk_or_is_read_right",)),
    Mutant("A7", "a window shift above 14 is believed", TCP,
           "p[i + 2] if p[i + 2] <= 14 else 14", "p[i + 2]",
           ("test_a7_every_option_kind_and_length_at_every_offset_ends_the_walk_or_is_read_right",)),
    Mutant("A7", "SACK blocks that are no multiple of 8 bytes are read", TCP,
           "size >= 10 and (size - 2) % 8 == 0", "size >= 10",
           ("test_a7_every_option_kind_and_length_at_every_offset_ends_the_walk_or_is_read_right",)),
    Mutant("A8", "the urgent pointer takes a byte out of the stream", INPUT,
           "cdef uint32_t start = seg.seq, end = seg.seq + seg.length, before",
           "cdef uint32_t start = seg.seq, end = seg.seq + seg.length - "
           "(1 if seg.urgent and seg.urgent <= seg.length else 0), before"),
    Mutant("A8", "the urgent pointer skips data", INPUT,
           "cdef const uint8_t *data = seg.payload\n",
           "cdef const uint8_t *data = seg.payload + (seg.urgent if seg.urgent < seg.length else 0)\n"),
    Mutant("A8", "an overlap is not cut off", INPUT,
           "data += tcb.rcv_nxt - start\n        start = tcb.rcv_nxt", "start = tcb.rcv_nxt",
           ("test_a8_an_urgent_pointer_drives_nothing",)),
]
