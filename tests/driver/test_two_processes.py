"""Who drives: blocking programs in two processes, on whose threads the segments are processed, and how it all
ends."""

import errno
import os
import selectors
import signal
import subprocess
import sys
import threading
import time

import pytest

from netstack.errors import ForkedError
from tests.driver.peers import LIMIT, two_processes
from tests.support import ROOT, scale

PEER = ("10.0.0.2", 80)


def listening(host, report):
    listener = host.create_server(PEER)
    report("ready")
    connection, _ = listener.accept()
    listener.close()
    return connection


def connected(host, peer, **options):
    assert peer.receive() == "ready"
    connection = host.create_connection(PEER, timeout=LIMIT, **options)
    connection.settimeout(None)
    return connection


def drove(counters) -> tuple[int, int]:
    return counters["segments_by_caller"], counters["segments_by_service"]


def by_callers(attempt) -> None:
    """At least 99 % of the segments of both sides were processed by threads that called.

    Where more threads want to run than there are cores, a caller is kept away for longer than the service
    thread looks on; so one good attempt of many is what shows the rule, and no other test runs beside it.
    """
    shares = []
    for _ in range(30):
        shares.append(min(calls / (calls + service) for calls, service in attempt()))
        if shares[-1] >= 0.99:
            return
    pytest.fail(f"shares of the callers: {shares}")


def echo(host, report):
    connection = listening(host, report)
    buffer = bytearray(1 << 16)
    while n := connection.recv_into(buffer):
        connection.sendall(memoryview(buffer)[:n])
    connection.close()
    report(drove(host.counters()))


@pytest.mark.serial
@pytest.mark.parametrize("spin_us", [50.0, 0.0])
def test_blocking_echo_is_processed_by_the_callers(spin_us):
    def attempt():
        with two_processes(echo, spin_us=spin_us) as (host, peer):
            s = connected(host, peer)
            for i in range(scale(20_000)):
                s.sendall(i.to_bytes(8, "big") * 8)
                assert s.recv(64) == i.to_bytes(8, "big") * 8
            s.close()
            return drove(host.counters()), peer.receive()

    by_callers(attempt)


@pytest.mark.parametrize("where", ["a CPU each", "the same CPU"])
def test_a_process_kept_on_one_cpu_still_spins_for_its_peer(where):
    allowed = sorted(os.sched_getaffinity(0))
    if where == "a CPU each" and len(allowed) == 1:
        pytest.skip("one CPU")

    def elsewhere(host, report):
        if where == "a CPU each":
            os.sched_setaffinity(0, allowed[1:2])
        connection = listening(host, report)
        while data := connection.recv(64):
            connection.sendall(data)
        connection.close()
        report(host.counters()["spin_hits"])

    os.sched_setaffinity(0, allowed[:1])       # before the hosts are made: it is then that they look
    try:
        with two_processes(elsewhere, spin_us=10_000) as (host, peer):
            s = connected(host, peer)
            for i in range(scale(2000)):
                s.sendall(i.to_bytes(8, "big"))
                assert s.recv(64) == i.to_bytes(8, "big")
            s.close()
            assert host.counters()["spin_hits"] > 0
            assert peer.receive() > 0
    finally:
        os.sched_setaffinity(0, allowed)


def sink(host, report):
    connection = listening(host, report)
    buffer = bytearray(1 << 20)
    total = 0
    while n := connection.recv_into(buffer):
        total += n
    connection.sendall(str(total).encode())
    connection.close()
    report(drove(host.counters()))


@pytest.mark.serial
@pytest.mark.parametrize("mtu", [65535, 1500])
def test_bulk_is_processed_by_the_callers(mtu):
    count = scale(1000)

    def attempt():
        with two_processes(sink, mtu=mtu) as (host, peer):
            s = connected(host, peer)
            for _ in range(count):
                s.sendall(bytes(1 << 20))
            s.shutdown(1)
            assert s.recv(100) == str(count << 20).encode()
            s.close()
            return drove(host.counters()), peer.receive()

    by_callers(attempt)


def away(host, report):
    """Accept, then compute without ever looking at the network."""
    connection = listening(host, report)
    connection.recv(1)
    report("away")
    deadline = time.monotonic() + LIMIT
    while host.counters()["tcp_payload_in"] < 1 + 8 * 1000 and time.monotonic() < deadline:
        sum(range(2000))
    report(drove(host.counters()))
    connection.recv(1 << 16)
    connection.close()


def test_the_service_thread_acknowledges_while_the_application_is_away():
    with two_processes(away) as (host, peer):
        s = connected(host, peer)
        s.sendall(b"!")
        assert peer.receive() == "away"
        for _ in range(8):
            s.sendall(bytes(1000))
        assert peer.receive()[1] > 0
        s.close()
        assert host.counters()["tcp_timeouts"] == 0


def test_threads_of_one_host_each_get_their_own():
    """Leader and followers: connections of several threads, random order, some with short timeouts."""
    def serve(host, report):
        listener = host.create_server(PEER)
        report("ready")

        def one(connection):
            while data := connection.recv(64):
                connection.sendall(data)
            connection.close()

        threads = []
        for _ in range(4):
            connection, _ = listener.accept()
            threads.append(threading.Thread(target=one, args=(connection,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def work(host, number, out):
        s = host.create_connection(PEER, timeout=LIMIT)
        for i in range(scale(5000)):
            message = b"%d:%d" % (number, i)
            s.sendall(message)
            s.settimeout(0.0002 if i % 3 == 0 else LIMIT)
            while True:
                try:
                    assert s.recv(64) == message
                    break
                except TimeoutError:
                    continue
        s.close()
        out.append(number)

    with two_processes(serve) as (host, peer):
        assert peer.receive() == "ready"
        done = []
        threads = [threading.Thread(target=work, args=(host, n, done), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert sorted(done) == [0, 1, 2, 3]
        assert host.counters()["hand_overs"] > 0


# --- the lead is given up on every way out ------------------------------------------------------------------


def quiet(host, report):
    """Two connections; says a word on the second when told to on the first."""
    listener = host.create_server(PEER)
    report("ready")
    first, _ = listener.accept()
    second, _ = listener.accept()
    while word := first.recv(1):
        second.sendall(word)
    first.close()
    second.close()


@pytest.fixture
def two_connections():
    with two_processes(quiet) as (host, peer):
        first = connected(host, peer)
        second = host.create_connection(PEER, timeout=LIMIT)
        yield host, first, second
        first.close()
        second.close()


def expect_in_thread(connection, n: int):
    """A thread that receives; its result comes in a list."""
    got = []

    def run():
        try:
            got.append(connection.recv(n))
        except OSError as e:
            got.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, got


def wait_until(condition) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_leader_that_times_out_leaves_the_lead(two_connections):
    host, first, second = two_connections
    first.settimeout(0.05)
    with pytest.raises(TimeoutError, match="timed out"):
        first.recv(1)
    thread, got = expect_in_thread(second, 1)
    first.sendall(b"x")
    thread.join(LIMIT)
    assert got == [b"x"]


@pytest.mark.parametrize("leads", [True, False])
def test_close_from_another_thread_ends_a_wait(two_connections, leads):
    host, first, second = two_connections
    waits = {}
    for connection in (second, first) if leads else (first, second):
        before = host.counters()
        waits[connection] = expect_in_thread(connection, 1)
        if before["sleeps"] == 0:
            wait_until(lambda: host.counters()["sleeps"] > 0)
    second.close()
    thread, got = waits[second]
    thread.join(LIMIT)
    assert got[0].errno == errno.EBADF
    assert waits[first][0].is_alive()
    first.close()
    waits[first][0].join(LIMIT)
    assert waits[first][1][0].errno == errno.EBADF


class Interrupted(Exception):
    pass


@pytest.fixture
def alarm():
    def raiser(number, frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, raiser)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


CALLS = {
    "recv": lambda s, host: s.recv(1),
    "recv_into": lambda s, host: s.recv_into(bytearray(1 << 17)),
    "sendall": lambda s, host: s.sendall(bytes(256 << 20)),
    "accept": lambda s, host: host.create_server(("10.0.0.1", 99)).accept(),
    "connect": lambda s, host: host.create_connection(("10.0.0.77", 1)),
    "recvfrom": lambda s, host: host.socket(2, 2).recvfrom(1),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("follows", [False, True], ids=["leader", "follower"])
@pytest.mark.parametrize("call", CALLS)
def test_signal_handlers_run_during_every_blocking_call(two_connections, alarm, call, follows):
    host, first, second = two_connections
    waiting = None
    if follows:
        before = host.counters()["leads"]
        waiting, _ = expect_in_thread(second, 1)
        wait_until(lambda: host.counters()["sleeps"] > 0 or host.counters()["leads"] > before)
    for delay in (0.001, 0.02):
        with pytest.raises(Interrupted):
            alarm(delay)
            CALLS[call](first, host)
            pytest.fail("the call returned")
    if waiting is not None:
        second.close()
        waiting.join(LIMIT)


def test_a_handler_that_returns_does_not_disturb_the_wait(two_connections):
    host, first, second = two_connections
    count = []
    before = signal.signal(signal.SIGALRM, lambda *a: count.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        second.settimeout(0.2)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            second.recv(1)
        assert 0.2 <= time.monotonic() - started < LIMIT
        assert count
        second.settimeout(LIMIT)
        first.sendall(b"y")
        assert second.recv(1) == b"y"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- fork ---------------------------------------------------------------------------------------------------


def test_in_a_forked_child_inherited_sockets_say_so_and_the_parent_goes_on():
    with two_processes(echo) as (host, peer):
        s = connected(host, peer)
        s.sendall(b"before")
        assert s.recv(6) == b"before"
        pid = os.fork()
        if pid == 0:
            failed = 0
            for call in (lambda: s.recv(1), lambda: s.recv_into(bytearray(5)), lambda: s.send(b"x"),
                         lambda: s.sendall(b"x"), s.getpeername, s.fileno, lambda: host.socket(),
                         lambda: s.shutdown(2), lambda: s.getsockopt(1, 4)):
                try:
                    call()
                    failed += 1
                except ForkedError as e:
                    failed += e.errno != errno.EBADF
                except BaseException:
                    failed += 1
            s.close()
            host.close()
            os._exit(failed)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        s.sendall(b"after")
        assert s.recv(5) == b"after"
        s.close()


# --- the end ------------------------------------------------------------------------------------------------

EXIT = """
import os, sys, threading, time
sys.path.insert(0, {root!r})
import netstack
from netstack.link import channel_pair
a, b = channel_pair()
A = netstack.Host(link=a, address="10.0.0.1/24", spin_us={spin})
B = netstack.Host(link=b, address="10.0.0.2/24", spin_us={spin})
listener = B.create_server(("10.0.0.2", 80))
client = A.create_connection(("10.0.0.2", 80), timeout=30)
server, _ = listener.accept()
{body}
print("end", time.time(), flush=True)
"""
SITUATIONS = {
    "idle": "",
    "threads blocked in recv": "[threading.Thread(target=s.recv, args=(1,), daemon=True).start() "
                               "for s in (client, server)]; time.sleep(0.05)",
    "data coming in": """
def pump():
    while True: client.send(b"x")
threading.Thread(target=pump, daemon=True).start()
threading.Thread(target=lambda: [server.recv(100) for _ in range(10**9)], daemon=True).start()
time.sleep(0.05)""",
    "an exception": "import atexit; atexit.register(lambda: None); client.settimeout(0.01)\n"
                    "try: client.recv(1)\nexcept TimeoutError: pass",
}


@pytest.mark.parametrize("spin", [50, 0])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_interpreter_ends_with_live_rings(situation, spin):
    for _ in range(scale(20, 2)):
        program = EXIT.format(root=str(ROOT), spin=spin, body=SITUATIONS[situation])
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True,
                              timeout=LIMIT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("end"), done.stderr
        # One second is the promise; ten keep a loaded machine from failing the test.
        assert time.time() - float(done.stdout.split()[1]) < 10


SENDER = """
import os, sys
sys.path.insert(0, {root!r})
import netstack
from netstack.link.channel import ChannelLink
fds = [int(n) for n in sys.argv[1].split(",")]
host = netstack.Host(link=ChannelLink.attach(fds, bytes.fromhex(sys.argv[2])), address="10.0.0.1/24")
s = host.create_connection(("10.0.0.2", 80), timeout=60)
s.sendall(b"0123456789" * (1 << 20))
s.close()
"""


def test_sendall_close_exit_arrives_whole():
    """10 MB that mostly still lie in the sender's buffers when its program ends."""
    import netstack
    from netstack.link import channel_pair

    here, there = channel_pair()
    with netstack.Host(link=here, address="10.0.0.2/24") as host:
        listener = host.create_server(PEER)
        fds, description = there.export()
        sender = subprocess.Popen([sys.executable, "-c", SENDER.format(root=str(ROOT)),
                                   ",".join(map(str, fds)), description.hex()], pass_fds=fds)
        there.detach()
        listener.settimeout(LIMIT)
        connection, _ = listener.accept()
        connection.settimeout(LIMIT)
        n = 0
        buffer = bytearray(1 << 16)
        while k := connection.recv_into(buffer):
            assert buffer[:k] == (b"0123456789" * 6600)[n % 10:][:k]
            n += k
        connection.close()
        listener.close()
        assert sender.wait(LIMIT) == 0
        assert n == 10 << 20


def test_a_peer_that_closes_its_host_resets_what_was_connected():
    def leave(host, report):
        connection = listening(host, report)
        connection.recv(1)

    with two_processes(leave) as (host, peer):
        s = connected(host, peer)
        s.sendall(b"!")
        assert peer.wait() == 0
        deadline = time.monotonic() + LIMIT
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < deadline:
                s.sendall(bytes(1000))
        s.close()


def wait_for_the_end(host, report):
    connection = listening(host, report)
    report(connection.recv(1))
    connection.recv(1)


@pytest.mark.parametrize("spin_us", [0, 50])
@pytest.mark.parametrize("doing", ["recv", "send", "nothing"])
def test_kill_9_of_the_other_end_of_a_channel_resets_what_was_connected(doing, spin_us):
    """Long before TCP would give up, which takes it a quarter of an hour."""
    with two_processes(wait_for_the_end, spin_us=spin_us) as (host, peer):
        s = connected(host, peer)
        s.sendall(b"!")
        assert peer.receive() == b"!"
        if doing == "recv":
            killer = threading.Timer(0.05, peer.kill)
            killer.start()
            with pytest.raises(ConnectionResetError):
                s.recv(1)
            killer.join()
        else:
            peer.kill()
            if doing == "nothing":
                with selectors.DefaultSelector() as selector:      # the service thread notices
                    selector.register(s, selectors.EVENT_READ)
                    assert selector.select(LIMIT)
        with pytest.raises(ConnectionResetError):
            while True:                                            # what fits the window is taken until it is noticed
                s.sendall(bytes(1000))
        with pytest.raises(ConnectionResetError):
            s.send(b"x")
        s.close()


def test_what_was_sent_before_kill_9_arrives_before_the_reset():
    def talk(host, report):
        connection = listening(host, report)
        connection.recv(1)
        connection.sendall(bytes(100_000))
        report("sent")
        connection.recv(1)

    with two_processes(talk) as (host, peer):
        s = connected(host, peer)
        s.sendall(b"!")
        assert peer.receive() == "sent"
        peer.kill()
        received = 0
        with pytest.raises(ConnectionResetError):
            while True:
                received += len(s.recv(65536))
        assert received == 100_000
        s.close()
