"""nmap, hping3 and thc-ipv6 against a host of ours: nothing breaks or is kept, and their verdicts are a kernel's.

`tests.kernel.outside` runs the tools, on a kernel too; where we differ from it by intention, the reason stands here.
"""

import re
import shutil

import pytest

from tests.kernel import outside
from tests.kernel.wires import tshark
from tests.router.lan import wait_until

pytestmark = pytest.mark.root

FAST = {"net.ipv4.ipfrag_time": 1, "net.ipv6.ip6frag_time": 1}      # seconds that pieces are kept
HELD = ("fragments", "fragmented", "half_open", "buffers")           # what tools may not leave behind
BAD = ("(tcp.checksum.status==0 || udp.checksum.status==0 || icmp.checksum.status==0 || icmpv6.checksum.status==0 || "
       "ip.checksum.status==0)")
ERRORS = "(icmp.type==3 || icmp.type==11 || icmp.type==12 || icmpv6.type<128)"     # quote what the tools damaged

# What an odd packet is answered by; the others by nothing. A kernel says the same but for these, which we leave out:
# an answer to a timestamp request (RFC 1122 section 3.2.2.8 allows it, fingerprints ask for it), and to a SYN whose TCP
# header comes in two pieces (RFC 3128).
HPING = {
    "ACK": "TCP R", "SYN with data": "TCP SA", "SYN, no window": "TCP SA", "SYN to port 0": "TCP RA",
    "SYN to a closed port": "TCP RA", "TTL 1": "TCP SA", "record route": "answer", "echo between our ports": "answer",
    "datagram to port 0": "ICMP Port Unreachable", "datagram to a closed port": "ICMP Port Unreachable",
    "large datagram in pieces": "answer", "echo request": "answer", "large echo in pieces": "answer",
    "echo, odd code": "answer", "protocol 0": "ICMP Protocol Unreachable", "protocol 255": "ICMP Protocol Unreachable",
    "IPv6 in IPv4": "ICMP Protocol Unreachable",
}
# Cases of implementation6 that are answered. A kernel says the same but for 8, 9 and 10 (which it answers: we walk
# eight extension headers and no more), 43 to 46 (many options in one header, which it gives up on at eight), 47 and
# 48 (jumbo payloads, which it reads and we refuse as any unknown option).
REPLY, PARAMETER, NEXT_HEADER, OPTION = "reply", "error reply [4:0]", "error reply [4:1]", "error reply [4:2]"
IMPLEMENTATION = {
    **dict.fromkeys((1, 5, 7, 11, 12, 18, 22, 24, 25, 27, 39, 41, 43, 44, 45, 46, 56), REPLY),
    **dict.fromkeys((19, 20, 21, 23, 37, 38), PARAMETER), **dict.fromkeys((3, 4, 14, 15, 26, 32, 35), NEXT_HEADER),
    **dict.fromkeys((30, 47, 49, 50), OPTION),
}


def needs(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.fixture
def place(tmp_path):
    from netstack.link import PcapWriter

    capture = tmp_path / "capture.pcapng"
    with outside.our_target(lambda tap: PcapWriter(tap, str(capture), snap_length=0x40000), sysctl=FAST) as place:
        yield place
        assert place.answers()
        wait_until(lambda: not any(place.host.stack.memory()[name] for name in HELD), 90)
        mac = place.host.stack.mac().hex(":")
    assert not tshark(capture, f"eth.src=={mac} && {BAD} && !{ERRORS}")


@needs("nmap")
def test_nmap_finds_nothing_to_predict(place):
    os, udp = place.nmap()
    assert re.search(r"^80/tcp open +http +outside", os, re.M) and re.search(r"^81/tcp closed", os, re.M), os
    difficulty = re.search(r"TCP Sequence Prediction: Difficulty=(\d+)", os)
    assert difficulty and int(difficulty[1]) >= 250, os
    assert re.search(r"IP ID Sequence Generation: (All zeros|Randomized)", os), os
    states = re.findall(r"^\d+/udp +(\S+)", udp, re.M)
    assert len(states) == 20 and set(states) <= {"closed", "open|filtered"} and states.count("closed") >= 6, udp


@needs("hping3")
def test_hping3s_odd_packets_are_answered_as_a_kernel_answers_them(place):
    said = place.hping()
    for name, heard in said.items():
        if heard != HPING.get(name, "-"):              # an answer that came late, or an error over the rate: once more
            said[name] = place.odd_packet(name, 3)
    assert said == {name: HPING.get(name, "-") for name in outside.HPING}


@needs("atk6-implementation6", "atk6-fragmentation6")
def test_thc_ipv6_finds_the_verdicts_of_a_kernel(place):
    said = place.implementation()
    for number, (_, heard) in said.items():
        if heard != IMPLEMENTATION.get(number, "no reply"):
            said[number] = place.implementation_case(number)
    assert {n: heard for n, (_, heard) in said.items()} == {
        n: IMPLEMENTATION.get(n, "no reply") for n in outside.IMPLEMENTATION}
    assert all("ATTACK END" in text for text in place.fragmentation())
    assert place.host.counters()["drop_fragment_overlap"] > 0
