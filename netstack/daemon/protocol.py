"""The messages between a daemon and its clients, version 1, as Python sees them (``netstack/daemon_shared.h``).

One SOCK_SEQPACKET connection per client. A message is a head of 64 bytes, little-endian, and at most `DATA_MOST` bytes
of data. The first must be HELLO; each is answered at once. Descriptors travel only from the daemon to its clients; a
client that sends one is cut off. The end of the connection gives back the client's references to its sockets.
"""

from __future__ import annotations

import array
import enum
import socket
import struct
from typing import NamedTuple

MAGIC = 0x4D44534E
VERSION = 1
PAGE = 4096                      # words in front of a ring
NOTES_BYTES = 4096               # the ring of a board
DATA_MOST = 66560
HEAD = struct.Struct("<IHHIiIiiiQ16sHHI")
_ITEM = struct.Struct("<iiI")
_V4 = bytes(10) + b"\xff\xff"


class Type(enum.IntEnum):
    """NSD_HELLO and so on."""

    HELLO = 1
    OPEN = 2
    CLOSE = 3
    DUP = 4
    ADOPT = 5
    BIND = 6
    CONNECT = 7
    LISTEN = 8
    ACCEPT = 9
    SHUTDOWN = 10
    NAME = 11
    GETSOCKOPT = 12
    SETSOCKOPT = 13
    SEND = 14
    RECV = 15
    READY = 16
    RESERVE = 17
    RELEASE = 18
    ROUTE = 19


class ProtocolError(Exception):
    """The other side broke the protocol: the connection is closed."""


class Message(NamedTuple):
    """One message.

    Attributes
    ----------
    type, sequence, status, number, a, b, c, key
        As in ``nsd_message_t``.
    address : bytes
        16 bytes, IPv4 mapped; a link-local one holds its interface's number in byte 3.
    port, scope : int
    data : bytes
    """

    type: int
    sequence: int = 0
    status: int = 0
    number: int = 0
    a: int = 0
    b: int = 0
    c: int = 0
    key: int = 0
    address: bytes = bytes(16)
    port: int = 0
    scope: int = 0
    data: bytes = b""

    def pack(self) -> bytes:
        return HEAD.pack(MAGIC, VERSION, self.type, self.sequence, self.status, self.number, self.a, self.b, self.c,
                         self.key, self.address, self.port, 0, self.scope) + self.data

    @classmethod
    def unpack(cls, raw: bytes) -> Message:
        """Read one.

        Raises
        ------
        ProtocolError
            Too short, too long, no message, or another version.
        """
        if not HEAD.size <= len(raw) <= HEAD.size + DATA_MOST:
            raise ProtocolError(f"a message of {len(raw)} bytes")
        magic, version, kind, sequence, status, number, a, b, c, key, address, port, _, scope = HEAD.unpack_from(raw)
        if magic != MAGIC:
            raise ProtocolError("not a message (bad magic)")
        if version != VERSION:
            raise ProtocolError(f"protocol version {version}, here {VERSION}: use the same release on both sides")
        return cls(kind, sequence, status, number, a, b, c, key, address, port, scope, raw[HEAD.size:])

    def endpoint(self, family: int) -> tuple:
        """Its address as the standard library's tuple for a socket of ``family``."""
        raw, scope = self.address, self.scope
        if family == socket.AF_INET:
            if not raw.startswith(_V4):
                raise OSError(97, "Address family not supported by protocol")
            return socket.inet_ntop(socket.AF_INET, raw[12:]), self.port
        if raw[0] == 0xFE and raw[1] & 0xC0 == 0x80:
            raw, scope = raw[:2] + bytes(2) + raw[4:], raw[3] or scope
        return socket.inet_ntop(socket.AF_INET6, raw), self.port, 0, scope


def endpoint_fields(address: tuple | None) -> dict[str, object]:
    """The standard library's tuple as fields of a `Message`."""
    if not address:
        return {}
    text, port, *more = address
    text = text.partition("%")[0]
    scope = more[1] if len(more) > 1 else 0
    if ":" not in text:
        return {"address": _V4 + socket.inet_pton(socket.AF_INET, text), "port": port}
    raw = socket.inet_pton(socket.AF_INET6, text)
    if raw[0] == 0xFE and raw[1] & 0xC0 == 0x80:
        raw = raw[:2] + bytes([0, scope & 0xFF]) + raw[4:]
    return {"address": raw, "port": port, "scope": scope}


def pack_items(items) -> bytes:
    """Ancillary data as bytes."""
    return b"".join(_ITEM.pack(level, kind, len(data)) + bytes(data) for level, kind, data in items)


def unpack_items(raw: bytes) -> list[tuple[int, int, bytes]]:
    """The inverse of `pack_items`.

    Raises
    ------
    ProtocolError
        It does not end where its last item ends.
    """
    out, at = [], 0
    while at < len(raw):
        if len(raw) - at < _ITEM.size:
            raise ProtocolError("ancillary data is cut off")
        level, kind, n = _ITEM.unpack_from(raw, at)
        at += _ITEM.size
        if n > len(raw) - at:
            raise ProtocolError("ancillary data is cut off")
        out.append((level, kind, raw[at:at + n]))
        at += n
    return out


def send(sock: socket.socket, message: Message, fds=()) -> None:
    """Send one, never waiting for the peer (BlockingIOError if its queue is full)."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([message.pack()], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> Message | None:
    """One from a client; None at the end of the connection.

    Raises
    ------
    ProtocolError
        It is none, or descriptors came with it (the kernel has closed them).
    """
    raw, _, flags, _ = sock.recvmsg(HEAD.size + DATA_MOST + 1, 0, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    if not raw:
        return None
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        raise ProtocolError("descriptors from a client, or a message too long")
    return Message.unpack(raw)
