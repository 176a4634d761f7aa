"""The router, as programs see it: its settings, and what may be asked of it and changed.

It is put together here. The data path (`netstack.router.forwarding`) runs in a thread without Python. What it is told
comes from the thread of the control socket (`control`), which asks the `service`: stacks come and go (`attachments`)
with what they have (`leasing`), ports are claimed (`sharers`), devices are lost and come back (`uplink_group`).
"""

from __future__ import annotations

import atexit
import contextlib
import ipaddress
import os
import secrets
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from netstack.errors import ConfigError
from netstack.link.emulation import Emulation
from netstack.log_limit import limited
from netstack.router.attachments import Attachments, check_capacity
from netstack.router.captures import Captures
from netstack.router.conduct import Conduct
from netstack.router.control import ControlServer
from netstack.router.forwarding import Forwarder
from netstack.router.leasing import Leasing
from netstack.router.limits import Limit, Limits
from netstack.router.listener import Listener
from netstack.router.memory import Memory
from netstack.router.paths import socket_path
from netstack.router.pool import HOLD_NS, format_address, pack_address
from netstack.router.pools import ADDRESSING, DEFAULT_V4, PoolConfig, Pools, unique_local_network
from netstack.router.protocol import AttachmentInfo
from netstack.router.routed_blocks import RoutedBlocks
from netstack.router.service import Service
from netstack.router.sharers import Sharers
from netstack.router.sharing import SharedAddresses
from netstack.router.static_routes import Route
from netstack.router.uplink_group import UplinkGroup
from netstack.router.uplinks import UplinkConfig, open_descriptor
from rings.shared_memory import sweep

if TYPE_CHECKING:
    from netstack.router.metrics import MetricsServer
    from netstack.router.parent import ParentUplink

log = limited("netstack.router")


class Router:
    """A router: it runs from construction to `close`, in two threads of this process.

    Parameters
    ----------
    pool : str, or iterable of str
        Networks of the addresses it hands out, ``"10.77.0.0/16"``, ``"fd77::/64"``, each with
        ``",addressing=interface"`` (or ``process``) if it is to have another than the router's; the first address of
        each is the router's own. Default: 10.77.0.0/16 and a private IPv6 network of this machine and this name
        (`pools.unique_local_network`). A stack that asks for no address gets one of each version.
    name : str, optional
        Under which stacks find it. Without one it gets a random name, found in the attribute `name`: a
        private router for this process and those it tells (`environment`).
    uplinks : iterable of str
        ``"user"``, which needs no privilege (`netstack.router.user.UserConfig`); ``"router:NAME,block=/26"``, another
        router, whose block is this one's pool (`netstack.router.parent.ParentConfig`); or
        ``"KIND:NAME[,address=ADDRESS/N][,gateway=ADDRESS]"``, see `netstack.router.uplinks.UplinkConfig`. The first is
        where addresses outside the pool are, also while it is lost.
    routes : iterable of str
        ``"CIDR[,via=GATEWAY][,dev=UPLINK]"``: what the other uplinks lead to, see `add_route`.
    backend : {"posix", "memfd"}
        Memory of the rings: POSIX shared memory for stacks of one owner, sealed memfds for strangers.
    mtu : int
        Largest packet between stacks, 576 to 65535 bytes.
    ring_capacity : int, optional
        Bytes of each ring, a power of two from 256 KiB to 64 MiB. Default: twice the L2 cache.
    max_attachments : int
        More are refused.
    queue_limit : int
        Bytes kept in private memory for one stack whose ring is full, before its packets are dropped.
    spin_us : int
        How long the data thread looks at the rings before it sleeps, when a core is free for that.
    addressing : {"process", "interface"}
        What a stack gets that asks for no address: one of its own, or the one that all such stacks share, each by the
        ports it has. Both kinds live on one router, and the pools of IPv4 and of IPv6 may differ.
    emulation : mapping or Emulation, optional
        A bad link between each stack and the router, ``{"delay": "5ms", "loss": 0.01}``: see
        `netstack.link.emulation.Emulation`. Stacks get dice of their own, in the order in which they attach.
    fair : bool
        Where a rate makes packets wait, at a stack or an uplink, each stack they come from has a queue of its own
        there, served in turn by bytes: no stack gets more than its part, however many connections it has.
    codel : bool
        And no packet waits there for long (RFC 8289).
    limit : mapping or Limit, optional
        What each stack may send at most, ``{"rate": "100mbit", "packets": 20000, "burst": "10ms"}``: see
        `limits.Limit`. What it has beyond that waits in its ring. `limit` changes it for one of them.
    greedy : {"off", "count", "mark", "clamp", "penalty", "detach"}
        What is done about TCPs that misbehave, see `docs/fairness.md`: nobody is watched; they are counted and told; or
        their packets are marked, their windows made small, they wait in a queue with a small share, are detached.
    allowed_uids : iterable of int
        Further users whose stacks may attach, each at most a quarter of ``max_attachments``; needs
        ``backend="memfd"``.
    metrics : str, optional
        Serve the counters to Prometheus there: ``"unix:PATH"``, ``"HOST:PORT"`` or ``":PORT"`` (of 127.0.0.1). The
        attribute `metrics_address` says where that is, with the port it got.
    opening : callable
        Opens the devices of uplinks: `netstack.router.opener.Opener.open` where this process may not.

    Raises
    ------
    ConfigError
        A setting that cannot be.
    RouterError
        A router of that name runs already, or the control socket cannot be made.
    LinkError
        An uplink is missing, not permitted or busy.

    Examples
    --------
    >>> with netstack.Router() as router:
    ...     attachment = router.attach()
    """

    def __init__(
        self,
        pool: str | PoolConfig | Iterable[str | PoolConfig] | None = None,
        name: str | None = None,
        *,
        uplinks=(),
        routes=(),
        backend: str = "posix",
        mtu: int = 65535,
        ring_capacity: int | None = None,
        max_attachments: int = 1024,
        queue_limit: int = 1 << 20,
        spin_us: int = 50,
        addressing: str = "process",
        emulation: Mapping[str, Any] | Emulation | None = None,
        fair: bool = True,
        codel: bool = False,
        limit: Mapping[str, Any] | Limit | None = None,
        greedy: str = "off",
        allowed_uids=(),
        metrics: str | None = None,
        opening=open_descriptor,
    ):
        if backend not in ("posix", "memfd"):
            raise ConfigError(
                f"backend {backend!r}: say 'posix' (stacks of one owner) or 'memfd' (strangers)"
            )
        if addressing not in ADDRESSING:
            raise ConfigError(f"addressing {addressing!r}: say one of {', '.join(ADDRESSING)}")
        if allowed_uids and backend != "memfd":
            raise ConfigError("stacks of other users get sealed memory only: say backend='memfd'")
        if codel and not fair:
            raise ConfigError("codel looks after fair queues: not without fair")
        if not 576 <= mtu <= 65535:
            raise ConfigError(f"mtu {mtu}: 576 to 65535 bytes")
        if not 1 <= max_attachments <= 65000:
            raise ConfigError(f"max_attachments {max_attachments}: 1 to 65000")
        if ring_capacity is None:
            from netstack.link.channel import default_capacity

            ring_capacity = default_capacity()
        configs = [UplinkConfig.parse(text) for text in uplinks]
        written = [Route.parse(text) for text in routes]
        bad_link = Emulation.of(emulation)
        self.name = name if name is not None else "private-" + secrets.token_hex(6)
        self.backend = backend
        self.mtu = mtu
        self.ring_capacity = check_capacity(ring_capacity)
        users = [c for c in configs if c.kind == "user"]
        if len(users) > 1:
            raise ConfigError("one uplink 'user' reaches all that this user reaches: give it once")
        self._parent: ParentUplink | None = None
        if any(config.kind == "router" for config in configs):
            from netstack.router.parent import parent_of

            self._parent = parent_of(configs)
        if pool is None:
            pool = map(str, self._parent.blocks) if self._parent else (DEFAULT_V4, str(unique_local_network(self.name)))
        with contextlib.ExitStack() as undo:
            if self._parent is not None:
                undo.callback(self._parent.leave)
            self._pools = Pools(
                (pool,) if isinstance(pool, str | PoolConfig) else pool,
                addressing=addressing,
                reserved=[a.ip for c in configs for a in c.addresses] + [c.loopback for c in users if c.loopback],
                last_is_reserved=bool(users),
            )
            if self._parent is not None:
                self._parent.check(each.network for each in self._pools)
            undo.pop_all()
        self._lock = threading.RLock()
        self._closed = False
        self._forwarder = Forwarder(
            [each.network for each in self._pools],
            [each.router_address for each in self._pools],
            max_ports=max_attachments + len(configs),
            queue_limit=queue_limit,
            spin_us=spin_us,
            fair=fair,
            codel=codel,
            greedy=greedy,
        )
        self.captures = Captures(self._forwarder, self._lock)
        self.limits = Limits(self._forwarder, self._lock, limit)
        self.conduct = Conduct(self._forwarder, self._lock)
        self._shared = SharedAddresses(self._forwarder, self._pools.shared) if self._pools.shared else None
        blocks = RoutedBlocks(self._pools, self._forwarder)
        self._uplinks = UplinkGroup(configs, self._forwarder, self._lock, self._pools, self._parent, mtu=mtu,
                                    ring_capacity=self.ring_capacity, opening=opening)
        self._user = self._uplinks.user
        self._routes = self._uplinks.routes
        self.path = socket_path(self.name)
        if backend == "posix":
            sweep()  # names that somebody left who died between making and unlinking one (security R17)
        memory: Memory | None = None
        self._metrics: MetricsServer | None = None
        with contextlib.ExitStack() as undo:
            if self._parent is not None:
                undo.callback(self._parent.leave)
            self._uplinks.open(undo)
            for route in written:
                self._routes.add(route)
            listener = Listener(self.path, self.path[:-5] + ".lock", ("router", self.name))
            undo.callback(listener.close)
            if name is not None:  # nobody starts another one under a random name
                memory = Memory(self.path[:-5] + ".leases", self._pools.pools, self._forwarder, self._shared, blocks)
            leasing = Leasing(self._forwarder, self._pools, blocks, self._shared, memory, self._user)
            self._attachments = Attachments(
                self._forwarder, self._lock, leasing, self.captures, self.limits, name=self.name, backend=backend,
                mtu=mtu, ring_capacity=self.ring_capacity, most=max_attachments, emulation=bad_link,
                names=self._user is not None)
            self._service = Service(
                self._forwarder, self._lock, memory, attachments=self._attachments, leasing=leasing,
                sharers=Sharers(self._lock, self._shared, self._attachments, memory), uplinks=self._uplinks,
                captures=self.captures, limits=self.limits, conduct=self.conduct)
            self._control = ControlServer(
                listener, self._service, max_connections=2 * max_attachments + 64, allowed_uids=allowed_uids
            )
            undo.callback(self._control.stop)
            self._control.watch(self._forwarder.fileno())
            if metrics is not None:
                from netstack.router.metrics import MetricsServer

                self._metrics = MetricsServer(self, metrics)
                undo.callback(self._metrics.close)
            self._forwarder.start()
            undo.callback(self._forwarder.stop)
            self._control.start()
            undo.pop_all()
        _living.add(self)
        log.info("router %s: pool %s, control socket %s", self.name, self._pools, self.path)
        if memory is not None and memory.waiting:
            log.info("router %s: the one before was killed; %d addresses wait %d s for their stacks", self.name,
                     memory.waiting, HOLD_NS // 10**9)
        if self._metrics is not None:
            log.info("router %s: metrics at %s", self.name, self._metrics.address)
        for what, bad in (("each stack", bad_link), *((f"uplink {c.name}", c.emulation) for c in configs)):
            if bad is not None:
                log.info("router %s: a bad link to %s: %s, seed %d", self.name, what, bad.settings, bad.seed)

    # ---- what programs use

    @property
    def pools(self) -> list[str]:
        """The networks of the addresses it hands out."""
        return [str(pool.network) for pool in self._pools]

    @property
    def addresses(self) -> list[str]:
        """The router's own address in each pool."""
        return [format_address(pool.router_address) for pool in self._pools]

    @property
    def address(self) -> str:
        """The first of these."""
        return self.addresses[0]

    @property
    def shared_addresses(self) -> list[str]:
        """Those that stacks share which ask for none of their own."""
        return [format_address(a) for a in self._shared.addresses] if self._shared else []

    def attach(self, address=None, **options):
        """Attach a stack of this process. See `netstack.router.client.attach`."""
        from netstack.router.client import attach

        return attach(self.name, address, **options)

    def environment(self) -> dict[str, str]:
        """Environment variables that lead a child process here."""
        return {"NETSTACK_ROUTER": self.name, "NETSTACK_RUNTIME_DIR": os.path.dirname(self.path)}

    @property
    def metrics_address(self) -> str | None:
        """Where Prometheus finds the counters; None: nowhere."""
        return self._metrics.address if self._metrics is not None else None

    def uplinks(self) -> dict[str, int | None]:
        """The uplinks by name, with the numbers of their counters; None: the device is lost."""
        with self._lock:
            return {uplink.config.name: uplink.port for uplink in self._uplinks.all}

    def add_route(self, route: str | Route) -> None:
        """Send packets to a network to an uplink.

        The longest prefix decides; what no route says goes to the first uplink. Inside the pool no route is written:
        its addresses are handed out. While the uplink's device is lost, what its routes lead to is unreachable.

        Parameters
        ----------
        route : str
            ``"198.51.100.0/24,via=192.0.2.9,dev=tap1"``: the network (``default``: everything), the gateway behind the
            uplink, and the uplink. Without a gateway the uplink's own has it, if there is one, else whoever has the
            address is asked for; without ``dev`` it is the uplink on whose network the gateway is.

        Raises
        ------
        ConfigError
            It cannot be read.
        RouterError
            The network has a route, lies in the pool, or is never forwarded; no such uplink; the gateway is not on its
            network. Says what to do.
        """
        with self._lock:
            self._routes.add(Route.parse(route))

    def remove_route(self, network) -> None:
        """Remove a route that was written. Raises `RouterError` where there is none."""
        with self._lock:
            self._routes.remove(ipaddress.ip_network(network))

    def routes(self) -> list[Route]:
        """All routes, IPv4's first, by address and length: those written, of uplinks' own networks, of pools, of blocks
        behind attachments, and the first uplink as the default where none is written."""
        with self._lock:
            return [route for version in (4, 6) for route in self._routes.listed(version, most=1 << 30)]

    def neighbors(self, uplink: str) -> dict[str, str | None]:
        """Stations that an uplink sends to, by address: their Ethernet address, None while they are asked for."""
        with self._lock:
            port = self.uplinks()[uplink]
            known = self._forwarder.neighbors(port) if port is not None else {}
        return {address: mac.hex(":") if mac else None for address, (mac, _) in known.items()}

    @property
    def published(self) -> list[tuple[str, str, int]]:
        """Ports of the machine that are stacks': protocol, host, port, in the order in which they were asked for."""
        return list(self._user.published) if self._user is not None else []

    def relayed(self) -> dict[str, int] | None:
        """What the uplink ``user`` did, by name; None without one. See `netstack.router.relay.engine.COUNTER_NAMES`."""
        return self._user.counters() if self._user is not None else None

    def attachments(self) -> list[AttachmentInfo]:
        """Who is attached, oldest first."""
        return self._attachments.infos()

    def address_of(self, pid: int) -> list[str]:
        """Addresses of a process."""
        return [
            format_address(address)
            for info in self.attachments()
            if info.pid == pid
            for address in info.addresses
        ]

    def counters(self, ident: int = 0) -> dict[str, int]:
        """What was forwarded and dropped: of one attachment, or of all since the router began (0)."""
        with self._lock:
            return self._forwarder.counters(ident)

    def limit(self, ident: int, limit: Mapping[str, Any] | Limit | None) -> None:
        """Change what one attachment may send, packets that wait in its ring included; None: no limit.

        Parameters
        ----------
        ident : int
            Its number, `Attachment.id`.
        limit : mapping or Limit
            ``{"rate": "10mbit"}``: see `limits.Limit`.

        Raises
        ------
        ConfigError
            A value that cannot be.
        RouterError
            No such attachment.
        """
        self.limits.set(ident, limit)

    def endings(self) -> dict[str, int]:
        """How many attachments ended so far, by reason: ``released``, ``gone`` (their control socket),
        ``process ended``, ``closed``, ``poisoned`` or ``truncated`` (their rings), ``greedy``, or in other words.
        """
        with self._lock:
            return dict(self._attachments.endings)

    @property
    def greedy(self) -> str:
        """What is done about TCPs that misbehave; may be changed."""
        return self.conduct.policy

    @greedy.setter
    def greedy(self, policy: str) -> None:
        self.conduct.policy = policy

    def check_conservation(self) -> list[str]:
        """Laws of conservation that do not hold, in words: packets in = packets out + drops. Empty."""
        with self._lock:
            return self._forwarder.check_conservation()

    def reclaim_times_ns(self) -> list[int]:
        """How long it took to take back everything of each stack, from the notice of its end on."""
        return list(self._attachments.reclaims_ns)

    def close(self) -> None:
        """End the router: all stacks see their link die. Closing twice is allowed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        _living.discard(self)
        if self._metrics is not None:
            self._metrics.close()
        self._control.stop()
        self._uplinks.close()
        self._forwarder.stop()
        self._forwarder.close()
        log.info("router %s ended", self.name)

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._attachments)} attached"
        return f"<Router {self.name} {self._pools} {state}>"


_living: weakref.WeakSet = weakref.WeakSet()


def _close_all() -> None:
    """The end of the program. Hosts of this process go first: what they sent still has to arrive."""
    hosts = sys.modules.get("netstack.host")
    if hosts is not None and _living:
        hosts._close_all()
    for router in list(_living):
        router.close()


atexit.register(_close_all)

__all__ = ["Router", "AttachmentInfo", "format_address", "pack_address"]
