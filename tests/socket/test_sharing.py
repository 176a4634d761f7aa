"""SO_REUSEPORT inside one stack: sockets at one port share its flows, each flow stays with one, as under the kernel."""

import errno
import select
import socket

import pytest

from tests.socket.conftest import LIMIT

SHARERS = 4


def sharers(net, kind, n=SHARERS):
    """Sockets of the server's at one port, all of which asked to share it."""
    out = []
    port = 0
    for _ in range(n):
        s = net.server_socket(kind)
        net.opened.append(s)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind((net.server_address, port))
        port = s.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            s.listen(200)
        s.settimeout(LIMIT)
        out.append(s)
    return out


def connections(net, where, n):
    """How many of n connections each of the listeners got."""
    clients = []
    for _ in range(n):
        c = net.client_socket()
        net.opened.append(c)
        c.settimeout(LIMIT)
        c.connect(where[0].getsockname())
        clients.append(c.getsockname())
    got = []
    for s in where:
        s.setblocking(False)
        peers = []
        try:
            while True:
                connection, peer = s.accept()
                connection.close()
                peers.append(peer)
        except BlockingIOError:
            pass
        got.append(peers)
    assert sorted(p for peers in got for p in peers) == sorted(clients), "each connection once"
    return [len(peers) for peers in got]


def test_listeners_of_one_port_share_its_connections(net):
    listeners = sharers(net, socket.SOCK_STREAM)
    counts = connections(net, listeners, 120)
    assert min(counts) >= 5, counts
    listeners.pop(0).close()
    counts = connections(net, listeners, 60)
    assert min(counts) >= 2, counts


def test_datagram_sockets_of_one_port_share_its_flows(net):
    receivers = sharers(net, socket.SOCK_DGRAM)
    where = receivers[0].getsockname()
    senders = []
    for _ in range(120):
        s = net.client_socket(socket.SOCK_DGRAM)
        net.opened.append(s)
        s.bind((net.client_address, 0))
        senders.append(s)
    for word in (b"1", b"2"):
        for s in senders:
            s.sendto(word, where)
    got: list[dict] = [{} for _ in receivers]
    for _ in range(2 * len(senders)):
        ready = select.select(receivers, [], [], LIMIT)[0]
        assert ready
        word, peer = ready[0].recvfrom(10)
        got[receivers.index(ready[0])].setdefault(peer, []).append(word)
    assert min(map(len, got)) >= 5, [len(g) for g in got]
    assert all(words == [b"1", b"2"] for g in got for words in g.values()), "a flow stays with one, in order"


def test_a_connected_socket_of_a_shared_port_has_its_peer_alone(net):
    receivers = sharers(net, socket.SOCK_DGRAM, 3)
    peer = net.client_socket(socket.SOCK_DGRAM)
    net.opened.append(peer)
    peer.bind((net.client_address, 0))
    receivers[1].connect(peer.getsockname())
    for i in range(20):
        peer.sendto(bytes([i]), receivers[0].getsockname())
    assert [receivers[1].recv(10) for _ in range(20)] == [bytes([i]) for i in range(20)]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_who_does_not_ask_for_it_shares_with_nobody(net, kind):
    first = sharers(net, kind, 1)[0]
    other = net.server_socket(kind)
    net.opened.append(other)
    with pytest.raises(OSError) as caught:
        other.bind(first.getsockname())
    assert caught.value.errno == errno.EADDRINUSE


def test_a_port_that_was_found_free_can_be_had(net, listener):
    """As by the standard library's `find_unused_port`: no connection of before rests there."""
    for _ in range(150):
        with net.client_socket() as client:
            client.settimeout(LIMIT)
            client.connect(listener.getsockname())
            server, _ = listener.accept()
            client.close()                              # first, so TIME-WAIT is on this side
            server.close()
    for _ in range(3000):
        with net.client_socket() as s:
            s.bind((net.client_address, 0))
            found = s.getsockname()
        with net.client_socket() as s:
            s.bind(found)
