"""The Stack for Python: frames and time in, frames and a deadline out. It reads no clock and opens nothing.

Everything a program does with sockets on virtual time goes through here; programs in real time hold a `netstack.Host`,
which drives the same structure in C.
"""

import errno
import ipaddress

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, strerror

from netstack.address cimport (
    address_equal, address_format, address_is_any, address_parse, address_set_zone, address_t, endpoint_parse, endpoint_t,
    endpoint_tuple,
)
from netstack.clock cimport NEVER
from netstack.counters cimport counters_as_dict
from netstack.demux cimport slot_t
from netstack.ip.acd cimport acd_begin
from netstack.ip.interface cimport (
    interface_add_address, interface_announce, interface_on_link, interface_remove_address, interface_t,
)
from netstack.ip.neighbor cimport NEIGHBOR_FREE
from netstack.ip.route cimport address_in_prefix, route_add, route_remove
from netstack.ip.trial cimport acd_t
from netstack.link.link cimport Link, LINK_NOWHERE, MEDIA_ETHERNET
from netstack.link.queue cimport QueueLink, queue_link_push
from netstack.sock cimport SF_ORPHAN, SF_V6, SOCK_TCP
from netstack.stack.core cimport (
    stack_add_address, stack_add_interface, stack_advance, stack_destroy, stack_init, stack_next_deadline, stack_next_event, stack_process,
    stack_route, stack_set_now, stack_settle, stack_source,
)
from netstack.stack.options cimport sysctl_get, sysctl_set
from netstack.stack.report cimport (
    neighbor_report_t, report_neighbor, report_request, report_socket, report_t, report_time_wait,
)
from netstack.stack.sending cimport send_how_init, send_how_t
from netstack.stack.snapshot cimport restore_stack, snapshot_stack
from netstack.stack.sockets cimport (
    sock_accept, sock_bind, sock_close, sock_connect, sock_getsockopt, sock_listen, sock_local, sock_open, sock_poll,
    sock_recv, sock_recvfrom, sock_recvmsg, sock_remote, sock_send, sock_sendmsg, sock_sendto, sock_setsockopt, sock_shutdown, stack_lingering,
)
from netstack.stack.tracing cimport trace_bytes, trace_new, trace_t
from netstack.tcp.congestion.plugin cimport plugins_drop, plugins_run
from netstack.tcp.tcb cimport LISTEN, request_t, receive_end, tcb_t
from netstack.udp.endpoint cimport arrival_t, udp_endpoint_t

from netstack.ancillary import Arrival, fitting, from_ancillary, to_ancillary
from netstack.config import StackConfig
from netstack.congestion import find as find_algorithm
from netstack.errors import ConfigError
from netstack.wire.domain_names import read_names

STATES = ("CLOSED", "LISTEN", "SYN_SENT", "SYN_RCVD", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING",
          "LAST_ACK", "TIME_WAIT")

KINDS = {2: "UDP", 3: "PING", 4: "RAW", 5: "UDPLITE"}

cdef enum:
    MSG_TRUNC = 0x20
    MSG_ERRQUEUE = 0x2000
    SIOCINQ = 0x541b             # linux/sockios.h
    SIOCOUTQ = 0x5411
    BUDGET = 1024                # frames of one link in one pass


def parse_mac(text):
    """``"02:00:00:00:00:01"`` as 6 bytes."""
    try:
        mac = bytes(int(part, 16) for part in text.split(":"))
    except ValueError:
        mac = b""
    if len(mac) != 6 or mac[0] & 1:
        raise ConfigError(f"mac {text!r}: six bytes in hexadecimal with colons, no multicast address")
    return mac


cdef void drain_events(Stack stack) noexcept:
    while stack_next_event(stack.c) != NULL:
        pass


cdef void ask_plugins(Stack stack):
    """Algorithms in Python hear what happened; what they allow is sent."""
    if stack.c.tcp.plugin_first != NULL and not stack.c.tcp.plugins_elsewhere:
        plugins_run(&stack.c.tcp)
        stack_settle(stack.c)


cdef object arrival_tuple(const arrival_t *how, const sock_t *sock):
    return Arrival(address_format(&how.dst), address_format(&how.offender), how.interface + 1, how.ttl, how.tos, how.origin,
                   how.type, how.code, how.error, how.info, (<const udp_endpoint_t *> sock).lport)


cdef int set_how(send_how_t *how, object ancillary) except -1:
    """ValueErrors of `from_ancillary` are EINVAL, as the kernel has it."""
    send_how_init(how)
    try:
        said = from_ancillary(ancillary)
    except ValueError as e:
        raise OSError(errno.EINVAL, f"Invalid argument: {e}") from None
    how.ttl, how.tos = said.ttl, said.tos
    how.interface = said.interface
    if said.source:
        address_parse(said.source, &how.source)
    return 0


cdef object fail(int r):
    return OSError(-r, strerror(-r).decode())


cdef class Stack:
    """A TCP/IP stack as a state machine.

    Parameters
    ----------
    config : StackConfig, optional
        Interfaces, addresses, seed, settings. Without it keyword arguments make one.
    links : sequence of Link, optional
        One per interface of the config; None is an interface that leads nowhere. Without them each interface has a queue, filled by `input` and emptied by
        `pop_output`.

    Notes
    -----
    Time is integer nanoseconds of any clock, given to every call that needs it; it only moves forward. The same seed and
    the same inputs give the same bytes out.

    Examples
    --------
    >>> from netstack.stack import Stack
    >>> a = Stack(addresses="10.0.0.1", seed=1)
    >>> b = Stack(addresses="10.0.0.2", seed=2)
    >>> server = b.socket()
    >>> server.bind(("10.0.0.2", 80)); server.listen()
    >>> client = a.socket()
    >>> client.connect_ex(("10.0.0.2", 80)) == errno.EINPROGRESS
    True
    """

    def __cinit__(self, *args, **kwargs):
        self.c = <stack_t *> calloc(1, sizeof(stack_t))
        if self.c == NULL:
            raise MemoryError
        self.links = []

    def __init__(self, config=None, links=None, **settings):
        cdef bytes seed
        cdef Link link
        cdef str text
        if config is None:
            config = StackConfig(**settings)
        elif settings:
            raise TypeError("give a StackConfig or keyword settings, not both")
        if links is not None and len(links) != len(config.interfaces):
            raise ConfigError(f"{len(config.interfaces)} interfaces need as many links, not {len(links)}")
        self.config = config
        seed = config.seed_bytes()
        stack_init(self.c, <const uint8_t *> <const char *> seed)
        if self.c.tcp.bare == NULL:
            raise MemoryError
        for i, settings_of in enumerate(config.interfaces):
            if links is None:
                link = QueueLink(mtu=settings_of.mtu, media=settings_of.media)
            elif links[i] is None:
                link = QueueLink(mtu=settings_of.mtu, media=settings_of.media)
                link.link.capabilities |= LINK_NOWHERE
            else:
                link = links[i]
            self.add_interface(link, settings_of, seed)
        self.add_loopback()
        for text, value in config.sysctl.items():
            sysctl_set(self.c, text, value)

    def __dealloc__(self):
        if self.c != NULL:
            stack_destroy(self.c)
            plugins_drop(&self.c.tcp)
            free(self.c)

    cdef StackSocket wrap(self, sock_t *sock):
        cdef StackSocket s = StackSocket.__new__(StackSocket)
        s.stack = self
        s.sock = sock
        s.family = 10 if sock.flags & SF_V6 else 2
        return s

    def add_interface(self, Link link not None, settings, bytes seed):
        """Join a link as the next interface (called while the stack is made)."""
        cdef interface_t *ifc = stack_add_interface(self.c, &link.link)
        cdef address_t a, gateway
        cdef int r
        cdef uint16_t index
        if ifc == NULL:
            raise ConfigError("too many interfaces")
        self.links.append(link)
        index = <uint16_t> ifc.index
        if settings.mtu < ifc.mtu:
            ifc.mtu = settings.mtu
        if link.link.media == MEDIA_ETHERNET:
            mac = parse_mac(settings.mac) if settings.mac else bytes([2]) + seed[1 + index:6 + index]
            memcpy(ifc.mac, <const uint8_t *> <const char *> (<bytes> mac), 6)
        for text in settings.addresses:
            net = ipaddress.ip_interface(text)
            prefix = net.network.prefixlen + (96 if net.version == 4 else 0)
            address_parse(net.ip, &a)
            if self.config.acd and net.version == 4:
                r = acd_begin(ifc, &a, prefix)
            else:
                r = stack_add_address(self.c, ifc, &a, prefix)
            if r < 0:
                raise ConfigError(f"address {text}: {strerror(-r).decode()}")
            if prefix < 128 and not net.ip.is_link_local or net.version == 4 and prefix < 128:
                address_parse(net.network.network_address, &a)
                address_parse("0.0.0.0", &gateway)
                route_add(&self.c.routes, &a, prefix, &gateway, index)
        if settings.gateway is not None:
            address_parse(settings.gateway, &gateway)
            address_set_zone(&gateway, index + 1)
            address_parse("0.0.0.0" if "." in settings.gateway else "::", &a)
            route_add(&self.c.routes, &a, 96 if "." in settings.gateway else 0, &gateway, index)
        elif link.link.media != MEDIA_ETHERNET:
            for text in ("0.0.0.0", "::"):             # a point-to-point IP link: everything goes in
                address_parse(text, &a)
                route_add(&self.c.routes, &a, 96 if text == "0.0.0.0" else 0, &a, index)

    def add_loopback(self):
        """127.0.0.0/8, ::1 and our own addresses are delivered inside (called last while the stack is made)."""
        cdef Link link = QueueLink(mtu=65535, media="ip", loop=True)
        cdef interface_t *ifc = stack_add_interface(self.c, &link.link)
        cdef address_t a
        if ifc == NULL:
            raise ConfigError("too many interfaces")
        self.links.append(link)
        ifc.loopback = 1
        address_parse("127.0.0.1", &a)
        interface_add_address(ifc, &a, 104)
        address_parse("::1", &a)
        interface_add_address(ifc, &a, 128)

    # --- frames and time ---------------------------------------------------------------------------------------------

    def input(self, packet, now_ns, interface=0):
        """A frame arrived on an interface (a packet, on IP media) at *now_ns*.

        Timers due before are fired first, each at its own time. Answers are ready for `pop_output` afterwards.

        Raises
        ------
        TypeError
            When the interface has a link of its own: then frames come from there (`process`).
        """
        cdef const uint8_t[::1] view = packet
        cdef int r
        if not isinstance(self.links[interface], QueueLink):
            raise TypeError(f"interface {interface} has a link of its own: call process()")
        cdef QueueLink link = <QueueLink> self.links[interface]
        stack_advance(self.c, now_ns)
        r = queue_link_push(&link.link, &view[0] if len(view) else NULL, <uint32_t> len(view))
        if r < 0:
            raise fail(r)
        stack_process(self.c, now_ns, BUDGET)
        ask_plugins(self)
        drain_events(self)

    def process(self, now_ns):
        """Take what the links have, fire what is due, send what is due. True when input is left."""
        cdef int more = stack_process(self.c, now_ns, BUDGET)
        ask_plugins(self)
        drain_events(self)
        return bool(more)

    def advance(self, now_ns):
        """Fire the timers due by *now_ns*, in deadline order, each at its own time."""
        stack_advance(self.c, now_ns)
        stack_process(self.c, now_ns, BUDGET)
        ask_plugins(self)
        drain_events(self)

    def next_deadline(self):
        """When `advance` has something to do (ns), or None."""
        cdef int64_t d = stack_next_deadline(self.c)
        return None if d == NEVER else d

    def pop_output(self, interface=0):
        """The oldest frame to send and when it was made: ``(bytes, t_ns)``, or None."""
        if not isinstance(self.links[interface], QueueLink):
            raise TypeError(f"interface {interface} has a link of its own")
        return self.links[interface].pop()

    @property
    def now_ns(self):
        """The latest time this stack was told (ns)."""
        return self.c.tcp.now_ns

    # --- settings and state ------------------------------------------------------------------------------------------

    def set(self, name, value):
        """Change a setting by its full Linux sysctl name, e.g. ``"net.ipv4.tcp_timestamps"``.

        Raises
        ------
        KeyError
            No such setting here.
        ValueError
            Out of range.
        """
        sysctl_set(self.c, name, value)

    def get(self, name):
        """A setting by its full Linux sysctl name."""
        return sysctl_get(self.c, name)

    def counters(self):
        """What happened so far, by name; drops by reason."""
        return counters_as_dict(&self.c.tcp.counters)

    @property
    def segments_by_driver(self):
        """TCP segments processed by calling threads and by the service thread: ``(callers, service)``."""
        return self.c.segments_by[0], self.c.segments_by[1]

    @property
    def lingering(self):
        """Closed sockets whose data or FIN is still on its way."""
        return stack_lingering(self.c)

    def memory(self):
        """Bytes: ``buffers`` hold the connections' data (tcp_mem limits them), ``pool`` waits to be used again,
        ``fragments`` are pieces of ``fragmented`` datagrams that wait for the rest, ``half_open`` holds handshakes that are
        not over, ``demux`` is the table that finds connections by their names."""
        return {"buffers": self.c.tcp.buffer_bytes, "pool": self.c.tcp.pool.bytes,
                "fragments": self.c.fragments.bytes, "fragmented": self.c.fragments.count,
                "half_open": self.c.tcp.request_count * sizeof(request_t),
                "demux": (self.c.demux.mask + 1) * sizeof(slot_t) if self.c.demux.slots != NULL else 0}

    def sockets(self):
        """Every socket, half-open connection and TIME-WAIT record, with counters: a list of `netstack.reports.SocketInfo`."""
        from netstack.reports import SocketInfo

        cdef uint32_t i
        cdef report_t r
        cdef tcb_t *tcb
        cdef request_t *request
        out = []
        for i in range(self.c.sock_count):
            report_socket(self.c, self.c.socks[i], &r)
            out.append(SocketInfo.parse((<const char *> &r)[:sizeof(r)]))
            tcb = <tcb_t *> self.c.socks[i]
            request = tcb.listener.requests if tcb.sock.kind == SOCK_TCP and tcb.state == LISTEN else NULL
            while request != NULL:
                report_request(self.c, request, &r)
                out.append(SocketInfo.parse((<const char *> &r)[:sizeof(r)]))
                request = request.next
        tw = self.c.demux.tw_first
        while tw != NULL:
            report_time_wait(self.c, tw, &r)
            out.append(SocketInfo.parse((<const char *> &r)[:sizeof(r)]))
            tw = tw.next
        return out

    def neighbors(self):
        """Every entry of the neighbour tables: a list of `netstack.reports.NeighborInfo`."""
        from netstack.reports import NeighborInfo

        cdef uint32_t i, k
        cdef neighbor_report_t r
        cdef interface_t *ifc
        out = []
        for i in range(self.c.interface_count):
            ifc = self.c.interfaces[i]
            for k in range(ifc.neighbors.count):
                if ifc.neighbors.entries[k].state != NEIGHBOR_FREE:
                    report_neighbor(ifc, &ifc.neighbors.entries[k], self.c.tcp.now_ns, &r)
                    out.append(NeighborInfo.parse((<const char *> &r)[:sizeof(r)]))
        return out

    def start_trace(self, records=65536):
        """Record from here on what connections send and receive, with their cwnd, ssthresh and round-trip time.

        Parameters
        ----------
        records : int
            How many events to keep, 112 bytes each; the oldest go first.
        """
        cdef trace_t *trace
        if not 0 < records < 1 << 31:
            raise ValueError(f"records {records}: keep at least one")
        trace = trace_new(records)
        if trace == NULL:
            raise MemoryError(f"no memory for {records} trace records")
        free(self.c.trace)
        self.c.trace = trace

    def stop_trace(self):
        """End the trace: a `netstack.trace.Trace`, empty when none was begun."""
        from netstack.trace import Trace

        cdef trace_t *trace = self.c.trace
        self.c.trace = NULL
        if trace == NULL:
            return Trace(b"")
        try:
            return Trace(trace_bytes(trace), trace.count - trace.capacity if trace.count > trace.capacity else 0)
        finally:
            free(trace)

    @property
    def socket_count(self):
        """Sockets, those included that the application has closed and TCP has not, and half-open connections."""
        return self.c.sock_count + self.c.tcp.request_count

    @property
    def addresses(self):
        """Our addresses, the loopback's left out, as text."""
        cdef uint32_t i, k
        out = []
        for i in range(self.c.interface_count):
            if not self.c.interfaces[i].loopback:
                for k in range(self.c.interfaces[i].address_count):
                    out.append(address_format(&self.c.interfaces[i].addresses[k]))
        return out

    def add_address(self, text, gateway=None, interface=0):
        """One more address with its prefix, ``"10.0.0.5/24"``, and the default route through *gateway* if given.

        Raises
        ------
        OSError
            EEXIST, EINVAL or ENOSPC.
        """
        cdef address_t a, via
        cdef int r
        cdef interface_t *ifc
        if not 0 <= interface < len(self.links) - 1:
            raise IndexError(f"no interface {interface}")
        ifc = self.c.interfaces[<uint32_t> interface]
        net = ipaddress.ip_interface(text)
        prefix = net.network.prefixlen + (96 if net.version == 4 else 0)
        address_parse(net.ip, &a)
        r = interface_add_address(ifc, &a, prefix)
        if r < 0:
            raise fail(r)
        if prefix < 128:
            address_parse(net.network.network_address, &a)
            address_parse("0.0.0.0", &via)
            route_add(&self.c.routes, &a, prefix, &via, <uint16_t> interface)
        if gateway is not None:
            address_parse(gateway, &via)
            address_parse("0.0.0.0" if net.version == 4 else "::", &a)
            route_remove(&self.c.routes, &a, 96 if net.version == 4 else 0)
            route_add(&self.c.routes, &a, 96 if net.version == 4 else 0, &via, <uint16_t> interface)
        if ifc.media == MEDIA_ETHERNET:
            address_parse(net.ip, &a)
            interface_announce(ifc, &a, self.c.tcp.now_ns)
            stack_settle(self.c)

    def remove_address(self, text, interface=0):
        """Give an address up, and the routes that led through its network.

        Raises
        ------
        OSError
            EADDRNOTAVAIL.
        """
        cdef address_t a
        cdef interface_t *ifc
        cdef uint8_t prefix
        cdef uint32_t i
        cdef int r
        if not 0 <= interface < len(self.links) - 1:
            raise IndexError(f"no interface {interface}")
        ifc = self.c.interfaces[<uint32_t> interface]
        address_parse(text, &a)
        prefix = 128
        for i in range(ifc.address_count):
            if address_equal(&ifc.addresses[i], &a):
                prefix = ifc.prefix_lengths[i]
        r = interface_remove_address(ifc, &a)
        if r < 0:
            raise fail(r)
        if prefix < 128 and not interface_on_link(ifc, &a):
            i = 0
            while i < self.c.routes.count:             # what is reached through routers of that network, too
                if self.c.routes.routes[i].interface == interface and \
                        address_in_prefix(&self.c.routes.routes[i].gateway, &a, prefix):
                    route_remove(&self.c.routes, &self.c.routes.routes[i].prefix, self.c.routes.routes[i].prefix_length)
                else:
                    i += 1
            route_remove(&self.c.routes, &a, prefix)

    def mac(self, interface=0):
        """Ethernet address of an interface, 6 bytes."""
        if not 0 <= interface < len(self.links):
            raise IndexError(f"no interface {interface}")
        return (<const char *> self.c.interfaces[<uint32_t> interface].mac)[:6]

    def address_trials(self):
        """IPv4 addresses that are, or were, tried before use (RFC 5227): ``{address: (state, mac)}``, state ``"probing"``,
        ``"ready"`` or ``"conflict"``, mac of the station that has it."""
        cdef uint32_t i, k
        cdef const acd_t *acd
        out = {}
        for i in range(self.c.interface_count):
            acd = self.c.interfaces[i].acd
            if acd == NULL:
                continue
            for k in range(acd.count):
                state = {1: "probing", 3: "conflict"}.get(acd.trials[k].state, "ready")
                out[address_format(&acd.trials[k].address)] = (
                    state, (<const uint8_t *> acd.trials[k].mac)[:6].hex(":") if state == "conflict" else None)
        return out

    @property
    def tentative(self):
        """IPv6 addresses that may still turn out to be another station's, as text; they cannot be used yet."""
        cdef uint32_t i, k
        out = []
        for i in range(self.c.interface_count):
            ifc = self.c.interfaces[i]
            if ifc.ip6 != NULL:
                for k in range(ifc.ip6.trial_count):
                    out.append(address_format(&ifc.ip6.trial[k].address))
                if ifc.ip6.running and not ifc.ip6.started:
                    out.append(f"fe80::%{i + 1}")      # chosen with the first advance
        return out

    @property
    def name_servers(self):
        """Name servers that routers have announced (RFC 8106), as text."""
        cdef uint32_t i, k
        out = []
        for i in range(self.c.interface_count):
            ifc = self.c.interfaces[i]
            if ifc.ip6 != NULL:
                for k in range(ifc.ip6.server_count):
                    out.append(address_format(&ifc.ip6.servers[k].address))
        return out

    @property
    def search_domains(self):
        """Domains that routers have announced for names that are not whole (RFC 8106), as text without the last dot."""
        cdef uint32_t i, k
        out = []
        for i in range(self.c.interface_count):
            ifc = self.c.interfaces[i]
            if ifc.ip6 != NULL:
                for k in range(ifc.ip6.domain_count):
                    out += read_names((<const char *> ifc.ip6.domains[k].name)[:ifc.ip6.domains[k].length])
        return out

    @property
    def other_configuration(self):
        """Whether a router's latest advertisement says that DHCPv6 knows more (RFC 4861 section 4.2)."""
        cdef uint32_t i
        for i in range(self.c.interface_count):
            if self.c.interfaces[i].ip6 != NULL and self.c.interfaces[i].ip6.other_config:
                return True
        return False

    def source_address(self, destination):
        """The address packets to a literal address leave from (RFC 6724), as text; None: no route, or none fits."""
        cdef address_t dst, hop, source
        cdef int i
        address_parse(destination, &dst)
        i = stack_route(self.c, &dst, &hop)
        if i < 0 or not stack_source(self.c, i, &dst, &source):
            return None
        return address_format(&source)

    def snapshot(self):
        """All state of connections, listeners, datagram sockets, neighbours and the stack itself, in a versioned form."""
        return snapshot_stack(self)

    @classmethod
    def restore(cls, data, now_ns, links=None):
        """A stack that goes on where `snapshot` was taken, at *now_ns* on a clock of its own.

        Timers go on with the time they had left; timestamps and sequence numbers go on without a step. `socket_by_id`
        gives the sockets back.

        Raises
        ------
        SnapshotError
            These bytes are no snapshot.
        """
        return restore_stack(cls, data, now_ns, links)

    def socket_by_id(self, id):
        """The socket with that `StackSocket.id`, for a stack that was restored.

        Raises
        ------
        KeyError
            No socket has it, or the application had closed it.
        """
        cdef uint32_t i, wanted = id
        for i in range(self.c.sock_count):
            if self.c.socks[i].id == wanted and not self.c.socks[i].flags & SF_ORPHAN:
                return self.wrap(self.c.socks[i])
        raise KeyError(id)

    def socket(self, type="stream", family=2, protocol=0):
        """A non-blocking socket. type: ``"stream"``, ``"dgram"``, ``"raw"``, or the number of the socket module."""
        cdef sock_t *sock
        cdef int number = {"stream": 1, "dgram": 2, "raw": 3}[type] if isinstance(type, str) else type
        cdef int r = sock_open(self.c, family, number, protocol, &sock)
        if r < 0:
            raise fail(r)
        return self.wrap(sock)


cdef class StackSocket:
    """A non-blocking socket of a `Stack`: methods of the socket module, errors by errno, time from the stack.

    Calls that make TCP send do so at the stack's current time (`Stack.advance` sets it).
    """

    def __init__(self):
        raise TypeError("made by Stack.socket()")

    cdef sock_t *live(self) except NULL:
        if self.sock == NULL:
            raise OSError(errno.EBADF, "the socket is closed")
        return self.sock

    @property
    def id(self):
        """Number of this socket within its stack; kept by snapshots."""
        return self.live().id

    @property
    def closed(self):
        return self.sock == NULL

    @property
    def state(self):
        """Name of the TCP state, or "UDP", "PING", "RAW"."""
        cdef sock_t *s = self.live()
        return STATES[(<tcb_t *> s).state] if s.kind == SOCK_TCP else KINDS[s.kind]

    def bind(self, address):
        cdef endpoint_t e
        cdef int r
        endpoint_parse(address, address[0], self.family, &e)
        r = sock_bind(self.stack.c, self.live(), &e)
        if r < 0:
            raise fail(r)

    def listen(self, backlog=128):
        cdef int r = sock_listen(self.stack.c, self.live(), backlog)
        if r < 0:
            raise fail(r)

    def connect_ex(self, address):
        """0, or an errno number: EINPROGRESS while the handshake is under way."""
        cdef endpoint_t e
        cdef int r
        endpoint_parse(address, address[0], self.family, &e)
        r = sock_connect(self.stack.c, self.live(), &e)
        drain_events(self.stack)
        return -r

    def connect(self, address):
        cdef int r = self.connect_ex(address)
        if r:
            raise fail(-r)

    def accept(self):
        """``(socket, address)``; BlockingIOError when nobody waits."""
        cdef sock_t *child
        cdef int r = sock_accept(self.stack.c, self.live(), &child)
        if r < 0:
            raise fail(r)
        s = self.stack.wrap(child)
        return s, s.getpeername()

    def send(self, data, flags=0):
        cdef const uint8_t[::1] view = data
        cdef ssize_t r = sock_send(self.stack.c, self.live(), &view[0] if len(view) else NULL, len(view), flags)
        drain_events(self.stack)
        if r < 0:
            raise fail(r)
        return r

    def sendto(self, data, address, flags=0):
        """A datagram; of a TCP socket with MSG_FASTOPEN (0x20000000): connect, with *data* on the SYN as far as it goes."""
        cdef const uint8_t[::1] view = data
        cdef endpoint_t e
        cdef ssize_t r
        endpoint_parse(address, address[0], self.family, &e)
        r = sock_sendto(self.stack.c, self.live(), &view[0] if len(view) else NULL, len(view), flags, &e)
        drain_events(self.stack)
        if r < 0:
            raise fail(r)
        return r

    def recv(self, size, flags=0):
        """At most *size* bytes; ``b""`` at end of file; BlockingIOError when there is nothing."""
        cdef bytes out
        cdef ssize_t r
        cdef sock_t *s = self.live()
        cdef uint8_t *p = <uint8_t *> malloc(size if size else 1)
        if p == NULL:
            raise MemoryError
        try:
            r = sock_recv(self.stack.c, s, p, size, flags)
            drain_events(self.stack)
            if r < 0:
                raise fail(r)
            out = p[:r]
        finally:
            free(p)
        return out

    def recvfrom(self, size, flags=0):
        """``(bytes, address)`` of one datagram."""
        cdef endpoint_t e
        cdef ssize_t r
        cdef sock_t *s = self.live()
        cdef uint8_t *p = <uint8_t *> malloc(size if size else 1)
        if p == NULL:
            raise MemoryError
        try:
            r = sock_recvfrom(self.stack.c, s, p, size, flags, &e)
            if r < 0:
                raise fail(r)
            return p[:r if r < <ssize_t> size else <ssize_t> size], endpoint_tuple(&e, self.family)
        finally:
            free(p)

    def sendmsg(self, data, ancillary=(), address=None):
        """One datagram with ancillary data: ``(level, type, bytes)``, as of ``socket.sendmsg``."""
        cdef const uint8_t[::1] view = data
        cdef endpoint_t e
        cdef send_how_t how
        cdef ssize_t r
        set_how(&how, ancillary)
        if address is not None:
            endpoint_parse(address, address[0], self.family, &e)
        r = sock_sendmsg(self.stack.c, self.live(), &view[0] if len(view) else NULL, len(view),
                         &e if address is not None else NULL, &how)
        drain_events(self.stack)
        if r < 0:
            raise fail(r)
        return r

    def recvmsg(self, size, room=0, flags=0):
        """``(bytes, ancillary, flags, address)`` of one datagram, or with MSG_ERRQUEUE (0x2000) of one error."""
        cdef endpoint_t e
        cdef arrival_t how
        cdef uint32_t wants
        cdef ssize_t r
        cdef sock_t *s = self.live()
        cdef uint8_t *p = <uint8_t *> malloc(size if size else 1)
        if p == NULL:
            raise MemoryError
        try:
            r = sock_recvmsg(self.stack.c, s, p, size, flags | MSG_TRUNC, &e, &how, &wants)
            if r < 0:
                raise fail(r)
            items, out_flags = fitting(to_ancillary(wants, arrival_tuple(&how, s)), room)
            if r > <ssize_t> size:
                out_flags |= MSG_TRUNC
                r = size
            return p[:r], items, out_flags | (flags & MSG_ERRQUEUE), endpoint_tuple(&e, self.family)
        finally:
            free(p)

    def shutdown(self, how):
        """0: no more reading, 1: no more writing, 2: both."""
        cdef int r = sock_shutdown(self.stack.c, self.live(), how)
        drain_events(self.stack)
        if r < 0:
            raise fail(r)

    def close(self):
        """Let go; TCP finishes alone. Closing twice is allowed."""
        cdef sock_t *s = self.sock
        if s == NULL:
            return
        self.sock = NULL
        sock_close(self.stack.c, s)
        drain_events(self.stack)

    def ioctl(self, request):
        """The number that SIOCINQ (0x541b: bytes to read) or SIOCOUTQ (0x5411: bytes not yet acknowledged) asks for."""
        cdef sock_t *s = self.live()
        cdef tcb_t *t = <tcb_t *> s
        if s.kind != SOCK_TCP:
            raise OSError(errno.ENOTTY, "only of a TCP socket")
        if STATES[t.state] == "LISTEN":
            raise OSError(errno.EINVAL, "not of a listener")
        if request == SIOCINQ:
            return receive_end(t) - t.rcv_read
        if request == SIOCOUTQ:
            return t.snd_len
        raise OSError(errno.ENOTTY, "no such request")

    def poll(self):
        """Which of poll(2)'s events hold: POLLIN 1, POLLOUT 4, POLLERR 8, POLLHUP 16, POLLRDHUP 0x2000."""
        return sock_poll(self.stack.c, self.live())

    def setsockopt(self, level, name, value):
        """By Linux's numbers; value an int or bytes."""
        cdef bytes raw = bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else \
            int(value).to_bytes(4, "little", signed=True)
        cdef int r
        if level == 6 and name == 13:
            find_algorithm(raw)                        # a package may offer it
        r = sock_setsockopt(self.stack.c, self.live(), level, name, <const uint8_t *> <const char *> raw, <uint32_t> len(raw))
        drain_events(self.stack)
        if r < 0:
            raise fail(r)

    def getsockopt(self, level, name, size=0):
        """An int, or with *size* the first *size* bytes of the value."""
        cdef uint8_t value[512]
        cdef uint32_t n = size if size else 4
        cdef int r
        if n > sizeof(value):
            n = sizeof(value)
        r = sock_getsockopt(self.stack.c, self.live(), level, name, value, &n)
        if r < 0:
            raise fail(r)
        raw = <bytes> value[:n]
        return raw if size else int.from_bytes(raw, "little", signed=True)

    def getsockname(self):
        cdef endpoint_t e
        sock_local(self.stack.c, self.live(), &e)
        return endpoint_tuple(&e, self.family)

    def getpeername(self):
        cdef endpoint_t e
        cdef int r = sock_remote(self.stack.c, self.live(), &e)
        if r < 0:
            raise fail(r)
        return endpoint_tuple(&e, self.family)

    def tcp_info(self):
        """TCP_INFO, typed: a `netstack.reports.TcpInfo`."""
        from netstack.reports import TcpInfo

        return TcpInfo.parse(self.getsockopt(6, 11, 280))

    def info(self):
        """Variables of the connection by their RFC names; for tests and plots."""
        cdef sock_t *s = self.live()
        cdef tcb_t *t = <tcb_t *> s
        if s.kind != SOCK_TCP:
            raise TypeError("only of a TCP socket")
        return {
            "state": STATES[t.state], "snd_una": t.snd_una, "snd_nxt": t.snd_nxt, "snd_wnd": t.snd_wnd,
            "rcv_nxt": t.rcv_nxt, "rcv_adv": t.rcv_adv, "iss": t.iss, "irs": t.irs, "mss": t.mss, "cwnd": t.cc.cwnd,
            "ssthresh": t.cc.ssthresh, "srtt_ns": t.srtt_ns, "rttvar_ns": t.rttvar_ns, "rto_ns": t.rto_ns,
            "retries": t.retries, "retransmits": t.retransmits, "bytes_sent": t.bytes_sent,
            "bytes_received": t.bytes_received, "send_queue": t.snd_len, "receive_queue": t.rcv_nxt - t.rcv_read,
            "send_buffer": t.snd_cap, "receive_buffer": t.rcv_cap, "ranges": t.range_count,
            "congestion": t.cc_ops.name.decode(),
        }
