# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Handing packets to attachments: into the ring, else into a bounded private queue, else counted and dropped.

The queue lives in the router's own memory (design section 8, rule 5): a stack that stops reading costs the router at
most `queue_limit` bytes and nobody any time.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from netstack.router.fair cimport (
    fair_free, fair_new, fair_pop, fair_push, waiting_bytes, waiting_cost, waiting_t,
)
from netstack.router.mirror cimport MIRROR_TO, mirror_packet
from netstack.router.policing cimport police_delivers
from netstack.wire.ecn cimport ip_mark_congestion
from rings.doorbell cimport doorbell_kick
from rings.spsc_ring cimport (
    RING_FRAME, RING_FULL, RING_MAX_HEAD_BYTES, RING_OK, ring_claim, ring_commit, ring_flush_needs_kick,
    ring_producer_disarm, ring_set_cpu,
)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void *data, size_t length, int flags)
    enum: MSG_DONTWAIT
    enum: MSG_NOSIGNAL

cdef extern from "<sched.h>" nogil:
    int sched_getcpu()


cdef bint bucket_take(bucket_t *b, int64_t now_ns, int64_t cost_ns, int64_t depth_ns) noexcept nogil:
    """A token bucket that fills with time: each event costs `cost_ns`, at most `depth_ns` are saved up."""
    b.credit_ns += now_ns - b.last_ns
    b.last_ns = now_ns
    if b.credit_ns > depth_ns:
        b.credit_ns = depth_ns
    if b.credit_ns < cost_ns:
        return False
    b.credit_ns -= cost_ns
    return True


cdef inline int claim(port_t *port, uint32_t head_length, uint32_t body_length, uint8_t **head,
                      uint8_t **body) noexcept nogil:
    """Room in the stack's ring; headers too long for a record's head make the packet one piece, all of it body."""
    cdef int status
    if head_length <= RING_MAX_HEAD_BYTES:
        return ring_claim(port.tx, RING_FRAME, head_length, body_length, head, body)
    status = ring_claim(port.tx, RING_FRAME, 0, head_length + body_length, head, body)
    head[0] = body[0]
    body[0] = head[0] + head_length
    return status


cdef void port_fail(port_t *port, int why) noexcept nogil:
    """The stack broke the ring's format, or closed its end: control takes the port away."""
    if port.state != PORT_FAILED:
        port.state = PORT_FAILED
        port.failure = why


cdef inline void count_queue(port_t *port) noexcept nogil:
    cdef waiting_t *w = port.next_out
    port.queue_packets = port.queue.packets + (w != NULL)
    port.queue_bytes = port.queue.bytes + (waiting_cost(w.head_length, w.body_length) if w != NULL else 0)


cdef int enqueue(port_t *port, packet_t *p) noexcept nogil:
    """Let a packet wait for room in the ring, in turn with those of other sources (``fair``)."""
    cdef uint64_t before, ready
    cdef int status
    if port.queue == NULL:
        port.queue = fair_new(port.mtu, False)
        if port.queue == NULL:
            port.counters.drops_out[<int> DROP_NO_MEMORY] += 1
            return -1
        port.queue.police = port.police
    if port.queue_bytes * 2 > port.queue_limit:
        port.counters.marked += ip_mark_congestion(p.header)
    before = port.queue.crowded_out
    ready = port.queue_bytes - port.queue.bytes
    status = fair_push(port.queue, 0 if port.one_queue else p.source, p, 0, port.epoch, <uint64_t> -1,
                       port.queue_limit - ready if port.queue_limit > ready else 0)
    port.counters.drops_out[<int> DROP_QUEUE_FULL] += port.queue.crowded_out - before
    count_queue(port)
    if status < 0:
        port.counters.drops_out[<int> (DROP_QUEUE_FULL if status == -1 else DROP_NO_MEMORY)] += 1
        return -1
    port.counters.queued_total += 1
    return 0


cdef int port_hand_slowly(port_t *port, packet_t *p) noexcept nogil:
    """`port_hand` where the packet does not simply go into the ring."""
    cdef uint8_t *head
    cdef uint8_t *body
    cdef int status
    if port.state != PORT_ACTIVE:
        port.counters.drops_out[<int> DROP_DETACHED] += 1
        return -1
    if port.queue_packets and port_drain(port) != 0:
        return enqueue(port, p)
    status = claim(port, p.head_length, p.body_length, &head, &body)
    if status == RING_OK:
        write_packet(p, head, body)
        if port.mirror != NULL:
            mirror_packet(port.mirror, MIRROR_TO, head, p.head_length, body, p.body_length)
        ring_commit(port.tx)
        port.counters.out_packets += 1
        port.counters.out_bytes += p.head_length + p.body_length
        port.dirty = True
        return 0
    if status == RING_FULL:
        port.dirty = True            # everything committed is visible, but perhaps the stack sleeps
        return enqueue(port, p)
    port.counters.drops_out[<int> DROP_DETACHED] += 1
    port_fail(port, status)
    return -1


cdef int write_waiting(port_t *port, waiting_t *w) noexcept nogil:
    """Into the ring: RING_OK, or why not."""
    cdef uint8_t *head = NULL
    cdef uint8_t *body = NULL
    cdef int status = claim(port, w.head_length, w.body_length, &head, &body)
    if status != RING_OK:
        return status
    memcpy(head, waiting_bytes(w), w.head_length)
    memcpy(body, waiting_bytes(w) + w.head_length, w.body_length)
    if port.mirror != NULL:
        mirror_packet(port.mirror, MIRROR_TO, waiting_bytes(w), w.head_length, body, w.body_length)
    ring_commit(port.tx)
    port.counters.out_packets += 1
    port.counters.out_bytes += w.head_length + w.body_length
    port.dirty = True
    police_delivers(port.police, waiting_bytes(w), w.head_length + w.body_length, w.head_length + w.body_length)
    return RING_OK


cdef int port_drain(port_t *port) noexcept nogil:
    """Move the private queue into the ring. 0 when it is empty now, 1 when some is left."""
    cdef waiting_t *w
    cdef int status
    while True:
        if port.next_out == NULL:
            port.next_out = fair_pop(port.queue, 0)
        w = port.next_out
        if w == NULL:
            break
        if w.epoch != port.epoch:
            port.counters.drops_out[<int> DROP_OLD_EPOCH] += 1
        else:
            status = write_waiting(port, w)
            if status != RING_OK:
                if status != RING_FULL:
                    port_fail(port, status)
                count_queue(port)
                return 1
        port.next_out = NULL
        free(w)
    count_queue(port)
    if port.space_armed:
        ring_producer_disarm(port.tx)
        port.space_armed = False
    return 0


cdef void port_clear_queue(port_t *port, Drop reason) noexcept nogil:
    """Drop what waits for a stack."""
    if port.queue == NULL:
        return
    port.counters.drops_out[<int> reason] += port.queue_packets
    free(port.next_out)
    fair_free(port.queue)
    port.next_out = NULL
    port.queue = NULL
    port.queue_packets = port.queue_bytes = 0


cdef void port_flush(port_t *port) noexcept nogil:
    """The end of a batch: what was committed becomes visible, and a sleeping stack is woken, at most once."""
    cdef uint32_t kind
    port.dirty = False
    ring_set_cpu(port.tx, sched_getcpu())
    if not ring_flush_needs_kick(port.tx, &kind):
        return
    port_ring(port, kind)


cdef void port_ring(port_t *port, uint32_t kind) noexcept nogil:
    """Ring the doorbell of a kind of sleeper. Between strangers it is a socket: a peer cannot make that send wait."""
    cdef uint64_t one = 1
    if port.bells[kind & 3] < 0:
        return
    port.counters.kicks += 1
    if port.bells_are_sockets:
        c_send(port.bells[kind & 3], &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL)
    else:
        doorbell_kick(port.bells[kind & 3])
