from typing import NamedTuple

class IPv4(NamedTuple):
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

def parse(data: bytes, *, verify: bool = True) -> IPv4: ...
def build(
    src: str,
    dst: str,
    protocol: int,
    payload: bytes = b"",
    *,
    tos: int = 0,
    ttl: int = 64,
    id: int = 0,
    df: bool = True,
) -> bytes: ...
