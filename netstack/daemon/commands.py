"""What a daemon does for each message: calls of a stack's `Handle`, which never wait here.

Each function gets the client, the message and, but for OPEN and the like, the socket, and returns the answer's fields
and descriptors. An OSError becomes the answer's status.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from netstack.daemon.protocol import (
    DATA_MOST,
    ProtocolError,
    Type,
    endpoint_fields,
    pack_items,
    unpack_items,
)

if TYPE_CHECKING:
    from netstack.daemon.protocol import Message
    from netstack.daemon.server import Client, Server, Shared

Answer = tuple[dict[str, Any], tuple[int, ...]]

FRAME_MOST = 65536               # the largest datagram
_LINGER = struct.Struct("=ii")


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def obtained(shared: Shared) -> Answer:
    """The answer that gives a client a socket."""
    pipe = shared.pipe
    return {"number": pipe.number, "key": shared.key, "c": pipe.capacity}, shared.memory.fds


def open_(server: Server, client: Client, m: Message) -> Answer:
    if m.a not in (socket.AF_INET, socket.AF_INET6):
        raise _error(errno.EAFNOSUPPORT)
    if m.b == socket.SOCK_RAW:
        raise OSError(errno.EPERM, "raw sockets see what is others': not through a daemon")
    server.check_room(client)
    return obtained(server.make(client, server.open_handle(m.a, m.b, m.c)))


def adopt(server: Server, client: Client, m: Message) -> Answer:
    shared = server.sockets.get(m.number)
    if shared is None or shared.key != m.key:
        raise _error(errno.EBADF)
    server.check_room(client)
    server.refer(client, shared)
    return obtained(shared)


def accept(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    server.check_room(client)
    server.spare()
    handle, address = shared.handle.accept()
    handle.setblocking(False)
    fields, fds = obtained(server.make(client, handle, connected=True))
    server.engine.touch(shared.pipe)
    return {**fields, **endpoint_fields(address)}, fds


def connect(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    handle = shared.handle
    if handle.type == socket.SOCK_STREAM and not shared.pipe.committed:
        shared.memory.commit()
    try:
        code = handle.connect_ex(m.endpoint(handle.family))
        if handle.type == socket.SOCK_STREAM and code in (0, errno.EINPROGRESS):
            shared.pipe.commit()
    finally:
        server.engine.touch(shared.pipe)
    return {"status": code}, ()


def bind(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    shared.handle.bind(m.endpoint(shared.handle.family))
    return {}, ()


def listen(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    shared.handle.listen(m.a)
    server.engine.touch(shared.pipe)
    return {}, ()


def shutdown(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    """A FIN goes behind what is in the ring. ``b``: 1 to show when everything has arrived."""
    pipe = shared.pipe
    server.engine.touch(pipe)
    if m.a not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
        raise _error(errno.EINVAL)
    if not pipe.streaming:
        shared.handle.shutdown(m.a)
    else:
        shared.handle.getpeername()                    # ENOTCONN once the connection is gone
        if m.a != socket.SHUT_WR:
            shared.handle.shutdown(socket.SHUT_RD)
        if m.a != socket.SHUT_RD:
            pipe.shut()
        if m.b:                                        # before a lingering close
            server.engine.linger(pipe)
    server.engine.touch(pipe)
    return {}, ()


def close(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    if not m.a and shared.pipe.streaming and shared.references == 1:
        server.engine.touch(shared.pipe)
        on, seconds = _LINGER.unpack(shared.handle.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size))
        if on and seconds > 0 and not shared.pipe.unread:
            return {"c": seconds}, ()
    server.unrefer(client, shared)
    return {}, ()


def dup(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    server.check_room(client)
    server.refer(client, shared)
    return {}, ()


def name(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    handle = shared.handle
    return endpoint_fields(handle.getpeername() if m.a else handle.getsockname()), ()


def getsockopt(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    if not 0 < m.c <= 1024:
        raise _error(errno.EINVAL)
    value = shared.handle.getsockopt(m.a, m.b, m.c)
    server.engine.touch(shared.pipe)
    return {"data": value}, ()


def setsockopt(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    shared.handle.setsockopt(m.a, m.b, m.data)
    server.engine.touch(shared.pipe)
    return {}, ()


def send(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    """A datagram; of a stream, what the ring cannot say: flags, and data before there is a connection."""
    handle, pipe = shared.handle, shared.pipe
    if not 0 <= m.c <= len(m.data):
        raise ProtocolError("instructions longer than the message")
    data, items = m.data[m.c:], unpack_items(m.data[:m.c])
    address = m.endpoint(handle.family) if m.b else None
    if pipe.streaming:
        server.engine.touch(pipe)
        if not pipe.drained:
            raise _error(errno.EAGAIN)
    try:
        if handle.type == socket.SOCK_STREAM:
            sent = handle.send(data, m.a) if address is None else handle.sendto(data, m.a, address)
            if not pipe.committed and handle.type == socket.SOCK_STREAM:      # MSG_FASTOPEN connects
                shared.memory.commit()
                pipe.commit()
        else:
            sent = handle.sendmsg([data], items, m.a, address)
    finally:
        server.engine.touch(pipe)
    return {"a": sent}, ()


def receive(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    """``a``: whole length, ``b``: flags, ``c``: bytes of ancillary data in front of the data."""
    handle = shared.handle
    if not 0 <= m.a <= FRAME_MOST or not 0 <= m.c <= DATA_MOST:
        raise _error(errno.EINVAL)
    try:
        if handle.type == socket.SOCK_STREAM:
            data, _ = handle.recvfrom(m.a, m.b)        # recv() of nothing asks nobody
            return {"a": len(data), "data": data}, ()
        data, items, flags, address = handle.recvmsg(FRAME_MOST, min(m.c, 1024), m.b)
    finally:
        server.engine.touch(shared.pipe)
    packed = pack_items(items)
    fields = {"a": len(data), "b": flags, "c": len(packed), "data": packed + data[:m.a]}
    return {**fields, **endpoint_fields(address)}, ()


def ready(server: Server, client: Client, m: Message, shared: Shared) -> Answer:
    """Made once: processes that share the socket share the pair."""
    return {}, server.readiness_pair(shared)


def route(server: Server, client: Client, m: Message) -> Answer:
    family = socket.AF_INET if m.address.startswith(bytes(10) + b"\xff\xff") else socket.AF_INET6
    source = server.host.driver.source_address(m.endpoint(family)[0])
    if source is None:
        raise _error(errno.ENETUNREACH)
    return endpoint_fields((str(source), 0)), ()


OF_CLIENT: dict[int, Any] = {Type.OPEN: open_, Type.ADOPT: adopt, Type.ROUTE: route}
OF_SOCKET: dict[int, Any] = {
    Type.CLOSE: close, Type.DUP: dup, Type.BIND: bind, Type.CONNECT: connect, Type.LISTEN: listen, Type.ACCEPT: accept,
    Type.SHUTDOWN: shutdown, Type.NAME: name, Type.GETSOCKOPT: getsockopt, Type.SETSOCKOPT: setsockopt,
    Type.SEND: send, Type.RECV: receive, Type.READY: ready,
}
