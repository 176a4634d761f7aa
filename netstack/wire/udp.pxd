"""UDP headers (RFC 768, RFC 1122 section 4.1)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.counters cimport DropReason, DROP_NONE, DROP_UDP_LENGTH
from netstack.wire.byte_order cimport load_be16, load_native16, store_be16, store_native16
from netstack.wire.checksum cimport checksum_finish, checksum_partial, checksum_pseudo

cdef enum:
    UDP_HEADER = 8               # bytes


cdef struct udp_t:
    uint16_t sport               # host order
    uint16_t dport
    uint16_t length              # bytes, header included, 8..available
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
    out.has_checksum = load_native16(p + 6) != 0
    out.header_sum = checksum_partial(p, UDP_HEADER)
    return DROP_NONE


cdef inline int64_t udp_partial(const udp_t *udp, const address_t *src, const address_t *dst) noexcept nogil:
    """The sum `udp_deliver` starts from: pseudo header and UDP header; -1 when the sender made no checksum, which over
    IPv6 is for the caller to drop (RFC 8200 section 8.1)."""
    if not udp.has_checksum:
        return -1
    return <int64_t> (<uint64_t> checksum_pseudo(src, dst, 17, udp.length) + udp.header_sum)


cdef inline void write_udp(uint8_t *p, const address_t *src, const address_t *dst, uint16_t sport, uint16_t dport,
                           uint32_t payload_length, uint32_t payload_sum) noexcept nogil:
    """Write 8 bytes with the checksum; ports in host order, payload_sum the partial sum of the payload.

    A computed zero is sent as all ones (RFC 768).
    """
    cdef uint16_t length = <uint16_t> (UDP_HEADER + payload_length)
    cdef uint16_t check
    store_be16(p, sport)
    store_be16(p + 2, dport)
    store_be16(p + 4, length)
    store_native16(p + 6, 0)
    check = checksum_finish(<uint64_t> checksum_pseudo(src, dst, 17, length)
                            + checksum_partial(p, UDP_HEADER) + payload_sum)
    store_native16(p + 6, check if check != 0 else 0xffff)
