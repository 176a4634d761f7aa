"""Listeners: queues and their limits, addresses, who may bind what (RFC 9293 section 3.10.1; security row D3)."""

import contextlib
import errno
import random

import pytest

from netstack.link import Wire
from netstack.stack import Stack
from netstack.testing import ScriptedPeer, is_tcp

from .tools import SO_REUSEADDR, SOL_SOCKET, A, B, S, listen, new_peer, passive, reach, states

SO_REUSEPORT, SO_ACCEPTCONN, SO_KEEPALIVE = 15, 30, 9


def knock(peer, port):
    flow = peer.flow(port)
    flow.send("S", seq=0, mss=1460)
    return flow


def come_in(peer, port):
    flow = knock(peer, port)
    flow.expect(is_tcp(flags="SA"))
    flow.send("A", seq=1, ack=1)
    return flow


# --- queues -----------------------------------------------------------------------------------------------------------

def test_connections_are_accepted_in_the_order_they_were_established():
    peer = new_peer()
    server = listen(peer)
    flows = [knock(peer, 40000 + i) for i in range(5)]
    order = [3, 0, 4, 1, 2]
    for flow in flows:
        flow.expect(is_tcp(flags="SA"))
    for i in order:
        flows[i].send("A", seq=1, ack=1)
    assert [server.accept()[1][1] - 40000 for _ in order] == order
    with pytest.raises(BlockingIOError):
        server.accept()


@pytest.mark.parametrize("backlog", [0, 1, 4])
def test_a_full_accept_queue_drops_syns_silently_and_drains_later(backlog):
    """As Linux, backlog + 1 fit; no reset, no storm of SYN,ACKs."""
    peer = new_peer()
    server = listen(peer, backlog=backlog)
    for i in range(backlog + 1):
        come_in(peer, 40000 + i)
    for i in range(100):
        knock(peer, 41000 + i).expect_nothing()
    assert peer.stack.counters()["drop_tcp_backlog"] == 100
    assert peer.stack.socket_count == backlog + 2
    server.accept()
    come_in(peer, 42000)
    accepted = 1
    while server.poll():
        server.accept()
        accepted += 1
    assert accepted == backlog + 2


def test_an_ack_that_finds_the_queue_full_is_ignored_and_may_come_again():
    peer = new_peer()
    server = listen(peer, backlog=0)
    first, second = knock(peer, 40000), knock(peer, 40001)
    for flow in (first, second):
        flow.expect(is_tcp(flags="SA"))
        flow.send("A", seq=1, ack=1)
    second.expect_nothing()
    assert states(peer.stack) == ["ESTABLISHED", "LISTEN", "SYN_RCVD"]
    server.accept()
    peer.advance("1s")
    second.expect(is_tcp(flags="SA", seq=0, ack=1))
    second.send("A", seq=1, ack=1)
    assert server.accept()[1] == (B, 40001)


def test_a_flood_of_syns_is_bounded_and_forgotten():
    """Security row D3."""
    peer = new_peer()
    listen(peer, backlog=8)
    for i in range(1000):
        knock(peer, 10000 + i)
    assert peer.stack.socket_count == 9
    peer.received.clear()
    peer.advance("100s")
    assert len(peer.received) <= 8 * 5 and peer.stack.socket_count == 1
    peer.received.clear()
    come_in(peer, 9999)


def test_backlog_is_capped_by_somaxconn():
    peer = new_peer(**{"net.core.somaxconn": 3})
    server = listen(peer, backlog=1000)
    for i in range(4):
        come_in(peer, 40000 + i)
    knock(peer, 41000).expect_nothing()
    assert int.from_bytes(server.getsockopt(6, 11, 280)[24:28], "little") == 4


def test_listening_again_changes_the_backlog():
    peer = new_peer()
    server = listen(peer, backlog=0)
    come_in(peer, 40000)
    knock(peer, 40001).expect_nothing()
    server.listen(5)
    come_in(peer, 40002)


def test_closing_the_listener_resets_whom_nobody_accepted_and_forgets_handshakes():
    peer = new_peer()
    server = listen(peer, backlog=200)
    waiting = [come_in(peer, 40000 + i) for i in range(100)]
    knocking = [knock(peer, 41000 + i) for i in range(100)]
    for flow in knocking:
        flow.expect(is_tcp(flags="SA"))
    server.close()
    for flow in waiting:
        flow.expect(is_tcp(flags="RA", seq=1))
    for flow in knocking:
        flow.expect_nothing()
        flow.send("A", seq=1, ack=1)
        flow.expect(is_tcp(flags="R", seq=1))
    assert peer.stack.socket_count == 0 and peer.stack.next_deadline() is None


def test_a_connection_reset_in_the_queue_is_not_accepted():
    peer = new_peer()
    server = listen(peer)
    first, second = come_in(peer, 40000), come_in(peer, 40001)
    first.send("R", seq=1)
    assert server.accept()[1] == (B, 40001)
    with pytest.raises(BlockingIOError):
        server.accept()
    del second


def test_data_and_fin_wait_in_the_queue_with_their_connection():
    peer = new_peer()
    server = listen(peer)
    flow = come_in(peer, 40000)
    flow.send("PA", seq=1, ack=1, payload=b"early bird")
    flow.send("FA", seq=11, ack=1)
    peer.advance("100s")
    sock, _ = server.accept()
    assert sock.recv(100) == b"early bird" and sock.recv(100) == b"" and sock.state == "CLOSE_WAIT"


def test_random_arrivals_resets_and_accepts_keep_the_queues_right():
    chance = random.Random(11)
    peer = new_peer(syncookies=0)
    server = listen(peer, backlog=20)
    embryos, queued, held = [], [], []
    for n in range(2000):
        act = chance.randrange(6)
        if act <= 1:
            flow = knock(peer, 10000 + n)
            if flow.receive() is not None:
                embryos.append(flow)
        elif act == 2 and embryos:
            flow = embryos.pop(chance.randrange(len(embryos)))
            if len(queued) <= 20:
                queued.append(flow.port)
                flow.send("A", seq=1, ack=1)
            else:
                flow.send("R", seq=1)
        elif act == 3 and embryos:
            embryos.pop(chance.randrange(len(embryos))).send("R", seq=1)
        elif act == 4 and queued:
            port = queued.pop(chance.randrange(len(queued)))
            peer.flow(port).send("R", seq=1)
        elif act == 5 and queued:
            sock, address = server.accept()
            assert address[1] == queued.pop(0)
            held.append(sock)
    assert peer.stack.socket_count == 1 + len(embryos) + len(queued) + len(held)


# --- addresses and ports ----------------------------------------------------------------------------------------------

def test_a_wildcard_listener_takes_every_address_and_a_specific_one_goes_first():
    stack = Stack(addresses=(A, "10.0.0.9"), seed=1)
    wild, specific = stack.socket(), stack.socket()
    for sock in (wild, specific):
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    wild.bind(("", 80))
    specific.bind(("10.0.0.9", 80))
    wild.listen()
    assert wild.getsockname() == ("0.0.0.0", 80)
    with pytest.raises(OSError) as error:
        specific.listen()
    assert error.value.errno == errno.EADDRINUSE
    wild.close()
    specific.listen()
    peer = ScriptedPeer(stack, B, "10.0.0.9")
    peer.flow(40000).connect()
    assert specific.accept()[0].getsockname() == ("10.0.0.9", 80)
    other = ScriptedPeer(stack, B, A).flow(40001)
    other.send("S", seq=0)
    other.expect(is_tcp(flags="RA"))


@pytest.mark.parametrize("address", ["", A])
def test_a_listener_answers_from_the_address_it_was_asked_at(address):
    peer = new_peer()
    server = peer.stack.socket()
    server.bind((address, 80))
    server.listen()
    peer.flow(40000).connect()
    sock, _ = server.accept()
    assert sock.getsockname() == (A, 80)


def test_an_address_of_somebody_else_cannot_be_bound():
    stack = new_peer().stack
    with pytest.raises(OSError) as error:
        stack.socket().bind((B, 80))
    assert error.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("first, second, reuse, listening, allowed", [
    (A, A, (0, 0), False, False),
    (A, A, (1, 0), False, False),
    (A, A, (0, 1), False, False),
    (A, A, (1, 1), False, True),
    (A, A, (1, 1), True, False),
    ("", A, (0, 0), False, False),
    (A, "", (0, 0), False, False),
    ("", A, (1, 1), False, True),
    ("", A, (1, 1), True, False),
    (A, "127.0.0.1", (0, 0), True, True),
])
def test_so_reuseaddr(first, second, reuse, listening, allowed):
    """socket(7): sharing needs both to ask for it, and nobody to listen there."""
    stack = new_peer().stack
    one, two = stack.socket(), stack.socket()
    one.setsockopt(SOL_SOCKET, SO_REUSEADDR, reuse[0])
    two.setsockopt(SOL_SOCKET, SO_REUSEADDR, reuse[1])
    one.bind((first, 80))
    if listening:
        one.listen()
    if allowed:
        two.bind((second, 80))
    else:
        with pytest.raises(OSError) as error:
            two.bind((second, 80))
        assert error.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("state", ["ESTABLISHED", "TIME_WAIT", "FIN_WAIT_2"])
def test_a_port_in_use_by_connections_is_free_only_with_so_reuseaddr(state):
    s = reach(state)
    s.server.close()
    if state != "ESTABLISHED":
        s.sock.close()
    again = s.peer.stack.socket()
    with pytest.raises(OSError) as error:
        again.bind((A, 80))
    assert error.value.errno == errno.EADDRINUSE
    again.bind((A, 81))
    reuse = s.peer.stack.socket()
    reuse.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    if state == "TIME_WAIT":
        reuse.bind((A, 80))
        reuse.listen()


def test_a_port_is_free_again_when_its_socket_is_closed():
    stack = new_peer().stack
    for _ in range(3):
        sock = stack.socket()
        sock.bind((A, 80))
        sock.listen()
        sock.close()


def test_bind_twice_and_bind_after_listen_are_errors():
    stack = new_peer().stack
    sock = stack.socket()
    sock.bind((A, 80))
    with pytest.raises(OSError) as error:
        sock.bind((A, 81))
    assert error.value.errno == errno.EINVAL


def test_listen_without_bind_takes_a_free_port():
    stack = new_peer().stack
    sock = stack.socket()
    sock.listen()
    assert sock.getsockname()[1] >= 1024 and sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN) == 1


def test_calls_that_make_no_sense_on_a_listener():
    server = listen(new_peer())
    for call, number in ((lambda: server.recv(1), errno.ENOTCONN), (lambda: server.send(b"x"), errno.EPIPE),
                         (lambda: server.getpeername(), errno.ENOTCONN)):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno == number
    assert server.connect_ex((B, 9)) == errno.EISCONN


def test_calls_that_make_no_sense_on_a_new_socket():
    sock = new_peer().stack.socket()
    for call, number in ((lambda: sock.recv(1), errno.ENOTCONN), (lambda: sock.send(b"x"), errno.EPIPE),
                         (lambda: sock.getpeername(), errno.ENOTCONN), (lambda: sock.shutdown(1), errno.ENOTCONN),
                         (lambda: sock.accept(), errno.EINVAL)):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno == number


def test_settings_of_the_listener_go_to_its_children():
    peer = new_peer()
    server = listen(peer)
    server.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    server.setsockopt(6, 1, 1)
    server.setsockopt(SOL_SOCKET, 8, 20000)
    peer.flow().connect()
    sock, _ = server.accept()
    assert sock.getsockopt(SOL_SOCKET, SO_KEEPALIVE) == 1 and sock.getsockopt(6, 1) == 1
    assert sock.getsockopt(SOL_SOCKET, 8) == 40000
    assert peer.stack.next_deadline() == peer.clock.now_ns + 7200 * S


def test_shutdown_ends_listening():
    peer = new_peer()
    server = listen(peer)
    server.shutdown(0)
    knock(peer, 40000).expect(is_tcp(flags="RA"))
    assert passive(new_peer()).state == "ESTABLISHED"


# --- beside others ---------------------------------------------------------------------------------------------------


def test_a_handshake_comes_through_a_link_that_connections_keep_full():
    """Their data leaves whenever a frame has room; the SYN,ACK and what follows must get their turn."""
    one, two = Wire(mtu=1500, frames=2)
    a = Stack(links=[one], addresses="10.0.0.1/24", seed=1)
    b = Stack(links=[two], addresses="10.0.0.2/24", seed=2)
    now = 1_000_000_000
    listener = b.socket()
    listener.bind(("10.0.0.2", 80))
    listener.listen(16)
    senders, receivers = [], []

    def turn():
        nonlocal now
        now += 100_000
        for stack in (a, b):
            stack.process(now)
        for sock in receivers:
            try:
                while sock.recv(1 << 16):
                    pass
            except BlockingIOError:
                pass
        for sock in senders:
            with contextlib.suppress(BlockingIOError):
                sock.send(bytes(1 << 16))

    def connected():
        client = a.socket()
        client.connect_ex(("10.0.0.2", 80))
        for _ in range(400):                           # 40 ms: before the SYN is sent again
            turn()
            with contextlib.suppress(BlockingIOError):
                return client, listener.accept()[0]
        raise AssertionError(f"no connection beside {len(senders)} that send")

    for _ in range(8):
        client, server = connected()
        receivers.append(client)
        senders.append(server)
    assert two.refused
