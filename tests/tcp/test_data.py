"""The byte stream: order, overlap, PSH, buffers, SACK blocks (RFC 9293 section 3.10.7.4; RFC 2018; RFC 5681)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstack.testing import is_tcp

from .tools import MSG_MORE, MSG_PEEK, SOL_TCP, TCP_QUICKACK, Wire, new_peer, passive, reach


def test_bytes_arrive_and_are_acknowledged():
    s = reach("ESTABLISHED")
    s.data(b"hello")
    assert s.sock.poll() & 1 and s.sock.recv(100) == b"hello"
    s.quiet()
    assert s.sock.info()["rcv_nxt"] == s.flow.iss + 6
    with pytest.raises(BlockingIOError):
        s.sock.recv(1)


def test_peek_leaves_the_bytes():
    s = reach("ESTABLISHED")
    s.data(b"hello")
    assert s.sock.recv(2, MSG_PEEK) == b"he" and s.sock.recv(9, MSG_PEEK) == s.sock.recv(9) == b"hello"


def test_bytes_go_out_with_push_on_the_last_segment_of_a_write():
    """RFC 9293 section 3.9.1.2 (MUST-61)."""
    s = passive(mss=1000)
    s.sock.send(bytes(2500))
    assert [(p.flags, p.seq, len(p.payload)) for p in s.flow.receive_all()] == [
        ("A", 1, 1000), ("PA", 1001, 1000), ("PA", 2001, 500)]   # and on the last whole one, as with offload
    s.pure_ack(2501)
    s.sock.send(bytes(2000))
    assert [p.flags for p in s.flow.receive_all()] == ["A", "PA"]


@pytest.mark.parametrize("seq, payload, result", [
    (1, b"abcdefgh", b"efgh"),          # all of the old, then new
    (3, b"cdefgh", b"efgh"),
    (5, b"efgh", b"efgh"),
    (1, b"abcd", b""),                  # only old
    (2, b"bc", b""),
    (4, b"d", b""),
])
def test_a_segment_that_repeats_old_bytes_gives_only_its_new_ones(seq, payload, result):
    s = reach("ESTABLISHED")
    s.data(b"abcd")
    s.sock.recv(4)
    s.flow.receive_all()
    s.flow.send("PA", seq=seq, ack=1, payload=payload)
    s.peer.advance("50ms")
    s.flow.expect(is_tcp(flags="A", ack=5 + len(result)))
    if result:
        assert s.sock.recv(100) == result
    else:
        with pytest.raises(BlockingIOError):
            s.sock.recv(1)


def test_a_gap_is_reported_at_once_and_its_filling_too():
    """RFC 5681 section 4.2; the blocks: RFC 2018 section 4."""
    s = passive(sack_permitted=True)
    s.sock.send(b"x")                   # no longer in quick-ack
    s.quiet()
    s.pure_ack(2)
    s.flow.send("A", seq=11, ack=2, payload=bytes(10))
    s.flow.expect(is_tcp(ack=1, sack=((11, 21),)))
    s.flow.send("A", seq=31, ack=2, payload=bytes(10))
    s.flow.expect(is_tcp(ack=1, sack=((31, 41), (11, 21))))
    s.flow.send("A", seq=51, ack=2, payload=bytes(10))
    s.flow.expect(is_tcp(ack=1, sack=((51, 61), (31, 41), (11, 21))))         # the latest changes first
    s.flow.send("A", seq=21, ack=2, payload=bytes(5))
    s.flow.expect(is_tcp(ack=1, sack=((11, 26), (51, 61), (31, 41))))
    s.flow.send("A", seq=26, ack=2, payload=bytes(5))
    s.flow.expect(is_tcp(ack=1, sack=((11, 41), (51, 61))))
    s.flow.send("A", seq=1, ack=2, payload=bytes(10))
    s.flow.expect(is_tcp(ack=41, sack=((51, 61),)))
    s.flow.send("A", seq=41, ack=2, payload=bytes(10))
    s.flow.expect(is_tcp(ack=61, sack=()))
    assert len(s.sock.recv(100)) == 60


def in_one_pass(s, *starts, size=10):
    """Segments that wait in the link together."""
    for seq in starts:
        s.peer.stack.links[0].push(s.flow.build("A", seq=seq, ack=2, payload=bytes(size)))
    s.peer.stack.process(s.peer.clock.now_ns)
    return [(packet.ack, packet.sack) for packet in s.flow.receive_all()]


def quiet_passive(**options):
    s = passive(**options)
    s.sock.setsockopt(SOL_TCP, TCP_QUICKACK, 0)
    s.sock.send(b"x")
    s.quiet()
    s.pure_ack(2)
    return s


@pytest.mark.unwatched                 # segments go to the stack directly
def test_each_gap_is_reported_though_segments_come_in_one_pass():
    """RFC 5681 section 4.2, RFC 2018 section 4: an acknowledgement hides nothing the one before would have said."""
    s = quiet_passive(sack_permitted=True)
    acks = in_one_pass(s, 11, 31, 51, 71, 91)
    assert [ack for ack, _ in acks] == [1] * 5
    assert [sack[0] for _, sack in acks] == [(seq, seq + 10) for seq in (11, 31, 51, 71, 91)]
    assert acks[-1][1] == ((91, 101), (71, 81), (51, 61), (11, 21))


@pytest.mark.unwatched                 # segments go to the stack directly
def test_a_growing_range_shares_an_acknowledgement_after_the_third():
    s = quiet_passive(sack_permitted=True)
    acks = in_one_pass(s, *range(11, 211, 10))
    assert [sack for _, sack in acks] == [((11, 21),), ((11, 31),), ((11, 41),), ((11, 211),)]


def test_without_sack_every_segment_beyond_a_gap_is_a_duplicate_acknowledgement():
    s = quiet_passive()
    assert in_one_pass(s, *range(11, 111, 10)) == [(1, ())] * 10


@pytest.mark.unwatched                 # segments go to the stack directly
def test_what_comes_again_is_reported_once():
    """RFC 2883 section 4: below the acknowledgement, in part, and inside a block."""
    s = quiet_passive(sack_permitted=True)
    assert in_one_pass(s, 1) == []
    assert in_one_pass(s, 1) == [(11, ((1, 11),))]
    assert in_one_pass(s, 6, 21) == [(16, ((6, 11),)), (16, ((21, 31),))]
    assert in_one_pass(s, 21) == [(16, ((21, 31), (21, 31)))]
    assert in_one_pass(s, 26) == [(16, ((26, 31), (21, 36)))]
    assert in_one_pass(s, 41) == [(16, ((41, 51), (21, 36)))]
    assert in_one_pass(s, 1, 1) == [(16, ((1, 11), (41, 51), (21, 36)))] * 2


@pytest.mark.parametrize("timestamp, room", [(None, 4), ((1, 0), 3)])
def test_as_many_blocks_as_fit(timestamp, room):
    stamp = {"timestamp": timestamp} if timestamp else {}
    s = passive(sack_permitted=True, **stamp)
    for i in range(6):
        s.flow.send("A", seq=11 + 20 * i, ack=1, payload=bytes(10), **stamp)
        packet = s.flow.receive_all()[-1]
        assert packet.sack[0] == (11 + 20 * i, 21 + 20 * i) and len(packet.sack) == min(i + 1, room)


def test_no_blocks_unless_permitted():
    s = passive()
    s.flow.send("A", seq=11, ack=1, payload=bytes(10))
    s.flow.expect(is_tcp(ack=1, sack=()))


@pytest.mark.parametrize("stamp, blocks, length", [({}, 1, 1460 - 12), ({"timestamp": (1, 0)}, 1, 1448 - 12),
                                                   ({}, 6, 1460 - 36), ({"timestamp": (1, 0)}, 6, 1448 - 28)])
def test_new_data_makes_room_for_blocks_and_a_duplicate_goes_before_it_alone(stamp, blocks, length):
    """RFC 2018 section 3: blocks in every segment with ACK while there is something to report; what they take comes off
    the payload (RFC 6691). A duplicate counts only without data (RFC 5681 section 2), so it leaves first."""
    s = passive(sack_permitted=True, **stamp)
    s.sock.send(b"x")
    s.pure_ack(2, **stamp)
    s.flow.receive_all()
    for i in range(blocks):
        s.flow.send("A", seq=11 + 20 * i, ack=2, payload=bytes(10), **stamp)
    acks = s.flow.receive_all()
    assert [len(p.payload) for p in acks] == [0] * blocks
    s.sock.send(bytes(2 * length))
    sent = s.flow.receive_all()
    assert [len(p.payload) for p in sent] == [length] * 2
    assert all(p.ack == 1 and p.sack == acks[-1].sack and 40 + len(p.options) + length <= 1500 for p in sent)


def test_blocks_of_segments_full_of_options_do_not_wake_nagle():
    """A segment as full as its blocks let it be is no small one: the tail of a write does not wait for it."""
    s = passive(sack_permitted=True)
    s.flow.send("A", seq=11, ack=1, payload=bytes(10))
    s.flow.receive_all()
    s.sock.send(bytes(1448 + 100))
    assert s.lengths() == [1448, 100]


def test_a_duplicate_and_the_data_it_lets_go_leave_one_after_the_other():
    """Without SACK only duplicates tell: one that carried data would not count (RFC 5681 section 2)."""
    s = passive()
    s.pure_ack(1, window=0)
    s.sock.send(bytes(3000))
    s.flow.expect_nothing()
    s.flow.send("A", seq=11, ack=1, payload=bytes(10), window=65535)
    assert s.lengths() == [0, 1460, 1460, 80]


def test_what_is_sent_again_keeps_its_size_and_has_blocks_only_where_there_is_room():
    s = passive(sack_permitted=True)
    s.sock.send(bytes(1460 + 500))
    s.flow.receive_all()
    s.flow.send("A", seq=11, ack=1, payload=bytes(10))
    s.flow.receive_all()
    s.peer.advance("300ms")
    again = s.flow.receive_all()
    assert again and all((len(p.payload), p.sack) in ((1460, ()), (500, ((11, 21),))) for p in again if p.payload)
    assert any(p.payload for p in again)


@pytest.mark.unwatched                 # segments go to the stack directly
def test_a_duplicate_inside_a_larger_block_is_followed_by_that_block():
    """RFC 2883 section 4, whatever else has changed since."""
    s = quiet_passive(sack_permitted=True)
    in_one_pass(s, 11, 21, 31, 41)
    in_one_pass(s, 101)
    in_one_pass(s, 151)
    assert in_one_pass(s, 21) == [(1, ((21, 31), (11, 51), (151, 161), (101, 111)))]
    in_one_pass(s, 201)
    assert in_one_pass(s, 46) == [(1, ((46, 51), (11, 56), (201, 211), (151, 161)))]


def test_no_duplicate_is_reported_where_tcp_dsack_is_off():
    s = passive(new_peer(dsack=0), sack_permitted=True)
    s.flow.send("A", seq=11, ack=1, payload=bytes(10))
    s.flow.receive_all()
    s.flow.send("A", seq=11, ack=1, payload=bytes(10))
    s.flow.expect(is_tcp(ack=1, sack=((11, 21),)))


def test_out_of_order_pieces_are_capped_and_the_stream_still_completes():
    """Security row D8: one-byte segments, every second byte; pieces beyond the cap are dropped and counted."""
    s = passive()
    data = bytes(i & 255 for i in range(2001))
    for i in range(1, 2001, 2):
        s.flow.send("A", seq=1 + i, ack=1, payload=data[i:i + 1])
    info = s.sock.info()
    assert info["ranges"] == 128 and info["receive_buffer"] <= 8192
    assert s.peer.stack.counters()["drop_tcp_ooo_limit"] == 1000 - 128
    s.flow.send("A", seq=1, ack=1, payload=data)
    assert s.sock.recv(9999) == data and s.sock.info()["ranges"] == 0


def test_an_idle_connection_holds_no_buffers():
    s = reach("ESTABLISHED")
    s.sock.send(bytes(10000))
    s.data(bytes(10000))
    assert s.sock.info()["send_buffer"] and s.sock.info()["receive_buffer"]
    while (sent := s.flow.receive_all()):
        s.pure_ack(sent[-1].seq + len(sent[-1].payload))
        s.peer.advance("50ms")
    assert len(s.sock.recv(99999)) == 10000
    assert (s.sock.info()["send_buffer"], s.sock.info()["receive_buffer"]) == (0, 0)


def test_more_marks_hold_a_short_segment_back():
    s = reach("ESTABLISHED")
    s.sock.send(b"head", MSG_MORE)
    s.flow.expect_nothing()
    s.sock.send(b"tail")
    s.flow.expect(is_tcp(flags="PA", payload=b"headtail"))


def test_more_does_not_hold_for_ever():
    s = reach("ESTABLISHED")
    s.sock.send(b"head", MSG_MORE)
    s.peer.advance("2s")
    s.flow.expect(is_tcp(flags="PA", payload=b"head"))


@pytest.mark.unwatched                 # what is given to the stack directly the state checker does not see
def test_the_window_update_state_survives_two_gigabytes_one_way():
    """SND.WL1 follows the data: a window announced after 2 GiB of silence on our side counts."""
    s = passive(new_peer(mtu=65535), mss=65495, window_scale=8, window=200)
    chunk = bytes(65000)
    for _ in range((1 << 31) // len(chunk) + 10):
        s.flow.peer.stack.input(s.flow.build("A", seq=s.seq, ack=1, payload=chunk, window=200), s.peer.clock.now_ns)
        s.seq = (s.seq + len(chunk)) & 0xFFFFFFFF
        s.sock.recv(1 << 17)
    s.flow.receive_all()
    s.pure_ack(1, window=3)
    assert s.sock.info()["snd_wnd"] == 3 << 8


# --- header prediction ------------------------------------------------------------------------------------------------

def fast(s):
    return s.peer.stack.counters()["tcp_fast_path"]


@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2"])
def test_data_in_order_takes_the_short_way_while_the_peer_may_send(state):
    """Van Jacobson's header prediction asks for a direction that flows, not for both."""
    s = reach(state)
    before = fast(s)
    for _ in range(10):
        s.data(bytes(1000))
        s.peer.advance("50ms")
    assert fast(s) - before == 10 and len(s.sock.recv(99999)) == 10000


@pytest.mark.parametrize("state", ["FIN_WAIT_1", "CLOSING", "LAST_ACK"])
def test_acknowledgements_take_the_short_way_after_a_close_too(state):
    """A close leaves a full buffer to be sent; the last acknowledgement of all, the FIN's, ends the state as ever."""
    s = reach("CLOSE_WAIT" if state == "LAST_ACK" else "ESTABLISHED")
    s.sock.send(bytes(20_000))
    s.sock.shutdown(1)
    if state == "CLOSING":
        s.fin()
    assert s.state == state
    s.flow.receive_all()
    before, acks = fast(s), 0
    while s.ack < 20_002:
        s.pure_ack(min(s.ack + 1460, 20_002))
        s.flow.receive_all()
        acks += 1
    assert fast(s) - before == acks
    assert s.state == {"FIN_WAIT_1": "FIN_WAIT_2", "CLOSING": "TIME_WAIT", "LAST_ACK": "CLOSED"}[state]


@pytest.mark.parametrize("state", ["ESTABLISHED", "CLOSE_WAIT"])
def test_acknowledgements_take_the_short_way_while_we_may_send(state):
    s = reach(state)
    before = fast(s)
    for i in range(1, 11):
        s.sock.send(bytes(1000))
        s.pure_ack(1 + 1000 * i)
    assert fast(s) - before == 10 and s.sock.info()["send_queue"] == 0


def test_the_acknowledgement_of_our_fin_takes_the_short_way_into_fin_wait_2():
    s = reach("FIN_WAIT_1")
    before = fast(s)
    s.pure_ack(2)
    assert (s.state, fast(s) - before) == ("FIN_WAIT_2", 1)


def test_data_after_the_peers_fin_never_takes_the_short_way():
    s = reach("CLOSE_WAIT")
    before = fast(s)
    s.data(bytes(100))
    assert fast(s) == before and s.sock.recv(100) == b""


# --- any order --------------------------------------------------------------------------------------------------------

@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_order_of_any_pieces_gives_the_stream(data):
    """Pieces overlap and repeat as they like; the reference is a bytearray."""
    size = data.draw(st.integers(1, 4000), "size")
    stream = random.Random(size).randbytes(size)
    cuts = sorted(data.draw(st.sets(st.integers(1, size), max_size=30), "cuts") | {0, size})
    pieces = [(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    extra = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 1460)), max_size=20), "extra")
    pieces += [(a, min(a + n, size)) for a, n in extra]
    pieces = data.draw(st.permutations(pieces), "order")
    near_wrap = data.draw(st.booleans(), "wrap")
    s = passive_at(0xFFFFFFFF - size // 2 if near_wrap else 1000)
    got = bytearray()
    for a, b in pieces:
        s.flow.send("A", seq=1 + a, ack=1, payload=stream[a:b])
        if data.draw(st.booleans(), "read"):
            try:
                got += s.sock.recv(data.draw(st.integers(1, 2000), "most"))
            except BlockingIOError:
                pass
        assert stream.startswith(bytes(got))
    while len(got) < size:
        got += s.sock.recv(9999)
    assert bytes(got) == stream
    assert s.flow.receive_all()[-1].ack == 1 + size or s.sock.info()["rcv_nxt"] == (s.flow.iss + 1 + size) & 0xFFFFFFFF


def passive_at(iss):
    from .tools import Session, listen
    peer = new_peer()
    server = listen(peer)
    flow = peer.flow(iss=iss)
    flow.connect()
    return Session(peer, flow, server.accept()[0], server)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), loss=st.sampled_from([0, .02, .1]), duplicate=st.sampled_from([0, .1]),
       reorder=st.sampled_from([0, .1, .5]), corrupt=st.sampled_from([0, .05]))
def test_any_interleaving_of_calls_and_faults_keeps_the_streams(seed, loss, duplicate, reorder, corrupt):
    """Both ways at once, with close; application calls drawn by hypothesis, faults by the seed."""
    wire = Wire(seed, loss=loss, duplicate=duplicate, reorder=reorder, corrupt=corrupt)
    ends = wire.connect()
    chance = random.Random(seed)
    streams = [chance.randbytes(chance.randrange(1, 30_000)) for _ in ends]
    sent, got, eof = [0, 0], [bytearray(), bytearray()], [False, False]
    closed = [False, False]
    for _ in range(100_000):
        for i, end in enumerate(ends):
            call = chance.randrange(4)
            if call < 2 and sent[i] < len(streams[i]):
                try:
                    sent[i] += end.send(streams[i][sent[i]:sent[i] + chance.randrange(1, 8000)],
                                        MSG_MORE if chance.random() < .1 else 0)
                except BlockingIOError:
                    pass
            elif sent[i] == len(streams[i]) and not closed[i] and call == 2:
                end.shutdown(1)
                closed[i] = True
            elif not eof[i]:
                try:
                    piece = end.recv(chance.randrange(1, 20_000))
                    got[i] += piece
                    eof[i] = not piece
                except BlockingIOError:
                    pass
        assert streams[1].startswith(bytes(got[0])) and streams[0].startswith(bytes(got[1]))
        if eof == [True, True] and closed == [True, True]:
            break
        wire.step()
    assert (bytes(got[0]), bytes(got[1])) == (streams[1], streams[0]), f"seed {seed}"
    assert eof == [True, True]
    wire.run(200)
    for end in ends:
        end.close()
    wire.run(200)
    assert [stack.socket_count for stack in wire.stacks] == [0, 0]
    assert [stack.next_deadline() for stack in wire.stacks] == [None, None]
