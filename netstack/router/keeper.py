"""Who notices that a router is gone, and what happens then.

One thread of the process sleeps on the control sockets of all of its attachments, from the first one on; it runs only
when one hangs up. A router that ends on purpose closes the rings first: then the attachment is over. One that was
killed says nothing: its attachments are *lost*, and the thread tries to come back with their tokens, at first after
10 ms, then each time twice as late, up to a second (security R18).

It is a daemon thread, so that it keeps no program from ending, and a child of the process makes one of its own.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstack.router.client import Attachment

log = logging.getLogger("netstack.router")

FIRST_RETRY_S = 0.01
LAST_RETRY_S = 1.0


class Keeper:
    """The thread, and what it looks after."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, weakref.ref[Attachment]] = {}
        self._lock = threading.RLock()       # between who has a number, and who had it
        self._due: list[tuple[float, int, float, weakref.ref[Attachment]]] = []    # when, n-th, wait, of whom
        self._numbers = itertools.count()
        threading.Thread(target=self._run, name="netstack-router", daemon=True).start()

    def watch(self, attachment: Attachment, fd: int) -> None:
        """Call `Attachment.lost` when this control socket hangs up, once."""
        with self._lock:
            self._watched[fd] = weakref.ref(attachment)
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def unwatch(self, fd: int) -> None:
        """The socket is about to be closed."""
        with self._lock:
            if self._watched.pop(fd, None) is not None:
                try:
                    self._epoll.unregister(fd)
                except OSError:
                    pass                     # it hung up, and was taken out

    def _hung_up(self, fd: int) -> Attachment | None:
        """Whose control socket hung up. Nobody's, where it was closed meanwhile and another has its number."""
        looking = select.poll()
        looking.register(fd, select.POLLRDHUP)
        with self._lock:
            if fd not in self._watched or not looking.poll(0):
                return None
            found = self._watched[fd]
            self.unwatch(fd)
            return found()

    def _run(self) -> None:
        while True:
            timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else -1
            for fd, _ in self._epoll.poll(timeout):
                attachment = self._hung_up(fd)
                if attachment is not None and self._ask(attachment.lost):
                    self._retry(attachment, FIRST_RETRY_S)
                del attachment
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, wait, found = heapq.heappop(self._due)
                attachment = found()
                if attachment is not None and self._ask(attachment.come_back):
                    self._retry(attachment, min(2 * wait, LAST_RETRY_S))
                del attachment

    def _retry(self, attachment: Attachment, wait: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + wait, next(self._numbers), wait, weakref.ref(attachment)))

    def _ask(self, call) -> bool:
        try:
            return call()
        except Exception:                    # of one attachment: the others need the thread
            log.exception("an attachment was not looked after")
            return False


_keeper: Keeper | None = None
_lock = threading.Lock()


def keeper() -> Keeper:
    """That of this process."""
    global _keeper
    with _lock:
        if _keeper is None:
            _keeper = Keeper()
        return _keeper


def _in_child() -> None:
    """The parent's thread is not here, and its epoll is shared with it: only the number is forgotten."""
    global _keeper, _lock
    _lock = threading.Lock()
    if _keeper is not None:
        _keeper._epoll.close()
        _keeper = None


os.register_at_fork(after_in_child=_in_child)
