"""Where the control sockets of daemons are: beside those of routers, in a folder of mode 0700."""

from __future__ import annotations

import errno
import fcntl
import os
import socket

from netstack.errors import ConfigError, RouterError
from netstack.router.paths import _NAME, DEFAULT_NAME, runtime_folder

NAME_VARIABLE = "NETSTACK_DAEMON"          # which daemon this process and its children use


def daemon_name(name: str | None) -> str:
    """A checked name: the one given, else ``$NETSTACK_DAEMON``, else ``default``."""
    name = name or os.environ.get(NAME_VARIABLE) or DEFAULT_NAME
    if not _NAME.fullmatch(name):
        raise ConfigError(f"daemon name {name!r}: 1 to 48 letters, digits, '.', '_' or '-', a letter or digit first")
    return name


def socket_path(name: str | None) -> str:
    """The control socket of a daemon."""
    return os.path.join(runtime_folder(), daemon_name(name) + ".daemon")


class Listener:
    """The control socket and the lock beside it, which says that its daemon is alive.

    Raises
    ------
    RouterError
        EADDRINUSE: one of that name runs already.
    """

    def __init__(self, name: str | None) -> None:
        self.path = socket_path(name)
        self._lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise RouterError(errno.EADDRINUSE, f"a daemon named {daemon_name(name)!r} is running already; give this "
                                                "one another name (--name) or use that one") from None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            if os.path.lexists(self.path):
                os.unlink(self.path)                   # of a daemon that died: the lock is ours
            self.socket.bind(self.path)
            os.chmod(self.path, 0o600)
            self.socket.listen(256)
            self.socket.setblocking(False)
        except OSError as error:
            self.socket.close()
            os.close(self._lock)
            raise RouterError(error.errno, f"control socket {self.path}: {error.strerror}") from None

    def close(self) -> None:
        os.unlink(self.path)
        self.socket.close()
        os.close(self._lock)     # the file stays: removing it would let two daemons hold two locks
