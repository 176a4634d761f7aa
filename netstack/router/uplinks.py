"""Uplinks of a router: how they are written, and how a TAP is opened."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from typing import Any

from netstack.errors import ConfigError
from netstack.link.emulation import NAMES, Emulation
from netstack.router.pool import pack_address

KINDS = ("tap",)


@dataclass(frozen=True, kw_only=True)
class UplinkConfig:
    """One uplink.

    Attributes
    ----------
    kind : str
        ``"tap"``.
    name : str
        The device.
    address : ipaddress.IPv4Interface or None
        The router's own address there, with the network's prefix length; None: the router's address in the
        pool.
    gateway : ipaddress.IPv4Address or None
        Where packets for addresses outside that network go; None: every address is asked for by ARP.
    emulation : Emulation or None
        A bad link, in front of the device.
    """

    kind: str
    name: str
    address: ipaddress.IPv4Interface | None = None
    gateway: ipaddress.IPv4Address | None = None
    emulation: Emulation | None = None

    @classmethod
    def parse(cls, text) -> UplinkConfig:
        """Read ``tap:NAME[,address=A.B.C.D/N][,gateway=A.B.C.D]``, and the settings of a bad link: ``,delay=5ms`` and
        the others of `netstack.link.emulation.Emulation`.

        Raises
        ------
        ConfigError
            Anything else.
        """
        if isinstance(text, cls):
            return text
        example = "write tap:NAME, or tap:NAME,address=192.0.2.2/24,gateway=192.0.2.1"
        head, *options = str(text).split(",")
        kind, colon, name = head.partition(":")
        if not colon or not name or kind not in KINDS:
            raise ConfigError(f"uplink {text!r}: {example}")
        values: dict[str, Any] = {}
        bad: dict[str, Any] = {}
        for option in options:
            key, equals, value = option.partition("=")
            try:
                if key == "address" and equals:
                    values[key] = ipaddress.IPv4Interface(value)
                elif key == "gateway" and equals:
                    values[key] = ipaddress.IPv4Address(value)
                elif key in (*NAMES, "seed") and equals:
                    bad[key] = int(value) if key in ("queue", "seed") else value
                else:
                    raise ConfigError(f"uplink {text!r}: unknown option {key!r}; {example}")
            except ValueError as error:
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(f"uplink {text!r}: {error}; {example}") from None
        if "gateway" in values and "address" not in values:
            raise ConfigError(
                f"uplink {text!r}: a gateway needs the address with its prefix length; {example}"
            )
        if "gateway" in values and values["gateway"] not in values["address"].network:
            raise ConfigError(f"uplink {text!r}: the gateway is not in {values['address'].network}")
        try:
            values["emulation"] = Emulation.of(bad)
        except ConfigError as error:
            raise ConfigError(f"uplink {text!r}: {error}") from None
        return cls(kind=kind, name=name, **values)


class TapUplink:
    """A TAP in a router's service.

    Parameters
    ----------
    config : UplinkConfig
    router_address : bytes
        Used where the uplink has no address of its own.
    default : bool
        Packets for addresses outside the pool go here.
    """

    def __init__(self, config: UplinkConfig, router_address: bytes, *, default: bool = True):
        self.config = config
        self.default = default
        self.address = pack_address(config.address.ip) if config.address else router_address
        self.mac = bytes([0x02]) + secrets.token_bytes(5)  # locally administered, one station
        self.port = None  # its id while it is in service

    def open(self, forwarder) -> None:
        """Open the device and hand it to the data path.

        Raises
        ------
        netstack.errors.LinkError
            Missing, not permitted, busy, or no TAP.
        """
        from netstack.link.tap import Tap

        tap = Tap(self.config.name)
        options: dict[str, Any] = {}
        if self.config.gateway is not None and self.config.address is not None:
            options = {"gateway": pack_address(self.config.gateway), "network": self.config.address.network}
        self.port = forwarder.add_tap(
            tap.fileno(), self.mac, self.address, mtu=tap.mtu, default=self.default, keep=tap, **options
        )
        forwarder.bind_local(self.address)
        if self.config.emulation is not None:
            forwarder.emulate(self.port, seed=self.config.emulation.seed, **self.config.emulation.settings)
