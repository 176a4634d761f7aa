"""Settings of a stack: frozen, checked when made."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class InterfaceConfig:
    """One interface of a stack.

    Parameters
    ----------
    addresses : tuple of str
        Addresses with prefix length, ``"10.0.0.1/24"``; without one the address stands alone (/32).
    gateway : str or None
        Default route through this interface. On IP media no gateway is needed: everything goes into the link.
    mtu : int
        Largest IP packet, 68 to 65535 bytes (RFC 791). The link's own mtu caps it.
    media : str
        ``"ip"`` or ``"ethernet"``.
    mac : str or None
        Ethernet address; None makes a locally administered one from the stack's secret.
    """

    addresses: tuple[str, ...] = ()
    gateway: str | None = None
    mtu: int = 1500
    media: str = "ip"
    mac: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.addresses, str):
            object.__setattr__(self, "addresses", (self.addresses,))
        else:
            object.__setattr__(self, "addresses", tuple(str(a) for a in self.addresses))
        for text in self.addresses:
            ipaddress.ip_interface(text)
        if self.gateway is not None:
            ipaddress.ip_address(self.gateway)
        if not 68 <= self.mtu <= 65535:
            raise ValueError(f"mtu {self.mtu}: an IP packet has 68 to 65535 bytes")
        if self.media not in ("ip", "ethernet"):
            raise ValueError(f"media {self.media!r}: say 'ip' or 'ethernet'")


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """What a stack is made from.

    Parameters
    ----------
    media, addresses, mtu, gateway, mac :
        The one interface of most stacks, as in `InterfaceConfig`.
    interfaces : tuple of InterfaceConfig
        Several interfaces; the short form above is left out then.
    seed : bytes, int or None
        Where secrets and randomness come from. None takes 32 bytes from the operating system;
        anything else makes the stack repeatable.
    sysctl : mapping
        Settings by full Linux name, ``{"net.ipv4.tcp_timestamps": 0}``; see `netstack.stack.Stack.set`.
    """

    media: str = "ip"
    addresses: tuple[str, ...] = ()
    mtu: int = 1500
    gateway: str | None = None
    mac: str | None = None
    interfaces: tuple[InterfaceConfig, ...] = ()
    seed: bytes | int | None = None
    sysctl: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.interfaces:
            if self.addresses or self.gateway or self.mac:
                raise ValueError("give either interfaces or addresses, gateway and mac, not both")
            object.__setattr__(self, "interfaces", tuple(self.interfaces))
        else:
            only = InterfaceConfig(
                media=self.media, addresses=self.addresses, mtu=self.mtu, gateway=self.gateway, mac=self.mac
            )
            object.__setattr__(self, "addresses", only.addresses)
            object.__setattr__(self, "interfaces", (only,))
        if len(self.interfaces) > 7:
            raise ValueError("a stack has at most 7 interfaces besides its loopback")

    def seed_bytes(self) -> bytes:
        """32 bytes of secret: from the operating system, or spread from the seed."""
        if self.seed is None:
            return os.urandom(32)
        import hashlib

        data = self.seed.to_bytes(16, "little", signed=True) if isinstance(self.seed, int) else bytes(self.seed)
        return hashlib.blake2b(data, digest_size=32).digest()
