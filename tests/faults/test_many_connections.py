"""F11: a million connections opened and closed, a hundred thousand that say nothing: what was taken is given back.

Both ends live in one stack and talk over its loopback: each connection costs two TCBs, and every byte is counted.
"""

import ctypes
import gc
import multiprocessing
import os
import random

import pytest

from netstack.stack import Stack
from tests.support import SANITIZED, descriptors, scale

LOCAL = "127.0.0.1"
S = 10**9
TWO_MSL = 60 * S                       # TIME-WAIT (Linux's TCP_TIMEWAIT_LEN)
MIB = 1 << 20
GATE = 1024                            # bytes per idle connection end (targets.md), its Python object not counted
HANDLE = 256                           # bytes of a StackSocket and of its place in a list, generously


def resident(trim=True):
    """Resident bytes, after the C library gave back what it can: in the middle of a round that only makes holes."""
    gc.collect()
    if trim:
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Rig:
    def __init__(self, seed=11):
        self.now_ns = S
        self.stack = Stack(addresses="10.0.0.1/24", seed=seed, sysctl={
            "net.core.somaxconn": 65535, "net.ipv4.ip_local_port_range": (1024, 65535)})
        self.listeners = []
        for port in range(10, 20):
            listener = self.stack.socket()
            listener.bind((LOCAL, port))
            listener.listen(65535)
            self.listeners.append(listener)

    def wait(self, ns):
        self.now_ns += ns
        self.stack.advance(self.now_ns)

    def open(self, i):
        """A connection to the i-th listener, both ends, a millisecond after the last: who gets the names of one in
        TIME-WAIT must be younger (RFC 6191)."""
        self.wait(10**6)
        listener = self.listeners[i % len(self.listeners)]
        client = self.stack.socket()
        client.connect_ex(listener.getsockname())
        return client, listener.accept()[0]

    def held(self):
        """What the stack says it has: sockets, buffers, connections and TIME-WAIT records, timers."""
        return (self.stack.socket_count, self.stack.memory()["buffers"], len(self.stack.sockets()),
                self.stack.next_deadline())


def talk(client, server):
    client.send(b"hello")
    assert server.recv(10) == b"hello"
    return client, server


def close(rng, client, server):
    """One of the ways in which connections end."""
    way = rng.randrange(5)
    if way == 0:
        client.close()
        server.close()
    elif way == 1:
        server.close()
        client.close()
    elif way == 2:
        client.shutdown(1)
        server.close()
        client.close()
    elif way == 3:
        client.setsockopt(1, 13, (1).to_bytes(4, "little") + bytes(4))      # SO_LINGER 0: a reset
        client.close()
        server.close()
    else:
        server.send(b"never read")                                          # a reset, too
        client.close()
        server.close()


@pytest.mark.timeout(1800)
def test_f11_a_million_connections_leave_nothing():
    rng, rig = random.Random(11), Rig()
    count, batch = scale(1_000_000, 60_000), 20_000
    gc.collect()                                        # what earlier tests left open closes now
    base, fds = rig.held(), descriptors()
    marks = []
    for done in range(0, count, batch):
        for i in range(min(batch, count - done)):
            client, server = rig.open(i)
            if i % 3 == 1:
                client.setsockopt(6, 13, b"bbr")        # TCP_CONGESTION: one that has memory of its own
            if i % 3 == 0:
                client.send(b"hello")
                server.recv(10)
            close(rng, client, server)
        rig.wait(2 * S)                                 # orphans say their last
        assert rig.stack.memory()["buffers"] == 0
        rig.wait(TWO_MSL)
        assert rig.held() == base, done
        marks.append(resident())
    counters = rig.stack.counters()
    assert counters["tcp_active_opens"] == counters["tcp_passive_opens"] == count
    assert descriptors() == fds
    # The first batch grows the tables to what a batch needs, once; from there on nothing grows.
    if not SANITIZED:                                   # its allocator keeps what is freed for a while
        assert marks[-1] - marks[0] < MIB, marks


def idle_connections(count):
    """(bytes an end, resident bytes at the beginning and after each time): in a process of its own, since a heap that
    other tests have left full of holes grows for long."""
    gc.collect()
    rng, rig, fds = random.Random(12), Rig(), descriptors()
    for i in range(100):                                # modules are loaded
        close(rng, *rig.open(i))
    rig.wait(TWO_MSL + 2 * S)
    base, marks = rig.held(), [resident()]
    for _ in range(3):
        pairs = [talk(*rig.open(i)) for i in range(count)]
        rig.wait(2 * S)
        assert rig.stack.memory()["buffers"] == 0       # silence holds no buffer
        assert rig.stack.next_deadline() is None        # and no timer
        taken = (resident(trim=False) - marks[0]) / (2 * count)
        for client, server in rng.sample(pairs, 100):   # they are alive
            client.send(b"still there?")
            assert server.recv(100) == b"still there?"
        while pairs:
            close(rng, *pairs.pop())
        del client, server
        rig.wait(2 * S)
        rig.wait(TWO_MSL)
        assert rig.held() == base and descriptors() == fds
        marks.append(resident())
    return taken, marks


@pytest.mark.timeout(1800)
def test_f11_a_hundred_thousand_idle_connections_and_what_one_takes(record_property):
    count = scale(100_000, 10_000)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        taken, marks = pool.apply(idle_connections, (count,))
    record_property("bytes_per_idle_connection_end", round(taken))
    print(f"{taken:.0f} bytes per idle connection end, with its Python object, of {count} connections")
    if not SANITIZED:
        assert taken < GATE + HANDLE
        # The tables grow to what so many need; from there on only the holes between blocks do, for some rounds.
        assert marks[3] - marks[2] < 2 * MIB, marks
