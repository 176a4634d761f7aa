"""Flow labels (RFC 6437): the same for all packets of a flow, unguessable, spread evenly."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.siphash cimport siphash

cdef enum:
    SALT_FLOW = 4                # keeps this use of the stack's secret apart from others (tcp/isn.pyx)


cdef inline uint32_t flow_label(const uint64_t *key, const address_t *src, const address_t *dst, uint16_t sport,
                                uint16_t dport, uint8_t protocol) noexcept nogil:
    """20 bits, never 0, which says "no label" (RFC 6437 section 3)."""
    cdef uint64_t words[5]
    cdef uint32_t label
    words[0] = src.hi
    words[1] = src.lo
    words[2] = dst.hi
    words[3] = dst.lo
    words[4] = (<uint64_t> SALT_FLOW << 48) | (<uint64_t> protocol << 32) | (<uint64_t> sport << 16) | dport
    label = <uint32_t> siphash(key, words, 5) & 0xfffff
    return label if label else 1
