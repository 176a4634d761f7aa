"""TCPs that misbehave: each misdeed found by what passes the router, and nothing else taken for one."""

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from bench import fairness
from netstack.router.forwarding import Forwarder
from netstack.router.greedy import MISDEEDS, POLICIES
from netstack.router.pool import pack_address
from netstack.testing.packets import build_tcp, checksum
from tests.router.lan import Timed, take

A, B, C, D = "10.77.0.2", "10.77.0.3", "10.77.0.4", "10.77.0.5"
A6, D6 = "fd77::2", "fd77::5"
MSS = 1400
MS = 1_000_000


class Conversation:
    """Two attachments whose segments are written by hand; A opens the connection, D has the other end."""

    isn = 1000, 5000                                         # of A and D

    def __init__(self, *, open=True, shift=0, window=65535, names=(A, D), policy="count", port=40000, lan=None,
                 mss=MSS):
        self.names, self.port, self.shift = names, port, shift
        if lan is None:
            lan = Timed("10.77.0.0/16", "fd77::/64", router=("10.77.0.1", "fd77::1"), greedy=policy)
            lan.parties = [lan.stack(name, mtu=1500, capacity=1 << 20) for name in names]
        self.lan = lan
        self.a, self.d = lan.parties
        self.seq, self.ack = self.isn[0] + 1, self.isn[1] + 1          # next of A, next of D
        self.window = window
        if open:
            self.from_a("S", self.isn[0], 0, mss=MSS, window_scale=shift)
            self.from_d("SA", self.isn[1], self.seq, mss=mss, window_scale=shift)
            self.from_a("A", self.seq, self.ack)

    def segment(self, ends, ports, flags, seq, ack, payload=b"", **options):
        options.setdefault("window", self.window)
        return build_tcp(*ends, *ports, flags, seq=seq, ack=ack, payload=payload, **options)

    def from_a(self, flags, seq, ack, payload=b"", **options):
        packet = self.segment(self.names, (self.port, 7), flags, seq, ack, payload, **options)
        self.a.send(packet)
        self.lan.at(0)
        return packet

    def from_d(self, flags, seq, ack, payload=b"", **options):
        packet = self.segment(self.names[::-1], (7, self.port), flags, seq, ack, payload, **options)
        self.d.send(packet)
        self.lan.at(0)
        return packet

    def data(self, n=1, size=MSS):
        for _ in range(n):
            self.from_a("A", self.seq, self.ack, bytes(size))
            self.seq += size

    def acknowledge(self, number, **options):
        return self.from_d("A", self.ack, number, **options)

    def found(self):
        """(misdeed, culprit) of each finding."""
        return [(f.misdeed, f.culprit[0]) for f in self.lan.forwarder.findings()]

    def heard(self):
        """What reached A, raw."""
        out = []
        while (packet := take(self.a.channel)) is not None:
            out.append(packet)
        return out


@pytest.fixture(params=[(A, D), (D, A), (A6, D6)], ids=["", "other half", "ipv6"])
def names(request):
    return request.param


# --- D10: optimistic acknowledgements ---


def test_d10_an_acknowledgement_of_what_was_not_handed_over_is_found_at_the_third(names):
    c = Conversation(names=names)
    c.data(2)
    for n in range(1, 4):
        assert c.found() == []
        c.acknowledge(c.seq + n * MSS)
    assert c.found() == [("optimistic_ack", names[1])]
    assert c.d.counters["greedy_optimistic_ack"] == 1
    for n in range(4, 9):
        c.acknowledge(c.seq + n * MSS)
    assert c.found() == [] and c.d.counters["greedy_optimistic_ack"] == 1, "once for a connection"
    assert "greedy_optimistic_ack" not in c.a.counters


def test_d10_what_waits_in_the_router_was_not_handed_over():
    c = Conversation()
    c.lan.forwarder.emulate(c.d.port, output={"rate": "1mbit", "queue": 100})
    c.data(8)
    for n in range(2, 8):
        c.acknowledge(c.seq - n * MSS)
        if n >= 5:
            break
    assert c.found() == [], "each says less than the one before: not one more that it could have got"
    c = Conversation()
    c.lan.forwarder.emulate(c.d.port, output={"rate": "1mbit", "queue": 100})
    c.data(8)
    for n in range(5, 2, -1):
        c.acknowledge(c.seq - n * MSS)
    assert c.found() == [("optimistic_ack", D)]


def test_d10_what_the_router_dropped_cannot_be_acknowledged():
    c = Conversation()
    found = []
    for _ in range(3):
        c.lan.forwarder.emulate(c.d.port, output={"loss": 1.0})
        c.data()
        c.lan.forwarder.emulate(c.d.port, output={"loss": 0.0})
        c.data()
        assert found == []
        c.acknowledge(c.seq)
        found += c.found()
    assert found == [("optimistic_ack", D)]


def test_d10_what_was_dropped_and_sent_again_can_be():
    c = Conversation()
    for _ in range(6):
        c.lan.forwarder.emulate(c.d.port, output={"loss": 1.0})
        c.data()
        c.lan.forwarder.emulate(c.d.port, output={"loss": 0.0})
        c.data()
        c.from_a("A", c.seq - 2 * MSS, c.ack, bytes(MSS))
        c.acknowledge(c.seq)
    assert c.found() == []


def behind_options(packet):
    """The same segment behind a header of IPv6 with options for the destination."""
    packet = bytearray(packet)
    packet[40:40] = bytes([packet[6], 0, 1, 4, 0, 0, 0, 0])
    packet[6] = 60
    packet[4:6] = (len(packet) - 40).to_bytes(2, "big")
    return packet


@pytest.mark.parametrize("damaged", [False, True])
def test_d10_headers_of_ipv6_hide_no_acknowledgement(damaged):
    c = Conversation(names=(A6, D6))
    c.data(2)
    for n in range(1, 5):
        packet = behind_options(c.segment(c.names[::-1], (7, c.port), "A", c.ack, c.seq + n * MSS))
        packet[-1] ^= damaged
        c.d.send(packet)
        c.lan.at(0)
    assert c.found() == ([] if damaged else [("optimistic_ack", D6)])


@pytest.mark.parametrize("what", ["damaged", "no handshake", "reset", "older"])
def test_d10_what_proves_nothing_is_not_held_against_anybody(what):
    c = Conversation(open=what != "no handshake")
    c.data(2)
    for n in range(1, 9):
        number = c.seq + (9 - n if what == "older" else n) * MSS
        if what == "older" and n > 2:
            number = c.seq + MSS
        packet = bytearray(c.segment(c.names[::-1], (7, c.port), "R" if what == "reset" else "A", c.ack, number))
        if what == "damaged":
            packet[-1] ^= 1
        c.d.send(packet)
        c.lan.at(0)
    assert c.found() == []


def test_d10_nobody_can_make_another_look_guilty_by_opening_anew():
    """The sender leaves holes, opens again below what the receiver has, and closes them, so that numbers jump."""
    c = Conversation()
    c.data()
    start = c.seq
    for n in range(1, 12, 2):                                # every second segment is missing
        c.from_a("A", start + n * MSS, c.ack, bytes(MSS))
    c.from_a("S", start - 101, 0, mss=MSS, window_scale=0)
    c.acknowledge(start)                                     # a challenge
    c.from_a("A", start - 100, c.ack, bytes(100))
    c.acknowledge(start)
    for n in range(0, 12, 2):
        c.from_a("A", start + n * MSS, c.ack, bytes(MSS))
        c.acknowledge(start + (n + 2) * MSS)
    assert c.found() == []


# --- D11: division of acknowledgements ---


def test_d11_more_acknowledgements_than_segments_are_found_at_the_sixteenth(names):
    c = Conversation(names=names)
    c.data()
    first = c.seq - MSS
    for n in range(1, 17):
        c.acknowledge(first + n)
    assert c.found() == []
    c.acknowledge(first + 17)
    assert c.found() == [("ack_division", names[1])]
    assert c.d.counters["greedy_ack_division"] == 1


def test_d11_an_acknowledgement_for_each_segment_is_not_too_often():
    c = Conversation()
    for _ in range(200):
        c.data(size=1)
        c.acknowledge(c.seq)
    c.data(40)
    for n in range(39, -1, -1):
        c.acknowledge(c.seq - n * MSS)
    assert c.found() == []


def test_d11_acknowledgements_saved_up_long_ago_do_not_count():
    c = Conversation()
    for _ in range(200):                                     # one for two segments
        c.data(2)
        c.acknowledge(c.seq)
    c.data()
    for n in range(17, 0, -1):
        c.acknowledge(c.seq - n)
    assert ("ack_division", D) in c.found()


# --- window overrun ---


@pytest.mark.parametrize("shift", [0, 7])
def test_data_beyond_the_window_is_found_at_the_eighth_segment(shift, names):
    c = Conversation(names=names, shift=shift, window=40)
    c.acknowledge(c.seq)                                     # of the handshake's end: 40 << shift from there
    room = 40 << shift
    c.data(room // MSS)
    if room % MSS:
        c.data(size=room % MSS)
    assert c.seq - c.isn[0] - 1 == room
    c.from_a("A", c.seq, c.ack, b"p")                        # a probe
    assert c.found() == []
    for _ in range(8):
        assert c.found() == []
        c.data()
    assert c.found() == [("window_overrun", names[0])]
    assert c.a.counters["greedy_window_overrun"] == 1


@pytest.mark.parametrize("split", [40, 41, 128, 500, 513])
@pytest.mark.parametrize("damaged", [False, True])
def test_the_form_of_a_record_hides_no_overrun(split, damaged):
    c = Conversation(window=100)
    for _ in range(8):
        packet = bytearray(c.segment(c.names, (c.port, 7), "A", c.seq + 5000, c.ack, bytes(range(256)) * 5))
        packet[-1] ^= damaged
        c.a.send(packet, split=split)
        c.lan.at(0)
    assert c.found() == ([] if damaged else [("window_overrun", A)])


def test_headers_of_ipv6_hide_no_overrun():
    c = Conversation(names=(A6, D6), window=100)
    for _ in range(8):
        c.a.send(behind_options(c.segment(c.names, (c.port, 7), "A", c.seq + 5000, c.ack, bytes(1280))))
        c.lan.at(0)
    assert c.found() == [("window_overrun", A6)]


def test_a_window_that_shrinks_takes_nothing_back():
    c = Conversation(window=40_000)
    c.acknowledge(c.seq)
    c.acknowledge(c.seq, window=0)
    c.data(27)
    for _ in range(20):
        c.from_a("A", c.seq, c.ack, b"p")
    assert c.found() == []


@pytest.mark.parametrize("what", ["second scale", "two scales", "multipath"])
def test_a_window_that_can_be_read_in_two_ways_is_not_judged(what):
    c = Conversation(open=False, shift=0, window=10)
    options = {"second scale": b"", "two scales": b"\x03\x03\x07", "multipath": b"\x1e\x04\x01\x02"}[what]
    c.from_a("S", c.isn[0], 0, mss=MSS, window_scale=7)
    c.from_d("SA", c.isn[1], c.seq, mss=MSS, window_scale=0, options=options)
    if what == "second scale":
        c.from_d("SA", c.isn[1], c.seq, mss=MSS, window_scale=7)
    c.acknowledge(c.seq)
    c.data(40)
    assert c.found() == []


# --- back-off ---


def lossy(episodes, *, rate, lost=2, size=40, before=None, **options):
    """`episodes` times so many segments of which every `lost`-th is dropped, repeated, and all are acknowledged."""
    c = Conversation(window=65535, shift=14, **options)
    c.acknowledge(c.seq)
    if before is not None:
        before(c)
    time = 0
    for n in range(episodes):
        many = rate(n) if callable(rate) else size
        begin = c.seq
        time += 20
        for i in range(many):
            drop = lost and i % lost == 0
            c.lan.forwarder.emulate(c.d.port, output={"loss": 1.0 if drop else 0.0})
            c.a.send(c.segment(c.names, (c.port, 7), "A", c.seq, c.ack, bytes(MSS)))
            c.lan.at(time)
            c.seq += MSS
        c.lan.forwarder.emulate(c.d.port, output={"loss": 0.0})
        time += 20
        for i in range(0, many, lost or many):
            c.a.send(c.segment(c.names, (c.port, 7), "A", begin + i * MSS, c.ack, bytes(MSS)))
            c.lan.at(time)
        c.d.send(c.segment(c.names[::-1], (7, c.port), "A", c.ack, c.seq))
        c.lan.at(time)
        c.heard()
        while take(c.d.channel) is not None:
            pass
    return c


def test_a_sender_that_goes_on_after_32_losses_is_found():
    assert lossy(31, rate=None).found() == []
    c = lossy(32, rate=None)
    assert c.found() == [("no_back_off", A)]
    assert c.a.counters["greedy_no_back_off"] == 1


def test_a_segment_is_no_larger_than_the_senders_link_whatever_the_other_end_could_take():
    assert lossy(32, rate=None, mss=65495).found() == [("no_back_off", A)]


@pytest.mark.parametrize("acknowledged", ["before", "later"])
def test_a_repetition_that_is_dropped_for_nothing_does_not_end_the_watching(acknowledged):
    def repeat(c):
        c.data()
        if acknowledged == "before":
            c.acknowledge(c.seq)
        c.lan.forwarder.emulate(c.d.port, output={"loss": 1.0})
        c.from_a("A", c.seq - MSS, c.ack, bytes(MSS))
        c.lan.forwarder.emulate(c.d.port, output={"loss": 0.0})
        if acknowledged == "later":
            c.acknowledge(c.seq)

    assert lossy(32, rate=None, before=repeat).found() == [("no_back_off", A)]


def test_one_that_loses_less_is_not():
    assert lossy(70, rate=None, lost=10).found() == []


def test_one_that_sends_less_each_time_is_not():
    assert lossy(32, rate=lambda n: int(200 * 0.93**n)).found() == []


def test_whose_window_is_small_has_nothing_to_reduce():
    assert lossy(70, rate=None, size=8).found() == []


def test_the_fixed_window_of_the_bench_is_found():
    parties = [fairness.Stream("10.77.0.2", 2), fairness.GreedyTcp("10.77.0.5", 5)]
    shared = fairness.Bottleneck(parties)
    shared.run(3)
    found = shared.forwarder.findings()
    assert {f.culprit[0] for f in found} == {"10.77.0.5"}, "it does not care for windows either"
    when = {f.misdeed: f.when_ns - 10**9 for f in found}
    assert when["no_back_off"] < 100 * 2 * fairness.DELAY_NS


# --- the table ---


def test_who_opens_many_connections_pushes_out_his_own():
    c = Conversation()
    c.data()
    b = c.lan.stack(B, capacity=1 << 22)
    for n in range(20_000):
        b.send(build_tcp(B, D, 1024 + n % 60000, 9, "S", seq=n))
        if n % 200 == 0:
            c.lan.at(0)
            c.d.received()
    c.lan.at(0)
    for n in range(1, 4):
        c.acknowledge(c.seq + n * MSS)
    assert c.found() == [("optimistic_ack", D)], "the flood is another's"


def test_an_address_that_moved_begins_anew():
    c = Conversation()
    c.data(2)
    other = c.lan.stack(C)
    c.lan.forwarder.bind(other.port, pack_address(D), 2)
    for n in range(1, 6):
        other.send(c.segment(c.names[::-1], (7, c.port), "A", c.ack, c.seq + n * MSS))
        c.lan.at(0)
    assert c.found() == []


def test_pieces_leave_nothing_to_judge():
    c = Conversation()
    packet = bytearray(c.segment(c.names, (c.port, 7), "A", c.seq, c.ack, bytes(64)))
    packet[6] |= 0x20                                        # the first of several
    packet[10:12] = b"\0\0"
    packet[10:12] = checksum(bytes(packet[:20])).to_bytes(2, "big")
    c.a.send(packet)
    c.lan.at(0)
    for n in range(1, 6):
        c.acknowledge(c.seq + n * MSS)
    assert c.found() == []


def test_nobody_is_watched_when_told_so():
    c = Conversation(policy="off")
    c.data(2)
    for n in range(1, 6):
        c.acknowledge(c.seq + n * MSS)
    assert c.found() == [] and c.lan.forwarder.greedy == "off"
    c.lan.forwarder.set_greedy("count")
    for n in range(6, 12):
        c.acknowledge(c.seq + n * MSS)
    assert c.found() == [], "its beginning was not seen"
    later = Conversation(lan=c.lan, port=40001)
    later.data(2)
    for n in range(1, 4):
        later.acknowledge(later.seq + n * MSS)
    assert later.found() == [("optimistic_ack", D)]


def test_policies_have_names():
    for policy in POLICIES:
        assert Forwarder(greedy=policy).greedy == policy
    with pytest.raises(ValueError, match="off, count, mark"):
        Forwarder(greedy="shame")
    assert {f"greedy_{name}" for name in MISDEEDS} <= set(Forwarder().counters())


# --- what is done about it ---


def divided(policy, **options):
    """A conversation in which D divided its acknowledgements."""
    c = Conversation(policy=policy, **options)
    c.acknowledge(c.seq)
    c.data(2)
    for n in range(40, 0, -1):
        c.acknowledge(c.seq - n)
    assert c.found() == [("ack_division", c.names[1])]
    c.acknowledge(c.seq)
    c.told = edge_of(c.heard()[-1], c)
    while take(c.d.channel) is not None:
        pass
    return c


def read(raw):
    return IPv6(raw) if raw[0] >> 4 == 6 else IP(raw)


def edge_of(raw, c):
    """The right edge of the window that a segment of D offers, as a number like those of `c`, which do not wrap."""
    tcp = read(raw)[TCP]
    return c.seq - ((c.seq - tcp.ack) & 0xffffffff) + (tcp.window << c.shift)


def is_right(raw):
    """Does scapy make the same checksums of it?"""
    packet = read(raw)
    del packet[TCP].chksum
    if IP in packet:
        del packet[IP].chksum
    return bytes(packet) == raw


def test_counting_changes_nothing():
    c = divided("count")
    sent = c.acknowledge(c.seq)
    c.data(20)
    heard = c.heard()[0]
    assert heard[20:] == sent[20:] and "policed" not in c.a.counters and "drops" not in c.a.drops()
    assert len(c.d.received()) == 20


@pytest.mark.parametrize("shift", [0, 3, 14])
@pytest.mark.parametrize("window", [65535, 1000])
def test_clamping_makes_windows_small_and_never_takes_one_back(shift, window, names):
    c = divided("clamp", shift=shift, window=window, names=names)
    edge = c.told
    for _ in range(80):
        if c.seq + MSS > edge:
            break
        c.data()
        c.acknowledge(c.seq)
        raw = c.heard()[-1]
        assert is_right(raw)
        told = edge_of(raw, c)
        least = max(edge, c.seq + 8 * MSS)
        assert edge <= told <= max(edge, min(c.seq + (window << shift), least + (1 << shift) - 1))
        edge = told
        c.d.received()
    if (8 * MSS + (1 << shift)) < window << shift < 80 * MSS:
        assert edge - c.seq < 8 * MSS + (1 << shift) and c.d.counters["policed"] > 10
    assert c.found() == []


def test_a_signed_segment_is_not_touched():
    c = Conversation(policy="clamp", open=False)
    signature = b"\x13\x12" + bytes(16)
    c.from_a("S", c.isn[0], 0, mss=MSS, options=signature)
    c.from_d("SA", c.isn[1], c.seq, mss=MSS, options=signature)
    c.from_a("A", c.seq, c.ack, options=signature)
    c.data(2)
    for n in range(40, 0, -1):
        c.acknowledge(c.seq - n)
    assert c.found() == [("ack_division", D)]
    for _ in range(60):
        c.data()
        c.acknowledge(c.seq)
        assert read(c.heard()[-1])[TCP].window == 65535
        c.d.received()


def test_marking_marks_who_knows_ecn_and_drops_one_in_eight_of_the_others():
    c = divided("mark")
    for _ in range(16):
        c.from_a("A", c.seq, c.ack, bytes(MSS), tos=2)
        c.seq += MSS
    got = c.d.received()
    assert len(got) == 16 and all(p.tos & 3 == 3 and is_right(bytes(p)) for p in got)
    assert "policed" not in c.a.drops() and c.a.counters["policed"] == 16
    for _ in range(16):
        c.data()
    assert len(c.d.received()) == 14 and c.a.counters["drop_in_policed"] == 2
    other = Conversation(lan=c.lan, port=40001)
    other.data(16)
    assert c.a.counters["drop_in_policed"] == 2, "its other connections are left alone"


def test_a_penalty_is_an_eighth_of_a_share():
    c = divided("penalty")
    b = c.lan.stack(B, capacity=1 << 20)
    c.lan.forwarder.emulate(c.d.port, output={"rate": "10mbit", "queue": 400})
    c.data(44)
    for _ in range(150):
        b.send(IP(src=B, dst=D) / UDP(sport=1, dport=2) / Raw(bytes(MSS + 12)))
    c.lan.at(0)
    got = {A: 0, B: 0}
    for ms in range(1, 100):
        c.lan.at(ms)
        for p in c.d.received():
            got[p.src] += 1
    assert got[A] + got[B] >= 80
    assert 0.09 <= got[A] / got[B] <= 0.17, got


def test_a_penalty_asks_for_fair_queues():
    with pytest.raises(ValueError, match="fair"):
        Forwarder(greedy="penalty", fair=False)


def test_who_does_what_no_mistake_explains_is_detached():
    c = Conversation(policy="detach")
    c.data(2)
    for n in range(1, 4):
        c.acknowledge(c.seq + n * MSS)
    assert c.found() == [("optimistic_ack", D)]
    assert c.lan.forwarder.failed() == [(c.d.port, "greedy")]
    assert c.d.counters["drop_in_policed"] == 1


def test_what_a_mistake_may_explain_is_counted_then():
    c = divided("detach")
    assert c.lan.forwarder.failed() == []
    c.lan.forwarder.findings()
    assert c.lan.forwarder.failed() == []


def test_i2_held_down_a_fixed_window_leaves_others_more_without_fair_queues():
    before = fairness.measure("fixed window", 10, fair=False)
    after = fairness.measure("fixed window", 10, fair=False, greedy="clamp")
    assert before["found"] and not before["found of honest"] and not after["found of honest"]
    assert after["greedy"] < before["greedy"], (before, after)
    assert after["jain"] > before["jain"] and after["least honest"] > before["least honest"], (before, after)


def test_i2_a_penalty_leaves_others_more_than_their_part():
    parts = fairness.measure("fixed window", 2, greedy="penalty")
    assert parts["greedy"] < 0.5 and parts["least honest"] > 1.05, parts
