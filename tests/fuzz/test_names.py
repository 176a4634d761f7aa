"""Anything in place of a name server's answer, and of the files that names come from: nothing raises or is made up."""

import random

import dns.flags
import dns.message
import dns.name
import dns.rrset
import pytest

from netstack.config import parse_server
from netstack.resolver.hosts_file import parse_hosts
from netstack.resolver.literals import parse_literal
from netstack.resolver.messages import BadAnswer, Reply, is_host_name, make_query, read_answer, read_reply
from netstack.resolver.resolv_conf import parse_resolv_conf

NAME = dns.name.from_text("www.example.")
RECORDS = [("www.example.", "CNAME", "x.example."), ("x.example.", "A", "10.0.0.1"), ("x.example.", "A", "10.0.0.2"),
           ("www.example.", "AAAA", "2001:db8::1"), ("www.example.", "PTR", "y.example."),
           ("www.example.", "MX", "1 m.example."), ("x.example.", "CNAME", "www.example.")]


def honest(rng, query):
    """An answer with a few records, some of them nonsense."""
    answer = dns.message.make_response(query)
    for name, rdtype, value in rng.sample(RECORDS, rng.randrange(len(RECORDS))):
        answer.answer.append(dns.rrset.from_text(name, rng.randrange(1 << 31), "IN", rdtype, value))
    if rng.random() < 0.3:
        answer.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", "a. b. 1 2 3 4 5"))
    answer.set_rcode(rng.choice((0, 0, 0, 2, 3, 5)))
    return bytearray(answer.to_wire())


def damage(rng, wire):
    """A few bytes changed, taken out or put in; now and then pointers."""
    for _ in range(rng.randrange(6)):
        at = rng.randrange(2, len(wire)) if len(wire) > 2 else 0
        kind = rng.random()
        if kind < 0.5 and len(wire) > 2:
            wire[at] = rng.choice((0, 1, 0x3F, 0x40, 0x80, 0xC0, 0xFF, rng.randrange(256)))
        elif kind < 0.7:
            del wire[at:at + rng.randrange(8)]
        elif kind < 0.9:
            wire[at:at] = bytes([0xC0, rng.randrange(64)])
        else:
            wire[at:at] = rng.randbytes(rng.randrange(20))
    return bytes(wire)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_answers_say_nothing_or_something_about_their_question(seed, scale):
    rng = random.Random(seed)
    said = 0
    for _ in range(scale(20_000)):
        query = make_query(NAME, rng.choice((1, 28, 12)), 1232)
        wire = damage(rng, honest(rng, query))
        answered = read_answer(wire, {query.id: query})
        if answered is None or answered[1].flags & dns.flags.TC:
            continue
        message = answered[1]
        assert answered[0] is query and len(message.question) <= 1
        if not message.question:
            assert message.rcode() in (1, 2, 4, 5)
            continue
        assert message.question[0].name == NAME and message.question[0].rdtype == query.question[0].rdtype
        try:
            reply = read_reply(message)
        except BadAnswer:
            continue
        said += 1
        assert isinstance(reply, Reply) and reply.status in ("found", "nodata", "nxdomain", "alias")
        assert (reply.status == "found") == bool(reply.values) and 0 <= reply.ttl < 1 << 31
        if query.question[0].rdtype != 12:
            assert all(is_host_name(name) for name in (*reply.aliases, reply.canonical))
    assert said > scale(2_000)


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_are_no_answers(seed, scale):
    rng = random.Random(seed)
    query = make_query(NAME, 1, 0)
    for _ in range(scale(20_000)):
        wire = rng.randbytes(rng.choice((0, 1, 2, 11, 12, 40, 600)))
        assert read_answer(query.id.to_bytes(2, "big") + wire, {query.id: query}) is None


@pytest.mark.parametrize("seed", range(4))
def test_files_and_texts_of_anything_are_read_or_passed_over(seed, scale):
    rng = random.Random(seed)
    words = ["nameserver", "search", "domain", "options", "ndots:", "timeout:9", "10.0.0.1", "::1", "fe80::1%x", "#",
             ";", "9" * 5000, "x.example", ":", "%", "[", "]:53", "\0", "é", "999", "1" * 300, "0x", "\n", " ", "\t"]

    def no_interface(name):
        raise OSError(name)

    for _ in range(scale(10_000)):
        text = "".join(rng.choice(words) for _ in range(rng.randrange(12)))
        settings = parse_resolv_conf(text)
        assert len(settings.servers) <= 3 and 0 <= settings.ndots <= 15 and 0 < settings.timeout <= 30
        for line in parse_hosts(text):
            assert line.name and parse_literal(line.found.address, no_interface) == line.found
        try:
            _, port = parse_server(text)
            assert 0 < port < 65536
        except ValueError:
            pass
