"""F4: a stack, or the router, is stopped for a while (SIGSTOP). The others go on; whoever was stopped finds its
connections as they were."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

import netstack
from tests.faults.routers import Nursery
from tests.router.lan import wait_until
from tests.support import ROOT, scale

LIMIT = 60

# Echoes on port 7.
ECHO = """
import sys, threading
import netstack
host = netstack.attach(sys.argv[1])
listener = host.create_server(("", 7))
print(host.addresses[0].partition("/")[0], flush=True)
def serve(s):
    while data := s.recv(65536):
        s.sendall(data)
    s.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def echo():
    started = []

    def start(name):
        process = subprocess.Popen([sys.executable, "-c", ECHO, name], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        address = process.stdout.readline().strip()
        assert address
        return process, address

    yield start
    for process in started:
        process.kill()
        process.communicate()


def round_trip(s, data):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        part = s.recv(65536)
        assert part, "the connection ended"
        got += part
    assert got == data


def stopped(pid):
    """Stop a process, and see that it is."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "T")


@pytest.mark.timeout(900)
def test_f4_a_stopped_stack_stops_nobody_else(runtime, backend, echo):
    """50 times: what is sent to it meanwhile fills its ring, waits, and is dropped; another pair does not notice."""
    rng = random.Random(4)
    data = rng.randbytes(300_000)                # more than a ring takes
    with Nursery(backend=backend, ring_capacity=1 << 18) as nursery, netstack.attach(nursery.name, drain=1) as host:
        (victim, there), (_, other) = echo(nursery.name), echo(nursery.name)
        with host.create_connection((there, 7), LIMIT) as one, host.create_connection((other, 7), LIMIT) as two:
            for _ in range(scale(50)):
                stopped(victim.pid)
                sender = threading.Thread(target=one.sendall, args=(data,))
                sender.start()
                for _ in range(10):
                    round_trip(two, rng.randbytes(20_000))
                os.kill(victim.pid, signal.SIGCONT)
                got = b""
                while len(got) < len(data):
                    got += one.recv(65536)
                sender.join(LIMIT)
                assert got == data


@pytest.mark.timeout(900)
def test_f4_a_stopped_router_loses_no_connection(runtime, backend, echo):
    """It is no killed one: nobody looks for another router, and what waits in rings is there afterwards."""
    rng = random.Random(40)
    with Nursery(backend=backend, ring_capacity=1 << 18) as nursery, netstack.attach(nursery.name, drain=1) as host:
        _, there = echo(nursery.name)
        with host.create_connection((there, 7), LIMIT) as s:
            for _ in range(scale(50)):
                stopped(nursery.pid)
                data = rng.randbytes(200_000)
                thread = threading.Thread(target=round_trip, args=(s, data))
                thread.start()
                time.sleep(rng.uniform(0, 0.3))
                assert thread.is_alive()
                os.kill(nursery.pid, signal.SIGCONT)
                thread.join(LIMIT)
                assert not thread.is_alive()
            assert host.counters()["link_outages"] == 0
