# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Forwarding between attachments and uplinks: the data path (``routing``, ``rounds``) and what control may ask of it."""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport read

import ipaddress
import os

from netstack.address cimport (
    address_equal, address_format, address_is_any, address_is_unspecified6, address_is_v4, address_parse, address_t,
    address_v4,
)
from netstack.errors import ConfigError
from netstack.link.fault_injector cimport configure, line_stats
from netstack.link.impairment cimport line_init
from netstack.link.link cimport MEDIA_IP, NEVER
from netstack.router.budget cimport budget_init
from netstack.router.claims cimport claims_free, claims_leave
from netstack.router.devices.device cimport Device
from netstack.router.emulation cimport wire_clear, wire_deadline, wire_free, wire_new, wire_waiting
from netstack.router.fair cimport fair_t
from netstack.router.greedy import MISDEEDS, POLICIES, policy_number
from netstack.router.mirror cimport mirror_t
from netstack.router.neighbors cimport neighbor_t
from netstack.router.policing cimport (
    police_findings, police_forget, police_free, police_new, police_t, POLICY_OFF, POLICY_PENALTY,
)
from netstack.router.port import Drop
from netstack.router.port cimport (
    DROP_COUNT, DROP_DETACHED, DROP_OLD_EPOCH, MAX_PORT_ADDRESSES, PORT_ACTIVE, port_clear_queue, port_counters_t, PORT_FAILED,
    PORT_GREEDY, PORT_STACK, port_t, PORT_UPLINK, wire_t,
)
from netstack.router.rounds cimport close_descriptors, one_round, round_at, run
from netstack.router.route_table cimport RouteTable
from netstack.router.routes cimport routes_free, routes_init, routes_lose
from netstack.router.state cimport (
    enter, forwarder_t, leave, MAX_NETWORKS, network_has, network_t, PACKET_BYTES, pthread_mutex_t, pthread_t,
)
from netstack.router.station cimport side_t, station_announce, station_init, station_side, station_t
from netstack.router.table cimport (
    ENTRY_ACTIVE, ENTRY_COMMIT, ENTRY_DEAD, ENTRY_HOLD, ENTRY_LOCAL, ENTRY_SHARED, entry_t, table_find, table_free, table_init,
    table_insert, table_remove,
)
from netstack.router.uplink cimport station_of, uplink_free, uplink_of, uplink_t
from rings.doorbell cimport doorbell_kick, doorbell_now_ns, doorbell_spin_init
from rings.mapping cimport memory_lost
from rings.spsc_ring cimport ConsumerRing, ProducerRing, RING_CLOSED

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *, const void *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    int pthread_create(pthread_t *, const void *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)
    int pthread_setname_np(pthread_t, const char *)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *)
    int sigdelset(sigset_t *, int)
    int pthread_sigmask(int, const sigset_t *, sigset_t *)
    enum: SIG_SETMASK
    enum: SIGBUS

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event *)
    enum:
        EPOLLIN
        EPOLLET
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CLOEXEC

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int, int)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef extern from * nogil:
    """
    #define forwarder_store_flag(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    void forwarder_store_flag(bint *, bint)


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


cdef void watch_port(port_t *port, police_t *police) noexcept nogil:
    port.police = police
    if port.queue != NULL:
        port.queue.police = police
    if port.wire != NULL and port.wire.fair != NULL:
        port.wire.fair.police = police


cdef str failure_name(port_t *port):
    if port.kind == PORT_STACK and memory_lost(&port.watch):
        return "truncated"
    if port.failure == PORT_GREEDY:
        return "greedy"
    return "closed" if port.failure == RING_CLOSED else "poisoned"


cdef class Forwarder:
    """The data path of a router, and what control may ask of it.

    Parameters
    ----------
    networks : iterable of ipaddress networks
        The pools: addresses in them that nobody has are unreachable, and sent to an uplink only by a route inside.
    router_address : bytes, or iterable of bytes
        Its own: 16 bytes each. ICMP errors come from that of the network they go to, else from the first of their version.
    max_ports : int
        Attachments and uplinks together, at most 65,535.
    queue_limit : int
        Bytes that wait in private memory for one attachment whose ring is full.
    spin_us : int
        How long to look at the rings before sleeping, if a core is free; 0 never.
    fair : bool
        Where the rate of an emulated link makes packets wait, each attachment and uplink they come from has a queue of
        its own there, served in turn by bytes.
    codel : bool
        And packets do not wait there for long (RFC 8289): marked if their transport knows ECN, else dropped.
    budget : bool
        A turn of an attachment ends when its packets have cost what a batch of plain ones does (``budget.pxd``); without, only
        packets and bytes are counted.
    greedy : str
        What is done about TCPs that misbehave, see `netstack.router.greedy.POLICIES`.
    """

    def __cinit__(self, networks=(), router_address=(), *, uint32_t max_ports=1024, uint64_t queue_limit=1 << 20,
                  int64_t spin_us=50, bint fair=True, bint codel=False, bint budget=True, str greedy="off"):
        cdef bytes secret = os.urandom(16)
        cdef forwarder_t *f
        cdef epoll_event event
        cdef address_t a
        cdef int i
        self._keep = {}
        self._mirrored = {}
        if not 1 <= max_ports <= 65535:
            raise ConfigError(f"max_ports {max_ports}: 1 to 65535")
        f = self.f = <forwarder_t *> calloc(1, sizeof(forwarder_t))
        if f == NULL:
            raise MemoryError
        f.epoll_fd = f.wake_fd = f.event_fd = -1
        pthread_mutex_init(&f.gate, NULL)
        pthread_mutex_init(&f.main, NULL)
        routes_init(&f.routes)
        self._routes = RouteTable.__new__(RouteTable)
        self._routes.f = f
        f.max_ports = max_ports
        f.queue_limit = queue_limit
        f.fair = fair
        f.codel = codel
        budget_init(f, budget)
        self.set_greedy(greedy)
        f.cpus = len(os.sched_getaffinity(0))
        f.next_generation = 1
        doorbell_spin_init(&f.spin, spin_us * 1000 if f.cpus > 1 else 0)
        f.slots = <port_t **> calloc(max_ports, sizeof(port_t *))
        f.active = <port_t **> calloc(max_ports, sizeof(port_t *))
        f.scratch = <uint8_t *> malloc(PACKET_BYTES)
        if f.slots == NULL or f.active == NULL or f.scratch == NULL or table_init(&f.table, <const uint64_t *> <char *> secret) != 0:
            raise MemoryError
        f.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        f.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        f.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if f.epoll_fd < 0 or f.wake_fd < 0 or f.event_fd < 0:
            raise OSError(errno, os.strerror(errno))
        event.events = EPOLLIN
        event.data.u64 = 0
        if epoll_ctl(f.epoll_fd, EPOLL_CTL_ADD, f.wake_fd, &event) != 0:
            raise OSError(errno, os.strerror(errno))
        for network in networks:
            self.add_network(network)
        for own in (router_address,) if isinstance(router_address, bytes) else router_address:
            self.bind_local(own)
            address_parse(own, &a)
            for i in range(f.n_networks):
                if network_has(&f.networks[i], &a):
                    f.networks[i].router = a
            if address_is_unspecified6(&f.routers[not address_is_v4(&a)]):
                f.routers[not address_is_v4(&a)] = a

    def __dealloc__(self):
        cdef uint32_t i
        cdef forwarder_t *f = self.f
        if f == NULL:
            return
        if f.running:
            self.stop()
        for i in range(f.n_active):
            port_clear_queue(f.active[i], DROP_DETACHED)
            wire_free(f.active[i].wire)
            uplink_free(uplink_of(f.active[i]))
            if f.claims != NULL:
                claims_leave(f.claims, f.active[i], 0)
            free(f.active[i].mirror)
            free(f.active[i].limit)
            free(f.active[i])
        claims_free(f.claims)
        free(f.slots)
        free(f.scratch)
        free(f.active)
        police_free(self._police)
        table_free(&f.table)
        routes_free(&f.routes)
        close_descriptors(f)
        pthread_mutex_destroy(&f.gate)
        pthread_mutex_destroy(&f.main)
        free(f)

    # ---- running

    def start(self):
        """Start the data thread."""
        cdef sigset_t every, before
        cdef int status
        if self.f.running:
            return
        self.f.stopping = False
        sigfillset(&every)
        sigdelset(&every, SIGBUS)            # handled where memory is touched: rings/sigbus_guard.h
        pthread_sigmask(SIG_SETMASK, &every, &before)
        status = pthread_create(&self.f.thread, NULL, run, self.f)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if status != 0:
            raise OSError(status, f"cannot start the forwarding thread: {os.strerror(status)}")
        self.f.running = True
        pthread_setname_np(self.f.thread, b"netstack-router")

    def stop(self):
        """Stop the data thread and wait for it; what waits in rings stays there."""
        if not self.f.running:
            return
        forwarder_store_flag(&self.f.stopping, True)
        with nogil:
            doorbell_kick(self.f.wake_fd)
            pthread_join(self.f.thread, NULL)
        self.f.running = False

    def close(self):
        """Stop, and close the descriptors; counters can still be read. The ports must have been removed."""
        self.stop()
        close_descriptors(self.f)

    def run_once(self, now_ns=None):
        """One round in the calling thread (without `start`), at a time of any clock; returns how many packets it took."""
        cdef int n
        cdef int64_t now = -1 if now_ns is None else now_ns
        with nogil:
            n = one_round(self.f) if now < 0 else round_at(self.f, now)
        return n

    def fileno(self):
        """An eventfd that is readable when a port failed: read it, then ask `failed`."""
        return self.f.event_fd

    # ---- ports

    cdef port_t *port(self, uint64_t ident) except NULL:
        cdef uint32_t slot = ident & 0xffff
        if slot >= self.f.max_ports or self.f.slots[slot] == NULL or self.f.slots[slot].id != ident:
            raise KeyError(f"no port {ident}")
        return self.f.slots[slot]

    cdef port_t *new_port(self, int kind, uint32_t mtu, object keep) except NULL:
        """A port in its slot, not yet visited."""
        cdef forwarder_t *f = self.f
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
        self._keep[port.id] = keep
        return port

    cdef void publish(self, port_t *port) noexcept:
        """The data thread visits it from now on."""
        cdef forwarder_t *f = self.f
        with nogil:
            enter(f)
            f.slots[port.slot] = port
            f.active[f.n_active] = port
            f.n_active += 1
            leave(f)
            doorbell_kick(f.wake_fd)

    def add_stack(self, ProducerRing tx, ConsumerRing rx, int wake_fd, bells, *, uint32_t mtu=65535,
                  bint bells_are_sockets=False, bint wake_is_socket=False, keep=None):
        """Take an attachment's rings into service.

        Parameters
        ----------
        tx, rx : rings.spsc_ring.ProducerRing, ConsumerRing
            The router's ends, towards the stack and from it.
        wake_fd : int
            eventfd that the stack rings.
        bells : tuple of int
            What the router rings, by kind of sleeper: (-1, leader, service, -1).
        bells_are_sockets, wake_is_socket : bool
            They, and what the stack rings, are sockets (strangers) instead of eventfds (one owner).
        keep : object
            Kept alive as long as the port.

        Returns
        -------
        int
            The port's id.
        """
        cdef port_t *port = self.new_port(PORT_STACK, mtu, (tx, rx, keep))
        cdef epoll_event event
        cdef int i, status
        port.tx = &tx.ring
        port.rx = &rx.ring
        port.watch = tx.watch
        self.f.losses = tx.watch.losses
        port.wake_fd = wake_fd
        port.epoch = 1
        port.bells_are_sockets = bells_are_sockets
        port.wake_is_socket = wake_is_socket
        for i in range(4):
            port.bells[i] = bells[i]
        event.events = EPOLLIN | <uint32_t> EPOLLET
        event.data.u64 = port.id
        if epoll_ctl(self.f.epoll_fd, EPOLL_CTL_ADD, wake_fd, &event) != 0:
            status = errno
            del self._keep[port.id]
            free(port)
            raise OSError(status, f"watch an attachment's doorbell: {os.strerror(status)}")
        self.publish(port)
        return port.id

    def add_uplink(self, Device device not None, *, bytes mac=None, own=(), gateways=(), bint default=True):
        """Take a device into service.

        Parameters
        ----------
        device : netstack.router.devices.device.Device
            Belongs to the port from now on; it is closed by who opened it, after `remove`.
        mac : bytes
            The router's Ethernet address there. Devices that carry IP packets have none.
        own : iterable of str or ipaddress interfaces
            The router's own addresses there, at most one of each version, with the prefix length of the network.
        gateways : iterable of str or ipaddress addresses
            Where destinations outside those networks are sent; without one of their version they are asked for themselves.
        default : bool
            Packets for addresses outside the pools go here.
        """
        cdef epoll_event event
        cdef int status
        cdef port_t *port = self.new_port(PORT_UPLINK, device.device.mtu, device)
        cdef uplink_t *uplink = <uplink_t *> calloc(1, sizeof(uplink_t))
        port.uplink = uplink
        port.wake_fd = device.device.fd
        try:
            if uplink == NULL:
                raise MemoryError
            uplink.device = &device.device
            if device.device.ethernet:
                uplink.station = self.new_station(device, mac, own, gateways)
            event.events = EPOLLIN
            event.data.u64 = port.id
            if epoll_ctl(self.f.epoll_fd, EPOLL_CTL_ADD, device.device.fd, &event) != 0:
                status = errno
                raise OSError(status, f"watch an uplink: {os.strerror(status)}")
        except BaseException:
            del self._keep[port.id]
            uplink_free(uplink)
            free(port)
            raise
        self.publish(port)
        if default:
            with nogil:
                enter(self.f)
                self.f.default_uplink = port
                leave(self.f)
        return port.id

    cdef station_t *new_station(self, Device device, bytes mac, own, gateways) except NULL:
        """The router on an Ethernet."""
        cdef station_t *station
        cdef side_t *side
        cdef address_t a
        cdef bytes secret = os.urandom(16), mask
        if mac is None or len(mac) != 6 or mac[0] & 1:
            raise ConfigError("an uplink that carries Ethernet needs a station's address of 6 bytes, no group's")
        station = <station_t *> calloc(1, sizeof(station_t))
        if station == NULL or station_init(station, &device.device, mac, &self.f.table, &self.f.routes,
                                           <const uint64_t *> <char *> secret) != 0:
            free(station)
            raise MemoryError
        for interface in map(ipaddress.ip_interface, own):
            address_parse(interface.ip, &a)
            side = station_side(station, &a)
            side.own = a
            address_parse(interface.network.network_address, &side.base)
            mask = interface.network.netmask.packed
            mask = b"\xff" * (16 - len(mask)) + mask
            memcpy(&side.mask, <const char *> mask, 16)
        for gateway in gateways:
            address_parse(gateway, &a)
            side = station_side(station, &a)
            side.gateway = a
            side.routed = True
            if address_is_any(&side.own):            # of no network: nobody else is reached directly
                side.base = a
                side.mask.hi = side.mask.lo = <uint64_t> -1
        return station

    def announce(self, address):
        """Tell the stations at all uplinks that an address is here (gratuitous ARP, unsolicited neighbour advertisement)."""
        cdef address_t a
        cdef uint32_t i
        address_parse(address, &a)
        with nogil:
            enter(self.f)
            for i in range(self.f.n_active):
                if self.f.active[i].uplink != NULL and station_of(self.f.active[i]) != NULL:
                    station_announce(station_of(self.f.active[i]), &a)
            leave(self.f)

    def neighbors(self, uint64_t ident):
        """Who is known at an uplink: dict of address to (Ethernet address, or None while it is asked for; packets that wait)."""
        cdef port_t *port = self.port(ident)
        cdef station_t *station
        cdef neighbor_t *n
        cdef uint32_t i
        cdef dict found = {}
        if port.uplink == NULL or station_of(port) == NULL:
            return found
        station = station_of(port)
        with nogil:
            enter(self.f)
        for i in range(station.neighbors.touched):
            n = &station.neighbors.entries[i]
            if n.address.hi or n.address.lo:
                found[address_format(&n.address)] = ((<char *> n.mac)[:6] if n.resolved else None, n.pending_count)
        leave(self.f)
        return found

    def lead_outside(self, uint64_t ident, *, bint default=True):
        """Make an attachment the way to the outside, whose stack speaks for all addresses but those of stacks and pools.

        Parameters
        ----------
        default : bool
            Packets for addresses outside the pools go there.
        """
        cdef port_t *port = self.port(ident)
        with nogil:
            enter(self.f)
            port.outside = True
            if default:
                self.f.default_uplink = port
            leave(self.f)

    def remove(self, uint64_t ident, *, bint hold=False):
        """Take a port out of service; nothing of it is touched afterwards.

        Its addresses become dead (answered by RST) or, with `hold`, wait silently for their owner.

        Returns
        -------
        dict
            Its last counters.
        """
        cdef forwarder_t *f = self.f
        cdef port_t *port = self.port(ident)
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
        del self._keep[ident]
        self._mirrored.pop(ident, None)
        return values

    def failed(self):
        """Ports whose stack ended their ring: list of (id, ``closed``, ``poisoned`` or ``truncated``). Clears the event."""
        cdef forwarder_t *f = self.f
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

    def mirror(self, uint64_t ident, ProducerRing ring, *, uint32_t snap_length=65535):
        """Copy each packet between an attachment and the router into a ring too: see ``mirror.pxd``.

        Parameters
        ----------
        ident : int
            The attachment's port.
        ring : rings.spsc_ring.ProducerRing
            Its memory must be safe from being truncated by who reads it.
        snap_length : int
            Bytes kept of each packet.

        Raises
        ------
        ValueError
            It has a mirror already, or it is an uplink.
        """
        cdef port_t *port = self.port(ident)
        cdef mirror_t *fresh
        if port.kind != PORT_STACK:
            raise ValueError("uplinks have no mirror: capture on the device itself")
        if port.mirror != NULL:
            raise ValueError("somebody captures at this attachment already")
        fresh = <mirror_t *> calloc(1, sizeof(mirror_t))
        if fresh == NULL:
            raise MemoryError
        fresh.ring = &ring.ring
        fresh.snap_length = snap_length
        self._mirrored[ident] = ring
        with nogil:
            enter(self.f)
            port.mirror = fresh
            leave(self.f)

    def mirrored(self, uint64_t ident, *, bint end=False):
        """``(packets, missed)``: what was copied, and what was not for want of room; None without a mirror.

        With `end` the mirror goes, and its ring is not touched afterwards.
        """
        cdef port_t *port = self.port(ident)
        cdef mirror_t *mirror
        cdef uint64_t packets = 0, missed = 0
        with nogil:
            enter(self.f)
            mirror = port.mirror
            if mirror != NULL:
                packets = mirror.packets
                missed = mirror.missed
                if end:
                    port.mirror = NULL
            leave(self.f)
        if mirror == NULL:
            return None
        if end:
            free(mirror)
            del self._mirrored[ident]
        return packets, missed

    def emulate(self, uint64_t ident, *, uint64_t seed=0, output=None, input=None, **both):
        """Put a bad link between a port and the router, or change the one there is.

        Parameters
        ----------
        ident : int
            The port.
        seed : int
            Same seed, same packets at the same times: same fate. It counts when the link is made.
        output, input : mapping, optional
            Impairments towards the stack or uplink, and from it: ``delay``, ``jitter``, ``rate``, ``loss`` and ``queue``
            as `netstack.link.FaultInjector` knows them.
        **both
            Impairments of both directions.
        """
        cdef port_t *port = self.port(ident)
        cdef wire_t *fresh = NULL
        unknown = {*both, *(output or {}), *(input or {})} - {"delay", "jitter", "rate", "loss", "queue"}
        if unknown:
            raise TypeError(f"no impairment {', '.join(sorted(unknown))}: there are delay, jitter, rate, loss, queue")
        fresh = wire_new(self.f.fair, self.f.codel, port.mtu)
        if fresh.fair != NULL:
            fresh.fair.police = port.police
        line_init(&fresh.out, 2 * seed)
        line_init(&fresh.back, 2 * seed + 1)
        fresh.out.media = fresh.back.media = MEDIA_IP
        try:                                       # in the clear first: what is wrong raises here
            configure(&fresh.out, {**both, **(output or {})})
            configure(&fresh.back, {**both, **(input or {})})
        except BaseException:
            wire_free(fresh)
            raise
        with nogil:
            enter(self.f)
        try:
            if port.wire == NULL:
                port.wire, fresh = fresh, NULL
                self.f.wires += 1
            else:
                configure(&port.wire.out, {**both, **(output or {})})
                configure(&port.wire.back, {**both, **(input or {})})
        finally:
            leave(self.f)
            wire_free(fresh)
            doorbell_kick(self.f.wake_fd)

    def emulated(self, uint64_t ident):
        """What became of the packets on a port's emulated link, as `netstack.link.FaultInjector.stats`; None without one.

        With fair queues the output also says ``crowded_out`` (of who had most in a full queue), ``codel_dropped`` (both
        are part of ``queue_dropped``) and ``codel_marked``.
        """
        cdef port_t *port = self.port(ident)
        cdef fair_t *fair
        if port.wire == NULL:
            return None
        with nogil:
            enter(self.f)
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
            leave(self.f)

    def next_deadline(self):
        """When a packet on an emulated link comes to its end or its turn, or one that waits for a limit may go (a time of the
        clock of `run_once`), or None."""
        cdef int64_t first = NEVER
        cdef uint32_t i
        with nogil:
            enter(self.f)
            for i in range(self.f.n_active):
                if self.f.active[i].wire != NULL and wire_deadline(self.f.active[i]) < first:
                    first = wire_deadline(self.f.active[i])
                if self.f.active[i].limit != NULL and 0 < self.f.active[i].limit.until_ns < first:
                    first = self.f.active[i].limit.until_ns
            leave(self.f)
        return None if first == NEVER else first

    # ---- TCPs that misbehave

    @property
    def greedy(self):
        """What is done about TCPs that misbehave: one of `netstack.router.greedy.POLICIES`."""
        return POLICIES[self._police.policy] if self._police != NULL else "off"

    def set_greedy(self, str policy):
        """Change that. Where nobody was watched, connections that are open already are judged by little."""
        cdef int wanted = policy_number(policy)
        cdef police_t *police = self._police
        cdef uint32_t i
        if wanted == POLICY_PENALTY and not self.f.fair:
            raise ConfigError("greedy 'penalty' is a queue of its own: not without fair")
        if police == NULL:
            if wanted == POLICY_OFF:
                return
            police = self._police = police_new()
        with nogil:
            enter(self.f)
            if police.policy == POLICY_OFF:
                police_forget(police)
            police.policy = wanted
            self.f.police = police if wanted != POLICY_OFF else NULL
            for i in range(self.f.n_active):
                watch_port(self.f.active[i], self.f.police)
            leave(self.f)

    def findings(self):
        """TCPs that misbehaved since the last call, `netstack.router.greedy.Finding` each; the last 64."""
        if self._police == NULL:
            return []
        with nogil:
            enter(self.f)
        try:
            return police_findings(self._police)
        finally:
            leave(self.f)

    # ---- addresses

    def add_network(self, network):
        """Make a pool known: an address of it that nobody has is unreachable, unless a longer prefix has a route."""
        cdef network_t *n
        cdef bytes mask = network.netmask.packed
        if self.f.n_networks == MAX_NETWORKS:
            raise ConfigError(f"a router has at most {MAX_NETWORKS} pools")
        self._routes.add(network, None, None, False)
        n = &self.f.networks[self.f.n_networks]
        memset(n, 0, sizeof(network_t))
        address_parse(network.network_address, &n.base)
        mask = b"\xff" * (16 - len(mask)) + mask
        memcpy(&n.mask, <const char *> mask, 16)
        with nogil:
            enter(self.f)
            self.f.n_networks += 1
            leave(self.f)

    cdef entry_t *change(self, address, uint32_t state) except NULL:
        """Under the lock: the entry of an address in a new state, without a port."""
        cdef address_t a
        cdef entry_t *e
        address_parse(address, &a)
        e = table_insert(&self.f.table, &a)
        if e == NULL:
            raise MemoryError
        e.port = NULL
        e.state = state
        return e

    def bind_local(self, address):
        """An address of the router itself."""
        with nogil:
            enter(self.f)
        try:
            self.change(address, ENTRY_LOCAL)
        finally:
            leave(self.f)

    def bind(self, uint64_t ident, address, uint32_t epoch, *, bint commit=False):
        """Packets to `address` go to this port from now on, and only it may send from there.

        Who had the address until now may no longer send from it (its packets are of an old epoch).
        """
        cdef port_t *port = self.port(ident)
        cdef port_t *before
        cdef address_t a
        cdef entry_t *e
        cdef int i
        address_parse(address, &a)
        if port.n_addresses == MAX_PORT_ADDRESSES:
            raise ConfigError(f"an attachment has at most {MAX_PORT_ADDRESSES} addresses")
        with nogil:
            enter(self.f)
        try:
            e = table_find(&self.f.table, &a)
            before = <port_t *> e.port if e != NULL else NULL
            if before != NULL and before != port:
                for i in range(before.n_addresses):
                    if address_equal(&before.addresses[i], &a):
                        before.epochs[i] = 0
            e = self.change(address, ENTRY_COMMIT if commit else ENTRY_ACTIVE)
            e.port = port
            e.epoch = epoch
            for i in range(port.n_addresses):
                if address_equal(&port.addresses[i], &a):
                    break
            else:
                i = port.n_addresses
                port.n_addresses += 1
            port.addresses[i] = a
            port.epochs[i] = epoch
        finally:
            leave(self.f)

    def set_state(self, address, str state):
        """Change what happens to packets for an address: ``dead``, ``hold``, ``commit`` or ``active``."""
        cdef address_t a
        cdef entry_t *e
        cdef dict states = {"dead": ENTRY_DEAD, "hold": ENTRY_HOLD, "commit": ENTRY_COMMIT, "active": ENTRY_ACTIVE}
        cdef uint32_t wanted = states[state]
        address_parse(address, &a)
        with nogil:
            enter(self.f)
        try:
            e = table_find(&self.f.table, &a)
            if e == NULL:
                raise KeyError(f"{address_format(&a)} is not in the table")
            if wanted in (ENTRY_ACTIVE, ENTRY_COMMIT) and e.port == NULL:
                raise ValueError(f"{address_format(&a)} has no port")
            e.state = wanted
        finally:
            leave(self.f)

    def hold(self, address, uint32_t epoch):
        """Packets for this address are dropped in silence until its owner comes back, or it is ``dead``."""
        cdef entry_t *e
        with nogil:
            enter(self.f)
        try:
            e = self.change(address, ENTRY_HOLD)
            e.epoch = epoch
        finally:
            leave(self.f)

    def forget(self, address):
        """Remove an address from the table: nobody had it."""
        cdef address_t a
        cdef entry_t *e
        address_parse(address, &a)
        with nogil:
            enter(self.f)
            e = table_find(&self.f.table, &a)
            if e != NULL:
                table_remove(&self.f.table, e)
            leave(self.f)

    def entries(self):
        """The table: dict of address to (state, port id or None, epoch)."""
        cdef dict names = {ENTRY_ACTIVE: "active", ENTRY_LOCAL: "local", ENTRY_DEAD: "dead", ENTRY_HOLD: "hold",
                           ENTRY_COMMIT: "commit", ENTRY_SHARED: "shared"}
        cdef dict out = {}
        cdef uint64_t i
        cdef entry_t *e
        with nogil:
            enter(self.f)
        for i in range(self.f.table.mask + 1):
            e = &self.f.table.entries[i]
            if e.state:
                out[address_format(&e.address)] = (
                    names[e.state], (<port_t *> e.port).id if e.port != NULL else None, e.epoch)
        leave(self.f)
        return out

    def advance_epoch(self, uint64_t ident):
        """Whatever waits for this port in private memory is of an old epoch now."""
        cdef port_t *port = self.port(ident)
        with nogil:
            enter(self.f)
            port.epoch += 1
            if port.wire != NULL:
                wire_clear(port, DROP_OLD_EPOCH)
            leave(self.f)

    # ---- routes

    def add_route(self, network, uint64_t ident, *, gateway=None, bint replace=False):
        """Send packets to a prefix to a port, unless the address has an entry or a longer prefix a route.

        To an attachment: the prefix lives behind it, which may send from there too, and what comes in from an uplink may
        not. When the attachment goes, its prefix is answered like an address whose owner is gone; `remove_route` ends that.

        Parameters
        ----------
        network : ipaddress.IPv4Network or IPv6Network
        ident : int
            The port.
        gateway : address, optional
            On an uplink, who takes them on.
        replace : bool
            Change a route that there is instead of raising.

        Raises
        ------
        KeyError
            No such port.
        ValueError
            The prefix has a route, or is a pool.
        """
        self._routes.add(network, ident, gateway, replace)

    def set_block_aside(self, network, *, bint held=False):
        """The attachment of a block is gone, or was never here: its addresses are answered for like those of the dead or,
        with `held`, wait silently for their owner. `add_route` with ``replace``, or `remove_route`, ends that."""
        self._routes.set_aside(network, held)

    def remove_route(self, network):
        """Raises KeyError without such a route, ValueError for a pool."""
        self._routes.remove(network)

    def load_routes(self, int version, entries, hops):
        """Add many routes, built aside while packets go on.

        Parameters
        ----------
        version : {4, 6}
        entries : buffer
            As `netstack.router.prefixes.PrefixTable.load` takes them; answer n is the n-th of `hops`.
        hops : list of (int, gateway or None)
            Ports.

        Raises
        ------
        KeyError, ValueError
            As `add_route`; then none is added.
        """
        self._routes.load(version, entries, hops)

    def move_routes(self, before, ident):
        """Routes to port `before`, which is gone, lead to port `ident` from now on."""
        self._routes.move(before, ident)

    def routes(self, int version, *, after=None, int most=1000):
        """At most so many routes by address and length, pools among them, those behind `after`.

        Returns
        -------
        list of tuple
            (network, ``pool``, ``uplink`` or ``stack``, port id or 0, text of the gateway or None). The port may be gone.
        """
        return self._routes.after(version, after, most)

    def route(self, network):
        """The route of exactly this prefix as `routes` shows it, None without one."""
        return self._routes.get(network)

    def route_memory(self, int version):
        """How many ``routes`` there are, the bytes of what packets look at (``lookup``) and of the rest (``prefixes``)."""
        return self._routes.memory(version)

    # ---- counting

    def values(self, uint64_t ident=0):
        """Counters of a port, or of the whole router (0), in the order of `counter_names`."""
        cdef port_counters_t total
        cdef uint64_t queued = 0
        cdef uint32_t i
        cdef port_t *port = NULL
        if ident:
            port = self.port(ident)
        with nogil:
            enter(self.f)
            if port != NULL:
                total = port.counters
                queued = waiting(port)
            else:
                total = self.f.retired
                for i in range(self.f.n_active):
                    add_counters(&total, &self.f.active[i].counters)
                    queued += waiting(self.f.active[i])
            leave(self.f)
        return counter_values(&total, queued)

    def counters(self, uint64_t ident=0):
        """Counters of a port, or of the whole router, by name."""
        return dict(zip(counter_names(), self.values(ident)))

    def has_port(self, uint64_t ident):
        """Is there a port of that number?"""
        return ident in self._keep

    def state(self, uint64_t ident):
        """`PortState` of a port."""
        return self.port(ident).state

    def mtu(self, uint64_t ident):
        """Largest packet that a port takes, bytes."""
        return self.port(ident).mtu

    def queue_bytes(self, uint64_t ident):
        """Private memory that waits for a port."""
        return self.port(ident).queue_bytes

    def check_conservation(self):
        """Packets in = packets out + drops, for every port and for the router, at one moment.

        Returns
        -------
        list of str
            The laws that do not hold: empty.
        """
        cdef list broken = []
        cdef port_counters_t total
        cdef port_counters_t *c
        cdef uint32_t i
        with nogil:
            enter(self.f)
        try:
            total = self.f.retired
            unbalanced(&total, 0, "retired", broken)
            for i in range(self.f.n_active):
                c = &self.f.active[i].counters
                unbalanced(c, waiting(self.f.active[i]), f"port {self.f.active[i].id}", broken)
                add_counters(&total, c)
            if total.forwarded + total.generated + total.split != total.to_packets:
                broken.append(f"router: forwarded {total.forwarded} + generated {total.generated} + split {total.split} != "
                              f"handed over {total.to_packets}")
        finally:
            leave(self.f)
        return broken

    @property
    def rounds(self):
        return self.f.rounds

    @property
    def sleeps(self):
        """How often the data thread went to sleep."""
        return self.f.sleeps

    @property
    def ports(self):
        """How many ports are in service."""
        return self.f.n_active


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
