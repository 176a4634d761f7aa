"""Hosts and programs on one address: sockets as under a kernel that several processes share."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

import netstack
from netstack.errors import RouterError
from netstack.router import protocol
from netstack.router.client import ControlClient
from netstack.router.protocol import AttachRequest, Capability, Type
from tests.router.lan import answers, wait_until
from tests.support import ROOT, run

SHARED = "10.77.0.2"
NETSTACK = [sys.executable, "-m", "netstack"]


@pytest.fixture(params=["posix", "memfd"])
def shared(request, runtime):
    """A router whose stacks share an address."""
    with netstack.Router(addressing="interface", backend=request.param, ring_capacity=1 << 18) as router:
        yield router
        assert router.check_conservation() == []


@pytest.fixture
def pair(shared):
    with netstack.attach(shared.name) as a, netstack.attach(shared.name) as b:
        yield a, b


def ports_of(host):
    return host._lease.ports


def talk(client, server, address):
    """One connection with a question and its answer; returns the client's own port."""
    with client.create_connection(address, 20) as c:
        s, peer = server.accept()
        with s:
            s.settimeout(20)
            c.sendall(b"question")
            assert s.recv(100) == b"question" and peer[:2] == c.getsockname()[:2]
            s.sendall(b"answer")
            assert c.recv(100) == b"answer"
            return c.getsockname()[1]


def test_two_hosts_have_one_address_and_talk(shared, pair):
    """In both versions of IP, and over a listener for both."""
    a, b = pair
    six = shared.shared_addresses[1]
    assert shared.shared_addresses == [SHARED, six]
    assert a.addresses == b.addresses == (f"{SHARED}/16", f"{six}/64")
    with a.create_server((SHARED, 80)) as server, a.create_server((six, 81), family=socket.AF_INET6) as server6:
        for each, address in ((server, (SHARED, 80)), (server6, (six, 81))):
            each.settimeout(20)
            talk(b, each, address)
            talk(a, each, address)


def test_connections_ask_the_router_once_in_many(pair):
    a, b = pair
    with a.create_server((SHARED, 80), backlog=200) as server:
        server.settimeout(20)
        used = {talk(b, server, (SHARED, 80)) for _ in range(60)}
    assert ports_of(b).messages == 1 and used <= set(ports_of(b).leased(0))
    assert len(used) > 20, "at random among 64"


def test_more_ports_are_leased_when_those_are_used_up(pair):
    a, b = pair
    with a.create_server((SHARED, 80), backlog=200) as server:
        server.settimeout(20)
        open_ones = [b.create_connection((SHARED, 80), 20) for _ in range(100)]
        assert len({c.getsockname()[1] for c in open_ones}) == 100 and ports_of(b).messages == 2
        for c in open_ones:
            c.close()


def test_a_port_of_another_process_is_in_use(pair):
    a, b = pair
    with a.create_server((SHARED, 80)), a.socket(type=socket.SOCK_DGRAM) as u:
        u.bind((SHARED, 53))
        for kind, port in ((socket.SOCK_STREAM, 80), (socket.SOCK_DGRAM, 53)):
            with b.socket(type=kind) as s, pytest.raises(OSError, match="in use") as caught:
                s.bind((SHARED, port))
            assert caught.value.errno == errno.EADDRINUSE
    with b.socket() as s, b.socket(type=socket.SOCK_DGRAM) as u:     # they are free again
        wait_until(lambda: s.connect_ex((SHARED, 80)) == errno.ECONNREFUSED)
        wait_until(lambda: had(u, 53))                               # the router is told after close has returned
    with b.socket() as s:
        wait_until(lambda: had(s, 80))


def had(s, port) -> bool:
    try:
        s.bind((SHARED, port))
    except OSError as e:
        assert e.errno == errno.EADDRINUSE
        return False
    return True


def test_a_connection_to_a_port_of_nobody_is_refused(pair):
    a, b = pair
    with pytest.raises(ConnectionRefusedError):
        b.create_connection((SHARED, 81), 20)
    with b.socket(type=socket.SOCK_DGRAM) as u:
        u.settimeout(20)
        u.connect((SHARED, 81))
        u.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            u.recv(10)


def test_datagrams_and_names_of_who_sent_them(pair):
    a, b = pair
    with a.socket(type=socket.SOCK_DGRAM) as s, b.socket(type=socket.SOCK_DGRAM) as c:
        s.bind((SHARED, 53))
        s.settimeout(20)
        c.settimeout(20)
        for size in (1, 1000, 60_000):
            c.sendto(bytes(size), (SHARED, 53))
            data, peer = s.recvfrom(65_535)
            assert len(data) == size and peer[0] == SHARED and peer[1] in ports_of(b).leased(1)
            s.sendto(data[:10], peer)
            assert len(c.recv(100)) == min(size, 10)


def test_a_port_is_shared_by_those_who_all_ask(pair):
    a, b = pair
    servers = []
    for host in pair:
        s = host.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind((SHARED, 80))
        s.listen(200)
        s.settimeout(0)
        servers.append(s)
    with netstack.attach(os.environ.get("NETSTACK_ROUTER") or a._lease.name) as client:
        open_ones = [client.create_connection((SHARED, 80), 20) for _ in range(60)]
        accepted = [[], []]

        def all_accepted():
            for s, got in zip(servers, accepted, strict=True):
                try:
                    while True:
                        got.append(s.accept()[0])
                except BlockingIOError:
                    pass
            return sum(map(len, accepted)) == 60

        wait_until(all_accepted)
        assert all(len(got) > 10 for got in accepted)
        for one in (*open_ones, *accepted[0], *accepted[1]):
            one.close()
    for s in servers:
        s.close()


def test_a_stack_that_asks_has_an_address_of_its_own_beside(shared, pair):
    a, _ = pair
    with netstack.attach(shared.name, "10.77.0.99") as own:
        assert own._lease.ports is None
        with own.create_server(("10.77.0.99", 80)) as server, a.create_server((SHARED, 80)) as back:
            server.settimeout(20)
            back.settimeout(20)
            talk(a, server, ("10.77.0.99", 80))
            with own.create_connection((SHARED, 80), 20) as c:
                s, peer = back.accept()
                s.close()
                assert peer[0] == "10.77.0.99" == c.getsockname()[0]


def test_the_shared_address_is_leased_to_nobody(shared):
    with pytest.raises(RouterError) as caught:
        netstack.attach(shared.name, SHARED)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_ipv6(runtime):
    with netstack.Router("fd77::/64", addressing="interface") as router:
        with netstack.attach(router.name) as a, netstack.attach(router.name) as b:
            with a.create_server(("fd77::2", 80), family=socket.AF_INET6) as server:
                server.settimeout(20)
                with b.create_connection(("fd77::2", 80), 20) as c:
                    s, peer = server.accept()
                    with s:
                        s.sendall(b"six")
                        assert c.recv(10) == b"six" and peer[0] == "fd77::2"
        assert router.check_conservation() == []


def test_a_process_that_holds_the_interpreter_does_not_hold_up_the_router(pair):
    """The router's control thread is this process's: binding must let it run, from several threads at once too."""
    a, b = pair
    failed = []

    def bind(host, first):
        try:
            for port in range(first, first + 50):
                with host.socket() as s:
                    s.bind((SHARED, port))
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=bind, args=(host, first)) for host, first in
               ((a, 1000), (a, 2000), (b, 3000), (b, 4000))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
    wait_until(lambda: ports_of(a).held(0) == ports_of(b).held(0) == [])


def test_protocols_without_ports_can_be_claimed(pair):
    a, b = (ports_of(host) for host in pair)
    a.claim(2, 47)
    with pytest.raises(OSError, match="use"):
        b.claim(2, 47)
    a.release(2, 47)
    wait_until(lambda: claimed(b))
    with pytest.raises(ValueError):
        a.claim(3, 1)


def claimed(ports):
    try:
        ports.claim(2, 47)
    except OSError:
        return False
    return True


def test_a_client_that_claims_no_ports_is_told_so(shared):
    with ControlClient(shared.name) as control, pytest.raises(RouterError, match="share an address"):
        control.request(Type.ATTACH, AttachRequest(capabilities=int(Capability.NONE)).pack(), protocol.MAX_FDS)


def test_without_a_shared_address_nobody_claims(runtime):
    with netstack.Router() as router, ControlClient(router.name) as control:
        for kind, body in ((Type.CLAIM, protocol.CLAIM.pack(0, 0, 80)), (Type.LEASE, protocol.LEASE.pack(0))):
            with pytest.raises(RouterError, match="shares no address"):
                control.request(kind, body)
        control.ping()


def test_after_the_router_there_are_no_ports(runtime):
    router = netstack.Router(addressing="interface")
    with netstack.attach(router.name) as a:
        router.close()
        with a.socket() as s, pytest.raises(OSError) as caught:  # noqa: PT011
            s.bind((SHARED, 80))
        assert caught.value.errno == errno.ENETDOWN


# --- other processes ---


SERVER = """
import netstack, os, sys
host = netstack.attach()
s = host.socket()
s.setsockopt(1, 2, int(sys.argv[1]))
s.bind(("10.77.0.2", 80))
s.listen()
print("ready", flush=True)
c, _ = s.accept()
print(c.recv(10), flush=True)
input()
"""


def started(router, *argv):
    return subprocess.Popen([sys.executable, "-c", SERVER, *argv], cwd=ROOT, stdin=subprocess.PIPE, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, **router.environment()})


def test_f1_a_killed_stack_leaves_ports_that_rest_and_nothing_else(shared):
    with netstack.attach(shared.name) as client:
        process = started(shared, "0")
        try:
            assert process.stdout.readline() == "ready\n"
            with client.create_connection((SHARED, 80), 20) as c:
                c.sendall(b"x")
                assert process.stdout.readline() == "b'x'\n"
                process.send_signal(signal.SIGKILL)
                process.wait(20)
                wait_until(lambda: len(shared.attachments()) == 1)
                c.settimeout(20)
                c.sendall(b"y")                          # answered by the router in its name
                with pytest.raises(ConnectionResetError):
                    while True:
                        c.recv(10)
                        c.sendall(b"y")
        finally:
            process.kill()
            process.communicate()
        with client.socket() as s:
            with pytest.raises(OSError, match="in use"):
                s.bind((SHARED, 80))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((SHARED, 80))
        leased = len(ports_of(client).leased(0))
        wait_until(lambda: shared._shared.claimed == leased)     # giving back is not waited for


def test_programs_run_unchanged_on_such_a_router(runtime, tmp_path):
    router = subprocess.Popen([*NETSTACK, "router", "-q", "--addressing", "interface"], cwd=ROOT)
    server = None
    try:
        wait_until(lambda: answers("default"))
        (tmp_path / "page").write_text("hello")
        server = subprocess.Popen([*NETSTACK, "run", "--", "-m", "http.server", "8000", "--directory", tmp_path],
                                  cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        fetch = "import urllib.request as u; print(u.urlopen('http://10.77.0.2:8000/page', timeout=20).read())"

        def fetched():
            done = subprocess.run([*NETSTACK, "run", "--", "-c", fetch], cwd=ROOT, capture_output=True, text=True,
                                  timeout=60)
            return done.stdout == "b'hello'\n"

        wait_until(fetched, 60)
        again = "import socket; socket.create_server(('', 8000))"
        taken = subprocess.run([*NETSTACK, "run", "--", "-c", again], cwd=ROOT, capture_output=True, text=True,
                               timeout=60)
        assert taken.returncode == 1 and "Address already in use" in taken.stderr
        ping = subprocess.run([*NETSTACK, "ping", "-c", "2", "10.77.0.1"], cwd=ROOT, capture_output=True, text=True,
                              timeout=60)
        assert ping.returncode == 0, ping.stdout + ping.stderr
        shown = subprocess.run([*NETSTACK, "ps"], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert SHARED in shown.stdout
    finally:
        for process in filter(None, (server, router)):
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_an_echo_of_a_sharer_arrives_in_one_piece_however_long(shared):
    """The router reads ICMP whole before it lets a sharer send it, and hands it on as it lay in the ring."""
    env = {**os.environ, **shared.environment()}
    with netstack.attach(shared.name, "10.77.0.99"):
        for size in (0, 56, 100, 1000, 8000):
            done = run([*NETSTACK, "ping", "-c", "2", "-i", "0.05", "-s", size, "10.77.0.99"], cwd=ROOT, env=env)
            assert " 0% packet loss" in done.stdout
