"""What programs and peers know of Linux's TCP beyond the RFCs; each was found by a script of packetdrill."""

import errno

import pytest

from netstack.stack import Stack
from netstack.testing import is_tcp

from .test_path_mtu import too_big
from .test_recovery import sender
from .tools import (
    MSG_MORE,
    SO_ERROR,
    SOL_SOCKET,
    SOL_TCP,
    TCP_CORK,
    TCP_NODELAY,
    TCP_USER_TIMEOUT,
    listen,
    new_peer,
    passive,
    reach,
)

SIOCINQ, SIOCOUTQ = 0x541B, 0x5411
TCP_NOTSENT_LOWAT = 25
MSG_EOR = 0x80


def flags_and_ends(s):
    return [(p.flags, p.seq + len(p.payload)) for p in s.flow.receive_all() if p.payload]


def test_the_last_of_several_segments_that_leave_together_says_push():
    s = passive(mss=1000)
    s.sock.send(bytes(30000))
    sent = flags_and_ends(s)
    assert [end for _, end in sent] == [1001 + 1000 * i for i in range(10)]
    assert [end for flags, end in sent if "P" in flags] == [5001, 10001], "each half of the window, and its end"
    s.pure_ack(1001)
    assert flags_and_ends(s) == [("A", 11001), ("PA", 12001)]


def test_a_segment_that_fills_the_peers_window_says_push():
    s = passive(mss=1000, window=1000)
    s.sock.send(bytes(2000))
    assert flags_and_ends(s) == [("PA", 1001)]


def test_an_abort_carries_a_timestamp_where_they_are_in_use():
    s = passive(timestamp=(700, 0))
    s.data(bytes(10), timestamp=(701, 0))
    s.quiet()
    s.peer.advance("1s")
    s.sock.close()
    s.flow.expect(is_tcp(flags="RA", timestamp=lambda t: t is not None and t[1] == 701))


@pytest.mark.parametrize("offset", [-1, 0, 1000])
def test_time_wait_ignores_segments_without_an_acknowledgement(offset):
    """RFC 9293 section 3.10.7.4: "if the ACK bit is off, drop the segment"."""
    s = reach("FIN_WAIT_2")
    s.fin()
    s.quiet()
    s.flow.send("F", seq=s.seq + offset)
    s.flow.expect_nothing()
    s.flow.send("A", seq=s.seq + 5, ack=s.ack)
    s.flow.expect(is_tcp(flags="A", ack=s.seq))


def test_a_reset_in_last_ack_is_reported():
    s = reach("LAST_ACK")
    s.flow.send("R", seq=s.seq)
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNRESET


def test_bytes_to_read_and_bytes_not_acknowledged():
    s = passive(mss=1000)
    assert (s.sock.ioctl(SIOCINQ), s.sock.ioctl(SIOCOUTQ)) == (0, 0)
    s.data(bytes(7))
    s.sock.send(bytes(100))
    assert (s.sock.ioctl(SIOCINQ), s.sock.ioctl(SIOCOUTQ)) == (7, 100)
    s.fin()
    s.pure_ack(61)
    assert (s.sock.ioctl(SIOCINQ), s.sock.ioctl(SIOCOUTQ)) == (7, 40)
    with pytest.raises(OSError) as refused:
        s.sock.ioctl(1)
    assert refused.value.errno == errno.ENOTTY
    with pytest.raises(OSError) as refused:
        s.server.ioctl(SIOCINQ)
    assert refused.value.errno == errno.EINVAL


def test_the_shift_of_a_chosen_receive_buffer_says_that_buffer():
    for size, shift in ((20000, 0), (256000, 2), (1000000, 4)):
        peer = new_peer(rmem="4096 131072 6291456")
        server = listen(peer)
        server.setsockopt(SOL_SOCKET, 8, size)
        flow = peer.flow(40000)
        flow.send("S", mss=1000, window_scale=7)
        assert flow.receive_all()[0].window_scale == shift


def test_what_waits_beyond_a_gap_makes_the_buffer_grow_once_somebody_reads():
    peer = new_peer(rmem="4096 131072 6291456")
    server = listen(peer)
    flow = peer.flow(40000)
    flow.send("S", mss=1460, window_scale=7)
    flow.receive_all()
    flow.send("A", seq=1, ack=1)
    flow.send("A", seq=2001, ack=1, payload=bytes(60000))
    child, _ = server.accept()
    assert child.getsockopt(SOL_SOCKET, 8) == 131072
    flow.send("A", seq=62001, ack=1, payload=bytes(40000))
    assert child.getsockopt(SOL_SOCKET, 8) > 131072


def test_the_path_mtu_serves_the_next_connection_and_our_synack_says_our_own():
    """RFC 1191 section 3; RFC 6691: the option is about what we can receive."""
    peer = new_peer()
    s = passive(peer, mss=1460)
    s.sock.send(bytes(1460))
    assert s.lengths() == [1460]
    too_big(s, 1, 1200)
    assert max(s.lengths()) == 1160
    again = peer.flow(40001)
    again.connect(mss=1460)
    s.server.accept()[0].send(bytes(1460))
    assert [len(p.payload) for p in again.receive_all()] == [1160, 300]
    flow = peer.flow(40002)
    flow.send("S", mss=1460)
    assert flow.receive_all()[0].mss == 1460


def test_what_reaches_beyond_the_window_is_taken_whole_while_nothing_waits_to_be_read():
    s = passive(new_peer(**{"net.core.rmem_default": 8192, "net.core.rmem_max": 8192}), mss=1000)
    s.data(b"x" * 20000)
    s.flow.expect(is_tcp(flags="A", ack=20001, window=0))
    s.fin()
    s.flow.expect(is_tcp(flags="A", ack=20002, window=0))
    assert s.sock.recv(65536) == b"x" * 20000 and s.sock.recv(1) == b""


def test_what_reaches_beyond_the_window_is_cut_while_data_waits_and_refused_at_a_closed_one():
    s = passive(new_peer(**{"net.core.rmem_default": 8192, "net.core.rmem_max": 8192}), mss=1000)
    s.data(b"x" * 8000)
    s.flow.send("PA", seq=s.seq, ack=1, payload=b"y" * 20000)
    assert s.sock.info()["rcv_nxt"] == s.flow.iss + 8193
    s.flow.send("PA", seq=8193, ack=1, payload=b"z" * 20000)
    assert s.flow.receive_all()[-1].ack == 8193
    assert s.sock.recv(65536) == b"x" * 8000 + b"y" * 192


def overtaken():
    """Ten segments of 1000 bytes sent, ten more waiting; the first, fifth and eighth are lost, the first came again."""
    s = sender(rtt_ms=10)
    for blocks in (((1001, 2001),), ((1001, 3001),), ((1001, 3001), (8001, 9001))):
        s.pure_ack(1, sack=blocks)
    s.peer.advance("12ms")
    s.pure_ack(4001, sack=((8001, 9001),))
    s.flow.receive_all()
    s.sock.send(bytes(10000))
    s.flow.receive_all()
    return s


def test_blocks_of_an_acknowledgement_that_another_overtook_are_news():
    s = overtaken()
    before = s.sock.info()["cwnd"]
    s.pure_ack(3001, sack=((5001, 7001),))
    sent = [(p.flags, p.seq) for p in s.flow.receive_all()]
    assert sent == [("A", 7001), ("A", 10001)] and s.sock.info()["cwnd"] == before
    assert s.sock.info()["snd_una"] == s.sock.info()["iss"] + 4001


@pytest.mark.parametrize("block", [(3001, 4001), (3001, 6000), (9001, 30001)])
def test_old_blocks_of_an_overtaken_acknowledgement_say_nothing(block):
    s = overtaken()
    s.pure_ack(3001, sack=(block,))
    s.flow.expect_nothing()


def test_when_an_acknowledgement_is_delayed_can_be_set():
    s = passive(new_peer(quickack_segments=0, delayed_ack_ms=100))
    s.data(b"a")
    s.peer.advance("99ms")
    s.flow.expect_nothing()
    s.peer.advance("1ms")
    s.flow.expect(is_tcp(flags="A", ack=2))
    s = passive(new_peer(quickack_segments=1))
    s.data(b"a")
    s.flow.expect(is_tcp(flags="A", ack=2))
    s.data(b"b")
    s.flow.expect_nothing()


def gaps(*pieces):
    """A receiver that holds these pieces of the peer's bytes beyond a gap; its acknowledgements are taken."""
    s = passive(mss=1460, sack_permitted=True)
    for start, end in pieces:
        s.flow.send("A", seq=start, ack=1, payload=bytes(end - start))
    s.flow.receive_all()
    return s


@pytest.mark.parametrize("start, end, ack, sack", [
    (1, 150, 200, ((100, 150), (500, 600), (300, 400))),       # fills the gap and a part of what is there
    (1, 250, 250, ((100, 200), (500, 600), (300, 400))),
    (1, 350, 400, ((100, 200), (500, 600))),                   # two pieces again: the first is told
    (1, 100, 200, ((500, 600), (300, 400))),                   # nothing came twice
    (200, 350, 1, ((300, 350), (100, 400), (500, 600))),       # beyond the gap: the piece, then the range around it
    (200, 550, 1, ((300, 400), (100, 600))),
    (150, 180, 1, ((150, 180), (100, 200), (500, 600), (300, 400))),
    (200, 250, 1, ((100, 250), (500, 600), (300, 400))),
])
def test_what_came_twice_is_told_first_and_its_range_next(start, end, ack, sack):
    """RFC 2883 section 4, also for bytes that the same segment brings into order."""
    s = gaps((100, 200), (300, 400), (500, 600))
    s.flow.send("A", seq=start, ack=1, payload=bytes(end - start))
    answer = s.flow.receive_all()[-1]
    assert (answer.ack, tuple(answer.sack)) == (ack, sack)


def test_without_dsack_nothing_tells_what_came_twice():
    s = passive(new_peer(dsack=0), sack_permitted=True)
    s.flow.send("A", seq=101, ack=1, payload=bytes(100))
    s.flow.send("A", seq=151, ack=1, payload=bytes(100))
    assert [tuple(p.sack) for p in s.flow.receive_all()] == [((101, 201),), ((101, 251),)]


def test_on_a_long_path_few_segments_make_a_run():
    """Two at least, else what a millisecond at the pacing rate brings: half a window only on a short path."""
    s = sender(segments=10, extra=30, rtt_ms=100)
    s.pure_ack(10001)
    sent = flags_and_ends(s)
    assert [flags for flags, _ in sent] == ["A", "PA"] * 10
    s = sender(segments=3)
    s.pure_ack(3001)
    s.sock.send(bytes(3000), MSG_MORE)
    assert [flags for flags, _ in flags_and_ends(s)] == ["A", "PA", "A"], "three, of which the last stands alone"


def test_what_says_more_follows_does_not_push_and_waits_for_the_next_acknowledgement():
    s = passive(mss=1000)
    s.sock.setsockopt(SOL_TCP, TCP_NODELAY, 1)
    s.sock.send(bytes(1100), MSG_MORE)
    assert flags_and_ends(s) == [("A", 1001)]
    s.peer.advance("1ms")
    s.pure_ack(1001)
    assert flags_and_ends(s) == [("A", 1101)]
    s.sock.send(b"more", MSG_MORE)
    s.flow.expect_nothing()
    s.sock.send(b"last")
    assert flags_and_ends(s) == [("PA", 1109)]


def test_what_says_more_follows_is_pushed_when_nothing_does():
    s = passive(mss=1000)
    s.sock.send(b"more", MSG_MORE)
    s.flow.expect_nothing()
    s.peer.advance("250ms")
    assert flags_and_ends(s)[0] == ("PA", 5)


@pytest.mark.parametrize("held", ["cork", "more"])
def test_nodelay_lets_go_of_what_is_queued(held):
    s = passive(mss=1000)
    if held == "cork":
        s.sock.setsockopt(SOL_TCP, TCP_CORK, 1)
    s.sock.send(b"x" * 80, MSG_MORE if held == "more" else 0)
    s.flow.expect_nothing()
    s.sock.setsockopt(SOL_TCP, TCP_NODELAY, 1)
    assert flags_and_ends(s) == [("PA" if held == "cork" else "A", 81)]
    s.pure_ack(81)
    if held == "cork":
        s.sock.send(b"y" * 80)
        s.flow.expect_nothing()


def test_a_peer_that_is_given_up_is_told_nothing():
    """RFC 9293 section 3.10.8; a keepalive that goes unanswered is what Linux does tell (test_timers)."""
    s = passive(mss=1000)
    s.sock.setsockopt(SOL_TCP, TCP_USER_TIMEOUT, 3000)
    s.sock.send(b"x")
    s.peer.advance("10s")
    assert all(p.flags == "PA" for p in s.flow.receive_all()) and s.state == "CLOSED"
    assert s.sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ETIMEDOUT


def test_the_mark_of_unsent_bytes_is_the_sysctls_unless_the_socket_has_its_own():
    s = passive(new_peer(notsent_lowat=4000), mss=1000, window=1000)
    assert s.sock.getsockopt(SOL_TCP, TCP_NOTSENT_LOWAT) == 0
    assert s.sock.send(bytes(9000)) == 5000
    s.peer.stack.set("net.ipv4.tcp_notsent_lowat", 6000)
    assert s.sock.send(bytes(9000)) == 2000
    s.sock.setsockopt(SOL_TCP, TCP_NOTSENT_LOWAT, 7000)
    assert s.sock.send(bytes(9000)) == 1000 and s.sock.getsockopt(SOL_TCP, TCP_NOTSENT_LOWAT) == 7000


def test_no_segment_reaches_over_the_end_of_a_record():
    """MSG_EOR: later bytes do not join the segment that its last bytes are in, also when they go again."""
    s = passive(mss=1000, window=60000, sack_permitted=True)
    s.sock.send(bytes(10400))
    for _ in range(3):
        s.sock.send(bytes(400), MSG_EOR)
    s.sock.send(bytes(2000))
    s.flow.receive_all()
    s.pure_ack(10001)
    sent = flags_and_ends(s)
    assert sent == [("PA", 10801), ("PA", 11201), ("PA", 11601), ("A", 12601), ("PA", 13601)]
    s.peer.advance("3s")
    s.pure_ack(10801)
    again = flags_and_ends(s)
    assert len(again) > 2 and {end for _, end in again} <= {end for _, end in sent}
    s.pure_ack(13601)
    s.sock.send(b"alone", MSG_EOR)
    s.sock.send(b"next")
    assert flags_and_ends(s) == [("PA", 13606)], "Nagle holds back what follows a small segment in flight"
    s.pure_ack(13606)
    assert flags_and_ends(s) == [("PA", 13610)]


def test_ends_of_records_survive_a_snapshot():
    s = passive(mss=1000, window=1000)
    s.sock.send(bytes(1300), MSG_EOR)
    s.sock.send(bytes(1300), MSG_EOR)
    s.sock.send(bytes(300))
    assert flags_and_ends(s) == [("PA", 1001)]
    s.peer.stack = Stack.restore(s.peer.stack.snapshot(), s.peer.stack.now_ns)
    for ack, ends in ((1001, [1301, 2001]), (2001, [2601]), (2601, [2901])):
        s.pure_ack(ack, window=1000)
        assert [end for _, end in flags_and_ends(s)] == ends


def test_more_records_than_marks_lose_nothing():
    s = passive(mss=1000, window=1000)
    s.sock.send(bytes(1000))
    for i in range(100):
        s.sock.send(bytes([i]) * 10, MSG_EOR)
    s.flow.receive_all()
    data = b""
    s.pure_ack(1001, window=60000)
    for _ in range(40):
        sent = [p for p in s.flow.receive_all() if p.payload]
        data += b"".join(p.payload for p in sent)
        if not sent:
            break
        s.pure_ack(sent[-1].seq + len(sent[-1].payload))
    assert data == b"".join(bytes([i]) * 10 for i in range(100))


def test_at_least_so_many_segments_make_a_run_as_the_sysctl_says():
    s = sender(segments=10, extra=30, rtt_ms=100, min_tso_segs=4)
    s.pure_ack(10001)
    assert [flags for flags, _ in flags_and_ends(s)] == ["A", "A", "A", "PA"] * 5
