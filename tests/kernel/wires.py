"""A kernel end and an end of ours on one wire, with a capture of what we sent and heard; tshark reads it."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager

import pytest

from bench import lossy
from tests.support import MALFORMED

KERNEL, OURS = "10.9.2.1", "10.9.2.2"
BAD_CHECKSUMS = (f"(tcp.checksum.status==0 && !(tcp.checksum==0xffff && ip.src=={KERNEL})) || ip.checksum.status==0 "
                 "|| " + MALFORMED)


def tshark(capture, display_filter, *fields):
    """The fields of every packet that the filter lets through, each a list of texts."""
    if not shutil.which("tshark"):
        pytest.skip("needs tshark")
    done = subprocess.run(
        ["tshark", "-r", str(capture), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
         "-o", "udplite.check_checksum:TRUE", "-o", "udplite.ignore_checksum_coverage:FALSE",
         "-o", "tcp.relative_sequence_numbers:FALSE", "-Y", display_filter, "-T", "fields",
         *(a for f in fields or ("frame.number",) for a in ("-e", f))],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


class Meeting:
    """What a test holds: `kernel` and `ours` (ends), `wire`, and after `finish` the capture."""

    def __init__(self, kernel, ours, wire, capture):
        self.kernel, self.ours, self.wire, self.capture = kernel, ours, wire, capture

    def end(self, name):
        return self.kernel if name == "kernel" else self.ours

    def other(self, name):
        return self.ours if name == "kernel" else self.kernel

    def listener(self, name, *options):
        """A listening socket there, with ``setsockopt`` arguments set before."""
        end = self.end(name)
        s = end.socket()
        for option in options:
            s.setsockopt(*option)
        s.bind((end.address, 0))
        s.listen()
        return s

    def connected(self, who_connects, *options):
        """(kernel's, ours) of a new connection."""
        other = "ours" if who_connects == "kernel" else "kernel"
        with self.listener(other, *options) as listener:
            s = self.end(who_connects).socket()
            for option in options:
                s.setsockopt(*option)
            s.connect(listener.getsockname())
            t, _ = listener.accept()
        t.settimeout(lossy.PATIENCE)
        return (s, t) if who_connects == "kernel" else (t, s)

    def kernel_counters(self):
        """The namespace's TcpExt and Tcp counters by name (``nstat``)."""
        with self.kernel.entered():
            lines = [*open("/proc/thread-self/net/netstat"), *open("/proc/thread-self/net/snmp")]
        found = {}
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            if names.startswith(("TcpExt:", "Tcp:")):
                found.update(zip(names.split()[1:], map(int, values.split()[1:]), strict=True))
        return found

    def tshark(self, display_filter, *fields):
        return tshark(self.capture, display_filter, *fields)


@contextmanager
def meeting(tmp_path, *, kernel=None, ours=None, mtu=1500, **wire):
    """The two ends; *kernel* and *ours* are sysctl settings. At the end tshark finds no bad sum in what was captured.

    The kernel is on the wire's left side. Its TUN computes sums, so every one in the capture is on trial.
    """
    from netstack.link import PcapWriter

    capture = tmp_path / "capture.pcapng"
    theirs = lossy.KernelEnd(KERNEL, sysctl=kernel, mtu=mtu)
    mine = lossy.HostEnd(OURS, sysctl=ours, mtu=mtu, wrap=lambda link: PcapWriter(link, str(capture)))
    with lossy.network([theirs], [mine], **{"delay": "1ms", **wire}) as line:
        meet = Meeting(theirs, mine, line, capture)
        yield meet
        line.set(loss=0.0, duplicate=0.0, reorder=0.0)
    if shutil.which("tshark"):
        bad = tshark(capture, BAD_CHECKSUMS, "frame.number", "_ws.col.Info")
        assert not bad, bad[:10]
