"""Simultaneous open (RFC 9293 section 3.5, figures 7 and 8), self-connect, split handshake (security row C13)."""

import errno

import pytest

from netstack.stack import Stack
from netstack.testing import is_tcp

from .tools import MS, SO_ERROR, SOL_SOCKET, A, B, S, Wire, dial, new_peer, reach, states


def crossed(**options):
    """SYN-RECEIVED by crossing SYNs; the peer's SYN had sequence number 0."""
    s = dial(new_peer())
    s.flow.expect(is_tcp(flags="S"))
    s.flow.send("S", seq=0, mss=1460, **options)
    s.flow.expect(is_tcp(flags="SA", seq=0, ack=1))
    assert s.state == "SYN_RCVD"
    return s


def test_crossing_syns_establish_by_their_syn_acks():
    s = crossed()
    s.flow.send("SA", seq=0, ack=1, mss=1460)
    assert s.state == "ESTABLISHED" and s.sock.poll() == 4
    s.sock.send(b"data")
    s.flow.expect(is_tcp(flags="PA", seq=1, ack=1, payload=b"data"))


def test_crossing_syns_establish_by_a_plain_ack_too():
    """Also the split handshake: SYN, SYN, SYN+ACK, ACK."""
    s = crossed()
    s.flow.send("A", seq=1, ack=1)
    assert s.state == "ESTABLISHED"


def test_the_window_of_a_syn_ack_is_not_scaled():
    """RFC 7323 section 2.2."""
    s = crossed(window_scale=4, window=1000)
    s.flow.send("SA", seq=0, ack=1, mss=1460, window_scale=4, window=1000)
    assert s.sock.info()["snd_wnd"] == 1000
    s.flow.send("A", seq=1, ack=1, window=1000)
    assert s.sock.info()["snd_wnd"] == 16000


def test_a_wrong_ack_while_syns_cross_is_reset():
    s = crossed()
    s.flow.send("SA", seq=0, ack=7)
    s.flow.expect(is_tcp(flags="R", seq=7))
    assert s.state == "SYN_RCVD"


def test_an_unacceptable_syn_ack_in_syn_sent_is_reset():
    """Figure 8, recovery from an old duplicate SYN."""
    s = reach("SYN_SENT")
    s.flow.send("SA", seq=100, ack=91)
    s.flow.expect(is_tcp(flags="R", seq=91))
    s.flow.send("SA", seq=0, ack=1, mss=1460)
    assert s.state == "ESTABLISHED"


def test_a_reset_while_syns_cross_refuses():
    s = crossed()
    s.flow.send("RA", seq=1, ack=1)
    assert s.state == "CLOSED" and s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNREFUSED


def test_shutdown_before_the_crossed_handshake_ends_sends_the_fin_afterwards():
    """3.10.4, SYN-RECEIVED STATE: queued until the connection is established; the SYN,ACK is still what is repeated."""
    s = crossed()
    s.sock.shutdown(1)
    s.peer.advance("1s")
    s.flow.expect(is_tcp(flags="SA", seq=0, ack=1))
    s.flow.send("A", seq=1, ack=1)
    s.flow.expect(is_tcp(flags="FA", seq=1, ack=1))
    assert s.state == "FIN_WAIT_1"


def test_close_before_the_crossed_handshake_ends_sends_the_fin_afterwards():
    s = crossed()
    s.sock.close()
    s.flow.send("A", seq=1, ack=1)
    s.flow.expect(is_tcp(flags="FA", seq=1, ack=1))
    s.flow.send("FA", seq=1, ack=2)
    s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
    assert states(s.peer.stack) == ["TIME_WAIT"]


@pytest.mark.parametrize("loss", [0, 0.3])
def test_two_stacks_open_towards_each_other(loss):
    wire = Wire(5, loss=loss)
    a, b = (stack.socket() for stack in wire.stacks)
    a.bind((A, 4000))
    b.bind((B, 5000))
    assert a.connect_ex((B, 5000)) == b.connect_ex((A, 4000)) == errno.EINPROGRESS
    wire.until(lambda: a.state == b.state == "ESTABLISHED")
    assert a.send(b"from a") == b.send(b"from b") == 6
    wire.until(lambda: a.poll() & 1 and b.poll() & 1)
    assert a.recv(10) == b"from b" and b.recv(10) == b"from a"
    assert states(wire.stacks[0]) == states(wire.stacks[1]) == ["ESTABLISHED"]


def test_a_socket_may_connect_to_itself():
    stack = Stack(addresses=A, seed=1)
    stack.advance(S)
    s = stack.socket()
    s.bind(("127.0.0.1", 7000))
    s.connect_ex(("127.0.0.1", 7000))
    stack.advance(S + MS)
    assert s.state == "ESTABLISHED" and s.getpeername() == s.getsockname()
    s.send(b"echo")
    stack.advance(S + 2 * MS)
    assert s.recv(10) == b"echo"
    assert stack.pop_output() is None
