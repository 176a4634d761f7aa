"""All prefixes of one IP version with their answers, in order: what the forwarding trie is built from.

Entries of 8 bytes (IPv6: 20) lie sorted by address and then by length in chunks of up to 128, so that whatever covers a
prefix comes before it, a range is a walk, and a change moves at most one chunk. Under whoever changes it; no reader of packets.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef struct prefix_t:
    uint64_t hi          # the address as a number, most significant bits first; IPv4 stands in the upper 32
    uint64_t lo
    uint32_t length
    uint16_t hop         # its answer: 1 and more


cdef struct chunk_t:
    uint8_t *entries
    uint32_t count       # never 0


cdef struct rib_t:
    uint32_t width       # bytes of an address: 4 or 16
    uint32_t entry_bytes
    chunk_t *chunks
    uint32_t n_chunks
    uint32_t capacity    # of chunks
    uint64_t count
    uint64_t lengths[129]    # how many prefixes there are of each length


cdef struct place_t:         # of an entry, or the end; stale after a change
    uint32_t chunk
    uint32_t at


cdef void rib_init(rib_t *rib, uint32_t width) noexcept nogil
cdef void rib_free(rib_t *rib) noexcept nogil
# The first entry that is not before (address, length) of `key`.
cdef place_t rib_lower(const rib_t *rib, const prefix_t *key) noexcept nogil
# What stands there, and the place moves on; False at the end.
cdef bint rib_next(const rib_t *rib, place_t *place, prefix_t *out) noexcept nogil
# The answer of exactly this prefix; 0: not there.
cdef uint16_t rib_find(const rib_t *rib, const prefix_t *key) noexcept nogil
# The answer of the longest prefix that covers an address with 1 to `longest` bits; 0: none.
cdef uint16_t rib_covering(const rib_t *rib, const prefix_t *key, uint32_t longest) noexcept nogil
# Add a prefix or change its answer: the answer before (0: it is new); -1 without memory.
cdef int rib_set(rib_t *rib, const prefix_t *prefix) noexcept nogil
# Remove a prefix: its answer; 0: not there.
cdef uint16_t rib_remove(rib_t *rib, const prefix_t *key) noexcept nogil
# An entry as it lies in a chunk: the address in network order, the length, a zero, the answer in two native bytes.
cdef void rib_unpack(const rib_t *rib, const uint8_t *entry, prefix_t *out) noexcept nogil
cdef uint64_t rib_memory(const rib_t *rib) noexcept nogil


cdef inline void prefix_mask(prefix_t *p, uint32_t length) noexcept nogil:
    """Shorten to `length` bits; bits beyond become 0."""
    p.length = length
    if length == 0:
        p.hi = 0
    elif length < 64:
        p.hi &= ~<uint64_t> 0 << (64 - length)
    if length <= 64:
        p.lo = 0
    elif length < 128:
        p.lo &= ~<uint64_t> 0 << (128 - length)
