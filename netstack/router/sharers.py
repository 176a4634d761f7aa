"""What stacks that share an address ask their router for: the ports that tell their packets apart."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from netstack.errors import RouterError
from netstack.router import protocol

if TYPE_CHECKING:
    from netstack.router.attachments import Attachments
    from netstack.router.control import Connection
    from netstack.router.memory import Memory
    from netstack.router.sharing import SharedAddresses


class Sharers:
    """The messages about ports, each for the attachment of a connection.

    Parameters
    ----------
    lock : threading.RLock
        The router's.
    shared : SharedAddresses or None
        None: no address is shared, all is refused.
    attachments : Attachments
    memory : Memory or None
        The router's journal.
    """

    def __init__(self, lock: threading.RLock, shared: SharedAddresses | None, attachments: Attachments,
                 memory: Memory | None):
        self._lock = lock
        self._shared = shared
        self._attachments = attachments
        self._memory = memory

    def claim(self, connection: Connection, kind: int, flags: int, number: int) -> None:
        """A port of the shared address, for the attachment of this connection."""
        with self._lock:
            self._sharer(connection).claim(connection.attachment.port, kind, number, flags)
            if self._memory is not None:
                self._memory.has(connection.attachment, kind, [number])

    def unclaim(self, connection: Connection, kind: int, flags: int, number: int) -> None:
        with self._lock:
            self._sharer(connection).release(connection.attachment.port, kind, number)
            if self._memory is not None:
                self._memory.has_not(connection.attachment, {(kind, number)})

    def inherit(self, connection: Connection, kind: int, yields: int, number: int, token: bytes) -> None:
        """A port of the attachment that the token is of, for that of this connection: a child of its process."""
        with self._lock:
            shared = self._sharer(connection)
            parent = self._attachments.by_token(token)
            if parent is None:
                raise RouterError(errno.ESRCH, "no attachment has this token: the parent has left the router")
            shared.inherit(connection.attachment.port, parent.port, kind, number, bool(yields))

    def share(self, connection: Connection, kind: int, flags: int, number: int) -> None:
        """A port that children of the attachment's process may come to have."""
        with self._lock:
            self._sharer(connection).share(connection.attachment.port, kind, number)

    def know(self, connection: Connection, kind: int, number: int, flows: list[tuple[bytes, bytes, int]]) -> None:
        with self._lock:
            self._sharer(connection).know(connection.attachment.port, kind, number, flows)

    def stay(self, connection: Connection, kind: int, flags: int, number: int) -> None:
        with self._lock:
            self._sharer(connection).stay(connection.attachment.port, kind, number)

    def lease(self, connection: Connection, kind: int) -> bytes:
        """Ports for the attachment's connections that go out."""
        with self._lock:
            ports = self._sharer(connection).lease(connection.attachment.port, kind)
            if self._memory is not None:
                self._memory.has(connection.attachment, kind, ports)
        return protocol.LEASE_REPLY.pack(len(ports), *ports, *(0 for _ in range(64 - len(ports))))

    def _sharer(self, connection: Connection) -> SharedAddresses:
        if self._shared is None or connection.attachment is None or not connection.attachment.shared:
            raise RouterError(errno.EPERM, "this attachment shares no address: all ports of its own are its own")
        return self._shared
