"""TCP over a bad network in real time: the kernel and our stack, each at either end of ``bench/_programs/lossy_wire``.

An end is a TUN in a network namespace of its own (the kernel's TCP), or a Host on a channel (ours). The wire joins
them. The namespaces have no names: they are gone with their descriptors, whatever happens to this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import socket
import struct
import subprocess
import sys
import threading
import time

from bench import build

CLONE_NEWNET = 0x40000000
MTU = 1500
FIRST_PORT = 5001
CHUNK = 256 << 10
PATIENCE = 60                    # seconds that a connection may take on a clean wire, or an end of stream
ALGORITHMS = ("cubic", "reno")   # the first one that both have is measured
KERNEL_SYSCTL = {"tcp_no_metrics_save": 1}


class Unknown(Exception):
    """An end does not have the congestion control that is asked for."""


def setns(fd):
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns: " + os.strerror(ctypes.get_errno()))


def command(*argv):
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20)


class KernelEnd:
    """The kernel's TCP in a network namespace without a name, behind a TUN."""

    def __init__(self, address, sysctl=None, mtu=MTU, congestion=None):
        from netstack.link import Tun

        self.address = address
        self.congestion = congestion
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "no network namespace: " + os.strerror(ctypes.get_errno()))
            try:
                self.inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
                with contextlib.suppress(OSError), open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as f:
                    f.write("1")                       # or it asks for routers
                self.link = Tun("wire0")
                command("ip", "address", "add", f"{address}/24", "dev", "wire0")
                command("ip", "link", "set", "wire0", "mtu", str(mtu), "txqueuelen", "10000", "up")
                command("ip", "link", "set", "lo", "up")
                for name, value in {**KERNEL_SYSCTL, **(sysctl or {})}.items():
                    with open(f"/proc/sys/net/ipv4/{name}", "w") as f:
                        f.write(str(value))
            finally:
                setns(before)
        finally:
            os.close(before)

    @contextlib.contextmanager
    def entered(self):
        """The calling thread is inside."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            setns(self.inside)
            try:
                yield
            finally:
                setns(before)
        finally:
            os.close(before)

    def socket(self):
        with self.entered():
            return with_congestion(socket.socket(), self.congestion)

    def run(self, *argv, **options):
        """A program inside the namespace."""
        with self.entered():
            return subprocess.run(argv, capture_output=True, text=True, timeout=60, **options)

    def dropped(self):
        """Packets that the TUN's queue had no room for: the wire did not keep up."""
        with self.entered():
            for line in open("/proc/thread-self/net/dev"):
                if line.strip().startswith("wire0:"):
                    return int(line.split(":")[1].split()[11])
        return 0

    def close(self):
        self.link.close()
        os.close(self.inside)


class HostEnd:
    """A stack of ours in this process, on a channel."""

    def __init__(self, address, sysctl=None, mtu=MTU, congestion=None, wrap=None):
        from netstack import Host
        from netstack.link import channel_pair

        self.address = address
        self.congestion = congestion
        own, self.link = channel_pair(capacity=8 << 20, mtu=mtu)
        self.host = Host(link=wrap(own) if wrap else own, address=f"{address}/24", drain=0.5, sysctl=sysctl)

    def socket(self):
        return with_congestion(self.host.socket(), self.congestion)

    def dropped(self):
        return 0

    def close(self):
        self.host.close()
        self.link.close()


def with_congestion(s, name):
    if name:
        try:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except OSError as error:
            s.close()
            if error.errno in (errno.ENOENT, errno.EPERM):
                raise Unknown(f"no congestion control {name!r} there") from None
            raise
    s.settimeout(PATIENCE)
    return s


KINDS = {"kernel": KernelEnd, "ours": HostEnd}


@functools.cache
def algorithm():
    """The congestion control of the rows that name none: the first of ALGORITHMS that our stack has."""
    from netstack import Host

    with Host() as host:
        for name in ALGORITHMS:
            with contextlib.suppress(Unknown):
                with_congestion(host.socket(), name).close()
                break
    return name


@contextlib.contextmanager
def network(here, there, **wire):
    """The ends *here* (left) and *there* (right) on one wire; closes everything."""
    ends = [*here, *there]
    with contextlib.ExitStack() as stack:
        for end in ends:
            stack.callback(end.close)
        yield stack.enter_context(build.cython_program("lossy_wire").LossyWire(
            [(e.address, e.link) for e in here], [(e.address, e.link) for e in there], first_port=FIRST_PORT, **wire))


class Flow:
    """One connection that sends as fast as it may from a thread of its own, into another thread that counts."""

    def __init__(self, source, sink, port):
        with sink.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((sink.address, port))
            listener.listen(1)
            self.out = source.socket()
            self.out.connect((sink.address, port))
            self.into, _ = listener.accept()
        self.into.settimeout(PATIENCE)
        self.received = 0
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self.send, self.count)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def send(self):
        data = bytes(CHUNK)
        with contextlib.suppress(OSError):
            while True:
                self.out.sendall(data)

    def count(self):
        buffer = bytearray(CHUNK)
        with contextlib.suppress(OSError):
            while n := self.into.recv_into(buffer):
                self.received += n

    def close(self):
        """By resets: nobody waits for what is still under way."""
        for s in (self.out, self.into):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        self.out.close()
        self.into.close()


def complain(wire, ends):
    """Say on stderr what makes a measurement doubtful."""
    stats = wire.stats()
    dropped = sum(end.dropped() for end in ends)
    if dropped or stats["worst_ns"] > 20e6:
        print(f"the wire was up to {stats['worst_ns'] / 1e6:.1f} ms late ({stats['late']} packets by more than 1 ms), "
              f"{dropped} packets never reached it", file=sys.stderr)


def goodput(sender, receiver, congestion, loss, seed, seconds, delay="10ms", flows=8):
    """Mbit/s that flows of one pair of ends receive together, each on dice of its own, from the first byte on.

    Parameters
    ----------
    sender, receiver : {"kernel", "ours"}
    congestion : str
        Of the sender.
    loss : float
        Of data only; acknowledgements have the delay alone.
    """
    left = KINDS[sender]("10.9.1.1", congestion=congestion)
    right = KINDS[receiver]("10.9.1.2")
    with network([left], [right], lanes=flows, delay=delay) as wire:
        all_flows = [Flow(left, right, FIRST_PORT + i) for i in range(flows)]
        wire.set(seed=seed, from_left={"loss": loss})
        begin = time.monotonic()
        for flow in all_flows:
            flow.start()
        time.sleep(seconds)
        total = sum(flow.received for flow in all_flows)
        took = time.monotonic() - begin
        for flow in all_flows:
            flow.close()
        complain(wire, [left, right])
    return total * 8e-6 / took


def jain(shares):
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(x * x for x in shares)) if any(shares) else 0.0


def share(first, second, seed, seconds, rate="40mbit", delay="10ms", packets=67):
    """Shares of one bottleneck, as {"jain", "first", "second"} (Mbit/s, of the second half of the time).

    Parameters
    ----------
    first, second : [str, str]
        Which stack sends, and its congestion control: ``["kernel", "cubic"]``. The kernel receives both flows.
    packets : int
        What the bottleneck's queue holds; the default is about one bandwidth-delay product.
    """
    left = [KINDS[kind](f"10.9.1.{i}", congestion=name) for i, (kind, name) in enumerate((first, second), 1)]
    right = KernelEnd("10.9.1.9")
    with network(left, [right], delay=delay, seed=seed, from_left={"rate": rate, "queue": packets}) as wire:
        flows = [Flow(end, right, FIRST_PORT + i) for i, end in enumerate(left)]
        flows[seed % 2].start()
        time.sleep(0.1)
        flows[1 - seed % 2].start()
        time.sleep(seconds / 2)
        before = [flow.received for flow in flows]
        begin = time.monotonic()
        time.sleep(seconds / 2)
        took = time.monotonic() - begin
        got = [(flow.received - b) * 8e-6 / took for flow, b in zip(flows, before, strict=True)]
        for flow in flows:
            flow.close()
        complain(wire, [*left, right])
    return {"jain": jain(got), "first": got[0], "second": got[1]}


def run(function, **arguments):
    """Entry of the processes that measure; status 3: not possible here."""
    try:
        return globals()[function](**arguments)
    except (Unknown, OSError, subprocess.CalledProcessError) as reason:
        if isinstance(reason, OSError) and reason.errno not in (errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENODEV):
            raise
        print(str(reason).replace("\n", " "), file=sys.stderr)
        sys.exit(3)
