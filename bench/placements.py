"""Where protocol processing is done, and whose the address is: the paper's comparison (sections 2 and 3).

``python -m bench.placements [--quick] [--json FILE] [--docs FOLDER] [PLACEMENT ...]``: the same two programs
(`bench.placed`), which know only the standard library's sockets, over the kernel, the library stack, the daemon and the
hybrid stack; with addresses per process, core and interface; with the processing of what arrives on the receiver's core
and on the other one (Jacobson's worst case). One after the other, round by round, each round beginning with another;
figures are medians, ratios the medians of the ratios of each round to the kernel's.

Time of the cores and switches are the machine's, so that whoever works for a connection is counted: it has to be idle.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from bench.measure import Absent

ROUNDS = 7
TESTS = ("bulk", "pingpong", "connect")
CLIENT, SERVER = 0, 1                        # cores, of those that we may use
ADDRESS = "10.77.0.2"                        # the server's: the first that a router hands out
NETSTACK = [sys.executable, "-m", "netstack"]
PROGRAM = [sys.executable, "-m", "bench.placed"]
PATIENCE_S = 60.0


def core(which: int) -> int:
    return sorted(os.sched_getaffinity(0))[which]


class Machine(contextlib.ExitStack):
    """What was started for one measurement; its end ends all of it."""

    def __init__(self, folder: str):
        super().__init__()
        root = str(pathlib.Path(__file__).resolve().parent.parent)
        self.env = {**os.environ, "NETSTACK_RUNTIME_DIR": folder, "PYTHONUNBUFFERED": "1",
                    "PYTHONPATH": os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)}

    def start(self, *command: object, **options) -> subprocess.Popen:
        process = subprocess.Popen([str(c) for c in command], env=self.env, text=True, **options)
        self.callback(self.end, process)
        return process

    @staticmethod
    def end(process: subprocess.Popen) -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def service(self, *command: object, path: str) -> None:
        """A router or daemon: ready when its control socket is there."""
        process = self.start(*command, "-q", stderr=subprocess.PIPE)
        socket = os.path.join(self.env["NETSTACK_RUNTIME_DIR"], path)
        end = time.monotonic() + PATIENCE_S
        while not os.path.exists(socket):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command}: {process.stderr and process.stderr.read()}")
            time.sleep(0.01)

    def root(self, *command: object) -> None:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode:
            raise Absent(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@dataclasses.dataclass(frozen=True)
class Run:
    """How the two programs are started: what stands in front of each, and their own options."""

    server: Sequence[object] = ()
    client: Sequence[object] = ()
    address: str = "127.0.0.1"
    server_options: Sequence[object] = ()
    pair: bool = False


@dataclasses.dataclass(frozen=True)
class Placement:
    """A line of the table."""

    name: str
    prepare: Callable[[Machine], Run]
    tests: tuple[str, ...] = TESTS
    root: bool = False


# ---- the kernel

def over_loopback(machine: Machine) -> Run:
    return Run()


def steered(which: int):
    """The kernel's loopback in a namespace where what arrives is processed on the client's or the server's core."""
    def prepare(machine: Machine) -> Run:
        name = f"placed-{os.getpid()}"
        machine.root("ip", "netns", "add", name)
        machine.callback(subprocess.run, ["ip", "netns", "delete", name])
        machine.root("ip", "-n", name, "link", "set", "lo", "up")
        mask = f"{1 << core(which):x}"
        machine.root("ip", "netns", "exec", name, "sh", "-c", f"echo {mask} >/sys/class/net/lo/queues/rx-0/rps_cpus")
        inside = ("ip", "netns", "exec", name)
        return Run(inside, inside)
    return prepare


# ---- the library stack

def on_a_channel(*options: object):
    def prepare(machine: Machine) -> Run:
        return Run(pair=True, server_options=options)
    return prepare


def by_process(machine: Machine) -> Run:
    machine.service(*NETSTACK, "router", "--name", "placed", path="placed.sock")
    run = (*NETSTACK, "run", "--name", "placed")
    return Run((*run, "--address", ADDRESS, "--"), (*run, "--"), ADDRESS)


def by_core(machine: Machine) -> Run:
    machine.service(*NETSTACK, "router", "--name", "placed", path="placed.sock")
    run = (*NETSTACK, "run", "--name", "placed")
    return Run((*run, "--addressing", "core", "--workers", 1, "--address", ADDRESS, "--"), (*run, "--"), ADDRESS)


def by_interface(machine: Machine) -> Run:
    machine.service(*NETSTACK, "router", "--name", "placed", "--addressing", "interface", path="placed.sock")
    run = (*NETSTACK, "run", "--name", "placed", "--")
    return Run(run, run, ADDRESS)


# ---- daemon and hybrid

def through_daemon(where: int | None = None):
    """One daemon for both programs, wherever the kernel puts it or on one core."""
    def prepare(machine: Machine) -> Run:
        machine.service(*NETSTACK, "router", "--name", "placed", path="placed.sock")
        pinned = ("taskset", "-c", core(where)) if where is not None else ()
        machine.service(*pinned, *NETSTACK, "daemon", "--name", "placed", "--router", "placed", path="placed.daemon")
        run = (*NETSTACK, "run", "--mode", "daemon", "--name", "placed", "--")
        return Run(run, run)
    return prepare


def hybrid(machine: Machine) -> Run:
    run = (*NETSTACK, "run", "--mode", "hybrid", "--")
    return Run(run, run)


KERNEL = "kernel, loopback"
PLACEMENTS = (
    Placement(KERNEL, over_loopback),
    Placement("kernel, loopback, processed on the receiver's core", steered(SERVER), root=True),
    Placement("kernel, loopback, processed on the other core", steered(CLIENT), root=True),
    Placement("library, a channel", on_a_channel()),
    Placement("library, address per process", by_process),
    Placement("library, address per core", by_core),
    Placement("library, address per interface", by_interface),
    Placement("library, a channel, receiver selects, service thread on its core",
              on_a_channel("--select", "--threads", SERVER), ("bulk",)),
    Placement("library, a channel, receiver selects, service thread on the other core",
              on_a_channel("--select", "--threads", CLIENT), ("bulk",)),
    Placement("daemon", through_daemon()),
    Placement("daemon on the receiver's core", through_daemon(SERVER)),
    Placement("daemon on the other core", through_daemon(CLIENT)),
    Placement("hybrid", hybrid, root=True),
)


def measure(placement: Placement, test: str, seconds: float) -> dict[str, float]:
    """One measurement, everything started for it.

    Returns
    -------
    dict
        ``figure`` (Gbit/s, microseconds a round trip, or connections a second); ``busy_ns`` of all cores and
        ``switches`` for each KiB, round trip or connection.
    """
    if placement.root and os.geteuid():
        raise Absent("needs root")
    with tempfile.TemporaryDirectory() as folder, Machine(folder) as machine:
        run = placement.prepare(machine)
        common = (test, "--seconds", seconds)
        if run.pair:
            command = [*PROGRAM, "pair", *common, "--core", core(CLIENT), "--other", core(SERVER), *run.server_options]
        else:
            server = machine.start(*run.server, *PROGRAM, "server", test, "--bind", run.address,
                                   "--core", core(SERVER), *run.server_options, stdout=subprocess.PIPE)
            assert server.stdout is not None
            if "ready" not in server.stdout.readline():
                raise RuntimeError(f"{placement.name}: the server did not start")
            command = [*run.client, *PROGRAM, "client", *common, "--address", run.address, "--core", core(CLIENT)]
        client = machine.start(*command, stdout=subprocess.PIPE)
        out, _ = client.communicate(timeout=PATIENCE_S)
        if client.returncode:
            raise RuntimeError(f"{placement.name}: the client ended with {client.returncode}")
    said = json.loads(out)
    count = said["count"]
    figure = {"bulk": count * 8e-9 / said["seconds"], "pingpong": said["seconds"] / count * 1e6,
              "connect": count / said["seconds"]}[test]
    units = count / 1024 if test == "bulk" else count
    return {"figure": figure, "busy_ns": sum(said["cores_ns"]) / units, "switches": said["switches"] / units}


def better(test: str, figure: float, kernel: float) -> float:
    """How many times better than the kernel's."""
    return kernel / figure if test == "pingpong" else figure / kernel


def compare(placements: Sequence[Placement], seconds: float, rounds: int, say) -> list[dict[str, object]]:
    """A record for each placement: by test the medians, and the ratio to the kernel's of the same round."""
    taken: dict[tuple[str, str], list[dict[str, float] | None]] = {}
    away: dict[str, str] = {}
    for test in TESTS:
        able = [p for p in placements if test in p.tests]
        for turn in range(rounds):
            for placement in able[turn % len(able):] + able[:turn % len(able)]:
                key = (placement.name, test)
                try:
                    found = None if placement.name in away else measure(placement, test, seconds)
                except Absent as reason:
                    away[placement.name] = str(reason)
                    say(f"without {placement.name}: {reason}")
                    found = None
                except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                    say(f"{placement.name}, {test}: {error}")
                    found = None
                taken.setdefault(key, []).append(found)
            say(f"{test}: round {turn + 1} of {rounds}")
    out: list[dict[str, object]] = []
    for placement in placements:
        record: dict[str, object] = {"placement": placement.name}
        for test in placement.tests:
            mine, kernels = (taken.get((name, test), []) for name in (placement.name, KERNEL))
            done = [m for m in mine if m]
            if not done:
                continue
            ratios = sorted(better(test, m["figure"], k["figure"]) for m, k in zip(mine, kernels, strict=False)
                            if m and k)
            costs = sorted(m["busy_ns"] / k["busy_ns"] for m, k in zip(mine, kernels, strict=False)
                           if m and k and k["busy_ns"])
            record[test] = {
                **{name: statistics.median(m[name] for m in done) for name in ("figure", "busy_ns", "switches")},
                "ratio": [statistics.median(ratios), ratios[0], ratios[-1]] if ratios else None,
                "cost_ratio": [statistics.median(costs), costs[0], costs[-1]] if costs else None,
            }
        out.append(record)
    return out


def main() -> None:
    from bench import placement_report

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="0.2 s a measurement, three rounds")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--docs", metavar="FOLDER", help="put table and plot into placements.md there")
    parser.add_argument("placement", nargs="*", help="words of their names; default: all")
    options = parser.parse_args()
    chosen = [p for p in PLACEMENTS
              if not options.placement or p.name == KERNEL or any(word in p.name for word in options.placement)]
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for each program")
    found = compare(chosen, 0.2 if options.quick else 0.5, 3 if options.quick else ROUNDS,
                    lambda text: print(text, file=sys.stderr, flush=True))
    placement_report.show(found)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"placements": found}, indent=1) + "\n")
    if options.docs:
        placement_report.publish(found, pathlib.Path(options.docs))


if __name__ == "__main__":
    main()
