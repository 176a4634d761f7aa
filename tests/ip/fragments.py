"""Fragments for the tests: packets cut up in plain Python, in any way."""

from __future__ import annotations

import random
from collections.abc import Iterable

from netstack.stack import Stack
from netstack.testing.packets import build_ipv4, checksum
from netstack.wire import udp

US, PEER = "10.0.0.1", "10.0.0.2"
S = 10**9


def piece(data: bytes, offset: int, more: bool, *, id: int = 77, src: str = PEER, dst: str = US, protocol: int = 17,
          tos: int = 0, ttl: int = 64, options: bytes = b"") -> bytes:
    """One IPv4 fragment; offset in bytes, cut to what its field holds."""
    raw = bytearray(build_ipv4(src, dst, protocol, data, tos=tos, ttl=ttl, identification=id, options=options))
    raw[6:8] = ((0x2000 if more else 0) | offset // 8 & 0x1FFF).to_bytes(2, "big")
    raw[10:12] = bytes(2)
    raw[10:12] = checksum(bytes(raw[:(raw[0] & 15) * 4])).to_bytes(2, "big")
    return bytes(raw)


def cut(payload: bytes, size: int, **fields) -> list[bytes]:
    """A packet's payload in pieces of size bytes, a multiple of 8, in order."""
    assert size % 8 == 0
    return [piece(payload[at:at + size], at, at + size < len(payload), **fields) for at in range(0, len(payload), size)]


def datagram(payload: bytes, *, sport: int = 1000, dport: int = 2000, src: str = PEER, dst: str = US) -> bytes:
    return udp.build(src, dst, sport, dport, payload)


def receiver(**options) -> tuple[Stack, object]:
    """A stack and a UDP socket on port 2000 with much room."""
    stack = Stack(addresses=US + "/24", seed=1, **options)
    sock = stack.socket("dgram")
    sock.setsockopt(1, 8, 1 << 22)
    sock.bind((US, 2000))
    stack.advance(S)
    return stack, sock


def feed(stack: Stack, packets: Iterable[bytes], now_ns: int | None = None) -> None:
    for p in packets:
        stack.input(p, stack.now_ns if now_ns is None else now_ns)


def taken(sock) -> list[bytes]:
    """All datagrams that wait."""
    out = []
    while True:
        try:
            out.append(sock.recv(70000))
        except BlockingIOError:
            return out


def sent(stack: Stack) -> list[bytes]:
    out = []
    while (item := stack.pop_output()) is not None:
        out.append(item[0])
    return out


def memory(stack: Stack) -> tuple[int, int]:
    """Datagrams in pieces and the bytes they take."""
    m = stack.memory()
    return m["fragmented"], m["fragments"]


def shuffled(items: list[bytes], seed: int) -> list[bytes]:
    items = list(items)
    random.Random(seed).shuffle(items)
    return items
