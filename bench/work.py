"""``python -m bench.work [--rounds N] [--seconds S]``: what packets cost the router, by kind, measured and counted.

The numbers of ``netstack/router/budget.pxd`` come from here. Each kind is measured in turn, a round at a time,
rings filled and emptied off the clock: nanoseconds a packet, median, as a multiple of a plain packet's, and the units
of work that the router counts, as a multiple of a plain packet's. Then what asking for a limit costs where there is
none and where there is one, burst by burst in turn.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
import statistics
import sys
import time

from bench import forwarding
from bench.forwarding import NETWORK, ONE, ROUTER, packet

TWO, OUTSIDE = "10.77.0.3", "198.51.100.9"
N = 48                                   # packets of a round: less than a batch
CAPACITY = 8 << 20


class Path:
    """A data path with a stack that sends, and one that receives."""

    def __init__(self, *, mtu=65535, shared=()):
        from netstack.router.forwarding import Forwarder
        from netstack.router.pool import pack_address

        self.forwarder = Forwarder([ipaddress.ip_network(NETWORK)], pack_address(ROUTER), spin_us=0,
                                   queue_limit=1 << 24)
        self.now_ns = 10**9
        self.keep = []
        self.sender, self.port = self.stack(ONE)
        self.receiver, self.other = self.stack(TWO, mtu=mtu)

    def stack(self, *addresses, mtu=65535, capacity=CAPACITY):
        from netstack.router.pool import pack_address
        from rings.channel import channel_pair

        here, there = channel_pair(capacity)
        port = self.forwarder.add_stack(here.tx, here.rx, here.fileno(), here.peer_fds, mtu=mtu)
        for address in addresses:
            self.forwarder.bind(port, pack_address(address), 1)
        self.keep.append(here)
        return there, port

    def uplink(self, mtu=1500):
        """A device without a kernel's network: a pair of sockets."""
        from netstack.router.devices.device import FileDevice

        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        self.forwarder.add_uplink(FileDevice(near.detach(), mtu=mtu, ethernet=False))

    def fill(self, packets):
        for raw in packets:
            head = min(len(raw), 40)
            views = self.sender.tx.claim_record(len(raw) - head, head, 1)
            views[0][:] = raw[:head]
            views[1][:] = raw[head:]
            del views
            self.sender.tx.commit()
        self.sender.flush()

    def empty(self):
        """Whatever arrived anywhere."""
        for channel in (self.sender, self.receiver):
            while (record := channel.rx.peek_record()) is not None:
                del record
            channel.release()
        if hasattr(self, "far"):
            try:
                while self.far.recv(65536):
                    pass
            except BlockingIOError:
                pass

    def round(self, packets) -> float:
        """Nanoseconds a packet."""
        self.fill(packets)
        self.now_ns += 10**9                 # whatever is limited by time is allowed
        taken, began = 0, time.perf_counter_ns()
        while n := self.forwarder.run_once(self.now_ns):
            taken += n
        took = time.perf_counter_ns() - began
        if taken < len(packets):
            raise RuntimeError(f"{taken} of {len(packets)} packets forwarded")
        self.empty()
        return took / len(packets)

    def work(self) -> float:
        """Units that the router counted for each packet so far."""
        counters = self.forwarder.counters(self.port)
        return counters["work"] / counters["in_packets"]


def ttl(raw: bytes, value: int) -> bytes:
    """With another TTL, and a checksum that is right."""
    raw = bytearray(raw)
    raw[8] = value
    raw[10:12] = b"\0\0"
    total = sum(int.from_bytes(raw[i : i + 2], "big") for i in range(0, 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    raw[10:12] = (total ^ 0xFFFF).to_bytes(2, "big")
    return bytes(raw)


def tcp(raw: bytes) -> bytes:
    """The same as a TCP segment."""
    from scapy.layers.inet import IP, TCP
    from scapy.packet import Raw

    ip = IP(raw)
    return bytes(IP(src=ip.src, dst=ip.dst) / TCP(sport=1, dport=2, flags="A") / Raw(bytes(len(raw) - 40)))


def plain(size):
    return lambda: (Path(), [packet(ONE, TWO, size)] * (N if size < 2000 else 8))


def by_prefix():
    path = Path()
    path.forwarder.add_route(ipaddress.ip_network("198.51.100.0/24"), path.other)
    return path, [packet(ONE, OUTSIDE, 64)] * N


def by_port():
    from netstack.router.pool import pack_address
    from netstack.router.sharing import UDP, SharedAddresses

    path = Path()
    shared = SharedAddresses(path.forwarder, [pack_address("10.77.9.9")])
    shared.join(path.other, 0)
    shared.claim(path.other, UDP, 9)
    return path, [packet(ONE, "10.77.9.9", 64)] * N


def error(size=64):
    path = Path()
    return path, [ttl(packet(ONE, TWO, size), 1)] * N


def refused():
    path = Path()
    path.forwarder.bind(path.other, "10.77.0.9", 1)
    path.forwarder.set_state("10.77.0.9", "dead")
    return path, [tcp(packet(ONE, "10.77.0.9", 64))] * N


def full(size):
    def make():
        path = Path()
        path.forwarder.remove(path.other)
        path.keep.pop()
        path.receiver, path.other = path.stack(TWO, capacity=1 << 18)
        n = N if size < 2000 else 8
        stuffing = [packet(ONE, TWO, size)] * n
        while not path.forwarder.counters(path.other)["queued"]:
            path.fill(stuffing)
            path.forwarder.run_once(path.now_ns)
        path.empty = lambda: None            # and nobody takes any
        return path, stuffing
    return make


def under_way():
    path = Path()
    path.forwarder.emulate(path.other, delay="24h")
    return path, [packet(ONE, TWO, 64)] * N


def sent(size=64):
    path = Path()
    path.uplink()
    return path, [packet(ONE, OUTSIDE, size)] * N


def cut():
    path = Path()
    path.uplink()
    return path, [tcp(packet(ONE, OUTSIDE, 60000))]


def kicked():
    """Each packet to another stack, all asleep."""
    path = Path()
    sleepers, packets = [], []
    for i in range(N):
        channel, _ = path.stack(f"10.77.1.{i + 1}", capacity=1 << 18)
        sleepers.append(channel)
        packets.append(packet(ONE, f"10.77.1.{i + 1}", 64))

    def empty():
        for channel in sleepers:
            while (record := channel.rx.peek_record()) is not None:
                del record
            channel.release()
            channel.rx.arm()
    path.empty = empty
    empty()
    return path, packets


KINDS = {
    "plain, 64 B": plain(64),
    "plain, 1500 B": plain(1500),
    "plain, 64 KiB": plain(65000),
    "by the longest prefix": by_prefix,
    "told apart by port": by_port,
    "an ICMP error, 64 B": error,
    "an ICMP error, 1500 B": lambda: error(1500),
    "a reset": refused,
    "into a queue, 64 B": full(64),
    "into a queue, 64 KiB": full(65000),
    "an emulated link": under_way,
    "to a device, 64 B": sent,
    "to a device, 1500 B": lambda: sent(1500),
    "to a device, 60,000 B cut in 42": cut,
    "a doorbell each": kicked,
}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.work", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="of each kind")
    parser.add_argument("--seconds", type=float, default=3, help="of the comparison")
    arguments = parser.parse_args(argv)
    made = {name: make() for name, make in KINDS.items()}
    took: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(arguments.rounds):
        for name, (path, packets) in made.items():
            took[name].append(path.round(packets))
    work = {name: path.work() for name, (path, _) in made.items()}
    one, unit = statistics.median(took["plain, 64 B"]), work["plain, 64 B"]
    print(f"{'':34} {'ns':>9} {'x plain':>8} {'counted':>8}")
    for name, each in took.items():
        median = statistics.median(each)
        print(f"{name:34} {median:9.0f} {median / one:8.1f} {work[name] / unit:8.1f}")
    print("\nforwarding packets of 64 B, a second:")
    compared = forwarding.compared(arguments.seconds)
    for name, rate in compared.items():
        print(f"{name:34} {rate / 1e6:8.2f} M {rate / compared['no limit']:8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
