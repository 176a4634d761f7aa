from collections.abc import Iterable

from netstack.link.link import Link

class Watcher:
    def __init__(self, control_fd: int, link: Link, bells: Iterable[int] = ()) -> None: ...
    def stop(self) -> None: ...
