"""Headers of UDP (RFC 768, RFC 1122 section 4.1) and of UDP-Lite (RFC 3828), which are alike but for one field."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.counters cimport DropReason, DROP_NONE, DROP_UDP_CHECKSUM, DROP_UDP_LENGTH, DROP_UDPLITE_COVERAGE
from netstack.wire.byte_order cimport load_be16, load_native16, store_be16, store_native16
from netstack.wire.checksum cimport checksum_finish, checksum_partial, checksum_pseudo

cdef enum:
    UDP_HEADER = 8               # bytes


cdef struct udp_t:
    uint16_t sport               # host order
    uint16_t dport
    uint16_t length              # bytes, header included, 8..available
    uint16_t coverage            # of them, how many the checksum covers: all, of UDP
    uint8_t protocol             # 17 or 136: it stands in the pseudo header
    uint8_t has_checksum         # False: the sender made none (IPv4 only)
    uint32_t header_sum          # partial sum of the 8 bytes; with the pseudo header it is what udp_deliver takes


cdef inline DropReason parse_udp(const uint8_t *p, uint32_t available, udp_t *out) noexcept nogil:
    """Read the header from a private copy. `available` is the IP payload in bytes; of p only 8 bytes are read.

    The length field rules (RFC 768): under 8 or beyond the IP payload is dropped, bytes behind it are ignored.
    """
    if available < UDP_HEADER:
        return DROP_UDP_LENGTH
    out.sport = load_be16(p)
    out.dport = load_be16(p + 2)
    out.length = load_be16(p + 4)
    if out.length < UDP_HEADER or out.length > available:
        return DROP_UDP_LENGTH
    out.coverage = out.length
    out.protocol = 17
    out.has_checksum = load_native16(p + 6) != 0
    out.header_sum = checksum_partial(p, UDP_HEADER)
    return DROP_NONE


cdef inline DropReason parse_udplite(const uint8_t *p, uint32_t available, udp_t *out) noexcept nogil:
    """The same of UDP-Lite: the datagram is as long as the IP payload, and the field says how much of it is covered.

    0 stands for all; 1 to 7, and more than there is, are illegal, and so is a datagram without checksum (RFC 3828
    section 3.1).
    """
    if available < UDP_HEADER or available > 0xffff:
        return DROP_UDP_LENGTH
    out.sport = load_be16(p)
    out.dport = load_be16(p + 2)
    out.length = <uint16_t> available
    out.coverage = load_be16(p + 4)
    if out.coverage == 0:
        out.coverage = out.length
    if out.coverage < UDP_HEADER or out.coverage > available:
        return DROP_UDPLITE_COVERAGE
    if load_native16(p + 6) == 0:
        return DROP_UDP_CHECKSUM
    out.protocol = 136
    out.has_checksum = 1
    out.header_sum = checksum_partial(p, UDP_HEADER)
    return DROP_NONE


cdef inline int64_t udp_partial(const udp_t *udp, const address_t *src, const address_t *dst) noexcept nogil:
    """The sum `udp_deliver` starts from: pseudo header and UDP header; -1 when the sender made no checksum, which over
    IPv6 is for the caller to drop (RFC 8200 section 8.1)."""
    if not udp.has_checksum:
        return -1
    return <int64_t> (<uint64_t> checksum_pseudo(src, dst, udp.protocol, udp.length) + udp.header_sum)


cdef inline void write_udp_as(uint8_t *p, uint32_t pseudo, uint16_t sport, uint16_t dport, uint16_t field,
                              uint32_t payload_sum) noexcept nogil:
    """Write 8 bytes with the checksum; ports in host order.

    pseudo is the sum of the pseudo header; field the length, or UDP-Lite's coverage; payload_sum the partial sum of the
    payload, as far as it is covered. A computed zero is sent as all ones (RFC 768; RFC 3828 section 3.1).
    """
    cdef uint16_t check
    store_be16(p, sport)
    store_be16(p + 2, dport)
    store_be16(p + 4, field)
    store_native16(p + 6, 0)
    check = checksum_finish(<uint64_t> pseudo + checksum_partial(p, UDP_HEADER) + payload_sum)
    store_native16(p + 6, check if check != 0 else 0xffff)


cdef inline void write_udp(uint8_t *p, const address_t *src, const address_t *dst, uint16_t sport, uint16_t dport,
                           uint32_t payload_length, uint32_t payload_sum) noexcept nogil:
    """A whole header of UDP."""
    cdef uint16_t length = <uint16_t> (UDP_HEADER + payload_length)
    write_udp_as(p, checksum_pseudo(src, dst, 17, length), sport, dport, length, payload_sum)
