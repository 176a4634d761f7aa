"""F3: the process in which a daemon's stack lives is killed. Its clients get an error wherever they are, its peers a
reset from the router, and another daemon on the same router goes on."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

import netstack
from tests.faults.bystanders import echo_server
from tests.router.lan import wait_until
from tests.support import ROOT, scale

LIMIT = 60

# Forks a daemon for each line, which is its name, and tells its pid and address.
NURSERY = """
import os, signal, sys
import netstack
from netstack.daemon.server import Server
import netstack.router.attachment
for line in sys.stdin:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        host = netstack.attach(drain=0)
        Server(host, line.strip()).start()
        os.write(tell, host.addresses[0].partition("/")[0].encode())
        while True:
            signal.pause()
    os.close(tell)
    print(child, os.read(told, 100).decode(), flush=True)
    os.close(told)
"""


@pytest.mark.timeout(900)
def test_f3_a_daemon_that_is_killed_takes_its_own_clients_alone(runtime, backend):
    with netstack.Router(backend=backend, ring_capacity=1 << 18) as router, netstack.attach(router.name,
                                                                                         drain=0) as peer:
        nursery = subprocess.Popen([sys.executable, "-c", NURSERY], cwd=ROOT, stdin=subprocess.PIPE, text=True,
                                   stdout=subprocess.PIPE, env={**os.environ, **router.environment()})

        def daemon(name):
            nursery.stdin.write(name + "\n")
            nursery.stdin.flush()
            pid, address = nursery.stdout.readline().split()
            return int(pid), address

        listener = echo_server(peer)
        pids = []
        try:
            pid, _ = daemon("steady")
            pids.append(pid)
            steady = netstack.attach("steady", mode="daemon")
            kept = steady.create_connection((peer.addresses[0].partition("/")[0], 7), LIMIT)
            for i in range(scale(200)):
                pid, address = daemon("victim")
                pids.append(pid)
                one_death(peer, pid, address)
                kept.sendall(b"%d" % i)
                assert kept.recv(100) == b"%d" % i
                wait_until(lambda: len(router.attachments()) == 2, LIMIT)
            kept.close()
            steady.close()
        finally:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            nursery.kill()
            nursery.communicate()
            listener.close()
        assert not router.check_conservation()


def one_death(peer, pid, address):
    """Whoever waits in whatever call when the daemon dies has an error."""
    errors, threads = {}, []
    with netstack.attach("victim", mode="daemon") as client:
        listener = client.create_server((address, 80))
        datagrams = client.socket(type=socket.SOCK_DGRAM)
        datagrams.bind((address, 53))
        there = peer.create_connection((address, 80), LIMIT)
        here, _ = listener.accept()
        for s in (here, listener, datagrams):
            s.settimeout(None)

        def waits(name, call):
            def run():
                try:
                    errors[name] = call()
                except OSError as error:
                    errors[name] = error

            threads.append(threading.Thread(target=run, daemon=True))
            threads[-1].start()

        waits("recv", lambda: here.recv(1))
        waits("accept", listener.accept)
        waits("recvfrom", lambda: datagrams.recvfrom(1))
        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        assert {type(error) for error in errors.values()} == {ConnectionResetError}, errors
        with pytest.raises(ConnectionError):
            client.socket()
        with there, pytest.raises(ConnectionResetError):
            while True:                          # the first segment is answered by the router
                there.sendall(b"x")
                there.recv(1)
        for s in (here, listener, datagrams):
            s.close()
