"""What a router itself says: ICMP errors, echo replies, and the RST for addresses whose owner is gone."""

from libc.stdint cimport uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.router.packet cimport packet_t

cdef enum:
    REPLY_BYTES = 1280       # room for any reply built here: the smallest mtu of IPv6
    REPLY_TTL = 64           # RFC 1700; time to live of what the router sends itself

cdef enum Complaint:         # why a packet goes no further, in the words of both versions of ICMP
    TIME_EXCEEDED
    TOO_BIG
    NO_ROUTE
    NO_HOST
    NO_PORT


cdef uint32_t reply_error(uint8_t *out, const packet_t *p, Complaint why, uint32_t mtu, const address_t *own) noexcept nogil
cdef uint32_t reply_rst(uint8_t *out, const uint8_t *packet, uint32_t available, uint32_t total) noexcept nogil
cdef bint echo_to_reply(uint8_t *packet, uint32_t available) noexcept nogil
