"""Who must not notice anything: stacks that go on while something happens to others."""

from __future__ import annotations

import hashlib
import random
import threading

import netstack

LIMIT = 60


def echo_server(host):
    """Echoes on port 7 of this host, for whoever comes and goes."""
    listener = host.create_server(("", 7), backlog=256)

    def serve(s):
        with s:
            try:
                while data := s.recv(65536):
                    s.sendall(data)
            except OSError:
                pass

    def accept():
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(s,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


class Bystanders:
    """Two stacks that exchange bytes all the time on one connection, and compare."""

    def __init__(self, router):
        self.a, self.b = (netstack.attach(router.name, drain=1) for _ in range(2))
        with self.b.create_server(("", 9)) as listener:
            self.client = self.a.create_connection((self.b.addresses[0].partition("/")[0], 9), LIMIT)
            self.server, _ = listener.accept()
        self.server.settimeout(LIMIT)
        self.sent, self.got = hashlib.sha256(), hashlib.sha256()
        self.stop, self.problems, self.bytes = threading.Event(), [], 0
        self.threads = [threading.Thread(target=self.guard, args=(f,)) for f in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    def guard(self, function):
        try:
            function()
        except BaseException as error:
            self.problems.append(error)

    def send(self):
        rng = random.Random(9)
        while not self.stop.wait(0.001):
            block = rng.randbytes(5000)
            self.sent.update(block)
            self.client.sendall(block)
        self.client.shutdown(1)

    def receive(self):
        while data := self.server.recv(65536):
            self.got.update(data)
            self.bytes += len(data)

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(LIMIT)
        for what in (self.client, self.server, self.a, self.b):
            what.close()
        assert not self.problems
        assert self.sent.hexdigest() == self.got.hexdigest() and self.bytes > 0
