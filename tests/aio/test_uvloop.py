"""uvloop's loop on hosts: connections, servers, TLS, datagrams, socket calls; the kernel's sockets are uvloop's own."""

import asyncio
import contextlib
import gc
import socket
import ssl
import tempfile
import threading
import time

import pytest

import netstack
from netstack.link import FaultInjector, channel_pair
from tests.aio.test_streams import echo, port_of
from tests.places import daemon_of

pytest.importorskip("uvloop")
LIMIT = 30.0
A, B = "10.6.0.1", "10.6.0.2"
DATA = bytes(range(256)) * 4000


class Hosts:
    """Two hosts of this process, or a daemon's with two clients."""

    def __init__(self, kind, others):
        self.by_descriptor = kind == "daemon"
        self.source = B if kind == "daemon" else A             # towards B
        if kind == "daemon":
            self.a, self.b = others.enter_context(daemon_of(f"{A}/24", f"{B}/24", clients=2))
            return
        here, there = channel_pair()
        if kind == "lossy":
            here, there = FaultInjector(here, seed=7, loss=0.02), FaultInjector(there, seed=8, loss=0.02)
        self.a = netstack.Host(link=here, address=f"{A}/24", drain=5)
        self.b = netstack.Host(link=there, address=f"{B}/24", drain=5)


@contextlib.contextmanager
def used(kind):
    with contextlib.ExitStack() as others:
        hosts = Hosts(kind, others)
        yield hosts
        carried = [host.counters()["tcp_payload_in"] for host in (hosts.a, hosts.b)]
        hosts.a.close()
        hosts.b.close()
        assert any(carried)


@pytest.fixture(params=["clean", "lossy", "daemon"])
def hosts(request):
    with used(request.param) as hosts:
        yield hosts


@pytest.fixture(params=["clean", "lossy"])
def led(request):
    """Hosts that their loops lead: their stacks are in this process."""
    with used(request.param) as hosts:
        yield hosts


def run(coroutine, host=None):
    from netstack.aio.uvloop import new_event_loop

    loop = new_event_loop(host)
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, LIMIT))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        gc.collect()


@pytest.fixture(scope="module")
def contexts():
    authority = pytest.importorskip("trustme").CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(B).configure_cert(server)
    authority.configure_trust(client)
    return client, server


def test_streams_both_ways(hosts):
    async def main():
        server = await hosts.b.start_server(echo, B, 0)
        reader, writer = await hosts.a.open_connection(B, port_of(server))
        for i in range(30):
            writer.write(b"%d\n" % i)
            assert await reader.readline() == b"%d\n" % i
        writer.write(DATA)
        writer.write_eof()
        assert await reader.read() == DATA
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_the_loop_s_own_functions_mean_its_host(hosts):
    async def main():
        server = await hosts.b.start_server(echo, B, 0)
        reader, writer = await asyncio.open_connection(B, port_of(server))
        assert writer.get_extra_info("sockname")[0] == hosts.source
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        writer.close()
        own = await asyncio.start_server(echo, A, 0)
        reader, writer = await hosts.b.open_connection(A, port_of(own))
        writer.write(b"y")
        assert await reader.read(1) == b"y"
        writer.close()
        assert (await asyncio.get_running_loop().getaddrinfo(A, 80, type=socket.SOCK_STREAM))[0][4] == (A, 80)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(B, 1)
        server.close()
        own.close()

    run(main(), hosts.a)


def test_under_a_patch_nothing_leaks_to_the_kernel(hosts):
    async def main():
        server = await hosts.b.start_server(echo, B, 0)
        reader, writer = await asyncio.open_connection(B, port_of(server))
        assert writer.get_extra_info("sockname")[0] == hosts.source
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        writer.close()
        with pytest.raises(socket.gaierror):
            await asyncio.open_connection("no-such-name.invalid", 80)
        server.close()

    with hosts.a.patch():
        run(main())


def test_many_connections_at_once(hosts):
    async def ask(port, i):
        reader, writer = await hosts.a.open_connection(B, port)
        data = b"%d" % i * 5000
        writer.write(data)
        writer.write_eof()
        got = await reader.read()
        writer.close()
        return got == data

    async def main():
        server = await hosts.b.start_server(echo, B, 0)
        assert all(await asyncio.gather(*(ask(port_of(server), i) for i in range(40))))
        server.close()

    run(main())


def test_tls_and_start_tls(hosts, contexts):
    client, server_side = contexts

    async def upgrade(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.drain()
        loop, protocol = asyncio.get_running_loop(), writer.transport.get_protocol()
        transport = await loop.start_tls(writer.transport, protocol, server_side, server_side=True)
        transport.write(b"secret")
        transport.close()

    async def main():
        server = await hosts.b.start_server(echo, B, 0, ssl=server_side)
        reader, writer = await hosts.a.open_connection(B, port_of(server), ssl=client)
        assert writer.get_extra_info("cipher")
        writer.write(DATA)
        got = b""
        while len(got) < len(DATA):
            got += await reader.read(65536)
        assert got == DATA
        writer.close()
        server.close()
        plain = await hosts.b.start_server(upgrade, B, 0)
        reader, writer = await hosts.a.open_connection(B, port_of(plain))
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        loop, protocol = asyncio.get_running_loop(), writer.transport.get_protocol()
        transport = await loop.start_tls(writer.transport, protocol, client, server_hostname=B)
        assert await reader.read(6) == b"secret"
        transport.close()
        plain.close()

    run(main())


def test_datagrams_and_sock_calls(hosts):
    class Keep(asyncio.DatagramProtocol):
        def __init__(self):
            self.came = asyncio.get_running_loop().create_future()

        def datagram_received(self, data, address):
            if not self.came.done():
                self.came.set_result((data, address))

    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Keep, local_addr=(A, 0))
        name = transport.get_extra_info("sockname")
        with hosts.b.socket(type=socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.bind((B, 0))
            while not protocol.came.done():                    # the wire may lose it
                if hosts.by_descriptor:                        # uvloop has no sock_sendto
                    other.sendto(b"hello", name)
                else:
                    await loop.sock_sendto(other, b"hello", name)
                await asyncio.wait([protocol.came], timeout=0.05)
            assert (await protocol.came) == (b"hello", other.getsockname())
        transport.close()
        with hosts.b.create_server((B, 0)) as listener, hosts.a.socket() as s:
            listener.setblocking(False)
            s.setblocking(False)
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await loop.sock_connect(s, listener.getsockname())
            peer, _ = await accepting
            with peer:
                await asyncio.gather(loop.sock_sendall(s, DATA), receive(loop, peer))

    async def receive(loop, sock):
        got = b""
        while len(got) < len(DATA):
            got += await loop.sock_recv(sock, 65536)
        assert got == DATA

    run(main(), hosts.a)


def test_sendfile(hosts):
    async def main():
        server = await hosts.b.start_server(echo, B, 0)
        reader, writer = await hosts.a.open_connection(B, port_of(server))
        with tempfile.TemporaryFile() as file:
            file.write(DATA)
            file.seek(0)
            assert await asyncio.get_running_loop().sendfile(writer.transport, file) == len(DATA)
        writer.write_eof()
        assert await reader.read() == DATA
        writer.close()
        server.close()

    run(main())


def test_the_kernels_sockets_are_uvloops(hosts):
    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        assert type(server).__module__.startswith("uvloop")
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(b"kernel")
        assert await reader.read(6) == b"kernel"
        writer.close()
        server.close()
        with hosts.b.create_server((B, 0)) as listener:
            reader, far = await hosts.a.open_connection(*listener.getsockname())
            near, _ = listener.accept()
            near.sendall(b"x")
            assert await reader.read(1) == b"x"
            far.close()
            near.close()
        if not hosts.by_descriptor:    # a child joins its daemon, which is in this process, and this one waits for it
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0

    run(main())


# --- who drives


def segments(led):
    """By callers and by the standby threads."""
    counters = [host.driver.counters() for host in (led.a, led.b)]
    return [sum(c[name] for c in counters) for name in ("segments_by_caller", "segments_by_service")]


def test_the_loop_drives_its_hosts_itself(led):
    async def main():
        server = await led.b.start_server(echo, B, 0)
        reader, writer = await led.a.open_connection(B, port_of(server))
        for _ in range(300):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        writer.close()
        server.close()

    run(main())
    by_caller, by_service = segments(led)
    assert by_caller > by_service


@contextlib.contextmanager
def stuck_loop(serve):
    """A loop that rests, and then is in a callback until the block is over; ``serve`` runs in it before."""
    from netstack.aio.uvloop import new_event_loop

    loop, stuck, go_on = new_event_loop(), threading.Event(), threading.Event()
    done = []

    def block():
        stuck.set()
        done.append(go_on.wait(LIMIT))

    async def main():
        keep = await serve()
        while not all(poller.resting for poller in loop._pollers.values()):
            await asyncio.sleep(0.001)
        loop.call_later(0.05, block)
        while not done:
            await asyncio.sleep(0.01)
        keep.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert stuck.wait(LIMIT)
        yield
    finally:
        go_on.set()
        thread.join()
        loop.close()
    assert done == [True]


def test_a_host_goes_on_while_its_loop_is_busy(led):
    """Handshakes and acknowledgements need no loop: the standby thread takes the lead of one that does not come."""
    with stuck_loop(lambda: led.b.start_server(echo, B, 7000)):
        with led.a.create_connection((B, 7000), timeout=LIMIT) as client:
            client.sendall(b"x" * 10_000)
            while client.tcp_info().unacked:
                time.sleep(0.001)
    assert led.b.driver.counters()["segments_by_service"] > 0


def test_a_thread_that_waits_takes_the_lead_of_a_busy_loop(led):
    with stuck_loop(lambda: led.b.start_server(echo, B, 7000)), led.b.create_server((B, 7001)) as listener:
        with led.a.create_connection((B, 7001), timeout=LIMIT) as client:
            server, _ = listener.accept()
            server.settimeout(LIMIT)
            for i in range(50):
                client.sendall(b"%d\n" % i)
                assert server.recv(100) == b"%d\n" % i
            server.close()
