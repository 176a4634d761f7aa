"""A peer that writes anything into its words and records: poisoned at worst, never led astray."""

import dataclasses
import errno
import os
import struct

import pytest

import rings
from rings.mapping import Mapping
from tests.support import record_header

CAPACITY = 4096
TAIL, DATA = 128, 384
CONSUMER = DATA + CAPACITY + (-(DATA + CAPACITY) % 4096)
HEAD = CONSUMER + 128


@pytest.fixture
def words(ring):
    """A ring, and the peer's hand in its memory."""
    producer, consumer = ring(CAPACITY)
    memory = memoryview(mapping(producer))
    yield producer, consumer, memory
    memory.release()


def mapping(end):
    """The same memory mapped once more, as the other process has it."""
    fd = os.dup(end.export().fds[0])
    try:
        return Mapping(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def poke(memory, at, value, form="<Q"):
    struct.pack_into(form, memory, at, value & (1 << 8 * struct.calcsize(form)) - 1)


def word(memory, at):
    return struct.unpack_from("<Q", memory, at)[0]


@pytest.mark.parametrize(
    "step", [CAPACITY + 64, -64, 1, 63, 1 << 63, -CAPACITY, CAPACITY * 2, (1 << 64) - 128], ids=hex
)
def test_an_impossible_tail_poisons_for_ever(words, step):
    producer, consumer, memory = words
    producer.put(b"one")
    assert consumer.get_nowait() == b"one"
    good = word(memory, TAIL)
    poke(memory, TAIL, good + step)
    with pytest.raises(rings.RingPoisoned):
        consumer.get_nowait()
    poke(memory, TAIL, good)
    producer.put(b"two")
    for call in (consumer.get_nowait, consumer.get, lambda: consumer.get_many(), consumer.peek):
        with pytest.raises(ConnectionAbortedError):
            call()


def test_a_tail_that_goes_back_behind_what_was_seen_poisons(words):
    producer, consumer, memory = words
    producer.put_many([b"one", b"two", b"three"])
    consumer.peek()
    poke(memory, TAIL, 64)
    consumer.peek(), consumer.peek()
    with pytest.raises(rings.RingPoisoned):
        consumer.peek(timeout=1)


@pytest.mark.parametrize("step", [64, -64, 1 << 40, 1 << 63, CAPACITY], ids=hex)
def test_an_impossible_head_poisons_the_producer(words, step):
    producer, consumer, memory = words
    producer.put(b"one")
    consumer.get_nowait()
    with pytest.raises(rings.RingEmpty):
        consumer.get_nowait()
    assert producer.free_bytes == CAPACITY
    poke(memory, HEAD, word(memory, HEAD) + step)
    assert producer.free_bytes == 0
    with pytest.raises(rings.RingPoisoned):
        producer.put_nowait(b"x" * 1000)
    poke(memory, HEAD, word(memory, TAIL))
    with pytest.raises(rings.RingPoisoned):
        producer.put(b"x")


def header(length, kind=1, body_offset=2, head_length=0):
    """Of a record at index 0, as a producer writes it that means harm: its check is right."""
    return record_header(0, length, kind, 4 * body_offset, head_length)


@pytest.mark.parametrize(
    "bad",
    [
        header(0),
        header(7),
        header(65),
        header(0x10040),
        header(CAPACITY + 1),
        header(0x7FFFFFFF),
        header(0xFFFFFFF8),
        header(0xFFFFFFFF),
        header(64, kind=0),
        header(64, kind=2),
        header(64, body_offset=0),
        header(64, body_offset=1),
        header(64, body_offset=17),
        header(64, body_offset=255),
        header(64, head_length=1),
        header(64, body_offset=16, head_length=57),
        header(64, body_offset=16, head_length=0x3FF),
        header(16, kind=2, head_length=0),
        header(24, kind=2, head_length=8),
    ],
    ids=hex,
)
def test_an_impossible_record_poisons_and_gives_nothing(words, bad):
    producer, consumer, memory = words
    producer.put(b"x" * 40)
    good = word(memory, DATA)
    poke(memory, DATA, bad)
    for call in (consumer.get_nowait, lambda: consumer.get_many(timeout=0), lambda: consumer.get(0.1)):
        with pytest.raises(rings.RingPoisoned):
            call()
    poke(memory, DATA, good)
    with pytest.raises(rings.RingPoisoned):
        consumer.get_nowait()


@pytest.mark.parametrize("bit", range(64))
def test_a_flipped_bit_of_a_header_costs_what_was_published_and_is_told_once(words, bit):
    producer, consumer, memory = words
    producer.put_many([b"one" * 10, b"two", b"three" * 20])
    poke(memory, DATA + 64, word(memory, DATA + 64) ^ 1 << bit)
    assert consumer.get_nowait() == b"one" * 10
    with pytest.raises(rings.RingDamaged, match="damaged in memory") as told:
        consumer.get_nowait()
    assert told.value.errno == errno.EIO
    assert (consumer.header_errors, consumer.lost_bytes) == (1, 64 + 128)
    with pytest.raises(rings.RingEmpty):
        consumer.get_nowait()
    assert producer.free_bytes == CAPACITY
    producer.put(b"after")
    assert consumer.get(timeout=10) == b"after"


def test_messages_before_the_damage_come_first_in_every_way_to_get_them(words):
    producer, consumer, memory = words
    for turn in range(1, 3):
        at = word(memory, TAIL)
        producer.put_many([b"one", b"two", b"three"])
        poke(memory, DATA + at + 128, word(memory, DATA + at + 128) ^ 1 << 40)
        if turn == 1:
            assert consumer.get_many() == [b"one", b"two"]
        else:
            views = [consumer.peek(), consumer.peek()]
        with pytest.raises(rings.RingDamaged):
            consumer.get_many(timeout=10) if turn == 1 else consumer.peek(timeout=10)
        if turn == 2:
            assert [bytes(view) for view in views] == [b"one", b"two"], "what was peeked stays until its release"
            consumer.release()
        with pytest.raises(rings.RingEmpty):
            consumer.get_nowait()
        assert consumer.header_errors == turn and producer.free_bytes == CAPACITY


def test_memory_that_was_never_written_is_no_record(words):
    producer, consumer, memory = words
    poke(memory, TAIL, 192)
    with pytest.raises(rings.RingDamaged):
        consumer.get_nowait()
    assert consumer.lost_bytes == 192


def test_a_record_of_an_earlier_lap_is_no_record(words):
    producer, consumer, memory = words
    for _ in range(CAPACITY // 64):
        producer.put(b"x")
        consumer.get_nowait()
    poke(memory, TAIL, CAPACITY + 64)
    with pytest.raises(rings.RingDamaged):
        consumer.get_nowait()


def test_padding_must_reach_exactly_to_the_end(words):
    producer, consumer, memory = words
    producer.put(b"x" * 40)
    poke(memory, DATA, header(CAPACITY - 64, kind=0))
    poke(memory, TAIL, CAPACITY)
    with pytest.raises(rings.RingPoisoned):
        consumer.get_nowait()


def test_a_ring_full_of_padding_is_only_empty(words):
    producer, consumer, memory = words
    for turn in range(1, 4):
        poke(memory, DATA, record_header(CAPACITY * (turn - 1), CAPACITY, 0, 0))
        poke(memory, TAIL, CAPACITY * turn)
        with pytest.raises(rings.RingEmpty):
            consumer.get_nowait()
        assert word(memory, HEAD) == CAPACITY * turn


def test_other_words_of_the_peer_cost_at_most_a_kick(words):
    producer, consumer, memory = words
    for noise in (1, 2, 3, 0xFFFFFFFFFFFFFFFF, 0x8000000000000001):
        poke(memory, CONSUMER + 256, noise)  # the consumer's sleep word
        poke(memory, 256, noise)  # the producer's
        producer.put(b"x")
        assert consumer.get_nowait() == b"x"


def test_memory_that_is_no_such_ring_is_not_attached(words):
    producer, consumer, memory = words
    state = consumer.export()

    def attach(**changes):
        return rings.attach(dataclasses.replace(state, fds=tuple(os.dup(fd) for fd in state.fds), **changes))

    with pytest.raises(rings.RegionMismatch, match="4096|bytes"):
        attach(capacity=CAPACITY * 2)
    with pytest.raises(rings.RegionMismatch, match="generation"):
        attach(generation=state.generation + 1)
    for at in (0, 8, 12, 16, CONSUMER, CONSUMER + 8, CONSUMER + 16, CONSUMER + 24):
        good = memory[at]
        memory[at] = good ^ 0xFF
        with pytest.raises(rings.RegionMismatch):
            attach()
        memory[at] = good
    attach().detach()


def test_an_attach_to_impossible_indices_is_poisoned(words):
    producer, consumer, memory = words
    state = producer.export()
    poke(memory, HEAD, 64)
    with pytest.raises(rings.RingPoisoned):
        rings.attach(dataclasses.replace(state, fds=tuple(os.dup(fd) for fd in state.fds)))
