"""A router's counters as Prometheus reads them, and a small HTTP server for them (``netstack router --metrics``).

The text is version 0.0.4 of the exposition format. One thread serves all scrapers and waits for none of them: a bounded
number of connections, a bounded request, a deadline each. Command lines of processes are not told: who may reach the
socket need not be who may look at processes.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import selectors
import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from netstack.errors import ConfigError, RouterError
from netstack.router.greedy import MISDEEDS
from netstack.router.pool import format_address

if TYPE_CHECKING:
    from netstack.router.router import Router

log = logging.getLogger("netstack.router")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CONNECTIONS_MAX = 16
BACKLOG = 128
REQUEST_MAX_BYTES = 8192
DEADLINE_NS = 10_000_000_000  # from connect to the last byte of the answer
DIRECTIONS = ("from", "to")  # as `netstack ps` says: what a stack sent, and what it was sent

Labels = dict[str, Any]
Sample = tuple[Labels, int | float]

# Counters that are about the whole router, and what they count.
PLAIN = {
    "forwarded": "Packets passed on between attachments and uplinks.",
    "consumed": "Packets for the router itself, or that it answered.",
    "generated": "Packets that the router made: echo replies, ICMP errors, resets.",
    "split": "Packets added by cutting TCP packets that were too large for the next link.",
    "marked": "Packets marked with congestion experienced (ECN) in the router's queues.",
    "kicks": "Doorbells rung.",
    "wakes": "Doorbells heard.",
    "spurious": "Doorbells heard with nothing behind them.",
    "header_errors": "Damaged records of rings.",
    "policed": "Packets of TCPs that misbehave which were changed, put back or dropped for that.",
    "neighbor_conflicts": "Claims at an uplink to the address of a known neighbour with another hardware address.",
}

# Counters of an attachment that uplinks have not.
STACK = {
    "limited": "Times that the attachment's next packet had to wait for its limit.",
    "deferred": "Rounds in which the attachment had packets and no turn, having cost more than its part.",
    "work": "What its packets cost the router, in units of a byte copied.",
}


def escape(text: str) -> str:
    """A label's value as the format wants it."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    """One metric: its help, its type and its samples, a line each."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        inside = ",".join(f'{key}="{escape(str(each))}"' for key, each in labels.items())
        yield f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def ports_of(router: Router) -> Iterator[tuple[str, Labels, dict[str, int]]]:
    """Everything with counters of its own: kind, labels, counters. One that goes meanwhile is left out."""
    for info in router.attachments():
        try:
            counters = router.counters(info.id)
        except KeyError:
            continue
        addresses = [*map(format_address, info.addresses), *map(str, info.blocks)] or [""]
        six = next((address for address in addresses[1:] if ":" in address), "")       # an empty label is none
        yield "attachment", {"attachment": info.id, "address": addresses[0], "address6": six, "pid": info.pid}, counters
    for name, port in router.uplinks().items():
        try:
            counters = router.counters(port) if port is not None else {}
        except KeyError:
            counters = {}
        yield "uplink", {"uplink": name}, counters


def drops(counters: dict[str, int], which: str) -> int:
    return sum(value for name, value in counters.items() if name.startswith(f"drop_{which}_"))


def of_ports(kind: str, ports: list[tuple[Labels, dict[str, int]]]) -> Iterator[str]:
    """The metrics of each attachment, or each uplink."""
    known = [(labels, c) for labels, c in ports if c]

    def both(select) -> Iterator[Sample]:
        for labels, c in known:
            for direction, which in zip(DIRECTIONS, ("in", "out"), strict=True):
                yield {**labels, "direction": direction}, select(c, which)

    name, whose = f"netstack_{kind}", f"the {kind}"
    yield from family(f"{name}_packets_total", "counter", f"Packets from and to {whose}.",
                      both(lambda c, which: c[f"{which}_packets"]))
    yield from family(f"{name}_bytes_total", "counter", f"Bytes of the packets from and to {whose}.",
                      both(lambda c, which: c[f"{which}_bytes"]))
    yield from family(f"{name}_drops_total", "counter", f"Packets from and to {whose} that were dropped.", both(drops))
    if kind == "attachment":
        for what, text in STACK.items():
            yield from family(f"{name}_{what}_total", "counter", text, ((labels, c[what]) for labels, c in known))
    yield from family(f"{name}_greedy_total", "counter", f"TCP connections in which {whose} misbehaved.",
                      ((labels, sum(c[f"greedy_{what}"] for what in MISDEEDS)) for labels, c in known))
    yield from family(f"{name}_queued_packets", "gauge", f"Packets that wait in the router for {whose}.",
                      ((labels, c["queued"]) for labels, c in known))


def limits_of(router: Router, attachments: list[tuple[Labels, dict[str, int]]]) -> Iterator[str]:
    """What attachments may send; those without a limit have no sample."""
    found = []
    for labels, _ in attachments:
        with contextlib.suppress(KeyError):
            found.append((labels, router.limits.of(labels["attachment"])))
    for at, what in enumerate(("bytes", "packets")):
        yield from family(f"netstack_attachment_limit_{what}_per_second", "gauge",
                          f"{what.capitalize()} that the attachment may send in a second.",
                          ((labels, limit[at]) for labels, limit in found if limit[at]))


def render(router: Router) -> str:
    """All metrics of a router, as text."""
    total, ports = router.counters(), list(ports_of(router))
    attachments = [(labels, c) for kind, labels, c in ports if kind == "attachment"]
    uplinks = [(labels, c) for kind, labels, c in ports if kind == "uplink"]
    lines: list[str] = []
    lines += family("netstack_router_info", "gauge", "The router; always 1.", [(
        {"name": router.name, "pool": ",".join(router.pools), "backend": router.backend}, 1)])
    lines += family("netstack_router_attachments", "gauge", "Stacks that are attached.", [({}, len(attachments))])
    lines += family("netstack_router_endings_total", "counter", "Attachments that ended, by reason.",
                    (({"reason": why}, n) for why, n in sorted(router.endings().items())))
    for what in ("packets", "bytes"):
        lines += family(f"netstack_router_{what}_total", "counter",
                        f"{what.capitalize()} taken from attachments and uplinks, and handed to them.",
                        (({"direction": which}, total[f"{which}_{what}"]) for which in ("in", "out")))
    for name, text in PLAIN.items():
        lines += family(f"netstack_router_{name}_total", "counter", text, [({}, total[name])])
    lines += family("netstack_router_queued_packets", "gauge", "Packets that wait in the router.",
                    [({}, total["queued"])])
    lines += family("netstack_router_drops_total", "counter",
                    "Packets dropped, by reason: in, as they came; out, on the way to who was to get them.",
                    (({"direction": key.split("_")[1], "reason": key.split("_", 2)[2]}, value)
                     for key, value in total.items() if key.startswith("drop_")))
    lines += family("netstack_router_greedy_total", "counter", "TCP connections in which an end misbehaved, by how.",
                    (({"misdeed": what}, total[f"greedy_{what}"]) for what in MISDEEDS))
    lines += of_ports("attachment", attachments)
    lines += limits_of(router, attachments)
    lines += family("netstack_uplink_up", "gauge", "1 while the uplink's device is there.",
                    ((labels, int(bool(c))) for labels, c in uplinks))
    lines += of_ports("uplink", uplinks)
    relayed = router.relayed()
    if relayed is not None:
        kinds = ("streams", "datagrams")
        lines += family("netstack_user_uplink_flows", "gauge", "TCP connections; UDP ports and echo identifiers.",
                        (({"kind": kind}, relayed[kind]) for kind in kinds))
        lines += family("netstack_user_uplink_total", "counter", "What the uplink without privilege did, by reason.",
                        (({"what": what}, n) for what, n in relayed.items() if what not in kinds))
    return "\n".join(lines) + "\n"


# ---- the server


def unix_path(where: str | None) -> str:
    """The socket's path of a place that is one; empty otherwise."""
    where = where or ""
    return where[5:] if where.startswith("unix:") else where if "/" in where else ""


def listen(where: str) -> socket.socket:
    """A listening socket at ``unix:PATH`` (mode 0600), a path with a slash, ``HOST:PORT``, or ``:PORT`` of 127.0.0.1.

    Raises
    ------
    ConfigError
        It is none of these.
    RouterError
        The kernel refuses.
    """
    try:
        if path := unix_path(where):
            return _listen_unix(path)
        host, colon, port = where.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"metrics at {where!r}: write unix:PATH, HOST:PORT or :PORT")
        address = ipaddress.ip_address(host.strip("[]") or "127.0.0.1")
        kind = socket.AF_INET if address.version == 4 else socket.AF_INET6
        return socket.create_server((str(address), int(port)), family=kind, backlog=BACKLOG)
    except ConfigError:
        raise
    except ValueError:
        raise ConfigError(f"metrics at {where!r}: the host must be an address, not a name") from None
    except OSError as error:
        raise RouterError(error.errno or errno.EIO, f"metrics at {where}: {os.strerror(error.errno or 0)}") from None


def _listen_unix(path: str) -> socket.socket:
    """Takes the place of a socket that nobody listens on; of nothing else."""
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(path)
            raise OSError(errno.EADDRINUSE, "in use")
    except ConnectionRefusedError:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(listener.fileno(), 0o600)  # Linux gives the name the mode that the socket has
        listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class _Scraper:
    """One connection: first its request, then what of the answer is not yet sent, then its end."""

    def __init__(self, sock: socket.socket):
        self.socket = sock
        self.deadline_ns = time.monotonic_ns() + DEADLINE_NS
        self.request = b""
        self.answer = b""
        self.answered = False


class MetricsServer:
    """Serves ``GET /metrics`` over HTTP until `close`, each connection one request.

    Parameters
    ----------
    router : Router
    where : str
        See `listen`.

    Attributes
    ----------
    address : str
        Where it listens, with the port that it got: ``127.0.0.1:9100``, ``unix:/run/r.metrics``.
    """

    def __init__(self, router: Router, where: str):
        self._router = router
        self._scrapers: set[_Scraper] = set()
        self._stopping = False
        with contextlib.ExitStack() as undo:
            self._listener = undo.enter_context(listen(where))
            self._listener.setblocking(False)
            name = self._listener.getsockname()
            self._path = name if isinstance(name, str) else ""
            if self._path:
                undo.callback(os.unlink, self._path)
            self.address = f"unix:{name}" if self._path else f"[{name[0]}]:{name[1]}" if ":" in name[0] else \
                f"{name[0]}:{name[1]}"
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, self._wake_read)
            undo.callback(os.close, self._wake_write)
            self._selector = undo.enter_context(selectors.DefaultSelector())
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._wake_read, selectors.EVENT_READ)
            self._thread = threading.Thread(target=self._serve, name="netstack-metrics", daemon=True)
            self._thread.start()
            undo.pop_all()

    def close(self) -> None:
        """End the thread and all connections; the socket's name is gone afterwards."""
        self._stopping = True
        os.write(self._wake_write, b"w")
        self._thread.join()
        for scraper in list(self._scrapers):
            self._drop(scraper)
        self._selector.close()
        self._listener.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._path:
            try:
                os.unlink(self._path)
            except OSError:
                pass

    def _serve(self) -> None:
        while not self._stopping:
            first = min((s.deadline_ns for s in self._scrapers), default=None)
            wait = None if first is None else max(0.0, (first - time.monotonic_ns()) / 1e9)
            for key, _ in self._selector.select(wait):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data is not None:
                    try:
                        self._go_on(key.data)
                    except OSError:
                        self._drop(key.data)
                    except Exception:
                        log.exception("metrics: a mistake of the router's own; it goes on")
                        self._drop(key.data)
            now = time.monotonic_ns()
            for scraper in [s for s in self._scrapers if s.deadline_ns <= now]:
                self._drop(scraper)

    def _accept(self) -> None:
        """The oldest connection makes room for a new one."""
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.1)  # the connection waits in the listener; without a pause this would spin
            return
        if len(self._scrapers) >= CONNECTIONS_MAX:
            self._drop(min(self._scrapers, key=lambda s: s.deadline_ns))
        sock.setblocking(False)
        scraper = _Scraper(sock)
        self._scrapers.add(scraper)
        self._selector.register(sock, selectors.EVENT_READ, scraper)

    def _drop(self, scraper: _Scraper) -> None:
        if scraper in self._scrapers:
            self._scrapers.discard(scraper)
            self._selector.unregister(scraper.socket)
            scraper.socket.close()

    def _go_on(self, scraper: _Scraper) -> None:
        if scraper not in self._scrapers:
            return  # dropped in this turn
        try:
            if not scraper.answer:
                data = scraper.socket.recv(REQUEST_MAX_BYTES)
                if not data:
                    self._drop(scraper)
                    return
                if scraper.answered:
                    return  # unread bytes would make closing a reset, which could overtake the answer
                scraper.request += data
                if b"\r\n\r\n" not in scraper.request and len(scraper.request) < REQUEST_MAX_BYTES:
                    return
                scraper.answer = self._answer(scraper.request)
                self._selector.modify(scraper.socket, selectors.EVENT_WRITE, scraper)
            scraper.answer = scraper.answer[scraper.socket.send(scraper.answer):]
        except BlockingIOError:
            return
        if not scraper.answer:
            scraper.answered = True
            scraper.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(scraper.socket, selectors.EVENT_READ, scraper)

    def _answer(self, request: bytes) -> bytes:
        words = request.split(b"\r\n", 1)[0].split(b" ")
        status, body, kind = "200 OK", "", CONTENT_TYPE
        if b"\r\n\r\n" not in request or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            status, body, kind = "400 Bad Request", "not a request of HTTP/1\n", "text/plain"
        elif words[0] not in (b"GET", b"HEAD"):
            status, body, kind = "405 Method Not Allowed", "GET only\n", "text/plain"
        elif words[1].split(b"?")[0] not in (b"/metrics", b"/"):
            status, body, kind = "404 Not Found", "it is at /metrics\n", "text/plain"
        else:
            body = render(self._router)
        payload = body.encode()
        allow = "Allow: GET, HEAD\r\n" if status.startswith("405") else ""
        head = (f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(payload)}\r\n{allow}"
                "Connection: close\r\n\r\n")
        return head.encode() + (b"" if words[0] == b"HEAD" else payload)
