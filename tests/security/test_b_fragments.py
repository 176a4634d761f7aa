"""Rows B1 to B6: pieces that overlap, lie, are too small or too many."""

import itertools
import random

import pytest

from netstack.testing.packets import build_ipv4
from tests.ip.fragments import PEER, US, S, cut, datagram, feed, memory, piece, receiver, sent, taken
from tests.security.rig import difference
from tests.support import scale

# What a second piece can be to a first of bytes 64 to 128: where it begins and ends.
OVERLAPS = {
    "ends in it": (32, 96), "ends a block into it": (32, 72), "begins in it": (96, 160),
    "begins a block before its end": (120, 184),
    "within": (80, 104), "its beginning": (64, 96), "its end": (96, 128), "around": (32, 160),
    "around, same beginning": (64, 160), "around, same end": (32, 128), "the same place": (64, 128),
    "all of it": (0, 192),
}


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("order", range(6))
def test_b2_an_overlap_ends_the_datagram_in_every_order(name, order):
    """Three pieces: one, another that overlaps it with other bytes, and one far off; then all that is missing."""
    start, end = OVERLAPS[name]
    body = datagram(random.Random(4).randbytes(292))
    three = [piece(body[64:128], 64, True), piece(bytes(255 - b for b in body[start:end]), start, True),
             piece(body[256:], 256, False)]
    if start == 0:
        three[1] = piece(body[:8] + bytes(255 - b for b in body[8:end]), 0, True)
    stack, sock = receiver()
    feed(stack, itertools.islice(itertools.permutations(three), order, order + 1).__next__())
    feed(stack, cut(body, 32))
    assert taken(sock) == [] and sent(stack) == []
    assert stack.counters()["drop_fragment_overlap"] == stack.counters()["ip_fragments_in"]
    stack.advance(100 * S)
    assert sent(stack) == [] and memory(stack) == (0, 0) and stack.next_deadline() is None


@pytest.mark.parametrize("by", range(1, 65))
def test_b2_an_overlap_of_any_size_ends_the_datagram(by):
    body = datagram(bytes(range(200)) + bytes(48))
    stack, sock = receiver()
    if by % 8 == 0:                                      # pieces begin at multiples of eight
        feed(stack, [piece(body[:128], 0, True), piece(body[128 - by:], 128 - by, False)])
    else:                                                # the last one is longer than the hole before another "last"
        feed(stack, [piece(body[:64], 0, True), piece(body[64:192], 64, False), piece(body[64:192 - by], 64, False)])
        feed(stack, [piece(body[:64], 0, True, id=5), piece(body[64:128 + by], 64, False, id=5),
                     piece(body[128:], 128, False, id=5)])
        assert len(taken(sock)) <= 1                     # the first is whole before the contradiction comes
        return
    assert taken(sock) == [] and sent(stack) == []
    feed(stack, cut(body, 64))
    assert taken(sock) == [], "the rest of a datagram that was given up is dropped in silence"


def test_b2_an_exact_copy_is_passed_over_and_one_with_another_byte_is_not():
    body = datagram(bytes(200))
    stack, sock = receiver()
    feed(stack, cut(body, 64)[:2] * 3 + cut(body, 64)[2:])
    assert taken(sock) == [bytes(200)]
    assert stack.counters()["drop_fragment_duplicate"] == 4
    feed(stack, [piece(body[:64], 0, True, id=2), piece(body[:63] + b"\1", 0, True, id=2), *cut(body, 64, id=2)])
    assert taken(sock) == []
    feed(stack, [piece(body[64:128], 64, True, id=3), piece(body[64:128], 64, False, id=3), *cut(body, 64, id=3)])
    assert taken(sock) == [], "the same bytes as the last piece contradict those before"


def test_b3_the_first_piece_holds_the_whole_header_of_its_transport():
    """TCP with every data offset and length; UDP and ICMP; and a piece at offset 1 that would overwrite the flags."""
    for protocol, need in ((6, None), (17, 8), (1, 8)):
        for length in range(8, 81, 8):
            for doff in range(16) if protocol == 6 else (0,):
                stack, _ = receiver()
                data = bytearray(bytes(range(length)))
                if length > 12:
                    data[12] = doff << 4
                before = stack.counters()
                feed(stack, [piece(bytes(data), 0, True, protocol=protocol)])
                tiny = length < (max(20, 4 * doff) if need is None else need)
                assert difference(stack, before).get("drop_fragment_tiny", 0) == tiny, (protocol, length, doff)
                assert memory(stack)[0] == (not tiny)
    for offset in (8, 16):
        stack, _ = receiver()
        feed(stack, [piece(bytes(64), offset, True, protocol=6)])
        assert stack.counters()["drop_fragment_tiny"] == 1 and memory(stack) == (0, 0) and sent(stack) == []


def test_b4_a_piece_beyond_the_largest_datagram_is_dropped():
    for offset, length in [(8191 * 8, n) for n in range(1, 1415)] + [(65504, 32), (65512, 24), (64120, 1400)]:
        stack, sock = receiver()
        p = piece(bytes(length), offset, False)
        feed(stack, [p])
        beyond = 20 + offset + length > 65535
        assert stack.counters().get("drop_fragment_length", 0) == beyond, (offset, length)
        assert memory(stack)[0] == (not beyond)
        if length > 40 and length % 100:
            continue
        feed(stack, cut(datagram(bytes(65504 - 8)), 1480))
        assert all(len(d) <= 65507 for d in taken(sock)) and sent(stack) == []


@pytest.mark.parametrize("length", [0, *range(1, 40)])
def test_b4_pieces_that_are_not_the_last_are_multiples_of_eight(length):
    stack, _ = receiver()
    feed(stack, [piece(bytes(length), 64, True)])
    assert (stack.counters().get("drop_fragment_length", 0) == 1) == (length == 0 or length % 8 != 0)
    assert sent(stack) == []


def legit(k: int) -> list[bytes]:
    src = "10.0.0.200"
    body = datagram(b"legit %d" % k + bytes(1500), src=src)
    return [piece(body[:1480], 0, True, id=k, src=src), piece(body[1480:], 1480, False, id=k, src=src)]


@pytest.mark.parametrize("sources", [1, 200, 1 << 24])
def test_b6_a_flood_of_unfinished_datagrams_takes_bounded_memory_and_delays_nobody(sources):
    """100,000 a second, from one source, a network, or anybody; a pair a millisecond apart comes through."""
    stack, sock = receiver()
    rng = random.Random(sources)
    n, done, sent_pairs = scale(100_000), 0, 0
    second = None
    size = 1480 if sources == 1 else 8
    body = b"\0\7\0\7" + bytes(size - 4)
    for k in range(n):
        now = S + k * 10_000
        src = ".".join(map(str, (11, *rng.randrange(sources).to_bytes(3, "big"))))
        feed(stack, [piece(body, 0 if size > 8 else 8, True, id=k & 0xFFFF, src=src)], now)
        if k % 1000 == 0:
            first, second = legit(k // 1000)
            feed(stack, [first], now)
            sent_pairs += 1
        elif k % 1000 == 100:
            feed(stack, [second], now)
            done += len(taken(sock))
        assert memory(stack)[1] <= 4 << 20 and memory(stack)[0] <= 4096
    assert done >= 0.95 * sent_pairs
    c = stack.counters()
    assert c["ip_fragment_steps"] <= 64 * c["ip_fragments_in"]       # datagrams of one source, at most, are looked at
    dropped = sum(v for k, v in c.items() if k.startswith("drop_frag"))
    assert c["ip_fragments_in"] == c["ip_fragments_used"] + dropped + memory(stack)[0]
    stack.advance(100 * S)
    assert memory(stack) == (0, 0)


def test_b6_a_source_cannot_push_out_another_ones_datagram():
    stack, sock = receiver(sysctl={"net.ipv4.ipfrag_high_thresh": 1 << 18})
    first, second = legit(1)
    feed(stack, [first])
    for k in range(2000):
        feed(stack, [piece(bytes(1480), 1480, True, id=k)])
        assert memory(stack)[1] <= 1 << 18
    feed(stack, [second])
    assert len(taken(sock)) == 1


def test_b6_the_places_of_pieces_are_found_by_halving():
    stack, _ = receiver()
    order = list(range(1, 2049))
    random.Random(1).shuffle(order)
    before = stack.counters()["ip_fragment_steps"]
    for at in order:
        feed(stack, [piece(b"\1" * 8, 16 * at % 65000 // 8 * 8, True, protocol=253)])
    c = stack.counters()
    assert c["ip_fragment_steps"] - before <= 13 * c["ip_fragments_in"]
    assert c["ip_fragments_in"] == 2048


def test_b6_nothing_is_kept_when_the_memory_for_it_is_nothing():
    stack, sock = receiver(sysctl={"net.ipv4.ipfrag_high_thresh": 0})
    feed(stack, cut(datagram(bytes(3000)), 1480))
    assert taken(sock) == [] and memory(stack) == (0, 0)
    feed(stack, [build_ipv4(PEER, US, 17, datagram(b"whole"))])
    assert taken(sock) == [b"whole"]
