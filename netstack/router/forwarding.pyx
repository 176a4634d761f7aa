# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Forwarding between attachments and uplinks: what control may ask of the data path and change.

The data path itself is ``routing`` and ``rounds``; its memory and thread are a `DataPath`'s. What takes more than a few
lines stands beside what it is about: ports (``serving``), stations at uplinks (``stations``), addresses (``binding``), routes
(``route_table``), bad links (``emulating``), counters (``counting``).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from netstack.address cimport address_is_unspecified6, address_is_v4, address_parse, address_t
from netstack.errors import ConfigError
from netstack.link.link cimport NEVER
from netstack.router.binding cimport (
    address_bind, address_bind_local, address_entries, address_forget, address_hold, address_set_state,
)
from netstack.router.counting import counter_names
from netstack.router.data_path cimport DataPath
from netstack.router.devices.device cimport Device
from netstack.router.emulating cimport link_emulate, link_emulated
from netstack.router.emulation cimport wire_clear, wire_deadline
from netstack.router.greedy import POLICIES, policy_number
from netstack.router.mirror cimport mirror_t
from netstack.router.policing cimport (
    police_findings, police_forget, police_new, police_t, POLICY_OFF, POLICY_PENALTY,
)
from netstack.router.port cimport DROP_OLD_EPOCH, PORT_STACK, port_t
from netstack.router.route_table cimport RouteTable
from netstack.router.serving cimport port_of_stack, port_of_uplink, port_publish, port_remove, ports_failed
from netstack.router.state cimport enter, leave, MAX_NETWORKS, network_has, network_t
from netstack.router.stations cimport station_neighbors, stations_announce
from rings.spsc_ring cimport ConsumerRing, ProducerRing


cdef void watch_port(port_t *port, police_t *police) noexcept nogil:
    port.police = police
    if port.queue != NULL:
        port.queue.police = police
    if port.wire != NULL and port.wire.fair != NULL:
        port.wire.fair.police = police


cdef class Forwarder(DataPath):
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
        cdef address_t a
        cdef int i
        self._routes = RouteTable.__new__(RouteTable)
        self._routes.f = self.f
        self.set_greedy(greedy)
        for network in networks:
            self.add_network(network)
        for own in (router_address,) if isinstance(router_address, bytes) else router_address:
            self.bind_local(own)
            address_parse(own, &a)
            for i in range(self.f.n_networks):
                if network_has(&self.f.networks[i], &a):
                    self.f.networks[i].router = a
            if address_is_unspecified6(&self.f.routers[not address_is_v4(&a)]):
                self.f.routers[not address_is_v4(&a)] = a

    # ---- ports

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
        cdef port_t *port = port_of_stack(self.f, tx, rx, wake_fd, bells, mtu, bells_are_sockets, wake_is_socket)
        self._keep[port.id] = (tx, rx, keep)
        port_publish(self.f, port)
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
        cdef port_t *port = port_of_uplink(self.f, device, mac, own, gateways)
        self._keep[port.id] = device
        port_publish(self.f, port)
        if default:
            with nogil:
                enter(self.f)
                self.f.default_uplink = port
                leave(self.f)
        return port.id

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
        values = port_remove(self.f, self.port(ident), hold)
        del self._keep[ident]
        self._mirrored.pop(ident, None)
        return values

    def failed(self):
        """Ports whose stack ended their ring: list of (id, ``closed``, ``poisoned`` or ``truncated``). Clears the event."""
        return ports_failed(self.f)

    def announce(self, address):
        """Tell the stations at all uplinks that an address is here (gratuitous ARP, unsolicited neighbour advertisement)."""
        stations_announce(self.f, address)

    def neighbors(self, uint64_t ident):
        """Who is known at an uplink: dict of address to (Ethernet address, or None while it is asked for; packets that wait)."""
        return station_neighbors(self.f, self.port(ident))

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
        link_emulate(self.f, self.port(ident), seed, {**both, **(output or {})}, {**both, **(input or {})})

    def emulated(self, uint64_t ident):
        """What became of the packets on a port's emulated link, as `netstack.link.FaultInjector.stats`; None without one.

        With fair queues the output also says ``crowded_out`` (of who had most in a full queue), ``codel_dropped`` (both
        are part of ``queue_dropped``) and ``codel_marked``.
        """
        return link_emulated(self.f, self.port(ident))

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

    def bind_local(self, address):
        """An address of the router itself."""
        address_bind_local(self.f, address)

    def bind(self, uint64_t ident, address, uint32_t epoch, *, bint commit=False):
        """Packets to `address` go to this port from now on, and only it may send from there.

        Who had the address until now may no longer send from it (its packets are of an old epoch).
        """
        address_bind(self.f, self.port(ident), address, epoch, commit)

    def set_state(self, address, str state):
        """Change what happens to packets for an address: ``dead``, ``hold``, ``commit`` or ``active``."""
        address_set_state(self.f, address, state)

    def hold(self, address, uint32_t epoch):
        """Packets for this address are dropped in silence until its owner comes back, or it is ``dead``."""
        address_hold(self.f, address, epoch)

    def forget(self, address):
        """Remove an address from the table: nobody had it."""
        address_forget(self.f, address)

    def entries(self):
        """The table: dict of address to (state, port id or None, epoch)."""
        return address_entries(self.f)

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
