"""The router's data path between two stacks that only fill and empty their rings, all in one thread."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import statistics
import struct
import time

BURST = 1024
NETWORK, ROUTER, ONE, TWO = "10.77.0.0/16", "10.77.0.1", "10.77.0.2", "10.77.0.3"


def packet(src, dst, size):
    """An IPv4 packet of *size* bytes with a UDP datagram without checksum."""
    addresses = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    head = struct.pack("!BBHIBBH", 0x45, 0, size, 0x4000, 64, 17, 0)
    total = sum(struct.unpack("!10H", head + addresses))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", total ^ 0xFFFF)
    return head + addresses + struct.pack("!HHHH", 9, 9, size - 20, 0) + bytes(size - 28)


def with_routes(router, port, routes):
    """So many routes to a port; random destinations inside them, packed."""
    from bench import tables

    if routes == 1:
        router.add_route(ipaddress.ip_network("0.0.0.0/0"), port)
        return tables.wanted("random", 1).read_bytes()
    data = tables.packed_table(routes).read_bytes()
    router.load_routes(4, data, [(port, None)] * 64)
    return tables.wanted("inside", routes).read_bytes()


def forwarded(address):
    """Is that an address that the router forwards to, and not one of its pool?"""
    return 0 < address[0] < 224 and address[0] not in (10, 127, 169)


def between_two(**options):
    """A router between two stacks: it, the stacks' channels and ports, and what has to be kept."""
    from netstack.router.forwarding import Forwarder
    from netstack.router.pool import pack_address
    from rings.channel import channel_pair

    router = Forwarder([ipaddress.ip_network(NETWORK)], pack_address(ROUTER), spin_us=0, **options)
    stacks, ports, keep = [], [], []
    for address in (ONE, TWO):
        here, stack = channel_pair(1 << 20)
        ports.append(router.add_stack(here.tx, here.rx, here.fileno(), here.peer_fds))
        router.bind(ports[-1], pack_address(address), 1)
        stacks.append(stack)
        keep.append(here)
    return router, stacks, ports, keep


def never_felt(router, port):
    """A limit that is asked for each packet, and lets all pass."""
    from netstack.router.limiting import limit

    limit(router, port, bytes=1 << 32, packets=1 << 32, depth_bytes=1 << 32, depth_packets=1 << 32)


def bursts(router, traffic, seconds):
    """Packets per second of the router's own time, of burst after burst."""
    clock = time.perf_counter_ns
    rates, end = [], clock() + int(seconds * 1e9)
    while not rates or clock() < end:
        if traffic.fill(BURST) != BURST:
            raise RuntimeError("the ring to the router is full")
        began = clock()
        while router.run_once():
            pass
        took = clock() - began
        if traffic.drain() != BURST:
            raise RuntimeError("packets were lost")
        rates.append(BURST / took * 1e9)
    return rates


@contextlib.contextmanager
def one_core():
    """The calling thread on one of its cores, and then on all of them again."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@one_core()
def run(seconds, size=64, routes=0):
    """Packets per second of the router's own time, median of bursts: rings are filled and emptied off the clock.

    With `routes` the packets are for random addresses that have no entry of their own and go by the longest prefix.
    """
    from netstack.testing.ring_traffic import RingTraffic

    router, stacks, ports, keep = between_two()
    destinations = b""
    if routes:
        data = with_routes(router, ports[1], routes)
        every = (data[at : at + 4] for at in range(0, len(data), 4))
        destinations = b"".join(address for address in every if forwarded(address))
    traffic = RingTraffic(*stacks, packet(ONE, TWO, size), destinations)
    rates = bursts(router, traffic, seconds)
    router.close()
    return statistics.median(rates)


def count(n, with_limit=False, tcp=None):
    """Forward so many packets, a multiple of a burst: for counting instructions. `tcp`: segments; the policy."""
    from netstack.testing.packets import build_tcp
    from netstack.testing.ring_traffic import RingTraffic

    router, stacks, ports, keep = between_two(greedy=tcp or "off")
    if with_limit:
        never_felt(router, ports[0])
    one = packet(ONE, TWO, 64) if tcp is None else build_tcp(ONE, TWO, 4000, 7, seq=1, ack=1, payload=bytes(24))
    traffic = RingTraffic(*stacks, one)
    for _ in range(n // BURST):
        traffic.fill(BURST)
        while router.run_once():
            pass
        traffic.drain()
    if traffic.received != n // BURST * BURST:
        raise RuntimeError("packets were lost")
    router.close()


def compared(seconds):
    """Packets per second without a limit, with one that is never felt, and without a budget: burst by burst in turn."""
    from netstack.testing.ring_traffic import RingTraffic

    kinds = {"no limit": {}, "a limit, never felt": {}, "no budget": {"budget": False}}
    made, rates, keep = {}, {}, []
    for name, options in kinds.items():
        router, stacks, ports, kept = between_two(**options)
        if name.startswith("a limit"):
            never_felt(router, ports[0])
        made[name], rates[name] = (router, RingTraffic(*stacks, packet(ONE, TWO, 64))), []
        keep.append(kept)
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while time.perf_counter_ns() < end:
        for name, (router, traffic) in made.items():
            rates[name] += bursts(router, traffic, 0)
    for router, _ in made.values():
        router.close()
    return {name: statistics.median(each) for name, each in rates.items()}


def latency(n=20000, size=64):
    """Nanoseconds from one stack's ring to another's by way of the router's thread, one packet at a time, median: both
    stacks are the calling thread, and nobody sleeps."""
    from netstack.router.forwarding import Forwarder
    from netstack.router.pool import pack_address
    from netstack.testing.ring_traffic import RingTraffic
    from rings.channel import channel_pair

    router = Forwarder([ipaddress.ip_network(NETWORK)], pack_address(ROUTER), spin_us=100000)
    stacks, keep = [], []
    for address in (ONE, TWO):
        here, stack = channel_pair(1 << 20)
        router.bind(router.add_stack(here.tx, here.rx, here.fileno(), here.peer_fds), pack_address(address), 1)
        stacks.append(stack)
        keep.append(here)
    traffic = RingTraffic(*stacks, packet(ONE, TWO, size))
    router.start()
    traffic.pass_one(n // 10)
    took = traffic.pass_one(n)
    router.close()
    return took
