"""Packets as tests see them: parsed and built in plain Python, apart from the stack's own code.

This is a second opinion: it shares no line with `netstack.wire`, so that a mistake there does not hide itself
here. Numbers are in host order, addresses are text, sequence numbers modulo 2^32.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field, replace
from typing import Any

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
EXTENSION_HEADERS = (0, 43, 60)        # whose second byte is a length (RFC 8200 section 4)
FLAG_LETTERS = "FSRPAUECN"             # bit 0 first (RFC 9293 section 3.1, RFC 3168); N: AE, once the nonce (RFC 9768)
_FLAG_ORDER = "SFRPAUECN"              # how they are written: "SA", "FA", "PA"
_PSEUDO_V6 = struct.Struct("!16s16sI3xB")


def checksum(data: bytes) -> int:
    """The Internet checksum of some bytes (RFC 1071), as it goes into a header."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def flag_bits(flags: str | int) -> int:
    """TCP flags as bits: ``"SA"`` is 0x12. Letters F S R P A U E(CE) C(WR) N, which is AE.

    Raises
    ------
    ValueError
        A letter that is no flag.
    """
    if isinstance(flags, int):
        return flags
    try:
        return sum(1 << FLAG_LETTERS.index(letter) for letter in set(flags))
    except ValueError:
        raise ValueError(f"flags {flags!r}: letters of {FLAG_LETTERS}") from None


def flag_text(bits: int) -> str:
    """TCP flags as letters, SYN and FIN first: 0x12 is ``"SA"``."""
    return "".join(letter for letter in _FLAG_ORDER if bits >> FLAG_LETTERS.index(letter) & 1)


@dataclass(frozen=True)
class Packet:
    """One IP packet, taken apart. Fields of a protocol that the packet does not carry are None or empty.

    Attributes
    ----------
    raw : bytes
        The IP packet as it was.
    t_ns : int
        When it passed, if known.
    direction : str
        ``"in"``, ``"out"`` or empty, as seen from the host that logged it.
    seq, ack, window : int
        Of TCP; the window is not scaled.
    flags : str
        Of TCP, as `flag_text` writes them.
    accecn :
        The AccECN option (RFC 9768): its order and its counters as they stand there.
    mss, window_scale, sack_permitted, sack, timestamp :
        TCP options (RFC 9293, 7323, 2018). `sack` is a tuple of (start, end), `timestamp` is (value, echo).
    options : bytes
        The TCP options as they were.
    flow_label : int
        Of IPv6; `tos` and `ttl` are its traffic class and hop limit there. `protocol` is that behind extension headers.
    ip_ok, checksum_ok : bool
        Whether the IP header's and the transport's checksum are right.
    """

    raw: bytes
    t_ns: int = 0
    direction: str = ""
    version: int = 4
    src: str = ""
    dst: str = ""
    protocol: int = 0
    ttl: int = 0
    tos: int = 0
    flow_label: int = 0
    identification: int = 0
    dont_fragment: bool = False
    ip_ok: bool = True
    checksum_ok: bool = True
    sport: int | None = None
    dport: int | None = None
    seq: int | None = None
    ack: int | None = None
    flags: str = ""
    window: int | None = None
    urgent: int | None = None
    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    timestamp: tuple[int, int] | None = None
    accecn: tuple[int, tuple[int, ...]] | None = None
    options: bytes = b""
    icmp_type: int | None = None
    icmp_code: int | None = None
    payload: bytes = field(default=b"", repr=False)

    @property
    def seq_length(self) -> int:
        """Sequence numbers a TCP segment takes: payload, SYN and FIN."""
        return len(self.payload) + ("S" in self.flags) + ("F" in self.flags)

    def relative(self, seq_base: int, ack_base: int) -> Packet:
        """The same segment with numbers relative to the two initial sequence numbers."""
        if self.seq is None or self.ack is None:
            return self

        def rel(n: int) -> int:
            return n - ack_base & 0xFFFFFFFF

        return replace(
            self,
            seq=self.seq - seq_base & 0xFFFFFFFF,
            ack=rel(self.ack) if "A" in self.flags else 0,
            sack=tuple((rel(a), rel(b)) for a, b in self.sack),
        )

    def __str__(self) -> str:
        where = f"{self.t_ns / 1e9:.9f} {self.direction:3} {self.src}"
        if self.protocol == TCP and self.sport is not None:
            extra = "".join(
                f" {name} {value}"
                for name, value in (
                    ("mss", self.mss), ("ws", self.window_scale), ("sackOK", self.sack_permitted or None),
                    ("sack", self.sack or None), ("ts", self.timestamp), ("accecn", self.accecn),
                )
                if value is not None
            )
            return (f"{where}:{self.sport} > {self.dst}:{self.dport} {self.flags or '-'} seq {self.seq} "
                    f"ack {self.ack} win {self.window} len {len(self.payload)}{extra}")
        if self.protocol == UDP and self.sport is not None:
            return f"{where}:{self.sport} > {self.dst}:{self.dport} udp {len(self.payload)}"
        if self.protocol in (ICMP, ICMPV6) and self.icmp_type is not None:
            return f"{where} > {self.dst} icmp {self.icmp_type}/{self.icmp_code} {len(self.payload)}"
        return f"{where} > {self.dst} protocol {self.protocol} {len(self.payload)}"


def _tcp_options(options: bytes) -> dict[str, Any]:
    out: dict[str, Any] = {}
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        if at + 1 >= len(options) or not 2 <= options[at + 1] <= len(options) - at:
            raise ValueError(f"malformed TCP options {options.hex()}")
        kind, value = options[at], options[at + 2:at + options[at + 1]]
        if kind == 2 and len(value) == 2:
            out["mss"] = int.from_bytes(value, "big")
        elif kind == 3 and len(value) == 1:
            out["window_scale"] = value[0]
        elif kind == 4:
            out["sack_permitted"] = True
        elif kind == 5 and len(value) % 8 == 0:
            out["sack"] = tuple(struct.iter_unpack("!II", value))
        elif kind == 8 and len(value) == 8:
            out["timestamp"] = struct.unpack("!II", value)
        elif kind in (172, 174) and len(value) % 3 == 0:
            out["accecn"] = (kind == 174) + 0, tuple(
                int.from_bytes(value[i:i + 3], "big") for i in range(0, len(value), 3))
        at += options[at + 1]
    return out


def _transport(protocol: int, data: bytes, pseudo: bytes) -> dict[str, Any]:
    """Fields of the transport header; too short a one gives only the payload."""
    if protocol == TCP and len(data) >= 20:
        sport, dport, seq, ack, flags, window, _, urgent = struct.unpack_from("!HHIIHHHH", data)
        header = (flags >> 12) * 4
        if not 20 <= header <= len(data):
            raise ValueError(f"TCP data offset {header} in a segment of {len(data)} bytes")
        return dict(
            sport=sport, dport=dport, seq=seq, ack=ack, flags=flag_text(flags & 0x1FF), window=window, urgent=urgent,
            options=data[20:header], payload=data[header:], checksum_ok=checksum(pseudo + data) == 0,
            **_tcp_options(data[20:header]),
        )
    if protocol == UDP and len(data) >= 8:
        sport, dport, length, given = struct.unpack_from("!HHHH", data)
        return dict(sport=sport, dport=dport, payload=data[8:],
                    checksum_ok=length == len(data) and (
                        given == 0 and len(pseudo) == 12 or checksum(pseudo + data) == 0))   # IPv6 asks for one
    if protocol == ICMP and len(data) >= 4:
        return dict(icmp_type=data[0], icmp_code=data[1], payload=data[4:], checksum_ok=checksum(data) == 0)
    if protocol == ICMPV6 and len(data) >= 4:
        return dict(icmp_type=data[0], icmp_code=data[1], payload=data[4:], checksum_ok=checksum(pseudo + data) == 0)
    return dict(payload=data)


def parse_packet(data: bytes, t_ns: int = 0, direction: str = "") -> Packet:
    """Take an IP packet apart.

    Raises
    ------
    ValueError
        Not an IP packet, or lengths that contradict each other.
    """
    if len(data) >= 20 and data[0] >> 4 == 4:
        header = (data[0] & 15) * 4
        tos, total, ident, fragment, ttl, protocol = struct.unpack_from("!xBHHHBB", data)
        if not 20 <= header <= total <= len(data):
            raise ValueError(f"IPv4 header of {header}, packet of {total}, frame of {len(data)} bytes")
        pseudo = data[12:20] + struct.pack("!xBH", protocol, total - header)
        fields: dict[str, Any] = dict(
            version=4, src=str(ipaddress.IPv4Address(data[12:16])),
            dst=str(ipaddress.IPv4Address(data[16:20])), protocol=protocol, ttl=ttl, tos=tos,
            identification=ident, dont_fragment=bool(fragment & 0x4000),
            ip_ok=checksum(data[:header]) == 0,
        )
        body = data[header:total]
        if fragment & 0x1FFF:
            return Packet(data, t_ns, direction, payload=body, **fields)
    elif len(data) >= 40 and data[0] >> 4 == 6:
        first, length, protocol, ttl = struct.unpack_from("!IHBB", data)
        if 40 + length > len(data):
            raise ValueError(f"IPv6 payload of {length} in a frame of {len(data)} bytes")
        body = data[40:40 + length]
        while protocol in EXTENSION_HEADERS and len(body) >= 8:
            protocol, body = body[0], body[8 + 8 * body[1]:]
        pseudo = _PSEUDO_V6.pack(data[8:24], data[24:40], len(body), protocol)
        fields = dict(
            version=6, src=str(ipaddress.IPv6Address(data[8:24])),
            dst=str(ipaddress.IPv6Address(data[24:40])),
            protocol=protocol, ttl=ttl, tos=first >> 20 & 0xFF, flow_label=first & 0xFFFFF,
        )
    else:
        raise ValueError(f"no IP packet: {data[:40].hex()}")
    return Packet(data, t_ns, direction, **fields, **_transport(protocol, body, pseudo))


# ---- building --------------------------------------------------------------------------------------


def build_ipv4(src: str, dst: str, protocol: int, body: bytes, *, ttl: int = 64, tos: int = 0,
               identification: int = 0, dont_fragment: bool = True, options: bytes = b"") -> bytes:
    """An IPv4 packet with a right header checksum. Options are padded to 4 bytes (RFC 791)."""
    options += bytes(-len(options) % 4)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + len(options) // 4, tos, 20 + len(options) + len(body), identification,
        0x4000 if dont_fragment else 0, ttl, protocol, 0,
        ipaddress.IPv4Address(src).packed, ipaddress.IPv4Address(dst).packed,
    ) + options
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + body


def build_ipv6(src: str, dst: str, protocol: int, body: bytes, *, ttl: int = 64, tos: int = 0,
               flow_label: int = 0) -> bytes:
    """An IPv6 packet; ``protocol`` is what the body begins with."""
    return struct.pack("!IHBB", 6 << 28 | tos << 20 | flow_label, len(body), protocol, ttl) + \
        ipaddress.IPv6Address(src).packed + ipaddress.IPv6Address(dst).packed + body


def _build_ip(src: str, dst: str, protocol: int, body: bytes, **ip: Any) -> bytes:
    return (build_ipv6 if ":" in src else build_ipv4)(src, dst, protocol, body, **ip)


def _pseudo(src: str, dst: str, protocol: int, length: int) -> bytes:
    if ":" in src:
        return _PSEUDO_V6.pack(ipaddress.IPv6Address(src).packed, ipaddress.IPv6Address(dst).packed, length, protocol)
    return (ipaddress.IPv4Address(src).packed + ipaddress.IPv4Address(dst).packed
            + struct.pack("!xBH", protocol, length))


def build_tcp(src: str, dst: str, sport: int, dport: int, flags: str | int = "A", *, seq: int = 0,
              ack: int = 0, window: int = 65535, payload: bytes = b"", mss: int | None = None,
              window_scale: int | None = None, sack_permitted: bool = False,
              sack: tuple[tuple[int, int], ...] = (), timestamp: tuple[int, int] | None = None,
              accecn: tuple[int, ...] | None = None, accecn_order: int = 1, options: bytes = b"", urgent: int = 0,
              **ip: Any) -> bytes:
    """A packet with a TCP segment, its checksums right; of IPv6 where the addresses are.

    ``accecn``: counters of an AccECN option as they go on the wire. ``options`` are raw bytes behind the named
    ones; all together are padded to 4 bytes. Further keywords go
    to `build_ipv4` or `build_ipv6`.
    """
    out = b""
    if mss is not None:
        out += struct.pack("!BBH", 2, 4, mss)
    if sack_permitted:
        out += b"\x04\x02"
    if timestamp is not None:
        out += struct.pack("!BBII", 8, 10, *timestamp)
    if window_scale is not None:
        out += bytes((3, 3, window_scale))
    if sack:
        out += bytes((5, 2 + 8 * len(sack))) + b"".join(struct.pack("!II", *block) for block in sack)
    if accecn is not None:
        out += bytes((172 + 2 * accecn_order, 2 + 3 * len(accecn))) + b"".join(n.to_bytes(3, "big") for n in accecn)
    out += options
    out += b"\x01" * (-len(out) % 4)
    segment = struct.pack("!HHIIHHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
                          (20 + len(out)) << 10 | flag_bits(flags), window, 0, urgent) + out + payload
    total = checksum(_pseudo(src, dst, TCP, len(segment)) + segment)
    return _build_ip(src, dst, TCP, segment[:16] + total.to_bytes(2, "big") + segment[18:], **ip)


def build_udp(src: str, dst: str, sport: int, dport: int, payload: bytes = b"", **ip: Any) -> bytes:
    """A packet with a UDP datagram, its checksums right; of IPv6 where the addresses are."""
    head = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0)
    total = checksum(_pseudo(src, dst, UDP, 8 + len(payload)) + head + payload) or 0xFFFF
    return _build_ip(src, dst, UDP, head[:6] + total.to_bytes(2, "big") + payload, **ip)


def build_icmp(src: str, dst: str, kind: int, code: int = 0, rest: bytes = bytes(4), payload: bytes = b"",
               **ip: Any) -> bytes:
    """A packet with an ICMP message; ``rest`` are the 4 bytes behind the checksum (RFC 792, 4443)."""
    body = bytes((kind, code, 0, 0)) + rest + payload
    if ":" in src:
        total = checksum(_pseudo(src, dst, ICMPV6, len(body)) + body)
        return build_ipv6(src, dst, ICMPV6, body[:2] + total.to_bytes(2, "big") + body[4:], **ip)
    return build_ipv4(src, dst, ICMP, body[:2] + checksum(body).to_bytes(2, "big") + body[4:], **ip)


def repair(data: bytes) -> bytes:
    """Make the checksums of a changed IPv4 packet right again, as far as its lengths allow."""
    out = bytearray(data)
    header = (out[0] & 15) * 4 if out else 0
    if len(out) < 20 or not 20 <= header <= len(out):
        return bytes(out)
    out[10:12] = b"\0\0"
    out[10:12] = checksum(bytes(out[:header])).to_bytes(2, "big")
    total = int.from_bytes(out[2:4], "big")
    end = total if header <= total <= len(out) else len(out)
    at = {TCP: 16, UDP: 6, ICMP: 2}.get(out[9])
    if at is None or header + at + 2 > end:
        return bytes(out)
    out[header + at:header + at + 2] = b"\0\0"
    pseudo = b"" if out[9] == ICMP else bytes(out[12:20]) + struct.pack("!xBH", out[9], end - header)
    value = checksum(pseudo + bytes(out[header:end]))
    if out[9] == UDP and value == 0:
        value = 0xFFFF
    out[header + at:header + at + 2] = value.to_bytes(2, "big")
    return bytes(out)
