"""Redis, mail, and other event loops, as they are."""

import asyncio
import selectors
import smtplib
import socket
import subprocess
import sys
import threading

import pytest

from tests import support
from tests.programs.conftest import LIMIT, SERVER
from tests.programs.test_http import loops, run


class Store:
    """As much of a Redis server as its client's basic commands ask for (RESP 2)."""

    def __init__(self, host):
        self.data = {}
        self.listener = host.create_server((SERVER, 6379))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(s,), daemon=True).start()

    def _serve(self, s):
        with s, s.makefile("rwb") as file:
            while head := file.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int(file.readline()[1:])
                    words.append(file.read(size + 2)[:-2])
                file.write(self._answer(words[0].upper(), words[1:]))
                file.flush()

    def _answer(self, command, words):
        if command == b"PING":
            return b"+PONG\r\n"
        if command == b"SET":
            self.data[words[0]] = words[1]
            return b"+OK\r\n"
        if command == b"GET":
            value = self.data.get(words[0])
            return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
        if command == b"CLIENT":
            return b"+OK\r\n"
        return b"-ERR unknown command\r\n"


@pytest.fixture
def store(wire):
    store = Store(wire.server)
    yield store
    store.listener.close()


def test_redis(wire, store):
    redis = pytest.importorskip("redis")
    with wire.client.patch():
        with redis.Redis(host=SERVER, protocol=2, socket_timeout=LIMIT) as client:
            assert client.ping()
            client.set("key", b"v" * 100_000)
            assert client.get("key") == b"v" * 100_000 and client.get("none") is None
            with client.pipeline(transaction=False) as pipe:
                for i in range(50):
                    pipe.set(f"k{i}", i)
                pipe.execute()
            assert client.get("k49") == b"49"


@loops()
def test_redis_asyncio(wire, store, new_loop):
    redis = pytest.importorskip("redis.asyncio")

    async def main():
        async with redis.Redis(host=SERVER, protocol=2, socket_timeout=LIMIT) as client:
            await client.set("key", b"v" * 100_000)
            assert await client.get("key") == b"v" * 100_000

    with wire.client.patch():
        run(new_loop, main())


def lines_server(host):
    """Answers each line in capitals."""
    listener = host.create_server((SERVER, 0))

    def serve(s):
        with s, s.makefile("rwb") as file:
            for line in file:
                file.write(line.upper())
                file.flush()

    def accept():
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(s,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


@pytest.fixture
def lines(wire):
    listener = lines_server(wire.server)
    with wire.client.patch():
        yield listener.getsockname()
    listener.close()


# trio keeps the methods of the class that it finds when it is imported: the patch comes first, in a fresh interpreter.
TRIO = """
import netstack
host = netstack.Host(address="10.7.0.1/24")
patch = netstack.patch(host)
import trio

async def echo(stream):
    async for data in stream:
        await stream.send_all(data)

async def main():
    with trio.fail_after(30):
        listeners = await trio.open_tcp_listeners(0, host="10.7.0.1")
        address = listeners[0].socket.getsockname()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo, listeners)
            client = await trio.open_tcp_stream(*address)
            async def send():
                await client.send_all(bytes(3_000_000))
                await client.send_eof()
            nursery.start_soon(send)
            got = 0
            async for data in client:
                got += len(data)
            nursery.cancel_scope.cancel()
        datagrams = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        await datagrams.bind(("10.7.0.1", 0))
        await datagrams.sendto(b"x", datagrams.getsockname())
        assert (await datagrams.recvfrom(10))[0] == b"x"
        with trio.move_on_after(0.01):
            await datagrams.recvfrom(10)
        datagrams.close()
        return got

print(trio.run(main), host.counters()["tcp_payload_in"] >= 6_000_000)
"""

ANYIO = """
import netstack
host = netstack.Host(address="10.7.0.1/24")
patch = netstack.patch(host)
import anyio

async def main():
    with anyio.fail_after(30):
        listener = await anyio.create_tcp_listener(local_host="10.7.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)

        async def echo(stream):
            async with stream:
                async for data in stream:
                    await stream.send(data)

        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with await anyio.connect_tcp("10.7.0.1", port) as stream:
                await stream.send(b"x" * 100_000)
                got = 0
                while got < 100_000:
                    got += len(await stream.receive())
            group.cancel_scope.cancel()
        return got

print(anyio.run(main, backend=BACKEND), host.counters()["tcp_payload_in"] >= 200_000)
"""


def in_fresh_interpreter(program):
    return support.run([sys.executable, "-W", "error::netstack.patching.StaleReferenceWarning", "-c", program],
                       timeout=60).stdout.split()


def test_trio():
    pytest.importorskip("trio")
    assert in_fresh_interpreter(TRIO) == ["3000000", "True"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(backend):
    pytest.importorskip("anyio")
    pytest.importorskip(backend)
    assert in_fresh_interpreter(ANYIO.replace("BACKEND", repr(backend))) == ["100000", "True"]


def test_selectors(lines):
    with selectors.DefaultSelector() as selector, socket.socket() as s:
        s.setblocking(False)
        assert s.connect_ex(lines) in (0, 115)
        selector.register(s, selectors.EVENT_WRITE)
        assert selector.select(LIMIT)
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        s.send(b"line\n")
        selector.modify(s, selectors.EVENT_READ)
        assert selector.select(LIMIT)
        assert s.recv(100) == b"LINE\n"


def test_smtplib(wire):
    listener = wire.server.create_server((SERVER, 0))
    heard = []

    def serve():
        s, _ = listener.accept()
        with s, s.makefile("rwb") as file:
            file.write(b"220 here\r\n")
            file.flush()
            in_data = False
            for line in file:
                heard.append(line)
                if in_data and line != b".\r\n":
                    continue
                answer = b"250 fine\r\n"
                in_data = line.upper() == b"DATA\r\n"
                if in_data:
                    answer = b"354 go\r\n"
                elif line.upper() == b"QUIT\r\n":
                    file.write(b"221 bye\r\n")
                    break
                file.write(answer)
                file.flush()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with wire.client.patch(), smtplib.SMTP(*listener.getsockname(), timeout=LIMIT) as client:
        client.sendmail("a@a.test", ["b@b.test"], "Subject: hello\r\n\r\ntext\r\n" * 100)
    thread.join(LIMIT)
    listener.close()
    assert any(b"<a@a.test>" in line for line in heard) and heard.count(b"text\r\n") == 100


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_child_process_with_a_connection_as_its_standard_input(wire, role):
    """As inetd starts programs; `export` gives what another program can use."""
    with wire.server.create_server((SERVER, 0)) as listener:
        client = wire.client.create_connection(listener.getsockname(), LIMIT)
        server, _ = listener.accept()
    theirs, ours = (client, server) if role == "client" else (server, client)
    program = "import sys; sys.stdout.write(sys.stdin.read().upper())"
    with theirs.export() as carrier:
        child = subprocess.Popen([sys.executable, "-c", program], stdin=carrier, stdout=carrier)
    text = b"what the child process hears " * 10_000
    ours.settimeout(LIMIT)
    ours.sendall(text)
    ours.shutdown(socket.SHUT_WR)
    with ours, ours.makefile("rb") as file:
        assert file.read() == text.upper()
    assert child.wait(LIMIT) == 0


def test_asyncio_streams_of_the_standard_library(lines):
    async def main():
        reader, writer = await asyncio.open_connection(*lines)
        writer.write(b"line\n")
        assert await reader.readline() == b"LINE\n"
        writer.close()
        await writer.wait_closed()

    asyncio.run(asyncio.wait_for(main(), LIMIT))
