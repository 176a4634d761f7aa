"""IPv6 headers (RFC 8200 section 3). Extension headers are walked by ``ip/ipv6``."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from netstack.address cimport address_is_link_local, address_t
from netstack.counters cimport DropReason, DROP_IP_HEADER_LENGTH, DROP_IP_TOTAL_LENGTH, DROP_IP_VERSION, DROP_NONE
from netstack.wire.byte_order cimport load_be16, store_be16, store_be32

cdef enum:
    IPV6_HEADER = 40             # bytes
    IPV6_MAX_PAYLOAD = 65535
    IPV6_MIN_MTU = 1280          # RFC 8200 section 5
    PROTOCOL_ICMPV6 = 58

cdef enum:                       # next headers that are no transports
    NEXT_HOP_BY_HOP = 0
    NEXT_ROUTING = 43
    NEXT_FRAGMENT = 44
    NEXT_NONE = 59
    NEXT_DESTINATION = 60


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


cdef inline void write_address(uint8_t *p, const address_t *a) noexcept nogil:
    """16 bytes, without the interface number a link-local address holds inside."""
    memcpy(p, a, 16)
    if address_is_link_local(a):
        p[2] = 0
        p[3] = 0


cdef inline void write_ipv6(uint8_t *p, const address_t *src, const address_t *dst, uint8_t next_header,
                            uint32_t payload_length, uint8_t traffic_class, uint8_t hop_limit,
                            uint32_t flow_label) noexcept nogil:
    """Write 40 bytes; flow_label: 20 bits (RFC 6437), 0 for none."""
    store_be32(p, <uint32_t> 0x60000000 | (<uint32_t> traffic_class << 20) | (flow_label & 0xfffff))
    store_be16(p + 4, <uint16_t> payload_length)
    p[6] = next_header
    p[7] = hop_limit
    write_address(p + 8, src)
    write_address(p + 24, dst)
