"""What a router holds for one stack."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from netstack.router.block_messages import Network
from netstack.router.conduct import findings
from netstack.router.limiting import limit_of
from netstack.router.pool import Lease, format_address, is_v4
from netstack.router.protocol import AttachmentInfo

if TYPE_CHECKING:
    from netstack.router.control import Connection
    from netstack.router.forwarding import Forwarder


class Attached:
    """One stack, for the router: who it is, its memory, what it has."""

    def __init__(self, connection: Connection, channel, bells, mtu: int, capabilities: int):
        self.connection = connection
        self.channel = channel
        self.bells = bells  # sockets the router rings (memfd), kept open
        self.mtu = mtu
        self.capabilities = capabilities
        self.token = b""  # what its owner proves itself with after a restart
        self.leases: list[Lease] = []
        self.blocks: list[Network] = []
        self.shared: tuple[bytes, ...] = ()  # addresses that others have too
        self.numbers: set[tuple[int, int]] = set()  # kinds and ports that it has of them
        self.port = 0
        self.since_ns = time.monotonic_ns()
        self.command = command_of(connection.pid)
        self.misdeed = ""  # what a TCP of it did last, in words

    @property
    def addresses(self) -> tuple[bytes, ...]:
        addresses = (*self.shared, *(lease.address for lease in self.leases))
        return tuple(sorted(addresses, key=lambda a: not is_v4(a))) if self.shared else addresses

    @property
    def whereabouts(self) -> str:
        """Its addresses and blocks, for people."""
        return ", ".join((*map(format_address, self.addresses), *map(str, self.blocks)))

    def info(self, forwarder: Forwarder) -> AttachmentInfo:
        c = forwarder.counters(self.port)
        limit = limit_of(forwarder, self.port)
        return AttachmentInfo(
            id=self.port,
            pid=self.connection.pid,
            uid=self.connection.uid,
            state=forwarder.state(self.port),
            epoch=self.leases[0].epoch if self.leases else 0,
            uptime_ns=time.monotonic_ns() - self.since_ns,
            **traffic(c),
            mtu=self.mtu,
            addresses=self.addresses,
            command=self.command,
            blocks=tuple(self.blocks),
            limit_bytes_s=limit[0],
            limit_packets_s=limit[1],
            limited=c["limited"],
            deferred=c["deferred"],
            greedy=findings(c),
        )


def traffic(counters: Mapping[str, int]) -> dict[str, int]:
    """What passed a port, and what did not, as `AttachmentInfo` and `UplinkInfo` say it."""
    return {
        "packets_in": counters["in_packets"],
        "bytes_in": counters["in_bytes"],
        "packets_out": counters["out_packets"],
        "bytes_out": counters["out_bytes"],
        "drops_in": sum(v for k, v in counters.items() if k.startswith("drop_in_")),
        "drops_out": sum(v for k, v in counters.items() if k.startswith("drop_out_")),
    }


def command_of(pid: int) -> str:
    """The command line of a process, as the kernel tells it, in one line; empty if it hides."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            text = file.read(4096).rstrip(b"\0").decode("utf-8", "replace")
    except OSError:
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
