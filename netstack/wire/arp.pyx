# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""ARP packets as Python sees them: for tests, fuzzers, tools. The packet path uses the .pxd."""

from ipaddress import IPv4Address
from typing import NamedTuple

from netstack.counters cimport DropReason
from netstack.errors import PacketError

from netstack.wire.ethernet cimport mac_bytes

REQUEST = ARP_REQUEST
REPLY = ARP_REPLY


class Arp(NamedTuple):
    """One ARP packet; hardware addresses as ``"02:00:00:00:00:01"``, protocol addresses dotted."""

    operation: int
    sender_mac: str
    sender: str
    target_mac: str
    target: str


def parse(bytes data not None):
    """Read an ARP packet (behind the Ethernet header).

    Parameters
    ----------
    data : bytes
        At least 28 bytes; padding behind them is ignored.

    Returns
    -------
    Arp

    Raises
    ------
    netstack.errors.PacketError
        Too short, not Ethernet and IPv4, an operation besides request and reply, or an impossible sender.
    """
    cdef arp_t a
    cdef DropReason reason = parse_arp(<const uint8_t *> <char *> data, <uint32_t> len(data), &a)
    if reason != DROP_NONE:
        raise PacketError(reason)
    return Arp(a.operation, data[8:14].hex(":"), str(IPv4Address(data[14:18])),
               data[18:24].hex(":"), str(IPv4Address(data[24:28])))


def build(int operation, sender_mac, sender, target_mac, target):
    """An ARP packet from its fields, 28 bytes.

    Parameters
    ----------
    operation : int
        `REQUEST` or `REPLY`.
    sender_mac, target_mac : str or bytes
        ``"02:00:00:00:00:01"`` or six bytes.
    sender, target : str
        IPv4 addresses.

    Returns
    -------
    bytes
    """
    cdef uint8_t out[ARP_LENGTH]
    cdef bytes sm = mac_bytes(sender_mac)
    cdef bytes tm = mac_bytes(target_mac)
    cdef bytes sp = IPv4Address(sender).packed
    cdef bytes tp = IPv4Address(target).packed
    if operation not in (REQUEST, REPLY):
        raise ValueError(f"ARP operation {operation}: 1 (request) or 2 (reply)")
    write_arp(out, <uint16_t> operation, <const uint8_t *> <char *> sm, load_native32(<char *> sp),
              <const uint8_t *> <char *> tm, load_native32(<char *> tp))
    return out[:ARP_LENGTH]
