# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The counters of ports and of the whole router, and the laws of conservation among them (``port.pxd``)."""

from libc.stdint cimport uint64_t

from netstack.router.emulation cimport wire_waiting
from netstack.router.greedy import MISDEEDS
from netstack.router.port import Drop
from netstack.router.port cimport DROP_COUNT, port_counters_t, port_t

cdef list COUNTER_NAMES = [
    "in_packets", "in_bytes", "forwarded", "consumed", "to_packets", "generated", "split", "out_packets", "out_bytes",
    "queued_total", "marked", "kicks", "wakes", "spurious", "header_errors", "limited", "deferred", "work",
    "neighbor_conflicts", "policed", *(f"greedy_{name}" for name in MISDEEDS),
]
cdef list DROP_NAMES = [Drop(i).name.lower()[5:] for i in range(<int> DROP_COUNT)]


def counter_names():
    """Names of the values that `Forwarder.values` gives, in their order."""
    return [*COUNTER_NAMES, "queued", *(f"drop_in_{n}" for n in DROP_NAMES), *(f"drop_out_{n}" for n in DROP_NAMES)]


cdef list counter_values(const port_counters_t *c, uint64_t queued):
    cdef list values = [
        c.in_packets, c.in_bytes, c.forwarded, c.consumed, c.to_packets, c.generated, c.split, c.out_packets, c.out_bytes,
        c.queued_total, c.marked, c.kicks, c.wakes, c.spurious, c.header_errors, c.limited, c.deferred, c.work,
        c.neighbor_conflicts, c.policed, c.greedy[0], c.greedy[1], c.greedy[2], c.greedy[3], queued,
    ]
    cdef int i
    for i in range(<int> DROP_COUNT):
        values.append(c.drops_in[i])
    for i in range(<int> DROP_COUNT):
        values.append(c.drops_out[i])
    return values


cdef void add_counters(port_counters_t *total, const port_counters_t *c) noexcept nogil:
    cdef uint64_t *t = <uint64_t *> total
    cdef const uint64_t *s = <const uint64_t *> c
    cdef size_t i
    for i in range(sizeof(port_counters_t) // 8):
        t[i] += s[i]


cdef uint64_t waiting(const port_t *port) noexcept nogil:
    """Packets for the port that are neither out nor dropped."""
    return port.queue_packets + (wire_waiting(port) if port.wire != NULL else 0)


cdef void unbalanced(const port_counters_t *c, uint64_t queued, str who, list broken):
    cdef uint64_t drops_in = 0, drops_out = 0
    cdef int i
    for i in range(<int> DROP_COUNT):
        drops_in += c.drops_in[i]
        drops_out += c.drops_out[i]
    if c.in_packets != c.forwarded + c.consumed + drops_in:
        broken.append(f"{who}: in {c.in_packets} != forwarded {c.forwarded} + consumed {c.consumed} + drops {drops_in}")
    if c.to_packets != c.out_packets + drops_out + queued:
        broken.append(f"{who}: handed over {c.to_packets} != out {c.out_packets} + drops {drops_out} + queued {queued}")
