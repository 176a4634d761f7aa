"""Mutants of live frames: what a broken or hostile peer could send right now, so that it hits the window.

A mutant starts from a frame of the session, mostly keeps right checksums, and takes sequence numbers from what the
victim itself has last said. Everything is chosen by one seeded `random.Random`.
"""

import struct

from netstack.testing.packets import build_icmp, build_ipv4, build_tcp, build_udp, flag_bits, parse_packet, repair

EDGES16 = (0, 1, 2, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
EDGES32 = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
OFFSETS = (0, 0, 0, 1, -1, 2, 100, 535, 536, 1447, 1448, 1449, -1448, 4096, 65534, 65535, 65536, 1 << 20, -(1 << 20),
           1 << 30, 1 << 31, -(1 << 31) + 1)
FLAGS = ("", "S", "A", "SA", "F", "FA", "R", "RA", "PA", "SF", "SR", "FR", "SFRPAUEC", "SFRPAU", "P", "U", "UA", "AE",
         "AC", "SEC", "FPU")


class Victim:
    """What is known of the stack under attack, read from its own output."""

    def __init__(self):
        self.flows = {}                              # (sport, dport) of the victim -> last segment it sent
        self.sent = []                               # its latest packets, raw

    def saw(self, data):
        """The victim sent this."""
        self.sent = [*self.sent[-15:], data]
        packet = parse_packet(data)
        if packet.seq is not None:
            self.flows[packet.sport, packet.dport] = packet


def put16(frame, at, value):
    if at + 2 <= len(frame):
        struct.pack_into("!H", frame, at, value & 0xFFFF)


def put32(frame, at, value):
    if at + 4 <= len(frame):
        struct.pack_into("!I", frame, at, value & 0xFFFFFFFF)


def bit_flips(rng, frame, victim):
    for _ in range(rng.choice((1, 1, 2, 8))):
        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)


def random_bytes(rng, frame, victim):
    at = rng.randrange(len(frame))
    n = rng.randrange(1, 9)
    frame[at:at + n] = rng.randbytes(len(frame[at:at + n]))


def truncate(rng, frame, victim):
    del frame[rng.randrange(1, len(frame) + 1):]


def truncate_consistently(rng, frame, victim):
    """Cut the packet and make the total length fit."""
    del frame[rng.randrange(20, len(frame) + 1) if len(frame) > 20 else len(frame):]
    put16(frame, 2, len(frame))


def lengthen(rng, frame, victim):
    frame += rng.randbytes(rng.choice((1, 2, 3, 7, 40, 1000)))
    if rng.random() < 0.5:
        put16(frame, 2, len(frame))


def ip_field(rng, frame, victim):
    at, value = rng.choice((
        (0, rng.randrange(256)), (1, rng.randrange(256)), (6, rng.choice((0, 0x20, 0x40, 0x80, 0x1F))),
        (7, rng.randrange(256)), (8, rng.choice((0, 1, 255))), (9, rng.randrange(256)), (12, rng.randrange(256)),
        (15, rng.randrange(256)), (16, rng.randrange(256)), (19, rng.randrange(256)),
    ))
    if at < len(frame):
        frame[at] = value


def ip_total_length(rng, frame, victim):
    put16(frame, 2, rng.choice((*EDGES16, 19, 20, 21, 39, 40, len(frame) - 1, len(frame) + 1, rng.getrandbits(16))))


def ip_options(rng, frame, victim):
    """Options between the IP header and the rest: record route, source routes, nonsense."""
    options = rng.choice((
        b"\x83\x07\x04\x0a\x00\x00\x09", b"\x89\x07\x04\x0a\x00\x00\x09", b"\x07\x07\x04\x00\x00\x00\x00",
        b"\x44\x04\x05\x00", b"\x01\x01\x01\x01", b"\x83\x00", b"\x83\xff\x04", b"\x07\x01", rng.randbytes(8),
    ))
    options += bytes(-len(options) % 4)
    header = (frame[0] & 15) * 4
    if header == 20 and len(frame) >= 20:
        frame[20:20] = options[:40]
        frame[0] = 0x45 + len(options[:40]) // 4
        put16(frame, 2, len(frame))


def transport(frame):
    return (frame[0] & 15) * 4 if frame else 0


def tcp_flags(rng, frame, victim):
    at = transport(frame) + 13
    if at < len(frame):
        frame[at] = flag_bits(rng.choice(FLAGS)) if rng.random() < 0.8 else rng.randrange(256)


def tcp_offset(rng, frame, victim):
    at = transport(frame) + 12
    if at < len(frame):
        frame[at] = rng.randrange(256)


def tcp_numbers(rng, frame, victim):
    """Sequence and acknowledgement at and around what the victim expects."""
    at = transport(frame)
    if at + 20 > len(frame):
        return
    sport, dport = struct.unpack_from("!HH", frame, at)
    last = victim.flows.get((dport, sport))
    if last is None:
        put32(frame, at + 4, rng.choice(EDGES32))
        put32(frame, at + 8, rng.choice(EDGES32))
        return
    if rng.random() < 0.8:
        put32(frame, at + 4, last.ack + rng.choice(OFFSETS))
    if rng.random() < 0.5:
        put32(frame, at + 8, last.seq + last.seq_length + rng.choice(OFFSETS))


def tcp_window(rng, frame, victim):
    put16(frame, transport(frame) + 14, rng.choice(EDGES16))


def tcp_urgent(rng, frame, victim):
    at = transport(frame)
    if at + 20 <= len(frame):
        frame[at + 13] |= 0x20
        put16(frame, at + 18, rng.choice((*EDGES16, rng.getrandbits(16))))


def tcp_options(rng, frame, victim):
    """Other options in the place of those there, of any kind and length."""
    at = transport(frame)
    if at + 20 > len(frame):
        return
    header = min((frame[at + 12] >> 4) * 4, len(frame) - at)
    if header < 20:
        return
    options = b""
    for _ in range(rng.randrange(1, 5)):
        kind = rng.choice((0, 1, 2, 3, 4, 5, 8, 14, 19, 28, 34, rng.randrange(256)))
        right = {2: 2, 3: 1, 4: 0, 5: 8 * rng.randrange(1, 5), 8: 8}.get(kind, rng.randrange(10))
        value = rng.randbytes(right)
        length = 2 + right if rng.random() < 0.7 else rng.choice((0, 1, 2, 3, 255, rng.randrange(256)))
        options += bytes((kind,)) if kind < 2 else bytes((kind, length)) + value
    options = options[:40]
    options += bytes(rng.choice((0, 1)) for _ in range(-len(options) % 4))
    frame[at + 20:at + header] = options
    frame[at + 12] = (20 + len(options)) << 2 | frame[at + 12] & 15
    put16(frame, 2, len(frame))


def tcp_sack(rng, frame, victim):
    """SACK blocks around what the victim has outstanding."""
    at = transport(frame)
    if at + 20 > len(frame):
        return
    sport, dport = struct.unpack_from("!HH", frame, at)
    last = victim.flows.get((dport, sport))
    base = last.seq if last else rng.getrandbits(32)
    count = rng.randrange(1, 5)
    edges = [base + rng.choice(OFFSETS) & 0xFFFFFFFF for _ in range(2 * count)]
    blocks = struct.pack(f"!{2 * count}I", *edges)
    header = min((frame[at + 12] >> 4) * 4, len(frame) - at)
    if header < 20:
        return
    options = b"\x01\x01\x05" + bytes((2 + 8 * count,)) + blocks
    frame[at + 20:at + header] = options
    frame[at + 12] = (20 + len(options)) << 2
    put16(frame, 2, len(frame))


def tcp_timestamp(rng, frame, victim):
    """Another timestamp in the place of the one there."""
    at = transport(frame) + 20
    where = frame.find(b"\x08\x0a", at, at + 40)
    if where >= 0:
        put32(frame, where + 2, rng.choice((*EDGES32, rng.getrandbits(32))))
        if rng.random() < 0.5:
            put32(frame, where + 6, rng.choice((*EDGES32, rng.getrandbits(32))))


def ports(rng, frame, victim):
    put16(frame, transport(frame) + rng.choice((0, 2)), rng.choice((0, 1, 79, 80, 81, 65535, rng.getrandbits(16))))


MUTATIONS = (
    bit_flips, random_bytes, truncate, truncate_consistently, lengthen, ip_field, ip_total_length, ip_options,
    tcp_flags, tcp_flags, tcp_offset, tcp_numbers, tcp_numbers, tcp_numbers, tcp_window, tcp_urgent, tcp_options,
    tcp_options, tcp_sack, tcp_timestamp, ports,
)


def mutate(rng, data, victim):
    """A mutant of a frame of the session."""
    frame = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if frame:
            rng.choice(MUTATIONS)(rng, frame, victim)
    return repair(bytes(frame)) if rng.random() < 0.9 else bytes(frame)


ETHERNET = 14
IPV4, ARP = b"\x08\x00", b"\x08\x06"


def mutate_arp(rng, data):
    """A mutant of an ARP frame: other operations, formats, addresses, lengths."""
    frame = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        kind = rng.randrange(5)
        if kind == 0:
            put16(frame, ETHERNET + 6, rng.choice((0, 1, 2, 3, 8, 0xFFFF)))
        elif kind == 1:
            put16(frame, ETHERNET + rng.choice((0, 2, 4)), rng.choice((*EDGES16, 0x0806, 0x0604, 0x0600)))
        elif kind == 2:
            at = ETHERNET + rng.choice((8, 14, 18, 24))
            frame[at:at + 4] = rng.choice((bytes(4), b"\xff" * 4, b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02",
                                           rng.randbytes(4)))
        elif kind == 3:
            truncate(rng, frame, None)
        else:
            bit_flips(rng, frame, None)
        if not frame:
            break
    return bytes(frame)


def link_header(rng, dst, src, kind=IPV4):
    """An Ethernet header: mostly right, sometimes for others, from nowhere, or of a type nobody speaks."""
    if rng.random() < 0.9:
        return dst + src + kind
    return rng.choice((
        b"\xff" * 6 + src + kind, b"\x01\x00\x5e\x00\x00\x01" + src + kind, rng.randbytes(6) + src + kind,
        dst + rng.randbytes(6) + kind, dst + src + rng.randbytes(2), dst + src + b"\x86\xdd", dst + dst + kind,
        (dst + src + kind)[:rng.randrange(1, 14)], dst + src + ARP,
    ))


def invent(rng, victim, me, target, listening):
    """A packet that is no mutant: SYNs, datagrams, echoes, ICMP errors about what the victim sent."""
    kind = rng.randrange(8)
    if kind == 0:
        return build_tcp(me, target, rng.getrandbits(16), listening, "S", seq=rng.getrandbits(32),
                         mss=rng.choice((None, 0, 1, 48, 536, 1460, 65535)), timestamp=rng.choice((None, (1, 0))),
                         window_scale=rng.choice((None, 0, 14, 15, 255)), sack_permitted=rng.random() < 0.5,
                         payload=rng.choice((b"", b"data on SYN")))
    if kind == 1:
        return build_tcp(me, target, rng.getrandbits(16), rng.choice((listening, rng.getrandbits(16))),
                         rng.choice(FLAGS), seq=rng.getrandbits(32), ack=rng.getrandbits(32))
    if kind == 2:
        return build_udp(me, target, rng.getrandbits(16), rng.choice((5353, 7, rng.getrandbits(16))),
                         rng.randbytes(rng.choice((0, 1, 100, 1400))))
    if kind == 3:
        return build_icmp(me, target, 8, 0, rng.randbytes(4), rng.randbytes(rng.randrange(0, 1400)))
    if kind == 4 or not victim.sent:
        return build_icmp(me, target, rng.randrange(256), rng.randrange(256), rng.randbytes(4), rng.randbytes(60))
    if kind == 5:
        return build_ipv4(me, target, rng.randrange(256), rng.randbytes(rng.randrange(0, 200)))
    # an error about a packet of the victim's own, whole, cut or garbled
    quoted = bytearray(rng.choice(victim.sent))
    if rng.random() < 0.3:
        quoted[rng.randrange(len(quoted))] ^= 1 << rng.randrange(8)
    code = rng.choice((0, 1, 2, 3, 3, 4, 4, 5, 6, 9, 13, rng.randrange(256)))
    rest = b"\0\0" + struct.pack("!H", rng.choice((0, 68, 296, 552, 1000, 1280, 1499, 65535)))
    return build_icmp(me, target, rng.choice((3, 3, 3, 11, 12, 4, 5)), code, rest,
                      bytes(quoted[:rng.choice((8, 20, 27, 28, 48, len(quoted)))]))
