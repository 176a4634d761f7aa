"""ICMPv6 (RFC 4443), neighbour discovery (RFC 4861) and listener discovery (RFC 3810): numbers and layouts."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from netstack.wire.byte_order cimport store_be32, store_native16
from netstack.wire.checksum cimport checksum_finish, checksum_partial

cdef enum:                       # types
    ICMP6_UNREACHABLE = 1
    ICMP6_TOO_BIG = 2
    ICMP6_TIME_EXCEEDED = 3
    ICMP6_PARAMETER_PROBLEM = 4
    ICMP6_ECHO_REQUEST = 128
    ICMP6_ECHO_REPLY = 129
    MLD_QUERY = 130
    MLD_REPORT_V1 = 131
    MLD_DONE_V1 = 132
    ND_ROUTER_SOLICITATION = 133
    ND_ROUTER_ADVERTISEMENT = 134
    ND_NEIGHBOR_SOLICITATION = 135
    ND_NEIGHBOR_ADVERTISEMENT = 136
    ND_REDIRECT = 137
    MLD_REPORT_V2 = 143

cdef enum:                       # codes of ICMP6_UNREACHABLE
    ICMP6_NO_ROUTE = 0
    ICMP6_PROHIBITED = 1
    ICMP6_BEYOND_SCOPE = 2
    ICMP6_ADDRESS = 3
    ICMP6_PORT = 4
    ICMP6_POLICY = 5
    ICMP6_REJECT = 6

cdef enum:                       # codes of ICMP6_PARAMETER_PROBLEM
    ICMP6_BAD_HEADER = 0
    ICMP6_BAD_NEXT_HEADER = 1
    ICMP6_BAD_OPTION = 2
    ICMP6_BAD_CHAIN = 3

cdef enum:                       # options of neighbour discovery (RFC 4861 section 4.6, 3971, 8106, 4191)
    ND_OPTION_SOURCE = 1         # link-layer address
    ND_OPTION_TARGET = 2
    ND_OPTION_PREFIX = 3
    ND_OPTION_REDIRECTED = 4
    ND_OPTION_MTU = 5
    ND_OPTION_NONCE = 14
    ND_OPTION_ROUTE = 24
    ND_OPTION_SERVERS = 25       # RDNSS
    ND_OPTION_DOMAINS = 31       # DNSSL


cdef inline void write_icmp6(uint8_t *p, uint8_t type, uint8_t code, uint32_t word, uint32_t rest_sum,
                             uint32_t pseudo_sum) noexcept nogil:
    """Write 8 bytes with the checksum. word: bytes 4 to 7, host order; rest_sum: partial sum of what follows them;
    pseudo_sum: of the pseudo header."""
    p[0] = type
    p[1] = code
    store_native16(p + 2, 0)
    store_be32(p + 4, word)
    store_native16(p + 2, checksum_finish(<uint64_t> checksum_partial(p, 8) + rest_sum + pseudo_sum))
