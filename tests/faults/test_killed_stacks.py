"""Fault isolation (paper, section 4.4): stacks that are killed in mid-transfer hurt nobody else."""

import hashlib
import random
import subprocess
import sys
import threading

import netstack
from tests.router.lan import wait_until
from tests.support import ROOT, scale

SIZE = 8 << 20
DATA = random.Random(7).randbytes(SIZE)

# Fetches everything, as often as told; says when it has begun and what it got.
CLIENT = """
import hashlib, sys
import netstack
host = netstack.attach(sys.argv[1])
for _ in range(int(sys.argv[4])):
    digest = hashlib.sha256()
    with host.create_connection((sys.argv[2], int(sys.argv[3])), timeout=60) as s:
        digest.update(s.recv(65536))
        print("begun", flush=True)
        while data := s.recv(65536):
            digest.update(data)
    print(digest.hexdigest(), flush=True)
"""


def serve(listener, stop):
    """A thread per client; a client that dies is nobody's business."""
    def one(connection):
        with connection:
            try:
                connection.sendall(DATA)
            except OSError:
                pass

    while not stop.is_set():
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=one, args=(connection,), daemon=True).start()


def test_two_stacks_killed_in_mid_transfer_leave_the_third_alone():
    expected = hashlib.sha256(DATA).hexdigest()
    chance = random.Random(1)
    with netstack.Router() as router, netstack.attach(router.name, drain=1) as host:
        address = host.addresses[0].split("/")[0]
        listener = host.create_server((address, 7000))
        stop = threading.Event()
        threading.Thread(target=serve, args=(listener, stop), daemon=True).start()

        def client(times):
            return subprocess.Popen([sys.executable, "-c", CLIENT, router.name, address, "7000", str(times)], cwd=ROOT,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        for _ in range(scale(100)):
            victims, third = [client(100), client(100)], client(1)
            try:
                for victim in victims:
                    assert victim.stdout.readline() == "begun\n"
                for victim in victims:
                    threading.Event().wait(chance.uniform(0, 0.02))
                    victim.kill()
                out, err = third.communicate(timeout=100)
                assert out.split() == ["begun", expected], err
            finally:
                for process in (*victims, third):
                    process.kill()
                    process.communicate()
        stop.set()
        listener.close()
        assert not router.check_conservation()
        wait_until(lambda: len(router.attachments()) == 1)      # the router hears of the last deaths by itself
