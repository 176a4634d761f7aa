"""The blocks of a capture file in pcapng (draft-ietf-opsawg-pcapng), little endian; the header of the older pcap."""

from __future__ import annotations

import struct

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101  # IPv4 or IPv6, told apart by the version
INBOUND, OUTBOUND = 1, 2  # epb_flags
SECRETS_TEXT_AT = 16

_ENHANCED = struct.Struct("<IIIII")


def option(code: int, value: bytes) -> bytes:
    """One option, padded to 4 bytes."""
    return code.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value + bytes(-len(value) & 3)


def block(kind: int, body: bytes) -> bytes:
    """One block; its body has a multiple of 4 bytes."""
    length = (len(body) + 12).to_bytes(4, "little")
    return kind.to_bytes(4, "little") + length + body + length


def file_header(link_type: int, snap_length: int, name: str, description: str = "") -> bytes:
    """What stands before the first packet: the section, and its one interface, with time stamps in nanoseconds.

    Parameters
    ----------
    link_type : int
    snap_length : int
        Bytes kept of each packet at most.
    name, description : str
        Of the interface.
    """
    section = block(0x0A0D0D0A, b"\x4d\x3c\x2b\x1a" + b"\x01\x00\x00\x00" + b"\xff" * 8 + option(4, b"netstack")
                    + bytes(4))
    about = option(3, description.encode()) if description else b""
    interface = block(1, link_type.to_bytes(2, "little") + bytes(2) + snap_length.to_bytes(4, "little")
                      + option(2, name.encode()) + about + option(9, b"\x09") + bytes(4))
    return section + interface


def secrets(key_log: bytes) -> bytes:
    """A decryption secrets block: keys of TLS connections, in the format of SSLKEYLOGFILE (RFC 9850).

    Its text begins `SECRETS_TEXT_AT` bytes behind the block's first. Readers want it in front of the packets.
    """
    return block(10, b"KSLT" + len(key_log).to_bytes(4, "little") + key_log + bytes(-len(key_log) & 3))


def classic_header(link_type: int, snap_length: int) -> bytes:
    """What stands before the first packet of a pcap file with nanoseconds (magic 0xa1b23c4d, version 2.4)."""
    return (b"\x4d\x3c\xb2\xa1" + b"\x02\x00\x04\x00" + bytes(8) + snap_length.to_bytes(4, "little")
            + link_type.to_bytes(4, "little"))


def packet(time_ns: int, direction: int, length: int, captured: bytes, dropped: int = 0) -> bytes:
    """An enhanced packet block of the first interface.

    Parameters
    ----------
    time_ns : int
        Since 1970.
    direction : int
        `INBOUND` or `OUTBOUND`.
    length : int
        Of the packet, of which `captured` is the beginning.
    dropped : int
        Packets lost by the capture between the block before and this one.
    """
    lost = option(4, dropped.to_bytes(8, "little")) if dropped else b""
    return block(6, _ENHANCED.pack(0, time_ns >> 32, time_ns & 0xFFFFFFFF, len(captured), length) + captured
                 + bytes(-len(captured) & 3) + option(2, direction.to_bytes(4, "little")) + lost + bytes(4))


def statistics(time_ns: int, received: int, dropped: int) -> bytes:
    """An interface statistics block of the first interface: packets seen, and those of them that the capture lost."""
    counts = option(4, received.to_bytes(8, "little")) + option(5, dropped.to_bytes(8, "little"))
    return block(5, struct.pack("<III", 0, time_ns >> 32, time_ns & 0xFFFFFFFF) + counts + bytes(4))
