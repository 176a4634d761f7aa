"""What an attachment may cost the router: a quantum of work a round, counted, not timed.

Work is counted in units of what a byte of payload costs on its way from ring to ring, about 0.1 ns. A packet costs
COST_PACKET and its bytes; where one costs more, the code that does more charges for it (`charge`). An attachment that has
used up its quantum ends its turn, and what it overdrew it owes: it has no turn until rounds in which others had work have
paid for it (deficit round robin, Shreedhar and Varghese 1995, with work in place of bytes). When nobody else has anything,
nobody owes anything: the router never idles while a packet waits. Without charges an attachment would get packets for its
turn, however long each takes.

The numbers are medians of `python -m bench.work`, two cores of an x86-64 server of 2023, rounded: they only have to be right
in proportion.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.router.port cimport port_t
from netstack.router.routing cimport BATCH, BATCH_BYTES
from netstack.router.state cimport forwarder_t
from rings.spsc_ring cimport ring_has_data

cdef enum:
    QUANTUM = 64 * 1024          # a batch of small packets, or one of 64 KiB
    COST_PACKET = 1000           # judged, its port found, written into a ring: 50 ns in the caches, 250 ns out of them
    COST_LOOKUP = 300            # by prefix, in place of the table's entry
    COST_STEER = 400             # told apart by ports
    COST_WAIT = 1000             # through private memory, for a ring that is full or an emulated link
    COST_PIECE = 1000            # cut from a larger one: headers and a checksum of its own
    COST_ERROR = 1000            # an ICMP error made
    COST_RESET = 500             # a reset made, in place of a packet that goes on
    COST_CALL = 20000            # a call of the system: a frame to a device
    COST_KICK = 12000            # a doorbell rung


cdef inline void budget_init(forwarder_t *f, bint on) noexcept nogil:
    f.quantum = QUANTUM if on else BATCH_BYTES + BATCH * COST_PACKET
    f.charging = -1 if on else 0


cdef inline void charge(forwarder_t *f, int64_t cost) noexcept nogil:
    """The attachment whose turn it is pays for something that not every packet costs."""
    f.charged += cost & f.charging


cdef inline bint budget_deferred(forwarder_t *f, port_t *port) noexcept nogil:
    """Does it owe a round's work and more? Then this round pays for it, and others go before."""
    if port.debt < f.quantum:
        return False
    port.debt -= f.quantum
    if ring_has_data(port.rx):
        port.counters.deferred += 1
        f.n_deferred += 1
    return True


cdef inline int64_t budget_begin(forwarder_t *f, port_t *port) noexcept nogil:
    """What its turn may cost."""
    cdef int64_t budget = f.quantum - port.debt
    port.debt = 0
    f.charged = 0
    return budget


cdef inline void budget_end(forwarder_t *f, port_t *port, int64_t budget, int64_t left) noexcept nogil:
    """What its turn did cost: `left` of the budget, and what was charged meanwhile."""
    left -= f.charged
    port.counters.work += <uint64_t> (budget - left)
    if left < 0:
        port.debt = -left & f.charging


cdef inline void budget_owe(forwarder_t *f, port_t *port, int64_t cost) noexcept nogil:
    """It did cost that, beside what was charged, outside of its turns."""
    cost += f.charged
    port.counters.work += <uint64_t> cost
    port.debt += cost & f.charging


cdef inline bint budget_forgive(forwarder_t *f) noexcept nogil:
    """Nobody had work but who owes: True, and nobody owes anything."""
    cdef uint32_t i
    if f.n_deferred == 0:
        return False
    for i in range(f.n_active):
        f.active[i].debt = 0
    f.n_deferred = 0
    return True
