"""``netstack top``: rates, drops and queues of a router's stacks, live and in a pipe."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading

import pytest

import netstack
from netstack.cli import top
from netstack.router import attach
from netstack.router.client import ControlClient
from netstack.router.protocol import AttachmentInfo
from tests.cli.conftest import NETSTACK, netstack_command
from tests.router.lan import put, wait_until
from tests.support import ROOT

SECOND = 10**9


def info(ident, uptime_s, packets_in=0, packets_out=0, drops_in=0, drops_out=0, command="prog", pid=7):
    address = bytes(10) + b"\xff\xff\x0a\x4d\0\x02"
    return AttachmentInfo(ident, pid, 0, 1, 1, int(uptime_s * SECOND), packets_in, 100 * packets_in, packets_out,
                          100 * packets_out, drops_in, drops_out, 65535, (address,), command)


def look(time_s, *found, **total):
    return top.Look(time_s, {i.id: (i, queued) for i, queued in found}, total)


def test_rates_are_by_the_routers_clock_and_of_newcomers_from_their_start():
    before = look(100.0, (info(1, 10, packets_in=1000), 0), (info(2, 10), 0), out_packets=5, drop_in_ttl=1)
    now = look(103.0, (info(1, 12, packets_in=1500, packets_out=20, drops_out=4), 9),
               (info(3, 0.5, packets_in=50), 0), out_packets=35, drop_in_ttl=1, drop_out_queue_full=6, queued=9)
    first, newcomer = top.rates(before, now)
    assert (first["packets_from_s"], first["bytes_from_s"]) == (250, 25000)
    assert (first["packets_to_s"], first["drops_to_s"]) == (10, 2)
    assert first["queued"] == 9 and newcomer["packets_from_s"] == 100
    assert top.totals(before, now) == {"packets_s": 10.0, "bytes_s": 0.0, "drops_s": 2.0, "queued": 9}
    assert all(row["packets_from_s"] == 0 for row in top.rates(now, now))      # no time between: no rate


def test_orders():
    rows = top.rates(look(0), look(1, (info(1, 1, packets_in=5, pid=30, command="c"), 0),
                                   (info(2, 1, packets_out=3, pid=20, command="b"), 7),
                                   (info(3, 2, drops_out=3, pid=10, command="a"), 1)))
    for key, wanted in {"f": 1, "t": 2, "b": 1, "d": 3, "w": 2, "u": 3, "p": 3, "c": 3}.items():
        assert top.ordered(rows, key, False)[0]["id"] == wanted, key
    assert [row["id"] for row in top.ordered(rows, "p", True)] == [1, 2, 3]


@pytest.mark.parametrize("value, text", [(0, "0"), (999, "999"), (999.6, "1k"), (1234, "1.23k"), (123456, "123k"),
                                         (999.9e3, "1M"), (8.1e9, "8.1G"), (3e15, "3e+03T")])
def test_numbers_are_short(value, text):
    assert top.short(value) == text


@contextlib.contextmanager
def talking(router):
    """Two hosts that exchange datagrams all the time; the addresses of who sends and who receives."""
    with netstack.attach(router.name, drain=0) as a, netstack.attach(router.name, drain=0) as b:
        over = threading.Event()
        receiver = b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", 9))
        target = b.addresses[0].split("/")[0]

        def talk():
            with a.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                while not over.wait(0.001):
                    s.sendto(bytes(1000), (target, 9))

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield a.addresses[0].split("/")[0], target
        finally:
            over.set()
            thread.join()
            receiver.close()


def test_once_in_a_pipe(runtime):
    with netstack.Router("10.88.0.0/16", "default") as router, talking(router) as (sender, receiver):
        wide = {**os.environ, "COLUMNS": "180"}
        shown = netstack_command("top", "--once", "--interval", "0.3", "--sort", "from", env=wide)
        assert shown.returncode == 0 and shown.stderr == "" and "\x1b" not in shown.stdout
        lines = shown.stdout.splitlines()
        assert lines[0].startswith("router default, process ") and "2 stacks" in lines[0] and "by from" in lines[0]
        at = [next(i for i, line in enumerate(lines) if f" {address} " in line) for address in (sender, receiver)]
        assert at[0] < at[1]
        done = netstack_command("top", "--json", "--count", "2", "--interval", "0.2", "--sort", "to")
        first, second = map(json.loads, done.stdout.splitlines())
        for each in (first, second):
            assert [row["addresses"][0] for row in each["stacks"]] == [receiver, sender]
            assert each["stacks"][0]["packets_to_s"] > 0 and each["stacks"][1]["bytes_from_s"] >= 1000
            assert each["packets_s"] > 0


def test_what_waits_for_a_stack_that_does_not_read(runtime):
    with netstack.Router("10.88.0.0/16", "default", ring_capacity=1 << 18) as router, \
            attach("default") as lazy, attach("default") as eager:
        packet = bytes.fromhex("450003e8000000004011") + bytes(2) + socket.inet_aton(eager.address) + \
            socket.inet_aton(lazy.address) + bytes(980)
        words = struct.unpack("!10H", packet[:20])
        total = sum(words)
        total = (total & 0xffff) + (total >> 16)
        packet = packet[:10] + struct.pack("!H", 0xffff - total) + packet[12:]
        with ControlClient() as client:
            while not client.queued(lazy.id):
                put(eager_channel(eager), packet)
                eager_channel(eager).flush()
            assert client.queued(lazy.id) <= router.counters(lazy.id)["queued"]
        done = netstack_command("top", "--json", "--once", "--interval", "0.1", "--sort", "waiting")
        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout)["stacks"][0]
        assert row["addresses"] == [lazy.address] and row["queued"] == router.counters(lazy.id)["queued"] > 0


def eager_channel(attachment):
    return attachment.link.channel


class Screen:
    """A terminal with ``netstack top`` in it."""

    def __init__(self, *options):
        self.fd, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", 40, 200, 0, 0))
        self.before = termios.tcgetattr(inside)
        self.inside = inside
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen([*NETSTACK, "top", *options], cwd=ROOT, stdin=inside, stdout=inside,
                                        stderr=inside, env={**env, "TERM": "xterm"}, start_new_session=True)
        self.text = ""

    def wait_for(self, pattern):
        """Read until it is shown; what was read before it is forgotten."""
        while not (found := re.search(pattern, self.text)):
            assert select.select([self.fd], [], [], 20)[0], f"no {pattern!r} in {self.text[-2000:]!r}"
            self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
        self.text = self.text[found.end():]

    def press(self, key):
        os.write(self.fd, key.encode())

    def end(self):
        self.process.kill()
        self.process.wait(20)
        os.close(self.fd)
        os.close(self.inside)




def test_keys_sort_the_live_screen_and_the_terminal_is_given_back(runtime):
    with netstack.Router("10.88.0.0/16", "default") as router, talking(router) as (sender, receiver):
        screen = Screen("--interval", "0.1", "--sort", "pid")
        try:
            screen.wait_for("by pid")
            screen.wait_for(sender)
            for key, order, first, second in (("f", "from", sender, receiver), ("t", "to", receiver, sender)):
                screen.press(key)
                screen.wait_for(f"by {order}[^,]")
                screen.wait_for(f"{re.escape(first)} .*\n.*{re.escape(second)} ")
                screen.press("r")
                screen.wait_for(f"by {order}, reversed")
                screen.wait_for(f"{re.escape(second)} .*\n.*{re.escape(first)} ")
            screen.press("q")
            assert screen.process.wait(20) == 0
            assert termios.tcgetattr(screen.inside) == screen.before
        finally:
            screen.end()


def test_ctrl_c_and_the_routers_end(runtime):
    router = netstack.Router("10.88.0.0/16", "default")
    for end in ("signal", "router"):
        screen = Screen("--interval", "0.1")
        try:
            screen.wait_for("0 stacks")
            if end == "signal":
                screen.process.send_signal(signal.SIGINT)
                assert screen.process.wait(20) == 0
            else:
                router.close()
                screen.wait_for("closed the connection|is gone")
                assert screen.process.wait(20) == 1
            assert termios.tcgetattr(screen.inside) == screen.before
        finally:
            screen.end()


def test_a_reader_that_leaves_ends_it_quietly(runtime):
    with netstack.Router("10.88.0.0/16", "default"):
        process = subprocess.Popen([*NETSTACK, "top", "--interval", "0.05"], cwd=ROOT, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 1                     # as other commands of click
        process.stderr.close()


def test_no_router(runtime):
    done = netstack_command("top", "--once")
    assert done.returncode == 1 and "netstack router" in done.stderr and "Traceback" not in done.stderr


def test_who_goes_while_it_looks_is_left_out(runtime):
    with netstack.Router("10.88.0.0/16", "default"), attach("default") as stays, ControlClient() as client:
        goes = attach("default")
        listed = client.attachments()
        goes.close()
        wait_until(lambda: len(client.attachments()) == 1)
        client.attachments = lambda: listed
        assert list(top.look(client).attachments) == [stays.id]
