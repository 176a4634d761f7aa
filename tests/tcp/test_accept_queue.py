"""The queues of a listener as Linux keeps them: who waits where, how long, and what is said meanwhile (row D3)."""

import pytest

from netstack.stack import Stack
from netstack.testing import is_tcp

from .tools import SOL_TCP, A, B, S, listen, new_peer, states

TCP_DEFER_ACCEPT = 9


def syn(peer, port=40000, **options):
    flow = peer.flow(port)
    flow.send("S", seq=0, **{"mss": 1460, **options})
    return flow


def half_open(peer, port=40000, **options):
    flow = syn(peer, port, **options)
    flow.expect(is_tcp(flags="SA", ack=1))
    return flow


def test_a_half_open_connection_costs_a_record_and_a_place_in_the_table():
    """Not a connection's control block: 200 bytes each at most, table of names included."""
    peer = new_peer()
    listen(peer, backlog=4096)
    for i in range(3000):
        syn(peer, 10000 + i)
    memory = peer.stack.memory()
    assert states(peer.stack).count("SYN_RCVD") == 3000
    assert memory["half_open"] + memory["demux"] <= 200 * 3000 + memory["demux"] // 2
    assert memory["half_open"] // 3000 <= 192 and memory["buffers"] == 0


def test_the_third_segment_makes_the_connection_with_everything_the_syn_said():
    peer = new_peer()
    server = listen(peer)
    flow = half_open(peer, window=3000, timestamp=(77, 0), sack_permitted=True, window_scale=4)
    peer.advance("30ms")
    flow.send("A", seq=1, ack=1, window=500, timestamp=(78, 0))
    sock, _ = server.accept()
    info, tcp_info = sock.info(), sock.tcp_info()
    assert info["mss"] == 1460 and info["snd_wnd"] == 500 << 4 and tcp_info.options & 7 == 7
    assert 29_000 <= tcp_info.rtt <= 31_000


@pytest.mark.parametrize("abort", [0, 1])
def test_a_full_accept_queue_leaves_the_third_segment_unheard_or_refuses_it(abort):
    """tcp(7), tcp_abort_on_overflow."""
    peer = new_peer(abort_on_overflow=abort)
    server = listen(peer, backlog=0)
    first, second = half_open(peer, 40000), half_open(peer, 40001)
    first.send("A", seq=1, ack=1)
    second.send("A", seq=1, ack=1)
    if abort:
        second.expect(is_tcp(flags="R", seq=1))
        assert states(peer.stack) == ["ESTABLISHED", "LISTEN"]
        return
    second.expect_nothing()
    assert states(peer.stack) == ["ESTABLISHED", "LISTEN", "SYN_RCVD"]
    assert peer.stack.counters()["tcp_listen_overflows"] == 1
    server.accept()
    second.send("PA", seq=1, ack=1, payload=b"x")
    assert server.accept()[0].recv(1) == b"x"


def test_syn_acks_are_sent_again_at_1_3_7_15_and_31_seconds_whatever_comes_between():
    """Third segments that find no room ask for nothing, and start nothing: no storm."""
    peer = new_peer()
    listen(peer, backlog=0)
    flow = syn(peer, 2)
    half_open(peer, 1).send("A", seq=1, ack=1)
    answer = flow.expect(is_tcp(flags="SA"))
    times = [answer.t_ns]
    for _ in range(1000):
        flow.send("A", seq=1, ack=1)
        times += [p.t_ns for p in flow.receive_all() if p.flags == "SA"]
        peer.advance("100ms")
    assert [round((t - times[0]) / S) for t in times] == [0, 1, 3, 7, 15, 31]
    assert states(peer.stack) == ["ESTABLISHED", "LISTEN"]


def test_a_challenge_offers_no_less_than_the_syn_ack():
    """RFC 9293 section 3.8.6: 65,535 does not divide by the scale."""
    peer = new_peer()
    server = listen(peer)
    flow = half_open(peer, window_scale=3)
    flow.send("A", seq=200_000, ack=1)
    assert flow.expect(is_tcp(flags="A", seq=1, ack=1)).window << 7 >= 65535
    flow.send("A", seq=1, ack=1)
    assert server.accept()[0].state == "ESTABLISHED"


def test_a_repeated_syn_is_answered_at_most_ten_times_a_second():
    peer = new_peer()
    listen(peer)
    flow = half_open(peer)
    for _ in range(1000):
        flow.send("S", seq=0, mss=1460)
    assert len(flow.receive_all()) == 10
    peer.advance("999ms")
    for _ in range(10):
        flow.send("S", seq=0, mss=1460)
    assert len(flow.receive_all()) <= 10


def test_old_half_open_connections_give_way_when_half_of_the_queue_is_full():
    """As Linux: then they are asked twice only, not five times; young ones have their first second."""
    peer = new_peer()
    listen(peer, backlog=16)
    for i in range(12):
        syn(peer, 1000 + i)
    peer.received.clear()
    peer.advance("6s")                                    # asked at 1 and at 3
    assert states(peer.stack).count("SYN_RCVD") == 12
    peer.advance("2s")                                    # at 7 their time is over, until half of the queue is free
    assert states(peer.stack).count("SYN_RCVD") == 8


def test_the_backlog_can_be_changed_while_listening():
    peer = new_peer()
    server = listen(peer, backlog=0)
    half_open(peer, 1).send("A", seq=1, ack=1)
    syn(peer, 2).expect_nothing()
    server.listen(5)
    half_open(peer, 2).send("A", seq=1, ack=1)
    assert states(peer.stack).count("ESTABLISHED") == 2


def test_closing_the_listener_forgets_the_half_open_and_resets_the_whole():
    peer = new_peer()
    server = listen(peer)
    whole, half = half_open(peer, 1), half_open(peer, 2)
    whole.send("A", seq=1, ack=1)
    server.close()
    whole.expect(is_tcp(flags="RA"))
    half.expect_nothing()
    assert peer.stack.socket_count == 0 and peer.stack.next_deadline() is None
    half.send("A", seq=1, ack=1)
    half.expect(is_tcp(flags="R", seq=1))


@pytest.mark.parametrize("defer", [0, 5])
def test_a_restored_listener_goes_on_with_its_half_open_connections(defer):
    """Same timers, same bytes out as the one that was not taken down."""
    def run(restore):
        peer = new_peer()
        server = listen(peer)
        server.setsockopt(SOL_TCP, TCP_DEFER_ACCEPT, defer)
        for i in range(20):
            syn(peer, 1000 + i, timestamp=(i, 0), window_scale=i % 8)
            peer.advance("170ms")
        id = server.id
        if restore:
            peer.stack = Stack.restore(peer.stack.snapshot(), peer.clock.now_ns)
        for i in range(0, 20, 3):
            flow = peer.flow(1000 + i)
            flow.receive_all()
            flow.irs = next(p.seq for p in [*sent, *peer.received] if p.dport == 1000 + i) if not flow.irs else flow.irs
            flow.send("A", seq=1, ack=1, timestamp=(i + 1, 0))
        peer.advance("100s")
        return [(p.t_ns, p.raw) for p in peer.received], sorted(s.rport for s in peer.stack.sockets()), id

    sent = []
    assert run(False) == run(True)


# --- TCP_DEFER_ACCEPT -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seconds, kept", [(0, 0), (-1, 0), (1, 1), (2, 3), (3, 3), (4, 7), (7, 7), (8, 15), (60, 63),
                                           (100, 127), (130, 247), (100_000, 127 + (255 - 7) * 120)])
def test_defer_accept_is_kept_in_timeouts_of_the_syn_ack(seconds, kept):
    """getsockopt says when the timeout after the time asked for is over: 1, 3, 7, 15, 31, 63, 127, then 120 s each."""
    server = listen(new_peer())
    server.setsockopt(SOL_TCP, TCP_DEFER_ACCEPT, seconds)
    assert server.getsockopt(SOL_TCP, TCP_DEFER_ACCEPT) == kept


def test_a_bare_third_segment_waits_for_data():
    peer = new_peer()
    server = listen(peer)
    server.setsockopt(SOL_TCP, TCP_DEFER_ACCEPT, 10)
    flow = half_open(peer)
    flow.send("A", seq=1, ack=1)
    flow.expect_nothing()
    assert server.poll() == 0 and states(peer.stack) == ["LISTEN", "SYN_RCVD"]
    assert peer.stack.counters()["drop_tcp_deferred"] == 1
    peer.advance("3500ms")
    flow.expect_nothing()                                 # it has acknowledged: nothing to ask
    flow.send("PA", seq=1, ack=1, payload=b"GET /")
    sock, address = server.accept()
    assert address == (B, 40000) and sock.getsockname() == (A, 80) and sock.recv(10) == b"GET /"


def test_a_fin_ends_the_wait_too():
    peer = new_peer()
    server = listen(peer)
    server.setsockopt(SOL_TCP, TCP_DEFER_ACCEPT, 10)
    flow = half_open(peer)
    flow.send("A", seq=1, ack=1)
    flow.send("FA", seq=1, ack=1)
    assert server.accept()[0].state == "CLOSE_WAIT"


def test_at_the_end_of_the_wait_the_syn_ack_is_sent_again_and_a_bare_answer_is_enough():
    """tcp(7) says the connection would be dropped; Linux asks once more, and takes what comes."""
    peer = new_peer()
    server = listen(peer)
    server.setsockopt(SOL_TCP, TCP_DEFER_ACCEPT, 3)       # two timeouts: 1 s and 2 s
    flow = half_open(peer)
    start = peer.clock.now_ns
    flow.send("A", seq=1, ack=1)
    peer.advance("10s")
    again = [round((p.t_ns - start) / S) for p in flow.receive_all()]
    assert again[:1] == [3]
    flow.send("A", seq=1, ack=1)
    assert server.accept()[1] == (B, 40000)


def test_whoever_never_acknowledges_is_asked_as_without_it():
    peer = new_peer()
    server = listen(peer)
    server.setsockopt(SOL_TCP, TCP_DEFER_ACCEPT, 30)
    flow = syn(peer)
    peer.advance("100s")
    assert len(flow.receive_all()) == 6 and states(peer.stack) == ["LISTEN"]
