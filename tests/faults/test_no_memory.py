"""F13: memory. Whichever allocation fails, the call says so or the packet is dropped: no crash, no hang; and
what comes afterwards works as ever. F15: a full /dev/shm is an error at creation, never a SIGBUS."""

import os
import subprocess
import sys

import pytest

from tests.support import ROOT, compile_c, scale

# What a program does with stacks and a router, once for each allocation of the compiled code, which fails.
SCENARIO = """
import contextlib, ctypes, gc, struct, sys, time
import netstack
shim = ctypes.CDLL(None)
for ask in (shim.failing_live, shim.failing_large, shim.failing_asked):
    ask.restype = ctypes.c_long
shim.failing_arm.argtypes = [ctypes.c_long]
backend, every = sys.argv[1], int(sys.argv[2])
ABORT = struct.pack("ii", 1, 0)          # SO_LINGER: nothing stays in TIME-WAIT
CACHES = 20                              # small blocks that are kept to be used again
TABLES = 128 << 10                       # bytes of larger ones, without buffers for connections to come

def transfer(a, b, port):
    with b.create_server((b.addresses[0].partition("/")[0], port)) as listener:
        listener.settimeout(3)
        with a.create_connection(listener.getsockname(), timeout=3) as client:
            client.setsockopt(1, 13, ABORT)
            server, _ = listener.accept()
            with server:
                server.settimeout(3)
                server.setsockopt(1, 13, ABORT)
                client.sendall(b"x" * 30_000)
                n = 0
                while n < 30_000:
                    data = server.recv(65536)
                    if not data:
                        raise ConnectionError("ended")
                    n += len(data)
                server.sendall(b"y" * 1000)
                client.recv(1000)

def datagram(a, b):
    with a.socket(type=2) as s, b.socket(type=2) as t:
        t.bind((b.addresses[0].partition("/")[0], 53))
        t.settimeout(3)
        s.sendto(b"z" * 4000, t.getsockname())
        t.recv(5000)

def many(a, b):
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(b.create_server((b.addresses[0].partition("/")[0], 82), backlog=8))
        listener.settimeout(3)
        clients = [stack.enter_context(a.create_connection(listener.getsockname(), timeout=3)) for _ in range(8)]
        servers = [stack.enter_context(listener.accept()[0]) for _ in range(8)]
        for s in servers + clients:
            s.settimeout(0)
            s.setsockopt(1, 13, ABORT)
            try:
                while True:
                    s.send(bytes(100_000))
            except BlockingIOError:
                pass

def sockets(a, b):
    transfer(a, b, 80)
    datagram(a, b)
    many(a, b)

def lossy(link):
    return netstack.link.FaultInjector(link, seed=5, loss=0.02, duplicate=0.1, reorder=0.2)

def hosts(router):
    with netstack.attach(router.name, drain=0, wrap=lossy, mtu=1500) as a, netstack.attach(router.name, drain=0) as b:
        transfer(a, b, 80)
        transfer(b, a, 80)

def routers(_):
    with netstack.Router(backend=backend, ring_capacity=1 << 18) as router:
        hosts(router)

# Errors while something is collected are printed, not raised: they are mistakes, too.
sys.unraisablehook = lambda u: print("unraisable", u.exc_value, u.object, flush=True)

# Small blocks, and bytes of larger ones but those that stacks keep for connections to come.
def held(hosts):
    gc.collect()
    return shim.failing_live(), shim.failing_large() - sum(h.driver.stack.memory()["pool"] for h in hosts)

def failing(name, run, check, hosts=()):
    run()
    before = held(hosts)
    shim.failing_arm(0)
    run()
    count = shim.failing_asked()
    raised = 0
    for k in range(1 + count % every, count + 1, every):
        shim.failing_arm(k)
        try:
            run()
        except (OSError, MemoryError, netstack.errors.ConfigError) as error:
            raised += 1
        shim.failing_arm(0)
        check()
    end = time.monotonic() + 600         # what was cut off in the middle ends by its own timers: a minute, or several
    while time.monotonic() < end:
        small, large = (now - then for now, then in zip(held(hosts), before))
        if small <= CACHES and large <= TABLES:
            break
        time.sleep(1)
    print(name, count, raised, small <= CACHES, small, large <= TABLES, large, flush=True)

with netstack.Router(backend=backend, ring_capacity=1 << 18) as router:
    with netstack.attach(router.name, drain=0) as a, netstack.attach(router.name, drain=0) as b:
        failing("sockets", lambda: sockets(a, b), lambda: transfer(a, b, 81), [a, b])
    failing("hosts", lambda: hosts(router), lambda: None)
    hosts(router)
    assert router.check_conservation() == []
failing("routers", lambda: routers(None), lambda: None)
routers(None)
print("end", flush=True)
"""


EVERY = "1"                      # all of them


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_c("tests/faults/failing_malloc.c", tmp_path_factory.mktemp("shim"), "-shared", "-fPIC",
                     name="failing_malloc.so")


@pytest.mark.timeout(1800)
def test_f13_whichever_allocation_fails_the_program_goes_on(shim, backend):
    if scale(10) < 10:
        pytest.skip("takes minutes: with NETSTACK_TEST_SCALE=1")
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("a sanitizer has the allocations")
    done = subprocess.run([sys.executable, "-c", SCENARIO, backend, EVERY], cwd=ROOT, text=True, capture_output=True,
                          timeout=1700, env={**os.environ, "LD_PRELOAD": shim})
    assert done.returncode == 0, (done.returncode, done.stdout[-1000:], done.stderr[-3000:])
    *results, end = done.stdout.splitlines()
    assert end == "end", done.stdout
    for line in results:
        name, count, raised, few, _, little, _ = line.split()
        # A block lost with each failure would be as many as there were failures.
        assert int(count) > 5 and int(raised) > 20 and few == little == "True", line


SMALL_SHM = """
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"], check=True)
import netstack
with netstack.Router(ring_capacity=1 << 18) as router:
    for _ in range(3):
        try:
            netstack.attach(router.name)
        except OSError as error:
            print(os.strerror(error.errno), flush=True)
    print(os.listdir("/dev/shm"), len(router.attachments()), router.check_conservation(), flush=True)
    subprocess.run(["mount", "-o", "remount,size=64m", "/dev/shm"], check=True)
    with netstack.attach(router.name) as a, netstack.attach(router.name) as b:
        listener = b.create_server(("", 80))
        with a.create_connection((b.addresses[0].partition("/")[0], 80), timeout=20) as s:
            print(len(router.attachments()), flush=True)
"""


def test_f15_a_full_dev_shm_is_an_error_of_attach_and_the_router_goes_on():
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(["unshare", "-rm", sys.executable, "-c", SMALL_SHM], capture_output=True, text=True,
                          timeout=60, cwd=ROOT)
    if "mount" in done.stderr and done.returncode:
        pytest.skip("cannot mount a tmpfs here")
    assert done.stdout == "No space left on device\n" * 3 + "[] 0 []\n2\n", done.stderr
