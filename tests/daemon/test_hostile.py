"""Clients that lie: what one sends or writes ends its own attachment, and nobody else notices (security 2.3, F5)."""

import array
import contextlib
import ctypes
import errno
import os
import random
import socket
import struct
import threading

import pytest

from netstack.daemon.protocol import DATA_MOST, PAGE, Message, Type
from tests.daemon.conftest import LIMIT
from tests.daemon.hostile import HEAD_INDEX, TAIL, Hostile, raw_message

MUTATIONS = int(os.environ.get("NETSTACK_HOSTILE_MUTATIONS", "20000"))
libc = ctypes.CDLL(None, use_errno=True)


class Bystanders:
    """A connection of honest clients, which carries numbered messages for as long as the block lasts."""

    def __init__(self, pair) -> None:
        self.client, self.server = pair
        self.count = 0
        self.problem: BaseException | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                number = b"%08d" % self.count
                self.client.sendall(number)
                assert self.server.recv(8, socket.MSG_WAITALL) == number
                self.count += 1
        except BaseException as error:  # noqa: BLE001 - told by __exit__
            self.problem = error

    def __enter__(self) -> "Bystanders":
        self.server.settimeout(None)
        self.thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self.stop.set()
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        assert self.problem is None
        assert self.count > 0


@pytest.fixture
def bystanders(pair):
    with Bystanders(pair) as bystanders:
        yield bystanders


@pytest.fixture
def listener(host):
    with host.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.settimeout(LIMIT)
        yield listener


@contextlib.contextmanager
def hostile(hello: bool = True):
    client = Hostile(hello)
    try:
        yield client
    finally:
        client.close()


# --- messages


@pytest.mark.parametrize("raw", [
    b"", b"x", raw_message()[:-1], raw_message(magic=1), raw_message(version=2), raw_message(kind=2),
    raw_message(kind=99), raw_message(data=bytes(DATA_MOST + 1)),
], ids=["empty", "short", "one byte short", "magic", "version", "no HELLO", "unknown", "too long"])
def test_r15_daemon_a_first_message_that_is_none_ends_the_client(daemon, bystanders, raw):
    with hostile(hello=False) as client:
        client.sock.send(raw)
        assert client.is_cut_off()


@pytest.mark.parametrize("raw", [raw_message(), raw_message(kind=0), raw_message(kind=200), b"y" * 64])
def test_a_later_one_does_too(daemon, bystanders, raw):
    with hostile() as client:
        client.sock.send(raw)
        assert client.is_cut_off()
    assert daemon.state()[2] == 1


def test_r2_daemon_descriptors_are_not_taken(daemon, bystanders):
    with hostile() as client, open(os.devnull) as file:
        client.sock.sendmsg([Message(Type.OPEN, a=2, b=1).pack()],
                            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()] * 3))])
        assert client.is_cut_off()


def test_r15_daemon_who_says_nothing_is_cut_off(daemon, bystanders):
    with hostile(hello=False) as client:
        assert client.is_cut_off()


def test_r12_daemon_who_does_not_read_answers_is_cut_off(daemon, bystanders):
    with hostile() as client:
        client.sock.setblocking(False)
        sent, most = 0, 20_000
        with contextlib.suppress(ConnectionError):
            while daemon.state()[2] == 0 and sent < most:
                with contextlib.suppress(BlockingIOError):
                    for _ in range(1000):
                        client.sock.send(Message(Type.OPEN, a=2, b=1).pack())
                        sent += 1
    assert sent < most
    daemon.until(lambda state: state[:2] == (3 if state[0] > 2 else 2, 1))


def test_r6_daemon_sockets_of_others_cannot_be_told_from_none(daemon, pair, bystanders):
    number = pair[0]._handle.number
    with hostile() as client:
        for kind in set(Type) - {Type.HELLO, Type.OPEN, Type.RESERVE, Type.RELEASE, Type.ROUTE}:
            for which in (number, number + 1000, 0xFFFFFFFF):
                answer, fds = client.ask(kind, number=which, key=random.getrandbits(64), c=1)
                assert (answer.status, fds) == (errno.EBADF, []), Type(kind)


def test_r15_daemon_reservations_are_bounded(daemon, bystanders):
    with hostile() as client:
        answers = [client.ask(Type.RESERVE)[0].status for _ in range(100)]
        assert answers == [0] * 64 + [errno.EAGAIN] * 36


def test_a_reservation_of_named_sockets_holds_those_alone(daemon, pair, bystanders):
    """What a program that becomes another asks for: none that it does not have, and one reference of each."""
    with hostile() as client:
        kept, _ = client.socket(Type.OPEN, a=2, b=1)
        client.socket(Type.OPEN, a=2, b=1)
        others = pair[0]._handle.number
        for numbers in ((others,), (kept.number, 0xFFFFFFFF)):
            answer, _ = client.ask(Type.RESERVE, data=struct.pack(f"<{len(numbers)}I", *numbers))
            assert answer.status == errno.EBADF
        sockets = daemon.state()[0]
        answer, _ = client.ask(Type.RESERVE, data=struct.pack("<2I", kept.number, kept.number))
        assert answer.status == 0
    daemon.until(lambda state: state[0] == sockets - 1)        # the one that no reservation names is gone
    with hostile() as heir:
        heir.ask(Type.RELEASE, key=answer.key)
        daemon.until(lambda state: state[0] == sockets - 2 and state[3] == 0)


def test_a_reservation_that_is_cut_off_ends_its_client(daemon, bystanders):
    with hostile() as client:
        client.sock.send(Message(Type.RESERVE, data=b"12345").pack())
        assert client.is_cut_off()
    assert daemon.state()[2] == 1


def test_random_messages(daemon, listener, bystanders):
    rng = random.Random(5)
    clients = []
    for i in range(MUTATIONS // 4):
        if i % 500 == 0:
            clients.append(Hostile())
        client = clients[-1]
        numbers = [0, 1, 2, 17, 4096, 1 << 30, -1, rng.randrange(-1 << 31, 1 << 31)]
        fields = {name: rng.choice(numbers) for name in "abc"}
        kind = rng.choice([t for t in Type if t != Type.HELLO])
        if kind == Type.OPEN:
            fields = {"a": rng.choice([2, 10, 1]), "b": rng.choice([1, 2, 3]), "c": rng.choice([0, 6, 17, 1, 99])}
        message = Message(kind, number=rng.randrange(40), key=rng.getrandbits(64), address=rng.choice([
            bytes(10) + b"\xff\xff\x7f\0\0\1", rng.randbytes(16), bytes(16)]),
            port=rng.choice([0, listener.getsockname()[1], rng.randrange(1 << 16)]), scope=rng.getrandbits(32),
            data=rng.randbytes(rng.choice([0, 4, 8, 40, 1000])), **fields)
        try:
            client.sock.send(message.pack())
            _, fds = client.answer()
            for fd in fds:
                os.close(fd)
        except ConnectionError:
            clients.append(Hostile())
    for client in clients:
        client.close()
    daemon.until(lambda state: state[:2] == (3, 1))


# --- memory


@pytest.mark.parametrize("at, value", [
    (TAIL, 1 << 40), (TAIL, (1 << 64) - 1), (HEAD_INDEX, 1), (HEAD_INDEX, (1 << 64) - 1), (TAIL, (256 << 10) + 1),
])
def test_r5_daemon_an_index_that_cannot_be_ends_that_client_alone(daemon, listener, bystanders, at, value):
    with hostile() as client:
        number, memory = client.connected(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.settimeout(LIMIT)
        memory.put(at, value)
        client.note(number)
        assert client.is_cut_off()
        with pytest.raises(ConnectionResetError):
            accepted.recv(1)
        accepted.close()
    assert daemon.until(lambda state: state[:2] == (3, 1))[2] == 1


def test_r5_daemon_an_index_that_goes_back_ends_it_too(daemon, listener, bystanders):
    with hostile() as client:
        number, memory = client.connected(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.settimeout(LIMIT)
        memory.put(TAIL, 100)
        client.note(number)
        assert accepted.recv(100, socket.MSG_WAITALL) == bytes(100)
        memory.put(TAIL, 99)
        client.note(number)
        assert client.is_cut_off()
        accepted.close()


def test_r9_daemon_a_board_full_of_nonsense_ends_it(daemon, bystanders):
    with hostile() as client:
        client.board.put(TAIL, 5000)
        client.ring()
        assert client.is_cut_off()


def test_r6_daemon_notes_of_what_is_not_there_mean_nothing(daemon, bystanders):
    with hostile() as client:
        for number in (0xFFFFFFFF, 1 << 24, 8192, 8191, 0):
            client.note(number)
        while struct.unpack_from("<Q", client.board.down, HEAD_INDEX)[0] != client.board.get(TAIL):
            client.ask(Type.ROUTE)
        client.board.put(TAIL, client.board.get(TAIL) + 1024)      # as full as it can be
        client.ring()
        answer, _ = client.ask(Type.OPEN, a=2, b=2)
        assert answer.status == 0


def test_holes_in_its_own_memory_are_zeros(daemon, listener, bystanders):
    with hostile() as client:
        number, memory = client.connected(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.settimeout(LIMIT)
        memory.up[PAGE:PAGE + 5] = b"12345"
        assert libc.fallocate(memory.up_fd, 1 | 2, ctypes.c_long(PAGE), ctypes.c_long(memory.capacity)) == 0
        memory.put(TAIL, 5)
        client.note(number)
        assert accepted.recv(10) == bytes(5)
        accepted.close()


def test_a_storm_of_bells_stalls_nobody(daemon, bystanders):
    with hostile() as client:
        before = bystanders.count
        for _ in range(MUTATIONS):
            client.ring()
        while bystanders.count < before + 20:
            client.ring()
        assert client.ask(Type.OPEN, a=2, b=2)[0].status == 0


def test_f5_random_words_in_rings_and_boards(daemon, listener, bystanders):
    """`NETSTACK_HOSTILE_MUTATIONS` says how many; 10^8 is the figure of F5."""
    rng = random.Random(11)
    client, rings, before = None, [], bystanders.count
    sink = []
    for i in range(MUTATIONS):
        if client is None:
            client = Hostile()
            rings = [client.connected(listener.getsockname()) for _ in range(3)]
            sink = [listener.accept()[0] for _ in rings]
        number, memory = rng.choice(rings)
        target = rng.choice([memory, memory, memory, client.board])
        at = rng.choice([TAIL, HEAD_INDEX, *range(128, 148, 4), *range(192, 288, 8), PAGE + rng.randrange(4080)])
        form, bits = ("<I", 32) if 128 <= at < 148 else ("<Q", 64)
        now = target.get(at, form)
        value = rng.choice([now + 1, now + rng.randrange(100), now ^ 1 << rng.randrange(bits), rng.getrandbits(bits)]
                           if rng.random() < 0.03 else [now, now + 1, now + rng.randrange(30)])
        target.put(at, value & (1 << bits) - 1, form)
        client.note(number) if target is memory else client.ring()
        if i % 50 == 0:
            try:
                client.ask(Type.GETSOCKOPT, number=number, a=1, b=3, c=4)
            except ConnectionError:
                client.close()
                client = None
                for s in sink:
                    s.close()
    if client is not None:
        client.close()
    for s in sink:
        s.close()
    state = daemon.until(lambda state: state[:2] == (3, 1))
    assert state[2] > MUTATIONS // 2000
    assert bystanders.count > before
