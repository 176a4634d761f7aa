"""The uplink without privilege beside its likes: one Python client fetches from a server of the kernel's, through each.

``python -m bench.relayed [--seconds S]`` prints the table. The server and the client are processes; between them is
nothing (the kernel's loopback), netstack's router (``--uplink user``), slirp4netns, or pasta. Both others give a
program a network namespace from which the machine's loopback can be reached; they are measured if they are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from bench.measure import Absent

PIECE = 256 << 10
SERVER = "import bench.relayed as m; m.serve()"
CLIENT = "import sys, bench.relayed as m; m.client(*sys.argv[1:])"
LOOPBACK = "10.77.0.1"           # what the relay shows it as; 10.0.2.2 is slirp4netns's


def serve() -> None:
    """A connection says what it wants: ``d`` download, ``u`` upload, ``e`` one byte back."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)

    def one(connection):
        piece = bytearray(PIECE)
        with connection, contextlib.suppress(OSError):
            wish = connection.recv(1)
            if wish == b"d":
                while True:
                    connection.sendall(piece)
            elif wish == b"u":
                while connection.recv_into(piece):
                    pass
            elif wish == b"e":
                connection.sendall(b"e")

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


def client(address: str, port: str, test: str, seconds: str) -> None:
    """Prints Gbit/s or connections a second. Under ``netstack run`` its sockets are a stack's."""
    where, limit = (address, int(port)), float(seconds)
    done, began = 0, time.perf_counter()
    if test == "connect":
        while time.perf_counter() - began < limit:
            with socket.create_connection(where, 20) as s:
                s.sendall(b"e")
                s.recv(1)
            done += 1
        print(done / (time.perf_counter() - began))
        return
    piece = bytearray(PIECE)
    with socket.create_connection(where, 20) as s:
        s.sendall(test[0].encode())
        began = time.perf_counter()
        while time.perf_counter() - began < limit:
            if test == "download":
                done += s.recv_into(piece)
            else:
                done += s.send(piece)
        print(done * 8e-9 / (time.perf_counter() - began))


@contextlib.contextmanager
def server():
    """Its port."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def said(command, **options) -> float:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, **options)
    except subprocess.TimeoutExpired:
        raise Absent(f"{command[0]} does not end") from None
    if done.returncode != 0 or not done.stdout.strip():
        raise Absent(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return float(done.stdout.split()[-1])


def measure(kind: str, test: str, seconds: float) -> float:
    """One figure of ``kernel``, ``relay``, ``slirp4netns`` or ``pasta``; `bench.measure.Absent` where it cannot be."""
    with server() as port:
        rest = [str(port), test, str(seconds)]
        run = [sys.executable, "-c", CLIENT]
        if kind == "kernel":
            return said([*run, "127.0.0.1", *rest])
        if kind == "relay":
            with tempfile.TemporaryDirectory(prefix="nsb-") as folder:
                return said([sys.executable, "-m", "netstack", "run", "--uplink", f"user,loopback={LOOPBACK}", "--",
                             *run[1:], LOOPBACK, *rest], env={**os.environ, "NETSTACK_RUNTIME_DIR": folder})
        if shutil.which(kind) is None:
            raise Absent(f"{kind} is not installed")
        if kind == "pasta":
            who = ["--runas", "0"] if os.geteuid() == 0 else []        # else it becomes nobody, who may not read us
            return said(["pasta", *who, "--config-net", "-q", "-t", "none", "-u", "none", "-T", str(port), "-U", "none",
                         "--", *run, "127.0.0.1", *rest])
        return slirp(run, rest)


def slirp(run, rest) -> float:
    """The client in a namespace of its own, whose TAP is slirp4netns's."""
    with contextlib.ExitStack() as stack:
        command = ["unshare", "-n", "sh", "-c", "echo; exec sleep 100"]
        hold = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(hold.kill)
        hold.stdout.readline()
        ready, tell = os.pipe()
        relay = stack.enter_context(subprocess.Popen(
            ["slirp4netns", "-c", "-m", "65520", "-r", str(tell), str(hold.pid), "tap0"], pass_fds=[tell],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        stack.callback(relay.send_signal, signal.SIGTERM)
        os.close(tell)
        with open(ready, "rb") as pipe:
            if not pipe.read(1):
                raise Absent("slirp4netns does not start")
        return said(["nsenter", "-t", str(hold.pid), "-n", *run, "10.0.2.2", *rest])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for test, unit in (("download", "Gbit/s"), ("upload", "Gbit/s"), ("connect", "1/s")):
        found: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for kind in ("kernel", "relay", "slirp4netns", "pasta"):
                try:
                    found.setdefault(kind, []).append(measure(kind, test, options.seconds))
                except Absent as why:
                    found.setdefault(f"{kind}: {why}", [])
        base = sorted(found["kernel"])[len(found["kernel"]) // 2]
        for kind, values in found.items():
            if values:
                middle = sorted(values)[len(values) // 2]
                print(f"{test:9} {kind:12} {middle:10.3g} {unit:7} {middle / base:6.2f} of the kernel's loopback")
            else:
                print(f"{test:9} {kind}")


if __name__ == "__main__":
    main()
