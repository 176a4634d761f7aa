# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Copying packets for who looks on."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from rings.doorbell cimport doorbell_now_ns
from rings.spsc_ring cimport RING_FRAME, RING_OK, ring_claim, ring_commit, ring_publish


cdef void mirror_packet(mirror_t *m, uint32_t direction, const uint8_t *head, uint32_t head_length,
                        const uint8_t *body, uint32_t body_length) noexcept nogil:
    cdef uint32_t length = head_length + body_length
    cdef uint32_t captured = length if length < m.snap_length else m.snap_length
    cdef uint32_t of_head = head_length if head_length < captured else captured
    cdef int64_t now_ns = doorbell_now_ns()
    cdef uint8_t *record = NULL
    cdef uint8_t *copy = NULL
    if ring_claim(m.ring, RING_FRAME, MIRROR_HEAD, captured, &record, &copy) != RING_OK:
        m.missed += 1
        return
    memcpy(record, &now_ns, 8)
    memcpy(record + 8, &m.missed, 8)
    memcpy(record + 16, &length, 4)
    memcpy(record + 20, &direction, 4)
    if of_head:
        memcpy(copy, head, of_head)
    if captured > of_head:
        memcpy(copy + of_head, body, captured - of_head)
    ring_commit(m.ring)
    ring_publish(m.ring)
    m.packets += 1
