"""Programs in C on two stacks beside the kernel's loopback: ``python -m bench.programs [--quick] [--json FILE]``.

redis-benchmark against redis-server, iperf3 against iperf3, wrk against nginx, as they come from their packages:
preloaded, the server on one daemon and the client on another behind one router (five processes), and plain over
127.0.0.1 (two). One after the other, round by round, each round beginning with the other; figures are medians, ratios
the medians of the ratios of each round. Above 1 the stacks are better.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

ROUNDS = 5
CLIENT, SERVER = "10.89.1.5", "10.89.1.6"
NETSTACK = [sys.executable, "-m", "netstack"]
NGINX = """
daemon off; master_process off; worker_processes 1; error_log stderr notice; pid {folder}/pid;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 8089; location / {{ root {folder}/www; }} }}
}}
"""


class Place:
    """Where programs run: the environment of servers, that of clients, and the address of the servers."""

    def __init__(self, server: dict[str, str], client: dict[str, str], address: str) -> None:
        self.server, self.client, self.address = server, client, address

    @contextlib.contextmanager
    def serving(self, until: str, *argv: str) -> Iterator[None]:
        process = subprocess.Popen(argv, env=self.server, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        try:
            said = ""
            while until not in said:
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError(f"{argv[0]} ended: {said}")
                said += line
            yield
        finally:
            process.kill()
            process.communicate()

    def ask(self, *argv: str) -> str:
        return subprocess.run(argv, env=self.client, capture_output=True, text=True, check=True, timeout=120).stdout


def redis(pipeline: int) -> Callable[[Place, float, pathlib.Path], float]:
    def measure(place: Place, seconds: float, folder: pathlib.Path) -> float:
        requests = int(20_000 * seconds * (3 if pipeline > 1 else 1))
        with place.serving("Ready to accept", "redis-server", "--port", "6389", "--bind", "0.0.0.0", "--save", "",
                           "--protected-mode", "no"):
            said = place.ask("redis-benchmark", "-h", place.address, "-p", "6389", "-n", str(requests), "-t", "get",
                             "-P", str(pipeline), "--csv")
        return float(said.splitlines()[1].split(",")[1].strip('"')) / 1000

    return measure


def iperf(*options: str) -> Callable[[Place, float, pathlib.Path], float]:
    def measure(place: Place, seconds: float, folder: pathlib.Path) -> float:
        with place.serving("Server listening", "iperf3", "-s", "-1", "--forceflush", "-p", "5209"):
            said = json.loads(place.ask("iperf3", "-c", place.address, "-p", "5209", "-t", str(max(1, round(seconds))),
                                        "-J", *options))
        if "-u" in options:                      # what arrived
            sent = said["end"]["sum"]
            return sent["bits_per_second"] * (1 - sent["lost_percent"] / 100) / 1e9
        return said["end"]["sum_received"]["bits_per_second"] / 1e9

    return measure


def wrk(name: str) -> Callable[[Place, float, pathlib.Path], float]:
    def measure(place: Place, seconds: float, folder: pathlib.Path) -> float:
        with place.serving("getrlimit", "nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)):
            said = place.ask("wrk", "-t", "2", "-c", "32", "-d", f"{max(1, round(seconds))}s",
                             f"http://{place.address}:8089/{name}")
        return float(said.split("Requests/sec:")[1].split()[0]) / 1000

    return measure


TESTS: dict[str, tuple[str, str, tuple[str, ...], Callable[[Place, float, pathlib.Path], float]]] = {
    "redis": ("GET, 50 clients", "1000/s", ("redis-server", "redis-benchmark"), redis(1)),
    "redis pipeline": ("GET, 50 clients, 16 at a time", "1000/s", ("redis-server", "redis-benchmark"), redis(16)),
    "iperf3": ("one connection", "Gbit/s", ("iperf3",), iperf()),
    "iperf3 -P 4": ("four connections", "Gbit/s", ("iperf3",), iperf("-P", "4")),
    "iperf3 -u": ("datagrams of 8 KiB, as many as go", "Gbit/s", ("iperf3",), iperf("-u", "-b", "0", "-l", "8192")),
    "wrk": ("612 bytes, 32 connections", "1000/s", ("wrk", "nginx"), wrk("small")),
    "wrk file": ("1 MB, 32 connections", "1000/s", ("wrk", "nginx"), wrk("file")),
}


@contextlib.contextmanager
def places(folder: pathlib.Path) -> Iterator[dict[str, Place]]:
    """The two stacks, and the kernel."""
    import netstack
    from netstack.daemon.paths import socket_path

    os.environ["NETSTACK_RUNTIME_DIR"] = str(folder)
    library = pathlib.Path(netstack.__file__).parent / "preload/netstack_preload.so"
    with netstack.Router("10.89.1.0/24", "bench"):
        daemons = [subprocess.Popen([*NETSTACK, "daemon", "--name", name, "--router", "bench", "--address", address],
                                    stderr=subprocess.PIPE, text=True)
                   for name, address in (("servers", SERVER), ("clients", CLIENT))]
        try:
            for daemon in daemons:
                assert daemon.stderr is not None and "daemon" in daemon.stderr.readline()
            of = [{**os.environ, "LD_PRELOAD": str(library), "NETSTACK_DAEMON_SOCKET": socket_path(name)}
                  for name in ("servers", "clients")]
            yield {"stacks": Place(*of, SERVER), "kernel": Place(dict(os.environ), dict(os.environ), "127.0.0.1")}
        finally:
            for daemon in daemons:
                daemon.terminate()
                daemon.communicate()


def compare(quick: bool = False) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "www").mkdir()
        (folder / "www/small").write_bytes(bytes(612))
        (folder / "www/file").write_bytes(bytes(1_000_000))
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
        with places(folder) as where:
            for test, (about, unit, programs, measure) in TESTS.items():
                missing = [program for program in programs if not shutil.which(program)]
                if missing:
                    print(f"{test:15} needs {', '.join(missing)}", flush=True)
                    continue
                found: dict[str, list[float]] = {kind: [] for kind in where}
                for turn in range(1 if quick else ROUNDS):
                    for kind in sorted(where, reverse=bool(turn % 2)):
                        found[kind].append(measure(where[kind], 0.2 if quick else 2.0, folder))
                        time.sleep(0.2)              # ports and processes of the one before
                ratios = [a / b for a, b in zip(found["stacks"], found["kernel"], strict=True)]
                row = {"name": test, "about": about, "unit": unit,
                       **{kind: statistics.median(figures) for kind, figures in found.items()},
                       "ratio": [statistics.median(ratios), min(ratios), max(ratios)]}
                rows.append(row)
                print(f"{test:15} {about:34} {row['stacks']:8.2f} {row['kernel']:8.2f} {unit:7}"
                      f" {row['ratio'][0]:6.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Programs in C on two stacks, and on the kernel.")
    parser.add_argument("--quick", action="store_true", help="one short round: only to see that it works")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here too")
    options = parser.parse_args()
    print(f"{'':50} {'stacks':>8} {'kernel':>8} {'':7}  ratio", flush=True)
    rows = compare(options.quick)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
