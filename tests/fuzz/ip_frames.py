"""Valid frames of every protocol beside TCP that a host's IP input reads, made by scapy: what mutants are made of.

Each is ``(frame, focus)``: an Ethernet frame and the byte from which on its protocol begins.
"""

from __future__ import annotations

import functools
import ipaddress
import logging

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

from scapy.layers import inet6 as v6  # noqa: E402
from scapy.layers.inet import (  # noqa: E402
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption_Router_Alert,
    IPOption_RR,
    IPOption_Timestamp,
    fragment,
)
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.layers.l2 import ARP, Ether  # noqa: E402
from scapy.packet import Packet, Raw  # noqa: E402

from netstack.testing.packets import checksum  # noqa: E402
from netstack.wire import udp  # noqa: E402

VICTIM, PEER, OTHER = "10.0.0.1", "10.0.0.2", "10.0.0.3"
VICTIM6, PEER6, OTHER6 = "fd00::1", "fd00::2", "fd00::3"
ROUTER6 = "fe80::99"
VICTIM_MAC, PEER_MAC, ROUTER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:99"
GROUP, GROUP6 = "239.1.2.3", "ff15::1:2:3"
SOLICITED_NODE = "ff02::1:ff00:1"
UDP_PORT, PEER_PORT, TCP_PORT = 5353, 9, 80
ETHERNET, HEADER4, HEADER6 = 14, 20, 40
DATAGRAM = UDP(sport=UDP_PORT, dport=PEER_PORT)

Frames = list[tuple[bytes, int]]


def over(packet: Packet, focus: int) -> tuple[bytes, int]:
    """On Ethernet, from the peer, or from the router when its address says so."""
    dst = packet.dst if hasattr(packet, "dst") else ""
    if dst.startswith("ff"):
        mac = "33:33:" + ":".join(f"{b:02x}" for b in v6.inet_pton(v6.socket.AF_INET6, dst)[12:])
    elif dst.startswith("2") and "." in dst:
        a = [int(b) for b in dst.split(".")]
        mac = "ff:ff:ff:ff:ff:ff" if a[0] == 255 else f"01:00:5e:{a[1] & 127:02x}:{a[2]:02x}:{a[3]:02x}"
    else:
        mac = VICTIM_MAC
    src = ROUTER_MAC if getattr(packet, "src", "") == ROUTER6 else PEER_MAC
    return bytes(Ether(dst=mac, src=src) / packet), ETHERNET + focus


def ours(packet: Packet | None = None) -> Raw:
    """The start of a large packet of the victim's own, by default a datagram, which an error is about."""
    return Raw(bytes(IP(src=VICTIM, dst=PEER) / (packet or DATAGRAM) / Raw(bytes(1400)))[:44])


def ours6(packet: Packet | None = None) -> Raw:
    return Raw(bytes(IPv6(src=VICTIM6, dst=PEER6) / (packet or DATAGRAM) / Raw(bytes(1400)))[:72])


@functools.cache
def arp() -> Frames:
    def frame(dst="ff:ff:ff:ff:ff:ff", **fields):
        return bytes(Ether(dst=dst, src=fields.get("hwsrc", PEER_MAC)) / ARP(**{"hwsrc": PEER_MAC, **fields})), ETHERNET

    return [
        frame(op=1, psrc=PEER, pdst=VICTIM), frame(op=1, psrc="0.0.0.0", pdst=VICTIM),  # noqa: S104 - a probe
        frame(op=1, psrc=PEER, pdst=PEER), frame(op=2, psrc=PEER, pdst=PEER, hwdst="ff:ff:ff:ff:ff:ff"),
        frame(dst=VICTIM_MAC, op=2, psrc=PEER, pdst=VICTIM, hwdst=VICTIM_MAC),
        frame(dst=VICTIM_MAC, op=2, psrc=OTHER, pdst=VICTIM, hwdst=VICTIM_MAC),
        frame(dst=VICTIM_MAC, op=2, psrc=OTHER, pdst=VICTIM, hwsrc=ROUTER_MAC, hwdst=VICTIM_MAC),
        frame(op=1, psrc=VICTIM, pdst=VICTIM, hwsrc=ROUTER_MAC), frame(op=2, psrc=VICTIM, pdst=VICTIM),
    ]


@functools.cache
def icmp() -> Frames:
    to = IP(src=PEER, dst=VICTIM)
    quoted = ours()
    bodies = [
        ICMP(type=8, id=7, seq=1) / Raw(bytes(40)), ICMP(type=8), ICMP(type=0, id=7) / Raw(b"answer"),
        *(ICMP(type=3, code=code) / quoted for code in (0, 1, 2, 3, 5, 10, 13)),
        ICMP(type=3, code=4, nexthopmtu=1400) / quoted, ICMP(type=11, code=0) / quoted, ICMP(type=12, ptr=9) / quoted,
        ICMP(type=5, code=1, gw=OTHER) / quoted, ICMP(type=4) / quoted, ICMP(type=13), ICMP(type=17),
        ICMP(type=3, code=3) / ours(TCP(sport=TCP_PORT, dport=TCP_PORT, seq=1)),
        ICMP(type=11) / ours(ICMP(type=8, id=7)),
        ICMP(type=3, code=3) / Raw(bytes(IP(src=VICTIM, dst=PEER, options=[IPOption_RR()]) / UDP(sport=UDP_PORT))),
    ]
    packets = [to / body for body in bodies] + [IP(src=PEER, dst="255.255.255.255") / bodies[0]]
    return [over(p, HEADER4) for p in packets]


@functools.cache
def icmp6() -> Frames:
    to = IPv6(src=PEER6, dst=VICTIM6)
    quoted = ours6()
    walked = ours6(v6.IPv6ExtHdrDestOpt(options=[v6.PadN(optdata=bytes(4))]) / v6.IPv6ExtHdrFragment(m=1, id=3)
                   / UDP(sport=UDP_PORT, dport=PEER_PORT))
    bodies = [
        v6.ICMPv6EchoRequest(id=7, seq=1, data=bytes(40)), v6.ICMPv6EchoReply(id=7, data=b"answer"),
        *(v6.ICMPv6DestUnreach(code=code) / quoted for code in range(7)), v6.ICMPv6PacketTooBig(mtu=1300) / quoted,
        v6.ICMPv6TimeExceeded() / quoted, v6.ICMPv6ParamProblem(code=1, ptr=6) / quoted,
        v6.ICMPv6PacketTooBig(mtu=1400) / walked, v6.ICMPv6DestUnreach(code=4) / walked,
        v6.ICMPv6DestUnreach(code=4) / ours6(v6.ICMPv6EchoRequest(id=7)),
        v6.ICMPv6DestUnreach(code=4) / ours6(TCP(sport=TCP_PORT, dport=TCP_PORT)),
        v6.ICMPv6NIQueryIPv6(data=VICTIM6), Raw(bytes([99, 0, 0, 0, 0, 0, 0, 0])),
    ]
    return [over(to / body if not isinstance(body, Raw) else IPv6(src=PEER6, dst=VICTIM6, nh=58) / body, HEADER6)
            for body in bodies] + [over(IPv6(src=PEER6, dst="ff02::1") / bodies[0], HEADER6)]


@functools.cache
def nd() -> Frames:
    source = v6.ICMPv6NDOptSrcLLAddr(lladdr=PEER_MAC)
    target = v6.ICMPv6NDOptDstLLAddr(lladdr=PEER_MAC)
    router = IPv6(src=ROUTER6, dst="ff02::1", hlim=255)
    prefix = v6.ICMPv6NDOptPrefixInfo(prefix="2001:db8:1::", prefixlen=64, validlifetime=60, preferredlifetime=30)
    packets = [
        IPv6(src=PEER6, dst=SOLICITED_NODE, hlim=255) / v6.ICMPv6ND_NS(tgt=VICTIM6) / source,
        IPv6(src=PEER6, dst=VICTIM6, hlim=255) / v6.ICMPv6ND_NS(tgt=VICTIM6) / source,
        IPv6(src=PEER6, dst=VICTIM6, hlim=255) / v6.ICMPv6ND_NS(tgt=VICTIM6),
        IPv6(src="::", dst=SOLICITED_NODE, hlim=255) / v6.ICMPv6ND_NS(tgt=VICTIM6) / Raw(b"\x0e\x01nonce!"),
        IPv6(src=PEER6, dst=VICTIM6, hlim=255) / v6.ICMPv6ND_NA(tgt=PEER6, R=0, S=1, O=1) / target,
        IPv6(src=OTHER6, dst=VICTIM6, hlim=255) / v6.ICMPv6ND_NA(tgt=OTHER6, R=0, S=1, O=0) / target,
        IPv6(src=PEER6, dst="ff02::1", hlim=255) / v6.ICMPv6ND_NA(tgt=PEER6, R=1, S=0, O=1) / target,
        IPv6(src=PEER6, dst="ff02::1", hlim=255) / v6.ICMPv6ND_NA(tgt=VICTIM6, R=0, S=0, O=1) / target,
        IPv6(src=ROUTER6, dst=VICTIM6, hlim=255) / v6.ICMPv6ND_NA(tgt=ROUTER6, R=1, S=1, O=1)
        / v6.ICMPv6NDOptDstLLAddr(lladdr=ROUTER_MAC),
        IPv6(src=PEER6, dst="ff02::2", hlim=255) / v6.ICMPv6ND_RS() / source,
        router / v6.ICMPv6ND_RA(routerlifetime=60, chlim=64, prf=1)
        / v6.ICMPv6NDOptSrcLLAddr(lladdr=ROUTER_MAC) / prefix
        / v6.ICMPv6NDOptMTU(mtu=1400) / v6.ICMPv6NDOptRDNSS(dns=["2001:db8::53", "2001:db8::54"], lifetime=60)
        / v6.ICMPv6NDOptDNSSL(searchlist=["lan.example.", "x.test."], lifetime=60)
        / v6.ICMPv6NDOptRouteInfo(plen=64, prefix="2001:db8:2::", rtlifetime=60),
        router / v6.ICMPv6ND_RA(routerlifetime=0, O=1) / prefix,
        router / v6.ICMPv6ND_RA(routerlifetime=60, M=1, O=1, reachabletime=1000, retranstimer=200),
        router / v6.ICMPv6ND_RA() / v6.ICMPv6NDOptDNSSL(searchlist=["a.b.c.d.e.f.example."], lifetime=0)
        / v6.ICMPv6NDOptRDNSS(dns=["2001:db8::53"], lifetime=0),
        IPv6(src=ROUTER6, dst=VICTIM6, hlim=255) / v6.ICMPv6ND_Redirect(tgt=PEER6, dst="2001:db8:9::1") / target
        / v6.ICMPv6NDOptRedirectedHdr(pkt=ours6().load),
        IPv6(src=ROUTER6, dst=VICTIM6, hlim=255) / v6.ICMPv6ND_Redirect(tgt="fe80::98", dst="2001:db8:9::1"),
    ]
    return [over(p, HEADER6) for p in packets]


@functools.cache
def mld() -> Frames:
    alert = v6.IPv6ExtHdrHopByHop(options=[v6.RouterAlert(), v6.PadN(optdata=b"")])

    def packet(dst, message):
        return over(IPv6(src=ROUTER6, dst=dst, hlim=1) / alert / message, HEADER6)

    record = v6.ICMPv6MLDMultAddrRec
    return [
        packet("ff02::1", v6.ICMPv6MLQuery(mrd=1000)), packet(GROUP6, v6.ICMPv6MLQuery(mladdr=GROUP6, mrd=100)),
        packet("ff02::1", v6.ICMPv6MLQuery2(mladdr="::", mrd=1000)),
        packet(GROUP6, v6.ICMPv6MLQuery2(mladdr=GROUP6, mrd=100)),
        packet(GROUP6, v6.ICMPv6MLQuery2(mladdr=GROUP6, mrd=0x9001, sources=["fd00::9", "fd00::a", PEER6])),
        packet(GROUP6, v6.ICMPv6MLReport(mladdr=GROUP6)), packet("ff02::2", v6.ICMPv6MLDone(mladdr=GROUP6)),
        packet("ff02::16", v6.ICMPv6MLReport2(records=[record(dst=GROUP6, rtype=4), record(dst="ff15::9", rtype=3)])),
    ]


@functools.cache
def igmp() -> Frames:
    """Built here: version 3 is in no released layer of scapy's that does not warn."""
    everybody = bytes(4)
    group = ipaddress.IPv4Address(GROUP).packed
    sources = b"".join(ipaddress.IPv4Address(a).packed for a in ("10.0.0.9", "10.0.0.10", PEER))

    def packet(dst, kind, code, rest):
        message = bytes([kind, code, 0, 0]) + rest
        message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
        ip = IP(src=PEER, dst=dst, ttl=1, tos=0xC0, proto=2, options=[IPOption_Router_Alert()])
        return over(ip / Raw(message), HEADER4 + 4)

    return [
        packet("224.0.0.1", 0x11, 0, everybody), packet("224.0.0.1", 0x11, 100, everybody),
        packet(GROUP, 0x11, 10, group), packet("224.0.0.1", 0x11, 20, everybody + bytes([2, 125, 0, 0])),
        packet(GROUP, 0x11, 20, group + bytes([2, 125, 0, 0])),
        packet(GROUP, 0x11, 0x9F, group + bytes([2, 125, 0, 3]) + sources), packet(GROUP, 0x16, 0, group),
        packet(GROUP, 0x12, 0, group), packet("224.0.0.2", 0x17, 0, group),
        packet("224.0.0.22", 0x22, 0, bytes([0, 0, 0, 1, 4, 0, 0, 0]) + group),
    ]


@functools.cache
def fragments() -> Frames:
    out = []
    for identification in (1, 2):
        udp = UDP(sport=PEER_PORT, dport=UDP_PORT, chksum=0)
        out += fragment(IP(src=PEER, dst=VICTIM, id=identification) / udp / Raw(bytes(3000)), 1200)
        out += fragment(IP(src=OTHER, dst=VICTIM, id=identification) / ICMP(type=8) / Raw(bytes(2000)), 1400)
    out += [IP(src=PEER, dst=VICTIM, id=1, flags="MF", frag=4, proto=17) / Raw(bytes(64)),
            IP(src=PEER, dst=VICTIM, id=3, flags="MF", proto=6) / Raw(bytes(16))]
    return [over(p, 0) for p in out]


@functools.cache
def fragments6() -> Frames:
    out = []
    for identification in (1, 2):
        for body in (UDP(sport=PEER_PORT, dport=UDP_PORT) / Raw(bytes(3000)), v6.ICMPv6EchoRequest(data=bytes(2000))):
            whole = IPv6(src=PEER6, dst=VICTIM6) / v6.IPv6ExtHdrFragment(id=identification) / body
            out += v6.fragment6(whole, 1280)
    head = IPv6(src=PEER6, dst=VICTIM6)
    udp = UDP(sport=PEER_PORT, dport=UDP_PORT) / Raw(b"atomic")
    out += [head / v6.IPv6ExtHdrFragment(id=3) / udp, head / v6.IPv6ExtHdrDestOpt() / v6.IPv6ExtHdrFragment(id=4) / udp,
            head / v6.IPv6ExtHdrFragment(id=1, m=1, offset=4, nh=17) / Raw(bytes(64)),
            head / v6.IPv6ExtHdrFragment(id=5, m=1, nh=60) / Raw(bytes([17, 3]) + bytes(22))]
    return [over(p, HEADER6) for p in out]


@functools.cache
def extensions() -> Frames:
    head = IPv6(src=PEER6, dst=VICTIM6)
    udp = UDP(sport=PEER_PORT, dport=UDP_PORT) / Raw(b"behind the chain")
    hop, destination = v6.IPv6ExtHdrHopByHop, v6.IPv6ExtHdrDestOpt
    routing = v6.IPv6ExtHdrRouting(type=0, segleft=0, addresses=[OTHER6])
    unknown = [v6.HBHOptUnknown(otype=kind, optdata=b"1234") for kind in (0x1E, 0x5E, 0x9E, 0xDE)]
    chains = [
        hop(options=[v6.PadN(optdata=bytes(4))]) / udp, destination(options=[v6.Pad1(), v6.Pad1()]) / udp,
        hop(options=[v6.RouterAlert(), v6.PadN(optdata=b"")]) / destination() / udp, routing / udp,
        v6.IPv6ExtHdrRouting(type=0, segleft=1, addresses=[OTHER6]) / udp,
        v6.IPv6ExtHdrSegmentRouting(addresses=[VICTIM6]) / udp,
        hop() / destination() / routing / v6.IPv6ExtHdrFragment() / destination() / udp,
        hop() / destination() / destination() / destination() / destination() / destination() / destination() / udp,
        hop(options=[v6.Jumbo(jumboplen=70000)]) / udp, destination(options=[v6.HAO(hoa=OTHER6)]) / udp,
        *(destination(options=[o]) / udp for o in unknown), *(hop(options=[o]) / udp for o in unknown),
        destination() / v6.ICMPv6EchoRequest(data=b"x"), destination() / TCP(sport=9, dport=TCP_PORT),
        destination(options=[v6.PadN(optdata=bytes(200)), v6.PadN(optdata=bytes(250))]) / udp,
    ]
    packets = [head / chain for chain in chains]
    strange = Raw(bytes([17, 4]) + bytes(38))
    packets += [IPv6(src=PEER6, dst=VICTIM6, nh=number) / strange for number in (50, 51, 59, 135, 139, 253)]
    packets.append(IPv6(src=PEER6, dst="ff02::1") / destination(options=[unknown[2]]) / udp)
    return [over(p, HEADER6) for p in packets]


@functools.cache
def transports() -> Frames:
    """What is no protocol of the IP layer itself, over IPv4."""
    to = IP(src=PEER, dst=VICTIM)
    return [over(p, 0) for p in (
        to / UDP(sport=PEER_PORT, dport=UDP_PORT) / Raw(b"to a socket"), to / UDP(dport=1) / Raw(b"to nobody"),
        to / TCP(sport=9, dport=TCP_PORT), to / TCP(sport=9, dport=1), to / TCP(sport=9, dport=TCP_PORT, flags="A"),
        IP(src=PEER, dst="255.255.255.255") / UDP(dport=UDP_PORT), IP(src=PEER, dst="10.0.0.255") / UDP(dport=UDP_PORT),
        IP(src=PEER, dst=GROUP) / UDP(dport=UDP_PORT), IP(src=PEER, dst="224.0.0.9") / UDP(dport=UDP_PORT),
        IP(src=PEER, dst=VICTIM, options=[IPOption_RR(), IPOption_Timestamp()]) / UDP(dport=UDP_PORT),
        IP(src=PEER, dst=VICTIM, proto=200) / Raw(b"unknown"), IP(src=PEER, dst=OTHER) / UDP(dport=UDP_PORT),
        IP(src=PEER, dst=VICTIM, ttl=1) / UDP(dport=UDP_PORT), IP(src="127.0.0.1", dst=VICTIM) / UDP(dport=UDP_PORT))]


@functools.cache
def transports6() -> Frames:
    to = IPv6(src=PEER6, dst=VICTIM6)
    return [over(p, 0) for p in (
        to / UDP(sport=PEER_PORT, dport=UDP_PORT) / Raw(b"to a socket"), to / UDP(dport=1) / Raw(b"to nobody"),
        to / TCP(sport=9, dport=TCP_PORT), to / TCP(sport=9, dport=1), to / TCP(sport=9, dport=TCP_PORT, flags="A"),
        IPv6(src=PEER6, dst=GROUP6) / UDP(dport=UDP_PORT), IPv6(src=PEER6, dst="ff02::1") / UDP(dport=UDP_PORT),
        IPv6(src=PEER6, dst=VICTIM6, nh=200) / Raw(b"unknown"), IPv6(src=PEER6, dst=OTHER6) / UDP(dport=UDP_PORT),
        IPv6(src="::1", dst=VICTIM6) / UDP(dport=UDP_PORT), IPv6(src=ROUTER6, dst="ff02::1") / UDP(dport=UDP_PORT))]


@functools.cache
def udplite() -> Frames:
    """UDP-Lite of both versions: covered whole, in part, with the header alone; and errors about it."""
    def datagram(to: Packet, coverage: int, payload: bytes = bytes(range(40)), dport: int = UDP_PORT) -> Packet:
        return to / Raw(udp.build_lite(to.src, to.dst, PEER_PORT, dport, payload, coverage))

    four, six = IP(src=PEER, dst=VICTIM, proto=136), IPv6(src=PEER6, dst=VICTIM6, nh=136)
    packets = [datagram(to, coverage) for to in (four, six) for coverage in (0, 8, 20, 47, 48)]
    packets += [datagram(four, 0, b""), datagram(four, 9, b"nobody", 1), datagram(six, 9, b"nobody", 1),
                datagram(IP(src=PEER, dst="255.255.255.255", proto=136), 8),
                datagram(IPv6(src=PEER6, dst=GROUP6, nh=136), 8)]
    quoted = bytes(IP(src=VICTIM, dst=PEER, proto=136) / DATAGRAM)
    quoted6 = bytes(IPv6(src=VICTIM6, dst=PEER6, nh=136) / DATAGRAM)
    packets += [IP(src=PEER, dst=VICTIM) / ICMP(type=3, code=3) / Raw(quoted),
                IPv6(src=PEER6, dst=VICTIM6) / v6.ICMPv6DestUnreach(code=4) / Raw(quoted6)]
    pieces = [*fragment(datagram(four, 12, bytes(200)), 64),
              *v6.fragment6(IPv6(src=PEER6, dst=VICTIM6) / v6.IPv6ExtHdrFragment(nh=136, id=8) / Raw(
                  udp.build_lite(PEER6, VICTIM6, PEER_PORT, UDP_PORT, bytes(2000), 12)), 1280)]
    return [over(p, HEADER4 if p.version == 4 else HEADER6) for p in packets + pieces]


def ipv4() -> Frames:
    return icmp() + igmp() + fragments() + transports()


def ipv6() -> Frames:
    return extensions() + icmp6() + nd() + mld() + fragments6() + transports6()


def without_link(frames: Frames) -> Frames:
    """The same packets on media IP."""
    return [(frame[ETHERNET:], focus - ETHERNET) for frame, focus in frames]

