"""Two stacks on one Ethernet: UDP, ping and their errors with ARP underneath, on virtual time."""

import errno

import pytest

from netstack.stack import Stack
from netstack.wire import arp, ethernet, icmp, ipv4, udp

S = 1_000_000_000
A, B = "10.0.0.1", "10.0.0.2"
MAC_A, MAC_B = "02:00:00:00:00:01", "02:00:00:00:00:02"


class Cable:
    """Both stacks and everything that was sent, in order."""

    def __init__(self):
        common = dict(media="ethernet", mtu=1500)
        self.a = Stack(addresses=(f"{A}/24",), mac=MAC_A, gateway="10.0.0.254", seed=1, **common)
        self.b = Stack(addresses=(f"{B}/24",), mac=MAC_B, seed=2, **common)
        self.now = 0
        self.seen = []

    def carry(self, connected=True):
        """Until nobody has anything to say."""
        for _ in range(100):
            quiet = True
            for source, sink in ((self.a, self.b), (self.b, self.a)):
                item = source.pop_output()
                while item is not None:
                    quiet = False
                    self.seen.append(item[0])
                    if connected:
                        sink.input(item[0], self.now)
                    item = source.pop_output()
            if quiet:
                return
        raise AssertionError("the stacks do not come to rest")

    def wait(self, ns, connected=True):
        self.now += ns
        self.a.advance(self.now)
        self.b.advance(self.now)
        self.carry(connected)

    def kinds(self):
        """The frames seen so far, as words."""
        words = []
        for frame in self.seen:
            e = ethernet.parse(frame)
            if e.ethertype == 0x806:
                words.append({1: "ask", 2: "answer"}[arp.parse(e.payload).operation])
            else:
                words.append({1: "icmp", 17: "udp"}[ipv4.parse(e.payload).protocol])
        self.seen.clear()
        return words


@pytest.fixture
def cable():
    return Cable()


def bound(stack, address, port):
    s = stack.socket("dgram")
    s.bind((address, port))
    return s


def test_a_datagram_finds_its_way_and_its_answer_back(cable):
    one, two = bound(cable.a, A, 1000), bound(cable.b, B, 2000)
    one.sendto(b"ping", (B, 2000))
    cable.carry()
    assert two.recvfrom(100) == (b"ping", (A, 1000))
    two.sendto(b"pong", (A, 1000))
    cable.carry()
    assert one.recvfrom(100) == (b"pong", (B, 2000))
    assert cable.kinds() == ["ask", "answer", "udp", "ask", "answer", "udp"]
    one.sendto(b"again", (B, 2000))
    cable.carry()
    assert cable.kinds() == ["udp"]


def test_a_closed_port_answers_with_an_error_that_a_connected_socket_reports(cable):
    one = bound(cable.a, A, 1000)
    one.connect((B, 2000))
    one.send(b"anybody?")
    cable.carry()
    assert "icmp" in cable.kinds()
    with pytest.raises(ConnectionRefusedError):
        one.recvfrom(100)
    assert cable.b.counters()["drop_udp_no_port"] == 1


def test_a_neighbour_that_is_not_there_is_reported_after_three_seconds(cable):
    one = bound(cable.a, A, 1000)
    one.connect((B, 2000))
    one.send(b"anybody?")
    cable.carry(connected=False)
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            one.recvfrom(100)
        cable.wait(S, connected=False)
    assert cable.kinds() == ["ask"] * 3
    with pytest.raises(OSError) as failure:
        one.recvfrom(100)
    assert failure.value.errno == errno.EHOSTUNREACH
    assert cable.a.counters()["drop_neighbor_unreachable"] == 1


def test_a_ping_socket_gets_its_answer(cable):
    ping = cable.a.socket("dgram", protocol=1)
    ping.sendto(icmp.build(icmp.ECHO_REQUEST, 0, 0, 5, b"data"), (B, 0))
    cable.carry()
    answer, (host, _) = ping.recvfrom(100)
    got = icmp.parse(answer)
    assert (host, got.type, got.sequence, got.payload) == (B, icmp.ECHO_REPLY, 5, b"data")


@pytest.mark.parametrize("protocol,answered", [(41, True), (132, True), (2, True), (1, False)])
def test_a_protocol_nobody_speaks_is_answered_once(cable, protocol, answered):
    cable.a.input(ethernet.build(MAC_A, MAC_B, 0x800, ipv4.build(B, A, protocol, b"x" * 20)), 0)
    cable.carry()
    errors = [icmp.parse(ipv4.parse(f[14:]).payload) for f in cable.seen if f[12:14] == b"\x08\0"]
    assert [(e.type, e.code) for e in errors] == ([(3, 2)] if answered else [])


def test_broadcasts_reach_sockets_and_are_never_answered(cable):
    s = bound(cable.a, "0.0.0.0", 2000)
    for dst, port in (
        ("10.0.0.255", 2000),
        ("255.255.255.255", 2000),
        ("10.0.0.255", 2001),
        ("224.0.0.1", 2001),
    ):
        data = ipv4.build(B, dst, 17, udp.build(B, dst, 1000, port, b"all"))
        cable.a.input(ethernet.build("ff:ff:ff:ff:ff:ff", MAC_B, 0x800, data), 0)
    assert [s.recvfrom(10)[0] for _ in range(2)] == [b"all", b"all"]
    cable.carry()
    assert cable.seen == []


def test_every_frame_is_delivered_or_counted(cable):
    """Conservation: frames in = datagrams delivered + drops by reason + what ARP consumed."""
    one, two = bound(cable.a, A, 1000), bound(cable.b, B, 2000)
    for number in range(50):
        one.sendto(bytes(number), (B, 2000 if number % 3 else 2001))
        cable.carry()
    received = 0
    while True:
        try:
            two.recvfrom(100)
        except BlockingIOError:
            break
        received += 1
    counters = cable.b.counters()
    drops = sum(n for name, n in counters.items() if name.startswith("drop_"))
    arps = sum(f[12:14] == b"\x08\x06" and f[6:12].hex(":") == MAC_A for f in cable.seen)
    assert counters["packets_in"] == received + drops + arps
    assert received + drops == 50
