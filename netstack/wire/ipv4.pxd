"""IPv4 headers (RFC 791, RFC 1122 section 3.2.1)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from netstack.counters cimport (
    DropReason, DROP_IP_CHECKSUM, DROP_IP_FRAGMENT, DROP_IP_HEADER_LENGTH, DROP_IP_OPTIONS, DROP_IP_TOTAL_LENGTH,
    DROP_IP_VERSION, DROP_NONE,
)
from netstack.wire.byte_order cimport (
    host_to_be16, load_be16, load_native16, load_native32, store_be16, store_be32, store_native16, store_native32,
)
from netstack.wire.checksum cimport checksum_finish, checksum_fold, checksum_partial

cdef enum:
    IPV4_HEADER = 20             # bytes, without options
    IPV4_HEADER_MAX = 60
    IPV4_DF = 0x4000             # flags and fragment offset, host order
    IPV4_MF = 0x2000
    IPV4_OFFSET_MASK = 0x1fff
    PROTOCOL_ICMP = 1
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    PROTOCOL_UDPLITE = 136       # RFC 3828
    IPV4_OPTION_END = 0
    IPV4_OPTION_NOP = 1
    IPV4_OPTION_LSRR = 131       # loose source and record route
    IPV4_OPTION_SSRR = 137       # strict source and record route


cdef struct ipv4_t:
    uint32_t src_be              # addresses as on the wire
    uint32_t dst_be
    uint32_t header_length       # bytes, 20..60
    uint32_t total_length        # bytes, header_length..available
    uint16_t id
    uint16_t flags_offset        # host order
    uint8_t tos
    uint8_t ttl
    uint8_t protocol


cdef inline DropReason check_ipv4_options(const uint8_t *p, uint32_t n) noexcept nogil:
    """Walk n bytes of options (RFC 791 section 3.1): source routes and malformed ones are dropped, others ignored."""
    cdef uint32_t i = 0
    cdef uint8_t kind, length
    while i < n:
        kind = p[i]
        if kind == IPV4_OPTION_END:
            return DROP_NONE
        if kind == IPV4_OPTION_NOP:
            i += 1
            continue
        if i + 2 > n:
            return DROP_IP_OPTIONS
        length = p[i + 1]
        if length < 2 or length > n - i:
            return DROP_IP_OPTIONS
        if kind == IPV4_OPTION_LSRR or kind == IPV4_OPTION_SSRR:
            return DROP_IP_OPTIONS
        i += length
    return DROP_NONE


cdef inline DropReason parse_ipv4_header(const uint8_t *p, uint32_t available, bint verify, ipv4_t *out) noexcept nogil:
    """As `parse_ipv4`; verify False leaves the header checksum unread (a link that vouches for it)."""
    cdef uint8_t version_ihl
    cdef uint64_t total
    if available < IPV4_HEADER:
        return DROP_IP_HEADER_LENGTH
    version_ihl = p[0]
    if version_ihl >> 4 != 4:
        return DROP_IP_VERSION
    out.header_length = (version_ihl & 15) << 2
    if out.header_length < IPV4_HEADER or out.header_length > available:
        return DROP_IP_HEADER_LENGTH
    out.total_length = load_be16(p + 2)
    if out.total_length < out.header_length or out.total_length > available:
        return DROP_IP_TOTAL_LENGTH
    out.src_be = load_native32(p + 12)
    out.dst_be = load_native32(p + 16)
    if verify:
        total = <uint64_t> load_native32(p) + load_native32(p + 4) + load_native32(p + 8) + out.src_be + out.dst_be
        if out.header_length > IPV4_HEADER:
            total += checksum_partial(p + IPV4_HEADER, out.header_length - IPV4_HEADER)
        if checksum_fold(total) != 0xffff:
            return DROP_IP_CHECKSUM
    out.tos = p[1]
    out.id = load_be16(p + 4)
    out.flags_offset = load_be16(p + 6)
    out.ttl = p[8]
    out.protocol = p[9]
    if out.header_length > IPV4_HEADER and check_ipv4_options(p + IPV4_HEADER, out.header_length - IPV4_HEADER) != 0:
        return DROP_IP_OPTIONS
    if out.flags_offset & (IPV4_MF | IPV4_OFFSET_MASK):
        return DROP_IP_FRAGMENT
    return DROP_NONE


cdef inline DropReason parse_ipv4(const uint8_t *p, uint32_t available, ipv4_t *out) noexcept nogil:
    """Read and check a header from a private copy.

    `available` is what the link delivered from the header on, in bytes, payload and padding included; of p only the
    header itself is read (the first 20 bytes, then as many as the header length says). Checked in this order:
    version, header length, total length, checksum, options, fragment. Out is filled as far as the checks came.
    """
    return parse_ipv4_header(p, available, True, out)


cdef inline void write_ipv4(uint8_t *p, uint32_t src_be, uint32_t dst_be, uint8_t protocol, uint32_t total_length,
                            uint8_t tos, uint8_t ttl, uint16_t id, bint df) noexcept nogil:
    """Write 20 bytes with their checksum. id and total_length in host order."""
    cdef uint64_t total
    cdef uint32_t w0, w1, w2
    store_be16(p, <uint16_t> (0x4500 | tos))
    store_be16(p + 2, <uint16_t> total_length)
    store_be16(p + 4, id)
    store_be16(p + 6, IPV4_DF if df else 0)
    store_be16(p + 8, <uint16_t> (ttl << 8 | protocol))
    w0 = host_to_be16(<uint16_t> (0x4500 | tos)) + <uint32_t> host_to_be16(<uint16_t> total_length)
    w1 = <uint32_t> host_to_be16(id) + host_to_be16(<uint16_t> (IPV4_DF if df else 0))
    w2 = host_to_be16(<uint16_t> (ttl << 8 | protocol))
    total = <uint64_t> w0 + w1 + w2 + src_be + dst_be
    store_native16(p + 10, checksum_finish(total))
    store_native32(p + 12, src_be)
    store_native32(p + 16, dst_be)


cdef inline bint ipv4_source_is_martian(uint32_t src_be) noexcept nogil:
    """0/8, 127/8, 224/4, 240/4: no host on a link has such an address (RFC 1122 section 3.2.1.3, RFC 6890)."""
    cdef uint8_t first = (<const uint8_t *> &src_be)[0]
    return first == 0 or first == 127 or first >= 224
