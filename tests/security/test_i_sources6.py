"""Row I1 in IPv6: a stack sends from its own addresses and no others, whatever stands behind the header."""

import random

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_RA,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Raw

from netstack.router.pool import pack_address
from tests.router.lan import Lan
from tests.support import scale

A, B, C, R = "fd77::2", "fd77::3", "fd77::4", "fd77::1"
SECOND = "fd88::2"

SOURCES = {
    "another stack's": C,
    "the receiver's": B,
    "the router's": R,
    "nobody's of the pool": "fd77::99",
    "the pool's anycast": "fd77::",
    "of another pool": "fd88::3",
    "from outside": "2001:db8::1",
    "unspecified": "::",
    "loopback": "::1",
    "IPv4-compatible": "::10.77.0.2",
    "link-local": "fe80::2",
    "link-local with its own identifier": "fe80::fd77:2",
    "multicast": "ff02::1",
    "multicast of the world": "ff0e::2",
    "one bit beside its own": "fd77::3:2",
    "half of its own": "fd78::2",
    "mapped": "::ffff:10.77.0.2",
    "NAT64 of another": "64:ff9b::a4d:2",
}
BEHIND = {
    "UDP": UDP(sport=1, dport=2) / Raw(b"spoofed"),
    "TCP": TCP(sport=1, dport=2, flags="S"),
    "RST": TCP(sport=1, dport=2, flags="R"),
    "echo": ICMPv6EchoRequest(),
    "unreachable": ICMPv6DestUnreach() / IPv6(src=B, dst=C) / UDP(sport=1, dport=2),
    "too big": ICMPv6PacketTooBig(mtu=1280) / IPv6(src=B, dst=C) / TCP(sport=1, dport=2),
    "neighbour advertisement": ICMPv6ND_NA(tgt=C),
    "router advertisement": ICMPv6ND_RA(),
    "hop-by-hop": IPv6ExtHdrHopByHop() / UDP(sport=1, dport=2),
    "destination options": IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2),
    "routing header": IPv6ExtHdrRouting(addresses=[C], segleft=1) / UDP(sport=1, dport=2),
    "first fragment": IPv6ExtHdrFragment(m=1, id=7) / UDP(sport=1, dport=2),
    "later fragment": IPv6ExtHdrFragment(offset=3, id=7, nh=17) / Raw(bytes(24)),
}


def network():
    lan = Lan("fd77::/64", "fd88::/64", router=(R, "fd88::1"))
    return lan, lan.stack(A, SECOND), lan.stack(B), lan.stack(C)


@pytest.mark.parametrize("source", SOURCES)
def test_i1_a_stack_sends_from_its_own_ipv6_addresses_only(source):
    """To another stack, to the router and to the world: dropped, counted, and nobody hears of it."""
    lan, a, b, c = network()
    packets = [IPv6(src=SOURCES[source], dst=dst) / behind for dst in (B, R, "2001:db8::2")
               for behind in BEHIND.values()]
    for packet in packets:
        for split in (None, 40):
            a.send(packet, split=split)
    sent = lan.run()
    assert sent == 2 * len(packets)
    assert not b.received() and not c.received() and not a.received()
    drops = a.drops()
    assert sum(drops.values()) == sent and drops.keys() <= {"in_spoofed", "in_malformed"}, drops
    assert ("in_malformed" in drops) == (source == "mapped")
    a.send(IPv6(src=A, dst=B) / UDP(), IPv6(src=SECOND, dst=B) / UDP())
    lan.run()
    assert [p.src for p in b.received()] == [A, SECOND], "its own pass, also after all that"


def test_i1_no_bit_of_an_ipv6_source_may_differ():
    lan, a, b, _ = network()
    own = int.from_bytes(pack_address(A), "big")
    for bit in range(128):
        raw = bytearray(bytes(IPv6(src=A, dst=B) / UDP()))
        raw[8:24] = (own ^ 1 << bit).to_bytes(16, "big")
        a.send(bytes(raw))
    lan.run()
    assert not b.received() and a.drops() == {"in_spoofed": 128}


def test_i1_an_ipv6_address_that_moved_on_is_no_source_any_more():
    lan, a, b, c = network()
    lan.forwarder.bind(c.port, pack_address(A), 2)
    a.send(IPv6(src=A, dst=B) / UDP(), IPv6(src=SECOND, dst=B) / UDP())
    c.send(IPv6(src=A, dst=B) / UDP(dport=9))
    lan.run()
    assert [(p.src, p[UDP].dport) for p in b.received()] == [(SECOND, 53), (A, 9)] and a.drops() == {"in_old_epoch": 1}


def test_i1_no_damage_to_a_packet_makes_another_source_of_it():
    """Random bytes over good packets: whatever arrives comes from the sender, and every packet has a fate."""
    rng = random.Random(6)
    lan, a, b, c = network()
    seeds = [bytes(IPv6(src=A, dst=B) / behind) for behind in BEHIND.values()]
    for _ in range(scale(30_000)):
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        a.send(bytes(raw), split=rng.choice([None, 40, 48]))
        lan.run()
        for stack in (b, c):
            assert all(p.src in (A, SECOND, R) for p in stack.received())
        a.received()
    assert a.counters["in_packets"] == scale(30_000)
