"""A call that does not wait fails only when nothing of what has arrived at the host would let it succeed."""

import contextlib
import errno
import socket

import pytest

import netstack
from netstack.link import channel_pair

BEFORE = 40                                # frames for others that stand in the ring in front of ours


@pytest.fixture(params=[True])
def hosts(request):
    """The second one has a service thread, or, by parameter, nobody but its own calls either."""
    here, there = channel_pair()
    with netstack.Host(link=here, address="10.0.0.1/24", service=False, drain=1) as a, \
            netstack.Host(link=there, address="10.0.0.2/24", service=request.param, drain=1) as b:
        yield a, b


@pytest.fixture
def crowd(hosts):
    """Fill the ring of the first host, which nobody empties but its own calls."""
    a, b = hosts
    with a.socket(type=socket.SOCK_DGRAM) as other, b.socket(type=socket.SOCK_DGRAM) as sender:
        other.bind(("10.0.0.1", 999))

        def send():
            for _ in range(BEFORE):
                sender.sendto(b"x", ("10.0.0.1", 999))

        yield send


@pytest.fixture
def connected(hosts):
    a, b = hosts
    with b.socket() as listener, a.socket() as client:
        listener.bind(("10.0.0.2", 80))
        listener.listen()
        client.setblocking(False)
        listener.setblocking(False)
        server = None
        while client.connect_ex(("10.0.0.2", 80)) not in (0, errno.EISCONN) or server is None:
            with contextlib.suppress(BlockingIOError):
                server, _ = listener.accept()
        with server:
            server.setblocking(True)
            yield client, server


@pytest.mark.parametrize("read", [
    lambda s: s.recv(10), lambda s: s.recv(100_000), lambda s: s.recvfrom(10)[0], lambda s: s.recvmsg(10)[0],
    lambda s: bytes(memoryview(space := bytearray(10))[:s.recv_into(space)]),
    lambda s: bytes(memoryview(space := bytearray(100_000))[:s.recv_into(space)]),
], ids=["recv", "recv-large", "recvfrom", "recvmsg", "recv_into", "recv_into-large"])
def test_a_datagram_behind_others_is_there(hosts, crowd, read):
    a, b = hosts
    with a.socket(type=socket.SOCK_DGRAM) as ours, b.socket(type=socket.SOCK_DGRAM) as sender:
        ours.bind(("10.0.0.1", 1000))
        ours.setblocking(False)
        crowd()
        sender.sendto(b"word", ("10.0.0.1", 1000))
        assert read(ours) == b"word"
        with pytest.raises(BlockingIOError):
            read(ours)


@pytest.mark.parametrize("size", [10, 100_000])
def test_bytes_of_a_stream_behind_others_are_there(connected, crowd, size):
    client, server = connected
    crowd()
    server.sendall(b"word")
    assert client.recv(size) == b"word"


@pytest.mark.parametrize("hosts", [False], indirect=True)      # else its window may be full, and all acknowledged
@pytest.mark.parametrize("size", [10, 100_000])
def test_room_made_by_acknowledgements_behind_others_is_there(connected, crowd, size):
    client, server = connected
    with pytest.raises(BlockingIOError):
        while True:
            client.send(bytes(100_000))
    crowd()
    assert server.recv(1 << 20)            # its acknowledgements stand behind the crowd
    assert client.send(bytes(size)) > 0
