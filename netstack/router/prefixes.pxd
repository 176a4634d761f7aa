"""Prefixes as Python writes them, and a table of them by itself."""

from netstack.router.poptrie cimport poptrie_t
from netstack.router.rib cimport prefix_t


cdef class PrefixTable:
    cdef poptrie_t table
    cdef readonly int version

    cdef void settle(self) noexcept nogil


cdef int prefix_parse(object network, int version, prefix_t *out) except -1      # a network, or an address
cdef object prefix_network(const prefix_t *p, int version)
cdef bytes sorted_entries(object entries, int version)
