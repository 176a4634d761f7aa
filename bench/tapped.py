"""Bulk data between a stack of ours on a TAP and the kernel behind it, in a network namespace of this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import time

from bench import build

CLONE_NEWNET = 0x40000000
CPUS = sorted(os.sched_getaffinity(0))
KERNEL, OURS, PORT = "10.9.0.1", "10.9.0.2", 5001
CHUNK = 256 << 10


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


def open_tap():
    """A TAP in a namespace of its own; where that is not possible the process ends with status 3."""
    from netstack.errors import LinkError
    from netstack.link import Tap

    try:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace of its own: " + os.strerror(ctypes.get_errno()))
        tap = Tap("tap0")
        ip("address", "add", f"{KERNEL}/24", "dev", "tap0")
        ip("link", "set", "tap0", "up")
    except (LinkError, OSError, subprocess.CalledProcessError) as reason:
        print(str(reason).replace("\n", " "), file=sys.stderr)
        sys.exit(3)
    return tap


def kernel_side(listener, direction, seconds):
    """The other process: swallow a stream, or send one for *seconds*."""
    if len(CPUS) > 1:
        os.sched_setaffinity(0, {CPUS[1]})
    buffer = bytearray(CHUNK)
    if direction == "to kernel":
        s, _ = listener.accept()
        s.setblocking(False)                           # spins, as the kernel does in the other rows
        n = -1
        while n:
            try:
                n = s.recv_into(buffer)
            except BlockingIOError:
                continue
        s.close()
        return
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    s.settimeout(20)
    s.connect((OURS, PORT))
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            s.sendall(buffer)
    s.close()


def run(direction, seconds):
    """Gbit/s of payload, ``"to kernel"`` or ``"from kernel"``; ours is a C caller that spins."""
    program = build.cython_program("stacks")
    tap = open_tap()
    listener = socket.create_server((KERNEL, PORT))
    pid = os.fork()
    if pid == 0:
        try:
            kernel_side(listener, direction, seconds)
        finally:
            os._exit(0)
    try:
        if direction == "to kernel":
            return program.send_to(tap, f"{OURS}/24", KERNEL, PORT, seconds)["gbit_s"]
        return program.receive_from(tap, f"{OURS}/24", PORT, seconds + 20)["gbit_s"]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        tap.close()
