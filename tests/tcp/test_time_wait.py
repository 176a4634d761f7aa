"""TIME-WAIT: RFC 9293 section 3.6.1, RFC 1337 (assassination), RFC 6191 (reuse); security row C9."""

import errno

import pytest

from netstack.testing import is_tcp

from .tools import SO_REUSEADDR, SOL_SOCKET, A, B, S, Session, dial, new_peer, reach, states


def waiting(**options):
    s = reach("TIME_WAIT", **options)
    s.sock.close()
    return s


def test_it_lasts_a_minute():
    s = waiting()
    s.peer.advance("59999ms")
    assert "TIME_WAIT" in states(s.peer.stack)
    s.peer.advance("1ms")
    assert states(s.peer.stack) == ["LISTEN"]


@pytest.mark.parametrize("flags", ["R", "RA"])
def test_a_reset_does_not_end_it(flags):
    """RFC 1337 section 3, fix F1."""
    s = waiting()
    for seq in (2, 3, 1, 70_000):
        s.flow.send(flags, seq=seq, ack=2 if "A" in flags else None)
    s.flow.expect_nothing()
    assert "TIME_WAIT" in states(s.peer.stack)


def test_old_duplicates_are_acknowledged_and_change_nothing():
    """RFC 1337 hazards H1 to H3: data, ACK and RST of the old connection."""
    s = waiting()
    s.flow.send("PA", seq=1, ack=1, payload=b"old")
    s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
    s.flow.send("A", seq=1, ack=1)
    s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
    s.flow.send("R", seq=2)
    s.peer.advance("59s")
    assert "TIME_WAIT" in states(s.peer.stack)


def test_the_expected_ack_is_not_answered():
    s = waiting()
    s.flow.send("A", seq=2, ack=2)
    s.flow.expect_nothing()


def test_the_peers_fin_again_starts_the_minute_anew():
    s = waiting()
    s.peer.advance("50s")
    s.flow.send("FA", seq=1, ack=2)
    s.flow.expect(is_tcp(flags="A", seq=2, ack=2))
    s.peer.advance("50s")
    assert "TIME_WAIT" in states(s.peer.stack)
    s.peer.advance("10s")
    assert "TIME_WAIT" not in states(s.peer.stack)


def test_another_fin_does_not_start_it_anew():
    s = waiting()
    s.peer.advance("50s")
    s.flow.send("FA", seq=500, ack=2)
    s.peer.advance("10s")
    assert "TIME_WAIT" not in states(s.peer.stack)


def test_timestamps_go_on_in_time_wait():
    s = reach("TIME_WAIT", timestamp=(100, 0))
    s.sock.close()
    s.flow.receive_all()
    s.peer.advance("1s")
    s.flow.send("FA", seq=1, ack=2, timestamp=(101, 0))
    packet = s.flow.expect(is_tcp(flags="A", ack=2, timestamp=lambda t: t is not None))
    s.peer.advance("250ms")
    s.flow.send("FA", seq=1, ack=2, timestamp=(102, 0))
    assert s.flow.receive().timestamp[0] - packet.timestamp[0] & 0xFFFFFFFF == 250


@pytest.mark.parametrize("old, new, seq, accepted", [
    (None, None, 3, True),              # later sequence number (RFC 9293 section 3.6.1)
    (None, None, 2, False),
    (None, None, 1, False),
    (100, 101, 0, True),                # later timestamp, whatever the sequence number (RFC 6191 section 2)
    (100, 100, 3, True),                # the same timestamp: the sequence number decides
    (100, 100, 1, False),
    (100, 99, 500, False),
    (100, None, 3, True),
    (100, None, 1, False),
])
def test_a_new_syn_may_take_the_names_over(old, new, seq, accepted):
    s = reach("TIME_WAIT", **({"timestamp": (old, 0)} if old else {}))
    s.sock.close()
    s.flow.receive_all()
    stamp = {"timestamp": (new, 0)} if new else {}
    s.flow.send("S", seq=seq, mss=1460, **stamp)
    packet = s.flow.receive()
    assert packet.flags == ("SA" if accepted else "A")
    assert states(s.peer.stack) == (["LISTEN", "SYN_RCVD"] if accepted else ["LISTEN", "TIME_WAIT"])


def test_without_a_listener_a_new_syn_is_only_acknowledged():
    s = waiting()
    s.server.close()
    s.flow.send("S", seq=100, mss=1460)
    s.flow.expect(is_tcp(flags="A", ack=2))


def acknowledge_all(s):
    packets = s.flow.receive_all()
    if packets:
        s.pure_ack(packets[-1].seq + len(packets[-1].payload))
    return bool(packets)


def sent_much(s, megabytes):
    """The stack sends faster than its ISN clock ticks (15.6 MB/s)."""
    left = megabytes << 20
    while left:
        try:
            left -= s.sock.send(bytes(min(left, 1 << 16)))
        except BlockingIOError:
            pass
        acknowledge_all(s)
    while acknowledge_all(s):
        pass


def test_the_new_connection_begins_above_the_old_one():
    """RFC 6191 section 3: also when the old one outran the clock of ISNs."""
    s = reach("ESTABLISHED", new_peer(mtu=65535), window_scale=4)
    sent_much(s, 4)
    s.sock.close()
    s.flow.receive_all()
    s.pure_ack(s.ack + 1)
    s.fin()
    s.flow.receive_all()
    end = s.flow.irs + s.ack
    s.flow.send("S", seq=100, mss=1460)
    s.flow.expect(is_tcp(flags="SA"))
    assert 0 < (s.flow.irs - end & 0xFFFFFFFF) < 1 << 31
    s.flow.send("A", seq=101, ack=1)
    sock, _ = s.server.accept()
    sock.send(b"new")
    s.flow.expect(is_tcp(flags="PA", seq=1, ack=101, payload=b"new"))


def test_connecting_again_from_the_same_port_begins_above_too():
    peer = new_peer(mtu=65535)
    sock = peer.stack.socket()
    sock.bind((A, 5555))
    sock.connect_ex((B, 9000))
    s = Session(peer, peer.flow(9000, 5555), sock)
    s.flow.accept(timestamp=(1, 0), window_scale=4)
    sent_much(s, 4)
    sock.close()
    s.flow.receive_all()
    s.pure_ack(s.ack + 1)
    s.fin()
    s.flow.receive_all()
    end = s.flow.irs + s.ack
    again = peer.stack.socket()
    again.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    again.bind((A, 5555))
    assert again.connect_ex((B, 9000)) == errno.EINPROGRESS
    packet = peer.flow(9000, 5555).receive()
    assert packet.flags == "S" and 0 < (again.info()["iss"] - end & 0xFFFFFFFF) < 1 << 31


def test_without_timestamps_the_same_names_are_refused():
    peer = new_peer(timestamps=0)
    s = dial(peer)
    s.flow.accept()
    port = s.sock.getsockname()[1]
    s.sock.close()
    s.flow.receive_all()
    s.flow.send("FA", seq=1, ack=2)
    again = peer.stack.socket()
    again.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    again.bind((A, port))
    assert again.connect_ex((B, 9000)) == errno.EADDRNOTAVAIL
    assert again.connect_ex((B, 9001)) == errno.EINPROGRESS


def test_the_number_of_records_is_limited_and_the_oldest_goes_first():
    peer = new_peer(max_tw_buckets=3)
    ports = []
    for i in range(5):
        s = dial(peer, 9000 + i)
        s.flow.accept()
        ports.append(9000 + i)
        s.sock.close()
        s.flow.receive_all()
        s.flow.send("FA", seq=1, ack=2)
        peer.advance("10ms")
    assert [s.rport for s in peer.stack.sockets() if s.state == "TIME_WAIT"] == ports[2:]


def test_no_records_at_all_when_the_limit_is_zero():
    s = reach("TIME_WAIT", new_peer(max_tw_buckets=0))
    s.sock.close()
    assert states(s.peer.stack) == ["LISTEN"]


def test_unread_data_survives_until_the_application_takes_it():
    s = reach("FIN_WAIT_2")
    s.data(b"last")
    s.fin()
    assert s.state == "TIME_WAIT" and s.sock.recv(10) == b"last" and s.sock.recv(10) == b""
    s.peer.advance(61 * S)
    assert s.sock.recv(10) == b""
    s.sock.close()
    assert s.peer.stack.socket_count == 1
