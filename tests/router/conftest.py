"""Routers of the tests live in a folder of their own."""

import shutil
import tempfile

import pytest

from netstack.router import Router


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
