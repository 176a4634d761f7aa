"""Children of a process that listens at a shared address: each has a stack of its own, at the same address, and the
parent's listeners come to be its own when it first uses them. So pre-fork servers work as under a kernel."""

import collections
import contextlib
import errno
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.request

import pytest

import netstack
from netstack.errors import ForkedError
from tests.router.lan import wait_until
from tests.router.shared import OTHER, SHARED, SharedLan
from tests.router.test_sharing import REUSEPORT, fails, flows, shares, tcp
from tests.support import ROOT

NETSTACK = [sys.executable, "-m", "netstack"]
LIMIT = 60.0


# --- the router: who gets what, packet by packet ---

@pytest.fixture
def lan():
    return SharedLan()


def family(lan, *, yields, children=2):
    """A parent that has port 80 and forks; its children have it too."""
    parent = lan.sharer()
    parent.claim(80)
    lan.shared.share(parent.port, 0, 80)
    out = [lan.sharer() for _ in range(children)]
    for child in out:
        lan.shared.inherit(child.port, parent.port, 0, 80, yields)
    return parent, *out


def test_children_share_their_parent_s_port(lan):
    group = family(lan, yields=False)
    lan.other.send(*flows(300))
    lan.run()
    assert all(len(s) > 60 for s in shares(*group))


def test_a_parent_that_waits_for_nobody_gets_nobody_while_there_are_children(lan):
    parent, *children = family(lan, yields=True)
    lan.other.send(*flows(300))
    lan.run()
    got = shares(parent, *children)
    assert not got[0] and all(len(s) > 90 for s in got[1:])
    for child in children:
        child.leave()
    lan.other.send(*flows(100))
    lan.run()
    assert len(shares(parent)[0]) == 100, "alone again"


def test_a_parent_that_waits_again_gets_its_part_for_good(lan):
    parent, child = family(lan, yields=True, children=1)
    lan.shared.stay(parent.port, 0, 80)
    late = lan.sharer()
    lan.shared.inherit(late.port, parent.port, 0, 80, True)        # forked before its parent said so
    lan.other.send(*flows(300))
    lan.run()
    assert all(len(s) > 60 for s in shares(parent, child, late))


def test_the_parent_keeps_the_connections_it_had(lan):
    parent = lan.sharer()
    parent.claim(80)
    lan.shared.share(parent.port, 0, 80)
    lan.shared.know(parent.port, 0, 80, [(packed(SHARED), packed(OTHER), 10_000 + i) for i in range(100)])
    child = lan.sharer()
    lan.shared.inherit(child.port, parent.port, 0, 80, True)
    lan.other.send(*flows(300, flags="A"))
    lan.run()
    mine, others = shares(parent, child)
    assert mine == set(range(10_000, 10_100)) and len(others) == 200


def packed(address: str) -> bytes:
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)


def test_a_port_is_inherited_by_whom_its_owner_shares_it_with(lan):
    parent, stranger, other_user = lan.sharer(), lan.sharer(), lan.sharer(uid=7)
    parent.claim(80)
    with fails(errno.EINVAL):
        lan.shared.inherit(stranger.port, parent.port, 0, 80, True)        # it did not say that it forks
    with fails(errno.EINVAL):
        lan.shared.share(stranger.port, 0, 80)
    lan.shared.share(parent.port, 0, 80)
    with fails(errno.EPERM):
        lan.shared.inherit(other_user.port, parent.port, 0, 80, True)
    with fails(errno.EADDRINUSE):
        stranger.claim(80, flags=REUSEPORT)                                 # a family is no open group
    for kind, number in ((0, 0), (0, 65536), (2, 47), (9, 80)):
        with pytest.raises(OSError):
            lan.shared.inherit(stranger.port, parent.port, kind, number, True)
    stranger.send(tcp(80, 9, "A", src=SHARED, dst=OTHER))
    lan.run()
    assert not lan.other.received()


def test_nothing_is_left_of_a_family(lan):
    group = family(lan, yields=True)
    assert lan.shared.claimed == 1
    for stack in group:
        stack.leave()
    assert lan.shared.claimed == lan.shared.leased == 0


def test_a_leased_port_of_a_listener_is_no_lease_any_more(lan):
    parent = lan.sharer()
    port = parent.lease()[0]
    lan.shared.share(parent.port, 0, port)
    child = lan.sharer()
    lan.shared.inherit(child.port, parent.port, 0, port, False)
    assert lan.shared.leased == 63
    parent.release(port)
    child.release(port)
    assert lan.shared.claimed == 63


# --- hosts and forks ---

@pytest.fixture
def router(runtime):
    with netstack.Router(addressing="interface", ring_capacity=1 << 18) as router:
        yield router
        assert router.check_conservation() == []


@contextlib.contextmanager
def child(work):
    """A forked process that does ``work`` until it is killed; a failure there is seen here."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            work()
        except BaseException:  # noqa: BLE001 - told below
            os.write(writing, traceback.format_exc().encode())
        os._exit(0)
    os.close(writing)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with open(reading) as said:
            assert said.read() == ""


def serve(listener):
    """Tell every client who one is."""
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"%d" % os.getpid())
        connection.close()


def ask(host, address, timeout=LIMIT) -> int:
    with host.create_connection(address, timeout) as s:
        return int(s.makefile().read())


def wait_for_all(router, pids) -> None:
    """Until each of these, and nobody else, has answered; one that has just begun does so later.

    Clients that were never here ask: a flow stays with whom it went to once, and one client has 64 ports.
    """
    answered: set[int] = set()

    def all_have():
        with netstack.attach(router.name, drain=1) as client:
            answered.update(ask(client, (SHARED, 80)) for _ in range(10))
        return answered == set(pids)

    wait_until(all_have, LIMIT)


def test_a_prefork_server_serves_from_its_children(router):
    """Nobody tells the children when they may begin: connections that come before wait for them."""
    with netstack.attach(router.name) as host, netstack.attach(router.name) as client, \
            host.create_server(("", 80)) as listener, contextlib.ExitStack() as children:
        pids = {children.enter_context(child(lambda: serve(listener))) for _ in range(3)}
        wait_for_all(router, pids)
        answers = collections.Counter(ask(client, (SHARED, 80)) for _ in range(60))
        assert set(answers) == pids


def test_what_is_inherited_is_the_child_s_own_or_dead(router):
    with netstack.attach(router.name) as host, netstack.attach(router.name) as client, \
            host.create_server(("", 80)) as listener:
        connection = client.create_connection((SHARED, 80), LIMIT)
        server, _ = listener.accept()
        parent_fd = listener.fileno()

        def look():
            for call in (lambda: server.recv(1), lambda: server.send(b"x"), server.fileno, server.getpeername):
                with pytest.raises(ForkedError):
                    call()
            assert listener.getsockname() == ("0.0.0.0", 80) and listener.fileno() == parent_fd
            assert listener.host is not host and listener.host.addresses == host.addresses
            assert host.socket().host is listener.host
            server.close()
            os._exit(7)

        pid = os.fork()
        if pid == 0:
            try:
                look()
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        server.sendall(b"still here")
        assert connection.recv(100) == b"still here"
        server.close()
        connection.close()
        assert host.socket().host is host


def test_a_parent_that_goes_on_accepting_keeps_its_connections_and_gets_more(router):
    with netstack.attach(router.name) as host, netstack.attach(router.name) as client, \
            host.create_server(("", 80), backlog=100) as listener:
        listener.settimeout(LIMIT)
        first = client.create_connection((SHARED, 80), LIMIT)
        server, _ = listener.accept()
        with child(lambda: serve(listener)) as pid:
            wait_until(lambda: len(router.attachments()) == 3)
            opened = [client.create_connection((SHARED, 80), LIMIT) for _ in range(40)]
            listener.setblocking(False)
            mine = 0
            until = time.monotonic() + LIMIT
            while mine < 5 and time.monotonic() < until:
                with contextlib.suppress(BlockingIOError):
                    connection, _ = listener.accept()
                    connection.sendall(b"%d" % os.getpid())
                    connection.close()
                    mine += 1
            assert mine == 5
            for s in opened:
                s.close()
            server.sendall(b"x" * 100)
            first.sendall(b"y" * 100)
            assert first.recv(100, socket.MSG_WAITALL) == b"x" * 100
            assert server.recv(100, socket.MSG_WAITALL) == b"y" * 100
            assert pid
        server.close()
        first.close()


def test_a_parent_that_forked_a_helper_is_woken_by_its_selector(router):
    """The helper has the listener too and never looks at it; nobody had waited for connections before the fork."""
    with netstack.attach(router.name) as host, netstack.attach(router.name) as client, \
            host.create_server(("", 80)) as listener, child(lambda: time.sleep(1000)), \
            selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        with client.socket() as s:
            s.setblocking(False)
            assert s.connect_ex((SHARED, 80)) == errno.EINPROGRESS
            assert selector.select(LIMIT)
            listener.accept()[0].close()


def test_children_go_on_without_their_parent_and_a_dead_child_takes_nothing_along(router):
    """As a listening socket under a kernel lives as long as any process that has it."""
    program = """
import netstack, os, signal, sys
host = netstack.attach(sys.argv[1])
listener = host.create_server(("", 80))
for i in range(2):
    if os.fork() == 0:
        os.write(1, b"%d\\n" % os.getpid())         # in one piece: both write to this pipe
        while True:
            c, _ = listener.accept()
            c.sendall(b"%d" % os.getpid())
            c.close()
signal.pause()
"""
    with netstack.attach(router.name) as client:
        parent = subprocess.Popen([sys.executable, "-c", program, router.name], cwd=ROOT, stdout=subprocess.PIPE)
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        try:
            wait_for_all(router, pids)
            parent.kill()
            parent.wait()
            wait_until(lambda: len(router.attachments()) == 3)
            wait_for_all(router, pids)
            os.kill(pids[0], signal.SIGKILL)
            wait_until(lambda: len(router.attachments()) == 2)
            assert {ask(client, (SHARED, 80)) for _ in range(10)} == {pids[1]}
        finally:
            parent.kill()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            parent.communicate()


def test_options_and_a_port_that_was_drawn_are_inherited(router):
    with netstack.attach(router.name) as host, netstack.attach(router.name) as client, host.socket() as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        listener.bind(("", 0))
        listener.listen(7)
        listener.settimeout(LIMIT)
        port = listener.getsockname()[1]

        def work():
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 200_000
            assert listener.gettimeout() == LIMIT
            serve(listener)

        with child(work) as pid:
            assert {ask(client, (SHARED, port)) for _ in range(5)} == {pid}


def test_a_host_whose_address_is_its_own_stays_the_parent_s(runtime):
    with netstack.Router() as router, netstack.attach(router.name) as host, host.create_server(("", 80)) as listener:
        pid = os.fork()
        if pid == 0:
            try:
                for call in (listener.accept, host.socket, host.heir):
                    with pytest.raises(ForkedError):
                        call()
                os._exit(7)
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


# --- gunicorn ---

APP = """
import os

def app(environ, start):
    body = b"%d" % os.getpid()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@contextlib.contextmanager
def gunicorn(folder, *options):
    pytest.importorskip("gunicorn", reason="needs gunicorn (the extra 'test')")
    (folder / "hello.py").write_text(APP)
    process = subprocess.Popen(
        [*NETSTACK, "run", *options, "--", "-m", "gunicorn", "--workers", "3", "--bind", "0.0.0.0:8000", "hello:app"],
        cwd=folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        said = process.communicate(timeout=LIMIT)[1]
        assert process.returncode == 0 and "Traceback" not in said, said


def pids_of(host, address, n):
    """Which workers answer."""
    def get():
        with host.create_connection(address, LIMIT) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return int(s.makefile("rb").read().split(b"\r\n\r\n")[1])
    return {get() for _ in range(n)}


def pids_of_new(router, n=10):
    """The same, asked by a client that was never here (`wait_for_all`)."""
    with netstack.attach(router.name, drain=1) as client:
        return pids_of(client, (SHARED, 8000), n)


def all_of_three(ask) -> set[int]:
    """The three workers, when each has answered: one that is attached has the listener a moment later."""
    workers: set[int] = set()
    wait_until(lambda: workers.update(ask()) or len(workers) == 3, LIMIT)
    return workers


def up(host, address) -> bool:
    with contextlib.suppress(OSError):
        host.create_connection(address, 1).close()
        return True
    return False


def test_gunicorn_serves_at_a_shared_address(router, tmp_path):
    with gunicorn(tmp_path, "--name", router.name):
        wait_until(lambda: len(router.attachments()) == 4, LIMIT)
        workers = all_of_three(lambda: pids_of_new(router))
        os.kill(min(workers), signal.SIGKILL)                    # gunicorn forks another
        again: set[int] = set()

        def replaced():
            with contextlib.suppress(ConnectionError):     # what the dead one had been given, as with SO_REUSEPORT
                again.update(pids_of_new(router))
            return again - workers

        wait_until(replaced, LIMIT)
        assert not again & {min(workers)}


def test_gunicorn_serves_through_a_daemon(runtime, tmp_path):
    from netstack.daemon.server import Server

    daemon = Server(netstack.Host(address="10.0.0.1/24", drain=1), "test").start()
    try:
        with gunicorn(tmp_path, "--mode", "daemon", "--name", "test"), netstack.attach("test", mode="daemon") as client:
            wait_until(lambda: up(client, ("10.0.0.1", 8000)), LIMIT)
            all_of_three(lambda: pids_of(client, ("10.0.0.1", 8000), 10))
    finally:
        daemon.stop()


def test_urllib_finds_such_a_server(router):
    with netstack.attach(router.name) as host, netstack.attach(router.name) as client, \
            host.create_server(("", 80)) as listener:
        def work():
            while True:
                connection, _ = listener.accept()
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")
                connection.close()

        with child(work), client.patch():
            assert urllib.request.urlopen(f"http://{SHARED}/", timeout=LIMIT).read() == b"hello"
