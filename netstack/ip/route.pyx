# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Routes as a sorted array: a stack has a handful, so the first match of a linear look is the fastest table."""

from libc.errno cimport EEXIST, EINVAL, ENOMEM, ESRCH
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from netstack.address cimport address_equal, address_is_any
from netstack.wire.byte_order cimport host_to_be64


cdef void route_init(route_table_t *t) noexcept nogil:
    memset(t, 0, sizeof(route_table_t))


cdef void route_free(route_table_t *t) noexcept nogil:
    free(t.routes)
    memset(t, 0, sizeof(route_table_t))


cdef void mask_address(address_t *a, uint32_t length) noexcept nogil:
    """Clear the bits behind the first `length`, at most 128."""
    cdef uint64_t ones = ~<uint64_t> 0
    if length <= 64:
        a.lo = 0
        a.hi = a.hi & host_to_be64(ones << (64 - length)) if length else 0
    else:
        a.lo = a.lo & host_to_be64(ones << (128 - length))


cdef int find(const route_table_t *t, const address_t *prefix, uint8_t prefix_length) noexcept nogil:
    cdef uint32_t i
    for i in range(t.count):
        if t.routes[i].prefix_length == prefix_length and address_equal(&t.routes[i].prefix, prefix):
            return <int> i
    return -1


cdef int route_add(route_table_t *t, const address_t *prefix, uint8_t prefix_length, const address_t *gateway,
                   uint16_t interface) noexcept nogil:
    """Add a route. Bits of the prefix behind its length are ignored.

    Returns 0, -EINVAL (length above 128), -EEXIST (there is one for this prefix) or -ENOMEM.
    """
    cdef address_t key = prefix[0]
    cdef uint32_t capacity, at
    cdef route_t *grown
    if prefix_length > 128:
        return -EINVAL
    mask_address(&key, prefix_length)
    if find(t, &key, prefix_length) >= 0:
        return -EEXIST
    if t.count == t.capacity:
        capacity = t.capacity * 2 if t.capacity else 8
        grown = <route_t *> realloc(t.routes, capacity * sizeof(route_t))
        if grown == NULL:
            return -ENOMEM
        t.routes = grown
        t.capacity = capacity
    at = 0
    while at < t.count and t.routes[at].prefix_length >= prefix_length:
        at += 1
    memmove(&t.routes[at + 1], &t.routes[at], (t.count - at) * sizeof(route_t))
    t.routes[at].prefix = key
    t.routes[at].gateway = gateway[0]
    t.routes[at].interface = interface
    t.routes[at].prefix_length = prefix_length
    t.count += 1
    return 0


cdef int route_remove(route_table_t *t, const address_t *prefix, uint8_t prefix_length) noexcept nogil:
    """Take a route out: 0, -EINVAL or -ESRCH."""
    cdef address_t key = prefix[0]
    cdef int at
    if prefix_length > 128:
        return -EINVAL
    mask_address(&key, prefix_length)
    at = find(t, &key, prefix_length)
    if at < 0:
        return -ESRCH
    t.count -= 1
    memmove(&t.routes[at], &t.routes[at + 1], (t.count - <uint32_t> at) * sizeof(route_t))
    return 0


cdef int route_lookup(const route_table_t *t, const address_t *dst, address_t *next_hop) noexcept nogil:
    cdef uint32_t i
    for i in range(t.count):
        if address_in_prefix(dst, &t.routes[i].prefix, t.routes[i].prefix_length):
            next_hop[0] = dst[0] if address_is_any(&t.routes[i].gateway) else t.routes[i].gateway
            return t.routes[i].interface
    return -1
