"""The kernel's TCP as the other end of a TAP, in a network namespace of the test; tshark judges every capture."""

import shutil
import socket
import subprocess

import pytest

from tests.support import MALFORMED

KERNEL, OURS = "10.9.0.1", "10.9.0.2"


class Pair:
    """The kernel at 10.9.0.1 and a host of ours at 10.9.0.2, on one Ethernet."""

    def __init__(self, netns, host):
        self.netns = netns
        self.host = host

    def kernel_socket(self, kind=socket.SOCK_STREAM):
        with self.netns.enter():
            s = socket.socket(socket.AF_INET, kind)
        s.settimeout(60)
        return s

    def kernel_listener(self):
        s = self.kernel_socket()
        s.bind((KERNEL, 0))
        s.listen()
        return s

    def our_listener(self):
        s = self.host.create_server((OURS, 0))
        s.settimeout(60)
        return s

    def connected(self, who_connects):
        """Two ends of one connection: (kernel's, ours)."""
        if who_connects == "kernel":
            with self.our_listener() as listener:
                kernel = self.kernel_socket()
                kernel.connect(listener.getsockname())
                ours, _ = listener.accept()
        else:
            with self.kernel_listener() as listener:
                ours = self.host.socket()
                ours.settimeout(60)
                ours.connect(listener.getsockname())
                kernel, _ = listener.accept()
        ours.settimeout(60)
        kernel.settimeout(60)
        return kernel, ours


def judge(capture):
    """tshark finds no bad checksum and no malformed packet.

    It calls 0xffff bad where 0 belongs, both of which sum up; the kernel writes that once in 65,536 segments.
    """
    if not shutil.which("tshark"):
        return
    done = subprocess.run(
        ["tshark", "-r", str(capture), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
         "-o", "udp.check_checksum:TRUE", "-Y",
         f"(tcp.checksum.status==0 && !(tcp.checksum==0xffff && ip.src=={KERNEL})) || ip.checksum.status==0 "
         "|| udp.checksum.status==0 || icmp.checksum.status==0 || " + MALFORMED],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stdout, done.stdout[:2000]


@pytest.fixture
def pair(netns, tmp_path):
    import netstack
    from netstack.link import PcapWriter, Tap

    with netns.enter():
        tap = Tap("tap0")
    netns.run("ip", "addr", "add", f"{KERNEL}/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    capture = tmp_path / "capture.pcapng"
    host = netstack.Host(link=PcapWriter(tap, str(capture), snap_length=0x40000), address=f"{OURS}/24", drain=5)
    yield Pair(netns, host)
    host.close()
    judge(capture)
