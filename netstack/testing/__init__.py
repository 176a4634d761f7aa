"""Networks that exist only in a test: virtual time, seeded faults, two stacks on a wire, checks that compose.

Nothing here reads a clock, opens a device or draws unseeded chance: a test that fails prints its seed and
replays. Names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstack.testing.checkers import ANY, Checker, check, is_icmp, is_ip, is_ipv4, is_tcp, is_udp
    from netstack.testing.clock import VirtualClock
    from netstack.testing.fuzz_link import FuzzLink
    from netstack.testing.link_driver import LinkDriver
    from netstack.testing.network import Host, Network, Pair, SimulationError, Transfer
    from netstack.testing.packets import (
        Packet,
        build_icmp,
        build_ipv4,
        build_ipv6,
        build_tcp,
        build_udp,
        parse_packet,
        repair,
    )
    from netstack.testing.recorder import Recorder
    from netstack.testing.scripted_peer import Flow, ScriptedPeer
    from netstack.testing.state_checker import Segment, StateChecker
    from netstack.testing.streams import Stream
    from netstack.testing.virtual import VirtualLoop, VirtualNetwork
    from netstack.testing.watching import ProtocolViolation, watched

_MODULES = {
    "ANY": "checkers",
    "Checker": "checkers",
    "Flow": "scripted_peer",
    "FuzzLink": "fuzz_link",
    "Host": "network",
    "LinkDriver": "link_driver",
    "Network": "network",
    "Packet": "packets",
    "Pair": "network",
    "ProtocolViolation": "watching",
    "Recorder": "recorder",
    "ScriptedPeer": "scripted_peer",
    "Segment": "state_checker",
    "SimulationError": "network",
    "StateChecker": "state_checker",
    "Stream": "streams",
    "Transfer": "network",
    "VirtualClock": "clock",
    "VirtualLoop": "virtual",
    "VirtualNetwork": "virtual",
    "build_icmp": "packets",
    "build_ipv4": "packets",
    "build_ipv6": "packets",
    "build_tcp": "packets",
    "build_udp": "packets",
    "check": "checkers",
    "is_icmp": "checkers",
    "is_ip": "checkers",
    "is_ipv4": "checkers",
    "is_tcp": "checkers",
    "is_udp": "checkers",
    "parse_packet": "packets",
    "repair": "packets",
    "watched": "watching",
}

__all__ = [
    "ANY",
    "Checker",
    "Flow",
    "FuzzLink",
    "Host",
    "LinkDriver",
    "Network",
    "Packet",
    "Pair",
    "ProtocolViolation",
    "Recorder",
    "ScriptedPeer",
    "Segment",
    "SimulationError",
    "StateChecker",
    "Stream",
    "Transfer",
    "VirtualClock",
    "VirtualLoop",
    "VirtualNetwork",
    "build_icmp",
    "build_ipv4",
    "build_ipv6",
    "build_tcp",
    "build_udp",
    "check",
    "is_icmp",
    "is_ip",
    "is_ipv4",
    "is_tcp",
    "is_udp",
    "parse_packet",
    "repair",
    "watched",
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
