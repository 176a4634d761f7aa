"""UDP-Lite sockets of a stack (RFC 3828, udplite(7)): coverage both ways, ports of their own, errors, a snapshot."""

import errno
import socket as kernel

import pytest

from netstack.counters import DropReason as R
from netstack.stack import Stack
from netstack.testing import Network
from netstack.testing.probe import UdpProbe
from netstack.wire import icmp, ipv4, udp

US, PEER = "10.0.0.1", "10.0.0.2"
US6, PEER6 = "fd00::1", "fd00::2"
LITE, SEND, RECV, S = kernel.IPPROTO_UDPLITE, 10, 11, 10**9
DATA = bytes(range(200))


@pytest.fixture
def stack():
    s = Stack(addresses=(US + "/24", US6 + "/64"), seed=3828)
    s.advance(S)
    return s


def lite(stack, family=kernel.AF_INET, port=2000):
    s = stack.socket("dgram", family, LITE)
    s.bind((US if family == kernel.AF_INET else "::", port))
    return s


def give(stack, datagram: bytes, protocol: int = LITE, src: str = PEER) -> None:
    stack.input(ipv4.build(src, US, protocol, datagram), stack.now_ns)


def sent(stack) -> list[bytes]:
    out = []
    while (item := stack.pop_output()) is not None:
        out.append(item[0])
    return out


def build(payload: bytes, coverage: int = 0, dport: int = 2000) -> bytes:
    return udp.build_lite(PEER, US, 1000, dport, payload, coverage)


# --- in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("coverage", [0, 8, 9, 100, 207, 208])
def test_the_queue_keeps_every_byte_whatever_is_covered(coverage):
    queue = UdpProbe()
    assert queue.deliver(udp.build_lite(PEER, US, 1000, 2000, DATA, coverage), lite=True) == R.DROP_NONE
    assert queue.receive() == (DATA, 200, PEER, 1000)


def test_damage_beyond_the_coverage_reaches_the_program_and_damage_within_does_not(stack):
    s = lite(stack)
    good = build(DATA, 20)
    for at, arrives in ((7, False), (19, False), (20, True), (207, True)):
        bad = bytearray(good)
        bad[at] ^= 0x10
        give(stack, bytes(bad))
        if arrives:
            assert s.recv(1000) == bytes(bad)[8:]
        else:
            with pytest.raises(BlockingIOError):
                s.recv(1000)
    assert stack.counters()["drop_udp_checksum"] == 2 and stack.counters()["udplite_in"] == 4


@pytest.mark.parametrize(("least", "taken"), [(None, [0, 8, 50, 208]), (0, [0, 208]), (1, [0, 8, 50, 208]),
                                              (50, [0, 50, 208]), (51, [0, 208]), (100_000, [0, 208])])
def test_a_receiver_asks_for_a_coverage_and_wholly_covered_datagrams_always_come(stack, least, taken):
    s = lite(stack)
    if least is not None:
        s.setsockopt(LITE, RECV, least)
        assert s.getsockopt(LITE, RECV) == (8 if least == 1 else min(least, 65535))
    came = []
    for coverage in (0, 8, 50, 208):
        give(stack, build(DATA, coverage))
        try:
            assert s.recv(1000) == DATA
            came.append(coverage)
        except BlockingIOError:
            continue
    assert came == taken
    assert stack.counters().get("drop_udplite_coverage", 0) == 4 - len(taken)


def test_ports_of_udp_and_udp_lite_are_not_the_same(stack):
    plain = stack.socket("dgram")
    plain.bind((US, 2000))
    s = lite(stack)
    give(stack, build(b"lite"))
    give(stack, udp.build(PEER, US, 1000, 2000, b"plain"), protocol=17)
    assert s.recv(100) == b"lite" and plain.recv(100) == b"plain"
    with pytest.raises(OSError) as e:
        lite(stack)
    assert e.value.errno == errno.EADDRINUSE


def test_a_datagram_to_nobody_is_answered_once_its_sum_is_right(stack):
    stack.socket("dgram").bind((US, 2000))                     # of UDP: not meant
    bad = bytearray(build(DATA, 20))
    bad[19] ^= 1
    give(stack, bytes(bad))
    assert sent(stack) == []
    give(stack, build(DATA, 20))
    answer, = sent(stack)
    assert answer[9] == 1 and answer[20:22] == bytes([3, 3]) and answer[28 + 9] == LITE


def test_a_broadcast_reaches_the_lite_sockets_of_its_port_alone(stack):
    plain, s = stack.socket("dgram"), stack.socket("dgram", kernel.AF_INET, LITE)
    for each in (plain, s):
        each.bind(("", 2000))
    datagram = udp.build_lite(PEER, "255.255.255.255", 1000, 2000, b"all", 8)
    stack.input(ipv4.build(PEER, "255.255.255.255", LITE, datagram), stack.now_ns)
    assert s.recv(100) == b"all"
    with pytest.raises(BlockingIOError):
        plain.recv(100)


# --- out --------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "covers"),
                         [(None, 208), (0, 208), (1, 8), (8, 8), (30, 30), (208, 208), (5000, 208)])
def test_a_sender_says_how_much_is_covered(stack, asked, covers):
    s = lite(stack)
    if asked is not None:
        s.setsockopt(LITE, SEND, asked)
        assert s.getsockopt(LITE, SEND) == (max(asked, 8) if asked else 0)
    s.sendto(DATA, (PEER, 9))
    packet, = sent(stack)
    assert packet[9] == LITE
    assert udp.parse_lite(packet[20:], US, PEER) == (2000, 9, covers, DATA)
    assert stack.counters()["udplite_out"] == 1 and stack.counters()["udp_out"] == 0


def test_pieces_carry_the_sum_of_what_is_covered(stack):
    s = lite(stack)
    s.setsockopt(LITE, SEND, 12)
    s.sendto(DATA * 20, (PEER, 9))
    pieces = sent(stack)
    assert len(pieces) == 3
    whole = b"".join(p[20:] for p in pieces)
    assert udp.parse_lite(whole, US, PEER) == (2000, 9, 12, DATA * 20)


def test_port_0_is_no_destination_and_what_is_too_long_is_refused(stack):
    s = lite(stack)
    for data, port, number in ((b"x", 0, errno.EINVAL), (bytes(65508), 9, errno.EMSGSIZE)):
        with pytest.raises(OSError) as e:
            s.sendto(data, (PEER, port))
        assert e.value.errno == number


def test_options_are_of_udp_lite_sockets_alone(stack):
    s = lite(stack)
    for sock in (stack.socket("dgram"), stack.socket("stream"), stack.socket("raw", protocol=200)):
        with pytest.raises(OSError) as e:
            sock.setsockopt(LITE, SEND, 8)
        assert e.value.errno == errno.ENOPROTOOPT
        with pytest.raises(OSError) as e:
            sock.getsockopt(LITE, SEND)
        assert e.value.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP)      # Linux says so of another protocol's level
    with pytest.raises(OSError) as e:
        s.setsockopt(LITE, 99, 8)
    assert e.value.errno == errno.ENOPROTOOPT
    assert s.getsockopt(1, 38) == LITE and s.getsockopt(1, 3) == kernel.SOCK_DGRAM     # SO_PROTOCOL, SO_TYPE
    assert s.state == "UDPLITE"


# --- errors, IPv6, a snapshot -----------------------------------------------------------


def test_an_unreachable_port_is_told_to_the_lite_socket(stack):
    plain, s = stack.socket("dgram"), lite(stack)
    plain.bind((US, 2000))
    for each in (plain, s):
        each.connect((PEER, 9))
    s.setsockopt(0, 11, 1)                                     # IP_RECVERR
    s.send(b"hello")
    packet, = sent(stack)
    stack.input(ipv4.build(PEER, US, 1, icmp.build(3, 3, 0, 0, packet)), stack.now_ns)
    with pytest.raises(ConnectionRefusedError):
        s.recv(100)
    data, _, _, address = s.recvmsg(100, 100, 0x2000)          # MSG_ERRQUEUE
    assert data == b"hello" and address[:2] == (PEER, 9)
    with pytest.raises(BlockingIOError):
        plain.recv(100)


def test_two_hosts_speak_it_over_both_versions():
    net = Network(seed=3828)
    a, b = net.host((US, US6)), net.host((PEER, PEER6))
    for family, name in ((kernel.AF_INET, PEER), (kernel.AF_INET6, PEER6)):
        server = b.stack.socket("dgram", family, LITE)
        server.bind((name, 2000))
        client = a.stack.socket("dgram", family, LITE)
        client.setsockopt(LITE, SEND, 20)
        client.sendto(DATA, (name, 2000))
        net.run("1s", condition=lambda server=server: server.poll() & 1)
        data, peer = server.recvfrom(1000)
        server.sendto(data[::-1], peer)
        net.run("1s", condition=lambda client=client: client.poll() & 1)
        assert client.recv(1000) == DATA[::-1]
    assert a.stack.counters()["udplite_in"] == b.stack.counters()["udplite_in"] == 2


def test_over_ipv6_as_well_nobody_there_is_said(stack):
    s = stack.socket("dgram", kernel.AF_INET6, LITE)
    s.connect((US6, 9))
    s.send(b"to nobody")
    stack.advance(stack.now_ns)
    with pytest.raises(ConnectionRefusedError):
        s.recv(100)


def test_a_snapshot_keeps_coverage_and_what_waits(stack):
    s = lite(stack)
    s.setsockopt(LITE, SEND, 20)
    s.setsockopt(LITE, RECV, 40)
    give(stack, build(DATA, 40))
    copy = Stack.restore(stack.snapshot(), 9 * S)
    again = copy.socket_by_id(s.id)
    assert again.recv(1000) == DATA and again.getsockopt(LITE, SEND) == 20
    give(copy, build(DATA, 39))
    assert copy.counters()["drop_udplite_coverage"] == 1
    again.sendto(DATA, (PEER, 9))
    assert udp.parse_lite(sent(copy)[0][20:], US, PEER).coverage == 20


def test_beside_the_kernel_there_is_none(stack):
    """A hybrid stack keeps its ports by sockets of the kernel, of TCP and UDP alone: tests/kernel asks a real one."""
    assert stack.socket("dgram", kernel.AF_INET, LITE).state == "UDPLITE"
    with pytest.raises(OSError) as e:
        stack.socket("stream", kernel.AF_INET, LITE)
    assert e.value.errno == errno.EPROTONOSUPPORT
