"""A small process that opens the devices of uplinks for a router that may not (security section 5).

It is forked before the router gives up its privileges and keeps of them what devices need. It opens the devices that it
was told of at the start, again and again if need be (a device that was lost comes back), hands over the descriptors and
knows nothing else. It ends with the router.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Iterable
from typing import Any

from netstack.errors import LinkError, RouterError
from netstack.router.uplinks import UplinkConfig, open_descriptor

CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK, CAP_BPF = 12, 13, 14, 39
READ, WRITE = ("/proc", "/sys"), ("/dev/net",)
OPENED = ("tap", "tun", "packet", "xdp")     # kinds of uplinks
DESCRIPTORS = 3                              # of a device, at most
MESSAGE_BYTES = 4096


class Opener:
    """The router's end.

    Parameters
    ----------
    uplinks : iterable of UplinkConfig
        Whose devices it opens, and no others.

    Notes
    -----
    Made while this process has one thread: it forks.
    """

    def __init__(self, uplinks: Iterable[UplinkConfig]):
        devices = {(uplink.kind, uplink.name, uplink.queue) for uplink in uplinks}
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self._socket.close()
                _serve(there, devices)
                status = 0
            finally:
                os._exit(status)
        there.close()

    def open(self, kind: str, name: str, mac: bytes, offload: bool, again: bool, queue: int = 0) -> tuple[Any, Any]:
        """What `netstack.router.uplinks.open_descriptor` returns and raises, done over there.

        Raises
        ------
        netstack.errors.LinkError
            Missing, not permitted, busy, of another kind; or none of those that it opens.
        RouterError
            The other process is gone.
        """
        try:
            self._socket.send(json.dumps([kind, name, mac.hex(), offload, again, queue]).encode())
            data, descriptors, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES, DESCRIPTORS)
        except OSError as error:
            raise RouterError(error.errno, f"the process that opens uplinks: {error.strerror}") from None
        if not data:
            raise RouterError(errno.EPIPE, "the process that opens uplinks has ended; start the router anew")
        said = json.loads(data)
        if not descriptors:
            raise _exception(*said)
        return (tuple(descriptors) if kind == "xdp" else descriptors[0]), said

    def close(self) -> None:
        """End the other process. Closing twice is allowed."""
        self._socket.close()
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0


def _exception(name: str, number: int | None, text: str) -> Exception:
    """What was raised over there: a `LinkError`, of a closer kind where `netstack.link.tap` has it."""
    from netstack.link import tap

    kind = getattr(tap, name, LinkError)
    return kind(number, text) if issubclass(kind, LinkError) else LinkError(number, text)


def _serve(sock: socket.socket, devices: set[tuple[str, str, int]]) -> None:
    """The other process, until the router's end is closed."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(each, signal.SIG_IGN)              # they are the router's, whose end is ours
    with open("/proc/self/comm", "w") as file:
        file.write("netstack-opener")
    _confine(any(kind == "xdp" for kind, _, _ in devices))
    while data := sock.recv(MESSAGE_BYTES):
        kind, name, mac, offload, again, queue = json.loads(data)
        descriptors: list[int] = []
        answer: object
        try:
            if (kind, name, queue) not in devices:
                raise LinkError(errno.EPERM, f"{kind} {name}: no uplink of this router")
            opened, answer = open_descriptor(kind, name, bytes.fromhex(mac), offload, again, queue)
            descriptors = list(opened) if kind == "xdp" else [opened]
        except OSError as error:
            answer = [type(error).__name__, error.errno, error.strerror or str(error)]
        except Exception as error:
            answer = [type(error).__name__, None, str(error)]
        socket.send_fds(sock, [json.dumps(answer).encode()], descriptors)
        for fd in descriptors:
            os.close(fd)


def _confine(programs: bool) -> None:
    """Keep what devices need: two capabilities, if they are there, and their files; for AF_XDP those of programs in the
    kernel and of pinned memory, too.
    """
    import ctypes  # noqa: F401 - used by what is imported below when it opens something

    import netstack.router.devices.packet
    import netstack.router.devices.tuntap
    import netstack.router.devices.xdp  # noqa: F401
    from netstack import confinement

    confinement.forbid_dumps()
    confinement.give_up_capabilities([CAP_NET_ADMIN, CAP_NET_RAW, *([CAP_BPF, CAP_IPC_LOCK] if programs else ())])
    confinement.restrict_files(read=[*READ, *(path or os.getcwd() for path in sys.path)], write=WRITE)
