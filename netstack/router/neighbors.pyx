# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The table of neighbours: places in an array, chains through them, packets that wait."""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from netstack.address cimport address_equal
from netstack.router.packet cimport write_packet
from netstack.siphash cimport siphash

cdef enum:
    SOURCES = 65536 + 1              # slots of ports, and the router itself


cdef int neighbors_init(neighbors_t *t, const uint64_t *key) noexcept nogil:
    memset(t, 0, sizeof(neighbors_t))
    t.key[0] = key[0]
    t.key[1] = key[1]
    t.entries = <neighbor_t *> calloc(NEIGHBORS, sizeof(neighbor_t))
    t.asked_by = <uint16_t *> calloc(SOURCES, sizeof(uint16_t))
    if t.entries == NULL or t.asked_by == NULL:
        neighbors_free(t)
        return -1
    return 0


cdef void neighbors_free(neighbors_t *t) noexcept nogil:
    cdef uint32_t i
    cdef pending_t *p
    for i in range(t.touched):
        p = neighbor_take(t, &t.entries[i])
        while p != NULL:
            free(p)
            p = neighbor_take(t, &t.entries[i])
    free(t.entries)
    free(t.asked_by)
    t.entries = NULL
    t.asked_by = NULL
    t.touched = 0


cdef inline uint16_t *chain(neighbors_t *t, const address_t *a) noexcept nogil:
    return &t.buckets[siphash(t.key, <const uint64_t *> a, 2) & (NEIGHBOR_BUCKETS - 1)]


cdef neighbor_t *neighbor_find(neighbors_t *t, const address_t *a) noexcept nogil:
    cdef uint16_t i = chain(t, a)[0]
    while i:
        if address_equal(&t.entries[i - 1].address, a):
            return &t.entries[i - 1]
        i = t.entries[i - 1].next
    return NULL


cdef neighbor_t *neighbor_make(neighbors_t *t, const address_t *a, uint32_t source) noexcept nogil:
    cdef neighbor_t *n
    cdef uint16_t index
    cdef uint16_t *head
    if t.asking >= NEIGHBORS_ASKED or t.asked_by[source] >= ASKED_BY_ONE:
        return NULL
    if t.vacant:
        index = t.vacant
        t.vacant = t.entries[index - 1].next
    elif t.touched < NEIGHBORS:
        t.touched += 1
        index = <uint16_t> t.touched
    else:
        return NULL
    n = &t.entries[index - 1]
    memset(n, 0, sizeof(neighbor_t))
    head = chain(t, a)
    n.address = a[0]
    n.next = head[0]
    n.asker = source
    head[0] = index
    t.count += 1
    t.asking += 1
    t.asked_by[source] += 1
    return n


cdef inline void no_longer_asked(neighbors_t *t, neighbor_t *n) noexcept nogil:
    if not n.resolved:
        t.asking -= 1
        t.asked_by[n.asker] -= 1


cdef void neighbor_answered(neighbors_t *t, neighbor_t *n, const uint8_t *mac) noexcept nogil:
    no_longer_asked(t, n)
    n.resolved = 1
    n.probes = 0
    memcpy(n.mac, mac, 6)


cdef void neighbor_remove(neighbors_t *t, neighbor_t *n) noexcept nogil:
    cdef uint16_t index = <uint16_t> (n - t.entries + 1)
    cdef uint16_t *at = chain(t, &n.address)
    while at[0] != index:
        at = &t.entries[at[0] - 1].next
    at[0] = n.next
    no_longer_asked(t, n)
    memset(n, 0, sizeof(neighbor_t))
    n.next = t.vacant
    t.vacant = index
    t.count -= 1


cdef int neighbor_wait(neighbors_t *t, neighbor_t *n, const packet_t *p) noexcept nogil:
    cdef uint32_t length = p.head_length + p.body_length
    cdef pending_t *waiting
    cdef pending_t **end = &n.pending
    cdef uint8_t *at
    if n.pending_count >= NEIGHBOR_PENDING or t.pending_bytes + length > NEIGHBOR_PENDING_BYTES:
        return -1
    waiting = <pending_t *> malloc(sizeof(pending_t) + length)
    if waiting == NULL:
        return -2
    waiting.next = NULL
    waiting.length = length
    at = <uint8_t *> (waiting + 1)
    write_packet(p, at, at + p.head_length)
    while end[0] != NULL:
        end = &end[0].next
    end[0] = waiting
    n.pending_count += 1
    t.pending_bytes += length
    return 0


cdef pending_t *neighbor_take(neighbors_t *t, neighbor_t *n) noexcept nogil:
    cdef pending_t *p = n.pending
    if p != NULL:
        n.pending = p.next
        n.pending_count -= 1
        t.pending_bytes -= p.length
    return p
