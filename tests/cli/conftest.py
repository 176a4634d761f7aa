"""A router of its own for the commands that join one, and a host with servers on it."""

import sys

import pytest

import netstack
from tests.socket.name_server import NameServer
from tests.support import ROOT, run

NETSTACK = [sys.executable, "-m", "netstack"]
SERVER = "10.88.0.53"
ZONE = """
www.example. 300 A 10.88.0.80
www.example. 300 A 10.88.0.81
alias.example. 300 CNAME www.example.
six.example. 300 AAAA 2001:db8::80
mail.example. 300 MX 10 www.example.
text.example. 300 TXT "hello world"
server.example. 300 A 10.88.0.53
53.0.88.10.in-addr.arpa. 300 PTR server.example.
"""


def netstack_command(*argv, **options):
    """The command as a program: its `CompletedProcess`."""
    return run([*NETSTACK, *argv], check=False, **options)


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    folder = tmp_path / "runtime"
    folder.mkdir(0o700)
    monkeypatch.setenv("NETSTACK_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("NETSTACK_ROUTER", raising=False)
    return folder


@pytest.fixture
def servers(runtime):
    """A host at 10.88.0.53 behind the router ``default``, with a name server."""
    with netstack.Router("10.88.0.0/16", "default"), netstack.attach(address=SERVER, drain=1) as host:
        server = NameServer(host, ZONE, SERVER)
        yield server
        server.close()
