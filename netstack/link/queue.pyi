from netstack.link.link import Link

class QueueLink(Link):
    loop: bool
    def __init__(
        self,
        mtu: int = 1500,
        media: str = "ip",
        *,
        loop: bool = False,
        limit: int = ...,
        trusted: bool = False,
    ) -> None: ...
    def push(self, packet: bytes) -> None: ...
    def pop(self) -> tuple[bytes, int] | None: ...
    @property
    def waiting(self) -> tuple[int, int]: ...
