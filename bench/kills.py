"""What others notice of a stack that is killed (F1): bytes between two stacks, in seconds with kills and without.

``python -m bench.kills [SECONDS] [KILLS]``. Victims are attached, have a connection and sleep until they are killed.
Seconds with and without kills take turns, and medians are compared: what the machine does else meets both.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

LIMIT_S = 60

ROUTER = """
import sys, netstack
with netstack.Router(name="kills") as router:
    print("up", flush=True)
    sys.stdin.read()
"""

SINK = """
import sys, threading, netstack
host = netstack.attach("kills", drain=0)
def serve(s):
    while s.recv(1 << 20):
        pass
listener = host.create_server(("", 7), backlog=64)
print(host.addresses[0].partition("/")[0], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

SOURCE = """
import sys, time, netstack
host = netstack.attach("kills", drain=0)
s = host.create_connection((sys.argv[1], 7))
block, sent = bytes(256 << 10), 0
end = time.monotonic() + 0.05
while True:
    s.sendall(block)
    sent += len(block)
    if time.monotonic() >= end:
        print(time.monotonic(), sent, flush=True)
        end += 0.05
"""

# Forks a victim for each line, after everything is imported, and answers with its pid once it is connected.
VICTIMS = """
import os, signal, sys
import netstack, netstack.router.attachment, netstack.host, netstack.socket
for line in sys.stdin:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        host = netstack.attach("kills", drain=0)
        s = host.create_connection((sys.argv[1], 7))
        os.write(write, b"x")
        while True:
            signal.pause()
    os.read(read, 1)
    os.close(read)
    os.close(write)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print(child, flush=True)
"""


def run(seconds: float = 10.0, kills: int = 1) -> dict[str, float]:
    """``dip_percent``: how much less passes in a second with so many kills; ``gbit_s``: without any."""
    with tempfile.TemporaryDirectory(prefix="nsk-") as folder:
        env = {**os.environ, "NETSTACK_RUNTIME_DIR": folder}
        env.pop("NETSTACK_ROUTER", None)
        started: list[subprocess.Popen] = []

        def start(code: str, *arguments: str) -> subprocess.Popen:
            started.append(subprocess.Popen([sys.executable, "-c", code, *arguments], env=env, text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            return started[-1]

        def line(process: subprocess.Popen) -> str:
            said = process.stdout.readline().strip() if process.stdout else ""
            if not said:
                raise RuntimeError(f"ended with {process.wait(LIMIT_S)}")
            return said

        try:
            line(start(ROUTER))
            address = line(start(SINK))
            source = start(SOURCE, address)
            victims = start(VICTIMS, address)
            assert victims.stdin is not None
            line(source)
            counts: dict[bool, list[float]] = {False: [], True: []}
            for turn in range(max(2, int(seconds))):
                pids = []
                if turn % 2:
                    for _ in range(kills):
                        victims.stdin.write("one\n")
                        victims.stdin.flush()
                        pids.append(int(line(victims)))
                counts[bool(turn % 2)].append(a_second(source, line, pids))
        finally:
            for process in reversed(started):
                process.kill()
                process.communicate()
    quiet, killing = (statistics.median(counts[which]) for which in (False, True))
    return {"dip_percent": 100 * (1 - killing / quiet), "gbit_s": quiet * 8e-9}


def a_second(source: subprocess.Popen, line, pids: list[int]) -> float:
    """Bytes a second, from the source's own reports, while these are killed."""
    while True:                                   # what was said while victims were made
        told, sent = map(float, line(source).split())
        if time.monotonic() - told < 0.06:
            break
    began, before = told, sent
    at = [began + (i + 1) / (len(pids) + 1) for i in range(len(pids))]
    while told < began + 1 or at:
        if at and told >= at[0]:
            at.pop(0)
            os.kill(pids.pop(), 9)
        told, sent = map(float, line(source).split())
    return (sent - before) / (told - began)


if __name__ == "__main__":
    said = run(*(float(a) if i == 0 else int(a) for i, a in enumerate(sys.argv[1:3])))
    print(f"{said['gbit_s']:.2f} Gbit/s; {said['dip_percent']:+.1f} % less in a second with kills")
