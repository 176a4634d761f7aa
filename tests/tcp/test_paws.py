"""Timestamps against old segments (RFC 7323 sections 4.3 and 5)."""

import pytest

from netstack.testing import is_tcp

from .tools import SOL_TCP, TCP_QUICKACK, S, passive


def stamped(first=1000):
    s = passive(timestamp=(first, 0))
    s.sock.setsockopt(SOL_TCP, TCP_QUICKACK, 0)
    s.quiet()
    return s


def recent(s):
    """What the stack echoes now: TS.Recent."""
    s.sock.send(b"?")
    packet = s.flow.receive_all()[-1]
    s.ack += 1
    return packet.timestamp[1]


def test_a_segment_older_than_the_last_is_dropped_and_acknowledged():
    """Section 5.3 R1."""
    s = stamped()
    s.flow.send("PA", seq=1, ack=1, payload=b"old", timestamp=(999, 0))
    s.flow.expect(is_tcp(flags="A", seq=1, ack=1))
    assert not s.sock.poll() & 1 and s.peer.stack.counters()["drop_tcp_paws"] == 1
    s.flow.send("PA", seq=1, ack=1, payload=b"new", timestamp=(1000, 0))
    assert s.sock.recv(10) == b"new"


@pytest.mark.parametrize("first", [0, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0])
def test_the_comparison_is_modulo_two_to_the_32(first):
    s = stamped(first)
    s.data(b"a", timestamp=(first + 20 & 0xFFFFFFFF, 0))
    assert s.sock.recv(1) == b"a"
    s.flow.send("PA", seq=s.seq, ack=1, payload=b"x", timestamp=(first + 19 & 0xFFFFFFFF, 0))
    assert not s.sock.poll() & 1


def test_a_reset_is_exempt():
    """Section 5.2."""
    s = stamped()
    s.flow.send("R", seq=1, timestamp=(1, 0))
    assert s.state == "CLOSED"


def test_after_24_days_an_old_value_proves_nothing():
    """Section 5.5."""
    s = stamped()
    s.peer.advance(24 * 86400 * S + S)
    s.flow.send("PA", seq=1, ack=1, payload=b"after a long sleep", timestamp=(5, 0))
    assert s.sock.recv(100) == b"after a long sleep" and recent(s) == 5


def test_ts_recent_follows_only_segments_at_the_left_edge():
    """Section 4.3: Last.ACK.sent."""
    s = stamped()
    s.data(b"a", timestamp=(1010, 0))
    assert recent(s) == 1010
    s.flow.send("A", seq=s.seq + 5, ack=s.ack, payload=b"gap", timestamp=(1020, 0))
    assert recent(s) == 1010
    s.data(b"bcdef", timestamp=(1015, 0))
    assert recent(s) == 1015


def test_a_delayed_acknowledgement_echoes_the_first_of_its_segments():
    """Section 4.3: the earliest unacknowledged segment, so that the peer's RTT includes the delay."""
    s = stamped()
    assert recent(s) == 1000
    s.flow.receive_all()
    s.data(b"a", timestamp=(1100, 0))
    s.flow.expect_nothing()
    s.data(b"b", timestamp=(1101, 0))
    s.flow.expect(is_tcp(flags="A", timestamp=lambda t: t[1] == 1100))


@pytest.mark.parametrize("ack", [70_000, 5_000_000])
def test_a_segment_with_a_forged_ack_does_not_move_it(ack):
    """VU#637934 (CVE-2005-0356): one blind segment must not poison TS.Recent."""
    s = stamped()
    s.flow.send("PA", seq=1, ack=ack, payload=b"forged", timestamp=(0x70000000, 0))
    s.flow.receive_all()
    s.data(b"honest", timestamp=(1001, 0))
    assert s.sock.recv(100) == b"honest"


def test_a_syn_does_not_move_it():
    s = stamped()
    s.flow.send("S", seq=1, mss=1460, timestamp=(0x70000000, 0))
    s.flow.receive_all()
    s.data(b"honest", timestamp=(1001, 0))
    assert s.sock.recv(100) == b"honest"


def test_a_segment_without_timestamp_is_taken_as_linux_does():
    """Section 3.2 would have it dropped (SHOULD); Linux takes it, and middleboxes strip the option."""
    s = stamped()
    s.data(b"bare")
    assert s.sock.recv(10) == b"bare"
