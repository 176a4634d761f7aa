"""The router's data path: packets of 64 bytes, and how long it takes to take a dead stack's things back."""

import subprocess
import sys
import threading
import time

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from netstack.router import Router
from netstack.router.sharing import UDP as UDP_PORT
from netstack.testing.ring_traffic import RingTraffic
from tests.router.lan import Lan, wait_until
from tests.router.shared import SHARED, SharedLan
from tests.support import ROOT

BURST = 1024
SIZES = [64, 576]


def packet(src: str, dst: str, size: int) -> bytes:
    return bytes(IP(src=src, dst=dst) / UDP(sport=9, dport=9) / Raw(bytes(size - 28)))


@pytest.mark.parametrize("size", SIZES)
def test_forward_on_one_core(benchmark, size):
    """Both stacks and the router in one thread; only the router's rounds are timed. extra_info: packets/s."""
    lan = Lan(spin_us=0)
    a, b = lan.stack("10.77.0.2", capacity=1 << 20), lan.stack("10.77.0.3", capacity=1 << 20)
    traffic = RingTraffic(a.channel, b.channel, packet(a.address, b.address, size))

    def prepare():
        traffic.drain()
        assert traffic.fill(BURST) == BURST

    def forward():
        while lan.forwarder.run_once():
            pass

    benchmark.pedantic(forward, setup=prepare, rounds=500, warmup_rounds=20)
    traffic.drain()
    assert traffic.received == traffic.sent and lan.forwarder.check_conservation() == []
    if benchmark.stats:
        benchmark.extra_info["packets_per_second"] = round(BURST / benchmark.stats.stats.median)


@pytest.mark.parametrize("members", [1, 2, 16])
def test_forward_by_port(benchmark, members):
    """As `test_forward_on_one_core` with 64 bytes, both stacks on one address; `members` share the port that packets
    are for, and the flow is the first one's. extra_info: packets/s."""
    lan = SharedLan()
    a, b = lan.sharer(), lan.sharer()
    a.claim(1009, UDP_PORT)
    for stack in (b, *(lan.sharer() for _ in range(members - 1))):
        stack.claim(9, UDP_PORT, flags=2)
    b.send(IP(src=SHARED, dst=SHARED) / UDP(sport=9, dport=1009))
    lan.run()
    a.received()
    raw = bytes(IP(src=SHARED, dst=SHARED) / UDP(sport=1009, dport=9) / Raw(bytes(36)))
    traffic = RingTraffic(a.channel, b.channel, raw)

    def prepare():
        traffic.drain()
        assert traffic.fill(BURST) == BURST

    def forward():
        while lan.forwarder.run_once():
            pass

    benchmark.pedantic(forward, setup=prepare, rounds=500, warmup_rounds=20)
    traffic.drain()
    assert traffic.received == traffic.sent and lan.forwarder.check_conservation() == []
    if benchmark.stats:
        benchmark.extra_info["packets_per_second"] = round(BURST / benchmark.stats.stats.median)


@pytest.mark.parametrize("size", SIZES)
def test_forward_beside_the_stacks(benchmark, size):
    """The router's own thread, both stacks in another one: lines of memory travel between the cores."""
    lan = Lan(spin_us=50)
    a, b = lan.stack("10.77.0.2", capacity=1 << 20), lan.stack("10.77.0.3", capacity=1 << 20)
    traffic = RingTraffic(a.channel, b.channel, packet(a.address, b.address, size))
    lan.forwarder.start()
    try:
        duration_ns = 200_000_000 if benchmark.enabled else 5_000_000
        benchmark.pedantic(lambda: traffic.blast(duration_ns), rounds=5 if benchmark.enabled else 1)
        wait_until(lambda: traffic.drain() or traffic.received == traffic.sent)
        benchmark.extra_info["packets_per_second"] = round(
            traffic.received / (duration_ns * (5 if benchmark.enabled else 1)) * 1e9)
        benchmark.extra_info["sleeps"] = lan.forwarder.sleeps
    finally:
        lan.forwarder.stop()
    assert lan.forwarder.check_conservation() == []


def test_reclaim_after_kill(benchmark, monkeypatch, tmp_path_factory):
    """From ``kill -9`` of an attached process until the router has taken everything back."""
    monkeypatch.setenv("NETSTACK_RUNTIME_DIR", str(tmp_path_factory.mktemp("r")))
    times = []
    with Router(ring_capacity=1 << 18) as router:
        gone = threading.Event()
        attachments = router._service.attachments
        detach = attachments.detach

        def watched(connection, why):
            detach(connection, why)
            gone.set()

        attachments.detach = watched
        code = f"from netstack.router import attach; a = attach({router.name!r}); print('up', flush=True); input()"

        def start():
            process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE)
            assert process.stdout.readline() == b"up\n"
            gone.clear()
            return (process,), {}

        def kill(process):
            before = time.perf_counter_ns()
            process.kill()
            assert gone.wait(20)
            times.append(time.perf_counter_ns() - before)
            process.communicate()

        benchmark.pedantic(kill, setup=start, rounds=20 if benchmark.enabled else 1)
        assert router.attachments() == []
    benchmark.extra_info["reclaim_ms_max"] = max(times) / 1e6
