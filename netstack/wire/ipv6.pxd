"""IPv6 headers (RFC 8200 section 3). Extension headers are not read: what follows must be a transport's header."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from netstack.address cimport address_t
from netstack.counters cimport DropReason, DROP_IP_HEADER_LENGTH, DROP_IP_TOTAL_LENGTH, DROP_IP_VERSION, DROP_NONE
from netstack.wire.byte_order cimport load_be16, store_be16

cdef enum:
    IPV6_HEADER = 40             # bytes
    IPV6_MAX_PAYLOAD = 65535
    PROTOCOL_ICMPV6 = 58


cdef struct ipv6_t:
    address_t src
    address_t dst
    uint32_t total_length        # bytes, header included, 40..available
    uint8_t traffic_class
    uint8_t hop_limit
    uint8_t next_header


cdef inline DropReason parse_ipv6(const uint8_t *p, uint32_t available, ipv6_t *out) noexcept nogil:
    """Read and check a header from a private copy. available: bytes the link delivered from the header on."""
    if available < IPV6_HEADER:
        return DROP_IP_HEADER_LENGTH
    if p[0] >> 4 != 6:
        return DROP_IP_VERSION
    out.total_length = IPV6_HEADER + <uint32_t> load_be16(p + 4)
    if out.total_length > available:
        return DROP_IP_TOTAL_LENGTH
    out.traffic_class = <uint8_t> (load_be16(p) >> 4)
    out.next_header = p[6]
    out.hop_limit = p[7]
    memcpy(&out.src, p + 8, 16)
    memcpy(&out.dst, p + 24, 16)
    return DROP_NONE


cdef inline void write_ipv6(uint8_t *p, const address_t *src, const address_t *dst, uint8_t next_header,
                            uint32_t payload_length, uint8_t traffic_class, uint8_t hop_limit) noexcept nogil:
    """Write 40 bytes; flow label 0."""
    store_be16(p, <uint16_t> (0x6000 | (<uint16_t> traffic_class << 4)))
    store_be16(p + 2, 0)
    store_be16(p + 4, <uint16_t> payload_length)
    p[6] = next_header
    p[7] = hop_limit
    memcpy(p + 8, src, 16)
    memcpy(p + 24, dst, 16)
