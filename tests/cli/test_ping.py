"""``netstack ping``: output and exit codes are those of ping(8)."""

import re
import signal
import socket
import struct
import subprocess
import sys

import pytest

from netstack.cli.complaints import EXTENDED_ERROR
from netstack.cli.ping import Pinger, Statistics
from tests.cli.conftest import NETSTACK, SERVER, netstack_command
from tests.support import ROOT

LIMIT = 60
IPV6 = [("fd09::2/64", target) for target in ("fd09::1", "[fd09::1]", "fe80::1%if1")]


def test_answers_and_statistics(servers):
    done = netstack_command("ping", "-c", 3, "-i", 0.01, "-s", 100, SERVER)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == f"PING {SERVER} ({SERVER}) 100(128) bytes of data."
    for n, line in enumerate(lines[1:4], 1):
        assert re.fullmatch(rf"108 bytes from {re.escape(SERVER)}: icmp_seq={n} ttl=63 time=[\d.e+]+ ms", line)
    assert lines[5] == f"--- {SERVER} ping statistics ---"
    assert re.fullmatch(r"3 packets transmitted, 3 received, 0% packet loss, time \d+ms", lines[6])
    assert re.fullmatch(r"rtt min/avg/max/mdev = [\d.]+/[\d.]+/[\d.]+/[\d.]+ ms", lines[7])


def test_a_name_is_asked_of_the_server_that_is_named(servers):
    done = netstack_command("ping", "-c", 1, "--dns", SERVER, "server.example")
    assert done.returncode == 0 and f"PING server.example ({SERVER})" in done.stdout
    done = netstack_command("ping", "-c", 1, "--dns", SERVER, "nothing.elsewhere")
    assert done.returncode == 2 and "Name or service not known" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("size", [0, 1, 1472, 20000])
def test_sizes(servers, size):
    done = netstack_command("ping", "-c", 1, "-s", size, SERVER)
    assert f"{size + 8} bytes from" in done.stdout and "wrong data" not in done.stdout


def test_silence_is_exit_code_1_and_loss(servers):
    done = netstack_command("ping", "-c", 2, "-i", 0.01, "-W", 0.3, "10.88.9.9")
    assert done.returncode == 1
    assert re.search(r"2 packets transmitted, 0 received,( \+\d errors,)? 100% packet loss", done.stdout)
    assert "rtt" not in done.stdout


def lost(said):
    """How many of the requests had no answer when it ended."""
    sent, received = map(int, re.search(r"(\d+) packets transmitted, (\d+) received", said).groups())
    return sent - received


def test_a_deadline_with_fewer_answers_than_wanted_is_exit_code_1(servers):
    done = netstack_command("ping", "-c", 1000000, "-i", 0.2, "-w", 0.5, "-q", SERVER)
    assert done.returncode == 1 and lost(done.stdout) <= 1 and "icmp_seq" not in done.stdout     # one may be on its way


def test_ctrl_c_shows_the_sum(servers):
    with subprocess.Popen([*NETSTACK, "ping", "-i", "0.05", SERVER], stdout=subprocess.PIPE, text=True) as process:
        while "icmp_seq=2" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(LIMIT) == 0
    assert lost(rest) <= 1 and "rtt min/avg" in rest         # the last one may be on its way


@pytest.mark.parametrize("argv, code, why", [
    (["-s", "70000", "x"], 2, "65507"), (["--link", "tap", "x", "--address", "10.0.0.1/24"], 2, "tap:NAME"),
    (["--link", "tap:x0", "x"], 2, "--address"), (["--gateway", "10.0.0.1", "x"], 2, "--link"),
    (["-4", "-6", "x"], 2, "not both"), (["--dns", "x.example", "x"], 2, "x.example"), (["-c", "0", "x"], 2, "0")])
def test_what_cannot_be_is_said(runtime, argv, code, why):
    done = netstack_command("ping", *argv)
    assert done.returncode == code and why in done.stderr and "Traceback" not in done.stderr


def test_without_a_router_it_says_how_to_start_one(runtime):
    done = netstack_command("ping", "10.77.0.1")
    assert done.returncode == 2 and "netstack router" in done.stderr


def test_the_sum_is_ping_8s():
    """The figures of a run of ping(8): rtt 0.020, 0.030, 0.025 ms."""
    statistics = Statistics()
    statistics.sent, statistics.received, statistics.duplicates = 4, 3, 1
    statistics.times = [20e-6, 30e-6, 25e-6]
    assert statistics.lines("x", 3.0046) == [
        "--- x ping statistics ---", "4 packets transmitted, 3 received, +1 duplicates, 25% packet loss, time 3005ms",
        "rtt min/avg/max/mdev = 0.020/0.025/0.030/0.004 ms"]
    assert Statistics().lines("x", 0)[1] == "0 packets transmitted, 0 received, 0% packet loss, time 0ms"


class Echo:
    """A ping socket whose answers are given."""

    def __init__(self, *answers):
        self.answers, self.sent = list(answers), []

    def settimeout(self, value):
        pass

    def sendto(self, data, to):
        self.sent.append(data)

    def recvmsg(self, size, room, flags=0):
        if not self.answers:
            raise TimeoutError
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        if isinstance(answer, tuple):
            return answer
        data = answer(self.sent[-1]) if callable(answer) else answer
        return data, [(0, 2, (61).to_bytes(4, sys.byteorder))], 0, ("10.0.0.1", 0)


def test_duplicates_strangers_and_wrong_data_are_told_apart():
    def reply(data):
        return b"\0" + data[1:]

    shown = []
    s = Echo(b"", b"\0" * 7, b"\3" + b"\0" * 20, reply, reply, lambda data: reply(data)[:-1] + b"?",
             lambda data: b"\0\0\0\0\0\0\0\x63")
    pinger = Pinger(s, 2, ("10.0.0.1", 0), 8, shown.append)
    pinger.payload = b"12345678"
    pinger.send()
    while s.answers:
        assert pinger.take(float("inf"))
    assert all("ttl=61 " in line for line in shown)
    assert [("DUP" in line, "wrong data" in line) for line in shown] == [(False, False), (True, False), (True, True)]
    assert (pinger.statistics.received, pinger.statistics.duplicates) == (1, 2)


@pytest.mark.parametrize("origin, type_, code, text", [
    (2, 3, 1, "From 10.0.0.9 icmp_seq=7 Destination Host Unreachable"),
    (2, 11, 0, "From 10.0.0.9 icmp_seq=7 Time to live exceeded"),
    (2, 3, 4, "From 10.0.0.9 icmp_seq=7 Frag needed and DF set (mtu = 1400)"),
    (2, 3, 77, "From 10.0.0.9 icmp_seq=7 ICMP type 3, code 77"), (1, 0, 0, "ping: No route to host")])
def test_what_routers_say_is_said_as_ping_8_says_it(origin, type_, code, text):
    sender = struct.pack("=HH4s8s", 2, 0, socket.inet_aton("10.0.0.9"), bytes(8))
    said = EXTENDED_ERROR.pack(113, origin, type_, code, 0, 1400, 0) + sender
    shown = []
    s = Echo(OSError(113, "No route to host"), (b"\x08\0\0\0\0\0\0\7data", [(0, 11, said)], 0x2000, ("10.0.0.1", 0)))
    pinger = Pinger(s, 2, ("10.0.0.1", 0), 8, shown.append)
    assert pinger.take(float("inf"))
    assert shown == [text] and pinger.statistics.errors == 1
    assert "+1 errors" in pinger.statistics.lines("x", 0)[1]


# --- against a kernel, over a TAP -------------------------------------------------------------------------------------

@pytest.fixture
def kernel(netns):
    """A namespace with 10.9.0.1 and fd09::1 on tap0, and a network behind that nobody knows."""
    netns.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
    for address in ("10.9.0.1/24", "fd09::1/64"):
        netns.run("ip", "addr", "add", address, "dev", "tap0", *(["nodad"] if ":" in address else []))
    netns.run("ip", "link", "set", "tap0", "up")
    netns.run("ip", "route", "add", "unreachable", "10.44.0.0/16")
    netns.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0")
    return netns


def on_tap(kernel, address, *argv):
    done = kernel.run(*NETSTACK, "ping", "--link", "tap:tap0", "--address", address, *argv, check=False, cwd=ROOT)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.root
@pytest.mark.parametrize("address, target", [("10.9.0.2/24", "10.9.0.1"), *IPV6])
def test_a_kernel_answers(kernel, address, target):
    kernel.run("ip", "addr", "add", "fe80::1/64", "dev", "tap0", "nodad")
    done = on_tap(kernel, address, "-c", 2, "-i", 0.05, "-W", 20, target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 received, 0% packet loss" in done.stdout
    assert ":" in address or " ttl=64 time=" in done.stdout


@pytest.mark.root
def test_errors_of_routers_are_shown(kernel):
    done = on_tap(kernel, "10.9.0.2/24", "--gateway", "10.9.0.1", "-c", 1, "-W", 20, "10.44.0.1")
    assert done.returncode == 1 and "From 10.9.0.1 icmp_seq=1 Destination Host Unreachable" in done.stdout
    assert "1 packets transmitted, 0 received, +1 errors, 100% packet loss" in done.stdout
    done = on_tap(kernel, "10.9.0.2/24", "--gateway", "10.9.0.1", "-c", 1, "-t", 1, "-W", 20, "10.77.0.1")
    assert done.returncode == 1 and "From 10.9.0.1 icmp_seq=1 " in done.stdout
