"""Ancillary data of datagrams: what ``recvmsg`` tells and ``sendmsg`` is told, as Linux and RFC 3542 lay it out.

The compiled core says how a datagram came (`Arrival`) and which of it the socket asked for; here it becomes the
standard library's list of ``(level, type, bytes)``, and the other way round.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import NamedTuple

SOL_IP, SOL_SOCKET, SOL_IPV6 = 0, 1, 41
SCM_RIGHTS, SCM_CREDENTIALS = 1, 2
IP_TOS, IP_TTL, IP_PKTINFO, IP_RECVERR, IP_ORIGDSTADDR = 1, 2, 8, 11, 20
IPV6_RECVERR, IPV6_PKTINFO, IPV6_HOPLIMIT, IPV6_TCLASS = 25, 50, 52, 67
MSG_CTRUNC, MSG_TRUNC, MSG_ERRQUEUE = 0x8, 0x20, 0x2000
AF_INET, AF_INET6 = 2, 10
# Bits of udp_endpoint_t.wants
WANT_PKTINFO, WANT_TTL, WANT_TOS, WANT_PKTINFO6, WANT_HOPLIMIT, WANT_TCLASS = 1, 2, 4, 8, 16, 32
WANT_ERRORS, WANT_ERRORS6, WANT_DESTINATION = 64, 128, 256

_HEADER = 16                 # struct cmsghdr on 64 bits


class Arrival(NamedTuple):
    """How a datagram came, or what became of one that was sent (``origin`` is not 0 then).

    Attributes
    ----------
    dst : str
        Where it was going.
    other : str
        Our own address where it came in; of an error: who told us.
    interface : int
        Number of the interface, from 1.
    ttl, tos : int
        Of its IP header.
    origin, type, code, error, info : int
        As in ``struct sock_extended_err``.
    port : int
        Destination port.
    """

    dst: str
    other: str
    interface: int
    ttl: int
    tos: int
    origin: int = 0
    type: int = 0
    code: int = 0
    error: int = 0
    info: int = 0
    port: int = 0


def _packed(text: str) -> bytes:
    return ipaddress.ip_address(text.partition("%")[0]).packed


def _mapped(text: str) -> bytes:
    packed = _packed(text)
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def _sockaddr(text: str, port: int = 0) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    packed = _packed(text)
    if len(packed) == 4:
        return struct.pack("=H", AF_INET) + struct.pack("!H", port) + packed + bytes(8)
    return struct.pack("=H", AF_INET6) + struct.pack("!HI", port, 0) + packed + bytes(4)


def _error(a: Arrival) -> tuple[int, int, bytes]:
    v6 = ":" in a.dst
    body = struct.pack("=IBBBBII", a.error, a.origin, a.type, a.code, 0, a.info, 0)
    offender = _sockaddr(a.other) if a.origin in (2, 3) else bytes(28 if v6 else 16)
    return (SOL_IPV6, IPV6_RECVERR, body + offender) if v6 else (SOL_IP, IP_RECVERR, body + offender)


def to_ancillary(wants: int, a: Arrival) -> list[tuple[int, int, bytes]]:
    """What ``recvmsg`` gives for a datagram, in the order of Linux."""
    if a.origin:
        return [_error(a)]
    out = []
    v6 = ":" in a.dst
    if not v6:
        if wants & WANT_PKTINFO:
            out.append((SOL_IP, IP_PKTINFO, struct.pack("=i", a.interface) + _packed(a.other) + _packed(a.dst)))
        if wants & WANT_TTL:
            out.append((SOL_IP, IP_TTL, struct.pack("=i", a.ttl)))
        if wants & WANT_TOS:
            out.append((SOL_IP, IP_TOS, bytes([a.tos])))
        if wants & WANT_DESTINATION:
            out.append((SOL_IP, IP_ORIGDSTADDR, _sockaddr(a.dst, a.port)))
    if wants & WANT_PKTINFO6:
        out.append((SOL_IPV6, IPV6_PKTINFO, _mapped(a.dst) + struct.pack("=I", a.interface)))
    if v6:
        if wants & WANT_HOPLIMIT:
            out.append((SOL_IPV6, IPV6_HOPLIMIT, struct.pack("=i", a.ttl)))
        if wants & WANT_TCLASS:
            out.append((SOL_IPV6, IPV6_TCLASS, struct.pack("=i", a.tos)))
    return out


def fitting(items: list[tuple[int, int, bytes]], room: int) -> tuple[list[tuple[int, int, bytes]], int]:
    """Those that a buffer of *room* bytes holds, and MSG_CTRUNC when that is not all."""
    out: list[tuple[int, int, bytes]] = []
    for level, kind, data in items:
        if room < _HEADER + len(data):
            return out, MSG_CTRUNC
        room -= _HEADER + (len(data) + 7) // 8 * 8
        out.append((level, kind, data))
    return out, 0


class Instructions(NamedTuple):
    """What ``sendmsg`` is told about one datagram; -1, 0 and "" leave it to the socket."""

    ttl: int = -1
    tos: int = -1
    interface: int = 0
    source: str = ""


def from_ancillary(ancillary: Iterable[tuple[int, int, bytes]]) -> Instructions:
    """Read the ancillary data of ``sendmsg``.

    Raises
    ------
    ValueError
        A kind that is not known, or of the wrong size.
    """
    out = Instructions()
    for level, kind, raw in ancillary:
        data = bytes(raw)
        if level == SOL_SOCKET and kind in (SCM_RIGHTS, SCM_CREDENTIALS):
            continue                                   # as Linux: AF_UNIX's
        if (level, kind) in ((SOL_IP, IP_TTL), (SOL_IPV6, IPV6_HOPLIMIT)):
            out = out._replace(ttl=_number(data, -1 if level == SOL_IPV6 else 1, (4,)))
        elif (level, kind) in ((SOL_IP, IP_TOS), (SOL_IPV6, IPV6_TCLASS)):
            out = out._replace(tos=_number(data, -1 if level == SOL_IPV6 else 0, (4,) if level == SOL_IPV6 else (1, 4)))
        elif (level, kind) == (SOL_IP, IP_PKTINFO) and len(data) == 12:
            source = data[4:8]
            out = out._replace(interface=struct.unpack("=i", data[:4])[0],
                               source="" if source == bytes(4) else str(ipaddress.IPv4Address(source)))
        elif (level, kind) == (SOL_IPV6, IPV6_PKTINFO) and len(data) == 20:
            source = data[:16]
            out = out._replace(interface=struct.unpack("=I", data[16:])[0],
                               source="" if source == bytes(16) else str(ipaddress.IPv6Address(source)))
        else:
            raise ValueError(f"ancillary data of level {level}, type {kind} and {len(data)} bytes")
    return out


def _number(data: bytes, least: int, sizes: tuple[int, ...]) -> int:
    if len(data) not in sizes:
        raise ValueError(f"a number of {len(data)} bytes")
    value = data[0] if len(data) == 1 else int.from_bytes(data, "little", signed=True)
    if not least <= value <= 255:
        raise ValueError(f"{value}: from {least} to 255")
    return value
