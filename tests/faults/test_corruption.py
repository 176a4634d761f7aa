"""F8: corruption. One flipped bit is always found out. Random garbage is missed by the Internet checksum once in 65,535
times: that rate is what is tested, since no stack that keeps to RFC 9293 can do better."""

import math
import random

import numpy as np
import pytest

from netstack.link import QueueLink
from netstack.stack import Stack
from netstack.testing import Pair, VirtualClock, build_tcp, build_udp, parse_packet
from netstack.wire import checksum as wire_checksum
from tests.support import scale

A, B = "10.0.0.1", "10.0.0.2"

# What a flipped bit may make of an IPv4 packet with TCP in it, in the order of the checks. One that makes it version 6
# may leave less than that version's header, or an address of nobody.
DETECTED = ("drop_link_malformed", "drop_ip_version", "drop_ip_header_length", "drop_ip_total_length",
            "drop_ip_checksum", "drop_ip_destination", "drop_tcp_length", "drop_tcp_checksum")


@pytest.mark.parametrize("chunk", range(10))
def test_f8_no_flipped_bit_passes(chunk):
    """5 % of all frames each way have one bit flipped, nothing else happens to any: what is dropped is what was hit."""
    for seed in range(chunk * scale(1000, 20) // 10, (chunk + 1) * scale(1000, 20) // 10):
        pair = Pair(seed=seed, corrupt=0.05, delay="1ms", sysctl={"net.ipv4.tcp_timestamps": seed % 2})
        pair.transfer(200_000, 200_000, limit="240h")
        pair.run()
        corrupted = sum(way["corrupted"] for way in pair.faults.stats().values())
        assert corrupted > 0, seed
        dropped = {}
        for host in (pair.a, pair.b):
            for name, count in host.stack.counters().items():
                if name.startswith("drop_") and count:
                    dropped[name] = dropped.get(name, 0) + count
        assert sum(dropped.get(name, 0) for name in DETECTED) == corrupted, (seed, corrupted, dropped)


def reference_sum(words):
    """The sum of 16-bit words in ones' complement, a row each; an oracle that knows nothing of ours (RFC 1071)."""
    total = words.astype(np.uint64).sum(axis=1)
    while (total >> 16).any():
        total = (total & 0xFFFF) + (total >> 16)
    return total


def bounds(n, p):
    """Where the number of hits of n trials lies but for one time in a million."""
    return n * p - 5 * math.sqrt(n * p) - 1, n * p + 5 * math.sqrt(n * p) + 1


def garbled(rng, count, words, hit):
    """Rows of packet words with a right sum in the first, and how each looks with `hit` words of garbage in it."""
    good = rng.integers(0, 1 << 16, (count, words), dtype=np.uint16)
    good[:, 0] = 0
    good[:, 0] = 0xFFFF - reference_sum(good)
    bad = good.copy()
    at = rng.integers(1, words - hit + 1, count)
    for i in range(hit):
        bad[np.arange(count), at + i] = rng.integers(0, 1 << 16, count, dtype=np.uint16)
    return good, bad


@pytest.mark.parametrize("words, hit", [(32, 2), (33, 7)])
def test_f8_garbage_is_missed_as_often_as_arithmetic_says_and_no_oftener(words, hit):
    """Only the sum, for numbers that streams do not reach. Which ones are missed, too: as the oracle says, each."""
    rng = np.random.default_rng(words)
    total, block = scale(20_000_000, 2_000_000), 100_000
    missed = expected = trials = 0
    fold, partial = wire_checksum.fold, wire_checksum.partial
    for _ in range(total // block):
        good, bad = garbled(rng, block, words, hit)
        changed = (good != bad).any(axis=1)
        passes = (reference_sum(bad) == 0xFFFF) & changed
        trials += int(changed.sum())
        expected += int(passes.sum())
        raw, n = bad.astype(">u2").tobytes(), 2 * words
        said = [fold(partial(raw[i:i + n])) == 0xFFFF for i in range(0, len(raw), n)]
        ours = np.array(said) & changed
        assert (ours == passes).all()
        missed += int(ours.sum())
    low, high = bounds(trials, 1 / 65535)
    assert low <= missed <= high and missed == expected, (missed, trials, (low, high))
    assert missed > 0


class Target:
    """A stack with an open UDP port, a peer's established connection, and a count of what got through."""

    def __init__(self, trusted=False):
        self.link = QueueLink(1500, trusted=trusted)
        self.clock = VirtualClock()
        self.stack = Stack(addresses=f"{A}/24", seed=8, links=[self.link] if trusted else None)
        self.udp = self.stack.socket("dgram")
        self.udp.bind((A, 53))

    def datagram(self, packet):
        """What a datagram's packet delivers, or None."""
        self.stack.input(packet, self.clock.now_ns)
        try:
            return self.udp.recvfrom(2000)[0]
        except BlockingIOError:
            return None


def flat_sum(data):
    return int(reference_sum(np.frombuffer(data + bytes(len(data) % 2), ">u2").reshape(1, -1))[0])


def test_f8_a_stack_delivers_garbage_exactly_when_its_sum_is_right():
    """Datagrams with garbage in the payload: half of it is made to sum up to what was there, which nobody can see."""
    rng, target = random.Random(8), Target()
    seen = 0
    for i in range(scale(100_000, 5000)):
        payload = rng.randbytes(40)
        packet = bytearray(build_udp(B, A, 1000, 53, payload))
        at = 28 + 2 * rng.randrange(19)
        if i % 2:                                                    # two words change places: the sum does not
            packet[at:at + 4] = packet[at + 2:at + 4] + packet[at:at + 2]
        else:
            packet[at:at + 4] = rng.randbytes(4)
        right = flat_sum(bytes(packet[28:])) == flat_sum(payload)
        got = target.datagram(bytes(packet))
        assert got == (bytes(packet[28:]) if right else None), i
        seen += right and bytes(packet[28:]) != payload
    assert seen > 0


def test_f8_no_field_of_a_damaged_segment_acts():
    """RST, FIN, SYN, data and windows of segments with any two damaged words: the connection notices none of them, on
    the predicted path and off it. Those whose sum comes out right by chance are left out."""
    rng = random.Random(88)
    stack = Stack(addresses=f"{A}/24", seed=9)
    listener = stack.socket()
    listener.bind((A, 80))
    listener.listen()

    def say(flags, seq, ack, payload=b""):
        return build_tcp(B, A, 40000, 80, flags, seq=seq, ack=ack, window=60000, payload=payload)

    now = 10**9
    stack.input(say("S", 100, 0), now)
    answer = parse_packet(bytes(stack.pop_output()[0]))
    stack.input(say("A", 101, answer.seq + 1), now)
    sock, _ = listener.accept()
    before, hit = sock.info(), 0
    for _ in range(scale(200_000, 20_000)):
        flags = rng.choice(("A", "PA", "R", "RA", "FA", "S", "SA", "FPA"))
        packet = bytearray(say(flags, 101, answer.seq + 1, rng.randbytes(rng.choice((0, 2, 100)))))
        sum_before = flat_sum(bytes(packet[20:]))
        for _ in range(2):
            at = rng.randrange(20, len(packet) - 1) & ~1
            if at not in (20, 22):                                   # the ports: another connection's, and answered
                packet[at:at + 2] = rng.randbytes(2)
        if flat_sum(bytes(packet[20:])) in (sum_before, sum_before ^ 0xFFFF):
            continue
        hit += 1
        stack.input(bytes(packet), now)
    after = sock.info()
    assert hit > 1000 and stack.pop_output() is None and sock.state == "ESTABLISHED" and not sock.poll() & 1
    assert {k: v for k, v in after.items() if before[k] != v} == {}
    dropped = stack.counters()
    assert dropped["drop_tcp_checksum"] + dropped["drop_tcp_length"] == hit


def test_f8_a_link_that_vouches_for_sums_says_so_and_only_then_are_they_left_out():
    """A channel within one machine may skip them. It must be asked for: nothing is trusted by default."""
    packet = bytearray(build_udp(B, A, 1000, 53, b"damaged on the way"))
    packet[30] ^= 1
    plain, trusting = Target(), Target(trusted=True)
    assert plain.datagram(bytes(packet)) is None
    assert plain.stack.counters()["drop_udp_checksum"] == 1
    trusting.link.push(bytes(packet))
    trusting.stack.process(trusting.clock.now_ns)
    assert trusting.udp.recvfrom(100)[0] == bytes(packet[28:])
