"""asyncio's streams and protocols over stacks; each test runs on the kernel too, which is the measure."""

import asyncio
import contextlib
import os
import socket
import ssl
import sys

import pytest

from tests.aio.conftest import LIMIT
from tests.support import descriptors


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def port_of(server):
    return server.sockets[0].getsockname()[1]


def test_echo(net):
    async def main():
        server = await net.start_server(echo, net.address, 0)
        reader, writer = await net.open_connection(net.address, port_of(server))
        for i in range(50):
            writer.write(b"%d\n" % i)
            assert await reader.readline() == b"%d\n" % i
        assert writer.get_extra_info("peername") == (net.address, port_of(server))
        assert writer.get_extra_info("socket").family == socket.AF_INET
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    net.run(main())


# The kernel's have one, and a daemon's; a hybrid stack holds each port by one.
@pytest.mark.parametrize("net", ["channel", "loopback", "lossy"], indirect=True)
def test_no_descriptor_is_made_for_a_connection(net):
    async def main():
        server = await net.start_server(echo, net.address, 0)
        streams = [await net.open_connection(net.address, port_of(server))]     # the loop meets the hosts
        before = descriptors().keys()
        streams += [await net.open_connection(net.address, port_of(server)) for _ in range(20)]
        for reader, writer in streams:
            writer.write(b"x")
            assert await reader.read(1) == b"x"
        assert descriptors().keys() <= before
        for _, writer in streams:
            writer.close()
            await writer.wait_closed()
        server.close()

    net.run(main())


def test_much_both_ways_with_back_pressure(net):
    size = 4_000_000
    there, back = os.urandom(size), os.urandom(size)

    async def serve(reader, writer):
        async def send():
            writer.write(back)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        assert await reader.read() == there
        await sending
        writer.close()

    async def main():
        server = await net.start_server(serve, net.address, 0)
        reader, writer = await net.open_connection(net.address, port_of(server))

        async def send():
            for at in range(0, size, 100_000):
                writer.write(there[at:at + 100_000])
                await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        assert await reader.read() == back
        await sending
        writer.close()
        await writer.wait_closed()
        server.close()

    net.run(main())


class Recorder(asyncio.Protocol):
    """Remembers what happened to it."""

    def __init__(self):
        self.events = []
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.events.append("eof")

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, error):
        self.events.append("lost")
        self.lost.set_result(error)


def test_a_writer_is_paused_while_its_peer_does_not_read(net):
    async def main():
        accepted = asyncio.get_running_loop().create_future()

        def factory():
            protocol = Recorder()
            accepted.set_result(protocol)
            return protocol

        server = await net.create_server(factory, net.address, 0)
        transport, client = await net.create_connection(Recorder, net.address, port_of(server))
        peer = await accepted
        while "made" not in peer.events:
            await asyncio.sleep(0)
        peer.transport.pause_reading()
        sent = 0
        while "pause" not in client.events:
            transport.write(bytes(1 << 20))
            sent += 1 << 20
        assert transport.get_write_buffer_size() > 0
        low, high = transport.get_write_buffer_limits()
        assert transport.get_write_buffer_size() > high >= low
        peer.transport.resume_reading()
        while "resume" not in client.events:
            await asyncio.sleep(0)
        transport.close()                              # what is buffered is sent first
        transport.close()
        assert await client.lost is None
        await peer.lost
        assert len(peer.data) == sent and peer.events == ["made", "eof", "lost"]
        server.close()

    net.run(main())


def test_the_bytes_of_a_bytearray_are_those_of_the_call(net):
    if net.kind == "kernel" and sys.version_info >= (3, 12):
        pytest.skip("the standard loop keeps a view of the caller's since 3.12")

    async def main():
        got = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            got.set_result(await reader.read())
            writer.close()

        server = await net.start_server(serve, net.address, 0)
        transport, _ = await net.create_connection(Recorder, net.address, port_of(server))
        block = bytearray(b"a" * (8 << 20))
        transport.write(block)
        block[:] = b"b" * len(block)
        transport.close()
        assert await got == b"a" * (8 << 20)
        server.close()

    net.run(main())


def test_half_close(net):
    async def serve(reader, writer):
        question = await reader.read()
        writer.write(question.upper())
        await writer.drain()
        writer.close()

    async def main():
        server = await net.start_server(serve, net.address, 0)
        reader, writer = await net.open_connection(net.address, port_of(server))
        writer.write(b"question")
        assert writer.can_write_eof()
        writer.write_eof()
        assert await reader.read() == b"QUESTION"
        with pytest.raises(RuntimeError, match="write_eof"):
            writer.write(b"more")
        writer.close()
        await writer.wait_closed()
        server.close()

    net.run(main())


class IntoBuffer(asyncio.BufferedProtocol):
    def __init__(self):
        self.space = bytearray(1000)
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def get_buffer(self, hint):
        return self.space

    def buffer_updated(self, n):
        self.data += self.space[:n]

    def connection_lost(self, error):
        self.lost.set_result(error)


def test_a_buffered_protocol_gets_its_bytes_in_its_buffer(net):
    data = os.urandom(300_000)

    async def serve(reader, writer):
        writer.write(data)
        await writer.drain()
        writer.close()

    async def main():
        server = await net.start_server(serve, net.address, 0)
        _, protocol = await net.create_connection(IntoBuffer, net.address, port_of(server))
        assert await protocol.lost is None
        assert protocol.data == data
        server.close()

    net.run(main())


def test_connection_refused(net):
    async def main():
        with pytest.raises(ConnectionRefusedError):
            await net.open_connection(net.address, 1)

    net.run(main())


def test_a_reset_reaches_the_protocol(net):
    async def main():
        accepted = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            accepted.set_result(writer)
            await asyncio.sleep(LIMIT)

        server = await net.start_server(serve, net.address, 0)
        _, protocol = await net.create_connection(Recorder, net.address, port_of(server))
        writer = await accepted
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        assert isinstance(await protocol.lost, ConnectionResetError)
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if "serve" in repr(task.get_coro()):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    net.run(main())


def test_a_cancelled_read_leaves_the_stream_usable(net):
    async def main():
        server = await net.start_server(echo, net.address, 0)
        reader, writer = await net.open_connection(net.address, port_of(server))
        reading = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(10), 0.01)
        writer.write(b"still")
        assert await reader.read(10) == b"still"
        writer.close()
        await writer.wait_closed()
        server.close()

    net.run(main())


@pytest.mark.parametrize("net", ["channel"], indirect=True)    # needs an address that never answers
def test_a_cancelled_connect_leaves_nothing(net):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(net.open_connection("10.0.0.77", 80), 0.02)
        assert not net.loop._watches
        assert net.client.driver.sockets == 0

    net.run(main())


def test_many_connections(net):
    async def main():
        server = await net.start_server(echo, net.address, 0, backlog=256)

        async def client(i):
            reader, writer = await net.open_connection(net.address, port_of(server))
            for turn in range(5):
                text = b"%d of %d\n" % (turn, i)
                writer.write(text)
                assert await reader.readline() == text
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(client(i) for i in range(200)))
        server.close()

    net.run(main())


@pytest.fixture(scope="module")
def contexts():
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return client, server


def test_tls(net, contexts):
    data = os.urandom(1_000_000)

    async def main():
        server = await net.start_server(echo, net.address, 0, ssl=contexts[1])
        reader, writer = await net.open_connection(net.address, port_of(server), ssl=contexts[0],
                                                   server_hostname="server.test")
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        sending = asyncio.ensure_future(_send(writer, data))
        assert await reader.readexactly(len(data)) == data
        await sending
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ssl.SSLCertVerificationError):
            await net.open_connection(net.address, port_of(server), ssl=contexts[0], server_hostname="other.test")
        server.close()

    net.run(main())


async def _send(writer, data):
    writer.write(data)
    await writer.drain()


def test_start_tls(net, contexts):
    async def main():
        loop = asyncio.get_running_loop()

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                if data == b"STARTTLS":
                    self.transport.write(b"OK")
                    self.upgraded = loop.create_task(
                        loop.start_tls(self.transport, self, contexts[1], server_side=True))
                else:
                    self.upgraded.add_done_callback(lambda task: task.result().write(data.upper()))

        server = await net.create_server(Server, net.address, 0)
        reader, writer = await net.open_connection(net.address, port_of(server))
        writer.write(b"STARTTLS")
        assert await reader.readexactly(2) == b"OK"
        protocol = writer.transport.get_protocol()
        transport = await loop.start_tls(writer.transport, protocol, contexts[0], server_hostname="server.test")
        reader._transport = transport
        secure = asyncio.StreamWriter(transport, protocol, reader, loop)
        secure.write(b"secret")
        assert await reader.readexactly(6) == b"SECRET"
        secure.close()
        server.close()

    net.run(main())


def test_sendfile(net, tmp_path):
    data = os.urandom(700_000)
    (tmp_path / "file").write_bytes(data)

    async def main():
        got = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            got.set_result(await reader.read())
            writer.close()

        server = await net.start_server(serve, net.address, 0)
        _, writer = await net.open_connection(net.address, port_of(server))
        with open(tmp_path / "file", "rb") as file:
            assert await asyncio.get_running_loop().sendfile(writer.transport, file, 100, 600_000) == 600_000
        writer.close()
        assert await got == data[100:600_100]
        server.close()

    net.run(main())


@pytest.mark.parametrize("net", ["channel"], indirect=True)    # a host that can be closed by itself
def test_closing_the_host_ends_its_connections(net):
    async def main():
        loop = asyncio.get_running_loop()
        server = await net.start_server(echo, net.address, 0)
        _, protocol = await net.create_connection(Recorder, net.address, port_of(server))
        await loop.run_in_executor(None, net.client.close)
        assert isinstance(await protocol.lost, OSError)
        server.close()

    net.run(main())
