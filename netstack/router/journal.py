"""What a router has promised, in a file beside its control socket, so that the router that is started after a crash can
keep it: whose each address is, and which ports of a shared address are taken (security R18).

One line for each change, appended at once. Nothing is synced: the file has to outlive the process, not the machine,
whose stacks would be gone too. A line that was cut off by the crash is passed over. Tokens are not written, only their
digests.

======================================  ==============================================================
line                                    says
======================================  ==============================================================
``+ ADDRESS UID EPOCH DIGEST``          the address is leased to whoever knows the token
``- ADDRESS``                           it is not any more
``b NETWORK UID DIGEST``                the block is leased to whoever knows the token
``B NETWORK``                           it is not any more
``s UID DIGEST`` and ``S UID DIGEST``   a stack shares the shared address; it does not any more
``p KIND PORT UID``, ``P KIND PORT``    a port of the shared address is taken; one user of it less
======================================  ==============================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import os
from collections import Counter
from dataclasses import dataclass, field

log = logging.getLogger("netstack.router")

REWRITE_LINES = 4096             # beyond twice what is true: the file is written anew
READ_MOST = 64 << 20             # bytes of a file that is believed to be a journal


def digest_of(token: bytes) -> str:
    """What is kept of a token. Tokens are 128 random bits: no salt could add to that."""
    return hashlib.sha256(token).hexdigest()


@dataclass
class Promises:
    """What a journal says.

    Attributes
    ----------
    leases : dict
        Address (text): ``(uid, epoch, digest)``.
    blocks : dict
        Network (text): ``(uid, digest)``.
    sharers : set of tuple
        ``(uid, digest)`` of the stacks of the shared address.
    ports : Counter
        ``(kind, number)`` of the shared address: how many stacks have it.
    users : dict
        ``(kind, number)``: the uid.
    """

    leases: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    blocks: dict[str, tuple[int, str]] = field(default_factory=dict)
    sharers: set[tuple[int, str]] = field(default_factory=set)
    ports: Counter[tuple[int, int]] = field(default_factory=Counter)
    users: dict[tuple[int, int], int] = field(default_factory=dict)

    def read(self, line: str) -> None:
        """Apply one line; ValueError: it is none."""
        kind, *words = line.split()
        if kind == "+":
            address, uid, epoch, digest = words
            if len(bytes.fromhex(digest)) != 32:
                raise ValueError("no digest")
            self.leases[str(ipaddress.ip_address(address))] = (int(uid), int(epoch), digest)
        elif kind == "-":
            (address,) = words
            self.leases.pop(address, None)
        elif kind == "b":
            network, uid, digest = words
            if len(bytes.fromhex(digest)) != 32:
                raise ValueError("no digest")
            self.blocks[str(ipaddress.ip_network(network))] = (int(uid), digest)
        elif kind == "B":
            (network,) = words
            self.blocks.pop(network, None)
        elif kind in "sS":
            uid, digest = words
            (self.sharers.add if kind == "s" else self.sharers.discard)((int(uid), digest))
        elif kind == "p":
            number = (int(words[0]), int(words[1]))
            self.ports[number] += 1
            self.users[number] = int(words[2])
        elif kind == "P":
            number = (int(words[0]), int(words[1]))
            self.ports[number] -= 1
            if self.ports[number] <= 0:
                del self.ports[number]
                self.users.pop(number, None)
        else:
            raise ValueError("unknown line")

    def lines(self) -> list[str]:
        """The shortest journal that says this."""
        return [
            *(f"+ {address} {uid} {epoch} {digest}" for address, (uid, epoch, digest) in self.leases.items()),
            *(f"b {network} {uid} {digest}" for network, (uid, digest) in self.blocks.items()),
            *(f"s {uid} {digest}" for uid, digest in self.sharers),
            *(f"p {kind} {port} {self.users[kind, port]}" for kind, port in self.ports.elements()),
        ]


class Journal:
    """The file. Who holds the router's lock owns it.

    Parameters
    ----------
    path : str
        In a folder that nobody else can enter.
    """

    def __init__(self, path: str):
        self.path = path
        self.promises = Promises()
        self.broken = False                  # a write failed: the file is gone, and so is what it promised
        self._fd = -1
        self._lines = 0

    def load(self) -> Promises:
        """What the router before this one left; this one begins with an empty journal."""
        found = Promises()
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                data = file.read(READ_MOST)
            for line in data[: data.rfind(b"\n") + 1].decode("ascii", "replace").splitlines():
                try:
                    found.read(line)
                except (ValueError, IndexError):
                    log.warning("journal %s: a line that says nothing was passed over", self.path)
        return found

    def rewrite(self) -> None:
        """Replace the file by one that says what is true now, in one step."""
        lines = self.promises.lines()
        fresh = self.path + ".new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, lines)
            os.replace(fresh, self.path)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._lines = fd, len(lines)

    def note(self, *lines: str) -> None:
        """Remember these changes."""
        for line in lines:
            self.promises.read(line)
        if self.broken:
            return
        try:
            self._lines += len(lines)
            if self._fd < 0 or self._lines > REWRITE_LINES + 2 * self._live():
                self.rewrite()
            else:
                _write(self._fd, lines)
        except OSError as error:
            # Half a journal would give addresses back that others have by now: better none.
            self.broken = True
            log.warning("journal %s: %s; a restart of this router would end its connections", self.path, error.strerror)
            self.close()

    def _live(self) -> int:
        p = self.promises
        return len(p.leases) + len(p.blocks) + len(p.sharers) + p.ports.total()

    def close(self) -> None:
        """The router ends, and with it what it promised: the file goes. Closing twice is allowed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def _write(fd: int, lines) -> None:
    data = "".join(line + "\n" for line in lines).encode()
    while data:
        data = data[os.write(fd, data) :]
