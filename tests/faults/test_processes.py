"""F16: what processes do to their stacks: fork, exec, an exit at any moment, garbage, storms of signals."""

import os
import subprocess
import sys

import pytest

import netstack
from tests.router.lan import wait_until
from tests.support import ROOT, scale

LIMIT = 60

BEGIN = """
import gc, os, signal, sys, threading, time
import netstack
a, b = netstack.attach(drain=1), netstack.attach(drain=1)
there = b.addresses[0].partition("/")[0]
listener = b.create_server((there, 80))
client = a.create_connection((there, 80), timeout=60)
server, _ = listener.accept()
server.settimeout(60)
"""


@pytest.fixture
def router(runtime, backend):
    with netstack.Router(backend=backend, ring_capacity=1 << 18) as router:
        yield router
        wait_until(lambda: not router.attachments(), LIMIT)
        assert router.check_conservation() == []


def program(router, text):
    return subprocess.run([sys.executable, "-c", BEGIN + text], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT,
                          env={**os.environ, **router.environment()})


def test_f16_a_forked_child_is_told_and_may_have_a_stack_of_its_own(router):
    done = program(router, """
child = os.fork()
if child == 0:
    for call in (lambda: client.send(b"x"), lambda: client.recv(1), listener.accept, lambda: a.socket().bind(("", 1))):
        try:
            call()
        except OSError as error:
            print(type(error).__name__, error.errno)
        else:
            print("nothing said")
    with netstack.attach(drain=1) as own, own.create_connection((there, 80), timeout=60) as s:
        print(s.recv(10))
    os._exit(0)
again, _ = listener.accept()
again.sendall(b"welcome")
assert os.waitpid(child, 0)[1] == 0
client.sendall(b"and the parent goes on")
print(server.recv(100))
""")
    assert done.returncode == 0, done.stderr
    *told, welcome, parent = done.stdout.splitlines()
    assert len(told) == 4 and all(line.endswith(" 9") for line in told), done.stdout
    assert (welcome, parent) == ("b'welcome'", "b'and the parent goes on'")


def test_f16_exec_ends_the_stacks_of_the_program_before(router):
    """Descriptors are closed by exec, the router sees that, and the new program attaches as any other."""
    done = program(router, """
import os
client.sendall(b"lost")
os.execv(sys.executable, [sys.executable, "-c", "import os, netstack\\n"
    "print(sorted(fd for fd in os.listdir('/proc/self/fd') if int(fd) > 3))\\n"
    "print(len(netstack.attach(drain=0).addresses) > 0)"])
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\nTrue\n"


ENDS = {
    "idle": "",
    "a thread waits": "threading.Thread(target=lambda: client.recv(1), daemon=True).start(); time.sleep(0.05)",
    "a thread sends": """
threading.Thread(target=lambda: client.sendall(bytes(50_000_000)), daemon=True).start()
time.sleep(0.05)
""",
    "a thread that is no daemon": "threading.Thread(target=lambda: (time.sleep(0.1), client.send(b'x'))).start()",
    "data in both rings": "client.sendall(bytes(100_000)); server.sendall(bytes(100_000))",
    "a connect under way": """
s = a.socket()
s.settimeout(0)
print(s.connect_ex(("10.77.99.99", 1)))
""",
    "a cycle": "x = [client, a]; x.append(x); del x, client, a",
    "everything forgotten": "del a, b, listener, client, server; gc.collect()",
    "an exception": "raise SystemExit(0)",
    "sys.exit in a thread": "threading.Thread(target=sys.exit).start()",
    "a selector": "import selectors; s = selectors.DefaultSelector(); s.register(client, 1)",
    "an event loop": "import asyncio; asyncio.run(a.open_connection(there, 80))",
    "hosts that are closed": "a.close(); b.close()",
    "the link is down": "for h in (a, b): h.link.lose(); h.driver.change_links()",
    "os._exit": "os._exit(0)",
}


@pytest.mark.parametrize("how", ENDS)
def test_f16_a_program_ends_at_any_moment(router, how):
    done = program(router, ENDS[how])
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr and "Error in" not in done.stderr


def test_f16_a_storm_of_signals_costs_no_byte(router):
    """A handler that itself uses the host, every millisecond at most, while megabytes go through each blocking call."""
    done = program(router, f"""
import hashlib, random
count = 0
def handler(*_):
    global count
    count += 1
    a.counters()
    with a.socket() as s:
        s.setsockopt(1, 2, 1)
signal.signal(signal.SIGALRM, handler)
data = random.Random(1).randbytes({scale(40)} << 20)
got = hashlib.sha256()
def receive():
    while part := server.recv(65536):
        got.update(part)
thread = threading.Thread(target=receive)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
thread.start()
for at in range(0, len(data), 100_000):
    client.sendall(data[at:at + 100_000])
client.shutdown(1)
while True:
    thread.join(0.01)
    if not thread.is_alive():
        break
signal.setitimer(signal.ITIMER_REAL, 0)
print(got.digest() == hashlib.sha256(data).digest(), count > 5)
""")
    assert done.stdout == "True True\n", done.stderr
