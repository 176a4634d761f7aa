"""`netstack demo` moves a file between two unmodified programs; with ``lo`` down nothing can go through the kernel."""

import json
import subprocess
import sys

import pytest

from tests.support import ROOT, run

KEYS = {"ok", "sha256_ok", "addresses", "bytes", "stack_payload_bytes", "gbit_s", "kernel_gbit_s", "rtt_us",
        "kernel_rtt_us", "drops"}
DEMO = [sys.executable, "-m", "netstack", "demo"]


def check(result, size):
    assert set(result) >= KEYS
    assert result["ok"] and result["sha256_ok"]
    assert len(set(result["addresses"])) == 2
    assert result["bytes"] == size and result["stack_payload_bytes"] >= size
    assert result["gbit_s"] > 0 and result["rtt_us"] > 0


def test_demo_prints_one_object_and_compares_with_the_kernel():
    result = json.loads(run([*DEMO, "--json", "--size", "16"], cwd=ROOT, timeout=280).stdout)
    check(result, 16 << 20)
    assert result["kernel_gbit_s"] > 0 and result["kernel_rtt_us"] > 0


def test_demo_shows_tables_to_a_person():
    done = run([*DEMO, "--size", "4", "--seed", "3"], cwd=ROOT, timeout=280)
    assert "10.77.0.2" in done.stdout and "10.77.0.3" in done.stdout and "kernel loopback" in done.stdout


def test_demo_works_in_the_background_of_a_script():
    """There SIGINT is ignored, and inherited so by all that the demo starts."""
    done = run(["bash", "-c", '"$@" & wait $!', "script", *DEMO, "--json", "--size", "4"], cwd=ROOT, timeout=280)
    check(json.loads(done.stdout), 4 << 20)


def test_a_size_that_cannot_be_is_refused():
    done = run([*DEMO, "--size", "0"], cwd=ROOT, check=False)
    assert done.returncode == 2 and "at least 1 MiB" in done.stderr


@pytest.mark.root
def test_demo_works_where_lo_is_down(netns):
    netns.run("ip", "link", "set", "lo", "down")
    probe = "import socket\ns = socket.socket()\ns.settimeout(1)\ns.connect(('127.0.0.1', 9))"
    unreachable = subprocess.run([*netns.prefix, sys.executable, "-c", probe], capture_output=True, text=True)
    assert "unreachable" in unreachable.stderr or "timed out" in unreachable.stderr
    result = json.loads(netns.run(*DEMO, "--json", "--size", "16", cwd=ROOT, timeout=280).stdout)
    check(result, 16 << 20)
    assert result["kernel_gbit_s"] is None and result["kernel_rtt_us"] is None
