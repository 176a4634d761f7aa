"""The process at the other end of a ring: noticed when it dies, also by ``kill -9``. Without the GIL.

The owner words in a ring say who holds an end: process id, start time and pid namespace. A pidfd opened from them and
checked against the start time cannot hit a later process with the same id. In another pid namespace the id means
nothing: then only a proper close is noticed. The words are a hint between processes of one owner; a peer that lies there
has its own end taken for dead, nothing more.
"""

from libc.stdint cimport uint32_t, uint64_t

from rings.spsc_ring cimport ring_region_t


cdef struct peer_t:
    const ring_region_t *region  # the peer's
    uint64_t own_namespace
    uint32_t pid                 # who is watched ...
    uint64_t start               # ... and when it started, clock ticks since boot
    int fd                       # its pidfd, readable once it is dead; -1: nobody is watched
    bint gone


cdef void peer_init(peer_t *p, const ring_region_t *region, uint64_t own_namespace) noexcept nogil
# Watch the present owner of the other end. Cheap while that is the same.
cdef void peer_look(peer_t *p) noexcept nogil
# The pidfd became readable: true if so is the other end dead, and not in the hands of another process meanwhile.
cdef bint peer_died(peer_t *p) noexcept nogil
cdef void peer_forget(peer_t *p) noexcept nogil
