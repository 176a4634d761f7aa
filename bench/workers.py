"""A web server of several processes on one address, each bound by SO_REUSEPORT, and wrk on the kernel's side.

``python -m bench.workers [--quick]`` measures the same program with the workers on stacks that share a router's address
(``netstack run``, ``--addressing interface``), behind a TAP, and on the kernel, in turn, in namespaces of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading

from bench.measure import ROUNDS, Absent

WORKERS, CONNECTIONS, PORT = 2, 16, 8090
SERVER = "import sys, bench.workers as m; m.serve(sys.argv[1], int(sys.argv[2]))"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 200\r\n\r\n" + b"x" * 200


def serve(address: str, port: int) -> None:
    """One worker: a thread for each connection. Says ``ready``, and for each line of input how many pages it gave."""
    given: list[list[int]] = []                                    # by connection: threads share no count
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address, port))
        listener.listen(1024)

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                rest, count = b"", [0]
                given.append(count)
                while data := connection.recv(65536):
                    *requests, rest = (rest + data).split(b"\r\n\r\n")
                    if requests:
                        count[0] += len(requests)
                        connection.sendall(PAGE * len(requests))

        def accept() -> None:
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        print("ready", flush=True)
        for _ in sys.stdin:
            print(sum(count[0] for count in given), flush=True)


class Workers:
    """Processes of one server.

    Parameters
    ----------
    address, port
        Where they all listen.
    n : int
        How many.
    command : list of str
        Before the interpreter's own arguments: ``[sys.executable]``, or ``netstack run`` and its options.
    env : mapping, optional
        Their environment.
    """

    def __init__(self, address: str, port: int, n: int, command: list[str], env=None):
        self.processes: list[subprocess.Popen[str]] = []
        argv = [*command, "-c", SERVER, address, str(port)]
        for _ in range(n):
            self.processes.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                                   env=env))

    def __enter__(self) -> Workers:
        for process in self.processes:
            said = process.stdout.readline() if process.stdout else ""
            if said != "ready\n":
                self.__exit__()
                raise RuntimeError(f"a worker ended instead of listening: {said}")
        return self

    def pages(self) -> list[int]:
        """How many each has given; -1: it is dead."""
        out = []
        for process in self.processes:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write("\n")
                process.stdin.flush()
                out.append(int(process.stdout.readline() or -1))
            except BrokenPipeError:
                out.append(-1)
        return out

    def __exit__(self, *exc) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            with contextlib.suppress(BrokenPipeError):
                process.communicate()


def wrk(address: str, port: int, seconds: float, connections: int = CONNECTIONS, threads: int = 1) -> list[str]:
    """Its command line."""
    return ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{max(1, round(seconds))}s",
            f"http://{address}:{port}/"]


def result(said: str) -> tuple[float, int, int]:
    """Requests a second, requests, and how many failed, of what wrk says."""
    failed = sum(int(word) for line in said.splitlines() if "Socket errors" in line or "Non-2xx" in line
                 for word in line.replace(",", " ").split() if word.isdecimal())
    total = int(said.split(" requests in ")[0].split()[-1])
    return float(said.split("Requests/sec:")[1].split()[0]), total, failed


def run(kind: str, seconds: float) -> float:
    """Requests a second, ``"stacks"`` or ``"kernel"``; in a process of its own, which gets a namespace of its own."""
    from bench.uplinked import KERNEL, ip, prepare

    if shutil.which("wrk") is None:
        print("wrk is not installed", file=sys.stderr)
        sys.exit(3)
    prepare("tap:up0")
    ip("link", "set", "lo", "up")
    with contextlib.ExitStack() as stack:
        command, env, address = [sys.executable], dict(os.environ), KERNEL
        if kind == "stacks":
            from netstack.router import Router

            os.environ["NETSTACK_RUNTIME_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="nsb-"))
            router = stack.enter_context(Router("10.77.0.0/16", uplinks=["tap:up0"], addressing="interface"))
            [address] = router.shared_addresses
            command, env = [sys.executable, "-m", "netstack", "run", "--"], {**env, **router.environment()}
        stack.enter_context(Workers(address, PORT, WORKERS, command, env=env))
        done = subprocess.run(wrk(address, PORT, seconds), capture_output=True, text=True, check=True, timeout=50)
        rate, _, failed = result(done.stdout)
        if failed:
            raise RuntimeError(f"{failed} requests failed: {done.stdout}")
        return rate


def main() -> None:
    from bench.measure import python_program

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a second each, instead of three")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"stacks": [], "kernel": []}
    for turn in range(options.rounds):
        for kind in sorted(found, reverse=bool(turn % 2)):
            try:
                found[kind].append(python_program("bench.workers", "run", kind=kind, seconds=1 if options.quick else 3))
            except Absent as why:
                sys.exit(str(why))
    ratios = sorted(a / b for a, b in zip(found["stacks"], found["kernel"], strict=True))
    print(f"{WORKERS} workers, {CONNECTIONS} connections, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}: "
          f"stacks {statistics.median(found['stacks']):,.0f}/s, kernel {statistics.median(found['kernel']):,.0f}/s, "
          f"ratio {statistics.median(ratios):.2f} [{ratios[0]:.2f}-{ratios[-1]:.2f}]")


if __name__ == "__main__":
    main()
