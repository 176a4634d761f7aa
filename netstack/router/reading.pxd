"""What stands behind the fixed header of a packet on its way: where the transport's begins, and which it is.

Only bytes that are private are read: the router's copy of the header, or a packet that lies in the router's memory.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from netstack.address cimport address_from_v4, address_t
from netstack.router.packet cimport packet_t
from netstack.wire.byte_order cimport load_be16, load_be32, load_native32
from netstack.wire.icmp cimport ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST
from netstack.wire.icmp6 cimport ICMP6_ECHO_REPLY, ICMP6_ECHO_REQUEST, ND_REDIRECT
from netstack.wire.ipv4 cimport IPV4_HEADER, IPV4_MF, IPV4_OFFSET_MASK, PROTOCOL_ICMP
from netstack.wire.ipv6 cimport (
    IPV6_HEADER, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP, NEXT_ROUTING, PROTOCOL_ICMPV6,
)

cdef enum:
    WHOLE = 0                    # which part of a datagram
    FIRST = 1
    LATER = 2
    EXTENSIONS = 8               # IPv6 headers in front of the transport's, at most


cdef struct reading_t:           # of an IP header and those behind it
    address_t src
    address_t dst
    uint32_t at                  # where the transport's header begins
    uint32_t ident               # of a datagram in pieces
    uint8_t protocol
    uint8_t part


cdef inline uint32_t readable(const packet_t *p) noexcept nogil:
    """Bytes from p.header on that nobody else can write."""
    if p.head == p.header and (p.body_length == 0 or p.body == p.header + p.head_length):
        return p.head_length + p.body_length
    return p.header_length


cdef inline bint read_ipv4(const uint8_t *h, uint32_t n, reading_t *r) noexcept nogil:
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


cdef inline bint read_ipv6(const uint8_t *h, uint32_t n, reading_t *r) noexcept nogil:
    """A fragment header that makes no pieces (RFC 6946) is passed over like the others."""
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
    for i in range(EXTENSIONS + 1):          # the last look is at what stands behind them
        if kind != NEXT_HOP_BY_HOP and kind != NEXT_ROUTING and kind != NEXT_DESTINATION and kind != NEXT_FRAGMENT:
            r.protocol = kind
            return True
        if r.at + 8 > n:
            return False
        length = 8
        if kind == NEXT_FRAGMENT:
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
    """False: the transport does not stand in these n bytes."""
    if n == 0:
        return False
    return read_ipv4(h, n, r) if h[0] >> 4 == 4 else read_ipv6(h, n, r)


cdef inline bint is_icmp(const reading_t *r, const uint8_t *h) noexcept nogil:
    return r.protocol == (PROTOCOL_ICMP if h[0] >> 4 == 4 else PROTOCOL_ICMPV6)


cdef inline bint is_echo(const uint8_t *h, uint8_t type, bint request) noexcept nogil:
    if h[0] >> 4 == 4:
        return type == (ICMP_ECHO_REQUEST if request else ICMP_ECHO_REPLY)
    return type == (ICMP6_ECHO_REQUEST if request else ICMP6_ECHO_REPLY)


cdef inline bint is_error(const uint8_t *h, uint8_t type) noexcept nogil:
    if h[0] >> 4 == 4:
        return type == 3 or type == 11 or type == 12
    return type < 128


cdef inline bint may_be_answered(const uint8_t *h, uint8_t type) noexcept nogil:
    """May an ICMP error be sent about an ICMP message of this type (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e))?"""
    if h[0] >> 4 == 4:                       # the kinds that ask and answer: what is unknown may be an error
        return type == ICMP_ECHO_REPLY or type == ICMP_ECHO_REQUEST or 13 <= type <= 16
    return type >= 128 and type != ND_REDIRECT


cdef inline bint ipv6_never_forwarded(const uint8_t *a) noexcept nogil:
    """Multicast, link-local (RFC 4291 section 2.5.6), ::, ::1 and whatever else has no network in front: 16 bytes as on the wire."""
    cdef uint64_t high
    memcpy(&high, a, 8)
    return a[0] == 0xff or (a[0] == 0xfe and a[1] & 0xc0 == 0x80) or high == 0
