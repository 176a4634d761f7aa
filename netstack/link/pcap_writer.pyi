import os
from typing import IO, Any

from netstack.link.link import Link
from netstack.link.wrapper import Wrapper

class PcapWriter(Wrapper):
    def __init__(
        self,
        inner: Link,
        file: str | os.PathLike[str] | int | IO[Any],
        *,
        format: str = "pcapng",
        snap_length: int | None = None,
        wall_offset_ns: int | None = None,
        name: str = "netstack0",
        key_log: tuple[int, int] | None = None,
    ) -> None: ...
    @property
    def path(self) -> str | None: ...
    @property
    def frames(self) -> int: ...
    @property
    def missed(self) -> int: ...
    def keep_keys(self, fd: int, at: int) -> None: ...
    def flush_file(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...
