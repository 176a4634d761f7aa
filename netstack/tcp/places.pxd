"""A set of places in the scoreboard's array, as a tree of bits."""

from libc.stdint cimport uint32_t, uint64_t

from netstack.tcp.tcb cimport sent_t


# capacity: a power of two, at least 64. *steps* grows by the bytes looked at.
cdef void places_clear(sent_t *sent, uint32_t capacity) noexcept nogil
cdef void place_add(sent_t *sent, uint32_t capacity, uint32_t place, uint64_t *steps) noexcept nogil
cdef void place_remove(sent_t *sent, uint32_t capacity, uint32_t place, uint64_t *steps) noexcept nogil
cdef uint32_t place_next(const sent_t *sent, uint32_t capacity, uint32_t place, uint64_t *steps) noexcept nogil  # >= place; or capacity
