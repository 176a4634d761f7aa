"""Who gets what of a link that four stacks share while one of them is greedy (paper section 5), fair queues or not.

The router's own data path and stacks of this project, on virtual time: the same seed gives the same table. Three stacks
send one TCP connection each, as fast as their congestion control allows, through the router to a server behind an
emulated link. The fourth is one of `GREEDY`. Run ``python -m bench.fairness``.
"""

from __future__ import annotations

import argparse
import ipaddress

from netstack.router.forwarding import Forwarder
from netstack.router.pool import pack_address
from netstack.stack import Stack
from netstack.testing.packets import build_tcp, build_udp, parse_packet
from tests.router.lan import put, take

RATE = 20_000_000                # bit/s of the shared link
DELAY_NS = 10_000_000            # each way
QUEUE = 100                      # packets: about the path's 50 kB three times
PATH_BYTES = RATE // 8 * 2 * DELAY_NS // 10**9
STEP_NS = 200_000                # what happens closer together happens at once
MTU = 1500
SERVER, PORT = "10.77.0.9", 7
SECONDS = 10


def jain(values) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values))


class Stream:
    """A stack of ours with some connections that always have something to send."""

    def __init__(self, address: str, seed: int, connections: int = 1):
        self.address = address
        self.stack = Stack(addresses=(f"{address}/16",), mtu=MTU, seed=seed)
        self.sockets = []
        self.connections = connections

    def run(self, now: int, packets: list[bytes]) -> list[bytes]:
        self.stack.advance(now)
        for packet in packets:
            self.stack.input(packet, now)
        while len(self.sockets) < self.connections:
            s = self.stack.socket()
            s.connect_ex((SERVER, PORT))
            self.sockets.append(s)
        for s in self.sockets:
            try:
                while s.send(bytes(65536)):
                    pass
            except (BlockingIOError, OSError):
                pass
        self.stack.advance(now)
        return drained(self.stack)

    def deadline(self) -> int | None:
        return self.stack.next_deadline()


class GreedyTcp:
    """A TCP with a fixed window, ten times what the path holds, that answers losses by nothing but sending again."""

    PATIENCE_NS = 50_000_000    # a segment of which nothing was heard for so long is sent again

    def __init__(self, address: str, seed: int):
        self.address = address
        self.window = 10 * PATH_BYTES
        self.una = self.nxt = seed << 16
        self.sent: dict[int, int] = {}       # sequence number: when
        self.ack = 0
        self.established = self.asked = False
        self.shift = self.offered = 0

    def segment(self, flags: str, seq: int, payload: bytes = b"", **options) -> bytes:
        return build_tcp(self.address, SERVER, 4000, PORT, flags, seq=seq, ack=self.ack, payload=payload, **options)

    def run(self, now: int, packets: list[bytes]) -> list[bytes]:
        size = MTU - 40
        out = []
        if not self.asked:
            self.asked = True
            return [self.segment("S", self.una, mss=size, window_scale=7, sack_permitted=True)]
        for raw in packets:
            packet = parse_packet(raw)
            if not self.established:
                self.established = True
                self.una = self.nxt = packet.ack
                self.ack = packet.seq + 1
                self.shift = packet.window_scale or 0
                out.append(self.segment("A", self.nxt))
            self.una = max(self.una, packet.ack)
            shift = 0 if "S" in packet.flags else self.shift
            self.offered = max(self.offered, packet.ack + (packet.window << shift))
            for start, end in packet.sack:
                for seq in range(start, end, size):
                    if seq in self.sent:
                        self.sent[seq] = now + 10**12            # arrived: not again
        if not self.established:
            return out
        for seq in [s for s in self.sent if s < self.una]:
            del self.sent[seq]
        while self.nxt < self.una + self.window and self.may_send(self.nxt + size):
            self.sent[self.nxt] = -self.PATIENCE_NS
            self.nxt += size
        for seq, when in self.sent.items():
            if when + self.PATIENCE_NS <= now:
                self.sent[seq] = now
                out.append(self.segment("A", seq, bytes(size)))
        return out

    def may_send(self, behind: int) -> bool:
        """A sequence number, whatever window the receiver offers."""
        return True

    def deadline(self) -> int | None:
        return min(self.sent.values(), default=0) + self.PATIENCE_NS if self.established else None


class FixedWindow(GreedyTcp):
    """One that keeps to what its receiver offers, and to nothing else."""

    def may_send(self, behind: int) -> bool:
        return behind <= self.offered


class Blast:
    """UDP at twice the rate of the link, whatever becomes of it."""

    def __init__(self, address: str, seed: int):
        self.address = address
        self.packet = build_udp(address, SERVER, 4000, PORT, bytes(MTU - 28))
        self.next = 0

    def run(self, now: int, packets: list[bytes]) -> list[bytes]:
        out = []
        self.next = self.next or now
        while self.next <= now:
            out.append(self.packet)
            self.next += MTU * 8 * 10**9 // (2 * RATE)
        return out

    def deadline(self) -> int | None:
        return self.next


class Server:
    """Takes whatever comes, and remembers how much of it was whose."""

    def __init__(self) -> None:
        self.address = SERVER
        self.stack = Stack(addresses=(f"{SERVER}/16",), mtu=MTU, seed=99,
                           sysctl={"net.ipv4.tcp_rmem": "4096 4194304 8388608"})
        self.listener = self.stack.socket()
        self.listener.bind((SERVER, PORT))
        self.listener.listen(256)
        self.datagrams = self.stack.socket("dgram")
        self.datagrams.bind((SERVER, PORT))
        self.streams: list = []
        self.link_bytes: dict[str, int] = {}         # by source: of whole packets
        self.data_bytes: dict[str, int] = {}         # of what a program gets

    def run(self, now: int, packets: list[bytes]) -> list[bytes]:
        self.stack.advance(now)
        for packet in packets:
            source = str(ipaddress.ip_address(packet[12:16]))
            self.link_bytes[source] = self.link_bytes.get(source, 0) + len(packet)
            self.stack.input(packet, now)
        try:
            while True:
                self.streams.append(self.listener.accept())
        except BlockingIOError:
            pass
        for stream, (source, _) in self.streams:
            try:
                while data := stream.recv(1 << 20):
                    self.data_bytes[source] = self.data_bytes.get(source, 0) + len(data)
            except (BlockingIOError, OSError):
                pass
        try:
            while True:
                data, (source, _) = self.datagrams.recvfrom(65536)
                self.data_bytes[source] = self.data_bytes.get(source, 0) + len(data)
        except BlockingIOError:
            pass
        self.stack.advance(now)
        return drained(self.stack)

    def deadline(self) -> int | None:
        return self.stack.next_deadline()


def drained(stack) -> list[bytes]:
    out = []
    while (item := stack.pop_output()) is not None:
        out.append(item[0])
    return out


class Bottleneck:
    """A router's data path, who sends, and the server behind the slow link; nothing happens but in `run`."""

    def __init__(self, senders, greedy="count", **options):
        from rings.channel import channel_pair

        pool = [ipaddress.ip_network("10.77.0.0/16")]
        self.forwarder = Forwarder(pool, pack_address("10.77.0.1"), spin_us=0, greedy=greedy, **options)
        self.server = Server()
        self.parties = []
        self.keep = []
        for party in (self.server, *senders):
            here, channel = channel_pair(1 << 20)
            port = self.forwarder.add_stack(here.tx, here.rx, here.fileno(), here.peer_fds, mtu=MTU)
            self.forwarder.bind(port, pack_address(party.address), 1)
            self.parties.append((party, channel, port))
            self.keep.append(here)
        self.port = self.parties[0][2]
        self.forwarder.emulate(self.port, output={"rate": RATE, "delay": DELAY_NS, "queue": QUEUE},
                               input={"delay": DELAY_NS}, seed=1)
        self.now = 10**9

    def step(self) -> None:
        """Everything that happens now, then on to when something does again."""
        busy = True
        first = True
        while busy:
            busy = self.forwarder.run_once(self.now) > 0
            for party, channel, _ in self.parties:
                got = []
                while (packet := take(channel)) is not None:
                    got.append(packet)
                if not got and not first and (party.deadline() or 1 << 62) > self.now:
                    continue
                for packet in party.run(self.now, got):
                    put(channel, packet)
                    busy = True
                channel.flush()
            first = False
        times = [self.forwarder.next_deadline(), *(party.deadline() for party, *_ in self.parties)]
        self.now = max(min(t for t in times if t is not None), self.now + STEP_NS)

    def run(self, seconds: float) -> None:
        until = self.now + int(seconds * 1e9)
        while self.now < until:
            self.step()
        assert self.forwarder.check_conservation() == []


GREEDY = {
    "honest": lambda address, seed: Stream(address, seed),
    "no back-off": GreedyTcp,
    "UDP blast": Blast,
    "fixed window": FixedWindow,
    "64 connections": lambda address, seed: Stream(address, seed, connections=64),
}


# Queues, what is done about TCPs that misbehave, and the router's options.
ROWS: list[tuple[str, str, dict]] = [
    ("one", "count", {"fair": False}),
    ("one", "clamp", {"fair": False}),
    ("fair", "count", {}),
    ("fair", "penalty", {}),
    ("fair, CoDel", "count", {"codel": True}),
]


def measure(kind: str, seconds: float = SECONDS, **options) -> dict[str, float]:
    """Parts of the link: of the greedy stack, of the honest ones (of a fair part each), and how fair that is.

    The first second, in which connections find their rate, does not count.
    """
    honest = [Stream(f"10.77.0.{n}", n) for n in (2, 3, 4)]
    greedy = GREEDY[kind]("10.77.0.5", 5)
    shared = Bottleneck([*honest, greedy], **options)
    shared.run(1)
    link, data = dict(shared.server.link_bytes), dict(shared.server.data_bytes)
    shared.run(seconds)
    fair = RATE / 8 * seconds / 4

    def part(party) -> float:
        return (shared.server.link_bytes.get(party.address, 0) - link.get(party.address, 0)) / fair

    def of_data(party) -> float:
        got = shared.server.data_bytes.get(party.address, 0) - data.get(party.address, 0)
        return got / (fair * (MTU - 52) / MTU)                   # headers of IP and TCP, timestamps

    parts = [part(party) for party in (*honest, greedy)]
    found = shared.forwarder.findings()
    return {
        "greedy": parts[3],
        "least honest": min(parts[:3]),
        "least data": min(map(of_data, honest)),
        "used": sum(parts) / 4,
        "jain": jain(parts),
        "found": len({f.misdeed for f in found if f.culprit[0] == greedy.address}),
        "found of honest": sum(f.culprit[0] != greedy.address for f in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of virtual time (default: %(default)s)")
    seconds = parser.parse_args().seconds
    print(f"four stacks share {RATE // 10**6} Mbit/s for {seconds:g} s of virtual time; 1 is a quarter of the link")
    heads = f"{'greedy':>8}{'least honest':>14}{'its data':>10}{'used':>7}{'Jain':>8}{'misdeeds found':>16}"
    print(f"{'the fourth stack':<18}{'queues':<14}{'policy':<9}{heads}")
    for kind in GREEDY:
        for queues, policy, options in ROWS:
            r = measure(kind, seconds, greedy=policy, **options)
            print(f"{kind:<18}{queues:<14}{policy:<9}{r['greedy']:>8.3f}{r['least honest']:>14.3f}"
                  f"{r['least data']:>10.3f}{r['used']:>7.3f}{r['jain']:>8.4f}{r['found']:>10.0f} of 4", flush=True)


if __name__ == "__main__":
    main()
