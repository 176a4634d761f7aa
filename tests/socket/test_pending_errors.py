"""SO_ERROR: a connection's error is told once, by the next call or by getsockopt; here and in the kernel alike."""

from __future__ import annotations

import errno
import select
import socket
import struct

import pytest

from tests.socket.like_kernel import EVERYWHERE, running

LIMIT = 20


@pytest.fixture(params=EVERYWHERE)
def network(request):
    with running(request, request.param) as network:
        yield network


def so_error(sock) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def outcome(call, *arguments):
    """What a call returns, or the number of its error."""
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


def wait(sock, events=select.POLLIN) -> None:
    """Until poll(2) on its descriptor says something: that takes no error."""
    poll = select.poll()
    poll.register(sock.fileno(), events)
    assert poll.poll(1000 * LIMIT)


@pytest.fixture
def refused(network):
    """A non-blocking socket whose connection was refused, and nobody has asked."""
    taken = network.server_socket()
    taken.bind((network.server_address, 0))
    address = taken.getsockname()
    taken.close()
    sock = network.client_socket()
    sock.setblocking(False)
    assert sock.connect_ex(address) in (errno.EINPROGRESS, errno.ECONNREFUSED)
    wait(sock, select.POLLOUT)
    yield sock
    sock.close()


@pytest.fixture
def reset(network):
    """A connection that the peer has reset, and nobody has asked."""
    server = network.server_socket()
    server.bind((network.server_address, 0))
    server.listen()
    client = network.client_socket()
    client.settimeout(LIMIT)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()
    wait(client)
    yield client
    client.close()
    server.close()


def test_a_refusal_is_told_once(refused):
    assert [so_error(refused), so_error(refused)] == [errno.ECONNREFUSED, 0]


def test_a_refusal_is_told_by_the_next_call(refused):
    assert outcome(refused.recv, 1) == "ECONNREFUSED"
    assert so_error(refused) == 0


def test_a_reset_is_told_once(reset):
    assert [so_error(reset), so_error(reset)] == [errno.ECONNRESET, 0]
    assert outcome(reset.recv, 1) == b""                 # the end of the stream, and no error any more
    assert outcome(reset.send, b"x") == "EPIPE"


def test_a_reset_is_told_by_the_next_recv(reset):
    assert [outcome(reset.recv, 1), outcome(reset.recv, 1), so_error(reset)] == ["ECONNRESET", b"", 0]


def test_a_reset_is_told_by_the_next_send(reset):
    assert [outcome(reset.send, b"x"), outcome(reset.send, b"x"), so_error(reset)] == ["ECONNRESET", "EPIPE", 0]


def test_of_a_reset_behind_the_end_of_the_stream_only_writers_hear(network):
    server = network.server_socket()
    server.bind((network.server_address, 0))
    server.listen()
    client = network.client_socket()
    client.settimeout(LIMIT)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    accepted.sendall(b"last")
    accepted.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b"last" and client.recv(100) == b""
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()
    poll = select.poll()
    poll.register(client, 0)                             # hang-ups and errors alone
    assert poll.poll(LIMIT * 1000)
    assert [outcome(client.recv, 1), outcome(client.recv, 1)] == [b"", b""]
    assert [outcome(client.send, b"x"), so_error(client)] == ["EPIPE", 0]
    client.close()
    server.close()


def test_a_healthy_connection_has_none(network):
    server = network.server_socket()
    server.bind((network.server_address, 0))
    server.listen()
    client = network.client_socket()
    client.settimeout(LIMIT)
    client.connect(server.getsockname())
    assert so_error(client) == so_error(server) == 0
    with pytest.raises(OSError, match="available|option"):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_ERROR, 1)
    client.close()
    server.close()


def test_a_datagram_sockets_error_is_told_once(network):
    taken = network.server_socket(socket.SOCK_DGRAM)
    taken.bind((network.server_address, 0))
    address = taken.getsockname()
    taken.close()
    sock = network.client_socket(socket.SOCK_DGRAM)
    sock.settimeout(LIMIT)
    sock.connect(address)
    sock.send(b"x")
    wait(sock)
    assert [so_error(sock), so_error(sock)] == [errno.ECONNREFUSED, 0]
    sock.send(b"x")
    assert outcome(sock.recv, 1) == "ECONNREFUSED"
    assert so_error(sock) == 0
    sock.close()
