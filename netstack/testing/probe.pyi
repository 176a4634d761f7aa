from collections.abc import Sequence
from typing import NamedTuple

from netstack.counters import DropReason

class Packet(NamedTuple):
    protocol: int
    src: str = ""
    dst: str = ""
    ttl: int = 0
    tos: int = 0
    broadcast: bool = False
    header: bytes = b""
    header_length: int = 0
    length: int = 0
    payload: bytes | None = None

class Message(NamedTuple):
    type: int
    code: int
    identifier: int
    sequence: int
    payload: bytes
    is_error: bool
    embedded: tuple[int, str, int, str, int, int] | tuple[()]
    mtu: int

class InterfaceProbe:
    unreachable: list[bytes]
    def __init__(
        self,
        addresses: Sequence[str] = ("10.0.0.1/24",),
        *,
        media: str = "ip",
        mac: str = "02:00:00:00:00:01",
        gateway: str | None = None,
        mtu: int = 1500,
        loopback: bool = False,
        trusted: bool = False,
    ) -> None: ...
    def input(
        self, data: bytes, now_ns: int = 0, *, split: int = -1, transport_header: int = 0
    ) -> tuple[DropReason, Packet | None]: ...
    def icmp(self, data: bytes, now_ns: int = 0, *, split: int = -1) -> tuple[DropReason, Message | None]: ...
    def send_unreachable(
        self, about: bytes, code: int, now_ns: int = 0, *, split: int = -1
    ) -> DropReason: ...
    def send_echo(
        self,
        src: str,
        dst: str,
        identifier: int,
        sequence: int,
        payload: bytes = b"",
        now_ns: int = 0,
        next_hop: str | None = None,
    ) -> int: ...
    def send(
        self, next_hop: str, packet: bytes, now_ns: int = 0, *, header_length: int = 28, commit: bool = True
    ) -> int: ...
    def sent(self) -> list[tuple[bytes, int]]: ...
    def fill(self, full: bool) -> None: ...
    def advance(self, now_ns: int) -> None: ...
    def next_deadline(self) -> int | None: ...
    def announce(self, address: str, now_ns: int = 0) -> None: ...
    def add_address(self, text: str) -> int: ...
    def remove_address(self, text: str) -> int: ...
    def has_address(self, text: str) -> bool: ...
    def on_link(self, text: str) -> bool: ...
    @property
    def neighbors(self) -> dict[str, tuple[str, str, int]]: ...
    @property
    def conflicts(self) -> tuple[int, int]: ...
    @property
    def waiting_bytes(self) -> int: ...
    @property
    def counters(self) -> dict[str, int]: ...

class UdpProbe:
    def __init__(self, rcvbuf: int | None = None) -> None: ...
    def deliver(self, datagram: bytes, src: str = "10.0.0.2", dst: str = "10.0.0.1") -> DropReason: ...
    def receive(self, n: int = 65535, *, peek: bool = False) -> tuple[bytes, int, str, int] | int: ...
    def take_event(self) -> bool: ...
    @property
    def queued(self) -> tuple[int, int, int]: ...

class RouteProbe:
    def add(self, prefix: str, gateway: str | None = None, interface: int = 0) -> int: ...
    def remove(self, prefix: str) -> int: ...
    def lookup(self, dst: str) -> tuple[int, str] | None: ...
