# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Changing the forwarding table: seldom, under the router's lock. Finding is inline in ``table.pxd``."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    SMALLEST = 64


cdef int table_init(table_t *t, const uint64_t *key) noexcept nogil:
    """An empty table with its secret; -1 without memory."""
    t.entries = <entry_t *> calloc(SMALLEST, sizeof(entry_t))
    t.mask = SMALLEST - 1
    t.count = 0
    t.version = 1
    t.key[0] = key[0]
    t.key[1] = key[1]
    return 0 if t.entries != NULL else -1


cdef void table_free(table_t *t) noexcept nogil:
    free(t.entries)
    t.entries = NULL


cdef entry_t *vacancy(table_t *t, const address_t *address) noexcept nogil:
    cdef uint64_t i = siphash(t.key, <const uint64_t *> address, 2) & t.mask
    while t.entries[i].state != ENTRY_FREE:
        i = (i + 1) & t.mask
    return &t.entries[i]


cdef int grow(table_t *t) noexcept nogil:
    cdef entry_t *old = t.entries
    cdef uint64_t i, size = t.mask + 1
    cdef entry_t *bigger = <entry_t *> calloc(size * 2, sizeof(entry_t))
    if bigger == NULL:
        return -1
    t.entries = bigger
    t.mask = size * 2 - 1
    for i in range(size):
        if old[i].state != ENTRY_FREE:
            vacancy(t, &old[i].address)[0] = old[i]
    free(old)
    return 0


cdef entry_t *table_insert(table_t *t, const address_t *address) noexcept nogil:
    """The entry of an address, new if need be: the caller sets state, port and epoch (ENTRY_FREE may not stay).
    Pointers to other entries are stale afterwards. NULL without memory."""
    cdef entry_t *e = table_find(t, address)
    t.version += 1
    if e != NULL:
        return e
    if t.count * 2 > t.mask and grow(t) != 0:          # at most half full: short probes
        return NULL
    e = vacancy(t, address)
    e.address = address[0]
    e.port = NULL
    e.epoch = 0
    t.count += 1
    return e


cdef void table_remove(table_t *t, entry_t *entry) noexcept nogil:
    """Forget an address. Entries that probed past it move up, so no tombstones are left."""
    cdef uint64_t hole = <uint64_t> (entry - t.entries), i = hole, home
    t.version += 1
    t.count -= 1
    while True:
        i = (i + 1) & t.mask
        if t.entries[i].state == ENTRY_FREE:
            break
        home = siphash(t.key, <const uint64_t *> &t.entries[i].address, 2) & t.mask
        if ((i - home) & t.mask) >= ((i - hole) & t.mask):
            t.entries[hole] = t.entries[i]
            hole = i
    t.entries[hole].state = ENTRY_FREE
    t.entries[hole].port = NULL
