"""loop.sock_*, datagram endpoints, names, threads beside the loop, and how a loop is made."""

import asyncio
import functools
import gc
import os
import socket
import sys
import threading
import warnings

import pytest

import netstack
from netstack.link import channel_pair
from tests.aio.conftest import LIMIT
from tests.aio.test_streams import echo, port_of
from tests.places import MODES, host_in


def test_sock_calls(net):
    data = os.urandom(2_000_000)

    async def main():
        loop = asyncio.get_running_loop()
        listener = net.socket("server")
        listener.bind((net.address, 0))
        listener.listen()
        client = net.socket("client")
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        server, address = await accepting
        assert address == client.getsockname() and server.gettimeout() == 0
        sending = asyncio.ensure_future(loop.sock_sendall(client, data))
        got = bytearray()
        space = bytearray(100_000)
        while len(got) < len(data) // 2:
            got += await loop.sock_recv(server, 50_000)
        while len(got) < len(data):
            n = await loop.sock_recv_into(server, space)
            got += space[:n]
        await sending
        assert got == data
        client.close()
        assert await loop.sock_recv(server, 1) == b""
        server.close()
        listener.close()

    net.run(main())


def test_sock_sendfile(net, tmp_path):
    (tmp_path / "file").write_bytes(b"z" * 400_000)

    async def main():
        loop = asyncio.get_running_loop()
        got = loop.create_future()

        async def serve(reader, writer):
            got.set_result(await reader.read())
            writer.close()

        server = await net.start_server(serve, net.address, 0)
        client = net.socket("client")
        await loop.sock_connect(client, (net.address, port_of(server)))
        with open(tmp_path / "file", "rb") as file:
            assert await loop.sock_sendfile(client, file) == 400_000
        client.close()
        assert len(await got) == 400_000
        server.close()

    net.run(main())


def test_a_cancelled_sock_recv_can_be_repeated(net):
    async def main():
        loop = asyncio.get_running_loop()
        server = await net.start_server(echo, net.address, 0)
        client = net.socket("client")
        await loop.sock_connect(client, (net.address, port_of(server)))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.sock_recv(client, 1), 0.01)
        await loop.sock_sendall(client, b"x")
        assert await loop.sock_recv(client, 1) == b"x"
        client.close()
        server.close()

    net.run(main())


@pytest.mark.parametrize("call", ["sock_recv", "sock_recv_into"])
def test_a_call_may_begin_before_a_cancelled_one_has_ended(net, call):
    async def main():
        loop = asyncio.get_running_loop()
        receive = getattr(loop, call)
        server = await net.start_server(echo, net.address, 0)
        client = net.socket("client")
        await loop.sock_connect(client, (net.address, port_of(server)))
        room = 10 if call == "sock_recv" else bytearray(10)
        cancelled = asyncio.ensure_future(receive(client, room))
        await asyncio.sleep(0)
        cancelled.cancel()
        sending = asyncio.ensure_future(loop.sock_sendall(client, b"x"))
        assert await receive(client, room) in (b"x", 1)
        await sending
        client.close()
        server.close()

    net.run(main())


def test_sock_connect_refused(net):
    async def main():
        client = net.socket("client")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.get_running_loop().sock_connect(client, (net.address, 1))
        client.close()

    net.run(main())


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.arrived = asyncio.Queue()
        self.errors = asyncio.Queue()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.arrived.put_nowait((data, address))

    def error_received(self, error):
        self.errors.put_nowait(error)


def endpoint(net, side, **options):
    """create_datagram_endpoint on a side's host."""
    host = getattr(net, side)
    if host is None:
        return net.loop.create_datagram_endpoint(Datagrams, **options)
    return _on_host(net.loop, host, options)


async def _on_host(loop, host, options):
    loop._host = host
    try:
        return await loop.create_datagram_endpoint(Datagrams, **options)
    finally:
        loop._host = None


def test_datagrams(net):
    async def main():
        transport, server = await endpoint(net, "server", local_addr=(net.address, 0))
        address = transport.get_extra_info("sockname")
        connected, client = await endpoint(net, "client", remote_addr=address)
        other, loose = await endpoint(net, "client", local_addr=(net.client_address, 0))
        got = 0
        for i in range(50):                            # a lossy wire may lose some of them
            connected.sendto(b"%d" % i)
            other.sendto(b"x", address)
        while got < 50:
            try:
                data, source = await asyncio.wait_for(server.arrived.get(), 0.2)
            except asyncio.TimeoutError:
                break
            transport.sendto(data.upper(), source)
            got += 1
        assert got > 25
        assert (await client.arrived.get())[1] == address
        assert (await loose.arrived.get())[0] == b"X"
        with pytest.raises(ValueError, match="Invalid address"):
            connected.sendto(b"x", ("10.9.9.9", 9))
        for each in (transport, connected, other):
            each.close()
        await asyncio.sleep(0)

    net.run(main())


def test_a_datagram_to_a_closed_port_is_an_error(net):
    if net.kind == "lossy":
        pytest.skip("the error may get lost")

    async def main():
        transport, protocol = await endpoint(net, "client", remote_addr=(net.address, 9))
        transport.sendto(b"x")
        assert isinstance(await protocol.errors.get(), ConnectionRefusedError)
        transport.close()
        await asyncio.sleep(0)

    net.run(main())


@pytest.fixture(params=MODES)
def host(request):
    with host_in(request, request.param, "10.3.0.1/24", "fd00::3/64") as host:
        yield host


@pytest.fixture(params=["library", pytest.param("hybrid", marks=pytest.mark.root)])
def led(request):
    """A host that a loop of ours leads: its stack is in this process."""
    with host_in(request, request.param, "10.3.0.1/24", "fd00::3/64") as host:
        yield host


def run_on(host, coroutine):
    factory = functools.partial(netstack.aio.new_event_loop, host)
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(coroutine, LIMIT))
    loop = factory()
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, LIMIT))
    finally:
        loop.close()


def test_a_loop_of_a_host_means_its_network(host):
    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, None, 0)
        families = {s.family for s in server.sockets}
        assert families == {socket.AF_INET, socket.AF_INET6}
        for s in server.sockets:
            address = "10.3.0.1" if s.family == socket.AF_INET else "fd00::3"
            reader, writer = await asyncio.open_connection(address, s.getsockname()[1])
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            assert writer.get_extra_info("peername")[0] == address
            writer.close()
            await writer.wait_closed()
        assert (await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM))[-1][4] == ("127.0.0.1", 80)
        assert await loop.getnameinfo(("10.0.0.9", 80), socket.NI_NUMERICHOST) == ("10.0.0.9", "http")
        server.close()
        await server.wait_closed()

    run_on(host, main())
    assert host.counters()["tcp_payload_in"] >= 4


def test_any_other_loop_works_too(host):
    async def main():
        server = await host.start_server(echo, "10.3.0.1", 0)
        reader, writer = await host.open_connection("10.3.0.1", port_of(server))
        writer.write(b"x" * 300_000)
        writer.write_eof()
        assert await reader.read() == b"x" * 300_000
        writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_a_thread_beside_the_loop_uses_the_same_host(host):
    def client(port):
        with host.create_connection(("10.3.0.1", port), timeout=LIMIT) as s:
            for i in range(200):
                s.sendall(b"%d\n" % i)
                got = b""
                while not got.endswith(b"\n"):
                    got += s.recv(100)
                assert got == b"%d\n" % i

    async def main():
        server = await asyncio.start_server(echo, "10.3.0.1", 0)
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(None, client, port_of(server)) for _ in range(3)))
        server.close()

    run_on(host, main())


def test_kernel_sockets_work_beside(host):
    async def main():
        server = await asyncio.start_server(echo, "10.3.0.1", 0)
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        other, other_writer = await asyncio.open_connection(sock=there)
        mine, my_writer = await asyncio.open_connection("10.3.0.1", port_of(server))
        for _ in range(20):
            writer.write(b"k")
            my_writer.write(b"s")
            assert await other.read(1) == b"k" and await mine.read(1) == b"s"
        for each in (writer, other_writer, my_writer):
            each.close()
        server.close()

    run_on(host, main())


def test_a_callback_from_a_thread_wakes_the_loop(host):
    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, "10.3.0.1", 0)       # the loop leads
        called = asyncio.Event()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(called.set,))
        thread.start()
        await called.wait()
        thread.join(LIMIT)
        assert called.is_set() and not thread.is_alive()
        server.close()

    run_on(host, main())


def test_two_loops_do_not_share_a_socket(led):
    async def main():
        loop = asyncio.get_running_loop()
        other = netstack.aio.new_event_loop(led)
        s = led.socket()
        s.setblocking(False)
        s.bind(("10.3.0.1", 0))
        s.listen()
        other._watch(s._handle).on_readable(print)
        with pytest.raises(RuntimeError, match="another event loop"):
            await loop.sock_accept(s)
        other.close()
        s.close()

    run_on(led, main())


def test_a_transport_s_socket_is_not_for_sock_calls(host):
    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, "10.3.0.1", 0)
        _, writer = await asyncio.open_connection("10.3.0.1", port_of(server))
        with pytest.raises(RuntimeError, match="used by (a )?transport"):
            await loop.sock_recv(writer.transport._sock, 1)
        writer.close()
        server.close()

    run_on(host, main())


def test_patched_asyncio_takes_the_host_of_the_process(led):
    async def main():
        server = await asyncio.start_server(echo, "10.3.0.1", 0)
        reader, writer = await asyncio.open_connection("10.3.0.1", port_of(server))
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert type(writer.transport).__name__ == "StreamTransport"
        writer.close()
        server.close()

    with led.patch():
        run_on(None, main())


def test_a_loop_that_is_dropped_unclosed_leaves_the_host_usable(led):
    listener = led.create_server(("10.3.0.1", 0))
    listener.setblocking(False)
    loop = netstack.aio.new_event_loop(led)
    loop._watch(listener._handle).on_readable(print)
    loop.cycle = loop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del loop
        gc.collect()
    client = led.create_connection(listener.getsockname(), timeout=LIMIT)

    async def main():
        server, peer = await asyncio.get_running_loop().sock_accept(listener)
        assert peer == client.getsockname()
        server.close()

    run_on(led, main())
    client.close()
    listener.close()


def test_numbers_of_a_closed_host_s_descriptors_may_be_used_again():
    a, b = channel_pair()
    near = netstack.Host(link=a, address="10.3.1.1/24", drain=1)
    far = netstack.Host(link=b, address="10.3.1.2/24", drain=1)

    async def main():
        server = await far.start_server(echo, "10.3.1.2", 0)
        reader, writer = await near.open_connection("10.3.1.2", port_of(server))
        writer.close()
        await writer.wait_closed()
        server.close()
        near.close()
        far.close()
        pairs = [socket.socketpair() for _ in range(30)]
        for here, there in pairs:                      # some have numbers that the hosts had
            reader, writer = await asyncio.open_connection(sock=here)
            there.sendall(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
            there.close()

    run_on(None, main())
