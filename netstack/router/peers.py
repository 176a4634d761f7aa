"""Who is at the other end of a control socket, and when that process ends."""

from __future__ import annotations

import os
import socket
import struct

SO_PEERPIDFD = 77                          # asm-generic/socket.h, Linux 6.5
_UCRED = struct.Struct("3i")


def credentials(sock: socket.socket) -> tuple[int, int]:
    """``(pid, uid)`` of who connected."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def process_descriptor(sock: socket.socket, pid: int) -> int:
    """A pidfd of that process: its end counts as the connection's, also when a child still holds the socket (security
    R14). -1 where there is none to watch: this process itself, another pid namespace, a process that is gone."""
    if pid == os.getpid():
        return -1
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        try:
            return os.pidfd_open(pid)
        except OSError:
            return -1                      # the socket will tell
