"""What the thread of a router's control socket asks for and calls: the other side of `netstack.router.control`.

Who is asked for what shows here; the messages of attachments, ports, captures, limits and conduct go to those directly.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from netstack.errors import RouterError
from netstack.log_limit import limited
from netstack.router import protocol
from netstack.router.static_routes import pack_listed, unpack_after, unpack_route

if TYPE_CHECKING:
    from netstack.router.attachments import Attachments
    from netstack.router.captures import Captures
    from netstack.router.conduct import Conduct
    from netstack.router.control import Connection
    from netstack.router.forwarding import Forwarder
    from netstack.router.leasing import Leasing
    from netstack.router.limits import Limits
    from netstack.router.memory import Memory
    from netstack.router.sharers import Sharers
    from netstack.router.uplink_group import UplinkGroup

log = limited("netstack.router")


class Service:
    """The parts of one router, and what concerns several of them.

    Parameters
    ----------
    forwarder : Forwarder
    lock : threading.RLock
        The router's.
    memory : Memory or None
        Its journal.
    attachments, sharers, leasing, uplinks, captures, limits, conduct
        Its parts.
    """

    def __init__(self, forwarder: Forwarder, lock: threading.RLock, memory: Memory | None, *, attachments: Attachments,
                 sharers: Sharers, leasing: Leasing, uplinks: UplinkGroup, captures: Captures, limits: Limits,
                 conduct: Conduct):
        self._forwarder = forwarder
        self._lock = lock
        self._memory = memory
        self._leasing = leasing
        self.attachments = attachments
        self.sharers = sharers
        self.uplinks = uplinks
        self.captures = captures
        self.limits = limits
        self.conduct = conduct

    def change_route(self, connection: Connection, body: bytes) -> None:
        """A route is added or removed, by the router's owner."""
        if not connection.is_owner:
            raise RouterError(errno.EPERM, "only the router's owner may change its routes")
        change, route = unpack_route(body)
        with self._lock:
            if change == protocol.ROUTE_ADD:
                self.uplinks.routes.add(route)
            elif change == protocol.ROUTE_REMOVE:
                self.uplinks.routes.remove(route.network)
            else:
                raise RouterError(errno.EINVAL, f"change {change} of a route: 1 adds, 2 removes")
        log.info("route %s %s by process %d", route, {1: "added", 2: "removed"}[change], connection.pid)

    def routes_after(self, body: bytes) -> bytes:
        version, network = unpack_after(body)
        with self._lock:
            return pack_listed(self.uplinks.routes.listed(version, after=network, most=protocol.MAX_ROUTES))

    def counters_of(self, ident: int, first: int = 0) -> bytes:
        with self._lock:
            if ident == protocol.RELAYED and self.uplinks.user is not None:
                values = list(self.uplinks.user.counters().values())
            else:
                values = self._forwarder.values(ident)
        return protocol.COUNTERS_REPLY_HEAD.pack(ident, len(values)) + b"".join(
            v.to_bytes(8, "little") for v in values[first : first + protocol.MAX_COUNTERS]
        )

    def failures(self) -> list[tuple[Connection, str, str]]:
        """Ports that the data path gave up: stacks to cut off, why, and what they are told; uplinks to open anew."""
        out: list[tuple[Connection, str, str]] = []
        with self._lock:
            failed = self._forwarder.failed()            # first: each was found before
            for finding in self._forwarder.findings():
                log.warning("TCP %s", finding)
                if (attached := self.attachments.of(finding.attachment)) is not None:
                    attached.misdeed = str(finding)
            for port, why in failed:
                attached = self.attachments.of(port)
                if attached is not None:
                    words = ""                           # it closed its ring itself
                    if why in ("poisoned", "truncated"):
                        words = why
                        log.warning("process %d %s its ring: detached", attached.connection.pid, why)
                    elif why == "greedy":
                        words = f"greedy: {attached.misdeed}"
                        log.warning("process %d has a TCP that misbehaves: detached; %s", attached.connection.pid,
                                    attached.misdeed)
                    out.append((attached.connection, why, words))
                    continue
                self.uplinks.gone(port)
        return out

    def tick(self, now_ns: int) -> int:
        """What is due: ends of holds, lost uplinks. Returns when to come again."""
        with self._lock:
            return min(self._leasing.tick(now_ns, self.attachments), self.uplinks.tick(now_ns))

    def farewell(self) -> None:
        """All are detached, and the next router of this name may start at any moment: nobody was promised anything."""
        if self._memory is not None:
            self._memory.close()
