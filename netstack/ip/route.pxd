"""Routes of one stack: longest prefix first; small, so a sorted array."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.wire.byte_order cimport be64_to_host


cdef struct route_t:
    address_t prefix
    address_t gateway            # any: on link
    uint16_t interface
    uint8_t prefix_length        # of the 16-byte form


cdef struct route_table_t:
    route_t *routes              # longest prefix first
    uint32_t count
    uint32_t capacity


cdef inline bint address_in_prefix(const address_t *a, const address_t *prefix, uint32_t length) noexcept nogil:
    """Whether the first `length` bits (of the 16-byte form, at most 128) agree."""
    cdef uint64_t hi = be64_to_host(a.hi ^ prefix.hi)
    cdef uint64_t lo = be64_to_host(a.lo ^ prefix.lo)
    if length == 0:
        return True
    if length <= 64:
        return hi >> (64 - length) == 0
    return hi == 0 and lo >> (128 - length) == 0


cdef void route_init(route_table_t *t) noexcept nogil
cdef void route_free(route_table_t *t) noexcept nogil
cdef int route_add(route_table_t *t, const address_t *prefix, uint8_t prefix_length, const address_t *gateway,
                   uint16_t interface) noexcept nogil                                     # 0 or -errno
cdef int route_remove(route_table_t *t, const address_t *prefix, uint8_t prefix_length) noexcept nogil
# The interface's index, or -1 when there is no route; next_hop is the gateway or dst itself.
cdef int route_lookup(const route_table_t *t, const address_t *dst, address_t *next_hop) noexcept nogil
