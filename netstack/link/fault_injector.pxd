"""A link wrapped in a bad network, seeded."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.link.impairment cimport held_t, line_t
from netstack.link.wrapper cimport Wrapper, wrapper_t

cdef enum:
    FAULT_SHOWN = 64             # frames shown by one receive


cdef struct fault_t:
    wrapper_t wrapper            # first
    line_t out
    line_t back                  # the input direction
    uint8_t impair_output
    uint8_t impair_input
    uint8_t blocked              # a frame is due, but the inner link had no room
    int64_t now_ns               # the latest time told
    uint8_t *claimed             # where the stack writes the next frame
    uint32_t claimed_capacity
    uint32_t head_length         # of the open claim
    uint32_t body_length
    held_t *shown[FAULT_SHOWN]   # frames the stack looks at, freed by release
    int shown_count


cdef int configure(line_t *line, dict settings) except -1      # by name; those that are given
cdef dict line_stats(const line_t *line)


cdef class FaultInjector(Wrapper):
    cdef fault_t state
    cdef readonly object seed
