"""Neighbours of a station: who is known at which Ethernet address, who has been asked for, and what waits for answers.

One table for both versions of IP, found by a hash of the address under a key of its own, so that nobody can choose
addresses that share a chain. Places are bounded: half of them for neighbours that have not answered yet, and of those a
quarter for packets of any one sender; who has answered is never pushed out (security rows H2, H4).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.router.packet cimport packet_t

cdef enum:
    NEIGHBORS = 1024                 # places
    NEIGHBORS_ASKED = 512            # of them without an answer
    ASKED_BY_ONE = 128               # of those, for packets of one port
    NEIGHBOR_PENDING = 16            # packets that may wait for one answer
    NEIGHBOR_PENDING_BYTES = 1 << 20     # and all that wait together
    NEIGHBOR_BUCKETS = 1024          # a power of two


cdef struct pending_t:
    pending_t *next
    uint32_t length                  # of the IP packet behind this header


cdef struct neighbor_t:
    address_t address                # zero: free
    uint8_t mac[6]
    uint8_t resolved
    uint8_t probes                   # questions without an answer
    uint8_t used                     # since the last question
    uint8_t pending_count
    uint16_t next                    # index + 1 of the next of its chain, or of the free places
    uint32_t asker                   # whose packet it was made for: `packet_t.source`
    pending_t *pending
    int64_t deadline_ns              # next question, or end of life


cdef struct neighbors_t:
    neighbor_t *entries
    uint32_t touched                 # places from here on were never used
    uint32_t count
    uint32_t asking                  # without an answer
    uint16_t vacant                  # index + 1 of a free place below `touched`; 0: none
    uint16_t buckets[NEIGHBOR_BUCKETS]   # index + 1 of the first of a chain; 0: none
    uint16_t *asked_by               # by source: how many of `asking`
    uint64_t pending_bytes
    uint64_t key[2]


cdef int neighbors_init(neighbors_t *t, const uint64_t *key) noexcept nogil      # -1 without memory
cdef void neighbors_free(neighbors_t *t) noexcept nogil
cdef neighbor_t *neighbor_find(neighbors_t *t, const address_t *a) noexcept nogil
# A new entry, which waits for an answer; NULL: no place for it.
cdef neighbor_t *neighbor_make(neighbors_t *t, const address_t *a, uint32_t source) noexcept nogil
cdef void neighbor_answered(neighbors_t *t, neighbor_t *n, const uint8_t *mac) noexcept nogil
# Requires: nothing waits for it.
cdef void neighbor_remove(neighbors_t *t, neighbor_t *n) noexcept nogil
# Let a packet wait: 0; -1 when enough wait already, -2 without memory.
cdef int neighbor_wait(neighbors_t *t, neighbor_t *n, const packet_t *p) noexcept nogil
# The packet that has waited longest, the caller's to free; NULL: none.
cdef pending_t *neighbor_take(neighbors_t *t, neighbor_t *n) noexcept nogil
