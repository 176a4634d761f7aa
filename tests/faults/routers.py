"""Routers that can be killed and started again within milliseconds: children of a process that has all modules."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from netstack.router.client import ControlClient
from tests.support import ROOT

# Reads a line, forks a router with those settings, tells its pid when it serves, and reaps it when it has died.
NURSERY = """
import json, logging, os, signal, sys
import netstack
import netstack.router.router, netstack.router.sharing, netstack.link.channel, rings.channel
logging.basicConfig(stream=sys.stderr, level=logging.INFO)
print("ready", flush=True)
for line in sys.stdin:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        router = netstack.Router(**json.loads(line))
        signal.signal(signal.SIGTERM, lambda *_: (router.close(), os._exit(0)))
        os.write(tell, b"x")
        sys.stdin.close()
        while True:
            signal.pause()
    os.close(tell)
    print(child if os.read(told, 1) else 0, flush=True)
    os.close(told)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


class Nursery:
    """One router at a time, under one name.

    Parameters
    ----------
    **settings
        Of `netstack.Router`.
    """

    def __init__(self, **settings):
        import json

        self.name = settings.setdefault("name", "nursed")
        self._line = json.dumps(settings) + "\n"
        self.pid = 0
        self.process = subprocess.Popen([sys.executable, "-c", NURSERY], cwd=ROOT, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def start(self) -> None:
        self.process.stdin.write(self._line)
        self.process.stdin.flush()
        self.pid = int(self.process.stdout.readline())
        assert self.pid, "the router did not start"

    def end(self, number: int = signal.SIGKILL) -> None:
        """kill -9, and it is dead when this returns."""
        os.kill(self.pid, number)
        assert self.process.stdout.readline() == "ended\n"
        self.pid = 0

    def restart(self) -> None:
        self.end()
        self.start()

    def attachments(self) -> dict[int, set[str]]:
        """Addresses by process."""
        from netstack.router.pool import format_address

        with ControlClient(self.name) as control:
            return {a.pid: {format_address(x) for x in a.addresses} for a in control.attachments()}

    def __enter__(self) -> Nursery:
        self.start()
        return self

    def __exit__(self, *exc) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
