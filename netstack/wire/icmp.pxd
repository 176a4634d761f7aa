"""ICMP headers (RFC 792): 8 bytes, then what the type says."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from netstack.counters cimport DropReason, DROP_ICMP_LENGTH, DROP_NONE
from netstack.wire.byte_order cimport load_be16, load_native32, store_be16, store_native16, store_native32
from netstack.wire.checksum cimport checksum_finish, checksum_partial

cdef enum:
    ICMP_HEADER = 8              # bytes
    ICMP_ECHO_REPLY = 0
    ICMP_UNREACHABLE = 3
    ICMP_ECHO_REQUEST = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAMETER_PROBLEM = 12

    ICMP_CODE_NET = 0            # of ICMP_UNREACHABLE
    ICMP_CODE_HOST = 1
    ICMP_CODE_PROTOCOL = 2
    ICMP_CODE_PORT = 3
    ICMP_CODE_FRAGMENTATION = 4
    ICMP_CODES_UNREACHABLE = 16  # how many codes there are


cdef struct icmp_t:
    uint8_t type
    uint8_t code
    uint16_t identifier          # of an echo, host order
    uint16_t sequence            # of an echo; the next hop's MTU of "fragmentation needed" (RFC 1191 section 4)
    uint32_t header_sum          # partial sum of the 8 bytes, check field included


cdef inline DropReason parse_icmp(const uint8_t *p, uint32_t available, icmp_t *out) noexcept nogil:
    """Read the header from a private copy. The checksum covers the payload too: the caller verifies it with header_sum."""
    if available < ICMP_HEADER:
        return DROP_ICMP_LENGTH
    out.type = p[0]
    out.code = p[1]
    out.identifier = load_be16(p + 4)
    out.sequence = load_be16(p + 6)
    out.header_sum = checksum_partial(p, ICMP_HEADER)
    return DROP_NONE


cdef inline void write_icmp(uint8_t *p, uint8_t type, uint8_t code, uint16_t identifier, uint16_t sequence,
                            uint32_t payload_sum) noexcept nogil:
    """Write 8 bytes with the checksum; payload_sum is the partial sum of what follows them."""
    p[0] = type
    p[1] = code
    store_native16(p + 2, 0)
    store_be16(p + 4, identifier)
    store_be16(p + 6, sequence)
    store_native16(p + 2, checksum_finish(<uint64_t> checksum_partial(p, ICMP_HEADER) + payload_sum))
