"""Row E2: congestion marks that are forged, and a network that takes them away."""

import pytest

from tests.security.rig import difference, nothing_left
from tests.tcp.tools import Session, listen

NOT_ECT, ECT_1, ECT_0, CE = range(4)
MSS = 1460


def established(peer, flags="SEC", tos=NOT_ECT, third="A"):
    """A client that asked for ECN; the rig closes both sockets."""
    server = listen(peer)
    flow = peer.flow()
    flow.send(flags, seq=0, mss=MSS, tos=tos)
    answer = flow.receive()
    flow.send(third, seq=1, ack=1)
    s = Session(peer, flow, server.accept()[0], server)
    peer.opened += [server, s.sock]
    return s, answer


def sent(s, size):
    s.sock.send(bytes(size))
    packets = s.flow.receive_all()
    s.ack += size
    return packets


@pytest.mark.parametrize("ecn", range(6))
@pytest.mark.parametrize("flags", ["S", "SEC", "SECN"])
@pytest.mark.parametrize("codepoint", [ECT_1, ECT_0, CE])
def test_e2_ce_on_a_syn_changes_nothing(ecn, flags, codepoint):
    """Nobody's window is reduced and nothing is echoed: AccECN tells it in the SYN,ACK, and there only."""
    with nothing_left(ecn=ecn, congestion_control="reno") as peer:
        s, answer = established(peer, flags, codepoint, "AC" if flags == "SECN" and ecn >= 3 else "A")
        i = s.sock.tcp_info()
        if flags == "SEC":                  # RFC 3168 section 6.1.1: no such SYN says ECT
            assert set(answer.flags) == set("SA")
        assert i.received_ce == 0 and i.delivered_ce == 0 and i.snd_cwnd == 10
        packets = sent(s, 10 * (MSS - 12))
        assert len(packets) == 10
        told = {p.flags for p in packets}
        if i.ecn_mode == 2:
            assert all({"E", "N"} <= set(f) and "C" not in f for f in told)       # five: none counted
        else:
            assert not any(set(f) & set("ECN") for f in told)
        s.pure_ack()


@pytest.mark.parametrize("codepoint", range(4))
def test_e2_ce_without_agreement_is_nothing(codepoint):
    """Not by TCP's flags nor by IP's: a stranger who can set bits gains nothing."""
    with nothing_left(ecn=2, congestion_control="reno") as peer:
        s, _ = established(peer, "S")
        sent(s, 5 * MSS)
        for k in range(1, 6):
            s.flow.send("AEC", seq=s.seq, ack=1 + k * MSS, tos=codepoint)
        for _ in range(5):
            s.data(bytes(100), flags="PAECN", tos=codepoint)
        assert not any(set(p.flags) & set("ECN") or p.tos for p in s.flow.receive_all())
        s.pure_ack()
        assert s.sock.tcp_info().snd_cwnd >= 10 and s.sock.tcp_info().ca_state == 0


@pytest.mark.parametrize("times", [1, 10, 200])
def test_e2_a_flood_of_ece_reduces_once_per_window(times):
    """Acknowledgements that say ECE, as many as there are: one reduction, however they come."""
    with nothing_left(ecn=2, congestion_control="reno") as peer:
        s, _ = established(peer)
        sent(s, 10 * MSS)
        for k in range(times):
            s.flow.send("AE", seq=1, ack=1 + MSS, window=60_000 + k % 2)
        i = s.sock.tcp_info()
        assert i.snd_ssthresh == 5 and i.ca_state in (2, 3)
        s.flow.send("A", seq=1, ack=s.ack)
        assert s.sock.tcp_info().snd_cwnd >= 5


@pytest.mark.parametrize("first", [0, 1, 4])
def test_e2_ece_on_every_acknowledgement_of_a_window_reduces_once(first):
    """RFC 3168 section 6.1.2: what was sent before the reduction may go on saying ECE."""
    with nothing_left(ecn=2, congestion_control="reno") as peer:
        s, _ = established(peer)
        sent(s, 10 * MSS)
        for k in range(1, 10):
            s.flow.send("AE" if k > first else "A", seq=1, ack=1 + k * MSS)
        i = s.sock.tcp_info()
        assert (i.snd_ssthresh, i.ca_state) == ((10 + first) // 2, 2)
        s.flow.send("A", seq=1, ack=s.ack)
        assert s.sock.tcp_info().snd_cwnd >= 5


def test_e2_a_peer_that_never_stops_saying_ece_keeps_a_window():
    """A liar gets a slow connection, not a dead one."""
    with nothing_left(ecn=2, congestion_control="reno") as peer:
        s, _ = established(peer)
        total = 0
        for _ in range(300):
            try:
                s.sock.send(bytes(20 * MSS))
            except BlockingIOError:
                pass
            packets = [p for p in s.flow.receive_all() if p.payload]
            if packets:
                total = max(p.seq + len(p.payload) for p in packets) - 1
            s.flow.send("AE", seq=1, ack=1 + total)
            peer.advance("10ms")
        assert total > 100 * MSS and s.sock.tcp_info().snd_cwnd >= 1
        s.ack = 1 + total


@pytest.mark.parametrize("where", ["window", "future", "past", "ack", "checksum", "other port"])
def test_e2_ce_off_the_path_is_not_echoed(where):
    """Marks count only on what the connection accepts."""
    with nothing_left(ecn=2) as peer:
        s, _ = established(peer)
        s.data(bytes(100), tos=ECT_0)
        s.quiet()
        seq = {"window": s.seq + (1 << 24), "future": s.seq + (1 << 30), "past": s.seq - (1 << 24)}.get(where, s.seq)
        raw = s.flow.build("PA", seq=seq, ack=1 << 24 if where == "ack" else 1, payload=b"x", tos=CE)
        if where == "checksum":
            raw = raw[:-1] + b"y"
        if where == "other port":
            raw = raw[:20] + b"\x12\x34" + raw[22:]
        before = peer.stack.counters()
        peer.inject(raw)
        assert difference(peer.stack, before)
        peer.received.clear()
        assert s.sock.tcp_info().received_ce == 0
        s.data(b"z", tos=ECT_0)
        s.quiet()
        assert "E" not in sent(s, 1)[0].flags


@pytest.mark.parametrize("bleached", ["codepoints", "flags", "both"])
def test_e2_bleaching_costs_marks_and_no_data(bleached):
    """A network that wipes codepoints or flags: the stream goes on, and AccECN stops saying ECT where it shows."""
    with nothing_left(ecn=3) as peer:
        s, answer = established(peer, "SECN", NOT_ECT, "A" if bleached != "codepoints" else "AC")
        assert "C" in answer.flags
        first = sent(s, 1000)
        assert {p.tos for p in first} == {ECT_0 if bleached == "codepoints" else NOT_ECT}
        s.flow.send("AEN" if bleached == "codepoints" else "A", seq=1, ack=s.ack)
        for _ in range(10):
            s.data(bytes(500), flags="PAEN" if bleached == "codepoints" else "PA")
        assert len(s.sock.recv(1 << 16)) == 5000
        assert s.sock.tcp_info().delivered_ce == 0 and s.sock.tcp_info().snd_cwnd >= 10


@pytest.mark.parametrize("number", range(8))
def test_e2_a_counter_that_jumps_about_cannot_raise_the_window(number):
    """AccECN's field from a liar: at worst a reduction once per window."""
    with nothing_left(ecn=3, congestion_control="reno") as peer:
        s, _ = established(peer, "SECN", NOT_ECT, "AC")
        size = 10 * (MSS - 12)
        sent(s, size)
        flags = "A" + "N" * (number >> 2) + "C" * (number >> 1 & 1) + "E" * (number & 1)
        for _ in range(50):
            s.flow.send(flags, seq=1, ack=1 + MSS)
            s.flow.send("AEN", seq=1, ack=1 + MSS)
        i = s.sock.tcp_info()
        assert i.snd_cwnd <= 12 and (i.snd_ssthresh >= 5 or i.snd_ssthresh == 0)
        assert i.delivered_ce <= 8
        s.pure_ack()
