"""Links: what moves the frames of a stack. Names load on first use; importing the package stays cheap.

`Wire` joins two stacks of one process, `channel_pair` two processes over shared memory, `Tap` and `Tun`
reach the kernel, `KernelIp` lets it do all of IP, `QueueLink` is filled and emptied by hand.
`FaultInjector`, `PcapWriter` and `Tracer` wrap any link.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstack.link.channel import ChannelLink, channel_pair
    from netstack.link.fault_injector import FaultInjector
    from netstack.link.kernel_ip import KernelIp
    from netstack.link.link import Link
    from netstack.link.pcap_writer import PcapWriter
    from netstack.link.queue import QueueLink
    from netstack.link.tap import Tap, Tun
    from netstack.link.tracer import Tracer
    from netstack.link.wire import Wire, WireEnd

_MODULES = {
    "ChannelLink": "channel",
    "FaultInjector": "fault_injector",
    "KernelIp": "kernel_ip",
    "Link": "link",
    "PcapWriter": "pcap_writer",
    "QueueLink": "queue",
    "Tap": "tap",
    "Tracer": "tracer",
    "Tun": "tap",
    "Wire": "wire",
    "WireEnd": "wire",
    "channel_pair": "channel",
}

__all__ = [
    "ChannelLink",
    "FaultInjector",
    "KernelIp",
    "Link",
    "PcapWriter",
    "QueueLink",
    "Tap",
    "Tracer",
    "Tun",
    "Wire",
    "WireEnd",
    "channel_pair",
]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
