"""Rows D6, D9 to D11: acknowledgements that lie."""

import random

import pytest

from tests.security.rig import difference, established, nothing_left
from tests.support import scale
from tests.tcp.tools import MS, SOL_TCP, TCP_INFO, new_peer, passive

TCPI_SACKED = slice(28, 32)


def sacked(s):
    return int.from_bytes(s.sock.getsockopt(SOL_TCP, TCP_INFO, 280)[TCPI_SACKED], "little")


def grown(peer, s):
    """Acknowledge all that is sent until hundreds of segments are in flight at a time; up to where."""
    acked = 1
    for _ in range(30):
        try:
            while True:
                s.sock.send(bytes(20_000))
        except BlockingIOError:
            pass
        packets = [p for p in s.flow.receive_all() if p.payload]
        for p in packets:
            acked = p.seq + len(p.payload)
            s.pure_ack(acked)
        peer.advance(20 * MS)
    return acked


@pytest.mark.parametrize("mss", [8, 48])
def test_d6_holes_without_number_cost_neither_time_nor_memory(mss):
    """CVE-2019-11477 to 11479: the smallest segments, every second one selectively acknowledged. Records looked at per
    acknowledgement stay bounded, and all memory is bounded by the send buffer."""
    with nothing_left(congestion_control="reno") as peer:
        s = established(peer, mss=mss, sack_permitted=True, window=65535, window_scale=4)
        s.sock.setsockopt(1, 7, 1 << 18)
        rng, most = random.Random(6), 0
        acked = grown(peer, s)
        total, steps_before, acks = 0, peer.stack.counters()["tcp_sack_steps"], 0
        for _ in range(scale(200, 40)):
            try:
                while True:
                    total += s.sock.send(bytes(20_000))
            except BlockingIOError:
                pass
            packets = [p for p in s.flow.receive_all() if p.payload]
            holes = [(p.seq, p.seq + len(p.payload)) for p in packets[1::2]]
            assert all(len(p.payload) <= 216 for p in packets)      # the floor, not what the peer asked for
            most = max(most, len(packets))
            for _ in range(100):
                blocks = tuple(rng.choice(holes) for _ in range(4)) if holes else ()
                peer.stack.input(s.flow.build("A", seq=1, ack=acked, sack=blocks), peer.clock.now_ns)
                acks += 1
            peer.collect()
            assert peer.stack.memory()["buffers"] <= 4 * (1 << 19)
            acked = max([acked, *(p.seq + len(p.payload) for p in packets)])
            s.pure_ack(acked)
            peer.advance(20 * MS)
        steps = peer.stack.counters()["tcp_sack_steps"] - steps_before
        assert acks >= 4000 and total > 100_000 and most > 500
        assert steps <= 60 * acks, steps / acks


@pytest.mark.parametrize("block", [
    (5000, 4000), (1, 1), (0, 1461), (-5000, -3000), (14601, 16061), (13141, 14602), (1 << 30, (1 << 30) + 1460),
    (1461, (1 << 31) + 1461),
])
def test_d9_a_block_outside_of_what_is_in_flight_is_ignored(block):
    s = passive(sack_permitted=True)
    s.sock.send(bytes(14600))
    s.flow.receive_all()
    for _ in range(10):
        s.pure_ack(1, sack=(block,))
    assert sacked(s) == 0
    s.pure_ack(14601)
    assert s.sock.info()["snd_una"] == s.sock.info()["snd_nxt"]


def test_d9_what_is_believed_is_what_a_plain_model_believes():
    """Any blocks, good and bad, against a set of byte numbers."""
    for seed in range(scale(400, 40)):
        rng = random.Random(seed)
        s = passive(new_peer(congestion_control="reno", early_retrans=0, seed=seed), sack_permitted=True)
        s.sock.send(bytes(14600))
        sent = [(p.seq, p.seq + len(p.payload)) for p in s.flow.receive_all()]
        una, known = 1, set()
        for _ in range(12):
            before = una                                    # a block may begin below what its own segment acknowledges
            if rng.random() < 0.2:
                una = rng.choice([una, *(e for _, e in sent if e > una)])
            blocks = []
            for _ in range(rng.randint(1, 3)):
                a = una + rng.randrange(-3000, 16000)
                blocks.append((a, a + rng.randrange(-1000, 6000)))
            inside = len(blocks) > 1 and blocks[1][0] <= blocks[0][0] and blocks[0][1] <= blocks[1][1]
            if blocks[0][0] < una or inside:
                blocks[0] = (una + 1460, una + 2920)        # no report of duplicates in this test
                if len(blocks) > 1:
                    blocks[1] = (una + 4380, una + 5840)
            s.pure_ack(una, sack=tuple(blocks))
            for a, b in blocks:
                if before <= a < b <= 14601:
                    known |= {seg for seg in sent if a <= seg[0] and seg[1] <= b}
            known = {seg for seg in known if seg[0] >= una}
            assert sacked(s) == len(known), (seed, una, blocks)
            if una == 14601:
                break


@pytest.mark.parametrize("ahead", [1, 1460, 65535, 1 << 30])
def test_d10_an_optimistic_acknowledgement_earns_nothing(ahead):
    """VU#102014: of what was never sent, an ACK is dropped and challenged."""
    s = passive()
    s.sock.send(bytes(14600))
    s.flow.receive_all()
    before, counters = s.sock.info(), s.peer.stack.counters()
    for _ in range(5):
        s.pure_ack(14601 + ahead)
        s.ack = 1
    after = s.sock.info()
    assert after["cwnd"] == before["cwnd"] and after["snd_una"] == before["snd_una"]
    changed = difference(s.peer.stack, counters)
    assert changed["drop_tcp_ack"] == 5 and changed["tcp_challenge_acks"] == 5


def test_d11_splitting_an_acknowledgement_grows_the_window_no_faster():
    """Savage et al. 1999; RFC 3465: bytes count, not acknowledgements."""
    s = passive()
    s.sock.send(bytes(14600))
    s.flow.receive_all()
    before = s.sock.info()["cwnd"]
    for i in range(1, 1461):
        s.pure_ack(1 + i)
    assert s.sock.info()["cwnd"] <= before + 2 * 1460


def test_d11_invented_duplicates_send_no_more_than_is_out():
    s = passive(new_peer(congestion_control="reno"))
    s.sock.send(bytes(200_000))
    first = sum(s.lengths())
    for _ in range(2000):
        s.pure_ack(1)
    assert sum(s.lengths()) <= 2 * first + 1460 and s.sock.info()["cwnd"] <= 2 * first
