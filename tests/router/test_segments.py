"""Large TCP packets at uplinks: left to devices that cut, cut in software, joined; the bytes judged by scapy."""

import random
import socket
import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netstack.router.devices.device import FileDevice
from netstack.router.pool import pack_address
from tests.router.lan import Lan
from tests.support import scale

OUR_MAC, PEER_MAC = "02:00:00:00:00:77", "02:00:00:00:00:01"
A = {4: "10.77.0.2", 6: "fd77::2"}
FAR = {4: "192.0.2.9", 6: "2001:db8::9"}
POOLS = ("10.77.0.0/16", "fd77::/64")
NEEDS_CHECKSUM, TCPV4, TCPV6, ECN = 1, 1, 4, 0x80
HEADER = struct.Struct("=BBHHHH")


class Border(Lan):
    """An attachment, and an uplink without neighbours: a pair of sockets, IP packets in both directions."""

    def __init__(self, *, offload=True, mtu=1500, stack_mtu=65535):
        super().__init__(*POOLS)
        ours, self.wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for s in (ours, self.wire):
            s.setblocking(False)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self.offload = offload
        self.device = FileDevice(ours.detach(), ethernet=False, mtu=mtu, offload=offload)
        self.port = self.forwarder.add_uplink(self.device)
        self.a = self.stack(A[4], A[6], mtu=stack_mtu, capacity=1 << 20)

    def say(self, packet, header=(0, 0, 0, 0, 0, 0)):
        self.wire.send((HEADER.pack(*header) if self.offload else b"") + bytes(packet))
        self.run()

    def out(self):
        """(what is left to do, packet) of everything that was sent; without offloads the packets."""
        found = []
        while True:
            try:
                raw = self.wire.recv(1 << 17)
            except BlockingIOError:
                return found
            front = HEADER.size if self.offload else 0
            packet = (IPv6 if raw[front] >> 4 == 6 else IP)(raw[front:])
            found.append((HEADER.unpack(raw[:front]), packet) if front else packet)

    def send(self, *packets, **options):
        self.a.send(*packets, **options)
        self.run()
        return self.out()

    @property
    def drops(self):
        counters = self.forwarder.counters()
        return {k[5:]: v for k, v in counters.items() if k.startswith("drop_") and v}

    def close(self):
        self.check()
        self.forwarder.close()
        self.device.close()
        self.wire.close()


@pytest.fixture
def border(request):
    b = Border(**getattr(request, "param", {}))
    yield b
    b.close()


def segment(version, payload, *, seq=1000, flags="A", outwards=True, **more):
    source, destination = (A, FAR) if outwards else (FAR, A)
    options = more.pop("options", [("NOP", None), ("NOP", None), ("Timestamp", (7, 9))])
    ip = IP(src=source[4], dst=destination[4], id=100, flags="DF", ttl=64) if version == 4 else \
        IPv6(src=source[6], dst=destination[6], fl=5, hlim=64)
    tcp = TCP(sport=4000, dport=80, seq=seq, ack=55, flags=flags, window=500, options=options, **more)
    packet = ip / tcp / Raw(payload)
    return type(ip)(bytes(packet))


def sound(packet):
    """Are length and checksums what scapy makes them?"""
    again = packet.copy()
    if IP in again:
        del again[IP].chksum, again[IP].len
    else:
        del again[IPv6].plen
    del again[TCP].chksum
    return bytes(again) == bytes(packet)


def data(n, seed=1):
    return random.Random(seed).randbytes(n)


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_packet_is_left_to_a_device_that_cuts(border, version):
    payload = data(40000)
    (todo, packet), = border.send(segment(version, payload, flags="PAC"))
    flags, kind, headers, size, start, offset = todo
    ip = 20 if version == 4 else 40
    assert (flags, kind) == (NEEDS_CHECKSUM, (TCPV4 if version == 4 else TCPV6) | ECN)
    assert (headers, size, start, offset) == (ip + 32, 1500 - ip - 32, ip, 16)
    assert bytes(packet[TCP].payload) == payload
    # What is in the field is the pseudo header's sum: the kernel goes on from there.
    whole = bytearray(bytes(packet))
    assert ones_sum(whole[start:]) == packet_checksum(packet)
    assert border.drops == {}


def ones_sum(raw):
    """The checksum that completes a sum: over everything from the transport header on, its field included."""
    if len(raw) % 2:
        raw = raw + b"\0"
    total = sum(struct.unpack(f"!{len(raw) // 2}H", bytes(raw)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def packet_checksum(packet):
    again = packet.copy()
    del again[TCP].chksum
    return type(packet)(bytes(again))[TCP].chksum


@pytest.mark.parametrize("split", [None, 0, 72], ids=["head and body", "one piece", "body behind the headers"])
@pytest.mark.parametrize("border", [{"offload": False}], indirect=True)
@pytest.mark.parametrize("version", [4, 6])
def test_a_large_packet_is_cut_for_a_device_that_does_not(border, version, split):
    payload = data(20001)
    headers = (20 if version == 4 else 40) + 32
    pieces = border.send(segment(version, payload, flags="FPAC"), split=headers if split == 72 else split)
    assert all(len(p) <= 1500 and sound(p) for p in pieces)
    assert b"".join(bytes(p[TCP].payload) for p in pieces) == payload
    assert [p[TCP].seq for p in pieces] == [1000 + i * (1500 - headers) for i in range(len(pieces))]
    assert [str(p[TCP].flags) for p in pieces] == ["AC"] + ["A"] * (len(pieces) - 2) + ["FPA"]
    assert all(p[TCP].options == pieces[0][TCP].options and p[TCP].window == 500 for p in pieces)
    if version == 4:
        assert [p.id for p in pieces] == list(range(100, 100 + len(pieces)))
    assert border.forwarder.counters(border.port)["split"] == len(pieces) - 1


@pytest.mark.parametrize("border", [{"offload": True}, {"offload": False}], indirect=True)
def test_who_vouches_for_a_new_checksum_looks_at_the_old_one(border):
    bad = segment(4, data(9000))
    bad[TCP].chksum ^= 1
    assert border.send(bad) == [] and border.drops == {"out_checksum": 1}


@pytest.mark.parametrize("border", [{"offload": True}, {"offload": False}], indirect=True)
@pytest.mark.parametrize("packet", [
    segment(4, data(2000), flags="S"), segment(4, data(2000), flags="UA"),
    segment(4, data(2000), options=[("NOP", None), ("NOP", None), (19, bytes(16))]),
    IP(src=A[4], dst=FAR[4]) / UDP() / Raw(bytes(2000)),
    IP(src=A[4], dst=FAR[4], flags="MF") / TCP() / Raw(bytes(2000)),
], ids=["SYN", "urgent", "signed", "UDP", "a piece"])
def test_packets_that_are_not_cut_are_refused_as_ever(border, packet):
    assert border.send(packet) == [] and border.drops == {"in_too_big": 1}
    told, = border.a.received()
    assert told[ICMP].type == 3 and told[ICMP].code == 4 and told[ICMP].nexthopmtu == 1500


@pytest.mark.parametrize("version", [4, 6])
def test_segments_of_one_batch_are_joined(border, version):
    payload = data(10 * 1400 + 300)
    parts = [segment(version, payload[i:i + 1400], seq=1000 + i) for i in range(0, len(payload), 1400)]
    parts[-1][TCP].window = 400
    del parts[-1][TCP].chksum
    parts[-1] = type(parts[-1])(bytes(parts[-1]))
    (todo, packet), = border.send(*parts)
    assert todo[0] == NEEDS_CHECKSUM and todo[3] == 1400 and todo[1] == (TCPV4 if version == 4 else TCPV6)
    assert bytes(packet[TCP].payload) == payload and packet[TCP].seq == 1000 and packet[TCP].window == 400
    assert ones_sum(bytes(packet)[todo[4]:]) == packet_checksum(packet)
    if version == 4:
        again = packet.copy()
        del again[IP].chksum
        assert IP(bytes(again)).chksum == packet.chksum and packet.len == len(packet)
    counters = border.forwarder.counters(border.port)
    assert counters["out_packets"] == len(parts) and counters["out_bytes"] == sum(map(len, parts))


def test_one_segment_alone_goes_as_it_came(border):
    alone = segment(4, data(1000), flags="PA")
    (todo, packet), = border.send(alone)
    assert todo == (0, 0, 0, 0, 0, 0) and sound(packet) and packet.ttl == 63
    assert bytes(packet[TCP]) == bytes(alone[TCP])


def strangers():
    """What does not go on the way the first two segments begin, by name; all of 1,000 bytes."""
    def third(**more):
        return segment(4, data(1000, 3), **{"seq": 3000, **more})

    def changed(layer, field, value):
        packet = third()
        setattr(packet[layer], field, value)
        del packet[IP].chksum, packet[TCP].chksum
        return IP(bytes(packet))

    broken = third()
    broken[TCP].chksum ^= 0x100
    return {
        "a gap": third(seq=4000), "the same again": third(seq=2000), "other acknowledgement": changed(TCP, "ack", 56),
        "other port": changed(TCP, "sport", 4001), "other address": changed(IP, "dst", "192.0.2.10"),
        "other mark": changed(IP, "tos", 3), "other hop limit": changed(IP, "ttl", 9), "FIN": third(flags="FA"),
        "CWR": third(flags="AC"), "other timestamp": third(options=[("NOP", None)] * 2 + [("Timestamp", (8, 9))]),
        "longer": segment(4, data(1001), seq=3000), "broken": broken, "IPv6": segment(6, data(1000), seq=3000),
        "a datagram": IP(src=A[4], dst=FAR[4]) / UDP(sport=1, dport=2) / Raw(bytes(100)),
        "no payload": segment(4, b"", seq=3000),
    }


@pytest.mark.parametrize("kind", strangers())
def test_what_does_not_belong_is_not_joined_and_stays_in_order(border, kind):
    first, second = segment(4, data(1000)), segment(4, data(1000, 2), seq=2000)
    stranger = strangers()[kind]
    joined, other = border.send(first, second, stranger)
    assert bytes(joined[1][TCP].payload) == data(1000) + data(1000, 2) and joined[0][3] == 1000
    assert other[0] == (0, 0, 0, 0, 0, 0)
    layer = UDP if UDP in stranger else TCP
    assert bytes(other[1][layer]) == bytes(type(stranger)(bytes(stranger))[layer])


@pytest.mark.parametrize("kind", ["short", "push"])
def test_a_short_segment_or_a_push_ends_what_is_joined(border, kind):
    second = segment(4, data(900 if kind == "short" else 1000), seq=2000, flags="A" if kind == "short" else "PA")
    third = segment(4, data(1000, 4), seq=2900 if kind == "short" else 3000)
    joined, last = border.send(segment(4, data(1000)), second, third)
    assert len(joined[1][TCP].payload) == 1900 + 100 * (kind == "push")
    assert ("P" in joined[1][TCP].flags) == (kind == "push")
    assert last[0][0] == 0 and bytes(last[1][TCP].payload) == data(1000, 4)


def unfinished(packet, *, kind=TCPV4, size=1400):
    """A packet as the kernel hands it over: the checksum field has the pseudo header's sum, the rest is left to do."""
    ip = 20 if IP in packet else 40
    raw = bytearray(bytes(packet))
    raw[ip + 16:ip + 18] = b"\0\0"
    rest = ones_sum(raw[ip:]) ^ 0xFFFF
    whole = packet[TCP].chksum ^ 0xFFFF
    pseudo = (whole - rest) % 0xFFFF
    raw[ip + 16:ip + 18] = pseudo.to_bytes(2, "big")
    return bytes(raw), (NEEDS_CHECKSUM, kind, ip + 32, size, ip, 16)


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_packet_from_a_device_reaches_a_stack_in_one_piece(border, version):
    packet = segment(version, data(40000), outwards=False)
    border.say(*unfinished(packet, kind=TCPV4 if version == 4 else TCPV6))
    got, = border.a.received()
    assert sound(got) and bytes(got[TCP].payload) == data(40000)


@pytest.mark.parametrize("border", [{"stack_mtu": 1500}], indirect=True)
@pytest.mark.parametrize("version", [4, 6])
def test_it_is_cut_for_a_stack_with_a_small_mtu(border, version):
    packet = segment(version, data(40000), outwards=False, flags="PA")
    border.say(*unfinished(packet, kind=TCPV4 if version == 4 else TCPV6))
    got = border.a.received()
    assert [len(p[TCP].payload) for p in got] == [1400] * 28 + [800] and all(map(sound, got))
    assert b"".join(bytes(p[TCP].payload) for p in got) == data(40000)


@pytest.mark.parametrize("border", [{"stack_mtu": 1500}], indirect=True)
def test_segments_that_are_themselves_too_large_are_refused(border):
    border.say(*unfinished(segment(4, data(4000), outwards=False), size=2000))
    assert border.a.received() == [] and border.drops == {"in_too_big": 1}
    (_, told), = border.out()
    assert told[ICMP].code == 4 and told[ICMP].nexthopmtu == 1500


def test_on_an_emulated_link_each_segment_is_a_packet(border):
    border.forwarder.emulate(border.port, delay="1ms")
    raw, todo = unfinished(segment(4, data(14000), outwards=False))
    border.wire.send(HEADER.pack(*todo) + raw)
    border.forwarder.run_once(0)
    border.forwarder.run_once(2_000_000)
    assert [len(p[TCP].payload) for p in border.a.received()] == [1400] * 10
    border.a.send(segment(4, data(14000)))
    border.forwarder.run_once(3_000_000)
    border.forwarder.run_once(5_000_000)
    out = border.out()
    assert len(out) == 10 and all(todo == (0,) * 6 and sound(packet) for todo, packet in out)


@pytest.mark.parametrize("todo", [
    (1, 1, 52, 1400, 60000, 16), (1, 1, 52, 1400, 1990, 65000), (1, 0, 0, 0, 2052, 0), (1, 1, 0, 1400, 65535, 65535),
])
def test_what_a_device_says_is_checked(border, todo):
    border.say(segment(4, data(2000), outwards=False), todo)
    assert border.a.received() == []


def test_random_streams_come_out_whole(border):
    """Any mixture of segments, cut and joined as it comes, is the same stream of bytes in order."""
    for seed in range(scale(200)):
        rng = random.Random(seed)
        stream, packets, at = data(rng.randrange(1, 60000), seed), [], 0
        while at < len(stream):
            n = rng.choice([1448, 1448, 1448, 100, 5000, 30000, rng.randrange(1, 3000)])
            packets.append(segment(4, stream[at:at + n], seq=1000 + at, flags=rng.choice(["A", "A", "A", "PA"])))
            at += n
        out, got = border.send(*packets), b""
        for todo, packet in out:
            assert packet[TCP].seq == 1000 + len(got)
            assert len(packet) <= 1500 or (todo[0] == NEEDS_CHECKSUM and todo[3] + 52 <= 1500)
            got += bytes(packet[TCP].payload)
        assert got == stream
    assert border.drops == {}


def test_neighbours_of_an_ethernet_get_them_too():
    lan = Lan(*POOLS)
    ours, wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    device = FileDevice(ours.detach(), offload=True)
    lan.forwarder.add_uplink(device, mac=bytes.fromhex(OUR_MAC.replace(":", "")), own=["192.0.2.2/24"])
    lan.forwarder.bind_local(pack_address("192.0.2.2"))
    a = lan.stack(A[4])
    a.send(segment(4, data(20000)))
    lan.run()
    wire.recv(1 << 17)                               # the question
    from scapy.layers.l2 import ARP

    answer = Ether(src=PEER_MAC, dst=OUR_MAC) / ARP(op=2, hwsrc=PEER_MAC, psrc=FAR[4], hwdst=OUR_MAC, pdst="192.0.2.2")
    wire.send(bytes(HEADER.size) + bytes(answer))
    lan.run()
    raw = wire.recv(1 << 17)                         # what had waited
    a.send(segment(4, data(20000)))
    lan.run()
    for each in (raw, wire.recv(1 << 17)):
        todo, frame = HEADER.unpack(each[:10]), Ether(each[10:])
        assert (frame.dst, frame.src) == (PEER_MAC, OUR_MAC) and bytes(frame[TCP].payload) == data(20000)
        assert todo == (NEEDS_CHECKSUM, TCPV4, 14 + 52, 1448, 34, 16)
    lan.forwarder.close()
    device.close()
    wire.close()


def test_whatever_a_device_and_stacks_say_ends_somewhere(border):
    """Mutated packets and headers from a device, mutated packets from a stack: all are counted, none is too large."""
    rng = random.Random(8)
    inwards, outwards = segment(4, data(3000), outwards=False), segment(4, data(3000))
    for _ in range(scale(20_000)):
        version, n = rng.choice([4, 6]), rng.choice([0, 30, 1400, 3000])
        bases = [bytearray(bytes(p)[:40 + 40 + n]) for p in (inwards, outwards)]
        for raw in bases:
            for _ in range(rng.randrange(4)):
                raw[rng.randrange(min(len(raw), 80))] = rng.randrange(256)
            if version == 4 and rng.random() < 0.8:      # so that it gets beyond the first check
                raw[2:4] = len(raw).to_bytes(2, "big")
                raw[10:12] = b"\0\0"
                total = ones_sum(raw[:20])
                raw[10:12] = total.to_bytes(2, "big")
        header = [rng.randrange(4), rng.choice([0, 1, 4, 0x81, rng.randrange(256)]),
                  *(rng.choice([0, 20, 52, 1400, rng.randrange(65536)]) for _ in range(4))]
        border.wire.send(HEADER.pack(*header) + bases[0])
        border.a.send(bytes(bases[1]))
        border.forwarder.run_once()
        for todo, packet in border.out():
            assert len(packet) <= 1500 or todo[0] == NEEDS_CHECKSUM
        border.a.received()
    border.run()
    border.say(*unfinished(segment(4, data(3000), outwards=False)))
    assert [sound(p) for p in border.a.received()] == [True]
