"""UDP-Lite with the kernel at the other end: coverage both ways, pieces, errors, a coverage it refuses."""

import errno
import socket
import time

import pytest

from tests.kernel.conftest import KERNEL, OURS
from tests.kernel.wires import tshark

pytestmark = pytest.mark.root
LITE, SEND, RECV = socket.IPPROTO_UDPLITE, 10, 11
DATA = bytes(range(251)) * 80


@pytest.fixture
def two(pair):
    """(kernel's, ours): connected UDP-Lite sockets."""
    with pair.netns.enter():
        try:
            theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, LITE)
        except OSError as error:
            pytest.skip(f"this kernel has no UDP-Lite: {error}")
    ours = pair.host.socket(type=socket.SOCK_DGRAM, proto=LITE)
    with theirs, ours:
        for s in (theirs, ours):
            s.settimeout(60)
        theirs.bind((KERNEL, 0))
        ours.bind((OURS, 0))
        ours.connect(theirs.getsockname())
        theirs.connect(ours.getsockname())
        yield theirs, ours


@pytest.mark.parametrize("coverage", [None, 0, 8, 20, 65535])
@pytest.mark.parametrize("length", [0, 1, 1472, 1473, 20_000])
def test_datagrams_of_any_size_and_coverage_go_both_ways(two, length, coverage):
    for one, other in (two, two[::-1]):
        if coverage is not None:
            one.setsockopt(LITE, SEND, coverage)
        one.send(DATA[:length])
        assert other.recv(70_000) == DATA[:length]


def test_options_read_as_the_kernels_do(two):
    for option in (SEND, RECV):
        for value in (0, 1, 7, 8, 9, 65535, 65536, 1 << 30, -1):
            found = []
            for s in two:
                s.setsockopt(LITE, option, value)
                found.append(s.getsockopt(LITE, option))
            assert found[0] == found[1], (option, value)


@pytest.mark.parametrize("least", [0, 40])
def test_who_asks_for_more_coverage_does_not_hear_of_less(two, least):
    for one, other in (two, two[::-1]):
        other.setsockopt(LITE, RECV, least)
        for coverage in (20, 39, 0):                     # the first two are dropped
            one.setsockopt(LITE, SEND, coverage)
            one.send(b"%d" % coverage + DATA[:100])
        assert other.recv(1000).startswith(b"0")


def test_a_closed_port_refuses_either_way(two, pair):
    theirs, ours = two
    name = theirs.getsockname()
    theirs.close()
    ours.send(b"nobody there")
    with pytest.raises(ConnectionRefusedError):
        ours.recv(10)
    with pair.netns.enter():
        again = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, LITE)
    with again:
        again.settimeout(60)
        again.bind(name)
        again.connect((OURS, 1))
        again.send(b"nor here")
        with pytest.raises(ConnectionRefusedError):
            again.recv(10)


def test_tshark_agrees_with_every_sum(two, tmp_path):
    theirs, ours = two
    for coverage in (0, 8, 57, 65535):
        ours.setsockopt(LITE, SEND, coverage)
        ours.send(DATA[:100])
        theirs.recv(1000)
    capture = tmp_path / "capture.pcapng"
    frames, until = [], time.monotonic() + 60
    while len(frames) < 4 and time.monotonic() < until:  # the writer may be behind
        frames = tshark(capture, f"udp.checksum_coverage && ip.src=={OURS}", "udp.checksum.status",
                        "udp.checksum_coverage")
    assert frames == [["1", coverage] for coverage in ("108", "8", "57", "108")]


def test_a_hybrid_stack_has_none(netns):
    import netstack

    with netns.enter():
        netns.run("ip", "link", "set", "lo", "up")
        host = netstack.attach(mode="hybrid", visible=False)
        try:
            with pytest.raises(OSError) as e:
                host.socket(type=socket.SOCK_DGRAM, proto=LITE)
            assert e.value.errno == errno.EPROTONOSUPPORT
        finally:
            host.close()
