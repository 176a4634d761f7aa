"""What an asyncio program sees of a stack: the same servers and clients on hosts with our loop, and on the kernel with
asyncio's and uvloop's. `run` measures one of them once."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Any

CPUS = sorted(os.sched_getaffinity(0))
CLIENT, SERVER = "10.0.0.1/24", "10.0.0.2/24"
PORT = 5001
WARM_UP = 0.2                    # of the measured time, before it


def pin(which: int) -> None:
    if len(CPUS) > which:
        os.sched_setaffinity(0, {CPUS[which]})


class Net:
    """Where a program of one kind has its loop, its listener and its connections from."""

    def __init__(self, kind: str, host: Any = None, address: Any = None) -> None:
        self.kind = kind
        self.host = host
        self.address = address

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        if self.kind == "hosts":
            import netstack.aio

            return netstack.aio.new_event_loop()
        if self.kind == "hosts, uvloop":
            import netstack.aio.uvloop

            return netstack.aio.uvloop.new_event_loop()
        if self.kind == "uvloop":
            import uvloop

            return uvloop.new_event_loop()
        return asyncio.new_event_loop()

    def run(self, main: Any) -> Any:
        loop = self.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    def listener(self) -> socket.socket:
        s = self.host.socket() if self.host is not None else reno(socket.socket(proto=socket.IPPROTO_TCP))
        s.bind(("127.0.0.1", 0) if self.host is None else (self.host.addresses[0].partition("/")[0], PORT))
        s.listen(256)
        s.setblocking(False)
        if self.address is None:
            self.address = s.getsockname()
        return s

    async def connected(self) -> socket.socket:
        """A connected socket for ``create_connection(sock=)``."""
        s = self.host.socket() if self.host is not None else reno(socket.socket(proto=socket.IPPROTO_TCP))
        s.setblocking(False)
        await asyncio.get_running_loop().sock_connect(s, self.address)
        return s


def reno(s: socket.socket) -> socket.socket:
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    return s


# --- programs: a server that serves until its process ends, and a client that counts what it had answered


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Caller(asyncio.Protocol):
    """Sends its message, waits for all of it to come back, sends again."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.size = len(message)
        self.got = self.count = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        self.got += len(data)
        if self.got == self.size:
            self.got = 0
            self.count += 1
            self.transport.write(self.message)


async def counted(clients: list[Any], seconds: float) -> float:
    """How many answers a second they have between them."""
    await asyncio.sleep(seconds * WARM_UP)
    before, start = sum(c.count for c in clients), time.perf_counter()
    await asyncio.sleep(seconds)
    return (sum(c.count for c in clients) - before) / (time.perf_counter() - start)


async def protocol_server(net: Net, listener: socket.socket, size: int) -> Any:
    return await asyncio.get_running_loop().create_server(Echo, sock=listener)


async def protocol_client(net: Net, size: int, connections: int, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Caller(bytes(size)), sock=await net.connected())
        clients.append(client)
    result = await counted(clients, seconds)
    for client in clients:
        client.transport.abort()
    return result


async def stream_server(net: Net, listener: socket.socket, size: int) -> Any:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    return await asyncio.start_server(echo, sock=listener)


class Streaming:
    """The same as `Caller` with a reader and a writer."""

    count = 0

    async def run(self, net: Net, message: bytes) -> None:
        reader, writer = await asyncio.open_connection(sock=await net.connected())
        try:
            while True:
                writer.write(message)
                await writer.drain()
                await reader.readexactly(len(message))
                self.count += 1
        finally:
            writer.transport.abort()


async def stream_client(net: Net, size: int, connections: int, seconds: float) -> float:
    clients = [Streaming() for _ in range(connections)]
    tasks = [asyncio.ensure_future(client.run(net, bytes(size))) for client in clients]
    result = await counted(clients, seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return result


async def aiohttp_server(net: Net, listener: socket.socket, size: int) -> Any:
    from aiohttp import web

    body = bytes(size)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body)

    application = web.Application()
    application.router.add_get("/", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


async def aiohttp_client(net: Net, size: int, connections: int, seconds: float) -> float:
    import aiohttp

    class Client:
        count = 0

        async def run(self, session: aiohttp.ClientSession) -> None:
            while True:
                async with session.get(url) as response:
                    await response.read()
                self.count += 1

    def new_socket(info: Any) -> socket.socket:
        return net.host.socket() if net.host is not None else reno(socket.socket(proto=socket.IPPROTO_TCP))

    url = f"http://{net.address[0]}:{net.address[1]}/"
    clients = [Client() for _ in range(connections)]
    connector = aiohttp.TCPConnector(limit=connections, socket_factory=new_socket)
    async with aiohttp.ClientSession(connector=connector) as session:
        tasks = [asyncio.ensure_future(client.run(session)) for client in clients]
        result = await counted(clients, seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return result


async def uvicorn_server(net: Net, listener: socket.socket, size: int) -> Any:
    import uvicorn

    body = bytes(size)
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(head)
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(application, http="h11", lifespan="off", log_level="error", access_log=False)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None      # type: ignore[attr-defined]
    return asyncio.ensure_future(server.serve(sockets=[listener]))


class Requester(Caller):
    """Asks for a page on one connection, again and again; what comes back is counted, not parsed."""

    def __init__(self, size: int) -> None:
        super().__init__(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
        self.body = size
        self.head = b""

    def data_received(self, data: bytes) -> None:
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end >= 0 and len(self.head) >= end + 4 + self.body:
            self.head = b""
            self.count += 1
            self.transport.write(self.message)


async def uvicorn_client(net: Net, size: int, connections: int, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Requester(size), sock=await net.connected())
        clients.append(client)
    result = await counted(clients, seconds)
    for client in clients:
        client.transport.abort()
    return result


PROGRAMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "protocols": (protocol_server, protocol_client),
    "streams": (stream_server, stream_client),
    "aiohttp": (aiohttp_server, aiohttp_client),
    "uvicorn": (uvicorn_server, uvicorn_client),
}


# --- processes


def serve(net: Net, program: str, size: int, told: int) -> None:
    """The server's process."""
    pin(1)

    async def main() -> None:
        listener = net.listener()
        keep = await PROGRAMS[program][0](net, listener, size)
        os.write(told, f"{net.address[0]} {net.address[1]}\n".encode())
        await asyncio.sleep(3600)
        del keep

    net.run(main())


def two_processes(kind: str, program: str, size: int, connections: int, seconds: float, ends: Any = None,
                  spin_us: float = 50) -> float:
    """``ends``: link and address of client and server; None: the kernel's."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            pin(1)
            host = new_host(ends[1][0].adopt(), ends[1][1], spin_us) if ends else None
            serve(Net(kind, host), program, size, told)
        finally:
            os._exit(0)
    os.close(told)
    try:
        pin(0)
        with open(ready) as file:
            said = file.readline().split()
        if not said:
            raise RuntimeError("the server did not start")
        net = Net(kind, new_host(*ends[0], spin_us) if ends else None, (said[0], int(said[1])))
        return net.run(PROGRAMS[program][1](net, size, connections, seconds))
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def new_host(link: Any, address: str, spin_us: float) -> Any:
    from netstack.host import Host

    return Host(link=link, address=address, spin_us=spin_us, drain=0)


def one_loop(kind: str, program: str, size: int, connections: int, seconds: float) -> float:
    """Both ends in one event loop: two hosts on a channel, or the kernel."""
    pin(0)
    there = here = None
    if kind.startswith("hosts"):
        from netstack.link import channel_pair

        one, two = channel_pair()
        here, there = new_host(one, CLIENT, 50), new_host(two, SERVER, 50)
    server = Net(kind, there)
    client = Net(kind, here)

    async def main() -> float:
        keep = await PROGRAMS[program][0](server, server.listener(), size)
        client.address = server.address
        result = await PROGRAMS[program][1](client, size, connections, seconds)
        del keep
        return result

    return client.run(main())


def run(kind: str, program: str, size: int, connections: int, seconds: float, placement: str = "channel") -> float:
    """Answers a second.

    Parameters
    ----------
    kind : str
        ``"hosts"``, ``"hosts, uvloop"``, ``"asyncio"`` or ``"uvloop"``.
    program : str
        One of `PROGRAMS`.
    size : int
        Of a message, or of a page.
    placement : str
        ``"channel"``: two processes; ``"router"``: two processes at a router in the client's (hosts only);
        ``"loop"``: one loop.
    """
    if placement == "loop":
        return one_loop(kind, program, size, connections, seconds)
    if not kind.startswith("hosts"):
        return two_processes(kind, program, size, connections, seconds)
    if placement == "router":
        from netstack.router.router import Router

        with Router() as router, router.attach() as one, router.attach() as two:
            ends = (one.link, one.address), (two.link, two.address)
            return two_processes(kind, program, size, connections, seconds, ends, spin_us=0)
    from netstack.link import channel_pair

    one, two = channel_pair()
    return two_processes(kind, program, size, connections, seconds, ((one, CLIENT), (two, SERVER)))
