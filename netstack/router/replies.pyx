# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Building the router's own packets. Each function reads a private copy and says how many bytes it wrote, 0 for none."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from netstack.address cimport address_is_v4, address_v4
from netstack.router.reading cimport (
    ipv6_never_forwarded, is_icmp, LATER, may_be_answered, read_header, readable, reading_t, WHOLE,
)
from netstack.wire.byte_order cimport (
    load_be16, load_be32, load_native16, load_native32, load_native64, store_be32, store_native16, store_native32,
)
from netstack.wire.checksum cimport (
    checksum_finish, checksum_partial, checksum_pseudo, checksum_pseudo_ipv4, checksum_pseudo_ipv6, checksum_update16,
)
from netstack.wire.icmp cimport (
    ICMP_CODE_FRAGMENTATION, ICMP_CODE_HOST, ICMP_CODE_NET, ICMP_CODE_PORT, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_HEADER,
    ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, write_icmp,
)
from netstack.wire.icmp6 cimport (
    ICMP6_ADDRESS, ICMP6_ECHO_REPLY, ICMP6_ECHO_REQUEST, ICMP6_NO_ROUTE, ICMP6_PORT, ICMP6_TIME_EXCEEDED, ICMP6_TOO_BIG,
    ICMP6_UNREACHABLE, write_icmp6,
)
from netstack.wire.ipv4 cimport (
    IPV4_HEADER, IPV4_OFFSET_MASK, PROTOCOL_ICMP, PROTOCOL_TCP, ipv4_source_is_martian, write_ipv4,
)
from netstack.wire.ipv6 cimport IPV6_HEADER, PROTOCOL_ICMPV6, write_ipv6

cdef enum:
    QUOTE_BYTES = 128        # of the IPv4 packet an ICMP error is about; RFC 1812 section 4.3.2.3 asks for 8 of its payload
    QUOTE_BYTES6 = REPLY_BYTES - IPV6_HEADER - ICMP_HEADER      # RFC 4443 section 2.4 (c): as much as may be
    TCP_HEADER = 20
    TCP_FIN = 1
    TCP_SYN = 2
    TCP_RST = 4
    TCP_ACK = 16
    TOS_INTERNETWORK_CONTROL = 0xc0     # RFC 1812 section 4.3.2.5


cdef uint32_t quote(uint8_t *out, const packet_t *p, uint32_t most) noexcept nogil:
    """The beginning of a packet, as it came: how many bytes."""
    cdef uint32_t total = p.head_length + p.body_length, n = p.header_length, more
    if total > most:
        total = most
    if n > total:
        n = total
    memcpy(out, p.header, n)
    if n < total and n < p.head_length:
        more = (p.head_length if p.head_length < total else total) - n
        memcpy(out + n, p.head + n, more)
        n += more
    if n < total:
        memcpy(out + n, p.body, total - n)
    return total


cdef bint may_complain(const packet_t *p) noexcept nogil:
    """Never about an ICMP error, what may be one, a later piece of a datagram, to or from an address that is not one host's
    (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e))."""
    cdef const uint8_t *h = p.header
    cdef uint32_t n = readable(p)
    cdef reading_t r
    if h[0] >> 4 == 4:
        if h[16] >= 224 or ipv4_source_is_martian(load_native32(h + 12)):
            return False
    elif h[24] == 0xff or h[8] == 0xff or load_native64(h + 8) == 0:
        return False
    if not read_header(h, n, &r) or r.part == LATER:
        return False
    return not is_icmp(&r, h) or (r.at < n and may_be_answered(h, h[r.at]))


cdef uint32_t reply_icmpv4(uint8_t *out, const packet_t *p, uint8_t type, uint8_t code, uint32_t mtu,
                           uint32_t own_be) noexcept nogil:
    """RFC 792, RFC 1812 section 4.3.2; the next link's mtu: RFC 1191 section 4."""
    cdef uint32_t quoted = quote(out + IPV4_HEADER + ICMP_HEADER, p, QUOTE_BYTES)
    write_ipv4(out, own_be, load_native32(p.header + 12), PROTOCOL_ICMP, IPV4_HEADER + ICMP_HEADER + quoted,
               TOS_INTERNETWORK_CONTROL, REPLY_TTL, 0, True)
    write_icmp(out + IPV4_HEADER, type, code, 0, <uint16_t> mtu,
               checksum_partial(out + IPV4_HEADER + ICMP_HEADER, quoted))
    return IPV4_HEADER + ICMP_HEADER + quoted


cdef uint32_t reply_icmpv6(uint8_t *out, const packet_t *p, uint8_t type, uint8_t code, uint32_t mtu,
                           const address_t *own) noexcept nogil:
    """RFC 4443 section 3."""
    cdef uint32_t quoted = quote(out + IPV6_HEADER + ICMP_HEADER, p, QUOTE_BYTES6)
    cdef address_t to
    memcpy(&to, p.header + 8, 16)
    write_ipv6(out, own, &to, PROTOCOL_ICMPV6, ICMP_HEADER + quoted, 0, REPLY_TTL, 0)
    write_icmp6(out + IPV6_HEADER, type, code, mtu, checksum_partial(out + IPV6_HEADER + ICMP_HEADER, quoted),
                checksum_pseudo(own, &to, PROTOCOL_ICMPV6, ICMP_HEADER + quoted))
    return IPV6_HEADER + ICMP_HEADER + quoted


cdef uint32_t reply_error(uint8_t *out, const packet_t *p, Complaint why, uint32_t mtu, const address_t *own) noexcept nogil:
    """An ICMP error about a packet, from `own` to its source; the packet as it was received, its header whole.

    mtu: the next link's, for TOO_BIG. Returns 0 where no error may be sent.
    """
    if address_is_v4(own) != (p.header[0] >> 4 == 4) or not may_complain(p):
        return 0
    if p.header[0] >> 4 == 4:
        if why == TIME_EXCEEDED:
            return reply_icmpv4(out, p, ICMP_TIME_EXCEEDED, 0, 0, address_v4(own))
        if why == TOO_BIG:
            return reply_icmpv4(out, p, ICMP_UNREACHABLE, ICMP_CODE_FRAGMENTATION, mtu, address_v4(own))
        return reply_icmpv4(out, p, ICMP_UNREACHABLE, ICMP_CODE_NET if why == NO_ROUTE else
                            ICMP_CODE_HOST if why == NO_HOST else ICMP_CODE_PORT, 0, address_v4(own))
    if why == TIME_EXCEEDED:
        return reply_icmpv6(out, p, ICMP6_TIME_EXCEEDED, 0, 0, own)
    if why == TOO_BIG:
        return reply_icmpv6(out, p, ICMP6_TOO_BIG, 0, mtu, own)
    return reply_icmpv6(out, p, ICMP6_UNREACHABLE, ICMP6_NO_ROUTE if why == NO_ROUTE else
                        ICMP6_ADDRESS if why == NO_HOST else ICMP6_PORT, 0, own)


cdef uint32_t reply_rst(uint8_t *out, const uint8_t *packet, uint32_t available, uint32_t total) noexcept nogil:
    """The RST with which a TCP in state CLOSED answers a segment (RFC 9293 section 3.10.7.1).

    `available`: bytes of the packet that can be read; `total`: of the whole packet.
    Returns 0 for what is no TCP segment in one piece, and for a RST.
    """
    cdef uint32_t at, length, offset
    cdef uint8_t flags
    cdef const uint8_t *tcp
    cdef uint8_t *reply = out + (IPV4_HEADER if packet[0] >> 4 == 4 else IPV6_HEADER)
    cdef reading_t r
    if not read_header(packet, available, &r) or r.part != WHOLE or r.protocol != PROTOCOL_TCP:
        return 0
    at = r.at
    if available < at + TCP_HEADER:
        return 0
    tcp = packet + at
    flags = tcp[13]
    offset = (tcp[12] >> 4) * 4
    if flags & TCP_RST or offset < TCP_HEADER or at + offset > total:
        return 0
    length = total - at - offset + (1 if flags & TCP_SYN else 0) + (1 if flags & TCP_FIN else 0)
    memset(reply, 0, TCP_HEADER)
    store_native16(reply, load_native16(tcp + 2))
    store_native16(reply + 2, load_native16(tcp))
    reply[12] = 5 << 4
    if flags & TCP_ACK:
        store_native32(reply + 4, load_native32(tcp + 8))
        reply[13] = TCP_RST
    else:
        store_be32(reply + 8, load_be32(tcp + 4) + length)
        reply[13] = TCP_RST | TCP_ACK
    if packet[0] >> 4 == 4:
        write_ipv4(out, load_native32(packet + 16), load_native32(packet + 12), PROTOCOL_TCP, IPV4_HEADER + TCP_HEADER,
                   0, REPLY_TTL, 0, True)
        store_native16(reply + 16, checksum_finish(
            <uint64_t> checksum_partial(reply, TCP_HEADER)
            + checksum_pseudo_ipv4(load_native32(out + 12), load_native32(out + 16), PROTOCOL_TCP, TCP_HEADER)))
        return IPV4_HEADER + TCP_HEADER
    write_ipv6(out, &r.dst, &r.src, PROTOCOL_TCP, TCP_HEADER, 0, REPLY_TTL, 0)
    store_native16(reply + 16, checksum_finish(
        <uint64_t> checksum_partial(reply, TCP_HEADER) + checksum_pseudo_ipv6(out + 8, out + 24, PROTOCOL_TCP, TCP_HEADER)))
    return IPV6_HEADER + TCP_HEADER


cdef bint echo_to_reply(uint8_t *packet, uint32_t available) noexcept nogil:
    """Turn an echo request into its reply, in place: only the private header bytes change, the payload's sum is kept
    by incremental update (RFC 1624). False if it is no whole echo request."""
    cdef uint32_t at
    cdef uint16_t before
    cdef uint8_t swap[16]
    if packet[0] >> 4 == 4:
        at = (packet[0] & 15) << 2
        if packet[9] != PROTOCOL_ICMP or available < at + ICMP_HEADER or load_be16(packet + 6) & (IPV4_OFFSET_MASK | 0x2000):
            return False
        if packet[at] != ICMP_ECHO_REQUEST or packet[at + 1] != 0:
            return False
        before = load_native16(packet + at)
        packet[at] = ICMP_ECHO_REPLY
        memcpy(swap, packet + 12, 4)
        memcpy(packet + 12, packet + 16, 4)
        memcpy(packet + 16, swap, 4)
    else:
        at = IPV6_HEADER
        if packet[6] != PROTOCOL_ICMPV6 or available < at + ICMP_HEADER:
            return False
        if packet[at] != ICMP6_ECHO_REQUEST or packet[at + 1] != 0:
            return False
        before = load_native16(packet + at)
        packet[at] = ICMP6_ECHO_REPLY
        memcpy(swap, packet + 8, 16)
        memcpy(packet + 8, packet + 24, 16)
        memcpy(packet + 24, swap, 16)
    store_native16(packet + at + 2, checksum_update16(load_native16(packet + at + 2), before, load_native16(packet + at)))
    if packet[0] >> 4 == 4:
        before = load_native16(packet + 8)
        packet[8] = REPLY_TTL
        store_native16(packet + 10, checksum_update16(load_native16(packet + 10), before, load_native16(packet + 8)))
    else:
        packet[7] = REPLY_TTL
    return True
