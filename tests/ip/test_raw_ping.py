"""Raw and ping sockets, ancillary data, and the error queue: as a program for Linux finds them."""

import errno
import socket as kernel
import struct

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from netstack.stack import Stack
from netstack.wire import icmp, ipv4
from tests.ip.fragments import PEER, US, S, datagram, feed, sent, taken

ROUTER = "10.0.0.254"
IP_TOS, IP_TTL, IP_HDRINCL, IP_PKTINFO, IP_RECVERR = 1, 2, 3, 8, 11
IP_RECVTTL, IP_RECVTOS, IP_RECVORIGDSTADDR = 12, 13, 20
SOL_RAW, ICMP_FILTER, MSG_ERRQUEUE = 255, 1, 0x2000
POLLERR, POLLIN = 8, 1


@pytest.fixture
def stack():
    s = Stack(addresses=US + "/24", seed=5)
    s.advance(S)
    return s


def error(packet: bytes, type_: int, code: int, rest: int = 0, src: str = ROUTER) -> bytes:
    return ipv4.build(src, US, 1, icmp.build(type_, code, rest >> 16, rest & 0xFFFF, packet[:28 + 64]))


# ---- raw ------------------------------------------------------------------------------


def test_a_raw_socket_hears_whole_packets_of_its_protocol_and_others_still_do(stack):
    raw, sock = stack.socket("raw", protocol=17), stack.socket("dgram")
    sock.bind((US, 2000))
    packet = ipv4.build(PEER, US, 17, datagram(b"both hear"))
    feed(stack, [packet, ipv4.build(PEER, US, 6, bytes(20))])
    assert raw.recvfrom(1000) == (packet, (PEER, 0))
    assert taken(sock) == [b"both hear"] and taken(raw) == []


def test_an_unknown_protocol_is_answered_only_while_no_raw_socket_takes_it(stack):
    packet = ipv4.build(PEER, US, 200, b"payload")
    feed(stack, [packet])
    assert [(IP(p)[ICMP].type, IP(p)[ICMP].code) for p in sent(stack)] == [(3, 2)]
    raw = stack.socket("raw", protocol=200)
    feed(stack, [packet])
    assert sent(stack) == [] and taken(raw) == [packet]
    raw.close()
    feed(stack, [packet])
    assert len(sent(stack)) == 1


def test_bound_and_connected_raw_sockets_hear_less(stack):
    for prepare, hears in ((lambda s: s.bind((US, 0)), True), (lambda s: s.bind(("127.0.0.1", 0)), False),
                           (lambda s: s.connect((PEER, 0)), True), (lambda s: s.connect(("10.0.0.9", 0)), False)):
        raw = stack.socket("raw", protocol=200)
        prepare(raw)
        feed(stack, [ipv4.build(PEER, US, 200, b"x")])
        assert bool(taken(raw)) == hears
        raw.close()


def test_what_a_raw_socket_sends_gets_an_ip_header(stack):
    raw = stack.socket("raw", protocol=200)
    raw.setsockopt(0, IP_TTL, 7)
    raw.setsockopt(0, IP_TOS, 0x10)
    assert raw.sendto(b"payload", (PEER, 0)) == 7
    [p] = [IP(p) for p in sent(stack)]
    assert (p.src, p.dst, p.proto, p.ttl, p.tos, bytes(p.payload)) == (US, PEER, 200, 7, 0x10, b"payload")
    raw.sendto(bytes(4000), (PEER, 0))
    assert [len(p) for p in sent(stack)] == [1500, 1500, 1060]


def test_a_raw_socket_may_bring_its_own_header(stack):
    raw = stack.socket("raw", protocol=200)
    raw.setsockopt(0, IP_HDRINCL, 1)
    mine = bytes(IP(src="0.0.0.0", dst=PEER, proto=47, ttl=9, tos=4, id=0, len=20) / Raw(b"own header"))
    raw.sendto(mine, (PEER, 0))
    [p] = [IP(p) for p in sent(stack)]
    assert (p.src, p.dst, p.proto, p.ttl, p.tos, p.len, bytes(p.payload)) == (US, PEER, 47, 9, 4, 30, b"own header")
    assert p.id != 0 and IP(bytes(p)).chksum == p.__class__(bytes(p)).chksum
    spoofed = bytes(IP(src="198.51.100.1", dst=PEER, id=77, options=[]) / UDP() / b"x")
    raw.sendto(spoofed, (PEER, 0))
    [p] = [IP(p) for p in sent(stack)]
    assert (p.src, p.id) == ("198.51.100.1", 77)
    for bad in (b"", bytes(19), b"\x44" + bytes(30), b"\x4f" + bytes(30)):
        with pytest.raises(OSError) as e:
            raw.sendto(bad, (PEER, 0))
        assert e.value.errno == errno.EINVAL
    with pytest.raises(OSError) as e:
        raw.sendto(b"\x45" + bytes(1500), (PEER, 0))
    assert e.value.errno == errno.EMSGSIZE


def test_icmp_messages_of_unwanted_types_are_not_heard(stack):
    raw = stack.socket("raw", protocol=1)
    raw.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("I", ~(1 << 8) & 0xFFFFFFFF))
    assert raw.getsockopt(SOL_RAW, ICMP_FILTER, 4) == struct.pack("I", ~(1 << 8) & 0xFFFFFFFF)
    feed(stack, [ipv4.build(PEER, US, 1, icmp.build(t, 0, 1, 1, b"x")) for t in (0, 8, 13)])
    assert [p[20] for p in taken(raw)] == [8]
    with pytest.raises(OSError):
        stack.socket("raw", protocol=17).setsockopt(SOL_RAW, ICMP_FILTER, bytes(4))


def test_no_raw_socket_without_a_protocol(stack):
    with pytest.raises(OSError) as e:
        stack.socket("raw")
    assert e.value.errno == errno.EPROTONOSUPPORT


def test_what_a_raw_socket_does_not_read_is_dropped_at_its_limit(stack):
    raw = stack.socket("raw", protocol=200)
    raw.setsockopt(1, 8, 4096)
    feed(stack, [ipv4.build(PEER, US, 200, bytes(1000))] * 50)
    assert 0 < len(taken(raw)) < 50


# ---- ping -----------------------------------------------------------------------------


def test_a_ping_socket_asks_and_hears_its_own_answers(stack):
    ping = stack.socket("dgram", protocol=1)
    other = stack.socket("dgram", protocol=1)
    ping.sendto(icmp.build(8, 0, 0, 3, b"data"), (PEER, 0))
    other.sendto(icmp.build(8, 0, 0, 3, b"data"), (PEER, 0))
    asked = [IP(p) for p in sent(stack)]
    assert asked[0][ICMP].id == ping.getsockname()[1] != asked[1][ICMP].id
    assert asked[0][ICMP].seq == 3
    feed(stack, [bytes(IP(src=PEER, dst=US) / ICMP(type=0, id=asked[0][ICMP].id, seq=3) / b"data")])
    assert taken(ping)[0][8:] == b"data" and taken(other) == []


def test_a_ping_larger_than_the_path_is_cut_and_its_answer_put_together(stack):
    ping = stack.socket("dgram", protocol=1)
    ping.sendto(icmp.build(8, 0, 0, 1, bytes(4000)), (PEER, 0))
    pieces = sent(stack)
    assert len(pieces) == 3
    there = Stack(addresses=PEER + "/24", seed=6)
    there.advance(S)
    feed(there, pieces)
    answer = sent(there)
    assert len(answer) == 3
    feed(stack, answer[::-1])
    assert taken(ping)[0][8:] == bytes(4000)


# ---- errors ---------------------------------------------------------------------------

# As icmp_err_convert of Linux: errno number, and whether it ends a connected socket's wait.
UNREACHABLE = {
    0: (errno.ENETUNREACH, False), 1: (errno.EHOSTUNREACH, False), 2: (errno.ENOPROTOOPT, True),
    3: (errno.ECONNREFUSED, True), 5: (errno.EOPNOTSUPP, False), 6: (errno.ENETUNREACH, True),
    7: (errno.EHOSTDOWN, True), 8: (errno.ENONET, True), 9: (errno.ENETUNREACH, True), 10: (errno.EHOSTUNREACH, True),
    11: (errno.ENETUNREACH, False), 12: (errno.EHOSTUNREACH, False), 13: (errno.EHOSTUNREACH, True),
    14: (errno.EHOSTUNREACH, True), 15: (errno.EHOSTUNREACH, True),
}
CASES = [(3, code, *what) for code, what in UNREACHABLE.items()] + [
    (11, 0, errno.EHOSTUNREACH, False), (11, 1, errno.EHOSTUNREACH, False), (12, 0, errno.EPROTO, True)]


@pytest.mark.parametrize(("type_", "code", "number", "hard"), CASES)
def test_errors_reach_a_connected_socket_as_linux_names_them(stack, type_, code, number, hard):
    sock = stack.socket("dgram")
    sock.connect((PEER, 33434))
    sock.send(b"probe")
    [p] = sent(stack)
    feed(stack, [error(p, type_, code)])
    assert sock.getsockopt(1, 4) == (number if hard else 0)
    unconnected = stack.socket("dgram")
    unconnected.sendto(b"probe", (PEER, 33434))
    [p] = sent(stack)
    feed(stack, [error(p, type_, code)])
    assert unconnected.getsockopt(1, 4) == 0


@pytest.mark.parametrize(("type_", "code", "number", "hard"), CASES)
@pytest.mark.parametrize("connected", [False, True])
def test_the_error_queue_tells_everything(stack, type_, code, number, hard, connected):
    sock = stack.socket("dgram")
    sock.setsockopt(0, IP_RECVERR, 1)
    assert sock.getsockopt(0, IP_RECVERR) == 1
    if connected:
        sock.connect((PEER, 33434))
        sock.send(b"probe payload")
    else:
        sock.sendto(b"probe payload", (PEER, 33434))
    [p] = sent(stack)
    feed(stack, [error(p, type_, code, rest=5 << 24)])
    assert sock.poll() & POLLERR
    with pytest.raises(OSError) as e:
        sock.recv(100)
    assert e.value.errno == number
    data, [(level, kind, raw)], flags, address = sock.recvmsg(100, 200, MSG_ERRQUEUE)
    assert data == b"probe payload" and address == (PEER, 33434) and flags & MSG_ERRQUEUE
    assert (level, kind) == (0, IP_RECVERR)
    ee_errno, origin, ee_type, ee_code, _, info, _ = struct.unpack("=IBBBBII", raw[:16])
    assert (ee_errno, origin, ee_type, ee_code) == (number, 2, type_, code)
    assert info == (5 if type_ == 12 else 0)
    assert raw[16:18] == struct.pack("=H", 2) and raw[20:24] == kernel.inet_aton(ROUTER)
    assert not sock.poll() & POLLERR
    with pytest.raises(BlockingIOError):
        sock.recvmsg(100, 200, MSG_ERRQUEUE)


def test_errors_reach_ping_and_raw_sockets(stack):
    ping = stack.socket("dgram", protocol=1)
    ping.setsockopt(0, IP_RECVERR, 1)
    ping.setsockopt(0, IP_TTL, 1)
    ping.sendto(icmp.build(8, 0, 0, 1, b"x"), (PEER, 0))
    [p] = sent(stack)
    assert IP(p).ttl == 1
    feed(stack, [error(p, 11, 0)])
    data, [(_, _, raw)], _, address = ping.recvmsg(100, 200, MSG_ERRQUEUE)
    assert raw[5:7] == bytes([11, 0]) and data[0] == 8 and address == (PEER, 0)
    raw_sock = stack.socket("raw", protocol=200)
    raw_sock.setsockopt(0, IP_RECVERR, 1)
    raw_sock.sendto(b"12345678", (PEER, 0))
    feed(stack, [error(sent(stack)[0], 3, 2)])
    data, [(_, _, raw)], _, address = raw_sock.recvmsg(100, 200, MSG_ERRQUEUE)
    assert data == b"12345678" and raw[5:7] == bytes([3, 2])


def test_an_error_about_what_nobody_sent_reaches_nobody(stack):
    sock = stack.socket("dgram")
    sock.setsockopt(0, IP_RECVERR, 1)
    sock.connect((PEER, 33434))
    sock.send(b"probe")
    [p] = sent(stack)
    port = sock.getsockname()[1]
    for forged in (p[:20] + struct.pack("!H", port ^ 1) + p[22:], p[:22] + struct.pack("!H", 33435) + p[24:],
                   p[:16] + bytes([10, 0, 0, 9]) + p[20:], p[:12] + bytes([10, 0, 0, 9]) + p[16:]):
        feed(stack, [error(forged, 3, 3)])
        assert not sock.poll() & POLLERR
    feed(stack, [error(p, 3, 3)])
    assert sock.poll() & POLLERR


def test_the_error_queue_is_bounded(stack):
    sock = stack.socket("dgram")
    sock.setsockopt(0, IP_RECVERR, 1)
    sock.setsockopt(1, 8, 4096)
    sock.sendto(b"probe", (PEER, 9))
    [p] = sent(stack)
    feed(stack, [error(p, 3, 1)] * 1000)
    n = 0
    with pytest.raises(BlockingIOError):
        while sock.recvmsg(10, 100, MSG_ERRQUEUE):
            n += 1
    assert 1 < n < 200


# ---- ancillary data -------------------------------------------------------------------


def test_recvmsg_tells_what_was_asked_for(stack):
    sock = stack.socket("dgram")
    sock.bind(("0.0.0.0", 2000))
    for option in (IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_RECVORIGDSTADDR):
        sock.setsockopt(0, option, 1)
        assert sock.getsockopt(0, option) == 1
    packet = ipv4.build(PEER, US, 17, datagram(b"x"), ttl=9, tos=0x2D)
    feed(stack, [packet, packet])
    data, items, flags, address = sock.recvmsg(10, 200)
    here = kernel.inet_aton(US)
    assert (data, flags, address) == (b"x", 0, (PEER, 1000))
    assert items == [(0, IP_PKTINFO, struct.pack("=i", 1) + here + here), (0, IP_TTL, struct.pack("=i", 9)),
                     (0, IP_TOS, b"\x2d"),
                     (0, IP_RECVORIGDSTADDR, struct.pack("=H", 2) + struct.pack("!H", 2000) + here + bytes(8))]
    _, items, flags, _ = sock.recvmsg(10, kernel.CMSG_SPACE(12))
    assert len(items) == 1 and flags == kernel.MSG_CTRUNC


def test_recvmsg_says_that_a_datagram_was_longer(stack):
    sock = stack.socket("dgram")
    sock.bind((US, 2000))
    feed(stack, [ipv4.build(PEER, US, 17, datagram(b"long payload"))])
    assert sock.recvmsg(4)[:3] == (b"long", [], kernel.MSG_TRUNC)


def test_sendmsg_says_more_of_one_datagram(stack):
    sock = stack.socket("dgram")
    sock.sendmsg(b"x", [(0, IP_TTL, struct.pack("=i", 3)), (0, IP_TOS, b"\x10")], (PEER, 9))
    sock.sendmsg(b"x", [(0, IP_PKTINFO, struct.pack("=i", 1) + kernel.inet_aton(US) + bytes(4))], (PEER, 9))
    first, second = (IP(p) for p in sent(stack))
    assert (first.ttl, first.tos, second.ttl, second.src) == (3, 0x10, 64, US)
    for bad in ([(0, 99, b"")], [(0, IP_TTL, struct.pack("=i", 0))], [(0, IP_TTL, b"abc")],
                [(0, IP_PKTINFO, bytes(4) + kernel.inet_aton("10.9.9.9") + bytes(4))]):
        with pytest.raises(OSError) as e:
            sock.sendmsg(b"x", bad, (PEER, 9))
        assert e.value.errno == errno.EINVAL


# ---- broadcast ------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["255.255.255.255", "10.0.0.255"])
def test_broadcast_needs_leave_and_is_heard_here_too(stack, to):
    sock, listener = stack.socket("dgram"), stack.socket("dgram")
    listener.bind(("0.0.0.0", 7))
    with pytest.raises(OSError) as e:
        sock.sendto(b"all", (to, 7))
    assert e.value.errno == errno.EACCES and sent(stack) == []
    sock.setsockopt(1, 6, 1)
    sock.sendto(b"all", (to, 7))
    [p] = [IP(p) for p in sent(stack)]
    assert (p.src, p.dst) == (US, to)
    assert taken(listener) == [b"all"]


def test_a_snapshot_keeps_raw_sockets_errors_and_options(stack):
    raw = stack.socket("raw", protocol=200)
    raw.setsockopt(0, IP_RECVERR, 1)
    raw.setsockopt(0, IP_RECVTTL, 1)
    raw.sendto(b"12345678", (PEER, 0))
    feed(stack, [error(sent(stack)[0], 3, 2), ipv4.build(PEER, US, 200, b"queued")])
    copy = Stack.restore(stack.snapshot(), 9 * S)
    again = copy.socket_by_id(raw.id)
    assert again.recvmsg(100, 200, MSG_ERRQUEUE) == raw.recvmsg(100, 200, MSG_ERRQUEUE)
    assert again.recvmsg(100, 200) == raw.recvmsg(100, 200)
    feed(copy, [ipv4.build(PEER, US, 200, b"new")])
    assert [p[20:] for p in taken(again)] == [b"new"]
