"""Networks that exist only in a test: virtual time, seeded faults, two stacks on a wire, checks that compose.

Nothing here reads a clock, opens a device or draws unseeded chance: a test that fails prints its seed and
replays. Names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstack.testing.clock import VirtualClock
    from netstack.testing.link_driver import LinkDriver

_MODULES = {
    "LinkDriver": "link_driver",
    "VirtualClock": "clock",
}

__all__ = ["LinkDriver", "VirtualClock"]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
