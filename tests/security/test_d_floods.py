"""Rows D1 to D3: what floods of SYNs and ACKs, and clients nobody accepts, may cost. Rates: bench/rows/handshake."""

import random

import pytest

from netstack.testing import build_tcp, is_tcp, parse_packet
from tests.security.rig import difference, listening, nothing_left
from tests.support import scale
from tests.tcp.tools import A, B, S

MIB = 1 << 20



def spoofed(rng):
    return f"{rng.randrange(11, 127)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"


def flood(peer, rng, count, **fields):
    """SYNs of nobody; the bytes of all answers, and how many."""
    answers = size = 0
    for _ in range(count):
        raw = build_tcp(spoofed(rng), A, rng.randrange(1024, 65536), 80, "S", seq=rng.getrandbits(32), **fields)
        peer.stack.input(raw, peer.clock.now_ns)
        while (out := peer.stack.pop_output()) is not None:
            answers += 1
            size += len(out[0])
    return answers, size


@pytest.mark.unwatched
@pytest.mark.parametrize("backlog", [8, 128, 4096])
def test_d1_a_flood_of_spoofed_syns_keeps_nobody_out_and_costs_less_than_a_mebibyte(backlog):
    """100,000 SYNs a second of virtual time and 1,000 clients among them: all connect with their first SYN, whole."""
    rng = random.Random(1)
    syns, clients = scale(100_000, 10_000), scale(1000, 100)
    with nothing_left() as peer:
        server = listening(peer, backlog=backlog)
        limit = max(backlog, 8)
        before = peer.stack.memory()["demux"]
        connected = most = 0
        for i in range(clients):
            flood(peer, rng, syns // clients, mss=1460, timestamp=(rng.getrandbits(31), 0), sack_permitted=True)
            flow = peer.flow(10_000 + i, iss=rng.getrandbits(32))
            flow.send("S", seq=0, mss=1400, timestamp=(77, 0), sack_permitted=True, window_scale=7)
            answer = flow.expect(is_tcp(flags="SA", ack=1))
            memory = peer.stack.memory()
            most = max(most, memory["half_open"] + memory["demux"] - before + memory["buffers"])
            flood(peer, rng, syns // clients // 10)
            peer.advance(S // clients)
            flow.send("PA", seq=1, ack=1, window=100, timestamp=(78, answer.timestamp[0]), payload=b"%d" % i)
            sock, address = server.accept()
            info = sock.tcp_info()
            assert address == (B, 10_000 + i) and sock.recv(10) == b"%d" % i and info.options & 7 == 7
            assert sock.info()["snd_wnd"] == 100 << 7 and sock.info()["mss"] in (1300, 1400)
            connected += 1
            sock.setsockopt(1, 13, (1).to_bytes(8, "little"))
            sock.close()
            peer.received.clear()
        assert connected == clients
        half = [s for s in peer.stack.sockets() if s.state == "SYN_RCVD"]
        assert len(half) <= limit and peer.stack.counters()["tcp_syncookies_sent"] > 0
        assert most < MIB, most
        peer.advance("200s")
        assert peer.stack.memory()["half_open"] == 0


@pytest.mark.unwatched
def test_d1_without_cookies_the_backlog_is_all_there_is():
    with nothing_left(syncookies=0) as peer:
        listening(peer, backlog=64)
        answers, _ = flood(peer, random.Random(2), 2000)
        assert answers == 64 and peer.stack.counters()["drop_tcp_backlog"] == 2000 - 64


@pytest.mark.unwatched
def test_d1_an_answer_is_no_larger_than_its_question():
    """No amplifier: a SYN,ACK is as long as its SYN, 4 bytes (our MSS) longer than one without options."""
    with nothing_left(syncookies=2) as peer:
        listening(peer)
        whole = {"mss": 1460, "timestamp": (1, 0), "sack_permitted": True, "window_scale": 7}
        for fields in ({}, {"mss": 1460}, whole):
            raw = build_tcp(spoofed(random.Random(3)), A, 1024, 80, "S", seq=1, **fields)
            peer.stack.input(raw, peer.clock.now_ns)
            assert len(peer.stack.pop_output()[0]) <= len(raw) + (0 if "mss" in fields else 4)
            assert peer.stack.pop_output() is None


@pytest.mark.unwatched
def test_d1_one_pass_answers_every_syn_of_a_batch():
    """What strangers provoke is bounded in memory: beyond 64 waiting answers, output runs before the next frame."""
    from netstack.link import QueueLink
    from netstack.stack import Stack
    rng = random.Random(4)
    link = QueueLink(mtu=1500, media="ip")
    stack = Stack(addresses=A, seed=1, links=[link], sysctl={"net.ipv4.tcp_syncookies": 2})
    server = stack.socket()
    server.bind((A, 80))
    server.listen()
    count = 700
    for _ in range(count):
        link.push(build_tcp(spoofed(rng), A, rng.randrange(1024, 65536), 80, "S", seq=rng.getrandbits(32), mss=1460))
    while stack.process(10**9):
        pass
    answers = 0
    while link.pop() is not None:
        answers += 1
    assert answers == count == stack.counters()["tcp_syncookies_sent"]


@pytest.mark.unwatched
def test_d2_random_acknowledgements_open_nothing():
    """200,000 a second against cookies that are out: no connection, nothing kept, resets limited, the honest get in."""
    rng = random.Random(5)
    count = scale(200_000, 20_000)
    with nothing_left() as peer:
        server = listening(peer, backlog=8)
        flood(peer, rng, 20)
        assert peer.stack.counters()["tcp_syncookies_sent"] > 0
        before, sockets = peer.stack.counters(), peer.stack.socket_count
        resets = 0
        for i in range(count):
            raw = build_tcp(spoofed(rng), A, rng.randrange(1024, 65536), 80, "A", seq=rng.getrandbits(32),
                            ack=rng.getrandbits(32), timestamp=(rng.getrandbits(32), rng.getrandbits(32)))
            peer.stack.input(raw, peer.clock.now_ns)
            while (out := peer.stack.pop_output()) is not None:
                resets += 1
                assert parse_packet(bytes(out[0])).flags == "R"
            if i == count // 2:
                peer.advance("1s")
        changed = difference(peer.stack, before)
        assert changed["tcp_syncookies_failed"] == count and "tcp_syncookies_received" not in changed
        assert peer.stack.socket_count <= sockets and server.poll() == 0
        assert 2 * 200 <= resets <= 2 * 250 == 2 * (200 + 50)
        flow = peer.flow(999)
        flow.connect()
        sock, address = server.accept()
        assert address == (B, 999)
        peer.opened.append(sock)
        # Two minutes after the last cookie an ACK is not even looked at.
        peer.advance("300s")
        before = peer.stack.counters()
        peer.flow(1000).send("A", seq=1, ack=1)
        assert "tcp_syncookies_failed" not in difference(peer.stack, before)
        for s in list(peer.stack.sockets()):
            assert s.state in ("LISTEN", "ESTABLISHED")
        flow.send("R", seq=1)


@pytest.mark.parametrize("abort", [0, 1])
def test_d3_clients_nobody_accepts_are_bounded_and_drain_later(abort):
    """Backlog 8 and 1,000 clients: nine wait, SYNs go unanswered (no reset), answers are few, later accept() drains."""
    clients = scale(1000, 1000)
    with nothing_left(abort_on_overflow=abort) as peer:
        server = listening(peer, backlog=8)
        for i in range(clients):
            flow = peer.flow(2000 + i)
            flow.send("S", seq=0, mss=1460)
            answer = flow.receive()
            if answer is not None:
                assert answer.flags == "SA"
                flow.send("A", seq=1, ack=1)
        states = [s.state for s in peer.stack.sockets()]
        assert states.count("ESTABLISHED") == 9 and states.count("SYN_RCVD") <= 8
        assert not any("R" in p.flags for p in peer.received) or abort
        counters = peer.stack.counters()
        assert counters["drop_tcp_backlog"] >= clients - 9 - 8
        peer.received.clear()
        peer.advance("300s")
        assert len(peer.received) <= 8 * 5                # five SYN,ACKs for each that was half-open, and silence
        peer.received.clear()
        drained = 0
        while server.poll():
            sock, _ = server.accept()
            peer.opened.append(sock)
            drained += 1
        assert drained == 9
        for i in range(9):                                # whoever asks again now gets in
            flow = peer.flow(60_000 + i)
            flow.connect()
            peer.opened.append(server.accept()[0])
        peer.received.clear()
        for s in peer.opened[1:]:
            s.setsockopt(1, 13, (1).to_bytes(8, "little"))


def test_d3_half_open_handshakes_that_find_no_room_end_by_themselves():
    with nothing_left() as peer:
        server = listening(peer, backlog=8)
        flows = [peer.flow(3000 + i) for i in range(8)]
        for flow in flows:
            flow.send("S", seq=0, mss=1460)
            flow.expect(is_tcp(flags="SA"))
        for i in range(9):
            peer.flow(4000 + i).send("S", seq=0, mss=1460)    # cookies now
        for p in [p for p in peer.received if p.flags == "SA"]:
            flow = peer.flow(p.dport)
            flow.irs = p.seq
            flow.send("A", seq=1, ack=1)
        assert [s.state for s in peer.stack.sockets()].count("ESTABLISHED") == 9
        for _ in range(100):
            for flow in flows:
                flow.send("A", seq=1, ack=1)
            peer.advance("1s")
        assert peer.stack.memory()["half_open"] == 0
        while server.poll():
            sock, _ = server.accept()
            sock.setsockopt(1, 13, (1).to_bytes(8, "little"))
            peer.opened.append(sock)
