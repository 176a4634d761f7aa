"""What stands under the tests: a host that takes every IP socket, and the count of what each test made."""

from __future__ import annotations

import collections
import socket

_now: collections.Counter | None = None
_host = None
_packets = 0


def note(key: str) -> None:
    if _now is not None:
        _now[key] += 1


def _kind_of(s) -> str:
    family = getattr(s.family, "name", str(s.family))
    return f"{family}/{getattr(s.type, 'name', s.type)}"


def _count_pairs() -> None:
    original = socket.socketpair

    def socketpair(*args, **kwargs):
        note("socketpair")
        return original(*args, **kwargs)

    socket.socketpair = socketpair


def install_kernel() -> None:
    """The measure: the kernel's sockets, counted."""
    plain = socket.socket

    class Counted(plain):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            note("kernel " + _kind_of(self))

    Counted.__name__ = Counted.__qualname__ = "socket"
    Counted.__module__ = "socket"
    socket.socket = Counted
    _count_pairs()


def install_stack() -> None:
    """A host is put in place before the test module is imported."""
    global _host
    import netstack

    _host = netstack.Host(address=["10.250.0.1/24", "fd00:250::1/64"], drain=0)
    begin = netstack.socket.socket.__init__

    def counted(self, *args, **kwargs):
        try:
            begin(self, *args, **kwargs)
        except OSError:
            family = args[0] if args else kwargs.get("family", socket.AF_INET)
            if family in (-1, socket.AF_INET, socket.AF_INET6):
                note("refused AF_INET/any")            # it wanted an IP socket: its test counts
            raise
        if self._handle is None and self.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_UNIX:
            note("kernel AF_UNIX/carrier" if self.family in (socket.AF_INET, socket.AF_INET6) else
                 "kernel " + _kind_of(self))           # detach() of a stack's connection: a pair carries its data
        else:
            note(("stack " if self._handle is not None else "kernel ") + _kind_of(self))

    netstack.socket.socket.__init__ = counted
    netstack.patch(_host)
    _count_pairs()


def _segments() -> int:
    counters = _host.counters()
    return counters["segments_by_caller"] + counters["segments_by_service"]


def begin(test_id: str) -> None:
    global _now, _packets
    _now = collections.Counter()
    _packets = _segments() if _host is not None else 0


def end() -> dict:
    out = {"sockets": dict(_now or {})}
    if _host is not None:
        out["segments"] = _segments() - _packets
    return out
