# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Ports come into service and go out of it: attachments and uplinks, as control adds and removes them."""

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport read

import os

from netstack.router.claims cimport claims_leave
from netstack.router.counting cimport add_counters, counter_values
from netstack.router.counting import counter_names
from netstack.router.devices.device cimport Device
from netstack.router.emulation cimport wire_clear, wire_free
from netstack.router.epoll cimport EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLET, EPOLLIN, epoll_ctl, epoll_event
from netstack.router.port cimport (
    DROP_DETACHED, PORT_ACTIVE, port_clear_queue, PORT_FAILED, PORT_GREEDY, PORT_STACK, port_t, PORT_UPLINK,
)
from netstack.router.routes cimport routes_lose
from netstack.router.state cimport enter, forwarder_t, leave
from netstack.router.stations cimport station_new
from netstack.router.table cimport ENTRY_DEAD, ENTRY_HOLD, entry_t, table_find
from netstack.router.uplink cimport uplink_free, uplink_of, uplink_t
from rings.doorbell cimport doorbell_kick, doorbell_now_ns
from rings.mapping cimport memory_lost
from rings.spsc_ring cimport ConsumerRing, ProducerRing, RING_CLOSED


cdef port_t *port_new(forwarder_t *f, int kind, uint32_t mtu) except NULL:
    """A port in its slot, not yet visited."""
    cdef uint32_t slot
    cdef port_t *port
    for slot in range(f.max_ports):
        if f.slots[slot] == NULL:
            break
    else:
        raise BlockingIOError(f"the router serves {f.max_ports} ports and has no free one")
    port = <port_t *> calloc(1, sizeof(port_t))
    if port == NULL:
        raise MemoryError
    port.slot = slot
    port.id = f.next_generation << 16 | slot
    f.next_generation += 1
    port.kind = kind
    port.mtu = mtu
    port.state = PORT_ACTIVE
    port.queue_limit = f.queue_limit
    port.one_queue = not f.fair
    port.police = f.police
    port.bells[:] = [-1, -1, -1, -1]
    port.wake_fd = -1
    return port


cdef port_t *port_of_stack(forwarder_t *f, ProducerRing tx, ConsumerRing rx, int wake_fd, object bells, uint32_t mtu,
                           bint bells_are_sockets, bint wake_is_socket) except NULL:
    """An attachment's, not yet visited."""
    cdef port_t *port = port_new(f, PORT_STACK, mtu)
    cdef epoll_event event
    cdef int i, status
    port.tx = &tx.ring
    port.rx = &rx.ring
    port.watch = tx.watch
    f.losses = tx.watch.losses
    port.wake_fd = wake_fd
    port.epoch = 1
    port.bells_are_sockets = bells_are_sockets
    port.wake_is_socket = wake_is_socket
    for i in range(4):
        port.bells[i] = bells[i]
    event.events = EPOLLIN | <uint32_t> EPOLLET
    event.data.u64 = port.id
    if epoll_ctl(f.epoll_fd, EPOLL_CTL_ADD, wake_fd, &event) != 0:
        status = errno
        free(port)
        raise OSError(status, f"watch an attachment's doorbell: {os.strerror(status)}")
    return port


cdef port_t *port_of_uplink(forwarder_t *f, Device device, bytes mac, object own, object gateways) except NULL:
    """A device's, not yet visited."""
    cdef epoll_event event
    cdef int status
    cdef port_t *port = port_new(f, PORT_UPLINK, device.device.mtu)
    cdef uplink_t *uplink = <uplink_t *> calloc(1, sizeof(uplink_t))
    port.uplink = uplink
    port.wake_fd = device.device.fd
    try:
        if uplink == NULL:
            raise MemoryError
        uplink.device = &device.device
        if device.device.ethernet:
            uplink.station = station_new(f, device, mac, own, gateways)
        event.events = EPOLLIN
        event.data.u64 = port.id
        if epoll_ctl(f.epoll_fd, EPOLL_CTL_ADD, device.device.fd, &event) != 0:
            status = errno
            raise OSError(status, f"watch an uplink: {os.strerror(status)}")
    except BaseException:
        uplink_free(uplink)
        free(port)
        raise
    return port


cdef void port_publish(forwarder_t *f, port_t *port) noexcept:
    """The data thread visits it from now on."""
    with nogil:
        enter(f)
        f.slots[port.slot] = port
        f.active[f.n_active] = port
        f.n_active += 1
        leave(f)
        doorbell_kick(f.wake_fd)


cdef dict port_remove(forwarder_t *f, port_t *port, bint hold):
    """Take it out of service and free it. Its last counters."""
    cdef epoll_event event
    cdef uint32_t i
    cdef entry_t *e
    with nogil:
        enter(f)
        epoll_ctl(f.epoll_fd, EPOLL_CTL_DEL, port.wake_fd, &event)
        f.slots[port.slot] = NULL
        for i in range(f.n_active):
            if f.active[i] == port:
                f.n_active -= 1
                f.active[i] = f.active[f.n_active]
                break
        for i in range(<uint32_t> port.n_addresses):
            e = table_find(&f.table, &port.addresses[i])
            if e != NULL and e.port == port:
                e.port = NULL
                e.state = ENTRY_HOLD if hold else ENTRY_DEAD
        if f.default_uplink == port:
            f.default_uplink = NULL
        routes_lose(&f.routes, port)
        if f.claims != NULL:
            claims_leave(f.claims, port, doorbell_now_ns() if f.running else f.now_ns)
        if port.muted_until_ns:
            f.n_muted -= 1
        if port.uplink != NULL:                    # what waits for a neighbour
            port.counters.drops_out[<int> DROP_DETACHED] += port.queue_packets
            port.queue_packets = 0
            uplink_free(uplink_of(port))
        port_clear_queue(port, DROP_DETACHED)
        if port.wire != NULL:
            wire_clear(port, DROP_DETACHED)
            wire_free(port.wire)
            port.wire = NULL
            f.wires -= 1
        if port.limit != NULL:
            f.limited -= 1
        add_counters(&f.retired, &port.counters)
        leave(f)
    values = dict(zip(counter_names(), counter_values(&port.counters, 0)))
    free(port.mirror)
    free(port.limit)
    free(port)
    return values


cdef str failure_name(port_t *port):
    if port.kind == PORT_STACK and memory_lost(&port.watch):
        return "truncated"
    if port.failure == PORT_GREEDY:
        return "greedy"
    return "closed" if port.failure == RING_CLOSED else "poisoned"


cdef list ports_failed(forwarder_t *f):
    cdef uint64_t count
    cdef uint32_t i
    cdef list found = []
    if read(f.event_fd, &count, 8) < 0:
        pass
    with nogil:
        enter(f)
    for i in range(f.n_active):
        if f.active[i].state == PORT_FAILED:
            found.append((f.active[i].id, failure_name(f.active[i])))
    leave(f)
    return found
