"""The router: hands out addresses, rings and doorbells, and takes them back from the dead.

The data path (`netstack.router.forwarding`) runs in a thread without Python; this module is what it is told.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hmac
import ipaddress
import itertools
import os
import secrets
import socket
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from netstack.errors import ConfigError, LinkError, RouterError
from netstack.link.emulation import Emulation
from netstack.log_limit import limited
from netstack.router import protocol
from netstack.router.block_messages import Network
from netstack.router.captures import Captures
from netstack.router.conduct import Conduct, findings
from netstack.router.control import FAR_AWAY, OTHERS_SHARE, Connection, ControlServer
from netstack.router.forwarding import Forwarder
from netstack.router.limiting import limit_of
from netstack.router.limits import Limit, Limits
from netstack.router.memory import Memory
from netstack.router.paths import socket_path
from netstack.router.pool import HOLD_NS, TOKEN_BYTES, Lease, format_address, is_v4, pack_address
from netstack.router.pools import ADDRESSING, ANY_V4, ANY_V6, DEFAULT_V4, PoolConfig, Pools, unique_local_network
from netstack.router.protocol import AttachmentInfo, AttachReply, AttachRequest, Backend, Capability
from netstack.router.routed_blocks import RoutedBlocks
from netstack.router.sharing import SharedAddresses
from netstack.router.static_routes import Route, StaticRoutes, pack_listed, unpack_after, unpack_route
from netstack.router.uplinks import Uplink, UplinkConfig, open_descriptor
from rings.shared_memory import sweep

if TYPE_CHECKING:
    from netstack.router.metrics import MetricsServer
    from netstack.router.parent import ParentUplink
    from netstack.router.user import UserUplink

log = limited("netstack.router")

CAPACITY_MIN = 256 << 10
CAPACITY_MAX = 64 << 20
UPLINK_RETRY_NS = 1_000_000_000


class _Attached:
    """What the router holds for one stack."""

    def __init__(self, connection: Connection, channel, bells, mtu: int, capabilities: int):
        self.connection = connection
        self.channel = channel
        self.bells = bells  # sockets the router rings (memfd), kept open
        self.mtu = mtu
        self.capabilities = capabilities
        self.token = b""  # what its owner proves itself with after a restart
        self.leases: list[Lease] = []
        self.blocks: list[Network] = []
        self.shared: tuple[bytes, ...] = ()  # addresses that others have too
        self.numbers: set[tuple[int, int]] = set()  # kinds and ports that it has of them
        self.port = 0
        self.since_ns = time.monotonic_ns()
        self.command = command_of(connection.pid)
        self.misdeed = ""  # what a TCP of it did last, in words

    @property
    def addresses(self) -> tuple[bytes, ...]:
        addresses = (*self.shared, *(lease.address for lease in self.leases))
        return tuple(sorted(addresses, key=lambda a: not is_v4(a))) if self.shared else addresses

    @property
    def whereabouts(self) -> str:
        """Its addresses and blocks, for people."""
        return ", ".join((*map(format_address, self.addresses), *map(str, self.blocks)))

    def info(self, forwarder: Forwarder) -> AttachmentInfo:
        c = forwarder.counters(self.port)
        limit = limit_of(forwarder, self.port)
        return AttachmentInfo(
            id=self.port,
            pid=self.connection.pid,
            uid=self.connection.uid,
            state=forwarder.state(self.port),
            epoch=self.leases[0].epoch if self.leases else 0,
            uptime_ns=time.monotonic_ns() - self.since_ns,
            packets_in=c["in_packets"],
            bytes_in=c["in_bytes"],
            packets_out=c["out_packets"],
            bytes_out=c["out_bytes"],
            drops_in=sum(v for k, v in c.items() if k.startswith("drop_in_")),
            drops_out=sum(v for k, v in c.items() if k.startswith("drop_out_")),
            mtu=self.mtu,
            addresses=self.addresses,
            command=self.command,
            blocks=tuple(self.blocks),
            limit_bytes_s=limit[0],
            limit_packets_s=limit[1],
            limited=c["limited"],
            deferred=c["deferred"],
            greedy=findings(c),
        )


def command_of(pid: int) -> str:
    """The command line of a process, as the kernel tells it, in one line; empty if it hides."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            text = file.read(4096).rstrip(b"\0").decode("utf-8", "replace")
    except OSError:
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


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
        self._emulation = Emulation.of(emulation)
        self._seeds = itertools.count(self._emulation.seed or 0) if self._emulation else None
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
        self._max = max_attachments
        self._lock = threading.RLock()
        self._attached: dict[int, _Attached] = {}
        self._reclaims_ns: deque[int] = deque(maxlen=4096)
        self._endings: Counter[str] = Counter()
        self._retry_at_ns = 0
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
        self._blocks = RoutedBlocks(self._pools, self._forwarder)
        self._uplinks = [self._make_uplink(c, default=c is configs[0], opening=opening) for c in configs]
        self._user: UserUplink | None = next((u for u in self._uplinks if u.config.kind == "user"), None)
        self._routes = StaticRoutes(self._forwarder, [pool.network for pool in self._pools], self._uplinks)
        self.path = socket_path(self.name)
        if backend == "posix":
            sweep()  # names that somebody left who died between making and unlinking one (security R17)
        self._memory: Memory | None = None
        self._metrics: MetricsServer | None = None
        with contextlib.ExitStack() as undo:
            if self._parent is not None:
                undo.callback(self._parent.leave)
            for uplink in self._uplinks:
                undo.callback(uplink.close, self._forwarder)
                uplink.open(self._forwarder)
                self._routes.opened(uplink)
            for route in written:
                self._routes.add(route)
            self._control = ControlServer(
                self.path, self, max_connections=2 * max_attachments + 64, allowed_uids=allowed_uids
            )
            undo.callback(self._control.stop)
            self._next_look(time.monotonic_ns())
            if name is not None:  # nobody starts another one under a random name
                self._memory = Memory(self.path[:-5] + ".leases", self._pools.pools, self._forwarder, self._shared,
                                      self._blocks)
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
        if self._memory is not None and self._memory.waiting:
            log.info("router %s: the one before was killed; %d addresses wait %d s for their stacks", self.name,
                     self._memory.waiting, HOLD_NS // 10**9)
        if self._metrics is not None:
            log.info("router %s: metrics at %s", self.name, self._metrics.address)
        for what, bad in (("each stack", self._emulation), *((f"uplink {c.name}", c.emulation) for c in configs)):
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
            return {uplink.config.name: uplink.port for uplink in self._uplinks}

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
        with self._lock:
            return [a.info(self._forwarder) for _, a in sorted(self._attached.items())]

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
            return dict(self._endings)

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
        return list(self._reclaims_ns)

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
        for uplink in self._uplinks:
            uplink.close(self._forwarder)
        self._forwarder.stop()
        self._forwarder.close()
        log.info("router %s ended", self.name)

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._attached)} attached"
        return f"<Router {self.name} {self._pools} {state}>"

    # ---- what the control thread asks for

    def hello(self, connection: Connection) -> bytes:
        return protocol.HELLO_REPLY.pack(
            int(Capability.HOLD | Capability.SHARED | Capability.BLOCKS
                | (Capability.NAMES if self._user is not None else 0)),
            os.getpid(),
            self.mtu,
            Backend[self.backend.upper()],
            self.name.encode(),
        )

    def attach_connection(self, connection: Connection, request: AttachRequest) -> tuple[bytes, list[int]]:
        """Make an attachment: addresses, rings, doorbells. Returns the reply and the descriptors to send with
        it.
        """
        with self._lock:
            if connection.attachment is not None:
                raise RouterError(errno.EISCONN, "this connection has an attachment: one connection each")
            if len(self._attached) >= self._max:
                raise RouterError(errno.EUSERS, f"{self._max} stacks are attached: no more")
            most = self._max if connection.is_owner else max(1, self._max // OTHERS_SHARE)
            if sum(a.connection.uid == connection.uid for a in self._attached.values()) >= most:
                raise RouterError(errno.EDQUOT, f"{most} stacks of user {connection.uid} are attached: no more of his")
            mtu = min(request.mtu or self.mtu, self.mtu)
            if mtu < 576:
                raise RouterError(errno.EINVAL, f"mtu {mtu}: 576 to {self.mtu} bytes")
            capacity = check_capacity(request.ring_capacity or self.ring_capacity)
            blocks = self._blocks.wanted(request, connection.uid, mtu)
            wanted = self._pools.wanted(self._asked(request), mtu)
            wanted = self._blocks.instead(wanted, bool(request.addresses), blocks)
            for address in wanted:
                self._pools.check(address, connection.uid, request.token)
            shared = [address for each in wanted if (address := self._pools.shared_address(each)) is not None]
            if shared and not request.capabilities & Capability.SHARED:
                raise RouterError(
                    errno.EPROTONOSUPPORT,
                    "stacks share an address here and claim their ports, which this one does not know how to: "
                    "let it ask for an address, or use the same release",
                )
            channel, fds, bells, its = self._make_channel(capacity)
            granted = Capability.SHARED if shared else Capability.NONE
            if len(shared) < len(wanted) or blocks:
                granted |= Capability(request.capabilities) & Capability.HOLD
            attached = _Attached(connection, channel, bells, mtu, granted)
            attached.token = request.token or secrets.token_bytes(TOKEN_BYTES)
            try:
                self._put_into_service(attached, wanted, blocks)
            except BaseException:
                for sock in its:
                    sock.close()
                self._take_back(attached)
                raise
            connection.attachment = attached
            connection.after_send = its
            self._attached[attached.port] = attached
            reply = AttachReply(
                id=attached.port,
                capabilities=attached.capabilities | (Capability.NAMES if self._user is not None else 0),
                ring_capacity=capacity,
                generation=channel.generation,
                epoch=attached.leases[0].epoch if attached.leases else 1,
                mtu=mtu,
                backend=Backend[self.backend.upper()],
                fds=len(fds),
                addresses=attached.addresses,
                prefix_lengths=tuple(self._pools.of(address).prefix_length for address in attached.addresses),
                router_addresses=tuple(
                    dict.fromkeys(pool.router_address for pool in (
                        *(self._pools.of(address) for address in attached.addresses),
                        *(self._blocks.pool_of(network) for network in attached.blocks)))
                )[:2],
                token=attached.token,
                blocks=tuple(attached.blocks),
                pool_lengths=tuple(self._blocks.pool_of(network).prefix_length for network in attached.blocks),
            )
        log.info(
            "attached %s: process %d, %s",
            attached.whereabouts,
            connection.pid,
            attached.command or "?",
        )
        return reply.pack(), fds

    def _asked(self, request: AttachRequest) -> list[bytes]:
        """Who comes back names the shared addresses, too: it is to share them again."""
        if not request.token:
            return list(request.addresses)
        shared = {a: ANY_V4 if is_v4(a) else ANY_V6 for a in (self._shared.addresses if self._shared else ())}
        return [shared.get(address, address) for address in request.addresses]

    def detach(self, connection: Connection, why: str) -> None:
        """Take back everything of a stack, at once."""
        began = time.monotonic_ns()
        with self._lock:
            self.captures.forget(connection)
            attached, connection.attachment = connection.attachment, None
            if attached is None:
                return
            self._attached.pop(attached.port, None)
            self._endings[why] += 1
            hold = bool(attached.capabilities & Capability.HOLD) and why != "released"
            self._take_back(attached, hold=hold)
            if self._user is not None and not hold and not attached.shared:
                self._user.forget(attached.addresses)
            if self._user is not None and not hold:
                self._user.forget(attached.blocks)
        self._reclaims_ns.append(time.monotonic_ns() - began)
        log.info(
            "detached %s: process %d, %s",
            attached.whereabouts,
            connection.pid,
            why,
        )

    def farewell(self) -> None:
        """All are detached, and the next router of this name may start at any moment: nobody was promised anything."""
        if self._memory is not None:
            self._memory.close()

    def claim(self, connection: Connection, kind: int, flags: int, number: int) -> None:
        """A port of the shared address, for the attachment of this connection."""
        with self._lock:
            self._sharer(connection).claim(connection.attachment.port, kind, number, flags)
            if self._memory is not None:
                self._memory.has(connection.attachment, kind, [number])

    def unclaim(self, connection: Connection, kind: int, flags: int, number: int) -> None:
        with self._lock:
            self._sharer(connection).release(connection.attachment.port, kind, number)
            if self._memory is not None:
                self._memory.has_not(connection.attachment, {(kind, number)})

    def inherit(self, connection: Connection, kind: int, yields: int, number: int, token: bytes) -> None:
        """A port of the attachment that the token is of, for that of this connection: a child of its process."""
        with self._lock:
            shared = self._sharer(connection)
            parent = next((a for a in self._attached.values() if a.token and hmac.compare_digest(a.token, token)), None)
            if parent is None:
                raise RouterError(errno.ESRCH, "no attachment has this token: the parent has left the router")
            shared.inherit(connection.attachment.port, parent.port, kind, number, bool(yields))

    def share(self, connection: Connection, kind: int, flags: int, number: int) -> None:
        """A port that children of the attachment's process may come to have."""
        with self._lock:
            self._sharer(connection).share(connection.attachment.port, kind, number)

    def know(self, connection: Connection, kind: int, number: int, flows: list[tuple[bytes, bytes, int]]) -> None:
        with self._lock:
            self._sharer(connection).know(connection.attachment.port, kind, number, flows)

    def stay(self, connection: Connection, kind: int, flags: int, number: int) -> None:
        with self._lock:
            self._sharer(connection).stay(connection.attachment.port, kind, number)

    def lease(self, connection: Connection, kind: int) -> bytes:
        """Ports for the attachment's connections that go out."""
        with self._lock:
            ports = self._sharer(connection).lease(connection.attachment.port, kind)
            if self._memory is not None:
                self._memory.has(connection.attachment, kind, ports)
        return protocol.LEASE_REPLY.pack(len(ports), *ports, *(0 for _ in range(64 - len(ports))))

    def _sharer(self, connection: Connection) -> SharedAddresses:
        if self._shared is None or connection.attachment is None or not connection.attachment.shared:
            raise RouterError(errno.EPERM, "this attachment shares no address: all ports of its own are its own")
        return self._shared

    def change_route(self, connection: Connection, body: bytes) -> None:
        """A route is added or removed, by the router's owner."""
        if not connection.is_owner:
            raise RouterError(errno.EPERM, "only the router's owner may change its routes")
        change, route = unpack_route(body)
        with self._lock:
            if change == protocol.ROUTE_ADD:
                self._routes.add(route)
            elif change == protocol.ROUTE_REMOVE:
                self._routes.remove(route.network)
            else:
                raise RouterError(errno.EINVAL, f"change {change} of a route: 1 adds, 2 removes")
        log.info("route %s %s by process %d", route, {1: "added", 2: "removed"}[change], connection.pid)

    def routes_after(self, body: bytes) -> bytes:
        version, network = unpack_after(body)
        with self._lock:
            return pack_listed(self._routes.listed(version, after=network, most=protocol.MAX_ROUTES))

    def list_after(self, ident: int) -> bytes:
        with self._lock:
            following = min((i for i in self._attached if i > ident), default=None)
            if following is None:
                return b""
            return self._attached[following].info(self._forwarder).pack()

    def uplink_after(self, told: int) -> bytes:
        with self._lock:
            if told >= len(self._uplinks):
                return protocol.UplinkInfo(0).pack()
            uplink = self._uplinks[told]
            kind, name = uplink.config.kind, uplink.config.name
            if uplink.port is None:
                return protocol.UplinkInfo(told + 1, kind=kind, name=name).pack()
            c = self._forwarder.counters(uplink.port)
            return protocol.UplinkInfo(
                number=told + 1,
                id=uplink.port,
                packets_in=c["in_packets"],
                bytes_in=c["in_bytes"],
                packets_out=c["out_packets"],
                bytes_out=c["out_bytes"],
                drops_in=sum(v for k, v in c.items() if k.startswith("drop_in_")),
                drops_out=sum(v for k, v in c.items() if k.startswith("drop_out_")),
                queued=c["queued"],
                mtu=self._forwarder.mtu(uplink.port),
                kind=kind,
                name=name,
                greedy=findings(c),
            ).pack()

    def counters_of(self, ident: int, first: int = 0) -> bytes:
        with self._lock:
            if ident == protocol.RELAYED and self._user is not None:
                values = list(self._user.counters().values())
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
                if (attached := self._attached.get(finding.attachment)) is not None:
                    attached.misdeed = str(finding)
            for port, why in failed:
                attached = self._attached.get(port)
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
                for uplink in self._uplinks:
                    if uplink.port == port:
                        self._lost(uplink)
        return out

    def tick(self, now_ns: int) -> int:
        """What is due: ends of holds, lost uplinks. Returns when to come again."""
        with self._lock:
            for address in self._pools.expire():
                if self._pools.of(address).rests(address):  # else others have it by now
                    self._forwarder.set_state(address, "dead")
                if self._user is not None:
                    self._user.forget([address])
            over = self._blocks.expire()
            if self._user is not None:
                self._user.forget(over)
            if self._retry_at_ns and now_ns >= self._retry_at_ns:
                self._look_after_uplinks(now_ns)
            promises = self._memory.tick(now_ns, self._attached.values()) if self._memory is not None else 0
            return min(self._pools.next_expiry_ns() or FAR_AWAY, self._retry_at_ns or FAR_AWAY, promises or FAR_AWAY)

    # ---- inside

    def _make_uplink(self, config, *, default: bool, opening):
        if config.kind == "router":
            return self._parent
        if config.kind != "user":
            addresses = [pool.router_address for pool in self._pools]
            return Uplink(config, addresses, default=default, opening=opening)
        from netstack.router.user import UserUplink

        networks = [pool.network for pool in self._pools]
        return UserUplink(config, networks, mtu=self.mtu, ring_capacity=self.ring_capacity, default=default)

    def _lost(self, uplink: Uplink | UserUplink | ParentUplink) -> None:
        log.warning("uplink %s is gone; trying again every second", uplink.config.name)
        uplink.close(self._forwarder)
        self._retry_at_ns = time.monotonic_ns() + UPLINK_RETRY_NS

    def _look_after_uplinks(self, now_ns: int) -> None:
        """Once a second: open what is lost, and ask devices that would not tell."""
        self._retry_at_ns = 0
        for uplink in self._uplinks:
            if uplink.watched and uplink.lost():
                self._lost(uplink)
            elif uplink.port is None:
                try:
                    uplink.open(self._forwarder)
                    self._routes.opened(uplink)
                    log.info("uplink %s is back", uplink.config.name)
                except (LinkError, OSError):
                    pass
        self._next_look(now_ns)

    def _next_look(self, now_ns: int) -> None:
        """When to look after the uplinks again, if there is anything to look after."""
        if any(uplink.port is None or uplink.watched for uplink in self._uplinks):
            self._retry_at_ns = now_ns + UPLINK_RETRY_NS

    def _make_channel(self, capacity: int):
        """A channel: the router's side, what the stack gets, sockets to ring it, sockets only it keeps."""
        from rings.channel import channel_pair

        here, there = channel_pair(capacity, self.backend, single_writer=self.backend == "memfd")
        fds, _ = there.export()
        bells, its = [], []
        try:
            if self.backend == "memfd":
                # A stranger could make a write to its eventfd block: its doorbells are sockets (R10).
                for number in (4, 5):
                    here_end, there_end = socket.socketpair(
                        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
                    )
                    bells.append(here_end)
                    its.append(there_end)
                    fds[number] = there_end.fileno()
        except BaseException:
            for sock in (*bells, *its):
                sock.close()
            here.close()
            raise
        # With eventfds the router keeps what it rings; the stack's side of the channel is forgotten here.
        there.detach()
        return here, fds, bells, its

    def _put_into_service(self, attached: _Attached, wanted: list[bytes], blocks: list[Network]) -> None:
        """First what can fail, then the addresses, which may come from an attachment that still lives."""
        channel = attached.channel
        bells = (-1, *(sock.fileno() for sock in attached.bells), -1) if attached.bells else channel.peer_fds
        attached.port = self._forwarder.add_stack(
            channel.tx,
            channel.rx,
            channel.fileno(),
            bells,
            mtu=attached.mtu,
            bells_are_sockets=bool(attached.bells),
            keep=channel,
        )
        if self._emulation is not None and self._seeds is not None:
            self._forwarder.emulate(attached.port, seed=next(self._seeds), **self._emulation.settings)
        self.limits.begin(attached.port)
        uid = attached.connection.uid
        self._blocks.lease(attached, blocks, attached.token)
        for each in wanted:
            shared = self._pools.shared_address(each)
            if shared is not None and self._shared is not None:
                returned = self._memory is not None and self._memory.joined(uid, attached.token)
                self._shared.join(attached.port, uid, shared, returned=returned)
                attached.shared = (*attached.shared, shared)
                continue
            lease, previous = self._pools.lease(attached, uid, each, attached.token)
            if previous is not None:
                previous.leases.remove(lease)
            attached.leases.append(lease)
            self._forwarder.bind(attached.port, lease.address, lease.epoch)
            self._forwarder.announce(lease.address)

    def _take_back(self, attached: _Attached, *, hold: bool = False) -> None:
        if attached.port:
            self.captures.port_goes(attached.port)
            self._blocks.take_back(attached, hold=hold)
            self._forwarder.remove(attached.port, hold=hold)
        if attached.shared and self._memory is not None:
            self._memory.left(attached)
        for lease in attached.leases:
            if hold:
                self._pools.hold(lease.address, attached)
            else:
                self._pools.release(lease.address, attached)
        for address in self._pools.forget():
            self._forwarder.forget(address)
        attached.channel.close()
        for sock in attached.bells:
            sock.close()


def check_capacity(capacity: int) -> int:
    """A ring's size: a power of two from 256 KiB to 64 MiB."""
    if not CAPACITY_MIN <= capacity <= CAPACITY_MAX or capacity & (capacity - 1):
        raise ConfigError(
            f"ring capacity {capacity}: a power of two from {CAPACITY_MIN} to {CAPACITY_MAX} bytes"
        )
    return capacity


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
