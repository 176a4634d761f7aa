"""The state checker catches what is planted in true traces, and is silent on the traces themselves."""

import pytest

from netstack.testing import Pair, ProtocolViolation, ScriptedPeer, Segment, SimulationError, StateChecker, watched

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
MASK = 0xFFFFFFFF


@pytest.fixture(scope="module")
def traces():
    """What both ends of a bad wire saw: `Segment` lists of a and b."""
    pair = Pair(seed=4, log=True, loss=0.08, duplicate=0.05, reorder=0.2, delay="10ms", jitter="2ms")
    pair.transfer(120_000, 90_000)
    pair.run("300s")
    return [[Segment(*s) for s in host.log.segments()] for host in (pair.a, pair.b)]


def rules(segments):
    judge = StateChecker()
    judge.read(segments)
    return {v.rule for v in judge.violations}


def test_true_traces_are_silent_and_both_ends_are_closed(traces):
    for trace in traces:
        judge = StateChecker()
        judge.read(trace)
        assert judge.violations == [] and judge.segments == len(trace) > 150
        assert [c.state for c in judge.connections.values()][0] in ("TIME_WAIT", "CLOSED")


def test_states_follow_the_segments(traces):
    seen = []
    judge = StateChecker()
    for segment in traces[0]:
        judge.read((segment,))
        (state,) = {c.state for c in judge.connections.values()}
        if not seen or seen[-1] != state:
            seen.append(state)
    assert seen[:3] == ["SYN_SENT", "ESTABLISHED", seen[2]]
    assert seen[2] in ("FIN_WAIT_1", "CLOSE_WAIT") and seen[-1] in ("TIME_WAIT", "CLOSED")


def test_a_fin_with_the_number_of_the_syn_ends_nothing(traces):
    """It may come late from an older connection; the stack does not count it, so neither may the judge."""
    trace = list(traces[0])
    at = next(i for i, s in enumerate(trace) if not s.out and s.flags & ACK and not s.flags & SYN)
    syn = next(s for s in trace if not s.out and s.flags & SYN)
    trace.insert(at, trace[at]._replace(seq=syn.seq, flags=FIN | ACK, payload=b""))
    assert rules(trace) == set()


def data_sent(trace):
    return [i for i, s in enumerate(trace) if s.out and s.payload]


def acks_sent(trace):
    return [i for i, s in enumerate(trace) if s.out and not s.payload and s.flags == ACK]


def sent_again(trace):
    """The first segment whose bytes had been sent before."""
    nxt = None
    for i in data_sent(trace):
        if nxt is not None and (trace[i].seq - nxt) & MASK >= 1 << 31:
            return i
        nxt = (trace[i].seq + len(trace[i].payload)) & MASK
    raise AssertionError("nothing was sent again")


def with_sack(trace):
    return next(i for i, s in enumerate(trace) if s.out and s.sack)


def fin_sent(trace):
    return next(i for i, s in enumerate(trace) if s.out and s.flags & FIN)


def at_fin(trace, shift, **fields):
    """The segment with the FIN once more, behind itself, with other fields."""
    i = fin_sent(trace)
    fin = trace[i]
    return insert(trace, i + 1, fin._replace(seq=fin.seq + shift(len(fin.payload)) & MASK, **fields))


def blocks(trace, changed):
    i = with_sack(trace)
    return change(trace, i, sack=tuple(changed(a, b) for a, b in trace[i].sack))


def first_data_of_the_peer(trace):
    return next(i for i, s in enumerate(trace) if not s.out and s.payload and (s.seq - trace[1].seq) & MASK == 1)


def change(trace, i, **fields):
    return [*trace[:i], trace[i]._replace(**fields), *trace[i + 1:]]


def insert(trace, i, segment):
    return [*trace[:i], segment, *trace[i:]]


def late(trace, i, by):
    return [*trace[:i], *(s._replace(t_ns=s.t_ns + by) for s in trace[i:])]


PLANTED = {
    "a retransmission with another byte": (
        "other bytes", lambda t: change(t, sent_again(t), payload=b"\0" + t[sent_again(t)].payload[1:])),
    "a segment that leaves a gap": (
        "gap", lambda t: change(t, data_sent(t)[3], seq=t[data_sent(t)[3]].seq + 5000 & MASK)),
    "data beyond the window": (
        "window", lambda t: [s if s.out or s.flags & SYN else s._replace(window=10) for s in t]),
    "an acknowledgement of what never came": (
        "ack", lambda t: change(t, acks_sent(t)[5], ack=t[acks_sent(t)[5]].ack + 200_000 & MASK)),
    "an acknowledgement that goes back": (
        "ack", lambda t: change(t, acks_sent(t)[-2], ack=t[acks_sent(t)[5]].ack)),
    "an acknowledgement with a wrong sequence number": (
        "sequence", lambda t: change(t, acks_sent(t)[9], seq=t[acks_sent(t)[9]].seq + 1 & MASK)),
    "a window taken back": (
        "shrinks", lambda t: change(t, acks_sent(t)[9], window=1)),
    "a FIN at another place": (
        "fin", lambda t: at_fin(t, lambda n: -1, payload=b"")),
    "data behind the FIN": (
        "after fin", lambda t: at_fin(t, lambda n: n, flags=ACK, payload=b"more")),
    "a SACK block of what never came": (
        "sack", lambda t: blocks(t, lambda a, b: (a, b + 100_000 & MASK))),
    "a SACK block the wrong way round": (
        "sack", lambda t: blocks(t, lambda a, b: (b, a))),
    "SACK that was not agreed": (
        "sack", lambda t: [s._replace(sack_ok=False) for s in t]),
    "a timestamp that goes back": (
        "timestamps", lambda t: change(t, data_sent(t)[9], tsval=t[data_sent(t)[9]].tsval - 5 & MASK)),
    "an echo of a timestamp never heard": (
        "timestamps", lambda t: change(t, data_sent(t)[9], tsecr=t[data_sent(t)[9]].tsecr + 77 & MASK)),
    "a segment without its timestamp": (
        "timestamps", lambda t: change(t, data_sent(t)[9], tsval=-1)),
    "timestamps that were not agreed": (
        "timestamps", lambda t: [s._replace(tsval=-1) if s.flags & SYN else s for s in t]),
    "another initial sequence number": (
        "isn", lambda t: insert(t, 1, t[0]._replace(seq=t[0].seq + 1 & MASK))),
    "a SYN after the handshake": (
        "syn", lambda t: insert(t, 20, t[0])),
    "a segment without ACK": (
        "ack flag", lambda t: change(t, data_sent(t)[2], flags=PSH)),
    "SYN and FIN at once": (
        "flags", lambda t: change(t, 0, flags=SYN | FIN)),
    "a payload larger than the peer takes": (
        "mss", lambda t: [s._replace(mss=536) if not s.out and s.flags & SYN else s for s in t]),
    "a wrong checksum": (
        "checksum", lambda t: change(t, 5, sound=False)),
    "a reset for no reason": (
        "reset", lambda t: insert(t, 0, t[0]._replace(flags=RST | ACK, seq=99, ack=99))),
    "a reset that is not believed": (
        "reset", lambda t: insert(t, 30, t[data_sent(t)[-1]]._replace(
            payload=b"", flags=RST | ACK, seq=t[data_sent(t)[-1]].seq + 99_999 & MASK, ack=t[acks_sent(t)[0]].ack))),
    "data after a reset of our own": (
        "closed", lambda t: insert(t, data_sent(t)[4], t[data_sent(t)[4]]._replace(payload=b"", flags=RST | ACK))),
    "data before the handshake": (
        "handshake", lambda t: insert(t, 1, t[data_sent(t)[0]])),
    "an answer to no SYN": (
        "handshake", lambda t: [t[0]._replace(flags=SYN | ACK)]),
    "an acknowledgement that comes too late": (
        "delay", lambda t: late(t, next(
            i for i, s in enumerate(t) if i > first_data_of_the_peer(t) and s.out), 600_000_000)),
    "acknowledged data sent again": (
        "acknowledged", lambda t: insert(t, len(t) // 2, t[data_sent(t)[0]])),
    "too much before the first acknowledgement": (
        "initial window", lambda t: [s for s in t if s.out or s.flags & SYN]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_caught(traces, name):
    rule, plant = PLANTED[name]
    assert rule in rules(plant(traces[0])), "no complaint"


def test_both_readers_of_packets_say_the_same(traces):
    from netstack.testing.state_checker import segment_of

    pair = Pair(seed=4, log=True, loss=0.08, corrupt=0.05, reorder=0.2, delay="10ms", media="ethernet")
    pair.transfer(50_000, 50_000)
    for host in (pair.a, pair.b):
        fast = [Segment(*s)._replace(connection=b"") for s in host.log.segments()]
        slow = [segment_of(p) for p in host.packets()]
        assert fast == [s._replace(connection=b"", flags=s.flags & 0x3F) for s in slow if s is not None]


@pytest.mark.unwatched
def test_a_watch_judges_networks_and_scripted_peers_at_its_end():
    from netstack.stack import Stack

    with watched() as watch:
        Pair(seed=1, loss=0.05).transfer(100_000)
        with pytest.raises(SimulationError):
            Pair(seed=1, loss=1.0).transfer(1000, limit="1s")
        stack = Stack(addresses="10.0.0.1", seed=1)
        peer = ScriptedPeer(stack)
        stack.socket().connect_ex(("10.0.0.2", 9))
        peer.collect()
    assert watch.segments > 100 and watch.complaints == []


@pytest.mark.unwatched
def test_a_watch_raises_what_it_found():
    from netstack.testing import watching

    with pytest.raises(ProtocolViolation, match="answers a SYN that never came"), watched():
        judge = watching.current().judge("somebody")
        judge.read([Segment(0, True, b"x", SYN | ACK, 1, 2, 3, b"")])


# --- congestion notification ------------------------------------------------------------------------------------------

ECE, CWR, AE = 0x40, 0x80, 0x100


@pytest.fixture(scope="module", params=[1, 3], ids=["classic", "accurate"])
def marked(request):
    """`Segment` lists of a and b over a wire that marks, with ECN of either kind."""
    pair = Pair(seed=6, log=True, sysctl={"net.ipv4.tcp_ecn": request.param}, delay="5ms",
                a_to_b={"rate": "20mbit", "mark": 10}, b_to_a={"rate": "20mbit", "mark": 10})
    pair.transfer(300_000, 300_000)
    return request.param, [[Segment(*s) for s in host.log.segments()] for host in (pair.a, pair.b)]


def test_marked_traces_are_silent(marked):
    _, both = marked
    for trace in both:
        assert rules(trace) == set()
        assert any(s.out and s.flags & (ECE | CWR) and s.payload for s in trace)
        assert any(not s.out and s.tos & 3 == 3 for s in trace)


def without_agreement(trace):
    return [s._replace(flags=s.flags & ~(ECE | CWR | AE)) if s.flags & SYN else s for s in trace]


def without_marks(trace):
    return [s if s.out else s._replace(tos=s.tos & ~3) for s in trace]


def without_news(trace):
    return [s if s.out or s.flags & SYN else s._replace(flags=s.flags & ~ECE) for s in trace]


def test_ecn_that_was_not_agreed_is_caught(marked):
    for trace in marked[1]:
        assert rules(without_agreement(trace)) == {"ecn"}


def test_feedback_without_marks_is_caught(marked):
    for trace in marked[1]:
        assert rules(without_marks(trace)) == {"ecn"}


def test_classic_rules_are_caught(marked):
    kind, both = marked
    for trace in both if kind == 1 else ():
        assert rules(without_news(trace)) == {"ecn"}                 # CWR after neither ECE nor a loss
        ack = next(i for i in acks_sent(trace) if i > 20)
        for fields in ({"tos": 2}, {"flags": ACK | CWR}):
            assert rules(change(trace, ack, **fields)) == {"ecn"}
