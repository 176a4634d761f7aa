from typing import NamedTuple

class Udp(NamedTuple):
    sport: int
    dport: int
    length: int
    has_checksum: bool
    payload: bytes

class UdpLite(NamedTuple):
    sport: int
    dport: int
    coverage: int
    payload: bytes

def parse(data: bytes, src: str, dst: str) -> Udp: ...
def parse_lite(data: bytes, src: str, dst: str) -> UdpLite: ...
def build(src: str, dst: str, sport: int, dport: int, payload: bytes = b"") -> bytes: ...
def build_lite(src: str, dst: str, sport: int, dport: int, payload: bytes = b"", coverage: int = 0) -> bytes: ...
