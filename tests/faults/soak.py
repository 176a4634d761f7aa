"""F17: everything at once for as long as wanted. ``python -m tests.faults.soak [MINUTES]``

Stacks come and go, connect, send both ways and compare, abort, sleep; all are killed in the end. Every ten seconds a
line: bytes compared, connections, memory, descriptors. At the end packets in must be packets out and drops.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import netstack
from tests.support import ROOT

# A stack of its own that makes connections of all kinds until it is told to end, or killed.
CLIENT = """
import random, sys, time
import netstack
rng = random.Random(int(sys.argv[3]))
host = netstack.attach(sys.argv[1], drain=1)
print("begun", flush=True)
while True:
    with host.create_connection((sys.argv[2], 7), timeout=60) as s:
        for _ in range(rng.randrange(20)):
            block = rng.randbytes(rng.choice((1, 100, 10_000, 200_000)))
            s.sendall(block[:100_000])
            n = 0
            while n < len(block[:100_000]):
                data = s.recv(65536)
                assert data == block[n:n + len(data)] and data, "other bytes"
                n += len(data)
            time.sleep(rng.choice((0, 0, 0.001, 0.01)))
        if rng.random() < 0.2:
            s.setsockopt(1, 13, b"\\1\\0\\0\\0\\0\\0\\0\\0")     # close() aborts
    with host.socket(type=2) as u:
        u.settimeout(5)
        payload = rng.randbytes(rng.choice((10, 1000, 9000)))
        u.sendto(payload, (sys.argv[2], 7))
        try:
            assert u.recv(10_000) == payload, "another datagram"
        except TimeoutError:
            pass
"""


class Soak:
    """The router and the server, which live here, and the clients, which do not.

    Parameters
    ----------
    clients : int
        How many at a time.
    seed : int
        Of whom is killed when.
    **settings
        Of the router.
    """

    def __init__(self, clients: int = 4, seed: int = 17, **settings):
        self.rng = random.Random(seed)
        self.router = netstack.Router(ring_capacity=1 << 18, **settings)
        self.host = netstack.attach(self.router.name, drain=1)
        self.address = self.host.addresses[0].partition("/")[0]
        self.bytes = self.connections = self.kills = 0
        self.problems: list[str] = []
        self.stopping = threading.Event()
        self.listener = self.host.create_server(("", 7), backlog=64)
        self.datagrams = self.host.socket(type=2)
        self.datagrams.bind((self.address, 7))
        for target in (self.accept, self.answer):
            threading.Thread(target=target, daemon=True).start()
        self.numbers = iter(range(1 << 30))
        self.clients = [self.start() for _ in range(clients)]

    def start(self) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", CLIENT, self.router.name, self.address,
                                    str(next(self.numbers))], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env={**os.environ, **self.router.environment()})
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def accept(self) -> None:
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s) -> None:
        with s:
            try:
                # A killed peer sends no more, and says so to who sends only; this end may be waiting for it.
                s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3)):
                    s.setsockopt(socket.IPPROTO_TCP, option, value)
                while data := s.recv(65536):
                    s.sendall(data)
                    self.bytes += len(data)
            except OSError:
                pass

    def answer(self) -> None:
        while True:
            try:
                data, peer = self.datagrams.recvfrom(65536)
                self.datagrams.sendto(data, peer)
            except OSError:
                if self.stopping.is_set():
                    return

    def turn(self) -> None:
        """One of the clients is killed, or looked after."""
        i = self.rng.randrange(len(self.clients))
        client = self.clients[i]
        if client.poll() is not None:
            self.problems.append((client.communicate()[1] or "ended")[-500:])
        else:
            client.send_signal(signal.SIGKILL)
            client.communicate()
            self.kills += 1
        self.clients[i] = self.start()

    def run(self, seconds: float, every: float = 10.0) -> None:
        end = time.monotonic() + seconds
        said = time.monotonic()
        while time.monotonic() < end and not self.problems:
            time.sleep(min(self.rng.uniform(0.05, 1.0), max(0.0, end - time.monotonic())))
            self.turn()
            if time.monotonic() - said >= every:
                said = time.monotonic()
                print(self, flush=True)

    def end(self) -> None:
        """Everybody stops; what should hold now is in `problems` if it does not."""
        for client in self.clients:
            if client.poll() is not None:
                self.problems.append((client.communicate()[1] or "ended")[-500:])
            client.kill()
            client.communicate()
        for _ in range(600):
            if len(self.router.attachments()) == 1:
                break
            time.sleep(0.1)
        else:
            self.problems.append(f"{len(self.router.attachments())} are still attached")
        self.problems += self.router.check_conservation()
        self.stopping.set()
        self.listener.close()
        self.datagrams.close()
        self.host.close()
        self.router.close()

    def __str__(self) -> str:
        with open("/proc/self/statm") as file:
            memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
        return (f"{self.bytes >> 20} MiB compared, {self.connections} connections, {self.kills} kills, {memory} KiB, "
                f"{len(os.listdir('/proc/self/fd'))} descriptors, {threading.active_count()} threads")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("minutes", type=float, nargs="?", default=60.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--backend", default="memfd")
    options = parser.parse_args()
    soak = Soak(options.clients, backend=options.backend)
    try:
        soak.run(60 * options.minutes)
    finally:
        soak.end()
    print(soak)
    for problem in soak.problems:
        print("PROBLEM", problem)
    return 1 if soak.problems else 0


if __name__ == "__main__":
    sys.exit(main())
