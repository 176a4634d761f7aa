"""Datagrams with the kernel at the other end: fragments both ways, errors, a traceroute, path MTU, groups."""

import contextlib
import errno
import shutil
import socket
import struct
import subprocess
import time

import pytest

from netstack.link import PcapWriter
from tests.kernel.conftest import KERNEL, OURS, judge
from tests.kernel.test_path_mtu import path
from tests.kernel.wires import tshark

pytestmark = pytest.mark.root
DATA = bytes(range(251)) * 80                            # 20,080 bytes
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PMTUDISC_WANT, IP_MTU, IP_RECVERR = 10, 2, 1, 14, 11
MSG_ERRQUEUE = 0x2000


@pytest.fixture
def two(pair):
    """(kernel's, ours): connected UDP sockets."""
    theirs = pair.kernel_socket(socket.SOCK_DGRAM)
    theirs.bind((KERNEL, 0))
    ours = pair.host.socket(type=socket.SOCK_DGRAM)
    ours.settimeout(60)
    ours.bind((OURS, 0))
    ours.connect(theirs.getsockname())
    theirs.connect(ours.getsockname())
    with theirs, ours:
        yield theirs, ours


@pytest.mark.parametrize("length", [1, 1472, 1473, 20_000, 65_507])
def test_datagrams_of_any_size_go_both_ways(two, length):
    theirs, ours = two
    data = (DATA * 4)[:length]
    ours.send(data)
    assert theirs.recv(70_000) == data
    theirs.send(data)
    assert ours.recv(70_000) == data


@pytest.mark.skipif(not shutil.which("ping"), reason="needs ping")
@pytest.mark.parametrize("size", [56, 4000, 60_000])
def test_the_kernels_ping_is_answered(pair, size):
    done = pair.netns.run("ping", "-c", "3", "-i", "0.05", "-W", "10", "-s", str(size), OURS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_our_ping_is_answered_by_the_kernel(pair):
    with pair.host.socket(type=socket.SOCK_DGRAM, proto=socket.IPPROTO_ICMP) as ping:
        ping.settimeout(60)
        for sequence, size in enumerate((56, 4000, 20_000)):
            ping.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, sequence) + DATA[:size], (KERNEL, 0))
            answer, address = ping.recvfrom(70_000)
            assert address == (KERNEL, 0) and answer[0] == 0 and answer[8:] == DATA[:size]
            assert struct.unpack("!H", answer[6:8])[0] == sequence


def test_a_raw_socket_hears_what_a_kernel_raw_socket_sends(pair):
    with pair.netns.enter():
        theirs = socket.socket(socket.AF_INET, socket.SOCK_RAW, 200)
    with pair.host.socket(type=socket.SOCK_RAW, proto=200) as ours, theirs:
        ours.settimeout(60)
        theirs.settimeout(60)
        theirs.sendto(b"raw", (OURS, 0))
        assert ours.recv(100)[20:] == b"raw"
        ours.sendto(b"back", (KERNEL, 0))
        assert theirs.recv(100)[20:] == b"back"


def test_a_closed_port_of_the_kernel_refuses(two, pair):
    theirs, ours = two
    theirs.close()
    ours.setsockopt(0, IP_RECVERR, 1)
    ours.send(b"nobody there")
    with pytest.raises(ConnectionRefusedError):
        ours.recv(10)
    data, [(level, kind, raw)], flags, _ = ours.recvmsg(100, 100, MSG_ERRQUEUE)
    assert data == b"nobody there" and (level, kind) == (0, IP_RECVERR) and raw[4:7] == bytes([2, 3, 3])
    assert raw[20:24] == socket.inet_aton(KERNEL)


def test_a_traceroute_names_the_router_and_the_host(tmp_path):
    with path(tmp_path) as (ours, kernel):
        with ours.host.socket(type=socket.SOCK_DGRAM) as s:
            s.settimeout(60)
            s.setsockopt(0, IP_RECVERR, 1)
            hops = []
            for ttl in range(1, 5):
                s.setsockopt(0, socket.IP_TTL, ttl)
                s.sendto(b"probe", ("10.9.4.2", 33434 + ttl))
                with contextlib.suppress(OSError):
                    s.recv(10)
                _, [(_, _, raw)], _, _ = s.recvmsg(100, 100, MSG_ERRQUEUE)
                hops.append((socket.inet_ntoa(raw[20:24]), raw[5], raw[6]))
                if raw[5] == 3:
                    break
    assert hops == [("10.9.3.1", 11, 0), ("10.9.4.2", 3, 3)]


def test_a_router_that_carries_less_is_believed_by_datagrams(tmp_path):
    with path(tmp_path) as (ours, kernel):
        with kernel.entered():
            listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.settimeout(60)
        listener.bind(("10.9.4.2", 0))
        with listener, ours.host.socket(type=socket.SOCK_DGRAM) as s:
            s.settimeout(60)
            s.connect(listener.getsockname())
            s.setsockopt(0, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            assert s.getsockopt(0, IP_MTU) == 1500
            s.send(bytes(1472))
            with pytest.raises(OSError) as e:
                s.recv(10)
            assert e.value.errno == errno.EMSGSIZE and s.getsockopt(0, IP_MTU) == 1200
            with pytest.raises(OSError):
                s.send(bytes(1173))
            s.send(bytes(1172))
            assert len(listener.recv(2000)) == 1172
            s.setsockopt(0, IP_MTU_DISCOVER, IP_PMTUDISC_WANT)
            s.send(DATA)
            assert listener.recv(70_000) == DATA


GROUP = "239.1.2.3"


def test_groups_both_ways_and_the_router_hears_of_ours(pair, tmp_path):
    with pair.host.socket(type=socket.SOCK_DGRAM) as ours, pair.kernel_socket(socket.SOCK_DGRAM) as theirs:
        ours.settimeout(60)
        ours.bind((GROUP, 5000))
        request = socket.inet_aton(GROUP) + socket.inet_aton(OURS)
        ours.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        theirs.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(KERNEL))
        theirs.sendto(b"from the kernel", (GROUP, 5000))
        assert ours.recv(100) == b"from the kernel"
        with pair.kernel_socket(socket.SOCK_DGRAM) as member:
            member.bind((GROUP, 5001))
            member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                              socket.inet_aton(GROUP) + socket.inet_aton(KERNEL))
            ours.sendto(b"from us", (GROUP, 5001))
            assert member.recv(100) == b"from us"
        ours.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, request)
    capture = tmp_path / "capture.pcapng"
    pair.host.close()
    reports = tshark(capture, f"igmp.type==0x22 && ip.src=={OURS}", "igmp.record_type", "igmp.maddr", "ip.ttl",
                     "ip.dst")
    assert ["4", GROUP, "1", "224.0.0.22"] in reports and ["3", GROUP, "1", "224.0.0.22"] in reports
    assert not tshark(capture, "igmp.checksum.status==0")


def test_a_source_that_is_not_wanted_is_not_heard(pair):
    with pair.host.socket(type=socket.SOCK_DGRAM) as ours, pair.kernel_socket(socket.SOCK_DGRAM) as theirs:
        ours.settimeout(60)
        ours.bind(("", 5000))
        other = socket.inet_aton("10.9.0.77")
        ours.setsockopt(0, 39, socket.inet_aton(GROUP) + socket.inet_aton(OURS) + other)     # IP_ADD_SOURCE_MEMBERSHIP
        ours.setsockopt(0, 49, 0)                                                            # IP_MULTICAST_ALL
        theirs.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(KERNEL))
        theirs.sendto(b"not wanted", (GROUP, 5000))
        theirs.sendto(b"behind it", (OURS, 5000))
        assert ours.recv(100) == b"behind it"
        ours.setsockopt(0, 39, socket.inet_aton(GROUP) + socket.inet_aton(OURS) + socket.inet_aton(KERNEL))
        theirs.sendto(b"wanted", (GROUP, 5000))
        assert ours.recv(100) == b"wanted"


# ---- DHCP and address conflicts -------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("dnsmasq"), reason="needs dnsmasq")
def test_dnsmasq_gives_an_address_that_works(netns, tmp_path):
    import netstack
    from netstack.link import Tap

    # It stays when the host closes it: dnsmasq passes over what came from a device that is gone when it looks.
    netns.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
    with netns.enter():
        tap = Tap("tap0")
    netns.run("ip", "addr", "add", f"{KERNEL}/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    capture = tmp_path / "capture.pcapng"
    tap = PcapWriter(tap, str(capture), snap_length=0x40000)
    with netns.enter():
        server = subprocess.Popen(
            ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=tap0", "--bind-interfaces",
             "--dhcp-range=10.9.0.100,10.9.0.110,255.255.255.0,2m", "--dhcp-authoritative", "--no-ping",
             f"--dhcp-leasefile={tmp_path}/leases", f"--pid-file={tmp_path}/pid", "--user=root"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with netstack.Host(link=tap, address="dhcp", drain=5) as host:
            [address] = host.addresses
            assert address.startswith("10.9.0.1") and address.endswith("/24")
            lease = host._dhcp.lease
            assert (lease.gateway, lease.server) == (KERNEL, KERNEL) and lease.seconds == 120
            assert host._dhcp.renew()
            with netns.enter():
                theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with theirs, host.socket(type=socket.SOCK_DGRAM) as ours:
                theirs.settimeout(60)
                theirs.bind((KERNEL, 0))
                ours.sendto(b"hello", theirs.getsockname())
                assert theirs.recvfrom(10) == (b"hello", (address.partition("/")[0], ours.getsockname()[1]))
        given_back = time.monotonic() + 60
        while (tmp_path / "leases").read_text() and time.monotonic() < given_back:
            time.sleep(0.02)
        assert (tmp_path / "leases").read_text() == "", "the lease was given back"
        judge(capture)
        kinds = [kind for kind, in tshark(capture, "dhcp", "dhcp.option.dhcp")]
        told = list(dict.fromkeys(kinds))              # what a slow server is asked again counts once
        assert told == ["1", "2", "3", "5", "7"] and kinds[-1] == "7"
    finally:
        server.terminate()
        server.wait()


def test_an_address_the_kernel_has_is_not_taken(netns, tmp_path):
    import netstack
    from netstack.errors import AddressConflictError
    from netstack.link import Tap

    with netns.enter():
        tap = Tap("tap0")
    netns.run("ip", "addr", "add", f"{KERNEL}/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    capture = tmp_path / "capture.pcapng"
    with pytest.raises(AddressConflictError):
        netstack.Host(link=PcapWriter(tap, str(capture), snap_length=0x40000), address=f"{KERNEL}/24", acd=True)
    judge(capture)
    assert tshark(capture, f"arp.opcode==1 && arp.src.proto_ipv4==0.0.0.0 && arp.dst.proto_ipv4=={KERNEL}")
