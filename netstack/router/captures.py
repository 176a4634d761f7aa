"""Who looks on at which attachment: the router's side of `netstack.router.capture`.

Only the router's owner and root may. The packets travel in a ring in sealed memory of the router; the reader's words
are distrusted like those of any stack. A capture ends with its connection, or with its attachment.
"""

from __future__ import annotations

import errno
import logging
import threading

from netstack.errors import RouterError
from netstack.router import protocol
from netstack.router.control import Connection
from netstack.router.forwarding import Forwarder

log = logging.getLogger("netstack.router")

CAPTURES_MAX = 64
SNAP_MAX = 65535
CAPACITY_MIN = 256 << 10
CAPACITY_MAX = 64 << 20


class _Capture:
    """One capture: `port` is 0 once it has ended."""

    def __init__(self, port: int, channel):
        self.port = port
        self.channel = channel
        self.counts = (0, 0)


class Captures:
    """The captures of a router.

    Parameters
    ----------
    forwarder : Forwarder
    lock : threading.RLock
        The router's, which guards its ports.
    """

    def __init__(self, forwarder: Forwarder, lock: threading.RLock):
        self._forwarder = forwarder
        self._by_port: dict[int, _Capture] = {}
        self._lock = lock

    def start(self, connection: Connection, ident: int, capacity: int, snap_length: int) -> tuple[bytes, list[int]]:
        """Begin one: the reply, and the descriptors that go with it.

        Raises
        ------
        RouterError
            Not the owner's connection, or one that has a capture; no such attachment, or one that has.
        """
        from rings.channel import channel_pair

        if not connection.is_owner:
            raise RouterError(errno.EPERM, "only the router's owner may look at the packets of its stacks")
        if not CAPACITY_MIN <= capacity <= CAPACITY_MAX or capacity & (capacity - 1):
            raise RouterError(errno.EINVAL, f"ring capacity {capacity}: a power of two from {CAPACITY_MIN} to "
                              f"{CAPACITY_MAX} bytes")
        with self._lock:
            if connection.capture is not None:
                raise RouterError(errno.EISCONN, "this connection has a capture: one connection each")
            if len(self._by_port) >= CAPTURES_MAX:
                raise RouterError(errno.EUSERS, f"{CAPTURES_MAX} captures are going on: no more")
            if ident in self._by_port:
                raise RouterError(errno.EBUSY, "somebody captures at this attachment already")
            here, there = channel_pair(capacity, "memfd", single_writer=True)
            try:
                self._forwarder.mirror(ident, here.tx, snap_length=min(snap_length or SNAP_MAX, SNAP_MAX))
            except KeyError:
                here.close()
                raise RouterError(errno.ENOENT, f"no attachment {ident}") from None
            except BaseException:
                here.close()
                raise
            capture = _Capture(ident, here)
            self._by_port[ident] = connection.capture = capture
            # The descriptors belong to the memory and bells of both sides, which `here` keeps until it ends.
            fds, _ = there.export()
            there.detach()
        log.info("process %d captures at attachment %d", connection.pid, ident)
        return protocol.CAPTURE_REPLY.pack(capacity, here.generation, 0, 0), fds

    def end(self, connection: Connection) -> bytes:
        """End the capture of a connection: the reply, with what it came to."""
        with self._lock:
            capture = connection.capture
            if capture is None:
                raise RouterError(errno.ENOENT, "this connection has no capture")
            self._end(capture)
            return protocol.CAPTURE_REPLY.pack(0, 0, *capture.counts)

    def forget(self, connection: Connection) -> None:
        """The connection goes."""
        with self._lock:
            capture, connection.capture = connection.capture, None
            if capture is not None:
                self._end(capture)

    def port_goes(self, port: int) -> None:
        """The attachment goes; who looks on reads the rest and sees the end."""
        with self._lock:
            if port in self._by_port:
                self._end(self._by_port[port])

    def _end(self, capture: _Capture) -> None:
        if capture.port:
            capture.counts = self._forwarder.mirrored(capture.port, end=True) or (0, 0)
            del self._by_port[capture.port]
            capture.port = 0
            capture.channel.close()
