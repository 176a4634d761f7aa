"""Which host a socket of an unchanged program belongs to: by its address, among the hosts that are in place.

With one host that takes everything there is nothing to ask. Otherwise a socket begins as a kernel's socket, and is
placed by the first address that it hears: the one it binds to, connects to or sends to.
"""

from __future__ import annotations

import ipaddress
import socket as _kernel
from collections.abc import Callable, Sequence
from typing import Any, Literal

Route = Literal["all", "auto"]
_DISCARD_PORT = 9                # where the question "can this host reach it" would be sent, if it were


class Placement:
    """The hosts that a patch put in place, and what happens to what they do not reach.

    Parameters
    ----------
    choose : list of callable
        Each gives a host, when it is first needed.
    route : str
        "all": every IP socket is one of theirs. "auto": loopback and what they cannot reach stay the kernel's.
    """

    def __init__(self, choose: Sequence[Callable[[], Any]], route: Route) -> None:
        if route not in ("all", "auto"):
            raise ValueError(f"route {route!r}: 'all' or 'auto'")
        self._choose = list(choose)
        self.route = route
        self.at_once = len(self._choose) == 1 and route == "all"

    def hosts(self) -> list[Any]:
        return [choose() for choose in self._choose]

    def first(self) -> Any:
        return self._choose[0]()

    def _numeric(self, name: Any, family: int) -> Any:
        """The address that a name means, as an `ipaddress` object; None: nobody knows it."""
        if isinstance(name, (bytes, bytearray)):
            name = bytes(name).decode("ascii", "replace")
        if not isinstance(name, str):
            return None
        if name in ("", "<broadcast>"):
            return ipaddress.ip_address({"": "0.0.0.0", "<broadcast>": "255.255.255.255"}[name])
        try:
            return ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            pass
        for host in self.hosts():
            try:
                return ipaddress.ip_address(host.resolve(name, family).partition("%")[0])
            except (OSError, ValueError):
                continue
        return None

    def _rest(self) -> Any:
        return self.first() if self.route == "all" else None

    def here(self, address: Any, family: int) -> Any:
        """The host that a socket bound to ``address`` belongs to; None: the kernel."""
        ip = self._numeric(address[0], family) if isinstance(address, tuple) and address else None
        if ip is None or ip.is_loopback:
            return self._rest()
        if ip.is_unspecified or ip.is_multicast:
            return self.first()
        for host in self.hosts():
            if any(ipaddress.ip_interface(own).ip == ip for own in host.addresses):
                return host
        return self._rest()

    def towards(self, address: Any, family: int) -> Any:
        """The host that reaches ``address``: its own, then by the longest prefix, then by a route; None: the kernel."""
        ip = self._numeric(address[0], family) if isinstance(address, tuple) and address else None
        if ip is None or ip.is_loopback or ip.is_unspecified:
            return self._rest()
        near = [(interface.network.prefixlen if interface.ip != ip else 129, -index, host)
                for index, host in enumerate(self.hosts())
                for interface in map(ipaddress.ip_interface, host.addresses) if ip in interface.network]
        if near:
            return max(near, key=lambda entry: entry[:2])[2]
        for host in self.hosts():
            if reaches(host, str(ip)):
                return host
        return self._rest()


def reaches(host: Any, address: str) -> bool:
    """Whether a host has a way to an address: no packet is sent. Without a link it reaches itself only."""
    if not host.reaches_out:
        return False
    family = _kernel.AF_INET6 if ":" in address else _kernel.AF_INET
    try:
        with host.socket(family, _kernel.SOCK_DGRAM) as s:
            s.connect((address, _DISCARD_PORT))
    except OSError:
        return False
    return True
