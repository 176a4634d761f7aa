"""Two processes: over a fork, a socket, multiprocessing; and what happens when one of them goes."""

import hashlib
import mmap
import multiprocessing
import os
import random
import select
import signal
import socket
import struct

import pytest

import rings


def sizes(seed, count):
    generator = random.Random(seed)
    return [generator.choice((0, 1, 63, 64, 255, 256, 1500, generator.randrange(4000))) for _ in range(count)]


def stream(count):
    for i, size in enumerate(sizes(7, count)):
        yield (b"%08d" % i * (size // 8 + 1))[:size]


def test_messages_of_all_sizes_arrive_in_order_and_whole(ring, in_child):
    producer, consumer = ring(16384)
    count = 20_000

    def produce():
        with producer.adopt() as end:
            for i, message in enumerate(stream(count)):
                if i % 3:
                    end.put(message)
                else:
                    end.claim(len(message))[:] = message
                    end.publish()

    in_child(produce)
    producer.detach()
    digest, expected = hashlib.sha256(), hashlib.sha256()
    for message in stream(count):
        expected.update(b"%d:" % len(message) + message)
    n = 0
    while True:
        try:
            batch = consumer.get_many(16, timeout=60) if n % 2 else [consumer.get(timeout=60)]
        except rings.RingClosed:
            break
        for message in batch:
            digest.update(b"%d:" % len(message) + message)
        n += len(batch)
    assert n == count
    assert digest.digest() == expected.digest()


def test_an_end_travels_over_a_socket(ring, in_child):
    producer, consumer = ring()
    here, there = socket.socketpair()

    def produce():
        here.close()
        with rings.receive_end(there) as end:
            end.put(b"over the socket")

    with here, there:
        in_child(produce)
        rings.send_end(here, producer)
        assert producer.closed
        assert consumer.get(timeout=30) == b"over the socket"
        with pytest.raises(rings.RingClosed):
            consumer.get(timeout=30)


def test_something_else_on_the_socket_is_refused_and_its_fds_closed(backend):
    here, there = socket.socketpair()
    with here, there, open("/dev/null") as null:
        for message, fds in ((b"x" * 24, [null.fileno()]), (b"short", [null.fileno()] * 3)):
            before = len(os.listdir("/proc/self/fd"))
            socket.send_fds(here, [message], fds)
            with pytest.raises(rings.RegionMismatch):
                rings.receive_end(there)
            assert len(os.listdir("/proc/self/fd")) == before
        here.close()
        with pytest.raises(EOFError):
            rings.receive_end(there)


def _spawned(consumer, results):
    with consumer:
        for message in consumer:
            results.put(message[::-1])
    results.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_ends_are_arguments_of_multiprocessing(backend, method):
    context = multiprocessing.get_context(method)
    producer, consumer = rings.ring(4096, backend)
    results, answers = rings.ring(4096, backend)
    process = context.Process(target=_spawned, args=(consumer, results))
    process.start()
    producer.put_many([b"abc", b"def"])
    assert answers.get(timeout=60) == b"cba"
    assert answers.get(timeout=60) == b"fed"
    consumer.detach()
    results.detach()
    producer.close()
    with pytest.raises(rings.RingClosed):
        answers.get(timeout=60)
    process.join(60)
    assert process.exitcode == 0
    answers.close()


def test_a_forked_child_cannot_share_its_parents_end(ring, in_child):
    producer, consumer = ring()
    producer.put(b"for the parent")
    views = [consumer.peek()]

    def child():
        calls = (
            lambda: producer.put(b"x"),
            lambda: producer.free_bytes,
            consumer.get_nowait,
            consumer.release,
        )
        for call in calls:
            with pytest.raises(rings.RingForked, match="adopt"):
                call()
        assert bytes(views[0]) == bytes(len(views[0]))  # zeros, not the parent's memory
        producer.close()
        consumer.close()

    os.waitpid(in_child(child), 0)
    assert bytes(views.pop()) == b"for the parent"
    consumer.release()
    producer.put(b"still open")
    assert consumer.get_nowait() == b"still open"


def test_the_parent_notices_that_the_child_has_taken_over(ring, in_child):
    producer, consumer = ring(512)
    go, gone = os.pipe()

    def child():
        producer.adopt()
        os.write(gone, b"x")
        signal.pause()                        # until it is killed

    pid = in_child(child)
    os.read(go, 1)
    with pytest.raises(rings.RingForked, match="another process"):
        while True:
            producer.put(b"x" * 50, timeout=5)
    producer.close()  # only this process lets go: the ring is the child's
    assert not consumer.peer_closed
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(go)
    os.close(gone)


def test_what_a_dead_producer_published_is_there_then_the_end(ring, in_child):
    producer, consumer = ring()

    def child():
        end = producer.adopt()
        end.put_many([b"one", b"two"])
        end.claim(5)[:] = b"never"
        os.kill(os.getpid(), signal.SIGKILL)

    pid = in_child(child)
    producer.detach()
    assert consumer.get(timeout=30) == b"one"
    assert consumer.get(timeout=30) == b"two"
    with pytest.raises(rings.RingClosed, match="died"):
        consumer.get(timeout=30)
    assert consumer.peer_gone
    with pytest.raises(rings.RingClosed, match="died"):
        consumer.get_nowait()
    os.waitpid(pid, 0)


def test_a_dead_consumer_ends_a_waiting_put(ring, in_child):
    producer, consumer = ring(512)

    def child():
        end = consumer.adopt()
        end.get(timeout=30)
        os.kill(os.getpid(), signal.SIGKILL)

    pid = in_child(child)
    consumer.detach()
    with pytest.raises(rings.RingClosed, match="died"):
        while True:
            producer.put(b"x" * 50, timeout=30)
    os.waitpid(pid, 0)
    with pytest.raises(rings.RingClosed):
        producer.check_peer()


OWNER_PID, OWNER_START, OWNER_NAMESPACE = 276, 280, 288  # words of the producer's region


@pytest.mark.parametrize(
    ("pid", "start", "namespace", "watched", "gone"),
    [
        (0, 0, 0, True, False),
        (0, 1, 0, False, True),  # the id of a later process
        (0, -1, 0, False, True),
        (0, 0, 1, False, False),  # another pid namespace: nothing is known
        (1 << 22, 0, 0, False, True),  # above the largest id there can be
    ],
)
def test_only_the_very_process_that_holds_the_other_end_is_watched(
    ring, in_child, pid, start, namespace, watched, gone
):
    producer, consumer = ring()
    ready, go = os.pipe()

    def hold():
        producer.adopt()
        os.write(go, b"x")
        signal.pause()                        # until it is killed

    child = in_child(hold)
    os.read(ready, 1)
    fd = os.dup(consumer.export().fds[0])
    with mmap.mmap(fd, 0) as memory:
        for at, form, step in ((OWNER_PID, "<I", pid), (OWNER_START, "<Q", start), (OWNER_NAMESPACE, "<Q", namespace)):
            struct.pack_into(form, memory, at, struct.unpack_from(form, memory, at)[0] + step)
    os.close(fd)
    assert consumer.check_peer() is gone
    assert (consumer.peer_fileno >= 0) is watched
    os.kill(child, signal.SIGKILL)
    if watched:
        assert select.select([consumer.peer_fileno], [], [], 30)[0]
        assert consumer.check_peer()
    os.waitpid(child, 0)
    producer.detach()
    for end in (ready, go):
        os.close(end)


def test_a_closed_end_watches_nobody(ring, in_child):
    producer, consumer = ring()

    def produce():
        with producer.adopt() as end:
            end.put(b"one")
            end.put(b"x" * 64, timeout=60)

    in_child(produce)
    producer.detach()
    assert consumer.get(timeout=60) == b"one"
    fd = consumer.peer_fileno
    consumer.close()
    if fd >= 0:                               # the child may have ended before it could be watched
        with pytest.raises(OSError):
            os.fstat(fd)
