"""Neighbour cache of one interface: entries, their states, packets that wait for them (RFC 1122 section 2.3.2).

Only the table; ``nud`` moves its entries, by what ``arp`` and ``ndp`` hear. An entry is made only when we want to send; what
others say unasked never makes or changes one. Entries and waiting packets are capped, and entries in use are
never evicted by new ones.

An entry is found by a hash of its address keyed with the stack's secret, so that nobody can choose addresses that
share a chain (security row D13); the entry found last is looked at first.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_equal, address_t

cdef enum:                       # neighbor_t.state
    NEIGHBOR_FREE = 0
    NEIGHBOR_INCOMPLETE = 1      # asked by broadcast, no answer yet: packets wait
    NEIGHBOR_REACHABLE = 2       # confirmed; nothing to do until deadline_ns
    NEIGHBOR_STALE = 3           # usable; the next use asks again, by unicast
    NEIGHBOR_PROBE = 4           # usable, asked by unicast
    NEIGHBOR_FAILED = 5          # no answer; not asked again before deadline_ns
    NEIGHBOR_DELAY = 6           # usable and used; asked at deadline_ns unless TCP shows before that it hears us

cdef enum:
    NEIGHBOR_MAX = 512           # entries of one interface
    NEIGHBOR_INCOMPLETE_MAX = 256    # of them without an answer: a scan leaves room for who does answer
    NEIGHBOR_QUEUE_MAX = 64      # packets that wait for one neighbour: a datagram of 64 KiB in pieces is 45
    NEIGHBOR_QUEUE_BYTES = 1048576   # of waiting packets, over the whole table
    NEIGHBOR_BUCKETS = 256       # power of 2: two entries a chain when the table is full


cdef struct pending_packet_t:
    pending_packet_t *next
    uint32_t length              # whole frame
    uint32_t head_length         # of it: link, IP and transport header
    uint32_t entry               # index of the neighbour it waits for
    uint8_t *data                # Ethernet header on


cdef struct neighbor_t:
    address_t address
    uint8_t mac[6]
    uint8_t state
    uint8_t probes               # sent so far
    uint8_t queued
    uint16_t next                # index + 1 of the next entry of its chain; 0: none
    int64_t deadline_ns          # retry, end of reachability, or end of failure
    int64_t used_ns
    int64_t confirmed_ns         # last answer to a question of ours
    pending_packet_t *first
    pending_packet_t *last


cdef struct neighbor_table_t:
    neighbor_t *entries
    uint32_t count               # places in use or free below this index
    uint32_t capacity
    uint32_t incomplete          # entries in that state
    uint64_t queued_bytes
    int64_t next_deadline_ns     # of the entries that have a timer running; INT64_MAX without any
    uint64_t conflicts           # somebody claimed an entry's address with another hardware address
    pending_packet_t *claimed    # handed out, not committed
    const uint64_t *secret       # of the stack, two words
    uint64_t lookups             # that the entry found last did not answer
    uint64_t steps               # entries looked at for them
    uint32_t last                # index of the entry found last: a guess, checked before it is believed
    uint16_t buckets[NEIGHBOR_BUCKETS]   # index + 1 of the first entry of a chain; 0: none. Places that are FREE are in none


cdef inline neighbor_t *neighbor_find(neighbor_table_t *t, const address_t *a) noexcept nogil:
    """The entry of an address, or NULL. Pointers to entries end with the next `neighbor_make`."""
    cdef neighbor_t *n
    if t.last < t.count:
        n = &t.entries[t.last]
        if address_equal(&n.address, a) and n.state != NEIGHBOR_FREE:
            return n
    return neighbor_search(t, a)


cdef neighbor_t *neighbor_search(neighbor_table_t *t, const address_t *a) noexcept nogil     # by the chain
cdef void neighbor_init(neighbor_table_t *t, const uint64_t *secret) noexcept nogil          # the secret outlives the table
cdef void neighbor_free(neighbor_table_t *t) noexcept nogil
# A new INCOMPLETE entry, or NULL: all places are taken by entries in use, or there is no memory.
cdef neighbor_t *neighbor_make(neighbor_table_t *t, const address_t *a, int64_t now_ns) noexcept nogil
cdef neighbor_t *neighbor_append(neighbor_table_t *t) noexcept nogil # one more place, FREE; NULL: cap or no memory
# Give a FREE place, zeroed but for its address, a state, and with it a place in a chain.
cdef void neighbor_link(neighbor_table_t *t, neighbor_t *n, uint8_t state) noexcept nogil
cdef void neighbor_set_state(neighbor_table_t *t, neighbor_t *n, uint8_t state, int64_t deadline_ns) noexcept nogil
cdef void neighbor_schedule(neighbor_table_t *t) noexcept nogil      # next_deadline_ns anew
cdef bint neighbor_timed(const neighbor_t *n) noexcept nogil         # has a timer running
# Room for a frame that waits for n; NULL when its queue, the table's bytes or memory are exhausted.
cdef pending_packet_t *neighbor_claim(neighbor_table_t *t, neighbor_t *n, uint32_t head_length,
                                      uint32_t body_length) noexcept nogil
cdef void neighbor_commit(neighbor_table_t *t, pending_packet_t *p) noexcept nogil
cdef pending_packet_t *neighbor_take(neighbor_table_t *t, neighbor_t *n) noexcept nogil   # the oldest, or NULL
