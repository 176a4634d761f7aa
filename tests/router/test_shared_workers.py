"""A web server of several processes that share an address and a port, and wrk on the kernel's side of the TAP."""

import shutil
import subprocess
import sys

import pytest

from bench.workers import PORT, Workers, result, wrk
from netstack.router import Router
from tests.router.lan import wait_until
from tests.support import ROOT

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")]

N, CONNECTIONS = 3, 48  # that one of three gets none of 48 flows happens once in a hundred million runs
LIMIT = 120


@pytest.fixture
def router(runtime, netns):
    """Its TAP in a namespace whose kernel routes the pool there."""
    netns.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
    netns.run("ip", "addr", "add", "192.0.2.1/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    netns.run("ip", "route", "add", "10.77.0.0/16", "dev", "tap0")
    with netns.enter():
        router = Router("10.77.0.0/16", uplinks=["tap:tap0"], addressing="interface")
    with router:
        yield router
        assert router.check_conservation() == []


@pytest.fixture
def workers(router, monkeypatch):
    for name, value in router.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    [address] = router.shared_addresses
    with Workers(address, PORT, N, [sys.executable, "-m", "netstack", "run", "--"]) as workers:
        yield address, workers


def gained(before, after):
    return [now - then for then, now in zip(before, after, strict=True)]


def test_every_request_is_answered_and_every_worker_answers_some(router, netns, workers):
    address, workers = workers
    said = netns.run(*wrk(address, PORT, 1, CONNECTIONS), timeout=LIMIT).stdout
    _, requests, failed = result(said)
    pages = workers.pages()
    assert failed == 0, said
    # What was under way when wrk ended is in the workers' counts, or lost to them; a connection has one at a time.
    assert requests > 0 and abs(sum(pages) - requests) <= CONNECTIONS
    assert all(n > 0 for n in pages)


def test_the_others_go_on_when_one_is_killed(router, netns, workers):
    address, workers = workers
    client = netns.popen(*wrk(address, PORT, 4, CONNECTIONS), stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: all(n > 0 for n in workers.pages()), LIMIT)
        workers.processes[0].kill()
        workers.processes[0].wait(20)
        wait_until(lambda: len(router.attachments()) == N - 1)
        before = workers.pages()
        assert before[0] == -1
        wait_until(lambda: all(n > 0 for n in gained(before, workers.pages())[1:]) or client.poll() is not None)
        said = client.communicate(timeout=LIMIT)[0]
    finally:
        client.kill()
        client.communicate()
    # Connections of the dead end with a reset, and wrk makes new ones; nothing waits.
    assert "timeout 0" in said or "Socket errors" not in said, said
    before = workers.pages()
    said = netns.run(*wrk(address, PORT, 1, CONNECTIONS), timeout=LIMIT).stdout
    assert result(said)[2] == 0, said
    assert all(n > 0 for n in gained(before, workers.pages())[1:]), "nobody is sent to the dead"
