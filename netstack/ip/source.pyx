# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Source address selection: the rules of RFC 6724 section 5, one comparison after the other.

Rule 4 (home addresses) and rule 7 (temporary ones) compare what no address here is. Rule 5 holds by itself: candidates are
the addresses of the interface the packet leaves through, as section 4 recommends.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from netstack.address cimport (
    address_equal, address_is_link_local, address_is_multicast6, address_is_v4, address_zone,
)
from netstack.ip.ip6 cimport ip6_t
from netstack.wire.byte_order cimport be64_to_host

cdef enum:                       # scopes (RFC 4291 section 2.7)
    SCOPE_LINK = 2
    SCOPE_SITE = 5
    SCOPE_GLOBAL = 14


cdef uint32_t scope_of(const address_t *a) noexcept nogil:
    """RFC 6724 section 3.1."""
    cdef const uint8_t *p = <const uint8_t *> a
    if p[0] == 0xff:
        return p[1] & 15
    if address_is_link_local(a) or (a.hi == 0 and be64_to_host(a.lo) == 1):
        return SCOPE_LINK
    if p[0] == 0xfe and p[1] & 0xc0 == 0xc0:
        return SCOPE_SITE
    return SCOPE_GLOBAL


cdef uint32_t label_of(const address_t *a) noexcept nogil:
    """The default policy table (RFC 6724 section 2.1), longest prefix first."""
    cdef const uint8_t *p = <const uint8_t *> a
    if a.hi == 0 and be64_to_host(a.lo) == 1:
        return 0                         # ::1/128
    if address_is_v4(a):
        return 4                         # ::ffff:0:0/96
    if a.hi == 0 and be64_to_host(a.lo) >> 32 == 0:
        return 3                         # ::/96
    if p[0] == 0x20 and p[1] == 0x01 and p[2] == 0 and p[3] == 0:
        return 5                         # 2001::/32, Teredo
    if p[0] == 0x20 and p[1] == 0x02:
        return 2                         # 2002::/16, 6to4
    if p[0] == 0x3f and p[1] == 0xfe:
        return 12                        # 3ffe::/16
    if p[0] == 0xfe and p[1] & 0xc0 == 0xc0:
        return 11                        # fec0::/10
    if p[0] & 0xfe == 0xfc:
        return 13                        # fc00::/7
    return 1


cdef uint32_t common_bits(const address_t *a, const address_t *b, uint32_t most) noexcept nogil:
    """CommonPrefixLen: at most the length of the source's prefix (RFC 6724 section 2.2)."""
    cdef uint64_t differ = be64_to_host(a.hi ^ b.hi)
    cdef uint32_t n = 0
    if differ == 0:
        differ = be64_to_host(a.lo ^ b.lo)
        n = 64
    while n < most and not differ >> 63:
        differ <<= 1
        n += 1
    return n


cdef bint is_deprecated(const interface_t *ifc, const address_t *a, int64_t now_ns) noexcept nogil:
    cdef const ip6_t *ip6 = ifc.ip6
    cdef uint32_t i
    if ip6 != NULL:
        for i in range(ip6.held_count):
            if address_equal(&ip6.held[i].address, a):
                return ip6.held[i].preferred_until_ns <= now_ns
    return False


cdef bint better(const interface_t *ifc, uint32_t one, uint32_t other, const address_t *dst, int64_t now_ns) noexcept nogil:
    """Is the address at *one* to be preferred to that at *other*?"""
    cdef const address_t *a = &ifc.addresses[one]
    cdef const address_t *b = &ifc.addresses[other]
    cdef uint32_t scope = scope_of(dst), sa = scope_of(a), sb = scope_of(b), label, la, lb
    cdef bint da, db
    if address_equal(a, dst) != address_equal(b, dst):
        return address_equal(a, dst)                     # rule 1
    if sa != sb:                                         # rule 2: the smallest scope that reaches
        if sa < sb:
            return not sa < scope
        return sb < scope
    da = is_deprecated(ifc, a, now_ns)
    db = is_deprecated(ifc, b, now_ns)
    if da != db:
        return db                                        # rule 3
    label = label_of(dst)
    la = label_of(a)
    lb = label_of(b)
    if (la == label) != (lb == label):
        return la == label                               # rule 6
    return common_bits(a, dst, ifc.prefix_lengths[one]) > common_bits(b, dst, ifc.prefix_lengths[other])  # rule 8


cdef bint source_address(const interface_t *ifc, const address_t *dst, int64_t now_ns, address_t *out) noexcept nogil:
    cdef uint32_t i
    cdef int best = -1
    for i in range(ifc.address_count):
        if address_is_v4(&ifc.addresses[i]):
            continue
        if best < 0 or better(ifc, i, <uint32_t> best, dst, now_ns):
            best = <int> i
    if best < 0:
        return False
    out[0] = ifc.addresses[best]
    return True
