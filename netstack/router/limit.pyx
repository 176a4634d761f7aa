# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Token buckets in whole numbers: no rate is rounded, no sum drifts."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

cdef int64_t NAP_NS = 250000             # who waits does so for what comes in so long, if the bucket holds that: the data
                                         # thread is not woken for each packet


cdef void limit_init(limit_t *l, int64_t now_ns) noexcept nogil:
    memset(l, 0, sizeof(limit_t))
    l.last_ns = now_ns


cdef void limit_set(tokens_t *t, int64_t rate, int64_t depth) noexcept nogil:
    if rate == 0:
        t.depth = t.parts = 0
    elif t.rate == 0 or t.parts > depth:
        t.parts = depth
    t.rate = rate
    t.depth = depth if rate else 0


cdef inline void fill(tokens_t *t, int64_t took_ns) noexcept nogil:
    if t.rate == 0:
        return
    if took_ns > (t.depth - t.parts) // t.rate:          # the product could be larger than the word
        t.parts = t.depth
    else:
        t.parts += t.rate * took_ns


cdef void limit_advance(limit_t *l, int64_t now_ns) noexcept nogil:
    cdef int64_t took_ns = now_ns - l.last_ns
    if took_ns <= 0:
        return
    l.last_ns = now_ns
    fill(&l.bytes, took_ns)
    fill(&l.packets, took_ns)


cdef inline int64_t enough_in_ns(const tokens_t *t, int64_t cost) noexcept nogil:
    """How long until a packet of that cost may go; 0: it may. One that costs more than the bucket holds: when that is full."""
    cdef int64_t least = cost if cost < t.depth else t.depth, wanted
    if t.rate == 0 or t.parts >= least:
        return 0
    wanted = t.rate * NAP_NS if t.rate * NAP_NS < t.depth else t.depth
    if wanted < least:
        wanted = least
    return (wanted - t.parts + t.rate - 1) // t.rate


cdef bint limit_refuse(limit_t *l, uint32_t length, int64_t now_ns) noexcept nogil:
    """There are fewer tokens than a packet costs: when may it go? False: now, the bucket holds no more."""
    cdef int64_t bytes_ns = enough_in_ns(&l.bytes, <int64_t> length * TOKEN_PARTS)
    cdef int64_t packets_ns = enough_in_ns(&l.packets, TOKEN_PARTS)
    cdef int64_t wait_ns = bytes_ns if bytes_ns > packets_ns else packets_ns
    if wait_ns == 0:
        return False
    l.until_ns = now_ns + wait_ns
    return True
