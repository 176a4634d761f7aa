"""The two ECN bits of an IP header, version 4 or 6 (RFC 3168 section 5)."""

from libc.stdint cimport uint8_t, uint16_t

from netstack.wire.byte_order cimport load_native16, store_native16
from netstack.wire.checksum cimport checksum_update16


cdef inline uint8_t ip_codepoint(const uint8_t *h) noexcept nogil:
    """0 not capable, 1 ECT(1), 2 ECT(0), 3 CE. Requires: two bytes of an IP header."""
    return h[1] & 3 if h[0] >> 4 == 4 else h[1] >> 4 & 3


cdef inline bint ip_mark_congestion(uint8_t *h) noexcept nogil:
    """A packet of a capable transport gets CE; IPv4's checksum moves with it. Whether it changed."""
    cdef uint8_t codepoint = ip_codepoint(h)
    cdef uint16_t before
    if codepoint == 0 or codepoint == 3:
        return False
    if h[0] >> 4 == 4:
        before = load_native16(h)
        h[1] |= 3
        store_native16(h + 10, checksum_update16(load_native16(h + 10), before, load_native16(h)))
    else:
        h[1] |= 0x30
    return True
