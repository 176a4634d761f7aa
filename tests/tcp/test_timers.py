"""Delayed acknowledgement, Nagle, cork, keepalive, user timeout (RFC 9293 sections 3.7.4, 3.8.3 to 3.8.6)."""

import errno

import pytest

from netstack.testing import is_tcp

from .tools import (
    MS,
    MSG_MORE,
    SO_ERROR,
    SO_KEEPALIVE,
    SOL_SOCKET,
    SOL_TCP,
    TCP_CORK,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_NODELAY,
    TCP_QUICKACK,
    TCP_USER_TIMEOUT,
    S,
    new_peer,
    passive,
    reach,
)


def chatting():
    """Established, and no longer acknowledging at once; the stack has sent data."""
    s = passive(mss=1000)
    s.sock.setsockopt(SOL_TCP, TCP_QUICKACK, 0)
    s.sock.send(b"x")
    s.flow.receive_all()
    s.pure_ack(2)
    return s


# --- acknowledgements -------------------------------------------------------------------------------------------------

def test_the_first_segments_of_a_connection_are_acknowledged_at_once():
    """Quick acknowledgements, so that slow start is not slowed down."""
    s = passive()
    for i in range(16):
        s.data(bytes(10))
        s.flow.expect(is_tcp(flags="A", ack=11 + 10 * i))
    s.data(bytes(10))
    s.flow.expect_nothing()


def test_later_an_acknowledgement_waits_40_ms():
    """Section 3.8.6.3: less than 500 ms."""
    s = chatting()
    s.data(b"hello")
    s.peer.advance("39ms")
    s.flow.expect_nothing()
    s.peer.advance("1ms")
    s.flow.expect(is_tcp(flags="A", ack=6))
    assert s.peer.stack.next_deadline() is None


def test_every_second_segment_is_acknowledged_at_once():
    s = chatting()
    for i in range(6):
        s.data(bytes(1000))
        if i % 2:
            s.flow.expect(is_tcp(flags="A", ack=1 + 1000 * (i + 1)))
        else:
            s.flow.expect_nothing()


def test_data_going_back_carries_the_acknowledgement():
    s = chatting()
    s.data(b"question")
    s.sock.send(b"answer")
    s.flow.expect(is_tcp(flags="PA", ack=9, payload=b"answer"))
    s.peer.advance("100ms")
    assert [p for p in s.flow.receive_all() if not p.payload] == []


def test_quickack_is_an_option():
    s = chatting()
    s.sock.setsockopt(SOL_TCP, TCP_QUICKACK, 1)
    s.data(b"x")
    s.flow.expect(is_tcp(flags="A", ack=2))
    s.sock.setsockopt(SOL_TCP, TCP_QUICKACK, 0)


def test_a_fin_is_acknowledged_at_once():
    s = passive()
    s.fin()
    s.flow.expect(is_tcp(flags="A", ack=2))


def test_in_a_conversation_the_answer_to_a_fin_waits_for_ours():
    s = chatting()
    s.fin()
    s.flow.expect_nothing()
    s.peer.advance("40ms")
    s.flow.expect(is_tcp(flags="A", ack=2))
    s = chatting()
    s.fin()
    s.sock.close()
    s.flow.expect(is_tcp(flags="FA", ack=2))
    s.flow.expect_nothing()


def test_a_request_does_not_end_quick_acknowledgements():
    """Of a client that speaks first, as the answer is only beginning."""
    s = passive(mss=1000)
    s.sock.send(b"request")
    s.flow.receive_all()
    s.pure_ack(8)
    s.data(bytes(100))
    s.flow.expect(is_tcp(flags="A", ack=101))


# --- Nagle ------------------------------------------------------------------------------------------------------------

def test_a_second_small_segment_waits_for_the_first():
    s = passive(mss=1000)
    s.sock.send(b"one")
    s.flow.expect(is_tcp(flags="PA", payload=b"one"))
    s.sock.send(b"two")
    s.sock.send(b"three")
    s.flow.expect_nothing()
    s.pure_ack(4)
    s.flow.expect(is_tcp(flags="PA", payload=b"twothree"))


def test_full_segments_do_not_wait():
    s = passive(mss=1000)
    s.sock.send(b"one")
    s.flow.receive_all()
    s.sock.send(bytes(2500))
    assert s.lengths() == [1000, 1000]          # and 503 wait, "one" is not acknowledged


def test_the_tail_of_a_large_write_does_not_wait():
    """Minshall's form, as Linux: only a small segment holds a small one back."""
    s = passive(mss=1000)
    s.sock.send(bytes(2500))
    assert s.lengths() == [1000, 1000, 500]


def test_nodelay_sends_at_once_and_pushes_what_waited():
    s = passive(mss=1000)
    s.sock.send(b"one")
    s.sock.send(b"two")
    assert s.lengths() == [3]
    s.sock.setsockopt(SOL_TCP, TCP_NODELAY, 1)
    assert s.lengths() == [3]
    s.sock.send(b"three")
    assert s.lengths() == [5]


def test_closing_pushes_what_waited():
    s = passive(mss=1000)
    s.sock.send(b"one")
    s.sock.send(b"two")
    s.flow.receive_all()
    s.sock.shutdown(1)
    s.flow.expect(is_tcp(flags="FPA", payload=b"two"))


def test_cork_holds_small_segments_until_it_is_pulled():
    s = passive(mss=1000)
    s.sock.setsockopt(SOL_TCP, TCP_CORK, 1)
    s.sock.send(b"head")
    s.sock.send(bytes(1500))
    assert s.lengths() == [1000]
    s.sock.setsockopt(SOL_TCP, TCP_CORK, 0)
    assert s.lengths() == [504]


def test_cork_holds_over_nodelay():
    s = passive(mss=1000)
    s.sock.setsockopt(SOL_TCP, TCP_NODELAY, 1)
    s.sock.setsockopt(SOL_TCP, TCP_CORK, 1)
    s.sock.send(b"head")
    s.flow.expect_nothing()


def test_cork_and_more_give_way_after_a_while():
    s = passive(mss=1000)
    s.sock.setsockopt(SOL_TCP, TCP_CORK, 1)
    s.sock.send(b"head", MSG_MORE)
    s.peer.advance("1s")
    s.flow.expect(is_tcp(payload=b"head"))


@pytest.mark.parametrize("option", [TCP_NODELAY, TCP_CORK])
@pytest.mark.parametrize("state", ["new", "listening", "closed"])
def test_options_of_a_socket_without_connection_do_no_harm(option, state):
    peer = new_peer()
    sock = peer.stack.socket()
    if state == "listening":
        sock.bind(("10.0.0.1", 80))
        sock.listen()
    elif state == "closed":
        s = reach("ESTABLISHED", peer)
        s.flow.send("R", seq=1)
        sock = s.sock
    for value in (1, 0, 1):
        sock.setsockopt(SOL_TCP, option, value)
        peer.advance("10ms")
    assert sock.getsockopt(SOL_TCP, option) == 1
    peer.collect()


# --- keepalive --------------------------------------------------------------------------------------------------------

def kept(**sysctl):
    s = passive(new_peer(**sysctl))
    s.sock.setsockopt(SOL_TCP, TCP_KEEPIDLE, 100)
    s.sock.setsockopt(SOL_TCP, TCP_KEEPINTVL, 10)
    s.sock.setsockopt(SOL_TCP, TCP_KEEPCNT, 4)
    s.sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    return s


def test_keepalive_is_off_by_default():
    """MUST-25."""
    s = passive()
    assert s.peer.stack.next_deadline() is None
    s.sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    assert s.peer.stack.next_deadline() - s.peer.clock.now_ns == 7200 * S


def test_a_silent_peer_is_probed_and_given_up():
    s = kept()
    start = s.peer.clock.now_ns
    s.peer.advance("139s")
    packets = s.flow.receive_all()
    assert [(p.t_ns - start) / S for p in packets] == [100, 110, 120, 130]
    assert {(p.flags, p.seq, p.ack, p.payload) for p in packets} == {("A", 0, 1, b"")}
    assert s.state == "ESTABLISHED"
    s.peer.advance("1s")
    s.flow.expect(is_tcp(flags="RA", seq=1))
    assert s.state == "CLOSED" and s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ETIMEDOUT


def test_a_peer_that_answers_lives_for_ever():
    """An answer starts the count anew: the tenth probe is no reason to give up."""
    s = kept()
    for _ in range(50):
        s.peer.advance("100s")
        assert len(s.flow.receive_all()) == 1
        s.pure_ack()
    assert s.state == "ESTABLISHED"


def test_an_answer_to_the_last_probe_is_enough():
    s = kept()
    for _ in range(20):
        s.peer.advance("135s")
        assert len(s.flow.receive_all()) == 4
        s.pure_ack()
    assert s.state == "ESTABLISHED"


def test_data_puts_the_probe_off():
    s = kept()
    for _ in range(10):
        s.peer.advance("99s")
        s.flow.expect_nothing()
        s.data(b"x")
        s.quiet()
    s.peer.advance("100s")
    assert len(s.flow.receive_all()) == 1


def test_the_peers_probe_is_answered():
    for state in ("ESTABLISHED", "FIN_WAIT_2", "CLOSE_WAIT"):
        s = reach(state)
        nxt = s.sock.info()["snd_nxt"] - s.flow.irs
        s.flow.send("A", seq=s.seq - 1, ack=s.ack)
        s.flow.expect(is_tcp(flags="A", seq=nxt, ack=s.seq))
        s.flow.send("A", seq=s.seq - 1, ack=s.ack, payload=b"x")
        s.flow.expect(is_tcp(flags="A", seq=nxt, ack=s.seq))


def test_unacknowledged_data_is_judged_by_its_own_timer():
    s = kept()
    s.sock.send(b"x")
    s.peer.advance("90s")
    assert all(p.payload for p in s.flow.receive_all())


@pytest.mark.parametrize("milliseconds", [500, 3000, 10_000])
def test_user_timeout_ends_the_connection_when_it_is_over(milliseconds):
    """RFC 5482, counted as Linux does: from the first retransmission, and not rounded up to the next RTO."""
    s = reach("ESTABLISHED")
    s.sock.setsockopt(SOL_TCP, TCP_USER_TIMEOUT, milliseconds)
    s.sock.send(b"x")
    s.flow.receive_all()
    begin = s.peer.clock.now_ns
    while s.state == "ESTABLISHED":
        s.peer.advance("10ms")
        assert s.peer.clock.now_ns - begin < 60 * S
    first = s.flow.receive_all()[0].t_ns
    assert abs(s.peer.clock.now_ns - first - milliseconds * MS) <= 20 * MS
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ETIMEDOUT


def test_user_timeout_gives_up_early():
    """RFC 5482."""
    s = passive()
    s.sock.setsockopt(SOL_TCP, TCP_USER_TIMEOUT, 5000)
    s.sock.send(b"x")
    s.peer.advance("20s")
    assert s.state == "CLOSED" and s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ETIMEDOUT


# --- together ---------------------------------------------------------------------------------------------------------

def test_all_timers_live_together_for_ten_hours():
    """Security row E1: each fires at its time, none is left after the close."""
    s = kept()
    s.sock.setsockopt(SOL_TCP, TCP_QUICKACK, 0)
    s.sock.send(b"x")                                      # retransmission
    s.flow.receive_all()
    s.data(b"y")                                           # delayed acknowledgement
    assert s.peer.stack.next_deadline() - s.peer.clock.now_ns == 40 * MS
    s.peer.advance("40ms")
    s.flow.expect(is_tcp(flags="A", ack=2))
    s.peer.advance("170ms")
    s.flow.expect(is_tcp(payload=b"x"))
    s.pure_ack(2, window=0)
    s.sock.send(bytes(10))                                 # persist
    probes = 0
    until = s.peer.clock.now_ns + 36_000 * S
    while s.peer.clock.now_ns < until:
        deadline = s.peer.stack.next_deadline()
        assert deadline is not None and deadline >= s.peer.clock.now_ns
        s.peer.advance(max(deadline - s.peer.clock.now_ns, 1))
        for p in s.flow.receive_all():
            probes += 1
            assert p.seq == 1 and not p.payload
            s.pure_ack(2, window=0)
    assert 250 <= probes <= 400 and s.state == "ESTABLISHED"
    s.sock.close()
    s.flow.send("R", seq=s.seq)
    assert s.peer.stack.next_deadline() is None and s.peer.stack.socket_count == 1


def test_ties_between_connections_fire_in_the_order_of_their_sockets():
    peer = new_peer()
    sessions = [passive_on(peer, 40000 + i) for i in range(5)]
    for s in reversed(sessions):
        s.sock.send(b"x")
    peer.collect()
    peer.received.clear()
    peer.advance("250ms")
    assert [p.dport for p in peer.received] == [40000 + i for i in range(5)]


def passive_on(peer, port):
    from .tools import Session, listen
    if not any(s.state == "LISTEN" for s in peer.stack.sockets()):
        passive_on.server = listen(peer)
    flow = peer.flow(port)
    flow.connect()
    return Session(peer, flow, passive_on.server.accept()[0])


def test_persist_is_no_retransmission():
    s = passive(window=0)
    s.sock.send(bytes(100))
    s.peer.advance("10s")
    assert s.sock.info()["retransmits"] == 0 and all(not p.payload for p in s.flow.receive_all())


def test_a_deadline_is_none_when_nothing_runs():
    s = reach("ESTABLISHED")
    assert s.peer.stack.next_deadline() is None
