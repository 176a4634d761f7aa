"""Windows: RFC 9293 sections 3.8.6 (zero window, silly window, shrinking) and 3.10.7.4 fifth; security row D12."""

import pytest

from netstack.testing import is_tcp

from .tools import MS, SO_RCVBUF, SOL_SOCKET, S, dial, new_peer, passive, reach

SMALL = {"net.core.rmem_default": 8192, "net.core.rmem_max": 8192}


def reader(**options):
    """A stack with a receive buffer of 8192 bytes; the peer sends."""
    s = passive(new_peer(**SMALL), mss=1000, **options)
    assert s.sock.info()["rcv_adv"] - s.sock.info()["rcv_nxt"] == 8192
    return s


# --- receiving --------------------------------------------------------------------------------------------------------

def test_the_window_closes_as_data_waits_and_opens_when_it_is_read():
    s = reader()
    for i in range(8):
        s.data(bytes([i]) * 1024)
    assert s.flow.receive_all()[-1].window == 0
    s.sock.recv(8192)
    s.flow.expect(is_tcp(flags="A", window=8192, ack=8193))


def test_data_beyond_a_closed_window_is_dropped_and_acknowledged():
    """A zero-window probe (section 3.8.6.1)."""
    s = reader()
    for _ in range(8):
        s.data(bytes(1024))
    s.quiet()
    s.flow.send("A", seq=s.seq, ack=1, payload=b"probe")
    s.flow.expect(is_tcp(flags="A", ack=s.seq, window=0))
    assert s.sock.recv(9999) == bytes(8192)
    with pytest.raises(BlockingIOError):
        s.sock.recv(1)


def test_a_segment_is_cut_at_the_windows_edge_and_its_fin_goes_with_the_rest():
    s = reader()
    s.data(bytes(8000))
    s.flow.send("FPA", seq=8001, ack=1, payload=b"x" * 500)
    assert s.sock.info()["rcv_nxt"] == s.flow.iss + 8193 and s.state == "ESTABLISHED"
    assert s.sock.recv(9999) == bytes(8000) + b"x" * 192


def test_the_right_edge_never_moves_left():
    """Section 3.8.6 (SHLD-14): a smaller buffer closes the window only as data comes."""
    s = passive(mss=1000)
    s.data(b"x" * 1000)
    edge = max(p.ack + p.window for p in s.flow.receive_all())
    s.sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 2048)
    for i in range(40):
        s.data(bytes(1000))
        for p in s.flow.receive_all():
            assert p.ack + p.window >= edge or p.window == 0 and p.ack + p.window == edge
            edge = p.ack + p.window
        if i % 3 == 0:
            s.sock.recv(5000)


def test_the_receiver_offers_no_silly_windows():
    """Section 3.8.6.2.2: min(half the buffer, MSS)."""
    s = reader()
    for _ in range(8):
        s.data(bytes(1024))
    s.quiet()
    for _ in range(9):
        s.sock.recv(100)
    s.flow.expect_nothing()
    s.sock.recv(100)
    packet = s.flow.receive()
    assert packet is not None and packet.window == 1000
    s.sock.recv(10)
    s.flow.expect_nothing()


def test_reading_a_little_sends_no_window_updates():
    """Also without window scaling, where the field cannot say the whole buffer."""
    s = passive()
    s.data(bytes(1000))
    s.quiet()
    for _ in range(1000):
        s.sock.recv(1)
    s.flow.expect_nothing()


def test_a_window_update_comes_when_a_good_part_of_the_buffer_is_free_again():
    s = reader()
    for _ in range(6):
        s.data(bytes(1024))
    s.quiet()
    s.sock.recv(6144)
    s.flow.expect(is_tcp(flags="A", ack=6145, window=8192))


# --- sending ----------------------------------------------------------------------------------------------------------

def test_no_more_is_sent_than_the_window_allows():
    s = passive(window=2500, mss=1000)
    s.sock.send(bytes(10000))
    assert s.lengths() == [1000, 1000]
    s.pure_ack(1001, window=2500)
    assert s.lengths() == [1000]


def test_a_larger_window_lets_more_go():
    s = passive(window=1000, mss=1000)
    s.sock.send(bytes(5000))
    assert s.lengths() == [1000]
    s.pure_ack(1, window=3000)
    assert s.lengths() == [1000, 1000]


def test_an_older_segment_does_not_change_the_window():
    """SND.WL1 and SND.WL2 (3.10.7.4 fifth)."""
    s = passive(window=5000, mss=1000)
    s.data(b"abc", window=4000)
    assert s.sock.info()["snd_wnd"] == 4000
    s.flow.send("A", seq=1, ack=1, window=60000)
    assert s.sock.info()["snd_wnd"] == 4000
    s.sock.send(bytes(2000))
    s.pure_ack(2001, window=3000)
    s.flow.send("A", seq=s.seq, ack=1001, window=60000)
    assert s.sock.info()["snd_wnd"] == 3000


def test_an_older_segment_that_acknowledges_more_brings_its_window():
    """The window counts from SND.UNA: kept as it was, it would reach beyond all that was offered. Linux's rule."""
    s = passive(window=5000, mss=1000)
    s.flow.send("A", seq=500, ack=1, window=2000, payload=b"x")        # overtakes what comes below
    assert s.lengths() == [0]
    s.sock.send(bytes(10_000))
    assert s.lengths() == [1000, 1000]
    s.flow.send("A", seq=1, ack=2001, window=0, payload=b"abcd")
    assert not any(s.lengths()) and s.sock.info()["snd_wnd"] == 0


def test_the_sender_makes_no_silly_segments():
    """Section 3.8.6.2.1: a full segment, or all there is, or half the largest window."""
    s = passive(window=4000, mss=1000)
    s.sock.send(bytes(20000))
    assert sum(s.lengths()) == 4000
    s.pure_ack(4001, window=300)
    assert s.lengths() == []
    s.pure_ack(4001, window=999)
    assert s.lengths() == []
    s.pure_ack(4001, window=1000)
    assert s.lengths() == [1000]


def test_half_of_the_largest_window_is_worth_sending():
    s = passive(window=600, mss=1000)
    s.sock.send(bytes(5000))
    assert s.lengths() == [600]
    s.pure_ack(601, window=299)
    assert s.lengths() == []
    s.pure_ack(601, window=300)
    assert s.lengths() == [300]


def test_a_small_window_is_used_after_all_when_nothing_else_comes():
    """The override timeout of section 3.8.6.2.1."""
    s = passive(window=4000, mss=1000)
    s.sock.send(bytes(20000))
    s.flow.receive_all()
    s.pure_ack(4001, window=300)
    s.peer.advance("1s")
    assert s.lengths()[0] == 300


# --- zero window ------------------------------------------------------------------------------------------------------

def closed():
    """The peer has acknowledged 1000 bytes and closed its window; 4000 more wait."""
    s = passive(window=1000, mss=1000)
    s.sock.send(bytes(5000))
    assert s.lengths() == [1000]
    s.pure_ack(1001, window=0)
    return s


def test_a_closed_window_is_probed_with_doubling_intervals():
    """Section 3.8.6.1; the probe is Linux's: an old sequence number and no data."""
    s = closed()
    start = s.peer.clock.now_ns
    times = []
    for _ in range(12):
        deadline = s.peer.stack.next_deadline()
        s.peer.advance(deadline - s.peer.clock.now_ns)
        packet = s.flow.expect(is_tcp(flags="A", seq=1000, payload_length=0))
        times.append(packet.t_ns - start)
        s.pure_ack(1001, window=0)
    gaps = [b - a for a, b in zip([0, *times], times, strict=False)]
    assert gaps[0] >= 200 * MS
    assert all(b == min(2 * a, 120 * S) for a, b in zip(gaps[1:], gaps[2:], strict=False))
    assert gaps[-1] == 120 * S and s.state == "ESTABLISHED"


def test_a_peer_that_answers_probes_is_waited_for_without_end():
    s = closed()
    for _ in range(100):
        s.peer.advance("120s")
        if s.flow.receive_all():
            s.pure_ack(1001, window=0)
    assert s.state == "ESTABLISHED"
    s.pure_ack(1001, window=2000)
    assert s.lengths() == [1000, 1000]


def test_a_peer_that_does_not_is_given_up_after_r2():
    s = closed()
    s.peer.advance("3000s")
    assert s.state == "CLOSED"
    with pytest.raises(TimeoutError):
        s.sock.recv(1)


def test_reopening_sends_at_once_and_the_timer_is_rto_again():
    s = closed()
    for _ in range(5):
        s.peer.advance("2s")
        if s.flow.receive_all():
            s.pure_ack(1001, window=0)
    s.pure_ack(1001, window=1000)
    assert s.lengths() == [1000]
    assert s.sock.info()["rto_ns"] < S


def test_a_lost_window_update_is_repaired_by_the_next_probes_answer():
    s = closed()
    s.peer.advance("300ms")
    s.flow.expect(is_tcp(flags="A", seq=1000))
    s.pure_ack(1001, window=4000)
    assert s.lengths() == [1000, 1000, 1000, 1000]


def test_a_fin_waits_for_a_closed_window():
    s = passive(window=1000, mss=1000)
    s.sock.send(bytes(1000))
    s.flow.receive_all()
    s.pure_ack(1001, window=0)
    s.sock.close()
    s.flow.expect_nothing()
    s.peer.advance("1s")
    assert {(p.seq, p.flags) for p in s.flow.receive_all()} == {(1000, "A")}
    s.pure_ack(1001, window=10)
    s.flow.expect(is_tcp(flags="FA", seq=1001))


# --- shrinking --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("window", [0, 1, 500, 1000, 2500])
def test_a_window_that_shrinks_below_what_is_in_flight_loses_nothing(window):
    """Section 3.8.6 (MUST-34): the sender is robust against shrinking."""
    s = passive(window=5000, mss=1000)
    data = bytes(i % 251 for i in range(12000))
    s.sock.send(data)
    assert sum(s.lengths()) == 5000
    got = bytearray(data[:1000])
    s.pure_ack(1001, window=window)
    s.flow.receive_all()
    for _ in range(60):
        s.peer.advance("3s")
        for p in s.flow.receive_all():
            at = p.seq - 1
            if at <= len(got) < at + len(p.payload) and len(p.payload):
                got += p.payload[len(got) - at:]
        s.pure_ack(1 + len(got), window=5000)
        for p in s.flow.receive_all():
            at = p.seq - 1
            if at <= len(got) < at + len(p.payload):
                got += p.payload[len(got) - at:]
        s.pure_ack(1 + len(got), window=5000)
        if len(got) == len(data):
            break
    assert bytes(got) == data and s.state == "ESTABLISHED"


def test_a_closed_window_with_data_in_flight_asks_with_the_first_segment():
    s = passive(window=3000, mss=1000)
    s.sock.send(bytes(3000))
    s.flow.receive_all()
    s.pure_ack(1, window=0)
    s.peer.advance("1s")
    packets = s.flow.receive_all()
    assert packets and {(p.seq, len(p.payload)) for p in packets} == {(1, 1000)}


def test_the_peers_window_on_established_states_only():
    s = reach("CLOSE_WAIT")
    s.pure_ack(1, window=7)
    assert s.sock.info()["snd_wnd"] == 7


def test_a_buffer_made_smaller_after_the_syn_takes_nothing_back():
    """What the SYN offered holds, as any window does (RFC 9293 section 3.8.6)."""
    s = dial(new_peer())
    offered = s.flow.expect(is_tcp(flags="S")).window
    s.sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
    s.flow.send("SA", seq=0, ack=1, mss=1460)
    assert s.flow.expect(is_tcp(flags="A", ack=1)).window == offered
