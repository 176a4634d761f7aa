"""Uplinks of a router: how they are written, and how their devices are opened."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netstack.errors import ConfigError
from netstack.link.emulation import NAMES, Emulation
from netstack.router.pool import format_address, pack_address

if TYPE_CHECKING:
    from netstack.router.devices.device import Device
    from netstack.router.forwarding import Forwarder
    from netstack.router.parent import ParentConfig
    from netstack.router.user import UserConfig

KINDS = ("tap", "tun", "packet", "xdp")
EXAMPLE = (
    "write tap:NAME, tun:NAME, packet:NAME, xdp:NAME[,queue=N], user or router:NAME,block=/26, "
    "or tap:NAME,address=192.0.2.2/24,gateway=192.0.2.1"
)

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class UplinkConfig:
    """One uplink.

    Attributes
    ----------
    kind : {"tap", "tun", "packet", "xdp"}
        TAP and TUN: a device of the kernel whose other side the router is; it is made if need be. packet: an interface
        that exists, on whose network the router is a station of its own beside the kernel. xdp: a queue of an
        interface, which is the router's instead of the kernel's.
    name : str
        The device.
    addresses : tuple of ipaddress interfaces
        The router's own addresses there, one of each version of IP at most, with the network's prefix length. Without
        one the router asks for neighbours from its address in the pool, or from its link-local one.
    gateways : tuple of ipaddress addresses
        Where packets for addresses outside those networks go, one of each version at most; without one every address is
        asked for by ARP or neighbour discovery.
    queue : int
        Of an xdp uplink.
    offload : bool
        Leave cutting and checksums of large TCP packets to the kernel, where the device can: tap, tun, packet.
    emulation : Emulation or None
        A bad link, in front of the device.
    """

    kind: str
    name: str
    addresses: tuple[Interface, ...] = ()
    gateways: tuple[Address, ...] = ()
    queue: int = 0
    offload: bool = True
    emulation: Emulation | None = None

    @classmethod
    def parse(cls, text) -> UplinkConfig | UserConfig | ParentConfig:
        """Read ``user`` (see `netstack.router.user.UserConfig`), ``router:NAME`` (`netstack.router.parent`)
        or ``KIND:NAME[,address=ADDRESS/N][,gateway=ADDRESS]`` with both once for each version of IP, and the settings
        of a bad link: ``,delay=5ms`` and the others of `netstack.link.emulation.Emulation`.

        Raises
        ------
        ConfigError
            Anything else.
        """
        if isinstance(text, cls):
            return text
        if str(text).split(",")[0] == "user":
            from netstack.router.user import UserConfig

            return UserConfig.parse(str(text))
        if str(text).startswith("router:"):
            from netstack.router.parent import ParentConfig

            return ParentConfig.parse(str(text))
        head, *options = str(text).split(",")
        kind, colon, name = head.partition(":")
        if not colon or not name or kind not in KINDS:
            raise ConfigError(f"uplink {text!r}: {EXAMPLE}")
        addresses: list[Interface] = []
        gateways: list[Address] = []
        queue, offload = 0, True
        bad: dict[str, Any] = {}
        for option in options:
            key, equals, value = option.partition("=")
            try:
                if key == "address" and equals:
                    addresses.append(ipaddress.ip_interface(value))
                elif key == "gateway" and equals:
                    gateways.append(ipaddress.ip_address(value))
                elif key == "queue" and equals and kind == "xdp":
                    queue = int(value)
                elif key == "offload" and value in ("on", "off"):
                    offload = value == "on"
                elif key in (*NAMES, "seed") and equals:
                    bad[key] = int(value) if key in ("queue", "seed") else value
                else:
                    raise ConfigError(f"uplink {text!r}: unknown option {key!r}; {EXAMPLE}")
            except ValueError as error:
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(f"uplink {text!r}: {error}; {EXAMPLE}") from None
        try:
            check_networks(kind, addresses, gateways)
            emulation = Emulation.of(bad)
        except ConfigError as error:
            raise ConfigError(f"uplink {text!r}: {error}") from None
        return cls(
            kind=kind,
            name=name,
            addresses=tuple(addresses),
            gateways=tuple(gateways),
            queue=queue,
            offload=offload,
            emulation=emulation,
        )


def check_networks(kind: str, addresses: list[Interface], gateways: list[Address]) -> None:
    """One address and one gateway of each version; a gateway that the address's network can reach."""
    for what, some in (("address", addresses), ("gateway", gateways)):
        if len({one.version for one in some}) < len(some):
            raise ConfigError(f"more than one {what} of one version of IP")
    if gateways and kind == "tun":
        raise ConfigError("a TUN carries IP packets to the kernel and needs no gateway")
    for gateway in gateways:
        if gateway.is_link_local and gateway.version == 6:
            continue
        network = next((a.network for a in addresses if a.version == gateway.version), None)
        if network is None:
            raise ConfigError(
                f"gateway {gateway} needs the address with its prefix length: "
                f"say address=.../N,gateway={gateway}"
            )
        if gateway not in network:
            raise ConfigError(f"the gateway {gateway} is not in {network}")


def open_descriptor(kind: str, name: str, mac: bytes, offload: bool, again: bool, queue: int = 0) -> tuple[Any, Any]:
    """What needs the privilege of an uplink: its descriptor, where the router's Ethernet address is `mac`, and its mtu.
    Of an xdp uplink: what `netstack.router.devices.xdp.open_queue` returns.

    Raises
    ------
    netstack.errors.LinkError
        Missing, not permitted, busy, or of another kind.
    OSError
        It was lost (`again`), and is not back.
    """
    if again:
        socket.if_nametoindex(name)  # whoever deleted it makes it again: one of ours would be down
    if kind == "xdp":
        from netstack.router.devices.xdp import open_queue

        return open_queue(name, queue)
    if kind == "packet":
        from netstack.router.devices.packet import open_packet

        return open_packet(name, mac)
    from netstack.router.devices.tuntap import open_tuntap

    return open_tuntap(kind, name, offload=offload)


def open_device(config: UplinkConfig, mac: bytes, opening=open_descriptor, *, again: bool = False) -> Device:
    """The device of an uplink, and there the router's Ethernet address `mac`, if that may be chosen.

    Raises
    ------
    netstack.errors.LinkError
        Missing, not permitted, busy, or of another kind.
    """
    fd, mtu = opening(config.kind, config.name, mac, config.offload, again, config.queue)
    if config.kind == "xdp":
        from netstack.router.devices.xdp import XdpDevice

        return XdpDevice(config.name, fd, mtu)
    if config.kind == "packet":
        from netstack.router.devices.packet import PacketDevice

        return PacketDevice(config.name, fd, mtu, offload=config.offload)
    from netstack.router.devices.device import FileDevice

    return FileDevice(fd, ethernet=config.kind == "tap", name=config.name, mtu=mtu, offload=config.offload)


class Uplink:
    """An uplink in a router's service.

    Parameters
    ----------
    config : UplinkConfig
    router_addresses : iterable of bytes
        The router's own in its pools: used for the versions of which the uplink has no address of its own.
    default : bool
        Packets for addresses outside the pools go here.
    opening : callable
        `open_descriptor`, or who does the same for a router that may not (`netstack.router.opener`).
    """

    def __init__(self, config: UplinkConfig, router_addresses, *, default: bool = True, opening=open_descriptor):
        self.config = config
        self.default = default
        self.opening = opening
        own = {a.version: a for a in config.addresses}
        for packed in router_addresses:
            address = ipaddress.ip_interface(format_address(packed))
            own.setdefault(address.version, address)
        self.own: list[Interface] = list(own.values())
        self.mac = bytes([0x02]) + secrets.token_bytes(5)  # locally administered, one station
        self.port: int | None = None  # its id while it is in service
        self.device: Device | None = None
        self.served = False

    def open(self, forwarder: Forwarder) -> None:
        """Open the device and hand it to the data path.

        Raises
        ------
        netstack.errors.LinkError
            Missing, not permitted, busy, or of another kind.
        OSError
            It was lost, and is not back.
        """
        device = open_device(self.config, self.mac, self.opening, again=self.served)
        try:
            self.port = forwarder.add_uplink(
                device,
                mac=device.mac or self.mac,
                own=self.own,
                gateways=self.config.gateways,
                default=self.default,
            )
        except BaseException:
            device.close()
            raise
        self.device, self.served = device, True
        for address in self.own:
            forwarder.bind_local(pack_address(address.ip))
            if address.ip in {a.ip for a in self.config.addresses}:
                forwarder.announce(pack_address(address.ip))
        if self.config.emulation is not None:
            forwarder.emulate(self.port, seed=self.config.emulation.seed, **self.config.emulation.settings)

    @property
    def watched(self) -> bool:
        """Does nobody tell when the device is gone, so that it has to be asked?"""
        return self.device is not None and self.device.must_be_asked

    def lost(self) -> bool:
        return self.device is not None and self.device.lost()

    def close(self, forwarder: Forwarder) -> None:
        """Take it out of service and give the device back; it may be opened again."""
        if self.port is not None:
            forwarder.remove(self.port)
            self.port = None
        if self.device is not None:
            self.device.close()
            self.device = None
