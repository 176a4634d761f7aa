"""Build each mutant in the current directory, a copy of the tree made by ``ci/mutants``, and run its row's tests on it.

Prints a table (Markdown): row, what was taken out, and the test that noticed. Exits 1 if a mutant survives, does not
build, or its text is not there exactly once. The tests run on the copy as it is first: what fails there proves nothing.

One mutant of each module is built at a time, all in one go; then each of these modules alone stands in for the original
while its tests run.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

from tests.security.mutants import Mutant, chosen, mutants, rows

BUILD_S, TESTS_S = 3600, 3600            # generous limits against hangs
HANGS_S, HANGS = 60, 3                   # a mutant's tests hang if they take so much longer than all take without it
FAILED = re.compile(r"^(?:FAILED|ERROR) [^:]+::(\w+)", re.M)


def run(command: list[str], limit: float) -> tuple[int | None, str]:
    """Status, None when it had to be stopped, and what it said."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]
        return process.returncode, said


def build() -> str | None:
    """None, or why it failed."""
    status, said = run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], BUILD_S)
    return None if status == 0 else said[-3000:]


def test(names: list[str], limit: float, *options: str) -> tuple[int | None, str]:
    return run([sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider",
                *options, *names], limit)


def verdict(status: int | None, said: str) -> tuple[bool, str]:
    """Whether the mutant was noticed, and by what."""
    if status == 0:
        return False, "SURVIVED"
    if status is None:
        return True, "the tests did not end"
    found = FAILED.search(said)
    if found:
        return True, f"`{found[1]}`"
    if status < 0:
        return True, f"the tests ended by signal {-status}"
    return False, f"NO TEST RAN: pytest ended with {status} and names no test that failed:\n{said[-3000:]}"


class Module:
    """The file of a mutant, and what the build makes of it."""

    def __init__(self, path: str) -> None:
        self.source = pathlib.Path(path)
        stem = self.source.with_suffix("")
        self.binaries = list(self.source.parent.glob(f"{stem.name}.*.so")) if path.endswith(".pyx") else []
        self.binaries += pathlib.Path("build").glob(f"lib*/{stem}.*.so")      # which the build copies from
        self.files = [self.source, pathlib.Path("build/cython") / stem.with_suffix(".c"), *self.binaries]
        self.saved = [(f, f.read_bytes(), f.stat()) for f in self.files if f.exists()]
        self.mutated: dict[pathlib.Path, bytes] = {}

    def change(self, mutant: Mutant) -> None:
        self.source.write_text(self.source.read_text().replace(mutant.text, mutant.instead))
        later = time.time()
        os.utime(self.source, (later, later))

    def keep_mutated(self) -> None:
        self.mutated = {f: f.read_bytes() for f in self.binaries}

    def restore(self) -> None:
        """As it was, time stamps included: the build has nothing to do."""
        for file, data, status in self.saved:
            replace(file, data)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    def swap_in(self) -> None:
        for file, data in self.mutated.items():
            replace(file, data)


class Header(Module):
    """A header or a .pxd: what is built from it is many modules, held by hard links until they are put back.

    All that writes what a build makes (Cython, the linker, setuptools) makes a new file and leaves the old one alone.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.kept = pathlib.Path(tempfile.mkdtemp(prefix="kept", dir="build"))
        self.links: dict[pathlib.Path, pathlib.Path] = {}
        for place, suffix in ("netstack", "so"), ("rings", "so"), ("build", "so"), ("build/cython", "c"):
            for file in pathlib.Path(place).rglob(f"*.{suffix}"):
                self.links[file] = self.kept / str(len(self.links))
                self.links[file].hardlink_to(file)

    def restore(self) -> None:
        super().restore()
        for file, link in self.links.items():
            if link.samefile(file):
                link.unlink()                                                 # not built anew
            else:
                link.replace(file)
        self.kept.rmdir()


def replace(file: pathlib.Path, data: bytes) -> None:
    """By a new file: whoever has the old one mapped keeps it."""
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(data)
    new.chmod(file.stat().st_mode if file.exists() else 0o755)
    new.replace(file)


def missing(mutant: Mutant) -> str | None:
    count = pathlib.Path(mutant.path).read_text().count(mutant.text)
    return None if count == 1 else f"NOT FOUND: the text stands {count} times in {mutant.path}"


def rounds(todo: list[Mutant]) -> list[list[Mutant]]:
    """Mutants that are built together: no two of one module. What is no module is alone."""
    at: dict[str, int] = defaultdict(int)
    together: dict[int, list[Mutant]] = defaultdict(list)
    alone = []
    for mutant in todo:
        if mutant.path.endswith(".pyx"):
            together[at[mutant.path]].append(mutant)
            at[mutant.path] += 1
        else:
            alone.append([mutant])
    return [*together.values(), *alone]


def built(mutant: Mutant) -> tuple[Module, str | None]:
    """The mutant's module, built by itself, and why it could not be."""
    module = Module(mutant.path) if mutant.path.endswith((".pyx", ".py")) else Header(mutant.path)
    module.change(mutant)
    why = build() if not mutant.path.endswith(".py") else None
    module.keep_mutated()
    return module, why


def judge_round(batch: list[Mutant], known: dict[str, dict[str, str]], limit: float, note) -> None:
    modules = []
    if len(batch) > 1:
        modules = [Module(m.path) for m in batch]
        for module, mutant in zip(modules, batch, strict=True):
            module.change(mutant)
        failed = build() is not None
        for module in modules:
            module.keep_mutated()
            module.restore()
        if failed:                                       # one of them does not build: which?
            modules = []
    for i, mutant in enumerate(batch):
        module, why = (modules[i], None) if modules else built(mutant)
        if why:
            note(mutant, False, f"DOES NOT BUILD: {why}")
        else:
            module.swap_in()
            note(mutant, *verdict(*test(chosen(mutant, known), limit, "-x")))
        module.restore()


def main() -> int:
    os.environ.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTEST_ADDOPTS="-p pytest_timeout")    # a second less each
    parser = argparse.ArgumentParser(prog="ci/mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", help="rows of the checklist (all)", metavar="ROW")
    wanted = {row.upper() for row in parser.parse_args().rows}
    known = rows()
    todo = [m for m in mutants() if not wanted or m.row in wanted]
    if not todo:
        raise SystemExit("no mutants of these rows")
    if why := build():
        raise SystemExit(f"the tree does not build:\n{why}")
    names = sorted({name for m in todo for name in chosen(m, known)})
    print(f"{len(todo)} mutants of {len({m.row for m in todo})} rows; first the tests without any", file=sys.stderr)
    began = time.monotonic()
    status, said = test(names, TESTS_S)
    limit = HANGS_S + HANGS * (time.monotonic() - began)
    if status != 0:
        raise SystemExit(f"the tests fail as it is:\n{said[-5000:]}")
    results: dict[Mutant, tuple[bool, str]] = {}

    def note(mutant: Mutant, noticed: bool, by: str) -> None:
        results[mutant] = noticed, by
        print(f"{len(results)} of {len(todo)}  {mutant.row}: {mutant.what}: {by}", file=sys.stderr, flush=True)

    there = []
    for mutant in todo:
        if why := missing(mutant):
            note(mutant, False, why)
        else:
            there.append(mutant)
    for batch in rounds(there):
        judge_round(batch, known, limit, note)
    print("| row | taken out | noticed by |\n|---|---|---|")
    for mutant in todo:
        print(f"| {mutant.row} | {mutant.what} | {results[mutant][1].splitlines()[0]} |")
    survived = sum(not noticed for noticed, _ in results.values())
    print(f"\n{len(todo) - survived} of {len(todo)} noticed.")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
