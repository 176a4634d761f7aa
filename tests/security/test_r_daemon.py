"""Rules R1 to R20 of security 2.3 with the daemon in the router's role; more of them in ``tests/daemon``."""

import ctypes
import errno
import hashlib
import mmap
import os
import pathlib
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import netstack
from netstack.daemon.client import Client
from netstack.daemon.paths import socket_path
from netstack.daemon.protocol import NOTES_BYTES, PAGE, Message, Type
from netstack.daemon.server import Server
from netstack.log_limit import BURST
from rings.shared_memory import F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, SEALS
from tests.daemon.conftest import LIMIT, daemon, environment, host, pair  # noqa: F401
from tests.daemon.hostile import HEAD_INDEX, TAIL, WORDS
from tests.daemon.test_hostile import bystanders, hostile, listener  # noqa: F401
from tests.router.lan import wait_until
from tests.security.rig import epoll_events
from tests.security.test_r_router_life import stop_the_clock
from tests.security.test_r_router_memory import beside, sealed, seals_of, workers  # noqa: F401
from tests.support import ROOT, descriptors, scale

RING = 256 << 10
OF_BOARD = 2                     # the upper half of the engine's words of data


@pytest.fixture
def server(environment):  # noqa: F811
    """A daemon in this process."""
    with Server(netstack.Host(address="10.0.0.1/24", drain=0), "default") as server:
        yield server


def stream(client, listener):  # noqa: F811
    """A connected stream of a client that keeps to no rule: number, memory, and the honest other end."""
    number, memory = client.connected(listener.getsockname())
    accepted, _ = listener.accept()
    accepted.settimeout(LIMIT)
    return number, memory, accepted


def exactly(sock, n):
    """So many bytes: a socket with a timeout gives what there is, MSG_WAITALL or not."""
    data = b""
    while len(data) < n:
        part = sock.recv(n - len(data))
        assert part, "ended"
        data += part
    return data


def quiet(server):
    """Wait until the daemon sleeps, and stays asleep for a tenth of a second."""
    def still():
        before = server.engine.rounds
        time.sleep(0.1)
        return server.engine.rounds - before < 20

    wait_until(still, 60)


def board_events(server):
    """What the daemon listens for on the bell of its one client."""
    [client] = server.clients.values()
    return epoll_events(OF_BOARD << 32 | client.number)


# --- memory

def test_r1_daemon_each_socket_and_each_board_has_memory_of_its_own(daemon, bystanders):  # noqa: F811
    with hostile() as one, hostile() as other:
        for client in (one, other):
            for _ in range(2):
                client.socket(Type.OPEN, a=2, b=1)
        files = {os.fstat(m.up_fd).st_ino for client in (one, other) for m in client.memories}
        assert len(files) == 6


def test_r3_daemon_memory_is_sealed_and_the_daemon_s_has_one_writer(daemon):  # noqa: F811
    with hostile() as client:
        for kind, fields in ((Type.OPEN, {"a": 2, "b": 1}), (Type.OPEN, {"a": 10, "b": 2})):
            _, fds = client.ask(kind, **fields)
            assert [seals_of(fd) for fd in fds] == [SEALS | F_SEAL_FUTURE_WRITE, SEALS]
            with pytest.raises(PermissionError):
                mmap.mmap(fds[0], PAGE)
            for fd in fds:
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, 0)
                os.close(fd)


GOOD = (SEALS | F_SEAL_FUTURE_WRITE, SEALS)


@pytest.mark.parametrize("seals, sizes", [
    (GOOD, (0, 0)), ((SEALS, SEALS), (0, 0)), ((0, 0), (0, 0)),
    ((F_SEAL_SEAL | F_SEAL_GROW | F_SEAL_FUTURE_WRITE, SEALS), (0, 0)),
    ((GOOD[0], 0), (0, 0)), ((GOOD[0], F_SEAL_SHRINK | F_SEAL_GROW), (0, 0)),
    (GOOD, (PAGE, 0)), (GOOD, (0, -PAGE)),
])
def test_r3_daemon_a_client_takes_memory_of_these_seals_and_this_size_alone(environment, seals, sizes):  # noqa: F811
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(socket_path(None))
        listening.listen()

        def answer():
            with listening.accept()[0] as sock:
                hello = Message.unpack(sock.recv(1 << 17))
                fds = [sealed(PAGE + NOTES_BYTES + more, s) for s, more in zip(seals, sizes, strict=True)]
                fds.append(os.eventfd(0))
                socket.send_fds(sock, [Message(Type.HELLO, hello.sequence, data=b"name x\npid 1").pack()], fds)
                for fd in fds:
                    os.close(fd)
                sock.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            if seals == GOOD and sizes == (0, 0):
                Client().close()
            else:
                with pytest.raises(OSError) as caught:
                    Client()
                assert caught.value.errno == errno.EPROTO
        finally:
            thread.join(LIMIT)


def test_r4_daemon_the_rings_have_all_their_pages_when_they_carry_data(daemon, listener):  # noqa: F811
    with hostile() as client:
        _, memory, accepted = stream(client, listener)
        status = os.fstat(memory.up_fd)
        assert status.st_blocks * 512 >= status.st_size == PAGE + RING
        accepted.close()


def test_r4_daemon_whatever_else_is_written_the_rings_are_what_they_were(daemon, listener, bystanders):  # noqa: F811
    """Nonsense all over the page, but for the two indices: bytes go both ways, for more than a lap."""
    rng = random.Random(4)
    with hostile() as client:
        number, memory, accepted = stream(client, listener)
        tail = taken = 0
        for _ in range(12):
            memory.up[WORDS:PAGE] = rng.randbytes(PAGE - WORDS)
            data = rng.randbytes(50_000)
            for i, byte in enumerate(data[:1000]):
                memory.up[PAGE + (tail + i) % RING] = byte
            tail += 50_000
            memory.put(TAIL, tail)
            client.note(number)
            assert exactly(accepted, 50_000)[:1000] == data[:1000]
            accepted.sendall(data)
            wait_until(lambda: struct.unpack_from("<Q", memory.down, TAIL)[0] == taken + 50_000)  # noqa: B023
            got = [memory.down[PAGE + (taken + i) % RING] for i in range(1000)]
            assert bytes(got) == data[:1000]
            taken += 50_000
            memory.put(HEAD_INDEX, taken)
            client.note(number)
        accepted.close()


def test_r20_daemon_memory_of_a_socket_that_is_gone_is_not_given_again(daemon, bystanders):  # noqa: F811
    secret = b"what the one before had"
    for _ in range(5):
        with hostile() as client:
            m, memory = client.socket(Type.OPEN, a=2, b=1)
            assert secret not in memory.up[:] and not any(memory.up[PAGE:PAGE + 4096])
            memory.up[PAGE:PAGE + len(secret)] = secret
            client.ask(Type.CLOSE, number=m.number)


# --- while clients write

def test_r7_daemon_notes_that_change_while_they_are_read(daemon, listener, bystanders, workers):  # noqa: F811
    """Between a socket's number and one that there is not: each is read once, and checked."""
    with hostile() as client:
        number, memory, accepted = stream(client, listener)
        board = (ctypes.c_char * 1).from_buffer(client.board.up)
        before = bystanders.count
        with beside(workers.flip, ctypes.addressof(board) + PAGE, 4, NOTES_BYTES // 4, number, 0xFFFFFFF0):
            for _ in range(scale(3000, 300)):
                client.board.put(TAIL, client.board.get(TAIL) + 1000)
                client.ring()
                wait_until(lambda: struct.unpack_from("<Q", client.board.down, HEAD_INDEX)[0] == client.board.get(TAIL),
                           LIMIT)
        del board
        memory.up[PAGE:PAGE + 5] = b"12345"
        memory.put(TAIL, 5)
        client.note(number)
        assert exactly(accepted, 5) == b"12345"
        wait_until(lambda: bystanders.problem or bystanders.count > before)
        accepted.close()


def test_r8_daemon_nothing_is_read_after_it_was_released(daemon, listener, workers):  # noqa: F811
    """What the daemon says to have taken is overwritten at once; the peer gets what was there."""
    rng = random.Random(8)
    with hostile() as client:
        number, memory, accepted = stream(client, listener)
        digests = []

        def read():
            digest = hashlib.sha256()
            while data := accepted.recv(1 << 20):
                digest.update(data)
            digests.append(digest.digest())

        reader = threading.Thread(target=read)
        reader.start()
        up = (ctypes.c_char * 1).from_buffer(memory.up)
        down = (ctypes.c_char * memory.capacity).from_buffer_copy(memory.down)     # only to know that it is mapped
        done, sent, tail = ctypes.c_uint64(0), hashlib.sha256(), 0
        head = address_of(memory.down) + HEAD_INDEX
        with beside(workers.reuse, ctypes.addressof(up) + PAGE, RING, head, ctypes.addressof(done)):
            for _ in range(scale(400, 60)):
                wait_until(lambda: tail - done.value < RING // 2, LIMIT)  # noqa: B023
                data = b"".join(bytes(8) + rng.randbytes(56) for _ in range(RING // 2 // 64))
                at = tail % RING
                memory.up[PAGE + at:PAGE + at + len(data)] = data
                sent.update(data)
                tail += len(data)
                memory.put(TAIL, tail)
                client.note(number)
            wait_until(lambda: done.value == tail, LIMIT)
        del up, down
        client.ask(Type.SHUTDOWN, number=number, a=1)
        reader.join(LIMIT)
        assert digests == [sent.digest()]
        accepted.close()


def address_of(readonly):
    """Where a mapping that may not be written begins."""
    holder = ctypes.py_object(readonly)
    view = (ctypes.c_ubyte * 80)()
    get = ctypes.pythonapi.PyObject_GetBuffer
    get.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    assert get(holder, ctypes.addressof(view), 0) == 0
    address = ctypes.c_void_p.from_buffer(view).value
    ctypes.pythonapi.PyBuffer_Release.argtypes = [ctypes.c_void_p]
    ctypes.pythonapi.PyBuffer_Release(ctypes.addressof(view))
    return address


def test_r9_daemon_locks_of_its_clients_are_nothing_to_it(daemon, listener, bystanders):  # noqa: F811
    """Both locks of a socket held for ever, or nonsense: bytes go on."""
    with hostile() as client:
        number, memory, accepted = stream(client, listener)
        for fill in (0xFF, 0x01, 0x80):
            memory.up[192:320] = bytes([fill]) * 128         # where they lie
            tail = memory.get(TAIL)
            memory.put(TAIL, tail + 100)
            client.note(number)
            assert len(exactly(accepted, 100)) == 100
        assert client.ask(Type.CLOSE, number=number)[0].status == 0
        accepted.close()


# --- bells

def test_r10_daemon_a_bell_is_never_read_and_wakes_once(server):
    with hostile() as client:
        quiet(server)
        assert board_events(server) & select.EPOLLET     # from the beginning, not only after a storm
        for _ in range(5):
            client.ring()
        quiet(server)                                    # though the bell stays readable
        assert board_events(server) & select.EPOLLET
        assert os.eventfd_read(client.bell) == 5


def test_r10_daemon_a_bell_that_cannot_take_more_makes_nobody_wait(daemon, bystanders):  # noqa: F811
    with hostile() as client:
        os.eventfd_write(client.bell, 2**64 - 2)
        os.set_blocking(client.bell, True)
        before = bystanders.count
        for _ in range(20):
            assert client.ask(Type.OPEN, a=2, b=2)[0].status == 0
        wait_until(lambda: bystanders.problem or bystanders.count > before + 20)


def test_r11_daemon_a_storming_bell_is_heard_now_and_then(server):
    """64 times in vain, then 10 ms not at all; what it has to say is seen all the same."""
    with hostile() as client:
        quiet(server)
        before, began, rung, muted = server.engine.rounds, time.monotonic(), 0, False
        while rung < 20_000 or server.engine.rounds < before + 64 or not muted:
            client.ring()
            rung += 1
            muted = muted or not board_events(server) & select.EPOLLIN
            assert muted or server.engine.rounds < before + 100 * 64
        passed = time.monotonic() - began
        assert server.engine.rounds - before <= 2 * 64 * (passed / 0.010 + 2)
        client.note(1)
        wait_until(lambda: struct.unpack_from("<Q", client.board.down, HEAD_INDEX)[0] == 1)
        answer, _ = client.ask(Type.OPEN, a=2, b=2)
        assert answer.status == 0
        quiet(server)
        client.note(2)                                   # and heard again
        wait_until(lambda: struct.unpack_from("<Q", client.board.down, HEAD_INDEX)[0] == 2)
    assert server.detached == 0


def test_r11_daemon_a_muted_client_that_leaves_is_forgotten(server):
    for _ in range(3):
        with hostile() as client:
            before = server.engine.rounds
            while server.engine.rounds < before + 200:
                client.ring()
    wait_until(lambda: not server.clients)
    quiet(server)


# --- ends

def test_r12_daemon_a_stream_that_is_not_read_is_backpressure_to_its_peer(daemon, listener, bystanders):  # noqa: F811
    with hostile() as client:
        _, memory, accepted = stream(client, listener)
        accepted.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 30:
                sent += accepted.send(bytes(1 << 20))
        assert struct.unpack_from("<Q", memory.down, TAIL)[0] <= RING
        before = bystanders.count
        wait_until(lambda: bystanders.problem or bystanders.count > before + 20)
        accepted.close()


def test_r13_daemon_poison_ends_those_clients_and_is_told_now_and_then(server, caplog, monkeypatch):
    stop_the_clock("netstack.daemon", monkeypatch, caplog)
    with netstack.attach(mode="daemon") as honest, honest.create_server(("127.0.0.1", 0), backlog=16) as listening:
        listening.settimeout(LIMIT)
        with honest.create_connection(listening.getsockname(), LIMIT) as one, listening.accept()[0] as other:
            wait_until(lambda: len(server.clients) == 1)
            sockets, before = len(server.sockets), len(descriptors())
            for n in range(3 * BURST):
                with hostile() as client:
                    number, memory, accepted = stream(client, listening)
                    memory.put(TAIL, 1 << 40)
                    client.note(number)
                    assert client.is_cut_off()
                    accepted.close()
                one.sendall(b"%04d" % n)
                assert exactly(other, 4) == b"%04d" % n
            assert server.detached == 3 * BURST
            wait_until(lambda: len(server.sockets) == sockets and len(descriptors()) <= before)
    assert len([r for r in caplog.records if "cut off" in r.getMessage()]) == BURST


def test_r16_daemon_nothing_that_it_shares_has_a_name(daemon, pair):  # noqa: F811
    folder = pathlib.Path(f"/proc/{daemon.process.pid}/fd")
    shared = [os.readlink(fd) for fd in folder.iterdir()]
    assert sum(name.startswith("/memfd:") for name in shared) >= 6
    assert not any(name.startswith("/dev/shm") for name in shared)


COMES_BACK = """
import sys
import netstack
host = netstack.attach("default", mode="daemon")
with host.create_server(("", 7)) as listener:
    print(host.addresses[0].partition("/")[0], flush=True)
    s, _ = listener.accept()
    while data := s.recv(100):
        s.sendall(data)
"""
ROUTER = "import sys, netstack; r = netstack.Router(name='below'); print('up', flush=True); sys.stdin.read()"
SERVES = """
import sys
import netstack
from netstack.daemon.server import Server
with Server(netstack.attach("below", drain=0), "default"):
    print("up", flush=True)
    sys.stdin.read()
"""


def test_r18_daemon_its_clients_connections_outlive_a_router_that_is_killed(environment):  # noqa: F811
    """The daemon is a stack of the router's: it comes back to the next one by its token, its clients see nothing."""
    started = []

    def start(code):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        started.append(process)
        return process, process.stdout.readline().strip()

    try:
        router, _ = start(ROUTER)
        start(SERVES)
        _, address = start(COMES_BACK)
        with netstack.attach("below", drain=0) as peer, peer.create_connection((address, 7), LIMIT) as s:
            s.settimeout(60)
            for n in range(20):
                if n == 5:
                    router.kill()
                    router.wait()
                if n == 6:
                    start(ROUTER)
                s.sendall(b"%d" % n)
                if n != 5:
                    wanted = b"%d" % n if n != 6 else b"56"
                    assert exactly(s, len(wanted)) == wanted
    finally:
        for process in reversed(started):
            process.kill()
            process.communicate()
