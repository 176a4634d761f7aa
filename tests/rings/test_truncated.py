"""Memory that the other side truncates: a clear error with posix memory, refused by the kernel with memfd.

What the ring does not own still kills: the guard only stands before the memory of rings.
"""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

import rings

PAGE = os.sysconf("SC_PAGESIZE")
CAPACITY = 8 * PAGE


def memory_of(end):
    return end.export().fds[0]


def truncated(end, size=0):
    """Truncate the memory of a ring; False where the kernel refuses."""
    fd = memory_of(end)
    if end.export().backend == "memfd":
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
        return False
    os.ftruncate(fd, size)
    return True


def test_the_consumer_is_told(ring):
    producer, consumer = ring(CAPACITY)
    producer.put(b"before")
    if truncated(consumer):
        with pytest.raises(rings.RingTruncated, match="truncated by its other side"):
            consumer.get(timeout=0)
        with pytest.raises(rings.RingPoisoned):  # also under its wider name, and for good
            consumer.get(timeout=20)
    else:
        assert consumer.get() == b"before"


def test_the_producer_is_told(ring):
    producer, consumer = ring(CAPACITY)
    if truncated(producer):
        with pytest.raises(rings.RingTruncated):
            producer.put(b"into nothing")
        for operation in (lambda: producer.put(b"again"), lambda: producer.claim(10), lambda: producer.free_bytes):
            with pytest.raises(rings.RingTruncated):
                operation()
    else:
        producer.put(b"through")
        assert consumer.get() == b"through"


@pytest.mark.parametrize("kept", [0, 1, 2, 5, 9])
def test_any_part_of_the_memory_may_be_gone(ring, kept):
    """Index pages, the data or only the consumer's words: as soon as what is gone is used."""
    producer, consumer = ring(CAPACITY)
    if not truncated(producer, kept * PAGE):
        return
    with pytest.raises(rings.RingTruncated):
        for _ in range(100):
            producer.put(bytes(1000))
            consumer.get()
    for end in (producer, consumer):
        end.close()
        end.close()


def test_a_message_whose_bytes_went_away_is_not_delivered(ring):
    """The record's header is still there, the end of its body is not."""
    producer, consumer = ring(CAPACITY)
    producer.put(bytes(3 * PAGE))
    if truncated(consumer, 3 * PAGE):
        with pytest.raises(rings.RingTruncated):
            consumer.get()
    else:
        assert consumer.get() == bytes(3 * PAGE)


def test_views_stay_readable_and_the_release_tells(ring):
    producer, consumer = ring(CAPACITY)
    producer.put(b"here" * 100)
    view = consumer.peek()
    if truncated(consumer):
        assert bytes(view) == b"\xff" * 400
        with pytest.raises(rings.RingTruncated):
            consumer.release()
        view.release()
    else:
        assert bytes(view) == b"here" * 100
        consumer.release()


def test_one_who_sleeps_is_told_when_it_is_woken(ring, in_child):
    producer, consumer = ring(CAPACITY)
    posix = producer.export().backend == "posix"
    memory, bell, _ = producer.export().fds

    def hostile():
        if posix:
            os.ftruncate(memory, 0)
            os.write(bell, (1).to_bytes(8, sys.byteorder))
        else:
            with pytest.raises(PermissionError):
                os.ftruncate(memory, 0)
            producer.adopt().put(b"as if nothing were")

    consumer.spin_us = 0
    in_child(hostile)
    if posix:
        with pytest.raises(rings.RingTruncated):
            consumer.get(timeout=60)
    else:
        assert consumer.get(timeout=60) == b"as if nothing were"


def test_other_rings_of_the_process_go_on(ring):
    rings_before = [ring(CAPACITY) for _ in range(300)]  # more than one chunk of the guard's table
    victim = rings_before[150]
    victim.producer.put(b"x")
    if truncated(victim.consumer):
        with pytest.raises(rings.RingTruncated):
            victim.consumer.get()
    for producer, consumer in [pair for pair in rings_before if pair is not victim] + [ring(CAPACITY)]:
        producer.put(b"unharmed")
        assert consumer.get() == b"unharmed"


def test_an_end_cannot_be_attached_to_what_is_gone(ring):
    producer, _ = ring(CAPACITY)
    if truncated(producer):
        state = producer.export
        with pytest.raises(rings.RingError):
            producer.put(b"")
        with pytest.raises(rings.RingTruncated):
            state()


@pytest.mark.parametrize("side", [0, 1])
def test_both_sides_of_a_channel_are_told(backend, side):
    """Both memories are in both processes' hands: each side may truncate the other's, too."""
    here, there = rings.channel_pair(CAPACITY, backend)
    with here, there:
        fds, _ = there.export()
        if backend == "memfd":
            with pytest.raises(PermissionError):
                os.ftruncate(fds[side], 0)
            return
        os.ftruncate(fds[side], 0)
        for channel in (here, there):
            with pytest.raises(rings.RingTruncated):
                channel.tx.claim_record(10)
                channel.tx.commit()
                channel.flush()
                channel.rx.peek_record()
                assert channel.tx.free_bytes >= 0  # looks at the consumer's words
                channel.tx.claim_record(10)


def test_the_guard_works_in_a_forked_child(ring, in_child):
    producer, consumer = ring(CAPACITY)
    producer.put(b"x")
    if not truncated(consumer):
        return
    with pytest.raises(rings.RingTruncated):
        consumer.get()

    def child():
        with pytest.raises(rings.RingForked):
            consumer.get()
        inner, outer = rings.ring(CAPACITY)
        os.ftruncate(memory_of(inner), 0)
        with pytest.raises(rings.RingTruncated):
            inner.put(b"x")
        outer.close()

    in_child(child)


# ---- and everything else

PRELUDE = """
    import faulthandler, mmap, os, signal, sys, rings

    def lose_ring(pair):
        os.ftruncate(pair.producer.export().fds[0], 0)
        try:
            pair.producer.put(b"x")
        except rings.RingTruncated:
            print("told", flush=True)

    def real_bug():
        fd = os.memfd_create("file of somebody else")
        os.ftruncate(fd, mmap.PAGESIZE)
        foreign = mmap.mmap(fd, mmap.PAGESIZE)
        os.ftruncate(fd, 0)
        foreign[0]
"""

ORDERS = {
    "without faulthandler": "pair = rings.ring(4096)",
    "faulthandler first": "faulthandler.enable(); pair = rings.ring(4096)",
    "faulthandler later": "pair = rings.ring(4096); faulthandler.enable()",
    "faulthandler between two": "rings.ring(4096); faulthandler.enable(); pair = rings.ring(4096)",
    "faulthandler came and went": "rings.ring(4096); faulthandler.enable(); pair = rings.ring(4096); "
    "faulthandler.disable(); pair = rings.ring(4096)",
    "faulthandler was there before": "faulthandler.enable(); rings.ring(4096); faulthandler.disable(); "
    "pair = rings.ring(4096)",
}


def python(*lines):
    program = textwrap.dedent(PRELUDE) + "\n".join(lines)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("order", ORDERS)
def test_truncation_is_survived_whenever_faulthandler_came(order):
    done = python(ORDERS[order], "lose_ring(pair)", "lose_ring(rings.ring(4096))", "print('alive')")
    assert (done.stdout, done.returncode) == ("told\ntold\nalive\n", 0), done.stderr
    if order != "faulthandler later":  # which says what it saw before it passes the signal on
        assert "Fatal" not in done.stderr


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("lost_before", [False, True])
def test_other_memory_that_is_gone_kills_as_ever(order, lost_before):
    lose = "lose_ring(rings.ring(4096))" if lost_before else ""
    done = python(lose, ORDERS[order], "real_bug()", "print('alive')")
    assert done.returncode == -signal.SIGBUS, done.stderr
    assert "alive" not in done.stdout
    here = order in ("faulthandler first", "faulthandler later", "faulthandler between two")
    assert ("real_bug" in done.stderr) == here, "faulthandler still shows where"


@pytest.mark.parametrize("order", [order for order in ORDERS if order != "faulthandler came and went"])
@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGBUS)", "signal.raise_signal(signal.SIGBUS)"])
def test_a_signal_that_is_sent_kills_as_ever(order, how):
    done = python(ORDERS[order], how, "print('alive')")
    assert done.returncode == -signal.SIGBUS and "alive" not in done.stdout, done.stderr


@pytest.mark.parametrize("first", [True, False])
def test_a_handler_in_python_goes_on_working(first):
    handler = "signal.signal(signal.SIGBUS, lambda *_: print('handled'))"
    lines = [handler, "pair = rings.ring(4096)"] if first else ["rings.ring(4096)", handler, "pair = rings.ring(4096)"]
    done = python(*lines, *["signal.raise_signal(signal.SIGBUS)", "lose_ring(rings.ring(4096))"] * 2, "print('alive')")
    assert done.stdout.splitlines() == ["handled", "told", "handled", "told", "alive"], done.stderr


def test_an_ignored_signal_stays_ignored():
    done = python("signal.signal(signal.SIGBUS, signal.SIG_IGN)", "pair = rings.ring(4096)",
                  "os.kill(os.getpid(), signal.SIGBUS)", "lose_ring(pair)", "print('alive')")
    assert done.stdout == "told\nalive\n", done.stderr
