"""Routes of a router as people write them: prefixes that an uplink leads to, beside those of pools and attachments.

The longest prefix decides. An uplink's own network leads there by itself, everything else to the first uplink, unless a
route says otherwise. Addresses that stacks have, and pools, are longer than any route that may be written.
"""

from __future__ import annotations

import errno
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netstack.errors import ConfigError, RouterError
from netstack.router import protocol
from netstack.router.pool import pack_address

if TYPE_CHECKING:
    from netstack.router.forwarding import Forwarder
    from netstack.router.parent import ParentUplink
    from netstack.router.uplinks import Uplink
    from netstack.router.user import UserUplink

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

EXAMPLE = "write 198.51.100.0/24,dev=tap1 or 198.51.100.0/24,via=192.0.2.9"
NEVER_FORWARDED = [ipaddress.ip_network(n) for n in (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/64", "fe80::/10", "ff00::/8")]
DEFAULTS = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}


@dataclass(frozen=True)
class Route:
    """One route.

    Attributes
    ----------
    network : ipaddress network
    device : str
        The uplink; empty for the one on whose network the gateway is, and where none is concerned.
    gateway : ipaddress address or None
        Who takes packets on, behind the uplink; None: the uplink's own gateway, or whoever has the address.
    kind : {"static", "link", "pool", "stack", "default"}
        Where it comes from: somebody wrote it, an uplink's own network, a pool, a block behind an attachment, or the
        first uplink, to which all leads that nothing else says.
    attachment : int
        Of a block: its number, 0 when it is gone.
    lost : bool
        The uplink's device is gone, or the attachment: nothing gets there until it is back.
    """

    network: Network
    device: str = ""
    gateway: Address | None = None
    kind: str = "static"
    attachment: int = 0
    lost: bool = False

    @classmethod
    def parse(cls, text) -> Route:
        """Read ``CIDR[,via=GATEWAY][,dev=UPLINK]``; ``default`` is everything of the gateway's version, or IPv4's.

        Raises
        ------
        ConfigError
            Anything else.
        """
        if isinstance(text, cls):
            return text
        prefix, *options = str(text).split(",")
        values: dict[str, str] = {}
        for option in options:
            key, equals, value = option.partition("=")
            if key not in ("via", "dev") or not value or key in values:
                raise ConfigError(f"route {text!r}: {option!r}; {EXAMPLE}")
            values[key] = value
        try:
            gateway = ipaddress.ip_address(values["via"]) if "via" in values else None
            if prefix == "default":
                network = DEFAULTS[gateway.version if gateway else 4]
            else:
                network = ipaddress.ip_network(prefix)
        except ValueError as error:
            raise ConfigError(f"route {text!r}: {error}; {EXAMPLE}") from None
        if gateway is not None and gateway.version != network.version:
            raise ConfigError(f"route {text!r}: the gateway is of the other version of IP")
        if not values:
            raise ConfigError(f"route {text!r}: where does it lead? {EXAMPLE}")
        return cls(network, values.get("dev", ""), gateway)

    def __str__(self) -> str:
        words = [str(self.network)]
        if self.gateway is not None:
            words.append(f"via {self.gateway}")
        if self.device:
            words.append(f"dev {self.device}")
        if self.kind == "stack":
            words.append(f"attachment {self.attachment}" if self.attachment else "attachment")
        elif self.kind != "static":
            words.append(self.kind)
        if self.lost:
            words.append("gone")
        return " ".join(words)


class StaticRoutes:
    """The written routes of a router, and those to its uplinks' own networks.

    Parameters
    ----------
    forwarder : Forwarder
    pools : list of ipaddress networks
        Within them no route is written: what is in them is handed out.
    uplinks : list
        Each with its ``config``, and its ``port`` or None.
    """

    def __init__(self, forwarder: Forwarder, pools: list[Network], uplinks: list[Uplink | UserUplink | ParentUplink]):
        self._forwarder = forwarder
        self._pools = pools
        self._uplinks = uplinks
        self._ports: dict[str, int] = {}  # by the name of the uplink: its port, or the one it had until it was lost
        self._links: set[Network] = set()

    def opened(self, uplink: Uplink | UserUplink | ParentUplink) -> None:
        """An uplink has a port, for the first time or again.

        Raises
        ------
        ConfigError
            Its network is that of another uplink.
        """
        name, port = uplink.config.name, uplink.port
        if port is None:
            return
        before = self._ports.get(name)
        self._ports[name] = port
        if before is not None:
            self._forwarder.move_routes(before, port)
            return
        for network in {address.network for address in uplink.config.addresses}:
            if network.prefixlen == network.max_prefixlen or self._pool_of(network) is not None:
                continue  # nobody else is there, or stacks are
            if network in self._links:
                raise ConfigError(f"uplink {name}: {network} is the network of another uplink too; "
                                  "give one of them another address=")
            self._forwarder.add_route(network, port)
            self._links.add(network)

    def add(self, route: Route) -> None:
        """Raises RouterError that says what to do instead."""
        network = route.network
        pool = self._pool_of(network)
        if pool is not None:
            raise RouterError(errno.EINVAL, f"route {network} lies in the pool {pool}, whose addresses are those of "
                              "stacks: take a pool that leaves it out (--pool), or route a network outside")
        for never in NEVER_FORWARDED:
            if _within(network, never):
                raise RouterError(errno.EINVAL, f"route {network}: addresses of {never} are never forwarded")
        uplink = self._uplink_for(route)
        if uplink.port is None:
            raise RouterError(errno.ENETDOWN, f"route {network}: the device of uplink {uplink.config.name} is lost; "
                              "add the route when it is back")
        try:
            self._forwarder.add_route(network, uplink.port, gateway=route.gateway)
        except ValueError:
            there = self._forwarder.route(network)
            if there is None:
                raise
            before = self._route(*there)
            how = f"remove that first (netstack route del {network}), or " if before.kind == "static" else ""
            raise RouterError(errno.EEXIST, f"route {network} leads somewhere already: {before}; {how}route a longer "
                              "prefix") from None

    def remove(self, network: Network) -> None:
        """Raises RouterError without such a route, or for one that nobody wrote."""
        there = self._forwarder.route(network)
        if there is None:
            raise RouterError(errno.ESRCH, f"there is no route {network}: see `netstack route`")
        route = self._route(*there)
        if route.kind != "static":
            raise RouterError(errno.EPERM, f"route {route}: it comes and goes with its {route.kind}")
        self._forwarder.remove_route(network)

    def listed(self, version: int, *, after: Network | None = None, most: int = 1000) -> list[Route]:
        """At most so many routes by address and length, those behind `after`; the first uplink's, as default, first."""
        out = []
        default = DEFAULTS[version]
        if after is None and self._uplinks and self._forwarder.route(default) is None:
            first = self._uplinks[0]
            out.append(Route(default, first.config.name, None, "default", 0, first.port is None))
        return out + [self._route(*row) for row in self._forwarder.routes(version, after=after, most=most - len(out))]

    # ---- inside

    def _route(self, network: Network, kind: str, port: int, gateway: str | None) -> Route:
        if kind == "pool":
            return Route(network, kind="pool")
        if kind == "stack":
            lost = not self._forwarder.has_port(port)
            return Route(network, kind="stack", attachment=0 if lost else port, lost=lost)
        name = next((name for name, its in self._ports.items() if its == port), "")
        return Route(network, name, ipaddress.ip_address(gateway) if gateway else None,
                     "link" if network in self._links else "static", 0, not self._forwarder.has_port(port))

    def _pool_of(self, network: Network) -> Network | None:
        return next((pool for pool in self._pools if _within(network, pool)), None)

    def _uplink_for(self, route: Route) -> Uplink | UserUplink | ParentUplink:
        """The one that a route names, or on whose network its gateway is."""
        what = f"route {route.network}"
        names = ", ".join(u.config.name for u in self._uplinks)
        if not self._uplinks:
            raise RouterError(errno.ENODEV, f"{what}: this router has no uplink; give it one (--uplink tap:NAME)")
        if route.device:
            uplink = next((u for u in self._uplinks if u.config.name == route.device), None)
            if uplink is None:
                raise RouterError(errno.ENODEV, f"{what}: no uplink {route.device!r}; there are: {names}")
        elif route.gateway is not None:
            uplink = next((u for u in self._uplinks for a in u.config.addresses if route.gateway in a.network), None)
            if uplink is None:
                raise RouterError(errno.ENETUNREACH, f"{what}: {route.gateway} is on no uplink's network; "
                                  f"say which uplink (dev=...): {names}")
        else:
            raise RouterError(errno.EINVAL, f"{what}: where does it lead? {EXAMPLE}")
        if route.gateway is not None:
            self._check_gateway(what, uplink, route.gateway)
        return uplink

    def _check_gateway(self, what: str, uplink: Uplink | UserUplink | ParentUplink, gateway: Address) -> None:
        name = uplink.config.name
        if uplink.config.kind == "router":
            raise RouterError(errno.EINVAL, f"{what}: behind uplink {name} is another router, which routes by itself; "
                              "leave the gateway out")
        if uplink.config.kind in ("tun", "user"):
            raise RouterError(errno.EINVAL, f"{what}: behind uplink {name} ({uplink.config.kind}) is the kernel, which "
                              "routes by itself; leave the gateway out")
        if gateway.is_multicast or gateway.is_unspecified or gateway.is_loopback:
            raise RouterError(errno.EINVAL, f"{what}: {gateway} is nobody's address; name a router beside {name}")
        networks = [a.network for a in uplink.config.addresses if a.version == gateway.version]
        link_local = gateway.version == 6 and gateway.is_link_local
        if networks and not link_local and not any(gateway in n for n in networks):
            raise RouterError(errno.ENETUNREACH, f"{what}: gateway {gateway} is not in {networks[0]}, the network of "
                              f"uplink {name}")


def _within(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)      # type: ignore[arg-type]


# ---- messages


def pack_route(change: int, route: Route) -> bytes:
    """The body of ROUTE."""
    gateway = bytes(16) if route.gateway is None else pack_address(route.gateway)
    return protocol.ROUTE.pack(change, route.network.version, route.network.prefixlen,
                               pack_address(route.network.network_address), gateway, route.device.encode())


def unpack_route(body: bytes) -> tuple[int, Route]:
    """Whether to add or remove which route. Raises ValueError."""
    change, version, length, packed, gateway, name = protocol.ROUTE.unpack_from(body)
    network = _network(version, packed, length)
    via = _address(version, gateway) if any(gateway) else None
    return change, Route(network, name.rstrip(b"\0").decode(), via)


def pack_after(version: int, network: Network | None) -> bytes:
    """The body of ROUTES."""
    if network is None:
        return protocol.ROUTES.pack(version, 0, 0, bytes(16))
    return protocol.ROUTES.pack(version, 1, network.prefixlen, pack_address(network.network_address))


def unpack_after(body: bytes) -> tuple[int, Network | None]:
    """IP version, and the prefix behind which to go on. Raises ValueError."""
    version, is_there, length, packed = protocol.ROUTES.unpack_from(body)
    if version not in DEFAULTS:
        raise ValueError(f"IP version {version}: 4 or 6")
    return version, _network(version, packed, length) if is_there else None


def pack_listed(routes: list[Route]) -> bytes:
    """The reply to ROUTES."""
    return protocol.ROUTES_REPLY_HEAD.pack(len(routes)) + b"".join(
        protocol.ROUTES_ITEM.pack(
            protocol.ROUTE_KINDS.index(route.kind), route.network.prefixlen, route.lost, route.attachment,
            pack_address(route.network.network_address),
            bytes(16) if route.gateway is None else pack_address(route.gateway), route.device.encode())
        for route in routes)


def unpack_listed(version: int, body: bytes) -> list[Route]:
    """The routes in a reply to ROUTES."""
    (count,) = protocol.ROUTES_REPLY_HEAD.unpack_from(body)
    out = []
    for i in range(min(count, protocol.MAX_ROUTES)):
        at = protocol.ROUTES_REPLY_HEAD.size + i * protocol.ROUTES_ITEM.size
        kind, length, lost, attachment, packed, gateway, name = protocol.ROUTES_ITEM.unpack_from(body, at)
        out.append(Route(_network(version, packed, length), name.rstrip(b"\0").decode("utf-8", "replace"),
                         _address(version, gateway) if any(gateway) else None,
                         protocol.ROUTE_KINDS[min(kind, len(protocol.ROUTE_KINDS) - 1)], attachment, bool(lost)))
    return out


def _address(version: int, packed: bytes) -> Address:
    return ipaddress.IPv4Address(packed[12:]) if version == 4 else ipaddress.IPv6Address(packed)


def _network(version: int, packed: bytes, length: int) -> Network:
    if version not in DEFAULTS:
        raise ValueError(f"IP version {version}: 4 or 6")
    return ipaddress.ip_network((_address(version, packed), length))
