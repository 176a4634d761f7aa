"""TAP and TUN: frames to and from the kernel, errors that say what to do."""

import os
import select
import socket
import struct

import pytest

from netstack.errors import LinkError
from netstack.link import Tap, Tun
from netstack.testing import LinkDriver


def test_a_missing_device_node_is_a_file_not_found():
    with pytest.raises(FileNotFoundError, match="tun0.*missing") as caught:
        Tun("tun0", device="/dev/net/nothing-here")
    assert isinstance(caught.value, LinkError) and caught.value.errno


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_without_permission_the_error_says_who_may():
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("needs /dev/net/tun")
    with pytest.raises(PermissionError, match="run as root, or let root make it") as caught:
        Tap("tap-none0")
    assert isinstance(caught.value, LinkError)


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", "a/b", ".."])
def test_names_no_interface_can_have(name):
    with pytest.raises(ValueError, match="1 to 15 bytes"):
        Tap(name)


@pytest.fixture
def tap(netns):
    with netns.enter():
        link = Tap("tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    netns.run("ip", "addr", "add", "10.9.0.1/24", "dev", "tap0")
    yield link, netns
    link.close()


def wait_for(driver, wanted, again=lambda: None):
    """The first frame for which wanted(frame) is true; sleeps on the link's descriptor.

    `again` makes the kernel send once more: what it sends while the device comes up is lost.
    """
    for _ in range(200):
        for frame in driver.receive():
            if wanted(frame):
                return frame
        if not driver.arm() and not select.select([driver.poll_fd()], [], [], 0.2)[0]:
            again()
    raise AssertionError("no such frame came")


@pytest.mark.root
def test_tap_carries_arp_and_ping_of_the_kernel(tap):
    link, netns = tap
    driver = LinkDriver(link)
    assert link.media == "ethernet" and link.mtu == 1500 and len(link.device_mac) == 6
    mac = b"\x02\x00\x00\x00\x00\x07"
    ping = netns.popen("ping", "-c", "1", "-W", "5", "10.9.0.7", stdout=-3)
    try:
        arp = wait_for(driver, lambda f: f[12:14] == b"\x08\x06" and f[38:42] == socket.inet_aton("10.9.0.7"))
        reply = arp[6:12] + mac + b"\x08\x06" + arp[14:20] + b"\x00\x02" + mac + arp[38:42] + arp[22:32]
        assert driver.send(reply, head=14)
        request = wait_for(driver, lambda f: f[12:14] == b"\x08\x00" and f[23] == 1)
        ip, icmp = bytearray(request[14:34]), bytearray(request[34:])
        ip[12:16], ip[16:20] = ip[16:20], ip[12:16]
        icmp[0] = 0
        total = struct.unpack_from("!H", icmp, 2)[0] + 0x0800
        struct.pack_into("!H", icmp, 2, (total & 0xFFFF) + (total >> 16))
        assert driver.send(request[6:12] + mac + b"\x08\x00" + bytes(ip) + bytes(icmp), head=42)
        assert ping.wait(timeout=10) == 0
    finally:
        ping.kill()
        ping.wait()


@pytest.mark.root
def test_tun_carries_ip_packets_and_reads_the_mtu(netns):
    netns.run("ip", "tuntap", "add", "dev", "tun3", "mode", "tun")
    netns.run("ip", "link", "set", "tun3", "mtu", "9000", "up")
    netns.run("ip", "addr", "add", "10.9.1.1/24", "dev", "tun3")
    with netns.enter():
        link = Tun("tun3")
        kernel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    driver = LinkDriver(link)
    assert link.media == "ip" and link.mtu == 9000
    with kernel:
        kernel.bind(("10.9.1.1", 5000))
        kernel.settimeout(5)
        packet = wait_for(driver, lambda f: f[0] >> 4 == 4 and f[9] == 17,
                          lambda: kernel.sendto(b"x" * 8000, ("10.9.1.2", 6000)))
        assert len(packet) == 8028 and packet[28:] == b"x" * 8000
        scapy = pytest.importorskip("scapy.all")
        answer = scapy.IP(src="10.9.1.2", dst="10.9.1.1") / scapy.UDP(sport=6000, dport=5000) / b"answer"
        assert driver.send(bytes(answer), head=28)
        assert kernel.recvfrom(100) == (b"answer", ("10.9.1.2", 6000))
    assert not driver.claim(9001) and driver.claim(40, 8960)
    link.close()
    assert driver.dead and not driver.claim(40) and driver.receive() == []
    link.close()


@pytest.mark.root
def test_a_device_that_is_down_counts_its_drops_and_one_that_is_deleted_is_dead(netns):
    netns.run("ip", "tuntap", "add", "dev", "tap5", "mode", "tap")
    with netns.enter():
        link = Tap("tap5")
    driver = LinkDriver(link)
    assert driver.send(b"\xff" * 6 + bytes(54))
    assert link.dropped == 1
    netns.run("ip", "link", "del", "tap5")
    driver.has_input()
    assert driver.dead
    link.close()


@pytest.mark.root
def test_a_device_held_by_another_or_of_the_other_kind_says_so(netns):
    with netns.enter():
        link = Tap("tap6")
        with pytest.raises(BlockingIOError, match="another program holds it") as caught:
            Tap("tap6")
        assert isinstance(caught.value, LinkError)
        with pytest.raises(LinkError, match="is no tun|another program"):
            Tun("tap6")
    link.close()
