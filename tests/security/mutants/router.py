"""Rows I1 to I6 and F18: what stacks on a router may do to each other and to its uplinks; lost uplinks."""

from tests.security.mutants import Mutant

ATTACHMENTS = "netstack/router/attachments.py"
FAIR = "netstack/router/fair.pyx"
JUDGING = "netstack/router/judging.pyx"
LIMIT = "netstack/router/limit.pyx"
POLICING = "netstack/router/policing.pyx"
PORT = "netstack/router/port.pyx"
REPLIES = "netstack/router/replies.pyx"
ROUNDS = "netstack/router/rounds.pyx"
ROUTING = "netstack/router/routing.pyx"
STEERING = "netstack/router/steering.pyx"
UPLINKS = "netstack/router/uplink_group.py"

OWN_PORTS_ONLY = ("test_i1_a_sharer_sends_from_its_own_ports_only",)

IPV6_SOURCES = ("test_i1_a_stack_sends_from_its_own_ipv6_addresses_only",)

AS_MUCH_WORK = ("test_i3_a_stack_that_costs_much_gets_as_much_work_as_one_that_does_not",)

DEBTS = ("test_i3_a_debt_is_paid_by_rounds_in_which_others_have_work",)

RATES = ("test_i3_in_any_time_no_more_leaves_than_rate_and_burst",)

BLOCKS = ("test_i1_a_stack_sends_from_its_block_and_no_other_does",)

NO_ERROR = ("test_g3_no_error_about_an_error_and_what_may_be_one",)

MUTANTS = [
    Mutant("D10", "what is acknowledged too early is not looked at by the router", JUDGING,
           "    if seq_gt(s.ack, other.delivered) or (", "    if (",
           ("test_d10_what_waits_in_the_router_was_not_handed_over",)),
    Mutant("D10", "what the router dropped may be acknowledged", JUDGING,
           " or (other.has_hole and seq_gt(s.ack, other.hole))", "",
           ("test_d10_what_the_router_dropped_cannot_be_acknowledged",)),
    Mutant("D10", "what was sent again is still missing", JUDGING,
           "    if half.has_hole and seq_lt(s.seq, half.hole_end) and seq_gt(behind, half.hole):\n",
           "    if False:\n", ("test_d10_what_was_dropped_and_sent_again_can_be",)),
    Mutant("D10", "segments with a bad checksum speak against their sender", JUDGING,
           "(other.optimistic == 0 or seq_gt(s.ack, other.claimed)) and is_sound(s, p):",
           "(other.optimistic == 0 or seq_gt(s.ack, other.claimed)):",
           ("test_d10_what_proves_nothing_is_not_held_against_anybody",)),
    Mutant("D10", "a header that ends in a record's body is not looked at", ROUTING,
           "        pull(f, p)\n        verdict = police_judge(f.police, src, p, f.now_ns)\n", "        return True\n",
           ("test_d10_no_head_hides_an_acknowledgement_of_what_was_not_handed_over",)),
    Mutant("D10", "what is handed on is looked at where its header ended before", POLICING,
           "    p.header_length = p.head_length = headers\n", "    p.head_length = headers\n",
           ("test_d10_the_honest_may_lay_their_headers_as_they_like",)),
    Mutant("D10", "what cannot be read passes", ROUTING, "    return verdict == PASS\n",
           "    return verdict == PASS or verdict == HIDDEN\n",
           ("test_d10_what_cannot_be_read_passes_nobody_and_frees_nobody",)),
    Mutant("D11", "each acknowledgement is one more than there should be", JUDGING,
           "    cdef bint there = other.credit or other.credit_next\n", "    cdef bint there = False\n",
           ("test_d11_an_acknowledgement_for_each_segment_is_not_too_often",)),
    Mutant("D11", "acknowledgements are not counted by the router", JUDGING, "            other.divided += 1\n", "",
           ("test_d11_more_acknowledgements_than_segments_are_found_at_the_sixteenth",)),
    Mutant("G3", "the router complains about errors", REPLIES,
           "    return not is_icmp(&r, h) or (r.at < n and may_be_answered(h, h[r.at]))\n",
           "    return True\n", NO_ERROR),
    Mutant("G3", "the router complains about later pieces", REPLIES,
           "    if not read_header(h, n, &r) or r.part == LATER:\n", "    if not read_header(h, n, &r):\n", NO_ERROR),
    Mutant("I1", "any source passes", ROUTING, "    return src.outside and is_outside(f, source)\n",
           "    return True\n", IPV6_SOURCES),
    Mutant("I1", "half an address is enough", ROUTING, "        if address_equal(source, &src.addresses[i]):\n",
           "        if source.lo == src.addresses[i].lo:\n", ("test_i1_no_bit_of_an_ipv6_source_may_differ",)),
    Mutant("I1", "who had an address may send from it", ROUTING, "            if src.epochs[i] == 0:\n",
           "            if src.epochs[i] == 77:\n", ("test_i1_an_ipv6_address_that_moved_on_is_no_source_any_more",)),
    Mutant("I1", "all blocks are everybody's", ROUTING, "hop.kind == HOP_STACK and hop.port == src and table_find",
           "hop.kind == HOP_STACK and table_find", BLOCKS),
    Mutant("I1", "addresses in a block that others have are its owner's", ROUTING,
           "hop.port == src and table_find(&f.table, source) == NULL:", "hop.port == src:", BLOCKS),
    Mutant("I1", "sharers of an address send from any port", ROUTING,
           "verdict[0] = steer_out(f, src, p)\n", "verdict[0] = FORWARDED\n", OWN_PORTS_ONLY),
    Mutant("I1", "ports are nobody's", STEERING,
           "    elif not owns(f, src, &names):\n        return <int> DROP_SPOOFED\n", "", OWN_PORTS_ONLY),
    Mutant("I1", "errors are sent about what came to others", STEERING,
           "&names) or not owns(f, src, &names):", "&names):", OWN_PORTS_ONLY),
    Mutant("I1", "an error may be about any packet", STEERING,
           "    if not address_equal(&inner.dst if outward else &inner.src, &r.src if outward else &r.dst):\n"
           "        return False\n", "", OWN_PORTS_ONLY),
    Mutant("I1", "echo replies leave though the router answers", STEERING,
           "        if not is_echo(h, h[r.at], True) or not flow_learn", "        if not flow_learn", OWN_PORTS_ONLY),
    Mutant("I1", "a protocol is everybody's", STEERING,
           "names.lport, 0, f.now_ns) != 0:", "names.lport, 0, f.now_ns) == 7:", OWN_PORTS_ONLY),
    Mutant("I1", "a member speaks on any flow of its group", STEERING,
           "    elif f.claims.numbers[names.kind][names.lport].group != NULL and (", "    elif False and (",
           ("test_i1_a_member_does_not_speak_on_the_flows_of_another",)),
    Mutant("I1", "later pieces pass", STEERING,
           "return ALLOWED if piece_port(f, &r, True) == src else <int> DROP_PIECE", "return ALLOWED",
           ("test_i1_pieces_pass_behind_a_first_one_of_ones_own_only",)),
    Mutant("I1", "an identifier in use is anybody's", "netstack/router/claims.pyx",
           "        elif names.kind != CLAIM_ECHO or now_ns - flow.used_ns < ECHO_NS:\n            return False\n", "",
           ("test_i1_an_echo_of_the_same_identifier_is_anothers_until_it_is_old",)),
    Mutant("I2", "a private copy of a packet costs nothing", ROUTING,
           "    charge(f, p.head_length + p.body_length)\n    p.stays = False\n", "    p.stays = False\n",
           ("test_i2_who_lays_headers_in_two_pays_for_the_copy",)),
    Mutant("I3", "calls of the system cost nothing", ROUTING,
           "        charge(f, (uplink_of(port).calls - before) * COST_CALL)\n        port.dirty = True\n",
           "        port.dirty = True\n", AS_MUCH_WORK),
    Mutant("I3", "doorbells cost nothing", ROUTING,
           "            charge(f, (port.counters.kicks - before) * COST_KICK)\n", "", AS_MUCH_WORK),
    Mutant("I3", "a turn goes on whatever it costs", ROUTING, "    while n < BATCH and left > f.charged:\n",
           "    while n < BATCH and left > 0:\n",
           DEBTS),
    Mutant("I3", "nobody owes anything", ROUTING, " and not (port.debt and budget_deferred(f, port)):", ":", DEBTS),
    Mutant("I3", "who owes waits though nobody else has anything", ROUNDS, "    if total == 0 and budget_forgive(f):\n",
           "    if False:\n", ("test_i3_nobody_waits_while_others_have_nothing",)),
    Mutant("I3", "a limit is asked of nobody", ROUTING, "        if limit != NULL and not limit_take(",
           "        if False and not limit_take(", RATES),
    Mutant("I3", "more is saved up than the bucket holds", LIMIT,
           "    if took_ns > (t.depth - t.parts) // t.rate:          # the product could be larger than the word\n",
           "    if False:\n", ("test_i3_no_more_is_saved_up_than_the_bucket_holds",)),
    Mutant("I3", "packets cost no tokens", "netstack/router/limit.pxd", "    l.packets.parts -= packets\n", "", RATES),
    Mutant("I3", "each change fills the bucket", LIMIT, "    elif t.rate == 0 or t.parts > depth:\n", "    else:\n",
           ("test_i3_changing_a_limit_again_and_again_gives_no_second_burst",)),
    Mutant("I2", "all sources wait in one queue", FAIR, "cdef flow_t *flow = flow_of(fair, source)\n",
           "cdef flow_t *flow = fair.first\n", ("test_i2_a_greedy_stack_gets_its_part_and_no_more",)),
    Mutant("I2", "a full queue drops whoever comes", FAIR, "        victim = greediest(fair, flow)\n",
           "        victim = flow\n", ("test_i2_a_greedy_stack_gets_its_part_and_no_more",)),
    Mutant("I2", "what waits for a slow reader is one queue", PORT,
           "0 if port.one_queue else p.source", "0",
           ("test_i2_a_flood_towards_a_slow_reader_leaves_room_for_others",)),
    Mutant("I2", "what a turn sends costs nothing", FAIR,
           "            flow.deficit -= w.head_length + w.body_length\n", "            pass\n",
           ("test_i2_a_greedy_stack_gets_its_part_and_no_more",)),
    Mutant("I4", "what waits has no bound", PORT, "port.queue_limit - ready if port.queue_limit > ready else 0)",
           "<uint64_t> 1 << 40)"),
    Mutant("I4", "the packet that is next does not count", PORT,
           "    ready = port.queue_bytes - port.queue.bytes\n", "    ready = 0\n"),
    Mutant("I5", "any record is a packet", ROUTING, "        if r.kind != RING_FRAME:\n", "        if False:\n",
           ("test_i5_records_of_other_kinds_are_dropped",)),
    Mutant("I5", "what belongs to a link leaves it", ROUTING,
           "    if ipv6_never_forwarded(h + 24):\n", "    if False:\n",
           ("test_i5_a_stack_speaks_for_no_router_and_no_neighbour",)),
    Mutant("I6", "all attachments have the memory of the first", ATTACHMENTS, "        fds, _ = there.export()\n",
           '        fds = self.__dict__.setdefault("given", [os.dup(fd) for fd in there.export()[0]])[:]\n'),
    Mutant("F18", "a lost uplink stays lost", UPLINKS,
           "            elif uplink.port is None:\n", "            elif False:\n",
           ("test_f18_an_uplink_comes_back_with_its_device_and_hurts_nobody",)),
    Mutant("F18", "nobody asks whether a program is still attached", UPLINKS,
           "            if uplink.watched and uplink.lost():\n", "            if False:\n",
           ("test_f18_an_xdp_program_that_is_detached_is_attached_again",)),
]
