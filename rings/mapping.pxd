"""Mapped memory, and the notice that its other side took it away."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    /* Acquire: pairs with the release of a count or mark in rings/sigbus_guard.h. */
    #define mapping_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    """
    uint64_t mapping_load(const uint64_t *)
    uint32_t mapping_load32 "mapping_load"(const uint32_t *)

cdef struct mapping_t:
    void *address
    size_t size
    mapping_t *next
    mapping_t *previous
    void *guarded                # sigbus_range_t

cdef struct memory_watch_t:      # on the two memories of a ring or channel
    const uint64_t *losses       # pages lost in this process so far
    uint64_t seen                # ... of which none was of these memories
    const uint32_t *lost[2]      # whether one lost a page

cdef uint64_t *fork_count() noexcept nogil


cdef class Mapping:
    """Shared memory mapped into this process, hidden from its forks."""

    cdef mapping_t *_node
    cdef uint8_t *_address
    cdef Py_ssize_t _size
    cdef Py_ssize_t _exports
    cdef bint _writable
    cdef const uint32_t *_lost

    cdef uint8_t *at(self, size_t offset, size_t length) except NULL
    cdef void unmap(self) noexcept


cdef void memory_watch(memory_watch_t *watch, Mapping one, Mapping other) noexcept


cdef inline bint memory_lost(memory_watch_t *watch) noexcept nogil:
    """Whether one of the memories was truncated by its other side, and somebody here touched what is gone."""
    cdef uint64_t now = mapping_load(watch.losses)
    if now == watch.seen:
        return False
    if mapping_load32(watch.lost[0]) or mapping_load32(watch.lost[1]):
        return True
    watch.seen = now
    return False
