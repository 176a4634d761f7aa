"""Datagrams larger than the path carries: cut, or refused, as the socket asked (IP_MTU_DISCOVER)."""

import errno
import random

import pytest
from scapy.layers.inet import IP, UDP, defragment

from netstack.stack import Stack
from netstack.wire import icmp
from tests.ip.fragments import PEER, US, S, feed, sent
from tests.support import scale

IP_MTU_DISCOVER, IP_MTU, IP_RECVERR, IP_HDRINCL = 10, 14, 11, 3
DONT, WANT, DO, PROBE, INTERFACE, OMIT = range(6)
MINUTE = 60 * S


def sender(discover=None, mtu=1500, connect=True, **options):
    stack = Stack(addresses=US + "/24", seed=3, mtu=mtu, **options)
    stack.advance(S)
    sock = stack.socket("dgram")
    if discover is not None:
        sock.setsockopt(0, IP_MTU_DISCOVER, discover)
    if connect:
        sock.connect((PEER, 2000))
    return stack, sock


def too_big(packet: bytes, mtu: int, src="10.0.0.254") -> bytes:
    """The router's report about a packet of ours (RFC 1191)."""
    from netstack.wire import ipv4

    return ipv4.build(src, US, 1, icmp.build(3, 4, 0, mtu, packet[:28]))


@pytest.mark.parametrize("mtu", [68, 100, 576, 1280, 1500, 9000])
@pytest.mark.parametrize("length", [1, 40, 41, 1472, 1473, 20000, 65507])
def test_scapy_puts_together_what_was_cut(mtu, length):
    stack, sock = sender(WANT, mtu)
    payload = random.Random(length).randbytes(length)
    assert sock.send(payload) == length
    packets = [IP(p) for p in sent(stack)]
    assert all(len(bytes(p)) <= mtu for p in packets)
    assert all(IP(bytes(p)).chksum == IP(bytes(p.__class__(bytes(p)))).chksum for p in packets)
    if 28 + length <= mtu:
        [p] = packets
        assert p.flags == "DF" and p.id == 0
    else:
        assert all(len(p.payload) % 8 == 0 for p in packets[:-1])
        assert len({p.id for p in packets}) == 1 and not any(p.flags.DF for p in packets)
        assert stack.counters()["ip_fragmented"] == 1 and stack.counters()["ip_fragments_out"] == len(packets)
    whole = defragment(packets)
    assert len(whole) == 1
    raw = bytes(whole[0][UDP])
    assert raw[8:8 + length] == payload
    check = IP(src=US, dst=PEER) / UDP(raw)
    del check[UDP].chksum
    assert IP(bytes(check))[UDP].chksum == whole[0][UDP].chksum


@pytest.mark.parametrize("length", [65508, 70000])
def test_no_datagram_is_larger_than_ip_carries(length):
    _, sock = sender()
    with pytest.raises(OSError) as e:
        sock.send(bytes(length))
    assert e.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize(("mode", "flags", "refused"), [
    (DONT, "", False), (WANT, "", False), (DO, "DF", True), (PROBE, "DF", True), (INTERFACE, "", True),
    (OMIT, "", False)])
def test_what_is_larger_than_the_path_is_cut_or_refused_as_the_socket_asks(mode, flags, refused):
    stack, sock = sender(mode)
    assert sock.getsockopt(0, IP_MTU_DISCOVER) == mode
    sock.send(bytes(1000))
    [small] = [IP(p) for p in sent(stack)]
    assert str(small.flags) == ("DF" if mode in (WANT, DO, PROBE) else flags)
    assert (small.id == 0) == (small.flags.DF is True) or small.id != 0
    if refused:
        with pytest.raises(OSError) as e:
            sock.send(bytes(3000))
        assert e.value.errno == errno.EMSGSIZE and sent(stack) == []
    else:
        sock.send(bytes(3000))
        assert len(sent(stack)) == 3


def test_a_default_can_be_set_for_all_sockets():
    stack, sock = sender(sysctl={"net.ipv4.ip_no_pmtu_disc": 1})
    assert sock.getsockopt(0, IP_MTU_DISCOVER) == DONT
    with pytest.raises(OSError):
        sock.setsockopt(0, IP_MTU_DISCOVER, 6)


def test_a_report_lowers_the_path_for_all_sockets_and_grows_old_after_ten_minutes():
    stack, sock = sender(DO)
    assert sock.getsockopt(0, IP_MTU) == 1500
    sock.send(bytes(1400))
    [big] = sent(stack)
    feed(stack, [too_big(big, 1000)])
    assert stack.counters()["ip_pmtu_lowered"] == 1
    assert sock.getsockopt(0, IP_MTU) == 1000
    with pytest.raises(OSError) as e:
        sock.send(b"")                                   # the report itself is pending
    assert e.value.errno == errno.EMSGSIZE
    with pytest.raises(OSError) as e:
        sock.send(bytes(973))
    assert e.value.errno == errno.EMSGSIZE
    sock.send(bytes(972))
    other = stack.socket("dgram")
    other.sendto(bytes(1400), (PEER, 9))
    assert [len(p) for p in sent(stack)] == [1000, 996, 452]
    elsewhere = stack.socket("dgram")
    elsewhere.sendto(bytes(1400), ("10.0.0.3", 9))
    assert [len(p) for p in sent(stack)] == [1428]
    stack.advance(stack.now_ns + 10 * MINUTE - 1)
    assert sock.getsockopt(0, IP_MTU) == 1000
    stack.advance(stack.now_ns + 1)
    assert sock.getsockopt(0, IP_MTU) == 1500
    with pytest.raises(OSError):
        stack.socket("dgram").getsockopt(0, IP_MTU)      # of no peer: ENOTCONN


def test_connections_and_datagrams_share_what_is_known_of_a_path():
    from tests.tcp.tools import active

    s = active(window=65535, mss=1460)
    s.sock.send(bytes(1460))
    [p] = s.flow.receive_all()
    s.peer.stack.input(too_big(p.raw, 1200), s.peer.stack.now_ns)
    dgram = s.peer.stack.socket("dgram")
    dgram.connect((PEER, 9))
    assert dgram.getsockopt(0, IP_MTU) == 1200


@pytest.mark.parametrize("case", ["below the floor", "not smaller", "no such datagram", "another destination",
                                  "too late", "no size given"])
def test_a_report_that_cannot_be_is_not_believed(case):
    """Security row C11 for datagrams (RFC 5927 section 7)."""
    stack, sock = sender(WANT)
    sock.send(bytes(1400 if case != "no such datagram" else 300))
    [p] = sent(stack)
    if case == "another destination":
        p = bytes(IP(p[:16] + bytes([10, 0, 0, 9]) + p[20:]))
    if case == "too late":
        stack.advance(stack.now_ns + 2 * MINUTE)
    feed(stack, [too_big(p, {"below the floor": 551, "not smaller": 1500, "no size given": 0}.get(case, 1000))])
    if case == "no size given":                          # the next smaller plateau of RFC 1191
        assert sock.getsockopt(0, IP_MTU) == 1006
    else:
        assert sock.getsockopt(0, IP_MTU) == 1500 and stack.counters()["ip_pmtu_lowered"] == 0


def test_the_error_queue_says_what_would_fit():
    stack, sock = sender(DO)
    sock.setsockopt(0, IP_RECVERR, 1)
    with pytest.raises(OSError):
        sock.send(bytes(3000))
    _, [(level, kind, data)], flags, _ = sock.recvmsg(100, 100, 0x2000)
    assert (level, kind, flags & 0x2000) == (0, IP_RECVERR, 0x2000)
    assert int.from_bytes(data[:4], "little") == errno.EMSGSIZE
    assert data[4] == 1 and int.from_bytes(data[8:12], "little") == 1500     # SO_EE_ORIGIN_LOCAL


def test_a_snapshot_keeps_what_is_known_of_paths_and_the_numbers_to_come():
    stack, sock = sender(WANT)
    sock.send(bytes(1400))
    feed(stack, [too_big(sent(stack)[0], 1000)])
    copy = Stack.restore(stack.snapshot(), 500 * S)
    again = copy.socket_by_id(sock.id)
    for s in (sock, again):
        try:
            s.send(b"")
        except OSError as e:
            assert e.errno == errno.EMSGSIZE
        s.send(bytes(3000))
    ours, theirs = sent(stack), sent(copy)
    assert ours == theirs and len(ours) > 2
    copy.advance(500 * S + 10 * MINUTE)
    assert again.getsockopt(0, IP_MTU) == 1500


# ---- B7: numbers ------------------------------------------------------------------


def ids(stack, dst, n):
    sock = stack.socket("dgram")
    sock.setsockopt(0, IP_MTU_DISCOVER, DONT)
    out = []
    for _ in range(n):
        sock.sendto(b"x", (dst, 9))
        out.append(IP(sent(stack)[0]).id)
    return out


def test_b7_numbers_of_datagrams_show_no_run_and_are_not_used_twice():
    stack = Stack(addresses=US + "/24", seed=8)
    stack.advance(S)
    n = scale(10_000)
    mine = ids(stack, PEER, n)
    assert len(set(mine)) == n, "none is used again before all were (RFC 6864 section 5.2)"
    steps = [(b - a) & 0xFFFF for a, b in zip(mine, mine[1:], strict=False)]
    assert sum(s < 8 or s > 65528 for s in steps) < n / 500
    buckets = [0] * 64
    for i in mine:
        buckets[i >> 10] += 1
    expected = n / 64
    assert sum((b - expected) ** 2 / expected for b in buckets) < 110        # 63 degrees of freedom: p about 0.0002


def test_b7_a_second_host_learns_nothing_from_the_numbers_it_gets():
    stack = Stack(addresses=US + "/24", seed=9)
    stack.advance(S)
    n = scale(4000, 2000)
    mine, theirs = ids(stack, PEER, n), ids(stack, "10.0.0.3", n)
    assert len(set(mine) & set(theirs)) > n * n / 65536 / 2, "what one gets does not say what another got"
    both = [(a - b) & 0xFFFF for a, b in zip(mine, theirs, strict=True)]
    assert len(set(both)) > n * 0.9, "no constant lies between them"
    interleaved = []
    for _ in range(200):
        interleaved += ids(stack, PEER, 1) + ids(stack, "10.0.0.3", 1)
    assert sum(((b - a) & 0xFFFF) < 4 for a, b in zip(interleaved, interleaved[1:], strict=False)) <= 3


def test_b7_datagrams_that_are_not_cut_have_number_zero():
    stack, sock = sender(WANT)
    for _ in range(10):
        sock.send(b"x")
    assert {IP(p).id for p in sent(stack)} == {0}
