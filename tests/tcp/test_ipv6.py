"""TCP over IPv6 on a link without neighbours; scapy makes and judges the packets."""

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw

from netstack.stack import Stack

US, THEM = "fd00::1", "fd00::2"


class Far:
    """The other host."""

    def __init__(self, mtu=1500):
        self.stack = Stack(addresses=("10.0.0.1", US + "/64"), mtu=mtu, seed=7)
        self.now = 10**9

    def give(self, packet):
        self.now += 10**6
        self.stack.input(bytes(packet), self.now)
        return self.take()

    def take(self):
        out = []
        while (frame := self.stack.pop_output()) is not None:
            packet = IPv6(frame[0])
            again = IPv6(frame[0])
            del again[TCP].chksum, again.plen
            assert IPv6(bytes(again))[TCP].chksum == packet[TCP].chksum, "the sum over the pseudo header"
            assert packet.plen == len(frame[0]) - 40 and (packet.src, packet.dst) == (US, THEM)
            out.append(packet)
        return out

    def tcp(self, flags, seq, ack=0, payload=b"", **fields):
        ports = {"sport": 40000, "dport": 80, "window": 60000}
        head = IPv6(src=THEM, dst=US) / TCP(flags=flags, seq=seq, ack=ack, **ports, **fields)
        return head / Raw(payload) if payload else head

    def connect(self):
        server = self.stack.socket(family=10)
        server.bind(("::", 80))
        server.listen()
        [synack] = self.give(self.tcp("S", 100, options=[("MSS", 1440)]))
        assert synack[TCP].flags == "SA" and synack[TCP].ack == 101
        self.iss = synack[TCP].seq
        assert dict(synack[TCP].options)["MSS"] == self.stack.config.mtu - 60
        assert self.give(self.tcp("A", 101, self.iss + 1)) == []
        sock, address = server.accept()
        assert address[:2] == (THEM, 40000) and sock.getsockname()[:2] == (US, 80)
        return sock


def test_a_conversation():
    far = Far()
    sock = far.connect()
    [ack] = far.give(far.tcp("PA", 101, far.iss + 1, b"question"))
    assert ack[TCP].ack == 109 and sock.recv(100) == b"question"
    sock.send(b"answer")
    [data] = far.take()
    assert bytes(data[TCP].payload) == b"answer"
    far.give(far.tcp("A", 109, far.iss + 7))
    sock.close()
    [fin] = far.take()
    assert fin[TCP].flags == "FA"
    [last] = far.give(far.tcp("FA", 109, far.iss + 8))
    assert last[TCP].ack == 110
    assert [s.state for s in far.stack.sockets()] == ["LISTEN", "TIME_WAIT"]


def test_an_active_open_and_a_closed_port():
    far = Far()
    far.stack.advance(far.now)
    sock = far.stack.socket(family=10)
    sock.connect_ex((THEM, 9))
    [syn] = far.take()
    assert syn[TCP].flags == "S" and syn[TCP].dport == 9
    [reset] = far.give(far.tcp("A", 5, 77))
    assert (reset[TCP].flags, reset[TCP].seq) == ("R", 77)


@pytest.mark.parametrize("change, reason", [
    ({"src": "ff02::1"}, "ip_source"), ({"src": US}, "ip_source"), ({"src": "::"}, "ip_source"),
    ({"dst": "fd00::3"}, "ip_destination"), ({"plen": 2000}, "ip_total_length"), ({"nh": 60}, "ip_extension"),
])
def test_what_cannot_be_for_us_is_counted(change, reason):
    far = Far()
    far.connect()
    packet = far.tcp("PA", 101, far.iss + 1, b"x")
    for name, value in change.items():
        setattr(packet, name, value)
    assert far.give(packet) == []
    drops = {name: n for name, n in far.stack.counters().items() if n and reason in name}
    assert sum(drops.values()) == 1, far.stack.counters()


def test_a_packet_too_big_is_believed_when_it_quotes_what_was_sent():
    far = Far()
    sock = far.connect()
    sock.send(bytes(1440))
    [data] = far.take()
    quote = bytes(data)[:1232]
    for router, believed in ((IPv6(src="fd00::9", dst=US) / ICMPv6PacketTooBig(mtu=1280, cksum=1) / Raw(quote), False),
                             (IPv6(src="fd00::9", dst=US) / ICMPv6PacketTooBig(mtu=1279) / Raw(quote), False),
                             (IPv6(src="fd00::9", dst=US) / ICMPv6PacketTooBig(mtu=1280) / Raw(quote), True)):
        sizes = [len(p[TCP].payload) for p in far.give(router)]
        assert sizes == ([1220, 220] if believed else [])


def test_congestion_is_told_in_the_traffic_class():
    """RFC 3168 section 5 and RFC 9768: two bits of it, in and out; the other six are the application's."""
    far = Far()
    far.stack.set("net.ipv4.tcp_ecn", 3)
    server = far.stack.socket(family=10)
    server.bind(("::", 80))
    server.listen()
    syn = far.tcp("SECN", 100, options=[("MSS", 1440)])
    syn[IPv6].tc = 2
    [answer] = far.give(syn)
    assert str(answer[TCP].flags) == "SAN" and answer.tc == 0          # scapy calls AE by its old name, N
    far.iss = answer[TCP].seq
    far.give(far.tcp("AC", 101, far.iss + 1))
    sock, _ = server.accept()
    sock.setsockopt(0, 1, 0x40)                        # IP_TOS is of IPv4 peers
    sock.setsockopt(41, 67, 0xB8)                      # IPV6_TCLASS
    assert sock.getsockopt(0, 1) == 0x40 and sock.getsockopt(41, 67) == 0xB8
    marked = far.tcp("PAEN", 101, far.iss + 1, b"x" * 100)
    marked[IPv6].tc = 3
    [ack] = far.give(marked)
    assert ack.tc == 0xB8 | 2 and str(ack[TCP].flags) == "ACN"        # six: one packet with CE
    assert sock.tcp_info().received_ce == 1
