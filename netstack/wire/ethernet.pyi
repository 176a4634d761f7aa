from typing import NamedTuple

class Ethernet(NamedTuple):
    dst: str
    src: str
    ethertype: int
    payload: bytes

def parse(data: bytes) -> Ethernet: ...
def build(dst: str | bytes, src: str | bytes, ethertype: int, payload: bytes = b"") -> bytes: ...
