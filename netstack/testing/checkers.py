"""Assertions about packets that compose: ``is_tcp(flags="SA", mss=1460) & is_ipv4(src="10.0.0.1")``.

A field that is not named is not looked at. A named one is compared; give a function to ask for more than
equality (``window=lambda w: w > 1000``), or None for "not there". `check` raises with all that differs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from netstack.testing.packets import ICMP, TCP, UDP, Packet, flag_bits, flag_text, parse_packet


class _Any:
    def __repr__(self) -> str:
        return "ANY"


ANY: Any = _Any()
"""The default of every field: not looked at."""


class Checker:
    """A question to a packet. Combine with ``&``, ``|``, ``~``; call it for the answer, or `explain` it."""

    __slots__ = ("_differences", "_text")

    def __init__(self, text: str, differences: Callable[[Packet], list[str]]) -> None:
        self._text = text
        self._differences = differences

    def explain(self, packet: Packet | bytes) -> list[str]:
        """What differs, one line each; empty when the packet passes."""
        if isinstance(packet, bytes):
            packet = parse_packet(packet)
        return self._differences(packet)

    def __call__(self, packet: Packet | bytes) -> bool:
        return not self.explain(packet)

    def __and__(self, other: Checker) -> Checker:
        return Checker(f"{self} & {other}", lambda p: self._differences(p) + other._differences(p))

    def __or__(self, other: Checker) -> Checker:
        def either(p: Packet) -> list[str]:
            mine = self._differences(p)
            theirs = other._differences(p) if mine else []
            return mine + theirs if mine and theirs else []

        return Checker(f"({self} | {other})", either)

    def __invert__(self) -> Checker:
        return Checker(f"~{self}", lambda p: [] if self._differences(p) else [f"it is {self}"])

    def __repr__(self) -> str:
        return self._text


def check(packet: Packet | bytes | None, checker: Checker) -> Packet:
    """Raise AssertionError with all differences unless the packet passes; returns it parsed.

    ``None`` (no packet came) never passes.
    """
    if packet is None:
        raise AssertionError(f"no packet, expected {checker}")
    if isinstance(packet, bytes):
        packet = parse_packet(packet)
    differences = checker.explain(packet)
    if differences:
        raise AssertionError(f"expected {checker}\ngot      {packet}\n  " + "\n  ".join(differences))
    return packet


def _fields(kind: str, wanted: dict[str, Any], guard: Callable[[Packet], list[str]]) -> Checker:
    wanted = {name: value for name, value in wanted.items() if value is not ANY}

    def differences(packet: Packet) -> list[str]:
        out = guard(packet)
        if out:
            return out
        for name, value in wanted.items():
            got = len(packet.payload) if name == "payload_length" else getattr(packet, name)
            if callable(value):
                if not value(got):
                    out.append(f"{name}: {got!r} does not satisfy the condition")
            elif got != value:
                out.append(f"{name}: {got!r}, expected {value!r}")
        return out

    text = ", ".join(f"{n}={'<condition>' if callable(v) else repr(v)}" for n, v in wanted.items())
    return Checker(f"{kind}({text})", differences)


def _address(value: Any) -> Any:
    return value if value is ANY or callable(value) else str(ipaddress.ip_address(value))


def is_ip(*, src: Any = ANY, dst: Any = ANY, ttl: Any = ANY, tos: Any = ANY, protocol: Any = ANY,
          version: Any = ANY) -> Checker:
    """An IP packet of either version with these fields and right checksums."""

    def guard(p: Packet) -> list[str]:
        return ([] if p.ip_ok else ["IP header checksum is wrong"]) + (
            [] if p.checksum_ok else ["transport checksum is wrong"])

    return _fields("is_ip", dict(src=_address(src), dst=_address(dst), ttl=ttl, tos=tos, protocol=protocol,
                                 version=version), guard)


def is_ipv4(*, src: Any = ANY, dst: Any = ANY, ttl: Any = ANY, tos: Any = ANY, protocol: Any = ANY,
            identification: Any = ANY, dont_fragment: Any = ANY) -> Checker:
    """An IPv4 packet with these fields and a right header checksum."""

    def guard(p: Packet) -> list[str]:
        if p.version != 4:
            return [f"version: {p.version}, expected 4"]
        return [] if p.ip_ok else ["IP header checksum is wrong"]

    return _fields("is_ipv4", dict(src=_address(src), dst=_address(dst), ttl=ttl, tos=tos, protocol=protocol,
                                   identification=identification, dont_fragment=dont_fragment), guard)


def _carries(protocol: int, name: str) -> Callable[[Packet], list[str]]:
    def guard(p: Packet) -> list[str]:
        if p.protocol != protocol:
            return [f"protocol: {p.protocol}, expected {name}"]
        out = [] if p.ip_ok else ["IP header checksum is wrong"]
        return out if p.checksum_ok else [*out, f"{name} checksum is wrong"]

    return guard


def is_tcp(*, flags: Any = ANY, seq: Any = ANY, ack: Any = ANY, window: Any = ANY, sport: Any = ANY,
           dport: Any = ANY, payload: Any = ANY, payload_length: Any = ANY, urgent: Any = ANY,
           mss: Any = ANY, window_scale: Any = ANY, sack_permitted: Any = ANY, sack: Any = ANY,
           timestamp: Any = ANY) -> Checker:
    """A TCP segment with right checksums. ``flags`` are all that are set, in any order: ``"SA"``."""
    if isinstance(flags, str | int):
        flags = flag_text(flag_bits(flags))
    if isinstance(seq, int):
        seq &= 0xFFFFFFFF
    if isinstance(ack, int):
        ack &= 0xFFFFFFFF
    return _fields("is_tcp", dict(
        flags=flags, seq=seq, ack=ack, window=window, sport=sport, dport=dport, payload=payload,
        payload_length=payload_length, urgent=urgent, mss=mss, window_scale=window_scale,
        sack_permitted=sack_permitted, sack=sack, timestamp=timestamp,
    ), _carries(TCP, "TCP"))


def is_udp(*, sport: Any = ANY, dport: Any = ANY, payload: Any = ANY, payload_length: Any = ANY) -> Checker:
    """A UDP datagram with a right checksum (or none)."""
    return _fields("is_udp", dict(sport=sport, dport=dport, payload=payload, payload_length=payload_length),
                   _carries(UDP, "UDP"))


def is_icmp(*, type: Any = ANY, code: Any = ANY, payload: Any = ANY) -> Checker:
    """An ICMP message with a right checksum; the payload starts behind the checksum."""
    return _fields("is_icmp", dict(icmp_type=type, icmp_code=code, payload=payload), _carries(ICMP, "ICMP"))
