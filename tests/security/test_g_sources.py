"""Rows G1 to G5 on a live stack: packets that lie about where they come from, and what would answer them."""

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.packet import Raw

from netstack.stack import Stack
from netstack.testing.packets import build_icmp, build_tcp, build_udp
from tests.ip.fragments import S, memory, sent, taken
from tests.security.rig import difference
from tests.support import scale

US, SECOND, PEER = "10.0.0.1", "192.168.7.33", "10.0.0.2"
US6, PEER6 = "fd00::1", "fd00::2"
ADDRESSES = (f"{US}/24", f"{SECOND}/27", f"{US6}/64")


def server(**options):
    """A stack with addresses of both versions, a listener, and a datagram socket on port 53 of all of them."""
    options.setdefault("addresses", ADDRESSES)
    stack = Stack(seed=1, **options)
    stack.advance(S)
    listener = stack.socket(family=10)
    listener.bind(("::", 80))
    listener.listen()
    dgram = stack.socket("dgram", family=10)
    dgram.bind(("::", 53))
    return stack, dgram


def probes(src: str, dst: str) -> list[bytes]:
    """A SYN to a listener and to a closed port, a stray segment, datagrams to an open and a closed port, an echo."""
    return [build_tcp(src, dst, 1000, 80, "S"), build_tcp(src, dst, 1000, 81, "S"),
            build_tcp(src, dst, 1000, 80, "A", ack=5), build_udp(src, dst, 1000, 53, b"x"),
            build_udp(src, dst, 1000, 54, b"x"), build_icmp(src, dst, 128 if ":" in src else 8)]


def silent(stack, dgram, packets, counter: str | None) -> None:
    """Nothing is said, delivered or kept; each is counted under that reason."""
    before, sockets = stack.counters(), len(stack.sockets())
    for p in packets:
        stack.input(p, stack.now_ns)
    assert sent(stack) == [] and taken(dgram) == []
    drops = {k: v for k, v in difference(stack, before).items() if k.startswith("drop_")}
    assert sum(drops.values()) == len(packets) and (counter is None or drops == {counter: len(packets)}), drops
    assert len(stack.sockets()) == sockets and memory(stack) == (0, 0) and stack.next_deadline() is None


# ---- G1 ---------------------------------------------------------------------------


@pytest.mark.parametrize("us", [US, SECOND, US6])
@pytest.mark.parametrize("addresses", [ADDRESSES, ADDRESSES[::-1]])
def test_g1_a_packet_from_ourselves_to_ourselves_is_dropped_when_it_comes_from_outside(us, addresses):
    """LAND (CVE-1999-0016): the SYN's ports are equal too; one answer would go round for ever."""
    stack, dgram = server(addresses=addresses)
    lands = [build_tcp(us, us, 80, 80, "S", seq=1), build_udp(us, us, 53, 53, b"land"),
             build_icmp(us, us, 128 if ":" in us else 8), *probes(us, us)]
    silent(stack, dgram, lands, "drop_ip_source")
    stack.advance(100 * S)
    assert sent(stack) == []


def test_g1_another_of_our_addresses_is_no_source_either_on_any_interface():
    """A stack with two links: each address of the other comes from outside, too."""
    from netstack.config import InterfaceConfig

    stack, dgram = server(addresses=(), interfaces=(InterfaceConfig(addresses=(f"{US}/24", f"{US6}/64")),
                                                    InterfaceConfig(addresses=(f"{SECOND}/27", "fd01::1/64"))))
    for interface, sources in ((0, (US, SECOND, US6, "fd01::1")), (1, (US, SECOND, US6, "fd01::1"))):
        for src in sources:
            dst = {(0, False): US, (1, False): SECOND, (0, True): US6, (1, True): "fd01::1"}[interface, ":" in src]
            before = stack.counters()
            for p in probes(src, dst):
                stack.input(p, stack.now_ns, interface)
            assert sent(stack) == [] and taken(dgram) == []
            assert difference(stack, before)["drop_ip_source"] == 6


def test_g1_a_packet_that_we_send_to_ourselves_arrives():
    stack, dgram = server()
    for address in (US, SECOND, US6, "127.0.0.1", "::1"):
        s = stack.socket("dgram", family=10 if ":" in address else 2)
        s.sendto(b"to ourselves", (address, 53))
        stack.advance(stack.now_ns)
        assert taken(dgram) == [b"to ourselves"] and sent(stack) == []


# ---- G2 ---------------------------------------------------------------------------

MARTIANS = [
    "0.0.0.0", "0.0.0.1", "0.1.2.3", "0.255.255.255",
    "127.0.0.0", "127.0.0.1", "127.1.2.3", "127.255.255.255",
    "224.0.0.0", "224.0.0.1", "224.0.0.251", "225.1.2.3", "232.1.1.1", "239.255.255.250", "239.255.255.255",
    "240.0.0.0", "240.0.0.1", "248.7.7.7", "255.0.0.0", "255.255.255.254", "255.255.255.255",
    "10.0.0.255", "192.168.7.63",                      # broadcasts of our networks
    US, SECOND,
]
MARTIANS6 = [
    "::", "::1", "::2", "::7f00:1", "::10.0.0.2", "::ffff:10.0.0.2", "::ffff:127.0.0.1", "::ffff:0:0",
    "ff00::", "ff01::1", "ff02::1", "ff02::2", "ff02::1:ff00:1", "ff05::1:3", "ff0e::1234", "ffff::1",
    US6, "fe80:1::1", "febf:ffff::1",
]
HOSTS = ["1.0.0.1", "9.255.255.255", "10.0.0.2", "10.0.0.254", "126.255.255.255", "128.0.0.1", "172.16.0.1",
         "192.168.7.34", "192.168.7.62", "192.168.7.64", "223.255.255.255", "fd00::2", "2001:db8::1", "fe80::2"]


@pytest.mark.parametrize("src", MARTIANS + MARTIANS6)
def test_g2_what_comes_from_no_host_is_dropped_in_silence(src):
    """No ICMP error, no RST, no SYN,ACK, no echo, no datagram delivered."""
    stack, dgram = server()
    silent(stack, dgram, probes(src, US6 if ":" in src else US), "drop_ip_source")


@pytest.mark.parametrize("src", HOSTS)
def test_g2_what_a_host_sends_is_answered(src):
    """The same packets from a host: the silence above is not for want of answers."""
    stack, dgram = server()
    for p in probes(src, US6 if ":" in src else US):
        stack.input(p, stack.now_ns)
    assert taken(dgram) == [b"x"]
    assert "drop_ip_source" not in {k for k, v in stack.counters().items() if v}


GROUPS = ["255.255.255.255", "10.0.0.255", "192.168.7.63", "224.0.0.1", "224.0.0.251", "239.1.2.3", "ff02::1",
          "ff02::fb", "ff0e::1"]


@pytest.mark.parametrize("dst", GROUPS)
@pytest.mark.parametrize("port", [80, 81])
@pytest.mark.parametrize("flags", ["S", "A", "SA", "F", "R", ""])
def test_g2_a_segment_to_more_than_one_host_is_dropped_in_silence(dst, port, flags):
    """RFC 9293 MUST-57: whether somebody listens or not."""
    stack, dgram = server()
    silent(stack, dgram, [build_tcp(PEER6 if ":" in dst else PEER, dst, 1000, port, flags)], None)


# ---- G3 ---------------------------------------------------------------------------


def about(packet: bytes) -> bytes:
    """A packet of ours as an error quotes it."""
    return packet[:28]


OURS = build_udp(US, PEER, 53, 9, b"ours")
BAD = build_udp(PEER, US, 9, 54, b"closed port")
SILENCE = {
    "an echo to all": build_icmp(PEER, "255.255.255.255", 8),
    "an echo to our network": build_icmp(PEER, "10.0.0.255", 8),
    "an echo to a group": build_icmp(PEER, "224.0.0.1", 8),
    "a datagram to all": build_udp(PEER, "255.255.255.255", 9, 54, b"x"),
    "a datagram to a group": build_udp(PEER, "224.0.0.1", 9, 54, b"x"),
    "an unknown protocol to all": bytes(IP(src=PEER, dst="255.255.255.255", proto=200) / Raw(bytes(8))),
    "an error about nothing of ours": build_icmp(PEER, US, 3, 3, payload=about(BAD)),
    "an error about an error": build_icmp(PEER, US, 3, 3, payload=build_icmp(US, PEER, 3, 3, payload=about(BAD))[:28]),
    "an error of an unknown code": build_icmp(PEER, US, 3, 200, payload=about(OURS)),
    "an error cut short": build_icmp(PEER, US, 11, 0, payload=OURS[:20]),
    "an unknown ICMP type": build_icmp(PEER, US, 77, 0, payload=bytes(40)),
    "a redirect": build_icmp(PEER, US, 5, 1, payload=about(OURS)),
    "a piece that is not the first": bytes(IP(src=PEER, dst=US, proto=17, frag=4) / Raw(bytes(8))),
    "a timestamp question": build_icmp(PEER, US, 13, 0, payload=bytes(12)),
    "an address mask question": build_icmp(PEER, US, 17, 0, payload=bytes(4)),
}


@pytest.mark.parametrize("name", SILENCE)
def test_g3_what_must_not_be_answered_is_met_with_silence(name):
    stack, dgram = server()
    stack.input(SILENCE[name], stack.now_ns)
    stack.advance(200 * S)                             # also when the rest of a datagram did not come
    assert sent(stack) == [] and taken(dgram) == []


def test_g3_a_datagram_to_one_host_is_answered():
    stack, _ = server()
    stack.input(BAD, stack.now_ns)
    error, = (IP(p) for p in sent(stack))
    assert (error[ICMP].type, error[ICMP].code) == (3, 3)


# ---- G4 ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", range(4))
def test_g4_a_redirect_to_the_attacker_leaves_the_way_as_it_was(code):
    """ICMP redirects, over IPv4, in an Ethernet network: from the gateway itself, about a packet of ours."""
    stack = Stack(media="ethernet", addresses=(f"{US}/24",), gateway="10.0.0.254", mac="02:00:00:00:00:01", seed=1)
    stack.advance(S)
    sock = stack.socket("dgram")

    def asked(dst):
        sock.sendto(b"x", (dst, 9))
        return [f[38:42] for f in sent(stack) if f[12:14] == b"\x08\x06"]

    assert asked("198.51.100.7") == [bytes([10, 0, 0, 254])]
    ours = build_udp(US, "198.51.100.7", sock.getsockname()[1], 9, b"x")
    redirect = build_icmp("10.0.0.254", US, 5, code, rest=bytes([10, 0, 0, 66]), payload=about(ours))
    before = stack.counters()
    stack.input(bytes.fromhex("020000000001" "0200000000fe" "0800") + redirect, stack.now_ns)
    assert difference(stack, before)["drop_icmp_type"] == 1
    stack.advance(20 * S)
    sent(stack)
    assert asked("198.51.100.8") == [bytes([10, 0, 0, 254])]


# ---- G5 ---------------------------------------------------------------------------


def sender(version, k=None):
    """The k-th of many hosts; without k always the same."""
    if k is None:
        return PEER if version == 4 else PEER6
    return f"10.0.0.{2 + k % 250}" if version == 4 else f"fd00::2:{k >> 16:x}:{k & 0xFFFF:x}"


@pytest.mark.parametrize("version", [4, 6])
def test_g5_datagrams_to_closed_ports_are_answered_at_a_limited_rate(version):
    """100,000 a second from one host, and from as many as there are: no more than a burst and 1000 a second."""
    us = US if version == 4 else US6
    for many in (False, True):
        stack, _ = server()
        n, answers, start = scale(100_000, 10_000), 0, stack.now_ns
        for k in range(n):
            src = sender(version, k if many else None)
            stack.input(build_udp(src, us, 9, 54 + k % 60000, b"x"), start + k * 10_000)
            answers += len(sent(stack))
        c = stack.counters()
        seconds = n / 100_000
        assert answers == c["icmp_out"] and c["drop_icmp_rate"] == n - answers and c["drop_udp_no_port"] == n
        assert 0 < answers <= (51 + 1000 * seconds if many else 7 + seconds)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flags", ["S", "A", "FA"])
def test_g5_segments_to_closed_ports_are_answered_at_a_limited_rate(version, flags):
    """100,000 a second from one host: 200 resets at once and as many a second; from as many as there are: 1000."""
    us = US if version == 4 else US6
    for many in (False, True):
        stack, _ = server()
        n, answers, start = scale(100_000, 10_000), 0, stack.now_ns
        for k in range(n):
            src = sender(version, k if many else None)
            stack.input(build_tcp(src, us, 1000 + k % 60000, 81, flags, ack=k), start + k * 10_000)
            answers += len(sent(stack))
        assert answers == stack.counters()["tcp_resets_out"] and stack.counters()["drop_tcp_no_port"] == n
        seconds = n / 100_000
        assert 200 <= answers <= (1001 + 1000 * seconds if many else 201 + 200 * seconds)


def test_g5_who_uses_up_his_resets_takes_none_from_others():
    stack, _ = server()
    for k in range(5000):
        stack.input(build_tcp(PEER, US, 1000 + k, 81, "S"), stack.now_ns)
    assert len(sent(stack)) == 200
    for k in range(100):
        stack.input(build_tcp("10.0.0.3", US, 1000 + k, 81, "S"), stack.now_ns)
    assert len(sent(stack)) == 100
    copy = Stack.restore(stack.snapshot(), stack.now_ns)
    for each in (stack, copy):
        each.input(build_tcp(PEER, US, 9, 81, "S"), each.now_ns)
        assert sent(each) == [], "a snapshot keeps the limits"
        each.input(build_tcp(PEER, US, 9, 81, "S"), each.now_ns + S)
        assert len(sent(each)) == 1


def test_g5_resets_to_ourselves_are_not_limited():
    stack, _ = server()
    for _ in range(600):
        s = stack.socket()
        with pytest.raises(OSError):
            s.connect(("127.0.0.1", 81))
            stack.advance(stack.now_ns)
            s.connect(("127.0.0.1", 81))
        s.close()
    assert stack.counters()["tcp_resets_out"] == 600


@pytest.mark.parametrize("version", [4, 6])
def test_g5_echo_can_be_switched_off(version):
    us, peer, kind = (US, PEER, 8) if version == 4 else (US6, PEER6, 128)
    name = "net.ipv4.icmp_echo_ignore_all" if version == 4 else "net.ipv6.icmp.echo_ignore_all"
    stack, _ = server(sysctl={name: 1})
    echo = build_icmp(peer, us, kind, payload=b"x" * 1000)
    for _ in range(100):
        stack.input(echo, stack.now_ns)
    assert sent(stack) == [] and stack.counters()["drop_icmp_type"] == 100
    stack.set(name, 0)
    stack.input(echo, stack.now_ns)
    assert len(sent(stack)) == 1


def test_g5_no_answer_is_larger_than_its_question():
    """But for the 28 bytes of an error's own headers: nothing here makes much of little."""
    stack, _ = server()
    for size in (0, 1, 100, 500, 1400):
        for question in (build_udp(PEER, US, 9, 54, bytes(size)), build_icmp(PEER, US, 8, payload=bytes(size)),
                         build_tcp(PEER, US, 9, 81, "S", payload=bytes(size)),
                         bytes(IP(src=PEER, dst=US, proto=200) / Raw(bytes(size)))):
            stack.advance(stack.now_ns + 10 * S)
            stack.input(question, stack.now_ns)
            answers = sent(stack)
            assert len(answers) == 1 and len(answers[0]) <= len(question) + 28
            assert IP(answers[0]).dst == PEER
