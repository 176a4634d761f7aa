"""The programs of ``bench.placements``: they know the standard library's sockets and nothing of where their stack is.

``python -m bench.placed server TEST ...`` serves one client, ``client TEST ...`` measures and prints JSON, ``pair TEST
...`` runs both over a channel of their own, for which there is no command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import time

PORT = 5001
MESSAGE = 64                     # bytes of a round trip
CHUNK = 256 << 10                # bytes a call
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def busy() -> tuple[list[int], int]:
    """How long each core has worked since boot (ns; interrupts included), and how often tasks were switched."""
    cores, switches = [], 0
    with open("/proc/stat") as file:
        for line in file:
            name, *values = line.split()
            if name.startswith("cpu") and name != "cpu":
                user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, values)
                cores.append((user + nice + system + irq + softirq) * TICK_NS)
            elif name == "ctxt":
                switches = int(values[0])
    return cores, switches


def receive(s: socket.socket, buffer: memoryview) -> bool:
    """A whole buffer; False at the end of the stream."""
    have = 0
    while have < len(buffer):
        n = s.recv_into(buffer[have:])
        if not n:
            return False
        have += n
    return True


def swallow(s: socket.socket, selecting: bool) -> None:
    """Read to the end of the stream, asleep in ``recv`` or in a selector."""
    buffer = bytearray(CHUNK)
    if not selecting:
        while s.recv_into(buffer):
            pass
        return
    s.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(s, selectors.EVENT_READ)
        while True:
            selector.select()
            try:
                while s.recv_into(buffer):
                    pass
                break
            except BlockingIOError:
                continue
    s.setblocking(True)


def serve(listener: socket.socket, test: str, selecting: bool) -> None:
    if test == "connect":
        while True:
            s, _ = listener.accept()
            with s:
                if s.recv(1) == b"!":                      # the last one
                    return
    s, _ = listener.accept()
    with s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if test == "bulk":
            swallow(s, selecting)
            s.sendall(b"!")
        else:
            buffer = memoryview(bytearray(MESSAGE))
            while receive(s, buffer):
                s.sendall(buffer)


def drive(address: str, test: str, seconds: float) -> dict[str, object]:
    """The client: what was done, in how long, with how much of each core and how many switches."""
    if test == "connect":
        count, before, start = 0, busy(), time.perf_counter()
        while time.perf_counter() < start + seconds:
            with socket.create_connection((address, PORT)) as s:
                s.shutdown(socket.SHUT_WR)
                s.recv(1)
            count += 1
        took, after = time.perf_counter() - start, busy()
        with socket.create_connection((address, PORT)) as s:
            s.sendall(b"!")
            s.recv(1)
    else:
        with socket.create_connection((address, PORT)) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transfer = pour if test == "bulk" else bounce
            transfer(s, min(seconds, 0.1))                 # windows and buffers grow, spins learn
            before, start = busy(), time.perf_counter()
            count = transfer(s, seconds)
            if test == "bulk":
                s.shutdown(socket.SHUT_WR)
                s.recv(1)
            took, after = time.perf_counter() - start, busy()
    return {"count": count, "seconds": took, "switches": after[1] - before[1],
            "cores_ns": [b - a for a, b in zip(before[0], after[0], strict=True)]}


def pour(s: socket.socket, seconds: float) -> int:
    """Bytes sent."""
    data, count, end = bytes(CHUNK), 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        s.sendall(data)
        count += CHUNK
    return count


def bounce(s: socket.socket, seconds: float) -> int:
    """Round trips."""
    message, buffer = bytes(MESSAGE), memoryview(bytearray(MESSAGE))
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        s.sendall(message)
        receive(s, buffer)
        count += 1
    return count


def move_threads(core: int) -> None:
    """All threads but this one to another core: of a library stack, its service thread."""
    for thread in map(int, os.listdir("/proc/self/task")):
        if thread != os.getpid():
            os.sched_setaffinity(thread, {core})


def server(options, told) -> None:
    os.sched_setaffinity(0, {options.core})
    with socket.create_server((options.bind or options.address, PORT), backlog=128) as listener:
        if options.threads is not None:
            move_threads(options.threads)
        told()
        serve(listener, options.test, options.select)


def client(options) -> None:
    os.sched_setaffinity(0, {options.core})
    print(json.dumps(drive(options.address, options.test, options.seconds)), flush=True)


def pair(options) -> None:
    """Two processes, a stack in each, and a channel between them."""
    import netstack

    here, there = netstack.link.channel_pair()
    ready, told = os.pipe()
    cores = (options.core, options.other)
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {cores[1]})
            options.core, options.bind = cores[1], "10.0.0.2"
            with netstack.Host(link=there.adopt(), address="10.0.0.2/24", drain=1) as host, host.patch():
                server(options, lambda: os.write(told, b"!"))
        finally:
            os._exit(0)
    os.read(ready, 1)
    os.sched_setaffinity(0, {cores[0]})
    try:
        with netstack.Host(link=here, address="10.0.0.1/24", drain=1) as host, host.patch():
            options.address = "10.0.0.2"
            client(options)
    finally:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("role", choices=("server", "client", "pair"))
    parser.add_argument("test", choices=("bulk", "pingpong", "connect"))
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--bind", help="the server's, where it is not the address that clients use")
    parser.add_argument("--core", type=int, default=0, help="where the program runs")
    parser.add_argument("--other", type=int, default=1, help="of a pair: where the server runs")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--select", action="store_true", help="the server sleeps in a selector")
    parser.add_argument("--threads", type=int, help="the server's other threads go to this core")
    options = parser.parse_args()
    if options.role == "server":
        server(options, lambda: print("ready", flush=True))
    else:
        {"client": client, "pair": pair}[options.role](options)


if __name__ == "__main__":
    main()
