"""A Host: a stack, its link, a clock and who drives it; what a program holds."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import ipaddress
import os
import socket as _kernel
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from netstack.config import ResolverConfig, StackConfig
from netstack.driver import Driver
from netstack.errors import AddressConflictError, ConfigError, ForkedError
from netstack.handle import Handle
from netstack.placing import hosts_here
from netstack.resolver import Resolver
from netstack.socket import socket
from netstack.stack import Stack
from netstack.stacks import close_report, open_report

if TYPE_CHECKING:
    import asyncio

    from netstack.dhcp import Client
    from netstack.dhcp6 import Client as Client6
    from netstack.trace import Trace

_Socket = socket   # in annotations of Host, whose method has the name

_GLOBAL_DEFAULT = object()
TRIAL_MOST_S = 10.0      # that IPv6 addresses are waited for: two seconds, more where others are in the way


class Host:
    """A TCP/IP stack of this process, on a link, with sockets as the standard library's.

    Waiting threads drive it: they drain the link and run the timers themselves. A standby thread, which
    knows nothing of Python, keeps acknowledgements and retransmissions going while nobody waits.

    Parameters
    ----------
    link : Link, optional
        Where packets go; the host closes it. Without one the host only reaches itself.
    address : str or iterable of str
        Own addresses with prefix length, ``"10.9.0.2/24"``; ``"dhcp"`` asks the link's DHCP server for one,
        and keeps the lease (`netstack.dhcp`).
    gateway : str, optional
        Default route. Links that carry IP packets need none.
    mtu : int, optional
        Largest IP packet in bytes; the link's by default.
    spin_us : float
        How long a waiting thread looks at the link before it sleeps, microseconds. Adapted downwards while
        it does not pay; 0 never spins.
    service : bool
        Run the standby thread.
    drain : float
        How many seconds `close`, and the end of the program, wait at most until the data and FINs of closed
        sockets have arrived.
    dns : True, False or "kernel"
        Who is asked for names that no file knows: name servers, over this host's own sockets; nobody; the
        kernel's resolver, through the kernel's network.
    resolver : ResolverConfig, optional
        Name servers, search list, hosts file, patience. Without it: the machine's ``/etc/hosts``; the servers
        and the domain of a DHCP lease, and what routers and DHCPv6 say where router advertisements are heard
        (``sysctl={"net.ipv6.conf.all.accept_ra": 1}``); else those of the machine's ``/etc/resolv.conf``, as far
        as this host can reach them through its own link.
    seed : bytes or int, optional
        Makes secrets and randomness of the stack repeatable.
    sysctl : mapping, optional
        Settings by Linux name, ``{"net.ipv4.tcp_timestamps": 0}``.
    acd : bool
        Ask the link whether anybody else has an IPv4 address before it is used (RFC 5227), and wait for that: about six
        seconds. Links that carry IP packets have nobody to ask.
    visible : bool
        Let ``netstack ss`` of the same user list the sockets; the standby thread answers it.
    lease : object, optional
        Closed behind the link: what a router gave along with it.
    virtual_ns : int
        Its time is virtual and begins there, ns; `netstack.testing.VirtualNetwork` moves it on. 0: the machine's clock.

    Raises
    ------
    ConfigError
        An address, gateway or mtu that cannot be.
    AddressConflictError
        With ``acd``: another station has an address.

    Examples
    --------
    >>> a, b = netstack.link.channel_pair()                             # doctest: +SKIP
    >>> with netstack.Host(link=a, address="10.9.0.1/24") as host:      # doctest: +SKIP
    ...     s = host.create_connection(("10.9.0.2", 80))
    """

    def __init__(self, link=None, address: str | Iterable[str] = (), gateway: str | None = None,
                 mtu: int | None = None, *, spin_us: float = 50.0, service: bool = True, drain: float = 60.0,
                 dns: bool | str = True, resolver: ResolverConfig | None = None,
                 seed: bytes | int | None = None, sysctl: Mapping[str, object] | None = None,
                 acd: bool = False, visible: bool = True, lease=None, virtual_ns: int = 0) -> None:
        addresses = (address,) if isinstance(address, str) else tuple(str(a) for a in address)
        by_dhcp = "dhcp" in addresses
        addresses = tuple(a for a in addresses if a != "dhcp")
        if by_dhcp and (link is None or link.media != "ethernet"):
            raise ConfigError("address 'dhcp' needs an Ethernet link")
        if link is not None and mtu is not None and mtu > link.mtu:
            raise ConfigError(f"mtu {mtu}: this link carries at most {link.mtu} bytes")
        try:
            config = StackConfig(
                media=link.media if link is not None else "ip",
                addresses=addresses, gateway=gateway,
                mtu=mtu or (link.mtu if link is not None else 65535),
                seed=seed, sysctl=dict(sysctl or {}), acd=acd,
            )
        except ValueError as e:
            raise ConfigError(str(e)) from e
        self.addresses = addresses
        self.link = link
        self.drain = drain
        self.serves = service
        self.stack = Stack(config, [link])
        if resolver is None and link is None:
            resolver = ResolverConfig(servers=())          # the machine's are out of reach
        self.resolver = Resolver(self._own_addresses, dns, config=resolver, make_socket=self.socket,
                                 interface_index=self.interface_index, interface_name=self.if_indextoname,
                                 learnt=self._learnt_names,
                                 source_address=lambda destination: self.driver.source_address(destination),
                                 loopback=link is not None and link.kernel_ip)
        report, self._report = open_report() if visible and service else (-1, None)
        self.driver = Driver(self.stack, spin_us=spin_us, service=service, report=report, virtual_ns=virtual_ns)
        self._lease = lease
        self._again: Callable[[], Host] | None = None      # makes another like it
        self._heir: Host | None = None                     # the one that was made in a forked child
        hosts_here.add(self)
        self._wait_for_addresses()
        self._dhcp: Client | None = None
        self._dhcp6: Client6 | None = None
        self._hears_routers = link is not None and link.media == "ethernet" and \
            bool(self.stack.get("net.ipv6.conf.all.accept_ra"))
        if self._hears_routers and dns is True and (resolver is None or resolver.servers is None):
            from netstack.dhcp6 import Client as Client6

            self._dhcp6 = Client6(self, self.stack.mac(0))
            self._dhcp6.start()
        if by_dhcp:
            from netstack.dhcp import Client

            self._dhcp = Client(self, self.stack.mac(0))
            try:
                self._dhcp.acquire()
            except BaseException:
                self.close()
                raise
            self._dhcp.start()
        if acd:
            try:
                self._await_addresses()
            except BaseException:
                self.close()
                raise

    def add_address(self, address: str, gateway: str | None = None) -> None:
        """One more address with its prefix length, and the default route through *gateway* if given."""
        self.driver.add_address(address, gateway)
        self.addresses = (*self.addresses, address)

    def remove_address(self, address: str) -> None:
        """Give an address up; connections from it will time out."""
        self.driver.remove_address(address)
        self.addresses = tuple(a for a in self.addresses if a.partition("/")[0] != address)

    def _await_addresses(self) -> None:
        """Until every address is ours, or the first that is not."""
        with self.socket(type=_kernel.SOCK_DGRAM) as s:
            s.settimeout(0.05)
            while True:
                trials = self.stack.address_trials()
                for address, (state, mac) in trials.items():
                    if state == "conflict":
                        raise AddressConflictError(errno.EADDRINUSE, f"{address} is used by {mac}")
                if all(state == "ready" for state, _ in trials.values()):
                    return
                with contextlib.suppress(TimeoutError):
                    s.recv(1)                              # drives the stack meanwhile

    def _wait_for_addresses(self) -> None:
        """On Ethernet an IPv6 address may be used when nobody has objected for a second (RFC 4862)."""
        end = time.monotonic() + TRIAL_MOST_S
        if not self.stack.tentative:
            return
        with self.socket(type=_kernel.SOCK_DGRAM) as idle:     # who waits drives the stack
            idle.settimeout(0.02)
            while self.stack.tentative and time.monotonic() < end:
                try:
                    idle.recv(1)
                except TimeoutError:
                    continue

    def _own_addresses(self) -> list[str]:
        """Those given and those that the stack made itself, without prefix; IPv4 first, those of the link last."""
        given = [str(ipaddress.ip_interface(a).ip) for a in self.addresses]
        own = [ipaddress.ip_address(a) for a in dict.fromkeys([*given, *self.stack.addresses])]
        return [str(a) for a in sorted(own, key=lambda a: (a.version == 6, a.is_link_local))]

    def _learnt_names(self) -> tuple[list[str], list[str] | None]:
        """Name servers and search domains that the network told: by DHCP, by DHCPv6, and behind them those of router
        advertisements (RFC 8106 section 5.3.1). Behind a router that asks for us the domains are the machine's."""
        if getattr(self._lease, "name_servers", ()):
            return list(self._lease.name_servers), None
        servers: list[str] = []
        search: list[str] = []
        lease = self._dhcp.lease if self._dhcp is not None else None
        if lease is not None:
            servers += lease.servers
            search += [lease.domain.strip(".")] if lease.domain else []
        said = self._dhcp6.information if self._dhcp6 is not None else None
        if said is not None:
            servers += said.servers
            search += said.search
        if self._hears_routers:
            announced, domains, _ = self.driver.learnt()
            servers += announced
            search += domains
        return list(dict.fromkeys(servers)), list(dict.fromkeys(search))

    def interface_index(self, name: str) -> int:
        """The number of an interface, for zones in addresses: by the device's name, ``if1``, or ``lo``.

        Raises
        ------
        OSError
            There is none of that name.
        """
        numbers = {"if1": 1, "lo": 2, str(getattr(self.link, "name", "if1")): 1}
        try:
            return numbers[name]
        except KeyError:
            raise OSError(errno.ENODEV, f"{os.strerror(errno.ENODEV)}: {name!r}") from None

    def if_nameindex(self) -> list[tuple[int, str]]:
        """As ``socket.if_nameindex``: ``[(1, the link's name or "if1"), (2, "lo")]``."""
        link = [(1, str(getattr(self.link, "name", "if1")))] if self.link is not None else []
        return [*link, (2, "lo")]

    def if_nametoindex(self, name: str) -> int:
        """As ``socket.if_nametoindex``."""
        for number, known in self.if_nameindex():
            if known == os.fsdecode(name):
                return number
        raise OSError("no interface with this name")

    def if_indextoname(self, index: int) -> str:
        """As ``socket.if_indextoname``."""
        if not 0 <= index < 1 << 32:
            raise OverflowError("interface index out of range")
        try:
            return dict(self.if_nameindex())[index]
        except KeyError:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO)) from None

    # --- sockets

    @property
    def reaches_out(self) -> bool:
        """Whether it has a way to anybody but itself."""
        return self.link is not None

    @property
    def lease(self):
        """What a router gave: the `netstack.router.Attachment`; None without one."""
        return self._lease

    @property
    def shares_address(self) -> bool:
        """Whether other stacks have its address too, and the router tells them apart by ports."""
        return getattr(self._lease, "ports", None) is not None

    def heir(self) -> Host:
        """In a forked child: the host that takes this one's place there. It has the same shared address, from the same
        router, and the parent's listeners, each from its first use on.

        Raises
        ------
        ForkedError
            The address is the parent's alone.
        """
        if not self.driver.forked:
            return self
        with _heirs:
            if self._heir is None:
                if self._again is None or not self.shares_address:
                    raise ForkedError(errno.EBADF,
                                      "this host belongs to the parent process: make a new one after fork()")
                self._heir = self._again()
        return self._heir.heir()

    def open_handle(self, family: int, type: int, proto: int) -> Handle:
        """What the face of a new socket of this host stands on."""
        if self.driver.forked and self.shares_address:
            return self.heir().open_handle(family, type, proto)
        return Handle.open(self.driver, family, type, proto, self)

    def socket(self, family: int = _kernel.AF_INET, type: int = _kernel.SOCK_STREAM,
               proto: int = 0) -> socket:
        """A new socket of this host; see `netstack.socket.socket`."""
        return socket(family, type, proto, host=self)

    def create_connection(self, address, timeout=_GLOBAL_DEFAULT, source_address=None, *,
                          all_errors: bool = False) -> _Socket:
        """As ``socket.create_connection``: connect to ``(host, port)``, by whichever address of a name answers first.

        IPv6 and IPv4 take turns, each has a head start of 250 ms (RFC 8305); those that lose are closed.
        """
        from netstack.connecting import create_connection

        given = () if timeout is _GLOBAL_DEFAULT else (timeout,)
        return create_connection(self, address, given, source_address, all_errors=all_errors)

    def create_server(self, address, *, family: int = _kernel.AF_INET, backlog: int | None = None,
                      reuse_port: bool = False, dualstack_ipv6: bool = False) -> _Socket:
        """As ``socket.create_server``: a listening TCP socket bound to ``(host, port)``.

        With ``dualstack_ipv6`` and family AF_INET6 it takes IPv4 too, whose peers are then ``::ffff:a.b.c.d``.
        """
        if dualstack_ipv6 and family != _kernel.AF_INET6:
            raise ValueError("dualstack_ipv6 needs family=AF_INET6")
        s = self.socket(family, _kernel.SOCK_STREAM)
        try:
            s.setsockopt(_kernel.SOL_SOCKET, _kernel.SO_REUSEADDR, 1)
            if reuse_port:
                s.setsockopt(_kernel.SOL_SOCKET, _kernel.SO_REUSEPORT, 1)
            if family == _kernel.AF_INET6:
                s.setsockopt(_kernel.IPPROTO_IPV6, _kernel.IPV6_V6ONLY, 0 if dualstack_ipv6 else 1)
            s.bind(address)
            s.listen(128 if backlog is None else backlog)
        except BaseException:
            s.close()
            raise
        return s

    # --- asyncio

    async def open_connection(self, host, port, **options) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As `asyncio.open_connection`, in the event loop that runs; one of `netstack.aio` is the fastest."""
        from netstack.aio import open_connection

        return await open_connection(self, host, port, **options)

    async def start_server(self, client_connected_cb, host=None, port=None, **options) -> asyncio.Server:
        """As `asyncio.start_server`, in the event loop that runs; one of `netstack.aio` is the fastest."""
        from netstack.aio import start_server

        return await start_server(self, client_connected_cb, host, port, **options)

    # --- names

    def resolve(self, name: str, family: int) -> str:
        """The first address of a name, as text; ``socket.gaierror`` when the host does not know it."""
        return self.resolver.resolve(name, family)

    def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        """As ``socket.getaddrinfo``: literals, the hosts file, then name servers over this host's own sockets."""
        return self.resolver.getaddrinfo(host, port, family, type, proto, flags)

    def gethostbyname(self, name) -> str:
        """As ``socket.gethostbyname``."""
        return self.resolver.gethostbyname(name)

    def gethostbyname_ex(self, name):
        """As ``socket.gethostbyname_ex``."""
        return self.resolver.gethostbyname_ex(name)

    def gethostbyaddr(self, address):
        """As ``socket.gethostbyaddr``."""
        return self.resolver.gethostbyaddr(address)

    def getnameinfo(self, address, flags: int):
        """As ``socket.getnameinfo``."""
        return self.resolver.getnameinfo(address, flags)

    def getfqdn(self, name: str = "") -> str:
        """As ``socket.getfqdn``."""
        return self.resolver.getfqdn(name)

    def patch(self, **options):
        """Put this host under the standard library's ``socket`` module; see `netstack.patch`."""
        from netstack.patching import patch

        return patch(self, **options)

    # --- life

    def counters(self) -> dict[str, int]:
        """What happened so far: the stack's counts, and who drove it (``segments_by_caller``, ...)."""
        return {**self.stack.counters(), **self.driver.counters()}

    def start_trace(self, records: int = 65536) -> None:
        """Record what connections do, with cwnd and the rest; see `netstack.stack.Stack.start_trace`."""
        self.driver.start_trace(records)

    def stop_trace(self) -> Trace:
        """End the trace and give it: ``host.stop_trace().save("x.trace")``, which ``netstack plot`` draws."""
        return self.driver.stop_trace()

    @property
    def closed(self) -> bool:
        return self.driver.closed

    def close(self) -> None:
        """Close all sockets, wait (at most ``drain`` seconds) until their data arrived, and give the link
        back.

        In a forked child nothing happens: host and sockets are the parent's.
        """
        if self.driver.forked or self.driver.closed:
            return
        if self._dhcp is not None:
            self._dhcp.stop()
            with contextlib.suppress(OSError):
                self._dhcp.release()
        if self._dhcp6 is not None:
            self._dhcp6.stop()
        self.driver.close_sockets()
        try:
            self.driver.linger(self.drain)
        finally:
            self.driver.close()
            if self._report is not None:
                close_report(self._report)
            if self.link is not None:
                self.link.close()
            if self._lease is not None:
                self._lease.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "forked" if self.driver.forked else "closed" if self.closed else "open"
        return f"<netstack.Host {', '.join(self.addresses) or 'without address'} ({state})>"


MODES = ("library", "hybrid", "daemon")


def attach(name: str | None = None, address: str | Iterable[str] | None = None, *, mode: str = "library",
           mtu: int | None = None, block=None, wrap=None, reconnect: float = 60.0, **options) -> Host:
    """Join the network of this machine: a Host with an address of the router's, or with the kernel's.

    Parameters
    ----------
    name : str, optional
        Which router, when several run; ``$NETSTACK_ROUTER`` or ``default`` without it. Which daemon, with that mode.
    address : str or iterable of str, optional
        Addresses wanted, ``"0.0.0.0"`` and ``"::"`` for any of that version; by default one of each version that the
        router chooses, or all that the kernel has.
    mode : "library", "hybrid" or "daemon"
        What is in this process: all of TCP/IP, behind a router; or TCP and UDP, with IP left to the kernel
        (`netstack.link.KernelIp`, which needs CAP_NET_RAW); or sockets alone, whose stack is in a daemon, with its
        addresses (`netstack.daemon`).
    mtu : int, optional
        Largest packet in bytes; the router's, or that of the kernel's devices, by default.
    block : int or str, or iterable of these, optional
        Prefixes of the router's pool to have whole: ``26`` or ``"/64"`` for any of that length, ``"10.77.4.0/26"`` for
        this one. ``host.lease.blocks`` are those it got; the stack has the first address but one of a block where it
        asked for no other of that version, and `Host.add_address` gives it more.
    wrap : callable, optional
        Gets the link and returns the one to use, such as a `netstack.link.PcapWriter` around it.
    reconnect : float
        Should the router be killed, how many seconds connections wait for one that is started again under its name, and
        then go on, with the same addresses. Until then everything sent is lost, as where a cable is cut. Connections
        end at once with 0, and when the router ends on purpose.
    options
        As of `Host`.

    Raises
    ------
    NoRouterError, NoDaemonError
        No router, or daemon, runs under that name.
    AddressTakenError, PoolEmptyError
        There is no such address or block to be had.
    LinkError
        Hybrid: no CAP_NET_RAW, or the kernel has no such address.

    Examples
    --------
    >>> with netstack.attach() as host:                                 # doctest: +SKIP
    ...     server = host.create_server(("", 80))
    """
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r}: say one of {', '.join(MODES)}")
    if mode == "daemon":
        from netstack.daemon.host import DaemonHost

        if address is not None or mtu is not None or wrap is not None or block is not None:
            raise ConfigError("address, block, mtu and wrap are settings of the daemon, not of its clients")
        return DaemonHost(name, **options)
    if mode == "hybrid":
        if name is not None:
            raise ConfigError(f"name {name!r}: a hybrid stack has the kernel's IP below it, no router")
        if block is not None:
            raise ConfigError("block: only a router has blocks to lease")
        return _attach_to_kernel(address, mtu, wrap, options)
    from netstack.router.client import attach as ask

    lease = ask(name, address, block=block, mtu=mtu)
    try:
        link = lease.link if wrap is None else wrap(lease.link)
        addresses = [f"{a}/{n}" for a, n in zip(lease.addresses, lease.prefix_lengths, strict=True)]
        host = Host(link=link, address=addresses, lease=lease, **options)
        lease.serve(host.driver, reconnect)
        host._again = functools.partial(attach, lease.name, mtu=mtu, wrap=wrap, **options)
        return host
    except BaseException:
        lease.close()
        raise


def _attach_to_kernel(address: str | Iterable[str] | None, mtu: int | None, wrap, options) -> Host:
    from netstack.link.kernel_ip import KernelIp

    kernel = KernelIp(address)
    try:
        link = kernel if wrap is None else wrap(kernel)
        return Host(link=link, address=kernel.addresses, mtu=mtu, **options)
    except BaseException:
        kernel.close()
        raise


def _after_fork() -> None:
    global _heirs
    _heirs = threading.Lock()


_heirs = threading.Lock()        # one heir of a host, whoever asks first
os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _close_all() -> None:
    """The end of the program: as under a kernel, what was sent still arrives."""
    for host in list(hosts_here):
        try:
            host.close()
        except Exception:  # noqa: BLE001, S110 - the others must still be closed, and nobody is left to tell
            continue
