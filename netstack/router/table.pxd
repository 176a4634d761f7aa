"""The forwarding table: exact match on 16-byte addresses, in one array with linear probing, keyed against chosen collisions.

An entry stays when its owner is gone (ENTRY_DEAD): its packets are answered instead of forwarded until the address is
leased again. HOLD and COMMIT are the two states of an address that moves from one attachment to another.
"""

from libc.stdint cimport uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.siphash cimport siphash

cdef enum:
    ENTRY_FREE = 0       # no such address
    ENTRY_ACTIVE = 1     # forwarded to its port
    ENTRY_LOCAL = 2      # the router's own
    ENTRY_DEAD = 3       # the owner is gone: TCP is answered by RST, the rest by "host unreachable"
    ENTRY_HOLD = 4       # the owner is about to move, or may come back: dropped without an answer
    ENTRY_COMMIT = 5     # handed to the new port, whose stack has not confirmed yet: forwarded like ACTIVE
    ENTRY_SHARED = 6     # of several ports: who has the flow gets it


cdef struct entry_t:
    address_t address
    void *port           # port_t, or NULL
    uint32_t epoch       # of this address: rises each time it changes hands
    uint32_t state


cdef struct table_t:
    entry_t *entries
    uint64_t mask        # capacity - 1, a power of two
    uint64_t count       # entries that are not free
    uint64_t version     # rises with every change: what is remembered outside is stale then
    uint64_t key[2]


cdef inline entry_t *table_find(const table_t *t, const address_t *address) noexcept nogil:
    """The entry of an address, NULL without one."""
    cdef uint64_t i = siphash(t.key, <const uint64_t *> address, 2) & t.mask
    cdef entry_t *e = &t.entries[i]
    while e.state != ENTRY_FREE:
        if e.address.lo == address.lo and e.address.hi == address.hi:
            return e
        i = (i + 1) & t.mask
        e = &t.entries[i]
    return NULL


cdef int table_init(table_t *t, const uint64_t *key) noexcept nogil
cdef void table_free(table_t *t) noexcept nogil
cdef entry_t *table_insert(table_t *t, const address_t *address) noexcept nogil
cdef void table_remove(table_t *t, entry_t *entry) noexcept nogil
