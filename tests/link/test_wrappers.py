"""Wrappers around a link that sleeps: everything passes through, alone and nested, and a stack does not notice."""

import select

import pytest

from netstack.config import StackConfig
from netstack.link import FaultInjector, PcapWriter, Tracer, channel_pair
from netstack.stack import Stack
from netstack.testing import LinkDriver, Recorder


def nested(link, tmp_path):
    return Tracer(PcapWriter(FaultInjector(link, seed=1, loss=0.0), tmp_path / "x.pcapng", wall_offset_ns=0))


WRAPPERS = {
    "fault injector": lambda link, tmp_path: FaultInjector(link, seed=1),
    "fault injector both ways": lambda link, tmp_path: FaultInjector(link, seed=1, loss=0.0),
    "pcap writer": lambda link, tmp_path: PcapWriter(link, tmp_path / "x.pcapng"),
    "tracer": lambda link, tmp_path: Tracer(link),
    "recorder": lambda link, tmp_path: Recorder(link),
    "all of them": nested,
}


@pytest.fixture(params=WRAPPERS)
def ends(request, tmp_path):
    a, b = channel_pair(capacity="256KiB", mtu=1500)
    wrapper = WRAPPERS[request.param](a, tmp_path)
    yield LinkDriver(wrapper), LinkDriver(b)
    wrapper.close()
    b.close()


def test_a_wrapper_sleeps_and_wakes_like_the_link_inside(ends):
    wrapped, peer = ends
    assert wrapped.link.mtu == 1500 and wrapped.link.media == "ip" and not wrapped.has_input()
    for kind in ("leader", "service"):
        assert not wrapped.arm(kind)
        assert peer.send(b"f" * 40)
        assert select.select([wrapped.poll_fd(kind)], [], [], 5)[0]
        wrapped.drain_fd(kind)
        wrapped.disarm()
        assert not select.select([wrapped.poll_fd(kind)], [], [], 0)[0]
        assert wrapped.has_input() and wrapped.arm(kind)
        assert wrapped.receive() == [b"f" * 40]
    assert wrapped.peer_cpu() is not None


def test_unflushed_frames_stay_invisible_and_splits_are_kept(ends):
    wrapped, peer = ends
    wrapped.write(b"h" * 40 + b"b" * 400, head=40)
    assert peer.receive() == []
    wrapped.flush()
    assert peer.receive_split() == [(b"h" * 40, b"b" * 400)]
    assert peer.send(b"H" * 40 + b"B" * 400, head=40)
    assert wrapped.receive_split() == [(b"H" * 40, b"B" * 400)]


def test_backpressure_passes_through_and_nothing_is_lost(ends):
    wrapped, peer = ends
    sent = 0
    for _ in range(400):
        if not wrapped.send(sent.to_bytes(4, "big") + bytes(1400), head=40):
            break
        sent += 1
    got = []
    for _ in range(10):
        got += peer.receive(10**6)
        wrapped.flush()
    assert [int.from_bytes(f[:4], "big") for f in got] == list(range(sent)) and sent > 100


def test_death_passes_through(ends):
    wrapped, peer = ends
    peer.link.close()
    wrapped.receive()
    assert wrapped.dead


def test_stacks_talk_through_every_wrapper(ends):
    wrapped, peer = ends
    one, two = (
        Stack(StackConfig(addresses=(f"10.0.0.{i}/24",), seed=i), links=[driver.link])
        for i, driver in ((1, wrapped), (2, peer))
    )
    now = 10**9
    one.process(now)
    two.process(now)
    listener = two.socket()
    listener.bind(("10.0.0.2", 80))
    listener.listen()
    client = one.socket()
    client.connect_ex(("10.0.0.2", 80))
    for _ in range(10):
        two.process(now)
        one.process(now)
    server = listener.accept()[0]
    payload = bytes(range(256)) * 200
    assert client.send(payload) == len(payload)
    got = b""
    for _ in range(100):
        two.process(now)
        one.process(now)
        try:
            got += server.recv(1 << 20)
        except BlockingIOError:
            pass
        if len(got) == len(payload):
            break
    assert got == payload
    client.close()
    server.close()


def test_a_received_frame_carries_the_time_of_the_pass_that_received_it():
    from netstack.link import Wire
    from netstack.testing import build_udp

    a, b = Wire()
    log = Recorder(a)
    stack = Stack(StackConfig(addresses=("10.0.0.1/24",), seed=1), links=[log])
    stack.process(5)
    LinkDriver(b).send(build_udp("10.0.0.2", "10.0.0.1", 1, 2, b"x"))
    stack.process(777)
    assert log.frames()[0][:2] == (777, "in")
