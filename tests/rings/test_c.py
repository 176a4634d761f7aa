"""The C headers: clean under the sanitizers, mutants caught, plain C11 without Linux."""

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess

import pytest

import rings

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "c"
SCALE = float(os.environ.get("NETSTACK_TEST_SCALE", "0.1"))
CC = os.environ.get("CC", "gcc")

pytestmark = pytest.mark.skipif(shutil.which(CC) is None, reason=f"no C compiler {CC!r}")


def build(tmp_path, source, *flags):
    program = tmp_path / pathlib.Path(source).stem
    always = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
    done = run(
        CC, *always, *flags, f"-I{rings.get_include()}", str(SOURCES / source), "-o", str(program)
    )
    if "cannot find -l" in done.stderr or "unsupported" in done.stderr:
        pytest.skip(f"no sanitizer runtime: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return str(program)


def without_randomized_addresses():
    """The thread sanitizer of older compilers does not find its shadow with many bits of randomness."""
    if shutil.which("setarch") is None:
        pytest.skip("no setarch (package util-linux)")
    return ["setarch", platform.machine(), "-R"]


def run(*command, **environment):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**os.environ, **environment}
    )


def thread_sanitized(tmp_path, test, count, *flags):
    program = build(tmp_path, "ring_threads.c", "-O1", "-fsanitize=thread", "-Wno-tsan", *flags)
    return run(
        *without_randomized_addresses(), program, test, str(count), TSAN_OPTIONS="exitcode=66:halt_on_error=1"
    )


@pytest.mark.parametrize(
    ("test", "count"), [("records", 500_000), ("sleep", 500_000), ("values", 5_000_000)]
)
def test_the_thread_sanitizer_has_no_complaint(tmp_path, test, count):
    done = thread_sanitized(tmp_path, test, int(count * SCALE))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mutant", ["RING_MUTANT_RELAXED_PUBLISH", "RING_MUTANT_RELAXED_ACQUIRE"])
@pytest.mark.parametrize("test", ["records", "values"])
def test_the_thread_sanitizer_catches_a_relaxed_order(tmp_path, test, mutant):
    done = thread_sanitized(tmp_path, test, 50_000, f"-D{mutant}")
    assert done.returncode == 66
    assert "data race" in done.stderr


@pytest.mark.parametrize(
    ("test", "count"), [("records", 2_000_000), ("sleep", 3_000_000), ("values", 50_000_000)]
)
def test_no_wake_up_is_lost(tmp_path, test, count):
    """A lost one would be a hang: the program's alarm ends it."""
    done = run(build(tmp_path, "ring_threads.c", "-O2"), test, str(int(count * SCALE)))
    assert done.returncode == 0, done.stderr
    sleeps = sum(map(int, re.search(r"slept (\d+) and (\d+)", done.stdout).groups()))
    assert sleeps > 0 if test != "records" else sleeps == 0


def test_a_hostile_peer_leads_nobody_out_of_the_ring(tmp_path):
    program = build(
        tmp_path, "ring_hostile.c", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"
    )
    done = run(program, "1", str(int(500_000 * SCALE)))
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert all(counts[status] > 0 for status in ("ok", "empty", "full", "poisoned", "invalid", "damaged"))


def test_a_hostile_peer_is_caught_by_the_checks_and_not_by_luck(tmp_path):
    """The same without the check of record headers: the sanitizer must see the step outside."""
    header = (pathlib.Path(rings.get_include()) / "rings" / "spsc_ring.h").read_text()
    bound = "offset + span > c->capacity"
    assert header.count(bound) == 1
    folder = tmp_path / "mutant" / "rings"
    folder.mkdir(parents=True)
    for name in ("cache_line.h", "value_ring.h"):
        shutil.copy(pathlib.Path(rings.get_include()) / "rings" / name, folder)
    (folder / "spsc_ring.h").write_text(header.replace(bound, "0").replace("span > c->tail - c->next", "0"))
    program = build(tmp_path, "ring_hostile.c", "-O1", f"-I{folder.parent}", "-fsanitize=address")
    assert run(program, "1", "20000").returncode != 0


@pytest.mark.parametrize("seed", [1, 2])
def test_every_flipped_bit_of_a_header_is_caught(tmp_path, seed):
    program = build(
        tmp_path, "ring_damage.c", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"
    )
    done = run(program, str(seed), str(int(1_000_000 * SCALE)))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["flips"] == int(1_000_000 * SCALE)


PLAIN = {"stdatomic.h", "stdbool.h", "stddef.h", "stdint.h", "string.h"}


@pytest.mark.parametrize("header", ["cache_line.h", "spsc_ring.h", "value_ring.h"])
@pytest.mark.parametrize("standard", ["c11", "c17"])
def test_ring_headers_are_plain_c_without_linux(tmp_path, header, standard):
    text = (pathlib.Path(rings.get_include()) / "rings" / header).read_text()
    included = set(re.findall(r'#include [<"]([^>"]+)[>"]', text))
    assert {name for name in included if not name.startswith("rings/")} <= PLAIN
    source = tmp_path / "only.c"
    source.write_text(f'#include "rings/{header}"\n' * 2 + "int main(void) { return 0; }\n")
    flags = [f"-std={standard}", "-U__linux__", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    for compiler in (CC, "clang"):
        if shutil.which(compiler):
            done = run(compiler, *flags, f"-I{rings.get_include()}", str(source))
            assert done.returncode == 0, done.stderr


def test_headers_are_right_on_a_weakly_ordered_machine(tmp_path):
    """Compiled for aarch64 and run under emulation (which shows instructions, not reordering)."""
    compiler = "aarch64-linux-gnu-gcc"
    if not shutil.which(compiler) or not shutil.which("qemu-aarch64"):
        pytest.skip("no aarch64 compiler and qemu-user")
    flags = ["-std=gnu11", "-O2", "-static", "-Wall", "-Wextra", "-Werror", f"-I{rings.get_include()}"]
    for name in ("ring_hostile", "ring_damage"):
        program = str(tmp_path / name)
        done = run(compiler, *flags, str(SOURCES / f"{name}.c"), "-o", program)
        assert done.returncode == 0, done.stderr
        assert run("qemu-aarch64", program, "1", "300").returncode == 0
