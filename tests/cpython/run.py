"""CPython's own network tests on a stack.

    python -m tests.cpython.run [--json FILE] [--kernel [--store]] [MODULE ...]

Each module of the interpreter's ``test`` package runs in processes of its own, with a host put in place of the
kernel before it is imported; nothing of the tests is edited. Of the tests that make an IP socket and pass on the
kernel (`measured` has them by version) those count that passed on sockets of the stack. ``--kernel`` measures the
kernel instead, and ``--store`` keeps that. Exit code 0 whenever the run came to its end, 2 when the interpreter has no
tests. Where no packet may leave the machine:
``unshare -n sh -c 'ip link set lo up; exec python -m tests.cpython.run'``.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time

from tests.cpython import child, measured
from tests.cpython.modules import MODULES, kind, reason

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSED = ("pass", "xfail")
ATTEMPTS = 60                    # a module goes on behind a test that hangs or crashes, this often


class Module:
    """The run of one test module."""

    def __init__(self, name: str, kernel: bool, patience: float, limit: float) -> None:
        self.name = name
        self.rows: dict[str, dict] = {}
        self.notes: list[dict] = []
        self._kernel = kernel
        self._patience = patience
        self._limit = limit
        self._collected: list[str] | None = None

    def run(self) -> None:
        begun = time.monotonic()
        for _ in range(ATTEMPTS):
            if self._attempt():
                break
            if time.monotonic() - begun > self._limit:
                self.notes.append({"fixture": self.name, "why": "took too long"})
                break
        for test in self._collected or []:
            self.rows.setdefault(test, {"id": test, "status": "notrun", "why": "class or module fixture", "seconds": 0})

    def _attempt(self) -> bool:
        """Run what has not run. True: to the end."""
        with tempfile.TemporaryDirectory() as folder:
            skipped = pathlib.Path(folder, "skipped")
            skipped.write_text("\n".join(self.rows))
            os.mkdir(pathlib.Path(folder, "cwd"))
            reading, writing = os.pipe()
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.cpython.run", "--child", self.name, "--skipped", str(skipped),
                 "--events", str(writing), *(["--kernel"] if self._kernel else [])],
                env={**os.environ, "PYTHONWARNINGS": "ignore",
                     "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
                pass_fds=[writing], cwd=pathlib.Path(folder, "cwd"), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            os.close(writing)
            os.set_blocking(reading, False)
            try:
                return self._follow(process, reading)
            finally:
                os.close(reading)
                self._end(process)

    def _end(self, process) -> None:
        """The child and what its tests left running: all of its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _follow(self, process, reading) -> bool:
        buffer, last, running, done = b"", time.monotonic(), None, False
        killed = False
        while True:
            ended = process.poll() is not None         # before the read: what it wrote is there by now
            try:
                chunk = os.read(reading, 65536)
                if not chunk:
                    break
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    last = time.monotonic()
                    event = json.loads(line)
                    running = self._take(event, running)
                    done = done or "done" in event
            except BlockingIOError:
                if ended:                              # a process that a test left behind holds the other end
                    break
                time.sleep(0.01)
            # Importing a module on a loaded machine may take long.
            if time.monotonic() - last > (self._patience if self._collected is not None else 60 + self._patience):
                killed = True
                break
        if done:
            return True
        if running is None:
            self.notes.append({"fixture": self.name, "why": "ended between two tests"})
            return True
        self.rows[running] = {"id": running, "status": "timeout" if killed else "crash", "why": "",
                              "seconds": round(time.monotonic() - last, 1), "sockets": {"refused AF_INET/any": 1}}
        return False

    def _take(self, event: dict, running: str | None) -> str | None:
        if "start" in event:
            return event["start"]
        if "end" in event:
            test = event.pop("end")
            self.rows[test] = {"id": test, **event}
            return None
        if "collected" in event and self._collected is None:
            self._collected = event["collected"]
        elif "fixture" in event:
            self.notes.append(event)
        return running

    def summary(self, kernel: tuple[set[str], set[str]] | None) -> dict:
        """``through``, ``eligible``, ``missed`` of the tests that make IP sockets, and how the others went.

        Eligible are those that pass on the kernel; where nobody has measured that, those that were not skipped.
        """
        if kernel is None:
            inet = [row for row in self.rows.values() if kind(row) == "inet" and row["status"] != "skip"]
        else:
            inet = [row for test, row in self.rows.items() if test in kernel[0]]
        through = [row for row in inet if row["status"] in PASSED and (self._kernel or on_stack(row))]
        missed = {row["id"]: f"{row['status']}: {row['why']}".strip() for row in inet if row not in through}
        others = [row for row in self.rows.values() if row not in inet and kind(row) != "inet"]
        failed = {row["id"]: f"{kind(row)}: {row['status']}: {row['why']}" for row in others
                  if row["status"] not in (*PASSED, "skip")}
        return {
            "through": len(through), "eligible": len(inet), "missed": missed,
            "reasons": {test: reason(test) for test in missed},
            "with_packets": sum(row.get("segments", 0) > 0 for row in through),
            "others": dict(collections.Counter(row["status"] for row in others)),
            "others_failed": failed,
            "others_worse": sorted(set(failed) - kernel[1]) if kernel is not None else [],
        }

    def kernel_passes(self) -> set[str]:
        """Of a run on the kernel: the tests of IP sockets that pass."""
        return {test for test, row in self.rows.items() if kind(row) == "inet" and row["status"] in PASSED}


def on_stack(row: dict) -> bool:
    """Whether its IP sockets were the stack's, and there were some."""
    names = row["sockets"]
    return any(n.startswith("stack ") for n in names) and not any(n.startswith("kernel AF_INET") for n in names)


def table(modules: dict[str, dict]) -> str:
    lines = [f"{'module':<34} {'kernel':>8} {'through':>8} {'packets':>8}   others"]
    total = collections.Counter()
    for name, row in modules.items():
        others = " ".join(f"{status} {count}" for status, count in sorted(row["others"].items()))
        lines.append(f"{name:<34} {row['eligible']:>8} {row['through']:>8} {row['with_packets']:>8}   {others}")
        total.update({key: row[key] for key in ("through", "eligible", "with_packets")})
    lines.append(f"{'all':<34} {total['eligible']:>8} {total['through']:>8} {total['with_packets']:>8}")
    worse = [test for row in modules.values() for test in row["others_worse"]]
    if worse:
        lines += ["", "no IP socket, and the kernel passes:", *(f"    {test}" for test in worse)]
    return "\n".join([*lines, *misses(modules)])


def misses(modules: dict[str, dict]) -> list[str]:
    """The tests that missed, under the reason that `modules.MISSES` has for them."""
    by_reason: dict[str, list[str]] = {}
    for row in modules.values():
        for test, why in row["reasons"].items():
            by_reason.setdefault(why or f"UNEXPLAINED, {row['missed'][test]}", []).append(test)
    return [line for why, tests in by_reason.items() for line in ("", f"{len(tests)}: {why}",
                                                                 *(f"    {test}" for test in sorted(tests)))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cpython.run", description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="of the test package; all by default")
    parser.add_argument("--json", metavar="FILE", help="write the results")
    parser.add_argument("--kernel", action="store_true", help="the kernel's sockets instead of the stack's")
    parser.add_argument("--store", action="store_true", help="with --kernel: keep it as the measure of this version")
    parser.add_argument("--patience", type=float, default=30, help="seconds that one test may take")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one module")
    for hidden in ("--child", "--skipped"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--events", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.store and (not arguments.kernel or arguments.modules):
        parser.error("--store needs --kernel, and all modules")
    if arguments.child:
        child.main(arguments.child, arguments.kernel, arguments.skipped, arguments.events)
    if importlib.util.find_spec("test.test_socket") is None:
        print(f"{sys.executable} (CPython {platform.python_version()}) comes without its test package: take one that "
              "was built from source, as pyenv does, or install the distribution's package of it", file=sys.stderr)
        sys.exit(2)
    names = arguments.modules or [m for m in MODULES if importlib.util.find_spec("test." + m) is not None]
    absent = [] if arguments.modules else sorted(set(MODULES) - set(names))
    kernel = None if arguments.kernel else measured.load()
    passing: set[str] = set()
    modules = {}
    for name in names:
        module = Module(name, arguments.kernel, arguments.patience, arguments.limit)
        begun = time.monotonic()
        module.run()
        modules[name] = {**module.summary(kernel), "notes": module.notes}
        passing |= module.kernel_passes()
        print(f"{name:<34} {modules[name]['through']:>8} of {modules[name]['eligible']}, "
              f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"python": platform.python_version(), "kernel": arguments.kernel, "absent": absent,
                       "modules": modules}, file, indent=1)
    if arguments.kernel and arguments.store:
        measured.store(passing, {test for row in modules.values() for test in row["others_failed"]})
    print(table(modules))
    if absent:
        print(f"\nnot in CPython {measured.VERSION}: {' '.join(absent)}")
    if kernel is None and not arguments.kernel:
        print(f"\nnobody has measured the kernel with CPython {measured.VERSION} (--kernel --store): counted against "
              "all tests that make an IP socket")


if __name__ == "__main__":
    main()
