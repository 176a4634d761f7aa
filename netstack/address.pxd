"""Addresses: 16 bytes in network order; IPv4 is held as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef struct address_t:
    uint64_t hi          # bytes 0..7 as they stand in memory
    uint64_t lo          # bytes 8..15


cdef struct endpoint_t:
    address_t address
    uint16_t port        # host byte order


cdef inline bint address_equal(const address_t *a, const address_t *b) noexcept nogil:
    return a.lo == b.lo and a.hi == b.hi


cdef inline bint address_is_any(const address_t *a) noexcept nogil:
    """True for ::, 0.0.0.0 (mapped) alike."""
    if a.hi != 0:
        return False
    return a.lo == 0 or (address_is_v4(a) and address_v4(a) == 0)


cdef inline bint address_is_v4(const address_t *a) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *> &a.lo
    return a.hi == 0 and p[0] == 0 and p[1] == 0 and p[2] == 0xff and p[3] == 0xff


cdef inline uint32_t address_v4(const address_t *a) noexcept nogil:
    """The IPv4 address as it stands on the wire (network byte order in a uint32)."""
    cdef uint32_t be
    memcpy(&be, (<const uint8_t *> &a.lo) + 4, 4)
    return be


cdef inline void address_from_v4(address_t *a, uint32_t be) noexcept nogil:
    cdef uint8_t *p = <uint8_t *> &a.lo
    a.hi = 0
    p[0] = 0
    p[1] = 0
    p[2] = 0xff
    p[3] = 0xff
    memcpy(p + 4, &be, 4)


cdef int address_parse(object text, address_t *out) except -1
cdef object address_format(const address_t *a)
