"""The data path in IPv6, one round at a time, with scapy as judge of the bytes: hop limits, ICMPv6 errors and when
there is none, echo, resets, and addresses of several pools.
"""

import itertools

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6ND_Redirect,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Raw

from netstack.router.pool import pack_address
from tests.router.lan import Lan
from tests.router.shared import OTHER6, SHARED6, SharedLan

A, B, C, R = "fd77::2", "fd77::3", "fd77::4", "fd77::1"
A4, R4 = "10.77.0.2", "10.77.0.1"
NOBODY, ELSEWHERE = "fd77::99", "2001:db8::1"
MIN_MTU = 1280


@pytest.fixture
def lan():
    return Lan("10.77.0.0/16", "fd77::/64", router=(R4, R))


@pytest.fixture
def pair(lan):
    return lan, lan.stack(A), lan.stack(B)


def udp(src=A, dst=B, payload=b"hello", **ip):
    return IPv6(src=src, dst=dst, **ip) / UDP(sport=1, dport=2) / Raw(payload)


def sums_are_right(packet) -> bool:
    """The checksums are those that scapy computes."""
    again = packet.copy()
    for layer in (TCP, UDP, ICMPv6EchoReply, ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded):
        if layer in again and layer is again.payload.__class__:
            name = "cksum" if hasattr(again[layer], "cksum") else "chksum"
            delattr(again[layer], name)
    return bytes(again) == bytes(packet)


def error(packet):
    """Type, code and quotation of an ICMPv6 error; it is well-formed, and in the size that every link carries."""
    message = packet.payload
    assert packet.nh == 58 and packet.plen + 40 == len(bytes(packet)) <= MIN_MTU and sums_are_right(packet)
    assert packet.hlim == 64
    return message.type, message.code, bytes(message)[8:]


# ---- hops


@pytest.mark.parametrize("size", [0, 1, 1400, 65487])
@pytest.mark.parametrize("split", ["whole", 40, 48])
def test_packet_arrives_with_one_hop_less(pair, size, split):
    lan, a, b = pair
    payload = bytes(i * 7 & 0xFF for i in range(size))
    a.send(udp(payload=payload, hlim=9, tc=0x22, fl=0x12345), split=None if split == "whole" else split)
    assert lan.run() == 1
    [got] = b.received()
    assert bytes(got[UDP].payload) == payload and sums_are_right(got)
    assert (got.hlim, got.tc, got.fl) == (8, 0x22, 0x12345), "nothing but the hop limit changes"
    assert not a.received()


@pytest.mark.parametrize("size", [0, 1000, 1232, 1233, 60000])
@pytest.mark.parametrize("split", ["whole", 40, 48])
def test_hop_limit_that_runs_out(pair, size, split):
    """RFC 4443 section 3.3; as much of the packet as 1280 bytes hold, as it came, however it lies in the ring."""
    lan, a, b = pair
    for hlim in (1, 0):
        packet = udp(payload=bytes(i % 251 for i in range(max(0, size - 48))), hlim=hlim)
        a.send(packet, split=None if split == "whole" else split)
        lan.run()
        [answer] = a.received()
        kind, code, quoted = error(answer)
        assert (kind, code, answer.src, answer.dst) == (3, 0, R, A)
        assert quoted == bytes(packet)[: MIN_MTU - 48]
    assert a.drops() == {"in_ttl": 2} and not b.received()


# ---- errors


@pytest.mark.parametrize("mtu", [1280, 1500, 9000])
def test_too_big_for_the_destination(lan, mtu):
    a, b = lan.stack(A), lan.stack(B, mtu=mtu)
    a.send(udp(payload=bytes(mtu - 48)), udp(payload=bytes(mtu - 47)))
    lan.run()
    [answer] = a.received()
    kind, code, quoted = error(answer)
    assert (kind, code, answer[ICMPv6PacketTooBig].mtu, answer.src) == (2, 0, mtu, R)
    assert quoted == bytes(udp(payload=bytes(mtu - 47)))[:1232]
    assert a.drops() == {"in_too_big": 1} and len(b.received()) == 1


@pytest.mark.parametrize("dst, code, reason", [(NOBODY, 3, "in_unknown_address"), (ELSEWHERE, 0, "in_no_route")])
@pytest.mark.parametrize("transport", [UDP(), TCP(flags="S"), ICMPv6EchoRequest(), Raw(bytes(20))],
                         ids=["UDP", "TCP", "echo", "nothing known"])
def test_unknown_destination(pair, dst, code, reason, transport):
    lan, a, _ = pair
    packet = IPv6(src=A, dst=dst) / transport
    a.send(packet)
    lan.run()
    [answer] = a.received()
    assert error(answer) == (1, code, bytes(packet)) and (answer.src, answer.dst) == (R, A)
    assert a.drops() == {reason: 1}


@pytest.mark.parametrize("chain", [
    IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(), IPv6ExtHdrFragment(offset=0, m=0),
    IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(offset=0, m=1),
], ids=["hop-by-hop", "destination options", "routing", "atomic fragment", "first fragment"])
def test_extension_headers_are_forwarded_and_complained_about(pair, chain):
    lan, a, b = pair
    good, gone = (IPv6(src=A, dst=dst) / chain / UDP(sport=1, dport=2) / Raw(b"x") for dst in (B, NOBODY))
    a.send(good, gone)
    lan.run()
    [got] = b.received()
    expected = good.__class__(bytes(good))
    expected.hlim -= 1
    assert bytes(got) == bytes(expected)
    [answer] = a.received()
    assert error(answer) == (1, 3, bytes(gone))


SILENT = {
    "destination unreachable": ICMPv6DestUnreach() / Raw(bytes(48)),
    "packet too big": ICMPv6PacketTooBig() / Raw(bytes(48)),
    "time exceeded": ICMPv6TimeExceeded() / Raw(bytes(48)),
    "parameter problem": ICMPv6ParamProblem() / Raw(bytes(48)),
    "an error of a type nobody knows": Raw(b"\x7f\0\0\0\0\0\0\0"),
    "redirect": ICMPv6ND_Redirect(),
    "an error behind extension headers": IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / ICMPv6TimeExceeded()
    / Raw(bytes(48)),
    "an error in an atomic fragment": IPv6ExtHdrFragment() / ICMPv6TimeExceeded() / Raw(bytes(48)),
    "a later fragment": IPv6ExtHdrFragment(offset=9, nh=17) / Raw(bytes(64)),
    "a later fragment of an ICMPv6 message": IPv6ExtHdrFragment(offset=9, nh=58) / Raw(bytes(64)),
    "ICMPv6 without a type": Raw(b""),
    "a chain that ends nowhere": Raw(b""),
    "a chain without an end": IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt() / UDP(),
}


NEXT = {"an error of a type nobody knows": 58, "ICMPv6 without a type": 58, "a chain that ends nowhere": 60}


WHYS = ["in_unknown_address", "in_no_route", "in_ttl", "in_too_big", "in_dead_address"]
EMPTY = {"ICMPv6 without a type", "a chain that ends nowhere"}


@pytest.mark.parametrize("name, why", [(name, why) for name, why in itertools.product(SILENT, WHYS)
                                       if why != "in_too_big" or name not in EMPTY])
def test_g3_no_error_about_an_error_and_what_may_be_one(lan, name, why):
    """RFC 4443 section 2.4 (e): whatever the reason for the drop."""
    a, b, dead = lan.stack(A), lan.stack(B, mtu=MIN_MTU), lan.stack(C)
    lan.forwarder.remove(dead.port)
    dst = {"in_unknown_address": NOBODY, "in_no_route": ELSEWHERE, "in_dead_address": C}.get(why, B)
    packet = IPv6(src=A, dst=dst, hlim=1 if why == "in_ttl" else 9) / SILENT[name]
    if name in NEXT:
        packet.nh = NEXT[name]
    if why == "in_too_big":
        packet = packet / Raw(bytes(MIN_MTU))
    for split in (None, 40, 48):
        if split is None or split <= len(packet):
            a.send(packet, split=split)
    n = lan.run()
    assert not a.received() and not b.received() and a.drops() == {why: n}


def test_g3_nobody_is_told_about_multicast_or_by_no_address(pair):
    lan, a, b = pair
    a.send(*(udp(dst=dst, hlim=1) for dst in ("ff02::1", "ff0e::1", "ff05::2")), udp(src="::", hlim=1),
           IPv6(src="::", dst="ff02::1:ff00:3") / ICMPv6ND_NS(tgt=B))
    lan.run()
    assert not a.received() and not b.received() and a.drops() == {"in_destination": 3, "in_spoofed": 2}


def test_errors_are_limited_per_attachment(lan):
    a, c = lan.stack(A), lan.stack(C)
    for _ in range(400):
        a.send(udp(hlim=1), flush=False)
    a.channel.flush()
    lan.forwarder.run_once(1_000_000_000)
    while lan.forwarder.run_once(1_000_000_000):
        pass
    assert len(a.received()) == 50, "a burst of 50"
    a.send(*(udp(hlim=1) for _ in range(20)))
    lan.forwarder.run_once(1_005_000_000)
    assert len(a.received()) == 5, "then 1,000 a second"
    c.send(udp(src=C, hlim=1))
    lan.forwarder.run_once(1_005_000_000)
    assert len(c.received()) == 1, "another attachment has its own limit"
    lan.check()


# ---- the router itself


@pytest.mark.parametrize("size", [0, 1, 56, 2000, 60000])
def test_router_answers_echo(lan, size):
    a = lan.stack(A)
    payload = (bytes(range(256)) * 240)[:size]
    a.send(IPv6(src=A, dst=R, hlim=1) / ICMPv6EchoRequest(id=7, seq=9, data=payload))
    lan.run()
    [answer] = a.received()
    reply = answer[ICMPv6EchoReply]
    assert (answer.src, answer.dst, answer.hlim) == (R, A, 64)
    assert (reply.id, reply.seq, bytes(reply.data)) == (7, 9, payload) and sums_are_right(answer)
    assert a.counters["consumed"] == 1


def test_router_refuses_the_rest(lan):
    a = lan.stack(A)
    datagram = IPv6(src=A, dst=R) / UDP(sport=5, dport=53)
    wrapped = IPv6(src=A, dst=R) / IPv6ExtHdrDestOpt() / UDP(sport=5, dport=53)
    a.send(IPv6(src=A, dst=R) / TCP(sport=5, dport=80, flags="S", seq=100),
           IPv6(src=A, dst=R) / IPv6ExtHdrDestOpt() / TCP(sport=6, dport=80, flags="A", ack=7),
           datagram, wrapped, IPv6(src=A, dst=R, nh=132) / Raw(bytes(20)))
    lan.run()
    reset, late, first, second = a.received()
    assert (reset[TCP].flags, reset[TCP].ack, reset.src) == ("RA", 101, R) and sums_are_right(reset)
    assert (late[TCP].flags, late[TCP].seq, late[TCP].dport) == ("R", 7, 6) and sums_are_right(late)
    assert [error(p) for p in (first, second)] == [(1, 4, bytes(datagram)), (1, 4, bytes(wrapped))]
    assert a.drops() == {"in_protocol": 1} and a.counters["consumed"] == 4


@pytest.mark.parametrize("chain", [(), (IPv6ExtHdrHopByHop(),), (IPv6ExtHdrFragment(),)],
                         ids=["plain", "options", "atomic"])
def test_segment_to_a_dead_address_is_reset(pair, chain):
    lan, a, b = pair
    lan.forwarder.remove(b.port)
    packet = IPv6(src=A, dst=B)
    for header in chain:
        packet /= header
    a.send(packet / TCP(sport=40001, dport=80, flags="PA", seq=5, ack=7) / Raw(b"xyz"), udp())
    lan.run()
    reset, unreachable = a.received()
    assert (reset.src, reset.dst, reset[TCP].sport, reset[TCP].dport, reset[TCP].flags, reset[TCP].seq) == (
        B, A, 80, 40001, "R", 7) and sums_are_right(reset)
    assert error(unreachable) == (1, 3, bytes(udp())) and unreachable.src == R
    assert a.drops() == {"in_dead_address": 2}


# ---- several pools


def test_each_pool_has_its_router_and_errors_come_from_the_nearest():
    lan = Lan("10.77.0.0/16", "fd77::/64", "10.88.0.0/16", "fd88::/64", router=("10.77.0.1", R, "10.88.0.1", "fd88::1"))
    a, b = lan.stack(A4, A), lan.stack("10.88.0.2", "fd88::2")
    for stack, four, six in ((a, A4, A), (b, "10.88.0.2", "fd88::2")):
        for dst4, dst6 in ((A4, A), ("10.88.0.2", "fd88::2")):
            if dst4 != four:
                stack.send(IP(src=four, dst=dst4) / UDP() / Raw(b"4"), udp(src=six, dst=dst6))
                stack.send(IP(src=four, dst=dst4, ttl=1) / UDP(), udp(src=six, dst=dst6, hlim=1))
    lan.run()
    for stack, routers in ((a, ("10.77.0.1", R)), (b, ("10.88.0.1", "fd88::1"))):
        assert [p.src for p in stack.received() if ICMP in p or ICMPv6TimeExceeded in p] == list(routers)
        assert stack.counters["forwarded"] == 2
    for router in (R, "fd88::1"):
        a.send(IPv6(src=A, dst=router) / ICMPv6EchoRequest())
    lan.run()
    assert [p.src for p in a.received()] == [R, "fd88::1"]


def test_without_an_address_of_its_own_the_router_says_nothing_in_ipv6():
    lan = Lan("10.77.0.0/16", "fd77::/64", router=R4)
    a = lan.stack(A)
    a.send(udp(hlim=1), udp(dst=NOBODY), udp(dst=ELSEWHERE))
    lan.run()
    assert not a.received() and sum(a.drops().values()) == 3


# ---- an address that stacks share


@pytest.mark.parametrize("chain", [None, IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()],
                         ids=["plain", "hop-by-hop", "destination options"])
def test_unclaimed_ports_of_a_shared_address_are_refused_as_a_host_does(chain):
    lan = SharedLan()
    lan.sharer()
    head = IPv6(src=OTHER6, dst=SHARED6, hlim=1) if chain is None else IPv6(src=OTHER6, dst=SHARED6, hlim=1) / chain
    datagram, segment = head / UDP(sport=9, dport=53) / Raw(b"?"), head / TCP(sport=9, dport=80, flags="S", seq=4)
    lan.other.send(datagram, segment)
    lan.run()
    refused, reset = lan.other.received()
    assert error(refused) == (1, 4, bytes(datagram)) and (refused.src, refused.dst) == (SHARED6, OTHER6)
    assert (reset.src, reset[TCP].flags, reset[TCP].ack) == (SHARED6, "RA", 5) and sums_are_right(reset)
    assert lan.other.drops() == {"in_no_port": 2}


def test_a_stack_with_an_address_of_its_own_beside_a_shared_one_reaches_both_of_its_own():
    """What a sharer sends to its own addresses goes through the router: also to the one that is its alone."""
    lan = SharedLan()
    a = lan.sharer()
    lan.forwarder.bind(a.port, pack_address("fd77::77"), 1)
    a.claim(5, 1)
    a.send(IPv6(src="fd77::77", dst="fd77::77") / UDP(sport=5, dport=5) / Raw(b"self"),
           IPv6(src=SHARED6, dst="fd77::77") / UDP(sport=5, dport=5) / Raw(b"from shared"))
    lan.run()
    assert [bytes(p[UDP].payload) for p in a.received()] == [b"self", b"from shared"]
