# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The table of watched connections: buckets of eight by a keyed hash, no memory asked for on the way.

In a full bucket the oldest makes room of the port that has most there: who opens many connections pushes out its own.
"""

from libc.string cimport memcpy, memset


cdef inline watched_t *bucket_of(watch_t *watch, const uint64_t *key) noexcept nogil:
    return &watch.flows[(siphash(watch.secret, key, KEY_WORDS) & (WATCHED_BUCKETS - 1)) * WATCHED_WAYS]


cdef watched_t *watched_look_up(watch_t *watch, const uint64_t *key) noexcept nogil:
    cdef watched_t *bucket = bucket_of(watch, key)
    cdef int i
    for i in range(WATCHED_WAYS):
        if bucket[i].used and same_key(bucket[i].key, key):
            watch.last = &bucket[i]
            return watch.last
    return NULL


cdef int records_of(const watched_t *bucket, uint64_t owner) noexcept nogil:
    cdef int i, n = 0
    for i in range(WATCHED_WAYS):
        n += bucket[i].owner == owner
    return n


cdef watched_t *make_room(watched_t *bucket, uint64_t owner) noexcept nogil:
    cdef watched_t *oldest = NULL
    cdef int i, n, most = 0
    for i in range(WATCHED_WAYS):
        if not bucket[i].used:
            return &bucket[i]
    for i in range(WATCHED_WAYS):
        n = records_of(bucket, bucket[i].owner) + (bucket[i].owner == owner)
        if n > most or (n == most and bucket[i].last_ns < oldest.last_ns):
            most = n
            oldest = &bucket[i]
    return oldest


cdef watched_t *watched_make(watch_t *watch, const uint64_t *key, uint64_t owner, int64_t now_ns) noexcept nogil:
    cdef watched_t *w = make_room(bucket_of(watch, key), owner)
    memset(w, 0, sizeof(watched_t))
    memcpy(w.key, key, KEY_WORDS * 8)
    w.used = True
    w.owner = owner
    w.last_ns = now_ns
    watch.last = w
    return w


cdef void watched_restart(watched_t *w) noexcept nogil:
    cdef uint8_t found[2]
    cdef bint again = w.closed           # a new connection between the same ends
    cdef int i
    for i in range(2):
        found[i] = w.halves[i].found
    memset(w.halves, 0, sizeof(w.halves))
    if again:
        w.punished = 0
    else:
        for i in range(2):
            w.halves[i].found = found[i]
    w.matched = w.closed = w.signed = w.shared_window = False
