# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""UDP datagrams as Python sees them: for tests, fuzzers, tools. The packet path uses the .pxd."""

from ipaddress import IPv4Address
from typing import NamedTuple

from netstack.counters cimport DropReason, DROP_UDP_CHECKSUM
from netstack.errors import PacketError
from netstack.wire.byte_order cimport load_native32
from netstack.wire.checksum cimport checksum_fold


class Udp(NamedTuple):
    """One UDP datagram; length in bytes with the header."""

    sport: int
    dport: int
    length: int
    has_checksum: bool
    payload: bytes


def parse(bytes data not None, src, dst):
    """Read a datagram (the payload of an IPv4 packet) and verify its checksum if it has one.

    Parameters
    ----------
    data : bytes
        Bytes behind the length field's end are ignored.
    src, dst : str
        The packet's IPv4 addresses, which the checksum covers.

    Returns
    -------
    Udp

    Raises
    ------
    netstack.errors.PacketError
        A length below 8 or beyond the data, or a wrong checksum.
    """
    cdef udp_t u
    cdef const uint8_t *p = <const uint8_t *> <char *> data
    cdef bytes s = IPv4Address(src).packed
    cdef bytes d = IPv4Address(dst).packed
    cdef int64_t partial
    cdef DropReason reason = parse_udp(p, <uint32_t> len(data), &u)
    if reason != DROP_NONE:
        raise PacketError(reason)
    partial = udp_partial(&u, load_native32(<char *> s), load_native32(<char *> d))
    if partial >= 0 and checksum_fold(
            <uint64_t> partial + checksum_partial(p + UDP_HEADER, u.length - UDP_HEADER)) != 0xffff:
        raise PacketError(DROP_UDP_CHECKSUM)
    return Udp(u.sport, u.dport, u.length, bool(u.has_checksum), data[UDP_HEADER:u.length])


def build(src, dst, int sport, int dport, bytes payload=b""):
    """A datagram with its checksum.

    Parameters
    ----------
    src, dst : str
        The packet's IPv4 addresses.
    sport, dport : int
        0 to 65535.
    payload : bytes
        At most 65507.

    Returns
    -------
    bytes
    """
    cdef uint8_t head[UDP_HEADER]
    cdef bytes s = IPv4Address(src).packed
    cdef bytes d = IPv4Address(dst).packed
    if not (0 <= sport <= 0xffff and 0 <= dport <= 0xffff):
        raise ValueError(f"ports {sport}, {dport}: 0 to 65535 each")
    if len(payload) > 0xffff - 20 - UDP_HEADER:
        raise ValueError(f"payload of {len(payload)} bytes: a datagram holds 65507")
    write_udp(head, load_native32(<char *> s), load_native32(<char *> d), <uint16_t> sport, <uint16_t> dport,
              <uint32_t> len(payload), checksum_partial(<char *> payload, len(payload)))
    return head[:UDP_HEADER] + payload
