"""What a router itself says: ICMP errors, echo replies, and the RST for addresses whose owner is gone."""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    REPLY_BYTES = 256        # room for any reply built here
    REPLY_TTL = 64           # RFC 1700; time to live of what the router sends itself


cdef uint32_t reply_icmp_error(uint8_t *out, const uint8_t *packet, uint32_t header_length, uint32_t available,
                               uint8_t type, uint8_t code, uint32_t mtu, uint32_t router_be) noexcept nogil
cdef uint32_t reply_rst(uint8_t *out, const uint8_t *packet, uint32_t available, uint32_t total) noexcept nogil
cdef bint echo_to_reply(uint8_t *packet, uint32_t available) noexcept nogil
