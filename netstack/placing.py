"""Which host a socket of an unchanged program belongs to: by its address, among the hosts that are in place.

With one host that takes everything there is nothing to ask. Otherwise a socket begins as a kernel's socket, and is
placed by the first address that it hears: the one it binds to, connects to or sends to.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket as _kernel
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

Route = Literal["all", "auto"]
hosts_here: weakref.WeakSet[Any] = weakref.WeakSet()     # of this process
_OUT_OF_REACH = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EADDRNOTAVAIL}
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


def other_host(host: Any, address: Any) -> Any:
    """The host of this process on whose network ``address`` is, if it is not on that of ``host``; None: none is."""
    if len(hosts_here) < 2 or not isinstance(address, tuple) or not address:
        return None
    try:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except ValueError:
        return None
    if ip.is_loopback or ip.is_unspecified or _on_its_network(host, ip):
        return None
    others = (other for other in hosts_here if other is not host and not other.closed)
    return next((other for other in others if _on_its_network(other, ip)), None)


def across_hosts(error: OSError, host: Any, address: Any) -> OSError:
    """The error of a call about ``address`` on a socket of ``host``; it says so if `other_host` has the address: the
    socket is most likely the wrong host's."""
    late = error.errno is None and isinstance(error, TimeoutError)
    other = other_host(host, address) if late or error.errno in _OUT_OF_REACH else None
    if other is None:
        return error
    text = f"{address[0]} is on the network of another host of this process, {other!r}; this socket is one of {host!r}"
    if not late:
        return OSError(error.errno, f"{error.strerror}; {text}")
    if hasattr(error, "add_note"):
        error.add_note(text)
    return error


def check_reach(host: Any, address: Any) -> None:
    """A host without a link reaches itself only: say so at once if another one of this process is meant.

    Raises
    ------
    OSError
        ENETUNREACH.
    """
    if not getattr(host, "reaches_out", True) and other_host(host, address) is not None:
        raise across_hosts(OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)), host, address)


def _on_its_network(host: Any, ip: Any) -> bool:
    return any(ip in ipaddress.ip_interface(own).network for own in getattr(host, "addresses", ()))
