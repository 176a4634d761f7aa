"""A path that narrows behind the first hop: the kernel is the router there, and the far host (RFC 1191, 4821)."""

import contextlib
import pathlib
import socket
import threading

import pytest

from bench import lossy
from bench.build import cython_program
from tests.kernel.test_features import DATA, sent
from tests.kernel.test_ipv6 import ethernet
from tests.kernel.wires import tshark
from tests.support import network_namespace

pytestmark = pytest.mark.root
OURS, KERNEL, NARROW = "10.9.3.2", "10.9.4.2", 1200


@contextlib.contextmanager
def path(tmp_path, sysctl=None, reports=True, mtu=NARROW):
    """(our end, the kernel's end): between them a router whose second link, far0, carries *mtu* bytes and not more."""
    from netstack.link import PcapWriter, Tun

    wire = cython_program("lossy_wire").LossyWire
    with contextlib.ExitStack() as stack:
        ours = lossy.HostEnd(OURS, sysctl=sysctl, wrap=lambda link: PcapWriter(link, str(tmp_path / "path.pcapng")))
        stack.callback(ours.close)
        router = lossy.KernelEnd("10.9.3.1", sysctl={"ip_forward": 1})
        stack.callback(router.close)
        kernel = lossy.KernelEnd(KERNEL)
        stack.callback(kernel.close)
        with router.entered():
            far = Tun("far0")
        stack.callback(far.close)
        for command in (["address", "add", "10.9.4.1/24", "dev", "far0"],
                        ["link", "set", "far0", "mtu", str(mtu), "txqueuelen", "10000", "up"]):
            assert router.run("ip", *command).returncode == 0
        if not reports:
            rule = "icmp type destination-unreachable drop;"
            said = router.run("nft", f"table ip t {{ chain o {{ type filter hook output priority 0; {rule} }}; }}")
            assert said.returncode == 0, said.stderr
        assert kernel.run("ip", "route", "add", "default", "dev", "wire0").returncode == 0
        stack.enter_context(wire([("0.0.0.0", router.link)], [(OURS, ours.link)], delay="1ms"))
        stack.enter_context(wire([("0.0.0.0", far)], [(KERNEL, kernel.link)], delay="1ms"))
        ours.router = router
        yield ours, kernel


def transfer(ours, kernel):
    with kernel.socket() as listener:
        listener.bind((KERNEL, 0))
        listener.listen()
        out = ours.socket()
        out.connect(listener.getsockname())
        into, _ = listener.accept()
    into.settimeout(lossy.PATIENCE)
    with out, into:
        sent(out, into, DATA[:300_000])
        sent(into, out, DATA[:300_000])


def sizes_sent(capture: pathlib.Path):
    return [int(length) for length, in tshark(capture, f"ip.src=={OURS} && tcp.len>0", "ip.len")]


def test_we_send_no_more_than_the_router_said(tmp_path):
    with path(tmp_path) as (ours, kernel):
        transfer(ours, kernel)
    capture = tmp_path / "path.pcapng"
    reports = tshark(capture, "icmp.type==3 && icmp.code==4", "icmp.mtu")
    assert {mtu for mtu, in reports} == {str(NARROW)}
    sizes = sizes_sent(capture)
    assert max(sizes) == 1500 and sizes[-1] <= NARROW
    assert sizes.count(NARROW) > 200 and sum(size > NARROW for size in sizes) <= 20     # the first window


def test_a_path_that_swallows_large_packets_silently_is_found_out(tmp_path):
    with path(tmp_path, sysctl={"net.ipv4.tcp_mtu_probing": 1}, reports=False) as (ours, kernel):
        transfer(ours, kernel)
    capture = tmp_path / "path.pcapng"
    assert not tshark(capture, "icmp.type==3")
    sizes = sizes_sent(capture)
    assert max(sizes) == 1500 and sizes[-1] <= NARROW


def stream(out, into, narrow):
    """``DATA`` from one end to the other; *narrow* is called when a third has arrived."""
    got = bytearray()
    sender = threading.Thread(target=out.sendall, args=(DATA,))
    sender.start()
    while len(got) < len(DATA):
        if narrow is not None and len(got) > len(DATA) // 3:
            narrow()
            narrow = None
        got += into.recv(min(65536, len(DATA) - len(got)))
    sender.join()
    assert bytes(got) == DATA


def test_a_link_that_shrinks_in_mid_transfer_is_adapted_to(tmp_path):
    with path(tmp_path, mtu=1500) as (ours, kernel):
        with kernel.socket() as listener:
            listener.bind((KERNEL, 0))
            listener.listen()
            out = ours.socket()
            out.connect(listener.getsockname())
            into, _ = listener.accept()
        into.settimeout(lossy.PATIENCE)
        with out, into:
            stream(out, into, lambda: ours.router.run("ip", "link", "set", "far0", "mtu", str(NARROW)))
    capture = tmp_path / "path.pcapng"
    assert {mtu for mtu, in tshark(capture, "icmp.type==3 && icmp.code==4", "icmp.mtu")} == {str(NARROW)}
    sizes = sizes_sent(capture)
    assert sizes.count(1500) > 20 and sizes.count(NARROW) > 20 and sizes[-1] <= NARROW
    assert not tshark(capture, f"ip.src=={OURS} && !icmp && (tcp.checksum.status==0 || ip.checksum.status==0)")


def test_a_link_that_shrinks_in_mid_transfer_is_adapted_to_over_ipv6(netns, tmp_path):
    """The namespace is the router; behind it another one is the far host (RFC 8201)."""
    with network_namespace() as far, ethernet(netns, tmp_path, gateway="fd09::1",
                                             pardoned="icmpv6.type==2") as host:
        netns.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        netns.run("ip", "link", "add", "far0", "type", "veth", "peer", "name", "far0", "netns", far.name)
        for ns, address in ((netns, "fd0a::1/64"), (far, "fd0a::2/64")):
            ns.run("ip", "addr", "add", address, "dev", "far0", "nodad")
            ns.run("ip", "link", "set", "far0", "up")
        far.run("ip", "-6", "route", "add", "default", "via", "fd0a::1")
        with far.enter():
            listener = socket.create_server(("fd0a::2", 0), family=socket.AF_INET6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)      # so that most is still to be sent then
        with listener:
            out = host.create_connection(listener.getsockname()[:2], timeout=60)
            into, _ = listener.accept()
        into.settimeout(60)
        with out, into:
            stream(out, into, lambda: netns.run("ip", "link", "set", "far0", "mtu", "1300"))
    assert {mtu for mtu, in tshark(host.capture, "icmpv6.type==2", "icmpv6.mtu")} == {"1300"}
    sizes = [int(length) + 40 for length, in tshark(host.capture, "ipv6.src==fd09::2 && tcp.len>0", "ipv6.plen")]
    assert sizes.count(1500) > 20 and sizes.count(1300) > 20 and sizes[-1] <= 1300
