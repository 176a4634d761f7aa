"""Choosing a congestion control by name."""

from netstack.tcp.tcb cimport congestion_ops_t


cdef const congestion_ops_t *congestion_find(const char *name) noexcept nogil     # NULL: no such algorithm
cdef const congestion_ops_t *congestion_default() noexcept nogil
