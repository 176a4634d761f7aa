"""Names to addresses, as far as a host knows them: literals, ``localhost``, the machine's own name.

Other names are asked of the kernel's resolver only where the host was told ``dns="kernel"``.
"""

from __future__ import annotations

import socket as _kernel
import sys

DNS_CHOICES = (False, "kernel")

_REAL_GETADDRINFO = _kernel.getaddrinfo
_REAL_GETHOSTBYADDR = _kernel.gethostbyaddr
_KINDS = ((_kernel.SOCK_STREAM, _kernel.IPPROTO_TCP), (_kernel.SOCK_DGRAM, _kernel.IPPROTO_UDP))


def _no_name(name) -> _kernel.gaierror:
    return _kernel.gaierror(_kernel.EAI_NONAME, f"Name or service not known: {name!r}")


class Resolver:
    """The name functions of the standard library for one host.

    Parameters
    ----------
    addresses : callable
        Gives the host's own addresses without prefix, IPv4 first.
    dns : False or "kernel"
        Whether other names are asked of the kernel's resolver, through the kernel's network.
    """

    def __init__(self, addresses, dns=False) -> None:
        if dns not in DNS_CHOICES:
            raise ValueError(f"dns={dns!r}: say one of {DNS_CHOICES}")
        self._addresses = addresses
        self.dns = dns

    def _port(self, port, protocol: str, flags: int) -> int:
        if port is None:
            return 0
        if isinstance(port, (bytes, bytearray)):
            port = bytes(port).decode("ascii")
        if isinstance(port, str):
            if port.isascii() and port.isdigit():
                port = int(port)
            elif not port:
                return 0
            elif flags & _kernel.AI_NUMERICSERV:
                raise _no_name(port)
            else:
                try:
                    return _kernel.getservbyname(port, protocol)
                except OSError:
                    raise _kernel.gaierror(
                        _kernel.EAI_SERVICE, "Servname not supported for ai_socktype") from None
        if not isinstance(port, int):
            raise _kernel.gaierror(_kernel.EAI_SERVICE, "Int or String expected")
        return port & 0xffff

    def _numbers(self, name, family: int, flags: int) -> list[tuple[int, str]]:
        """``(family, literal)`` for a name, best first."""
        if isinstance(name, (bytes, bytearray)):
            name = bytes(name).decode("ascii")
        if name is None:
            passive = flags & _kernel.AI_PASSIVE
            out: list[tuple[int, str]] = [(_kernel.AF_INET, "0.0.0.0" if passive else "127.0.0.1")]
            if family == _kernel.AF_INET6:
                out = [(_kernel.AF_INET6, "::" if passive else "::1")]
            return out
        if not isinstance(name, str):
            raise TypeError("getaddrinfo() argument 1 must be string or None")
        if not name:
            raise _no_name(name)
        try:
            literal = _kernel.inet_ntop(_kernel.AF_INET6, _kernel.inet_pton(_kernel.AF_INET6, name))
            return self._of_family([(_kernel.AF_INET6, literal)], family, name)
        except OSError:
            pass
        try:
            if not name[-1:].isspace():
                literal = _kernel.inet_ntoa(_kernel.inet_aton(name))
                return self._of_family([(_kernel.AF_INET, literal)], family, name)
        except OSError:
            pass
        if flags & _kernel.AI_NUMERICHOST:
            raise _no_name(name)
        plain = name.rstrip(".").lower()
        if plain == "localhost" or plain.endswith(".localhost"):
            return self._of_family([(_kernel.AF_INET, "127.0.0.1")], family, name)
        if plain == _kernel.gethostname().lower():
            own = [(_kernel.AF_INET6 if ":" in a else _kernel.AF_INET, a) for a in self._addresses()]
            return self._of_family(own or [(_kernel.AF_INET, "127.0.0.1")], family, name)
        if self.dns == "kernel":
            found = _REAL_GETADDRINFO(name, None, family or _kernel.AF_INET, _kernel.SOCK_STREAM)
            return [(f, str(address[0])) for f, _, _, _, address in found]
        raise _no_name(name)

    @staticmethod
    def _of_family(found, family: int, name):
        if family == _kernel.AF_UNSPEC:
            return found
        fit = [entry for entry in found if entry[0] == family]
        if not fit:
            raise _kernel.gaierror(
                _kernel.EAI_ADDRFAMILY, f"Address family for hostname not supported: {name!r}")
        return fit

    def resolve(self, name: str, family: int) -> str:
        """The first literal of ``name`` in ``family``; gaierror when there is none."""
        return self._numbers(name, family, 0)[0][1]

    def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        """As ``socket.getaddrinfo``."""
        sys.audit("socket.getaddrinfo", host, port, family, type, proto)
        if host is None and port is None:
            raise _no_name(None)
        kinds = [(t, p) for t, p in _KINDS if type in (0, t) and proto in (0, p)]
        if not kinds:
            if type not in (0, _kernel.SOCK_RAW):
                raise _kernel.gaierror(_kernel.EAI_SOCKTYPE, "ai_socktype not supported")
            kinds = [(_kernel.SOCK_RAW, proto)]
        numbers = self._numbers(host, family, flags)
        name = ""
        if flags & _kernel.AI_CANONNAME:
            name = host.decode("ascii") if isinstance(host, bytes) else (host or "")
        out = []
        for f, literal in numbers:
            for t, p in kinds:
                number = self._port(port, "udp" if t == _kernel.SOCK_DGRAM else "tcp", flags)
                address = (literal, number) if f == _kernel.AF_INET else (literal, number, 0, 0)
                out.append((_kernel.AddressFamily(f), _kernel.SocketKind(t), p, name, address))
        return out

    def gethostbyname(self, name):
        """As ``socket.gethostbyname``."""
        sys.audit("socket.gethostbyname", name)
        if name == "":
            return "0.0.0.0"
        if name in ("<broadcast>", "255.255.255.255"):
            return "255.255.255.255"
        return self.resolve(name, _kernel.AF_INET)

    def gethostbyname_ex(self, name):
        """As ``socket.gethostbyname_ex``."""
        return (name, [], [literal for _, literal in self._numbers(name, _kernel.AF_INET, 0)])

    def gethostbyaddr(self, address):
        """As ``socket.gethostbyaddr``: of loopback and own addresses; of others where the kernel is asked."""
        sys.audit("socket.gethostbyaddr", address)
        literal = self.resolve(address, _kernel.AF_UNSPEC)
        if literal.startswith("127.") or literal == "::1":
            return ("localhost", [], [literal])
        if literal in self._addresses():
            return (_kernel.gethostname(), [], [literal])
        if self.dns == "kernel":
            return _REAL_GETHOSTBYADDR(literal)
        raise _kernel.herror(1, "Unknown host")

    def getfqdn(self, name=""):
        """As ``socket.getfqdn``."""
        name = name.strip()
        if not name or name in ("0.0.0.0", "::"):
            name = _kernel.gethostname()
        try:
            found, aliases, _ = self.gethostbyaddr(name)
        except OSError:
            return name
        for candidate in (found, *aliases):
            if "." in candidate:
                return candidate
        return found

    def getnameinfo(self, address, flags):
        """As ``socket.getnameinfo``."""
        literal, port = address[0], address[1]
        sys.audit("socket.getnameinfo", address)
        literal = self._numbers(literal, _kernel.AF_UNSPEC, _kernel.AI_NUMERICHOST)[0][1]
        name = literal
        if not flags & _kernel.NI_NUMERICHOST:
            try:
                name = self.gethostbyaddr(literal)[0]
            except OSError:
                if flags & _kernel.NI_NAMEREQD:
                    raise _no_name(literal) from None
        service = str(port)
        if not flags & _kernel.NI_NUMERICSERV:
            try:
                service = _kernel.getservbyport(port, "udp" if flags & _kernel.NI_DGRAM else "tcp")
            except OSError:
                pass
        return name, service
