from typing import NamedTuple

REQUEST: int
REPLY: int

class Arp(NamedTuple):
    operation: int
    sender_mac: str
    sender: str
    target_mac: str
    target: str

def parse(data: bytes) -> Arp: ...
def build(
    operation: int, sender_mac: str | bytes, sender: str, target_mac: str | bytes, target: str
) -> bytes: ...
