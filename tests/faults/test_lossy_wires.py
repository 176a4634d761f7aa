"""F6: loss, duplication, reordering and delay each way, in real time, between us and us, us and the kernel; and worse
than that on virtual time. Streams in both directions at once are equal by BLAKE2, and no connection is left over."""

import hashlib
import random
import socket
import threading
import time

import pytest

from bench import lossy
from netstack.testing import Pair
from tests.support import scale

BLOCK = 1 << 20
TIME_WAIT = 6                    # in /proc/net/tcp


class Direction:
    """A stream of blocks from one end to the other; what was sent and what was received, as BLAKE2."""

    def __init__(self, out, into, size, seed):
        self.out, self.into, self.size, self.seed = out, into, size, seed
        self.sent, self.received = hashlib.blake2b(), hashlib.blake2b()
        self.errors = []
        self.threads = [threading.Thread(target=self.guard, args=(f,), daemon=True) for f in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    def guard(self, function):
        try:
            function()
        except OSError as error:
            self.errors.append(error)

    def send(self):
        for number in range(0, self.size, BLOCK):
            block = random.Random(f"{self.seed} {number}").randbytes(min(BLOCK, self.size - number))
            self.sent.update(block)
            self.out.sendall(block)
        self.out.shutdown(socket.SHUT_WR)

    def receive(self):
        buffer = bytearray(BLOCK)
        while n := self.into.recv_into(buffer):
            self.received.update(memoryview(buffer)[:n])

    def finish(self):
        for thread in self.threads:
            thread.join(1500)
            assert not thread.is_alive(), "the transfer is stuck"
        assert not self.errors
        assert self.sent.digest() == self.received.digest()


def connections(end):
    """How many connections an end still has, those in TIME-WAIT not counted."""
    if isinstance(end, lossy.HostEnd):
        return end.host.stack.socket_count
    with end.entered(), open("/proc/thread-self/net/tcp") as f:
        return sum(int(line.split()[3], 16) != TIME_WAIT for line in f.readlines()[1:])


def wait_until_closed(*ends):
    deadline = time.monotonic() + 60
    while sum(map(connections, ends)):
        assert time.monotonic() < deadline, [connections(end) for end in ends]
        time.sleep(0.01)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rate, size", [(0.01, 1 << 30), (0.1, 32 << 20)], ids=["1-percent", "10-percent"])
@pytest.mark.parametrize("pairing", [pytest.param(p, marks=pytest.mark.root if "kernel" in p else pytest.mark.serial)
                                     for p in ("ours-ours", "ours-kernel", "kernel-ours")])
def test_f6_streams_survive_a_bad_wire_in_real_time(pairing, rate, size):
    left, right = (lossy.KINDS[kind](f"10.9.1.{i}") for i, kind in enumerate(pairing.split("-"), 1))
    with lossy.network([left], [right], seed=6, delay="100us", loss=rate, duplicate=rate, reorder=rate,
                       reorder_delay="200us") as wire:
        with right.socket() as listener:
            listener.bind((right.address, 0))
            listener.listen()
            out = left.socket()
            out.connect(listener.getsockname())
            into, _ = listener.accept()
        into.settimeout(lossy.PATIENCE)
        directions = [Direction(out, into, scale(size), 1), Direction(into, out, scale(size), 2)]
        for direction in directions:
            direction.finish()
        out.close()
        into.close()
        wait_until_closed(left, right)
        stats = wire.stats()
    for way in ("from_left", "from_right"):
        assert min(stats[way][k] for k in ("lost", "duplicated", "reordered")) > 0
    assert stats["unroutable"] == 0


@pytest.mark.parametrize("seed", range(10))
def test_f6_streams_survive_thirty_percent_of_everything_on_virtual_time(seed):
    """Timeouts double up to 120 s each: how often a connection may try before it gives up is lifted."""
    sysctl = {"net.ipv4.tcp_retries2": 100, "net.ipv4.tcp_syn_retries": 127, "net.ipv4.tcp_synack_retries": 127}
    pair = Pair(seed=seed, loss=0.3, duplicate=0.3, reorder=0.3, delay="5ms", reorder_delay="20ms", sysctl=sysctl)
    pair.transfer(scale(1 << 20, 100_000), scale(1 << 20, 100_000), limit="240h")        # compares both streams
    pair.run()
    assert pair.a.stack.sockets() == pair.b.stack.sockets() == []
    for stats in pair.faults.stats().values():
        assert min(stats[k] for k in ("lost", "duplicated", "reordered")) > 0
