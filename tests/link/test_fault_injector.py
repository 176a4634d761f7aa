"""The impairment model: what each fault does, how often, and that a seed repeats it."""

import math

import pytest

from netstack.link import FaultInjector, Wire
from netstack.testing import LinkDriver
from netstack.units import duration_ns

MS = 1_000_000


class Rig:
    """A faulty end and a plain end, and the time both are told."""

    def __init__(self, media="ip", wire=None, **faults):
        a, b = Wire(media=media, **(wire or {}))
        self.link = FaultInjector(a, **faults)
        self.faulty = LinkDriver(self.link)
        self.plain = LinkDriver(b)
        self.now = 0
        self.got = []

    def output(self, frame):
        return self.faulty.send(frame, self.now)

    def collect(self):
        self.got += [(self.now, f) for f in self.plain.receive(10**6)]

    def run(self, until=None):
        """Jump from deadline to deadline; all frames so far that reached the plain end, with their times."""
        self.collect()
        while (deadline := self.faulty.next_deadline()) is not None and (until is None or deadline <= until):
            self.now = max(self.now, deadline)
            self.faulty.advance(self.now)
            self.collect()
        return self.got

    def step(self, ns):
        until = self.now + ns
        self.run(until)
        self.now = until


def numbered(n, size=64):
    return [i.to_bytes(4, "big") + bytes(size - 4) for i in range(n)]


def within(count, n, p, sigmas=6):
    """Is a count of n draws with probability p within so many standard deviations?"""
    return abs(count - n * p) <= sigmas * math.sqrt(n * p * (1 - p)) + 1


def test_without_faults_everything_passes_unchanged_at_once():
    rig = Rig(seed=1)
    frames = numbered(300)
    for f in frames:
        rig.output(f)
    assert [f for _, f in rig.run()] == frames
    rig.plain.send(b"back")
    assert rig.faulty.receive() == [b"back"]


@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize("p", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_loss_happens_as_often_as_asked(side, p):
    rig = Rig(seed=5, **{side: {"loss": p}})
    n = 5000
    arrived = 0
    for f in numbered(n):
        if side == "output":
            rig.output(f)
            arrived += len(rig.plain.receive())
        else:
            rig.plain.send(f)
            arrived += len(rig.faulty.receive())
    stats = rig.link.stats()[side]
    assert stats["lost"] == n - arrived == stats["pushed"] - stats["delivered"]
    assert within(stats["lost"], n, p)


def test_duplicates_are_exact_copies():
    rig = Rig(seed=2, output={"duplicate": 0.2})
    frames = numbered(2000)
    for f in frames:
        rig.output(f)
    got = [f for _, f in rig.run()]
    assert set(got) == set(frames)
    assert within(len(got) - len(frames), 2000, 0.2)
    assert got == sorted(got)


def test_corruption_flips_exactly_one_bit_anywhere():
    rig = Rig(seed=3, output={"corrupt": 1.0})
    flips = set()
    for _ in range(4000):
        rig.output(bytes(32))
    for _, f in rig.run():
        bits = int.from_bytes(f, "big")
        assert bits.bit_count() == 1
        flips.add(bits)
    assert len(flips) == 256


def test_on_ethernet_only_ip_packets_are_corrupted_behind_their_link_header():
    rig = Rig(media="ethernet", seed=3, output={"corrupt": 1.0})
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    ip = bytes(12) + b"\x08\x00" + bytes(20)
    for _ in range(500):
        rig.output(arp)
        rig.output(ip)
    for i, (_, f) in enumerate(rig.run()):
        if i % 2 == 0:
            assert f == arp
        else:
            assert f[:14] == ip[:14] and int.from_bytes(f[14:], "big").bit_count() == 1


def test_delay_is_exact_and_jitter_keeps_the_order():
    rig = Rig(output={"delay": "5ms"})
    for f in numbered(10):
        rig.output(f)
        rig.step(MS)
    assert [t for t, _ in rig.run()] == [5 * MS + i * MS for i in range(10)]
    rig = Rig(seed=9, output={"delay": "5ms", "jitter": "3ms"})
    sent = {}
    for f in numbered(500):
        sent[f] = rig.now
        rig.output(f)
        rig.step(MS // 10)
    got = rig.run()
    assert [f for _, f in got] == sorted(sent)
    delays = [t - sent[f] for t, f in got]
    assert min(delays) >= 5 * MS and max(delays) <= 8 * MS and max(delays) - min(delays) > MS


def test_reordered_frames_are_passed_by_others():
    rig = Rig(seed=4, output={"delay": "10ms", "reorder": 0.1, "reorder_delay": "2ms"})
    frames = numbered(1000)
    for f in frames:
        rig.output(f)
        rig.step(MS // 10)
    got = [f for _, f in rig.run()]
    assert sorted(got) == frames and got != frames
    late = sum(a > b for a, b in zip(got, got[1:], strict=False))
    assert 50 < late < 200
    assert within(rig.link.stats()["output"]["reordered"], 1000, 0.1)


def test_rate_spaces_frames_and_the_queue_drops_its_tail():
    rig = Rig(output={"rate": "8mbit"})                      # 1000 bytes a millisecond
    for f in numbered(5, size=1000):
        rig.output(f)
    assert [t for t, _ in rig.run()] == [MS, 2 * MS, 3 * MS, 4 * MS, 5 * MS]
    rig = Rig(output={"rate": "8mbit", "queue": 3})
    frames = numbered(10, size=1000)
    for f in frames:
        rig.output(f)
    assert [f for _, f in rig.run()] == frames[:3]
    assert rig.link.stats()["output"]["queue_dropped"] == 7
    rig.output(frames[9])                                     # the queue has emptied meanwhile
    assert [f for _, f in rig.run()] == [*frames[:3], frames[9]]
    rig = Rig(output={"rate": "8mbit", "queue_bytes": 2500})
    for f in frames:
        rig.output(f)
    assert [f for _, f in rig.run()] == frames[:2]


def test_the_same_seed_repeats_and_another_does_not():
    def fate(seed):
        rig = Rig(seed=seed, loss=0.1, duplicate=0.1, corrupt=0.1, reorder=0.1, delay="1ms", jitter="1ms")
        for f in numbered(400):
            rig.output(f)
            rig.step(MS // 20)
        return rig.run()

    assert fate(7) == fate(7)
    assert fate(7) != fate(8)


def test_directions_roll_their_own_dice():
    rig = Rig(seed=7, loss=0.5)
    out = []
    back = []
    for f in numbered(400):
        rig.output(f)
        out.append(len(rig.plain.receive()))
        rig.plain.send(f)
        back.append(len(rig.faulty.receive()))
    assert out != back and 100 < sum(out) < 300 and 100 < sum(back) < 300


def test_frames_are_conserved():
    faults = dict(loss=0.2, duplicate=0.2, corrupt=0.2, reorder=0.2, rate="100mbit", queue=20)
    rig = Rig(seed=11, output=faults)
    for f in numbered(3000):
        rig.output(f)
        rig.step(4000)
    s = rig.link.stats()["output"]
    assert s["pushed"] + s["duplicated"] == sum(
        s[k] for k in ("delivered", "lost", "queue_dropped", "no_memory", "held")
    )
    rig.run()
    assert rig.link.stats()["output"]["held"] == 0


def test_a_full_inner_link_holds_frames_back_and_loses_none():
    rig = Rig(wire={"frames": 4}, output={"loss": 0.0})
    frames = numbered(10)
    for f in frames:
        assert rig.output(f)
    assert rig.faulty.next_deadline() is None                 # room is awaited, not time
    got = []
    for _ in range(5):
        got += rig.plain.receive()
        rig.faulty.flush()
    assert got == frames


def test_input_faults_deliver_on_time_and_wake_the_driver():
    rig = Rig(input={"delay": "2ms"})
    rig.faulty.advance(0)
    rig.plain.send(b"slow")
    assert rig.faulty.has_input()
    assert rig.faulty.receive() == []                         # taken from the wire, not due yet
    assert rig.faulty.next_deadline() == 2 * MS and not rig.faulty.has_input()
    rig.faulty.advance(2 * MS)
    assert rig.faulty.has_input() and rig.faulty.arm()
    assert rig.faulty.receive() == [b"slow"]
    assert rig.faulty.next_deadline() is None


def test_settings_change_on_the_way():
    rig = Rig(seed=1)
    rig.output(b"through")
    rig.link.set(output={"loss": 1.0})
    rig.output(b"lost")
    rig.link.set(output={"loss": 0})
    rig.output(b"through again")
    assert [f for _, f in rig.run()] == [b"through", b"through again"]


def test_impossible_settings_say_why():
    a, _ = Wire()
    with pytest.raises(ValueError, match="between 0 and 1"):
        FaultInjector(a, loss=1.5)
    with pytest.raises(TypeError, match="no impairment 'latency'"):
        FaultInjector(a, latency=3)
    with pytest.raises(ValueError, match="write it like '5ms'"):
        FaultInjector(a, delay="5 parsecs")
    with pytest.raises(TypeError):
        FaultInjector(a, delay=0.5)
    with pytest.raises(TypeError):
        FaultInjector(None)


def test_durations_have_units():
    assert duration_ns("1.5us") == 1500 and duration_ns("2min") == 120 * 10**9 and duration_ns(7) == 7


def ip_packets(media):
    """``(frame, IP packet within, codepoint)`` of both versions, for all codepoints."""
    from netstack.testing import build_udp

    for codepoint in range(4):
        four = build_udp("10.0.0.1", "10.0.0.2", 1, 2, bytes(500), tos=0xB8 | codepoint)
        six = bytes((0x6B, 0x80 | codepoint << 4, 0, 0, 0, 8, 17, 64)) + bytes(40)
        for packet, kind in ((four, b"\x08\x00"), (six, b"\x86\xdd")):
            yield (bytes(12) + kind if media == "ethernet" else b"") + packet, packet, codepoint


@pytest.mark.parametrize("media", ["ip", "ethernet"])
def test_a_long_queue_marks_what_is_capable_and_drops_the_rest(media):
    """RFC 3168 section 5: CE for ECT, the checksum stays right, the other six bits too."""
    from netstack.testing import parse_packet

    skip = 14 if media == "ethernet" else 0
    for frame, packet, codepoint in ip_packets(media):
        rig = Rig(media=media, output={"rate": "8mbit", "mark": 3})
        for _ in range(5):
            rig.output(frame)
        got = [f[skip:] for _, f in rig.run()]
        assert got[:3] == [packet] * 3
        stats = rig.link.stats()["output"]
        if codepoint == 0:
            assert len(got) == 3 and stats["queue_dropped"] == 2 and stats["marked"] == 0
            continue
        assert stats["marked"] == (0 if codepoint == 3 else 2) and stats["queue_dropped"] == 0
        for changed in got[3:]:
            p = parse_packet(changed)
            assert p.ip_ok and p.tos == parse_packet(packet).tos | 3 and changed[12:] == packet[12:]


def test_frames_that_are_no_ip_packets_are_dropped_by_a_queue_that_marks():
    rig = Rig(media="ethernet", output={"rate": "8mbit", "mark": 1})
    for frame in (bytes(12) + b"\x08\x06" + b"\x45\x02" + bytes(40), bytes(12) + b"\x08\x00" + b"\x15\x02" + bytes(40),
                  bytes(12) + b"\x08\x00\x45\x02"):
        rig.output(bytes(100))
        rig.output(frame)
    assert len(rig.run()) == 1 and rig.link.stats()["output"]["queue_dropped"] == 5
