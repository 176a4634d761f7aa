"""Connections, servers and datagram sockets of a host for any event loop of asyncio.

On a loop of `netstack.aio` they are served without descriptors; on another one through the descriptors that show the
readiness of the sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket as _kernel
from asyncio import staggered
from typing import Any

from netstack.resolver.sorting import interleaved

ATTEMPT_DELAY_S = 0.250          # RFC 8305 section 8, "Connection Attempt Delay"
_SERVER_BACKLOG = 100            # as asyncio's
_STREAM_LIMIT = 2 ** 16          # as asyncio's


async def getaddrinfo(loop, host, name, port, family=0, type=0, proto=0, flags=0):
    """Look a name up on ``host``; only what needs a name server costs a thread."""
    ask = functools.partial(host.getaddrinfo, name, port, family, type, proto, flags)
    if not host.resolver.must_ask(name) and host.resolver.dns != "kernel":
        return ask()
    return await loop.run_in_executor(None, ask)


async def _connected(loop, host, entry, local) -> Any:
    family, type, proto, _, address = entry
    sock = host.socket(family, type, proto)
    try:
        sock.setblocking(False)
        if local is not None:
            _bind_to_one(sock, local)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_to_one(sock, local) -> None:
    errors = []
    for family, _, _, _, address in local:
        if family != sock.family:
            continue
        try:
            sock.bind(address)
            return
        except OSError as error:
            errors.append(error)
    raise errors[-1] if errors else OSError(errno.EADDRNOTAVAIL, "no local address of this family")


async def connect(loop, host, name, port, *, family=0, proto=0, flags=0, local_addr=None,
                  happy_eyeballs_delay: float | None = ATTEMPT_DELAY_S, interleave: int | None = None,
                  all_errors: bool = False):
    """A connected, non-blocking socket of ``host``: that of the first address that answers."""
    entries = await getaddrinfo(loop, host, name, port, family, _kernel.SOCK_STREAM, proto, flags)
    local = None
    if local_addr is not None:
        local = await getaddrinfo(loop, host, local_addr[0], local_addr[1], family, _kernel.SOCK_STREAM, proto, flags)
    if not entries:
        raise OSError("getaddrinfo() returned empty list")
    if interleave != 0:
        entries = interleaved(entries, None)
    if len(entries) == 1:
        return await _connected(loop, host, entries[0], local)
    tries = [functools.partial(_connected, loop, host, entry, local) for entry in entries]
    won, _, failed = await staggered.staggered_race(tries, happy_eyeballs_delay, loop=loop)
    errors: list[Exception] = [error for error in failed if error is not None]
    if won is not None:
        return won
    try:
        if all_errors:
            raise ExceptionGroup("create_connection failed", errors)  # type: ignore[name-defined]  # noqa: F821
        if len({str(error) for error in errors}) == 1:
            raise errors[0]
        raise OSError(getattr(errors[-1], "errno", None),
                      "Multiple exceptions: " + ", ".join(str(error) for error in errors))
    finally:
        del failed, errors                             # tracebacks hold this frame


async def create_connection(host, protocol_factory, name, port, *, ssl=None, server_hostname=None, sock=None,
                            ssl_handshake_timeout=None, ssl_shutdown_timeout=None, **options):
    """As ``loop.create_connection``, on ``host``, with the loop that runs: ``(transport, protocol)``.

    Raises
    ------
    OSError
        As `asyncio.loop.create_connection`.
    """
    if server_hostname is not None and not ssl:
        raise ValueError("server_hostname is only meaningful with ssl")
    if server_hostname is None and ssl:
        if not name:
            raise ValueError("You must set server_hostname when using ssl without a host")
        server_hostname = name
    if ssl_handshake_timeout is not None and not ssl:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    loop = asyncio.get_running_loop()
    if sock is None:
        sock = await connect(loop, host, name, port, **options)
    waits = {"ssl_handshake_timeout": ssl_handshake_timeout, "ssl_shutdown_timeout": ssl_shutdown_timeout}
    try:
        return await loop.create_connection(
            protocol_factory, sock=sock, ssl=ssl, server_hostname=server_hostname,
            **{name: value for name, value in waits.items() if value is not None})
    except BaseException:
        sock.close()
        raise


async def _listeners(loop, host, names, port, family, flags, reuse_address, reuse_port) -> list[Any]:
    sockets: list[Any] = []
    reuse_address = os.name == "posix" if reuse_address is None else reuse_address
    try:
        infos: dict[Any, None] = {}
        for name in names:
            for entry in await getaddrinfo(loop, host, name, port, family, _kernel.SOCK_STREAM, 0, flags):
                infos[entry] = None
        for family_, type_, proto, _, address in infos:
            try:
                sock = host.socket(family_, type_, proto)
            except OSError:
                continue                               # a family that this host has not
            sockets.append(sock)
            if reuse_address:
                sock.setsockopt(_kernel.SOL_SOCKET, _kernel.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(_kernel.SOL_SOCKET, _kernel.SO_REUSEPORT, 1)
            if family_ == _kernel.AF_INET6:
                sock.setsockopt(_kernel.IPPROTO_IPV6, _kernel.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
            except OSError as error:
                raise OSError(error.errno, f"error while attempting to bind on address {address!r}: "
                                           f"{(error.strerror or '').lower()}") from None
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise OSError(f"could not bind on any address of {names!r}")
    return sockets


async def create_server(host, protocol_factory, name=None, port=None, *, family=0, flags=_kernel.AI_PASSIVE,
                        backlog=_SERVER_BACKLOG, reuse_address=None, reuse_port=None, start_serving=True, **options):
    """As ``loop.create_server``, on ``host``, with the loop that runs."""
    loop = asyncio.get_running_loop()
    names = [None] if name in (None, "") else [name] if isinstance(name, (str, bytes)) else list(name)
    sockets = await _listeners(loop, host, names, port, family, flags, reuse_address, reuse_port)
    try:
        server = await loop.create_server(protocol_factory, sock=sockets[0], backlog=backlog, start_serving=False,
                                          **options)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    for sock in sockets[1:]:
        sock.setblocking(False)
    server._sockets.extend(sockets[1:])
    if start_serving:
        await server.start_serving()
    return server


async def datagram_socket(loop, host, local_addr, remote_addr, family=0, proto=0, flags=0, reuse_port=None,
                          allow_broadcast=None):
    """A non-blocking datagram socket, bound and connected as asked, and the peer if it is not connected to it."""
    pairs = {}
    for index, address in enumerate((local_addr, remote_addr)):
        if address is None:
            continue
        if not (isinstance(address, tuple) and len(address) == 2):
            raise TypeError("2-tuple is expected")
        for entry in await getaddrinfo(loop, host, address[0], address[1], family, _kernel.SOCK_DGRAM, proto, flags):
            pairs.setdefault((entry[0], entry[2]), [None, None])[index] = entry[4]
    if not (local_addr or remote_addr):
        pairs[family, proto] = [None, None]
    choices = [(key, pair) for key, pair in pairs.items()
               if not (local_addr and pair[0] is None) and not (remote_addr and pair[1] is None)]
    if not choices:
        raise ValueError("can not get address information")
    errors = []
    for (family_, proto_), (local, remote) in choices:
        sock = None
        try:
            sock = host.socket(family_, _kernel.SOCK_DGRAM, proto_)
            if reuse_port:
                sock.setsockopt(_kernel.SOL_SOCKET, _kernel.SO_REUSEPORT, 1)
            if allow_broadcast:
                sock.setsockopt(_kernel.SOL_SOCKET, _kernel.SO_BROADCAST, 1)
            sock.setblocking(False)
            if local is not None:
                sock.bind(local)
            if remote is not None and not allow_broadcast:
                await loop.sock_connect(sock, remote)
            return sock, remote
        except OSError as error:
            errors.append(error)
            if sock is not None:
                sock.close()
        except BaseException:
            with contextlib.suppress(OSError):
                if sock is not None:
                    sock.close()
            raise
    raise errors[0]


async def open_connection(host, name, port, *, limit: int = _STREAM_LIMIT, **options
                          ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As `asyncio.open_connection`, on ``host``."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await create_connection(host, lambda: protocol, name, port, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def start_server(host, client_connected_cb, name=None, port=None, *, limit: int = _STREAM_LIMIT, **options
                       ) -> asyncio.base_events.Server:
    """As `asyncio.start_server`, on ``host``."""
    loop = asyncio.get_running_loop()

    def factory():
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=loop)

    return await create_server(host, factory, name, port, **options)
