"""Stacks without a stack: raw packets into and out of the rings of attachments."""

from __future__ import annotations

import ipaddress
import time

from netstack.errors import NoRouterError
from netstack.router.client import ControlClient
from netstack.router.forwarding import Forwarder
from netstack.router.pool import pack_address
from rings.channel import channel_pair

HEAD_MAX = 944


def put(channel, packet, *, split: int | None = None, kind: int = 1) -> bool:
    """Write one packet as a record: `split` bytes of head, the rest body. False when the ring is full."""
    raw = bytes(packet)
    if split is None:
        split = len(raw) if len(raw) <= HEAD_MAX else 0
    views = channel.tx.claim_record(len(raw) - split, split, kind)
    if views is None:
        return False
    head, body = views
    head[:] = raw[:split]
    body[:] = raw[split:]
    del head, body, views
    channel.tx.commit()
    return True


def take(channel) -> bytes | None:
    """The next packet, None without one."""
    record = channel.rx.peek_record()
    if record is None:
        return None
    packet = bytes(record[1]) + bytes(record[2])
    del record
    channel.release()
    return packet


def parsed(packet: bytes):
    from scapy.layers.inet import IP  # here, so that processes which only send start fast
    from scapy.layers.inet6 import IPv6

    return IPv6(packet) if packet[0] >> 4 == 6 else IP(packet)


def wait_until(condition, timeout: float = 60.0):
    """Look until something is true; a generous limit against hangs."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"still not so after {timeout} s"
        time.sleep(0.0005)


def answers(name: str) -> bool:
    """Whether a router runs under this name: its socket is there before anybody listens."""
    try:
        ControlClient(name).close()
    except NoRouterError:
        return False
    return True


class Stack:
    """One attachment of a `Lan`, seen from the stack's side."""

    def __init__(self, lan: Lan, addresses, *, mtu=65535, capacity=1 << 18):
        self.lan = lan
        self.address = addresses[0]
        self.here, self.channel = channel_pair(capacity)
        self.port = lan.forwarder.add_stack(
            self.here.tx, self.here.rx, self.here.fileno(), self.here.peer_fds, mtu=mtu
        )
        for address in addresses:
            lan.forwarder.bind(self.port, pack_address(address), 1)

    def send(self, *packets, split=None, flush=True):
        for packet in packets:
            assert put(self.channel, packet, split=split), "the ring to the router is full"
        if flush:
            self.channel.flush()

    def received(self) -> list:
        """Everything that arrived, parsed."""
        out = []
        while (packet := take(self.channel)) is not None:
            out.append(parsed(packet))
        return out

    @property
    def counters(self) -> dict[str, int]:
        """Those that are not 0."""
        return {k: v for k, v in self.lan.forwarder.counters(self.port).items() if v}

    def drops(self) -> dict[str, int]:
        return {k[5:]: v for k, v in self.counters.items() if k.startswith("drop_")}


class Lan:
    """A data path without its thread: nothing happens but in `run`."""

    def __init__(self, *networks, router="10.77.0.1", **options):
        networks = [ipaddress.ip_network(n) for n in networks or ("10.77.0.0/16",)]
        routers = (router,) if isinstance(router, str) else router
        self.forwarder = Forwarder(networks, [pack_address(r) for r in routers], **options)

    def stack(self, *addresses, **options) -> Stack:
        return Stack(self, addresses, **options)

    def run(self) -> int:
        """Rounds until nobody has anything; returns how many packets were taken. Conservation holds
        afterwards.
        """
        total = 0
        for _ in range(100000):
            n = self.forwarder.run_once()
            total += n
            if not n:
                break
        self.check()
        return total

    def check(self):
        assert self.forwarder.check_conservation() == []


class Timed(Lan):
    """A data path whose clock is the test's."""

    MS = 1_000_000
    now = 1_000 * MS

    def at(self, ms: float) -> None:
        """Rounds at so many milliseconds after the beginning, until nobody has anything."""
        self.now = Timed.now + round(ms * self.MS)
        while self.forwarder.run_once(self.now):
            pass
        self.check()
