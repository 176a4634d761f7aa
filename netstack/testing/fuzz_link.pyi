from collections.abc import Iterable

from netstack.link.link import Link
from netstack.stack import Stack

class FuzzLink(Link):
    injected: int
    sent: int
    worst: int
    now_ns: int
    def __init__(
        self,
        templates: Iterable[tuple[bytes, int]],
        seed: int,
        *,
        mtu: int = 1500,
        media: str = "ip",
        calm: int = 8,
        number_at: int = 0,
    ) -> None: ...
    def attack(self, stack: Stack, count: int) -> None: ...
    def settle(self, stack: Stack, seconds: int) -> None: ...
    @property
    def last(self) -> bytes: ...
