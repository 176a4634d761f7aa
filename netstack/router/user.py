"""The uplink that needs no privilege: stacks reach what this user's kernel sockets reach (`netstack.router.relay`)."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import resource
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netstack.config import ResolverConfig, StackConfig, parse_server
from netstack.driver import Driver
from netstack.errors import ConfigError, LinkError
from netstack.link.channel import ChannelLink
from netstack.link.emulation import NAMES, Emulation
from netstack.resolver.resolv_conf import SettingsSource
from netstack.router.pool import last_address
from netstack.router.relay.engine import Relay
from netstack.stack import Stack
from rings.channel import channel_pair

log = logging.getLogger("netstack.router")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

EXAMPLE = "write user, or user,loopback=10.77.0.1,publish=127.0.0.1:8080:10.77.0.2:80,deny=192.0.2.0/24,dns=192.0.2.53"
LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
SYSCTL = {
    "net.core.somaxconn": 65535,  # the relay's limits bound it
    "net.ipv4.icmp_ratelimit": 0,  # errors about one stack's datagrams come from many places: only all count together
}


@dataclass(frozen=True)
class Publish:
    """A port of the machine that is one of a stack: ``[tcp:|udp:]HOST:PORT:ADDRESS:PORT``."""

    stream: bool
    host: Address
    port: int
    address: Address
    target_port: int

    @classmethod
    def parse(cls, text: str) -> Publish:
        """Raises `ConfigError` for anything else."""
        one = r"(?:\[([^\]]+)\]|([0-9.]+)):(\d{1,5})"
        found = re.fullmatch(rf"(?:(tcp|udp):)?{one}:{one}", text)
        example = "write [tcp:|udp:]HOST:PORT:ADDRESS:PORT with addresses, IPv6 ones in brackets"
        if found is None:
            raise ConfigError(f"publish {text!r}: {example}")
        kind, host6, host4, port, target6, target4, target_port = found.groups()
        try:
            host, target = ipaddress.ip_address(host6 or host4), ipaddress.ip_address(target6 or target4)
        except ValueError as error:
            raise ConfigError(f"publish {text!r}: {error}; {example}") from None
        if kind == "udp" and host.version != target.version:
            raise ConfigError(f"publish {text!r}: datagrams keep their version of IP, so both addresses are of one")
        if int(port) > 65535 or not 0 < int(target_port) < 65536:
            raise ConfigError(f"publish {text!r}: a port is a number from 1 to 65535, 0 here for any")
        return cls(kind != "udp", host, int(port), target, int(target_port))


@dataclass(frozen=True, kw_only=True)
class UserConfig:
    """What ``--uplink user`` was told.

    Attributes
    ----------
    loopback : address or None
        Stands for the machine's loopback; None: that is out of reach.
    deny : tuple of networks
        Destinations that are not served.
    link_local : bool
        Serve 169.254.0.0/16 and fe80::/10, where clouds have their metadata.
    dns : tuple of (address, port), or None
        Name servers behind the router's; None: those of ``/etc/resolv.conf``. Empty: names are not served.
    publish : tuple of Publish
        Ports of the machine that are stacks'.
    flows : int or None
        Descriptors that it may use, half of them for TCP; None: half of what the process may have, at most 8192.
    idle : float
        Seconds after which a UDP port or echo identifier that is not used loses its socket.
    emulation : Emulation or None
        A bad link, in front of it.
    """

    loopback: Address | None = None
    deny: tuple[Network, ...] = ()
    link_local: bool = False
    dns: tuple[tuple[str, int], ...] | None = None
    publish: tuple[Publish, ...] = ()
    flows: int | None = None
    idle: float = 120.0
    emulation: Emulation | None = None

    kind = name = "user"
    addresses = gateways = ()

    @classmethod
    def parse(cls, text: str) -> UserConfig:
        """Read ``user[,loopback=A][,deny=CIDR]...[,link-local=yes][,dns=A[:PORT]]...[,publish=P]...[,flows=N]
        [,idle=S]`` and the settings of a bad link. ``dns=off`` serves no names.

        Raises
        ------
        ConfigError
            Anything else.
        """
        values: dict[str, Any] = {}
        bad: dict[str, Any] = {}
        for option in text.split(",")[1:]:
            key, equals, value = option.partition("=")
            try:
                if not equals:
                    raise ConfigError(f"uplink {text!r}: {option!r} without a value; {EXAMPLE}")
                if key == "loopback":
                    values[key] = ipaddress.ip_address(value)
                elif key == "deny":
                    values[key] = (*values.get(key, ()), ipaddress.ip_network(value))
                elif key == "publish":
                    values[key] = (*values.get(key, ()), Publish.parse(value))
                elif key == "dns":
                    values[key] = () if value == "off" else (*values.get(key, ()), parse_server(value))
                elif key == "link-local" and value in ("yes", "no"):
                    values["link_local"] = value == "yes"
                elif key == "flows":
                    values[key] = int(value)
                elif key == "idle":
                    values[key] = float(value)
                elif key in (*NAMES, "seed"):
                    bad[key] = int(value) if key in ("queue", "seed") else value
                else:
                    raise ConfigError(f"uplink {text!r}: unknown option {option!r}; {EXAMPLE}")
            except ValueError as error:
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(f"uplink {text!r}: {error}; {EXAMPLE}") from None
        if values.get("flows", 16) < 16 or not 0 < values.get("idle", 1.0) <= 86400:
            raise ConfigError(f"uplink {text!r}: flows are at least 16, idle is more than 0 and at most 86400 seconds")
        try:
            values["emulation"] = Emulation.of(bad)
        except ConfigError as error:
            raise ConfigError(f"uplink {text!r}: {error}") from None
        return cls(**values)


class UserUplink:
    """The relay in a router's service: its stack is attached as any other, and speaks for all the world.

    Parameters
    ----------
    config : UserConfig
    pools : sequence of ipaddress networks
        The router's. The last address of each is the uplink's own, where it answers questions for names.
    mtu, ring_capacity : int
        The router's.
    default : bool
        Packets for addresses outside the pool go here.
    """

    def __init__(self, config: UserConfig, pools: Sequence[Network], *, mtu: int, ring_capacity: int,
                 default: bool = True):
        for each in config.publish:
            if not any(each.address in pool for pool in pools):
                raise ConfigError(f"publish: {each.address} is not an address of the pool {', '.join(map(str, pools))}")
        self.config = config
        self.default = default
        self.port: int | None = None
        self.own = [last_address(pool) for pool in pools]
        self.published: list[tuple[str, str, int]] = []  # protocol, host, port
        self._pools = pools
        self._mtu = mtu
        self._capacity = ring_capacity
        self._names = SettingsSource(ResolverConfig(), loopback=True)
        self._relay: Relay | None = None
        self._last: dict[str, int] = {}
        self._undo = contextlib.ExitStack()

    def open(self, forwarder) -> None:
        """Attach the relay's stack and begin.

        Raises
        ------
        netstack.errors.LinkError
            A published port cannot be had.
        """
        shown = self.config.loopback
        with contextlib.ExitStack() as undo:
            undo.callback(self._over)
            listeners = self._listen(undo)
            here, there = channel_pair(self._capacity, "memfd")
            undo.callback(here.close)
            link = ChannelLink(there, mtu=self._mtu, watch_peer=False)
            undo.callback(link.close)
            self.port = forwarder.add_stack(here.tx, here.rx, here.fileno(), here.peer_fds, mtu=self._mtu, keep=here)
            undo.callback(forwarder.remove, self.port)
            for address in (*self.own, shown):
                if address is not None and any(address in pool for pool in self._pools):
                    forwarder.bind(self.port, str(address), 1)
            addresses = tuple(f"{own}/{own.max_prefixlen}" for own in self.own)
            stack = Stack(StackConfig(media="ip", addresses=addresses, mtu=self._mtu, sysctl=SYSCTL), [link])
            driver = Driver(stack, spin_us=20, service=False)
            undo.callback(driver.close)
            own = [str(address) for address in self.own]
            relay = self._relay = Relay(driver, own, idle_s=self.config.idle, **self._limits())
            undo.callback(relay.close)
            for network in (*self.config.deny, *(() if self.config.link_local else LINK_LOCAL)):
                relay.deny(network)
            if shown is not None:
                relay.alias(str(shown), "127.0.0.1" if shown.version == 4 else "::1")
            self._tell_servers()
            for each, sock in zip(self.config.publish, listeners, strict=True):
                relay.publish(sock.detach(), each.stream, str(each.address), each.target_port)
            undo.callback(self._begin(relay))
            forwarder.lead_outside(self.port, default=self.default)
            if self.config.emulation is not None:
                forwarder.emulate(self.port, seed=self.config.emulation.seed, **self.config.emulation.settings)
            self._undo = undo.pop_all()

    watched = False  # it has no device that could be lost

    def lost(self) -> bool:
        return False

    def close(self, forwarder) -> None:
        """End all its connections and take the stack out of service. Closing twice is allowed."""
        self._undo.close()

    def forget(self, addresses) -> None:
        """Stacks with these addresses (16 bytes each) or networks are gone for good: so are their connections."""
        if self._relay is not None:
            for address in addresses:
                self._relay.forget(address)

    def counters(self) -> dict[str, int]:
        """What the relay did, by name (`netstack.router.relay.engine.COUNTER_NAMES`), and its flows now."""
        return self._relay.counters() if self._relay is not None else {**self._last, "streams": 0, "datagrams": 0}

    # ---- inside

    def _begin(self, relay: Relay):
        """Start the relay's thread; returns what ends it."""
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                relay.run()  # also returns when names were asked for: whose servers may be others by now
                if not over.is_set():
                    self._tell_servers()

        def end() -> None:
            over.set()
            relay.wake()
            thread.join()

        thread = threading.Thread(target=run, name="netstack-relay", daemon=True)
        thread.start()
        return end

    def _over(self) -> None:
        if self._relay is not None:
            self._last = self._relay.counters()
        self._relay = self.port = None

    def _tell_servers(self) -> None:
        servers = self.config.dns
        if servers is None:
            servers = tuple(self._names.current().servers)
        if self._relay is not None:
            self._relay.set_servers([(host, port) for host, port in servers if "%" not in host])

    def _limits(self) -> dict[str, int]:
        flows = self.config.flows
        if flows is None:
            flows = min(8192, max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
        half = flows // 2
        return {"streams": half, "client_streams": max(1, half // 2),
                "datagrams": half, "client_datagrams": max(1, half // 2)}

    def _listen(self, undo: contextlib.ExitStack) -> list[socket.socket]:
        out: list[socket.socket] = []
        self.published = []
        for each in self.config.publish:
            family = socket.AF_INET if each.host.version == 4 else socket.AF_INET6
            kind = socket.SOCK_STREAM if each.stream else socket.SOCK_DGRAM
            sock = undo.enter_context(socket.socket(family, kind))
            out.append(sock)
            try:
                sock.setblocking(False)
                if each.stream:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((str(each.host), each.port))
                if each.stream:
                    sock.listen(1024)
            except OSError as error:
                raise LinkError(
                    error.errno or errno.EIO,
                    f"publish {each.host} port {each.port}: {os.strerror(error.errno or 0)}"
                    + ("; ports below 1024 need privilege" if error.errno == errno.EACCES else ""),
                ) from None
            protocol = "tcp" if each.stream else "udp"
            self.published.append((protocol, str(each.host), sock.getsockname()[1]))
            log.info("uplink user: %s %s port %d is %s port %d", protocol, *self.published[-1][1:], each.address,
                     each.target_port)
        return out
