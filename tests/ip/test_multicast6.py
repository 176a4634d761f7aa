"""Sources of IPv6 groups: who is heard, what routers are told (RFC 3810), and what a socket may ask (RFC 3678)."""

import errno
import socket as kernel
import struct

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6MLQuery2,
    ICMPv6MLReport2,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.packet import Raw

from netstack.stack import Stack
from netstack.testing import build_tcp
from tests.ip.nd_rig import OTHER, PEER, ROUTER, US, Link, solicited_node

GROUP = "ff15::1:2:3"
IPV6, JOIN, LEAVE, MULTICAST_ALL, UNICAST_HOPS = 41, 20, 21, 29, 16
(MCAST_JOIN, MCAST_BLOCK, MCAST_UNBLOCK, MCAST_LEAVE, MCAST_JOIN_SOURCE, MCAST_LEAVE_SOURCE,
 MCAST_MSFILTER) = range(42, 49)
IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = range(1, 7)


def sockaddr(text):
    return struct.pack("=HHI16sI", 10, 0, 0, kernel.inet_pton(kernel.AF_INET6, text), 0) + bytes(100)


def request(group=GROUP, source=None, interface=1):
    """struct group_req or group_source_req."""
    return struct.pack("=I4x", interface) + sockaddr(group) + (sockaddr(source) if source else b"")


def group_filter(mode, sources, group=GROUP):
    return struct.pack("=I4x", 1) + sockaddr(group) + struct.pack("=II", mode, len(sources)) + \
        b"".join(map(sockaddr, sources))


def code_of(call, *arguments):
    with pytest.raises(OSError) as error:
        call(*arguments)
    return error.value.errno


@pytest.fixture
def link():
    link = Link()
    link.take()
    return link


def listener(link, port=2000):
    s = link.stack.socket("dgram", family=10)
    s.setsockopt(1, 2, 1)
    s.bind(("::", port))
    return s


def to_group(link, src=PEER, group=GROUP, data=b"hello"):
    return link.give(IPv6(src=src, dst=group) / UDP(sport=9, dport=2000) / Raw(data))


def heard(s):
    out = []
    while True:
        try:
            out.append(s.recv(100))
        except BlockingIOError:
            return out


def said(link):
    """The records of each report that is due or was sent since the last look: (type, group, sources)."""
    link.run(0)
    out = []
    for frame in link.take():
        assert frame[IPv6].dst == "ff02::16" and frame[IPv6].hlim == 1 and frame[RouterAlert].value == 0
        message = bytes(frame[ICMPv6MLReport2])
        records, at = [], 8
        for _ in range(int.from_bytes(message[6:8], "big")):
            addresses = [kernel.inet_ntop(kernel.AF_INET6, message[at + 4 + 16 * k:at + 20 + 16 * k])
                         for k in range(1 + int.from_bytes(message[at + 2:at + 4], "big"))]
            records.append((message[at], addresses[0], sorted(addresses[1:])))
            at += 4 + 16 * len(addresses)
        assert at == len(message) and len(bytes(frame[IPv6])) <= 1500
        out.append(records)
    return out


def settle(link):
    link.run(20)
    return said(link)


def query(group=GROUP, sources=(), delay=1000):
    return IPv6(src=ROUTER, dst=group if group != "::" else "ff02::1", hlim=1) / \
        IPv6ExtHdrHopByHop(options=[RouterAlert()]) / \
        ICMPv6MLQuery2(mladdr=group, sources=list(sources), sources_number=len(sources), mrd=delay)


def test_sources_are_filtered(link):
    only, but = listener(link), listener(link)
    for s in (only, but):
        s.setsockopt(IPV6, MULTICAST_ALL, 0)
        assert s.getsockopt(IPV6, MULTICAST_ALL) == 0
    only.setsockopt(IPV6, MCAST_JOIN_SOURCE, request(source=PEER))
    but.setsockopt(IPV6, MCAST_JOIN, request())
    but.setsockopt(IPV6, MCAST_BLOCK, request(source=PEER))
    for src in (PEER, OTHER):
        to_group(link, src, data=src.encode())
    assert heard(only) == [PEER.encode()] and heard(but) == [OTHER.encode()]
    but.setsockopt(IPV6, MCAST_UNBLOCK, request(source=PEER))
    only.setsockopt(IPV6, MCAST_LEAVE_SOURCE, request(source=PEER))
    to_group(link)
    assert heard(only) == [] and heard(but) == [b"hello"]
    but.setsockopt(IPV6, MCAST_LEAVE, request())
    to_group(link)
    assert heard(but) == []


def test_a_member_filters_whatever_else_the_port_hears(link):
    """As Linux: IPV6_MULTICAST_ALL lets in groups that others joined, but no sources that the socket refused."""
    member, other = listener(link), listener(link)
    member.setsockopt(IPV6, MCAST_JOIN_SOURCE, request(source=OTHER))
    to_group(link)
    assert (heard(member), heard(other)) == ([], [b"hello"])


def test_changes_of_sources_are_reported_as_differences(link):
    s = listener(link)
    s.setsockopt(IPV6, MCAST_JOIN_SOURCE, request(source="fd00::8"))
    assert said(link) + settle(link) == [[(ALLOW, GROUP, ["fd00::8"])]] * 2
    s.setsockopt(IPV6, MCAST_JOIN_SOURCE, request(source="fd00::9"))
    s.setsockopt(IPV6, MCAST_LEAVE_SOURCE, request(source="fd00::8"))
    assert said(link)[-1] == [(ALLOW, GROUP, ["fd00::9"]), (BLOCK, GROUP, ["fd00::8"])]
    settle(link)
    t = listener(link)
    t.setsockopt(IPV6, MCAST_JOIN, request())
    assert said(link) + settle(link) == [[(TO_EX, GROUP, [])]] * 2
    t.setsockopt(IPV6, MCAST_BLOCK, request(source="fd00::7"))
    assert said(link) == [[(BLOCK, GROUP, ["fd00::7"])]]
    settle(link)
    t.close()
    assert said(link) == [[(TO_IN, GROUP, ["fd00::9"])]]
    settle(link)
    s.close()
    assert said(link) + settle(link) == [[(BLOCK, GROUP, ["fd00::9"])]] * 2
    to_group(link)
    assert link.stack.counters()["drop_ip_destination"] >= 1


def test_the_interface_wants_what_its_sockets_want_together(link):
    """RFC 3810 section 4.2, its two examples."""
    one, two, three = (listener(link) for _ in range(3))
    for s, sources in ((one, "abcd"), (two, "bcde")):
        s.setsockopt(IPV6, MCAST_JOIN, request())
        s.setsockopt(IPV6, MCAST_MSFILTER, group_filter(0, [f"fd00::{x}" for x in sources]))
    for x in "def":
        three.setsockopt(IPV6, MCAST_JOIN_SOURCE, request(source=f"fd00::{x}"))
    settle(link)
    link.give(query(delay=1))
    assert settle(link) == [[(IS_EX, GROUP, ["fd00::b", "fd00::c"])]]
    one.close()
    two.close()
    settle(link)
    link.give(query(delay=1))
    assert settle(link) == [[(IS_IN, GROUP, ["fd00::d", "fd00::e", "fd00::f"])]]


def test_a_query_about_sources_is_answered_about_those(link):
    """RFC 3810 section 6.3."""
    s = listener(link)
    for x in "89":
        s.setsockopt(IPV6, MCAST_JOIN_SOURCE, request(source=f"fd00::{x}"))
    settle(link)
    link.give(query(sources=["fd00::9", "fd00::a"]))
    assert settle(link) == [[(IS_IN, GROUP, ["fd00::9"])]]
    link.give(query(sources=["fd00::a"]))
    assert settle(link) == []
    link.give(query(sources=["fd00::8"]))
    link.give(query())
    assert settle(link) == [[(IS_IN, GROUP, ["fd00::8", "fd00::9"])]]


def test_a_query_whose_sources_reach_beyond_it_is_dropped(link):
    listener(link).setsockopt(IPV6, MCAST_JOIN, request())
    settle(link)
    packet = query(sources=["fd00::9"])
    packet[ICMPv6MLQuery2].sources_number = 2
    link.dropped(packet, "mld_invalid")
    link.dropped(query("::", sources=["fd00::9"]), "mld_invalid")


def test_a_filter_is_replaced_as_a_whole(link):
    s = listener(link)
    assert code_of(s.setsockopt, IPV6, MCAST_MSFILTER, group_filter(1, [PEER])) == errno.EINVAL      # not joined
    s.setsockopt(IPV6, MCAST_JOIN, request())
    s.setsockopt(IPV6, MCAST_MSFILTER, group_filter(1, [PEER]))
    settle(link)
    to_group(link, OTHER)
    to_group(link, PEER, data=b"from the one")
    assert heard(s) == [b"from the one"]
    assert code_of(s.setsockopt, IPV6, MCAST_MSFILTER, group_filter(1, [PEER])[:-1]) == errno.EINVAL
    assert code_of(s.setsockopt, IPV6, MCAST_MSFILTER, group_filter(2, [])) == errno.EINVAL
    many = [f"fd00::{x:x}" for x in range(256, 256 + 65)]
    assert code_of(s.setsockopt, IPV6, MCAST_MSFILTER, group_filter(0, many)) == errno.ENOBUFS
    s.setsockopt(IPV6, MCAST_MSFILTER, group_filter(1, []))                                          # leaves it
    assert said(link)[-1] == [(BLOCK, GROUP, [PEER])]


def test_more_sources_than_a_report_has_room_for_let_all_in(link):
    s = listener(link)
    for k in range(40):
        s.setsockopt(IPV6, MCAST_JOIN_SOURCE, request(source=f"fd00::1:{k:x}"))
    settle(link)
    link.give(query(delay=1))
    assert settle(link) == [[(IS_EX, GROUP, [])]]
    to_group(link)
    assert heard(s) == []                                    # the socket filters all the same


def test_reports_that_do_not_fit_into_one_message_go_in_several(link):
    s = listener(link)
    groups = [f"ff15::{k:x}" for k in range(1, 5)]
    for group in groups:
        s.setsockopt(IPV6, MCAST_JOIN, request(group))
        s.setsockopt(IPV6, MCAST_MSFILTER, group_filter(1, [f"fd00::2:{k:x}" for k in range(30)], group))
    settle(link)
    link.give(query("::", delay=1))
    reports = settle(link)
    assert len(reports) > 1
    told = [record for report in reports for record in report if record[1] in groups]
    assert [(kind, group, len(sources)) for kind, group, sources in told] == [(IS_IN, group, 30) for group in groups]


def test_what_a_socket_asks_wrongly(link):
    s = listener(link)
    ask = s.setsockopt
    assert code_of(ask, IPV6, MCAST_JOIN, request("fd00::1")) == errno.EINVAL
    assert code_of(ask, IPV6, MCAST_JOIN, request(interface=9)) == errno.ENODEV
    assert code_of(ask, IPV6, MCAST_JOIN, request()[:100]) == errno.EINVAL
    assert code_of(ask, IPV6, MCAST_LEAVE, request()) == errno.EADDRNOTAVAIL
    assert code_of(ask, IPV6, MCAST_BLOCK, request(source=PEER)) == errno.EINVAL
    ask(IPV6, MCAST_JOIN, request())
    assert code_of(ask, IPV6, MCAST_JOIN, request()) == errno.EADDRINUSE
    assert code_of(ask, IPV6, JOIN, kernel.inet_pton(10, GROUP) + struct.pack("=I", 1)) == errno.EADDRINUSE
    assert code_of(ask, IPV6, MCAST_JOIN_SOURCE, request(source=PEER)) == errno.EINVAL
    ask(IPV6, MCAST_BLOCK, request(source=PEER))
    assert code_of(ask, IPV6, MCAST_BLOCK, request(source=PEER)) == errno.EADDRNOTAVAIL
    v4 = struct.pack("=HH4s", 2, 0, kernel.inet_aton("239.1.2.3")) + bytes(120)
    assert code_of(ask, IPV6, MCAST_JOIN, struct.pack("=I4x", 1) + v4) == errno.EADDRNOTAVAIL
    four = link.stack.socket("dgram")
    assert code_of(four.setsockopt, IPV6, MCAST_JOIN, request()) == errno.ENOPROTOOPT
    ask(IPV6, LEAVE, kernel.inet_pton(10, GROUP) + struct.pack("=I", 1))                             # either may leave


def test_filters_and_what_is_to_be_said_of_them_survive_a_restore(link):
    s = listener(link)
    s.setsockopt(IPV6, MCAST_JOIN_SOURCE, request(source=PEER))
    said(link)
    link.stack = Stack.restore(link.stack.snapshot(), link.now)
    assert settle(link) == [[(ALLOW, GROUP, [PEER])]]
    s = link.stack.socket_by_id(s.id)
    to_group(link, OTHER)
    to_group(link, PEER)
    assert heard(s) == [b"hello"]
    s.close()
    assert said(link) == [[(BLOCK, GROUP, [PEER])]]


def test_a_group_that_an_address_of_ours_needs_stays_when_sockets_leave(link):
    s = listener(link)
    needed = solicited_node(US)
    s.setsockopt(IPV6, MCAST_JOIN_SOURCE, request(needed, source=PEER))
    s.close()
    assert said(link) == []
    to_group(link, OTHER, needed)
    assert "drop_ip_destination" not in {k for k, v in link.drops().items() if v}


@pytest.mark.parametrize("who", ["datagram", "listener"])
def test_hops_of_one_version_do_not_count_for_the_other(who):
    """IPV6_UNICAST_HOPS for IPv6 peers, IP_TTL for IPv4 peers of the same socket."""
    stack = Stack(addresses=("10.0.0.1/24", f"{US}/64"), seed=1)
    stack.advance(10**9)
    s = stack.socket("dgram" if who == "datagram" else "stream", family=10)
    s.setsockopt(IPV6, UNICAST_HOPS, 7)
    s.setsockopt(0, 2, 9)
    assert (s.getsockopt(IPV6, UNICAST_HOPS), s.getsockopt(0, 2)) == (7, 9)
    if who == "datagram":
        s.sendto(b"x", (PEER, 9))
        s.sendto(b"x", ("::ffff:10.0.0.2", 9))
    else:
        s.bind(("::", 80))
        s.listen()
        for src, dst in ((PEER, US), ("10.0.0.2", "10.0.0.1")):
            stack.input(build_tcp(src, dst, 9, 80, "S", seq=1), 10**9)
    six, four = stack.pop_output()[0], stack.pop_output()[0]
    assert (six[0] >> 4, six[7], four[0] >> 4, four[8]) == (6, 7, 4, 9)
