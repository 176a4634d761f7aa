# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The neighbour table: an array that grows to its cap, and chains through it by a keyed hash of the address."""

from libc.stdint cimport INT64_MAX
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from netstack.siphash cimport siphash

cdef enum:
    SALT_NEIGHBOR = 0x6e6462     # what the secret is used for: kept apart

cdef int64_t IN_USE_NS = 60000000000     # an entry used within this time is not evicted for a new one


cdef void neighbor_init(neighbor_table_t *t, const uint64_t *secret) noexcept nogil:
    memset(t, 0, sizeof(neighbor_table_t))
    t.secret = secret
    t.next_deadline_ns = INT64_MAX


cdef void neighbor_free(neighbor_table_t *t) noexcept nogil:
    """Give back all memory, waiting packets too; the table is empty and usable afterwards."""
    cdef uint32_t i
    for i in range(t.count):
        drop_queue(t, &t.entries[i])
    free(t.claimed)
    free(t.entries)
    neighbor_init(t, t.secret)


cdef void drop_queue(neighbor_table_t *t, neighbor_t *n) noexcept nogil:
    cdef pending_packet_t *p = neighbor_take(t, n)
    while p != NULL:
        free(p)
        p = neighbor_take(t, n)


# ---- chains ----------------------------------------------------------------

cdef uint32_t bucket_of(const neighbor_table_t *t, const address_t *a) noexcept nogil:
    cdef uint64_t words[3]
    words[0] = a.hi
    words[1] = a.lo
    words[2] = SALT_NEIGHBOR
    return <uint32_t> siphash(t.secret, words, 3) & (NEIGHBOR_BUCKETS - 1)


cdef neighbor_t *neighbor_search(neighbor_table_t *t, const address_t *a) noexcept nogil:
    cdef uint32_t i = t.buckets[bucket_of(t, a)]
    t.lookups += 1
    while i:
        t.steps += 1
        if address_equal(&t.entries[i - 1].address, a):
            t.last = i - 1
            return &t.entries[i - 1]
        i = t.entries[i - 1].next
    return NULL


cdef void neighbor_link(neighbor_table_t *t, neighbor_t *n, uint8_t state) noexcept nogil:
    cdef uint32_t bucket = bucket_of(t, &n.address)
    n.state = state
    n.next = t.buckets[bucket]
    t.last = <uint32_t> (n - t.entries)
    t.buckets[bucket] = <uint16_t> (t.last + 1)
    if state == NEIGHBOR_INCOMPLETE:
        t.incomplete += 1


cdef void unlink(neighbor_table_t *t, neighbor_t *n) noexcept nogil:
    cdef uint16_t index = <uint16_t> (n - t.entries + 1)
    cdef uint16_t *at = &t.buckets[bucket_of(t, &n.address)]
    while at[0] != index:
        at = &t.entries[at[0] - 1].next
    at[0] = n.next


# ---- places ----------------------------------------------------------------


cdef neighbor_t *find_place(neighbor_table_t *t, int64_t now_ns) noexcept nogil:
    """A place for a new entry: free, new, failed, or the least recently used one that is out of use. NULL: none."""
    cdef neighbor_t *best = NULL
    cdef neighbor_t *n
    cdef uint32_t i
    for i in range(t.count):
        n = &t.entries[i]
        if n.state == NEIGHBOR_FREE:
            return n
        if t.count < NEIGHBOR_MAX or n.first != NULL:
            continue
        if n.state == NEIGHBOR_FAILED or (
                (n.state == NEIGHBOR_STALE or n.state == NEIGHBOR_REACHABLE) and now_ns - n.used_ns > IN_USE_NS):
            if best == NULL or n.used_ns < best.used_ns:
                best = n
    return best if t.count == NEIGHBOR_MAX else neighbor_append(t)


cdef neighbor_t *neighbor_append(neighbor_table_t *t) noexcept nogil:
    cdef neighbor_t *grown
    cdef uint32_t capacity
    if t.count == NEIGHBOR_MAX:
        return NULL
    if t.count == t.capacity:
        capacity = t.capacity * 2 if t.capacity else 8
        grown = <neighbor_t *> realloc(t.entries, capacity * sizeof(neighbor_t))
        if grown == NULL:
            return NULL
        t.entries = grown
        t.capacity = capacity
    grown = &t.entries[t.count]
    memset(grown, 0, sizeof(neighbor_t))
    t.count += 1
    return grown


cdef neighbor_t *neighbor_make(neighbor_table_t *t, const address_t *a, int64_t now_ns) noexcept nogil:
    cdef neighbor_t *n
    if t.incomplete >= NEIGHBOR_INCOMPLETE_MAX:
        return NULL
    n = find_place(t, now_ns)
    if n == NULL:
        return NULL
    if n.state != NEIGHBOR_FREE:
        unlink(t, n)
    memset(n, 0, sizeof(neighbor_t))
    n.address = a[0]
    n.used_ns = now_ns
    n.deadline_ns = INT64_MAX
    neighbor_link(t, n, NEIGHBOR_INCOMPLETE)
    return n


cdef bint neighbor_timed(const neighbor_t *n) noexcept nogil:
    """Retries run, or packets could not be sent because the link was full. Other states change when they are used."""
    return n.state == NEIGHBOR_INCOMPLETE or n.state == NEIGHBOR_PROBE or n.state == NEIGHBOR_DELAY or n.first != NULL


cdef void neighbor_set_state(neighbor_table_t *t, neighbor_t *n, uint8_t state, int64_t deadline_ns) noexcept nogil:
    """Change an entry's state; FREE and FAILED entries hold no packets (the caller took them before)."""
    if n.state == NEIGHBOR_INCOMPLETE:
        t.incomplete -= 1
    if state == NEIGHBOR_FREE and n.state != NEIGHBOR_FREE:
        unlink(t, n)
    n.state = state
    n.deadline_ns = deadline_ns
    if state == NEIGHBOR_INCOMPLETE:
        t.incomplete += 1
    neighbor_schedule(t)


cdef void neighbor_schedule(neighbor_table_t *t) noexcept nogil:
    cdef int64_t first = INT64_MAX
    cdef uint32_t i
    for i in range(t.count):
        if neighbor_timed(&t.entries[i]) and t.entries[i].deadline_ns < first:
            first = t.entries[i].deadline_ns
    t.next_deadline_ns = first


cdef pending_packet_t *neighbor_claim(neighbor_table_t *t, neighbor_t *n, uint32_t head_length,
                                      uint32_t body_length) noexcept nogil:
    cdef uint64_t length = <uint64_t> head_length + body_length
    cdef pending_packet_t *p
    free(t.claimed)              # a claim that was never committed
    t.claimed = NULL
    if n.queued >= NEIGHBOR_QUEUE_MAX or t.queued_bytes + length > NEIGHBOR_QUEUE_BYTES:
        return NULL
    p = <pending_packet_t *> malloc(sizeof(pending_packet_t) + length)
    if p == NULL:
        return NULL
    p.next = NULL
    p.length = <uint32_t> length
    p.head_length = head_length
    p.entry = <uint32_t> (n - t.entries)
    p.data = <uint8_t *> (p + 1)
    t.claimed = p
    return p


cdef void neighbor_commit(neighbor_table_t *t, pending_packet_t *p) noexcept nogil:
    cdef neighbor_t *n = &t.entries[p.entry]
    if t.claimed != p:
        return
    t.claimed = NULL
    if n.last == NULL:
        n.first = p
    else:
        n.last.next = p
    n.last = p
    n.queued += 1
    t.queued_bytes += p.length


cdef pending_packet_t *neighbor_take(neighbor_table_t *t, neighbor_t *n) noexcept nogil:
    cdef pending_packet_t *p = n.first
    if p == NULL:
        return NULL
    n.first = p.next
    if n.first == NULL:
        n.last = NULL
    n.queued -= 1
    t.queued_bytes -= p.length
    return p
