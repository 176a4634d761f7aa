"""The pytest plugin, in a pytest of its own."""

import os
import re
import subprocess
import sys

from tests.support import ROOT, run

TESTS = '''
import asyncio
import pytest

async def echo(reader, writer):
    writer.write(await reader.read(100))
    writer.close()

async def ask(pair):
    server = await pair.server.start_server(echo, "server", 80)
    reader, writer = await asyncio.open_connection("server", 80)
    writer.write(b"hello")
    got = await reader.read(100)
    writer.close()
    server.close()
    return got

pytestmark = pytest.mark.netstack(seed=4, delay="500ms")

def test_a_pair(netstack_pair):
    assert netstack_pair.run(ask(netstack_pair)) == b"hello"
    assert netstack_pair.net.seed == 4
    assert netstack_pair.net.now_ns >= 5 * 10**9      # from 1 s on: two round trips of 2 s

@pytest.mark.netstack(delay="1ms", loss=0.1)
def test_the_closest_marker_counts(netstack_pair):
    assert netstack_pair.run(ask(netstack_pair)) == b"hello"
    assert netstack_pair.net.seed == 4

def test_a_network(netstack_net):
    hosts = [netstack_net.host(f"10.0.0.{i}") for i in (5, 6, 7)]
    assert netstack_net.hosts == hosts

def test_that_fails(netstack_pair):
    assert netstack_pair.run(ask(netstack_pair)) == b"something else"

def test_that_hangs(netstack_pair):
    netstack_pair.run(asyncio.sleep(1e6), limit="10s")

def test_that_fails_without_a_network():
    assert False
'''


def test_fixtures_markers_and_the_seed_of_a_failure(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
           "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    env.pop("NETSTACK_SEED", None)
    command = [sys.executable, "-m", "pytest", "-p", "netstack.testing.pytest_plugin", "--strict-markers", "-v", "-c",
               os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    results = dict(re.findall(r"::(\w+) (PASSED|FAILED|ERROR)", done.stdout))
    assert results == {
        "test_a_pair": "PASSED", "test_the_closest_marker_counts": "PASSED", "test_a_network": "PASSED",
        "test_that_fails": "FAILED", "test_that_hangs": "FAILED", "test_that_fails_without_a_network": "FAILED"}, \
        done.stdout + done.stderr
    assert done.stdout.count("seed 4, replay with NETSTACK_SEED=4\n") >= 2
    assert "the program was not done after 10s" in done.stdout
    seeded = subprocess.run([*command, "-k", "a_pair"], env={**env, "NETSTACK_SEED": "9"}, cwd=tmp_path,
                            capture_output=True, text=True, timeout=200)
    assert "replay with NETSTACK_SEED=9" in seeded.stdout          # net.seed is 9, not 4


def test_the_plugin_costs_nothing_until_it_is_used():
    code = "import sys, netstack.testing.pytest_plugin; print('netstack.host' in sys.modules)"
    assert run([sys.executable, "-c", code], cwd=ROOT).stdout == "False\n"
