"""F1: a stack is killed at any moment of its life, while it attaches, connects, sends, is idle or closes. The others
lose not a byte, and the router has everything of it back: addresses, memory, descriptors."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

import netstack
from tests.faults.bystanders import Bystanders, echo_server
from tests.router.lan import wait_until
from tests.support import ROOT, descriptors, scale

LIMIT = 60

# Forks a victim for each line, which attaches and goes on in one of these ways until it is killed.
VICTIMS = """
import os, random, signal, sys
import netstack, netstack.router.attachment, netstack.host, netstack.socket
def attaches():
    while True:
        netstack.attach(name).close()
def connects():
    with netstack.attach(name) as host:
        while True:
            host.create_connection((server, 7)).close()
def loads():
    host = netstack.attach(name)
    s = host.create_connection((server, 7))
    while True:
        s.sendall(bytes(50_000))
        s.recv(100_000)
def closes():
    host = netstack.attach(name)
    s = [host.create_connection((server, 7)) for _ in range(4)]
    for one in s:
        one.sendall(bytes(10_000))
    host.close()
    signal.pause()
def idles():
    host = netstack.attach(name)
    s = host.create_connection((server, 7))
    signal.pause()
name, server = sys.argv[1:]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            globals()[line.strip()]()
        finally:
            signal.pause()
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""

STAGES = ("attaches", "connects", "loads", "closes", "idles")


def segments():
    """Pieces of memory that this process shares."""
    with open("/proc/self/maps") as file:
        return sum("/dev/shm/" in line or "/memfd:" in line for line in file)


def memory_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.timeout(1800)
def test_f1_a_stack_killed_at_any_moment_hurts_nobody(runtime, backend):
    """1000 kills; the time that each took to be taken back is shown."""
    rng = random.Random(1)
    kills = scale(1000)
    with netstack.Router(backend=backend, ring_capacity=1 << 18) as router, netstack.attach(router.name,
                                                                                         drain=1) as server:
        listener = echo_server(server)
        bystanders = Bystanders(router)
        victims = subprocess.Popen(
            [sys.executable, "-c", VICTIMS, router.name, server.addresses[0].partition("/")[0]], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, **router.environment()})

        def kill_one(stage, after):
            victims.stdin.write(stage + "\n")
            victims.stdin.flush()
            pid = int(victims.stdout.readline())
            time.sleep(after)
            os.kill(pid, signal.SIGKILL)
            assert victims.stdout.readline() == "gone\n"
            wait_until(lambda: len(router.attachments()) == 3, LIMIT)

        try:
            for stage in STAGES:                 # whatever is made on first use
                kill_one(stage, 0.1)
            fds, shared, memory = len(descriptors()), segments(), memory_kib()
            for i in range(kills):
                kill_one(STAGES[i % len(STAGES)], rng.uniform(0, rng.choice((0.004, 0.02, 0.05))))
            # Connections of the dead end by resets, or when they time out: they hold no descriptors.
            wait_until(lambda: len(descriptors()) <= fds, LIMIT)
            assert segments() == shared
            assert memory_kib() - memory < 16 << 10
            assert not router.check_conservation()
            assert not bystanders.problems
        finally:
            victims.kill()
            victims.communicate()
            bystanders.end()
            listener.close()
        times = sorted(router.reclaim_times_ns())
        print(f"{len(times)} stacks taken back: median {times[len(times) // 2] / 1e6:.2f} ms, "
              f"p99 {times[len(times) * 99 // 100] / 1e6:.2f} ms, longest {times[-1] / 1e6:.2f} ms")
