"""`fileno()` shows to select, poll, epoll and asyncio what holds, and carries no data."""

import asyncio
import errno
import os
import select
import selectors
import socket
import threading

import pytest

from tests.socket.conftest import LIMIT


def state(s) -> str:
    """What poll(2) says at once, without the bits that differ between kinds of descriptors."""
    poll = select.poll()
    poll.register(s, select.POLLIN | select.POLLOUT)
    bits = dict(poll.poll(0)).get(s.fileno(), 0)
    return "".join(c for c, b in (("r", select.POLLIN), ("w", select.POLLOUT)) if bits & b)


def becomes(s, wanted: str) -> bool:
    """Wait until it does, asleep in poll as a program would be."""
    poll = select.poll()
    for c, b in (("r", select.POLLIN), ("w", select.POLLOUT)):
        if c in wanted:
            poll.register(s, b)
            assert poll.poll(LIMIT * 1000), f"{s} does not become {wanted}"
    return state(s) == wanted


def test_a_stream_shows_readable_writable_and_the_end(pair):
    client, server = pair
    assert becomes(server, "w")
    client.sendall(b"12")
    assert becomes(server, "rw")
    assert server.recv(1) == b"1"
    assert becomes(server, "rw")
    assert server.recv(1) == b"2"
    assert becomes(server, "w")
    client.close()
    assert becomes(server, "rw")
    assert server.recv(1) == b""
    assert becomes(server, "rw")


@pytest.mark.parametrize("blocking", [True, False])
def test_no_file_gets_lost_in_it(pair, tmp_path, blocking):
    """sendfile(2), unpatched, refuses it, or sends on the kernel's sockets."""
    client, server = pair
    client.setblocking(blocking)
    client.fileno()
    client.setblocking(not blocking)
    client.setblocking(blocking)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    with open(path, "rb") as file:
        try:
            os.sendfile(client.fileno(), file.fileno(), 0, 100)
        except OSError as error:
            assert error.errno == errno.EINVAL
            client.sendall(b"x" * 100)
    client.close()
    with server.makefile("rb") as end:
        assert end.read() == b"x" * 100


@pytest.mark.parametrize("how", ["sock_sendfile", "sendfile"])
def test_asyncio_s_own_loop_sends_files(pair, tmp_path, how):
    client, server = pair
    data = os.urandom(300_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    client.setblocking(False)
    got = []
    reader = threading.Thread(target=lambda: got.append(server.makefile("rb").read()))
    reader.start()

    async def main():
        loop = asyncio.get_running_loop()
        with open(path, "rb") as file:
            if how == "sock_sendfile":
                assert await loop.sock_sendfile(client, file, 1) == len(data) - 1
            else:
                transport, _ = await loop.create_connection(asyncio.Protocol, sock=client)
                assert await loop.sendfile(transport, file, 1) == len(data) - 1
                transport.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT))
    client.close()
    reader.join(LIMIT)
    assert got == [data[1:]]


def test_a_full_stream_is_not_writable_until_the_peer_reads(pair):
    client, server = pair
    client.fileno()
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):                    # for as long as that nothing moves
        while True:
            client.send(bytes(1 << 16))
    assert state(client) == ""
    reader = threading.Thread(target=lambda: [server.recv(1 << 20) for _ in range(100)], daemon=True)
    reader.start()
    assert becomes(client, "w") or state(client) == "w"
    client.close()
    reader.join(LIMIT)


def test_a_listener_is_readable_while_somebody_waits(net, listener):
    assert "r" not in state(listener)
    client = net.client_socket()
    net.opened.append(client)
    client.connect(listener.getsockname())
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    assert poll.poll(LIMIT * 1000)
    server, _ = listener.accept()
    net.opened.append(server)
    assert "r" not in state(listener)


def test_a_nonblocking_connect_becomes_writable(net, listener):
    client = net.client_socket()
    net.opened.append(client)
    client.setblocking(False)
    client.fileno()
    assert client.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
    assert becomes(client, "w")
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    server, _ = listener.accept()
    net.opened.append(server)


def test_a_refused_connect_shows_too(net):
    probe = net.server_socket()
    probe.bind((net.server_address, 0))
    address = probe.getsockname()
    probe.close()
    client = net.client_socket()
    net.opened.append(client)
    client.setblocking(False)
    client.fileno()
    if client.connect_ex(address) == errno.EINPROGRESS:
        assert "w" in state(client) or becomes(client, "w") or "w" in state(client)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_datagrams_show(datagrams):
    a, b = datagrams
    assert becomes(b, "w")
    a.sendto(b"x", b.getsockname())
    a.sendto(b"y", b.getsockname())
    assert becomes(b, "rw")
    b.recv(1)
    assert becomes(b, "rw")
    b.recv(1)
    assert becomes(b, "w")


def test_the_number_is_stable_and_goes_with_the_socket(pair):
    client, _ = pair
    fd = client.fileno()
    assert fd >= 0 and client.fileno() == fd
    client.close()
    assert client.fileno() == -1
    with pytest.raises(OSError):
        os.fstat(fd)


def test_selectors_serve_an_echo(net, listener):
    def serve():
        with selectors.DefaultSelector() as selector:
            listener.setblocking(False)
            selector.register(listener, selectors.EVENT_READ)
            left = 3
            while left:
                for key, _ in selector.select(LIMIT):
                    if key.fileobj is listener:
                        connection, _ = listener.accept()
                        connection.setblocking(False)
                        selector.register(connection, selectors.EVENT_READ)
                    elif data := key.fileobj.recv(1000):
                        key.fileobj.send(data)
                    else:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
                        left -= 1

    thread = threading.Thread(target=serve)
    thread.start()
    clients = []
    for _ in range(3):
        client = net.client_socket()
        client.settimeout(LIMIT)
        client.connect(listener.getsockname())
        clients.append(client)
    for i in range(30):
        client = clients[i % 3]
        client.sendall(b"message %d" % i)
        assert client.recv(100) == b"message %d" % i
    for client in clients:
        client.close()
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_asyncio_runs_on_it_unchanged(net, listener):
    data = bytes(range(256)) * 4000

    async def handle(reader, writer):
        while part := await reader.read(1 << 16):
            writer.write(part)
            await writer.drain()
        writer.close()

    async def main():
        listener.setblocking(False)
        server = await asyncio.start_server(handle, sock=listener)
        client = net.client_socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
        reader, writer = await asyncio.open_connection(sock=client)

        async def send():
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        back = await asyncio.wait_for(reader.read(-1), LIMIT)
        await sending
        writer.close()
        server.close()
        return back

    assert asyncio.run(main()) == data
