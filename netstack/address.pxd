"""Addresses: 16 bytes in network order; IPv4 is held as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).

A link-local address means something only together with its link (RFC 4007). Inside a stack its bytes 2 and 3, zero on the
wire, hold the interface's number (index + 1): so tables, routes and connections keep two links apart by the address alone.
What reads packets puts the number in, what writes packets and sums leaves it out.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef struct address_t:
    uint64_t hi          # bytes 0..7 as they stand in memory
    uint64_t lo          # bytes 8..15


cdef struct endpoint_t:
    address_t address
    uint16_t port        # host byte order
    uint32_t scope       # interface number (index + 1) that a multicast address was given with; 0: none


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


cdef inline bint address_is_unspecified6(const address_t *a) noexcept nogil:
    """:: alone."""
    return a.hi == 0 and a.lo == 0


cdef inline bint address_is_multicast6(const address_t *a) noexcept nogil:
    return (<const uint8_t *> a)[0] == 0xff


cdef inline bint address_is_link_local(const address_t *a) noexcept nogil:
    """fe80::/10."""
    return (<const uint8_t *> a)[0] == 0xfe and (<const uint8_t *> a)[1] & 0xc0 == 0x80


cdef inline uint32_t address_zone(const address_t *a) noexcept nogil:
    """The interface number in a link-local address, 0 in others."""
    return (<const uint8_t *> a)[3] if address_is_link_local(a) else 0


cdef inline void address_set_zone(address_t *a, uint32_t number) noexcept nogil:
    """Put an interface number into a link-local address; 0 takes it out. Others stay as they are."""
    if address_is_link_local(a):
        (<uint8_t *> a)[2] = 0
        (<uint8_t *> a)[3] = <uint8_t> number


cdef int address_parse(object text, address_t *out) except -1
cdef object address_format(const address_t *a)
cdef int endpoint_parse(object address, str host, int family, endpoint_t *out) except -1
cdef object endpoint_tuple(const endpoint_t *e, int family)
