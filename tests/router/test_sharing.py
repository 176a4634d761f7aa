"""An address that stacks share: whose packets are whose, who may send what, and who may have which port."""

import errno
import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.packet import Raw

from netstack.router.sharing import PROTOCOL
from netstack.router.sharing import TCP as KIND_TCP
from netstack.router.sharing import UDP as KIND_UDP
from netstack.testing.packets import build_udp
from tests.router.lan import put, take
from tests.router.shared import OTHER, OTHER6, ROUTER, SHARED, SHARED6, SharedLan

REUSEADDR, REUSEPORT = 1, 2


@pytest.fixture
def lan():
    return SharedLan()


def tcp(sport, dport, flags="S", src=OTHER, dst=SHARED, payload=b"", **ip):
    return IP(src=src, dst=dst, **ip) / TCP(sport=sport, dport=dport, flags=flags) / Raw(payload)


def udp(sport, dport, payload=b"x", src=OTHER, dst=SHARED, **ip):
    return IP(src=src, dst=dst, **ip) / UDP(sport=sport, dport=dport) / Raw(payload)


def udp6(sport, dport, src=OTHER6, dst=SHARED6):
    return IPv6(src=src, dst=dst) / UDP(sport=sport, dport=dport) / Raw(b"six")


def fails(number):
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


# --- to the shared address ---


def test_a_packet_goes_to_whoever_has_its_port(lan):
    a, b = lan.sharer(), lan.sharer()
    a.claim(80)
    b.claim(81)
    b.claim(80, KIND_UDP)
    lan.other.send(tcp(1, 80), tcp(1, 81), udp(1, 80), udp6(1, 80))
    lan.run()
    assert [p[TCP].dport for p in a.received()] == [80]
    got = b.received()
    assert [(TCP in p, UDP in p, p.version) for p in got] == [(True, False, 4), (False, True, 4), (False, True, 6)]


def test_the_host_they_make_is_no_hop(lan):
    a = lan.sharer()
    a.claim(80)
    lan.other.send(tcp(1, 80, ttl=1))
    a.send(tcp(80, 1, src=SHARED, dst=OTHER, ttl=1))
    lan.run()
    assert [p.ttl for p in a.received()] == [1] and [p.ttl for p in lan.other.received()] == [1]


def test_stacks_reach_each_other_and_themselves_at_the_address_they_share(lan):
    a, b = lan.sharer(), lan.sharer()
    a.claim(80)
    b.claim(5000)
    b.send(tcp(5000, 80, src=SHARED))
    a.send(tcp(80, 5000, "SA", src=SHARED), tcp(80, 80, src=SHARED))
    lan.run()
    assert sorted(p[TCP].sport for p in a.received()) == [80, 5000]
    assert [p[TCP].flags for p in b.received()] == ["SA"]


def test_what_nobody_has_is_refused_as_a_host_does(lan):
    a = lan.sharer()
    lan.other.send(tcp(7, 80), udp(7, 80))
    lan.run()
    reset, error = lan.other.received()
    assert reset.src == SHARED and reset[TCP].flags == "RA" and reset[TCP].sport == 80
    assert error.src == SHARED and (error[ICMP].type, error[ICMP].code) == (3, 3)
    assert lan.other.drops() == {"in_no_port": 2} and not a.received()


def test_echo_requests_are_answered_by_the_router(lan):
    a = lan.sharer()
    lan.other.send(IP(src=OTHER, dst=SHARED) / ICMP(id=3) / Raw(b"ping"),
                   IPv6(src=OTHER6, dst=SHARED6) / ICMPv6EchoRequest(id=3, data=b"ping"))
    lan.run()
    four, six = lan.other.received()
    assert four.src == SHARED and four[ICMP].type == 0 and bytes(four[Raw]) == b"ping"
    assert six.src == SHARED6 and six[ICMPv6EchoReply].data == b"ping"
    assert not a.received()


def test_an_echo_reply_goes_to_who_asked(lan):
    a, b = lan.sharer(), lan.sharer()
    for stack, ident in ((a, 5), (b, 6)):
        stack.send(IP(src=SHARED, dst=OTHER) / ICMP(id=ident),
                   IPv6(src=SHARED6, dst=OTHER6) / ICMPv6EchoRequest(id=ident))
    lan.run()
    assert len(lan.other.received()) == 4
    for ident in (6, 5, 7):
        lan.other.send(IP(src=OTHER, dst=SHARED) / ICMP(type=0, id=ident),
                       IPv6(src=OTHER6, dst=SHARED6) / ICMPv6EchoReply(id=ident))
    lan.run()
    assert [p[ICMP].id if ICMP in p else p[ICMPv6EchoReply].id for p in a.received()] == [5, 5]
    assert [p[ICMP].id if ICMP in p else p[ICMPv6EchoReply].id for p in b.received()] == [6, 6]
    assert lan.other.drops() == {"in_protocol": 2}


@pytest.mark.parametrize("about", [
    tcp(4000, 9, src=SHARED, dst=OTHER), udp(4000, 9, src=SHARED, dst=OTHER),
    IP(src=SHARED, dst=OTHER, options=[b"\x94\x04\0\0"]) / UDP(sport=4000, dport=9) / Raw(b"x"),
], ids=["TCP", "UDP", "with options"])
def test_an_icmp_error_goes_to_the_owner_of_the_flow_it_is_about(lan, about):
    a, b = lan.sharer(), lan.sharer()
    for kind in (KIND_TCP, KIND_UDP):
        a.claim(4000, kind)
        b.claim(9, kind)
    quoted = bytes(about)[:8 + 4 * (bytes(about)[0] & 15)]
    lan.other.send(IP(src=OTHER, dst=SHARED) / ICMP(type=3, code=3) / Raw(quoted))
    lan.run()
    assert [p[ICMP].type for p in a.received()] == [3] and not b.received()


def test_errors_about_echo_requests_and_of_ipv6_too(lan):
    a, b = lan.sharer(), lan.sharer()
    b.claim(4000, KIND_UDP)
    request = IP(src=SHARED, dst=OTHER) / ICMP(id=5)
    a.send(request)
    lan.run()
    lan.other.send(IP(src=OTHER, dst=SHARED) / ICMP(type=11) / Raw(bytes(request)),
                   IPv6(src=OTHER6, dst=SHARED6) / ICMPv6DestUnreach(code=4) / udp6(4000, 9, SHARED6, OTHER6))
    lan.run()
    assert [p[ICMP].type for p in a.received()] == [11]
    assert [ICMPv6DestUnreach in p for p in b.received()] == [True]


def test_an_error_about_what_the_address_never_sent_is_dropped(lan):
    a = lan.sharer()
    a.claim(4000, KIND_UDP)
    for about in (b"", b"\x45" * 9,
                  bytes(udp(4000, 9, src=OTHER, dst=OTHER)), bytes(udp(4001, 9, src=SHARED, dst=OTHER)),
                  bytes(udp(4000, 9, src=SHARED, dst=OTHER))[:23], bytes(IP(src=SHARED, dst=OTHER) / ICMP(type=0)),
                  bytes(udp(4000, 9, src=SHARED, dst=OTHER, frag=3))):
        lan.other.send(IP(src=OTHER, dst=SHARED) / ICMP(type=3, code=3) / Raw(about))
    lan.run()
    assert not a.received() and sum(lan.other.drops().values()) == 7


# --- pieces ---


def pieces(*sizes, src=OTHER, dst=SHARED, sport=1, dport=80, ident=7):
    """A datagram cut by hand; the first piece has the ports."""
    whole = bytes(UDP(sport=sport, dport=dport, len=8 + sum(sizes)) / Raw(bytes(sum(sizes))))
    out, at = [], 0
    for i, size in enumerate(sizes):
        n = size + (8 if i == 0 else 0)
        more = 1 if i < len(sizes) - 1 else 0
        out.append(IP(src=src, dst=dst, id=ident, proto=17, flags=more, frag=at // 8) / Raw(whole[at:at + n]))
        at += n
    return out


def test_pieces_follow_their_first_one(lan):
    a, b = lan.sharer(), lan.sharer()
    a.claim(80, KIND_UDP)
    b.claim(81, KIND_UDP)
    one, two = pieces(800, 800, 100, ident=7), pieces(800, 800, 100, dport=81, ident=8)
    lan.other.send(one[0], two[0], two[2], one[1], two[1], one[2])
    lan.run()
    assert [(p.id, p.frag) for p in a.received()] == [(7, 0), (7, 101), (7, 201)]
    assert [(p.id, p.frag) for p in b.received()] == [(8, 0), (8, 201), (8, 101)]


def test_pieces_without_a_first_one_are_dropped_and_counted(lan):
    a = lan.sharer()
    a.claim(80, KIND_UDP)
    first, later = pieces(800, 100)
    lan.other.send(later)
    lan.run()
    lan.other.send(first)
    lan.run()
    lan.sleep(61)
    lan.other.send(later)
    lan.run()
    assert len(a.received()) == 1 and lan.other.drops() == {"in_piece": 2}


def test_pieces_of_a_stack_that_left_go_to_nobody(lan):
    a = lan.sharer()
    a.claim(80, KIND_UDP)
    first, later = pieces(800, 100)
    lan.other.send(first)
    lan.run()
    a.leave()
    lan.sharer().claim(80, KIND_UDP)
    lan.other.send(later)
    lan.run()
    assert lan.other.drops() == {"in_piece": 1}


def test_ipv6_headers_in_front_of_the_transport_are_walked(lan):
    a = lan.sharer()
    a.claim(80, KIND_UDP)
    head = IPv6(src=OTHER6, dst=SHARED6)
    whole = bytes(UDP(sport=1, dport=80, len=32) / Raw(bytes(24)))
    lan.other.send(head / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=80),
                   IPv6(src=OTHER6, dst=SHARED6) / IPv6ExtHdrFragment(id=9, m=1, nh=17) / Raw(whole[:16]),
                   IPv6(src=OTHER6, dst=SHARED6) / IPv6ExtHdrFragment(id=9, offset=2, nh=17) / Raw(whole[16:]))
    lan.run()
    assert len(a.received()) == 3


# --- protocols without ports ---


def test_a_protocol_without_ports_goes_to_one_claimant(lan):
    a, b = lan.sharer(), lan.sharer()
    gre = IP(src=OTHER, dst=SHARED, proto=47) / Raw(b"\0" * 8)
    lan.other.send(gre)
    lan.run()
    assert lan.other.drops() == {"in_protocol": 1}
    a.claim(47, PROTOCOL)
    with fails(errno.EADDRINUSE):
        b.claim(47, PROTOCOL)
    lan.other.send(gre)
    lan.run()
    assert len(a.received()) == 1 and not b.received()


def test_who_speaks_a_protocol_first_has_it(lan):
    a, b = lan.sharer(), lan.sharer()
    said = IP(src=SHARED, dst=OTHER, proto=47) / Raw(b"\0" * 8)
    a.send(said)
    lan.run()
    b.send(said)
    lan.run()
    assert len(lan.other.received()) == 1 and b.drops() == {"in_spoofed": 1}
    a.leave()
    b.send(said)
    lan.run()
    assert len(lan.other.received()) == 1


# --- ports ---


def test_a_port_has_one_owner_at_a_time(lan):
    a, b = lan.sharer(), lan.sharer()
    a.claim(80)
    a.claim(80)
    for flags in (0, REUSEADDR, REUSEPORT):
        with fails(errno.EADDRINUSE):
            b.claim(80, flags=flags)
    b.claim(80, KIND_UDP)
    a.release(80)
    b.claim(80)
    with fails(errno.EINVAL):
        a.release(80)
    assert lan.shared.owned(b.port) == [(KIND_TCP, 80), (KIND_UDP, 80)] and lan.shared.claimed == 2


@pytest.mark.parametrize("kind, number", [(KIND_TCP, 0), (KIND_UDP, 65536), (PROTOCOL, 256), (3, 7), (255, 7)])
def test_numbers_that_cannot_be_are_refused(lan, kind, number):
    with fails(errno.EINVAL):
        lan.sharer().claim(number, kind)
    with fails(errno.EINVAL):
        lan.sharer().release(number, kind)


def test_who_shares_no_address_has_no_ports(lan):
    with fails(errno.EPERM):
        lan.shared.claim(lan.other.port, KIND_TCP, 80)
    with fails(errno.EPERM):
        lan.shared.lease(lan.other.port, KIND_TCP)


def test_the_ports_of_the_dead_rest(lan):
    a, b = lan.sharer(), lan.sharer()
    a.claim(80)
    a.claim(80, KIND_UDP)
    [port, *_] = a.lease(KIND_UDP)
    a.leave()
    lan.other.send(tcp(7, 80, "A"))
    lan.run()
    assert lan.other.received()[0][TCP].flags == "R", "late segments are answered"
    b.claim(80, KIND_UDP)                                # has no connections whose segments could be late
    lan.sleep(59.9)
    with fails(errno.EADDRINUSE):
        b.claim(80)
    with fails(errno.EADDRINUSE):
        b.claim(port, KIND_UDP)
    lan.sleep(0.2)
    b.claim(80)
    b.claim(port, KIND_UDP)


@pytest.mark.parametrize("flags", [REUSEADDR, REUSEPORT])
def test_who_asks_for_it_may_have_a_port_that_rests(lan, flags):
    a = lan.sharer()
    a.claim(80, flags=flags)
    a.leave()
    lan.sharer().claim(80, flags=flags)


def test_leases_are_random_and_nobody_elses(lan):
    a, b = lan.sharer(), lan.sharer()
    a.claim(20000)
    ports = [p for stack in (a, b) for _ in range(20) for p in stack.lease()]
    assert len(ports) == 2 * 20 * 64 == len(set(ports)) and min(ports) >= 10240 and 20000 not in ports
    steps = [y - x for x, y in zip(ports, ports[1:], strict=False)]
    assert sum(abs(s) < 64 for s in steps) < 60, "no runs: about 6 of 2,560 by chance"
    with fails(errno.EADDRINUSE):
        b.claim(ports[0])
    assert lan.shared.leased == len(ports)
    a.release(ports[0])                                  # stays a's, for its next connection
    assert (KIND_TCP, ports[0]) in lan.shared.owned(a.port)


def test_one_stack_cannot_have_all_ports(lan):
    a, b = lan.sharer(), lan.sharer()
    n = 0
    with fails(errno.ENOBUFS):
        while True:
            n += len(a.lease())
    assert n == 16384 == len(lan.shared.owned(a.port)) and len(b.lease()) == 64
    a.leave()
    assert lan.shared.claimed == lan.shared.leased == 64


# --- a listener of several ---


def flows(n, dport=80, flags="S"):
    return [tcp(10_000 + i, dport, flags) for i in range(n)]


def shares(*stacks):
    return [{p[TCP].sport for p in stack.received()} for stack in stacks]


def speaks(lan, stack, flags):
    """The stack sends a segment on each of the 300 flows."""
    for i in range(0, 300, 50):
        stack.send(*[tcp(80, 10_000 + n, flags, src=SHARED, dst=OTHER) for n in range(i, i + 50)])
        lan.run()
        lan.other.received()


def test_flows_to_a_shared_port_are_spread_and_each_keeps_its_stack(lan):
    group = [lan.sharer() for _ in range(4)]
    for stack in group:
        stack.claim(80, flags=REUSEPORT)
    lan.other.send(*flows(400))
    lan.run()
    first = shares(*group)
    assert sorted(len(s) for s in first)[0] > 60 and sum(map(len, first)) == 400
    lan.other.send(*flows(400, flags="A"))
    lan.run()
    assert shares(*group) == first


def test_only_the_flows_of_a_stack_that_leaves_change_hands(lan):
    group = [lan.sharer() for _ in range(3)]
    for stack in group:
        stack.claim(80, flags=REUSEPORT)
    lan.other.send(*flows(300))
    lan.run()
    before = shares(*group)
    group[0].leave()
    lan.other.send(*flows(300))
    lan.run()
    after = shares(*group[1:])
    assert before[1] <= after[0] and before[2] <= after[1] and after[0] | after[1] == set.union(*before)


def test_who_joins_takes_no_connection_from_anybody(lan):
    a, b = lan.sharer(), lan.sharer()
    a.claim(80, flags=REUSEPORT)
    lan.other.send(*flows(300))
    lan.run()
    a.received()
    speaks(lan, a, "A")
    b.claim(80, flags=REUSEPORT)
    lan.other.send(*flows(300, flags="A"))
    lan.run()
    assert [len(s) for s in shares(a, b)] == [300, 0]
    lan.other.send(*[tcp(20_000 + n, 80) for n in range(300)])
    lan.run()
    assert all(len(s) > 90 for s in shares(a, b)), "new ones are spread"


@pytest.mark.parametrize("answer", ["SA", "S"], ids=["passive", "active"])
def test_who_joins_amid_handshakes_takes_none_of_them(lan, answer):
    """The peer of a connection may answer a SYN,ACK after somebody joined, before its stack sent more."""
    a, b = lan.sharer(), lan.sharer()
    a.claim(80, flags=REUSEPORT)
    speaks(lan, a, answer)
    b.claim(80, flags=REUSEPORT)
    lan.other.send(*flows(300, flags="A"))
    lan.run()
    assert [len(s) for s in shares(a, b)] == [300, 0]


def test_a_flood_of_syns_takes_no_connection_from_anybody(lan):
    a, b = lan.sharer(), lan.sharer()
    a.claim(80, flags=REUSEPORT)
    a.send(tcp(80, 9, "SA", src=SHARED, dst=OTHER), *[tcp(80, 100 + n, "A", src=SHARED, dst=OTHER) for n in range(60)])
    lan.run()
    a.send(tcp(80, 9, "A", src=SHARED, dst=OTHER))
    flood = [bytes(tcp(80, 1000 + n, "SA", src=SHARED, dst=OTHER)) for n in range(9000)]
    for i in range(0, len(flood), 100):
        for packet in flood[i:i + 100]:
            put(a.channel, packet)
        lan.run()
        while take(lan.other.channel):
            pass
    b.claim(80, flags=REUSEPORT)
    lan.other.send(tcp(9, 80, "A"), *[tcp(100 + n, 80, "A") for n in range(60)])
    lan.run()
    assert [len(s) for s in shares(a, b)] == [61, 0]


def test_only_those_of_one_user_who_all_ask_share_a_port(lan):
    a = lan.sharer(uid=1)
    a.claim(80, flags=REUSEPORT)
    for uid, flags in ((1, 0), (1, REUSEADDR), (2, REUSEPORT)):
        with fails(errno.EADDRINUSE):
            lan.sharer(uid=uid).claim(80, flags=flags)
    lan.sharer(uid=1).claim(80, flags=REUSEPORT)


def test_a_group_has_an_end_and_leaves_nothing(lan):
    group = [lan.sharer() for _ in range(65)]
    for stack in group[:64]:
        stack.claim(80, flags=REUSEPORT)
    with fails(errno.EADDRINUSE):
        group[64].claim(80, flags=REUSEPORT)
    for stack in group[:63]:
        stack.release(80)
    group[64].claim(80, flags=REUSEPORT)
    assert lan.shared.claimed == 1
    for stack in group:
        stack.leave()
    assert lan.shared.claimed == 0


def test_what_is_remembered_of_flows_is_bounded(lan):
    a, b = lan.sharer(), lan.sharer()
    for stack in (a, b):
        stack.claim(80, KIND_UDP, REUSEPORT)
    b.send(udp(80, 9, src=SHARED, dst=OTHER))
    for i in range(20_000):
        a.send(build_udp(SHARED, OTHER, 80, 10 + i, b"x"))
        if i % 500 == 499:
            lan.run()
            while take(lan.other.channel):
                pass
    lan.other.send(udp(9, 80))
    lan.run()
    assert [p[UDP].sport for p in b.received()] == [9], "a's flows push out none of b's"


# --- row I1: nobody sends from what is another's ---

SPOOFS = {
    "TCP from a port of another": tcp(80, 9, "A", src=SHARED, dst=OTHER),
    "UDP from a port of another": udp(80, 9, src=SHARED, dst=OTHER),
    "UDP over IPv6": udp6(80, 9, SHARED6, OTHER6),
    "TCP from a port of nobody": tcp(4711, 9, src=SHARED, dst=OTHER),
    "to another of the same address": udp(80, 9, src=SHARED, dst=SHARED),
    "an echo reply": IP(src=SHARED, dst=OTHER) / ICMP(type=0),
    "an echo reply, IPv6": IPv6(src=SHARED6, dst=OTHER6) / ICMPv6EchoReply(),
    "an error about what came to another": IP(src=SHARED, dst=OTHER) / ICMP(type=3, code=3) / udp(9, 80),
    "an error about what came to nobody": IP(src=SHARED, dst=OTHER) / ICMP(type=3, code=3) / udp(9, 4711),
    "an error about what the address sent": IP(src=SHARED, dst=OTHER) / ICMP(type=3, code=3) / udp(
        22, 9, src=SHARED, dst=OTHER),
    "an error about somebody else": IP(src=SHARED, dst=OTHER) / ICMP(type=3, code=3) / udp(9, 22, dst=OTHER),
    "an error without what it is about": IP(src=SHARED, dst=OTHER) / ICMP(type=3, code=3),
    "a timestamp request": IP(src=SHARED, dst=OTHER) / ICMP(type=13),
    "a protocol of another": IP(src=SHARED, dst=OTHER, proto=47) / Raw(b"gre"),
    "an address of another": udp(22, 9, src=OTHER, dst=OTHER),
    "the router": udp(22, 9, src=ROUTER, dst=OTHER),
}


@pytest.mark.parametrize("name", SPOOFS)
def test_i1_a_sharer_sends_from_its_own_ports_only(lan, name):
    a, b = lan.sharer(), lan.sharer()
    b.claim(80)
    b.claim(80, KIND_UDP)
    b.claim(47, PROTOCOL)
    a.claim(22, KIND_UDP)
    for split in (None, 20, 28):
        a.send(SPOOFS[name], split=split if split is None else min(split, len(SPOOFS[name])))
    a.send(udp(22, 9, src=SHARED, dst=OTHER))
    lan.run()
    assert [(p.src, p[UDP].sport) for p in lan.other.received()] == [(SHARED, 22)]
    assert not b.received()
    drops = a.drops()
    assert sum(drops.values()) == 3 and drops.keys() <= {"in_spoofed", "in_malformed"}, drops


def test_i1_a_member_does_not_speak_on_the_flows_of_another(lan):
    a, b = lan.sharer(), lan.sharer()
    for stack in (a, b):
        stack.claim(80, flags=REUSEPORT)
    a.send(tcp(80, 9, "A", src=SHARED, dst=OTHER))
    lan.run()
    b.send(tcp(80, 9, "A", src=SHARED, dst=OTHER), tcp(80, 10, "A", src=SHARED, dst=OTHER))
    lan.run()
    assert [p[TCP].dport for p in lan.other.received()] == [9, 10] and b.drops() == {"in_spoofed": 1}


def test_i1_an_echo_of_the_same_identifier_is_anothers_until_it_is_old(lan):
    a, b = lan.sharer(), lan.sharer()
    request = IP(src=SHARED, dst=OTHER) / ICMP(id=5)
    a.send(request)
    lan.run()
    b.send(request)
    lan.run()
    assert b.drops() == {"in_spoofed": 1}
    lan.sleep(11)
    b.send(request)
    lan.run()
    lan.other.send(IP(src=OTHER, dst=SHARED) / ICMP(type=0, id=5))
    lan.run()
    assert len(b.received()) == 1 and not a.received()


def test_i1_pieces_pass_behind_a_first_one_of_ones_own_only(lan):
    a, b = lan.sharer(), lan.sharer()
    a.claim(22, KIND_UDP)
    b.claim(80, KIND_UDP)
    b.send(*pieces(800, 100, src=SHARED, dst=OTHER, sport=80, dport=9, ident=7))
    lan.run()
    a.send(pieces(800, 100, src=SHARED, dst=OTHER, sport=80, dport=9, ident=7)[1],
           *pieces(800, 100, src=SHARED, dst=OTHER, sport=80, dport=9, ident=8),
           *pieces(800, 100, src=SHARED, dst=OTHER, sport=22, dport=9, ident=9))
    lan.run()
    assert [p.id for p in lan.other.received()] == [7, 7, 9, 9]
    assert a.drops() == {"in_piece": 2, "in_spoofed": 1}


def test_i1_an_error_about_ones_own_packet_passes_however_it_lies_in_the_ring(lan):
    a = lan.sharer()
    a.claim(22, KIND_UDP)
    error = IP(src=SHARED, dst=OTHER) / ICMP(type=3, code=3) / udp(9, 22, bytes(400))
    for split in (28, 40, 100, 200, None):
        a.send(error, split=split)
    lan.run()
    got = lan.other.received()
    assert len(got) == 5 and all(bytes(p) == bytes(got[0]) for p in got)


def test_i1_whatever_bytes_come_nobody_sees_what_is_not_his(lan):
    """Random damage to packets of every kind, from a sharer and to the shared address: nothing breaks."""
    rng = random.Random(5)
    a, b = lan.sharer(), lan.sharer()
    a.claim(22, KIND_UDP)
    b.claim(80)
    seeds = [bytes(p) for p in (*SPOOFS.values(), tcp(1, 80), udp(1, 22), *pieces(80, 80), udp6(1, 22),
                                IPv6(src=OTHER6, dst=SHARED6) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=22))]
    for _ in range(6000):
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        if rng.random() < 0.3:
            del raw[rng.randrange(len(raw)):]
        if raw and raw[0] >> 4 == 4 and len(raw) >= 20:          # so that most are not stopped by the first checks
            raw[2:4] = len(raw).to_bytes(2, "big")
            fixed = IP(bytes(raw))
            del fixed.chksum
            raw = bytearray(bytes(fixed))[:len(raw)]
        elif raw and raw[0] >> 4 == 6 and len(raw) >= 40:
            raw[4:6] = (len(raw) - 40).to_bytes(2, "big")
        sender = rng.choice((a, lan.other))
        put(sender.channel, bytes(raw), split=rng.choice((None, min(len(raw), 20), min(len(raw), 48))))
        sender.channel.flush()
        lan.run()
        for p in lan.other.received():
            assert not (UDP in p and p.src in (SHARED, SHARED6) and p.haslayer(UDP) and ICMP not in p) or \
                p[UDP].sport == 22 or getattr(p, "frag", 0), bytes(p)
        a.received(), b.received()
