"""The rig of the checklist's rows: a stack, a hostile peer, and what must be the same again at the end."""

from __future__ import annotations

import pathlib
import re
from contextlib import contextmanager, suppress

from netstack.testing import ScriptedPeer
from tests.tcp.tools import Session, listen, new_peer, passive


def epoll_events(data: int) -> int:
    """The events that an epoll of this process waits for under this word of data, as /proc tells: 0x1 is EPOLLIN."""
    for file in pathlib.Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):                          # closed meanwhile
            for events, word in re.findall(r"^tfd: *\d+ events: *(\w+) data: *(\w+)", file.read_text(), re.M):
                if int(word, 16) == data:
                    return int(events, 16)
    raise LookupError(f"no epoll has {data:#x}")


@contextmanager
def nothing_left(**sysctl):
    """A scripted peer; at the end every socket is closed, and a day later the stack is as empty as it began."""
    peer = new_peer(**sysctl)
    sockets: list[object] = []
    peer.opened = sockets                        # type: ignore[attr-defined]
    yield peer
    for s in sockets:
        s.close()                                # type: ignore[attr-defined]
    peer.advance("24h")
    left = peer.stack.sockets()
    assert left == [], f"left over: {left}"
    assert peer.stack.next_deadline() is None


def established(peer: ScriptedPeer, port: int = 40000, **options) -> Session:
    """A connection that the rig closes."""
    s = passive(peer, port=port, **options) if not getattr(peer, "server", None) else accept(peer, port, **options)
    if s.server is not None:
        peer.server = s.server                   # type: ignore[attr-defined]
        peer.opened.append(s.server)             # type: ignore[attr-defined]
    peer.opened.append(s.sock)                   # type: ignore[attr-defined]
    return s


def accept(peer: ScriptedPeer, port: int, **options) -> Session:
    """One more connection to the listener that is there."""
    flow = peer.flow(port)
    flow.connect(**options)
    sock, _ = peer.server.accept()               # type: ignore[attr-defined]
    return Session(peer, flow, sock)


def listening(peer: ScriptedPeer, port: int = 80, backlog: int = 128):
    peer.server = listen(peer, port, backlog)    # type: ignore[attr-defined]
    peer.opened.append(peer.server)              # type: ignore[attr-defined]
    return peer.server                           # type: ignore[attr-defined]


def difference(stack, before: dict[str, int]) -> dict[str, int]:
    """The counters that changed."""
    now = stack.counters()
    return {k: v - before.get(k, 0) for k, v in now.items() if v != before.get(k, 0)}
