"""Row A11 of the checklist: what a name server, or somebody in its place, may send."""

import socket
import struct
import sys
import threading

import dns.flags
import dns.message
import dns.name
import dns.rrset
import pytest

from netstack.resolver.messages import make_query, plausible, read_answer
from tests.socket.name_server import ADDRESS, world

ZONE = "good.example. 300 A 10.9.0.80\n"
NAME = dns.name.from_text("good.example.")
QUESTION = b"\4good\7example\0\0\1\0\1"
OWNER = 12                               # where the question's name stands
RR = struct.pack("!HHIH", 1, 1, 300, 4)  # A, IN, TTL, length
FULL = 65535


def message(records: bytes, count: int, id: int = 0, flags: int = 0x8180, question: bytes = QUESTION) -> bytes:
    return struct.pack("!6H", id, flags, 1, count, 0, 0) + question + records


def pointer(at: int) -> bytes:
    return struct.pack("!H", 0xC000 | at)


FIRST = 12 + len(QUESTION)               # where the first record's name stands
ADDRESS_6 = bytes([6, 6, 6, 6])


def chain(length: int) -> bytes:
    """A record whose data is pointers, each to the one before; then as many records as fit, named by the last."""
    data = b""
    start, at = FIRST + 11, OWNER
    while len(data) < 2 * length:
        data += pointer(at)
        at = start + len(data) - 2
    out = b"\0" + struct.pack("!HHIH", 65280, 1, 300, len(data)) + data
    count = 1
    while FIRST + len(out) + 16 <= FULL:
        out += pointer(at) + RR + struct.pack("!I", count)
        count += 1
    return message(out, count)


def many(owner: bytes) -> bytes:
    records = FULL // (len(owner) + 14) - 3
    return message(b"".join(owner + RR + struct.pack("!I", n) for n in range(records)), records)


def staircase() -> bytes:
    """Names of 127 labels, each label reached over a pointer of its own."""
    data, at = b"", OWNER
    start = FIRST + 11
    for _ in range(126):
        place = start + len(data)
        data += b"\1x" + pointer(at)
        at = place
    out = b"\0" + struct.pack("!HHIH", 65280, 1, 300, len(data)) + data
    count = 1
    while FIRST + len(out) + 16 <= FULL:
        out += pointer(at) + RR + ADDRESS_6
        count += 1
    return message(out, count)


HOSTILE = {
    "a name that points to itself": message(pointer(FIRST) + RR + ADDRESS_6, 1),
    "a question that points to itself": message(b"", 0, question=pointer(OWNER) + b"\0\1\0\1"),
    "two names that point to each other":
        message(pointer(FIRST + 16) + RR + ADDRESS_6 + pointer(FIRST) + RR + ADDRESS_6, 2),
    "a pointer forward": message(pointer(FIRST + 16) + RR + ADDRESS_6 + b"\4good\7example\0" + RR + ADDRESS_6, 2),
    "a pointer behind the end": message(pointer(0x3FFF) + RR + ADDRESS_6, 1),
    "a pointer into the header": message(pointer(2) + RR + ADDRESS_6, 1),
    "half a pointer": message(b"\xC0", 1),
    "a label behind the end": message(b"\x3Fxxx", 1),
    "a reserved label": message(b"\x80" + RR + ADDRESS_6, 1),
    "128 labels": message(b"\1x" * 128 + b"\0" + RR + ADDRESS_6, 1),
    "256 bytes": message((b"\x3F" + b"x" * 63) * 4 + b"\0" + RR + ADDRESS_6, 1),
    "a chain of 17 pointers": chain(17),
    "a chain of 8000 pointers, used 3000 times": chain(8000),
    "a staircase of 126 pointers": staircase(),
    "more records than anybody has": many(pointer(OWNER)),
    "more records than there are": message(pointer(OWNER) + RR + ADDRESS_6, 60000),
    "a record longer than the message": message(pointer(OWNER) + struct.pack("!HHIH", 1, 1, 1, 65535) + ADDRESS_6, 1),
    "an address of 3 bytes": message(pointer(OWNER) + struct.pack("!HHIH", 1, 1, 1, 3) + b"\6\6\6", 1),
    "no question": struct.pack("!6H", 0, 0x8180, 0, 1, 0, 0) + b"\4good\7example\0" + RR + ADDRESS_6,
    "two questions": struct.pack("!6H", 0, 0x8180, 2, 0, 0, 0) + QUESTION * 2,
    "a header alone": struct.pack("!6H", 0, 0x8180, 1, 1, 0, 0),
    "11 bytes": b"\0" * 11,
    "nothing": b"",
    "a query": message(b"", 0, flags=0x0100),
    "an update": message(b"", 0, flags=0xA980),
    "another question": message(b"\3bad\7example\0" + RR + ADDRESS_6, 1, question=b"\3bad\7example\0\0\1\0\1"),
    "another type": message(b"", 0, question=b"\4good\7example\0\0\x1c\0\1"),
    "another class": message(b"", 0, question=b"\4good\7example\0\0\1\0\3"),
}


def steps(call):
    """How many lines of Python ran, and what came of them."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = call()
    finally:
        sys.settrace(before)
    return count, result


@pytest.mark.parametrize("name", HOSTILE)
def test_a11_hostile_messages_are_no_answers_and_cost_bounded_work(name):
    query = make_query(NAME, 1, 1232)
    wire = query.id.to_bytes(2, "big") + HOSTILE[name][2:] if len(HOSTILE[name]) > 1 else HOSTILE[name]
    count, answered = steps(lambda: read_answer(wire, {query.id: query}))
    assert answered is None
    assert count < 20_000 + 10 * len(wire)


def test_a11_the_largest_answer_that_is_read_costs_bounded_work():
    """As many records as we look at, each with a name as long and as broken up as can be."""
    query = make_query(NAME, 1, 1232)
    labels = b"".join(b"\1x" for _ in range(120))
    out = labels + b"\0" + RR + ADDRESS_6
    count = 1
    while count < 511 and FIRST + len(out) + 20 <= FULL:
        out += b"\1y" + pointer(FIRST) + RR + struct.pack("!I", count)
        count += 1
    wire = message(out, count, query.id)
    used, answered = steps(lambda: read_answer(wire, {query.id: query}))
    assert answered is not None and used < 4_000_000


def test_a11_a_chain_of_17_pointers_is_not_even_read():
    """Whatever the reader of messages would make of it: newer ones refuse it too."""
    def few(wire):                       # it says that there is one record: their number is not what it is refused for
        return wire[:6] + b"\0\1" + wire[8:]

    assert plausible(few(chain(15)))     # a name that points to the 15th is the 16th
    assert not plausible(few(chain(16))) and not plausible(few(chain(8000)))


def test_a11_64_kib_of_anything_is_judged_in_one_pass():
    for wire in (bytes(FULL), b"\xC0" * FULL, b"\xC0\x0C" * (FULL // 2), bytes(range(256)) * 255, b"\x3F" * FULL):
        count, _ = steps(lambda: plausible(b"\0" * 12 + wire[12:]))  # noqa: B023 - called at once
        assert count <= 4 * FULL


@pytest.mark.parametrize("name", HOSTILE)
def test_a11_nothing_hostile_is_believed_over_udp_or_tcp(name):
    """The server sends the hostile message, then is silent, or over UDP sends the honest answer behind it."""
    def hostile(query, response, transport):
        wire = HOSTILE[name]
        wire = query.id.to_bytes(2, "big") + wire[2:] if len(wire) > 1 else wire
        return [wire, response] if transport == "UDP" else [wire]

    with world(timeout=5.0) as net:
        net.serve(ZONE, change=hostile)
        assert net.addresses("good.example", socket.AF_INET) == ["10.9.0.80"]
    with world(timeout=5.0, tcp=True) as net:
        net.serve(ZONE, change=hostile)
        assert net.fails("good.example", socket.AF_INET) == socket.EAI_AGAIN


def test_a11_ids_and_ports_of_questions_follow_no_order():
    """Both have to be guessed: 2^32 for each answer that is forged."""
    names = [f"n{k}.example" for k in range(100)]
    with world() as net:
        server = net.serve("".join(f"{name}. 0 A 10.9.0.80\n" for name in names))
        ports: list[int] = []
        for name in names:
            server.ports.clear()
            assert net.addresses(name, socket.AF_INET) == ["10.9.0.80"]
            ports += server.ports
    for values in (server.ids, ports):
        assert len(values) == 100 and len(set(values)) >= 97
        steps = [(b - a) & 0xFFFF for a, b in zip(values, values[1:], strict=False)]
        assert sum(s < 16 or s > 65520 for s in steps) <= 2 and len(set(steps)) >= 95
        assert len({v >> 12 for v in values}) >= 10, "from all over the range"


@pytest.mark.parametrize("offset", [1, -1, 0x8000])
def test_a11_another_id_is_not_believed(offset):
    def lies(query, response, transport):
        forged = dns.message.make_response(query)
        forged.answer = [dns.rrset.from_text("good.example.", 300, "IN", "A", "6.6.6.6")]
        forged.id = (query.id + offset) & 0xFFFF
        return [forged, response]

    with world() as net:
        net.serve(ZONE, change=lies)
        assert net.addresses("good.example", socket.AF_INET) == ["10.9.0.80"]


def test_a11_who_floods_with_ids_ends_the_try_and_is_not_believed():
    """64 wrong ids close the port: what was guessed so far is worth nothing."""
    def flood(query, response, transport):
        forged = dns.message.make_response(query)
        forged.answer = [dns.rrset.from_text("good.example.", 300, "IN", "A", "6.6.6.6")]
        out = []
        for n in range(1, 66):
            forged.id = (query.id + n) & 0xFFFF
            out.append(forged.to_wire())
        return [*out, query.id.to_bytes(2, "big") + out[0][2:]]

    with world(timeout=30.0) as net:
        server = net.serve(ZONE, change=flood)
        assert net.fails("good.example", socket.AF_INET) == socket.EAI_AGAIN
        assert len(server.ports) == 2


def test_a11_answers_from_another_address_or_port_never_arrive():
    with world(timeout=0.5) as net:
        with net.serving.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger, \
                net.serving.socket(socket.AF_INET, socket.SOCK_DGRAM) as neighbour:
            stranger.bind(("10.9.0.54", 53))
            neighbour.bind((ADDRESS, 5353))
            victim: list[int] = []

            def others_answer_first(query, response, transport):
                forged = dns.message.make_response(query)
                forged.answer = [dns.rrset.from_text("good.example.", 300, "IN", "A", "6.6.6.6")]
                for s in (stranger, neighbour):
                    s.sendto(forged.to_wire(), ("10.9.0.1", max(net.servers[0].ports)))
                victim.append(1)
                return response if len(victim) > 1 else None

            server = net.serve(ZONE, change=others_answer_first)
            original = server._respond

            def remember_only_the_last_port(wire, transport, port):
                server.ports.clear()
                return original(wire, transport, port)

            server._respond = remember_only_the_last_port
            assert net.addresses("good.example", socket.AF_INET) == ["10.9.0.80"]
            assert len(victim) == 2


def test_a11_records_of_other_names_are_not_believed():
    """What hangs from the question counts; the rest of an answer neither answers nor stays in the cache."""
    def poison(query, response, transport):
        response.answer.append(dns.rrset.from_text("bank.example.", 86400, "IN", "A", "6.6.6.6"))
        response.additional.append(dns.rrset.from_text("bank.example.", 86400, "IN", "A", "6.6.6.6"))
        return response

    with world() as net:
        server = net.serve(ZONE + "bank.example. 60 A 10.9.0.10\n", change=poison)
        assert net.addresses("good.example", socket.AF_INET) == ["10.9.0.80"]
        server.change = None
        assert net.addresses("bank.example", socket.AF_INET) == ["10.9.0.10"]


@pytest.mark.parametrize("target", ["a\\032b.example.", "x\\;rm.example.", "$\\(x\\).example.", "\\000x.example.",
                                    "-x.example.", "x\\.y.example.", "\\255.example."])
def test_a11_names_that_no_host_has_are_not_handed_on(target):
    with world(attempts=1) as net:
        net.serve(f"good.example. 60 CNAME {target}\n"
                  f"1.0.0.10.in-addr.arpa. 60 PTR {target}\n")
        assert net.fails("good.example", socket.AF_INET) == socket.EAI_AGAIN
        with pytest.raises(socket.herror):
            net.resolver.gethostbyaddr("10.0.0.1")


@pytest.mark.parametrize("length", [1, 2, 16, 17, 30])
def test_a11_circles_and_long_chains_of_aliases_end(length):
    links = "".join(f"n{i}.example. 60 CNAME n{(i + 1) % length}.example.\n" for i in range(length))
    tail = "".join(f"t{i}.example. 60 CNAME t{i + 1}.example.\n" for i in range(40)) + "t40.example. 60 A 6.6.6.6\n"

    def one_link_at_a_time(query, response, transport):
        response.answer, response.authority = response.answer[:1], []
        return response

    for change in (None, one_link_at_a_time):
        with world(attempts=1) as net:
            server = net.serve(links + tail, change=change)
            assert net.fails("n0.example", socket.AF_INET) == socket.EAI_AGAIN
            assert len(server.asked) <= 20
            assert net.fails("t0.example", socket.AF_INET) == socket.EAI_AGAIN
            assert len(server.asked) <= 40


def test_a11_a_server_that_drips_over_tcp_is_cut_off():
    """A byte at a time, without end: the answer has to be whole within one timeout."""
    with world(timeout=0.4, attempts=1, tcp=True) as net:
        listener = net.serving.create_server((ADDRESS, 53))
        drops: list[None] = []

        def drip():
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(b"\xff")
                    while len(drops) < 1000:
                        drops.append(connection.sendall(b"\xff"))
                        connection.settimeout(0.02)
                        try:
                            if not connection.recv(512):
                                return
                        except TimeoutError:
                            continue
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        assert net.fails("good.example", socket.AF_INET) == socket.EAI_AGAIN
        thread.join(30)
        listener.close()
        assert not thread.is_alive() and len(drops) < 1000


def test_a11_answers_leave_nothing_behind():
    with world() as net:
        net.serve(ZONE, change=lambda query, response, transport: [HOSTILE["two questions"], response])
        for _ in range(5):
            net.addresses("good.example", socket.AF_INET)
        assert net.host.stack.sockets() == []
