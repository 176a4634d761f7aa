"""Two hosts in two processes, over a channel between them."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import sys
import traceback

import netstack
from netstack.link import channel_pair

LIMIT = 60.0                     # seconds: nothing here takes long; what does hangs


class Peer:
    """The other process, seen from the test."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe
        self._status: int | None = None

    def receive(self, limit: float = LIMIT):
        """The next thing it reported; EOFError when it is gone."""
        data = b""
        while True:
            readable, _, _ = select.select([self._pipe], [], [], limit)
            assert readable, "the other process says nothing"
            part = os.read(self._pipe, 1)
            if not part:
                raise EOFError
            if part == b"\n":
                return pickle.loads(bytes.fromhex(data.decode()))
            data += part

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Its exit code (minus the signal that ended it)."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def close(self) -> None:
        if self._status is None:
            if not os.waitpid(self.pid, os.WNOHANG)[0]:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            self._status = -1
        os.close(self._pipe)


@contextlib.contextmanager
def two_processes(child, *, mtu: int = 65535, capacity=None, **options):
    """``(host, peer)``: a host here at 10.0.0.1, and ``child(host, report)`` in a process of its own at
    10.0.0.2.

    ``report(value)`` of the child is ``peer.receive()`` here; an exception of the child is reported as its
    traceback.
    """
    here, there = channel_pair(mtu=mtu, capacity=capacity)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        def report(value) -> None:
            os.write(writing, pickle.dumps(value).hex().encode() + b"\n")

        code = 1
        try:
            os.close(reading)
            signal.alarm(int(LIMIT) * 2)
            host = netstack.Host(link=there.adopt(), address="10.0.0.2/24", **options)
            child(host, report)
            host.close()
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            report(traceback.format_exc())
        finally:
            os._exit(code)
    os.close(writing)
    there.detach()
    peer = Peer(pid, reading)
    host = netstack.Host(link=here, address="10.0.0.1/24", drain=5, **options)
    try:
        yield host, peer
    finally:
        host.close()
        peer.close()
