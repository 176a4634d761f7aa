"""What routers and hosts said about our packets: a socket's error queue (IP_RECVERR of ip(7), IPV6_RECVERR)."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any, NamedTuple

MSG_ERRQUEUE = 0x2000                                  # linux/socket.h
EXTENDED_ERROR = struct.Struct("=IBBBBII")             # struct sock_extended_err of linux/errqueue.h
ORIGIN_ICMP, ORIGIN_ICMP6 = 2, 3
RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}     # linux/in.h, in6.h

# As ping(8) says it.
_V4 = {
    (3, 0): "Destination Net Unreachable", (3, 1): "Destination Host Unreachable",
    (3, 2): "Destination Protocol Unreachable", (3, 3): "Destination Port Unreachable",
    (3, 4): "Frag needed and DF set (mtu = {info})", (3, 5): "Source Route Failed",
    (3, 9): "Destination Net Prohibited", (3, 10): "Destination Host Prohibited", (3, 13): "Packet filtered",
    (11, 0): "Time to live exceeded", (11, 1): "Frag reassembly time exceeded", (12, 0): "Parameter problem",
}
_V6 = {
    (1, 0): "Destination unreachable: No route", (1, 1): "Destination unreachable: Administratively prohibited",
    (1, 2): "Destination unreachable: Beyond scope of source address",
    (1, 3): "Destination unreachable: Address unreachable", (1, 4): "Destination unreachable: Port unreachable",
    (2, 0): "Packet too big: mtu={info}", (3, 0): "Time exceeded: Hop limit",
    (3, 1): "Time exceeded: Defragmentation failure", (4, 0): "Parameter problem: Wrong header field",
}


class Complaint(NamedTuple):
    """One entry of the error queue.

    Attributes
    ----------
    family : int
    icmp : bool
        Somebody said it; else the stack itself found it out.
    address : str
        Who.
    type, code, info : int
        Of the ICMP message; ``info`` is the mtu where it has one.
    error : int
        The errno number that it became.
    quoted : bytes
        What the packet carried.
    """

    family: int
    icmp: bool
    address: str
    type: int
    code: int
    info: int
    error: int
    quoted: bytes

    @property
    def text(self) -> str:
        """In the words of ping(8)."""
        words = (_V4 if self.family == socket.AF_INET else _V6).get((self.type, self.code))
        return words.format(info=self.info) if words else f"ICMP type {self.type}, code {self.code}"


def offender(data: bytes) -> str:
    """The address in a ``struct sockaddr_in`` or ``sockaddr_in6``; "?" for anything else."""
    family, = struct.unpack_from("=H", data) if len(data) >= 2 else (0,)
    if family == socket.AF_INET and len(data) >= 8:
        return socket.inet_ntop(family, data[4:8])
    if family == socket.AF_INET6 and len(data) >= 24:
        return socket.inet_ntop(family, data[8:24])
    return "?"


def listen(s: Any, family: int) -> None:
    """Let a socket keep what is said about its packets, where it can."""
    with contextlib.suppress(OSError):
        s.setsockopt(*RECVERR[family], 1)


def next_complaint(s: Any, family: int) -> Complaint | None:
    """The oldest entry of the error queue; None: it is empty."""
    try:
        quoted, ancillary, _, _ = s.recvmsg(65535, 512, MSG_ERRQUEUE)
    except OSError:
        return None
    for level, kind, data in ancillary:
        if (level, kind) == RECVERR[family] and len(data) >= EXTENDED_ERROR.size:
            error, origin, type_, code, _, info, _ = EXTENDED_ERROR.unpack_from(data)
            return Complaint(family, origin in (ORIGIN_ICMP, ORIGIN_ICMP6), offender(data[EXTENDED_ERROR.size:]), type_,
                             code, info, error, quoted)
    return None
