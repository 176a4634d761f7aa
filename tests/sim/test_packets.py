"""The test tools themselves: packets against scapy, checkers, the recorder."""

import random

import pytest

from netstack.link import Wire
from netstack.testing import (
    LinkDriver,
    Recorder,
    VirtualClock,
    build_icmp,
    build_tcp,
    build_udp,
    check,
    is_icmp,
    is_ip,
    is_ipv4,
    is_tcp,
    is_udp,
    parse_packet,
    repair,
)

A, B = "10.0.0.1", "10.0.0.2"


def test_what_is_built_is_what_is_parsed():
    raw = build_tcp(A, B, 1000, 80, "SA", seq=5, ack=6, window=700, mss=1460, window_scale=7,
                    sack_permitted=True, timestamp=(11, 12), payload=b"hello", ttl=3, tos=8)
    p = parse_packet(raw)
    assert p.ip_ok and p.checksum_ok and (p.src, p.dst, p.ttl, p.tos) == (A, B, 3, 8)
    assert (p.sport, p.dport, p.seq, p.ack, p.flags, p.window) == (1000, 80, 5, 6, "SA", 700)
    assert (p.mss, p.window_scale, p.sack_permitted, p.timestamp) == (1460, 7, True, (11, 12))
    assert p.payload == b"hello" and p.seq_length == 6
    p = parse_packet(build_tcp(A, B, 1, 2, sack=((10, 20), (30, 40))))
    assert p.sack == ((10, 20), (30, 40)) and p.mss is None
    assert parse_packet(build_udp(A, B, 5, 6, b"x")).payload == b"x"
    assert parse_packet(build_icmp(A, B, 8, 0, b"\0\1\0\2", b"ping")).icmp_type == 8


def test_scapy_agrees():
    scapy = pytest.importorskip("scapy.all")
    rng = random.Random(1)
    for _ in range(50):
        payload = rng.randbytes(rng.randrange(0, 60))
        fields = dict(seq=rng.getrandbits(32), ack=rng.getrandbits(32), window=rng.getrandbits(16))
        ours = build_tcp(A, B, 1000, 80, "PA", payload=payload, mss=1460, identification=7, **fields)
        theirs = scapy.IP(src=A, dst=B, id=7, flags="DF") / scapy.TCP(
            sport=1000, dport=80, flags="PA", options=[("MSS", 1460)], **fields) / payload
        assert ours == bytes(theirs)
        assert build_udp(A, B, 5, 6, payload) == bytes(
            scapy.IP(src=A, dst=B, id=0, flags="DF") / scapy.UDP(sport=5, dport=6) / payload)
    v6 = parse_packet(bytes(scapy.IPv6(src="2001:db8::1", dst="::1") / scapy.TCP(sport=9, dport=10) / b"abc"))
    assert (v6.version, v6.src, v6.sport, v6.payload, v6.checksum_ok) == (6, "2001:db8::1", 9, b"abc", True)


def test_every_single_bit_flip_is_seen_and_repair_hides_it():
    raw = build_tcp(A, B, 1000, 80, "PA", seq=1, ack=2, payload=b"some payload")
    for bit in range(len(raw) * 8):
        broken = bytearray(raw)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            p = parse_packet(bytes(broken))
        except ValueError:
            continue
        assert p.version == 6 or not (p.ip_ok and p.checksum_ok)
    broken = raw[:-1] + b"?"
    assert not parse_packet(broken).checksum_ok and parse_packet(repair(broken)).checksum_ok
    assert repair(raw) == raw
    for length in range(len(raw)):
        repair(raw[:length])


def test_checkers_compose_and_say_what_differs():
    raw = build_tcp(A, B, 1000, 80, "SA", seq=2**32 - 1, ack=1, mss=1460)
    assert is_tcp(flags="AS", seq=-1, ack=1, mss=1460)(raw)
    assert (is_tcp(flags="SA") & is_ipv4(src=A, dst=B, ttl=64))(raw)
    assert (is_udp() | is_tcp())(raw) and not (is_udp() | is_icmp())(raw)
    assert (~is_udp())(raw) and not (~is_tcp())(raw)
    assert is_tcp(window=lambda w: w > 1000, timestamp=None)(raw)
    assert is_ip(version=4, protocol=6)(raw)
    with pytest.raises(AssertionError) as caught:
        check(raw, is_tcp(flags="S", mss=536, window=lambda w: w < 10) & is_ipv4(dst="10.0.0.9"))
    text = str(caught.value)
    for word in ("flags: 'SA', expected 'S'", "mss: 1460, expected 536", "window: 65535", "dst: '10.0.0.2'"):
        assert word in text
    with pytest.raises(AssertionError, match="no packet"):
        check(None, is_tcp())
    with pytest.raises(AssertionError, match="checksum is wrong"):
        check(raw[:-1] + b"\xff", is_tcp())
    with pytest.raises(ValueError, match="letters of"):
        is_tcp(flags="SX")


def test_the_recorder_logs_both_ways_with_times():
    a, b = Wire()
    log = Recorder(a)
    link, peer = LinkDriver(log), LinkDriver(b)
    link.send(build_udp(A, B, 1, 2, b"out"), now_ns=5, head=28)
    peer.send(build_udp(B, A, 2, 1, b"in"))
    link.advance(9)
    link.receive()
    log.on = False
    link.send(bytes(40))
    assert [(p.t_ns, p.direction, p.payload) for p in log.packets()] == [(5, "out", b"out"), (9, "in", b"in")]
    assert len(log) == 2 and log.raw(outgoing_only=True).endswith(b"out")
    log.clear()
    assert len(log) == 0 and log.frames() == [] and log.raw() == b""


def test_virtual_time_moves_only_forward():
    clock = VirtualClock()
    assert clock() == 10**9 and clock.advance("5ms") == 1_005_000_000 and clock.advance(1) == 1_005_000_001
    with pytest.raises(ValueError, match="backwards"):
        clock.advance_to(5)
