"""``rings/doorbell.h`` for Cython, and the class that owns an eventfd."""

from libc.stdint cimport int64_t, uint32_t

from rings.spsc_ring cimport ring_consumer_t, ring_producer_t, ring_region_t

cdef extern from "rings/doorbell.h" nogil:
    ctypedef struct doorbell_spin_t:
        int64_t full_ns
        int64_t budget_ns
        uint32_t skipped

    int64_t doorbell_now_ns()
    int doorbell_create()
    void doorbell_kick(int fd)
    bint doorbell_drain(int fd)
    void doorbell_flush(ring_producer_t *p, const int *fds)
    void doorbell_space(ring_consumer_t *c, const int *fds)
    void doorbell_ring_bell(ring_region_t *mine)
    uint32_t doorbell_bell(const ring_region_t *theirs)
    int doorbell_wait_bell(const ring_region_t *theirs, uint32_t seen, int64_t wait_ns)
    void doorbell_spin_init(doorbell_spin_t *s, int64_t full_ns)
    int64_t doorbell_spin_begin(doorbell_spin_t *s)
    void doorbell_spin_end(doorbell_spin_t *s, int64_t spun_ns, bint hit)
    void doorbell_spin_step(int peer_cpu)
    bint doorbell_spin_for_data(doorbell_spin_t *s, ring_consumer_t *c)
    bint doorbell_spin_for_space(doorbell_spin_t *s, ring_producer_t *p)
    int doorbell_poll(int fd, int other, int64_t until_ns)
    enum:
        DOORBELL_RUNG
        DOORBELL_OTHER


cdef class Doorbell:
    """An eventfd; closed with its last reference."""

    cdef readonly int fd
