"""F2: the router is killed and started again. Stacks keep the state of their connections, come back by token and get
the same addresses; connections go on, with every byte, and nobody else can take an address meanwhile."""

import contextlib
import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import netstack
from netstack.errors import AddressTakenError, RouterError
from netstack.router.client import attach
from tests.faults.routers import Nursery
from tests.router.lan import wait_until
from tests.support import ROOT, scale

LIMIT = 60


@pytest.fixture
def nursery(runtime, backend):
    with Nursery(backend=backend, ring_capacity=1 << 18) as nursery:
        yield nursery


def address_of(host):
    return host.addresses[0].partition("/")[0]


# Echoes whatever comes, on every connection.
SERVER = """
import sys, threading
import netstack
host = netstack.attach(sys.argv[1])
listener = host.create_server(("", 7))
print(host.addresses[0].partition("/")[0], flush=True)
def serve(s):
    while data := s.recv(65536):
        s.sendall(data)
    s.close()
def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
sys.stdin.read()
"""

# Sends numbered blocks on each connection and compares what comes back; told "rounds" it says how many came back on
# each, told "end" it says the digests of what it sent and of what it got.
THREADS = """
import hashlib, json, random, sys, threading
import netstack
host = netstack.attach(sys.argv[1])
N = 4
rounds = [0] * N
stop = threading.Event()
result = [None] * N
def run(i, s):
    rng, sent, got = random.Random(i), hashlib.sha256(), hashlib.sha256()
    while not stop.is_set():
        block = rng.randbytes(rng.choice((1, 1000, 30_000)))
        sent.update(block)
        s.sendall(block)
        n = 0
        while n < len(block):
            data = s.recv(65536)
            assert data, "the connection ended"
            got.update(data)
            n += len(data)
        rounds[i] += 1
    s.close()
    result[i] = sent.hexdigest() == got.hexdigest()
threads = [threading.Thread(target=run, args=(i, host.create_connection((sys.argv[2], 7)))) for i in range(N)]
print(host.addresses[0].partition("/")[0], flush=True)
for t in threads: t.start()
for line in sys.stdin:
    if line == "end\\n":
        stop.set()
        for t in threads: t.join()
        print(json.dumps(result), flush=True)
        break
    print(json.dumps(rounds), flush=True)
"""

ASYNCIO = """
import asyncio, hashlib, json, random, sys, threading
import netstack, netstack.aio
host = netstack.attach(sys.argv[1])
N = 4
rounds = [0] * N
result = [None] * N
stopping = False
async def run(i):
    reader, writer = await host.open_connection(sys.argv[2], 7)
    rng, sent, got = random.Random(i), hashlib.sha256(), hashlib.sha256()
    while not stopping:
        block = rng.randbytes(rng.choice((1, 1000, 30_000)))
        sent.update(block)
        writer.write(block)
        await writer.drain()
        got.update(await reader.readexactly(len(block)))
        rounds[i] += 1
    writer.close()
    result[i] = sent.hexdigest() == got.hexdigest()
async def main():
    global stopping
    tasks = [asyncio.create_task(run(i)) for i in range(N)]
    loop = asyncio.get_running_loop()
    print(host.addresses[0].partition("/")[0], flush=True)
    while (line := await loop.run_in_executor(None, sys.stdin.readline)) == "rounds\\n":
        for task in tasks:
            if task.done():
                task.result()
        print(json.dumps(rounds), flush=True)
    stopping = True
    await asyncio.gather(*tasks)
    print(json.dumps(result), flush=True)
with asyncio.Runner(loop_factory=netstack.aio.new_event_loop) as runner:
    runner.run(main())
"""


class Program:
    def __init__(self, code, *argv):
        self.process = subprocess.Popen([sys.executable, "-c", code, *argv], cwd=ROOT, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()
        assert self.address

    def ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the program ended"
        return json.loads(answer)

    def close(self):
        self.process.kill()
        self.process.communicate()


def squats(nursery, address):
    """Whether a new stack can have this address."""
    try:
        attach(nursery.name, address).close()
    except AddressTakenError:
        return False
    return True


@pytest.mark.timeout(900)
def test_f2_every_connection_survives_the_router_s_death(nursery):
    """100 kills at random moments: connections of threads and of an event loop, one that idles all the time, streams
    equal, addresses with their owners after each."""
    rng = random.Random(2)
    programs = []
    with netstack.attach(nursery.name) as idle:
        try:
            programs.append(Program(SERVER, nursery.name))
            server = programs[0].address
            programs += [Program(code, nursery.name, server) for code in (THREADS, ASYNCIO)]
            clients = programs[1:]
            owners = nursery.attachments()
            kept = idle.create_connection((server, 7), LIMIT)
            for kill in range(scale(100)):
                before = [client.ask("rounds") for client in clients]
                time.sleep(rng.uniform(0, 0.02))
                nursery.end()
                time.sleep(rng.choice((0, 0, 0.05)))
                nursery.start()
                assert not squats(nursery, rng.choice([p.address for p in programs]))
                for client, rounds in zip(clients, before, strict=True):
                    wait_until(lambda client=client, rounds=rounds: all(
                        now > then + 1 for now, then in zip(client.ask("rounds"), rounds, strict=True)), LIMIT)
                wait_until(lambda: nursery.attachments() == owners)
                if kill % 10 == 9:
                    kept.sendall(b"still here")
                    assert kept.recv(100) == b"still here"
            kept.sendall(b"and in the end")
            assert kept.recv(100) == b"and in the end"
            assert [client.ask("end") for client in clients] == [[True] * 4] * 2
            assert idle.counters()["link_outages"] == scale(100)
        finally:
            for program in programs:
                program.close()


# --- one stack in this process, seen closely


@pytest.fixture
def pair(nursery):
    """Two hosts of this process on a router of another one."""
    with netstack.attach(nursery.name, drain=1) as a, netstack.attach(nursery.name, drain=1) as b:
        yield a, b


def connected(a, b, port=80):
    with b.create_server((address_of(b), port)) as listener:
        client = a.create_connection((address_of(b), port), LIMIT)
        server, _ = listener.accept()
    server.settimeout(LIMIT)
    return client, server


def lease_of(host):
    return host._lease


def down(host):
    wait_until(lambda: lease_of(host).down)


def up(host):
    wait_until(lambda: not lease_of(host).down, LIMIT)


def test_f2_what_was_sent_while_there_is_no_router_arrives_later(nursery, pair):
    a, b = pair
    client, server = connected(a, b)
    with client, server:
        nursery.end()
        down(a), down(b)
        client.sendall(b"x" * 10_000)
        server.sendall(b"y" * 10_000)
        assert a.counters()["drop_link_down"] > 0
        nursery.start()
        for s, byte in ((server, b"x"), (client, b"y")):
            got = b""
            while len(got) < 10_000:
                got += s.recv(65536)
            assert got == byte * 10_000
        wait_until(lambda: lease_of(a).returns == lease_of(b).returns == 1)     # told behind the first packets


def test_f2_down_is_said_after_the_link_is_and_up_after_the_link_is(nursery, pair, monkeypatch):
    """Who was told that the router is gone finds packets dropped and counted, not laid into its rings."""
    lease = lease_of(pair[0])
    said = []

    class Watched:
        def change_links(self, resume=False, driver=lease._driver):
            said.append(lease.down)
            return driver.change_links(resume)

    monkeypatch.setattr(lease, "_driver", Watched())
    nursery.restart()
    wait_until(lambda: lease.returns == 1, LIMIT)
    assert said == [False, True]


def test_f2_a_thread_that_waits_all_the_time_gets_its_bytes(nursery, pair):
    a, b = pair
    client, server = connected(a, b)
    got = []
    with client, server:
        thread = threading.Thread(target=lambda: got.append(client.recv(100)))
        thread.start()
        for _ in range(3):
            nursery.end()
            down(a), down(b)
            nursery.start()
            up(a), up(b)
        server.sendall(b"hello")
        thread.join(LIMIT)
        assert got == [b"hello"]


def test_f2_a_connect_under_way_goes_on(nursery, pair):
    a, b = pair
    with b.create_server((address_of(b), 80)) as listener, a.socket() as s:
        s.settimeout(LIMIT)
        nursery.end()
        down(a), down(b)
        result = []
        thread = threading.Thread(target=lambda: result.append(s.connect((address_of(b), 80))))
        thread.start()
        wait_until(lambda: a.counters()["drop_link_down"] > 0)
        nursery.start()
        thread.join(LIMIT)
        assert result == [None]
        listener.accept()[0].close()


def test_f2_a_selector_tells_of_what_came_after_a_restart(nursery, pair):
    import selectors

    a, b = pair
    client, server = connected(a, b)
    with client, server, selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ)
        assert selector.select(0) == []
        nursery.restart()
        server.sendall(b"hello")
        assert selector.select(LIMIT)
        assert client.recv(10) == b"hello"


def test_f2_datagrams_are_lost_meanwhile_and_pass_again_afterwards(nursery, pair):
    a, b = pair
    with a.socket(type=socket.SOCK_DGRAM) as one, b.socket(type=socket.SOCK_DGRAM) as two:
        two.bind((address_of(b), 53))
        two.settimeout(LIMIT)
        nursery.end()
        down(a), down(b)
        one.sendto(b"lost", (address_of(b), 53))
        nursery.start()
        up(a), up(b)
        one.sendto(b"passes", (address_of(b), 53))
        assert two.recv(100) == b"passes"


def test_f2_a_router_that_ends_on_purpose_ends_its_connections_at_once(nursery, pair):
    a, b = pair
    client, server = connected(a, b)
    with client, server:
        nursery.end(signal.SIGTERM)
        with pytest.raises(OSError, match="reset"):
            client.recv(10)
        with a.socket() as s, pytest.raises(OSError, match="down"):
            s.connect((address_of(b), 80))
        assert not lease_of(a).down
        nursery.start()                          # and leaves nothing for the next
        assert nursery.attachments() == {}
        with attach(nursery.name, address_of(a)):
            pass


def test_f2_patience_ends(nursery):
    with netstack.attach(nursery.name, drain=1, reconnect=0.3) as a, netstack.attach(nursery.name, drain=1,
                                                                                  reconnect=0) as b:
        client, server = connected(a, b)
        with client, server:
            nursery.end()
            for s in (server, client):           # the one at once, the other when its patience is over
                with pytest.raises(OSError, match="reset"):
                    s.recv(10)
            assert a.counters()["link_outages"] == 1 and b.counters()["link_outages"] == 0


def test_f2_the_last_bytes_of_a_closed_socket_arrive_through_the_next_router(nursery):
    with netstack.attach(nursery.name) as b:
        a = netstack.attach(nursery.name)
        client, server = connected(a, b)
        with server:
            nursery.end()
            down(a), down(b)
            client.sendall(b"bye")
            client.close()
            closing = threading.Thread(target=a.close)
            closing.start()
            nursery.start()
            assert server.recv(10) == b"bye" and server.recv(10) == b""
            server.close()
            closing.join(LIMIT)
            assert not closing.is_alive()


def test_f2_who_died_with_the_router_is_reset_when_its_hold_is_over(runtime):
    """Nobody waits for ever for a stack that does not come back."""
    with Nursery() as nursery:
        dies_with_the_router(nursery)


def dies_with_the_router(nursery):
    code = "import netstack, sys; h = netstack.attach(sys.argv[1]); s = h.create_server(('', 7))\n" \
           "print(h.addresses[0].partition('/')[0], flush=True); c, _ = s.accept(); sys.stdin.read()"
    with netstack.attach(nursery.name, drain=1) as a:
        peer = Program(code, nursery.name)
        with contextlib.closing(peer), a.create_connection((peer.address, 7), LIMIT) as s:
            nursery.end()
            peer.close()
            nursery.start()
            up(a)
            assert not squats(nursery, peer.address)
            s.sendall(b"are you there?")
            with pytest.raises(ConnectionResetError):
                s.recv(10)                       # after 10 s
        wait_until(lambda: squats(nursery, peer.address), LIMIT)


def test_f2_a_forked_child_does_not_come_back_in_its_parent_s_place(nursery, pair):
    a, b = pair
    client, server = connected(a, b)
    with client, server:
        child = os.fork()
        if child == 0:
            time.sleep(LIMIT)
            os._exit(0)
        try:
            nursery.restart()
            client.sendall(b"hello")
            assert server.recv(10) == b"hello"
            assert list(nursery.attachments()) == [os.getpid()]
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_f2_a_host_can_be_closed_while_its_router_is_gone(nursery):
    a = netstack.attach(nursery.name, drain=1)
    nursery.end()
    down(a)
    a.close()
    assert a.closed
    nursery.start()
    time.sleep(0.1)                                   # in which it would come back, and stay
    wait_until(lambda: nursery.attachments() == {}, LIMIT)      # an attempt under way at close() undoes itself


def test_f2_a_router_with_other_addresses_is_not_taken_for_the_old_one(runtime):
    with Nursery(pool="10.1.0.0/16") as first, netstack.attach(first.name, drain=0, reconnect=2) as a:
        second = Nursery(pool="10.2.0.0/16")
        first.end()
        with second:
            wait_until(lambda: "not in the pool" in lease_of(a)._complaint)
            assert lease_of(a).down
            with a.socket() as s, pytest.raises(OSError, match="down"):
                s.connect(("10.1.0.1", 80))      # until its patience is over
            assert lease_of(a).returns == 0


def test_f16_a_second_router_of_the_name_refuses_and_takes_nothing(nursery, pair):
    a, b = pair
    client, server = connected(a, b)
    with client, server:
        with pytest.raises(RouterError, match="running already") as caught:
            netstack.Router(name=nursery.name)
        assert caught.value.errno == errno.EADDRINUSE
        client.sendall(b"hello")
        assert server.recv(10) == b"hello"
        nursery.restart()                        # what the refused one might have done to the journal
        client.sendall(b"again")
        assert server.recv(10) == b"again"


# --- an address that stacks share: ports come back, too


@pytest.fixture
def sharers(runtime):
    with Nursery(addressing="interface") as nursery, netstack.attach(nursery.name, drain=1) as a, netstack.attach(
            nursery.name, drain=1) as b:
        assert a.addresses == b.addresses
        yield nursery, a, b


def test_f2_ports_of_a_shared_address_come_back_to_their_stacks(sharers):
    nursery, a, b = sharers
    listener = b.create_server((address_of(b), 80))
    client = a.create_connection((address_of(b), 80), LIMIT)       # from a leased port
    server, _ = listener.accept()
    server.settimeout(LIMIT)
    leased = sorted(lease_of(a).ports.leased(0))
    with client, server, listener:
        for i in range(3):
            nursery.restart()
            client.sendall(b"%d" % i)
            assert server.recv(10) == b"%d" % i
            up(a), up(b)
            with a.create_connection((address_of(b), 80), LIMIT) as another:
                listener.accept()[0].close()
                assert another.recv(10) == b""
            with a.socket() as s, pytest.raises(OSError, match="in use"):
                s.bind((address_of(a), 80))
        assert sorted(lease_of(a).ports.leased(0)) == leased


def test_f2_nobody_gets_a_port_that_waits_for_its_stack(sharers):
    """Who was not there before the crash gets neither the port nor, among its leases, the numbers of others; and what
    comes for the port meanwhile is not refused."""
    nursery, a, b = sharers
    with b.create_server((address_of(b), 80)) as listener, a.create_connection((address_of(b), 80), LIMIT) as client:
        server, _ = listener.accept()
        server.settimeout(LIMIT)
        taken = lease_of(a).ports.leased(0)
        nursery.end()
        down(a), down(b)
        with lease_of(a)._lock, lease_of(b)._lock:                 # they come back when these are let go
            nursery.start()
            with netstack.attach(nursery.name, drain=1) as thief:
                with thief.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    with pytest.raises(OSError, match="in use"):
                        s.bind((address_of(a), 80))
                    s.settimeout(0.1)
                    with pytest.raises(TimeoutError):
                        s.connect((address_of(a), 80))             # silence, no reset
                assert not set(lease_of(thief).ports.leased(0)) & set(taken)
        client.sendall(b"hello")
        assert server.recv(10) == b"hello"
        server.close()


def test_f2_a_port_of_who_did_not_come_back_is_there_for_others_of_its_user(sharers):
    nursery, a, b = sharers
    with b.create_server((address_of(b), 80)):
        nursery.end()
        down(a), down(b)
        b.close()
        nursery.start()
        with a.socket() as s:

            def bound():
                try:
                    s.bind((address_of(a), 80))
                except OSError:
                    return False
                return True

            wait_until(bound, LIMIT)
