"""One packet on its way through the router."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from netstack.address cimport address_t


cdef struct packet_t:
    # `header` is private, the rest lies where it was received and is read once.
    uint8_t *header          # the first header_length bytes, private, changed on the way
    uint32_t header_length
    uint32_t head_length     # of the record; at least header_length
    const uint8_t *head      # its bytes from header_length on are still to be copied
    const uint8_t *body
    uint32_t body_length
    uint32_t segment         # payload bytes of each TCP segment that a device had joined to this one; 0: it was one
    bint stays               # head and body stay where they are until the end of the batch
    const address_t *via     # who takes it on behind the uplink that sends it; NULL: no route says
    uint32_t source          # slot of the port it came from, plus 1; 0: the router's own
    bint at_home             # from or to an address that stacks share with the router's host: no hop for it


cdef inline void write_packet(const packet_t *p, uint8_t *head, uint8_t *body) noexcept nogil:
    memcpy(head, p.header, p.header_length)
    if p.head_length > p.header_length:
        memcpy(head + p.header_length, p.head + p.header_length, p.head_length - p.header_length)
    if p.body_length:
        memcpy(body, p.body, p.body_length)
