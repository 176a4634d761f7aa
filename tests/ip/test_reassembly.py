"""Reassembly is a bytearray with holes: pieces in any order give the datagram that was cut, or nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.packet import Raw

from netstack.stack import Stack
from tests.ip.fragments import PEER, US, S, cut, datagram, feed, memory, piece, receiver, sent, shuffled, taken
from tests.support import scale


class Model:
    """One datagram as a plain bytearray: bytes that are there, the end if it is known, dead after a contradiction."""

    def __init__(self):
        self.bytes = bytearray(65536)
        self.there = bytearray(65536)
        self.pieces = {}
        self.end = None
        self.dead = False

    def add(self, offset, data, more):
        """The whole datagram, or None."""
        if self.dead:
            return None
        end = offset + len(data)
        if self.pieces.get(offset) == (bytes(data), more):
            return None
        beyond = self.end is not None and (end > self.end or (not more and end != self.end))
        if any(self.there[offset:end]) or beyond or (not more and any(self.there[end:])):
            self.dead = True
            return None
        self.pieces[offset] = (bytes(data), more)
        self.bytes[offset:end] = data
        self.there[offset:end] = b"\1" * len(data)
        if not more:
            self.end = end
        if self.end is not None and all(self.there[:self.end]):
            return bytes(self.bytes[:self.end])
        return None


@given(st.binary(min_size=0, max_size=4000), st.integers(1, 60), st.randoms(use_true_random=False), st.booleans())
def test_pieces_in_any_order_with_copies_give_the_datagram_once(payload, eights, rng, twice):
    stack, sock = receiver()
    pieces = cut(datagram(payload), 8 * eights)
    arriving = pieces * (2 if twice else 1)
    rng.shuffle(arriving)
    whole = []
    for p in arriving:
        feed(stack, [p])
        whole += taken(sock)
    assert whole and set(whole) == {payload}
    c = stack.counters()
    kept = memory(stack)[0]
    waiting = c["ip_fragments_in"] - c["ip_fragments_used"] - c.get("drop_fragment_duplicate", 0)
    if len(pieces) > 1:
        assert c["ip_fragments_in"] == len(arriving) and c["ip_reassembled"] == len(whole)
        assert (kept > 0) == (waiting > 0)
    stack.advance(60 * S)
    assert memory(stack) == (0, 0) and stack.next_deadline() is None


@settings(max_examples=scale(300))
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4), st.booleans(), st.integers(0, 2)), min_size=1,
                max_size=14))
def test_any_pieces_do_what_a_bytearray_with_holes_does(moves):
    """Protocol 253: no transport looks at it, so that any piece may be the first."""
    stack = Stack(addresses=US + "/24", seed=1)
    sock = stack.socket(3, protocol=253)
    stack.advance(S)
    model, body = Model(), random.Random(1).randbytes(1000)
    for at, eights, more, flavour in moves:
        offset, length = 8 * at, 8 * eights - (0 if more else flavour)
        data = body[offset:offset + length] if flavour < 2 else body[500 + offset:500 + offset + length]
        # At offset 0 and the last: no piece at all, whatever waits under its number.
        expected = data if offset == 0 and not more else model.add(offset, data, more)
        feed(stack, [piece(data, offset, more, protocol=253)])
        got = [p[20:] for p in taken(sock)]
        assert got == ([] if expected is None else [expected])
        if expected is not None and (offset or more):
            model = Model()


def test_scapys_fragments_become_its_packet():
    stack, sock = receiver()
    packet = IP(src=PEER, dst=US, id=5) / UDP(sport=1000, dport=2000) / Raw(bytes(range(256)) * 20)
    feed(stack, shuffled([bytes(p) for p in fragment(packet, fragsize=600)], 3))
    assert taken(sock) == [bytes(range(256)) * 20]


@pytest.mark.parametrize("size", [8, 16, 48, 552, 1480, 65504])
def test_the_largest_datagram_comes_through_in_pieces_of_any_size(size):
    stack, sock = receiver()
    payload = random.Random(size).randbytes(65507)
    pieces = cut(datagram(payload), size)
    if len(pieces) > 2048:                               # more pieces than any path makes: the datagram is given up
        feed(stack, pieces)
        assert taken(sock) == [] and stack.counters()["drop_fragment_limit"] == 1
        assert stack.counters()["drop_fragment_overlap"] == len(pieces) - 1
        return
    feed(stack, shuffled(pieces, 1))
    assert taken(sock) == [payload]
    assert memory(stack) == (0, 0)


def test_a_damaged_datagram_is_dropped_by_its_own_checksum_and_not_answered():
    stack, sock = receiver()
    pieces = cut(datagram(bytes(3000)), 1480)
    pieces[1] = pieces[1][:-1] + b"\1"
    feed(stack, pieces)
    assert taken(sock) == [] and sent(stack) == []
    assert stack.counters()["drop_udp_checksum"] == 1


def test_datagrams_differ_by_source_destination_number_and_protocol():
    stack, sock = receiver()
    a, b = cut(datagram(b"a" * 100), 64), cut(datagram(b"b" * 100), 64, id=78)
    c = cut(datagram(b"c" * 100, src="10.0.0.3"), 64, src="10.0.0.3")
    d = cut(b"\0" * 64 + b"x", 64, protocol=253)
    feed(stack, [a[0], b[0], c[0], d[0], c[1], b[1], a[1]])
    assert taken(sock) == [b"c" * 100, b"b" * 100, b"a" * 100]
    assert memory(stack)[0] == 1


def test_the_time_is_over_after_thirty_seconds_and_the_sender_hears_it_if_the_first_piece_is_there():
    stack, sock = receiver()
    pieces = cut(datagram(bytes(3000)), 1480)
    feed(stack, pieces[:1] + pieces[2:])
    assert stack.next_deadline() == S + 30 * S
    stack.advance(31 * S - 1)
    assert memory(stack)[0] == 1 and sent(stack) == []
    stack.advance(31 * S)
    [answer] = sent(stack)
    parsed = IP(answer)
    assert parsed.dst == PEER and (parsed[ICMP].type, parsed[ICMP].code) == (11, 1)
    quoted = answer[28:]
    assert quoted == pieces[0][:len(quoted)] and len(quoted) == 548
    assert memory(stack) == (0, 0) and stack.next_deadline() is None
    assert stack.counters()["drop_fragment_timeout"] == 2
    feed(stack, pieces[1:2])                             # too late: it begins another datagram
    assert taken(sock) == []


@pytest.mark.parametrize("case", ["without the first piece", "to a group", "to all", "about an ICMP error"])
def test_no_error_about_time_where_none_may_be_sent(case):
    stack, _ = receiver()
    if case == "without the first piece":
        p = cut(datagram(bytes(3000)), 1480)[1]
    elif case == "about an ICMP error":
        p = piece(b"\3\0" + bytes(62), 0, True, protocol=1)
    else:
        p = piece(datagram(bytes(3000))[:1480], 0, True, dst="224.0.0.1" if case == "to a group" else "10.0.0.255")
    feed(stack, [p])
    stack.advance(100 * S)
    assert sent(stack) == [] and memory(stack) == (0, 0)


def test_the_time_can_be_set_and_counts_from_the_first_piece_to_arrive():
    stack, sock = receiver(sysctl={"net.ipv4.ipfrag_time": 5})
    pieces = cut(datagram(bytes(3000)), 1000)
    for k, p in enumerate(pieces[1:]):
        feed(stack, [p], S + k * S)
    assert stack.next_deadline() == 6 * S
    stack.advance(6 * S)
    assert memory(stack) == (0, 0)


def test_congestion_marks_of_pieces_are_joined():
    for tos, expected in (((2, 2), 2), ((1, 1), 1), ((0, 0), 0), ((2, 3), 3), ((1, 2), 1), ((0, 3), None),
                          ((0, 2), None)):
        stack, sock = receiver()
        sock.setsockopt(0, 13, 1)                        # IP_RECVTOS
        body = datagram(b"x" * 100)
        parts = [piece(body[:64], 0, True, tos=tos[0]), piece(body[64:], 64, False, tos=tos[1])]
        feed(stack, parts)
        if expected is None:
            assert taken(sock) == [] and stack.counters()["drop_fragment_ecn"] == 2
        else:
            _, ancillary, _, _ = sock.recvmsg(1000, 100)
            if tos == (1, 2):
                assert ancillary[0][2][0] in (1, 2)
            else:
                assert ancillary == [(0, 1, bytes([expected]))]


def test_tcp_in_pieces_reaches_its_connection():
    from tests.tcp.tools import passive

    s = passive()
    built = s.flow.build("PA", seq=s.seq, ack=s.ack, payload=b"in pieces" * 20)
    feed(s.peer.stack, [piece(built[20:][a:a + 64], a, a + 64 < len(built) - 20, protocol=6, src="10.0.0.2")
                        for a in range(0, len(built) - 20, 64)])
    assert s.sock.recv(1000) == b"in pieces" * 20


def test_a_snapshot_keeps_a_datagram_that_was_given_up():
    stack, sock = receiver()
    pieces = cut(datagram(b"kept" * 700), 800)
    feed(stack, [pieces[0], pieces[3], piece(bytes(800), 8, True)])
    copy = Stack.restore(stack.snapshot(), 9 * S)
    assert memory(copy) == memory(stack) and memory(copy)[0] == 1
    feed(copy, pieces)
    assert taken(copy.socket_by_id(sock.id)) == []


def test_a_snapshot_keeps_what_waits():
    stack, sock = receiver()
    pieces = cut(datagram(b"kept" * 700), 800) + cut(datagram(b"more" * 700), 800, id=9)
    feed(stack, [pieces[0], pieces[2], pieces[5]])
    feed(stack, [piece(b"\1" * 64, 8, True, id=3, protocol=253), piece(b"\2" * 64, 16, True, id=3, protocol=253)])
    before = memory(stack)
    stack.advance(5 * S)
    copy = Stack.restore(stack.snapshot(), 105 * S)
    assert memory(copy) == before
    feed(copy, [pieces[1], pieces[3]])
    assert taken(copy.socket_by_id(sock.id)) == [b"kept" * 700]
    assert copy.next_deadline() == 105 * S + 26 * S
    copy.advance(131 * S)
    assert memory(copy) == (0, 0)
