# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""IPv4 headers as Python sees them: for tests, fuzzers, tools. The packet path uses the .pxd."""

from ipaddress import IPv4Address
from typing import NamedTuple

from netstack.counters cimport DropReason
from netstack.errors import PacketError


class IPv4(NamedTuple):
    """One IPv4 packet; addresses dotted, lengths in bytes, options as raw bytes, padding of the link cut off."""

    src: str
    dst: str
    protocol: int
    tos: int
    ttl: int
    id: int
    df: bool
    header_length: int
    total_length: int
    options: bytes
    payload: bytes


def parse(bytes data not None, *, bint verify=True):
    """Read a packet by the rules of the input path.

    Parameters
    ----------
    data : bytes
        What a link delivered, from the IP header on; bytes behind the total length are padding.
    verify : bool
        False leaves the header checksum unread.

    Returns
    -------
    IPv4

    Raises
    ------
    netstack.errors.PacketError
        Its ``reason`` says which check failed (RFC 791, 1122 section 3.2.1). Fragments are refused.
    """
    cdef ipv4_t ip
    cdef DropReason reason = parse_ipv4_header(<const uint8_t *> <char *> data, <uint32_t> len(data), verify, &ip)
    if reason != DROP_NONE:
        raise PacketError(reason)
    return IPv4(str(IPv4Address(data[12:16])), str(IPv4Address(data[16:20])), ip.protocol, ip.tos, ip.ttl, ip.id,
                bool(ip.flags_offset & IPV4_DF), ip.header_length, ip.total_length,
                data[IPV4_HEADER:ip.header_length], data[ip.header_length:ip.total_length])


def build(src, dst, int protocol, bytes payload=b"", *, int tos=0, int ttl=64, int id=0, bint df=True):
    """A packet without options, header checksum included.

    Parameters
    ----------
    src, dst : str
        IPv4 addresses.
    protocol, tos, ttl : int
        0 to 255.
    payload : bytes
        At most 65515.
    id : int
        Identification, 0 to 65535.
    df : bool
        Don't fragment.

    Returns
    -------
    bytes
    """
    cdef uint8_t head[IPV4_HEADER]
    cdef bytes s = IPv4Address(src).packed
    cdef bytes d = IPv4Address(dst).packed
    if len(payload) > 0xffff - IPV4_HEADER:
        raise ValueError(f"payload of {len(payload)} bytes: an IPv4 packet holds 65515")
    for name, value, limit in (("protocol", protocol, 255), ("tos", tos, 255), ("ttl", ttl, 255), ("id", id, 65535)):
        if not 0 <= value <= limit:
            raise ValueError(f"{name} {value}: 0 to {limit}")
    write_ipv4(head, load_native32(<char *> s), load_native32(<char *> d), <uint8_t> protocol,
               <uint32_t> (IPV4_HEADER + len(payload)), <uint8_t> tos, <uint8_t> ttl, <uint16_t> id, df)
    return head[:IPV4_HEADER] + payload
