# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""ICMP messages as Python sees them: for tests, fuzzers, tools. The packet path uses the .pxd."""

from typing import NamedTuple

from netstack.counters cimport DropReason, DROP_ICMP_CHECKSUM
from netstack.errors import PacketError
from netstack.wire.checksum cimport checksum_fold

ECHO_REPLY = ICMP_ECHO_REPLY
UNREACHABLE = ICMP_UNREACHABLE
ECHO_REQUEST = ICMP_ECHO_REQUEST
TIME_EXCEEDED = ICMP_TIME_EXCEEDED
PARAMETER_PROBLEM = ICMP_PARAMETER_PROBLEM


class Icmp(NamedTuple):
    """One ICMP message; identifier and sequence are bytes 4 to 7, whatever the type makes of them."""

    type: int
    code: int
    identifier: int
    sequence: int
    payload: bytes


def parse(bytes data not None):
    """Read a message (the payload of an IP packet) and verify its checksum.

    Parameters
    ----------
    data : bytes
        The whole message: the checksum covers it to the end.

    Returns
    -------
    Icmp

    Raises
    ------
    netstack.errors.PacketError
        Under 8 bytes, or a wrong checksum.
    """
    cdef icmp_t m
    cdef const uint8_t *p = <const uint8_t *> <char *> data
    cdef DropReason reason = parse_icmp(p, <uint32_t> len(data), &m)
    if reason != DROP_NONE:
        raise PacketError(reason)
    if checksum_fold(<uint64_t> m.header_sum + checksum_partial(p + ICMP_HEADER, len(data) - ICMP_HEADER)) != 0xffff:
        raise PacketError(DROP_ICMP_CHECKSUM)
    return Icmp(m.type, m.code, m.identifier, m.sequence, data[ICMP_HEADER:])


def build(int type, int code=0, int identifier=0, int sequence=0, bytes payload=b""):
    """A message with its checksum.

    Parameters
    ----------
    type, code : int
        0 to 255.
    identifier, sequence : int
        Bytes 4 to 7 as two numbers, 0 to 65535.
    payload : bytes

    Returns
    -------
    bytes
    """
    cdef uint8_t head[ICMP_HEADER]
    if not (0 <= type <= 255 and 0 <= code <= 255):
        raise ValueError(f"ICMP type {type} code {code}: 0 to 255 each")
    if not (0 <= identifier <= 0xffff and 0 <= sequence <= 0xffff):
        raise ValueError(f"identifier {identifier}, sequence {sequence}: 0 to 65535 each")
    write_icmp(head, <uint8_t> type, <uint8_t> code, <uint16_t> identifier, <uint16_t> sequence,
               checksum_partial(<char *> payload, len(payload)))
    return head[:ICMP_HEADER] + payload
