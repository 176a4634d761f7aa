"""What the kernel makes of CPython's tests, by version: ``kernel-3.X.txt``, which ``run --kernel --store`` writes.

A line names a class and its tests: those that make an IP socket and pass on the kernel's, which are the ones that a
stack is measured by; behind a "!" those that make none and fail on the kernel as well (most of them want the Internet).
"""

from __future__ import annotations

import collections
import pathlib
import platform
import sys

HERE = pathlib.Path(__file__).resolve().parent
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def path(version: str = VERSION) -> pathlib.Path:
    return HERE / f"kernel-{version}.txt"


def load(version: str = VERSION) -> tuple[set[str], set[str]] | None:
    """``(tests of IP sockets that pass, others that fail)``, by id; None: nobody has measured this version."""
    if not path(version).exists():
        return None
    passing: set[str] = set()
    failing: set[str] = set()
    for line in path(version).read_text().splitlines():
        if line.startswith("#"):
            continue
        into = failing if line.startswith("! ") else passing
        name, _, tests = line.removeprefix("! ").partition(": ")
        into.update(f"{name}.{test}" for test in tests.split())
    return passing, failing


def store(passing: set[str], failing: set[str]) -> None:
    where = f"CPython {platform.python_version()} on Linux {platform.release().partition('-')[0]}"
    lines = [f"# {where}: {len(passing)} tests of IP sockets pass; behind ! what fails there too without one"]
    for mark, tests in (("", passing), ("! ", failing)):
        by_class: dict[str, list[str]] = collections.defaultdict(list)
        for test in sorted(tests):
            name, _, method = test.rpartition(".")
            by_class[name].append(method)
        lines += [f"{mark}{name}: {' '.join(methods)}" for name, methods in sorted(by_class.items())]
    path().write_text("\n".join(lines) + "\n")
