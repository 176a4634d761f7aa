from typing import NamedTuple

class Udp(NamedTuple):
    sport: int
    dport: int
    length: int
    has_checksum: bool
    payload: bytes

def parse(data: bytes, src: str, dst: str) -> Udp: ...
def build(src: str, dst: str, sport: int, dport: int, payload: bytes = b"") -> bytes: ...
