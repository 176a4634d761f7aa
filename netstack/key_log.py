"""The secrets of a process's TLS connections, for captures of its traffic: what SSLKEYLOGFILE says (RFC 9850)."""

from __future__ import annotations

import os
import ssl
from typing import Any

_started: tuple[int, int] | None = None


def start() -> tuple[int, int]:
    """Log the keys of every `ssl.SSLContext` that is made from now on.

    The log is in memory; where ``$SSLKEYLOGFILE`` names a file it is that one, which ``ssl`` would write to as well.
    A context that the program gives a ``keylog_filename`` of its own writes there alone. A second call changes nothing.

    Returns
    -------
    descriptor, offset : int
        To read the log by, and where it begins.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    global _started
    if _started is not None:
        return _started
    path = os.environ.get("SSLKEYLOGFILE")
    if path:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    else:
        fd = os.memfd_create("netstack key log", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{fd}"           # a forked child has it as well
    new = ssl.SSLContext.__new__

    def logging(cls: type, *args: Any, **options: Any) -> ssl.SSLContext:
        context: ssl.SSLContext = new(cls, *args, **options)
        context.keylog_filename = path
        return context

    ssl.SSLContext.__new__ = staticmethod(logging)  # type: ignore[method-assign,assignment]
    _started = fd, os.lseek(fd, 0, os.SEEK_END)
    return _started
