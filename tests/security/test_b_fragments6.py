"""Rows B1, B5, B6, B8: fragments of IPv6 that overlap, stand alone, are too many, or hold what may not be cut."""

import ipaddress
import itertools
import random

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.packet import Raw

from netstack.stack import Stack
from netstack.testing.packets import build_ipv6, build_udp
from tests.ip.fragments import S, feed, memory, sent, taken
from tests.ip.nd_rig import EVIL_MAC, PEER_MAC, ROUTER, ROUTER_MAC, Link
from tests.ip.test_ndp import first_hop
from tests.support import scale

US, PEER = "fd00::1", "fd00::2"


def receiver(**options):
    stack = Stack(addresses=(f"{US}/64",), seed=1, **options)
    sock = stack.socket("dgram", family=10)
    sock.setsockopt(1, 8, 1 << 22)
    sock.bind((US, 2000))
    stack.advance(S)
    return stack, sock


def datagram(payload: bytes, src: str = PEER) -> bytes:
    return build_udp(src, US, 1000, 2000, payload)[40:]


def piece(data: bytes, offset: int, more: bool, *, id: int = 77, src: str = PEER, protocol: int = 17) -> bytes:
    head = bytes([protocol, 0]) + (offset & 0xFFF8 | more).to_bytes(2, "big") + id.to_bytes(4, "big")
    return build_ipv6(src, US, 44, head + data)


def cut(payload: bytes, size: int, **fields) -> list[bytes]:
    return [piece(payload[at:at + size], at, at + size < len(payload), **fields) for at in range(0, len(payload), size)]


def inverted(data: bytes) -> bytes:
    return bytes(255 - b for b in data)


# What a second piece can be to a first of bytes 64 to 128: where it begins and ends.
OVERLAPS = {
    "subset": (80, 104), "subset at its beginning": (64, 96), "subset at its end": (96, 128), "superset": (32, 160),
    "superset, same beginning": (64, 160), "superset, same end": (32, 128), "the same place": (64, 128),
    "all of it": (0, 192),
} | {f"{by} bytes before its end": (128 - by, 192) for by in range(8, 65, 8)} \
  | {f"{by} bytes into it": (0, 64 + by) for by in range(8, 65, 8)}


@pytest.mark.parametrize("name", OVERLAPS)
def test_b1_an_overlap_discards_the_datagram_and_what_still_comes_of_it_in_silence(name):
    start, end = OVERLAPS[name]
    body = datagram(random.Random(1).randbytes(292))
    second = body[:8] + inverted(body[8:end]) if start == 0 else inverted(body[start:end])
    three = [piece(body[64:128], 64, True), piece(second, start, True), piece(body[256:], 256, False)]
    for order in itertools.permutations(three):
        stack, sock = receiver()
        feed(stack, order)
        assert memory(stack)[0] == 1, "it is remembered, so that later fragments are known"
        feed(stack, cut(body, 32))
        assert taken(sock) == [] and sent(stack) == []
        c = stack.counters()
        assert c["drop_fragment_overlap"] == c["ip_fragments_in"]
        stack.advance(S + 60 * S)
        assert sent(stack) == [] and memory(stack) == (0, 0) and stack.next_deadline() is None


@pytest.mark.parametrize("by", range(1, 65))
def test_b1_an_end_that_lies_in_what_is_there_or_before_it_is_an_overlap(by):
    """The last piece may have any length, so that it overlaps by any number of bytes."""
    body = datagram(bytes(292))
    end_within = [piece(body[64:128], 64, True), piece(inverted(body[64:64 + by]), 64, False)]
    end_before = [piece(body[128:192], 128, True), piece(body[64:64 + by], 64, False)]
    for pieces in (end_within, end_within[::-1], end_before, end_before[::-1]):
        stack, sock = receiver()
        feed(stack, pieces)
        assert stack.counters()["drop_fragment_overlap"] == 2
        feed(stack, cut(body, 32))
        assert taken(sock) == [] and sent(stack) == []
        stack.advance(S + 60 * S)
        assert sent(stack) == [] and memory(stack) == (0, 0)


def test_b1_another_datagram_of_the_same_hosts_is_not_touched():
    stack, sock = receiver()
    body = datagram(b"good" * 50)
    feed(stack, [piece(body[:64], 0, True, id=1), piece(inverted(body[56:128]), 56, True, id=1), *cut(body, 64, id=2)])
    feed(stack, cut(body, 64, id=1))
    assert taken(sock) == [b"good" * 50] and sent(stack) == []


def test_b1_an_exact_copy_is_no_overlap():
    """RFC 8200 section 4.5 leaves it open; a network may double a fragment."""
    stack, sock = receiver()
    pieces = cut(datagram(bytes(200)), 64)
    feed(stack, pieces[:2] * 3 + pieces[2:])
    assert taken(sock) == [bytes(200)] and stack.counters()["drop_fragment_duplicate"] == 4


# ---- B5: atomic fragments ---------------------------------------------------------


@pytest.mark.parametrize("when", range(4))
def test_b5_an_atomic_fragment_and_real_ones_of_its_number_do_not_touch(when):
    """RFC 6946 section 4: it is a whole packet, wherever it comes among the others, as often as it comes."""
    stack, sock = receiver()
    pieces = cut(datagram(b"in pieces" * 20), 64)
    alone = piece(datagram(b"alone"), 0, False)
    feed(stack, [*pieces[:when], alone, *pieces[when:]])
    whole = [b"alone", b"in pieces" * 20] if when < 3 else [b"in pieces" * 20, b"alone"]
    assert taken(sock) == whole and sent(stack) == []
    c = stack.counters()
    assert c["ip_fragments_in"] == 3 and c["ip_reassembled"] == 1 and memory(stack) == (0, 0)
    assert sum(v for k, v in c.items() if k.startswith("drop_")) == 0


def test_b5_a_datagram_that_was_given_up_does_not_stop_atomic_fragments_of_its_number():
    stack, sock = receiver()
    body = datagram(bytes(200))
    feed(stack, [piece(body[:64], 0, True), piece(inverted(body[56:128]), 56, True)])
    feed(stack, [piece(datagram(b"alone"), 0, False)])
    assert taken(sock) == [b"alone"]
    feed(stack, cut(body, 64))
    assert taken(sock) == [] and sent(stack) == []


@pytest.mark.parametrize("mtu", [0, 68, 576, 1279])
def test_b5_a_too_small_packet_too_big_makes_no_atomic_fragment(mtu):
    """RFC 8021: a report below 1280 changes nothing; no packet that fits carries a fragment header."""
    stack, sock = receiver()
    sock.connect((PEER, 9))
    sock.send(bytes(1300))
    big, = sent(stack)
    feed(stack, [bytes(IPv6(src="fd00::99", dst=US) / ICMPv6PacketTooBig(mtu=mtu) / Raw(big[:1000]))])
    for size in (0, 1, 1000, 1232, 1300, 1452):
        try:
            sock.send(bytes(size))
        except OSError:
            sock.send(bytes(size))                   # the report itself was pending
        packet, = sent(stack)
        assert packet[6] == 17 and len(packet) == 48 + size
    assert stack.counters()["ip_pmtu_lowered"] == 0


def test_b5_even_a_believed_report_makes_fragments_of_what_does_not_fit_only():
    stack, sock = receiver()
    sock.connect((PEER, 9))
    sock.send(bytes(1400))
    big, = sent(stack)
    feed(stack, [bytes(IPv6(src="fd00::99", dst=US) / ICMPv6PacketTooBig(mtu=1280) / Raw(big[:1000]))])
    assert stack.counters()["ip_pmtu_lowered"] == 1
    for size, number in ((1232, 1), (1233, 2), (1400, 2)):
        try:
            sock.send(bytes(size))
        except OSError:
            sock.send(bytes(size))
        packets = [IPv6(p) for p in sent(stack)]
        assert len(packets) == number and all(len(bytes(p)) <= 1280 for p in packets)
        assert all((IPv6ExtHdrFragment in p) == (number > 1) for p in packets)
        assert number == 1 or [p[IPv6ExtHdrFragment].m for p in packets] == [1, 0]


# ---- B6: too many -----------------------------------------------------------------


def test_b6_a_network_of_64_bits_counts_as_one_source():
    """Who has 2^64 addresses has one share: what he sends pushes out his own datagrams, not another network's."""
    stack, sock = receiver(sysctl={"net.ipv4.ipfrag_high_thresh": 1 << 18})
    rng = random.Random(6)
    for k in range(scale(100, 10)):
        src = f"fd02::{k + 1:x}"
        pieces = cut(datagram(b"legit" * 100, src), 400, src=src, id=k)
        feed(stack, pieces[:1])
        for _ in range(1000):                # five times what there is room for
            evil = str(ipaddress.IPv6Address(0xFD01 << 112 | rng.getrandbits(64)))
            feed(stack, [piece(bytes(1232), 1232, True, id=rng.getrandbits(32), src=evil)])
            assert memory(stack)[1] <= 1 << 18
        feed(stack, pieces[1:])
        assert taken(sock) == [b"legit" * 100], k
    c = stack.counters()
    assert c["drop_fragment_limit"] > 1000 and c["ip_fragment_steps"] <= 64 * c["ip_fragments_in"]
    stack.advance(S + 60 * S)
    assert sent(stack) == [] and memory(stack) == (0, 0)


# ---- B8: neighbour discovery in fragments ------------------------------------------


def fragmented(packet, size: int, id: int) -> list[IPv6]:
    body = bytes(packet)[40:]
    pieces = [body[at:at + size] for at in range(0, len(body), size)]
    return [IPv6(src=packet.src, dst=packet.dst, hlim=255)
            / IPv6ExtHdrFragment(nh=58, id=id, offset=k * size // 8, m=k < len(pieces) - 1) / Raw(p)
            for k, p in enumerate(pieces)]


FROM_PEER, FROM_ROUTER = IPv6(src=PEER, dst=US, hlim=255), IPv6(src=ROUTER, dst=US, hlim=255)
TO_ALL = IPv6(src=ROUTER, dst="ff02::1", hlim=255)
MESSAGES = {
    "solicitation": FROM_PEER / ICMPv6ND_NS(tgt=US) / ICMPv6NDOptDstLLAddr(lladdr=PEER_MAC, type=1),
    "advertisement": FROM_PEER / ICMPv6ND_NA(tgt=PEER, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=EVIL_MAC),
    "router": TO_ALL / ICMPv6ND_RA(routerlifetime=1800) / Raw(bytes([77, 1]) + bytes(6)),
    "redirect": FROM_ROUTER / ICMPv6ND_Redirect(tgt="fe80::66", dst="2001:db9::7"),
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("size", [8, 16, 1000])
def test_b8_a_message_put_together_from_fragments_is_ignored(name, size):
    """Whole, the same message is heard; in one fragment, two, or many it is not (RFC 6980 section 5)."""
    changes = []
    for pieces in ([MESSAGES[name]], fragmented(MESSAGES[name], size, 9)):
        link = Link(accept_ra=1, accept_redirects=1)
        if name == "redirect":
            link.give(TO_ALL / ICMPv6ND_RA(routerlifetime=1800), src=ROUTER_MAC)
        if name == "advertisement":
            link.send()                              # we ask, and wait for exactly this answer
        before = link.stack.counters()
        said = []
        for p in pieces:
            said += link.give(p, src=ROUTER_MAC if p.src == ROUTER else PEER_MAC)
        refused = link.stack.counters().get("drop_nd_invalid", 0) - before.get("drop_nd_invalid", 0)
        changes.append((len(said), refused, first_hop(link)))
        assert memory(link.stack) == (0, 0)
    heard, ignored = changes
    assert heard[1] == 0 and ignored[1] == 1 and ignored[0] == 0
    assert (heard[0], heard[2]) != (ignored[0], ignored[2]), "the whole message does something"


def test_b8_an_echo_in_fragments_is_answered_all_the_same():
    link = Link().known()
    p = IPv6(src=PEER, dst=US, hlim=255) / ICMPv6EchoRequest(data=bytes(40))
    said = [f for piece in fragmented(IPv6(bytes(p)), 16, 3) for f in link.give(piece)]
    assert len(said) == 1 and bytes(said[0])[54] == 129
