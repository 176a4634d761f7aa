"""httpcore, httpx, trio and anyio on one host by their own hooks: nothing is patched."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time

import pytest

import netstack
from tests.programs.conftest import BODY, LIMIT, SERVER
from tests.programs.test_adapters import servers  # noqa: F401 - a fixture
from tests.programs.test_http import loops, run
from tests.programs.test_others import lines_server


@pytest.fixture
def echo(wire):
    """The name of a server that answers each line in capitals."""
    listener = lines_server(wire.server)
    assert netstack.patched() == []
    yield listener.getsockname()
    listener.close()


def trio_run(main, *args):
    trio = pytest.importorskip("trio")

    async def within():
        with trio.fail_after(LIMIT):
            await main(*args)

    trio.run(within)


# --- httpcore and httpx ---------------------------------------------------------------------------


def test_httpcore(wire, servers, contexts):  # noqa: F811
    httpcore = pytest.importorskip("httpcore")
    from netstack.adapters.httpcore import NetworkBackend

    with httpcore.ConnectionPool(ssl_context=contexts[0], network_backend=NetworkBackend(wire.client)) as pool:
        for address in servers:
            for _ in range(3):
                assert pool.request("GET", address).content == BODY
            assert pool.request("POST", address, content=BODY).content == BODY
        assert len(pool.connections) == 2                        # they were used again
        with pytest.raises(httpcore.ConnectError, match="refused|Connect call failed"):
            pool.request("GET", f"http://{SERVER}:1/")
        with pytest.raises(httpcore.ConnectError):
            pool.request("GET", "http://no-such-name.invalid/")


def test_httpcore_does_not_trust_everybody(wire, servers):  # noqa: F811
    httpcore = pytest.importorskip("httpcore")
    from netstack.adapters.httpcore import NetworkBackend

    with httpcore.ConnectionPool(ssl_context=ssl.create_default_context(),
                                 network_backend=NetworkBackend(wire.client)) as pool:
        with pytest.raises(httpcore.ConnectError, match="certificate"):
            pool.request("GET", servers[1])


def silent(host):
    """A server that begins an answer and says no more."""
    listener = host.create_server((SERVER, 0))

    def serve():
        with contextlib.suppress(OSError):
            s, _ = listener.accept()
            with s:
                s.sendall(b"HTTP/1.1 2")
                while s.recv(4096):
                    pass

    threading.Thread(target=serve, daemon=True).start()
    return listener


def test_httpcore_times_out(wire):
    httpcore = pytest.importorskip("httpcore")
    from netstack.adapters.httpcore import NetworkBackend

    with silent(wire.server) as listener, \
            httpcore.ConnectionPool(network_backend=NetworkBackend(wire.client)) as pool:
        with pytest.raises(httpcore.ReadTimeout):
            pool.request("GET", f"http://{SERVER}:{listener.getsockname()[1]}/",
                         extensions={"timeout": {"read": 0.05}})


def test_a_stream_says_when_its_peer_has_closed(wire):
    """A pool asks that before it uses a connection again."""
    pytest.importorskip("httpcore")
    from netstack.adapters.httpcore import NetworkBackend

    with wire.server.create_server((SERVER, 0)) as listener:
        stream = NetworkBackend(wire.client).connect_tcp(*listener.getsockname(), timeout=LIMIT)
        peer, _ = listener.accept()
        assert stream.get_extra_info("server_addr") == listener.getsockname()
        assert stream.get_extra_info("is_readable") is False
        peer.sendall(b"x")
        assert stream.read(10, timeout=LIMIT) == b"x" and stream.get_extra_info("is_readable") is False
        peer.close()
        until = time.monotonic() + LIMIT
        while not stream.get_extra_info("is_readable"):
            assert time.monotonic() < until
        assert stream.read(10, timeout=LIMIT) == b""
        stream.close()


@loops()
def test_httpcore_under_asyncio(wire, servers, contexts, new_loop):  # noqa: F811
    httpcore = pytest.importorskip("httpcore")
    from netstack.adapters.httpcore import AsyncNetworkBackend

    async def main():
        async with httpcore.AsyncConnectionPool(ssl_context=contexts[0],
                                                network_backend=AsyncNetworkBackend(wire.client)) as pool:
            for address in servers:
                answers = await asyncio.gather(*(pool.request("GET", address) for _ in range(4)))
                assert all(answer.content == BODY for answer in answers)
                assert (await pool.request("POST", address, content=BODY)).content == BODY
            with pytest.raises(httpcore.ConnectError, match="refused|Connect call failed"):
                await pool.request("GET", f"http://{SERVER}:1/")
        with silent(wire.server) as listener:
            async with httpcore.AsyncConnectionPool(network_backend=AsyncNetworkBackend(wire.client)) as pool:
                with pytest.raises(httpcore.ReadTimeout):
                    await pool.request("GET", f"http://{SERVER}:{listener.getsockname()[1]}/",
                                       extensions={"timeout": {"read": 0.05}})

    run(new_loop, main())


def test_httpcore_under_trio(wire, servers, contexts):  # noqa: F811
    httpcore = pytest.importorskip("httpcore")
    from netstack.adapters.httpcore import AsyncNetworkBackend

    async def main():
        async with httpcore.AsyncConnectionPool(ssl_context=contexts[0],
                                                network_backend=AsyncNetworkBackend(wire.client)) as pool:
            for address in servers:
                for _ in range(3):
                    assert (await pool.request("GET", address)).content == BODY
            with pytest.raises(httpcore.ConnectError, match="refused|Connect call failed"):
                await pool.request("GET", f"http://{SERVER}:1/")
        with silent(wire.server) as listener:
            async with httpcore.AsyncConnectionPool(network_backend=AsyncNetworkBackend(wire.client)) as pool:
                with pytest.raises(httpcore.ReadTimeout):
                    await pool.request("GET", f"http://{SERVER}:{listener.getsockname()[1]}/",
                                       extensions={"timeout": {"read": 0.05}})

    trio_run(main)


def test_httpx(wire, servers, contexts):  # noqa: F811
    httpx = pytest.importorskip("httpx")
    from netstack.adapters.httpx import Transport

    with httpx.Client(transport=Transport(wire.client, verify=contexts[0]), timeout=LIMIT) as client:
        for address in servers:
            for _ in range(3):
                assert client.get(address).content == BODY
        with pytest.raises(httpx.ConnectError):
            client.get(f"http://{SERVER}:1/")


@loops()
def test_httpx_under_asyncio(wire, servers, contexts, new_loop):  # noqa: F811
    httpx = pytest.importorskip("httpx")
    from netstack.adapters.httpx import AsyncTransport

    async def main():
        async with httpx.AsyncClient(transport=AsyncTransport(wire.client, verify=contexts[0]),
                                     timeout=LIMIT) as client:
            for address in servers:
                answers = await asyncio.gather(*(client.get(address) for _ in range(4)))
                assert all(answer.content == BODY for answer in answers)

    run(new_loop, main())


def test_tls_within_tls_as_behind_an_https_proxy(wire, servers, contexts, authority):  # noqa: F811
    """A CONNECT proxy that speaks TLS itself: httpcore asks its stream for a second layer."""
    httpcore = pytest.importorskip("httpcore")
    from netstack.adapters.httpcore import NetworkBackend

    listener = wire.server.create_server((SERVER, 0))
    target = int(servers[1].rpartition(":")[2])

    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass

    def serve():
        plain, _ = listener.accept()
        client = netstack.tls.wrap_socket(contexts[1], plain, server_side=True)
        while b"\r\n\r\n" not in client.recv(4096):
            pass
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with wire.server.create_connection((SERVER, target)) as there:
            back = threading.Thread(target=pump, args=(there, client), daemon=True)
            back.start()
            pump(client, there)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener, httpcore.HTTPProxy(
            f"https://{SERVER}:{listener.getsockname()[1]}/", ssl_context=contexts[0], proxy_ssl_context=contexts[0],
            network_backend=NetworkBackend(wire.client)) as proxy:
        assert proxy.request("GET", servers[1]).content == BODY


# --- trio -----------------------------------------------------------------------------------------


def test_trio_streams_and_servers(wire, echo):
    trio = pytest.importorskip("trio")
    from netstack.adapters.trio import Socket, use

    async def serve(stream):
        async for data in stream:
            await stream.send_all(data[::-1])

    async def main():
        use(wire.client)
        stream = await trio.open_tcp_stream(*echo)
        assert isinstance(stream.socket, Socket) and stream.socket.getpeername() == echo
        async with stream:
            await stream.send_all(b"hello\n")
            assert await stream.receive_some(100) == b"HELLO\n"
            await stream.send_all(b"x" * 300_000 + b"\n")
            got = b""
            while not got.endswith(b"\n"):
                got += await stream.receive_some(65536)
            assert got == b"X" * 300_000 + b"\n"
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, serve, 0)
            name = listeners[0].socket.getsockname()
            own = await trio.open_tcp_stream("10.7.0.1", name[1])
            async with own:
                await own.send_all(b"abc")
                assert await own.receive_some(10) == b"cba"
            nursery.cancel_scope.cancel()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(SERVER, 1)
        with pytest.raises(socket.gaierror):
            await trio.open_tcp_stream("no-such-name.invalid", 80)
        found = await trio.socket.getaddrinfo("localhost", 80, socket.AF_INET)
        assert found[0][4] == ("127.0.0.1", 80)

    trio_run(main)


def test_trio_tls(wire, servers, contexts):  # noqa: F811
    trio = pytest.importorskip("trio")
    from netstack.adapters.trio import use

    async def main():
        use(wire.client)
        port = int(servers[1].rpartition(":")[2])
        stream = await trio.open_ssl_over_tcp_stream(SERVER, port, ssl_context=contexts[0], https_compatible=True)
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        got = b""
        while data := await stream.receive_some(65536):
            got += data
        assert got.endswith(BODY)
        await stream.aclose()

    trio_run(main)


def test_trio_datagrams_and_cancelling(wire, echo):
    trio = pytest.importorskip("trio")
    from netstack.adapters.trio import use

    async def main():
        use(wire.client)
        async with await trio.open_tcp_stream(*echo) as stream:
            with trio.move_on_after(0.01) as scope:
                await stream.receive_some(1)
            assert scope.cancelled_caught
            await stream.send_all(b"still there\n")
            assert await stream.receive_some(100) == b"STILL THERE\n"
        with trio.socket.socket(type=socket.SOCK_DGRAM) as one, trio.socket.socket(type=socket.SOCK_DGRAM) as two:
            await one.bind(("10.7.0.1", 0))
            await two.sendto(b"over here", one.getsockname())
            data, _ = await one.recvfrom(100)
            assert data == b"over here" and not one.is_readable()
            await two.connect(one.getsockname())
            await two.sendmsg([b"in ", b"parts"])
            data, _, _, _ = await one.recvmsg(100, 100)
            assert data == b"in parts"
        silent_one = wire.client.create_server(("10.7.0.1", 0))
        with silent_one:
            stream = await trio.open_tcp_stream(*silent_one.getsockname())
            async with trio.open_nursery() as nursery:
                async def wait():
                    with pytest.raises(trio.ClosedResourceError):
                        await stream.receive_some(1)

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                await stream.aclose()
        unix = trio.socket.socket(socket.AF_UNIX)
        assert type(unix).__module__.startswith("trio")
        unix.close()

    pytest.importorskip("trio.testing")
    trio_run(main)


# --- anyio ----------------------------------------------------------------------------------------


def test_anyio_on_a_loop_of_ours(wire, echo):
    """anyio's clients ask the event loop; a server begins with a socket of the host."""
    anyio = pytest.importorskip("anyio")
    from anyio.abc import SocketListener

    async def serve(stream):
        async with stream:
            async for data in stream:
                await stream.send(data[::-1])

    async def main():
        async with await anyio.connect_tcp(*echo) as stream:
            await stream.send(b"hello\n")
            assert await stream.receive() == b"HELLO\n"
        listener = await SocketListener.from_socket(wire.client.create_server(("10.7.0.1", 0)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("10.7.0.1", port) as stream:
                await stream.send(b"abc")
                assert await stream.receive() == b"cba"
            tasks.cancel_scope.cancel()
        await listener.aclose()

    run(lambda: netstack.aio.new_event_loop(wire.client), main())


def test_anyio_under_trio(wire, echo):
    anyio = pytest.importorskip("anyio")
    pytest.importorskip("trio")
    from netstack.adapters.trio import use

    async def main():
        use(wire.client)
        with anyio.fail_after(LIMIT):
            async with await anyio.connect_tcp(*echo) as stream:
                await stream.send(b"hello\n")
                assert await stream.receive() == b"HELLO\n"

    anyio.run(main, backend="trio")
