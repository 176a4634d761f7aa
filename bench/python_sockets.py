"""What a Python program sees of sockets: the same loops over Hosts and over the kernel."""

from __future__ import annotations

import os
import socket
import time

CPUS = sorted(os.sched_getaffinity(0))
MESSAGE = b"m" * 64
CHUNK = 256 << 10
PORT = 5001


def pin(which):
    if len(CPUS) > which:
        os.sched_setaffinity(0, {CPUS[which]})


def receive(s, buffer):
    """A whole message."""
    n = s.recv_into(buffer)
    while n < len(buffer):
        got = s.recv_into(memoryview(buffer)[n:])
        if not got:
            return 0
        n += got
    return n


def serve(listener, test):
    """The other process: accept one connection, echo or swallow it."""
    s, _ = listener.accept()
    if test == "pingpong":
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(len(MESSAGE))
        while receive(s, buffer):
            s.sendall(buffer)
    else:
        buffer, n = bytearray(CHUNK), 1
        while n:
            n = s.recv_into(buffer)
        s.sendall(b"!")
    s.close()


def drive(s, test, seconds):
    """Us a round trip, or Gbit/s until the last byte was read."""
    count, buffer = 0, bytearray(len(MESSAGE))
    if test == "pingpong":
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        end = start + seconds
        while (now := time.perf_counter()) < end:
            s.sendall(MESSAGE)
            receive(s, buffer)
            count += 1
        return (now - start) / count * 1e6
    data = bytes(CHUNK)
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        s.sendall(data)
        count += CHUNK
    s.shutdown(socket.SHUT_WR)
    s.recv(1)
    return count * 8e-9 / (time.perf_counter() - start)


def kernel_pair(test):
    listener = socket.socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    pid = os.fork()
    if pid == 0:
        try:
            pin(1)
            serve(listener, test)
        finally:
            os._exit(0)
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    s.connect(listener.getsockname())
    return s, pid, (listener,)


def host_pair(test, spin_us):
    import netstack
    from netstack.host import Host

    one, two = netstack.link.channel_pair()
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            pin(1)
            with Host(link=two.adopt(), address="10.0.0.2/24", spin_us=spin_us) as host:
                listener = host.create_server(("10.0.0.2", PORT))
                os.write(told, b"!")
                serve(listener, test)
        finally:
            os._exit(0)
    os.read(ready, 1)
    host = Host(link=one, address="10.0.0.1/24", spin_us=spin_us)
    return host.create_connection(("10.0.0.2", PORT)), pid, (host,)


def call(kind, seconds, which="call"):
    """Of 64 bytes in one thread, on a connection to itself: us of one send and one recv, or ns of one ``send`` or one
    ``recv`` alone, a hundred in a row."""
    if kind == "kernel":
        listener = socket.create_server(("127.0.0.1", 0))
        out = socket.create_connection(listener.getsockname())
    else:
        from netstack.host import Host

        host = Host()
        listener = host.create_server(("127.0.0.1", PORT))
        out = host.create_connection(("127.0.0.1", PORT))
    into, _ = listener.accept()
    out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    send, recv, message, clock = out.send, into.recv, MESSAGE, time.perf_counter
    count, start = 0, clock()
    end = start + seconds
    sending = receiving = 0.0
    while (now := clock()) < end:
        if which == "call":
            for _ in range(100):
                send(message)
                recv(64)
        else:
            for _ in range(100):
                send(message)
            between = clock()
            for _ in range(100):
                recv(64)
            sending += between - now
            receiving += clock() - between
        count += 100
    return {"call": (now - start) * 1e6, "send": sending * 1e9, "recv": receiving * 1e9}[which] / count


def run(kind, test, seconds, spin_us=50):
    """Measure one test over ``"hosts"`` or ``"kernel"``."""
    if test in ("call", "send", "recv"):
        pin(0)
        return call(kind, seconds, test)
    s, pid, keep = kernel_pair(test) if kind == "kernel" else host_pair(test, spin_us)
    try:
        pin(0)
        return drive(s, test, seconds)
    finally:
        s.close()
        deadline = time.monotonic() + 5
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, 9)
            time.sleep(0.01)
        for one in keep:
            one.close()
