"""The name functions of the standard library for one host: arguments, results and errors are glibc's and CPython's."""

from __future__ import annotations

import contextlib
import ipaddress
import operator
import os
import socket as _kernel
import sys
from collections.abc import Callable
from typing import Any

from netstack.config import ResolverConfig
from netstack.resolver.hosts_file import HostsFile
from netstack.resolver.literals import Found, mapped, parse_literal
from netstack.resolver.resolv_conf import Learnt
from netstack.resolver.sorting import sort_destinations
from netstack.resolver.stub import Names, NoAnswer, Stub

DNS_CHOICES = (True, False, "kernel")

_REAL_GETADDRINFO = _kernel.getaddrinfo
_REAL_GETHOSTBYADDR = _kernel.gethostbyaddr
_FAMILIES = (_kernel.AF_INET, _kernel.AF_INET6)
_RAW = (_kernel.SOCK_RAW, 0)
_KINDS = ((_kernel.SOCK_STREAM, _kernel.IPPROTO_TCP), (_kernel.SOCK_DGRAM, _kernel.IPPROTO_UDP), _RAW)
_FLAGS = int(_kernel.AI_PASSIVE | _kernel.AI_CANONNAME | _kernel.AI_NUMERICHOST | _kernel.AI_V4MAPPED | _kernel.AI_ALL
             | _kernel.AI_ADDRCONFIG | _kernel.AI_NUMERICSERV) | 0x03C0     # the last: AI_IDN and its kin of netdb.h
_NI_NOFQDN = _kernel.NI_NOFQDN
_TEXTS = {                                # gai_strerror(3)
    _kernel.EAI_ADDRFAMILY: "Address family for hostname not supported",
    _kernel.EAI_AGAIN: "Temporary failure in name resolution",
    _kernel.EAI_BADFLAGS: "Bad value for ai_flags",
    _kernel.EAI_FAIL: "Non-recoverable failure in name resolution",
    _kernel.EAI_FAMILY: "ai_family not supported",
    _kernel.EAI_NODATA: "No address associated with hostname",
    _kernel.EAI_NONAME: "Name or service not known",
    _kernel.EAI_SERVICE: "Servname not supported for ai_socktype",
    _kernel.EAI_SOCKTYPE: "ai_socktype not supported",
}


def _machine_name() -> str:
    """As ``gethostname``, which would tell audit hooks of a question that the program did not ask."""
    return os.uname().nodename


def _error(code: int, what: object = None) -> _kernel.gaierror:
    text = _TEXTS[code]
    return _kernel.gaierror(code, text if what is None else f"{text}: {what!r}")


class Resolver:
    """The name functions of the standard library for one host.

    Parameters
    ----------
    addresses : callable
        Gives the host's own addresses without prefix, IPv4 first.
    dns : True, False or "kernel"
        Who is asked for names that no file knows: name servers, over the host's own sockets; nobody; the
        kernel's resolver, through the kernel's network.
    config : ResolverConfig, optional
        Where names come from.
    make_socket : callable, optional
        ``make_socket(family, type)`` gives a socket of the host; without it nobody is asked.
    interface_index : callable, optional
        The number of an interface by its name, OSError without one: for zones in addresses.
    interface_name : callable, optional
        The other way round.
    learnt : callable, optional
        Servers and search domains that the network told the host.
    source_address : callable, optional
        The address that packets to a literal address leave from, None where there is no way; without it none has one.
    loopback : bool
        The host shares the kernel's loopback.
    """

    def __init__(self, addresses: Callable[[], list[str]], dns: bool | str = True, *,
                 config: ResolverConfig | None = None, make_socket: Callable[[int, int], Any] | None = None,
                 interface_index: Callable[[str], int] | None = None,
                 interface_name: Callable[[int], str] | None = None, learnt: Learnt | None = None,
                 source_address: Callable[[str], str | None] = lambda _: None,
                 loopback: bool = False) -> None:
        self._addresses = addresses
        self.dns = dns
        self._config = config or ResolverConfig()
        self._hosts = HostsFile(self._config.hosts)
        self._source_address = source_address
        self._interface_index = interface_index or self._no_interface
        self._interface_name = interface_name or self._no_interface
        self.stub: Stub | None = None
        if make_socket is not None:
            self.stub = Stub(self._config, make_socket, learnt=learnt, loopback=loopback)

    @staticmethod
    def _no_interface(which: Any) -> Any:
        raise OSError(f"no interface {which!r}")

    @property
    def dns(self) -> bool | str:
        """Who is asked: True, False or "kernel"."""
        return self._dns

    @dns.setter
    def dns(self, value: bool | str) -> None:
        if value not in DNS_CHOICES:
            raise ValueError(f"dns={value!r}: say one of {DNS_CHOICES}")
        self._dns = value

    # --- what is known without asking

    def families(self) -> set[int]:
        """Those in which the host has an address that reaches beyond its own link."""
        return {_kernel.AF_INET6 if ":" in a else _kernel.AF_INET for a in self._addresses()
                if not a.startswith(("fe80:", "169.254."))}

    def _own(self) -> list[Found]:
        return [Found(_kernel.AF_INET6 if ":" in a else _kernel.AF_INET, a) for a in self._addresses()]

    def _loopback(self) -> list[Found]:
        out = [Found(_kernel.AF_INET, "127.0.0.1")]
        if _kernel.AF_INET6 in self.families():
            out.insert(0, Found(_kernel.AF_INET6, "::1"))
        return out

    def known(self, name: str) -> Names | None:
        """What the host says of a name without asking anybody; None: it does not know it.

        A hosts file of the host's own comes first. The machine's name means the host: in the machine's file it
        stands for an address of the kernel's. ``localhost`` never leaves the host, and names under ``invalid``
        and ``onion`` do not exist (RFC 6761, RFC 7686).
        """
        plain = name.rstrip(".").lower()
        machine = self._config.hosts == ResolverConfig.hosts
        if machine and plain == _machine_name().lower():
            return Names(name, (), self._own() or self._loopback())
        if plain == "localhost" or plain.endswith(".localhost"):
            return Names(name, (), self._loopback())
        lines = self._hosts.lines(plain)
        if lines:
            others = dict.fromkeys(n for line in lines for n in (line.name, *line.aliases) if n != lines[0].name)
            return Names(lines[0].name, tuple(others), list(dict.fromkeys(line.found for line in lines)))
        if plain == _machine_name().lower():
            return Names(name, (), self._own() or self._loopback())
        if plain.endswith((".invalid", ".onion")) or plain in ("invalid", "onion"):
            return Names(name, (), [])
        return None

    def must_ask(self, name) -> bool:
        """Whether a name server has to be asked for the addresses of a name."""
        if name is None or not self.dns or self.dns == "kernel" or self.stub is None:
            return False
        text = self._text(name)
        if not text or parse_literal(text, self._interface_index) is not None or self.known(text) is not None:
            return False
        return not self.stub.remembers(text, sorted(self.families()))

    def _text(self, name) -> str:
        """A name as DNS has it: internationalized ones by IDNA, as the standard library does."""
        if isinstance(name, str):
            if not name.isascii() or not all(0 < len(label) < 64 for label in name.rstrip(".").split(".")):
                name = name.encode("idna").decode("ascii")
        elif isinstance(name, (bytes, bytearray)):
            name = bytes(name).decode("ascii", "surrogateescape")
        else:
            raise TypeError("getaddrinfo() argument 1 must be string or None")
        if "\0" in name:
            raise ValueError("embedded null character")
        return name

    # --- addresses of a name

    def _asked(self, name: str, families: list[int], on_part=None) -> Names:
        known = self.known(name)
        if known is not None and (any(f.family in families for f in known.found) or not known.found):
            if not known.found:
                raise _error(_kernel.EAI_NONAME, name)
            return known
        if self.dns == "kernel":
            family = families[0] if len(families) == 1 else 0
            answer = _REAL_GETADDRINFO(name, None, family, _kernel.SOCK_STREAM, 0, _kernel.AI_CANONNAME)
            found = [Found(f, str(a[0]).partition("%")[0], a[3] if len(a) > 3 else 0) for f, _, _, _, a in answer]
            return Names(answer[0][3] or name, (), found)
        if self.dns and self.stub is not None and (known is None or self._dotted(name)):
            try:
                return self.stub.addresses(name, families, on_part)
            except _kernel.gaierror as error:
                raise _error(error.errno or _kernel.EAI_FAIL, name) from None
        raise _error(_kernel.EAI_ADDRFAMILY if known is not None else _kernel.EAI_NONAME, name)

    @staticmethod
    def _dotted(name: str) -> bool:
        return "." in name.rstrip(".") and not name.rstrip(".").lower().endswith(".localhost")

    def _lookup(self, name: str, family: int, flags: int, on_part=None) -> Names:
        """A name's addresses, unsorted. With AI_V4MAPPED, IPv4 addresses may stand in for IPv6."""
        literal = parse_literal(name, self._interface_index)
        mapping = family == _kernel.AF_INET6 and flags & _kernel.AI_V4MAPPED
        if literal is not None:
            if family in (_kernel.AF_UNSPEC, literal.family):
                return Names(name, (), [literal])
            if mapping:
                return Names(name, (), [mapped(literal)])
            if family == _kernel.AF_INET and literal.address.startswith("::ffff:") and "." in literal.address:
                return Names(name, (), [Found(_kernel.AF_INET, literal.address[7:])])
            raise _error(_kernel.EAI_ADDRFAMILY, name)
        if family == _kernel.AF_INET and ":" in name:
            if parse_literal(name.partition("%")[0], self._interface_index) is not None:
                raise _error(_kernel.EAI_ADDRFAMILY, name)   # IPv6 with a zone that is none
        if flags & _kernel.AI_NUMERICHOST or not name or "%" in name or not name.isascii():
            raise _error(_kernel.EAI_NONAME, name)
        families: list[int] = list(_FAMILIES) if family == _kernel.AF_UNSPEC or mapping else [family]
        names = self._asked(name, families, on_part)
        found = [f for f in names.found if f.family in families]
        if mapping:
            six = [f for f in found if f.family == _kernel.AF_INET6]
            four = [mapped(f) for f in found if f.family == _kernel.AF_INET]
            found = six + four if flags & _kernel.AI_ALL or not six else six
        return Names(names.canonical, names.aliases, found)

    def source_of(self, found: Found) -> str | None:
        """The address that the host would send from; None: it cannot send there."""
        zone = f"%{found.scope}" if found.scope else ""
        source = self._source_address(found.address + zone)
        return None if source is None else source.partition("%")[0]

    def _sorted(self, found: list[Found]) -> list[Found]:
        return sort_destinations(found, self.source_of)

    def _wildcard(self, family: int, flags: int) -> Names:
        if flags & _kernel.AI_PASSIVE:
            found = [Found(_kernel.AF_INET, "0.0.0.0"), Found(_kernel.AF_INET6, "::")]
        else:
            found = [Found(_kernel.AF_INET6, "::1"), Found(_kernel.AF_INET, "127.0.0.1")]
        if family == _kernel.AF_UNSPEC and _kernel.AF_INET6 not in self.families():
            family = _kernel.AF_INET
        return Names("", (), [f for f in found if family in (_kernel.AF_UNSPEC, f.family)])

    def resolve(self, name: str, family: int) -> str:
        """The best literal of ``name`` in ``family``; gaierror when there is none."""
        return self._sorted(self._lookup(self._text(name), family, 0).found)[0].address

    # --- services

    @staticmethod
    def _service(port, flags: int) -> int | str | None:
        """A number, a service's name, or None; read as glibc reads it, by strtoul(3) into an int."""
        if port is None or port in ("", b""):
            return None
        if isinstance(port, (bytes, bytearray)):
            port = bytes(port).decode("ascii")
        if isinstance(port, int):
            if not -1 << 63 <= port < 1 << 63 and sys.version_info < (3, 12):    # later ones leave it to the C library
                raise OverflowError("Python int too large to convert to C long")
            port = str(int(port))
        if not isinstance(port, str):
            raise OSError("Int or String expected")
        number = port.lstrip(" \t\n\v\f\r")
        digits = number[number[:1] in ("+", "-"):]
        if digits.isascii() and digits.isdigit():
            value = int(number) if len(digits) < 40 else (1 << 64) - 1
            value = min(value, (1 << 64) - 1) & 0xFFFFFFFF
            return value & 0xFFFF if value < 1 << 31 else port
        if flags & _kernel.AI_NUMERICSERV:
            raise _error(_kernel.EAI_NONAME, port)
        return port

    @staticmethod
    def _kinds(service: int | str | None, type: int, proto: int) -> list[tuple[int, int, int]]:
        """``(type, protocol, port)`` of what was asked for."""
        kinds = [(t, p) for t, p in _KINDS if type in (0, t) and (proto in (0, p) or (t, p) == _RAW)]
        if not kinds:
            raise _error(_kernel.EAI_SOCKTYPE if type else _kernel.EAI_SERVICE)
        if type or proto:
            kinds = kinds[:1]
            if kinds == [_RAW] and service is not None:
                raise _error(_kernel.EAI_SERVICE)
        if not isinstance(service, str):
            return [(t, p or proto, service or 0) for t, p in kinds]
        out: list[tuple[int, int, int]] = []
        for t, p in kinds:
            if t != _kernel.SOCK_RAW:
                try:
                    out.append((t, p, _kernel.getservbyname(service, "udp" if p == _kernel.IPPROTO_UDP else "tcp")))
                except OSError:
                    continue
        if not out:
            raise _error(_kernel.EAI_SERVICE)
        return out

    # --- the standard library's functions

    def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        """As ``socket.getaddrinfo``."""
        return self.getaddrinfo_in_parts(host, port, family, type, proto, flags, None)

    def getaddrinfo_in_parts(self, host, port, family, type, proto, flags, on_part):
        """As `getaddrinfo`; ``on_part`` is told all entries so far, in order, whenever a name server gave some."""
        text = None if host is None else self._text(host)
        family, type, proto, flags = int(family), int(type), int(proto), int(flags)
        sys.audit("socket.getaddrinfo", host, port, family, type, proto)
        service = self._service(port, flags)
        if text is None and port is None:
            raise _error(_kernel.EAI_NONAME)
        if flags & ~_FLAGS or (flags & _kernel.AI_CANONNAME and text is None):
            raise _error(_kernel.EAI_BADFLAGS)
        if family not in (_kernel.AF_UNSPEC, *_FAMILIES):
            raise _error(_kernel.EAI_FAMILY)
        kinds = self._kinds(service, type, proto)
        if flags & _kernel.AI_ADDRCONFIG:
            have = self.families()
            if have and family not in (_kernel.AF_UNSPEC, *have):
                raise _error(_kernel.EAI_NONAME, host)
            if len(have) == 1:
                family, = have

        def entries(found: list[Found], canonical: str) -> list[tuple]:
            out = []
            for f, literal, scope in found:
                for t, p, number in kinds:
                    address = (literal, number) if f == _kernel.AF_INET else (literal, number, 0, scope)
                    out.append((_kernel.AddressFamily(f), _kernel_type(t), p, canonical, address))
                    canonical = ""
            return out

        if text is None:
            names = self._wildcard(family, flags)
            return entries(names.found, "")
        known: list[Found] = []

        def tell(part: list[Found]) -> None:
            known.extend(part)
            on_part(entries(self._sorted(known), ""))

        names = self._lookup(text, family, flags, None if on_part is None else tell)
        return entries(self._sorted(names.found), names.canonical if flags & _kernel.AI_CANONNAME else "")

    def _one(self, name, family: int) -> Found:
        """As CPython's ``setipaddr``: one address for a name, "" and "<broadcast>" included."""
        if isinstance(name, str) and name == "" or name == b"":
            return Found(_kernel.AF_INET, "0.0.0.0")
        if name in ("<broadcast>", "255.255.255.255"):
            return Found(_kernel.AF_INET, "255.255.255.255")
        return self._sorted(self._lookup(self._text(name), family, 0).found)[0]

    def gethostbyname(self, name):
        """As ``socket.gethostbyname``."""
        sys.audit("socket.gethostbyname", name)
        return self._one(name, _kernel.AF_INET).address

    def gethostbyname_ex(self, name):
        """As ``socket.gethostbyname_ex``."""
        sys.audit("socket.gethostbyname", name)
        if name in ("", "<broadcast>"):
            address = self._one(name, _kernel.AF_INET).address
            return (address, [], [address])
        names = self._lookup(self._text(name), _kernel.AF_INET, 0)
        return (names.canonical, list(names.aliases), [found.address for found in names.found])

    def _names_of(self, found: Found) -> Names | None:
        """The names of an address, None without one; NoAnswer when nobody says."""
        line = self._hosts.line_of(found)
        if line is not None:
            return Names(line.name, line.aliases, [found])
        if found.address.startswith("127.") or found.address == "::1":
            return Names("localhost", (), [found])
        if found.address in self._addresses():
            return Names(_machine_name(), (), [found])
        if self.dns == "kernel":
            name, aliases, _ = _REAL_GETHOSTBYADDR(found.address)
            return Names(name, tuple(aliases), [found])
        if self.dns and self.stub is not None:
            pointers = self.stub.pointers(found)
            if pointers:
                return Names(pointers[0], tuple(pointers[1:]), [found])
        return None

    def gethostbyaddr(self, address):
        """As ``socket.gethostbyaddr``: the names of an address, or of the first address of a name."""
        sys.audit("socket.gethostbyaddr", address)
        found = self._one(address, _kernel.AF_UNSPEC)
        try:
            names = self._names_of(found)
        except NoAnswer:
            raise _kernel.herror(2, "Host name lookup failure") from None
        if names is None:
            raise _kernel.herror(1, "Unknown host")
        return (names.canonical, list(names.aliases), [found.address])

    def getfqdn(self, name=""):
        """As ``socket.getfqdn``."""
        name = name.strip()
        if not name or name in ("0.0.0.0", "::"):
            name = _machine_name()
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
        if not isinstance(address, tuple):
            raise TypeError("getnameinfo() argument 1 must be a tuple")
        if not 2 <= len(address) <= 4:
            raise TypeError("getnameinfo(): illegal sockaddr argument")
        host, port, *rest = address
        if not isinstance(host, str):
            raise TypeError("getnameinfo(): illegal sockaddr argument")
        if rest and not 0 <= rest[0] <= 0xFFFFF:
            raise OverflowError("getnameinfo(): flowinfo must be 0-1048575.")
        sys.audit("socket.getnameinfo", address)
        port = operator.index(port) & 0xFFFF
        found, = self._lookup(self._text(host), _kernel.AF_UNSPEC, _kernel.AI_NUMERICHOST).found
        if found.family == _kernel.AF_INET and rest:
            raise OSError("IPv4 sockaddr must be 2 tuple")
        scope = rest[1] if len(rest) > 1 else found.scope
        name = None
        if not flags & _kernel.NI_NUMERICHOST:
            try:
                names = self._names_of(found)
                name = names and names.canonical
            except NoAnswer:
                raise _error(_kernel.EAI_AGAIN, host) from None
            if name is None and flags & _kernel.NI_NAMEREQD:
                raise _error(_kernel.EAI_NONAME, host)
            if name is not None and flags & _NI_NOFQDN:
                name = self._without_own_domain(name)
        elif flags & _kernel.NI_NAMEREQD:
            raise _error(_kernel.EAI_NONAME, host)
        if name is None:
            name = f"{found.address}%{self._zone(found.address, scope)}" if scope else found.address
        service = str(port)
        if not flags & _kernel.NI_NUMERICSERV:
            try:
                service = _kernel.getservbyport(port, "udp" if flags & _kernel.NI_DGRAM else "tcp")
            except OSError:
                pass
        return name, service

    def _zone(self, address: str, index: int) -> str:
        """As glibc: the interface's name where the address is one of a link, else its number."""
        ip = ipaddress.ip_address(address)
        if ip.is_link_local or (ip.is_multicast and ip.packed[1] & 15 == 2):
            with contextlib.suppress(OSError):
                return self._interface_name(index)
        return str(index)

    def _without_own_domain(self, name: str) -> str:
        domain = _machine_name().partition(".")[2]
        return name.removesuffix(f".{domain}") if domain else name


def _kernel_type(number: int):
    try:
        return _kernel.SocketKind(number)
    except ValueError:
        return number
