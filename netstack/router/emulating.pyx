# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Bad links between ports and the router, as control makes, changes and asks them (``emulation``)."""

from libc.stdint cimport uint64_t

from netstack.link.fault_injector cimport configure, line_stats
from netstack.link.impairment cimport line_init
from netstack.link.link cimport MEDIA_IP
from netstack.router.emulation cimport wire_free, wire_new
from netstack.router.fair cimport fair_t
from netstack.router.port cimport port_t, wire_t
from netstack.router.state cimport enter, forwarder_t, leave
from rings.doorbell cimport doorbell_kick


cdef int link_emulate(forwarder_t *f, port_t *port, uint64_t seed, dict output, dict input) except -1:
    cdef wire_t *fresh = NULL
    unknown = {*output, *input} - {"delay", "jitter", "rate", "loss", "queue"}
    if unknown:
        raise TypeError(f"no impairment {', '.join(sorted(unknown))}: there are delay, jitter, rate, loss, queue")
    fresh = wire_new(f.fair, f.codel, port.mtu)
    if fresh.fair != NULL:
        fresh.fair.police = port.police
    line_init(&fresh.out, 2 * seed)
    line_init(&fresh.back, 2 * seed + 1)
    fresh.out.media = fresh.back.media = MEDIA_IP
    try:                                       # in the clear first: what is wrong raises here
        configure(&fresh.out, output)
        configure(&fresh.back, input)
    except BaseException:
        wire_free(fresh)
        raise
    with nogil:
        enter(f)
    try:
        if port.wire == NULL:
            port.wire, fresh = fresh, NULL
            f.wires += 1
        else:
            configure(&port.wire.out, output)
            configure(&port.wire.back, input)
    finally:
        leave(f)
        wire_free(fresh)
        doorbell_kick(f.wake_fd)
    return 0


cdef dict link_emulated(forwarder_t *f, port_t *port):
    cdef fair_t *fair
    if port.wire == NULL:
        return None
    with nogil:
        enter(f)
    try:
        out = {"output": line_stats(&port.wire.out), "input": line_stats(&port.wire.back)}
        fair = port.wire.fair
        if fair != NULL:
            out["output"]["pushed"] += fair.packets
            out["output"]["held"] += fair.packets
            out["output"] |= {"crowded_out": fair.crowded_out, "codel_dropped": fair.codel_dropped,
                              "codel_marked": fair.codel_marked}
        return out
    finally:
        leave(f)
