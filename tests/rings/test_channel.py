"""Channels: two rings, who may write where, and a side that moves to another process."""

import os
import socket

import pytest

import rings
from rings.channel import ChannelLayout
from rings.spsc_ring import LEADER, SERVICE


def send(side, body, head=b""):
    record = side.tx.claim_record(len(body), len(head))
    record[0][:] = head
    record[1][:] = body
    side.tx.commit()
    side.flush()


def receive(side):
    record = side.rx.peek_record()
    if record is None:
        return None
    _, head, body = record
    got = bytes(head), bytes(body)
    del head, body, record
    side.release()
    return got


@pytest.fixture
def pair(backend):
    sides = rings.channel_pair(4096, backend)
    yield sides
    for side in sides:
        side.close()


def test_both_directions_carry_records_with_heads(pair):
    a, b = pair
    for _ in range(200):
        send(a, b"to b" * 60, b"head")
        send(b, b"to a")
        assert receive(b) == (b"head", b"to b" * 60)
        assert receive(a) == (b"", b"to a")
    assert receive(a) is None and receive(b) is None


@pytest.mark.parametrize("single_writer", [False, True])
def test_a_side_travels_over_a_socket(backend, single_writer, in_child):
    if single_writer and backend == "posix":
        with pytest.raises(ValueError):
            rings.channel_pair(4096, backend, single_writer=True)
        return
    a, b = rings.channel_pair(4096, backend, single_writer=single_writer)
    here, there = socket.socketpair()

    def child():
        message, fds, flags, _ = socket.recv_fds(there, 100, ChannelLayout.FDS)
        with rings.Channel.attach(fds, ChannelLayout.unpack(message)) as side:
            assert side.layout.single_writer == (single_writer, False)
            with memoryview(side._regions[0].mapping) as theirs:
                assert theirs.readonly  # nothing of the other side's can be written
            while receive(side) is None:
                os.sched_yield()
            send(side, b"answer")

    with here, there, a:
        in_child(child)
        fds, layout = b.export()
        socket.send_fds(here, [layout.pack()], fds)
        b.detach()
        send(a, b"question")
        while not a.rx.has_data:
            os.sched_yield()
        assert receive(a) == (b"", b"answer")
        while not a.rx.peer_closed:
            os.sched_yield()
        with pytest.raises(rings.RingClosed):
            a.rx.peek_record()


def test_a_forked_child_adopts_a_side(pair, in_child):
    a, b = pair

    def child():
        with pytest.raises(rings.RingForked):
            b.rx.peek_record()
        with b.adopt() as side:
            send(side, b"from the child")

    pid = in_child(child)
    os.waitpid(pid, 0)
    assert receive(a) == (b"", b"from the child")
    b.detach()


def test_a_sleeper_is_kicked_on_the_doorbell_of_its_kind_and_once(pair):
    a, b = pair
    assert b.own_fds == a.peer_fds and a.own_fds == b.peer_fds
    for kind, other in ((LEADER, SERVICE), (SERVICE, LEADER)):
        assert not b.rx.arm(kind)
        send(a, b"wake up")
        send(a, b"once is enough")
        assert b.doorbells[kind].drain()
        assert not b.doorbells[kind].drain()
        assert not b.doorbells[other].drain()
        while receive(b):
            pass


def test_layouts_pack_and_anything_else_is_refused(pair):
    layout = pair[1].layout
    packed = layout.pack()
    assert len(packed) == 32
    assert ChannelLayout.unpack(packed) == layout
    for i in (0, 4, 6, 7, 8, 24):
        bad = bytearray(packed)
        bad[i] ^= 0xFF
        with pytest.raises(rings.RegionMismatch):
            ChannelLayout.unpack(bytes(bad))
    for bad in (b"", packed[:-1], packed + b"x"):
        with pytest.raises(rings.RegionMismatch):
            ChannelLayout.unpack(bad)
    with pytest.raises(ValueError):
        ChannelLayout(side="c", backend="posix", capacity=4096, generation=0)


def test_a_wrong_set_of_fds_is_refused_and_closed(pair):
    a, b = pair
    fds, layout = b.export()
    before = set(os.listdir("/proc/self/fd"))
    for wrong in (fds[:5], fds + fds[:1], [fds[2], *fds[1:]], []):
        with pytest.raises((rings.RegionMismatch, OSError)):
            rings.Channel.attach([os.dup(fd) for fd in wrong], layout)
        assert set(os.listdir("/proc/self/fd")) == before


def test_closing_tells_the_peer_in_both_rings(pair):
    a, b = pair
    send(a, b"last")
    a.close()
    a.close()
    assert receive(b) == (b"", b"last")
    with pytest.raises(rings.RingClosed):
        b.rx.peek_record()
    assert b.tx.peer_closed
    with pytest.raises(rings.RingClosed):
        a.export()
    with pytest.raises(rings.RingClosed):
        a.flush()
    assert "closed" in repr(a)
