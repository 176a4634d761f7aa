"""Whose turn it is at a link that is too slow for all: a queue for each source, served by deficit round robin."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.router.packet cimport packet_t

cdef enum:
    FAIR_BUCKETS = 64


cdef struct waiting_t:           # a packet in a queue; its bytes follow
    waiting_t *next
    int64_t since_ns
    uint32_t epoch               # of the port it waits for
    uint32_t head_length
    uint32_t body_length


cdef struct flow_t:              # what waits of one source; exists while something does
    flow_t *chain                # in its bucket
    flow_t *next                 # in the round
    waiting_t *first
    waiting_t *last
    uint64_t bytes               # of memory
    int64_t deficit              # bytes it may still send in this round; below 0 it has borrowed
    uint32_t source
    # --- CoDel (RFC 8289)
    bint dropping
    uint32_t count               # drops since it began to
    int64_t above_ns             # when its delay will have been above the target for an interval; 0: it is below
    int64_t next_ns              # of the next drop


cdef struct fair_t:
    flow_t *buckets[FAIR_BUCKETS]
    flow_t *first                # the round: who is served next, and who last
    flow_t *last
    uint64_t packets
    uint64_t bytes               # of memory
    uint32_t flows
    uint32_t quantum             # bytes a round: the largest packet, so that each visit sends at least one
    bint codel
    void *police                 # police_t: who wants to know of drops; NULL: nobody
    # --- what happened
    uint64_t crowded_out         # of whoever had most in the queue, when it was full
    uint64_t codel_dropped
    uint64_t codel_marked


cdef fair_t *fair_new(uint32_t quantum, bint codel) noexcept nogil        # NULL without memory
cdef void fair_free(fair_t *fair) noexcept nogil
# Let a packet of a source wait among so many packets and bytes at most. Where there is no room somebody's have to go: the
# oldest of who has most, or, if that is this source, this one (-1). -2: no memory.
cdef int fair_push(fair_t *fair, uint32_t source, const packet_t *p, int64_t now_ns, uint32_t epoch, uint64_t max_packets,
                   uint64_t max_bytes) noexcept nogil
# Whose turn it is, out of the queue, free it; NULL: empty. CoDel may drop what is due before it.
cdef waiting_t *fair_pop(fair_t *fair, int64_t now_ns) noexcept nogil


cdef inline unsigned char *waiting_bytes(waiting_t *w) noexcept nogil:
    return <unsigned char *> (w + 1)


cdef inline uint32_t waiting_cost(uint32_t head_length, uint32_t body_length) noexcept nogil:
    return <uint32_t> sizeof(waiting_t) + head_length + body_length
