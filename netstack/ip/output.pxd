"""A datagram on its way out of an interface: whole where the path carries it, else in pieces (RFC 791, RFC 8200 section 4.5)."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.ip.interface cimport interface_t


cdef struct outgoing_t:
    const address_t *src
    const address_t *dst
    const address_t *next_hop
    uint8_t protocol
    uint8_t tos
    uint8_t ttl
    uint32_t flow_label          # IPv6
    uint8_t df                   # IPv4: routers must not cut it
    uint32_t mtu                 # no packet is larger
    const uint8_t *head          # the transport's header with its checksum, at most 64 bytes
    uint32_t head_length
    const uint8_t *body
    uint32_t body_length


cdef inline uint32_t whole_length(const outgoing_t *d, bint v4) noexcept nogil:
    return d.head_length + d.body_length + (20 if v4 else 40)


# 0 or what the first claim said (CLAIM_*). Pieces that find the link full after the first are lost, as on any link.
cdef int ip_send(interface_t *ifc, const outgoing_t *d, int64_t now_ns) noexcept nogil
