"""Connecting to a name by whichever of its addresses answers first: Happy Eyeballs version 2 (RFC 8305).

The families take turns. An address that has not answered after 250 ms is not waited for alone; one that failed, not at
all. The first attempt waits in `connect`, which drives the stack itself; only a race needs descriptors to poll.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import queue
import select
import socket as _kernel
import threading
import time
from typing import Any

from netstack.placing import across_hosts
from netstack.resolver.sorting import interleaved

ATTEMPT_DELAY_S = 0.250          # RFC 8305 section 8, "Connection Attempt Delay"
RESOLUTION_DELAY_S = 0.050       # RFC 8305 section 8, "Resolution Delay"

Entry = tuple[Any, Any, int, str, tuple[Any, ...]]      # as getaddrinfo gives them


class Lookup:
    """The addresses of a name as they arrive, asked for by a thread of its own.

    Parameters
    ----------
    resolver : Resolver
    name, port
        As of ``getaddrinfo``.
    """

    def __init__(self, resolver, name, port) -> None:
        self.finished = False
        self.error: OSError | None = None
        self._entries: list[Entry] = []
        self._news: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, args=(resolver, name, port), daemon=True,
                                        name="netstack name look-up")
        self._thread.start()

    def _tell(self, final: bool, what: Any) -> None:
        self._news.put((final, what))
        with self._lock:
            if self.wake >= 0:
                os.eventfd_write(self.wake, 1)

    def _run(self, resolver, name, port) -> None:
        try:
            found = resolver.getaddrinfo_in_parts(name, port, 0, _kernel.SOCK_STREAM, 0, 0,
                                                  lambda part: self._tell(False, part))
        except BaseException as error:  # noqa: BLE001 - raised again by who asked
            self._tell(True, error)
        else:
            self._tell(True, found)

    def take(self) -> list[Entry]:
        """All entries known by now."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake)
        while True:
            try:
                final, what = self._news.get_nowait()
            except queue.Empty:
                return self._entries
            self.finished = self.finished or final
            if isinstance(what, BaseException):
                if not isinstance(what, OSError):
                    raise what
                self.error = what
            else:
                self._entries = what

    def first(self) -> list[Entry]:
        """Wait for addresses to begin with. IPv4 waits for IPv6 a moment (RFC 8305 section 3)."""
        entries = self.take()
        until = None
        while not self.finished:
            if entries:
                if any(entry[0] == _kernel.AF_INET6 for entry in entries):
                    break
                until = until or time.monotonic() + RESOLUTION_DELAY_S
                if time.monotonic() >= until:
                    break
            wait_ms = None if until is None else max(0, round((until - time.monotonic()) * 1000) + 1)
            poll = select.poll()
            poll.register(self.wake, select.POLLIN)
            poll.poll(wait_ms)
            entries = self.take()
        return entries

    def close(self) -> None:
        with self._lock:
            os.close(self.wake)
            self.wake = -1


class Known:
    """Addresses that are all there."""

    finished = True
    error: OSError | None = None
    wake = -1

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries

    def take(self) -> list[Entry]:
        return self._entries

    first = take

    def close(self) -> None:
        pass


class Race:
    """Attempts to connect to the addresses of one name.

    Parameters
    ----------
    host : Host
    timeout : float, None or missing
        Of each attempt, and of the socket that wins. Missing: the default of the sockets.
    source_address : tuple or None
        What each is bound to.
    """

    def __init__(self, host, timeout, source_address) -> None:
        self._host = host
        self._timeout = timeout
        self._source = source_address
        # One port is one socket's at a time; and without the standby thread nobody drives the stack while we poll.
        self._one_by_one = bool(source_address and source_address[1]) or not host.serves
        self._running: dict[int, tuple[Any, Entry, float | None, float | None]] = {}   # socket, to, timeout, until
        self._tried: list[Entry] = []
        self.errors: list[OSError] = []

    def _left(self, entries: list[Entry]) -> list[Entry]:
        """What was not tried, in the order to try it."""
        left = [entry for entry in entries if entry not in self._tried]
        turn = None
        if self._tried and any(entry[0] != self._tried[-1][0] for entry in left):
            turn = next(entry[0] for entry in left if entry[0] != self._tried[-1][0])
        return interleaved(left, turn)

    def _start(self, entry: Entry, patience: float | None) -> Any | None:
        """Try one address: the socket if it connects within ``patience`` seconds; None means wait or failed."""
        self._tried.append(entry)
        s = None
        try:
            s = self._host.socket(*entry[:3])
            if self._timeout:
                s.settimeout(*self._timeout)
            whole = s.gettimeout()
            until = None if whole is None else time.monotonic() + whole
            if self._source:
                s.bind(self._source)
            if patience is None or (whole is not None and whole <= patience):
                s.connect(entry[4])
                return s
            s.settimeout(patience)
            try:
                s.connect(entry[4])
            except (TimeoutError, BlockingIOError) as error:
                if error.errno not in (None, errno.EINPROGRESS):       # ETIMEDOUT: it is over
                    raise
                s.setblocking(False)
                self._running[s.fileno()] = s, entry, whole, until
                return None
            s.settimeout(whole)
            return s
        except OSError as error:
            self.errors.append(error)
            if s is not None:
                s.close()
            return None
        except BaseException:
            if s is not None:
                s.close()
            raise

    def _finish(self, fd: int) -> Any | None:
        """An attempt is over: its socket, or None and an error more."""
        s, entry, whole, _ = self._running.pop(fd)
        code = s.getsockopt(_kernel.SOL_SOCKET, _kernel.SO_ERROR)
        if code == 0:
            s.settimeout(whole)
            return s
        s.close()
        error = OSError(code, f"{os.strerror(code)}: connect -> {entry[4][0]}:{entry[4][1]}")
        self.errors.append(across_hosts(error, self._host, entry[4]))
        return None

    def _expire(self) -> None:
        now = time.monotonic()
        for fd, (s, entry, _, until) in list(self._running.items()):
            if until is not None and now >= until:
                del self._running[fd]
                s.close()
                self.errors.append(across_hosts(TimeoutError("timed out"), self._host, entry[4]))

    def run(self, source: Lookup | Known) -> Any:
        """The socket that connected first; None when none did."""
        entries = source.first()
        due = 0.0
        while True:
            left = self._left(entries)
            if not left and not self._running and source.finished:
                return None
            now = time.monotonic()
            if left and (now >= due or not self._running):
                alone = not self._running and source.finished and len(left) == 1
                patience = None if alone or self._one_by_one else 0.0 if self._running else ATTEMPT_DELAY_S
                won = self._start(left[0], patience)
                if won is not None:
                    return won
                due = now + ATTEMPT_DELAY_S
                continue
            poll = select.poll()
            for fd in self._running:
                poll.register(fd, select.POLLOUT)
            if not source.finished:
                poll.register(source.wake, select.POLLIN)
            times = [until for *_, until in self._running.values() if until is not None] + ([due] if left else [])
            wait_ms = None if not times else max(0, round((min(times) - now) * 1000) + 1)
            for fd, _ in poll.poll(wait_ms):
                if fd in self._running:
                    won = self._finish(fd)
                    if won is not None:
                        return won
                    due = 0.0                         # the next need not wait for the one that failed
            self._expire()
            if not source.finished:
                entries = source.take()

    def close(self) -> None:
        """Give up the attempts that run."""
        for s, *_ in self._running.values():
            s.close()
        self._running.clear()


def create_connection(host, address, timeout: tuple[float | None, ...] = (), source_address=None, *,
                      all_errors: bool = False):
    """As ``socket.create_connection`` on ``host``.

    Parameters
    ----------
    timeout : tuple
        The timeout, or nothing.

    Raises
    ------
    OSError
        The last error of an attempt; notes name the others.
    ExceptionGroup
        With ``all_errors``: all of them.
    """
    name, port = address
    source: Lookup | Known
    must_ask = host.resolver.must_ask(name)
    if must_ask and len(host.resolver.families()) > 1:
        source = Lookup(host.resolver, name, port)
    else:                                              # a server is asked for what this host can use
        flags = _kernel.AI_ADDRCONFIG if must_ask else 0
        source = Known(host.getaddrinfo(name, port, 0, _kernel.SOCK_STREAM, 0, flags))
    race = Race(host, timeout, source_address)
    try:
        won = race.run(source)
        if won is not None:
            return won
        errors = race.errors or ([source.error] if source.error is not None else [])
        if not errors:
            raise OSError("getaddrinfo returns an empty list")
        if all_errors and hasattr(builtins, "ExceptionGroup"):         # CPython 3.11
            raise builtins.ExceptionGroup("create_connection failed", errors)
        if hasattr(errors[-1], "add_note"):
            for earlier in errors[:-1]:
                errors[-1].add_note(f"tried before: {earlier}")
        raise errors[-1]
    finally:
        race.close()
        source.close()
        race.errors.clear()                            # tracebacks hold this frame, and the frame the errors
        errors = []
