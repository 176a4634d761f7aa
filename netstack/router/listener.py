"""Where a router or a daemon listens: a Unix socket, and beside it a lock that says that its owner is alive."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket

from netstack.errors import RouterError


class Listener:
    """The socket, of mode 0600, and the lock. Nobody else listens at that name while they are held.

    Parameters
    ----------
    path : str
        Of the socket; one that a dead owner left is replaced.
    lock : str
        The lock's file. It stays: removing it would let two hold two locks.
    whose : str
        ``"router"``, ``"daemon"``, and its name: what is said of a second one.

    Raises
    ------
    RouterError
        EADDRINUSE: one of that name runs already; or the socket cannot be made.
    """

    def __init__(self, path: str, lock: str, whose: tuple[str, str]):
        self.path = path
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            kind, name = whose
            raise RouterError(errno.EADDRINUSE, f"a {kind} named {name!r} is running already; give this one another "
                              "name (--name) or use that one") from None
        what = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self.socket = socket.socket(socket.AF_UNIX, what)
        except OSError:
            os.close(self._lock)
            raise
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)                        # of one that died: the lock is ours
            self.socket.bind(path)
            os.chmod(path, 0o600)
            self.socket.listen(256)
        except OSError as error:
            self.socket.close()
            os.close(self._lock)
            raise RouterError(error.errno, f"control socket {path}: {error.strerror}") from None

    def close(self) -> None:
        """Socket and name are gone, and the next of the name may start. Closing twice is allowed."""
        if self.socket.fileno() < 0:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.socket.close()
        os.close(self._lock)
