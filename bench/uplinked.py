"""Bulk data between a stack behind a router's uplink and the kernel on its other side, in a network namespace.

``python -m bench.uplinked`` prints all kinds of uplinks, both directions, with offloads and without, in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

CLONE_NEWNET = 0x40000000
KERNEL, PORT = "192.0.2.1", 5001
CHUNK = 256 << 10
UPLINKS = ("tap:up0", "tap:up0,offload=off", "tun:up0", "packet:up0", "packet:up0,offload=off", "xdp:up0")


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


def prepare(uplink):
    """A namespace of our own with the device; where that is not possible the process ends with status 3."""
    kind = uplink.partition(":")[0]
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace of its own: " + os.strerror(ctypes.get_errno()))
        device = "up0"
        if kind in ("tap", "tun"):
            ip("tuntap", "add", "dev", "up0", "mode", kind)
        else:
            device = "kernel0"
            ip("link", "add", "up0", "type", "veth", "peer", "name", device)
            ip("link", "set", "up0", "up")
            if kind == "xdp":
                subprocess.run(["ethtool", "-K", device, "tx", "off"], check=True, capture_output=True, timeout=20)
        ip("address", "add", f"{KERNEL}/24", "dev", device)
        ip("link", "set", device, "up")
        ip("route", "add", "10.77.0.0/16", "dev", device)
    except (OSError, subprocess.CalledProcessError) as reason:
        print(str(reason).replace("\n", " "), file=sys.stderr)
        sys.exit(3)


def pour(s, seconds):
    """Send for so long."""
    buffer = bytes(CHUNK)
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            s.sendall(buffer)


def drain(s):
    """Receive all there is: Gbit/s from the first byte to the last."""
    buffer, total, began = bytearray(CHUNK), 0, 0.0
    while True:
        n = s.recv_into(buffer)
        if not n:
            return total * 8e-9 / max(time.monotonic() - began, 1e-9)
        began = began or time.monotonic()
        total += n


def run(uplink, direction, seconds):
    """Gbit/s of payload, ``"to kernel"`` or ``"from kernel"``, between two processes; the router is in ours."""
    import netstack
    from netstack.router import Router

    prepare(uplink)
    with tempfile.TemporaryDirectory(prefix="nsb-") as folder:
        os.environ["NETSTACK_RUNTIME_DIR"] = folder
        listener = socket.create_server((KERNEL, PORT))
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                s, _ = listener.accept()
                with s:
                    if direction == "from kernel":
                        pour(s, seconds)
                    else:
                        os.write(write, repr(drain(s)).encode())
            finally:
                os._exit(0)
        try:
            with (
                Router(uplinks=[uplink]) as router,
                netstack.attach(router.name) as host,
                host.create_connection((KERNEL, PORT), timeout=20) as s,
            ):
                s.settimeout(20)
                if direction == "from kernel":
                    return drain(s)
                pour(s, seconds)
                s.shutdown(socket.SHUT_WR)
                return float(os.read(read, 100))
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def main():
    from bench.measure import python_program

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for direction in ("to kernel", "from kernel"):
        found = {uplink: [] for uplink in UPLINKS}
        for _ in range(options.rounds):
            for uplink in UPLINKS:
                found[uplink].append(python_program("bench.uplinked", "run", uplink=uplink, direction=direction,
                                                    seconds=options.seconds))
        base = statistics.median(found["tap:up0,offload=off"])
        for uplink, figures in found.items():
            middle = statistics.median(figures)
            print(f"{direction:12} {uplink:24} {middle:7.2f} Gbit/s   {middle / base:5.2f} of a TAP without offload")


if __name__ == "__main__":
    main()
