"""Rows D13 (tables of IP) and H1 to H4: neighbours, of a stack and of the router's uplink."""

from tests.security.mutants import Mutant

TABLE = "netstack/ip/neighbor.pyx"
ARP = "netstack/ip/arp.pyx"
NDP = "netstack/ip/ndp.pyx"
NUD = "netstack/ip/nud.pyx"
DISCOVERY = "netstack/ip/discovery.pyx"
STATION = "netstack/router/station.pyx"
DISCOVERY_OF_ROUTER = "netstack/router/discovery.pyx"
PLACES = "netstack/router/neighbors.pyx"

KEYED = "return <uint32_t> siphash(t.secret, words, 3) & (NEIGHBOR_BUCKETS - 1)"
ASKS = "    if kind == ANSWER:\n"
BELIEVED = "    elif n.probes and answers_us and (n.resolved or heard.located):\n"

MUTANTS = [
    Mutant("D13", "neighbours are found by their last byte", TABLE, KEYED, "return (<const uint8_t *> a)[15]",
           ("test_d13_neighbours_chosen_against_an_unkeyed_hash_share_no_chain",)),
    Mutant("D13", "the hash of neighbours has the same key in all stacks", TABLE, KEYED,
           "return <uint32_t> siphash(words + 1, words, 3) & (NEIGHBOR_BUCKETS - 1)",
           ("test_d13_a_stack_takes_its_own_secret_for_its_neighbours",)),
    Mutant("D13", "a restored neighbour is in no chain", "netstack/ip/state.pyx",
           "neighbor_link(&ifc.neighbors, n, state)", "n.state = state",
           ("test_d13_chains_hold_after_entries_are_given_up_evicted_and_restored",)),
    Mutant("D13", "redirects make any number of routes", DISCOVERY,
           "        route(ifc, False, &ip6.redirects[at], 128, target)\n", "        pass\n",
           ("test_d13_what_routers_say_makes_a_bounded_number_of_routes",)),
    Mutant("D13", "prefixes make any number of routes", DISCOVERY,
           "    if i == IP6_PREFIXES:\n        return\n    if i == ip6.prefix_count:\n        if route(",
           "    if i == IP6_PREFIXES:\n        route(ifc, True, prefix, length, &none)\n        return\n"
           "    if i == ip6.prefix_count:\n        if route(",
           ("test_d13_what_routers_say_makes_a_bounded_number_of_routes",)),
    Mutant("H1", "an answer to anybody is one to us", ARP, "if n == NULL or not is_ours(ifc, arp.target_be):",
           "if n == NULL:", ("test_h1_nothing_said_unasked_changes_an_entry_and_the_one_we_know_is_asked",
                             "test_h1_an_answer_to_somebody_else_is_none")),
    Mutant("H1", "the liar's answer to our check is believed", ARP,
           "if n.state == NEIGHBOR_PROBE and memcmp(n.mac, arp.sender_mac, 6) == 0:",
           "if n.state == NEIGHBOR_PROBE and memcpy(n.mac, arp.sender_mac, 6) != NULL:"),
    Mutant("H1", "who asks us changes his entry", ARP, "    if is_ours(ifc, arp.target_be):\n        if not send_arp(",
           "    if n != NULL:\n        memcpy(n.mac, arp.sender_mac, 6)\n    if is_ours(ifc, arp.target_be):\n"
           "        if not send_arp("),
    Mutant("H1", "each lie costs a question", NUD,
           "(n.state == NEIGHBOR_REACHABLE and now_ns - n.confirmed_ns >= retry_ns(ifc, n))",
           "n.state == NEIGHBOR_REACHABLE", ("test_h1_a_flood_of_lies_costs_one_question_a_second",)),
    Mutant("H1", "an advertisement nobody asked for is believed", NDP,
           "        nud_contradicted(ifc, n, now_ns)     # also with the override flag\n        return "
           "DROP_ND_UNSOLICITED\n",
           "        memcpy(n.mac, mac, 6)\n", ("test_h1_an_advertisement_nobody_asked_for_changes_nothing",)),
    Mutant("H1", "the router learns from whoever asks", STATION,
           "    cdef neighbor_t *n = neighbor_find(&s.neighbors, &heard.claimed)\n    if n == NULL:\n        return\n",
           "    cdef neighbor_t *n = neighbor_find(&s.neighbors, &heard.claimed)\n    if n == NULL:\n"
           "        n = neighbor_make(&s.neighbors, &heard.claimed, 0)\n        learn(port, s, n, heard.mac, now_ns)\n",
           ("test_h1_nothing_said_unasked_makes_an_entry_of_the_router",)),
    Mutant("H1", "the router believes lies about its gateway", STATION,
           "if n.resolved and memcmp(n.mac, heard.mac, 6) != 0:",
           "if n.resolved and memcpy(n.mac, heard.mac, 6) == NULL:"),
    Mutant("H1", "the router never asks the gateway whether that is so", STATION,
           "            ask(s, n, now_ns)                # the one", "            pass              # the one",
           ("test_h1_a_lie_makes_the_router_ask_the_gateway_it_knows_and_the_liar_is_not_believed",)),
    Mutant("H2", "addresses that do not answer may fill the table", TABLE,
           "    if t.incomplete >= NEIGHBOR_INCOMPLETE_MAX:\n        return NULL\n", "",
           ("test_h2_addresses_that_do_not_answer_fill_half_of_the_table_at_most",)),
    Mutant("H2", "neighbours in use give way to new ones", TABLE,
           "(n.state == NEIGHBOR_STALE or n.state == NEIGHBOR_REACHABLE) and now_ns - n.used_ns > IN_USE_NS):",
           "n.state == NEIGHBOR_STALE or n.state == NEIGHBOR_REACHABLE):",
           ("test_h2_new_neighbours_do_not_take_the_places_of_those_in_use",)),
    Mutant("H3", "an override is honoured at once", NDP,
           "        nud_contradicted(ifc, n, now_ns)     # also with the override flag\n        return "
           "DROP_ND_UNSOLICITED\n",
           "        memcpy(n.mac, mac, 6)\n"),
    Mutant("H3", "an override is passed over", NDP,
           "        nud_contradicted(ifc, n, now_ns)     # also with the override flag\n", ""),
    Mutant("H3", "each claim to our address is answered", NDP, "        if now_ns - ifc.defended_ns >= DEFEND_NS:\n",
           "        if True:\n"),
    Mutant("H3", "an address that is taken is followed by others without end", "netstack/ip/autoconf.pyx",
           "if old.origin != ORIGIN_CONFIGURED and old.attempt + 1 < ATTEMPTS:", "if old.origin != ORIGIN_CONFIGURED:",
           ("test_h3_a_taken_link_local_address_is_followed_by_two_others_at_most_one_a_second",)),
    Mutant("H3", "each claim to our IPv4 address is answered", ARP,
           "if now_ns - ifc.defended_ns >= DEFEND_NS:", "if True:",
           ("test_h3_an_address_in_use_is_defended_once_in_ten_seconds",)),
    Mutant("H2", "any neighbour gives way to a new one", TABLE, "if n.state == NEIGHBOR_FAILED or (", "if True or (",
           ("test_h2_new_neighbours_do_not_take_the_places_of_those_in_use",)),
    Mutant("H4", "destinations that do not answer fill the router's table", PLACES,
           "t.asking >= NEIGHBORS_ASKED or ", "",
           ("test_h4_destinations_that_do_not_answer_fill_half_of_the_table_and_evict_nobody",)),
    Mutant("H2", "one attachment asks for all of the router's neighbours", PLACES,
           " or t.asked_by[source] >= ASKED_BY_ONE:", ":",
           ("test_h2_a_scan_by_one_attachment_leaves_places_for_the_others",)),
    Mutant("H4", "senders fill the router's table", STATION, ASKS,
           "    if kind == QUESTION and neighbor_make(&s.neighbors, &heard.claimed, 0) != NULL:\n"
           "        learn(port, s, neighbor_find(&s.neighbors, &heard.claimed), heard.mac, now_ns)\n" + ASKS,
           ("test_h4_a_hundred_thousand_senders_leave_no_trace_at_the_uplink",)),
    Mutant("H2", "a question that came over a router is answered", DISCOVERY_OF_ROUTER, "p[7] != HOP_LIMIT or ", "",
           ("test_h2_questions_that_are_not_answered",)),
    Mutant("H3", "an answer to no question of the router's is believed", STATION,
           "heard.solicited and is_own(s, &heard.to)", "is_own(s, &heard.to)", ("test_h3_answers_that_are_none",)),
]
