"""What sizes the buffers, what a writer waits for, urgent data, and the options that steer them."""

import errno

import pytest

from netstack.testing import Pair

from .tools import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, SOL_TCP, SYNCHRONIZED, TCP_QUICKACK, passive, reach

MSG_OOB = 1
TCP_LINGER2, TCP_WINDOW_CLAMP, TCP_NOTSENT_LOWAT = 8, 10, 25
POLLOUT = 4
SMALL = {"net.ipv4.tcp_rmem": (4096, 65536, 4 << 20), "net.ipv4.tcp_wmem": (4096, 65536, 4 << 20)}


def bulk(pair, amount, before=None):
    client, server = pair.connect()
    if before:
        before(client, server)
    start = pair.now_ns
    pair.transfer(amount, sockets=(client, server))
    return client, server, pair.now_ns - start


def test_both_buffers_grow_to_what_a_long_fat_wire_holds():
    """100 ms and 100 Mbit/s hold 1.25 MB: 64 KiB of buffer would carry 5 Mbit/s."""
    wire = dict(delay="50ms", rate=100_000_000, queue=10_000)
    _, _, fixed = bulk(Pair(seed=1, sysctl={**SMALL, "net.ipv4.tcp_moderate_rcvbuf": 0}, **wire), 8 << 20)
    tuned_pair = Pair(seed=1, sysctl=SMALL, **wire)
    seen = {}

    def watch():
        for name, stream in (("a", tuned_pair.a.streams), ("b", tuned_pair.b.streams)):
            for s in stream:
                if s.sock is not None and s.sock.state in SYNCHRONIZED:
                    for option in (SO_SNDBUF, SO_RCVBUF):
                        seen[name, option] = max(
                            seen.get((name, option), 0), s.sock.getsockopt(SOL_SOCKET, option))

    client, server = tuned_pair.connect()
    start = tuned_pair.now_ns
    tuned_pair.transfer(8 << 20, sockets=(client, server), on_step=watch)
    tuned = tuned_pair.now_ns - start
    assert seen["b", SO_RCVBUF] > 1_000_000 and seen["a", SO_SNDBUF] > 1_000_000
    assert tuned < fixed / 3


@pytest.mark.parametrize("end, option", [("a", SO_SNDBUF), ("b", SO_RCVBUF)])
def test_a_size_the_application_chose_stays(end, option):
    pair = Pair(seed=1, sysctl=SMALL, delay="20ms", rate=100_000_000, queue=10_000)
    sizes = set()

    def choose(client, server):
        (client if end == "a" else server).setsockopt(SOL_SOCKET, option, 32768)

    client, server = pair.connect()
    choose(client, server)
    pair.transfer(1 << 20, sockets=(client, server), on_step=lambda: [
        sizes.add(s.sock.getsockopt(SOL_SOCKET, option)) for s in (pair.a if end == "a" else pair.b).streams
        if s.sock is not None])
    assert sizes == {65536}


def test_an_idle_reader_does_not_make_its_window_grow():
    pair = Pair(seed=1, sysctl=SMALL, delay="10ms")
    client, server = pair.connect()
    sent = 0
    for _ in range(20):
        try:
            while sent < 1 << 20:
                sent += client.send(bytes(65536))
        except BlockingIOError:
            pass
        pair.run("50ms")
    assert server.getsockopt(SOL_SOCKET, SO_RCVBUF) == 65536
    assert sent <= 65536 + client.getsockopt(SOL_SOCKET, SO_SNDBUF)


def test_a_writer_waits_for_unsent_bytes_to_leave():
    s = passive(window=4000)
    s.sock.setsockopt(SOL_TCP, TCP_NOTSENT_LOWAT, 8192)
    assert s.sock.getsockopt(SOL_TCP, TCP_NOTSENT_LOWAT) == 8192
    total = 0
    with pytest.raises(BlockingIOError):
        while True:
            total += s.sock.send(bytes(3000))
    in_flight = sum(s.lengths())
    assert in_flight <= 4000 and total - in_flight <= 8192
    assert not s.sock.poll() & POLLOUT
    s.pure_ack(1 + in_flight, window=65535)
    sent = sum(s.lengths())
    assert sent == total - in_flight and s.sock.poll() & POLLOUT


def test_without_a_mark_the_buffer_alone_limits():
    s = passive(window=4000)
    assert s.sock.send(bytes(100_000)) == 100_000
    s.sock.setsockopt(SOL_TCP, TCP_NOTSENT_LOWAT, 0)
    assert s.sock.getsockopt(SOL_TCP, TCP_NOTSENT_LOWAT) == 0


def test_urgent_data_goes_in_line_with_the_pointer_behind_it():
    """RFC 6093 section 3.1: the pointer is to the byte after the urgent data."""
    s = passive(mss=1000)
    s.sock.send(b"ab")
    s.sock.setsockopt(SOL_TCP, 1, 1)
    s.flow.receive_all()
    s.pure_ack(3)
    s.sock.send(b"!", MSG_OOB)
    packet = s.flow.receive()
    assert "U" in packet.flags and packet.urgent == 1 and packet.payload == b"!"
    s.sock.send(b"c")
    packet = s.flow.receive()
    assert "U" not in packet.flags and packet.urgent == 0
    s.pure_ack(5)


def test_urgent_data_is_announced_by_every_segment_before_it():
    s = passive(mss=1000)
    s.sock.send(bytes(2500), MSG_OOB)
    assert [(p.seq, p.urgent, "U" in p.flags) for p in s.flow.receive_all()] == [
        (1, 2500, True), (1001, 1500, True), (2001, 500, True)]
    s.pure_ack(2501)
    s.sock.send(b"x")
    assert "U" not in s.flow.receive().flags


def test_urgent_data_is_received_in_line_and_not_out_of_band():
    s = passive()
    s.flow.send("PAU", seq=1, ack=1, payload=b"abc", urgent=2)
    with pytest.raises(OSError) as caught:
        s.sock.recv(1, MSG_OOB)
    assert caught.value.errno == errno.EINVAL
    assert s.sock.recv(10) == b"abc"


def test_quickack_answers_what_is_owed_and_does_not_last():
    s = passive()
    s.sock.setsockopt(SOL_TCP, TCP_QUICKACK, 0)
    s.data(b"x")
    assert s.flow.receive_all() == []
    s.sock.setsockopt(SOL_TCP, TCP_QUICKACK, 1)
    assert [p.ack for p in s.flow.receive_all()] == [2]
    s.data(b"y")
    assert [p.ack for p in s.flow.receive_all()] == [3]
    s.sock.send(b"answer")              # a conversation: acknowledgements ride on data again
    s.flow.receive_all()
    s.pure_ack(7)
    s.data(b"z")
    assert s.flow.receive_all() == [] and s.sock.getsockopt(SOL_TCP, TCP_QUICKACK) == 0


def test_a_clamped_window_says_no_more():
    s = reach("ESTABLISHED")
    s.sock.setsockopt(SOL_TCP, TCP_WINDOW_CLAMP, 10_000)
    for _ in range(100):
        s.data(bytes(1000))
        s.sock.recv(1000)
    s.peer.advance("50ms")
    assert s.flow.receive_all()[-1].window <= 65535
    with pytest.raises(OSError) as caught:
        s.sock.setsockopt(SOL_TCP, TCP_WINDOW_CLAMP, 0)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("value, seconds", [(5, 5), (500, 120), (0, 60)])
def test_how_long_an_orphan_waits_for_the_peers_fin(value, seconds):
    s = reach("ESTABLISHED")
    s.sock.setsockopt(SOL_TCP, TCP_LINGER2, value)
    assert s.sock.getsockopt(SOL_TCP, TCP_LINGER2) == seconds
    s.sock.close()
    s.flow.receive_all()
    s.flow.send("A", seq=1, ack=2)
    start = s.peer.clock.now_ns
    count = len(s.peer.stack.sockets())
    while len(s.peer.stack.sockets()) == count:
        s.peer.advance("100ms")
    assert abs((s.peer.clock.now_ns - start) / 1e9 - seconds) < 0.2
