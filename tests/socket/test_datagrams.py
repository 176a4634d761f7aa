"""UDP sockets behave as the standard library's."""

import errno
import socket

import pytest

from tests.socket.conftest import LIMIT


def test_a_datagram_arrives_with_its_sender(datagrams):
    a, b = datagrams
    assert a.sendto(b"hello", b.getsockname()) == 5
    assert b.recvfrom(100) == (b"hello", a.getsockname())
    assert b.sendto(b"back", 0, a.getsockname()) == 4
    buffer = bytearray(10)
    assert a.recvfrom_into(buffer) == (4, b.getsockname()) and buffer[:4] == b"back"


def test_borders_between_datagrams_stay(datagrams):
    a, b = datagrams
    for data in (b"one", b"", b"three"):
        a.sendto(data, b.getsockname())
    assert [b.recv(100) for _ in range(3)] == [b"one", b"", b"three"]


def test_what_does_not_fit_is_cut_off(datagrams):
    a, b = datagrams
    for _ in range(4):
        a.sendto(b"0123456789", b.getsockname())
    assert b.recv(4) == b"0123"
    data, ancillary, flags, address = b.recvmsg(4)
    assert (data, address) == (b"0123", a.getsockname()) and flags & socket.MSG_TRUNC
    buffer = bytearray(4)
    assert b.recv_into(buffer) == 4
    n, _, flags, _ = b.recvmsg_into([bytearray(6), bytearray(6)])
    assert n == 10 and not flags & socket.MSG_TRUNC


def test_the_largest_datagram(datagrams):
    a, b = datagrams
    data = bytes(range(256)) * 230
    a.sendto(data, b.getsockname())
    assert b.recv(1 << 16) == data
    with pytest.raises(OSError) as caught:
        a.sendto(bytes(65508), b.getsockname())
    assert caught.value.errno == errno.EMSGSIZE


def test_peeking_leaves_the_datagram(datagrams):
    a, b = datagrams
    a.sendto(b"abc", b.getsockname())
    assert b.recvfrom(2, socket.MSG_PEEK) == (b"ab", a.getsockname())
    assert b.recv(10) == b"abc"


def test_a_connected_socket_sends_and_hears_its_peer_only(net, datagrams):
    a, b = datagrams
    stranger = net.client_socket(socket.SOCK_DGRAM)
    net.opened.append(stranger)
    a.connect(b.getsockname())
    assert a.getpeername() == b.getsockname()
    a.send(b"to the peer")
    assert b.recv(100) == b"to the peer"
    stranger.bind((net.client_address, 0))
    stranger.sendto(b"noise", a.getsockname())
    b.sendto(b"signal", a.getsockname())
    assert a.recv(100) == b"signal"


def test_without_a_peer_send_needs_an_address(datagrams):
    a, _ = datagrams
    with pytest.raises(OSError) as caught:
        a.send(b"x")
    assert caught.value.errno == errno.EDESTADDRREQ
    with pytest.raises(TypeError):
        a.sendto(b"x")


def test_a_port_without_socket_is_refused_later(net, datagrams):
    a, b = datagrams
    address = b.getsockname()
    b.close()
    a.connect(address)
    a.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        a.recv(1)


def test_gathered_buffers_are_one_datagram(datagrams):
    a, b = datagrams
    assert a.sendmsg([b"one", b"two"], [], 0, b.getsockname()) == 6
    assert b.recv(10) == b"onetwo"


def test_timeouts(datagrams):
    _, b = datagrams
    b.settimeout(0.01)
    with pytest.raises(TimeoutError):
        b.recvfrom(1)
    b.setblocking(False)
    with pytest.raises(BlockingIOError):
        b.recv(1)
    b.settimeout(LIMIT)
    assert b.gettimeout() == LIMIT


def test_options(datagrams):
    a, _ = datagrams
    assert a.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM
    assert a.type == socket.SOCK_DGRAM
    a.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    assert a.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
