# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The impairment model (see the .pxd): decisions, the transmitter, the heap of frames under way."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from netstack.link.link cimport MEDIA_ETHERNET, NEVER
from netstack.wire.ecn cimport ip_codepoint, ip_mark_congestion

cdef enum:
    ETHERNET_HEADER = 14
    SECOND_NS = 1000000000


cdef void prng_seed(prng_t *p, uint64_t seed) noexcept nogil:
    """Spread one word over the state (splitmix64, as the authors of xoshiro advise)."""
    cdef uint64_t z
    cdef int i
    for i in range(4):
        seed += <uint64_t> 0x9e3779b97f4a7c15
        z = seed
        z = (z ^ (z >> 30)) * <uint64_t> 0xbf58476d1ce4e5b9
        z = (z ^ (z >> 27)) * <uint64_t> 0x94d049bb133111eb
        p.s[i] = z ^ (z >> 31)


cdef uint64_t prng_below(prng_t *p, uint64_t n) noexcept nogil:
    """Uniform in 0..n-1. The bias of a plain remainder is below n / 2^64: none that a test could see."""
    return prng_next(p) % n if n else 0


cdef inline bint happens(line_t *line, uint64_t probability) noexcept nogil:
    """A draw is made only for impairments that are on, so switching one on leaves the others' draws in place."""
    if probability == 0:
        return False
    return prng_next(&line.prng) < probability


# ---------------------------------------------------------------------------------------------- heap

cdef inline bint before(const held_t *a, const held_t *b) noexcept nogil:
    return a.due_ns < b.due_ns or (a.due_ns == b.due_ns and a.order < b.order)


cdef int heap_add(line_t *line, held_t *frame) noexcept nogil:
    cdef held_t **bigger
    cdef uint32_t i, parent, capacity
    if line.count == line.capacity:
        capacity = line.capacity * 2 if line.capacity else 32
        bigger = <held_t **> realloc(line.heap, capacity * sizeof(held_t *))
        if bigger == NULL:
            return -1
        line.heap = bigger
        line.capacity = capacity
    i = line.count
    line.count += 1
    while i > 0:
        parent = (i - 1) // 2
        if not before(frame, line.heap[parent]):
            break
        line.heap[i] = line.heap[parent]
        i = parent
    line.heap[i] = frame
    line.held += frame.length
    return 0


cdef held_t *line_pop(line_t *line) noexcept nogil:
    """Take the first frame out; the caller frees it. Requires: not empty."""
    cdef held_t *first = line.heap[0]
    cdef held_t *last
    cdef uint32_t i = 0, child
    line.count -= 1
    line.popped += 1
    line.held -= first.length
    last = line.heap[line.count]
    while True:
        child = 2 * i + 1
        if child >= line.count:
            break
        if child + 1 < line.count and before(line.heap[child + 1], line.heap[child]):
            child += 1
        if not before(line.heap[child], last):
            break
        line.heap[i] = line.heap[child]
        i = child
    if line.count:
        line.heap[i] = last
    return first


cdef held_t *line_peek(line_t *line, int64_t now_ns) noexcept nogil:
    if line.count == 0 or line.heap[0].due_ns > now_ns:
        return NULL
    return line.heap[0]


cdef int64_t line_next_due(const line_t *line) noexcept nogil:
    return line.heap[0].due_ns if line.count else NEVER


# ---------------------------------------------------------------------------------------------- transmitter

cdef int departures_add(line_t *line, int64_t when) noexcept nogil:
    cdef int64_t *bigger
    cdef uint32_t i, capacity
    if line.departures_count == line.departures_capacity:
        capacity = line.departures_capacity * 2 if line.departures_capacity else 64
        bigger = <int64_t *> malloc(capacity * sizeof(int64_t))
        if bigger == NULL:
            return -1
        for i in range(line.departures_count):
            bigger[i] = line.departures[(line.departures_first + i) % line.departures_capacity]
        free(line.departures)
        line.departures = bigger
        line.departures_first = 0
        line.departures_capacity = capacity
    line.departures[(line.departures_first + line.departures_count) % line.departures_capacity] = when
    line.departures_count += 1
    return 0


cdef uint32_t ip_at(const line_t *line, const uint8_t *head, uint32_t head_length) noexcept nogil:
    """Where the IP header begins, which lies in the head of a frame; the head's length when there is none."""
    cdef uint32_t at = 0
    if line.media == MEDIA_ETHERNET:
        at = ETHERNET_HEADER
        if head_length < at or not ((head[12] == 0x08 and head[13] == 0x00) or (head[12] == 0x86 and head[13] == 0xdd)):
            return head_length
    return at if head_length >= at + 20 and (head[at] >> 4 == 4 or head[at] >> 4 == 6) else head_length


cdef void departed(line_t *line, int64_t now_ns) noexcept nogil:
    """Forget what has left the transmitter."""
    while line.departures_count and line.departures[line.departures_first] <= now_ns:
        line.departures_first = (line.departures_first + 1) % line.departures_capacity
        line.departures_count -= 1


cdef int64_t transmit(line_t *line, uint32_t length, int64_t now_ns) noexcept nogil:
    """When the frame has left the transmitter; -1 when the queue in front of it is full."""
    cdef uint64_t waiting_bytes
    cdef int64_t start
    if line.rate == 0:
        return now_ns
    departed(line, now_ns)
    if line.queue_packets and line.departures_count >= line.queue_packets:
        return -1
    start = now_ns
    if line.busy_until_ns > now_ns:
        start = line.busy_until_ns
    if line.queue_bytes:
        waiting_bytes = <uint64_t> (<double> (start - now_ns) * <double> line.rate / 8e9)
        if waiting_bytes + length > line.queue_bytes:
            return -1
    line.busy_until_ns = start + <int64_t> ((<uint64_t> length * 8 * <uint64_t> SECOND_NS + line.rate - 1) // line.rate)
    if departures_add(line, line.busy_until_ns):
        return -1
    return line.busy_until_ns


# ---------------------------------------------------------------------------------------------- a frame's way

cdef uint32_t first_flippable(const line_t *line, const held_t *frame) noexcept nogil:
    """Where the bytes begin that a bit flip may hit, or the length when there are none.

    On Ethernet the frame check sequence guards the link header and ARP, neither of which has a sum of its own: there
    a flip is a loss. Only IP packets are corrupted, so that it is the Internet checksum that is put to the test.
    """
    cdef const uint8_t *p = <const uint8_t *> (frame + 1)
    if line.media != MEDIA_ETHERNET:
        return 0
    if frame.length <= ETHERNET_HEADER:
        return frame.length
    if (p[12] == 0x08 and p[13] == 0x00) or (p[12] == 0x86 and p[13] == 0xdd):
        return ETHERNET_HEADER
    return frame.length


cdef void send_copy(line_t *line, const uint8_t *head, uint32_t head_length, const uint8_t *body,
                    uint32_t body_length, int64_t now_ns) noexcept nogil:
    """One copy of a frame: lost, refused by the queue, or put on its way."""
    cdef uint32_t length = head_length + body_length
    cdef uint32_t start
    cdef uint64_t bit
    cdef int64_t due
    cdef held_t *frame
    cdef uint32_t ip = 0
    cdef bint congested = False
    if happens(line, line.loss):
        line.lost += 1
        return
    if line.mark_packets and line.rate:
        departed(line, now_ns)
        congested = line.departures_count >= line.mark_packets
        if congested:
            ip = ip_at(line, head, head_length)
            if ip == head_length or ip_codepoint(head + ip) == 0:
                line.queue_dropped += 1
                return
    due = transmit(line, length, now_ns)
    if due < 0:
        line.queue_dropped += 1
        return
    frame = <held_t *> malloc(sizeof(held_t) + length)
    if frame == NULL:
        line.no_memory += 1
        return
    frame.head_length = head_length
    frame.length = length
    memcpy(held_bytes(frame), head, head_length)
    if body_length:
        memcpy(held_bytes(frame) + head_length, body, body_length)
    if congested:
        line.marked += ip_mark_congestion(held_bytes(frame) + ip)
    if happens(line, line.corrupt):
        start = first_flippable(line, frame)
        if start < length:
            bit = prng_below(&line.prng, <uint64_t> (length - start) * 8)
            held_bytes(frame)[start + bit // 8] ^= <uint8_t> (1 << (bit % 8))
            line.corrupted += 1
    due += line.delay_ns
    if line.jitter_ns:
        due += <int64_t> prng_below(&line.prng, <uint64_t> line.jitter_ns + 1)
    if happens(line, line.reorder):
        due += 1 + <int64_t> prng_below(&line.prng, <uint64_t> line.reorder_ns)
        line.reordered += 1
    else:
        if due < line.last_due_ns:
            due = line.last_due_ns
        line.last_due_ns = due
    frame.due_ns = due
    frame.order = line.order
    line.order += 1
    if heap_add(line, frame):
        free(frame)
        line.no_memory += 1


cdef void line_push(line_t *line, const uint8_t *head, uint32_t head_length, const uint8_t *body,
                    uint32_t body_length, int64_t now_ns) noexcept nogil:
    """Let a frame enter the line at ``now_ns``. The bytes are copied."""
    line.pushed += 1
    if happens(line, line.duplicate):
        line.duplicated += 1
        send_copy(line, head, head_length, body, body_length, now_ns)
    send_copy(line, head, head_length, body, body_length, now_ns)


cdef bint line_transparent(const line_t *line) noexcept nogil:
    return (line.loss | line.duplicate | line.reorder | line.corrupt | line.rate) == 0 \
        and (line.delay_ns | line.jitter_ns) == 0 and line.count == 0


cdef void line_init(line_t *line, uint64_t seed) noexcept nogil:
    memset(line, 0, sizeof(line_t))
    prng_seed(&line.prng, seed)
    line.reorder_ns = 1000000


cdef void line_free(line_t *line) noexcept nogil:
    """Drop every frame that is still under way."""
    cdef uint32_t i
    for i in range(line.count):
        free(line.heap[i])
    free(line.heap)
    free(line.departures)
    line.heap = NULL
    line.departures = NULL
    line.count = 0
    line.capacity = 0
    line.departures_count = 0
    line.departures_capacity = 0
