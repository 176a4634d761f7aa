"""Channels as links: packets both ways on both kinds of memory, sleep and wake-up, hostile peers."""

import hashlib
import mmap
import os
import random
import select
import socket
import struct
import threading

import pytest

from netstack.link import ChannelLink, channel_pair
from netstack.link.channel import default_capacity
from netstack.testing import LinkDriver
from tests.support import record_header

DATA = 384                         # where the records of a producer's region begin (spsc_ring.h)
TAIL = 128


@pytest.fixture(params=["posix", "memfd"])
def backend(request):
    return request.param


@pytest.fixture
def pair(backend):
    a, b = channel_pair(capacity="256KiB", backend=backend)
    yield LinkDriver(a), LinkDriver(b)
    a.close()
    b.close()


def memory_of(link):
    """A third mapping of the memory that this side writes."""
    fds, layout = link.channel.export()
    return mmap.mmap(fds[0 if layout.side == "a" else 1], 0)


def put(link, data, kind=1):
    """Write a record behind the link's back."""
    tx = link.channel.tx
    _, body = tx.claim_record(len(data), kind=kind)
    body[:] = data
    tx.commit()


def test_packets_arrive_in_order_with_their_split(pair):
    a, b = pair
    sent = [(bytes([i % 256]) * 52, bytes([i % 251]) * (i * 37 % 1449)) for i in range(200)]
    got = []
    for i, (head, body) in enumerate(sent):
        assert a.send(head + body, head=52)
        if i % 10 == 9:
            got += b.receive_split(100)
    assert got == sent
    assert b.send(b"r" * 40) and a.receive() == [b"r" * 40]


@pytest.mark.parametrize("head", [None, 0, 40, 944, 945, 60000])
def test_a_packet_of_64_kib_passes_whatever_its_split(pair, head):
    a, b = pair
    packet = random.Random(1).randbytes(65535)
    assert a.send(packet, head=head)
    assert b.receive() == [packet]


def test_unflushed_packets_stay_invisible(pair):
    a, b = pair
    a.write(bytes(40))
    assert not b.has_input() and b.receive() == []
    a.flush()
    assert b.has_input() and len(b.receive()) == 1


def test_a_full_ring_is_backpressure_and_loses_nothing(pair):
    a, b = pair
    sent = 0
    while a.send(struct.pack("I", sent) + bytes(1496), head=40):
        sent += 1
    assert 100 < sent < 200 and a.link.stats()["refused"] == 1
    got = b.receive(10**6)
    assert [struct.unpack_from("I", p)[0] for p in got] == list(range(sent))
    assert a.send(bytes(1500), head=40)


def test_sleeping_for_input_is_woken_once_by_the_kind_that_sleeps(pair):
    a, b = pair
    for kind, other in (("leader", "service"), ("service", "leader")):
        assert not b.arm(kind)
        for _ in range(5):
            a.send(bytes(40))
        assert select.select([b.poll_fd(kind)], [], [], 5)[0]
        assert not select.select([b.poll_fd(other)], [], [], 0)[0]
        b.drain_fd(kind)
        assert not select.select([b.poll_fd(kind)], [], [], 0)[0]
        b.disarm()
        assert len(b.receive()) == 5
    a.send(bytes(40))
    assert b.arm("leader")
    assert not select.select([b.poll_fd("leader")], [], [], 0)[0]


def test_sleeping_for_room_is_woken_when_the_peer_makes_some(pair):
    a, b = pair
    while a.send(bytes(1500), head=40):
        pass
    assert not a.arm("leader")
    b.receive(10**6)
    assert select.select([a.poll_fd("leader")], [], [], 5)[0]
    a.drain_fd("leader")
    a.disarm()
    assert a.send(bytes(1500), head=40)
    assert not a.arm("leader")


def test_records_that_are_no_packet_are_dropped_and_counted(pair):
    from rings.spsc_ring import CONTROL

    a, b = pair
    a.send(bytes(19))
    a.send(b"")
    put(a.link, b"x" * 40, kind=CONTROL)
    a.send(b"p" * 20)
    assert b.receive() == [b"p" * 20]
    assert b.link.stats()["malformed"] == 3 and not b.dead


def test_a_packet_above_the_mtu_is_refused_and_dropped(backend):
    a, b = channel_pair(capacity="256KiB", backend=backend, mtu=1500)
    a, b = LinkDriver(a), LinkDriver(b)
    assert a.send(bytes(1500), head=40) and not a.send(bytes(1501), head=40)
    put(a.link, bytes(1501))
    a.link.channel.flush()
    assert b.receive() == [bytes(1500)] and b.link.stats()["malformed"] == 1
    a.link.close()
    b.link.close()


@pytest.mark.parametrize("word", [0, 7, 0xFFFFFFFF, 1 << 52, 1 << 63])
def test_a_damaged_record_header_costs_the_packets_published_with_it(pair, word):
    a, b = pair
    memory = memory_of(a.link)
    a.write(b"1" * 40)
    a.write(b"2" * 40)
    a.write(b"3" * 40)
    struct.pack_into("<Q", memory, DATA + 64, word)
    a.flush()
    assert b.receive() == [b"1" * 40] and not b.dead
    assert b.link.stats()["header_errors"] == 1 and b.link.stats()["lost_bytes"] == 128
    assert a.send(b"4" * 40) and b.receive() == [b"4" * 40]
    assert b.link.stats()["header_errors"] == 1 and not b.link.stats()["poisoned"]


@pytest.mark.parametrize(
    "record", [(0,), (7,), (0xFFFFFFFF,), (64, 0), (64, 2), (64, 1, 0), (64, 1, 64, 1000)], ids=str)
def test_an_impossible_record_poisons_and_kills_the_link(pair, record):
    a, b = pair
    memory = memory_of(a.link)
    a.write(bytes(40))
    struct.pack_into("<Q", memory, DATA, record_header(0, *record))
    a.flush()
    assert b.receive() == []
    assert b.dead and b.link.stats()["poisoned"]
    assert b.receive() == []


@pytest.mark.parametrize("tail", [1, 65, 1 << 40, (1 << 64) - 64])
def test_an_impossible_index_poisons_and_kills_the_link(pair, tail):
    a, b = pair
    struct.pack_into("<Q", memory_of(a.link), TAIL, tail)
    assert b.receive() == [] and b.dead and b.link.stats()["poisoned"]


@pytest.mark.parametrize("owner", [0, 1], ids=["its own", "ours"])
@pytest.mark.parametrize("kept", [0, 4096, 1 << 17])
def test_a_peer_that_truncates_memory_kills_the_link_alone(pair, backend, owner, kept):
    a, b = pair
    other, another = (LinkDriver(link) for link in channel_pair(capacity="256KiB", backend=backend))
    fds, _ = a.link.channel.export()
    if backend == "memfd":
        with pytest.raises(PermissionError):
            os.ftruncate(fds[owner], kept)
        assert a.send(bytes(40)) and b.receive() == [bytes(40)]
    else:
        os.ftruncate(fds[owner], kept)
        for _ in range(1000):                     # until what is gone is used
            a.send(bytes(1000), head=40)
            b.send(bytes(1000), head=40)
            a.receive()
            b.receive()
            if a.dead and b.dead:
                break
        for end in pair:
            assert end.dead and end.link.stats()["truncated"]
            assert end.receive() == [] and not end.send(bytes(40))
    assert other.send(bytes(40)) and another.receive() == [bytes(40)]
    other.link.close()
    another.link.close()


def test_random_words_in_the_peers_memory_never_show_more_than_a_packet(pair):
    a, b = pair
    rng = random.Random(7)
    memory = memory_of(a.link)
    for _ in range(300):
        a.send(bytes(rng.randrange(20, 3000)), head=40)
        struct.pack_into("<Q", memory, DATA + 8 * rng.randrange(0, 4096), rng.getrandbits(64))
        for packet in b.receive():
            assert 20 <= len(packet) <= 65535
        if b.dead:
            break


def test_closing_is_seen_after_the_last_packet(pair):
    a, b = pair
    a.send(b"l" * 20)
    a.link.close()
    assert b.receive() == [b"l" * 20]
    b.receive()
    assert b.dead and not b.send(bytes(20))
    assert a.dead and not a.send(bytes(20)) and a.receive() == [] and a.poll_fd() == -1
    a.link.close()


def test_closing_wakes_a_sleeper(pair):
    a, b = pair
    assert not b.arm()
    a.link.close()
    assert select.select([b.poll_fd()], [], [], 5)[0]


def test_a_thread_at_each_end_moves_packets_asleep_and_awake(pair):
    a, b = pair
    rng = random.Random(3)
    packets = [rng.randbytes(rng.randrange(20, 9000)) for _ in range(3000)]
    digest = hashlib.sha256()
    count = 0
    problems = []

    def consume():
        nonlocal count
        try:
            for _ in range(100_000):
                for packet in b.receive():
                    digest.update(packet)
                    count += 1
                if count == len(packets):
                    return
                if not b.arm():
                    assert select.select([b.poll_fd()], [], [], 30)[0], "a wake-up was lost"
                    b.drain_fd()
                    b.disarm()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    for packet in packets:
        while not a.send(packet, head=40):
            if not a.arm():
                assert select.select([a.poll_fd()], [], [], 30)[0], "a wake-up was lost"
                a.drain_fd()
                a.disarm()
            assert thread.is_alive()
    thread.join(60)
    assert not problems and count == len(packets)
    assert digest.digest() == hashlib.sha256(b"".join(packets)).digest()


def child(link):
    """Runs in another process: sends every packet back, reversed, until one is empty of payload."""
    driver = LinkDriver(link)
    for _ in range(100_000):
        for packet in driver.receive():
            driver.send(packet[::-1])
            if len(packet) == 20:
                return
        if not driver.arm():
            select.select([driver.poll_fd()], [], [], 30)
            driver.drain_fd()
            driver.disarm()


def converse(link, pid):
    driver = LinkDriver(link)
    try:
        for n in (1000, 65535, 21, 20):
            packet = random.Random(n).randbytes(n)
            assert driver.send(packet)
            for _ in range(100):
                if got := driver.receive():
                    break
                if not driver.arm():
                    assert select.select([driver.poll_fd()], [], [], 30)[0]
                    driver.drain_fd()
                    driver.disarm()
            assert got == [packet[::-1]]
    finally:
        link.close()
        assert os.waitpid(pid, 0)[1] == 0


def in_child(function, *args):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function(*args)
            code = 0
        finally:
            os._exit(code)
    return pid


def test_a_forked_child_adopts_its_side(backend):
    a, b = channel_pair(backend=backend)
    pid = in_child(lambda: child(b.adopt()))
    b.detach()
    converse(a, pid)


def test_another_process_attaches_by_descriptors(backend):
    a, b = channel_pair(backend=backend, mtu=65535)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def attach_and_serve():
        data, fds, _, _ = socket.recv_fds(there, 200, 10)
        child(ChannelLink.attach(fds, data))

    pid = in_child(attach_and_serve)
    fds, description = b.export()
    socket.send_fds(here, [description], fds)
    converse(a, pid)
    b.detach()
    here.close()
    there.close()


def test_a_forked_childs_link_is_dead_and_the_parents_lives(pair):
    a, b = pair

    def use():
        assert not a.send(bytes(40)) and a.dead
        assert a.receive() == [] and a.arm() and a.poll_fd() == -1
        a.link.close()

    assert os.waitpid(in_child(use), 0)[1] == 0
    assert a.send(bytes(40)) and len(b.receive()) == 1


def test_descriptions_that_are_none_say_so_and_close_the_descriptors():
    from rings.errors import RegionMismatch

    r, w = os.pipe()
    with pytest.raises(RegionMismatch):
        ChannelLink.attach([r, w], b"nonsense")
    with pytest.raises(OSError):
        os.fstat(r)


def test_settings_that_cannot_be_say_why():
    with pytest.raises(ValueError, match="power of two from 256 KiB on"):
        channel_pair(capacity=300_000)
    with pytest.raises(ValueError, match="power of two from 256 KiB on"):
        channel_pair(capacity="64KiB")
    with pytest.raises(ValueError, match="68 to 65535"):
        channel_pair(mtu=66000)
    with pytest.raises(ValueError, match="posix"):
        channel_pair(backend="sysv")
    assert default_capacity() >= 256 << 10


def test_a_channel_without_checksums_says_so():
    a, b = channel_pair(checksum=False)
    assert a.checksum is False and LinkDriver(a).capabilities == 3
    b.close()
    a.close()
    a, b = channel_pair()
    assert a.checksum is True and LinkDriver(a).capabilities == 0
    a.close()
    b.close()
