# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Datagrams of UDP and UDP-Lite as Python sees them: for tests, fuzzers, tools. The packet path uses the .pxd."""

from typing import NamedTuple

from netstack.address cimport address_is_v4, address_parse, address_t
from netstack.counters cimport DropReason, DROP_UDP_CHECKSUM
from netstack.errors import PacketError
from netstack.wire.checksum cimport checksum_fold


class Udp(NamedTuple):
    """One UDP datagram; length in bytes with the header."""

    sport: int
    dport: int
    length: int
    has_checksum: bool
    payload: bytes


class UdpLite(NamedTuple):
    """One UDP-Lite datagram; coverage in bytes with the header, of those that the checksum covers."""

    sport: int
    dport: int
    coverage: int
    payload: bytes


cdef int parse_addresses(src, dst, address_t *s, address_t *d) except -1:
    address_parse(src, s)
    address_parse(dst, d)
    if address_is_v4(s) != address_is_v4(d):
        raise ValueError(f"{src} and {dst} are of two versions")
    return 0


def parse(bytes data not None, src, dst):
    """Read a datagram (the payload of an IP packet) and verify its checksum if it has one.

    Parameters
    ----------
    data : bytes
        Bytes behind the length field's end are ignored.
    src, dst : str
        The packet's addresses, which the checksum covers.

    Returns
    -------
    Udp

    Raises
    ------
    netstack.errors.PacketError
        A length below 8 or beyond the data, or a wrong checksum; over IPv6 also no checksum.
    """
    cdef udp_t u
    cdef const uint8_t *p = <const uint8_t *> <char *> data
    cdef address_t s, d
    cdef int64_t partial
    cdef DropReason reason = parse_udp(p, <uint32_t> len(data), &u)
    parse_addresses(src, dst, &s, &d)
    if reason != DROP_NONE:
        raise PacketError(reason)
    partial = udp_partial(&u, &s, &d)
    if partial < 0 and not address_is_v4(&s):
        raise PacketError(DROP_UDP_CHECKSUM)
    if partial >= 0 and checksum_fold(
            <uint64_t> partial + checksum_partial(p + UDP_HEADER, u.length - UDP_HEADER)) != 0xffff:
        raise PacketError(DROP_UDP_CHECKSUM)
    return Udp(u.sport, u.dport, u.length, bool(u.has_checksum), data[UDP_HEADER:u.length])


def parse_lite(bytes data not None, src, dst):
    """Read a UDP-Lite datagram (all of an IP packet's payload) and verify its checksum, as far as it covers (RFC 3828).

    Parameters
    ----------
    data : bytes
    src, dst : str
        The packet's addresses, which the checksum covers.

    Returns
    -------
    UdpLite

    Raises
    ------
    netstack.errors.PacketError
        Under 8 bytes, an impossible coverage, no checksum or a wrong one.
    """
    cdef udp_t u
    cdef const uint8_t *p = <const uint8_t *> <char *> data
    cdef address_t s, d
    cdef DropReason reason = parse_udplite(p, <uint32_t> len(data), &u)
    parse_addresses(src, dst, &s, &d)
    if reason != DROP_NONE:
        raise PacketError(reason)
    if checksum_fold(<uint64_t> udp_partial(&u, &s, &d) +
                     checksum_partial(p + UDP_HEADER, u.coverage - UDP_HEADER)) != 0xffff:
        raise PacketError(DROP_UDP_CHECKSUM)
    return UdpLite(u.sport, u.dport, u.coverage, data[UDP_HEADER:])


def build(src, dst, int sport, int dport, bytes payload=b""):
    """A datagram with its checksum.

    Parameters
    ----------
    src, dst : str
        The packet's addresses.
    sport, dport : int
        0 to 65535.
    payload : bytes
        At most 65507.

    Returns
    -------
    bytes
    """
    cdef uint8_t head[UDP_HEADER]
    cdef address_t s, d
    parse_addresses(src, dst, &s, &d)
    if not (0 <= sport <= 0xffff and 0 <= dport <= 0xffff):
        raise ValueError(f"ports {sport}, {dport}: 0 to 65535 each")
    if len(payload) > 0xffff - 20 - UDP_HEADER:
        raise ValueError(f"payload of {len(payload)} bytes: a datagram holds 65507")
    write_udp(head, &s, &d, <uint16_t> sport, <uint16_t> dport,
              <uint32_t> len(payload), checksum_partial(<char *> payload, len(payload)))
    return head[:UDP_HEADER] + payload


def build_lite(src, dst, int sport, int dport, bytes payload=b"", int coverage=0):
    """A UDP-Lite datagram.

    Parameters
    ----------
    src, dst : str
        The packet's addresses.
    sport, dport : int
        0 to 65535.
    payload : bytes
        At most 65507.
    coverage : int
        How many bytes the checksum covers, 8 for the header included; 0: all.

    Returns
    -------
    bytes
    """
    cdef uint8_t head[UDP_HEADER]
    cdef address_t s, d
    cdef Py_ssize_t whole = UDP_HEADER + len(payload), covered = coverage if coverage else UDP_HEADER + len(payload)
    parse_addresses(src, dst, &s, &d)
    if not (0 <= sport <= 0xffff and 0 <= dport <= 0xffff):
        raise ValueError(f"ports {sport}, {dport}: 0 to 65535 each")
    if whole > 0xffff - 20:
        raise ValueError(f"payload of {len(payload)} bytes: a datagram holds 65507")
    if not UDP_HEADER <= covered <= whole:
        raise ValueError(f"a coverage of {coverage}: 0, or 8 to {whole}")
    write_udp_as(head, checksum_pseudo(&s, &d, 136, <uint32_t> whole), <uint16_t> sport, <uint16_t> dport,
                 <uint16_t> coverage, checksum_partial(<char *> payload, covered - UDP_HEADER))
    return head[:UDP_HEADER] + payload
