"""Row A11: what the resolver believes."""

from tests.security.mutants import Mutant

MESSAGES = "netstack/resolver/messages.py"
STUB = "netstack/resolver/stub.py"
WORK = ("test_a11_hostile_messages_are_no_answers_and_cost_bounded_work",)

MUTANTS = [
    Mutant("A11", "chains of pointers may be long", MESSAGES, "if length > POINTERS_MOST:", "if False:",
           ("test_a11_a_chain_of_17_pointers_is_not_even_read",)),
    Mutant("A11", "an answer may have any number of records", MESSAGES,
           "sum(HEADER.unpack_from(wire)[2:]) > RECORDS_MOST", "False", WORK),
    Mutant("A11", "the question need not be ours", MESSAGES,
           "ours = query.is_response(answer) and len(answer.question) <= 1", "ours = len(answer.question) <= 1", WORK),
    Mutant("A11", "an answer may have several questions", MESSAGES, " and len(answer.question) <= 1", "", WORK),
    Mutant("A11", "any id will do", MESSAGES, 'query = queries.get(int.from_bytes(wire[:2], "big"))',
           "query = next(iter(queries.values()), None)\n"
           '    wire = wire if query is None else query.id.to_bytes(2, "big") + wire[2:]',
           ("test_a11_another_id_is_not_believed",)),
    Mutant("A11", "all questions have one id", MESSAGES, "id=secrets.randbelow(1 << 16))", "id=7)",
           ("test_a11_ids_and_ports_of_questions_follow_no_order",)),
    Mutant("A11", "ids may be tried without end", STUB, "for _ in range(DATAGRAMS_MOST):", "while True:",
           ("test_a11_who_floods_with_ids_ends_the_try_and_is_not_believed",)),
    Mutant("A11", "anybody's datagram is an answer", STUB,
           "            s.connect(server)\n            for query in queries.values():\n                "
           "s.send(query.to_wire())\n",
           "            for query in queries.values():\n                s.sendto(query.to_wire(), server)\n",
           ("test_a11_answers_from_another_address_or_port_never_arrive",)),
    Mutant("A11", "a name may hold any byte", MESSAGES, "    if not is_host_name(text):\n", "    if False:\n",
           ("test_a11_names_that_no_host_has_are_not_handed_on",)),
    Mutant("A11", "an answer over TCP may take for ever", STUB,
           "                    s.settimeout(max(until - self._clock(), 0.001))\n"
           "                    part = s.recv(n - len(out))\n"
           "                    if not part or self._clock() >= until:\n",
           "                    part = s.recv(n - len(out))\n                    if not part:\n",
           ("test_a11_a_server_that_drips_over_tcp_is_cut_off",)),
]
