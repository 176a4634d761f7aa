"""Nobody who keeps the rules is taken for one who does not: stacks of this project through a router that watches them.

Each seed makes a network of its own: algorithms, mtu, version of IP, a slow link with a short queue, fair or not, CoDel
or not, losses, and between stacks and router packets that are lost, doubled and put out of order. ``NETSTACK_SEED=n``
runs that one alone.
"""

import heapq
import ipaddress
import os
import random

import pytest

from netstack.router.forwarding import Forwarder
from netstack.router.pool import pack_address
from netstack.stack import Stack
from rings.channel import channel_pair
from tests.router.lan import put, take
from tests.support import scale

ALGORITHMS = ("reno", "cubic", "vegas", "bbr", "dctcp", "ledbat")
CHUNKS = 6
FIXED_SEED = os.environ.get("NETSTACK_SEED")
MS = 1_000_000
STEP_NS = MS // 4
PORT = 7
SO_RCVBUF, SO_KEEPALIVE, SOL_SOCKET, SOL_TCP = 8, 9, 1, 6
TCP_KEEPIDLE, TCP_KEEPINTVL = 4, 5


class Wire:
    """One way between a stack and its ring: what is lost, doubled and held back there."""

    def __init__(self, rng, chaos):
        self.rng, self.chaos = rng, chaos
        self.held, self.order = [], 0

    def push(self, now, packet):
        rng, chaos = self.rng, self.chaos
        for _ in range(1 + (rng.random() < chaos / 2)):
            if rng.random() >= chaos / 4:
                late = rng.randrange(20 * MS) if rng.random() < chaos else 0
                heapq.heappush(self.held, (now + late, self.order, packet))
                self.order += 1

    def pop(self, now):
        while self.held and self.held[0][0] <= now:
            yield heapq.heappop(self.held)[2]


class Party:
    """A stack with its programs: it sends, it listens, it reads as fast as it likes."""

    def __init__(self, net, address, rng, *, mtu, chaos):
        self.rng, self.address = rng, address
        self.stack = Stack(
            addresses=(f"{address}/{64 if ':' in address else 16}",), mtu=mtu, seed=rng.randrange(1 << 30),
            sysctl={"net.ipv4.tcp_congestion_control": rng.choice(ALGORITHMS),
                    "net.ipv4.tcp_sack": int(rng.random() < 0.8),
                    "net.ipv4.tcp_timestamps": int(rng.random() < 0.8),
                    "net.ipv4.tcp_window_scaling": int(rng.random() < 0.8),
                    "net.ipv4.tcp_ecn": rng.choice((0, 1, 2)), "net.ipv4.tcp_fastopen": 3})
        here, self.channel = channel_pair(1 << 20)
        self.keep = here
        self.port = net.forwarder.add_stack(here.tx, here.rx, here.fileno(), here.peer_fds, mtu=mtu)
        net.forwarder.bind(self.port, pack_address(address), 1)
        self.inward, self.outward = Wire(rng, chaos), Wire(rng, chaos)
        self.listener = self.socket()
        self.listener.bind((address, PORT))
        self.listener.listen(64)
        self.senders, self.readers = [], []
        self.read = 0

    def socket(self):
        return self.stack.socket("stream", 10 if ":" in self.address else 2)

    def connect(self, to):
        s = self.socket()
        s.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        s.setsockopt(SOL_TCP, TCP_KEEPIDLE, 1)
        s.setsockopt(SOL_TCP, TCP_KEEPINTVL, 1)
        if self.rng.random() < 0.5:
            s.setsockopt(SOL_TCP, 30, 1)                     # Fast Open: data goes with the SYN once there is a cookie
        if self.rng.random() < 0.3:
            s.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        s.connect_ex((to, PORT))
        size = self.rng.choice((1, 100, 3000, 1 << 16, 1 << 16))
        self.senders.append([s, size, self.rng.randrange(1 << 15, 1 << 21)])

    def programs(self):
        try:
            while True:
                s = self.listener.accept()[0]
                self.readers.append([s, self.rng.choice((0, 0, 1, 1, 1, 1)), self.rng.random() < 0.3])
        except BlockingIOError:
            pass
        for each in list(self.senders):
            s, size, left = each
            try:
                while left > 0 and (n := s.send(bytes(min(size, left)))):
                    left -= n
                    if size < 3000:
                        break
                each[2] = left
                if left <= 0:
                    s.close()
                    self.senders.remove(each)
            except BlockingIOError:
                pass
            except OSError:
                self.senders.remove(each)
        for each in list(self.readers):
            s, eager, answers = each
            try:
                while (eager or self.rng.random() < 0.02) and (data := s.recv(self.rng.choice((100, 5000, 1 << 20)))):
                    self.read += len(data)
                    if answers:
                        s.send(data[:500])
                    if not eager:
                        break
            except (BlockingIOError, OSError):
                pass


class Net:
    def __init__(self, seed):
        rng = random.Random(f"honest {seed}")
        six = rng.random() < 0.4
        mtu = rng.choice((1500, 1500, 1280, 9000, 65535))
        codel = rng.random() < 0.3
        self.forwarder = Forwarder(
            [ipaddress.ip_network(n) for n in ("10.77.0.0/16", "fd77::/64")],
            [pack_address(a) for a in ("10.77.0.1", "fd77::1")],
            spin_us=0, fair=codel or rng.random() < 0.5, codel=codel, queue_limit=rng.choice((20_000, 1 << 20)),
            greedy="count")
        chaos = rng.choice((0, 0, 0.02, 0.1, 0.3))
        addresses = [f"fd77::{n}" if six else f"10.77.0.{n}" for n in range(2, 6)]
        self.parties = [Party(self, a, random.Random(f"{seed} {a}"), mtu=rng.choice((mtu, 1500)), chaos=chaos)
                        for a in addresses]
        for party in self.parties[:2]:
            self.forwarder.emulate(
                party.port, seed=seed,
                output={"rate": rng.choice(("1mbit", "5mbit", "20mbit")), "queue": rng.choice((5, 30, 100)),
                        "delay": rng.choice(("0ms", "2ms", "20ms")), "loss": rng.choice((0, 0, 0.01, 0.1, 0.3))},
                input={"delay": rng.choice(("0ms", "20ms")), "jitter": rng.choice(("0ms", "5ms"))})
        self.rng, self.now = rng, 10**9

    def step(self):
        now = self.now
        for party in self.parties:
            party.stack.advance(now)
            for packet in party.inward.pop(now):
                party.stack.input(packet, now)
            party.programs()
            party.stack.advance(now)
            while (item := party.stack.pop_output()) is not None:
                party.outward.push(now, item[0])
            for packet in party.outward.pop(now):
                put(party.channel, packet)
            party.channel.flush()
        while self.forwarder.run_once(now):
            pass
        for party in self.parties:
            while (packet := take(party.channel)) is not None:
                party.inward.push(now, packet)
            party.channel.flush()
        self.now += STEP_NS

    def run(self, seconds):
        until = self.now + int(seconds * 1e9)
        changes = self.now
        while self.now < until:
            if self.now >= changes:
                changes += self.rng.randrange(500 * MS)
                a, b = self.rng.sample(self.parties, 2)
                a.connect(b.address)
                if self.rng.random() < 0.2:                  # the path changes under all of them
                    rate = self.rng.choice(("500kbit", "50mbit"))
                    self.forwarder.emulate(self.parties[0].port, output={"rate": rate})
            self.step()


def seeds_of(chunk, count=300):
    if FIXED_SEED:
        return [int(FIXED_SEED)] if chunk == 0 else []
    count = scale(count, CHUNKS)
    return range(chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_d10_d11_honest_stacks_are_never_accused(chunk):
    for seed in seeds_of(chunk):
        net = Net(seed)
        net.run(2)
        assert net.forwarder.findings() == [], f"NETSTACK_SEED={seed}"
        assert net.forwarder.check_conservation() == []
        assert sum(party.read for party in net.parties) > 10_000, f"NETSTACK_SEED={seed}: nothing was tried"
