"""Every method of a socket with arguments that make sense and arguments that make none, in every state a socket can be
in: what comes of it on a kernel's socket and on a stack's. `test_calls_alike` compares."""

from __future__ import annotations

import array
import io
import socket as kernel
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

INET, INET6, STREAM, DGRAM = kernel.AF_INET, kernel.AF_INET6, kernel.SOCK_STREAM, kernel.SOCK_DGRAM
LOOPBACK = {INET: "127.0.0.1", INET6: "::1"}
PATIENCE = 30.0
LARGE = 1 << 70
_current: list[tuple] | None = None      # audit events of the call under way
_caller = threading.get_ident()


def _hook(event: str, args: tuple) -> None:
    if _current is not None and event.startswith("socket.") and threading.get_ident() == _caller:
        _current.append((event, *(a for a in args if not isinstance(a, kernel.socket))))


class Peers:
    """Where the sockets of one case come from, and what it opened."""

    def __init__(self, make: Callable[[int, int], kernel.socket]) -> None:
        self._make = make
        self._opened: list[kernel.socket] = []

    def socket(self, family: int = INET, type: int = STREAM) -> kernel.socket:
        s = self._make(family, type)
        self._opened.append(s)
        return s

    def bound(self, family: int, type: int) -> kernel.socket:
        s = self.socket(family, type)
        s.bind((LOOPBACK[family], 0))
        return s

    def listener(self, family: int = INET) -> kernel.socket:
        s = self.bound(family, STREAM)
        s.settimeout(PATIENCE)
        s.listen()
        return s

    def pair(self, family: int = INET) -> tuple[kernel.socket, kernel.socket]:
        listener = self.listener(family)
        client = self.socket(family, STREAM)      # blocks: after another connect() Linux lets a second one succeed
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        client.settimeout(PATIENCE)
        server.settimeout(PATIENCE)
        self._opened.append(server)
        return client, server

    def datagram_pair(self, family: int = INET) -> tuple[kernel.socket, kernel.socket]:
        a, b = self.bound(family, DGRAM), self.bound(family, DGRAM)
        a.connect(b.getsockname())
        b.connect(a.getsockname())
        return a, b

    def close(self) -> None:
        for s in self._opened:
            s.close()


# ---- states: each makes a socket that does not block

def _connected(peers: Peers) -> kernel.socket:
    return peers.pair()[0]


def _ended(peers: Peers) -> kernel.socket:
    """The peer has closed, and we have heard of it."""
    here, there = peers.pair()
    there.close()
    assert here.recv(1) == b""
    return here


def _reset(peers: Peers) -> kernel.socket:
    here, there = peers.pair()
    there.setsockopt(kernel.SOL_SOCKET, kernel.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    there.close()
    try:
        here.recv(1)
    except ConnectionResetError:
        return here
    raise AssertionError("no reset came")


def _shut(how: int) -> Callable[[Peers], kernel.socket]:
    def make(peers: Peers) -> kernel.socket:
        here, _ = peers.pair()
        here.shutdown(how)
        return here
    return make


def _refused(peers: Peers) -> kernel.socket:
    free = peers.bound(INET, STREAM)
    address = free.getsockname()
    free.close()
    s = peers.socket()
    assert s.connect_ex(address) != 0
    return s


def _closed(family: int, type: int) -> Callable[[Peers], kernel.socket]:
    def make(peers: Peers) -> kernel.socket:
        s = peers.socket(family, type)
        s.close()
        return s
    return make


def _detached_twin(peers: Peers) -> kernel.socket:
    """Closed while a file of it is open."""
    here, _ = peers.pair()
    here.makefile("rb")
    here.close()
    return here


def _waiting(peers: Peers) -> kernel.socket:
    """Connected, with three bytes to read."""
    here, there = peers.pair()
    there.sendall(b"abc")
    assert here.recv(3, kernel.MSG_PEEK | kernel.MSG_WAITALL) == b"abc"
    return here


def _datagram_waiting(peers: Peers) -> kernel.socket:
    here, there = peers.datagram_pair()
    there.send(b"abc")
    here.settimeout(PATIENCE)
    assert here.recv(3, kernel.MSG_PEEK) == b"abc"
    return here


STATES: dict[str, Callable[[Peers], kernel.socket]] = {
    "stream": lambda peers: peers.socket(),
    "stream, bound": lambda peers: peers.bound(INET, STREAM),
    "stream, listening": lambda peers: peers.listener(),
    "stream, connected": _connected,
    "stream, bytes wait": _waiting,
    "stream, peer closed": _ended,
    "stream, reset": _reset,
    "stream, refused": _refused,
    "stream, shut for reading": _shut(kernel.SHUT_RD),
    "stream, shut for writing": _shut(kernel.SHUT_WR),
    "stream, shut": _shut(kernel.SHUT_RDWR),
    "stream, closed": _closed(INET, STREAM),
    "datagram": lambda peers: peers.socket(type=DGRAM),
    "datagram, bound": lambda peers: peers.bound(INET, DGRAM),
    "datagram, connected": lambda peers: peers.datagram_pair()[0],
    "datagram, one waits": _datagram_waiting,
    "datagram, closed": _closed(INET, DGRAM),
    "IPv6 stream": lambda peers: peers.socket(INET6),
    "IPv6 stream, connected": lambda peers: peers.pair(INET6)[0],
    "IPv6 datagram": lambda peers: peers.socket(INET6, DGRAM),
    "IPv6 datagram, connected": lambda peers: peers.datagram_pair(INET6)[0],
}


# ---- calls

def _addresses() -> Iterator[Any]:
    """Groups and broadcasts are left out: a host without a link has its own sockets there, the kernel nobody."""
    yield from (("127.0.0.1", 0), ("", 0), ("127.0.0.1", 9), ("203.0.113.9", 9), ("0.0.0.0", 0), ("0.0.0.0", 9),
                ("240.0.0.1", 9), ("2001:db8::9", 9), ("::", 0), ("::1", 0), ("::1", 9), ("::ffff:127.0.0.1", 0),
                ("::ffff:127.0.0.1", 9), ("fe80::1", 9, 0, 1), ("fe80::1%no-such-device", 9))
    for port in (-1, 65536, LARGE, "9", None, 9.0, 9j, True):
        yield ("127.0.0.1", port)
    for name in (None, 5, b"127.0.0.1", bytearray(b"127.0.0.1"), memoryview(b"127.0.0.1"), "a\0b", "\udcff",
                 ["127.0.0.1"], "300.0.0.1", "127.1", "0x7f000001", "2130706433", b"\xff", "x" * 70, " 127.0.0.1",
                 "[::1]", b"a\0b"):
        yield (name, 0)
    yield from (None, "127.0.0.1", 5, ["127.0.0.1", 0], (), ("127.0.0.1",), ("127.0.0.1", 0, 0), ("127.0.0.1", 0, 0, 0),
                ("::1", 0, 0), ("::1", 0, 0, 0), ("::1", 0, 0, 0, 0), ("::1", 0, -1), ("::1", 0, 1 << 20),
                ("::1", 0, "0"), ("::1", 0, 0, -1), ("::1", 0, 0, 1 << 32), ("::1", 0, 0, None), ("::1", 0, LARGE),
                ("::1", 70000), b"path", "\0x")


FLAGS = (kernel.MSG_PEEK, kernel.MSG_OOB, kernel.MSG_DONTWAIT, kernel.MSG_TRUNC, kernel.MSG_WAITALL,
         kernel.MSG_ERRQUEUE, kernel.MSG_DONTROUTE, kernel.MSG_NOSIGNAL, 1 << 30, 1 << 31, LARGE, "0", None, 0.0)
SIZES = (0, 1, 9, -1, 3000, "9", None, 9.0, LARGE, True)
DATA = (b"x", b"", bytearray(b"xy"), memoryview(b"abcdef")[::2], array.array("i", [1, 2]), "text", None, 5, 5.0, [b"x"],
        bytes(70000), memoryview(b"x"))


def _buffers() -> Iterator[Callable[[], Any]]:
    yield from (lambda: bytearray(9), lambda: bytearray(0), lambda: b"read-only", lambda: memoryview(bytearray(9)),
                lambda: memoryview(bytearray(9))[::2], lambda: array.array("i", [0, 0, 0]), lambda: None, lambda: 5,
                lambda: "text", lambda: [bytearray(9)], lambda: memoryview(b"read-only"))


# What Linux has and a stack has not: refused as an option that nobody knows.
NOT_THERE = ["SO_DEBUG", "SO_DONTROUTE", "SO_PRIORITY", "SO_RCVTIMEO", "SO_SNDTIMEO", "SO_SNDLOWAT", "SO_PEERCRED",
             "SO_PASSCRED", "IP_OPTIONS", "IP_RECVOPTS", "IP_RETOPTS", "IP_TRANSPARENT"]
# Values that are each implementation's own, or depend on what was sent when.
OWN_VALUE = ["SO_SNDBUF", "SO_RCVBUF", "SO_OOBINLINE", "TCP_CONGESTION", "TCP_INFO", "TCP_MAXSEG", "TCP_QUICKACK",
             "TCP_WINDOW_CLAMP", "IPV6_V6ONLY"]
LEVELS = {"SOL_SOCKET": kernel.SOL_SOCKET, "IPPROTO_IP": kernel.IPPROTO_IP, "IPPROTO_TCP": kernel.IPPROTO_TCP,
          "IPPROTO_UDP": kernel.IPPROTO_UDP, "IPPROTO_IPV6": kernel.IPPROTO_IPV6, "77": 77, "-1": -1}
OPTIONS = {
    "SOL_SOCKET": ["SO_REUSEADDR", "SO_TYPE", "SO_ERROR", "SO_BROADCAST", "SO_SNDBUF", "SO_RCVBUF",
                   "SO_KEEPALIVE", "SO_OOBINLINE", "SO_LINGER", "SO_REUSEPORT", "SO_RCVLOWAT", "SO_ACCEPTCONN",
                   "SO_PROTOCOL", "SO_DOMAIN"],
    "IPPROTO_IP": ["IP_TOS", "IP_TTL"],
    "IPPROTO_TCP": ["TCP_NODELAY", "TCP_MAXSEG", "TCP_CORK", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT",
                    "TCP_SYNCNT", "TCP_LINGER2", "TCP_DEFER_ACCEPT", "TCP_WINDOW_CLAMP", "TCP_INFO", "TCP_QUICKACK",
                    "TCP_CONGESTION", "TCP_USER_TIMEOUT", "TCP_FASTOPEN", "TCP_NOTSENT_LOWAT"],
    "IPPROTO_UDP": [],
    "IPPROTO_IPV6": ["IPV6_UNICAST_HOPS", "IPV6_V6ONLY", "IPV6_TCLASS", "IPV6_CHECKSUM"],
    "77": [], "-1": [],
}
VALUES = (0, 1, -1, 7, 300, 1 << 30, (1 << 31) - 1, 1 << 31, -1 << 31, LARGE, True, b"", b"\1", b"\1\0", b"\1\0\0\0",
          b"\1\0\0\0\0\0\0\0", bytes(16), b"cubic", b"no-such-thing", bytes(40), bytearray(b"\1\0\0\0"), "1", 1.0)


# Those of datagrams: a stack's streams do not have them.
DATAGRAM_OPTIONS = {
    "IPPROTO_IP": ["IP_MULTICAST_IF", "IP_MULTICAST_TTL", "IP_MULTICAST_LOOP", "IP_ADD_MEMBERSHIP", "IP_RECVTOS"],
    "IPPROTO_IPV6": ["IPV6_MULTICAST_HOPS", "IPV6_MULTICAST_LOOP", "IPV6_MULTICAST_IF", "IPV6_RECVTCLASS",
                     "IPV6_RECVPKTINFO", "IPV6_RECVHOPLIMIT", "IPV6_JOIN_GROUP", "IPV6_LEAVE_GROUP"],
}


def _options() -> Iterator[tuple[str, int, int]]:
    for level, number in LEVELS.items():
        for name in (*OPTIONS[level], *DATAGRAM_OPTIONS.get(level, ())):
            if hasattr(kernel, name):
                yield f"{level}, {name}", number, getattr(kernel, name)
        yield f"{level}, 9999", number, 9999
        yield f"{level}, -1", number, -1


def _show(value: Any) -> str:
    return repr(value) if len(repr(value)) < 60 else f"{type(value).__name__}({len(value)})"


def _file(mode: str = "rb") -> Any:
    file = tempfile.TemporaryFile("w+b" if "b" in mode else "w+")
    file.write(b"abcdef" if "b" in mode else "abcdef")
    file.seek(0)
    return file


def _closed_file() -> Any:
    file = _file()
    file.close()
    return file


def calls() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """``(name, what is done with the socket)``."""

    def plain(method: str, *args: Any, **more: Any) -> tuple[str, Callable[[Any], Any]]:
        text = ", ".join([*map(_show, args), *(f"{k}={_show(v)}" for k, v in more.items())])
        return f"{method}({text})", lambda s: getattr(s, method)(*args, **more)

    for address in _addresses():
        for method in ("bind", "connect", "connect_ex"):
            yield plain(method, address)
        yield plain("sendto", b"x", address)
        yield plain("sendto", b"x", 0, address)
        if address is not None:
            yield plain("sendmsg", [b"x"], [], 0, address)
    for method in ("bind", "connect", "connect_ex", "sendto", "send", "sendall", "sendmsg", "recv", "recv_into",
                   "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into", "listen", "accept", "shutdown",
                   "getsockname", "getpeername", "getsockopt", "setsockopt", "settimeout", "gettimeout",
                   "setblocking", "getblocking", "fileno", "close", "detach", "dup", "makefile", "get_inheritable",
                   "set_inheritable", "sendfile"):
        if method not in ("close", "detach", "fileno", "dup", "makefile", "listen", "accept"):
            yield plain(method)
        yield plain(method, 1, 2, 3, 4, 5, 6, 7, 8)
        yield plain(method, nonsense=1)
    for backlog in (0, 1, -1, -1 << 31, (1 << 31) - 1, 1 << 31, LARGE, "1", None, 1.0):
        yield plain("listen", backlog)
    yield plain("listen")
    yield "accept()", lambda s: s.accept()[1]
    for size in SIZES:
        for method in ("recv", "recvfrom", "recvmsg"):
            yield plain(method, size)
        yield plain("recvmsg", 9, size)
        for into in ("recv_into", "recvfrom_into"):
            yield (f"{into}(bytearray(9), {_show(size)})",
                   lambda s, into=into, size=size: getattr(s, into)(bytearray(9), size))
        yield (f"recvmsg_into([bytearray(9)], {_show(size)})",
               lambda s, size=size: s.recvmsg_into([bytearray(9)], size))
    for flags in FLAGS:
        for method in ("recv", "recvfrom"):
            yield plain(method, 9, flags)
        yield plain("recvmsg", 9, 0, flags)
        yield f"recv_into(bytearray(9), 9, {_show(flags)})", lambda s, flags=flags: s.recv_into(bytearray(9), 9, flags)
        yield (f"recvmsg_into([bytearray(9)], 0, {_show(flags)})",
               lambda s, flags=flags: s.recvmsg_into([bytearray(9)], 0, flags))
        for method in ("send", "sendall"):
            yield plain(method, b"x", flags)
        yield plain("sendto", b"x", flags, ("127.0.0.1", 9))
        yield plain("sendmsg", [b"x"], [], flags)
    yield plain("recv", bufsize=9)
    yield plain("recv", 9, flags=0)
    yield plain("send", data=b"x")
    yield plain("send", b"x", flags=0)
    yield plain("sendto", b"x", flags=0, address=("127.0.0.1", 9))
    yield plain("sendmsg", buffers=[b"x"])
    yield plain("connect", address=("127.0.0.1", 9))
    yield plain("bind", address=("127.0.0.1", 0))
    yield plain("listen", backlog=1)
    yield plain("shutdown", how=1)
    yield plain("settimeout", value=1)
    yield plain("setblocking", flag=1)
    yield plain("getsockopt", kernel.SOL_SOCKET, kernel.SO_TYPE, buflen=4)
    yield "recv_into(buffer=, nbytes=, flags=)", lambda s: s.recv_into(buffer=bytearray(9), nbytes=1, flags=0)
    yield "recvfrom_into(buffer=, nbytes=, flags=)", lambda s: s.recvfrom_into(buffer=bytearray(9), nbytes=1, flags=0)
    for number, buffer in enumerate(_buffers()):
        yield f"recv_into(buffer {number})", lambda s, buffer=buffer: s.recv_into(buffer())
        yield f"recvfrom_into(buffer {number})", lambda s, buffer=buffer: s.recvfrom_into(buffer())
        yield f"recvmsg_into([buffer {number}])", lambda s, buffer=buffer: s.recvmsg_into([buffer()])
        yield f"recvmsg_into(buffer {number})", lambda s, buffer=buffer: s.recvmsg_into(buffer())
    yield plain("recvmsg_into", [])
    for data in DATA:
        for method in ("send", "sendall"):
            yield plain(method, data)
        yield plain("sendto", data, ("127.0.0.1", 9))
        yield plain("sendmsg", [data])
        yield plain("sendmsg", [b"x", data])
        yield plain("sendmsg", data)
    yield plain("sendmsg", [])
    for ancillary in ([(0, 0, b"")], [(kernel.SOL_SOCKET, kernel.SCM_RIGHTS, b"\0\0\0\0")], [(0, 0)], None, [None], 5,
                      [(kernel.IPPROTO_IP, kernel.IP_TTL, b"\1\0\0\0")], [(kernel.IPPROTO_IP, kernel.IP_TTL, b"\1")],
                      [(LARGE, 0, b"")], [("0", 0, b"")]):
        yield plain("sendmsg", [b"x"], ancillary)
    for how in (0, 1, 2, 3, -1, LARGE, "1", None, 1.0):
        yield plain("shutdown", how)
    for value in (None, 0, 1, 0.5, -1, -0.0, "1", float("nan"), float("inf"), 1e20, LARGE, True, b"1", [], 9e9):
        yield plain("settimeout", value)
        yield plain("setblocking", value)
        if value != LARGE:
            yield plain("set_inheritable", value)
    for name, level, option in _options():
        own = name.partition(", ")[2] in OWN_VALUE
        yield (f"getsockopt({name})", lambda s, level=level, option=option, own=own:
               type(s.getsockopt(level, option)) if own else s.getsockopt(level, option))
        for length in (-1, 1, 4, 16, 1024, 1025):
            yield (f"getsockopt({name}, {length})",
                   lambda s, level=level, option=option, length=length: s.getsockopt(level, option, length))
        for value in VALUES:
            yield (f"setsockopt({name}, {_show(value)})",
                   lambda s, level=level, option=option, value=value: s.setsockopt(level, option, value))
    for args in ((1, 2, "4"), (1, 2, None), (1, 2, 4.0), (1, 2, LARGE), ("1", 2), (1, None), (LARGE, 2), (1, LARGE),
                 (1,)):
        yield plain("getsockopt", *args)
    for args in ((1, 2, None), (1, 2, None, 4), (1, 2, None, 0), (1, 2, None, -1), (1, 2, None, "4"), (1, 2, 1, 4),
                 (1, 2, b"", 4), ("1", 2, 1), (1, None, 1), (LARGE, 2, 1), (1, LARGE, 1), (1, 2), (1,), (1, 2, [])):
        yield plain("setsockopt", *args)
    for args in (("r",), ("rb",), ("w",), ("rwb",), ("x",), ("",), (None,), (5,), ("rb", 0), ("r", 0), ("rb", -5),
                 ("rb", "9")):
        yield f"makefile{args!r}", lambda s, args=args: type(s.makefile(*args))
    yield "fileno()", lambda s: s.fileno() >= 0
    yield "close()", lambda s: s.close()
    yield "close() twice", lambda s: (s.close(), s.close(), s.fileno())
    yield "dup()", lambda s: s.dup().close()
    yield "gettimeout()", lambda s: s.gettimeout()
    for name, make in (("file", _file), ("text file", lambda: _file("r")), ("closed file", _closed_file),
                       ("BytesIO", lambda: io.BytesIO(b"abcdef")), ("None", lambda: None), ("int", lambda: 5)):
        for args in ((), (0,), (2,), (9,), (-1,), (0, 3), (0, 0), (0, -1), (0, "3"), ("0",), (0, 3.0), (0, None),
                     (0, 9)):
            yield f"sendfile({name}, {args!r})", lambda s, make=make, args=args: s.sendfile(make(), *args)
    for attribute in ("family", "type", "proto", "timeout", "_closed", "_io_refs", "nonsense"):
        yield f".{attribute}", lambda s, attribute=attribute: getattr(s, attribute)
        yield f".{attribute} = 5", lambda s, attribute=attribute: setattr(s, attribute, 5)


# ---- what comes of it

def outcome(make: Callable[[int, int], kernel.socket], state: str, call: Callable[[Any], Any]) -> tuple:
    """What the call gives or raises, and the audit events that it makes."""
    global _current, _caller
    _caller = threading.get_ident()          # a daemon of this process has sockets of its own
    peers = Peers(make)
    try:
        s = STATES[state](peers)
        if s.fileno() >= 0:
            s.setblocking(False)
        events: list[tuple] = []
        _current = events
        try:
            value = call(s)
            result: tuple = ("gives", _normal(value))
        except Exception as error:  # noqa: BLE001 - that is what is asked
            code = getattr(error, "errno", None)
            if isinstance(error, kernel.gaierror) and code == kernel.EAI_AGAIN:
                code = kernel.EAI_NONAME         # no name server is in reach
            result = ("raises", type(error).__name__, code)
        finally:
            _current = None
        return (*result, [tuple(map(_normal, event)) for event in events])
    finally:
        peers.close()


def _normal(value: Any) -> Any:
    """Without what two runs need not have in common, such as ports that were drawn."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return "a port" if 1024 <= value <= 65535 else int(value)
    if isinstance(value, tuple):
        return tuple(map(_normal, value))
    if isinstance(value, list):
        return list(map(_normal, value))
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    return repr(value)


def begin_auditing() -> None:
    """Hooks stay for the life of the process: one, once."""
    if not hasattr(sys, "_netstack_calls_alike"):
        sys._netstack_calls_alike = True      # type: ignore[attr-defined]
        sys.addaudithook(_hook)
