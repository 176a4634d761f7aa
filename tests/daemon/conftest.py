"""`daemon`: one in a process of its own, over a host without a link; programs of its clients run as processes too."""

import os
import select
import signal
import subprocess
import sys

import pytest

import netstack
from tests.support import ROOT

LIMIT = 30.0

PROGRAM = """
import sys
import netstack
from netstack.daemon.server import Server
options = eval(sys.argv[1])
server = Server(netstack.Host(address="10.0.0.1/24", drain=2), "default", **options).start()
print("ready", flush=True)
for line in sys.stdin:
    if line == "state\\n":
        print(len(server.sockets), len(server.clients), server.detached, len(server._reservations), flush=True)
server.stop()
"""


class Daemon:
    """A daemon's process, and processes that use it.

    Attributes
    ----------
    process : subprocess.Popen
    """

    def __init__(self, options: str = "{}") -> None:
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, options], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.children: list[subprocess.Popen] = []
        self.hosts: list = []
        assert self.process.stdout.readline() == "ready\n"

    def attach(self):
        host = netstack.attach(mode="daemon")
        self.hosts.append(host)
        return host

    def program(self, text: str, *argv: str, **options) -> subprocess.Popen:
        """A Python program that has ``host``; its output is a pipe."""
        text = f"import os, socket, sys, netstack\nhost = netstack.attach(mode='daemon')\n{text}"
        child = subprocess.Popen(
            [sys.executable, "-c", text, *argv],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
        self.children.append(child)
        return child

    def state(self) -> tuple[int, int, int, int]:
        """How many sockets, clients, clients cut off, reservations."""
        self.process.stdin.write("state\n")
        self.process.stdin.flush()
        readable, _, _ = select.select([self.process.stdout], [], [], LIMIT)
        assert readable, "the daemon does not answer"
        return tuple(map(int, self.process.stdout.readline().split()))

    def until(self, condition) -> tuple[int, int, int, int]:
        """Wait until the state is as wanted."""
        for _ in range(2000):
            state = self.state()
            if condition(state):
                return state
            select.select([], [], [], 0.01)
        raise AssertionError(f"the daemon's state stays {state}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        for child in self.children:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()
        if self.process.poll() is None:
            self.process.stdin.close()
            assert self.process.wait(LIMIT) == 0
        self.process.stdout.close()


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A place of its own for control sockets."""
    folder = tmp_path / "runtime"
    folder.mkdir(0o700)
    monkeypatch.setenv("NETSTACK_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    for name in ("NETSTACK_ROUTER", "NETSTACK_DAEMON"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def daemon(environment):
    daemon = Daemon()
    yield daemon
    daemon.close()


@pytest.fixture
def host(daemon):
    return daemon.attach()


@pytest.fixture
def pair(host):
    """A connected pair, both of this process."""
    with host.create_server(("127.0.0.1", 0)) as listener:
        client = host.create_connection(listener.getsockname(), LIMIT)
        server, _ = listener.accept()
        server.settimeout(LIMIT)
    yield client, server
    client.close()
    server.close()
