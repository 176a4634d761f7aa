from typing import NamedTuple

class TcpHeader(NamedTuple):
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    urgent: int
    header_length: int
    mss: int | None
    wscale: int | None
    sack_permitted: bool
    timestamps: tuple[int, int] | None
    sack: tuple[tuple[int, int], ...]
    accecn: tuple[int, tuple[int, ...]] | None = ...
    fastopen: bytes | None = ...

def parse(data: bytes | bytearray | memoryview) -> TcpHeader: ...
