"""The uplink that needs no privilege: TCP between stacks and the kernel's sockets. No test here needs root."""

import contextlib
import errno
import gc
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading

import pytest

import netstack
from netstack.errors import ConfigError, LinkError
from netstack.router import Router
from tests.router.lan import wait_until
from tests.router.outside import MACHINE, data_of, digest_of, echo, free_port, send_all, tcp_server
from tests.support import ROOT, descriptors

MIB = 1 << 20
ABORT = struct.pack("ii", 1, 0)


@pytest.fixture
def make(runtime):
    """``make(options)``: a router with this uplink, and a host behind it."""
    with contextlib.ExitStack() as stack:

        def one(options=f",loopback={MACHINE}", **more):
            router = stack.enter_context(Router(uplinks=[f"user{options}"], **more))
            host = stack.enter_context(netstack.attach(router.name))
            host.drain = 1.0
            return router, host

        yield one


def connect(host, port, address=MACHINE, timeout=30):
    s = host.socket()
    s.settimeout(timeout)
    s.connect((address, port))
    return s


def idle(router):
    """All flows are over."""
    wait_until(lambda: router.relayed()["streams"] == 0)


def test_ten_megabytes_each_way_at_once(make):
    router, host = make()
    there, there_digest = data_of(1, 10 * MIB + 7)
    back, back_digest = data_of(2, 10 * MIB + 3)
    got = []

    def serve(connection):
        sender = threading.Thread(target=send_all, args=(connection, back))
        sender.start()
        got.append(digest_of(connection))
        sender.join()

    with tcp_server(serve) as port, connect(host, port) as s:
        sender = threading.Thread(target=send_all, args=(s, there))
        sender.start()
        assert digest_of(s) == (len(back), back_digest)
        sender.join()
        wait_until(lambda: got)
    assert got == [(len(there), there_digest)]
    idle(router)
    counts = router.relayed()
    assert (counts["streams_opened"], counts["streams_reset"]) == (1, 0)
    assert (counts["bytes_out"], counts["bytes_in"]) == (len(there), len(back))
    assert router.check_conservation() == []


def test_a_refusal_is_a_refusal(make):
    router, host = make()
    with pytest.raises(ConnectionRefusedError):
        connect(host, free_port())
    assert router.relayed()["streams_refused"] == 1
    idle(router)


def test_each_half_closes_by_itself(make):
    router, host = make()

    def serve(connection):
        n, _ = digest_of(connection)                   # until the stack's end of file
        connection.sendall(b"%d" % n)

    with tcp_server(serve) as port, connect(host, port) as s:
        s.sendall(bytes(100_000))
        s.shutdown(socket.SHUT_WR)
        assert digest_of(s)[0] == len(b"100000")
    told = threading.Event()

    def talk_first(connection):
        connection.sendall(b"only this")
        connection.shutdown(socket.SHUT_WR)
        if digest_of(connection)[0] == 50_000:
            told.set()

    with tcp_server(talk_first) as port, connect(host, port) as s:
        assert s.recv(100, socket.MSG_WAITALL) == b"only this" and s.recv(1) == b""
        s.sendall(bytes(50_000))
        s.shutdown(socket.SHUT_WR)
        assert told.wait(30)
    idle(router)
    assert router.relayed()["streams_reset"] == 0


def test_a_reset_goes_on_in_either_direction(make):
    router, host = make()
    errors = []

    def is_reset(connection):
        connection.sendall(b"hello")
        try:
            connection.recv(1)
        except OSError as error:
            errors.append(error.errno)

    with tcp_server(is_reset) as port:
        s = connect(host, port)
        assert s.recv(5, socket.MSG_WAITALL) == b"hello"
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        s.close()
        wait_until(lambda: errors)
    assert errors == [errno.ECONNRESET]

    def resets(connection):
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)

    with tcp_server(resets) as port, connect(host, port) as s:
        s.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            s.recv(1)
    idle(router)
    assert router.relayed()["streams_reset"] == 2


def fill(s) -> int:
    """Send until nothing goes any more; how many bytes that were."""
    s.settimeout(0.5)
    n, piece = 0, bytes(262144)
    with contextlib.suppress(TimeoutError):
        while n < 256 * MIB:
            n += s.send(piece)
    return n


def test_who_does_not_read_holds_the_writer_back(make):
    """Bytes wait in the buffers of the kernel and of the stacks, which have limits, and not in the relay."""
    router, host = make()
    gate, got = threading.Event(), []

    def read_late(connection):
        gate.wait(60)
        got.append(digest_of(connection)[0])

    with tcp_server(read_late) as port, connect(host, port) as s:
        sent = fill(s)
        assert sent < 48 * MIB
        gate.set()
        s.close()
        wait_until(lambda: got)
    assert got == [sent]

    def write(connection):
        got.append(fill(connection))

    got.clear()
    with tcp_server(write) as port, connect(host, port) as s:
        wait_until(lambda: got)
        assert got[0] < 48 * MIB
        assert digest_of(s)[0] == got[0]
    idle(router)


def test_many_connections_at_once(make, scale):
    router, host = make()
    n = scale(2000)
    with tcp_server(echo, backlog=1024) as port, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(host, port)) for _ in range(n)]
        wait_until(lambda: router.relayed()["streams"] == n)
        for i, s in enumerate(sockets):
            s.sendall(b"%06d" % i)
        for i, s in enumerate(sockets):
            assert s.recv(6, socket.MSG_WAITALL) == b"%06d" % i
    idle(router)
    assert router.relayed()["streams_opened"] == n


def test_one_stack_gets_half_of_the_connections(make):
    router, host = make(f",loopback={MACHINE},flows=32")
    with tcp_server(echo) as port, contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(host, port))
        with pytest.raises(ConnectionRefusedError):
            connect(host, port)
        assert router.relayed()["streams_limited"] == 1
        with netstack.attach(router.name) as other, connect(other, port) as s:
            s.sendall(b"x")
            assert s.recv(1) == b"x"
    idle(router)
    with tcp_server(echo) as port, connect(host, port) as s:       # as they end there is room again
        s.sendall(b"y")
        assert s.recv(1) == b"y"


NO_DESCRIPTORS = """
import errno, os, resource, socket, sys
import netstack
from netstack.router import Router
from tests.router.outside import tcp_server, echo
router = Router(uplinks=["user,loopback=10.77.0.1"])
with router, netstack.attach(router.name) as host, tcp_server(echo) as port:
    host.drain = 1.0
    s = host.create_connection(("10.77.0.1", port), 20)
    s.sendall(b"1"), s.recv(1)
    kept = []
    used = max(int(n) for n in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        assert error.errno == errno.EMFILE
    try:
        host.create_connection(("10.77.0.1", port), 20)
    except ConnectionRefusedError:
        print("refused", router.relayed()["no_descriptor"])
    for fd in kept:
        os.close(fd)
    s.sendall(b"2")
    print("lives", s.recv(1) == b"2")
    t = host.create_connection(("10.77.0.1", port), 20)
    t.sendall(b"3")
    print("again", t.recv(1) == b"3")
    s.close(), t.close()
"""


def test_without_descriptors_new_connections_are_refused_and_old_ones_go_on(runtime):
    done = subprocess.run([sys.executable, "-c", NO_DESCRIPTORS], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["refused 1", "lives True", "again True"], done.stderr


DYING = """
import os, sys, netstack
host = netstack.attach()
s = host.create_connection((sys.argv[1], int(sys.argv[2])), 30)
s.sendall(b"alive")
print("connected", flush=True)
sys.stdin.read()
"""


def test_a_stack_that_dies_takes_its_connections_along(make):
    router, host = make()
    ends = []

    def wait_for_the_end(connection):
        data = b""
        try:
            while more := connection.recv(100):
                data += more
            ends.append((data, "end of file"))
        except OSError as error:
            ends.append((data, error.errno))

    with tcp_server(wait_for_the_end) as port, connect(host, port) as other:
        child = subprocess.Popen([sys.executable, "-c", DYING, MACHINE, str(port)], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, env={**os.environ, **router.environment()}, cwd=ROOT)
        assert child.stdout.readline() == b"connected\n"
        wait_until(lambda: router.relayed()["bytes_out"] == 5)
        child.kill()
        child.wait()
        wait_until(lambda: ends)
        assert ends == [(b"alive", errno.ECONNRESET)]
        assert router.relayed()["streams"] == 1        # the other's goes on
        other.sendall(b"!")
        child.stdin.close()
        child.stdout.close()
    wait_until(lambda: len(ends) == 2)
    assert ends[1] == (b"!", "end of file")


def test_a_server_that_dies_resets_the_stack(make):
    _, host = make()
    server = subprocess.Popen([sys.executable, "-c", "import socket, sys, time\n"
                               "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
                               "c, _ = s.accept(); c.recv(1); print('got', flush=True); time.sleep(100)"],
                              stdout=subprocess.PIPE, text=True)
    with server, connect(host, int(server.stdout.readline())) as s:
        s.sendall(b"xy")                               # one byte stays unread: the kernel resets
        assert server.stdout.readline() == "got\n"
        server.kill()
        with pytest.raises(ConnectionResetError):
            s.recv(1)


def test_whatever_becomes_of_connections_nothing_is_left(make, scale):
    """Both ends read, write, close and reset as dice say; afterwards all flows and descriptors are gone."""
    router, host = make()
    dice = random.Random(7)

    def act(connection, dice):
        connection.settimeout(0.05)                    # dice may let both wait for each other
        with contextlib.suppress(OSError):
            for _ in range(dice.randrange(5)):
                what = dice.randrange(5)
                if what == 0:
                    connection.sendall(bytes(dice.randrange(200_000)))
                elif what == 1:
                    connection.recv(dice.randrange(1, 100_000))
                elif what == 2:
                    connection.shutdown(socket.SHUT_WR)
                elif what == 3:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                    return

    seeds = iter(range(1 << 30))

    def serve(connection):
        act(connection, random.Random(next(seeds)))

    def call(port, seed):
        with contextlib.suppress(OSError), connect(host, port) as s:
            act(s, random.Random(-seed))

    with tcp_server(serve) as port:
        call(port, 1)
        idle(router)
        before = len(descriptors())
        for _ in range(scale(200, 10)):
            threads = [threading.Thread(target=call, args=(port, dice.randrange(1 << 30))) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        idle(router)
        wait_until(lambda: len(descriptors()) <= before)
    counts = router.relayed()
    assert counts["streams_opened"] >= scale(200, 10) * 16 // 2 and counts["streams_reset"] > 0
    assert router.check_conservation() == []


def test_segments_of_a_connection_that_is_not_there_are_reset(make):
    """As after a restart of the router: the stack hears that its connection is gone."""
    from scapy.layers.inet import IP, TCP

    from tests.router.lan import parsed, put, take

    router, _ = make()
    with router.attach() as raw:
        segment = TCP(sport=9, dport=80, flags="A", seq=5, ack=66)
        assert put(raw.link.channel, IP(src=raw.address, dst=MACHINE) / segment)
        raw.link.channel.flush()
        answer = parsed(wait_until(lambda: take(raw.link.channel)))
        assert answer[TCP].flags == "R" and answer[TCP].seq == 66 and answer.src == MACHINE


def ip_checksum(header: bytes) -> int:
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - (total & 0xFFFF) - (total >> 16) & 0xFFFF


def test_mutated_packets_do_not_hurt(make, scale):
    """TCP, UDP, ICMP and pieces with bytes changed at random; the IP checksum is right, or the router keeps them."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.packet import Raw

    from tests.router.lan import put, take

    router, host = make()
    dice = random.Random(11)
    with router.attach() as raw, tcp_server(echo) as port:
        base = IP(src=raw.address, dst=MACHINE)
        quoted = IP(src=MACHINE, dst=raw.address) / UDP(sport=5, dport=6) / Raw(bytes(20))
        seeds = [bytes(base / each) for each in (
            TCP(sport=9, dport=port, flags="S", options=[("MSS", 1000), ("WScale", 7), ("SAckOK", b"")]),
            TCP(sport=9, dport=port, flags="A", seq=1, ack=1) / Raw(bytes(50)),
            UDP(sport=5, dport=port) / Raw(bytes(100)), ICMP(id=3, seq=1) / Raw(bytes(30)),
            ICMP(type=3, code=4, nexthopmtu=700) / quoted, ICMP(type=3, code=3) / quoted,
        )] + [bytes(IP(src=raw.address, dst=MACHINE, id=7, flags="MF", frag=n) / Raw(bytes(64))) for n in (0, 8)]
        sent = 0
        for _ in range(scale(200_000)):
            packet = bytearray(dice.choice(seeds))
            for _ in range(dice.randrange(1, 6)):
                packet[dice.randrange(20 if dice.random() < 0.9 else 1, len(packet))] = dice.randrange(256)
            packet[2:4] = len(packet).to_bytes(2, "big")
            packet[12:20] = socket.inet_aton(raw.address) + socket.inet_aton(MACHINE)
            packet[8], packet[10:12] = 64, b"\0\0"
            packet[10:12] = ip_checksum(bytes(packet[:20])).to_bytes(2, "big")
            while not put(raw.link.channel, bytes(packet)):
                raw.link.channel.flush()
                take(raw.link.channel)
            sent += 1
            if sent % 64 == 0:
                raw.link.channel.flush()
                while take(raw.link.channel) is not None:
                    pass
        raw.link.channel.flush()
        with connect(host, port) as s:
            s.sendall(b"alive")
            assert s.recv(5, socket.MSG_WAITALL) == b"alive"
        counts = router.relayed()
        assert min(counts[name] for name in ("bad_checksum", "malformed", "other_protocol")) > 0
    idle(router)
    assert router.check_conservation() == []


def test_stacks_that_share_an_address_go_out_too(make):
    router, host = make(addressing="interface")
    assert host.addresses[0].split("/")[0] in router.shared_addresses
    with tcp_server(echo) as port, netstack.attach(router.name) as other:
        for each in (host, other):
            with connect(each, port) as s:
                s.sendall(b"shared")
                assert s.recv(6, socket.MSG_WAITALL) == b"shared"
        with pytest.raises(ConnectionRefusedError):
            connect(other, free_port())


def test_the_machines_loopback_is_out_of_reach_unless_asked_for(make):
    router, host = make("")
    reached = []
    with tcp_server(reached.append) as port:
        for address in (MACHINE, "127.0.0.1", "10.77.255.254"):
            with pytest.raises(OSError) as caught:
                connect(host, port, address, timeout=5)
            assert caught.value.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH)
    assert reached == [] and router.relayed()["streams_opened"] == 0


def test_metadata_of_clouds_and_what_was_denied_is_not_served(make):
    router, host = make(",deny=192.0.2.0/24")
    for address in ("169.254.169.254", "192.0.2.7"):
        with pytest.raises(OSError) as caught:
            connect(host, 80, address, timeout=20)
        assert caught.value.errno == errno.EHOSTUNREACH
    assert router.relayed()["streams_denied"] == 2


def test_a_published_port_is_the_stacks(make):
    router, host = make(",publish=127.0.0.1:0:10.77.0.2:80,publish=127.0.0.1:0:10.77.0.2:81")
    (_, _, port), (_, _, closed) = router.published
    assert host.addresses[0] == "10.77.0.2/16"
    data, digest = data_of(3, 2 * MIB)
    with host.create_server(("", 80)) as server, socket.create_connection(("127.0.0.1", port), 30) as client:
        server.settimeout(30)
        connection, peer = server.accept()
        assert peer[0] == "10.77.255.254"              # the machine's own loopback has no name among stacks
        sender = threading.Thread(target=send_all, args=(client, data))
        sender.start()
        with connection:
            assert digest_of(connection) == (len(data), digest)
            sender.join()
            connection.sendall(b"thanks")
        assert client.recv(100, socket.MSG_WAITALL) == b"thanks"
    with socket.create_connection(("127.0.0.1", closed), 30) as client, pytest.raises(ConnectionResetError):
        client.recv(1)                                 # nobody listens there
    idle(router)
    counts = router.relayed()
    assert (counts["streams_published"], counts["streams_published_refused"]) == (1, 1)


def test_a_hostile_stack_gets_nothing_but_counts(make):
    """Segments out of nowhere, SYNs with bad sums, other protocols: all are counted, and the relay lives."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.packet import Raw

    from tests.router.lan import parsed, put, take

    router, host = make()
    with router.attach() as raw, tcp_server(echo) as port:
        strange = [(IP(src=raw.address, dst=MACHINE, proto=132) / Raw(bytes(20)), "other_protocol")]
        syn = IP(src=raw.address, dst=MACHINE) / TCP(sport=7, dport=port, flags="S", seq=1)
        bad = IP(bytes(syn))
        bad[TCP].chksum ^= 0x55
        strange.append((bad, "bad_checksum"))
        strange.append((IP(src=raw.address, dst=MACHINE) / UDP(sport=0, dport=9), "malformed"))
        lied = IP(bytes(IP(src=raw.address, dst=MACHINE) / UDP(sport=5, dport=9) / Raw(b"abc")))
        lied[UDP].len = 7
        strange.append((lied, "malformed"))
        expected = {}
        for packet, why in strange:
            expected[why] = expected.get(why, 0) + 1
            assert put(raw.link.channel, packet)
        for flags in ("A", "F", "FPU", "SA", "SR", "R", ""):
            segment = TCP(sport=9, dport=port, flags=flags, seq=5, ack=6)
            assert put(raw.link.channel, IP(src=raw.address, dst=MACHINE) / segment)
        for kind in (0, 3, 5, 8, 11, 13, 40):
            assert put(raw.link.channel, IP(src=raw.address, dst=MACHINE) / ICMP(type=kind, code=1) / Raw(bytes(30)))
        raw.link.channel.flush()
        wait_until(lambda: {k: router.relayed()[k] for k in expected} == expected)
        assert put(raw.link.channel, syn)
        raw.link.channel.flush()

        def synack():
            packet = take(raw.link.channel)
            answer = parsed(packet) if packet is not None else IP()
            return answer.haslayer(TCP) and answer[TCP].flags == "SA" and answer

        assert wait_until(synack).src == MACHINE
        assert router.relayed()["streams"] == 1        # half open: neither accepted nor counted as opened
        assert router.relayed()["streams_opened"] == 0
        with connect(host, port) as s:
            s.sendall(b"still here")
            assert s.recv(10, socket.MSG_WAITALL) == b"still here"
    idle(router)                                       # with the raw stack its half-open connection is gone


def test_a_program_runs_on_it(runtime):
    code = ("import json, socket, sys, urllib.request\n"
            "print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())\n"
            "print(type(socket.socket()).__module__)")

    def serve(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nwelcome")

    with tcp_server(serve) as port:
        command = ["netstack", "run", "--uplink", f"user,loopback={MACHINE}", "--", "-c", code, f"http://{MACHINE}:{port}/"]
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.splitlines() == ["welcome", "netstack.socket"], done.stderr


@pytest.mark.parametrize("text", [
    "user,loopback", "user,loopback=here", "user,publish=80:10.77.0.2:80", "user,publish=127.0.0.1:80:10.77.0.2:0",
    "user,publish=127.0.0.1:8080:192.0.2.1:80", "user,publish=udp:[::1]:80:10.77.0.2:80",
    "user,deny=10.0.0.1/8", "user,flows=2", "user,idle=0", "user,dns=name",
    "user,link-local=maybe", "user,speed=fast",
])
def test_settings_that_cannot_be(runtime, text):
    with pytest.raises(ConfigError, match="uplink|publish"):
        Router(uplinks=[text])


def test_it_is_given_once_and_a_taken_port_is_told(runtime):
    with pytest.raises(ConfigError, match="once"):
        Router(uplinks=["user", "user"])
    with tcp_server(echo) as port:
        with pytest.raises(LinkError, match="in use"):
            Router(uplinks=[f"user,publish=127.0.0.1:{port}:10.77.0.2:80"])


def test_top_shows_what_is_relayed(make):
    from click.testing import CliRunner

    from netstack.cli.top import command, look, totals
    from netstack.router.client import ControlClient

    router, host = make()
    with tcp_server(echo) as port, connect(host, port), ControlClient(router.name) as client:
        wait_until(lambda: router.relayed()["streams_opened"] == 1)      # when it has seen the end of the handshake
        before = look(client)
        assert before.relayed == router.relayed()
        with pytest.raises(ConnectionRefusedError):
            connect(host, free_port())
        relay = totals(before, look(client))["uplink_user"]
        assert relay["streams"] == 1 and relay["streams_refused_s"] > 0
        said = CliRunner().invoke(command, ["--name", router.name, "--once", "--interval", "0.05"])
        assert "uplink user: 1 connections, 0 UDP ports" in said.output, said.output
    with Router() as plain, ControlClient(plain.name) as client:
        assert client.relayed() == {} and "uplink_user" not in totals(look(client), look(client))


def test_who_waits_does_not_spin(make):
    """The loop's rounds are counted while one side does not read, and while the other has ended behind unread bytes."""
    router, host = make()
    gate = threading.Event()

    def read_late(connection):
        gate.wait(60)

    with tcp_server(read_late) as port:
        s = connect(host, port)
        fill(s)
        relay = router._user._relay
        for end in (lambda: None, s.close):
            end()
            before = relay.rounds
            wait_until(lambda at=before: relay.rounds > at + 1)          # it looks once a second
            assert relay.rounds - before < 50
        gate.set()


def test_what_fails_in_the_middle_leaves_nothing(runtime, monkeypatch):
    from netstack.router.user import UserUplink

    def fails(self, relay):
        raise OSError(errno.EAGAIN, "no thread")

    Router(uplinks=["user"]).close()
    before = len(descriptors())
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no thread"):
        patch.setattr(UserUplink, "_begin", fails)
        Router(uplinks=["user,publish=127.0.0.1:0:10.77.0.2:80"])
    gc.collect()
    assert len(descriptors()) <= before
    assert not [thread for thread in threading.enumerate() if thread.name == "netstack-relay"]


def test_metrics_say_what_was_relayed(make):
    from netstack.router.metrics import render

    router, host = make()
    with pytest.raises(ConnectionRefusedError):
        connect(host, free_port())
    text = render(router)
    assert 'netstack_user_uplink_total{what="streams_refused"} 1' in text
    assert 'netstack_user_uplink_flows{kind="streams"} 0' in text
    assert json.dumps(router.relayed())
