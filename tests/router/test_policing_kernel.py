"""Watched by a router: the kernel's TCP, which keeps the rules, and a sender behind a TAP that does not."""

import contextlib
import select
import socket
import struct
import threading

import pytest

import netstack
from netstack.router import Router
from netstack.router.client import ControlClient
from netstack.router.greedy import MISDEEDS
from tests.router.conftest import KERNEL
from tests.router.forged import PORT, Forged, acknowledge_early, address_of, divide, overrun
from tests.router.lan import wait_until
from tests.router.outside import data_of, digest_of, send_all

pytestmark = pytest.mark.root

STRANGER = "192.0.2.66"
MAC = bytes.fromhex("020000000066")
ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 3, 0x0800, 0x0806
BYTES = 1_000_000


def router_at(netns, uplink="", **options):
    with netns.enter():
        return Router(uplinks=[f"tap:tap0{uplink}"], greedy="count", **options)


def found(router):
    """Misdeeds that were counted."""
    return {what: n for what in MISDEEDS if (n := router.counters()[f"greedy_{what}"])}


# --- the kernel ---


def in_background(run, *arguments):
    out = []
    thread = threading.Thread(target=lambda: out.append(run(*arguments)), daemon=True)
    thread.start()

    def result():
        thread.join(120)
        assert out, "it is still at it, or failed"
        return out[0]

    return result


def exchange(a, b):
    """Some data each way at once, all of it."""
    data, digest = data_of(3, BYTES)
    waited = [in_background(digest_of, end) for end in (a, b)]
    for end in (a, b):
        end.settimeout(60)
        waited.append(in_background(send_all, end, data))
    assert [wait() for wait in waited][:2] == [(BYTES, digest)] * 2


BAD = {"delay": "1ms", "rate": "100mbit", "queue": 20, "loss": "3%", "seed": 5}


@pytest.mark.parametrize("options", [
    {}, {"algorithm": b"reno"}, {"receive": 4096}, {"host_opens": True},
    {"link": {**BAD, "rate": "20mbit", "queue": 5}},
    {"behind": True, "link": {"delay": "1ms", "loss": "8%", "seed": 7}}],
    ids=["", "reno", "small buffer", "host opens", "short queue", "large packets"])
def test_the_kernel_is_found_of_nothing_though_segments_are_lost(runtime, tap, options):
    """Both ends send at once, so that each is watched as a sender and as a receiver. The bad link is before the kernel,
    or behind the router, which then joins the kernel's segments and has them cut."""
    bad = options.get("link", BAD)
    link = {"emulation": bad} if options.get("behind") else {"uplink": "".join(f",{k}={v}" for k, v in bad.items())}
    with router_at(tap, **link) as router, netstack.attach(router.name, drain=0) as host:
        with tap.enter():
            kernel = socket.socket()
        if "receive" in options:
            kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive"])
        kernel.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, options.get("algorithm", b"cubic"))
        with kernel:
            if "host_opens" in options:
                kernel.bind((KERNEL, PORT))
                kernel.listen()
                with host.create_connection((KERNEL, PORT), timeout=60) as ours, kernel.accept()[0] as theirs:
                    exchange(ours, theirs)
            else:
                with host.create_server((address_of(host), PORT)) as listener:
                    kernel.settimeout(60)
                    kernel.connect((address_of(host), PORT))
                    with listener.accept()[0] as ours:
                        exchange(ours, kernel)
        seen = router.counters()
        assert seen["drop_in_emulated"] and seen["drop_out_emulated"], "nothing was tried"
        assert found(router) == {}
        assert router.check_conservation() == []


# --- a stranger ---


class Stranger:
    """A station on the TAP's network that the namespace's kernel knows nothing of: a packet socket that writes its own
    frames. It answers for its address."""

    def __init__(self, netns, server):
        with netns.enter():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind(("tap0", ETH_P_ALL))
        self.socket.setblocking(False)
        self.router = b"\xff" * 6                            # until it answers
        wait_until(lambda: self.finds(server))

    def finds(self, server):
        """Ask for the router, again and again: a TAP that was just opened may lose what is sent to it."""
        self.arp(1, b"\xff" * 6, server)
        select.select([self.socket], [], [], 0.05)
        self.read()
        return self.router != b"\xff" * 6

    def arp(self, operation, mac, address):
        body = struct.pack("!HHBBH6s4s6s4s", 1, ETH_P_IP, 6, 4, operation, MAC, socket.inet_aton(STRANGER), mac,
                           socket.inet_aton(address))
        self.socket.send(mac + MAC + struct.pack("!H", ETH_P_ARP) + body)

    def write(self, packet):
        self.socket.send(self.router + MAC + struct.pack("!H", ETH_P_IP) + packet)

    def read(self):
        """The next IP packet for it, None without one."""
        while True:
            try:
                frame = self.socket.recv(65536)
            except BlockingIOError:
                return None
            kind = int.from_bytes(frame[12:14], "big")
            if frame[6:12] == MAC:
                continue                                     # its own
            if kind == ETH_P_ARP and frame[38:42] == socket.inet_aton(STRANGER):
                self.router = frame[6:12]
                if frame[21] == 1:
                    self.arp(2, frame[6:12], socket.inet_ntoa(frame[28:32]))
            elif kind == ETH_P_IP and frame[:6] == MAC and frame[30:34] == socket.inet_aton(STRANGER):
                return frame[14:]

    def close(self):
        self.socket.close()


@pytest.fixture
def watched(runtime, tap):
    """A router, the attachment of a server's host, its end of a connection, and the stranger's."""
    with router_at(tap) as router, netstack.attach(router.name, drain=0) as host, \
            host.create_server((address_of(host), PORT)) as listener:
        stranger = Stranger(tap, address_of(host))
        forged = Forged(STRANGER, address_of(host), stranger.write, stranger.read)
        with listener.accept()[0] as connection:
            yield router, router.attachments()[0].id, connection, forged
        stranger.close()
        assert router.check_conservation() == []


@pytest.mark.parametrize(("misbehave", "misdeed"), [
    (acknowledge_early, "optimistic_ack"), (divide, "ack_division"), (overrun, "window_overrun")])
def test_a_stranger_behind_the_uplink_is_found_of_what_it_does(watched, caplog, misbehave, misdeed):
    router, host, connection, forged = watched
    connection.sendall(bytes(1000))
    misbehave(forged)
    wait_until(lambda: found(router))
    forged.hear(lambda p: "A" in p.flags)                    # the host goes on
    assert found(router) == {misdeed: 1} and router.counters(host)[f"greedy_{misdeed}"] == 0
    with ControlClient(router.name) as client:
        uplink, = client.uplinks()
    assert dict(zip(MISDEEDS, uplink.greedy, strict=True))[misdeed] == 1
    wait_until(lambda: any(f"TCP {STRANGER}." in record.getMessage() for record in caplog.records))


class Flood:
    """Keeps so many segments on the way, and sends all of them again for as long as one is missing, at once."""

    SEGMENTS, SIZE = 24, 1400

    def __init__(self, forged, first):
        self.forged = forged
        self.acknowledged, self.edge = first.ack, forged.edge(first)

    def goes_on(self):
        """Once more, inside the window; then as much as is answered in a moment."""
        begin, end = self.forged.seq, self.forged.seq + self.SEGMENTS * self.SIZE
        if end <= self.edge:
            for seq in range(begin, end, self.SIZE):
                self.forged.write(self.forged.segment("A", bytes(self.SIZE), seq=seq))
        for _ in range(20):
            while (packet := self.forged.next()) is not None:
                self.acknowledged = max(self.acknowledged, packet.ack)
                self.edge = max(self.edge, self.forged.edge(packet))
            if self.acknowledged == end:
                self.forged.seq = end
                break
            select.select([], [], [], 0.001)


def swallow(connection):
    with contextlib.suppress(OSError):                       # it is closed meanwhile
        digest_of(connection)


def test_a_stranger_that_does_not_back_off_is_found(watched):
    """How fast it gets on in the second half of 32 rounds counts, and depends on the machine: if not in these, then in
    the next ones."""
    router, host, connection, forged = watched
    connection.sendall(bytes(1))
    flood = Flood(forged, forged.hear(lambda p: p.payload))
    connection.settimeout(60)
    in_background(swallow, connection)
    router._forwarder.emulate(host, seed=3, output={"loss": 0.5})
    wait_until(lambda: flood.goes_on() or found(router), 60)
    assert found(router) == {"no_back_off": 1} and router.counters(host)["greedy_no_back_off"] == 0
