"""SACK, RACK-TLP, PRR, F-RTO and undo on a scripted peer (RFC 2018, 2883, 8985, 9937, 5682, 3522)."""

import random

import pytest

from netstack.testing import Pair

from .tools import MS, SOL_TCP, TCP_INFO, Session, new_peer

MSS = 1000
OPEN, DISORDER, RECOVERY, LOSS = 0, 1, 3, 4


def sender(segments=10, extra=0, rtt_ms=100, timestamp=False, **sysctl):
    """Ten segments in flight on a path of 100 ms; more wait in the buffer."""
    peer = new_peer(congestion_control="reno", **sysctl)
    options = {"timestamp": (1, 0)} if timestamp else {}
    server = peer.stack.socket()
    server.bind(("10.0.0.1", 80))
    server.listen()
    flow = peer.flow()
    mss = MSS + (12 if timestamp else 0)
    flow.send("S", seq=0, mss=mss, sack_permitted=True, **options)
    peer.advance(rtt_ms * MS)
    answer = flow.receive()
    stamp = {"timestamp": (2, answer.timestamp[0])} if timestamp else {}
    flow.send("A", seq=1, ack=1, **stamp)
    s = Session(peer, flow, server.accept()[0], server)
    s.sock.send(bytes((segments + extra) * MSS))
    assert len(flow.receive_all()) == segments
    peer.advance(rtt_ms * MS)
    return s


def seqs(s):
    return [p.seq for p in s.flow.receive_all()]


def state(s):
    return s.sock.getsockopt(SOL_TCP, TCP_INFO, 280)[1]


def counters(s):
    return s.peer.stack.counters()


# --- SACK and RACK ----------------------------------------------------------------------------------------------------

def test_the_third_segment_above_a_hole_sends_it_again():
    s = sender()
    s.pure_ack(1, sack=((1001, 2001),))
    s.pure_ack(1, sack=((1001, 3001),))
    assert seqs(s) == [] and state(s) == DISORDER
    s.pure_ack(1, sack=((1001, 4001),))
    assert seqs(s) == [1] and state(s) == RECOVERY
    s.pure_ack(10001)
    assert state(s) == OPEN and s.sock.info()["cwnd"] >= 5 * MSS


def test_only_the_holes_are_sent_again():
    s = sender()
    s.pure_ack(1, sack=((1001, 4001), (5001, 8001), (9001, 10001)))
    first = seqs(s)
    s.pure_ack(4001, sack=((5001, 8001), (9001, 10001)))
    s.pure_ack(8001, sack=((9001, 10001),))
    assert sorted(set(first + seqs(s))) == [1, 4001, 8001]
    s.pure_ack(10001)
    assert counters(s)["tcp_retransmits"] == 3 and counters(s)["tcp_timeouts"] == 0


def test_time_finds_what_the_threshold_of_duplicates_does_not():
    """RFC 8985 section 6.2: one segment sent later has arrived, and a quarter of a round trip has passed."""
    s = sender(segments=2)
    s.pure_ack(1, sack=((1001, 2001),))
    assert seqs(s) == []
    s.peer.advance("24ms")
    assert seqs(s) == []
    s.peer.advance("4ms")
    assert seqs(s) == [1] and state(s) == RECOVERY and counters(s)["tcp_timeouts"] == 0


def test_a_lost_retransmission_is_found_without_a_timeout():
    """RFC 8985 section 3: something sent after the retransmission has arrived."""
    s = sender(extra=10)
    s.pure_ack(1, sack=((1001, 8001),))
    sent = seqs(s)
    assert sent[0] == 1 and len(sent) >= 2                  # the hole, and new data behind it
    s.peer.advance("100ms")
    s.pure_ack(1, sack=((1001, 8001), (sent[1], sent[1] + MSS)))
    again = seqs(s)
    assert 1 in again and counters(s)["tcp_timeouts"] == 0


@pytest.mark.parametrize("block", [(0, 500), (5000, 4000), (9001, 11001), (20001, 21001), (-3000, 5001), (1, 1)])
def test_a_block_of_what_is_not_in_flight_says_nothing(block):
    s = sender()
    for _ in range(5):
        s.pure_ack(1, sack=(block,))
    assert s.sock.getsockopt(SOL_TCP, TCP_INFO, 280)[28:32] == bytes(4)        # tcpi_sacked
    s.pure_ack(10001)
    assert state(s) == OPEN


def test_a_segment_covered_in_part_waits_for_the_rest():
    s = sender()
    s.pure_ack(1, sack=((1001, 1900),))
    assert s.sock.getsockopt(SOL_TCP, TCP_INFO, 280)[28:32] == bytes(4)
    s.pure_ack(1, sack=((1001, 2001),))
    assert s.sock.getsockopt(SOL_TCP, TCP_INFO, 280)[28] == 1


def test_a_peer_that_takes_back_what_it_had_gets_all_of_it_again():
    """RFC 2018 section 8: after a timeout nothing it said counts."""
    s = sender()
    s.pure_ack(1, sack=((1001, 10001),))
    seqs(s)
    s.pure_ack(1001)                                        # and the rest is gone
    got = 1001
    for _ in range(60):
        s.peer.advance("100ms")
        for p in s.flow.receive_all():
            if p.seq == got:
                got += len(p.payload)
                s.pure_ack(got)
    assert got == 10001 and state(s) == OPEN


# --- the tail ---------------------------------------------------------------------------------------------------------

def test_a_lost_tail_is_probed_before_the_timeout():
    """RFC 8985 section 7: two round trips of silence, then the last segment once more."""
    s = sender()
    s.pure_ack(8001)
    assert seqs(s) == []
    s.peer.advance("195ms")
    assert seqs(s) == []
    s.peer.advance("15ms")
    assert seqs(s) == [9001] and counters(s)["tcp_tail_probes"] == 1
    s.peer.advance("100ms")
    s.pure_ack(8001, sack=((9001, 10001),))                 # the last arrived, the one before it is lost
    s.peer.advance("60ms")
    assert seqs(s) == [8001] and counters(s)["tcp_timeouts"] == 0


def test_new_data_is_the_better_probe():
    s = sender(extra=5)
    s.pure_ack(9001, window=1000)                           # the window is what held it back
    seqs(s)
    s.pure_ack(9001, window=3000)
    sent = seqs(s)
    assert sent and sent[0] >= 10001


def test_a_loss_that_only_a_probe_repaired_shrinks_the_window():
    """RFC 8985 section 7.4."""
    s = sender()
    s.pure_ack(9001)
    before = s.sock.info()["cwnd"]
    s.peer.advance("500ms")
    assert 9001 in seqs(s)
    s.sock.send(bytes(MSS))
    seqs(s)
    s.pure_ack(11001)
    assert s.sock.info()["cwnd"] < before


def test_both_copies_of_a_probe_prove_that_nothing_was_lost():
    s = sender()
    s.pure_ack(9001)
    before = s.sock.info()["cwnd"]
    s.peer.advance("310ms")
    assert seqs(s) == [9001] and counters(s)["tcp_timeouts"] == 0
    s.pure_ack(10001)
    s.pure_ack(10001, sack=((9001, 10001),))                # D-SACK
    assert s.sock.info()["cwnd"] >= before


# --- needless reductions ----------------------------------------------------------------------------------------------

def test_an_echo_of_before_the_retransmission_takes_the_reduction_back():
    """Eifel (RFC 3522): the original came late."""
    s = sender(timestamp=True)
    before = s.sock.info()["cwnd"]
    old = s.sock.info()
    s.pure_ack(1, sack=((1001, 4001),), timestamp=(3, 1))
    again = s.flow.receive_all()
    assert [p.seq for p in again] == [1] and s.sock.info()["ssthresh"] < before
    s.peer.advance("5ms")
    s.pure_ack(10001, timestamp=(4, again[0].timestamp[0] - 50 & 0xFFFFFFFF))
    now = s.sock.info()
    assert counters(s)["tcp_undos"] == 1 and now["cwnd"] >= before and now["ssthresh"] == old["ssthresh"]


def test_a_report_of_the_second_copy_takes_the_reduction_back():
    """D-SACK (RFC 2883, RFC 3708)."""
    s = sender()
    before = s.sock.info()["cwnd"]
    s.pure_ack(1, sack=((1001, 4001),))
    assert seqs(s) == [1]
    s.sock.send(bytes(3 * MSS))
    s.pure_ack(9001)
    seqs(s)
    s.pure_ack(9001, sack=((1, 1001),))
    assert counters(s)["tcp_undos"] == 1 and s.sock.info()["cwnd"] >= before


def test_a_needless_timeout_is_taken_back():
    """F-RTO (RFC 5682): what was sent once before the timeout arrives after it."""
    s = sender(extra=5, rtt_ms=10, early_retrans=0)
    before = s.sock.info()["cwnd"]
    s.peer.advance("400ms")
    assert 1 in seqs(s) and state(s) == LOSS and s.sock.info()["cwnd"] < before
    s.pure_ack(1001)
    s.pure_ack(3001)
    assert state(s) == OPEN and s.sock.info()["cwnd"] >= before
    assert counters(s)["tcp_retransmits"] == 1


def test_a_real_timeout_is_not():
    s = sender(rtt_ms=10, early_retrans=0)
    s.peer.advance("400ms")
    seqs(s)
    s.pure_ack(1001)
    assert 1001 in seqs(s) and state(s) == LOSS


# --- streams ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sysctl", [
    {}, {"net.ipv4.tcp_recovery": 0}, {"net.ipv4.tcp_frto": 0}, {"net.ipv4.tcp_early_retrans": 0},
    {"net.ipv4.tcp_sack": 0}, {"net.ipv4.tcp_dsack": 0}, {"net.ipv4.tcp_timestamps": 0},
    {"net.ipv4.tcp_sack": 0, "net.ipv4.tcp_timestamps": 0}, {"net.ipv4.tcp_recovery": 3}, {"net.ipv4.tcp_recovery": 5},
], ids=lambda s: ",".join(f"{k.rpartition('_')[2]}={v}" for k, v in s.items()) or "default")
def test_every_way_of_recovery_delivers_the_stream(sysctl):
    for seed in range(8):
        rng = random.Random(seed)
        Pair(seed=seed, sysctl=sysctl, loss=rng.choice((0.01, 0.05, 0.1)), reorder=rng.choice((0, 0.05)),
             duplicate=rng.choice((0, 0.02)), delay="10ms", reorder_delay="8ms").transfer(150_000, 40_000, limit="24h")


def test_losses_cost_few_timeouts_with_sack():
    """2 % loss: time and blocks find nearly everything."""
    pair = Pair(seed=3, loss=0.02, delay="20ms")
    pair.transfer(4 << 20)
    c = pair.a.stack.counters()
    assert c["tcp_retransmits"] > 40 and c["tcp_timeouts"] <= 2
    assert c["tcp_retransmits"] < 1.6 * pair.faults.stats()["output"]["lost"] + 20


def test_reordering_alone_is_learnt():
    """RFC 8985 section 6.2: after D-SACKs the window of reordering is wide enough."""
    pair = Pair(seed=4, reorder=0.1, reorder_delay="8ms", delay="20ms")
    pair.transfer(4 << 20)
    c = pair.a.stack.counters()
    assert c["tcp_timeouts"] == 0 and c["tcp_retransmits"] < 0.03 * c["tcp_segments_out"]
