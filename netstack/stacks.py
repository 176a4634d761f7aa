"""Which stacks run in processes of this user, and what sockets and neighbours they have.

Each `netstack.Host` with a standby thread can be asked through a socket in the user's folder (`netstack.router.paths`).
Only processes of the same user are answered, and only their answers are believed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket as _kernel
import struct
from typing import TYPE_CHECKING, NamedTuple

from netstack.errors import NetstackError, RouterError
from netstack.router.paths import runtime_folder

if TYPE_CHECKING:
    from netstack.reports import NeighborInfo, SocketInfo

SUFFIX = ".stack"
PATIENCE = 2.0                        # seconds for a whole answer
_HEAD = struct.Struct("=4sIIIQQ")
_MAGIC = b"NSK1"
_MARK = struct.Struct("=4sI")
_NEIGHBOR_MAGIC = b"NEIG"
_RECORD_MOST = 1 << 14                # bytes of a record that a later version might send
_numbers = itertools.count()


class RunningStack(NamedTuple):
    """One host of a process.

    Attributes
    ----------
    pid : int
        Its process, by the kernel's word.
    command : str
        What that process is called.
    segments_in, segments_out : int
        TCP segments so far.
    sockets : list of SocketInfo
        Its sockets and TIME-WAIT records.
    neighbors : list of NeighborInfo
        Whom it knows on its links.
    """

    pid: int
    command: str
    segments_in: int
    segments_out: int
    sockets: list[SocketInfo]
    neighbors: list[NeighborInfo]


def open_report() -> tuple[int, str | None]:
    """A listening socket for one host and its path; -1 and None where no folder can be had: no reason to fail."""
    try:
        folder = runtime_folder()
        name = f"{os.getpid()}.{next(_numbers)}{SUFFIX}"
        path = os.path.join(folder, name)
        hidden = os.path.join(folder, f".{name}")
        with contextlib.closing(_kernel.socket(_kernel.AF_UNIX, _kernel.SOCK_SEQPACKET)) as sock:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(hidden)
            sock.bind(hidden)
            try:
                sock.listen(8)
                sock.setblocking(False)
                os.rename(hidden, path)          # whoever sees the name can connect: else it would look dead
            except BaseException:
                os.unlink(hidden)
                raise
            return sock.detach(), path
    except (OSError, NetstackError):
        return -1, None


def close_report(path: str) -> None:
    """Take the name away."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def ask(path: str) -> RunningStack | None:
    """What one stack answers; None when it is gone, is another user's, does not answer in time, or talks nonsense."""
    from netstack.reports import NEIGHBOR, REPORT, NeighborInfo, SocketInfo

    with contextlib.closing(_kernel.socket(_kernel.AF_UNIX, _kernel.SOCK_SEQPACKET)) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect(path)
            pid, uid, _ = struct.unpack("=iII", sock.getsockopt(_kernel.SOL_SOCKET, _kernel.SO_PEERCRED, 12))
            if uid != os.geteuid():
                return None
            magic, size, _, _, segments_in, segments_out = _HEAD.unpack(sock.recv(_HEAD.size))
            if magic != _MAGIC or not REPORT.size <= size <= _RECORD_MOST:
                return None
            known: dict[object, SocketInfo] = {}
            neighbors: dict[object, NeighborInfo] = {}
            in_neighbors = False
            while batch := sock.recv(1 << 20):
                if len(batch) == _MARK.size:
                    magic, size = _MARK.unpack(batch)
                    if magic != _NEIGHBOR_MAGIC or not NEIGHBOR.size <= size <= _RECORD_MOST:
                        return None
                    in_neighbors = True
                    continue
                for at in range(0, len(batch) - size + 1, size):
                    record = batch[at:at + size]
                    if in_neighbors:
                        neighbor = NeighborInfo.parse(record)
                        neighbors[neighbor.interface, neighbor.address] = neighbor
                    else:
                        info = SocketInfo.parse(record)
                        known[info.id or info.names] = info
            return RunningStack(pid, _command(pid), segments_in, segments_out, list(known.values()),
                                list(neighbors.values()))
        except ConnectionRefusedError:
            _forget_dead(path)
        except (OSError, struct.error, ValueError):
            pass
        return None


def _forget_dead(path: str) -> None:
    """A process that was killed left the name behind."""
    with contextlib.suppress(ValueError, OSError):
        os.kill(int(os.path.basename(path).split(".")[0]), 0)
        return
    close_report(path)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "?"


def stacks() -> list[RunningStack]:
    """Every stack that answers, by process.

    Raises
    ------
    RouterError
        The user's folder is not his alone.
    """
    try:
        folder = runtime_folder()
        names = [n for n in os.listdir(folder) if n.endswith(SUFFIX) and not n.startswith(".")]
    except OSError as error:
        raise RouterError(error.errno or errno.EIO, f"look for running stacks: {error}") from None
    found = (ask(os.path.join(folder, name)) for name in sorted(names))
    return sorted((s for s in found if s is not None), key=lambda s: s.pid)
