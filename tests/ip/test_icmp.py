"""ICMP: echo answered with exactly what was asked, errors made and read by the rules, at a bounded rate."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror
from scapy.packet import Raw

from netstack.counters import DropReason as R
from netstack.stack import Stack
from netstack.testing.probe import InterfaceProbe
from netstack.wire import ethernet, icmp, ipv4, udp
from tests.support import scale

MS = 1_000_000
US, PEER = "10.0.0.1", "10.0.0.2"
CLAIM_OK, CLAIM_FULL = 0, -1


def request(payload=b"payload", src=PEER, dst=US, **fields) -> bytes:
    return ipv4.build(src, dst, 1, icmp.build(icmp.ECHO_REQUEST, 0, 7, 9, payload), **fields)


def error(embedded: bytes, type_=3, code=3, rest=0, src=PEER, dst=US) -> bytes:
    return ipv4.build(src, dst, 1, icmp.build(type_, code, 0, rest, embedded))


def ours(protocol=17, transport=b"\x03\xe8\x07\xd0\0\x0c\0\0", src=US, dst="198.51.100.7") -> bytes:
    """A packet as we sent it."""
    return ipv4.build(src, dst, protocol, transport)


# ---- echo -------------------------------------------------------------------------


@given(
    st.binary(max_size=1400),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.integers(0, 255),
    st.sampled_from([-1, 28]),
)
def test_an_echo_is_answered_with_its_own_payload_and_scapy_agrees(payload, identifier, sequence, tos, split):
    probe = InterfaceProbe()
    asked = IP(src=PEER, dst=US, tos=tos) / ICMP(type=8, id=identifier, seq=sequence) / Raw(payload)
    reason, message = probe.icmp(bytes(asked), 5, split=split)
    assert (reason, message.type) == (R.DROP_NONE, icmp.ECHO_REQUEST)
    [(answer, when)] = probe.sent()
    assert when == 5
    theirs = IP(src=US, dst=PEER, tos=tos, id=0, flags="DF", ttl=64) / ICMP(type=0, id=identifier, seq=sequence)
    assert answer == bytes(theirs / Raw(payload))
    assert (probe.counters["icmp_in"], probe.counters["icmp_out"]) == (1, 1)


@pytest.mark.parametrize("length", range(8))
def test_a9_an_icmp_message_under_8_bytes_is_dropped(length):
    probe = InterfaceProbe()
    data = ipv4.build(PEER, US, 1, icmp.build(8, 0, 1, 1)[:length])
    for padding in (b"", b"\xca\xfe" * 20):
        assert probe.icmp(data + padding) == (R.DROP_ICMP_LENGTH, None)
    assert probe.sent() == []


def test_a9_the_answer_is_as_long_as_the_question_and_holds_nothing_else():
    for length in range(0, 200):
        probe = InterfaceProbe()
        assert probe.icmp(request(bytes(length)) + b"\xca\xfe" * 50)[0] == R.DROP_NONE
        [(answer, _)] = probe.sent()
        assert len(answer) == 28 + length
        assert b"\xca\xfe\xca\xfe" not in answer


def test_a_wrong_checksum_leaves_no_answer():
    for bit in range(20 * 8, 35 * 8):
        probe = InterfaceProbe()
        bad = bytearray(request())
        bad[bit // 8] ^= 1 << bit % 8
        assert probe.icmp(bytes(bad))[0] in (R.DROP_ICMP_CHECKSUM, R.DROP_ICMP_TYPE)
        assert probe.sent() == []
        probe.send(PEER, ours())
        assert probe.sent() == [(ours(), 0)]


@pytest.mark.parametrize("dst", ["255.255.255.255", "10.0.0.255", "224.0.0.1"])
def test_g3_an_echo_to_everybody_is_not_answered(dst):
    probe = InterfaceProbe()
    assert probe.icmp(request(dst=dst)) == (R.DROP_ICMP_TYPE, None)
    assert probe.sent() == []


def test_g3_an_echo_in_a_broadcast_frame_is_not_answered():
    probe = InterfaceProbe(media="ethernet")
    assert probe.icmp(ethernet.build("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:02", 0x800, request()))[0] == R.DROP_ICMP_TYPE
    assert probe.sent() == []


def test_an_answer_goes_through_the_gateway_or_nowhere():
    probe = InterfaceProbe(media="ethernet", gateway="10.0.0.254")
    far = ethernet.build("02:00:00:00:00:01", "02:00:00:00:00:09", 0x800, request(src="198.51.100.7"))
    assert probe.icmp(far)[0] == R.DROP_NONE
    assert list(probe.neighbors) == ["10.0.0.254"]
    lonely = InterfaceProbe(media="ethernet")
    assert lonely.icmp(far)[0] == R.DROP_IP_NO_ROUTE
    assert lonely.sent() == []


def test_an_answer_that_finds_the_link_full_is_lost_and_counted():
    probe = InterfaceProbe()
    probe.fill(True)
    assert probe.icmp(request())[0] == R.DROP_TX_FULL
    probe.fill(False)
    assert probe.sent() == []


@pytest.mark.parametrize("split", range(20, 36))
def test_headers_split_over_head_and_body_are_refused(split):
    reason, _ = InterfaceProbe().icmp(request(), split=split)
    assert (reason == R.DROP_NONE) == (split in (28, 35))


def test_a_loopback_answers_itself():
    probe = InterfaceProbe(("127.0.0.1/8",), loopback=True)
    assert probe.icmp(request(src="127.0.0.1", dst="127.0.0.1"))[0] == R.DROP_NONE
    [(answer, _)] = probe.sent()
    assert icmp.parse(ipv4.parse(answer).payload).type == icmp.ECHO_REPLY


# ---- asking --------------------------------------------------------------------------


@given(st.binary(max_size=300), st.integers(0, 65535), st.integers(0, 65535))
def test_our_question_is_what_scapy_would_ask_and_its_answer_comes_back(payload, identifier, sequence):
    probe = InterfaceProbe()
    assert probe.send_echo(US, PEER, identifier, sequence, payload, 3) == CLAIM_OK
    [(asked, when)] = probe.sent()
    theirs = IP(src=US, dst=PEER, id=0, flags="DF", ttl=64) / ICMP(type=8, id=identifier, seq=sequence) / Raw(payload)
    assert (asked, when) == (bytes(theirs), 3)
    answer = IP(src=PEER, dst=US) / ICMP(type=0, id=identifier, seq=sequence) / Raw(payload)
    reason, message = probe.icmp(bytes(answer))
    assert reason == R.DROP_NONE
    assert message[:6] == (0, 0, identifier, sequence, payload, False)


def test_a_full_link_says_so():
    probe = InterfaceProbe()
    probe.fill(True)
    assert probe.send_echo(US, PEER, 1, 1) == CLAIM_FULL


# ---- errors we make ---------------------------------------------------------------------


def datagram(size=20, src=PEER, dst=US) -> bytes:
    return ipv4.build(src, dst, 17, udp.build(src, dst, 1000, 2000, bytes(i & 255 for i in range(size))), ttl=7)


@pytest.mark.parametrize("size", [0, 1, 20, 91, 92, 100, 500, 520, 521, 1400])
@pytest.mark.parametrize("split", [-1, 28])
def test_an_unreachable_quotes_up_to_548_bytes(size, split):
    probe = InterfaceProbe()
    about = datagram(size)
    assert probe.send_unreachable(about + b"padding" * (split < 0), icmp.build(3)[0], 9, split=split) == R.DROP_NONE
    [(data, when)] = probe.sent()
    assert when == 9 and len(data) == 28 + min(len(about), 548)
    theirs = IP(src=US, dst=PEER, tos=0xC0, id=0, flags="DF", ttl=64) / ICMP(type=3, code=3) / Raw(about[:548])
    assert data == bytes(theirs)
    assert IP(data)[IPerror].src == PEER


def test_an_unreachable_of_a_small_mtu_fits_it():
    probe = InterfaceProbe(mtu=296)
    probe.send_unreachable(datagram(400), 3)
    [(data, _)] = probe.sent()
    assert len(data) == 296


SILENCE = {
    "about an ICMP error": error(ours()),
    "about an ICMP redirect": error(ours(), type_=5),
    "about an unknown ICMP type": error(b"", type_=200),
    "about ICMP cut short": ipv4.build(PEER, US, 1, b""),
    "about a broadcast": datagram(dst="255.255.255.255"),
    "about a directed broadcast": datagram(dst="10.0.0.255"),
    "about a multicast": datagram(dst="224.0.0.251"),
    "about a fragment": None,
    "to 0.0.0.0": datagram(src="0.0.0.0"),
    "to loopback": datagram(src="127.0.0.1"),
    "to a multicast": datagram(src="224.0.0.1"),
    "to ourselves": datagram(src=US),
}


@pytest.mark.parametrize("about", SILENCE.values(), ids=SILENCE)
def test_g3_where_rfc_1122_says_silence(about):
    probe = InterfaceProbe()
    about = bytes(IP(src=PEER, dst=US, frag=1) / Raw(b"x" * 64)) if about is None else about
    probe.send_unreachable(about, 2)
    assert probe.sent() == []


def test_an_echo_request_may_be_answered_by_an_error():
    probe = InterfaceProbe()
    probe.send_unreachable(request(), 1)
    assert len(probe.sent()) == 1


def flood(probe, sources, number, step_ns):
    """How many errors went out of *number* packets, one each step."""
    sent = 0
    for k in range(number):
        high, low = divmod(k % sources, 256)
        src = f"10.1.{high}.{low}"
        probe.send_unreachable(datagram(src=src), 3, k * step_ns)
        sent += len(probe.sent())
    return sent


def test_g5_errors_to_one_host_are_limited_to_a_burst_and_one_a_second():
    probe = InterfaceProbe(gateway="10.0.0.254")
    number = scale(100_000, minimum=10_000)
    sent = flood(probe, 1, number, 100_000)                     # 10,000 a second
    assert abs(sent - 6 - number // 10_000) <= 1
    assert probe.counters["drop_icmp_rate"] == number - sent
    assert probe.counters["icmp_out"] == sent


def test_g5_errors_to_all_hosts_are_limited_to_a_burst_and_a_thousand_a_second():
    probe = InterfaceProbe(gateway="10.0.0.254")
    number = scale(200_000, minimum=20_000)
    sent = flood(probe, 65536, number, 10_000)                  # 100,000 a second
    seconds = number / 100_000
    assert 0.4 * seconds * 1000 <= sent <= 51 + seconds * 1000


def test_the_limits_forget_after_a_pause():
    probe = InterfaceProbe()
    for start in (0, 7000 * MS, 20_000 * MS):
        for _ in range(60):
            probe.send_unreachable(datagram(), 3, start)
        assert len(probe.sent()) == 6


# ---- errors we read ------------------------------------------------------------------------


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_an_error_says_which_segment_it_is_about(sport, dport, seq, code):
    segment = IP(src=US, dst="198.51.100.7") / TCP(sport=sport, dport=dport, seq=seq) / b"data"
    data = IP(src="203.0.113.1", dst=US) / ICMP(type=3, code=code) / Raw(bytes(segment))
    assert IP(bytes(data))[TCPerror].seq == seq
    reason, message = InterfaceProbe().icmp(bytes(data))
    assert reason == R.DROP_NONE
    assert message[:2] == (3, code) and message.is_error and message.mtu == 0
    assert message.embedded == (6, US, sport, "198.51.100.7", dport, seq)


def test_fragmentation_needed_says_its_mtu():
    reason, message = InterfaceProbe().icmp(error(ours(), code=4, rest=1280))
    assert (reason, message.mtu) == (R.DROP_NONE, 1280)
    assert InterfaceProbe().icmp(error(ours(), code=3, rest=1280))[1].mtu == 0


def test_an_error_about_our_echo_names_its_identifier():
    _, message = InterfaceProbe().icmp(error(ours(1, icmp.build(8, 0, 77, 5)), type_=11, code=0))
    assert message.embedded == (1, US, 77, "198.51.100.7", 0, 0)


def test_an_error_about_datagrams_has_ports():
    _, message = InterfaceProbe().icmp(error(ours()))
    assert message.embedded == (17, US, 1000, "198.51.100.7", 2000, 0)


@pytest.mark.parametrize("type_,code", [(3, c) for c in range(16)] + [(11, 0), (11, 1), (12, 0), (12, 1), (12, 2)])
def test_errors_that_are_reported(type_, code):
    reason, message = InterfaceProbe().icmp(error(ours(), type_, code))
    assert (reason, message.is_error) == (R.DROP_NONE, True)


IGNORED = [
    (3, 16),
    (3, 255),
    (11, 2),
    (12, 3),
    (4, 0),
    (5, 0),
    (5, 1),
    (5, 2),
    (5, 3),
    (9, 0),
    (10, 0),
    (13, 0),
    (14, 0),
    (15, 0),
    (17, 0),
    (18, 0),
    (30, 0),
    (1, 0),
    (255, 0),
]


@pytest.mark.parametrize("type_,code", IGNORED)
def test_g4_redirects_quenches_and_the_rest_are_ignored(type_, code):
    probe = InterfaceProbe()
    assert probe.icmp(error(ours(), type_, code)) == (R.DROP_ICMP_TYPE, None)
    assert probe.sent() == []


def test_an_error_sent_to_everybody_is_ignored():
    assert InterfaceProbe().icmp(error(ours(), dst="255.255.255.255"))[0] == R.DROP_ICMP_TYPE


def test_every_truncation_of_the_embedded_packet():
    for length in range(29):
        reason, _ = InterfaceProbe().icmp(error(ours(6, bytes(20))[:length]) + bytes(40))
        assert reason == (R.DROP_NONE if length == 28 else R.DROP_ICMP_LENGTH), length


def changed(at, value) -> bytes:
    data = bytearray(ours(6, bytes(20)))
    data[at : at + len(value)] = value
    return bytes(data)


STRANGE = {
    "version 6": changed(0, b"\x65"),
    "header length 4": changed(0, b"\x44"),
    "a later fragment": changed(6, b"\0\1"),
    "total length 0": changed(2, b"\0\0"),
    "total length 27": changed(2, b"\0\x1b"),
    "not from us": changed(12, b"\x0a\0\0\x09"),
    "an echo reply": ours(1, icmp.build(0, 0, 1, 1)),
    "an ICMP error": ours(1, icmp.build(3, 0, 1, 1)),
}


@pytest.mark.parametrize("embedded", STRANGE.values(), ids=STRANGE)
def test_embedded_packets_we_never_sent(embedded):
    assert InterfaceProbe().icmp(error(embedded))[0] == R.DROP_ICMP_EMBEDDED


@pytest.mark.parametrize("ihl", range(5, 16))
def test_options_of_the_embedded_packet_lie_inside_the_message(ihl):
    embedded = bytearray(ours(6, bytes(60)))
    embedded[0] = 0x40 | ihl
    for length in range(28, 81):
        reason, message = InterfaceProbe().icmp(error(bytes(embedded[:length])))
        assert (reason == R.DROP_NONE) == (ihl * 4 + 8 <= length)


def test_a_wrong_checksum_of_an_error_is_seen():
    good = error(ours())
    for at in range(24, len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x10
        assert InterfaceProbe().icmp(bytes(bad))[0] == R.DROP_ICMP_CHECKSUM


def test_messages_of_all_sizes_share_one_private_copy():
    probe = InterfaceProbe(mtu=65535)
    rng = random.Random(1)
    for size in (0, 60000, 3, 2040, 2041, 65507, 1):
        payload = rng.randbytes(size)
        answer = ipv4.build(PEER, US, 1, icmp.build(0, 0, 5, 6, payload))
        assert probe.icmp(answer)[1].payload == payload


# ---- anything at all --------------------------------------------------------------------------


def test_random_and_mutated_messages_are_answered_reported_or_counted():
    rng = random.Random(792)
    probe = InterfaceProbe(mtu=4000)
    seen = set()
    seeds = [
        icmp.build(8, 0, 1, 2, b"ping"),
        icmp.build(0, 0, 1, 2, b"pong"),
        icmp.build(3, 3, 0, 0, ours()),
        icmp.build(11, 0, 0, 0, ours(6, bytes(40))),
        icmp.build(3, 4, 0, 576, ours(1, icmp.build(8, 0, 1, 1))),
    ]
    for _ in range(scale(200_000)):
        message = bytearray(rng.choice(seeds) if rng.random() < 0.9 else rng.randbytes(rng.randrange(80)))
        for _ in range(rng.randrange(4) if message else 0):
            message[rng.randrange(len(message))] = rng.randrange(256)
        message = bytes(message[: rng.choice((len(message), len(message), rng.randrange(len(message) + 1)))])
        if rng.random() < 0.8 and len(message) >= 8:
            message = icmp.build(
                message[0],
                message[1],
                int.from_bytes(message[4:6], "big"),
                int.from_bytes(message[6:8], "big"),
                message[8:],
            )
        data = ipv4.build(PEER, US, 1, message)
        reason, got = probe.icmp(data, split=rng.choice((-1, 28, rng.randrange(len(data) + 1))))
        assert (got is not None) == (reason == R.DROP_NONE)
        seen.add(reason)
        for answer, _ in probe.sent():
            assert IP(answer)[ICMP].type == 0 and message[0] == 8
            assert ipv4.parse(answer).payload[4:] == message[4:]
    assert seen >= {
        R.DROP_NONE,
        R.DROP_ICMP_LENGTH,
        R.DROP_ICMP_CHECKSUM,
        R.DROP_ICMP_TYPE,
        R.DROP_ICMP_EMBEDDED,
        R.DROP_LINK_MALFORMED,
    }


def test_unreachables_about_anything_quote_what_came():
    rng = random.Random(5)
    for number in range(scale(20_000)):
        probe = InterfaceProbe()
        about = ipv4.build(PEER, US, rng.randrange(256), rng.randbytes(rng.randrange(700)))
        split = rng.choice((-1, 20, 28, rng.randrange(20, len(about) + 1)))
        probe.send_unreachable(about, 2, number, split=split)
        for data, _ in probe.sent():
            got = icmp.parse(ipv4.parse(data).payload)
            assert got == (3, 2, 0, 0, about[:548])


def test_scapys_own_udp_error_is_understood():
    about = IP(src=US, dst=PEER) / UDP(sport=5, dport=6) / b"x"
    reason, message = InterfaceProbe().icmp(bytes(IP(src=PEER, dst=US) / ICMP(type=3, code=3) / Raw(bytes(about))))
    assert (reason, message.embedded) == (R.DROP_NONE, (17, US, 5, PEER, 6, 0))


@pytest.mark.parametrize("protocol", [0, 4, 58, 132, 200, 254, 255])
def test_a_protocol_that_nobody_speaks_is_answered_and_counted(protocol):
    """RFC 1122 section 3.2.2.1; every number that the field can hold."""
    stack = Stack(addresses=(f"{US}/24",), seed=1)
    about = ipv4.build(PEER, US, protocol, bytes(40))
    stack.input(about, 10**9)
    answer = ipv4.parse(stack.pop_output()[0])
    assert icmp.parse(answer.payload) == (3, 2, 0, 0, about) and answer.dst == PEER
    assert {k: v for k, v in stack.counters().items() if k.startswith("drop_")} == {"drop_ip_protocol": 1}
