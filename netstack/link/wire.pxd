"""A wire between two stacks of one process: what one end commits the other receives."""

from libc.stdint cimport uint32_t, uint64_t

from netstack.link.link cimport Link


cdef struct wire_frame_t:        # its bytes follow the struct
    wire_frame_t *next
    uint32_t head_length
    uint32_t length


cdef struct wire_queue_t:        # one direction
    wire_frame_t *first
    wire_frame_t *last
    wire_frame_t *visible        # the last one that was flushed, NULL when none is
    uint32_t count
    uint64_t bytes


cdef struct wire_end_t:
    wire_queue_t *out
    wire_queue_t *back
    wire_frame_t *claimed
    uint32_t claimed_capacity
    wire_frame_t *shown          # list of what the stack looks at
    uint32_t limit_frames        # of the direction this end writes; 0: none
    uint64_t limit_bytes
    uint64_t refused             # claims that failed for lack of room


cdef class _Queues:
    cdef wire_queue_t directions[2]


cdef class WireEnd(Link):
    cdef wire_end_t state
    cdef _Queues queues
    cdef WireEnd peer


cdef class Wire:
    cdef readonly WireEnd a
    cdef readonly WireEnd b
