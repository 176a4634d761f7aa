"""F12: the clock. Only CLOCK_MONOTONIC is read, wherever it stands; a process may be stopped; the time that a stack is
told may jump by hours or go back. No storm of timers, no timeout before its time, no negative round trip."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest

import netstack
from netstack.stack import Stack
from netstack.testing import build_tcp, parse_packet
from tests.support import ROOT, scale

S, HOUR = 10**9, 3600 * 10**9
A, B = "10.0.0.1", "10.0.0.2"
RTO_MIN, RTO_MAX = 200 * 10**6, 120 * S

# Reads another clock, and why it may: nothing that TCP or a timer sees.
OTHER_CLOCKS = {
    "netstack/cli/capture.py": "captures carry the time of day",
    "netstack/router/capture.py": "captures carry the time of day",
    "netstack/link/pcap_writer.pyx": "captures carry the time of day",
    "rings/shared_memory.py": "the age of a file, in the file system's clock",
}


def test_f12_no_clock_is_read_but_the_monotonic_one():
    for package in ("netstack", "rings"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix not in (".py", ".pyx", ".pxd", ".h"):
                continue
            name, text = str(path.relative_to(ROOT)), path.read_text()
            assert set(re.findall(r"\bCLOCK_[A-Z_]+\b", text)) <= {"CLOCK_MONOTONIC"}, name
            assert not re.search(r"\b(gettimeofday|clock_settime|ftime|rdtscp?)\b", text), name
            other = re.findall(r"\btime\.(time|time_ns|clock_\w+|localtime|gmtime|ctime|strftime)\b", text)
            assert not other or name in OTHER_CLOCKS, (name, other)


# --- the stack is told the time -------------------------------------------------------------------------------------

class Told:
    """Two stacks whose frames and times the test carries, with what a driver calls: `process`."""

    def __init__(self, count=1, seed=1, **sysctl):
        names = {f"net.ipv4.tcp_{name}": value for name, value in sysctl.items()}
        self.now_ns = S
        self.stacks = [Stack(addresses=f"{address}/24", seed=seed + i, sysctl=names)
                       for i, address in enumerate((A, B))]
        self.process()
        listener = self.stacks[1].socket()
        listener.bind((B, 80))
        listener.listen(count)
        self.pairs = []
        for _ in range(count):
            client = self.stacks[0].socket()
            client.connect_ex((B, 80))
            self.exchange()
            self.pairs.append((client, listener.accept()[0]))
        listener.close()

    def process(self, now_ns=None):
        if now_ns is not None:
            self.now_ns = now_ns
        for stack in self.stacks:
            stack.process(self.now_ns)

    def take(self, i):
        """What a stack has sent."""
        out = []
        while (output := self.stacks[i].pop_output()) is not None:
            out.append(bytes(output[0]))
        return out

    def give(self, i, frames):
        for frame in frames:
            self.stacks[i].input(frame, self.stacks[i].now_ns)

    def exchange(self):
        """Frames cross until there are none; time stands."""
        while (there := self.take(0)) + (back := self.take(1)):
            self.give(1, there)
            self.give(0, back)

    def sane(self):
        for pair in self.pairs:
            for sock in pair:
                info = sock.info()
                assert info["srtt_ns"] >= 0 and RTO_MIN <= info["rto_ns"] <= RTO_MAX, info


@pytest.mark.parametrize("hours", [1, 24, 24 * 365])
def test_f12_a_leap_of_hours_fires_each_timer_once_and_ends_no_connection(hours):
    """RFC 9293 section 3.8.3 counts attempts: none was made while nobody ran. Data is under way on each connection."""
    count = scale(1000, 50)
    told = Told(count)
    for client, _ in told.pairs:
        client.send(b"lost")
    assert len(told.take(0)) == count
    before = told.stacks[0].counters()
    told.process(told.now_ns + hours * HOUR)
    again = told.take(0)
    after = told.stacks[0].counters()
    fired = after["tcp_timeouts"] + after["tcp_tail_probes"] - before["tcp_timeouts"] - before["tcp_tail_probes"]
    assert fired == len(again) == count
    assert all(parse_packet(frame).payload == b"lost" for frame in again)
    assert {client.state for client, _ in told.pairs} == {"ESTABLISHED"}
    deadline = told.stacks[0].next_deadline()
    assert deadline > told.now_ns
    told.give(1, again)
    told.exchange()
    assert {server.recv(10) for _, server in told.pairs} == {b"lost"}
    told.sane()


def test_f12_attempts_after_a_leap_are_as_many_and_as_far_apart_as_without():
    """The peer is gone. Whoever was stopped in between tries as often as anybody, each time twice as long."""
    told = Told(retries2=5, early_retrans=0)
    client = told.pairs[0][0]
    client.send(b"x")
    told.take(0)
    times = []
    told.process(told.now_ns + 5 * HOUR)
    for _ in range(100):
        if told.take(0):
            times.append(told.now_ns)
        if client.state == "CLOSED":
            break
        told.process(told.stacks[0].next_deadline())
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert gaps[:4] == [gaps[0] * 2**i for i in range(4)] and client.state == "CLOSED"
    assert told.stacks[0].counters()["tcp_timeouts"] == 5
    assert client.getsockopt(1, 4) == 110                          # SO_ERROR: ETIMEDOUT


def test_f12_every_kind_of_timer_fires_once_after_a_leap():
    """Delayed acknowledgement, keepalive, persist, FIN-WAIT-2, TIME-WAIT."""
    told = Told(5)
    alive, persist, closing, waiting, delayed = told.pairs
    alive[0].setsockopt(1, 9, 1)                                    # SO_KEEPALIVE
    while True:
        try:
            persist[0].send(bytes(65536))
        except BlockingIOError:
            break
        told.exchange()
    closing[0].close()                                             # FIN-WAIT-2
    waiting[0].close()
    told.exchange()
    waiting[1].close()                                             # TIME-WAIT at the client
    told.exchange()
    for _ in range(100):                                           # until one is not acknowledged at once
        delayed[1].send(b"y")
        told.give(0, told.take(1))
        if not (answers := told.take(0)):
            break
        told.give(1, answers)
    told.stacks[0].process(told.now_ns + 10 * HOUR)
    out = [parse_packet(frame) for frame in told.take(0)]
    by_port = {}
    for p in out:
        by_port.setdefault(p.sport, []).append(p)
    assert all(len(packets) == 1 for packets in by_port.values()), by_port
    ports = {name: pair[0].getsockname()[1] for name, pair in
             (("alive", alive), ("persist", persist), ("delayed", delayed))}
    assert set(ports.values()) <= set(by_port)
    states = sorted(s.state for s in told.stacks[0].sockets())
    assert states == ["ESTABLISHED"] * 3                            # the two that had only to wait are gone


def test_f12_time_that_goes_back_stands_still():
    told = Told(3)
    for client, _ in told.pairs:
        client.send(b"data")
    frames = told.take(0)
    stack = told.stacks[0]
    deadline, before = stack.next_deadline(), stack.counters()
    for back in (1, 1000, S, HOUR, 10 * 365 * 24 * HOUR):
        stack.process(told.now_ns - back)
        stack.advance(told.now_ns - back)
        assert stack.now_ns == told.now_ns and stack.next_deadline() == deadline
    assert stack.counters() == before and told.take(0) == []
    told.stacks[1].process(told.now_ns + 10**6)
    told.give(1, frames)
    told.stacks[1].process(told.now_ns + S)
    for frame in told.take(1):                                     # the answers come at a time that lies in the past
        stack.input(frame, told.now_ns - HOUR)
    assert all(client.info()["snd_una"] == client.info()["snd_nxt"] for client, _ in told.pairs)
    told.sane()


@pytest.mark.parametrize("chunk", range(10))
def test_f12_streams_survive_a_clock_that_leaps_and_goes_back(chunk):
    """100 runs: two stacks with clocks of their own, which leap and go back at random, on a wire that loses a tenth."""
    for seed in range(chunk * scale(100, 10) // 10, (chunk + 1) * scale(100, 10) // 10):
        rng = random.Random(seed)
        told = Told(1, seed=seed + 10, retries2=100)
        client, server = told.pairs[0]
        data, sent, got = rng.randbytes(100_000), 0, b""
        clocks = [told.now_ns, told.now_ns]
        passes = timeouts = 0
        while len(got) < len(data):
            passes += 1
            assert passes < 20_000, (seed, len(got))
            try:
                sent += client.send(data[sent:sent + 10_000]) if sent < len(data) else 0
            except BlockingIOError:
                pass
            for i in (0, 1):
                clocks[i] += rng.choice((0, 10**6, 50 * 10**6, -10**6, -S, -HOUR, S, rng.randrange(10 * HOUR)))
                before = told.stacks[i].counters()["tcp_timeouts"]
                told.stacks[i].process(clocks[i])
                fired = told.stacks[i].counters()["tcp_timeouts"] - before
                assert fired <= 1, (seed, fired)
                timeouts += fired
                for frame in told.take(i):
                    if rng.random() < 0.9:
                        told.stacks[1 - i].input(frame, clocks[1 - i])
            try:
                got += server.recv(100_000)
            except BlockingIOError:
                pass
            told.sane()
        assert got == data and client.state == server.state == "ESTABLISHED", seed
        assert timeouts <= passes


def test_f12_a_round_trip_of_a_stamp_from_the_future_is_no_sample():
    """The peer's clock may stand anywhere: what it echoes is ours, or is not believed."""
    told = Told(1)
    client, server = told.pairs[0]
    for _ in range(10):                                            # round trips of 30 ms, which a wrong one shortens
        client.send(b"z")
        frames = told.take(0)
        told.process(told.now_ns + 30 * 10**6)
        told.give(1, frames)
        told.process(told.now_ns + 50 * 10**6)
        told.exchange()
    assert client.info()["srtt_ns"] > 10**7
    for ahead in (1, 1000, 119_000, 1 << 30):
        client.send(b"z")
        told.take(0)
        while not (again := told.take(0)):                         # sent twice: only the stamp tells which is answered
            told.process(told.stacks[0].next_deadline())
        before = client.info()["srtt_ns"], client.tcp_info().min_rtt
        p = parse_packet(again[-1])
        answer = build_tcp(B, A, p.dport, p.sport, "A", seq=p.ack, ack=p.seq + 1, window=1000,
                           timestamp=(p.timestamp[1], p.timestamp[0] + ahead & 0xFFFFFFFF))
        told.stacks[0].input(answer, told.now_ns)
        assert client.info()["snd_una"] == client.info()["snd_nxt"]
        assert (client.info()["srtt_ns"], client.tcp_info().min_rtt) == before
        told.process(told.now_ns + 10**6)
        told.sane()
    server.close()


# --- processes ------------------------------------------------------------------------------------------------------

# Echoes through its own stack until told to end, then says what its connections and its stack think of time.
ECHO = """
import json, sys
import netstack
host = netstack.attach(sys.argv[1], drain=1)
sockets = [host.create_connection((sys.argv[2], int(sys.argv[3])), timeout=60) for _ in range(int(sys.argv[4]))]
print("begun", flush=True)
rounds = 0
for line in sys.stdin:
    if line == "end\\n":
        break
    rounds += 1
    block = rounds.to_bytes(4, "big") * 5000
    for s in sockets:
        s.sendall(block)
    for s in sockets:
        got = b""
        while len(got) < len(block):
            data = s.recv(65536)
            assert data, "the connection ended"
            got += data
        assert got == block
    print(rounds, flush=True)
counters = host.stack.counters()
print(json.dumps({"fired": counters["tcp_timeouts"] + counters["tcp_tail_probes"],
                  "resets": counters["tcp_resets_in"] + counters["tcp_resets_out"],
                  "rtt_us": [x.tcp.rtt for x in host.stack.sockets()],
                  "now_ns": host.stack.now_ns}), flush=True)
for s in sockets:
    s.close()
"""


class Echo:
    """A server in this process and a program with its own stack that talks to it."""

    def __init__(self, connections, prefix=()):
        self.router = netstack.Router()
        self.host = netstack.attach(self.router.name, drain=1)
        self.address = self.host.addresses[0].split("/")[0]
        self.listener = self.host.create_server((self.address, 7000))
        self.threads = []
        accepting = threading.Thread(target=self.accept, args=(connections,), daemon=True)
        accepting.start()
        self.program = subprocess.Popen(
            [*prefix, sys.executable, "-c", ECHO, self.router.name, self.address, "7000", str(connections)], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.expect("begun")
        self.rounds = 0

    def accept(self, connections):
        for _ in range(connections):
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    @staticmethod
    def serve(connection):
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def expect(self, line):
        said = self.program.stdout.readline()
        if said != f"{line}\n":
            self.program.kill()
            raise AssertionError(f"not {line!r} but {said!r}: {self.program.communicate()[1]}")

    def ask(self):
        self.program.stdin.write("go\n")
        self.program.stdin.flush()

    def answer(self):
        self.rounds += 1
        self.expect(self.rounds)

    def end(self):
        out, err = self.program.communicate("end\n", timeout=60)
        assert self.program.returncode == 0, err
        return json.loads(out)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.program.kill()
        self.program.communicate()
        self.listener.close()
        self.host.close()
        self.router.close()


@pytest.mark.serial
def test_f12_a_process_that_is_stopped_goes_on_where_it_was():
    """SIGSTOP at any time, also in the middle of a transfer; whatever came meanwhile is read before any timer fires."""
    chance, count, stops = random.Random(12), 4, scale(100, 5)
    with Echo(count) as echo:
        for _ in range(stops):
            echo.ask()
            threading.Event().wait(chance.uniform(0, 0.005))
            echo.program.send_signal(signal.SIGSTOP)
            threading.Event().wait(chance.choice((0.01, 0.3, 1.0)))
            echo.program.send_signal(signal.SIGCONT)
            echo.answer()
        said = echo.end()
        ours = echo.host.stack.counters()
    assert said["resets"] == 0 and len(said["rtt_us"]) == count and min(said["rtt_us"]) >= 0
    # The one that ran on repeats at most what 1.0 s of silence calls for: a probe, and 200 + 400 ms.
    assert said["fired"] <= 2 * stops * count
    assert ours["tcp_timeouts"] + ours["tcp_tail_probes"] <= 4 * stops * count


def time_namespace():
    """Why there is none, or None."""
    if os.geteuid() != 0:
        return "a time namespace needs root"
    if not shutil.which("unshare"):
        return "needs unshare (util-linux)"
    done = subprocess.run(["unshare", "-T", "--monotonic", "1000", "true"], capture_output=True, text=True)
    return done.stderr.strip() or None if done.returncode else None


def uptime():
    """Whole seconds since the machine was booted."""
    with open("/proc/uptime") as f:
        return int(float(f.read().split()[0]))


@pytest.mark.root
@pytest.mark.parametrize("offset", ["+10 years", "+100 years", "just booted"])
def test_f12_processes_whose_clocks_stand_years_apart_talk_as_ever(offset):
    """A time namespace moves CLOCK_MONOTONIC of one end only. It cannot be set to before its machine was booted."""
    if reason := time_namespace():
        pytest.skip(reason)
    year, blocks, connections = 365 * 24 * 3600, 20, 2
    seconds = {"+10 years": 10 * year, "+100 years": 100 * year, "just booted": 2 - uptime()}[offset]
    prefix = ("unshare", "-T", "--fork", "--kill-child", "--monotonic", str(seconds), "--boottime", str(seconds))
    for _ in range(scale(33, 3)):
        with Echo(connections, prefix) as echo:
            for _ in range(blocks):
                echo.ask()
                echo.answer()
            said = echo.end()
        assert abs(said["now_ns"] // S - (uptime() + seconds)) < 300
        # A busy machine may answer later than a probe waits; a wrong clock fires without end.
        assert said["fired"] <= 2 * blocks * connections and said["resets"] == 0, said
        assert all(0 < rtt < 5_000_000 for rtt in said["rtt_us"]), said
