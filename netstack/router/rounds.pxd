"""The data thread of a router, and one round of it for tests and benchmarks."""

from libc.stdint cimport int64_t

from netstack.router.state cimport forwarder_t


# Visit every port once; returns how many packets there were. Takes the lock, control can come in between two visits.
cdef int one_round(forwarder_t *f) noexcept nogil
cdef int round_at(forwarder_t *f, int64_t now_ns) noexcept nogil     # at a time of the caller's
cdef void *run(void *argument) noexcept nogil        # the thread: rounds until f.stopping
cdef void close_descriptors(forwarder_t *f) noexcept nogil
