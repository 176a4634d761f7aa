"""A path that narrows behind the first hop: the kernel is the router there, and the far host (RFC 1191, 4821)."""

import contextlib
import pathlib

import pytest

from bench import lossy
from bench.build import cython_program
from tests.kernel.test_features import DATA, sent
from tests.kernel.wires import tshark

pytestmark = pytest.mark.root
OURS, KERNEL, NARROW = "10.9.3.2", "10.9.4.2", 1200


@contextlib.contextmanager
def path(tmp_path, sysctl=None, reports=True):
    """(our end, the kernel's end): between them a router whose second link carries 1,200 bytes and not more."""
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
                        ["link", "set", "far0", "mtu", str(NARROW), "txqueuelen", "10000", "up"]):
            assert router.run("ip", *command).returncode == 0
        if not reports:
            rule = "icmp type destination-unreachable drop;"
            said = router.run("nft", f"table ip t {{ chain o {{ type filter hook output priority 0; {rule} }}; }}")
            assert said.returncode == 0, said.stderr
        assert kernel.run("ip", "route", "add", "default", "dev", "wire0").returncode == 0
        stack.enter_context(wire([("0.0.0.0", router.link)], [(OURS, ours.link)], delay="1ms"))
        stack.enter_context(wire([("0.0.0.0", far)], [(KERNEL, kernel.link)], delay="1ms"))
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
