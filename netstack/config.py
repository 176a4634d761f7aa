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
    acd : bool
        Ask whether anybody else has an IPv4 address before it is used, on Ethernet (RFC 5227).
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
    acd: bool = False
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


def parse_server(text: str) -> tuple[str, int]:
    """``(address, port)`` of a name server written ``A.B.C.D``, ``A.B.C.D:PORT``, ``X::Y`` or ``[X::Y%ZONE]:PORT``.

    Raises
    ------
    ValueError
        Anything else; a name is no address.
    """
    address, port = text, "53"
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or rest and not rest.startswith(":"):
            raise ValueError(f"name server {text!r}: write [ADDRESS]:PORT")
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"name server {text!r}: a port is a number from 1 to 65535")
    ipaddress.ip_address(address)
    return address, int(port)


@dataclass(frozen=True, kw_only=True)
class ResolverConfig:
    """Where a host asks for names, and how long. What is None comes from ``/etc/resolv.conf`` (resolv.conf(5)).

    Parameters
    ----------
    servers : tuple of str or None
        Name servers, ``"192.0.2.53"``, ``"192.0.2.53:5353"``, ``"[2001:db8::53]:53"``. None: those of
        the DHCP lease; else those of ``/etc/resolv.conf`` that this host can reach, those on the machine's loopback
        only when IP is the kernel's.
        ``()``: ask nobody.
    search : tuple of str or None
        Domains that are tried behind a name with fewer than ``ndots`` dots. With servers given, None is none.
    hosts : str or path
        A file as hosts(5), or, if the string has white space in it, the text of one. ``""``: none.
    ndots, timeout, attempts, rotate
        As the options of resolv.conf(5): 1, 5 seconds, 2 and False unless they are said anywhere.
    edns : int
        The largest UDP answer we ask for, bytes; 0 leaves EDNS out. 1232 never needs fragments (RFC 9715).
    tcp : bool
        Ask over TCP only (``use-vc``).
    cache : int
        How many answers are remembered, each for as long as it says. 0: none.
    """

    servers: tuple[str, ...] | None = None
    search: tuple[str, ...] | None = None
    hosts: str | os.PathLike[str] = "/etc/hosts"
    ndots: int | None = None
    timeout: float | None = None
    attempts: int | None = None
    rotate: bool | None = None
    edns: int = 1232
    tcp: bool | None = None
    cache: int = 1024

    def __post_init__(self) -> None:
        for name in ("servers", "search"):
            given = getattr(self, name)
            if given is not None:
                given = (given,) if isinstance(given, str) else tuple(str(each) for each in given)
                object.__setattr__(self, name, given)
        for text in self.servers or ():
            parse_server(text)
        if self.timeout is not None and not 0 < self.timeout <= 30:
            raise ValueError(f"timeout {self.timeout}: more than 0 and at most 30 seconds")
        if self.attempts is not None and not 1 <= self.attempts <= 5:
            raise ValueError(f"attempts {self.attempts}: 1 to 5")
        if self.ndots is not None and not 0 <= self.ndots <= 15:
            raise ValueError(f"ndots {self.ndots}: 0 to 15")
        if self.edns != 0 and not 512 <= self.edns <= 65535:
            raise ValueError(f"edns {self.edns}: 0, or 512 to 65535 bytes (RFC 6891 section 6.2.3)")
        if self.cache < 0:
            raise ValueError(f"cache {self.cache}: how many answers")
