"""``netstack router`` and ``netstack ps`` as programs."""

import json
import os
import signal
import subprocess
import sys

import pytest

from netstack.router import attach
from tests.router.lan import answers, wait_until
from tests.support import ROOT, run

NETSTACK = [sys.executable, "-m", "netstack"]


def netstack(*argv, **options):
    return run([*NETSTACK, *argv], cwd=ROOT, **options)


@pytest.fixture
def running(runtime):
    """A router named ``default`` in a process of its own; its log is read at the end."""
    process = subprocess.Popen([*NETSTACK, "router"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: process.poll() is not None or answers("default"))
    yield process
    process.kill()
    process.wait(20)
    process.stderr.close()


def test_help_lists_the_commands_without_loading_them():
    shown = netstack("--help").stdout
    for name in ("demo", "router", "run", "ping", "ps"):
        assert f"  {name} " in shown
    loaded = run(
        [
            sys.executable,
            "-c",
            "import sys, netstack.cli.main as m\n"
            "try: m.main(['--help'])\nexcept SystemExit: pass\n"
            "print([n for n in sys.modules if n.startswith('netstack.router') or n == 'rich'])",
        ],
        cwd=ROOT,
    )
    assert loaded.stdout.splitlines()[-1] == "[]"
    assert "no such command" in netstack("nonsense", check=False).stderr.lower()


def test_ps_of_no_router_says_how_to_start_one(runtime):
    done = netstack("ps", check=False)
    assert done.returncode == 1 and "netstack router" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options, why",
    [
        (["--pool", "10.0.0.0/40"], "pool"),
        (["--uplink", "wire"], "tap:NAME"),
        (["--name", "a b"], "name"),
        (["--ring", "1000b"], "power of two"),
        (["--uplink", "tap:x/y"], "1 to 15"),
    ],
)
def test_router_says_what_is_wrong(runtime, options, why):
    done = netstack("router", *options, check=False)
    assert done.returncode == 1 and why in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_router_serves_lists_and_ends(running, runtime, number):
    with attach() as a:
        [row] = json.loads(netstack("ps", "--json").stdout)
        assert row["addresses"] == list(a.addresses) and row["pid"] == os.getpid() and row["state"] == "active"
        assert a.address in netstack("ps", env={**os.environ, "COLUMNS": "150"}).stdout
        second = netstack("router", check=False)
        assert second.returncode == 1 and "running already" in second.stderr
    assert json.loads(netstack("ps", "--json").stdout) == []
    assert "nobody" in netstack("ps").stdout
    running.send_signal(number)
    assert running.wait(20) == 0
    log = running.stderr.read()
    assert f"attached {', '.join(a.addresses)}: process {os.getpid()}" in log and "detached" in log
    assert not os.path.exists(f"{runtime}/default.sock")
