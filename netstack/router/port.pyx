# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Handing packets to attachments: into the ring, else into a bounded private queue, else counted and dropped.

The queue lives in the router's own memory (design section 8, rule 5): a stack that stops reading costs the router at
most `queue_limit` bytes and nobody any time.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

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


cdef int enqueue(port_t *port, packet_t *p) noexcept nogil:
    cdef uint32_t cost = sizeof(queued_t) + p.head_length + p.body_length
    cdef queued_t *q
    cdef uint8_t *at
    if port.queue_bytes + cost > port.queue_limit:
        port.counters.drops_out[<int> DROP_QUEUE_FULL] += 1
        return -1
    if port.queue_bytes * 2 > port.queue_limit:
        port.counters.marked += ip_mark_congestion(p.header)
    q = <queued_t *> malloc(cost)
    if q == NULL:
        port.counters.drops_out[<int> DROP_NO_MEMORY] += 1
        return -1
    q.next = NULL
    q.epoch = port.epoch
    q.head_length = p.head_length
    q.body_length = p.body_length
    q.cost = cost
    at = <uint8_t *> (q + 1)
    write_packet(p, at, at + p.head_length)
    if port.queue_last != NULL:
        port.queue_last.next = q
    else:
        port.queue_first = q
    port.queue_last = q
    port.queue_packets += 1
    port.queue_bytes += cost
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
    if port.queue_first != NULL and port_drain(port) != 0:
        return enqueue(port, p)
    status = claim(port, p.head_length, p.body_length, &head, &body)
    if status == RING_OK:
        write_packet(p, head, body)
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


cdef int port_drain(port_t *port) noexcept nogil:
    """Move the private queue into the ring. 0 when it is empty now, 1 when some is left."""
    cdef queued_t *q = port.queue_first
    cdef uint8_t *head
    cdef uint8_t *body
    cdef uint8_t *at
    cdef int status
    while q != NULL:
        if q.epoch != port.epoch:
            port.counters.drops_out[<int> DROP_OLD_EPOCH] += 1
        else:
            status = claim(port, q.head_length, q.body_length, &head, &body)
            if status == RING_FULL:
                break
            if status != RING_OK:
                port_fail(port, status)
                break
            at = <uint8_t *> (q + 1)
            memcpy(head, at, q.head_length)
            memcpy(body, at + q.head_length, q.body_length)
            ring_commit(port.tx)
            port.counters.out_packets += 1
            port.counters.out_bytes += q.head_length + q.body_length
            port.dirty = True
        port.queue_first = q.next
        port.queue_packets -= 1
        port.queue_bytes -= q.cost
        free(q)
        q = port.queue_first
    if q == NULL:
        port.queue_last = NULL
        if port.space_armed:
            ring_producer_disarm(port.tx)
            port.space_armed = False
        return 0
    return 1


cdef void port_clear_queue(port_t *port, Drop reason) noexcept nogil:
    cdef queued_t *q = port.queue_first
    cdef queued_t *following
    while q != NULL:
        following = q.next
        free(q)
        port.counters.drops_out[<int> reason] += 1
        q = following
    port.queue_first = port.queue_last = NULL
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
