from typing import NamedTuple

ECHO_REPLY: int
UNREACHABLE: int
ECHO_REQUEST: int
TIME_EXCEEDED: int
PARAMETER_PROBLEM: int

class Icmp(NamedTuple):
    type: int
    code: int
    identifier: int
    sequence: int
    payload: bytes

def parse(data: bytes) -> Icmp: ...
def build(
    type: int, code: int = 0, identifier: int = 0, sequence: int = 0, payload: bytes = b""
) -> bytes: ...
