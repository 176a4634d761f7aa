"""kill -9 of either side at any instruction: nothing torn, nothing lost of what was published, nothing left.

1,000 kills at full scale; ``NETSTACK_TEST_SCALE`` (default 0.1) scales the number.
"""

import os
import random
import signal
import struct
import time
import zlib

import pytest

import rings
from tests.rings.conftest import left_behind, names, open_fds, ours

KILLS = max(20, int(1000 * float(os.environ.get("NETSTACK_TEST_SCALE", "0.1"))))
HEADER = struct.Struct("<QII")


def message(i, generator):
    body = generator.randbytes(generator.choice((0, 1, 40, 48, 200, 256, 900, 1500)))
    return HEADER.pack(i, len(body), zlib.crc32(body)) + body


def check(data, expected):
    i, length, crc = HEADER.unpack_from(data)
    assert i == expected, f"message {i} where {expected} should come"
    body = data[HEADER.size :]
    assert len(body) == length and zlib.crc32(body) == crc, f"message {i} is torn"


def produce_for_ever(end, seed):
    generator = random.Random(seed)
    end.spin_us = generator.choice((0, 50))
    i = 0
    while True:
        if generator.random() < 0.3:
            end.put_many([message(i + k, generator) for k in range(10)])
            i += 10
        elif generator.random() < 0.3:
            data = message(i, generator)
            end.claim(len(data))[:] = data
            end.publish()
            i += 1
        else:
            end.put(message(i, generator))
            i += 1


def consume_for_ever(end, seed):
    generator = random.Random(seed)
    end.spin_us = generator.choice((0, 50))
    i = 0
    while True:
        for data in end.get_many(generator.randrange(1, 20)):
            check(data, i)
            i += 1


def forked(function, end, seed):
    """Starts a child and waits until the end is its own: from then on its death is the end's death."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(told)
            end.adopt()
            os.close(tell)
            function(end, seed)
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(1)
    os.close(tell)
    assert os.read(told, 1) == b""
    os.close(told)
    end.detach()
    return pid


def kill_soon(pid, generator):
    """After 0 to 4 ms, under load."""
    until = time.monotonic() + generator.random() * 0.004
    return lambda: time.monotonic() >= until and os.kill(pid, signal.SIGKILL) is None


def killed(pid):
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.timeout(900)
def test_a_killed_producer_leaves_whole_messages_and_then_the_end(backend):
    generator = random.Random(1)
    total = 0
    before_fds, before_names = ours(open_fds()), names()
    for n in range(KILLS // 2):
        producer, consumer = rings.ring(8192, backend)
        pid = forked(produce_for_ever, producer, n)
        due = kill_soon(pid, generator)
        dead = False
        i = 0
        while True:
            dead = dead or due()
            try:
                for data in consumer.get_many(timeout=0.0005 if not dead else 60):
                    check(data, i)
                    i += 1
            except rings.RingEmpty:
                assert not dead, "no end came after the producer's death"
            except rings.RingClosed:
                break
        assert killed(pid)
        consumer.close()
        total += i
    assert total > 0
    del producer, consumer
    assert ours(open_fds()) == before_fds
    assert not left_behind(before_names)


@pytest.mark.timeout(900)
def test_a_killed_consumer_ends_the_producer_and_leaves_nothing(backend):
    generator = random.Random(2)
    total = 0
    before_fds, before_names = ours(open_fds()), names()
    for n in range(KILLS // 2):
        producer, consumer = rings.ring(8192, backend)
        pid = forked(consume_for_ever, consumer, n)
        due = kill_soon(pid, generator)
        dead = False
        i = 0
        try:
            while True:
                dead = dead or due()
                try:
                    producer.put(message(i, generator), timeout=0.0005 if not dead else 60)
                    i += 1
                except rings.RingFull:
                    assert not dead, "the producer was not told of the consumer's death"
        except rings.RingClosed:
            pass
        assert killed(pid)
        producer.close()
        total += i
    assert total > 0
    del producer, consumer
    assert ours(open_fds()) == before_fds
    assert not left_behind(before_names)
