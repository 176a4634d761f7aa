"""Servers of the kernel that the tests of the uplink ``user`` talk to, on the machine's loopback."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading

MACHINE = "10.77.0.1"            # with ``loopback=10.77.0.1``
NAMES = "10.77.255.254"          # where the uplink itself is, in the usual pool


@contextlib.contextmanager
def tcp_server(handle, address="127.0.0.1", backlog=512):
    """A server that runs ``handle(connection)`` in a thread each; yields its port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family, backlog=backlog)

    def one(connection):
        with connection, contextlib.suppress(OSError):
            connection.settimeout(60)
            handle(connection)

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@contextlib.contextmanager
def udp_server(answer, address="127.0.0.1"):
    """A server that sends ``answer(data, sender)`` back, unless that is None; yields its port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    over = False

    def serve():
        while True:
            data, sender = sock.recvfrom(65535)
            if over:
                return
            back = answer(data, sender)
            if back is not None:
                sock.sendto(back, sender)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        over = True
        with socket.socket(family, socket.SOCK_DGRAM) as last:
            last.sendto(b"", sock.getsockname()[:2])
        thread.join()
        sock.close()


def echo(connection):
    """Everything back, and the end of file too."""
    while data := connection.recv(65536):
        connection.sendall(data)


def free_port(kind=socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 where nobody is."""
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def data_of(seed: int, n: int) -> tuple[bytes, str]:
    """`n` bytes and their SHA-256."""
    data = random.Random(seed).randbytes(n)
    return data, hashlib.sha256(data).hexdigest()


def digest_of(connection) -> tuple[int, str]:
    """How much came until the end of file, and its SHA-256."""
    n, digest = 0, hashlib.sha256()
    while data := connection.recv(262144):
        n += len(data)
        digest.update(data)
    return n, digest.hexdigest()


def send_all(connection, data) -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
