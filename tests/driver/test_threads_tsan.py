"""One Host, four threads without the interpreter, under the thread sanitizer.

No interpreter without the GIL runs the suite yet, so this stands for it: C threads call the entry points of one
host (`four_threads.pyx`), in a copy of the tree where the modules they need are built with ``-fsanitize=thread``.
The same program on a driver whose lock does nothing must be caught, or this would prove nothing.

The copy stays in ``build/threads``: built once, later runs compile what changed.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.support import ROOT, SANITIZED, scale

TREE = ROOT / "build" / "threads"
PROGRAM = ROOT / "tests" / "driver" / "four_threads.pyx"
MODULE = pathlib.Path("netstack/four_threads.pyx")      # where it stands in the copy
LOCKING = ("driver", "calls", "doorbells", "four_threads")   # modules that take the lock of the driver
RACE = 66

pytestmark = [
    pytest.mark.serial,                                 # compiles, then uses both cores
    pytest.mark.timeout(900),
    pytest.mark.skipif(SANITIZED, reason="builds its own with the thread sanitizer"),
]

RUN = """
import sys
from netstack import four_threads
getattr(four_threads, sys.argv[1])(int(sys.argv[2]), spin_us=float(sys.argv[3]))
"""

# What the lock becomes in the defective build. Included in front of the module, behind the real one.
NO_LOCK = """
#include "netstack/park.h"
#define park_lock(l) ((void)(l))
#define park_unlock(l) ((void)(l))
"""


def libtsan() -> str | None:
    """The sanitizer's library, to be loaded before the interpreter."""
    if not shutil.which("gcc"):
        return None
    named = subprocess.run(["gcc", "-print-file-name=libtsan.so"], capture_output=True, text=True).stdout.strip()
    return os.path.realpath(named) if os.path.isabs(named) else None


def needed(start: pathlib.Path) -> set[str]:
    """The compiled modules that ``start`` imports, at once or through others."""
    # The algorithms are found by the package itself, not imported by name.
    todo = [start, *(ROOT / "netstack/tcp/congestion").glob("*.pyx")]
    seen, compiled = set(), set()
    while todo:
        path = todo.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        if path.suffix == ".pyx" and path != start:
            compiled.add(str(path.relative_to(ROOT)))
        names = re.findall(r"^(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", path.read_text(), re.MULTILINE)
        for name in (a or b for a, b in names):
            if name.split(".")[0] not in ("netstack", "rings"):
                continue
            base = ROOT.joinpath(*name.split("."))
            todo += [base.with_suffix(s) for s in (".pyx", ".pxd", ".py")]
            todo += [base / "__init__.py", base.parent / "__init__.py"]
    return compiled


def put(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a file and its time unless it is there already: what did not change is not built anew."""
    if not target.exists() or target.read_bytes() != source.read_bytes():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def copy_tree() -> None:
    compiled = needed(PROGRAM)
    wanted = {str(MODULE)}
    for package in ("netstack", "rings"):
        for path in (ROOT / package).rglob("*"):
            name = str(path.relative_to(ROOT))
            if path.suffix in (".py", ".pxd", ".h") or name in compiled:
                put(path, TREE / name)
                wanted.add(name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        put(ROOT / name, TREE / name)
    put(PROGRAM, TREE / MODULE)
    if not (TREE / "build").exists() and (ROOT / "build/cython").is_dir():
        shutil.copytree(ROOT / "build/cython", TREE / "build/cython")    # what has been translated already
    for package in ("netstack", "rings"):               # what a former copy had and this one has not
        for path in (TREE / package).rglob("*.p*"):
            if path.suffix in (".py", ".pxd", ".pyx") and str(path.relative_to(TREE)) not in wanted:
                path.unlink()


def finished(command, limit: float, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=limit, **options)


@pytest.fixture(scope="module")
def sanitized_tree():
    """The copy, built with the thread sanitizer."""
    if libtsan() is None:
        pytest.skip("needs gcc and its thread sanitizer (libtsan)")
    copy_tree()
    done = finished([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], 800, cwd=TREE,
                    env={**os.environ, "NETSTACK_SANITIZE": "thread", "NETSTACK_DEBUG": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return TREE


def run_threads(directory: pathlib.Path, what: str, rounds: int, spin_us: float) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", RUN, what, rounds, spin_us]
    if shutil.which("setarch") and finished(["setarch", "-R", "true"], 20).returncode == 0:
        command = ["setarch", "-R", *command]           # older sanitizers do not stand much randomness of addresses
    return finished(command, 300, cwd=directory, env={
        **os.environ, "LD_PRELOAD": libtsan(), "PYTHONMALLOC": "malloc", "PYTHONPATH": str(directory),
        "TSAN_OPTIONS": f"exitcode={RACE}:halt_on_error=1"})


@pytest.mark.parametrize("spin_us", [0, 50], ids=["asleep", "spinning"])
def test_four_threads_call_one_host(sanitized_tree, spin_us):
    done = run_threads(sanitized_tree, "run", scale(300, 30), spin_us)
    assert "ThreadSanitizer" not in done.stderr, done.stderr[:8000]
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    counts = dict(re.findall(r"(\w+)=(\d+)", done.stdout))
    for happened in ("connections", "datagrams", "timeouts", "follower_wakes", "service_passes", "hand_overs"):
        assert int(counts[happened]) > 0, done.stdout


@pytest.mark.parametrize("spin_us", [0, 50], ids=["asleep", "spinning"])
def test_link_and_host_end_under_four_threads(sanitized_tree, spin_us):
    for _ in range(scale(30, 5)):
        done = run_threads(sanitized_tree, "run_end", 20, spin_us)
        assert "ThreadSanitizer" not in done.stderr, done.stderr[:8000]
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def test_a_lock_that_does_nothing_is_caught(sanitized_tree, tmp_path):
    shim = tmp_path / "no_lock.h"
    shim.write_text(NO_LOCK)
    copy = tmp_path / "tree"
    shutil.copytree(sanitized_tree, copy, ignore=shutil.ignore_patterns("build", "*.pyx", "*.pxd"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for module in LOCKING:
        target = copy / "netstack" / f"{module}{suffix}"
        assert target.exists()
        done = finished(
            ["gcc", "-shared", "-fPIC", "-std=gnu11", "-O1", "-g1", "-fno-strict-aliasing", "-fno-omit-frame-pointer",
             "-fsanitize=thread", "-w", "-DNETSTACK_DEBUG=1", "-include", shim,
             "-I", sysconfig.get_path("include"), "-I", ROOT / "netstack/include", "-I", ROOT / "rings/include",
             sanitized_tree / "build/cython/netstack" / f"{module}.c", "-o", target], 200)
        assert done.returncode == 0, done.stderr
    done = run_threads(copy, "run", 30, 0)
    assert done.returncode == RACE, f"exit {done.returncode}\n{done.stdout}{done.stderr[:8000]}"
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
