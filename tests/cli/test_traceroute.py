"""``netstack traceroute`` through kernels that forward, beside traceroute(8) on the same way."""

import contextlib
import re
import shutil
import socket
import struct
import sys

import pytest

from netstack.cli.complaints import EXTENDED_ERROR, offender
from netstack.cli.traceroute import Answer, Probe, Trace, line
from tests.support import ROOT, network_namespace, root_missing

OURS4, OURS6 = "10.9.0.2", "fd09::2"
TARGETS = {4: "10.9.3.2", 6: "fd09:3::2"}
HOPS = {4: ["10.9.0.1", "10.9.1.2", "10.9.2.2", "10.9.3.2"], 6: ["fd09::1", "fd09:1::2", "fd09:2::2", "fd09:3::2"]}
NETSTACK = [sys.executable, "-m", "netstack"]


def configure(ns, *commands):
    for command in commands:
        ns.run("ip", *command.split())


@contextlib.contextmanager
def chain(device):
    """Four namespaces in a row; the first has ``device`` with 10.9.0.1 and fd09::1, our way in."""
    with contextlib.ExitStack() as stack:
        row = [stack.enter_context(network_namespace()) for _ in range(4)]
        for ns in row:
            ns.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                   "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0", "net.ipv6.conf.default.accept_dad=0",
                   "net.ipv4.icmp_msgs_per_sec=100000")
        for n, (left, right) in enumerate(zip(row, row[1:], strict=False), 1):
            left.run("ip", "link", "add", "right", "type", "veth", "peer", "name", "left", "netns", right.name)
            configure(left, f"addr add 10.9.{n}.1/24 dev right", f"addr add fd09:{n}::1/64 dev right nodad",
                      "link set right up")
            configure(right, f"addr add 10.9.{n}.2/24 dev left", f"addr add fd09:{n}::2/64 dev left nodad",
                      "link set left up", f"route add default via 10.9.{n}.1", f"-6 route add default via fd09:{n}::1")
        for n, ns in enumerate(row[:3], 1):
            for far in range(n + 1, 4):
                configure(ns, f"route add 10.9.{far}.0/24 via 10.9.{n}.2",
                          f"-6 route add fd09:{far}::/64 via fd09:{n}::2")
        device(row[0])
        configure(row[0], "addr add 10.9.0.1/24 dev in0", "addr add fd09::1/64 dev in0 nodad", "link set in0 up")
        yield row


def tap(ns):
    configure(ns, "tuntap add dev in0 mode tap")


@pytest.fixture
def by_tap():
    if root_missing():
        pytest.skip(root_missing())
    with chain(tap) as row:
        yield row


@pytest.fixture
def by_kernel():
    """The same way with a kernel in our place: its namespace."""
    if root_missing():
        pytest.skip(root_missing())
    with network_namespace() as me:
        def device(ns):
            ns.run("ip", "link", "add", "in0", "type", "veth", "peer", "name", "out", "netns", me.name)

        with chain(device) as row:
            configure(me, f"addr add {OURS4}/24 dev out", f"addr add {OURS6}/64 dev out nodad", "link set out up",
                      "route add default via 10.9.0.1", "-6 route add default via fd09::1")
            yield me, row


def addresses(text):
    """Addresses by hop, and marks, of either program's output."""
    hops = []
    for row in text.splitlines()[1:]:
        words = row.split()
        hops.append((int(words[0]), sorted({w for w in words[1:] if re.search(r"[.:]\d|::", w) and w.count(".") != 1}),
                     sorted({w for w in words if w.startswith("!")})))
    return hops


def netstack_traceroute(ns, version, *argv):
    ours, gateway = (f"{OURS4}/24", HOPS[4][0]) if version == 4 else (f"{OURS6}/64", HOPS[6][0])
    done = ns.run(*NETSTACK, "traceroute", "--link", "tap:in0", "--address", ours, "--gateway", gateway, *argv,
                  check=False, cwd=ROOT)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def probes_of_the_kernel(me, version, icmp):
    """The engine on the kernel's own sockets: the judge of what it makes of an error queue."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    to = (TARGETS[4], 0) if version == 4 else (TARGETS[6], 0, 0, 0)
    me.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
    with me.enter():
        trace = Trace(lambda ttl, n: Probe(socket.socket, family, to, ttl, n, icmp, 60, 33434), 1, 30, 3, 5.0)
        return list(trace.hops())


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("icmp", [False, True])
def test_the_engine_finds_every_hop_with_the_kernels_sockets(by_kernel, version, icmp):
    me, row = by_kernel
    hops = probes_of_the_kernel(me, version, icmp)
    assert [ttl for ttl, _ in hops] == [1, 2, 3, 4]
    assert [{a.address for a in answers} for _, answers in hops] == [{hop} for hop in HOPS[version]]
    assert [answers[0].last for _, answers in hops] == [False, False, False, True]
    if shutil.which("traceroute"):
        words = ["-n", "-6" if version == 6 else "-4", *(["-I"] if icmp else []), TARGETS[version]]
        theirs = addresses(me.run("traceroute", *words).stdout)
        ours = "\n".join(["", *(line(ttl, answers, str) for ttl, answers in hops)])
        assert addresses(ours) == theirs


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("icmp", [False, True])
def test_a_host_finds_every_hop(by_tap, version, icmp):
    done = netstack_traceroute(by_tap[0], version, "-n", *(["-I"] if icmp else []), TARGETS[version])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == (
        f"traceroute to {TARGETS[version]} ({TARGETS[version]}), 30 hops max, 60 byte packets")
    assert addresses(done.stdout) == [(n, [hop], []) for n, hop in enumerate(HOPS[version], 1)]
    assert done.stdout.count(" ms") == 12


@pytest.mark.root
@pytest.mark.parametrize("kind, mark", [("unreachable", "!H"), ("prohibit", "!X")])
def test_a_network_that_a_router_refuses_is_marked(by_tap, kind, mark):
    by_tap[1].run("ip", "route", "add", kind, "10.44.0.0/16")
    by_tap[0].run("ip", "route", "add", "10.44.0.0/16", "via", "10.9.1.2")
    # The kernel says so five times at once, then once a second.
    done = netstack_traceroute(by_tap[0], 4, "-n", "-q", "1", "-m", "4", "10.44.0.1")
    assert addresses(done.stdout) == [(1, ["10.9.0.1"], []), (2, ["10.9.1.2"], [mark])]


@pytest.mark.root
def test_silence_in_between_does_not_end_it(by_tap):
    by_tap[1].run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=1000000", "net.ipv4.icmp_ratemask=6168")
    done = netstack_traceroute(by_tap[0], 4, "-n", "-q", "4", "-w", "1", "-m", "6", TARGETS[4])
    hops = addresses(done.stdout)
    assert [ttl for ttl, _, _ in hops] == [1, 2, 3, 4] and hops[3][1] == [TARGETS[4]]
    assert "*" in done.stdout.splitlines()[2]


# --- without a network ------------------------------------------------------------------------------------------------

def test_lines_are_traceroute_8s():
    a, b = Answer("10.0.0.1", 0.0001234), Answer("10.0.0.9", 0.01, "!H", True)
    assert line(1, [a, a, a], str) == " 1  10.0.0.1  0.123 ms  0.123 ms  0.123 ms"
    assert line(12, [a, None, b], str) == "12  10.0.0.1  0.123 ms  * 10.0.0.9  10.000 ms !H"
    assert line(2, [None, None, None], str) == " 2  * * *"


def test_who_complained_is_read_with_bounds():
    assert offender(struct.pack("=H", 2) + b"\0\0\x0a\0\0\1" + bytes(8)) == "10.0.0.1"
    assert offender(struct.pack("=H", 10) + bytes(6) + bytes(15) + b"\1" + bytes(4)) == "::1"
    for data in (b"", b"\2", struct.pack("=H", 2) + bytes(5), struct.pack("=H", 10) + bytes(21), bytes(28)):
        assert offender(data) == "?"


class Fake:
    """A probe's socket on which nothing happens, or an error that was given."""

    sockets: list["Fake"] = []

    def __init__(self, family, kind, proto):
        import os

        self.fd = os.eventfd(1, os.EFD_CLOEXEC)
        self.items, self.closed = [], False
        Fake.sockets.append(self)

    def fileno(self):
        return self.fd

    def setblocking(self, flag):
        pass

    setsockopt = connect = lambda self, *args: None

    def send(self, data):
        self.sent = data

    def recvmsg(self, *args):
        if not self.items:
            raise BlockingIOError
        return b"", [self.items.pop(0)], 0x2000, None

    def recv(self, n):
        raise BlockingIOError

    def close(self):
        import os

        os.close(self.fd)
        self.closed = True


@pytest.mark.parametrize("type_, code, address, mark, last", [
    (11, 0, "10.0.0.9", "", False), (3, 3, "10.0.0.1", "", True), (3, 3, "10.0.0.9", "!U", True),
    (3, 1, "10.0.0.9", "!H", True), (3, 0, "10.0.0.9", "!N", True), (3, 13, "10.0.0.9", "!X", True),
    (3, 7, "10.0.0.9", "!<3-7>", True)])
def test_what_an_error_means(type_, code, address, mark, last):
    probe = Probe(Fake, socket.AF_INET, ("10.0.0.1", 0), 3, 1, False, 60, 33434)
    sockaddr = struct.pack("=HH4s8s", 2, 0, socket.inet_aton(address), bytes(8))
    probe.socket.items = [(0, 11, EXTENDED_ERROR.pack(113, 2, type_, code, 0, 0, 0) + sockaddr)]
    assert probe.look()
    assert (probe.answer.address, probe.answer.mark, probe.answer.last) == (address, mark, last)
    probe.socket.close()


def test_foreign_and_short_ancillary_data_is_no_answer():
    probe = Probe(Fake, socket.AF_INET, ("10.0.0.1", 0), 3, 1, True, 28, 33434)
    assert len(probe.socket.sent) == 8 and probe.socket.sent[0] == 8
    for item in ((0, 11, b"\0" * 15), (41, 25, bytes(48)), (0, 8, bytes(48))):
        probe.socket.items = [item]
        assert not probe.look()
    probe.socket.close()


def test_silence_is_stars_up_to_the_last_hop():
    Fake.sockets = []
    trace = Trace(lambda ttl, n: Probe(Fake, socket.AF_INET, ("10.0.0.1", 0), ttl, n, False, 60, 33434), 2, 5, 3, 0.01)
    assert list(trace.hops()) == [(ttl, [None] * 3) for ttl in (2, 3, 4, 5)]
    assert len(Fake.sockets) == 12 and all(s.closed for s in Fake.sockets)
