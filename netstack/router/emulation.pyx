# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A bad link between a port and the router: the seeded model of ``link/impairment``, one line in each direction.

A packet towards a stack is judged and forwarded first and then under way; one from a stack is under way first and judged when
it arrives, by what the table says then. Packets under way lie in private memory, bounded like any queue: beyond that they
are lost as at a full queue of a real link. The router stays a router: a port without a wire pays one comparison.

Where a rate makes packets for the port wait, they wait by source (``fair``), one at a time in front of the transmitter: it
is told when it became free, not when somebody looked, so that late rounds cost no capacity.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from netstack.link.impairment cimport (
    held_bytes, held_t, line_free, line_init, line_next_due, line_peek, line_pop, line_push, line_t,
)
from netstack.router.fair cimport fair_free, fair_new, fair_pop, fair_push, fair_t, waiting_bytes, waiting_t
from netstack.router.policing cimport police_drops
from netstack.router.port cimport DROP_EMULATED, packet_t, port_t, wire_t

cdef enum:
    UNDER_WAY = 16 << 20         # bytes in one direction
    HEAD_ROOM = 65536 + 128      # of a packet's head in one piece


cdef wire_t *wire_new(bint fair, bint codel, uint32_t quantum) except NULL:
    cdef wire_t *wire = <wire_t *> calloc(1, sizeof(wire_t))
    if wire != NULL:
        wire.scratch = <unsigned char *> malloc(HEAD_ROOM)
        line_init(&wire.out, 0)
        line_init(&wire.back, 1)
        if fair:
            wire.fair = fair_new(quantum, codel)
    if wire == NULL or wire.scratch == NULL or (fair and wire.fair == NULL):
        wire_free(wire)
        raise MemoryError
    return wire


cdef void wire_free(wire_t *wire) noexcept nogil:
    if wire == NULL:
        return
    line_free(&wire.out)
    line_free(&wire.back)
    fair_free(wire.fair)
    free(wire.scratch)
    free(wire)


cdef inline uint64_t losses(const line_t *line) noexcept nogil:
    return line.lost + line.queue_dropped + line.no_memory


cdef uint64_t push(wire_t *wire, line_t *line, const packet_t *p, int64_t now_ns) noexcept nogil:
    """How many packets the line lost of this one: 0 or 1."""
    cdef uint64_t before = losses(line)
    cdef uint32_t rest = p.head_length - p.header_length
    if line.held + p.head_length + p.body_length > UNDER_WAY or p.head_length > HEAD_ROOM:
        return 1
    if rest:
        memcpy(wire.scratch, p.header, p.header_length)
        memcpy(wire.scratch + p.header_length, p.head + p.header_length, rest)
        line_push(line, wire.scratch, p.head_length, p.body, p.body_length, now_ns)
    else:
        line_push(line, p.header, p.head_length, p.body, p.body_length, now_ns)
    return losses(line) - before


cdef inline void refused(port_t *port, uint64_t n) noexcept nogil:
    """So many packets had no room in front of the transmitter."""
    port.wire.out.pushed += n
    port.wire.out.queue_dropped += n
    port.counters.drops_out[<int> DROP_EMULATED] += n


cdef void transmit(port_t *port, int64_t now_ns) noexcept nogil:
    """Let go what waits, each packet at the moment at which the one before it had left."""
    cdef line_t *line = &port.wire.out
    cdef fair_t *fair = port.wire.fair
    cdef waiting_t *w
    cdef uint64_t before
    cdef int64_t when
    while fair.packets and (line.busy_until_ns <= now_ns or line.rate == 0):
        before = fair.codel_dropped
        when = line.busy_until_ns
        w = fair_pop(fair, when if when > 0 else now_ns)
        refused(port, fair.codel_dropped - before)
        if w == NULL:
            break
        before = losses(line)
        line_push(line, waiting_bytes(w), w.head_length, waiting_bytes(w) + w.head_length, w.body_length,
                  when if when > w.since_ns else w.since_ns)
        if losses(line) != before:
            port.counters.drops_out[<int> DROP_EMULATED] += 1
            police_drops(port.police, waiting_bytes(w), w.head_length + w.body_length, w.head_length + w.body_length)
        free(w)


cdef void wait(port_t *port, const packet_t *p, int64_t now_ns) noexcept nogil:
    """Into the queue of its source. The packet in the transmitter counts as one of those for which there is room."""
    cdef line_t *line = &port.wire.out
    cdef fair_t *fair = port.wire.fair
    cdef uint64_t before = fair.crowded_out
    cdef uint64_t room = UNDER_WAY - line.held if line.held < UNDER_WAY else 0
    cdef int status = fair_push(fair, p.source, p, now_ns, 0,
                                line.queue_packets - 1 if line.queue_packets else <uint64_t> -1, room)
    refused(port, fair.crowded_out - before + (status != 0))


cdef void wire_push_out(port_t *port, const packet_t *p, int64_t now_ns) noexcept nogil:
    cdef wire_t *wire = port.wire
    cdef fair_t *fair = wire.fair
    port.counters.to_packets += 1
    if fair != NULL and (fair.packets or wire.out.rate):
        transmit(port, now_ns)
        if fair.packets or wire.out.busy_until_ns > now_ns:
            wait(port, p, now_ns)
            return
    if push(wire, &wire.out, p, now_ns):
        port.counters.drops_out[<int> DROP_EMULATED] += 1
        police_drops(port.police, p.header, p.header_length, p.head_length + p.body_length)


cdef void wire_push_back(port_t *port, const packet_t *p, int64_t now_ns) noexcept nogil:
    """What arrives is counted as input when it does; what does not, now."""
    if push(port.wire, &port.wire.back, p, now_ns):
        port.counters.in_packets += 1
        port.counters.in_bytes += p.head_length + p.body_length
        port.counters.drops_in[<int> DROP_EMULATED] += 1


cdef held_t *arrived(line_t *line, packet_t *p, int64_t now_ns) noexcept nogil:
    cdef held_t *held = line_peek(line, now_ns)
    if held == NULL:
        return NULL
    line_pop(line)
    p.header = held_bytes(held)
    p.head = p.header
    p.header_length = p.head_length = held.head_length
    p.body = p.header + held.head_length
    p.body_length = held.length - held.head_length
    p.segment = 0
    p.stays = False
    p.source = 0                             # of whom nobody remembers any more
    p.at_home = False
    return held


cdef held_t *wire_arrived_out(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil:
    if port.wire.fair != NULL:
        transmit(port, now_ns)
    return arrived(&port.wire.out, p, now_ns)


cdef held_t *wire_arrived_back(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil:
    return arrived(&port.wire.back, p, now_ns)


cdef int64_t wire_deadline(const port_t *port) noexcept nogil:
    cdef int64_t out = line_next_due(&port.wire.out), back = line_next_due(&port.wire.back)
    cdef const fair_t *fair = port.wire.fair
    if fair != NULL and fair.packets and port.wire.out.busy_until_ns < out:
        out = port.wire.out.busy_until_ns
    return out if out < back else back


cdef uint64_t wire_waiting(const port_t *port) noexcept nogil:
    cdef const fair_t *fair = port.wire.fair
    return port.wire.out.count + (fair.packets if fair != NULL else 0)


cdef void wire_clear(port_t *port, int reason) noexcept nogil:
    cdef line_t *line = &port.wire.out
    cdef fair_t *fair = port.wire.fair
    while fair != NULL and fair.packets:
        port.counters.drops_out[reason] += 1
        free(fair_pop(fair, 0))
    while line.count:
        port.counters.drops_out[reason] += 1
        free(line_pop(line))
