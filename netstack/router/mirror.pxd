"""A mirror: a copy of each packet between an attachment and the router, for who looks on (``netstack capture``).

The copies go into a ring of their own. A full one costs the packet nothing, only its copy, which is counted. Nobody is
woken: who looks on comes by in his own time. Each record has a head, in this machine's byte order::

    offset  size  field
    0       8     CLOCK_MONOTONIC, nanoseconds
    8       8     copies missed so far
    16      4     length of the packet, of which the record's body is the beginning
    20      4     1 to the stack, 2 from it (as pcapng's epb_flags says it)
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from rings.spsc_ring cimport ring_producer_t

cdef enum:
    MIRROR_TO = 1
    MIRROR_FROM = 2
    MIRROR_HEAD = 24


cdef struct mirror_t:
    ring_producer_t *ring
    uint32_t snap_length         # bytes kept of each packet
    uint64_t packets             # copied
    uint64_t missed


cdef void mirror_packet(mirror_t *m, uint32_t direction, const uint8_t *head, uint32_t head_length,
                        const uint8_t *body, uint32_t body_length) noexcept nogil
