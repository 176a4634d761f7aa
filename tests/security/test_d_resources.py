"""Rows D4, D5, D7, D8, D12 to D15 and E1: what a peer may make the stack spend."""

import random

import numpy as np
import pytest

from netstack.stack import Stack
from netstack.testing import build_tcp, is_tcp
from netstack.testing.probe import demux_probes
from tests.security.rig import accept, difference, established, listening, nothing_left
from tests.support import scale
from tests.tcp.tools import (
    SO_KEEPALIVE,
    SOL_SOCKET,
    SOL_TCP,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    A,
    B,
    S,
    new_peer,
    passive,
    reach,
)

PAGE = 4096


def test_d4_peers_that_open_no_window_cannot_take_all_memory():
    """CVE-2008-4609: zero-window peers hold what is queued for them for ever, unless memory is short."""
    cap = 4 << 20
    count = scale(5000, 400)
    peer = new_peer(mem=cap // PAGE)
    server = listening_with(peer)
    sockets = []
    busy, slow = honest_writer(peer, server), 0                 # moves data all the time, and fills its window
    for i in range(count):
        flow = peer.flow(1024 + i)
        flow.connect(window=0)
        sock, _ = server.accept()
        try:
            sock.send(bytes(65536))
        except OSError:
            pass                                                # no memory: an error, never a crash
        sockets.append(sock)
        peer.advance("1s")
        slow += not busy()
        peer.received.clear()
        assert peer.stack.memory()["buffers"] <= cap
    assert slow <= count // 10                                  # it waited for memory now and then, and was never ended
    aborted = peer.stack.counters()["tcp_memory_aborts"]
    assert aborted > 0
    alive = [s for s in sockets if s.state == "ESTABLISHED"]
    assert len(alive) + aborted == count
    # An honest connection meanwhile: everything it sends goes out.
    flow = peer.flow(500)
    flow.connect(window=65535)
    sock, _ = server.accept()
    seq = 1
    for _ in range(50):
        peer.advance("200ms")
        sent = sock.send(bytes(20_000))
        while seq < 1 + sent or sock.info()["snd_una"] != sock.info()["snd_nxt"]:
            arrived = [p for p in flow.receive_all() if p.payload]
            if not arrived:
                break
            seq = max(p.seq + len(p.payload) for p in arrived)
            flow.send("A", seq=1, ack=seq)
    assert seq == 1 + 50 * 20_000


def test_d4_memory_is_bounded_also_when_nobody_may_be_ended():
    """Peers with open windows that acknowledge nothing yet: whoever moves data is not ended, and gets no more."""
    cap = 2 << 20
    peer = new_peer(mem=cap // PAGE)
    server = listening_with(peer)
    refused = 0
    for i in range(100):
        flow = peer.flow(1024 + i)
        flow.connect(window=65535)
        sock, _ = server.accept()
        try:
            sock.send(bytes(65536))
        except OSError:
            refused += 1
        peer.received.clear()
        assert peer.stack.memory()["buffers"] <= cap
    assert refused > 0 and peer.stack.counters()["tcp_memory_aborts"] == 0


def honest_writer(peer, server):
    """A connection whose peer takes everything: each call writes, acknowledges, and says whether anything went out."""
    flow = peer.flow(501)
    flow.connect(window=65535)
    sock, _ = server.accept()
    acked = 1

    def write():
        nonlocal acked
        before = acked
        try:
            sock.send(bytes(10_000))
        except OSError:
            pass                                                # no room, or no memory, just now
        while packets := [p for p in flow.receive_all() if p.payload]:
            acked = max(acked, *(p.seq + len(p.payload) for p in packets))
            flow.send("A", seq=1, ack=acked)
        assert sock.state == "ESTABLISHED"
        try:
            sock.send(bytes(60_000))                            # under way when memory is looked for
        except OSError:
            pass
        return acked > before

    return write


def listening_with(peer):
    server = peer.stack.socket()
    server.bind((A, 80))
    server.listen(4096)
    return server


@pytest.mark.parametrize("state, seconds", [
    ("FIN_WAIT_2", 60), ("TIME_WAIT", 60), ("FIN_WAIT_1", None), ("CLOSING", None), ("LAST_ACK", None),
    ("SYN_RCVD", 63), ("FIN_WAIT_1, then acknowledged", 60),
])
def test_d5_what_a_vanished_peer_leaves_is_freed_at_the_set_time(state, seconds):
    """60 s for FIN-WAIT-2 and TIME-WAIT; where data is outstanding, R2 of an orphan (RFC 9293, 3.8.3)."""
    s = reach(state.partition(",")[0])
    begin = s.peer.clock.now_ns
    s.sock.close()
    if "acknowledged" in state:
        s.pure_ack(2)                                           # and then it vanishes
    if s.server is not None and s.server is not s.sock:
        s.server.close()
    s.flow.receive_all()
    while s.peer.stack.sockets():
        s.peer.advance("100ms")
        assert s.peer.clock.now_ns - begin < 3600 * S, "never freed"
    took = (s.peer.clock.now_ns - begin) / S
    if state == "SYN_RCVD":
        assert took <= seconds                                  # its listener is gone: at once
    elif seconds is None:
        assert 90 <= took <= 130                                # eight doublings of 200 ms and more
    else:
        assert abs(took - seconds) <= 0.1 * seconds
    assert s.peer.stack.next_deadline() is None


def test_d5_orphans_are_limited_in_number():
    limit = 20
    with nothing_left(max_orphans=limit) as peer:
        listening(peer)
        for i in range(limit + 10):
            s = accept(peer, 1024 + i)
            s.sock.send(b"x" * 100)
            s.flow.receive_all()
            s.sock.close()
        alive = [x for x in peer.stack.sockets() if x.state == "FIN_WAIT_1"]
        assert len(alive) == limit and peer.stack.counters()["tcp_resets_out"] == 10


@pytest.mark.parametrize("mss", [0, 1, 8, 47, 48, 215])
def test_d7_a_tiny_mss_does_not_make_tiny_segments(mss):
    """CVE-2019-11479; the floor is FreeBSD's 216 bytes."""
    with nothing_left() as peer:
        s = established(peer, mss=mss)
        s.sock.send(bytes(2000))
        sizes = s.lengths()
        assert sum(sizes) >= 2000 and max(sizes) == (536 if mss == 0 else 216)


def test_d8_every_second_byte_costs_neither_memory_nor_time():
    """CVE-2018-5390: pieces are capped in number, and each costs a binary search and one bounded move."""
    with nothing_left() as peer:
        s = established(peer)
        count = scale(1_000_000, 20_000)
        rng = random.Random(8)
        for i in range(count):
            at = 2 + 2 * (i % 30_000) if i < 30_000 else 2 + 2 * rng.randrange(30_000)
            peer.stack.input(build_tcp(B, A, s.flow.port, 80, "A", seq=s.flow.iss + at & 0xFFFFFFFF,
                                       ack=s.flow.irs + 1, payload=b"x"), peer.clock.now_ns)
            if i % 64 == 63:
                while peer.stack.pop_output():
                    pass
        info = s.sock.info()
        assert info["ranges"] <= 128 and info["receive_buffer"] <= 65536
        while peer.stack.pop_output():
            pass


@pytest.mark.parametrize("window", [0, 1, 100, 1459])
def test_d12_a_window_that_shrinks_below_the_flight_loses_nothing(window):
    """RFC 9293 section 3.8.6: robust against shrinking, and no negative window."""
    data = random.Random(12).randbytes(20_000)
    s = passive(window=14600)
    sent = s.sock.send(data)
    got = {}

    def take():
        for p in s.flow.receive_all():
            got[p.seq] = max(got.get(p.seq, b""), p.payload, key=len)

    take()
    first = max(seq + len(p) for seq, p in got.items())
    s.pure_ack(1461, window=window)                             # the right edge moves far to the left
    s.peer.advance("5s")
    take()
    assert max(seq + len(p) for seq, p in got.items()) == first       # nothing new beyond the old edge
    for _ in range(40):
        stream = assemble(got)
        s.pure_ack(1 + len(stream), window=14600)
        s.peer.advance("1s")
        take()
    assert assemble(got) == data[:sent]


def assemble(pieces):
    out, at = b"", 1
    for seq in sorted(pieces):
        piece = pieces[seq]
        if seq > at:
            break
        if seq + len(piece) > at:
            out += piece[at - seq:]
            at = seq + len(piece)
    return out


def weak_hash(sport, dport):
    """What an unkeyed table would use."""
    return (sport * 31 + dport) & 0x3FF


def test_d13_names_chosen_to_collide_do_not():
    """Names that share a bucket of an unkeyed hash: the keyed table's probe lengths stay those of random names."""
    n = scale(100_000, 10_000)
    stack = Stack(addresses=A, seed=13)
    chosen, plain = [], []
    address = 0
    while len(chosen) < n:
        address += 1
        for sport in range(1024, 65536, 33):
            if weak_hash(sport, 80) == 7:
                chosen.append((0x0B000000 + address, sport))
    rng = random.Random(13)
    plain = [(rng.getrandbits(32), rng.randrange(1024, 65536)) for _ in range(n)]
    hostile = np.array(demux_probes(stack, chosen[:n], 80))
    base = np.array(demux_probes(stack, plain, 80))
    assert np.percentile(hostile, 99) < 2 * np.percentile(base, 99) and hostile.mean() < 1.2 * base.mean()


@pytest.mark.parametrize("tsecr", ["random", "future", "past", "zero"])
def test_d14_a_forged_echo_does_not_move_the_rto_out_of_its_bounds(tsecr):
    """CVE-2005-0740; RTO from 200 ms to 120 s whatever the peer echoes."""
    rng = random.Random(14)
    s = passive(timestamp=(1000, 0))
    seq = 1
    for i in range(200):
        s.sock.send(bytes(100))
        packets = s.flow.receive_all()
        s.peer.advance("30ms" if i % 3 else "1500ms")           # sometimes past a retransmission
        packets += s.flow.receive_all()
        ours = packets[-1].timestamp[0]
        echo = {"random": rng.getrandbits(32), "future": ours + 100_000, "past": ours - 2**31 + 5, "zero": 0}[tsecr]
        seq = max(p.seq + len(p.payload) for p in packets)
        s.pure_ack(seq, timestamp=(1001 + i, echo & 0xFFFFFFFF))
        info = s.sock.info()
        assert 200_000_000 <= info["rto_ns"] <= 120 * S, info["rto_ns"]
        assert info["srtt_ns"] <= 121 * S


def test_d14_the_rto_stays_below_two_minutes_however_late_the_answers_are():
    """RFC 6298 section 2.5. Each answer comes after 100 s and names the first transmission."""
    s = passive(timestamp=(1000, 0))
    for i in range(10):
        s.sock.send(bytes(100))
        first = s.flow.receive_all()[0]
        s.peer.advance("100s")
        s.flow.receive_all()
        s.pure_ack(first.seq + 100, timestamp=(1001 + i, first.timestamp[0]))
        assert 200_000_000 <= s.sock.info()["rto_ns"] <= 120 * S
    assert s.sock.info()["srtt_ns"] > 60 * S and s.sock.info()["rto_ns"] == 120 * S


@pytest.mark.unwatched                 # segments go to the stack directly
def test_d15_seventy_thousand_events_wrap_no_counter():
    """More than 16 bits of duplicates, SACKs, window updates and out-of-order pieces on one connection."""
    with nothing_left() as peer:
        s = established(peer, sack_permitted=True)
        s.sock.send(bytes(60_000))
        s.flow.receive_all()
        before = peer.stack.counters()
        n = 3 * 70_000
        for i in range(n):
            kind = i % 3
            if kind == 0:
                raw = s.flow.build("A", seq=1, ack=1)
            elif kind == 1:
                raw = s.flow.build("A", seq=1, ack=1, sack=((1461, 2921),))
            else:
                raw = s.flow.build("PA", seq=1 + 2 * (i % 97) + 2, ack=1, payload=b"x")
            peer.stack.input(raw, peer.clock.now_ns)
            if i % 32 == 0:
                while peer.stack.pop_output():
                    pass
        while peer.stack.pop_output():
            pass
        changed = difference(peer.stack, before)
        assert changed["tcp_segments_in"] == n and changed["tcp_out_of_order"] == n // 3
        assert all(v >= 0 for v in changed.values())
        assert s.state == "ESTABLISHED"
        s.pure_ack(1461)
        s.peer.advance("1s")
        assert s.sock.info()["snd_una"] == s.flow.irs + 1461 & 0xFFFFFFFF


def test_e1_all_timers_live_together_and_none_leaks():
    """RFC 9293 section 3.8: retransmission, delayed acknowledgement, keepalive and persist over ten hours."""
    with nothing_left() as peer:
        s = established(peer, window=1000)
        for name, value in ((TCP_KEEPIDLE, 600), (TCP_KEEPINTVL, 30), (TCP_KEEPCNT, 4)):
            s.sock.setsockopt(SOL_TCP, name, value)
        s.sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        ack, hours = 1, 10
        probes = timeouts = 0
        for hour in range(hours):
            s.sock.send(bytes(1000))
            peer.advance("50ms")
            assert s.lengths().count(1000) == 1
            peer.advance("250ms")                               # the RTO, once
            timeouts += s.lengths().count(1000)
            ack += 1000
            s.pure_ack(ack, window=0)                           # the window closes: persist with the next write
            s.sock.send(b"y")
            peer.advance("450ms")
            probes += len(s.flow.receive_all())
            s.pure_ack(ack, window=1000)
            s.flow.expect(is_tcp(payload=b"y"))
            ack += 1
            s.data(b"q")                                        # a delayed acknowledgement, once
            s.pure_ack(ack)
            peer.advance("100ms")
            assert len(s.flow.receive_all()) == 1
            s.sock.recv(10)
            kept = 0
            for _ in range(59):
                peer.advance("60s")
                for _ in s.flow.receive_all():
                    kept += 1
                    s.pure_ack(ack)
            assert 4 <= kept <= 6, (hour, kept)                 # every ten minutes, answered
        assert timeouts == hours and probes == hours
        assert s.state == "ESTABLISHED"
        s.sock.close()
        s.flow.receive_all()
        s.flow.send("FA", seq=s.seq, ack=ack + 1)
