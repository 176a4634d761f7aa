"""Rows H1, H4 at an uplink of the router: its neighbours, and who is believed. A pair of sockets stands for the TAP."""

import contextlib
import random
import socket
import time

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether

from netstack.router.devices.device import FileDevice
from netstack.router.pool import pack_address
from tests.router.lan import Lan, wait_until
from tests.support import scale

A, GATEWAY, FRIEND, ROUTER = "10.77.0.2", "192.0.2.1", "192.0.2.9", "192.0.2.2"
MACS = {GATEWAY: "02:00:00:00:00:01", FRIEND: "02:00:00:00:00:09"}
OUR_MAC, EVIL_MAC, EVERYBODY = "02:00:00:00:00:77", "02:00:00:00:00:66", "ff:ff:ff:ff:ff:ff"


class Uplink(Lan):
    """A data path with one attachment and one uplink; what the wire sees, and what a station on it says."""

    def __init__(self, network=24, own=None, gateways=(GATEWAY,), pools=(), address=A):
        super().__init__(*pools)
        self.now_ns = None
        ours, self.wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for s in (ours, self.wire):
            s.setblocking(False)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.device = FileDevice(ours.detach())
        self.port = self.forwarder.add_uplink(
            self.device, mac=bytes.fromhex(OUR_MAC.replace(":", "")),
            own=[f"{ROUTER}/{network}"] if own is None else own, gateways=gateways)
        self.forwarder.bind_local(pack_address(ROUTER))
        self.a = self.stack(address)

    def run(self):
        """Everything that there is to do, at the same moment if time stands still."""
        while self.forwarder.run_once(self.now_ns):
            pass
        self.check()

    def freeze(self):
        """Time stands still from now on."""
        self.now_ns = time.monotonic_ns()
        return self

    def take(self):
        out = []
        with contextlib.suppress(BlockingIOError):
            while True:
                out.append(Ether(self.wire.recv(2000)))
        return out

    def say(self, frame):
        """A frame from the wire; what went back onto it."""
        self.wire.send(bytes(frame))
        self.run()
        return self.take()

    def send(self, dst):
        """A packet of the attachment; what went onto the wire."""
        self.a.send(IP(src=A, dst=dst) / ICMP(id=1))
        self.run()
        return self.take()

    def known(self, address):
        """Have a station answer our question."""
        asked, = self.send(address)
        assert asked[ARP].op == 1 and asked[ARP].pdst == address and asked.dst == EVERYBODY
        sent, = self.say(reply(address, MACS[address]))
        assert sent.dst == MACS[address] and ICMP in sent
        return self

    @property
    def conflicts(self):
        return self.forwarder.counters(self.port)["neighbor_conflicts"]

    def close(self):
        self.forwarder.close()
        self.device.close()
        self.wire.close()


@pytest.fixture
def uplink():
    u = Uplink()
    yield u
    u.check()
    u.close()


def reply(address, mac, to=OUR_MAC):
    return Ether(src=mac, dst=to) / ARP(op=2, hwsrc=mac, psrc=address, hwdst=OUR_MAC, pdst=ROUTER)


def lies(address) -> dict[str, Ether]:
    """All ways to say that an address is at EVIL_MAC without having been asked."""
    def said(op, target, to):
        return Ether(src=EVIL_MAC, dst=to) / ARP(op=op, hwsrc=EVIL_MAC, psrc=address, pdst=target)

    return {"reply to us": reply(address, EVIL_MAC), "gratuitous reply": said(2, address, EVERYBODY),
            "gratuitous request": said(1, address, EVERYBODY), "question for us": said(1, ROUTER, EVERYBODY),
            "question for an attachment": said(1, A, EVERYBODY), "question for another": said(1, FRIEND, EVERYBODY)}


@pytest.mark.parametrize("kind", lies(GATEWAY))
def test_h1_nothing_said_unasked_makes_an_entry_of_the_router(uplink, kind):
    answers = uplink.say(lies(GATEWAY)[kind])
    assert len(answers) == (kind in ("question for us", "question for an attachment"))
    asked, = uplink.send(GATEWAY)
    assert asked[ARP].pdst == GATEWAY and asked.dst == EVERYBODY, "it is asked for, as if nothing had been said"


@pytest.mark.parametrize("kind", lies(GATEWAY))
def test_h1_a_lie_about_the_gateway_leaves_its_entry_and_is_counted(uplink, kind):
    uplink.known(GATEWAY)
    for n in range(1, 6):
        uplink.say(lies(GATEWAY)[kind])
        assert uplink.conflicts == n
        assert [f.dst for f in uplink.send("198.51.100.7")] == [MACS[GATEWAY]]


def test_h1_a_lie_makes_the_router_ask_the_gateway_it_knows_and_the_liar_is_not_believed(uplink):
    uplink.known(GATEWAY)
    asked = []

    def lie():
        asked.extend(f for f in uplink.say(lies(GATEWAY)["gratuitous reply"]) if ARP in f)
        return asked

    wait_until(lie)                                  # not within the first second after the answer
    assert [(f.dst, f[ARP].pdst) for f in asked] == [(MACS[GATEWAY], GATEWAY)]
    assert uplink.say(reply(GATEWAY, EVIL_MAC)) == []
    assert [f.dst for f in uplink.send("198.51.100.7")] == [MACS[GATEWAY]]
    assert uplink.say(reply(GATEWAY, MACS[GATEWAY])) == []
    assert [f.dst for f in uplink.send("198.51.100.7")] == [MACS[GATEWAY]]


def test_h4_a_hundred_thousand_senders_leave_no_trace_at_the_uplink(uplink):
    uplink.known(GATEWAY)
    rng = random.Random(4)
    asks = bytes(Ether(src=EVIL_MAC, dst=EVERYBODY) / ARP(op=1, hwsrc=EVIL_MAC, psrc="192.0.2.0", pdst=A))
    for _ in range(scale(100_000)):
        mac = b"\2" + rng.randbytes(5)
        uplink.wire.send(asks[:6] + mac + asks[12:22] + mac + asks[28:31] + bytes([rng.randrange(10, 255)]) + asks[32:])
        uplink.forwarder.run_once()
        assert len(uplink.wire.recv(2000)) == 60     # each is answered, for that costs nothing
    for address in (FRIEND, "192.0.2.200"):
        asked = uplink.send(address)
        assert [(f[ARP].op, f[ARP].pdst) for f in asked] == [(1, address)], "nobody is known who did not answer us"
    assert [f.dst for f in uplink.say(reply(FRIEND, MACS[FRIEND]))] == [MACS[FRIEND]]
    assert [f.dst for f in uplink.send("198.51.100.7")] == [MACS[GATEWAY]]


def scan(uplink, stack, network, count):
    """Packets of a stack to `count` addresses, none of which anybody has, who was asked for."""
    asked = set()
    for n in range(count):
        stack.send(IP(src=stack.address, dst=f"192.0.{network}.{n}") / ICMP(id=1))
        uplink.run()
        asked |= {f[ARP].pdst for f in uplink.take() if ARP in f}
    return asked


def test_h2_a_scan_by_one_attachment_leaves_places_for_the_others():
    uplink = Uplink(network=16).freeze()
    try:
        uplink.known(GATEWAY)
        assert len(scan(uplink, uplink.a, 3, 200)) == 128
        other = uplink.stack("10.77.0.3")
        assert scan(uplink, other, 4, 1) == {"192.0.4.0"}
        uplink.check()
    finally:
        uplink.close()


def test_h4_destinations_that_do_not_answer_fill_half_of_the_table_and_evict_nobody():
    uplink = Uplink(network=16).freeze()
    try:
        uplink.known(GATEWAY).known(FRIEND)
        stacks = [uplink.stack(f"10.77.1.{n}") for n in range(1, 7)]
        asked = set()
        for n, stack in enumerate(stacks):
            asked |= scan(uplink, stack, 10 + n, 140)
        assert len(asked) == 512
        for address in (GATEWAY, FRIEND):
            assert [f.dst for f in uplink.send(address) if ICMP in f] == [MACS[address]]
        assert uplink.forwarder.counters(uplink.port)["drop_out_neighbor"] >= 6 * 140 - 512
        uplink.check()
    finally:
        uplink.close()
