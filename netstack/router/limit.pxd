"""How much an attachment may send: two token buckets, of bytes and of packets, on whoever's clock.

In any time t an attachment with a limit sends at most rate * t + depth of either, to the byte: a packet that is larger than
the bucket is deep waits until that is full, and leaves it in debt. What there are no tokens for stays in the sender's
ring: nothing is lost, the stack's TCP feels a full ring, and nobody else waits.
"""

from libc.stdint cimport int64_t, uint32_t

cdef enum:
    TOKEN_PARTS = 1000000000             # a token has so many: what comes in a nanosecond is a whole number of them


cdef struct tokens_t:                    # a token bucket
    int64_t rate                         # tokens a second, which are parts a nanosecond; 0: no limit
    int64_t depth                        # parts: the most that is saved up
    int64_t parts                        # that are there


cdef struct limit_t:
    tokens_t bytes                       # of IP packets
    tokens_t packets
    int64_t last_ns                      # up to then the tokens are counted
    int64_t until_ns                     # the next packet waits until then; 0: none waits


cdef void limit_init(limit_t *l, int64_t now_ns) noexcept nogil                # both without a limit
# Another rate and depth; a new bucket is full, one that there was keeps what it had, as far as that goes in.
cdef void limit_set(tokens_t *t, int64_t rate, int64_t depth) noexcept nogil
cdef void limit_advance(limit_t *l, int64_t now_ns) noexcept nogil             # count the tokens up to now
cdef bint limit_refuse(limit_t *l, uint32_t length, int64_t now_ns) noexcept nogil


cdef inline bint limit_shut(limit_t *l, int64_t now_ns) noexcept nogil:
    """Does a packet still wait for tokens?"""
    if now_ns < l.until_ns:
        return True
    l.until_ns = 0
    limit_advance(l, now_ns)
    return False


cdef inline bint limit_take(limit_t *l, uint32_t length, int64_t now_ns) noexcept nogil:
    """Pay for a packet. False: it has to wait, `until_ns`."""
    cdef int64_t bytes = <int64_t> length * TOKEN_PARTS if l.bytes.rate else 0
    cdef int64_t packets = TOKEN_PARTS if l.packets.rate else 0
    if (bytes > l.bytes.parts or packets > l.packets.parts) and limit_refuse(l, length, now_ns):
        return False
    l.bytes.parts -= bytes
    l.packets.parts -= packets
    return True
