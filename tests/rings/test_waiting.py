"""Waiting: timeouts, signals, threads, selectors, asyncio. No test depends on how long anything takes."""

import asyncio
import os
import selectors
import signal
import threading

import pytest

import rings


class Aside(threading.Thread):
    """A thread whose exception the test sees."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self.function = function
        self.error = None
        self.start()

    def run(self):
        try:
            self.function()
        except BaseException as error:
            self.error = error

    def finish(self):
        self.join(60)
        assert not self.is_alive()
        if self.error:
            raise self.error


@pytest.mark.parametrize("spin_us", [0, 50])
def test_both_sides_wait_for_each_other(ring, spin_us):
    producer, consumer = ring(512)
    producer.spin_us = consumer.spin_us = spin_us
    assert producer.spin_us == spin_us
    count = 20_000

    def produce():
        for i in range(count):
            producer.put(b"%d" % i, timeout=60)
        producer.close()

    aside = Aside(produce)
    assert [int(message) for message in consumer] == list(range(count))
    aside.finish()


def test_there_and_back_with_every_step_asleep(ring):
    there, here = ring(4096), ring(4096)
    for end in (*there, *here):
        end.spin_us = 0

    def echo():
        for message in there[1]:
            here[0].put(message)

    aside = Aside(echo)
    for i in range(2000):
        there[0].put(b"%d" % i)
        assert here[1].get(timeout=60) == b"%d" % i
    there[0].close()
    aside.finish()


def test_a_call_beside_a_waiting_thread_is_refused(ring):
    producer, consumer = ring()
    consumer.spin_us = 0
    inside = threading.Event()

    def wait():
        inside.set()
        assert consumer.get(timeout=60) == b"now"

    aside = Aside(wait)
    inside.wait(60)
    with pytest.raises(rings.RingBusy):
        while aside.is_alive():
            try:
                consumer.get_nowait()
            except rings.RingEmpty:
                pass
    producer.put(b"now")
    aside.finish()


def close_until_awake(end, aside):
    while aside.is_alive():
        end.close()
        aside.join(0.01)
    with pytest.raises(rings.RingClosed):
        aside.finish()


def test_closing_wakes_a_thread_that_waits_for_a_message(ring):
    producer, consumer = ring()
    close_until_awake(consumer, Aside(consumer.get))
    assert consumer.closed


def test_closing_wakes_a_thread_that_waits_for_space(ring):
    producer, consumer = ring(512)
    close_until_awake(producer, Aside(lambda: producer.put_many([b"x" * 50] * 100)))
    assert producer.closed


def test_a_signal_handler_runs_and_its_exception_ends_the_wait(ring):
    producer, consumer = ring()
    calls = []

    def handler(number, frame):
        calls.append(number)
        if len(calls) == 1:
            signal.setitimer(signal.ITIMER_REAL, 0.01)  # once more: this one returned
        else:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            consumer.get(timeout=60)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(calls) == 2
    producer.put(b"still works")
    assert consumer.get(timeout=60) == b"still works"


def test_selectors_tell_of_messages(ring, in_child):
    producer, consumer = ring()
    count = 3000

    def produce():
        with producer.adopt() as end:
            for i in range(count):
                end.put(b"%d" % i, timeout=60)

    got = []
    with selectors.DefaultSelector() as selector:
        selector.register(consumer, selectors.EVENT_READ)
        in_child(produce)
        producer.detach()
        try:
            while True:
                assert selector.select(60)
                try:
                    while True:
                        got.append(int(consumer.get_nowait()))
                except rings.RingEmpty:
                    pass
        except rings.RingClosed:
            pass
    assert got == list(range(count))


def test_selectors_tell_of_space(ring, in_child):
    producer, consumer = ring(512)
    count = 3000

    def consume():
        with consumer.adopt() as end:
            for i in range(count):
                assert end.get(timeout=60) == b"%d" % i

    with selectors.DefaultSelector() as selector:
        selector.register(producer, selectors.EVENT_READ)
        in_child(consume)
        consumer.detach()
        sent = 0
        while sent < count:
            assert selector.select(60)
            try:
                while sent < count:
                    producer.put_nowait(b"%d" % sent)
                    sent += 1
            except rings.RingFull:
                pass


def test_asyncio_both_ways_through_a_small_ring(ring):
    producer, consumer = ring(512)
    count = 2000

    async def produce():
        for i in range(count):
            await producer.aput(b"%d" % i)
        producer.close()

    async def consume():
        return [int(message) async for message in consumer]

    async def main():
        return await asyncio.wait_for(asyncio.gather(consume(), produce()), 60)

    assert asyncio.run(main())[0] == list(range(count))


def test_asyncio_with_another_process(ring, in_child):
    there, here = ring(), ring()

    def echo():
        source, sink = there[1].adopt(), here[0].adopt()
        for message in source:
            sink.put(message, timeout=60)

    in_child(echo)
    there[1].detach()
    here[0].detach()

    async def main():
        for i in range(500):
            await there[0].aput(b"%d" % i)
            assert await asyncio.wait_for(here[1].aget(), 60) == b"%d" % i
        there[0].close()
        with pytest.raises(rings.RingClosed):
            await asyncio.wait_for(here[1].aget(), 60)

    asyncio.run(main())


def test_asyncio_hears_of_a_dead_peer(ring, in_child):
    producer, consumer = ring(512)
    backwards = ring(512)
    ready, tell = os.pipe()

    def child():
        producer.adopt().put(b"last")
        backwards[1].adopt()
        os.write(tell, b"x")
        os.kill(os.getpid(), signal.SIGKILL)

    pid = in_child(child)
    producer.detach()
    backwards[1].detach()
    os.read(ready, 1)

    async def main():
        assert await asyncio.wait_for(consumer.aget(), 60) == b"last"
        with pytest.raises(rings.RingClosed):
            await asyncio.wait_for(consumer.aget(), 60)
        with pytest.raises(rings.RingClosed):
            while True:
                await asyncio.wait_for(backwards[0].aput(b"x" * 50), 60)

    asyncio.run(main())
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(tell)


def test_a_cancelled_wait_takes_nothing(ring):
    producer, consumer = ring()

    async def main():
        waiting = asyncio.ensure_future(consumer.aget())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await producer.aput(b"still there")
        assert await consumer.aget() == b"still there"

    asyncio.run(main())
