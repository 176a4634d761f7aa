from libc.stdint cimport uint8_t, uint64_t

cdef struct mapping_t:
    void *address
    size_t size
    mapping_t *next
    mapping_t *previous

cdef uint64_t *fork_count() noexcept nogil


cdef class Mapping:
    """Shared memory mapped into this process, hidden from its forks."""

    cdef mapping_t *_node
    cdef uint8_t *_address
    cdef Py_ssize_t _size
    cdef Py_ssize_t _exports
    cdef bint _writable

    cdef uint8_t *at(self, size_t offset, size_t length) except NULL
    cdef void unmap(self) noexcept
