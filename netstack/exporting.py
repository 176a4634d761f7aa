"""A descriptor that carries a connection's data, for what needs one: child processes, C libraries, foreign loops.

One end of an AF_UNIX stream pair stands for the connection; two threads carry the bytes between its other end and the
stack's socket, each its direction, ends of streams included. It costs two copies by the kernel and a wake-up a message.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import socket as _kernel
import threading
from typing import Any

from netstack.handle import Handle
from netstack.socket import _Base

PIECE = 256 << 10                # bytes moved at a time


def _inwards(handle: Handle, there: Any) -> None:
    """From the stack to the descriptor."""
    space = memoryview(bytearray(PIECE))
    with contextlib.suppress(OSError):
        while n := handle.recv_into(space):
            there.sendall(space[:n])
    with contextlib.suppress(OSError):
        there.shutdown(_kernel.SHUT_WR)


def _outwards(handle: Handle, there: Any) -> None:
    """From the descriptor to the stack; when both directions have ended the socket is closed."""
    space = memoryview(bytearray(PIECE))
    with contextlib.suppress(OSError):
        while n := there.recv_into(space):
            handle.sendall(space[:n])
    with contextlib.suppress(OSError):
        handle.shutdown(_kernel.SHUT_WR)


def export(handle: Handle) -> _kernel.socket:
    """A kernel's socket whose bytes are those of a connection, which belongs to it from now on.

    Parameters
    ----------
    handle : Handle
        A connected stream socket.

    Raises
    ------
    OSError
        ENOTCONN when it is not connected; EOPNOTSUPP for datagrams.
    """
    if handle.type != _kernel.SOCK_STREAM:
        raise OSError(errno.EOPNOTSUPP, "export: only a connection can be carried by a descriptor")
    handle.getpeername()
    handle.settimeout(None)
    here, there = _pair()

    def carry() -> None:
        inwards = threading.Thread(target=_inwards, args=(handle, there), daemon=True, name="netstack export")
        inwards.start()
        _outwards(handle, there)
        inwards.join()
        there.close()
        handle.close()

    threading.Thread(target=carry, daemon=True, name="netstack export").start()
    return here


def _pair() -> tuple[_kernel.socket, Any]:
    """A blocking stream pair of the standard library's own class, whatever ``socket.socket`` is now."""
    ends = []
    for end in _socket.socketpair(_kernel.AF_UNIX, _kernel.SOCK_STREAM):
        ends.append(_Base(end.family, end.type, end.proto, end.detach()))
        ends[-1].settimeout(None)
    return ends[0], ends[1]
