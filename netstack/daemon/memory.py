"""The two pieces of memory of a socket: made, sealed and kept by the daemon (security R2 to R4)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from netstack.daemon.protocol import PAGE
from rings.mapping import Mapping
from rings.shared_memory import F_ADD_SEALS, F_SEAL_FUTURE_WRITE, MFD_NOEXEC_SEAL, SEALS


def _make(size: int, name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:                # before Linux 6.3 there is no such flag
            raise
        fd = os.memfd_create(name, flags)
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, PAGE)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Memory:
    """A page of words and a ring in each direction. The rings cost nothing until `commit`.

    Parameters
    ----------
    capacity : int
        Of each ring, bytes; a power of two.

    Attributes
    ----------
    fds : tuple of int
        What a client maps: the daemon's piece, which nobody else can map to write, and the clients'.
    down, up : Mapping
        Both, as the daemon has them.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        size = PAGE + capacity
        fds: list[int] = []
        try:
            fds.append(_make(size, "netstack-down"))
            fds.append(_make(size, "netstack-up"))
            self.down = Mapping(fds[0], size, True)
            self.up = Mapping(fds[1], size, True)
            fcntl.fcntl(fds[0], F_ADD_SEALS, SEALS | F_SEAL_FUTURE_WRITE)
            fcntl.fcntl(fds[1], F_ADD_SEALS, SEALS)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        self.fds = tuple(fds)

    def commit(self) -> None:
        """Give the rings their pages, so that a full memory says so now (ENOSPC, ENOMEM)."""
        for fd in self.fds:
            os.posix_fallocate(fd, 0, PAGE + self.capacity)

    def close(self) -> None:
        """The daemon keeps nothing of it; clients that map it still do."""
        fds, self.fds = self.fds, ()
        for fd in fds:
            os.close(fd)
        for mapping in (self.down, self.up):
            with contextlib.suppress(BufferError):
                mapping.close()
