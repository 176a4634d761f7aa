"""All uplinks of a router: made, opened, looked after once a second, and the routes to them."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from netstack.errors import LinkError
from netstack.log_limit import limited
from netstack.router import protocol
from netstack.router.attached import traffic
from netstack.router.conduct import findings
from netstack.router.control import FAR_AWAY
from netstack.router.static_routes import StaticRoutes
from netstack.router.uplinks import Uplink

if TYPE_CHECKING:
    from netstack.router.forwarding import Forwarder
    from netstack.router.parent import ParentUplink
    from netstack.router.pools import Pools
    from netstack.router.user import UserUplink

log = limited("netstack.router")

UPLINK_RETRY_NS = 1_000_000_000


class UplinkGroup:
    """The uplinks of one router; the first is where addresses are that no route names.

    Parameters
    ----------
    configs : list
        As `netstack.router.uplinks.UplinkConfig.parse` gives them.
    forwarder : Forwarder
    lock : threading.RLock
        The router's, which guards its ports.
    pools : Pools
    parent : ParentUplink or None
        The one to another router, where this one is attached already.
    mtu, ring_capacity, opening
        Of the router, see `netstack.router.router.Router`.

    Attributes
    ----------
    all : list
        In the order in which they were given.
    user : UserUplink or None
    routes : StaticRoutes
    """

    def __init__(self, configs: list[Any], forwarder: Forwarder, lock: threading.RLock, pools: Pools,
                 parent: ParentUplink | None, *, mtu: int, ring_capacity: int, opening):
        self._forwarder = forwarder
        self._lock = lock
        self._retry_at_ns = 0
        networks = [pool.network for pool in pools]
        addresses = [pool.router_address for pool in pools]

        def made(config: Any, default: bool) -> Any:
            if config.kind == "router":
                return parent
            if config.kind != "user":
                return Uplink(config, addresses, default=default, opening=opening)
            from netstack.router.user import UserUplink

            return UserUplink(config, networks, mtu=mtu, ring_capacity=ring_capacity, default=default)

        self.all: list[Uplink | UserUplink | ParentUplink] = [made(c, c is configs[0]) for c in configs]
        self.user: UserUplink | None = next((u for u in self.all if u.config.kind == "user"), None)
        self.routes = StaticRoutes(forwarder, networks, self.all)

    def open(self, undo: contextlib.ExitStack) -> None:
        """Open all of them. What is opened is closed by `undo`.

        Raises
        ------
        LinkError
            One is missing, not permitted or busy.
        ConfigError
            Two are on the same network.
        """
        for uplink in self.all:
            undo.callback(uplink.close, self._forwarder)
            self._open(uplink)
        self._next_look(time.monotonic_ns())

    def close(self) -> None:
        for uplink in self.all:
            uplink.close(self._forwarder)

    def gone(self, port: int) -> None:
        """The data path gave up a port: if it is an uplink's, that is to be opened anew."""
        for uplink in self.all:
            if uplink.port == port:
                self._lost(uplink)

    def tick(self, now_ns: int) -> int:
        """Look after them, if it is time to. Returns when to come again."""
        if self._retry_at_ns and now_ns >= self._retry_at_ns:
            self._look_after(now_ns)
        return self._retry_at_ns or FAR_AWAY

    def after(self, told: int) -> bytes:
        """The reply to UPLINKS: the next one behind so many."""
        with self._lock:
            if told >= len(self.all):
                return protocol.UplinkInfo(0).pack()
            uplink = self.all[told]
            kind, name = uplink.config.kind, uplink.config.name
            if uplink.port is None:
                return protocol.UplinkInfo(told + 1, kind=kind, name=name).pack()
            c = self._forwarder.counters(uplink.port)
            return protocol.UplinkInfo(
                number=told + 1,
                id=uplink.port,
                **traffic(c),
                queued=c["queued"],
                mtu=self._forwarder.mtu(uplink.port),
                kind=kind,
                name=name,
                greedy=findings(c),
            ).pack()

    # ---- inside

    def _open(self, uplink: Uplink | UserUplink | ParentUplink) -> None:
        uplink.open(self._forwarder)
        self.routes.opened(uplink)

    def _lost(self, uplink: Uplink | UserUplink | ParentUplink) -> None:
        log.warning("uplink %s is gone; trying again every second", uplink.config.name)
        uplink.close(self._forwarder)
        self._retry_at_ns = time.monotonic_ns() + UPLINK_RETRY_NS

    def _look_after(self, now_ns: int) -> None:
        """Once a second: open what is lost, and ask devices that would not tell."""
        self._retry_at_ns = 0
        for uplink in self.all:
            if uplink.watched and uplink.lost():
                self._lost(uplink)
            elif uplink.port is None:
                try:
                    self._open(uplink)
                    log.info("uplink %s is back", uplink.config.name)
                except (LinkError, OSError):
                    pass
        self._next_look(now_ns)

    def _next_look(self, now_ns: int) -> None:
        """When to look after the uplinks again, if there is anything to look after."""
        if any(uplink.port is None or uplink.watched for uplink in self.all):
            self._retry_at_ns = now_ns + UPLINK_RETRY_NS
