# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The layers below a stack, each alone: an interface, a UDP queue, a table of routes.

A stack shows only what leaves it. These show what a layer says: the reason of each drop, the state of each neighbour,
what a claim returned. Received frames are copied to memory of exactly their size, head and body apart, so that a
sanitizer sees every byte read beyond them. Virtual time, no I/O.
"""

from typing import NamedTuple

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from netstack.address cimport address_format, address_from_v4, address_is_any, address_parse, address_t, address_v4, endpoint_t
from netstack.counters cimport DropReason as drop_reason_t, DROP_IP_FRAGMENT, DROP_NONE, counters_as_dict, counters_t
from netstack.ip.icmp cimport icmp_input, icmp_message_t, icmp_send_echo, icmp_send_unreachable
from netstack.ip.interface cimport (
    CLAIM_OK, PROTOCOL_CONSUMED, interface_add_address, interface_advance, interface_announce, interface_claim, interface_commit,
    interface_flush, interface_free, interface_has_address, interface_init, interface_input,
    interface_next_deadline, interface_on_link, interface_remove_address, interface_t, packet_in_t, packet_out_t,
    packet_payload,
)
from netstack.ip.neighbor cimport NEIGHBOR_FREE, neighbor_t
from netstack.ip.shared cimport ip_init, ip_t
from netstack.ip.state cimport interface_restore, interface_save
from netstack.ip.route cimport (
    route_add, route_free, route_init, route_lookup, route_remove, route_table_t,
)
from netstack.link.link cimport frame_t
from netstack.link.queue cimport QueueLink
from netstack.demux cimport demux_hash
from netstack.sock cimport SF_QUEUED_EVENT, event_list_t
from netstack.stack.stack cimport Stack
from netstack.udp.endpoint cimport (
    udp_deliver, udp_endpoint_free, udp_endpoint_init, udp_endpoint_t, udp_receive,
)
from netstack.wire.udp cimport UDP_HEADER, parse_udp, parse_udplite, udp_partial, udp_t

from netstack.counters import DropReason

STATES = ("free", "incomplete", "reachable", "stale", "probe", "failed", "delay")


class Packet(NamedTuple):
    """What `InterfaceProbe.input` says of a frame; protocol 255: it was consumed below the transports."""

    protocol: int
    src: str = ""
    dst: str = ""
    ttl: int = 0
    tos: int = 0
    broadcast: bool = False
    header: bytes = b""
    header_length: int = 0
    length: int = 0
    payload: bytes | None = None


class Message(NamedTuple):
    """What `InterfaceProbe.icmp` says of an ICMP message."""

    type: int
    code: int
    identifier: int
    sequence: int
    payload: bytes
    is_error: bool
    embedded: tuple
    mtu: int


cdef tuple split_prefix(str text):
    address, _, length = text.partition("/")
    if ":" in address:
        return address, int(length) if length else 128
    return address, (int(length) if length else 32) + 96


cdef void note_unreachable(void *context, interface_t *ifc, const uint8_t *packet, uint32_t length) noexcept nogil:
    with gil:
        (<InterfaceProbe> context).unreachable.append(packet[:length])


cdef interface_t *through_gateway(void *context, const address_t *dst, address_t *next_hop) noexcept nogil:
    with gil:
        return (<InterfaceProbe> context).route(dst, next_hop)


cdef class InterfaceProbe:
    """One interface over a `QueueLink`, without a stack.

    Parameters
    ----------
    addresses : sequence of str
        ``"10.0.0.1/24"``.
    media : str
        ``"ip"`` or ``"ethernet"``.
    mac : str
        Ethernet address.
    gateway : str or None
        Next hop of answers to addresses outside the prefixes; without one such answers have no route.
    mtu, trusted :
        As in `QueueLink`.
    loopback : bool
        The interface is the stack's own loop; what it sends still appears in `sent`.
    secret : bytes
        The stack's, 16 bytes: key of its hash tables.
    """

    cdef interface_t ifc
    cdef counters_t c
    cdef ip_t ip
    cdef QueueLink link
    cdef address_t gateway
    cdef readonly list unreachable
    cdef uint8_t *head
    cdef uint8_t *body

    def __cinit__(self, addresses=("10.0.0.1/24",), *, str media="ip", str mac="02:00:00:00:00:01",
                  gateway=None, int mtu=1500, bint loopback=False, bint trusted=False,
                  bytes secret=b"0123456789abcdef"):
        cdef bytes raw = bytes.fromhex(mac.replace(":", ""))
        self.unreachable = []
        self.link = QueueLink(mtu, media, trusted=trusted)
        memset(&self.c, 0, sizeof(counters_t))
        memset(&self.gateway, 0, sizeof(address_t))
        if len(secret) != 16:
            raise ValueError(f"a secret of {len(secret)} bytes: 16")
        ip_init(&self.ip, secret, b"fedcba9876543210")
        interface_init(&self.ifc, &self.link.link, 0, &self.c, &self.ip)
        memcpy(self.ifc.mac, <char *> raw, 6)
        self.ifc.loopback = loopback
        self.ifc.context = <void *> self
        self.ifc.on_unreachable = note_unreachable
        self.ifc.route_to = through_gateway
        if gateway is not None:
            address_parse(gateway, &self.gateway)
        for text in addresses:
            error = self.add_address(text)
            if error:
                raise OSError(-error, f"address {text}")

    def __dealloc__(self):
        interface_free(&self.ifc)
        free(self.head)
        free(self.body)

    cdef interface_t *route(self, const address_t *dst, address_t *next_hop) noexcept:
        if interface_on_link(&self.ifc, dst):
            next_hop[0] = dst[0]
        elif not address_is_any(&self.gateway):
            next_hop[0] = self.gateway
        else:
            return NULL
        return &self.ifc

    cdef void place(self, frame_t *frame, bytes data, Py_ssize_t split) except *:
        """The frame in memory of exactly its size; the one before it is gone."""
        cdef Py_ssize_t n = len(data)
        cdef const uint8_t *p = <const uint8_t *> <char *> data
        if split < 0 or split > n:
            split = n
        free(self.head)
        free(self.body)
        self.head = <uint8_t *> malloc(split if split else 1)
        self.body = <uint8_t *> malloc(n - split if n > split else 1)
        memcpy(self.head, p, split)
        memcpy(self.body, p + split, n - split)
        frame.head = self.head
        frame.head_length = <uint32_t> split
        frame.body = self.body if n > split else NULL
        frame.body_length = <uint32_t> (n - split)

    def input(self, bytes data not None, int64_t now_ns=0, *, int split=-1, int transport_header=0):
        """Give a frame to the interface.

        Parameters
        ----------
        data : bytes
        now_ns : int
        split : int
            Where the frame's body begins; -1: it has none.
        transport_header : int
            Bytes of transport header before the payload that is shown.

        Returns
        -------
        tuple of DropReason and Packet
            The packet is None when the frame was dropped; its payload is None when `packet_payload` refused.
        """
        cdef frame_t frame
        cdef packet_in_t packet
        cdef const uint8_t *payload
        cdef uint32_t length
        self.place(&frame, data, split)
        cdef drop_reason_t reason = interface_input(&self.ifc, &frame, now_ns, &packet)
        if reason == DROP_NONE and packet.piece:
            reason = DROP_IP_FRAGMENT                  # an interface alone puts nothing together
        if reason != DROP_NONE:
            return DropReason(reason), None
        if packet.protocol == PROTOCOL_CONSUMED:
            return DropReason(reason), Packet(255)
        shown = None
        if packet_payload(&packet, <uint32_t> transport_header, &payload, &length):
            shown = payload[:length]
        return DropReason(reason), Packet(
            packet.protocol, address_format(&packet.src), address_format(&packet.dst), packet.ttl, packet.tos,
            bool(packet.broadcast), (<const uint8_t *> packet.header)[:packet.header_bytes], packet.header_length,
            packet.length, shown)

    def icmp(self, bytes data not None, int64_t now_ns=0, *, int split=-1):
        """Give an ICMP packet to the interface and to ICMP: ``(DropReason, Message or None)``."""
        cdef frame_t frame
        cdef packet_in_t packet
        cdef icmp_message_t m
        self.place(&frame, data, split)
        cdef drop_reason_t reason = interface_input(&self.ifc, &frame, now_ns, &packet)
        if reason == DROP_NONE and packet.piece:
            reason = DROP_IP_FRAGMENT
        if reason == DROP_NONE and packet.protocol == 1:
            reason = icmp_input(&packet, now_ns, &m)
        if reason != DROP_NONE or packet.protocol != 1:
            return DropReason(reason), None
        payload = m.payload[:m.payload_length] if m.payload != NULL else b""
        embedded = ()
        if m.is_error:
            embedded = (m.embedded_protocol, address_format(&m.embedded_src), m.embedded_sport,
                        address_format(&m.embedded_dst), m.embedded_dport, m.embedded_seq)
        return DropReason(reason), Message(m.type, m.code, m.identifier, m.sequence, payload, bool(m.is_error),
                                           embedded, m.mtu)

    def send_unreachable(self, bytes about not None, int code, int64_t now_ns=0, *, int split=-1):
        """Receive a packet and answer it with destination unreachable; the drop reason of the packet."""
        cdef frame_t frame
        cdef packet_in_t packet
        self.place(&frame, about, split)
        cdef drop_reason_t reason = interface_input(&self.ifc, &frame, now_ns, &packet)
        if reason == DROP_NONE and packet.protocol != 255:
            icmp_send_unreachable(&packet, <uint8_t> code, now_ns)
        return DropReason(reason)

    def send_echo(self, src, dst, int identifier, int sequence, bytes payload=b"", int64_t now_ns=0, next_hop=None):
        """Send an echo request; what the claim returned."""
        cdef address_t s, d, hop
        address_parse(src, &s)
        address_parse(dst, &d)
        address_parse(dst if next_hop is None else next_hop, &hop)
        return icmp_send_echo(&self.ifc, &s, &d, &hop, <uint16_t> identifier, <uint16_t> sequence,
                              <const uint8_t *> <char *> payload, <uint32_t> len(payload), 64, now_ns)

    def send(self, next_hop, bytes packet not None, int64_t now_ns=0, *, int header_length=28, bint commit=True):
        """Send an IP packet: what the claim returned."""
        cdef address_t hop
        cdef packet_out_t out
        cdef int claimed
        cdef Py_ssize_t head = min(header_length, len(packet))
        cdef const uint8_t *p = <const uint8_t *> <char *> packet
        address_parse(next_hop, &hop)
        claimed = interface_claim(&self.ifc, &hop, <uint32_t> head, <uint32_t> (len(packet) - head), now_ns, &out)
        if claimed != CLAIM_OK or not commit:
            return claimed
        memcpy(out.ip, p, head)
        memcpy(out.body, p + head, len(packet) - head)
        interface_commit(&out, now_ns)
        interface_flush(&self.ifc)
        return claimed

    def sent(self):
        """Everything sent since the last call: a list of ``(bytes, t_ns)``."""
        out = []
        while True:
            item = self.link.pop()
            if item is None:
                return out
            out.append(item)

    def fill(self, bint full):
        """Make the link refuse claims, or take them again."""
        self.link.q.tx.limit = 0 if full else 1 << 30

    def advance(self, int64_t now_ns):
        interface_advance(&self.ifc, now_ns)

    def next_deadline(self):
        """Nanoseconds, or None."""
        cdef int64_t t = interface_next_deadline(&self.ifc)
        return None if t == INT64_MAX else t

    def save(self, int64_t now_ns):
        """The interface's state: neighbours, waiting packets, limits."""
        return interface_save(&self.ifc, now_ns)

    def restore(self, bytes data not None, int64_t now_ns):
        """Take over a saved state; this interface has not been used yet."""
        interface_restore(&self.ifc, data, now_ns)

    def announce(self, address, int64_t now_ns=0):
        cdef address_t a
        address_parse(address, &a)
        interface_announce(&self.ifc, &a, now_ns)

    def add_address(self, str text):
        """0, or a negative errno number."""
        cdef address_t a
        address, length = split_prefix(text)
        address_parse(address, &a)
        return interface_add_address(&self.ifc, &a, <uint8_t> min(length, 255))

    def remove_address(self, str text):
        cdef address_t a
        address_parse(text, &a)
        return interface_remove_address(&self.ifc, &a)

    def has_address(self, str text):
        cdef address_t a
        address_parse(text, &a)
        return bool(interface_has_address(&self.ifc, &a))

    def on_link(self, str text):
        cdef address_t a
        address_parse(text, &a)
        return bool(interface_on_link(&self.ifc, &a))

    @property
    def neighbors(self):
        """address: (state, mac, packets waiting)."""
        cdef neighbor_t *n
        cdef uint32_t i
        out = {}
        for i in range(self.ifc.neighbors.count):
            n = &self.ifc.neighbors.entries[i]
            if n.state != NEIGHBOR_FREE:
                out[address_format(&n.address)] = (
                    STATES[n.state], (<const uint8_t *> n.mac)[:6].hex(":"), n.queued)
        return out

    @property
    def conflicts(self):
        """How often another station claimed one of our addresses, and one of our neighbours' addresses."""
        return self.ifc.conflicts, self.ifc.neighbors.conflicts

    @property
    def neighbor_steps(self):
        """Lookups of neighbours that the entry found last did not answer, and entries looked at for them."""
        return self.ifc.neighbors.lookups, self.ifc.neighbors.steps

    @property
    def waiting_bytes(self):
        """Memory of the packets that wait for neighbours."""
        return self.ifc.neighbors.queued_bytes

    @property
    def counters(self):
        return counters_as_dict(&self.c)


cdef class UdpProbe:
    """One UDP receive queue.

    Parameters
    ----------
    rcvbuf : int or None
        Its limit in bytes; None leaves the default.
    """

    cdef udp_endpoint_t ep
    cdef event_list_t events

    def __cinit__(self, rcvbuf=None):
        udp_endpoint_init(&self.ep)
        self.events.first = NULL
        self.events.last = NULL
        if rcvbuf is not None:
            self.ep.rcvbuf = rcvbuf

    def __dealloc__(self):
        udp_endpoint_free(&self.ep)

    def deliver(self, bytes datagram not None, src="10.0.0.2", dst="10.0.0.1", *, bint lite=False):
        """A datagram with its header, as the payload of an IP packet: the DropReason. lite: one of UDP-Lite."""
        cdef address_t s, d
        cdef udp_t udp
        cdef uint8_t header[UDP_HEADER]
        cdef uint8_t *payload
        cdef drop_reason_t reason
        cdef Py_ssize_t n = len(datagram)
        memset(header, 0, UDP_HEADER)
        memcpy(header, <char *> datagram, min(n, UDP_HEADER))
        address_parse(src, &s)
        address_parse(dst, &d)
        reason = parse_udplite(header, <uint32_t> n, &udp) if lite else parse_udp(header, <uint32_t> n, &udp)
        if reason != DROP_NONE:
            return DropReason(reason)
        payload = <uint8_t *> malloc(udp.length - UDP_HEADER if udp.length > UDP_HEADER else 1)
        memcpy(payload, <const uint8_t *> <char *> datagram + UDP_HEADER, udp.length - UDP_HEADER)
        reason = udp_deliver(&self.ep, &self.events, &s, udp.sport, payload, udp.length - UDP_HEADER,
                             udp.coverage - UDP_HEADER, udp_partial(&udp, &s, &d), NULL)
        free(payload)
        return DropReason(reason)

    def receive(self, int n=65535, *, bint peek=False):
        """``(bytes, whole length, source, port)``, or the negative errno number."""
        cdef endpoint_t src
        cdef uint32_t length
        cdef ssize_t got
        cdef uint8_t *buffer = <uint8_t *> malloc(n if n else 1)
        try:
            got = udp_receive(&self.ep, buffer, <size_t> n, &src, &length, peek)
            if got < 0:
                return got
            return (<const uint8_t *> buffer)[:got], length, address_format(&src.address), src.port
        finally:
            free(buffer)

    def take_event(self):
        """Whether a readiness event was noted since the last call."""
        noted = self.events.first != NULL
        self.events.first = NULL
        self.events.last = NULL
        self.ep.sock.flags &= <uint8_t> ~SF_QUEUED_EVENT
        return noted

    @property
    def queued(self):
        """Datagrams and bytes of memory in the queue, datagrams it had no room for."""
        return self.ep.queued, self.ep.queued_bytes, self.ep.dropped


cdef class RouteProbe:
    """A table of routes; prefixes are text, ``"10.0.0.0/8"``."""

    cdef route_table_t table

    def __cinit__(self):
        route_init(&self.table)

    def __dealloc__(self):
        route_free(&self.table)

    def add(self, str prefix, gateway=None, int interface=0):
        """0, or a negative errno number."""
        cdef address_t p, g
        address, length = split_prefix(prefix)
        address_parse(address, &p)
        memset(&g, 0, sizeof(address_t))
        if gateway is not None:
            address_parse(gateway, &g)
        return route_add(&self.table, &p, <uint8_t> length, &g, <uint16_t> interface)

    def remove(self, str prefix):
        """0, or a negative errno number."""
        cdef address_t p
        address, length = split_prefix(prefix)
        address_parse(address, &p)
        return route_remove(&self.table, &p, <uint8_t> length)

    def lookup(self, str dst):
        """``(interface, next hop)``, or None."""
        cdef address_t d, hop
        address_parse(dst, &d)
        found = route_lookup(&self.table, &d, &hop)
        return None if found < 0 else (found, address_format(&hop))


def route_count(Stack stack):
    """How many routes the stack has: as many as a lookup looks at, at most."""
    return stack.c.routes.count


def demux_probes(Stack stack, names, int port):
    """How many slots the stack's table of connections would look at to find each of these, all of them in it.

    names : sequence of (int, int)
        The peer's IPv4 address as a number, and its port.
    port : int
        The stack's own port, at its first address.
    """
    cdef address_t local, remote
    cdef uint32_t mask = 63, i, n
    cdef uint8_t *taken
    address_parse(stack.addresses[0].split("/")[0], &local)
    while 4 * len(names) > 3 * (mask + 1):
        mask = 2 * mask + 1
    taken = <uint8_t *> malloc(mask + 1)
    if taken == NULL:
        raise MemoryError
    memset(taken, 0, mask + 1)
    out = []
    for address, sport in names:
        address_from_v4(&remote, <uint32_t> address)
        i = demux_hash(&stack.c.tcp, &local, &remote, <uint16_t> port, <uint16_t> sport) & mask
        n = 1
        while taken[i]:
            i = (i + 1) & mask
            n += 1
        taken[i] = 1
        out.append(n)
    free(taken)
    return out
