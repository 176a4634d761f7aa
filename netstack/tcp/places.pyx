"""Which segments wait to be sent again, found in O(log n): a tree of bits that lies in the records it is about.

A byte stands for eight places; a byte of the next level says which of eight such bytes are not zero, and so on up to one
byte for the whole array. The byte of level l for the places from p on lies in record p + l, in the padding that a record
has anyway: levels start at multiples of 8, 64, ..., so no record is asked for two. Nothing has to be allocated, nothing
moves, and a connection that loses nothing never touches it.
"""

from libc.stdint cimport uint8_t

cdef extern from *:
    int __builtin_ctz(unsigned int x) noexcept nogil


cdef inline uint8_t *byte_of(const sent_t *sent, uint32_t group, uint32_t level) noexcept nogil:
    return <uint8_t *> &sent[(group << 3 * (level + 1)) + level].tree


cdef inline bint is_top(uint32_t capacity, uint32_t level) noexcept nogil:
    return <uint32_t> 8 << 3 * level >= capacity


cdef void places_clear(sent_t *sent, uint32_t capacity) noexcept nogil:
    cdef uint32_t i
    for i in range(capacity):
        sent[i].tree = 0


cdef void place_add(sent_t *sent, uint32_t capacity, uint32_t place, uint64_t *steps) noexcept nogil:
    cdef uint32_t level = 0
    cdef uint8_t *byte
    cdef uint8_t before
    while True:
        steps[0] += 1
        byte = byte_of(sent, place >> 3, level)
        before = byte[0]
        byte[0] = before | <uint8_t> (1 << (place & 7))
        if before or is_top(capacity, level):
            return
        place >>= 3
        level += 1


cdef void place_remove(sent_t *sent, uint32_t capacity, uint32_t place, uint64_t *steps) noexcept nogil:
    cdef uint32_t level = 0
    cdef uint8_t *byte
    while True:
        steps[0] += 1
        byte = byte_of(sent, place >> 3, level)
        byte[0] &= ~<uint8_t> (1 << (place & 7))
        if byte[0] or is_top(capacity, level):
            return
        place >>= 3
        level += 1


cdef uint32_t place_next(const sent_t *sent, uint32_t capacity, uint32_t place, uint64_t *steps) noexcept nogil:
    """Up until a byte has something at or behind *place*, then down to the first of it."""
    cdef uint32_t level = 0
    cdef unsigned int bits
    while True:
        steps[0] += 1
        bits = byte_of(sent, place >> 3, level)[0] >> (place & 7)
        if bits:
            break
        if is_top(capacity, level):
            return capacity
        place = (place >> 3) + 1
        level += 1
        if place << 3 * level >= capacity:
            return capacity
    place += <uint32_t> __builtin_ctz(bits)
    while level:
        steps[0] += 1
        level -= 1
        place = (place << 3) + <uint32_t> __builtin_ctz(byte_of(sent, place, level)[0])
    return place
