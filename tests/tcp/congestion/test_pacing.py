"""Pacing is the core's: it holds for every algorithm, for what is new and for what goes again."""

import itertools

import pytest

from ..tools import MS, Session, new_peer

MSS = 1000
ALGORITHMS = ("reno", "cubic", "vegas", "bbr", "dctcp", "ledbat")


def sender(name, rtt_ms=100, **sysctl):
    peer = new_peer(congestion_control=name, early_retrans=0, **{"net.core.default_qdisc": "fq"}, **sysctl)
    server = peer.stack.socket()
    server.bind(("10.0.0.1", 80))
    server.listen()
    flow = peer.flow()
    flow.send("S", seq=0, mss=MSS, sack_permitted=True)
    peer.advance(rtt_ms * MS)
    flow.receive()
    flow.send("A", seq=1, ack=1)
    return Session(peer, flow, server.accept()[0], server)


def bursts(packets):
    """Bytes that left at each instant."""
    return {t: sum(len(p.payload) for p in group) for t, group in itertools.groupby(packets, key=lambda p: p.t_ns)}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_window_leaves_over_a_round_trip_in_pairs(name):
    s = sender(name)
    s.sock.send(bytes(10 * MSS))
    s.peer.advance("100ms")
    packets = [p for p in s.flow.receive_all() if p.payload]
    sent = bursts(packets)
    assert max(sent.values()) <= 2 * MSS and len(sent) >= 4
    assert sum(sent.values()) >= 8 * MSS                  # and it does leave: the rate is above cwnd in a round trip
    gaps = [b - a for a, b in itertools.pairwise(sorted(sent))]
    assert min(gaps) > 2 * MS


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_goes_again_is_paced_too(name):
    """After a timeout the head leaves at once; the rest of the window as fast as new data would."""
    s = sender(name)
    s.sock.send(bytes(10 * MSS))
    s.peer.advance("100ms")
    s.flow.receive_all()
    s.pure_ack(1, sack=((9001, 10001),))
    s.peer.advance("100ms")
    again = [p for p in s.flow.receive_all() if p.payload]
    sent = bursts(again)
    assert again[0].seq == 1 and max(sent.values()) <= 2 * MSS

