"""Death and the rest of life: a program's sockets go with it, and a daemon that is gone is an error at once."""

import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest

import netstack
from netstack.daemon.paths import socket_path
from netstack.errors import NoDaemonError, RouterError
from tests.daemon.conftest import LIMIT, Daemon


def test_without_a_daemon_it_says_how_to_have_one(environment):
    with pytest.raises(NoDaemonError, match="netstack daemon"):
        netstack.attach(mode="daemon")


def test_a_second_daemon_of_the_name_refuses(daemon):
    from netstack.daemon.server import Server

    with netstack.Host() as other, pytest.raises(RouterError, match="running already"):
        Server(other, "default")


def test_r17_daemon_one_that_was_killed_leaves_its_name_to_the_next(environment):
    first = Daemon()
    first.kill()
    first.close()
    second = Daemon()
    with second.attach().socket() as s:
        s.bind(("127.0.0.1", 0))
        assert s.getsockname()[1]
    second.close()


def test_what_belongs_to_the_daemon_is_no_setting_of_a_client(daemon):
    with pytest.raises(netstack.errors.ConfigError):
        netstack.attach(mode="daemon", address="10.0.0.9")


# --- a program that dies

ACCEPTS = """
s = host.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
kept = [host.socket() for _ in range(10)]
connection, _ = s.accept()
connection.sendall(b"hello")
"""


def test_r14_daemon_a_killed_program_gives_everything_back(daemon, host):
    before = daemon.state()
    child = daemon.program(ACCEPTS + "sys.stdin.read()")
    port = int(child.stdout.readline())
    with host.create_connection(("127.0.0.1", port), LIMIT) as s:
        assert s.recv(5) == b"hello"
        child.send_signal(signal.SIGKILL)
        assert s.recv(5) == b""                            # everything was read: its end is a FIN
        daemon.until(lambda state: state[0] == before[0] + 1 and state[1] == before[1])
        with pytest.raises(ConnectionRefusedError):
            host.create_connection(("127.0.0.1", port), LIMIT)


def test_what_a_killed_program_had_sent_still_arrives(daemon, host):
    server = host.create_server(("127.0.0.1", 0))
    child = daemon.program("c = host.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
                           "c.settimeout(0.3)\nn = 0\n"
                           "try:\n    while True: n += c.send(bytes(65536))\n"
                           "except TimeoutError: print(n, flush=True)\nsys.stdin.read()", str(server.getsockname()[1]))
    accepted, _ = server.accept()
    accepted.settimeout(LIMIT)
    sent = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    got = 0
    while part := accepted.recv(1 << 20):
        got += len(part)
    assert got == sent > 1 << 18                           # more than the ring: in the stack's buffers, too
    accepted.close()
    server.close()


def test_data_that_a_killed_program_did_not_read_is_a_reset(daemon, host):
    child = daemon.program(ACCEPTS + "print(connection.recv(1), flush=True)\nsys.stdin.read()")
    with host.create_connection(("127.0.0.1", int(child.stdout.readline())), LIMIT) as s:
        s.sendall(b"not all of this is read")
        assert child.stdout.readline() == "b'n'\n"
        assert s.recv(5) == b"hello"
        child.send_signal(signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            s.recv(1)


def test_others_notice_nothing_of_kills_at_any_moment(daemon, pair):
    """F1: programs that are killed while they connect, send and close."""
    client, server = pair
    child = ("import random\nl = host.create_server(('127.0.0.1', 0))\nprint('on', flush=True)\n"
             "while True:\n    c = host.create_connection(l.getsockname()); a, _ = l.accept()\n"
             "    c.sendall(bytes(random.randrange(1 << 17))); a.recv(1000); a.close(); c.close()\n")
    for i in range(6):
        victim = daemon.program(child)
        assert victim.stdout.readline() == "on\n"
        for j in range(20 + i):
            client.sendall(b"%d" % j)
            assert server.recv(10) == b"%d" % j
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    daemon.until(lambda state: state[:2] == (2, 1))


def test_r14_daemon_a_child_that_python_knows_nothing_of_does_not_keep_its_parent_s_sockets(daemon, host):
    child = daemon.program(ACCEPTS.replace("connection, _", "import ctypes\nif ctypes.CDLL(None).fork() == 0:\n"
                                           "    sys.stdin.read()\n    os._exit(0)\nconnection, _") + "sys.stdin.read()")
    with host.create_connection(("127.0.0.1", int(child.stdout.readline())), LIMIT) as s:
        assert s.recv(5) == b"hello"
        child.send_signal(signal.SIGKILL)
        assert s.recv(5) == b""                            # though the child holds the control socket


def test_what_nobody_reads_of_closed_sockets_is_bounded(environment):
    daemon = Daemon("dict(max_sockets=16)")
    try:
        host = daemon.attach()
        with host.create_server(("127.0.0.1", 0), backlog=64) as listener:
            kept = []
            for _ in range(6):
                c = host.create_connection(listener.getsockname(), LIMIT)
                kept.append(listener.accept()[0])
                c.settimeout(0.3)
                with pytest.raises(TimeoutError):        # for as long as that nothing moves
                    while True:
                        c.send(bytes(1 << 16))
                c.close()
            # A quarter may wait for the peer's reader; those beyond were reset.
            daemon.until(lambda state: state[0] == 1 + 6 + 4)
            for s in kept:
                s.close()
            daemon.until(lambda state: state[0] == 1)
    finally:
        daemon.close()


# --- a daemon that dies

def killed_while(daemon, call):
    """What ``call`` raised when the daemon was killed under it."""
    result = []

    def run():
        try:
            result.append(call())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive(), result
    daemon.kill()
    thread.join(LIMIT)
    assert not thread.is_alive()
    return result[0]


@pytest.mark.parametrize("what", ["recv", "accept", "sendall", "recvfrom"])
def test_f3_whoever_waits_gets_an_error_when_the_daemon_dies(daemon, host, pair, what):
    client, _ = pair
    listener = host.create_server(("127.0.0.1", 0))
    datagrams = host.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    for s in (client, listener, datagrams):
        s.settimeout(None)
    error = killed_while(daemon, {
        "recv": lambda: client.recv(1), "accept": listener.accept, "recvfrom": lambda: datagrams.recvfrom(1),
        "sendall": lambda: client.sendall(bytes(64 << 20)),
    }[what])
    assert isinstance(error, ConnectionResetError)
    for s in (client, listener, datagrams):
        s.close()
    with pytest.raises(OSError, match="reset"):
        host.socket()


def test_f3_calls_that_do_not_wait_fail_too(daemon, pair):
    client, _ = pair
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    daemon.kill()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):
        while True:
            client.send(b"x")


def test_f3_a_selector_shows_that_the_daemon_died(daemon, pair):
    client, _ = pair
    poll = select.poll()
    poll.register(client, select.POLLIN)
    assert poll.poll(0) == []
    daemon.kill()
    assert poll.poll(LIMIT * 1000)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


# --- limits

def test_a_program_may_have_so_many_sockets_and_no_more(environment):
    daemon = Daemon("dict(max_sockets_of_client=5, max_sockets=8)")
    try:
        first, second = daemon.attach(), daemon.attach()
        sockets = [first.socket() for _ in range(5)]
        with pytest.raises(OSError) as caught:
            first.socket()
        assert caught.value.errno == errno.EMFILE
        sockets += [second.socket() for _ in range(3)]
        with pytest.raises(OSError) as caught:
            second.socket()
        assert caught.value.errno == errno.ENFILE
        sockets.pop(0).close()
        sockets.append(second.socket())
        for s in sockets:
            s.close()
    finally:
        daemon.close()


def test_raw_sockets_would_see_what_is_others(host):
    with pytest.raises(PermissionError):
        host.socket(socket.AF_INET, socket.SOCK_RAW, 1)


def test_a_thread_that_waits_is_let_go_by_close(pair):
    client, _ = pair
    client.settimeout(None)
    result = []

    def wait():
        try:
            client.recv(1)
        except OSError as error:
            result.append(error.errno)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.1)
    client.close()
    thread.join(LIMIT)
    assert result == [errno.EBADF]


def test_a_lingering_close_aborts_or_waits_as_it_was_told(pair):
    client, server = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_r3_daemon_its_memory_is_not_to_be_written_by_its_clients(daemon, host):
    """Nobody else can map it to write, whatever descriptor he has (security R3)."""
    import mmap

    from netstack.daemon import memory

    made = memory.Memory(8192)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(made.fds[0], 4096)
        for fd in made.fds:
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
    finally:
        made.close()


CONNECTS = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sys.stdin.readline()
s.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


def test_who_gets_the_numbers_of_a_client_that_died_is_not_taken_for_it(environment):
    """Its socket has hung up, somebody connects, its process has ended: one look, and the second gets both numbers."""
    from netstack.daemon.server import Server

    clients = [subprocess.Popen([sys.executable, "-c", CONNECTS, socket_path(None)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True) for _ in range(2)]

    def connects(process):
        process.stdin.write("now\n")
        process.stdin.flush()
        assert process.stdout.readline() == "connected\n"

    server = Server(netstack.Host(address="10.0.0.1/24", drain=0), "default")        # its thread is this test
    try:
        listener = server._listener.socket.fileno()
        connects(clients[0])
        server._events([listener])
        [(number, first)] = server.clients.items()
        died = first.pidfd
        clients[0].kill()
        clients[0].wait(LIMIT)
        connects(clients[1])
        server._events([number, listener, died])
        [(again, second)] = server.clients.items()
        assert (again, second.pid, second.pidfd) == (number, clients[1].pid, died)
        clients[1].kill()
        clients[1].wait(LIMIT)
        server._events([died])
        assert not server.clients, "it is heard of all the same"
    finally:
        for process in clients:
            process.kill()
            process.communicate()
        server.stop()
