# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reading of a packet what says whose it is, on its way to a shared address and from one.

Only bytes that are private are read (the router's copy of the header, or a packet that lies in the router's memory). Where
the names of a flow do not stand there, the packet is nobody's. Later pieces of a datagram have no ports: they follow the
first one, which is remembered for as long as pieces may wait to be put together.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from netstack.address cimport address_equal, address_from_v4, address_t
from netstack.router.claims cimport (
    CLAIM_ECHO, CLAIM_PROTOCOL, CLAIM_TCP, CLAIM_UDP, claim_t, claims_claim, claims_owner, claims_t, flow_learn, group_has,
    names_t, piece_t, PIECES,
)
from netstack.router.port cimport DROP_MALFORMED, DROP_PIECE, DROP_SPOOFED, packet_t, port_t
from netstack.siphash cimport siphash
from netstack.wire.byte_order cimport load_be16, load_be32, load_native32
from netstack.wire.icmp cimport ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_HEADER
from netstack.wire.ipv4 cimport IPV4_HEADER, IPV4_MF, IPV4_OFFSET_MASK, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP
from netstack.wire.ipv6 cimport IPV6_HEADER, PROTOCOL_ICMPV6

cdef enum:
    ALLOWED = -1                 # FORWARDED of routing
    WHOLE = 0                    # which part of a datagram
    FIRST = 1
    LATER = 2
    EXTENSIONS = 8               # IPv6 headers in front of the transport's, at most
    HOP_BY_HOP = 0
    ROUTING = 43
    FRAGMENT = 44
    DESTINATION_OPTIONS = 60
    ICMPV6_ECHO_REQUEST = 128
    ICMPV6_ECHO_REPLY = 129
    TCP_SYN_OR_RST = 6

cdef int64_t PIECES_NS = 60000000000         # RFC 8200 section 4.5; 30 s would do for IPv4


cdef struct reading_t:           # of an IP header and those behind it
    address_t src
    address_t dst
    uint32_t at                  # where the transport's header begins
    uint32_t ident               # of a datagram in pieces
    uint8_t protocol
    uint8_t part


cdef uint32_t readable(const packet_t *p) noexcept nogil:
    """Bytes from p.header on that nobody else can write."""
    if p.head == p.header and (p.body_length == 0 or p.body == p.header + p.head_length):
        return p.head_length + p.body_length
    return p.header_length


cdef bint read_ipv4(const uint8_t *h, uint32_t n, reading_t *r) noexcept nogil:
    cdef uint32_t word
    if n < IPV4_HEADER:
        return False
    r.at = (h[0] & 15) << 2
    if r.at < IPV4_HEADER or r.at > n:
        return False
    address_from_v4(&r.src, load_native32(h + 12))
    address_from_v4(&r.dst, load_native32(h + 16))
    r.protocol = h[9]
    r.ident = load_be16(h + 4)
    word = load_be16(h + 6)
    r.part = LATER if word & IPV4_OFFSET_MASK else FIRST if word & IPV4_MF else WHOLE
    return True


cdef bint read_ipv6(const uint8_t *h, uint32_t n, reading_t *r) noexcept nogil:
    cdef uint8_t kind
    cdef uint32_t length
    cdef int i
    if n < IPV6_HEADER:
        return False
    memcpy(&r.src, h + 8, 16)
    memcpy(&r.dst, h + 24, 16)
    kind = h[6]
    r.at = IPV6_HEADER
    r.part = WHOLE
    r.ident = 0
    for i in range(EXTENSIONS):
        if kind != HOP_BY_HOP and kind != ROUTING and kind != DESTINATION_OPTIONS and kind != FRAGMENT:
            r.protocol = kind
            return True
        if r.at + 8 > n:
            return False
        length = 8
        if kind == FRAGMENT:
            r.ident = load_be32(h + r.at + 4)
            if load_be16(h + r.at + 2) & 0xfff8:
                r.part = LATER
            elif h[r.at + 3] & 1:
                r.part = FIRST
        else:
            length = 8 * (<uint32_t> h[r.at + 1] + 1)
        kind = h[r.at]
        r.at += length
        if r.part == LATER:
            r.protocol = kind
            return True
        if r.at > n:
            return False
    return False


cdef inline bint read_header(const uint8_t *h, uint32_t n, reading_t *r) noexcept nogil:
    if n == 0:
        return False
    return read_ipv4(h, n, r) if h[0] >> 4 == 4 else read_ipv6(h, n, r)


cdef inline bint is_icmp(const reading_t *r, const uint8_t *h) noexcept nogil:
    return r.protocol == (PROTOCOL_ICMP if h[0] >> 4 == 4 else PROTOCOL_ICMPV6)


cdef inline bint is_echo(const uint8_t *h, uint8_t type, bint request) noexcept nogil:
    if h[0] >> 4 == 4:
        return type == (ICMP_ECHO_REQUEST if request else ICMP_ECHO_REPLY)
    return type == (ICMPV6_ECHO_REQUEST if request else ICMPV6_ECHO_REPLY)


cdef inline bint is_error(const uint8_t *h, uint8_t type) noexcept nogil:
    if h[0] >> 4 == 4:
        return type == 3 or type == 11 or type == 12
    return type < 128


cdef bint name(const uint8_t *h, uint32_t n, const reading_t *r, bint outward, names_t *names) noexcept nogil:
    """The names of the flow a packet belongs to, `outward` if it left the shared address. False: they do not stand there."""
    cdef uint16_t first, second
    memset(names, 0, sizeof(names_t))
    names.local = r.src if outward else r.dst
    names.remote = r.dst if outward else r.src
    if r.protocol == PROTOCOL_TCP or r.protocol == PROTOCOL_UDP:
        if r.at + 4 > n:
            return False
        first, second = load_be16(h + r.at), load_be16(h + r.at + 2)
        names.kind = CLAIM_UDP if r.protocol == PROTOCOL_UDP else CLAIM_TCP
        names.lport = first if outward else second
        names.rport = second if outward else first
    elif is_icmp(r, h):
        if r.at + ICMP_HEADER > n:
            return False
        names.kind = CLAIM_ECHO
        names.lport = load_be16(h + r.at + 4)
    else:
        names.kind = CLAIM_PROTOCOL
        names.lport = r.protocol
    return True


cdef bint name_embedded(const uint8_t *h, uint32_t n, const reading_t *r, bint outward, names_t *names) noexcept nogil:
    """The names of the flow that an ICMP error is about. `outward`: the error leaves the shared address, so the packet it is
    about had come to it."""
    cdef reading_t inner
    cdef const uint8_t *q = h + r.at + ICMP_HEADER
    cdef uint32_t left
    if r.at + ICMP_HEADER > n:
        return False
    left = n - r.at - ICMP_HEADER
    if left == 0 or q[0] >> 4 != h[0] >> 4 or not read_header(q, left, &inner) or inner.part == LATER:
        return False
    if not address_equal(&inner.dst if outward else &inner.src, &r.src if outward else &r.dst):
        return False
    if is_icmp(&inner, q) and (inner.at + ICMP_HEADER > left or not is_echo(q, q[inner.at], not outward)):
        return False
    return name(q, left, &inner, not outward, names)


# ---- pieces

cdef piece_t *piece_place(claims_t *c, const reading_t *r) noexcept nogil:
    cdef uint64_t words[5]
    words[0] = r.src.hi
    words[1] = r.src.lo
    words[2] = r.dst.hi
    words[3] = r.dst.lo
    words[4] = <uint64_t> r.protocol << 32 | r.ident
    return &c.pieces[siphash(c.key, words, 5) % PIECES]


cdef void piece_note(forwarder_t *f, const reading_t *r, const port_t *port, bint outward) noexcept nogil:
    cdef piece_t *piece = piece_place(f.claims, r)
    piece.src = r.src
    piece.dst = r.dst
    piece.ident = r.ident
    piece.protocol = r.protocol
    piece.outward = outward
    piece.port = port.id
    piece.since_ns = f.now_ns


cdef port_t *piece_port(forwarder_t *f, const reading_t *r, bint outward) noexcept nogil:
    """Where the first piece went, or came from; NULL: not seen, long ago, or gone."""
    cdef piece_t *piece = piece_place(f.claims, r)
    cdef port_t *port
    if piece.port == 0 or piece.ident != r.ident or piece.protocol != r.protocol or piece.outward != outward or \
            not address_equal(&piece.src, &r.src) or not address_equal(&piece.dst, &r.dst):
        return NULL
    if f.now_ns - piece.since_ns > PIECES_NS:
        return NULL
    port = f.slots[piece.port & 0xffff]
    return port if port != NULL and port.id == piece.port else NULL


# ---- to a shared address, and from one

cdef int steer_in(forwarder_t *f, const packet_t *p, port_t **to) noexcept nogil:
    cdef const uint8_t *h = p.header
    cdef uint32_t n = readable(p)
    cdef reading_t r
    cdef names_t names
    if not read_header(h, n, &r):
        return STEER_MALFORMED
    if r.part == LATER:
        to[0] = piece_port(f, &r, False)
        return STEER_OWNER if to[0] != NULL else STEER_PIECE
    if is_icmp(&r, h) and r.at + ICMP_HEADER <= n and is_error(h, h[r.at]):
        if not name_embedded(h, n, &r, False, &names):
            return STEER_MALFORMED
    elif not name(h, n, &r, False, &names):
        return STEER_MALFORMED
    elif names.kind == CLAIM_ECHO and not is_echo(h, h[r.at], False):
        return STEER_ECHO if r.part == WHOLE and is_echo(h, h[r.at], True) else STEER_PROTOCOL
    to[0] = claims_owner(f.claims, &names)
    if to[0] == NULL:
        return STEER_PROTOCOL if names.kind >= CLAIM_PROTOCOL else STEER_NOBODY
    if r.part == FIRST:
        piece_note(f, &r, to[0], False)
    return STEER_OWNER


cdef bint owns(forwarder_t *f, port_t *src, const names_t *names) noexcept nogil:
    """Is the local end of these names the attachment's?"""
    cdef claim_t *claim
    if names.kind == CLAIM_ECHO:
        return claims_owner(f.claims, names) == src
    claim = &f.claims.numbers[names.kind][names.lport]
    if claim.group != NULL:
        return group_has(claim.group, src)
    return claim.owner == src


cdef int steer_out(forwarder_t *f, port_t *src, const packet_t *p) noexcept nogil:
    """Not from a port that is another's, nor of one's own on a flow that is another's (security I1)."""
    cdef const uint8_t *h = p.header
    cdef uint32_t n = readable(p)
    cdef reading_t r
    cdef names_t names
    if not read_header(h, n, &r):
        return <int> DROP_MALFORMED
    if r.part == LATER:
        return ALLOWED if piece_port(f, &r, True) == src else <int> DROP_PIECE
    if is_icmp(&r, h) and r.at + ICMP_HEADER <= n and is_error(h, h[r.at]):
        if not name_embedded(h, n, &r, True, &names) or not owns(f, src, &names):
            return <int> DROP_SPOOFED
    elif not name(h, n, &r, True, &names):
        return <int> DROP_MALFORMED
    elif names.kind == CLAIM_ECHO:
        if not is_echo(h, h[r.at], True) or not flow_learn(f.claims, src, &names, f.now_ns):
            return <int> DROP_SPOOFED
    elif names.kind == CLAIM_PROTOCOL:           # whoever speaks it first has it
        if claims_claim(f.claims, src, CLAIM_PROTOCOL, names.lport, 0, f.now_ns) != 0:
            return <int> DROP_SPOOFED
    elif not owns(f, src, &names):
        return <int> DROP_SPOOFED
    elif f.claims.numbers[names.kind][names.lport].group != NULL and (
            names.kind == CLAIM_UDP or (r.at + 14 <= n and h[r.at + 13] & TCP_SYN_OR_RST == 0)):
        if not flow_learn(f.claims, src, &names, f.now_ns):
            return <int> DROP_SPOOFED
    if r.part == FIRST:
        piece_note(f, &r, src, True)
    return ALLOWED
