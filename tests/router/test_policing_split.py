"""Headers that do not all stand in a record's head: no misdeed is missed, nobody is taken for guilty, nobody goes free.

A record's head has the headers, or nothing (docs/attach_protocol.md). The router forwards what a stack lays otherwise,
and judges it by the one private copy that it hands on.
"""

import functools

import pytest

from netstack.testing.packets import build_tcp
from tests.router.lan import Timed
from tests.router.test_policing import A6, D6, MSS, A, Conversation, D, edge_of, is_right

TCP_BYTES = 60                                               # of each header here: as much as there may be
ENDS = range(TCP_BYTES + 1)                                  # of heads: bytes behind the beginning of TCP's header
ROUNDS, MANY = 32, 20                                        # with losses; segments in each
PADDING = b"\x01"                                            # an option of TCP

NAMES = pytest.mark.parametrize("names", [(A, D), (D6, A6)], ids=["ipv4", "ipv6"])


class Laid(Conversation):
    """Whose packets have heads that end `end` bytes into their TCP headers."""

    def __init__(self, end, *, names=(A, D), policy="count", slow=False, **options):
        lan = Timed("10.77.0.0/16", "fd77::/64", router=("10.77.0.1", "fd77::1"), greedy=policy)
        lan.parties = [lan.stack(name, mtu=1500, capacity=1 << 19) for name in names]
        for party in lan.parties:
            party.send = functools.partial(party.send, split=(40 if ":" in names[0] else 20) + end)
            if slow:
                lan.forwarder.emulate(party.port, input={"delay": 0})
        super().__init__(lan=lan, names=names, **options)

    def segment(self, ends, ports, flags, seq, ack, payload=b"", **options):
        room = TCP_BYTES - 20 - 4 * ("mss" in options) - 3 * ("window_scale" in options)
        options.setdefault("options", PADDING * room)
        return super().segment(ends, ports, flags, seq, ack, payload, **options)

    def drained(self):
        """What reached D: head and body of each record."""
        out = []
        while (record := self.d.channel.rx.peek_record()) is not None:
            out.append((bytes(record[1]), bytes(record[2])))
            del record
            self.d.channel.release()
        return out


def found(misbehave, **options):
    """What was found of whom, by where heads end."""
    out = {}
    for end in ENDS:
        c = Laid(end, **options)
        misbehave(c)
        out[end] = c.found()
    return out


def everywhere(*findings):
    return dict.fromkeys(ENDS, list(findings))


# --- the four misdeeds ---


def acknowledge_early(c):
    c.data(2)
    for n in range(1, 4):
        c.acknowledge(c.seq + n * MSS)


def divide(c):
    c.data()
    for n in range(1, 18):
        c.acknowledge(c.seq - MSS + n)


def overrun(c):
    for _ in range(8):
        c.from_a("A", c.seq + 5000, c.ack, bytes(MSS))


def go_on(c):
    """Half of what is sent is dropped, and sent again, round by round."""
    for _ in range(ROUNDS):
        sent = [c.segment(c.names, (c.port, 7), "A", c.seq + n * MSS, c.ack, bytes(MSS)) for n in range(MANY)]
        c.seq += MANY * MSS
        c.lan.forwarder.emulate(c.d.port, output={"loss": 1.0})
        c.a.send(*sent[:MANY // 2])
        c.lan.at(0)
        c.lan.forwarder.emulate(c.d.port, output={"loss": 0.0})
        c.a.send(*sent)
        c.lan.at(0)
        c.drained()
        c.acknowledge(c.seq)
        c.heard()


@NAMES
def test_d10_no_head_hides_an_acknowledgement_of_what_was_not_handed_over(names):
    assert found(acknowledge_early, names=names) == everywhere(("optimistic_ack", names[1]))


@NAMES
def test_d11_no_head_hides_acknowledgements_that_are_too_many(names):
    assert found(divide, names=names) == everywhere(("ack_division", names[1]))


@NAMES
def test_i2_no_head_hides_data_beyond_the_window(names):
    assert found(overrun, names=names, window=100) == everywhere(("window_overrun", names[0]))


def test_i2_no_head_hides_who_goes_on_after_losses():
    assert found(go_on, shift=14) == everywhere(("no_back_off", A))


# --- who does nothing of it ---


def converse(c):
    """As the honest do: both send, some is lost and sent again, each segment is answered once."""
    sent = []
    for n in range(12):
        sent.append(c.from_a("A", c.seq, c.ack, bytes([n]) * MSS))
        c.seq += MSS
        c.acknowledge(c.seq)
    c.lan.forwarder.emulate(c.d.port, output={"loss": 1.0})
    c.from_a("A", c.seq, c.ack, bytes(MSS))
    c.lan.forwarder.emulate(c.d.port, output={"loss": 0.0})
    sent.append(c.from_a("A", c.seq, c.ack, bytes(MSS)))
    c.seq += MSS
    c.acknowledge(c.seq)
    for n in range(12):
        c.from_d("A", c.ack, c.seq, bytes([n]) * MSS)
        c.ack += MSS
        sent.append(c.from_a("A", c.seq, c.ack))
    return sent


@pytest.mark.parametrize("slow", [False, True], ids=["", "emulated links"])
@NAMES
def test_d10_the_honest_may_lay_their_headers_as_they_like(names, slow):
    """Also where segments come over an emulated link, so that all of each is private: what was handed on was seen."""
    assert found(converse, names=names, slow=slow) == everywhere()


@NAMES
def test_what_was_laid_in_two_arrives_whole_with_its_headers_in_the_head(names):
    ip = 40 if ":" in names[0] else 20
    for end in ENDS:
        c = Laid(end, names=names)
        c.drained()
        sent = converse(c)
        got, hops = c.drained(), sent[0][7 if ip == 40 else 8]
        c.lan.check()
        assert [len(head) for head, _ in got] == [ip + TCP_BYTES] * len(sent)
        assert [(head + body)[ip:] for head, body in got] == [packet[ip:] for packet in sent]
        assert all(is_right(head + body) for head, body in got)
        assert {head[7 if ip == 40 else 8] for head, _ in got} == {hops - 1}, "each crossed a router"


# --- what is done about it ---


@pytest.mark.parametrize("end", [0, 3, 4, 14, 15, 16, 17, 19, 20, 59])
def test_d11_a_window_that_lies_in_the_body_is_clamped_in_a_copy(end):
    """Where the stack has laid it nothing changes: that could be changed back."""
    c = Laid(end, policy="clamp")
    divide(c)
    assert c.found() == [("ack_division", D)]
    told = edge_of(c.heard()[-1], c)
    memory = c.d.channel._regions[1].mapping
    before, clamped = c.d.counters.get("policed", 0), 0
    for _ in range(60):
        c.data()
        c.drained()
        laid = c.acknowledge(c.seq)
        [heard] = c.heard()
        assert is_right(heard) and laid[:20 + end] in bytes(memory) and laid[20 + end:] in bytes(memory)
        assert edge_of(heard, c) <= max(told, c.seq + 8 * MSS)
        clamped += edge_of(heard, c) < edge_of(laid, c)
        told = edge_of(heard, c)
    assert clamped == c.d.counters["policed"] - before > 20


@pytest.mark.parametrize("end", [0, 3, 15, 20, 59])
def test_data_whose_header_lies_in_the_body_is_marked(end):
    c = Laid(end, policy="mark")
    divide(c)
    c.drained()
    for _ in range(4):
        c.from_a("A", c.seq, c.ack, bytes(MSS), tos=2)
        c.seq += MSS
    assert [head[1] & 3 for head, _ in c.drained()] == [3] * 4 and c.a.counters["policed"] == 4


# --- headers of IPv6 ---


def behind(packet, *lengths):
    """The same segment behind headers of IPv6 of so many bytes, with options for the destination that are padding."""
    headers = [bytes([60, (n - 8) // 8]) + bytes(n - 2) for n in lengths]
    headers[-1] = packet[6:7] + headers[-1][1:]
    out = bytearray(packet[:40] + b"".join(headers) + packet[40:])
    out[6] = 60
    out[4:6] = (len(out) - 40).to_bytes(2, "big")
    return out


@pytest.mark.parametrize("slow", [False, True], ids=["", "emulated links"])
@pytest.mark.parametrize("lengths", [(8,), (128,), (256,), (64,) * 8, (1200,)])
def test_d10_long_headers_of_ipv6_hide_no_acknowledgement(lengths, slow):
    for end in 0, 20, TCP_BYTES:
        c = Laid(end, names=(A6, D6), slow=slow)
        for _ in range(8):
            c.a.send(behind(c.segment(c.names, (c.port, 7), "A", c.seq, c.ack, bytes(100)), *lengths))
            c.lan.at(0)
            c.seq += 100
            c.acknowledge(c.seq)
        assert c.found() == [], "it has got them"
        for n in range(1, 4):
            c.d.send(behind(c.segment(c.names[::-1], (7, c.port), "A", c.ack, c.seq + n * MSS), *lengths))
            c.lan.at(0)
        assert c.found() == [("optimistic_ack", D6)]


@pytest.mark.parametrize("what", ["nine headers", "headers that do not end", "no ports", "half a header"])
def test_d10_what_cannot_be_read_passes_nobody_and_frees_nobody(what):
    """Else an accomplice's packet would keep from judging who gets it."""
    c = Laid(TCP_BYTES, names=(A6, D6))
    accomplice = c.lan.stack("fd77::3")
    whole = build_tcp("fd77::3", D6, 1, 2)
    packet = behind(whole, *[8] * 9) if what == "nine headers" else behind(whole, 8)
    if what == "headers that do not end":
        packet[41] = 100
    elif what != "nine headers":
        del packet[48 + (3 if what == "no ports" else 19):]
        packet[4:6] = (len(packet) - 40).to_bytes(2, "big")
    c.drained()
    for split in 40, len(packet):
        accomplice.send(packet, split=split)
    c.lan.at(0)
    assert c.drained() == [] and accomplice.drops() == {"in_policed": 2}
    acknowledge_early(c)
    assert c.found() == [("optimistic_ack", D6)]


def test_i2_who_lays_headers_in_two_pays_for_the_copy():
    work = []
    for end in TCP_BYTES, TCP_BYTES - 1:
        c = Laid(end)
        before = c.a.counters["work"]
        c.data(4)
        work.append(c.a.counters["work"] - before)
    assert work[1] == work[0] + 4 * (20 + TCP_BYTES + MSS)
