"""Opening: RFC 9293 sections 3.5, 3.10.1, 3.10.7.1 to 3.10.7.3; SYN retries as Linux; RFC 6298 section 5.7."""

import errno

import pytest

from netstack.testing import is_tcp

from .tools import SO_ERROR, SOL_SOCKET, SYNCHRONIZED, A, B, S, active, dial, listen, new_peer, passive, reach, states


def test_passive_open_answers_a_syn_and_is_established_by_its_ack():
    peer = new_peer()
    server = listen(peer)
    flow = peer.flow()
    flow.send("S", seq=0, mss=1460)
    flow.expect(is_tcp(flags="SA", ack=1, payload_length=0))
    assert states(peer.stack) == ["LISTEN", "SYN_RCVD"] and server.poll() == 0
    with pytest.raises(BlockingIOError):
        server.accept()
    flow.send("A", seq=1, ack=1)
    assert server.poll() == 1
    sock, address = server.accept()
    assert sock.state == "ESTABLISHED" and address == (B, 40000) and sock.getsockname() == (A, 80)
    flow.expect_nothing()


def test_active_open_sends_a_syn_and_acknowledges_the_answer():
    s = dial(new_peer())
    assert s.state == "SYN_SENT" and s.sock.poll() == 0
    assert s.sock.connect_ex((B, 9000)) == errno.EALREADY
    s.flow.accept()
    assert s.state == "ESTABLISHED" and s.sock.poll() == 4 and s.sock.getpeername() == (B, 9000)
    assert s.sock.connect_ex((B, 9000)) == errno.EISCONN
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == 0


def test_refused_by_a_reset_that_acknowledges_the_syn():
    s = reach("SYN_SENT")
    s.flow.send("RA", seq=0, ack=1)
    assert s.state == "CLOSED" and s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNREFUSED
    s.flow.expect_nothing()
    with pytest.raises(OSError) as error:
        s.sock.recv(1)
    assert error.value.errno == errno.ENOTCONN
    with pytest.raises(BrokenPipeError):
        s.sock.send(b"x")


@pytest.mark.parametrize("flags, ack", [("RA", 0), ("RA", 2), ("R", None)])
def test_a_reset_that_does_not_acknowledge_the_syn_is_ignored(flags, ack):
    s = reach("SYN_SENT")
    s.flow.send(flags, seq=0, ack=ack)
    assert s.state == "SYN_SENT"
    s.flow.expect_nothing()


@pytest.mark.parametrize("flags", ["SA", "A", "FA"])
@pytest.mark.parametrize("ack", [0, 2, -5])
def test_an_ack_of_something_never_sent_is_answered_by_a_reset_in_syn_sent(flags, ack):
    """3.10.7.3 first: <SEQ=SEG.ACK><CTL=RST>, without ACK."""
    s = reach("SYN_SENT")
    s.flow.send(flags, seq=0, ack=ack)
    s.flow.expect(is_tcp(flags="R", seq=ack & 0xFFFFFFFF, window=0))
    assert s.state == "SYN_SENT"


def test_an_ack_without_syn_or_rst_is_dropped_in_syn_sent():
    s = reach("SYN_SENT")
    s.flow.send("A", seq=0, ack=1)
    s.flow.send("PA", seq=0, ack=1, payload=b"x")
    s.flow.expect_nothing()
    assert s.state == "SYN_SENT"


@pytest.mark.parametrize("flags, ack, answer", [
    ("A", 77, is_tcp(flags="R", seq=77, ack=0)),
    ("PA", 77, is_tcp(flags="R", seq=77, ack=0)),
    ("SA", 77, is_tcp(flags="R", seq=77, ack=0)),
    ("S", None, is_tcp(flags="RA", seq=0, ack=1001)),
    ("F", None, is_tcp(flags="RA", seq=0, ack=1001)),
    ("", None, is_tcp(flags="RA", seq=0, ack=1000)),
])
def test_a_closed_port_answers_everything_but_a_reset(flags, ack, answer):
    """3.10.7.1."""
    peer = new_peer()
    flow = peer.flow(stack_port=81)
    flow.send(flags, seq=1000, ack=ack, **({"payload": b""}))
    flow.expect(answer)
    assert peer.stack.counters()["drop_tcp_no_port"] == 1


def test_data_to_a_closed_port_counts_in_the_acknowledgement():
    peer = new_peer()
    flow = peer.flow(stack_port=81)
    flow.send("S", seq=10, payload=bytes(100))
    flow.expect(is_tcp(flags="RA", seq=0, ack=111))


def test_a_reset_to_a_closed_port_is_never_answered():
    peer = new_peer()
    flow = peer.flow(stack_port=81)
    for flags in ("R", "RA", "RS", "RF"):
        flow.send(flags, seq=5, ack=7 if "A" in flags else None)
    flow.expect_nothing()


def test_a_listener_ignores_resets_and_resets_acks():
    """3.10.7.2."""
    peer = new_peer()
    listen(peer)
    flow = peer.flow()
    flow.send("R", seq=0)
    flow.send("", seq=0)
    flow.send("F", seq=0)
    flow.expect_nothing()
    flow.send("A", seq=0, ack=55)
    flow.expect(is_tcp(flags="R", seq=55))
    flow.send("SA", seq=0, ack=56)
    flow.expect(is_tcp(flags="R", seq=56))
    assert states(peer.stack) == ["LISTEN"]


@pytest.mark.parametrize("ack", [0, 2, -1])
def test_a_wrong_acknowledgement_in_syn_rcvd_is_reset_and_the_handshake_goes_on(ack):
    s = reach("SYN_RCVD")
    s.flow.send("A", seq=1, ack=ack)
    s.flow.expect(is_tcp(flags="R", seq=ack & 0xFFFFFFFF))
    s.flow.send("A", seq=1, ack=1)
    s.flow.expect_nothing()
    assert s.server.accept()[0].state == "ESTABLISHED"


def test_a_repeated_syn_gets_the_same_answer_again():
    s = reach("SYN_RCVD")
    first = s.flow.irs
    s.flow.send("S", seq=0, mss=1460)
    s.flow.expect(is_tcp(flags="SA", seq=0, ack=1, mss=1460))
    assert s.flow.irs == first and states(s.peer.stack) == ["LISTEN", "SYN_RCVD"]


def test_a_segment_out_of_the_window_in_syn_rcvd_is_answered_by_an_ack():
    """3.10.7.4 first: <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>, not by the SYN again."""
    s = reach("SYN_RCVD")
    s.flow.send("A", seq=200_000, ack=1)
    s.flow.expect(is_tcp(flags="A", seq=1, ack=1))
    assert states(s.peer.stack) == ["LISTEN", "SYN_RCVD"]


def test_a_reset_in_syn_rcvd_gives_the_listener_its_place_back():
    s = reach("SYN_RCVD")
    s.flow.send("R", seq=1)
    s.flow.expect_nothing()
    assert states(s.peer.stack) == ["LISTEN"] and s.peer.stack.socket_count == 1
    assert s.server.getsockopt(SOL_SOCKET, SO_ERROR) == 0


def test_data_on_the_handshakes_last_ack_is_taken():
    s = reach("SYN_RCVD")
    s.flow.send("PA", seq=1, ack=1, payload=b"early")
    sock, _ = s.server.accept()
    assert sock.recv(10) == b"early"
    s.flow.expect(is_tcp(flags="A", ack=6))


def test_a_fin_on_the_handshakes_last_ack_is_taken():
    s = reach("SYN_RCVD")
    s.flow.send("PFA", seq=1, ack=1, payload=b"all")
    sock, _ = s.server.accept()
    assert sock.state == "CLOSE_WAIT" and sock.recv(10) == b"all" and sock.recv(10) == b""


def test_data_on_a_syn_is_delivered_once_and_only_after_the_handshake():
    """RFC 9293 section 3.10.7.2; security row E3."""
    peer = new_peer()
    server = listen(peer)
    flow = peer.flow()
    flow.send("S", seq=0, mss=1460, payload=b"x" * 1000)
    flow.expect(is_tcp(flags="SA", ack=1))
    with pytest.raises(BlockingIOError):
        server.accept()
    flow.send("PA", seq=1, ack=1, payload=b"x" * 1000)
    sock, _ = server.accept()
    assert sock.recv(5000) == b"x" * 1000
    with pytest.raises(BlockingIOError):
        sock.recv(1)


def test_a_syn_is_sent_again_at_1_3_7_15_31_63_seconds_and_given_up_at_127():
    """RFC 6298 section 2.1, doubling of 5.5; six retries as Linux (MUST-23 asks R2 of 3 minutes)."""
    s = dial(new_peer())
    s.peer.advance("200s")
    times = [p.t_ns for p in s.flow.receive_all()]
    assert [(t - times[0]) / S for t in times] == [0, 1, 3, 7, 15, 31, 63]
    assert s.state == "CLOSED" and s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ETIMEDOUT
    assert s.peer.stack.next_deadline() is None


def test_a_syn_ack_is_sent_again_five_times_and_then_forgotten():
    s = reach("SYN_RCVD")
    start = s.peer.clock.now_ns
    s.peer.advance("200s")
    packets = s.flow.receive_all()
    assert [(p.t_ns - start) / S for p in packets] == [1, 3, 7, 15, 31]
    assert {(p.flags, p.seq, p.ack) for p in packets} == {("SA", 0, 1)}
    assert states(s.peer.stack) == ["LISTEN"] and s.peer.stack.next_deadline() is None


@pytest.mark.parametrize("retries", [1, 3])
def test_syn_retries_is_a_setting(retries):
    s = dial(new_peer(syn_retries=retries))
    s.peer.advance("300s")
    assert len(s.flow.receive_all()) == retries + 1


def test_without_a_round_trip_from_the_handshake_data_starts_with_three_seconds():
    """RFC 6298 section 5.7."""
    s = dial(new_peer(timestamps=0))
    s.peer.advance("1s")
    s.flow.receive_all()
    s.flow.irs = s.sock.info()["iss"]
    s.flow.send("SA", seq=0, ack=1, mss=1460)
    assert s.state == "ESTABLISHED" and s.sock.info()["rto_ns"] == 3 * S


def test_a_timestamp_tells_the_round_trip_of_a_syn_sent_twice():
    """RFC 7323 section 4 lifts Karn's rule."""
    s = dial(new_peer())
    s.peer.advance("1s")
    s.flow.irs = s.sock.info()["iss"]
    first, second = s.flow.receive_all()
    s.peer.advance("30ms")
    s.flow.send("SA", seq=0, ack=1, mss=1460, timestamp=(9, second.timestamp[0]))
    assert s.state == "ESTABLISHED" and s.sock.info()["srtt_ns"] == 30_000_000
    assert first.timestamp != second.timestamp


def test_close_in_syn_sent_is_silent():
    s = reach("SYN_SENT")
    s.sock.close()
    s.flow.expect_nothing()
    assert s.peer.stack.socket_count == 0 and s.peer.stack.next_deadline() is None


def test_a_socket_that_was_refused_connects_again_as_new():
    peer = new_peer()
    s = dial(peer)
    peer.advance("10s")
    syns = s.flow.receive_all()
    assert len(syns) == 4
    s.flow.irs = s.sock.info()["iss"]
    s.flow.send("RA", seq=0, ack=1)
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNREFUSED
    assert s.sock.connect_ex((B, 9000)) == errno.EINPROGRESS
    start = peer.clock.now_ns
    again = peer.flow(9000, s.sock.getsockname()[1])
    peer.advance("1500ms")
    assert [(p.t_ns - start) / S for p in again.receive_all()] == [0, 1]
    again.send("SA", seq=0, ack=1, mss=1460)
    assert s.state == "ESTABLISHED"
    s.sock.send(b"hi")
    assert again.receive_all()[-1].payload == b"hi"


@pytest.mark.parametrize("opener", [active, passive])
def test_syn_of_the_same_connection_leaves_established_alone(opener):
    """RFC 5961 section 4.2: an ACK, whatever the sequence number."""
    s = opener()
    s.quiet()
    for seq in (0, 1, 100, -100_000):
        s.flow.send("S", seq=seq, mss=1460)
        s.flow.expect(is_tcp(flags="A", seq=1, ack=1, payload_length=0))
    assert s.state == "ESTABLISHED"


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_a_late_syn_ack_is_answered_by_the_ack_it_waits_for(state):
    s = reach(state)
    nxt = s.sock.info()["snd_nxt"] - s.flow.irs
    s.flow.send("SA", seq=0, ack=1, mss=1460)
    s.flow.expect(is_tcp(flags="A", seq=nxt, ack=s.seq))
    assert s.state == state
