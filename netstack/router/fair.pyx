# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Deficit round robin (Shreedhar and Varghese 1995), a queue for each attachment or uplink that sends, CoDel if asked.

One source is one queue however many connections it opens, so that neither many flows nor a sender that ignores losses gets
more than its part: what it sends beyond that waits in its own queue and crowds out its own packets. A source that sends less
than its part finds its queue empty and waits for one packet of each other. The memory is bounded by who calls.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from netstack.router.packet cimport packet_t, write_packet
from netstack.router.policing cimport PENALTY_SOURCE, police_drops
from netstack.wire.ecn cimport ip_mark_congestion

cdef enum:
    IP_HEADER = 20               # the least a head has for ECN to be looked at
    PENALTY = 8                  # what is put back has an eighth of a source's share

cdef int64_t TARGET_NS = 5000000             # RFC 8289 section 4.4
cdef int64_t INTERVAL_NS = 100000000         # section 4.3


cdef extern from "<math.h>" nogil:
    double sqrt(double)


cdef fair_t *fair_new(uint32_t quantum, bint codel) noexcept nogil:
    cdef fair_t *fair = <fair_t *> calloc(1, sizeof(fair_t))
    if fair != NULL:
        fair.quantum = quantum
        fair.codel = codel
    return fair


cdef void fair_free(fair_t *fair) noexcept nogil:
    """Drop everything; who calls has counted it (`packets`)."""
    cdef flow_t *flow
    if fair == NULL:
        return
    while fair.first != NULL:
        flow = fair.first
        while flow.first != NULL:
            free(take_first(fair, flow))
        retire(fair)
    free(fair)


cdef flow_t *flow_of(fair_t *fair, uint32_t source) noexcept nogil:
    cdef flow_t *flow = fair.buckets[source % FAIR_BUCKETS]
    while flow != NULL and flow.source != source:
        flow = flow.chain
    return flow


cdef void append(fair_t *fair, flow_t *flow) noexcept nogil:
    """Its turn comes when all others had theirs."""
    flow.next = NULL
    if fair.last != NULL:
        fair.last.next = flow
    else:
        fair.first = flow
    fair.last = flow


cdef inline uint32_t turn_of(const fair_t *fair, const flow_t *flow) noexcept nogil:
    """Bytes that it may send in a round."""
    return fair.quantum if flow.source != PENALTY_SOURCE else fair.quantum // PENALTY


cdef inline uint64_t weight(const flow_t *flow) noexcept nogil:
    """What its packets count where there is no room."""
    return flow.bytes if flow.source != PENALTY_SOURCE else flow.bytes * PENALTY


cdef flow_t *flow_new(fair_t *fair, uint32_t source) noexcept nogil:
    cdef flow_t *flow = <flow_t *> calloc(1, sizeof(flow_t))
    if flow == NULL:
        return NULL
    flow.source = source
    flow.deficit = turn_of(fair, flow)
    flow.chain = fair.buckets[source % FAIR_BUCKETS]
    fair.buckets[source % FAIR_BUCKETS] = flow
    fair.flows += 1
    append(fair, flow)
    return flow


cdef flow_t *leave_round(fair_t *fair) noexcept nogil:
    cdef flow_t *flow = fair.first
    fair.first = flow.next
    if fair.first == NULL:
        fair.last = NULL
    return flow


cdef void retire(fair_t *fair) noexcept nogil:
    """The first of the round has nothing more: it is forgotten, what it borrowed too, which is less than a packet."""
    cdef flow_t *flow = leave_round(fair)
    cdef flow_t **at = &fair.buckets[flow.source % FAIR_BUCKETS]
    while at[0] != flow:
        at = &at[0].chain
    at[0] = flow.chain
    fair.flows -= 1
    free(flow)


cdef waiting_t *take_first(fair_t *fair, flow_t *flow) noexcept nogil:
    cdef waiting_t *w = flow.first
    flow.first = w.next
    if flow.first == NULL:
        flow.last = NULL
    flow.bytes -= waiting_cost(w.head_length, w.body_length)
    fair.bytes -= waiting_cost(w.head_length, w.body_length)
    fair.packets -= 1
    return w


cdef void lose(fair_t *fair, waiting_t *w) noexcept nogil:
    police_drops(fair.police, waiting_bytes(w), w.head_length + w.body_length, w.head_length + w.body_length)
    free(w)


cdef flow_t *greediest(fair_t *fair, flow_t *flow) noexcept nogil:
    """Who has most in the queue. Whoever has more than its part pays for its own packet, without a search."""
    cdef flow_t *most = flow
    cdef flow_t *other = fair.first
    if flow != NULL and weight(flow) * fair.flows > fair.bytes + fair.quantum:
        return flow
    while other != NULL:
        if (most == NULL or weight(other) > weight(most)) and other.first != other.last:
            most = other
        other = other.next
    return most


cdef int fair_push(fair_t *fair, uint32_t source, const packet_t *p, int64_t now_ns, uint32_t epoch, uint64_t max_packets,
                   uint64_t max_bytes) noexcept nogil:
    cdef flow_t *flow = flow_of(fair, source)
    cdef uint32_t cost = waiting_cost(p.head_length, p.body_length)
    cdef flow_t *victim
    cdef waiting_t *w
    while fair.packets >= max_packets or fair.bytes + cost > max_bytes:
        victim = greediest(fair, flow)
        if victim == flow:               # itself, or nobody has two
            police_drops(fair.police, p.header, p.header_length, p.head_length + p.body_length)
            return -1
        lose(fair, take_first(fair, victim))     # its queue does not become empty: it stays in the round
        fair.crowded_out += 1
    w = <waiting_t *> malloc(cost)
    if flow == NULL and w != NULL:
        flow = flow_new(fair, source)
    if w == NULL or flow == NULL:
        free(w)
        return -2
    w.epoch = epoch
    w.next = NULL
    w.since_ns = now_ns
    w.head_length = p.head_length
    w.body_length = p.body_length
    write_packet(p, waiting_bytes(w), waiting_bytes(w) + p.head_length)
    if flow.last != NULL:
        flow.last.next = w
    else:
        flow.first = w
    flow.last = w
    flow.bytes += cost
    fair.bytes += cost
    fair.packets += 1
    return 0


cdef inline int64_t after(int64_t t, uint32_t count) noexcept nogil:
    """The control law: drops come closer with the square root of their number (RFC 8289 section 3.2)."""
    return t + <int64_t> (<double> INTERVAL_NS / sqrt(<double> count))


cdef bint too_old(fair_t *fair, flow_t *flow, const waiting_t *w, int64_t now_ns) noexcept nogil:
    """Has the delay of its packets been above the target for an interval? Less than a packet behind it is no queue."""
    if now_ns - w.since_ns < TARGET_NS or flow.bytes <= fair.quantum:
        flow.above_ns = 0
        return False
    if flow.above_ns == 0:
        flow.above_ns = now_ns + INTERVAL_NS
        return False
    return now_ns >= flow.above_ns


cdef bint signal(fair_t *fair, waiting_t *w) noexcept nogil:
    """Tell the sender: by a mark if its transport understands that, and the packet stays; else it is dropped (False)."""
    if w.head_length >= IP_HEADER and ip_mark_congestion(waiting_bytes(w)):
        fair.codel_marked += 1
        return True
    lose(fair, w)
    fair.codel_dropped += 1
    return False


cdef waiting_t *codel(fair_t *fair, flow_t *flow, int64_t now_ns) noexcept nogil:
    """The flow's first packet that CoDel lets through (RFC 8289 section 5); NULL: none is left."""
    cdef waiting_t *w = take_first(fair, flow)
    cdef bint old = too_old(fair, flow, w, now_ns)
    if flow.dropping and not old:
        flow.dropping = False
    if flow.dropping:
        while now_ns >= flow.next_ns and flow.dropping:
            flow.count += 1
            flow.next_ns = after(flow.next_ns, flow.count)
            if signal(fair, w):
                return w
            if flow.first == NULL:
                return NULL
            w = take_first(fair, flow)
            flow.dropping = too_old(fair, flow, w, now_ns)
    elif old:
        # Soon after the last time: begin near the rate that was right then.
        flow.count = flow.count - 2 if flow.count > 2 and now_ns - flow.next_ns < 16 * INTERVAL_NS else 1
        flow.dropping = True
        flow.next_ns = after(now_ns, flow.count)
        if not signal(fair, w):
            return take_first(fair, flow) if flow.first != NULL else NULL
    return w


cdef waiting_t *fair_pop(fair_t *fair, int64_t now_ns) noexcept nogil:
    cdef flow_t *flow
    cdef waiting_t *w
    while fair.first != NULL:
        flow = fair.first
        if flow.deficit <= 0:
            flow.deficit += turn_of(fair, flow)
            append(fair, leave_round(fair))
            continue
        w = codel(fair, flow, now_ns) if fair.codel else take_first(fair, flow)
        if w != NULL:
            flow.deficit -= w.head_length + w.body_length
        if flow.first == NULL:
            retire(fair)
        if w != NULL:
            return w
    return NULL
