from collections.abc import Mapping
from typing import Any

from netstack.link.link import Link
from netstack.link.wrapper import Wrapper

class FaultInjector(Wrapper):
    def __init__(
        self,
        inner: Link,
        *,
        seed: int = 0,
        output: Mapping[str, Any] | None = None,
        input: Mapping[str, Any] | None = None,
        **both: Any,
    ) -> None: ...
    @property
    def seed(self) -> int: ...
    def set(
        self,
        *,
        output: Mapping[str, Any] | None = None,
        input: Mapping[str, Any] | None = None,
        **both: Any,
    ) -> None: ...
    def stats(self) -> dict[str, dict[str, int]]: ...
