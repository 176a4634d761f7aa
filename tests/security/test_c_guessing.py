"""Rows C5 to C8: what must not be predicted from outside."""

import math
import random

import numpy as np
import pytest

from netstack.stack import Stack
from netstack.testing import build_icmp
from tests.security.rig import established, listening, nothing_left
from tests.support import scale
from tests.tcp.test_path_mtu import too_big
from tests.tcp.tools import A, B, dial, new_peer

MS = 10**6
NAMES = 64_000                         # ports a probing address uses


def initial_numbers(count, step_ns=100 * MS, seed=1):
    """ISNs of a listener probed from one address, a port each, at even intervals: what a scanner sees."""
    peer = new_peer(seed=seed)
    listening_socket = peer.stack.socket()
    listening_socket.bind((A, 80))
    listening_socket.listen(8)
    out = []
    for i in range(count):
        flow = peer.flow(1024 + i % NAMES, iss=7_000_000 + i)
        flow.send("S", seq=0, mss=1460)
        answer = flow.receive()
        out.append(flow.irs)
        flow.send("R", seq=1)
        assert answer.flags == "SA"
        peer.clock.now_ns += step_ns
        peer.stack.advance(peer.clock.now_ns)
    return out


def difficulty(numbers, interval_s=0.1):
    """nmap's index of sequence prediction for six answers (nmap reference guide, chapter 8, SP)."""
    steps = [min(b - a & 0xFFFFFFFF, a - b & 0xFFFFFFFF) for a, b in zip(numbers, numbers[1:], strict=False)]
    rates = [s / interval_s for s in steps]
    gcd = math.gcd(*steps)
    divisor = gcd if gcd > 9 else 1
    mean = sum(rates) / len(rates)
    spread = math.sqrt(sum(((r - mean) / divisor) ** 2 for r in rates) / (len(rates) - 1))
    return 8 * math.log2(spread) if spread > 1 else 0


def test_c5_initial_sequence_numbers_are_as_hard_to_guess_as_the_kernels():
    """RFC 6528. The kernel's index is about 260; random 32-bit numbers give it, a clock gives below 100."""
    numbers = initial_numbers(scale(100_000, 6000))
    indices = [difficulty(numbers[i:i + 6]) for i in range(0, len(numbers) - 5, 6)]
    assert np.median(indices) >= 250, np.median(indices)
    steps = np.diff(np.array(numbers[:NAMES], dtype=np.int64)) & 0xFFFFFFFF     # then names come again, and their steps
    assert len(set(steps.tolist())) >= 0.999 * len(steps)


def test_c5_no_line_stands_out_in_the_spectrum():
    """Planes and periods of a weak generator show as peaks; noise of n points has none above about ln(n) + a few."""
    numbers = np.array(initial_numbers(scale(100_000, 8192)), dtype=np.float64)
    for series in (numbers, np.diff(numbers) % 2.0**32):
        x = series - series.mean()
        power = np.abs(np.fft.rfft(x))[1:] ** 2
        assert power.max() / power.mean() < math.log(len(power)) + 12


@pytest.mark.unwatched         # a connect given up leaves no trace that the checker could see
def test_c5_one_connections_numbers_rise_with_the_clock():
    """RFC 9293 section 3.4.1: M + F(names, secret), M ticks every 64 ns here."""
    peer = new_peer()
    seen = []
    for i in range(50):
        sock = peer.stack.socket()
        sock.bind((A, 5000))
        sock.connect_ex((B, 9000))
        seen.append((peer.clock.now_ns, sock.info()["iss"]))
        sock.close()
        peer.collect()
        peer.clock.now_ns += 10 * MS + i
        peer.stack.advance(peer.clock.now_ns)
    for (t0, a), (t1, b) in zip(seen, seen[1:], strict=False):
        assert (b - a) & 0xFFFFFFFF == t1 // 64 - t0 // 64


def test_c5_another_secret_gives_other_numbers():
    assert len({tuple(initial_numbers(5, seed=s)) for s in range(20)}) == 20


def ports(stack, remote, count):
    out = []
    for _ in range(count):
        sock = stack.socket()
        sock.connect_ex(remote)
        out.append(sock.getsockname()[1])
        sock.close()
        while stack.pop_output():
            pass
    return out


def test_c6_ports_follow_no_order():
    """RFC 6056: neighbours in time are neighbours in number no more often than chance has it."""
    stack = Stack(addresses=A, seed=1)
    stack.set("net.ipv4.ip_local_port_range", (1024, 65535))
    n = scale(50_000, 5000)
    seen = ports(stack, (B, 80), n)
    near = sum(1 for a, b in zip(seen, seen[1:], strict=False) if abs(a - b) <= 4)
    expected = n * 8 / 64512
    assert near <= expected + 6 * math.sqrt(expected) + 3
    counts = np.bincount((np.array(seen) - 1024) * 64 // 64512, minlength=64)
    assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 63 + 6 * math.sqrt(2 * 63)


def test_c6_ports_towards_a_second_destination_tell_nothing():
    """CVE-2022-32296: a small table of perturbations lets one destination learn the ports of another."""
    stack = Stack(addresses=A, seed=2)
    n = scale(50_000, 5000)
    one, two = [], []
    for _ in range(n // 2):
        one += ports(stack, ("10.0.0.9", 80), 1)
        two += ports(stack, (B, 443), 1)
    difference = np.array(two) - np.array(one)
    _, counts = np.unique(difference, return_counts=True)
    assert counts.max() <= 6                                   # a constant offset would repeat n / 2 times
    assert abs(np.corrcoef(one, two)[0, 1]) < 6 / math.sqrt(n / 2)


def test_c7_the_ip_identification_counts_nothing_and_nothing_is_fragmented():
    """RFC 6864 section 4.1: atomic packets, DF set; an idle scan through us reads no counter."""
    ids = set()
    with nothing_left() as peer:
        inject_all = peer.collect

        def note(packets):
            for p in packets:
                header = p.raw[:20]
                ids.add(int.from_bytes(header[4:6], "big"))
                assert header[6] & 0x40 and int.from_bytes(header[6:8], "big") & 0x3FFF == 0   # DF; no MF, no offset

        s = established(peer)
        s.sock.send(bytes(14600))
        note(inject_all())
        s.flow.receive_all()
        for mtu in (0, 68, 296, 552, 1000):
            too_big(s, 1, mtu)
            note(peer.collect())
            s.flow.receive_all()
        peer.flow(1, 9).send("S", seq=0)                        # a closed port
        note(peer.collect())
        peer.inject(build_icmp(B, A, 8, 0, payload=b"ping"))
        note(peer.collect())
        s.pure_ack(14601)
    assert ids == {0}


def first_stamp(peer, port):
    flow = peer.flow(port)
    flow.send("S", seq=0, mss=1460, timestamp=(1, 0))
    answer = flow.receive()
    flow.send("R", seq=1)
    return answer.timestamp[0]


def test_c8_timestamps_do_not_tell_the_uptime_nor_each_other():
    """RFC 7323 section 7.1: an offset of its own for each connection."""
    n = scale(10_000, 1000)
    with nothing_left() as peer:
        listening(peer)
        stamps = np.array([first_stamp(peer, 1024 + i) for i in range(n)], dtype=np.float64)
    counts = np.bincount((stamps // 2**26).astype(int), minlength=64)
    assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 63 + 6 * math.sqrt(2 * 63)
    assert abs(np.corrcoef(stamps[1:], stamps[:-1])[0, 1]) < 6 / math.sqrt(n)


def test_c8_the_clock_of_a_connection_ticks_in_milliseconds():
    with nothing_left() as peer:
        s = established(peer, timestamp=(1, 0))
        values = []
        for _ in range(5):
            s.sock.send(b"x")
            packet = s.flow.receive_all()[-1]
            values.append(packet.timestamp[0])
            s.pure_ack(s.ack + 1, timestamp=(2, values[-1]))
            peer.advance("250ms")
        assert [b - a & 0xFFFFFFFF for a, b in zip(values, values[1:], strict=False)] == [250] * 4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.unwatched         # a connect given up leaves no trace that the checker could see
def test_c8_reconnecting_under_the_same_names_goes_on_with_the_same_clock(seed):
    """RFC 7323 section 5.4 needs it: PAWS of the old incarnation judges the new one."""
    peer = new_peer(seed=seed)
    rng = random.Random(seed)
    stamps = []
    for _ in range(5):
        s = dial(peer)
        s.sock.close()
        sock = peer.stack.socket()
        sock.bind((A, 4321))
        sock.connect_ex((B, 9000))
        flow = peer.flow(9000, 4321)
        stamps.append((peer.clock.now_ns // MS, flow.receive().timestamp[0]))
        sock.close()
        peer.advance(rng.randrange(1, 5) * 10**9)
    assert len({(v - t) & 0xFFFFFFFF for t, v in stamps}) == 1
