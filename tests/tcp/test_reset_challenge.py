"""RST, SYN and ACK that somebody else may have sent: RFC 5961 sections 3 to 5 and 7, RFC 9293 section 3.10.7.4."""

import errno

import pytest

from netstack.testing import is_tcp

from .tools import SO_ERROR, SOL_SOCKET, SYNCHRONIZED, S, new_peer, passive, reach, states

WINDOW = 65535

OPEN = ("ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT")


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("flags", ["R", "RA"])
def test_a_reset_exactly_at_rcv_nxt_ends_the_connection(state, flags):
    """RFC 5961 section 3.2; security row C1."""
    s = reach(state)
    s.flow.send(flags, seq=s.seq, ack=s.ack if "A" in flags else None)
    s.flow.expect_nothing()
    assert s.state == "CLOSED" and s.peer.stack.counters()["tcp_resets_in"] == 1
    expected = errno.EPIPE if state == "CLOSE_WAIT" else errno.ECONNRESET
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == expected
    assert states(s.peer.stack) == ["CLOSED", "LISTEN"]
    s.sock.close()
    assert s.peer.stack.next_deadline() is None


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_a_reset_in_the_window_is_challenged_and_outside_ignored(state):
    """Security row C1: NXT, NXT+1, NXT+wnd-1, NXT+wnd, NXT-1 -> reset, challenge, challenge, nothing, nothing."""
    s = reach(state)
    info = s.sock.info()
    window = info["rcv_adv"] - info["rcv_nxt"] & 0xFFFFFFFF
    nxt = info["snd_nxt"] - s.flow.irs
    for offset in (1, window - 1):
        s.flow.send("R", seq=s.seq + offset)
        s.flow.expect(is_tcp(flags="A", seq=nxt, ack=s.seq))
    for offset in (window, window + 1, -1, -WINDOW, 1 << 31):
        s.flow.send("R", seq=s.seq + offset)
        s.flow.expect_nothing()
    assert s.state == state


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("flags", ["S", "SA"])
def test_a_syn_is_challenged_wherever_it_lies(state, flags):
    """RFC 5961 section 4.2; security row C2."""
    s = reach(state)
    nxt = s.sock.info()["snd_nxt"] - s.flow.irs
    for offset in (0, 1, 1000, WINDOW, WINDOW + 1, -1, -1000, 1 << 31):
        s.flow.send(flags, seq=s.seq + offset, ack=s.ack if "A" in flags else None)
        s.flow.expect(is_tcp(flags="A", seq=nxt, ack=s.seq))
        s.flow.expect_nothing()
    assert s.state == state


@pytest.mark.parametrize("state", ("ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2"))
def test_data_counts_only_with_an_ack_between_both_edges(state):
    """RFC 5961 section 5.2: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT; security row C3."""
    s = reach(state)
    info = s.sock.info()
    una, nxt = info["snd_una"] - s.flow.irs, info["snd_nxt"] - s.flow.irs
    for ack in (nxt + 1, nxt + 70_000, una - WINDOW - 1, una - 200_000, una + (1 << 31)):
        s.flow.send("PA", seq=s.seq, ack=ack, payload=b"evil")
        s.flow.expect(is_tcp(flags="A", seq=nxt, ack=s.seq))
    assert not s.sock.poll() & 1 and s.peer.stack.counters()["drop_tcp_ack"] == 5
    s.flow.send("PA", seq=s.seq, ack=una - WINDOW, payload=b"old but good")
    assert s.sock.recv(100) == b"old but good"
    s.seq += 12
    s.flow.send("PA", seq=s.seq, ack=nxt, payload=b"new")
    assert s.sock.recv(100) == b"new"


def test_a_segment_without_ack_is_dropped():
    """3.10.7.4 fifth."""
    s = reach("ESTABLISHED")
    for flags in ("", "P", "F", "U"):
        s.flow.send(flags, seq=s.seq, payload=b"x")
    s.flow.expect_nothing()
    assert s.state == "ESTABLISHED" and not s.sock.poll() & 1


def test_challenges_are_limited_per_connection_and_second():
    """RFC 5961 section 7; never globally: CVE-2016-5696, security row C4."""
    peer = new_peer(challenge_ack_limit=5)
    s = passive(peer)
    other = peer.flow(40001)
    other.connect()
    for _ in range(50):
        s.flow.send("S", seq=s.seq)
    assert len(s.flow.receive_all()) == 5
    for _ in range(50):
        other.send("R", seq=2)
    assert len(other.receive_all()) == 5
    peer.advance("1s")
    s.flow.send("S", seq=s.seq)
    assert len(s.flow.receive_all()) == 1
    assert peer.stack.counters()["tcp_challenge_acks"] == 11


@pytest.mark.parametrize("state", OPEN)
def test_a_segment_beyond_the_window_is_acknowledged_and_dropped(state):
    """3.10.7.4 first."""
    s = reach(state)
    nxt = s.sock.info()["snd_nxt"] - s.flow.irs
    for seq in (s.seq + WINDOW, s.seq + WINDOW + 5000):
        s.flow.send("PA", seq=seq, ack=s.ack, payload=b"far")
        s.flow.expect(is_tcp(flags="A", seq=nxt, ack=s.seq))
    assert s.peer.stack.counters()["drop_tcp_sequence"] == 2


@pytest.mark.parametrize("state", OPEN)
def test_abort_says_reset_at_snd_nxt(state):
    """3.10.5: linger of zero seconds."""
    from .tools import SO_LINGER, linger
    s = reach(state)
    nxt = s.sock.info()["snd_nxt"] - s.flow.irs
    s.sock.setsockopt(SOL_SOCKET, SO_LINGER, linger(0))
    s.sock.close()
    s.flow.expect(is_tcp(flags="RA", seq=nxt, ack=s.seq))
    assert states(s.peer.stack) == ["LISTEN"] and s.peer.stack.next_deadline() is None


@pytest.mark.parametrize("state", ("CLOSING", "LAST_ACK"))
def test_abort_is_silent_when_both_have_said_fin(state):
    """3.10.5: "respond ok to the user, delete the TCB"."""
    from .tools import SO_LINGER, linger
    s = reach(state)
    s.sock.setsockopt(SOL_SOCKET, SO_LINGER, linger(0))
    s.sock.close()
    s.flow.expect_nothing()
    assert states(s.peer.stack) == ["LISTEN"]


def test_what_was_received_before_a_reset_stays_readable():
    s = reach("ESTABLISHED")
    s.data(b"last words")
    s.flow.send("R", seq=s.seq)
    assert s.sock.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        s.sock.recv(100)
    assert s.sock.recv(100) == b""
    with pytest.raises(BrokenPipeError):
        s.sock.send(b"x")


def test_an_optimistic_ack_earns_nothing():
    """Security row D10."""
    s = passive(window=60000)
    s.sock.send(bytes(5000))
    s.flow.receive_all()
    before = s.sock.info()
    s.pure_ack(5001 + 1460)
    after = s.sock.info()
    assert (after["cwnd"], after["snd_una"]) == (before["cwnd"], before["snd_una"])


@pytest.mark.parametrize("pointer", [0, 1, 5, 65535])
def test_urgent_data_is_in_line_and_its_pointer_drives_nothing(pointer):
    """RFC 6093; security row A8."""
    s = reach("ESTABLISHED")
    s.flow.send("PAU", seq=6, ack=1, payload=b"world", urgent=pointer)
    s.flow.send("PAU", seq=1, ack=1, payload=b"hello", urgent=pointer)
    assert s.sock.recv(100) == b"helloworld" and s.state == "ESTABLISHED"
    s.flow.receive_all()
    s.flow.send("AU", seq=11, ack=1, urgent=pointer)
    assert s.state == "ESTABLISHED" and not s.sock.poll() & 1


def test_a_bad_checksum_acts_on_nothing():
    s = reach("ESTABLISHED")
    good = s.flow.build("PA", seq=1, ack=1, payload=b"0123456789")
    for at in range(20, len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x10
        s.peer.inject(bytes(bad))
    s.flow.expect_nothing()
    assert s.state == "ESTABLISHED" and not s.sock.poll() & 1
    counters = s.peer.stack.counters()          # a data offset below 5 is refused before the sum is looked at
    assert counters["drop_tcp_checksum"] + counters.get("drop_tcp_length", 0) == len(good) - 20
    s.peer.inject(good)
    assert s.sock.recv(100) == b"0123456789"
    assert s.peer.clock.now_ns >= S
