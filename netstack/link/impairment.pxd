"""The impairment model: one direction of a bad network, as a struct. The only one of the project.

A frame that enters (``line_push``) may be duplicated; then each copy may be lost, gets one bit flipped, waits for the
transmitter (rate, queue limit), travels (delay, jitter) and may be held back (reordering). It comes out
(``line_pop``) when its time has come. The same seed and the same frames at the same times give the same result.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef struct prng_t:              # xoshiro256** (Blackman, Vigna 2018), seeded by splitmix64
    uint64_t s[4]


cdef inline uint64_t rotate_left(uint64_t x, int k) noexcept nogil:
    return (x << k) | (x >> (64 - k))


cdef inline uint64_t prng_next(prng_t *p) noexcept nogil:
    cdef uint64_t result = rotate_left(p.s[1] * 5, 7) * 9
    cdef uint64_t t = p.s[1] << 17
    p.s[2] ^= p.s[0]
    p.s[3] ^= p.s[1]
    p.s[1] ^= p.s[2]
    p.s[0] ^= p.s[3]
    p.s[2] ^= t
    p.s[3] = rotate_left(p.s[3], 45)
    return result


cdef void prng_seed(prng_t *p, uint64_t seed) noexcept nogil
cdef uint64_t prng_below(prng_t *p, uint64_t n) noexcept nogil    # uniform in 0..n-1; 0 when n is 0


cdef struct held_t:
    # A frame under way; its bytes follow the struct.
    int64_t due_ns
    uint64_t order               # frames due at the same time leave in this order
    uint32_t head_length         # bytes, as the sender split the frame
    uint32_t length              # of the whole frame, bytes


cdef inline uint8_t *held_bytes(held_t *frame) noexcept nogil:
    return <uint8_t *> (frame + 1)


cdef struct line_t:
    # --- settings; probabilities are scaled to 2^64
    uint64_t loss
    uint64_t duplicate
    uint64_t reorder
    uint64_t corrupt
    int64_t delay_ns
    int64_t jitter_ns            # uniform 0..jitter more; keeps the order
    int64_t reorder_ns           # a frame picked for reordering is held back 1..reorder_ns more
    uint64_t rate                # bit/s; 0: no limit
    uint32_t queue_packets       # waiting for the rate or being sent; 0: no limit
    uint64_t queue_bytes
    uint32_t mark_packets        # with so many waiting, ECT packets get CE and others are dropped; 0: never
    uint8_t media
    # --- state
    prng_t prng
    int64_t busy_until_ns        # the transmitter
    int64_t last_due_ns          # of frames that keep their order
    uint64_t order
    held_t **heap                # smallest (due_ns, order) first
    uint32_t count
    uint32_t capacity
    uint64_t held                # bytes in the heap
    int64_t *departures          # ring: when each frame that waits for the rate leaves the transmitter
    uint32_t departures_first
    uint32_t departures_count
    uint32_t departures_capacity
    # --- what happened: pushed + duplicated = popped + lost + queue_dropped + no_memory + count
    uint64_t pushed
    uint64_t popped
    uint64_t lost
    uint64_t duplicated
    uint64_t reordered
    uint64_t corrupted
    uint64_t marked              # got CE
    uint64_t queue_dropped
    uint64_t no_memory


cdef void line_init(line_t *line, uint64_t seed) noexcept nogil
cdef void line_free(line_t *line) noexcept nogil
cdef bint line_transparent(const line_t *line) noexcept nogil        # changes nothing and holds nothing
cdef void line_push(line_t *line, const uint8_t *head, uint32_t head_length, const uint8_t *body,
                    uint32_t body_length, int64_t now_ns) noexcept nogil
cdef held_t *line_peek(line_t *line, int64_t now_ns) noexcept nogil  # the next frame that is due, or NULL
cdef held_t *line_pop(line_t *line) noexcept nogil                   # the first one; the caller frees it
cdef int64_t line_next_due(const line_t *line) noexcept nogil        # NEVER when empty
