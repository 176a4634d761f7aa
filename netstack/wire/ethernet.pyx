# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Ethernet headers as Python sees them: for tests, fuzzers, tools. The packet path uses the .pxd."""

from typing import NamedTuple

from netstack.counters cimport DropReason
from netstack.errors import PacketError


class Ethernet(NamedTuple):
    """One Ethernet II frame; addresses as ``"02:00:00:00:00:01"``, ethertype a number."""

    dst: str
    src: str
    ethertype: int
    payload: bytes


cdef bytes mac_bytes(object mac):
    """Six bytes from text or bytes."""
    cdef bytes raw = bytes(mac) if isinstance(mac, (bytes, bytearray)) else bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"Ethernet address {mac!r}: six bytes are needed")
    return raw


def parse(bytes data not None):
    """Read a frame.

    Parameters
    ----------
    data : bytes
        From the destination address on, without preamble and check sequence.

    Returns
    -------
    Ethernet

    Raises
    ------
    netstack.errors.PacketError
        Shorter than 14 bytes, or a group address as source.
    """
    cdef ethernet_t e
    cdef DropReason reason = parse_ethernet(<const uint8_t *> <char *> data, <uint32_t> len(data), &e)
    if reason != DROP_NONE:
        raise PacketError(reason)
    return Ethernet(data[0:6].hex(":"), data[6:12].hex(":"), e.ethertype, data[ETHERNET_HEADER:])


def build(dst, src, int ethertype, bytes payload=b""):
    """A frame from its fields; not padded to 60 bytes.

    Parameters
    ----------
    dst, src : str or bytes
        ``"02:00:00:00:00:01"`` or six bytes.
    ethertype : int
        0 to 65535.
    payload : bytes

    Returns
    -------
    bytes
    """
    cdef uint8_t head[ETHERNET_HEADER]
    cdef bytes d = mac_bytes(dst)
    cdef bytes s = mac_bytes(src)
    if not 0 <= ethertype <= 0xffff:
        raise ValueError(f"ethertype {ethertype}: 0 to 65535")
    write_ethernet(head, <const uint8_t *> <char *> d, <const uint8_t *> <char *> s, <uint16_t> ethertype)
    return head[:ETHERNET_HEADER] + payload
