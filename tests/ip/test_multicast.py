"""Groups: who hears what, what routers are told (RFC 3376; older queriers), and what a socket may ask."""

import errno
import socket as kernel
import struct

import pytest

from netstack.config import InterfaceConfig, StackConfig
from netstack.stack import Stack
from netstack.testing.packets import checksum
from netstack.wire import ipv4
from tests.ip.fragments import PEER, US, S, datagram, feed, sent, taken

GROUP, OTHER = "239.1.2.3", "239.1.2.4"
(IP_MULTICAST_IF, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_ADD, IP_DROP, IP_UNBLOCK, IP_BLOCK, IP_ADD_SOURCE,
 IP_DROP_SOURCE) = range(32, 41)
MCAST_JOIN, MCAST_LEAVE, MCAST_JOIN_SOURCE, MCAST_MSFILTER, IP_MSFILTER, IP_MULTICAST_ALL = 42, 45, 46, 48, 41, 49
IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = range(1, 7)
ROUTER = "10.0.0.254"


def mreq(group=GROUP, local=US, source=None):
    return kernel.inet_aton(group) + kernel.inet_aton(local) + (kernel.inet_aton(source) if source else b"")


@pytest.fixture
def stack():
    s = Stack(addresses=US + "/24", seed=5)
    s.advance(S)
    return s


def listener(stack, port=2000, **options):
    s = stack.socket("dgram")
    s.setsockopt(1, 2, 1)
    s.bind(("0.0.0.0", port))
    return s


def to_group(payload=b"hello", group=GROUP, src=PEER):
    return ipv4.build(src, group, 17, datagram(payload, src=src, dst=group), ttl=1)


def igmp(body: bytes) -> bytes:
    return body[:2] + checksum(body[:2] + b"\0\0" + body[4:]).to_bytes(2, "big") + body[4:]


def query(group="0.0.0.0", code=100, sources=(), version=3, ttl=1):
    body = struct.pack("!BBH4s", 0x11, code if version > 1 else 0, 0, kernel.inet_aton(group))
    if version == 3:
        body += struct.pack("!BBH", 2, 125, len(sources)) + b"".join(map(kernel.inet_aton, sources))
    return ipv4.build(ROUTER, "224.0.0.1" if group == "0.0.0.0" else group, 2, igmp(body), ttl=ttl)


def said(stack):
    """What went to routers: (destination, [(record type, group, sources)]) or (destination, (type, group))."""
    out = []
    for p in sent(stack):
        head = (p[0] & 15) * 4
        assert p[9] == 2 and p[8] == 1 and p[1] == 0xC0 and p[20:24] == b"\x94\x04\0\0" and checksum(p[head:]) == 0
        dst, m = kernel.inet_ntoa(p[16:20]), p[head:]
        if m[0] == 0x22:
            records, at = [], 8
            for _ in range(int.from_bytes(m[6:8], "big")):
                n = int.from_bytes(m[at + 2:at + 4], "big")
                records.append((m[at], kernel.inet_ntoa(m[at + 4:at + 8]),
                                sorted(kernel.inet_ntoa(m[at + 8 + 4 * k:at + 12 + 4 * k]) for k in range(n))))
                at += 8 + 4 * n
            assert at == len(m)
            out.append((dst, records))
        else:
            out.append((dst, (m[0], kernel.inet_ntoa(m[4:8]))))
    return out


def settle(stack):
    stack.advance(stack.now_ns + 20 * S)
    return said(stack)


# ---- hearing --------------------------------------------------------------------------


def test_a_group_is_heard_between_joining_and_leaving(stack):
    s = listener(stack)
    feed(stack, [to_group()])
    assert taken(s) == [] and stack.counters()["drop_multicast"] == 1
    s.setsockopt(0, IP_ADD, mreq())
    feed(stack, [to_group(), to_group(group=OTHER)])
    assert taken(s) == [b"hello"]
    s.setsockopt(0, IP_DROP, mreq())
    feed(stack, [to_group()])
    assert taken(s) == []


def test_a_closed_socket_listens_no_more(stack):
    s = listener(stack)
    s.setsockopt(0, IP_ADD, mreq())
    settle(stack)
    s.close()
    assert said(stack) == [("224.0.0.22", [(TO_IN, GROUP, [])])]
    feed(stack, [to_group()])
    assert stack.counters()["drop_multicast"] == 1
    settle(stack)
    assert stack.next_deadline() is None


def test_every_socket_of_the_port_hears_a_group_unless_it_wants_its_own_only(stack):
    member, other, strict = listener(stack), listener(stack), listener(stack)
    strict.setsockopt(0, IP_MULTICAST_ALL, 0)
    assert strict.getsockopt(0, IP_MULTICAST_ALL) == 0 and other.getsockopt(0, IP_MULTICAST_ALL) == 1
    member.setsockopt(0, IP_ADD, mreq())
    feed(stack, [to_group()])
    assert [taken(s) for s in (member, other, strict)] == [[b"hello"], [b"hello"], []]


def test_sources_are_filtered(stack):
    only, but = listener(stack), listener(stack)
    for s in (only, but):
        s.setsockopt(0, IP_MULTICAST_ALL, 0)
    only.setsockopt(0, IP_ADD_SOURCE, mreq(source=PEER))
    but.setsockopt(0, IP_ADD, mreq())
    but.setsockopt(0, IP_BLOCK, mreq(source=PEER))
    for src in (PEER, "10.0.0.9"):
        feed(stack, [to_group(src.encode(), src=src)])
    assert taken(only) == [PEER.encode()] and taken(but) == [b"10.0.0.9"]
    but.setsockopt(0, IP_UNBLOCK, mreq(source=PEER))
    only.setsockopt(0, IP_DROP_SOURCE, mreq(source=PEER))
    feed(stack, [to_group()])
    assert taken(only) == [] and taken(but) == [b"hello"]


def test_what_we_send_to_a_group_is_heard_here_unless_the_loop_is_off(stack):
    s, out = listener(stack), stack.socket("dgram")
    s.setsockopt(0, IP_ADD, mreq())
    settle(stack)
    out.sendto(b"looped", (GROUP, 2000))
    assert taken(s) == [b"looped"]
    out.setsockopt(0, IP_MULTICAST_LOOP, 0)
    out.setsockopt(0, IP_MULTICAST_TTL, 7)
    out.sendto(b"not looped", (GROUP, 2000))
    assert taken(s) == []
    first, second = sent(stack)
    assert (first[8], second[8]) == (1, 7)


def test_a_group_is_joined_where_the_socket_says():
    config = StackConfig(interfaces=(InterfaceConfig(addresses=("10.0.0.1/24",)),
                                     InterfaceConfig(addresses=("10.1.0.1/24",))), seed=1)
    stack = Stack(config)
    stack.advance(S)
    s = listener(stack)
    s.setsockopt(0, IP_ADD, mreq(local="10.1.0.1"))
    stack.input(to_group(), stack.now_ns, interface=0)
    assert taken(s) == []
    stack.input(to_group(src="10.1.0.9"), stack.now_ns, interface=1)
    assert taken(s) == [b"hello"]
    while stack.pop_output(1):
        pass
    s.setsockopt(0, IP_MULTICAST_IF, kernel.inet_aton("10.1.0.1"))
    assert s.getsockopt(0, IP_MULTICAST_IF, 4) == kernel.inet_aton("10.1.0.1")
    s.sendto(b"x", (GROUP, 9))
    assert stack.pop_output(0) is None
    assert stack.pop_output(1)[0][12:16] == kernel.inet_aton("10.1.0.1")


# ---- what may be asked ----------------------------------------------------------------


def code_of(call, *args):
    try:
        call(*args)
    except OSError as e:
        return e.errno
    return 0


def test_errors_are_those_of_linux(stack):
    s = listener(stack)
    ask = s.setsockopt
    assert code_of(ask, 0, IP_ADD, mreq("10.0.0.2")) == errno.EINVAL
    assert code_of(ask, 0, IP_ADD, mreq(local="10.9.9.9")) == errno.ENODEV
    assert code_of(ask, 0, IP_ADD, b"1234") == errno.EINVAL
    assert code_of(ask, 0, IP_DROP, mreq()) == errno.EADDRNOTAVAIL
    assert code_of(ask, 0, IP_BLOCK, mreq(source=PEER)) == errno.EINVAL
    assert code_of(ask, 0, IP_ADD, mreq()) == 0
    assert code_of(ask, 0, IP_ADD, mreq()) == errno.EADDRINUSE
    assert code_of(ask, 0, IP_ADD_SOURCE, mreq(source=PEER)) == errno.EINVAL
    assert code_of(ask, 0, IP_BLOCK, mreq(source=PEER)) == 0
    assert code_of(ask, 0, IP_BLOCK, mreq(source=PEER)) == errno.EADDRNOTAVAIL
    assert code_of(ask, 0, IP_DROP_SOURCE, mreq(source=PEER)) == errno.EINVAL
    assert code_of(ask, 0, IP_MULTICAST_TTL, 256) == errno.EINVAL
    assert code_of(ask, 0, IP_MULTICAST_ALL, 2) == errno.EINVAL
    assert code_of(ask, 0, IP_MULTICAST_IF, kernel.inet_aton("10.9.9.9")) == errno.EADDRNOTAVAIL


def test_memberships_and_sources_are_bounded(stack):
    s = listener(stack)
    for k in range(20):
        s.setsockopt(0, IP_ADD, mreq(f"239.0.0.{k}"))
    assert code_of(s.setsockopt, 0, IP_ADD, mreq("239.0.0.99")) == errno.ENOBUFS
    t = listener(stack)
    for k in range(10):
        t.setsockopt(0, IP_ADD_SOURCE, mreq(source=f"10.0.1.{k}"))
    assert code_of(t.setsockopt, 0, IP_ADD_SOURCE, mreq(source="10.0.1.99")) == errno.ENOBUFS


def test_groups_can_be_named_as_rfc_3678_has_it(stack):
    def address(text):
        return struct.pack("=HH4s", 2, 0, kernel.inet_aton(text)) + bytes(120)

    s = listener(stack)
    s.setsockopt(0, IP_MULTICAST_ALL, 0)
    s.setsockopt(0, MCAST_JOIN, struct.pack("=I4x", 1) + address(GROUP))
    feed(stack, [to_group()])
    assert taken(s) == [b"hello"]
    s.setsockopt(0, MCAST_LEAVE, struct.pack("=I4x", 1) + address(GROUP))
    s.setsockopt(0, MCAST_JOIN_SOURCE, struct.pack("=I4x", 0) + address(GROUP) + address(PEER))
    feed(stack, [to_group(), to_group(b"other", src="10.0.0.9")])
    assert taken(s) == [b"hello"]


def whole_filter(mode, sources, group=GROUP):
    """struct ip_msfilter."""
    return kernel.inet_aton(group) + kernel.inet_aton(US) + struct.pack("=II", mode, len(sources)) + \
        b"".join(map(kernel.inet_aton, sources))


def test_a_filter_is_replaced_as_a_whole(stack):
    """IP_MSFILTER (RFC 3678 section 4.2): mode 0 excludes, 1 includes."""
    s = listener(stack)
    s.setsockopt(0, IP_MULTICAST_ALL, 0)
    assert code_of(s.setsockopt, 0, IP_MSFILTER, whole_filter(0, [PEER])) == errno.EINVAL      # not joined
    s.setsockopt(0, IP_ADD, mreq())
    settle(stack)
    s.setsockopt(0, IP_MSFILTER, whole_filter(0, [PEER]))
    assert said(stack) == [("224.0.0.22", [(BLOCK, GROUP, [PEER])])]
    feed(stack, [to_group(), to_group(b"other", src="10.0.0.9")])
    assert taken(s) == [b"other"]
    settle(stack)
    s.setsockopt(0, IP_MSFILTER, whole_filter(1, ["10.0.0.8", "10.0.0.9"]))
    assert said(stack) == [("224.0.0.22", [(TO_IN, GROUP, ["10.0.0.8", "10.0.0.9"])])]
    feed(stack, [to_group(), to_group(b"other", src="10.0.0.9")])
    assert taken(s) == [b"other"]
    for wrong in (whole_filter(2, []), whole_filter(0, [PEER])[:-1], whole_filter(0, [PEER])[:15]):
        assert code_of(s.setsockopt, 0, IP_MSFILTER, wrong) == errno.EINVAL
    assert code_of(s.setsockopt, 0, IP_MSFILTER, whole_filter(0, [f"10.0.1.{k}" for k in range(11)])) == errno.ENOBUFS
    settle(stack)
    s.setsockopt(0, IP_MSFILTER, whole_filter(1, []))                                          # leaves
    assert said(stack) == [("224.0.0.22", [(BLOCK, GROUP, ["10.0.0.8", "10.0.0.9"])])]
    assert code_of(s.setsockopt, 0, IP_DROP, mreq()) == errno.EADDRNOTAVAIL


def test_a_filter_can_be_named_as_rfc_3678_has_it(stack):
    """MCAST_MSFILTER, struct group_filter."""
    def address(text):
        return struct.pack("=HH4s", 2, 0, kernel.inet_aton(text)) + bytes(120)

    s = listener(stack)
    s.setsockopt(0, IP_ADD, mreq())
    s.setsockopt(0, MCAST_MSFILTER, struct.pack("=I4x", 1) + address(GROUP) + struct.pack("=II", 1, 1) + address(PEER))
    feed(stack, [to_group(), to_group(b"other", src="10.0.0.9")])
    assert taken(s) == [b"hello"]


# ---- IGMP -----------------------------------------------------------------------------


def test_joining_and_leaving_is_reported_twice(stack):
    s = listener(stack)
    s.setsockopt(0, IP_ADD, mreq())
    assert said(stack) == [("224.0.0.22", [(TO_EX, GROUP, [])])]
    again = stack.next_deadline()
    assert stack.now_ns < again <= stack.now_ns + S
    assert settle(stack) == [("224.0.0.22", [(TO_EX, GROUP, [])])]
    assert stack.next_deadline() is None
    s.setsockopt(0, IP_DROP, mreq())
    assert said(stack) + settle(stack) == [("224.0.0.22", [(TO_IN, GROUP, [])])] * 2
    assert stack.next_deadline() is None


def test_changes_of_sources_are_reported_as_differences(stack):
    s = listener(stack)
    s.setsockopt(0, IP_ADD_SOURCE, mreq(source="10.0.0.8"))
    settle(stack)
    s.setsockopt(0, IP_ADD_SOURCE, mreq(source="10.0.0.9"))
    assert said(stack) == [("224.0.0.22", [(ALLOW, GROUP, ["10.0.0.9"])])]
    s.setsockopt(0, IP_DROP_SOURCE, mreq(source="10.0.0.8"))
    assert said(stack) == [("224.0.0.22", [(ALLOW, GROUP, ["10.0.0.9"]), (BLOCK, GROUP, ["10.0.0.8"])])]
    settle(stack)
    t = listener(stack)
    t.setsockopt(0, IP_ADD, mreq())
    assert said(stack) == [("224.0.0.22", [(TO_EX, GROUP, [])])]
    settle(stack)
    t.setsockopt(0, IP_BLOCK, mreq(source="10.0.0.7"))
    assert said(stack) == [("224.0.0.22", [(BLOCK, GROUP, ["10.0.0.7"])])]


def test_the_interface_wants_what_its_sockets_want_together(stack):
    """RFC 3376 section 3.2, its two examples."""
    one, two, three = (listener(stack) for _ in range(3))
    for s, sources in ((one, "abcd"), (two, "bcde")):
        s.setsockopt(0, IP_ADD, mreq())
        for letter in sources:
            s.setsockopt(0, IP_BLOCK, mreq(source=f"10.0.2.{ord(letter)}"))
    for letter in "def":
        three.setsockopt(0, IP_ADD_SOURCE, mreq(source=f"10.0.2.{ord(letter)}"))
    settle(stack)
    feed(stack, [query()])
    assert settle(stack) == [("224.0.0.22", [(IS_EX, GROUP, [f"10.0.2.{ord(c)}" for c in "bc"])])]


def test_queries_are_answered_within_the_time_they_grant(stack):
    s = listener(stack)
    s.setsockopt(0, IP_ADD, mreq())
    s.setsockopt(0, IP_ADD, mreq(OTHER))
    settle(stack)
    feed(stack, [query(code=100)])
    assert stack.now_ns <= stack.next_deadline() <= stack.now_ns + 10 * S
    [(dst, records)] = settle(stack)
    assert dst == "224.0.0.22" and sorted(records) == [(IS_EX, GROUP, []), (IS_EX, OTHER, [])]
    feed(stack, [query(GROUP, code=10)])
    assert stack.next_deadline() <= stack.now_ns + S
    assert settle(stack) == [("224.0.0.22", [(IS_EX, GROUP, [])])]
    feed(stack, [query(GROUP, sources=("10.0.0.8", "10.0.0.9"))])
    assert settle(stack) == [("224.0.0.22", [(IS_IN, GROUP, ["10.0.0.8", "10.0.0.9"])])]
    feed(stack, [query("239.9.9.9")])
    assert settle(stack) == []


def test_the_large_times_a_query_can_grant(stack):
    listener(stack).setsockopt(0, IP_ADD, mreq())
    settle(stack)
    seen = []
    for _ in range(20):
        feed(stack, [query(code=0xFF)])                  # 3,174.4 s
        seen.append(stack.next_deadline() - stack.now_ns)
        stack.advance(stack.now_ns + 3175 * S)
    assert max(seen) > 1000 * S and max(seen) <= 3_174_400_000_000


def test_an_older_querier_is_spoken_to_in_its_own_version(stack):
    s = listener(stack)
    feed(stack, [query(version=2, code=50)])
    s.setsockopt(0, IP_ADD, mreq())
    assert said(stack) == [(GROUP, (0x16, GROUP))]
    settle(stack)
    feed(stack, [query(version=2, code=50)])
    assert settle(stack) == [(GROUP, (0x16, GROUP))]
    s.setsockopt(0, IP_DROP, mreq())
    assert said(stack) + settle(stack) == [("224.0.0.2", (0x17, GROUP))]
    feed(stack, [query(version=1)])
    s.setsockopt(0, IP_ADD, mreq())
    assert said(stack) == [(GROUP, (0x12, GROUP))]
    s.setsockopt(0, IP_DROP, mreq())
    settle(stack)
    stack.advance(stack.now_ns + 300 * S)                # nobody older has been heard for long
    said(stack)
    s.setsockopt(0, IP_ADD, mreq())
    assert said(stack) == [("224.0.0.22", [(TO_EX, GROUP, [])])]


def test_another_hosts_report_saves_ours_where_the_querier_is_old(stack):
    s = listener(stack)
    feed(stack, [query(version=2, code=50)])
    s.setsockopt(0, IP_ADD, mreq())
    settle(stack)
    feed(stack, [query(version=2, code=50)])
    report = igmp(struct.pack("!BBH4s", 0x16, 0, 0, kernel.inet_aton(GROUP)))
    feed(stack, [ipv4.build(PEER, GROUP, 2, report, ttl=1)])
    assert settle(stack) == []


def test_all_hosts_is_always_heard_and_never_reported(stack):
    s = listener(stack)
    feed(stack, [to_group(group="224.0.0.1")])
    assert taken(s) == [b"hello"]
    s.setsockopt(0, IP_ADD, mreq("224.0.0.1"))
    feed(stack, [query()])
    assert settle(stack) == []


@pytest.mark.parametrize("bad", ["not from this link", "damaged", "short", "more sources than bytes", "to us alone",
                                 "of another group"])
def test_messages_that_cannot_be_are_dropped(stack, bad):
    listener(stack).setsockopt(0, IP_ADD, mreq())
    settle(stack)
    q = query(ttl=2 if bad == "not from this link" else 1)
    if bad == "damaged":
        q = q[:-1] + b"\1"
    elif bad == "short":
        q = ipv4.build(ROUTER, "224.0.0.1", 2, b"\x11\0\0", ttl=1)
    elif bad == "more sources than bytes":
        body = struct.pack("!BBH4sBBH", 0x11, 9, 0, kernel.inet_aton(GROUP), 2, 125, 9)
        q = ipv4.build(ROUTER, GROUP, 2, igmp(body), ttl=1)
    elif bad == "to us alone":
        q = ipv4.build(ROUTER, US, 2, query()[20:], ttl=1)
    elif bad == "of another group":
        q = ipv4.build(ROUTER, GROUP, 2, query(OTHER)[20:], ttl=1)
    feed(stack, [q])
    assert stack.counters()["drop_igmp"] == 1 and settle(stack) == []


def test_a_snapshot_keeps_groups_and_what_is_to_be_said(stack):
    s = listener(stack)
    s.setsockopt(0, IP_ADD_SOURCE, mreq(source=PEER))
    feed(stack, [query()])
    said(stack)
    copy = Stack.restore(stack.snapshot(), 99 * S)
    assert copy.next_deadline() - 99 * S == stack.next_deadline() - stack.now_ns
    assert settle(copy) == settle(stack) != []
    feed(copy, [to_group(), to_group(src="10.0.0.9")])
    assert taken(copy.socket_by_id(s.id)) == [b"hello"]
    copy.socket_by_id(s.id).close()
    assert said(copy) == [("224.0.0.22", [(BLOCK, GROUP, [PEER])])]
