"""AF_INET6 sockets as Linux has them: both versions, addresses as tuples, options, source addresses, path MTU."""

import errno
import socket

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    IPv6,
)
from scapy.packet import Raw

from netstack.stack import Stack
from netstack.testing import Network
from netstack.testing.packets import parse_packet

US4, US6, THEM4, THEM6 = "10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"
V6ONLY = (41, 26)


class Peer:
    def __init__(self, addresses=(f"{US4}/24", f"{US6}/64"), **settings):
        self.stack = Stack(addresses=addresses, seed=1, **settings)
        self.now = 10**9
        self.stack.advance(self.now)

    def take(self):
        out = []
        while (item := self.stack.pop_output()) is not None:
            parsed = parse_packet(item[0])
            assert parsed.checksum_ok and parsed.ip_ok
            out.append(IPv6(item[0]) if parsed.version == 6 else IP(item[0]))
        return out

    def give(self, packet):
        self.stack.input(bytes(packet), self.now)
        return self.take()

    def socket(self, type="dgram", family=10, bind=None, only=None):
        s = self.stack.socket(type, family=family)
        if only is not None:
            s.setsockopt(*V6ONLY, only)
        if bind is not None:
            s.bind(bind)
        return s


def errno_of(call, *args):
    with pytest.raises(OSError) as caught:
        call(*args)
    return errno.errorcode[caught.value.errno]


# ---- one socket for both -----------------------------------------------------------------------------


WHO_HEARS = {               # what it is bound to: does it hear IPv4, IPv6?
    (2, "0.0.0.0", None): (True, False), (2, US4, None): (True, False), (10, "::", 0): (True, True),
    (10, "::", 1): (False, True), (10, US6, 0): (False, True), (10, f"::ffff:{US4}", 0): (True, False),
    (10, "::ffff:0.0.0.0", 0): (True, False),
}


@pytest.mark.parametrize("how", WHO_HEARS)
def test_which_version_a_datagram_socket_hears(how):
    family, address, only = how
    peer = Peer()
    s = peer.socket(family=family, bind=(address, 7), only=only)
    for version, packet in ((0, IP(src=THEM4, dst=US4)), (1, IPv6(src=THEM6, dst=US6))):
        peer.give(packet / UDP(sport=9, dport=7) / Raw(b"x"))
        if WHO_HEARS[how][version]:
            them = (THEM4 if family == 2 else f"::ffff:{THEM4}") if version == 0 else THEM6
            assert s.recvfrom(9) == (b"x", (them, 9) if family == 2 else (them, 9, 0, 0))
        else:
            assert errno_of(s.recv, 9) == "EAGAIN"


@pytest.mark.parametrize("how", WHO_HEARS)
def test_which_version_a_listener_takes(how):
    family, address, only = how
    peer = Peer()
    s = peer.socket("stream", family, (address, 7), only)
    s.listen()
    for version, packet in ((0, IP(src=THEM4, dst=US4)), (1, IPv6(src=THEM6, dst=US6))):
        [answer] = peer.give(packet / TCP(sport=9, dport=7, flags="S", seq=5))
        assert str(answer[TCP].flags) == ("SA" if WHO_HEARS[how][version] else "RA")
        if WHO_HEARS[how][version]:
            peer.give(packet / TCP(sport=9, dport=7, flags="A", seq=6, ack=answer[TCP].seq + 1))
            child, address = s.accept()
            us, them = (US4, THEM4) if version == 0 else (US6, THEM6)
            if family == 10 and version == 0:
                us, them = f"::ffff:{us}", f"::ffff:{them}"
            tail = (0, 0) if family == 10 else ()
            assert address == child.getpeername() == (them, 9, *tail) and child.getsockname() == (us, 7, *tail)


def test_who_may_share_a_port():
    places = list(WHO_HEARS)
    for one in places:
        for other in places:
            peer = Peer()
            peer.socket("stream", one[0], (one[1], 7), one[2])
            s = peer.socket("stream", other[0], None, other[2])
            both = any(a and b for a, b in zip(WHO_HEARS[one], WHO_HEARS[other], strict=True))
            if both or one == other:
                assert errno_of(s.bind, (other[1], 7)) == "EADDRINUSE", (one, other)
            else:
                s.bind((other[1], 7))


def test_a_listener_of_its_own_version_is_preferred():
    peer = Peer()
    for family, address in ((10, "::"), (2, "0.0.0.0")):
        s = peer.socket("dgram", family)
        s.setsockopt(1, 15, 1)
        s.bind((address, 7))
        if family == 10:
            dual = s
    peer.give(IP(src=THEM4, dst=US4) / UDP(sport=9, dport=7) / Raw(b"x"))
    assert s.recv(9) == b"x" and errno_of(dual.recv, 9) == "EAGAIN"


def test_addresses_a_socket_cannot_use():
    peer = Peer()
    assert errno_of(peer.socket(only=1).bind, (f"::ffff:{US4}", 7)) == "EINVAL"
    assert errno_of(peer.socket(only=1).sendto, b"x", (f"::ffff:{THEM4}", 7)) == "ENETUNREACH"
    assert peer.socket("stream", only=1).connect_ex((f"::ffff:{THEM4}", 7)) == errno.ENETUNREACH
    assert errno_of(peer.socket(family=2).sendto, b"x", (THEM6, 7)) == "EAFNOSUPPORT"
    assert errno_of(peer.socket().bind, ("fd00::77", 7)) == "EADDRNOTAVAIL"
    assert errno_of(peer.socket(bind=(US6, 7)).sendto, b"x", (f"::ffff:{THEM4}", 7)) == "ENETUNREACH"
    assert peer.socket("stream").connect_ex(("ff02::1", 7)) == errno.ENETUNREACH
    with pytest.raises(ValueError, match="zeros"):
        peer.socket().sendto(b"x", ("fe80:1::5", 7))
    with pytest.raises(OverflowError):
        peer.socket().sendto(b"x", (THEM6, 7, 1 << 20))


def test_the_unspecified_address_as_a_destination_is_this_host():
    peer = Peer()
    for family, any_address, local in ((10, "::", "::1"), (2, "0.0.0.0", "127.0.0.1"),
                                       (10, "::ffff:0.0.0.0", "::ffff:127.0.0.1")):
        server = peer.socket("dgram", family, (any_address, 0))
        client = peer.socket("dgram", family)
        client.connect((any_address, server.getsockname()[1]))
        assert client.getpeername()[0] == local
        client.send(b"hello")
        assert server.recv(9) == b"hello"


def test_names_of_a_socket_that_has_none():
    peer = Peer()
    assert peer.socket().getsockname() == ("::", 0, 0, 0)
    assert peer.socket(family=2).getsockname() == ("0.0.0.0", 0)


# ---- options -------------------------------------------------------------------------------------------


def test_options_have_linux_defaults_ranges_and_meaning():
    peer = Peer()
    s = peer.socket()
    for name, default in {16: 64, 18: 1, 19: 1, 26: 0, 62: 0, 67: 0}.items():
        assert s.getsockopt(41, name) == default
    for name, good, bad in ((16, (-1, 0, 255), (-2, 256)), (18, (-1, 0, 255), (-2, 256)), (19, (0, 1), (2,)),
                            (67, (-1, 0, 255), (256,))):
        for value in good:
            s.setsockopt(41, name, value)
        for value in bad:
            assert errno_of(s.setsockopt, 41, name, value) == "EINVAL"
    s.setsockopt(41, 16, 9)
    s.setsockopt(41, 67, 0xB8)
    s.sendto(b"x", (THEM6, 7))
    [packet] = peer.take()
    assert (packet.hlim, packet.tc) == (9, 0xB8)
    assert errno_of(peer.socket(family=2).getsockopt, 41, 26) == "ENOTSUP"
    s = peer.socket(bind=("::", 7))
    assert errno_of(s.setsockopt, 41, 26, 1) == "EINVAL"
    peer.stack.set("net.ipv6.bindv6only", 1)
    assert peer.socket().getsockopt(*V6ONLY) == 1 and peer.stack.get("net.ipv6.bindv6only") == 1
    with pytest.raises(KeyError):
        peer.stack.set("net.ipv6.conf.all.nothing", 1)


def test_flow_labels_are_of_the_flow_and_cannot_be_guessed():
    labels = {}
    for seed in (1, 2):
        peer = Peer()
        peer.stack = Stack(addresses=(f"{US6}/64",), seed=seed)
        for port in range(1000, 1100):
            s = peer.socket(bind=(US6, port))
            for _ in range(3):
                s.sendto(b"x", (THEM6, 7))
            sent = {p.fl for p in peer.take()}
            assert len(sent) == 1
            labels[seed, port] = sent.pop()
    assert 0 not in labels.values() and len(set(labels.values())) > 190
    peer.stack.set("net.ipv6.auto_flowlabels", 0)
    s.sendto(b"x", (THEM6, 7))
    assert peer.take()[0].fl == 0


def test_all_packets_of_a_connection_have_one_label():
    net = Network(seed=3, log=True)
    a, b = net.host(US6), net.host(THEM6)
    server = b.socket(family=10)
    server.bind((THEM6, 80))
    server.listen()
    client = a.socket(family=10)
    client.connect_ex((THEM6, 80))
    net.run("1s", condition=lambda: client.poll() & 4)
    client.send(bytes(5000))
    net.run("1s")
    mine = [p for p in a.packets() if p.direction == "out"]
    assert len(mine) > 4 and len({p.flow_label for p in mine}) == 1 and mine[0].flow_label


# ---- where packets come from -----------------------------------------------------------------------------


@pytest.mark.parametrize("addresses, dst, best", [       # RFC 6724 section 10.1 and more
    (("2001:db8:1::1/64", "fe80::1/64"), "2001:db8:1::2", "2001:db8:1::1"),
    (("2001:db8:1::1/64", "fe80::1/64"), "fe80::2%1", "fe80::1%1"),
    (("2001:db8:1::1/64", "2001:db8:3::1/64"), "2001:db8:1::2", "2001:db8:1::1"),
    (("2001:db8:3::1/64", "2001:db8:1::1/64"), "2001:db8:1::2", "2001:db8:1::1"),
    (("2002:c633:6401::1/64", "2001:db8:1::1/64"), "2002:c633:6401::2", "2002:c633:6401::1"),
    (("2002:c633:6401::1/64", "2001:db8:1::1/64"), "2001:db8:9::2", "2001:db8:1::1"),
    (("fd00::1/64", "2001:db8:1::1/64"), "fd11::1", "fd00::1"),
    (("fd00::1/64", "2001:db8:1::1/64"), "2001:4860::1", "2001:db8:1::1"),
    (("2001:db8:1::1/64", "2001:db8:1::2/64"), "2001:db8:1::2", "2001:db8:1::2"),
    (("fe80::1/64", "2001:db8:1::1/64"), "ff02::5", "fe80::1%1"),
    (("fe80::1/64", "2001:db8:1::1/64"), "ff0e::5", "2001:db8:1::1"),
    (("10.0.0.1/24", "2001:db8:1::1/64"), "10.0.0.9", "10.0.0.1"),
])
def test_source_addresses_are_chosen_as_rfc_6724_says(addresses, dst, best):
    assert Peer(addresses).stack.source_address(dst) == best


# ---- echo, errors, path MTU ------------------------------------------------------------------------------


def ping(peer):
    s = peer.stack.socket("dgram", family=10, protocol=58)
    s.sendto(bytes((128, 0, 0, 0, 9, 9, 0, 7)) + b"data", (THEM6, 0))
    [request] = peer.take()
    return s, request


def test_a_ping_socket_sends_and_hears_its_own_echo():
    peer = Peer()
    s, request = ping(peer)
    assert request[ICMPv6EchoRequest].seq == 7
    peer.give(IPv6(src=THEM6, dst=US6) / ICMPv6EchoReply(id=request[ICMPv6EchoRequest].id, seq=7, data=b"data"))
    data, address = s.recvfrom(100)
    assert (data[0], data[8:], address) == (129, b"data", (THEM6, 0, 0, 0))
    peer.give(IP(src=THEM4, dst=US4) / ICMP(type=0, id=request[ICMPv6EchoRequest].id) / Raw(b"data"))
    assert errno_of(s.recv, 9) == "EAGAIN"
    assert errno_of(s.sendto, bytes((8, 0, 0, 0, 0, 0, 0, 0)), (THEM6, 0)) == "EINVAL"


@pytest.mark.parametrize("code, error", [
    (0, None), (1, "EACCES"), (2, None), (3, None), (4, "ECONNREFUSED"), (5, "EACCES"), (6, "EACCES")])
def test_errors_about_our_datagrams_are_what_linux_makes_of_them(code, error):
    peer = Peer()
    s = peer.socket()
    s.connect((THEM6, 7))
    s.send(b"hello")
    [sent] = peer.take()
    good = IPv6(src="fd00::9", dst=US6) / ICMPv6DestUnreach(code=code) / Raw(bytes(sent))
    broken = bytearray(bytes(good))
    broken[50] ^= 1
    peer.give(bytes(broken))
    assert s.getsockopt(1, 4) == 0, "the checksum is always verified"
    peer.give(good)
    assert errno.errorcode.get(s.getsockopt(1, 4)) == error, "what may pass is not reported without IPV6_RECVERR"


def test_an_error_about_a_packet_we_did_not_send_is_not_believed():
    peer = Peer()
    s = peer.socket()
    s.connect((THEM6, 7))
    s.send(b"hello")
    [sent] = peer.take()
    for change in ({"src": "fd00::5"}, {"dst": "fd00::5"}):
        for name, value in change.items():
            other = IPv6(bytes(sent))
            setattr(other, name, value)
            peer.give(IPv6(src="fd00::9", dst=US6) / ICMPv6DestUnreach(code=4) / Raw(bytes(other)))
    assert s.getsockopt(1, 4) == 0


def test_a_packet_too_big_is_learnt_and_larger_datagrams_are_refused():
    peer = Peer()
    s = peer.socket()
    s.connect((THEM6, 7))
    assert s.getsockopt(41, 24) == 1500
    s.setsockopt(41, 62, 1)                  # IPV6_DONTFRAG
    s.send(bytes(1400))
    [sent] = peer.take()

    def report(mtu):
        peer.give(IPv6(src="fd00::9", dst=US6) / ICMPv6PacketTooBig(mtu=mtu) / Raw(bytes(sent)[:1200]))
        return s.getsockopt(41, 24)

    assert [report(mtu) for mtu in (68, 1279, 0, 1448, 1500, 70000)] == [1500] * 6
    assert report(1300) == 1300
    assert report(1400) == 1300, "a report only ever lowers it"
    assert errno.errorcode[s.getsockopt(1, 4)] == "EMSGSIZE"
    assert errno_of(s.send, bytes(1300 - 47)) == "EMSGSIZE"
    s.send(bytes(1300 - 48))
    assert errno_of(peer.socket().getsockopt, 41, 24) == "ENOTCONN"
    restored = Stack.restore(peer.stack.snapshot(), peer.now)
    assert restored.socket_by_id(s.id).getsockopt(41, 24) == 1300
    peer.stack.advance(peer.now + 601 * 10**9)
    assert s.getsockopt(41, 24) == 1500, "forgotten after ten minutes (RFC 8201 section 4)"


def test_a_parameter_problem_ends_no_connection_that_stands():
    peer = Peer()
    s = peer.socket("stream", bind=(US6, 7))
    s.listen()
    [answer] = peer.give(IPv6(src=THEM6, dst=US6) / TCP(sport=9, dport=7, flags="S", seq=5))
    peer.give(IPv6(src=THEM6, dst=US6) / TCP(sport=9, dport=7, flags="A", seq=6, ack=answer[TCP].seq + 1))
    child, _ = s.accept()
    child.send(b"x")
    [sent] = peer.take()
    for message in (ICMPv6ParamProblem(code=1), ICMPv6DestUnreach(code=4), ICMPv6DestUnreach(code=1)):
        peer.give(IPv6(src="fd00::9", dst=US6) / message / Raw(bytes(sent)))
    assert child.state == "ESTABLISHED"


def test_sockets_of_both_versions_go_on_after_a_snapshot():
    peer = Peer()
    sockets = {how: peer.socket("dgram", how[0], (how[1], 100 + i), how[2]) for i, how in enumerate(WHO_HEARS)}
    group = socket.inet_pton(socket.AF_INET6, "ff02::1234") + (1).to_bytes(4, "little")
    sockets[10, "::", 1].setsockopt(41, 20, group)
    again = Stack.restore(peer.stack.snapshot(), peer.now)
    assert again.snapshot() == peer.stack.snapshot()
    peer.stack = again
    for i, how in enumerate(WHO_HEARS):
        s = again.socket_by_id(sockets[how].id)
        for version, packet in ((0, IP(src=THEM4, dst=US4)), (1, IPv6(src=THEM6, dst=US6))):
            peer.give(packet / UDP(sport=9, dport=100 + i) / Raw(b"x"))
            assert bool(s.poll() & 1) == WHO_HEARS[how][version]
            if WHO_HEARS[how][version]:
                s.recv(9)
    s = again.socket_by_id(sockets[10, "::", 1].id)
    peer.give(IPv6(src=THEM6, dst="ff02::1234") / UDP(sport=9, dport=s.getsockname()[1]) / Raw(b"news"))
    assert s.recv(9) == b"news"
