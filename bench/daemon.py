"""The daemon stack beside the library stack and the kernel: ``python -m bench.daemon [--quick] [--json FILE]``.

Two Python programs, one connection: over two clients of one daemon (its own loopback, three processes), over two Hosts
on a channel (two processes), and over the kernel's loopback. One after the other, round by round, each round beginning
with another; figures are medians, ratios the medians of the ratios of each round. Above 1 the daemon is better.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time

from bench import python_sockets as programs

ROUNDS = 7
KINDS = ("daemon", "hosts", "kernel")
TESTS = {"pingpong": ("64 B there and back", "us"), "bulk": ("writes of 256 KiB", "Gbit/s")}


def run_daemon(ready, ring_bytes: int) -> None:
    """The daemon's process."""
    from netstack import Host
    from netstack.daemon.server import Server

    with Server(Host(address="10.0.0.1/24", drain=1), "bench", ring_bytes=ring_bytes):
        ready.send(True)
        ready.recv()


def over_daemon(test: str, seconds: float) -> float:
    """One measurement: the other program is a child with an attachment of its own."""
    import netstack

    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            host = netstack.attach("bench", mode="daemon")
            listener = host.create_server(("127.0.0.1", programs.PORT))
            os.write(told, b"!")
            programs.serve(listener, test)
            listener.close()
        finally:
            os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(told)
    host = netstack.attach("bench", mode="daemon")
    try:
        with host.create_connection(("127.0.0.1", programs.PORT), 10) as s:
            return programs.drive(s, test, seconds)
    finally:
        os.waitpid(pid, 0)
        host.close()


def measure(kind: str, test: str, seconds: float) -> float:
    """In a process of its own, so that pinning and sockets end with it."""
    here, there = multiprocessing.Pipe()

    def work() -> None:
        there.send(over_daemon(test, seconds) if kind == "daemon" else programs.run(kind, test, seconds))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    if not here.poll(60):
        process.kill()
        raise TimeoutError(f"{kind}, {test}")
    value = here.recv()
    process.join()
    return value


def compare(seconds: float, rounds: int) -> list[dict[str, object]]:
    """A record for each test."""
    out: list[dict[str, object]] = []
    for test, (name, unit) in TESTS.items():
        taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for turn in range(rounds):
            for kind in KINDS[turn % 3:] + KINDS[:turn % 3]:
                taken[kind].append(measure(kind, test, seconds))
        record: dict[str, object] = {"test": name, "unit": unit}
        for kind in KINDS:
            record[kind] = statistics.median(taken[kind])
        for peer in KINDS[1:]:
            ratios = [b / a if unit == "us" else a / b for a, b in zip(taken["daemon"], taken[peer], strict=True)]
            record[f"ratio_{peer}"] = [statistics.median(ratios), min(ratios), max(ratios)]
        out.append(record)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="0.1 s a measurement, three rounds")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--ring", type=int, default=256 << 10, help="bytes of each direction of a stream")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NETSTACK_RUNTIME_DIR"] = folder
        here, there = multiprocessing.Pipe()
        daemon = multiprocessing.get_context("spawn").Process(target=run_daemon, args=(there, options.ring))
        daemon.start()
        here.recv()
        try:
            found = compare(0.1 if options.quick else 0.5, 3 if options.quick else ROUNDS)
        finally:
            here.send(None)
            daemon.join()
    for record in found:
        print(f"{record['test']}\n    daemon {record['daemon']:.4g} {record['unit']}", end="")
        for peer in KINDS[1:]:
            middle, least, most = record[f"ratio_{peer}"]     # type: ignore[misc]
            print(f"   {peer} {record[peer]:.4g}, ratio {middle:.2g} [{least:.2g}-{most:.2g}]", end="")
        print()
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"time": time.time(), "cpus": os.cpu_count(), "rows": found}, file, indent=1)


if __name__ == "__main__":
    main()
