"""Stack diversity and fault isolation (paper, section 4.4): different stacks live on one router, and one that goes
wrong goes alone."""

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import threading

import pytest

import netstack
from netstack.router.paths import socket_path
from tests.faults.bystanders import Bystanders, echo_server
from tests.faults.foreign import Foreign
from tests.router.lan import wait_until
from tests.support import ROOT

LIMIT = 60


def address_of(host):
    return host.addresses[0].partition("/")[0]


@pytest.fixture
def router(runtime, backend):
    with netstack.Router(backend=backend, ring_capacity=1 << 18) as router:
        yield router
        assert router.check_conservation() == []


# --- a stack by somebody else


@pytest.fixture
def foreign(router):
    foreign = Foreign(socket_path(router.name))
    yield foreign
    foreign.close()


def test_a_foreign_stack_pings_and_is_pinged(router, foreign):
    with netstack.attach(router.name) as host:
        assert foreign.ping(router.address) == b"foreign"
        assert foreign.ping(address_of(host), bytes(3000)) == bytes(3000)


def test_a_foreign_stack_exchanges_datagrams(router, foreign):
    with netstack.attach(router.name) as host, host.socket(type=socket.SOCK_DGRAM) as s:
        s.bind((address_of(host), 53))

        def answer():
            data, peer = s.recvfrom(100)
            s.sendto(data[::-1], peer)

        thread = threading.Thread(target=answer)
        thread.start()
        assert foreign.datagram(address_of(host), 53, b"abc") == b"cba"
        thread.join(LIMIT)


def test_a_foreign_tcp_talks_to_ours(router, foreign):
    """Often enough that its ring, of 256 KiB each way, goes round."""
    data = random.Random(44).randbytes(60_000)
    with netstack.attach(router.name, drain=1) as host:
        listener = echo_server(host)
        for i in range(6):
            assert foreign.exchange(address_of(host), 7, data, sport=5000 + i) == data
        listener.close()
    counters = router.counters(foreign.id)
    assert counters["in_packets"] > 300 and counters["drop_in_malformed"] == 0


def test_the_router_refuses_what_the_document_forbids(router, foreign):
    from scapy.layers.inet import IP, UDP

    foreign.send(IP(src="10.77.9.9", dst=router.address) / UDP())
    wait_until(lambda: router.counters(foreign.id)["drop_in_spoofed"] == 1)
    assert foreign.ping(router.address)


def test_a_foreign_stack_that_comes_back_after_a_crash_needs_its_token(runtime, backend):
    from tests.faults.routers import Nursery

    with Nursery(backend=backend) as nursery:
        first = Foreign(socket_path(nursery.name))
        nursery.restart()
        assert first.control.recv(512) == b""                  # the end of the connection is the notice
        second = Foreign(socket_path(nursery.name))
        assert second.address != first.address
        second.close()


# --- two builds

# Fetches what a server has, with a congestion control of its choice, and says who it is.
FETCH = """
import hashlib, sys
import netstack
host = netstack.attach(sys.argv[1], sysctl={"net.ipv4.tcp_congestion_control": sys.argv[3]}, drain=1)
with host.create_connection((sys.argv[2], 9000), timeout=60) as s:
    digest = hashlib.sha256()
    while data := s.recv(65536):
        digest.update(data)
    print(netstack.__version__, netstack.__file__, s.getsockopt(6, 13, 16).rstrip(b"\\0").decode(), digest.hexdigest())
"""


def test_two_builds_with_other_congestion_control_live_on_one_router(router, tmp_path):
    """A second copy of the packages with another version number: each process has the stack that it brings."""
    for package in ("netstack", "rings"):
        shutil.copytree(ROOT / package, tmp_path / package, copy_function=os.link,
                        ignore=shutil.ignore_patterns("__pycache__"))
    init = tmp_path / "netstack/__init__.py"
    text = init.read_text()
    assert netstack.__version__ in text
    init.unlink()
    init.write_text(text.replace(netstack.__version__, "0.0.1"))
    data = random.Random(5).randbytes(3 << 20)
    with netstack.attach(router.name, drain=1) as host, host.create_server(("", 9000)) as listener:

        def serve():
            for _ in range(2):
                connection, _ = listener.accept()
                threading.Thread(target=lambda c=connection: (c.sendall(data), c.close())).start()

        threading.Thread(target=serve, daemon=True).start()
        runs = [(str(ROOT), netstack.__version__, "vegas"), (str(tmp_path), "0.0.1", "cubic")]
        programs = [subprocess.Popen([sys.executable, "-P", "-c", FETCH, router.name, address_of(host), control],
                                     cwd="/", stdout=subprocess.PIPE, text=True,
                                     env={**os.environ, **router.environment(), "PYTHONPATH": folder})
                    for folder, _, control in runs]
        for program, (folder, version, control) in zip(programs, runs, strict=True):
            said, where, used, digest = program.communicate(timeout=LIMIT)[0].split()
            assert (said, used, digest) == (version, control, hashlib.sha256(data).hexdigest())
            assert where.startswith(folder)


# --- stacks that go wrong

WRONG = {
    "heap": """
import ctypes
heap = ctypes.addressof(ctypes.c_char.from_buffer(bytearray(1)))
ctypes.memset(id(host.driver), 0xA5, 4096)          # its locks, its lists, its pointers
s.sendall(bytes(100000))
s.recv(10)
""",
    "loop": """
while True:
    pass
""",
    "ring": """
import random
rng = random.Random(3)
words = memoryview(host.link.channel._regions[1].mapping).cast("Q")
while True:
    words[rng.randrange(4096)] = rng.choice((0, 1, rng.getrandbits(64), rng.getrandbits(18)))
    if rng.random() < 0.01:
        host.link.channel.peer_doorbells[1].kick()
""",
}

PROGRAM = """
import os, sys, threading
import netstack
host = netstack.attach(sys.argv[1], drain=0)
s = host.create_connection((sys.argv[2], 7))
s.sendall(b"well so far")
assert s.recv(100) == b"well so far"
print("begins", flush=True)
"""


@pytest.mark.parametrize("what", WRONG)
def test_a_stack_that_goes_wrong_goes_alone(router, what):
    with netstack.attach(router.name, drain=1) as server:
        listener = echo_server(server)
        bystanders = Bystanders(router)
        wrong = subprocess.Popen([sys.executable, "-c", PROGRAM + WRONG[what], router.name, address_of(server)],
                                 cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                 env={**os.environ, **router.environment(), "PYTHONFAULTHANDLER": ""})
        try:
            assert wrong.stdout.readline() == "begins\n"
            if what == "loop":                                   # it does not read: its own ring fills, nothing else
                seen = bystanders.bytes
                wait_until(lambda: bystanders.bytes > seen + 200_000, LIMIT)
                assert len(router.attachments()) == 4
            else:
                wait_until(lambda: len(router.attachments()) == 3, LIMIT)
                seen = bystanders.bytes
                wait_until(lambda: bystanders.bytes > seen + 50_000, LIMIT)
            if what == "heap":
                assert wrong.wait(LIMIT) < 0
            if what == "ring":
                assert router.endings()["poisoned"] == 1
        finally:
            wrong.kill()
            wrong.communicate()
            bystanders.end()
            listener.close()
