"""Routers of the tests live in a folder of their own."""

import shutil
import tempfile

import pytest

from netstack.router import Router

KERNEL = "192.0.2.1"                     # of the namespace behind tap0


@pytest.fixture
def runtime(monkeypatch):
    """A folder for control sockets (short: a socket's path has at most 107 bytes)."""
    folder = tempfile.mkdtemp(prefix="nsr-")
    monkeypatch.setenv("NETSTACK_RUNTIME_DIR", folder)
    monkeypatch.delenv("NETSTACK_ROUTER", raising=False)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["posix", "memfd"])
def backend(request):
    return request.param


@pytest.fixture
def router(runtime, backend):
    with Router(backend=backend, ring_capacity=1 << 18) as router:
        yield router
        assert router.check_conservation() == []


@pytest.fixture
def tap(netns):
    """A namespace whose kernel has 192.0.2.1 on tap0 and routes the pool there."""
    netns.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
    netns.run("ip", "addr", "add", f"{KERNEL}/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    netns.run("ip", "route", "add", "10.77.0.0/16", "dev", "tap0")
    return netns
