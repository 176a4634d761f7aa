"""The router's data path between two stacks that only fill and empty their rings, all in one thread."""

from __future__ import annotations

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


def run(seconds, size=64):
    """Packets per second of the router's own time, median of bursts: rings are filled and emptied off the clock."""
    from netstack.router.forwarding import Forwarder
    from netstack.router.pool import pack_address
    from netstack.testing.ring_traffic import RingTraffic
    from rings.channel import channel_pair

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    router = Forwarder([ipaddress.ip_network(NETWORK)], pack_address(ROUTER), spin_us=0)
    stacks, keep = [], []
    for address in (ONE, TWO):
        here, stack = channel_pair(1 << 20)
        port = router.add_stack(here.tx, here.rx, here.fileno(), here.peer_fds)
        router.bind(port, pack_address(address), 1)
        stacks.append(stack)
        keep.append(here)
    traffic = RingTraffic(*stacks, packet(ONE, TWO, size))
    clock = time.perf_counter_ns
    rates, end = [], clock() + int(seconds * 1e9)
    while clock() < end:
        if traffic.fill(BURST) != BURST:
            raise RuntimeError("the ring to the router is full")
        began = clock()
        while router.run_once():
            pass
        took = clock() - began
        if traffic.drain() != BURST:
            raise RuntimeError("packets were lost")
        rates.append(BURST / took * 1e9)
    router.close()
    return statistics.median(rates)
