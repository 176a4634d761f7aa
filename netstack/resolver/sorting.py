"""Which address of a name to try first: destination address selection (RFC 6724 section 6)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from netstack.resolver.literals import Found

# RFC 6724 section 2.1: prefix, precedence, label. The longest prefix that matches counts.
POLICY = sorted(((ipaddress.IPv6Network(prefix), precedence, label) for prefix, precedence, label in (
    ("::1/128", 50, 0), ("::/0", 40, 1), ("::ffff:0:0/96", 35, 4), ("2002::/16", 30, 2), ("2001::/32", 5, 5),
    ("fc00::/7", 3, 13), ("::/96", 1, 3), ("fec0::/10", 1, 11), ("3ffe::/16", 1, 12))),
    key=lambda row: -row[0].prefixlen)
LINK_LOCAL, SITE_LOCAL, GLOBAL = 0x2, 0x5, 0xE      # RFC 4291 section 2.7
PREFIX_MOST = 64                 # bits that rule 9 compares: a source's prefix is hardly ever longer


def _number(address: str) -> ipaddress.IPv6Address:
    plain = ipaddress.ip_address(address)
    return plain if plain.version == 6 else ipaddress.IPv6Address(f"::ffff:{plain}")


def scope_of(address: ipaddress.IPv6Address) -> int:
    """RFC 6724 section 3.1; for IPv4 section 3.2: loopback and autoconfigured addresses are of their link."""
    v4 = address.ipv4_mapped
    if v4 is not None:
        return LINK_LOCAL if v4.is_loopback or v4.is_link_local else GLOBAL
    if address.is_multicast:
        return address.packed[1] & 15
    if address.is_loopback or address.is_link_local:
        return LINK_LOCAL
    return SITE_LOCAL if address.is_site_local else GLOBAL


def policy_of(address: ipaddress.IPv6Address) -> tuple[int, int]:
    """``(precedence, label)``."""
    for network, precedence, label in POLICY:
        if address in network:
            return precedence, label
    raise AssertionError("::/0 holds every address")


def common_prefix(a: ipaddress.IPv6Address, b: ipaddress.IPv6Address) -> int:
    """How many leading bits agree."""
    return 128 - (int(a) ^ int(b)).bit_length()


def sort_key(destination: str, source: str | None) -> tuple[int, ...]:
    """Smaller is better. Rules 3, 4 and 7 ask what a host of ours does not have: deprecated and home addresses, and
    tunnels. Rule 9 is left out for IPv4, where it would undo the order in which name servers spread the load."""
    if source is None:
        return (1,)                                                         # rule 1
    d, s = _number(destination), _number(source)
    precedence, label = policy_of(d)
    scope = scope_of(d)
    near = min(common_prefix(d, s), PREFIX_MOST) if d.ipv4_mapped is None else 0
    return (0, scope != scope_of(s), label != policy_of(s)[1], -precedence, scope, -near)  # rules 2, 5, 6, 8, 9


def sort_destinations(found: list[Found], source_of: Callable[[Found], str | None]) -> list[Found]:
    """The addresses of a name, best first; equals keep their order (rule 10).

    Parameters
    ----------
    found : list of Found
    source_of : callable
        The address that the host would send from; None: it cannot.
    """
    if len(found) < 2:
        return found
    return sorted(found, key=lambda each: sort_key(each.address, source_of(each)))


T = TypeVar("T", bound=Sequence[Any])


def interleaved(found: Sequence[T], begin: int | None = None) -> list[T]:
    """The families, which each entry begins with, in turn (RFC 8305 section 4).

    Parameters
    ----------
    found : sequence
        Best first.
    begin : int, optional
        The family to begin with; that of the best by default.
    """
    begin = found[0][0] if found and begin is None else begin
    first = [each for each in found if each[0] == begin]
    second = [each for each in found if each[0] != begin]
    shorter = min(len(first), len(second))
    out = [each for pair in zip(first, second, strict=False) for each in pair]
    return out + first[shorter:] + second[shorter:]
