"""What the calls promise, one sentence a test."""

import array
import gc

import numpy
import pytest

import rings
from rings import spsc_ring


def test_every_kind_of_bytes_goes_through(ring):
    producer, consumer = ring()
    for data in (b"", b"x", bytearray(b"abc"), memoryview(b"abcdef")[2:4], array.array("H", [1, 2])):
        producer.put(data)
        assert consumer.get_nowait() == bytes(data)


def test_what_is_no_contiguous_buffer_is_refused_and_sends_nothing(ring):
    producer, consumer = ring()
    for wrong, error in (("text", TypeError), (3, TypeError), (memoryview(b"abcdef")[::2], BufferError)):
        with pytest.raises(error):
            producer.put(wrong)
    with pytest.raises(TypeError):
        producer.put_many([b"first", 2])
    assert consumer.get_nowait() == b"first"
    with pytest.raises(rings.RingEmpty):
        consumer.get_nowait()


@pytest.mark.parametrize("capacity", [0, 1, 256, 511, 513, 1000, (1 << 40) + 1])
def test_a_capacity_is_a_power_of_two(backend, capacity):
    with pytest.raises(rings.RingSizeError, match="power of two"):
        rings.ring(capacity, backend)
    with pytest.raises(ValueError):
        rings.channel_pair(capacity, backend)


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="posix, memfd"):
        rings.ring(4096, "disk")


def test_a_message_over_half_of_the_ring_never_fits(ring):
    producer, consumer = ring(4096)
    longest = bytes(producer.max_message)
    producer.put(longest)
    assert consumer.get_nowait() == longest
    for send in (producer.put, producer.claim, lambda data: producer.put_many([data])):
        with pytest.raises(rings.RingSizeError, match=str(producer.max_message)):
            send(longest + b"x" if send != producer.claim else len(longest) + 1)
    with pytest.raises(rings.RingSizeError):
        producer.claim(-1)
    with pytest.raises(rings.RingSizeError):
        producer.claim(1 << 40)


def test_full_and_empty_are_blocking_and_timeout_errors(ring):
    producer, consumer = ring(512)
    with pytest.raises(BlockingIOError):
        consumer.get(timeout=0)
    with pytest.raises(TimeoutError):
        consumer.get(timeout=0.01)
    while producer.free_bytes:
        producer.put_nowait(b"")
    for error in (rings.RingFull, BlockingIOError, TimeoutError):
        with pytest.raises(error):
            producer.put_nowait(b"")
    with pytest.raises(rings.RingFull):
        producer.put(b"", timeout=0.01)
    assert producer.put_many([b"a", b"b"], timeout=0) == 0
    consumer.get_many(1000)
    producer.put_nowait(b"")


def test_put_many_tells_how_many_fitted(ring):
    producer, consumer = ring(512)
    assert producer.put_many([b"%d" % i for i in range(100)], timeout=0) == 8
    assert consumer.get_many(100) == [b"%d" % i for i in range(8)]
    assert producer.put_many(iter([])) == 0


def test_a_timeout_that_is_no_number_is_refused(ring):
    producer, consumer = ring(512)
    with pytest.raises(TypeError):
        consumer.get(timeout="soon")
    with pytest.raises(ValueError):
        consumer.get_many(0)


def test_nothing_is_seen_before_publish(ring):
    producer, consumer = ring()
    window = producer.claim(5)
    window[:] = b"hello"
    with pytest.raises(rings.RingEmpty):
        consumer.get_nowait()
    producer.publish(4)
    assert consumer.get_nowait() == b"hell"


def test_a_claim_is_dropped_by_the_next_call_and_its_view_withdrawn(ring):
    producer, consumer = ring()
    window = producer.claim(5)
    producer.put(b"second")
    with pytest.raises(ValueError):
        window[0] = 1
    assert consumer.get_nowait() == b"second"
    with pytest.raises(ValueError, match="nothing is claimed"):
        producer.publish()


def test_publish_of_more_than_was_claimed_is_refused(ring):
    producer, consumer = ring()
    producer.claim(5)[:] = b"hello"
    for length in (6, -1):
        with pytest.raises(ValueError, match="5 were claimed"):
            producer.publish(length)
    producer.publish()
    assert consumer.get_nowait() == b"hello"


def test_a_failed_put_leaves_nothing_to_publish(ring):
    producer, consumer = ring()
    producer.claim(5)
    with pytest.raises(TypeError):
        producer.put("text")
    with pytest.raises(ValueError, match="nothing is claimed"):
        producer.publish(3)


def test_peeked_memory_in_use_cannot_be_released(ring):
    producer, consumer = ring()
    producer.put(b"hello")
    view = consumer.peek()
    part = view[1:3]
    assert view.readonly
    with pytest.raises(BufferError, match="in use"):
        consumer.release()
    assert bytes(part) == b"el"
    part.release()
    consumer.release()
    with pytest.raises(ValueError):
        bytes(view)


def test_claimed_memory_in_use_cannot_be_published(ring):
    producer, consumer = ring()
    window = producer.claim(5)
    window[:] = b"hello"
    part = window[1:]
    with pytest.raises(BufferError):
        producer.publish()
    with pytest.raises(rings.RingEmpty):
        consumer.get_nowait()
    part.release()
    producer.publish()
    assert consumer.get_nowait() == b"hello"


def test_memory_stays_mapped_while_a_view_lives(backend):
    producer, consumer = rings.ring(4096, backend)
    producer.put(b"still here")
    view = consumer.peek()
    producer.close()
    consumer.close()
    del producer, consumer
    gc.collect()
    assert bytes(view) == b"still here"


def test_a_closed_end_says_so_and_closes_again(ring):
    producer, consumer = ring()
    producer.put(b"last")
    producer.close()
    producer.close()
    assert producer.closed
    for call in (lambda: producer.put(b""), lambda: producer.claim(1), lambda: producer.free_bytes):
        with pytest.raises(rings.RingClosed, match="this end"):
            call()
    assert consumer.get_nowait() == b"last"
    for error in (rings.RingClosed, EOFError, BrokenPipeError):
        with pytest.raises(error):
            consumer.get()
    assert consumer.peer_closed


def test_a_producer_learns_that_the_consumer_closed(ring):
    producer, consumer = ring(512)
    consumer.close()
    with pytest.raises(rings.RingClosed):
        while True:
            producer.put(b"x" * 100)
    with pytest.raises(BrokenPipeError):
        producer.put(b"")


def test_iteration_ends_with_the_producer(ring):
    producer, consumer = ring()
    producer.put_many([b"a", b"b", b"c"])
    producer.close()
    assert list(consumer) == [b"a", b"b", b"c"]


def test_with_closes_both_ends(backend):
    with rings.ring(4096, backend) as pair:
        producer, consumer = pair
        assert pair.producer is producer and pair.consumer is consumer
        with producer:
            producer.put(b"x")
        assert producer.closed
    assert consumer.closed


def test_records_with_a_head_arrive_whole(ring):
    producer, consumer = ring()
    for head_length, length in ((20, 0), (20, 5), (52, 300), (3, 256), (944, 700)):
        head, body = producer.claim_record(length, head_length)
        head[:] = b"h" * head_length
        body[:] = b"b" * length
        producer.publish()
        assert consumer.get_nowait() == b"h" * head_length + b"b" * length
    with pytest.raises(rings.RingSizeError):
        producer.claim_record(10, 945)
    head, body = producer.claim_record(10, 4, spsc_ring.CONTROL)
    head[:] = b"head"
    body[:] = b"0123456789"
    producer.publish()
    kind, head, body = consumer.peek_record()
    assert (kind, bytes(head), bytes(body)) == (spsc_ring.CONTROL, b"head", b"0123456789")
    del head, body
    consumer.release()


def test_bodies_of_256_bytes_start_on_a_cache_line(ring):
    producer, consumer = ring()
    for length, aligned in ((255, False), (256, True), (1500, True)):
        producer.put(bytes(length))
        view = consumer.peek()
        assert (address_of(view) % 64 == 0) == aligned
        del view
        consumer.release()


def address_of(view):
    return numpy.frombuffer(view, dtype=numpy.uint8).ctypes.data


def test_repr_says_what_it_is(ring):
    producer, consumer = ring(4096)
    assert "4096" in repr(producer) and "Producer" in repr(producer)
    consumer.close()
    assert "closed" in repr(consumer)
