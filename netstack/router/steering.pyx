# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reading of a packet what says whose it is, on its way to a shared address and from one.

Where the names of a flow do not stand in the bytes that are private (``reading``), the packet is nobody's. Later pieces of a
datagram have no ports: they follow the first one, which is remembered for as long as pieces may wait to be put together.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from netstack.address cimport address_equal
from netstack.router.claims cimport (
    CLAIM_ECHO, CLAIM_PROTOCOL, CLAIM_TCP, CLAIM_UDP, claim_t, claims_claim, claims_owner, claims_promised, claims_t, flow_learn,
    group_has,
    names_t, piece_t, PIECES,
)
from netstack.router.port cimport DROP_MALFORMED, DROP_PIECE, DROP_SPOOFED, packet_t, port_t
from netstack.router.reading cimport (
    FIRST, is_echo, is_error, is_icmp, LATER, read_header, readable, reading_t, WHOLE,
)
from netstack.siphash cimport siphash
from netstack.wire.byte_order cimport load_be16
from netstack.wire.icmp cimport ICMP_HEADER
from netstack.wire.ipv4 cimport PROTOCOL_TCP, PROTOCOL_UDP

cdef enum:
    ALLOWED = -1                 # FORWARDED of routing
    TCP_SYN = 2
    TCP_RST = 4                  # says nothing of whose a flow is

cdef int64_t PIECES_NS = 60000000000         # RFC 8200 section 4.5; 30 s would do for IPv4


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
        if claims_promised(f.claims, names.kind, names.lport, f.now_ns):
            return STEER_HELD
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
        if not is_echo(h, h[r.at], True) or not flow_learn(f.claims, src, &names, False, f.now_ns):
            return <int> DROP_SPOOFED
    elif names.kind == CLAIM_PROTOCOL:           # whoever speaks it first has it
        if claims_claim(f.claims, src, CLAIM_PROTOCOL, names.lport, 0, f.now_ns) != 0:
            return <int> DROP_SPOOFED
    elif not owns(f, src, &names):
        return <int> DROP_SPOOFED
    elif f.claims.numbers[names.kind][names.lport].group != NULL and (
            names.kind == CLAIM_UDP or (r.at + 14 <= n and h[r.at + 13] & TCP_RST == 0)):
        if not flow_learn(f.claims, src, &names, names.kind == CLAIM_TCP and h[r.at + 13] & TCP_SYN != 0, f.now_ns):
            return <int> DROP_SPOOFED
    if r.part == FIRST:
        piece_note(f, &r, src, True)
    return ALLOWED
