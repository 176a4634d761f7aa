# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Building the router's own packets. Each function reads a private copy and says how many bytes it wrote, 0 for none."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from netstack.wire.byte_order cimport (
    load_be16, load_be32, load_native16, load_native32, store_be16, store_be32, store_native16, store_native32,
)
from netstack.wire.checksum cimport (
    checksum_finish, checksum_partial, checksum_pseudo_ipv4, checksum_pseudo_ipv6, checksum_update16,
)
from netstack.wire.icmp cimport ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_HEADER, write_icmp
from netstack.wire.ipv4 cimport (
    IPV4_HEADER, IPV4_OFFSET_MASK, PROTOCOL_ICMP, PROTOCOL_TCP, ipv4_source_is_martian, write_ipv4,
)

cdef enum:
    QUOTE_BYTES = 128        # of the packet an ICMP error is about; RFC 1812 section 4.3.2.3 asks for 8 of its payload
    IPV6_HEADER = 40
    TCP_HEADER = 20
    TCP_FIN = 1
    TCP_SYN = 2
    TCP_RST = 4
    TCP_ACK = 16
    ICMPV6 = 58
    ICMPV6_ECHO_REQUEST = 128
    ICMPV6_ECHO_REPLY = 129
    TOS_INTERNETWORK_CONTROL = 0xc0     # RFC 1812 section 4.3.2.5


cdef uint32_t reply_icmp_error(uint8_t *out, const uint8_t *packet, uint32_t header_length, uint32_t available,
                               uint8_t type, uint8_t code, uint32_t mtu, uint32_t router_be) noexcept nogil:
    """An ICMP error about an IPv4 packet, from the router to its source (RFC 792, RFC 1812 section 4.3.2).

    Parameters: the packet's first `available` bytes as they were received, the length of its header, type and code,
    the next link's mtu (0 but for "fragmentation needed", RFC 1191 section 4), the router's address as on the wire.
    Returns 0 where no error may be sent (RFC 1122 section 3.2.2): about an ICMP error, a fragment that is not the
    first, to or from an address that is not one host's.
    """
    cdef uint32_t quoted = available if available < QUOTE_BYTES else QUOTE_BYTES
    cdef uint8_t kind
    if load_be16(packet + 6) & IPV4_OFFSET_MASK or packet[16] >= 224:
        return 0
    if ipv4_source_is_martian(load_native32(packet + 12)):
        return 0
    if packet[9] == PROTOCOL_ICMP:
        if available <= header_length:
            return 0
        kind = packet[header_length]
        if kind != ICMP_ECHO_REPLY and kind != ICMP_ECHO_REQUEST and not 13 <= kind <= 16:
            return 0
    write_ipv4(out, router_be, load_native32(packet + 12), PROTOCOL_ICMP, IPV4_HEADER + ICMP_HEADER + quoted,
               TOS_INTERNETWORK_CONTROL, REPLY_TTL, 0, True)
    memcpy(out + IPV4_HEADER + ICMP_HEADER, packet, quoted)
    write_icmp(out + IPV4_HEADER, type, code, 0, <uint16_t> mtu,
               checksum_partial(out + IPV4_HEADER + ICMP_HEADER, quoted))
    return IPV4_HEADER + ICMP_HEADER + quoted


cdef uint32_t reply_rst(uint8_t *out, const uint8_t *packet, uint32_t available, uint32_t total) noexcept nogil:
    """The RST with which a TCP in state CLOSED answers a segment (RFC 9293 section 3.10.7.1).

    For IPv4 without fragments and IPv6 without extension headers; `total` is the length of the whole packet.
    Returns 0 for what is no TCP segment, and for a RST.
    """
    cdef uint32_t at, length, offset
    cdef uint8_t flags
    cdef const uint8_t *tcp
    cdef uint8_t *reply
    if packet[0] >> 4 == 4:
        at = (packet[0] & 15) << 2
        if packet[9] != PROTOCOL_TCP or load_be16(packet + 6) & (IPV4_OFFSET_MASK | 0x2000):
            return 0
        reply = out + IPV4_HEADER
    else:
        at = IPV6_HEADER
        if packet[6] != PROTOCOL_TCP:
            return 0
        reply = out + IPV6_HEADER
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
    store_be32(out, 0x60000000)
    store_be16(out + 4, TCP_HEADER)
    out[6] = PROTOCOL_TCP
    out[7] = REPLY_TTL
    memcpy(out + 8, packet + 24, 16)
    memcpy(out + 24, packet + 8, 16)
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
        if packet[6] != ICMPV6 or available < at + ICMP_HEADER:
            return False
        if packet[at] != ICMPV6_ECHO_REQUEST or packet[at + 1] != 0:
            return False
        before = load_native16(packet + at)
        packet[at] = ICMPV6_ECHO_REPLY
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
