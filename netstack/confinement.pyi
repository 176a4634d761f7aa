from collections.abc import Iterable
from typing import NamedTuple

class Confined(NamedTuple):
    dumps: bool
    capabilities: bool
    landlock: int
    seccomp: bool

def landlock_version() -> int: ...
def forbid_dumps() -> None: ...
def give_up_capabilities(keep: Iterable[int] = ()) -> None: ...
def restrict_files(read: Iterable[str] = (), write: Iterable[str] = ()) -> int: ...
def restrict_calls(families: Iterable[int] = ...) -> bool: ...
def confine(
    *,
    read: Iterable[str] = (),
    write: Iterable[str] = (),
    families: Iterable[int] = ...,
    capabilities: Iterable[int] = (),
) -> Confined: ...
