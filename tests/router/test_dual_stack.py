"""Hosts with addresses of both versions behind one router: sockets, names, traceroute, path MTU, and the end of one."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

import netstack
from netstack.cli.workers import addresses
from netstack.config import ResolverConfig
from netstack.link.channel import ChannelLink
from netstack.router.client import attach
from netstack.router.metrics import render
from tests.router.lan import wait_until
from tests.support import ROOT, run

FOUR, SIX = "10.77.0.0/16", "fd77::/64"
NETSTACK = [sys.executable, "-m", "netstack"]
FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.fixture(params=["posix", "memfd"])
def both(request, runtime):
    """A router with a pool of each version; conservation holds at the end."""
    with netstack.Router([FOUR, SIX], "both", backend=request.param, ring_capacity=1 << 18) as router:
        yield router
        assert router.check_conservation() == []


@pytest.fixture
def hosts(both):
    with netstack.attach(both.name) as a, netstack.attach(both.name) as b:
        yield a, b


def of(host, family) -> str:
    """The host's address of a family."""
    return next(a.split("/")[0] for a in host.addresses if (":" in a) == (family == socket.AF_INET6))


def echo(server, n=1):
    """Answer n connections with what they say."""
    def serve():
        for _ in range(n):
            s, _ = server.accept()
            with s:
                while data := s.recv(65536):
                    s.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def ask(client, address, data=b"question"):
    """What an `echo` answers, and whom the client thought to be talking to."""
    with client.create_connection(address, 20) as c:
        c.sendall(data)
        c.shutdown(socket.SHUT_WR)
        got = bytearray()
        while part := c.recv(65536):
            got += part
        return bytes(got), c.getpeername()[0]


@pytest.mark.parametrize("family", FAMILIES, ids=["IPv4", "IPv6"])
def test_tcp_and_udp_of_both_versions(hosts, family):
    a, b = hosts
    data = bytes(i * 31 & 0xFF for i in range(300_000))
    with a.create_server((of(a, family), 80), family=family) as server:
        server.settimeout(20)
        thread = echo(server, 2)
        assert ask(b, (of(a, family), 80), data)[0] == data
        assert ask(a, (of(a, family), 80))[0] == b"question", "to itself"
        thread.join(20)
    with a.socket(family, socket.SOCK_DGRAM) as here, b.socket(family, socket.SOCK_DGRAM) as there:
        here.bind((of(a, family), 9))
        here.settimeout(20)
        for size in (0, 1, 1500, 60000):
            there.sendto(bytes(size), (of(a, family), 9))
            got, peer = here.recvfrom(65535)
            assert len(got) == size and peer[0] == of(b, family)


def test_a_listener_for_both_versions(hosts):
    a, b = hosts
    with a.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        server.settimeout(20)
        thread = echo(server, 2)
        for family in FAMILIES:
            assert ask(b, (of(a, family), 80)) == (b"question", of(a, family))
        thread.join(20)


@pytest.mark.parametrize("listens", [*FAMILIES, None], ids=["IPv4", "IPv6", "nobody"])
def test_a_name_with_addresses_of_both_versions(both, tmp_path, listens):
    """RFC 8305: IPv6 first, and at once IPv4 where that is refused."""
    hosts_file = tmp_path / "hosts"
    with netstack.attach(both.name) as a, contextlib.ExitStack() as stack:
        hosts_file.write_text("".join(f"{of(a, family)} server\n" for family in FAMILIES))
        resolver = ResolverConfig(hosts=hosts_file, servers=())
        b = stack.enter_context(netstack.attach(both.name, resolver=resolver))
        if listens is None:
            with pytest.raises(ConnectionRefusedError):
                b.create_connection(("server", 80), 20)
            return
        server = stack.enter_context(a.create_server((of(a, listens), 80), family=listens))
        server.settimeout(20)
        thread = echo(server)
        assert ask(b, ("server", 80)) == (b"question", of(a, listens))
        thread.join(20)


def test_what_nobody_has_is_unreachable_at_once(both, hosts):
    a, _ = hosts
    env = {**os.environ, **both.environment()}
    for target, mark in (("fd77::dead", "!H"), ("2001:db8::1", "!N"), ("10.77.9.9", "!H"), ("192.0.2.1", "!N")):
        shown = run([*NETSTACK, "traceroute", "-n", "-q", "1", target], cwd=ROOT, env=env).stdout.splitlines()
        assert len(shown) == 2 and shown[1].endswith(mark), shown
    with a.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.connect(("fd77::1", 9))
        s.settimeout(20)
        s.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            s.recv(10)


def test_path_mtu_of_tcp_in_ipv6(both):
    """The receiver says it takes 64 KiB, its link takes 1400 bytes: only "packet too big" tells the sender."""
    lease = attach(both.name, "fd77::80", mtu=1400)
    link = ChannelLink(lease.link.channel, watch_peer=False)
    data = bytes(i * 7 & 0xFF for i in range(500_000))
    with netstack.attach(both.name) as a, netstack.Host(link=link, address="fd77::80/64", lease=lease) as b, \
            b.create_server(("fd77::80", 80), family=socket.AF_INET6) as server:
        server.settimeout(20)
        thread = echo(server)
        with a.create_connection(("fd77::80", 80), 20) as c:
            threading.Thread(target=lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR)), daemon=True).start()
            got = bytearray()
            while part := c.recv(65536):
                got += part
            assert c.getsockopt(socket.IPPROTO_IPV6, 24) == 1400, "IPV6_MTU"
        assert bytes(got) == data
        thread.join(20)
        [mine] = [info.id for info in both.attachments() if info.addresses and len(info.addresses) == 2]
        counters = both.counters(mine)
        assert 0 < counters["drop_in_too_big"] < 100 and counters["generated"] <= counters["drop_in_too_big"]
        assert both.counters(lease.id)["out_packets"] > 350


@pytest.mark.parametrize("probe", ["--icmp", None], ids=["echo", "UDP"])
def test_traceroute_shows_the_router_as_a_hop(both, probe):
    with netstack.attach(both.name) as target:
        env = {**os.environ, **both.environment()}
        for family, router in ((socket.AF_INET, "10.77.0.1"), (socket.AF_INET6, "fd77::1")):
            options = ["-n", "-q", "1", "-4" if family == socket.AF_INET else "-6", *([probe] if probe else [])]
            shown = run([*NETSTACK, "traceroute", *options, of(target, family)], cwd=ROOT, env=env).stdout.splitlines()
            assert [line.split()[1] for line in shown[1:]] == [router, of(target, family)], shown
            shown = run([*NETSTACK, "traceroute", *options, router], cwd=ROOT, env=env).stdout.splitlines()
            assert [line.split()[1] for line in shown[1:]] == [router], shown
            assert "!" not in "".join(shown)


def test_ping_of_the_router(both):
    env = {**os.environ, **both.environment()}
    for router in both.addresses:
        assert " 0% packet loss" in run([*NETSTACK, "ping", "-c", "2", "-i", "0.05", router], cwd=ROOT, env=env).stdout


CHILD = """
import netstack, sys, time
host = netstack.attach()
server = host.create_server(("::", 80), family=10)
print(host.addresses[1].split("/")[0], flush=True)
s, _ = server.accept()
print(s.recv(10), flush=True)
time.sleep(100)
"""


def test_the_end_of_a_process_is_a_reset_in_ipv6(both, hosts):
    """Its addresses are dead: segments are reset, datagrams refused, until they are leased again."""
    _, b = hosts
    child = subprocess.Popen([sys.executable, "-c", CHILD], env={**os.environ, **both.environment()}, cwd=ROOT,
                             stdout=subprocess.PIPE, text=True)
    try:
        address = child.stdout.readline().strip()
        with b.create_connection((address, 80), 20) as c:
            c.sendall(b"hello")
            assert child.stdout.readline() == "b'hello'\n"
            child.send_signal(signal.SIGKILL)
            child.wait(20)
            wait_until(lambda: len(both.attachments()) == 2)
            c.settimeout(20)
            c.sendall(b"still there?")
            with pytest.raises(ConnectionResetError):
                c.recv(10)
        with pytest.raises(ConnectionRefusedError):
            b.create_connection((address, 80), 20)
        with both.attach(address) as again:
            assert again.epoch == 2
    finally:
        child.kill()
        child.wait(20)
        child.stdout.close()


def test_programs_run_on_it_unchanged_and_are_listed_with_both_addresses(both):
    env = {**os.environ, **both.environment()}
    code = ("import socket; s = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True); "
            "print('ready', flush=True); s.accept()")
    program = subprocess.Popen([*NETSTACK, "run", "--", sys.executable, "-c", code], cwd=ROOT, env=env,
                               stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout.readline() == "ready\n"
        [row] = json.loads(run([*NETSTACK, "ps", "--json"], cwd=ROOT, env=env).stdout)
        four, six = row["addresses"]
        assert four == "10.77.0.2" and six.startswith("fd77:")
        shown = run([*NETSTACK, "ps"], cwd=ROOT, env={**env, "COLUMNS": "160"}).stdout
        assert four in shown and six in shown
        code = f"import socket; print(socket.create_connection(({six!r}, 80)).getpeername()[0])"
        asked = run([*NETSTACK, "run", "--", sys.executable, "-c", code], cwd=ROOT, env=env)
        assert asked.stdout.strip() == six
        assert program.wait(20) == 0
    finally:
        program.kill()
        program.wait(20)
        program.stdout.close()


def test_a_program_asks_for_an_address_and_takes_any_of_the_other_version(both):
    env = {**os.environ, **both.environment()}
    code = "import socket, sys; s = socket.socket(); s.bind(('', 9)); print('ready', flush=True); sys.stdin.read()"
    command = [*NETSTACK, "run", "--address", "10.77.0.9", "--address", "::", "--", sys.executable, "-c", code]
    program = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout.readline() == "ready\n"
        [info] = both.attachments()
        four, six = both.address_of(program.pid)
        assert four == "10.77.0.9" and six.startswith("fd77:")
        labels = f'attachment="{info.id}",address="{four}",address6="{six}",pid="{program.pid}"'
        assert f"netstack_attachment_queued_packets{{{labels}}} 0" in render(both)
        program.communicate("", 20)
    finally:
        program.kill()
        program.wait(20)


def test_addresses_of_workers_follow_the_first_ones():
    assert addresses(["10.77.0.9", "::", "fd77::80"], 2) == [
        ["10.77.0.9", "::", "fd77::80"], ["10.77.0.10", "::", "fd77::81"]]
    assert addresses(None, 2) == [None, None]
