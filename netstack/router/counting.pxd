"""Counters as control reads them."""

from libc.stdint cimport uint64_t

from netstack.router.port cimport port_counters_t, port_t


cdef list counter_values(const port_counters_t *c, uint64_t queued)      # in the order of `counter_names`
cdef void add_counters(port_counters_t *total, const port_counters_t *c) noexcept nogil
cdef uint64_t waiting(const port_t *port) noexcept nogil
# Appends to *broken*, in words, the laws that do not hold for *who*.
cdef void unbalanced(const port_counters_t *c, uint64_t queued, str who, list broken)
