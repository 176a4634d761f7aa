"""Sockets that several processes have: after fork, by number and key, and counted by the daemon."""

import errno
import signal
import socket

import pytest

from netstack.daemon.handle import DaemonHandle
from tests.daemon.conftest import LIMIT

FORKS = """
l = host.create_server(("127.0.0.1", 0))
c = host.create_connection(l.getsockname())
a, _ = l.accept()
a.settimeout(20), c.settimeout(20)
"""


def output_of(daemon, text: str, *argv: str) -> str:
    child = daemon.program(text, *argv)
    out, _ = child.communicate(timeout=LIMIT)
    assert child.returncode == 0
    return out


def test_a_forked_child_goes_on_with_its_parent_s_socket(daemon):
    assert output_of(daemon, FORKS + """
if os.fork() == 0:
    c.sendall(b"from the child")
    assert c.recv(100) == b"to the child"
    os._exit(0)
c.close()
print(a.recv(100))
a.sendall(b"to the child")
print(a.recv(100))                       # the child's end was the last
os.wait()
""") == "b'from the child'\nb''\n"


def test_what_parent_and_child_send_at_once_stays_whole(daemon):
    assert output_of(daemon, FORKS + """
children = []
for who in (1, 2):
    pid = os.fork()
    if pid == 0:
        for i in range(4000):
            assert c.send(bytes([who]) * 128) == 128     # divides the ring: there is room for a whole one, or for none
        os._exit(0)
    children.append(pid)
count = [0, 0, 0]
f = a.makefile("rb")
for _ in range(8000):
    record = f.read(128)
    assert record == record[:1] * 128, record
    count[record[0]] += 1
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
print(count)
""") == "[0, 4000, 4000]\n"


def test_workers_accept_from_one_listener(daemon):
    assert output_of(daemon, """
l = host.create_server(("127.0.0.1", 0), backlog=64)
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        while True:
            s, _ = l.accept()
            if s.recv(1) == b"q":
                os._exit(0)
            s.sendall(b"%d" % os.getpid())
            s.close()
    pids.append(pid)
seen = set()
for _ in range(60):
    with host.create_connection(l.getsockname(), 20) as c:
        c.sendall(b"?")
        seen.add(int(c.recv(100)))
assert seen <= set(pids), (seen, pids)
for pid in pids:
    with host.create_connection(l.getsockname(), 20) as c:
        c.sendall(b"q")
        c.recv(1)
print(sorted(os.wait()[1] for _ in pids))
""") == "[0, 0, 0]\n"


def test_a_parent_that_dies_leaves_its_child_the_socket(daemon, host):
    with host.create_server(("127.0.0.1", 0)) as listener:
        child = daemon.program("""
c = host.create_connection(('127.0.0.1', int(sys.argv[1])), 20)
pid = os.fork()
if pid == 0:
    print(c.recv(100), flush=True)
    c.sendall(b"still here")
    os._exit(0)
print(pid, flush=True)
sys.stdin.read()
""", str(listener.getsockname()[1]))
        accepted, _ = listener.accept()
    accepted.settimeout(LIMIT)
    int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    accepted.sendall(b"hello, child")
    assert child.stdout.readline() == "b'hello, child'\n"
    assert accepted.recv(100) == b"still here"
    assert accepted.recv(100) == b""
    accepted.close()


def test_every_reference_of_a_fork_goes_back(daemon):
    before = daemon.state()
    assert output_of(daemon, FORKS + """
for _ in range(5):
    if os.fork() == 0:
        os._exit(0)
    os.wait()
""") == ""
    assert daemon.until(lambda state: state[:2] == before[:2])[3] == 0


def test_another_program_adopts_a_socket_by_number_and_key(daemon, pair):
    client, server = pair
    handle = client._handle
    child = daemon.program("""
from netstack.daemon.handle import DaemonHandle
from netstack.socket import socket as face
s = face._of(DaemonHandle.adopt(host.client, 2, 1, 0, int(sys.argv[1]), int(sys.argv[2]), host))
s.sendall(b"adopted")
sys.stdin.read()
s.sendall(b", and last")
""", str(handle.number), str(handle.key))
    assert server.recv(100) == b"adopted"
    client.close()
    server.settimeout(0.1)
    with pytest.raises(TimeoutError):
        server.recv(1)                                   # the other program has it still
    server.settimeout(LIMIT)
    child.stdin.close()
    assert server.recv(100) == b", and last"
    assert server.recv(100) == b""


def test_r18_daemon_a_wrong_key_adopts_nothing(host, pair):
    client, _ = pair
    for number, key in ((client._handle.number, client._handle.key ^ 2), (999_999, 1)):
        with pytest.raises(OSError) as caught:
            DaemonHandle.adopt(host.client, 2, 1, 0, number, key)
        assert caught.value.errno == errno.EBADF


def test_the_daemon_counts_what_a_c_program_duplicates(pair):
    client, server = pair
    handle = client._handle
    handle.duplicate()
    handle.drop()
    client.sendall(b"open still")
    assert server.recv(100) == b"open still"
    handle.duplicate()
    client.close()
    server.settimeout(0.1)
    with pytest.raises(TimeoutError):
        server.recv(1)


def test_r18_daemon_a_reservation_is_used_once(host):
    key = host.client.reserve()
    host.client.release(key)
    from netstack.daemon.client import Client

    other = Client()
    assert other.alive
    other.close()
    assert other.join(key) == -errno.EBADF


def test_dup_shares_within_a_program(pair):
    client, server = pair
    twin = client.dup()
    client.close()
    twin.sendall(b"by the twin")
    assert server.recv(100) == b"by the twin"
    twin.close()
    assert server.recv(1) == b""
    assert twin.fileno() == -1
    assert isinstance(client, socket.socket)
