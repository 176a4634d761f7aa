"""The UDP receive queue is a bounded queue of datagrams, verified over exactly the bytes it keeps."""

import errno
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from netstack.counters import DropReason as R
from netstack.testing.probe import UdpProbe
from netstack.wire import udp
from tests.support import scale

US, PEER = "10.0.0.1", "10.0.0.2"


def datagram(payload=b"payload", sport=1000, src=PEER) -> bytes:
    return udp.build(src, US, sport, 2000, payload)


@given(st.lists(st.tuples(st.binary(max_size=100), st.integers(0, 65535)), max_size=20))
def test_datagrams_come_out_as_they_came_in(datagrams):
    queue = UdpProbe()
    for payload, sport in datagrams:
        assert queue.deliver(datagram(payload, sport)) == R.DROP_NONE
    assert queue.queued[0] == len(datagrams)
    for payload, sport in datagrams:
        assert queue.receive(peek=True) == (payload, len(payload), PEER, sport)
        assert queue.receive() == (payload, len(payload), PEER, sport)
    assert queue.receive() == -errno.EAGAIN
    assert queue.queued == (0, 0, 0)


@given(st.binary(max_size=100), st.integers(0, 65535))
def test_scapys_datagrams_are_taken(payload, sport):
    packet = IP(src=PEER, dst=US) / UDP(sport=sport, dport=2000) / Raw(payload)
    queue = UdpProbe()
    assert queue.deliver(bytes(packet)[20:]) == R.DROP_NONE
    assert queue.receive() == (payload, len(payload), PEER, sport)


@pytest.mark.parametrize("n", range(9))
def test_what_does_not_fit_the_buffer_is_cut_and_lost_unless_peeked(n):
    queue = UdpProbe()
    queue.deliver(datagram(b"seven!!"))
    queue.deliver(datagram(b"next"))
    assert queue.receive(n, peek=True) == (b"seven!!"[:n], 7, PEER, 1000)
    assert queue.receive(n) == (b"seven!!"[:n], 7, PEER, 1000)
    assert queue.receive() == (b"next", 4, PEER, 1000)


def test_the_queue_is_bounded_and_an_empty_one_takes_any_datagram():
    queue = UdpProbe(rcvbuf=4096)
    assert queue.deliver(datagram(bytes(8000))) == R.DROP_NONE
    assert queue.deliver(datagram(b"")) == R.DROP_UDP_BUFFER_FULL
    queue.receive()
    results = [queue.deliver(datagram(bytes(200))) for _ in range(50)]
    kept = results.count(R.DROP_NONE)
    assert results == [R.DROP_NONE] * kept + [R.DROP_UDP_BUFFER_FULL] * (50 - kept)
    assert queue.queued[0] == kept and kept * 200 < queue.queued[1] <= 4096
    assert queue.queued[2] == 51 - kept
    queue.receive()
    assert queue.deliver(datagram(bytes(200))) == R.DROP_NONE


def test_empty_datagrams_cost_memory_too():
    queue = UdpProbe(rcvbuf=4096)
    kept = sum(queue.deliver(datagram(b"")) == R.DROP_NONE for _ in range(10_000))
    assert 10 < kept < 4096 // 16


def test_a_wrong_checksum_is_not_queued():
    good = datagram(b"odd payload")
    for bit in range(len(good) * 8):
        queue = UdpProbe()
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert queue.deliver(bytes(bad)) in (R.DROP_UDP_CHECKSUM, R.DROP_UDP_LENGTH)
        assert queue.queued == (0, 0, 0) and not queue.take_event()
    assert UdpProbe().deliver(good, src="10.0.0.3") == R.DROP_UDP_CHECKSUM


def test_a_datagram_without_checksum_is_taken():
    queue = UdpProbe()
    assert queue.deliver(datagram(b"abc")[:6] + b"\0\0abc") == R.DROP_NONE
    assert queue.receive()[0] == b"abc"


def test_a10_every_length_field_against_every_delivered_length():
    whole = bytes([3, 232, 7, 208, 0, 0, 0, 0]) + bytes(range(20))
    for delivered in range(len(whole) + 1):
        for length in range(delivered + 3):
            queue = UdpProbe()
            got = queue.deliver((whole[:4] + length.to_bytes(2, "big") + whole[6:])[:delivered])
            if delivered < 8 or length < 8 or length > delivered:
                assert got == R.DROP_UDP_LENGTH
            else:
                assert queue.receive() == (bytes(range(20))[: length - 8], length - 8, PEER, 1000)


def test_readiness_is_noted_when_something_comes():
    queue = UdpProbe()
    assert not queue.take_event()
    queue.deliver(datagram())
    assert queue.take_event() and not queue.take_event()


def test_random_and_mutated_datagrams_are_queued_or_refused():
    rng = random.Random(768)
    queue = UdpProbe(rcvbuf=20_000)
    seen = set()
    queued = 0
    for i in range(scale(100_000)):
        data = bytearray(
            rng.randbytes(rng.randrange(40)) if i % 5 == 0 else datagram(rng.randbytes(rng.randrange(60)))
        )
        for _ in range(rng.randrange(2) if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        got = queue.deliver(bytes(data))
        seen.add(got)
        queued += got == R.DROP_NONE
        if rng.random() < 0.2:
            queued -= queue.receive(rng.randrange(80)) != -errno.EAGAIN
        assert queue.queued[0] == queued
    assert seen == {R.DROP_NONE, R.DROP_UDP_LENGTH, R.DROP_UDP_CHECKSUM, R.DROP_UDP_BUFFER_FULL}
