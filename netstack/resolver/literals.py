"""Addresses as text, read as the standard library reads them."""

from __future__ import annotations

import socket as _kernel
from collections.abc import Callable
from typing import NamedTuple


class Found(NamedTuple):
    """One address of a name.

    Attributes
    ----------
    family : int
        AF_INET or AF_INET6.
    address : str
        In its usual form, without a zone.
    scope : int
        The zone's number (RFC 4007); 0: none.
    """

    family: int
    address: str
    scope: int = 0


def _ipv4(text: str) -> Found | None:
    """All forms of inet_aton(3), without what that lets stand behind: ``10.1``, ``0x7f.1``, ``017.0.0.1``."""
    if not text.isascii() or any(c.isspace() for c in text):
        return None
    try:
        return Found(_kernel.AF_INET, _kernel.inet_ntoa(_kernel.inet_aton(text)))
    except (OSError, ValueError):                      # ValueError: a NUL
        return None


def _scope(zone: str, address: bytes, index_of: Callable[[str], int]) -> int | None:
    """The number of a zone: an interface's name where the address is of one link, else digits."""
    link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
    if link_local or address[0] == 0xFF and address[1] & 15 == 2:
        try:
            return index_of(zone)
        except OSError:
            pass
    if zone.isascii() and zone.isdigit() and len(zone) < 20 and int(zone) < 1 << 32:
        return int(zone)
    return None


def parse_literal(text: str, index_of: Callable[[str], int]) -> Found | None:
    """The address that a text is; None: it is a name.

    Parameters
    ----------
    text : str
        IPv4 in any form of inet_aton(3), or IPv6 with or without ``%ZONE``.
    index_of : callable
        Number of an interface by its name; OSError when there is none.
    """
    if ":" not in text:
        return _ipv4(text)
    plain, percent, zone = text.partition("%")
    try:
        packed = _kernel.inet_pton(_kernel.AF_INET6, plain)
    except (OSError, ValueError):
        return None
    scope = _scope(zone, packed, index_of) if percent else 0
    if scope is None:
        return None
    return Found(_kernel.AF_INET6, _kernel.inet_ntop(_kernel.AF_INET6, packed), scope)


def mapped(found: Found) -> Found:
    """An IPv4 address as IPv6 (RFC 4291 section 2.5.5.2)."""
    return Found(_kernel.AF_INET6, f"::ffff:{found.address}")
