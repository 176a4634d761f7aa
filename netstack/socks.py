"""A SOCKS5 proxy in front of a host: programs of the kernel's network use the stack through it (RFC 1928, RFC 1929).

CONNECT and UDP ASSOCIATE; BIND is refused. Clients are sockets of the kernel, and nothing that they send is believed: a
request that breaks the form ends its connection. Names are asked for through the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import socket as _kernel
import struct
from typing import Any

from netstack.aio.connecting import getaddrinfo

VERSION, NO_AUTHENTICATION, PASSWORD, NOTHING_FITS = 5, 0, 2, 0xFF
CONNECT, UDP_ASSOCIATE = 1, 3
IPV4, NAME, IPV6 = 1, 3, 4
# Replies (RFC 1928 section 6)
SUCCEEDED, FAILED, UNREACHABLE_NET, UNREACHABLE_HOST, REFUSED, EXPIRED, NO_COMMAND, NO_ADDRESS = 0, 1, 3, 4, 5, 6, 7, 8
CHUNK = 65536                    # bytes passed on at once
BACKLOG = 128
RESET = struct.pack("ii", 1, 0)   # of SO_LINGER: closing ends the connection at once
NAMES_MOST = 64                  # of one association, remembered


class Malformed(Exception):
    """The client does not speak SOCKS5."""


class Refusal(Exception):
    """A request that is answered with a reply other than success."""

    def __init__(self, reply: int) -> None:
        super().__init__(reply)
        self.reply = reply


def reply_of(error: BaseException) -> int:
    """What a client is told of an error."""
    if isinstance(error, Refusal):
        return error.reply
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return EXPIRED
    if isinstance(error, ConnectionRefusedError):
        return REFUSED
    if isinstance(error, _kernel.gaierror) or getattr(error, "errno", None) == errno.EHOSTUNREACH:
        return UNREACHABLE_HOST
    if getattr(error, "errno", None) == errno.ENETUNREACH:
        return UNREACHABLE_NET
    return FAILED


def write_address(address: Any) -> bytes:
    """Type, address and port of a socket's name, as replies and datagrams carry them."""
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    return bytes([IPV4 if ip.version == 4 else IPV6]) + ip.packed + address[1].to_bytes(2, "big")


def read_address(data: bytes) -> tuple[str, int, int]:
    """``(name or address, port, bytes used)`` of what begins with a type.

    Raises
    ------
    Malformed
        It is cut short, or an empty name.
    Refusal
        A type that is not known.
    """
    kind = data[0] if data else 0
    if kind not in (IPV4, NAME, IPV6):
        raise Refusal(NO_ADDRESS)
    at = 2 if kind == NAME else 1
    if len(data) < at:
        raise Malformed
    size = {IPV4: 4, IPV6: 16}.get(kind) or data[1]
    if size == 0 or len(data) < at + size + 2:
        raise Malformed
    raw = data[at:at + size]
    if kind == NAME:
        try:
            name = raw.decode("ascii")
        except UnicodeDecodeError:
            raise Malformed from None
    else:
        name = str(ipaddress.ip_address(raw))
    return name, int.from_bytes(data[at + size:at + size + 2], "big"), at + size + 2


class SocksServer:
    """The proxy.

    Parameters
    ----------
    host : Host
        Through whose stack connections and datagrams go.
    user : tuple of bytes, optional
        ``(name, password)`` that clients must give; without it anybody who reaches the proxy may use it.
    patience : float
        Seconds that a client has for its request, and a connection to stand.
    """

    def __init__(self, host: Any, *, user: tuple[bytes, bytes] | None = None, patience: float = 60.0) -> None:
        self._host = host
        self._user = user
        self._patience = patience
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.accepted = self.refused = 0

    async def start(self, address: str = "127.0.0.1", port: int = 1080) -> tuple[str, int]:
        """Listen on the kernel's network; the address and port that it is."""
        listener = _kernel.socket(_kernel.AF_INET6 if ":" in address else _kernel.AF_INET)
        try:
            listener.setsockopt(_kernel.SOL_SOCKET, _kernel.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(BACKLOG)
            name = listener.getsockname()[:2]
            self._server = await asyncio.start_server(self._serve, sock=listener)
        except BaseException:
            listener.close()
            raise
        return name

    async def close(self) -> None:
        """Accept nobody any more, and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        self.accepted += 1
        try:
            await self._client(reader, writer)
        except (Malformed, asyncio.IncompleteReadError, asyncio.TimeoutError, OSError):
            self.refused += 1
        except asyncio.CancelledError:
            pass                                       # `close`
        finally:
            self._clients.discard(task)
            writer.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command, name, port = await asyncio.wait_for(self._request(reader, writer), self._patience)
        try:
            if command == CONNECT:
                up = await asyncio.wait_for(self._host.open_connection(name, port), self._patience)
            elif command == UDP_ASSOCIATE:
                await self._associate(reader, writer, port)
                return
            else:
                raise Refusal(NO_COMMAND)
        except (Refusal, OSError, asyncio.TimeoutError, UnicodeError) as error:
            self.refused += 1
            writer.write(bytes([VERSION, reply_of(error), 0]) + write_address(("0.0.0.0", 0)))
            return
        writer.write(bytes([VERSION, SUCCEEDED, 0]) + write_address(up[1].get_extra_info("sockname")))
        await both_ways((reader, writer), up)

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, str, int]:
        """Greeting, authentication, request: ``(command, name, port)``."""
        version, count = await reader.readexactly(2)
        if version != VERSION:
            raise Malformed
        wanted = NO_AUTHENTICATION if self._user is None else PASSWORD
        if wanted not in await reader.readexactly(count):
            writer.write(bytes([VERSION, NOTHING_FITS]))
            raise Malformed
        writer.write(bytes([VERSION, wanted]))
        if self._user is not None:
            await self._authenticate(reader, writer)
        version, command, _, kind = await reader.readexactly(4)
        if version != VERSION:
            raise Malformed
        data = bytes([kind])
        if kind == NAME:
            data += await reader.readexactly(1)
        data += await reader.readexactly(({IPV4: 4, IPV6: 16}.get(kind) or (data[1] if kind == NAME else 0)) + 2)
        try:
            name, port, _ = read_address(data)
        except Refusal as refusal:
            writer.write(bytes([VERSION, refusal.reply, 0]) + write_address(("0.0.0.0", 0)))
            raise Malformed from None
        return command, name, port

    async def _authenticate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """RFC 1929."""
        assert self._user is not None
        version, size = await reader.readexactly(2)
        name = await reader.readexactly(size)
        password = await reader.readexactly((await reader.readexactly(1))[0])
        right = hmac.compare_digest(name, self._user[0]) & hmac.compare_digest(password, self._user[1])
        writer.write(bytes([1, 0 if right and version == 1 else 1]))
        if not right or version != 1:
            raise Malformed

    async def _associate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        """Pass datagrams on for as long as the client keeps its connection."""
        association = _Association(self._host, writer.get_extra_info("peername")[0], port)
        try:
            bound = await association.start(writer.get_extra_info("sockname")[0])
            writer.write(bytes([VERSION, SUCCEEDED, 0]) + write_address(bound))
            while await reader.read(CHUNK):
                pass
        finally:
            association.close()


async def both_ways(one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
                    other: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Carry bytes and ends of streams between two connections until both directions have ended, or one breaks."""
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    tasks = [asyncio.ensure_future(carry(one[0], other[1])), asyncio.ensure_future(carry(other[0], one[1]))]
    try:
        await asyncio.gather(*tasks)
    except OSError:
        for _, writer in (one, other):                 # the other end hears a reset too
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(_kernel.SOL_SOCKET, _kernel.SO_LINGER, RESET)
            writer.transport.abort()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        other[1].close()


class _Association(asyncio.DatagramProtocol):
    """UDP ASSOCIATE (RFC 1928 section 7): a socket of the kernel's towards the client, two of the host's beyond."""

    def __init__(self, host: Any, client: str, port: int) -> None:
        self._host = host
        self._client = client
        self._port = port                              # 0: that of the first datagram
        self._near: Any = None
        self._far: dict[int, Any] = {}
        self._names: dict[tuple[str, int], Any] = {}
        self._looking: set[asyncio.Task[None]] = set()

    async def start(self, address: str) -> Any:
        loop = asyncio.get_running_loop()
        sock = _kernel.socket(_kernel.AF_INET6 if ":" in address else _kernel.AF_INET, _kernel.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.bind((address, 0))
            self._near, _ = await loop.create_datagram_endpoint(lambda: self, sock=sock)
        except BaseException:
            sock.close()
            raise
        for family in (_kernel.AF_INET, _kernel.AF_INET6):
            far = self._host.socket(family, _kernel.SOCK_DGRAM)
            far.setblocking(False)
            if family == _kernel.AF_INET6:
                far.setsockopt(_kernel.IPPROTO_IPV6, _kernel.IPV6_V6ONLY, 1)
            self._far[family], _ = await loop.create_datagram_endpoint(lambda: _Beyond(self), sock=far)
        return sock.getsockname()

    def close(self) -> None:
        for transport in (self._near, *self._far.values()):
            if transport is not None:
                transport.close()
        for task in self._looking:
            task.cancel()

    def datagram_received(self, data: bytes, address: Any) -> None:
        """From the client, behind a header; a piece of a datagram (FRAG) is dropped, as a proxy without them does."""
        if address[0] != self._client or (self._port and address[1] != self._port):
            return
        try:
            if len(data) < 4 or data[2] != 0:
                return
            name, port, used = read_address(data[3:])
        except (Malformed, Refusal):
            return
        self._port = address[1]
        known = self._names.get((name, port))
        payload = data[3 + used:]
        if known is not None:
            self._pass_on(payload, known)
        elif len(self._looking) < NAMES_MOST:
            task = asyncio.ensure_future(self._look_up(name, port, payload))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _look_up(self, name: str, port: int, payload: bytes) -> None:
        try:
            found = await getaddrinfo(asyncio.get_running_loop(), self._host, name, port, 0, _kernel.SOCK_DGRAM)
        except (OSError, UnicodeError):
            return
        if len(self._names) >= NAMES_MOST:
            self._names.clear()
        self._names[name, port] = family, address = found[0][0], found[0][4]
        self._pass_on(payload, (family, address))

    def _pass_on(self, payload: bytes, to: Any) -> None:
        family, address = to
        if address[1]:
            self._far[family].sendto(payload, address)

    def answer(self, data: bytes, address: Any) -> None:
        """From beyond, to the client."""
        if self._port and not self._near.is_closing():
            self._near.sendto(b"\0\0\0" + write_address(address) + data, (self._client, self._port))


class _Beyond(asyncio.DatagramProtocol):
    def __init__(self, association: _Association) -> None:
        self._association = association

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._association.answer(data, address)
