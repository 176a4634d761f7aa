"""Closing: RFC 9293 sections 3.6, 3.10.4, 3.10.7.4 seventh and eighth; orphans; TIME-WAIT is in test_time_wait."""

import errno

import pytest

from netstack.testing import is_tcp

from .tools import SO_LINGER, SOL_SOCKET, SYNCHRONIZED, S, Wire, linger, new_peer, passive, reach, states


def test_the_active_closer_goes_through_both_fin_waits_to_time_wait():
    s = reach("ESTABLISHED")
    s.sock.close()
    s.flow.expect(is_tcp(flags="FA", seq=1, ack=1))
    assert states(s.peer.stack) == ["FIN_WAIT_1", "LISTEN"]
    s.pure_ack(2)
    assert states(s.peer.stack) == ["FIN_WAIT_2", "LISTEN"]
    s.fin()
    s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
    assert states(s.peer.stack) == ["LISTEN", "TIME_WAIT"] and s.peer.stack.socket_count == 1


def test_the_passive_closer_ends_with_last_ack():
    s = reach("CLOSE_WAIT")
    assert s.sock.poll() & 0x2001 == 0x2001 and s.sock.recv(1) == b""
    s.sock.close()
    s.flow.expect(is_tcp(flags="FA", seq=1, ack=2))
    assert states(s.peer.stack) == ["LAST_ACK", "LISTEN"]
    s.pure_ack(2)
    assert states(s.peer.stack) == ["LISTEN"] and s.peer.stack.next_deadline() is None


def test_crossing_fins_go_through_closing():
    s = reach("CLOSING")
    s.pure_ack(2)
    assert states(s.peer.stack).count("TIME_WAIT") >= 1
    s.flow.expect_nothing()


def test_fin_with_the_ack_of_ours_skips_fin_wait_2():
    s = reach("FIN_WAIT_1")
    s.flow.send("FA", seq=1, ack=2)
    s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
    assert s.state == "TIME_WAIT"


def test_half_close_keeps_the_other_direction():
    s = reach("FIN_WAIT_2")
    with pytest.raises(BrokenPipeError):
        s.sock.send(b"no")
    for i in range(5):
        s.data(b"still %d" % i)
    assert s.sock.recv(100) == b"still 0still 1still 2still 3still 4"
    s.fin()
    assert s.state == "TIME_WAIT" and s.sock.recv(1) == b""


def test_close_wait_still_sends():
    s = reach("CLOSE_WAIT")
    s.sock.send(b"more")
    s.flow.expect(is_tcp(flags="PA", seq=1, ack=2, payload=b"more"))
    s.sock.shutdown(1)
    s.flow.expect(is_tcp(flags="FA", seq=5, ack=2))


def test_the_fin_follows_the_last_byte():
    s = passive(window=65535)
    s.sock.send(bytes(3000))
    s.sock.close()
    packets = s.flow.receive_all()
    assert [(p.flags, len(p.payload)) for p in packets][-1] == ("FA", 0) or "F" in packets[-1].flags
    assert packets[-1].seq + len(packets[-1].payload) == 3001


def test_a_fin_waits_behind_data_that_the_window_holds_back():
    s = passive(window=1000)
    s.sock.send(bytes(2500))
    s.sock.close()
    assert [("F" in p.flags, len(p.payload)) for p in s.flow.receive_all()] == [(False, 1000)]
    s.pure_ack(1001, window=1000)
    assert [("F" in p.flags, len(p.payload)) for p in s.flow.receive_all()] == [(False, 1000)]
    s.pure_ack(2001, window=1000)
    assert [("F" in p.flags, len(p.payload)) for p in s.flow.receive_all()] == [(True, 500)]


def test_a_lost_fin_is_sent_again():
    s = reach("FIN_WAIT_1")
    s.peer.advance("1s")
    again = s.flow.receive_all()
    assert again and {(p.flags, p.seq, p.ack) for p in again} == {("FA", 1, 1)}


def test_a_lost_fin_behind_data_is_sent_again_after_the_data():
    s = passive()
    s.sock.send(b"data")
    s.sock.close()
    s.flow.receive_all()
    s.peer.advance("300ms")
    s.flow.expect(is_tcp(flags="PA", seq=1, payload=b"data"))
    s.pure_ack(5)
    s.peer.advance("1s")
    s.flow.expect(is_tcp(flags="FA", seq=5, payload=b""))


def test_a_fin_whose_data_arrived_is_sent_again_alone():
    s = passive()
    s.sock.send(b"data")
    s.sock.close()
    s.flow.receive_all()
    s.pure_ack(5)
    s.peer.advance("1s")
    assert {(p.flags, p.seq, p.payload) for p in s.flow.receive_all()} == {("FA", 5, b"")}


@pytest.mark.parametrize("state", ["CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT"])
def test_a_repeated_fin_is_acknowledged_again(state):
    s = reach(state)
    s.flow.send("FA", seq=1, ack=s.ack)
    s.flow.expect(is_tcp(flags="A", ack=2))
    assert s.state == state


@pytest.mark.parametrize("state", ["CLOSE_WAIT", "CLOSING", "LAST_ACK"])
def test_data_after_the_peers_fin_is_ignored(state):
    """3.10.7.4 seventh: should not occur."""
    s = reach(state)
    s.flow.send("PA", seq=2, ack=s.ack, payload=b"afterthought")
    assert s.state == state and s.sock.recv(100) == b""
    assert s.sock.info()["rcv_nxt"] == (s.flow.iss + 2) & 0xFFFFFFFF


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1), (1, 0, 2), (0, 2, 1)])
def test_a_fin_out_of_order_waits_for_the_gap(order):
    s = reach("ESTABLISHED")
    pieces = [("A", 1, b"aaaa"), ("A", 5, b"bbbb"), ("FPA", 9, b"cccc")]
    got = b""
    for i in order:
        flags, seq, payload = pieces[i]
        s.flow.send(flags, seq=seq, ack=1, payload=payload)
        if s.sock.poll() & 1:
            got += s.sock.recv(100)
    assert got == b"aaaabbbbcccc" and s.state == "CLOSE_WAIT" and s.sock.recv(1) == b""
    assert s.flow.receive_all()[-1].ack == 14


def test_a_bare_fin_ahead_of_its_data_waits():
    s = reach("ESTABLISHED")
    s.flow.send("FA", seq=5, ack=1)
    s.flow.expect(is_tcp(flags="A", ack=1))
    assert s.state == "ESTABLISHED"
    s.flow.send("A", seq=1, ack=1, payload=b"data")
    s.flow.expect(is_tcp(flags="A", ack=6))
    assert s.state == "CLOSE_WAIT" and s.sock.recv(10) == b"data" and s.sock.recv(10) == b""


def test_data_beyond_an_earlier_fin_is_cut_off():
    s = reach("ESTABLISHED")
    s.flow.send("FA", seq=5, ack=1)
    s.flow.send("A", seq=3, ack=1, payload=b"cdefgh")
    s.flow.send("A", seq=1, ack=1, payload=b"ab")
    assert s.state == "CLOSE_WAIT" and s.sock.recv(10) == b"abcd" and s.sock.recv(10) == b""


def test_a_fin_before_data_that_is_here_is_no_end():
    """A peer that contradicts itself gets no more than a connection that goes on."""
    s = reach("ESTABLISHED")
    s.flow.send("A", seq=5, ack=1, payload=b"efgh")
    s.flow.send("FA", seq=7, ack=1)
    s.flow.send("A", seq=1, ack=1, payload=b"abcd")
    assert s.sock.recv(100) == b"abcdefgh" and s.state == "ESTABLISHED"
    s.flow.send("FA", seq=9, ack=1)
    assert s.state == "CLOSE_WAIT"


def test_a_bare_fin_is_taken_in_a_closed_window():
    s = passive(new_peer(**{"net.core.rmem_default": 4096, "net.core.rmem_max": 4096}))
    for _ in range(4):
        s.data(bytes(1024))
    s.quiet()
    assert s.sock.info()["rcv_adv"] == s.sock.info()["rcv_nxt"]
    s.fin()
    s.flow.expect(is_tcp(flags="A", ack=4098))
    assert s.state == "CLOSE_WAIT" and len(s.sock.recv(9999)) == 4096 and s.sock.recv(1) == b""


# --- the application lets go ------------------------------------------------------------------------------------------

def test_close_with_unread_data_resets():
    """RFC 2525 section 2.17; RFC 9293 section 3.6.1 (SHLD-3)."""
    s = reach("ESTABLISHED")
    s.data(b"unread")
    s.flow.receive_all()
    s.sock.close()
    s.flow.expect(is_tcp(flags="RA", seq=1, ack=7))
    assert states(s.peer.stack) == ["LISTEN"]


def test_data_for_nobody_resets():
    s = reach("ESTABLISHED")
    s.sock.close()
    s.flow.expect(is_tcp(flags="FA"))
    s.flow.send("PA", seq=1, ack=2, payload=b"x")
    s.flow.expect(is_tcp(flags="RA", seq=2))
    assert states(s.peer.stack) == ["LISTEN"]


def test_shutdown_of_reading_gives_end_of_file_and_keeps_sending():
    s = reach("ESTABLISHED")
    s.sock.shutdown(0)
    assert s.sock.recv(10) == b"" and s.sock.poll() & 0x2001 == 0x2001
    s.sock.send(b"x")
    s.flow.expect(is_tcp(flags="PA", payload=b"x"))


def test_linger_zero_resets_even_with_data_to_send():
    s = passive(window=10)
    s.sock.send(bytes(1000))
    s.flow.receive_all()
    s.sock.setsockopt(SOL_SOCKET, SO_LINGER, linger(0))
    s.sock.close()
    s.flow.expect(is_tcp(flags="RA"))
    assert states(s.peer.stack) == ["LISTEN"]


def test_closing_a_socket_twice_and_using_it_after():
    s = reach("ESTABLISHED")
    s.sock.close()
    s.sock.close()
    with pytest.raises(OSError) as error:
        s.sock.recv(1)
    assert error.value.errno == errno.EBADF


@pytest.mark.parametrize("state, seconds", [("FIN_WAIT_2", 60), ("TIME_WAIT", 60)])
def test_an_orphan_in_a_timed_state_is_gone_after_a_minute(state, seconds):
    """Security row D5; FIN-WAIT-2 has no RFC timer, Linux's is used."""
    s = reach(state)
    s.sock.close()
    s.peer.advance((seconds - 1) * S)
    assert state in states(s.peer.stack)
    s.peer.advance("1s")
    assert states(s.peer.stack) == ["LISTEN"] and s.peer.stack.next_deadline() is None
    s.flow.expect_nothing()


def test_fin_wait_2_waits_for_ever_while_somebody_reads():
    s = reach("FIN_WAIT_2")
    s.peer.advance("10000s")
    assert s.state == "FIN_WAIT_2"
    s.data(b"late")
    assert s.sock.recv(10) == b"late"


def test_fin_wait_2_of_an_orphan_whose_fin_is_acknowledged_after_the_close():
    s = reach("FIN_WAIT_1")
    s.sock.close()
    s.pure_ack(2)
    s.peer.advance("61s")
    assert states(s.peer.stack) == ["LISTEN"]


@pytest.mark.parametrize("state", [s for s in SYNCHRONIZED if s != "FIN_WAIT_2"])
def test_an_orphan_whose_peer_vanished_is_given_up(state):
    """Security row D5: R2 of RFC 9293 section 3.8.3, at least 100 s where data is outstanding."""
    s = reach(state)
    start = s.peer.clock.now_ns
    s.sock.close()
    while (deadline := s.peer.stack.next_deadline()) is not None:
        assert deadline - start < 1000 * S
        s.peer.advance(max(deadline - s.peer.clock.now_ns, 0))
    assert states(s.peer.stack) == ["LISTEN"] and s.peer.clock.now_ns - start >= 50 * S
    assert s.peer.stack.socket_count == 1


def test_both_close_on_a_wire():
    wire = Wire(3)
    a, b = wire.connect()
    a.send(b"bye")
    a.close()
    wire.until(lambda: b.poll() & 0x2000)
    assert b.recv(10) == b"bye" and b.recv(10) == b""
    b.close()
    wire.run(1)
    assert states(wire.stacks[0]) == ["TIME_WAIT"] and states(wire.stacks[1]) == []
    wire.run(61)
    assert states(wire.stacks[0]) == [] and wire.stacks[0].next_deadline() is None
