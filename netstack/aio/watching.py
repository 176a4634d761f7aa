"""What an event loop is to do when one of its sockets becomes readable or writable."""

from __future__ import annotations

import asyncio
from typing import Any

from netstack.aio.poller import Poller
from netstack.handle import EVENT_IN, EVENT_OUT, Handle


class Watch:
    """The two callbacks of a socket, as ``add_reader`` and ``add_writer`` keep them for a descriptor."""

    __slots__ = ("_handle", "_loop", "_poller", "reader", "transport", "writer")

    def __init__(self, loop: Any, poller: Poller, handle: Handle) -> None:
        self._loop = loop
        self._poller = poller
        self._handle = handle
        self.reader: asyncio.Handle | None = None
        self.writer: asyncio.Handle | None = None
        self.transport = False             # a transport's: the socket is not for loop.sock_recv and the like

    def on_readable(self, callback, *args) -> None:
        """Call ``callback(*args)`` in each turn in which it is readable; None: no more."""
        before = self.reader
        if before is not None:
            before.cancel()
        self.reader = None if callback is None else asyncio.Handle(callback, args, self._loop)
        if (before is None) != (callback is None):
            self._tell()

    def on_writable(self, callback, *args) -> None:
        """As `on_readable`."""
        before = self.writer
        if before is not None:
            before.cancel()
        self.writer = None if callback is None else asyncio.Handle(callback, args, self._loop)
        if (before is None) != (callback is None):
            self._tell()

    def _tell(self) -> None:
        events = (EVENT_IN if self.reader is not None else 0) | (EVENT_OUT if self.writer is not None else 0)
        self._poller.watch(self._handle, events, self)

    @property
    def idle(self) -> bool:
        return self.reader is None and self.writer is None

    def close(self) -> None:
        """Neither any more."""
        self.on_readable(None)
        self.on_writable(None)
        self._loop._forget(self._handle)
