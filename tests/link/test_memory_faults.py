"""The host's own errors: bits of ring memory flip under a running transfer, and the ends of the connection notice.

The paper's section 3.4: inside a host too, only a check from end to end sees what memory does to data. Two stacks
speak TCP over a real channel on virtual time; a third mapping of its memory flips the bits. Half of the flips hit a
packet between its publication and its reading, where each must be counted and repaired. The other half comes from
another process at moments of its own.
"""

import hashlib
import mmap
import os
import random
import struct

import pytest

from netstack.config import StackConfig
from netstack.link import channel_pair
from netstack.stack import Stack
from tests.support import scale

TAIL, DATA = 128, 384              # of a producer's region (spsc_ring.h)
CAPACITY = 256 << 10
FRAME = 1
HEADER = 8
# What a flipped bit of a packet can be dropped as; duplicates and the like are consequences, not detections.
DETECTED = ("drop_ip_checksum", "drop_ip_destination", "drop_tcp_checksum", "drop_ip_version", "drop_ip_header_length",
            "drop_ip_total_length", "drop_tcp_length", "drop_link_malformed")


class Ring:
    """One direction of the channel as a third mapping sees it."""

    def __init__(self, link):
        fds, layout = link.channel.export()
        self.memory = mmap.mmap(fds[0 if layout.side == "a" else 1], 0)
        self.seen = 0

    @property
    def tail(self):
        return struct.unpack_from("<Q", self.memory, TAIL)[0]

    def fresh(self):
        """Records published since the last call, padding too: (position of head, its length, position of body, its
        length). The header is the 8 bytes before head."""
        out = []
        at, end = self.seen, self.tail
        self.seen = end
        while at < end:
            offset = DATA + at % CAPACITY
            header = struct.unpack_from("<Q", self.memory, offset)[0]
            length, body_at, kind, head_length = header & 0xFFFFFFFF, 4 * (header >> 32 & 255), header >> 40 & 3, \
                header >> 42 & 1023
            if kind == FRAME:
                out.append((offset + HEADER, head_length, offset + body_at, length - body_at))
            else:
                out.append((offset + HEADER, 0, offset + HEADER, 0))
            at += (length + 63) // 64 * 64
        return out

    def flip(self, position, bit):
        self.memory[position] ^= 1 << bit


class Transfer:
    """A stream from a to b over a channel, on virtual time."""

    def __init__(self, seed, *, mtu=1500, checksum=True, backend="posix"):
        self.rng = random.Random(seed)
        self.links = channel_pair(capacity=CAPACITY, backend=backend, mtu=mtu, checksum=checksum)
        self.rings = [Ring(link) for link in self.links]
        self.a, self.b = (
            Stack(StackConfig(addresses=(f"10.0.0.{i + 1}/24",), mtu=mtu, seed=i), links=[self.links[i]])
            for i in range(2)
        )
        self.now = 10**9
        self.sent, self.received = bytearray(), bytearray()

    def run(self, feed, between=lambda ring: None):
        """Send what `feed` gives until it gives b"", then close; `between` is called between publish and read."""
        self.turn(between)
        listener = self.b.socket()
        listener.bind(("10.0.0.2", 80))
        listener.listen()
        client = self.a.socket()
        client.connect_ex(("10.0.0.2", 80))
        server, pending, closing = None, b"", False
        for _ in range(1_000_000):
            if server is None:
                try:
                    server = listener.accept()[0]
                except BlockingIOError:
                    pass
            else:
                try:
                    while data := server.recv(65536):
                        self.received += data
                    break                             # end of file
                except BlockingIOError:
                    pass
            try:
                while not closing:
                    pending = pending or feed()
                    if not pending:
                        closing = True
                        client.shutdown(1)
                        break
                    n = client.send(pending)
                    self.sent += pending[:n]
                    pending = pending[n:]
            except BlockingIOError:
                pass
            self.turn(between)
        else:
            raise AssertionError("the transfer does not end")
        for link in self.links:
            assert not link.stats()["poisoned"] and link.stats()["malformed"] == 0

    def turn(self, between):
        """Let both stacks work once; when they have nothing to do time jumps to the next deadline."""
        before = [ring.tail for ring in self.rings]
        self.a.process(self.now)
        between(self.rings[0])
        self.rings[1].fresh()                         # what b's application made b say: a has read it
        self.b.process(self.now)
        between(self.rings[1])
        if [ring.tail for ring in self.rings] == before:
            deadlines = [d for d in (self.a.next_deadline(), self.b.next_deadline()) if d is not None]
            if deadlines:
                self.now = max(self.now, min(deadlines))

    def counted(self, names=DETECTED):
        """How often both ends together noticed damage: packets dropped for one of these reasons, and records."""
        return sum(stack.counters().get(name, 0) for stack in (self.a, self.b) for name in names) + sum(
            link.stats()["header_errors"] for link in self.links)

    def close(self):
        for link in self.links:
            link.close()


@pytest.mark.parametrize("backend", ["posix", "memfd"])
@pytest.mark.parametrize("mtu", [1500, 65535])
def test_each_flip_between_publish_and_read_is_counted_and_repaired(backend, mtu):
    """Any bit of a record: half of the flips hit its 8-byte header, the others its packet."""
    transfer = Transfer(7, mtu=mtu, backend=backend)
    rng = transfer.rng
    wanted = scale(500, 25)
    flips = {"header": 0, "data": 0, "other": 0}

    def between(ring):
        records = ring.fresh()
        if not records or sum(flips.values()) == wanted or rng.random() > 0.15:
            return
        head, head_length, body, body_length = rng.choice(records)
        if rng.random() < 0.5 or not head_length:
            ring.flip(head - HEADER + rng.randrange(HEADER), rng.randrange(8))
            flips["header"] += 1
            return
        k = rng.randrange(head_length + body_length)
        ring.flip(head + k if k < head_length else body + k - head_length, rng.randrange(8))
        flips["data" if body_length else "other"] += 1

    def feed():
        done = sum(flips.values()) == wanted
        return b"" if done else rng.randbytes(20_000 if mtu == 1500 else 200_000)

    transfer.run(feed, between)
    assert sum(flips.values()) == wanted == transfer.counted()
    assert sum(link.stats()["header_errors"] for link in transfer.links) == flips["header"] > wanted // 4
    assert hashlib.sha256(transfer.received).digest() == hashlib.sha256(transfer.sent).digest()
    assert transfer.a.counters()["tcp_retransmits"] >= flips["data"] > wanted // 20
    transfer.close()


@pytest.mark.parametrize("backend", ["posix", "memfd"])
def test_flips_from_another_process_at_any_moment_change_nothing(backend):
    """The flipper aims at any bit of the youngest 64 KiB of the ring."""
    transfer = Transfer(8, backend=backend)
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            rng = random.Random(9)
            ring = transfer.rings[0]
            os.write(ready[1], b"!")
            os.read(go[0], 1)
            last = -1
            for _ in range(scale(500, 25)):
                for _ in range(100_000):              # at most one flip for each time the ring moves
                    if (tail := ring.tail) != last:
                        break
                last = tail
                position = (tail - rng.randrange(1, 65536)) % CAPACITY
                ring.flip(DATA + position, rng.randrange(8))
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    os.write(go[1], b"!")
    total = 0

    def feed():
        nonlocal total
        total += 50_000
        alive = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        return transfer.rng.randbytes(50_000) if alive or total < 1_000_000 else b""

    try:
        transfer.run(feed)
    finally:
        os.waitpid(pid, 0)
        for fd in (*ready, *go):
            os.close(fd)
    assert hashlib.sha256(transfer.received).digest() == hashlib.sha256(transfer.sent).digest()
    transfer.close()


def test_without_checksums_the_wrong_bytes_get_through():
    """Why checksums stay on by default: with them off nothing notices, and exactly the flipped bits arrive."""
    transfer = Transfer(10, checksum=False)
    rng = transfer.rng
    wanted = scale(500, 25)
    flips = 0

    def between(ring):
        nonlocal flips
        bodies = [(body, n) for _, _, body, n in ring.fresh() if n]
        if bodies and flips < wanted:
            body, n = rng.choice(bodies)
            ring.flip(body + rng.randrange(n), rng.randrange(8))
            flips += 1

    transfer.run(lambda: b"" if flips == wanted else rng.randbytes(20_000), between)
    assert transfer.counted() == 0 and transfer.a.counters()["tcp_retransmits"] == 0
    assert len(transfer.received) == len(transfer.sent) and transfer.received != transfer.sent
    wrong = int.from_bytes(transfer.received, "big") ^ int.from_bytes(transfer.sent, "big")
    assert wrong.bit_count() == flips == wanted
    transfer.close()
