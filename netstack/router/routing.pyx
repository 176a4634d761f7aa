# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Judging one packet, and visiting a port to take packets from it.

A record's header is copied privately and judged there; its payload is copied once, from ring to ring. A destination that
does not take its packets gets a bounded private queue, then drops: the router waits for nobody (design section 8, rule
5). Bytes in a ring are another process's memory: each is read once. A packet ends in exactly one way, FORWARDED, CONSUMED
or a Drop, counted at the port it came from.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from netstack.address cimport (
    address_equal, address_from_v4, address_is_unspecified6, address_is_v4, address_t,
)
from netstack.link.impairment cimport held_t
from netstack.router.budget cimport (
    budget_begin, budget_deferred, budget_end, budget_owe, charge, COST_CALL, COST_ERROR, COST_KICK, COST_LOOKUP, COST_PACKET,
    COST_PIECE, COST_RESET, COST_STEER, COST_WAIT,
)
from netstack.router.devices.device cimport frame_t
from netstack.router.emulation cimport wire_arrived_back, wire_arrived_out, wire_push_back, wire_push_out
from netstack.router.limit cimport limit_shut, limit_t, limit_take
from netstack.router.mirror cimport MIRROR_FROM, mirror_packet
from netstack.router.port cimport (
    bucket_take, DROP_CHECKSUM, DROP_DEAD_ADDRESS, DROP_DESTINATION, DROP_HELD, DROP_LENGTH, DROP_MALFORMED,
    DROP_NO_PORT, DROP_NO_ROUTE, DROP_OLD_EPOCH, DROP_OPTIONS, DROP_PIECE, DROP_POLICED, DROP_PROTOCOL, DROP_SPOOFED, DROP_TOO_BIG, DROP_TTL,
    DROP_UNKNOWN_ADDRESS, packet_t, PORT_ACTIVE, port_drain, port_fail, PORT_FAILED, port_flush, port_hand,
    PORT_GREEDY, port_ring, PORT_STACK, port_t, PORT_UPLINK,
)
from netstack.router.policing cimport CUT_OFF, HIDDEN, may_be_tcp, PASS, police_delivered, police_judge
from netstack.router.reading cimport ipv6_never_forwarded, read_header, readable, reading_t
from netstack.router.replies cimport (
    Complaint, echo_to_reply, NO_HOST, NO_PORT, NO_ROUTE, reply_error, REPLY_BYTES, reply_rst, TIME_EXCEEDED, TOO_BIG,
)
from netstack.router.routes cimport HOP_POOL, HOP_STACK, hop_t, HOP_UPLINK, hosted, routes_find
from netstack.router.segments cimport cut_begin, cut_next, cut_size, cutter_t, tcp_is_sound, tcp_view, tcp_view_t
from netstack.router.state cimport forwarder_t, network_has, network_t
from netstack.router.steering cimport (
    STEER_ECHO, STEER_HELD, steer_in, STEER_MALFORMED, STEER_NOBODY, steer_out, STEER_OWNER, STEER_PIECE,
)
from netstack.router.table cimport (
    ENTRY_ACTIVE, ENTRY_COMMIT, ENTRY_DEAD, ENTRY_LOCAL, ENTRY_SHARED, entry_t, table_find,
)
from netstack.router.uplink cimport uplink_advance, uplink_flush, uplink_hand, uplink_of, uplink_receive
from netstack.wire.byte_order cimport host_to_be32, load_be16, load_native16, load_native32, store_native16
from netstack.wire.checksum cimport checksum_fold, checksum_partial, checksum_update16
from netstack.wire.icmp cimport ICMP_HEADER
from netstack.wire.ipv4 cimport (
    check_ipv4_options, IPV4_HEADER, IPV4_OFFSET_MASK, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP,
)
from netstack.wire.ipv6 cimport IPV6_HEADER, NEXT_NONE, PROTOCOL_ICMPV6
from rings.spsc_ring cimport (
    RING_CLOSED, ring_consumer_disarm, RING_DAMAGED, RING_FRAME, RING_OK, ring_peek, RING_POISONED,
    ring_record_t, ring_release, ring_release_now, ring_space_needs_kick, ring_unpeek,
)

cdef enum:
    FORWARDED = -1                   # verdicts beside Drop
    CONSUMED = -2

cdef int64_t ICMP_COST_NS = 1000000          # 1,000 errors a second to one port, bursts of 50 (Linux: icmp_msgs_per_sec)
cdef int64_t ICMP_DEPTH_NS = 50000000
cdef int64_t RST_COST_NS = 20000             # 50,000 resets a second to one port, bursts of 5,000
cdef int64_t RST_DEPTH_NS = 100000000


# ---- judging and forwarding one packet

cdef inline bint martian4(const uint8_t *a) noexcept nogil:
    """Never forwarded: 0/8, 127/8, 224/4, 240/4."""
    return a[0] == 0 or a[0] == 127 or a[0] >= 224


cdef inline bint link_local4(const address_t *a) noexcept nogil:
    """169.254/16 stays on its link (RFC 3927 section 2.7). The relay of an uplink without privilege is no router."""
    cdef const uint8_t *b = <const uint8_t *> a
    return b[12] == 169 and b[13] == 254 and address_is_v4(a)


cdef inline bint martian(const address_t *a) noexcept nogil:
    return martian4(<const uint8_t *> a + 12) if address_is_v4(a) else ipv6_never_forwarded(<const uint8_t *> a)


cdef inline void mapped(address_t *a, uint32_t be) noexcept nogil:
    """`address_from_v4` in one store: the comparison right behind it loads all of `lo`."""
    cdef uint32_t words[2]
    words[0] = host_to_be32(0x0000ffff)
    words[1] = be
    a.hi = 0
    memcpy(&a.lo, words, 8)


cdef inline void hand(forwarder_t *f, port_t *port, packet_t *p) noexcept nogil:
    if p.segment or p.head_length + p.body_length > port.mtu:
        hand_large(f, port, p)
    else:
        hand_whole(f, port, p)


cdef bint may_cut(const port_t *to, const packet_t *p) noexcept nogil:
    """May a packet that is too large for a port be cut? On the way out, or where a device had joined it."""
    cdef tcp_view_t view
    if (to.kind == PORT_STACK and p.segment == 0) or not tcp_view(p, &view):
        return False
    return cut_size(p, &view, to.mtu) != 0 and p.segment + view.headers <= to.mtu


cdef void hand_large(forwarder_t *f, port_t *port, packet_t *p) noexcept nogil:
    """A packet that is too large, or that a device had joined: as it is where that is taken, else in pieces."""
    cdef tcp_view_t view
    cdef cutter_t cutter
    cdef packet_t piece
    cdef uint32_t segment
    cdef bint taken = p.head_length + p.body_length <= port.mtu if port.kind == PORT_STACK else \
        port.wire == NULL and uplink_of(port).device.offload
    if taken or not tcp_view(p, &view):
        hand_whole(f, port, p)
        return
    segment = cut_size(p, &view, port.mtu)
    if segment == 0 or view.payload <= segment:
        hand_whole(f, port, p)
        return
    if not tcp_is_sound(p, &view):           # the pieces get checksums of their own
        port.counters.to_packets += 1
        port.counters.drops_out[<int> DROP_CHECKSUM] += 1
        return
    port.counters.split += (view.payload - 1) // segment
    charge(f, view.payload + (view.payload - 1) // segment * COST_PIECE)
    cut_begin(&cutter, p, &view, segment)
    while cut_next(&cutter, &piece):
        hand_whole(f, port, &piece)


cdef void hand_whole(forwarder_t *f, port_t *port, packet_t *p) noexcept nogil:
    if port.wire != NULL:
        charge(f, COST_WAIT)
        wire_push_out(port, p, f.now_ns)
    else:
        deliver(f, port, p)


cdef const address_t *gateway_of(forwarder_t *f, port_t *port, packet_t *p) noexcept nogil:
    """The gateway that the route of a packet names, by what the table says when it leaves; NULL: none."""
    cdef address_t destination
    cdef hop_t *hop
    if f.routes.gateways == 0:
        return NULL
    if p.header[0] >> 4 == 4:
        mapped(&destination, load_native32(p.header + 16))
    else:
        memcpy(&destination, p.header + 24, 16)
    hop = routes_find(&f.routes, &destination)
    if hop == NULL or hop.port != port or (hop.gateway.lo == 0 and hop.gateway.hi == 0):
        return NULL
    return &hop.gateway


cdef void deliver(forwarder_t *f, port_t *port, packet_t *p) noexcept nogil:
    cdef uint64_t before
    cdef bint watched = f.police != NULL and p.header_length >= 20
    if port.kind == PORT_UPLINK:
        before = uplink_of(port).calls
        p.via = gateway_of(f, port, p)
        uplink_hand(port, p, f.now_ns)
        charge(f, (uplink_of(port).calls - before) * COST_CALL)
        port.dirty = True
    else:
        if port_hand(port, p) != 0 or port.queue_packets:
            watched = False                  # it waits, and is seen when it leaves the queue
        if port.queue_packets:
            charge(f, COST_WAIT)
    if watched and may_be_tcp(p.header):
        police_delivered(f.police, p.header, p.header_length, p.head_length + p.body_length)
    if port.dirty and not port.listed:
        port.listed = True
        port.next_dirty = f.dirty
        f.dirty = port
    if port.state == PORT_FAILED:
        f.failures = True


cdef void answer(forwarder_t *f, port_t *to, uint8_t *packet, uint32_t headers, uint32_t length) noexcept nogil:
    """Send a packet of the router's own back to where its cause came from."""
    cdef packet_t p
    p.header = packet
    p.header_length = p.head_length = headers
    p.head = packet
    p.body = packet + headers
    p.body_length = length - headers
    p.segment = 0
    p.stays = False
    p.source = 0
    to.counters.generated += 1
    hand(f, to, &p)


cdef void addresses_of(const packet_t *p, address_t *source, address_t *destination) noexcept nogil:
    if p.header[0] >> 4 == 4:
        address_from_v4(source, load_native32(p.header + 12))
        address_from_v4(destination, load_native32(p.header + 16))
    else:
        memcpy(source, p.header + 8, 16)
        memcpy(destination, p.header + 24, 16)


cdef uint8_t transport_of(const packet_t *p) noexcept nogil:
    """The protocol behind the extension headers, NEXT_NONE where it cannot be seen."""
    cdef reading_t r
    return r.protocol if read_header(p.header, readable(p), &r) else <uint8_t> NEXT_NONE


cdef void complain(forwarder_t *f, port_t *to, packet_t *p, Complaint why, uint32_t mtu=0) noexcept nogil:
    """Tell the source of a packet why it was dropped: from the router's address in the source's pool, or another of that
    version."""
    cdef address_t source, destination
    cdef const address_t *own = &f.routers[p.header[0] >> 4 == 6]
    cdef network_t *network
    addresses_of(p, &source, &destination)
    network = network_of(f, &source)
    if network != NULL and not address_is_unspecified6(&network.router):
        own = &network.router
    complain_from(f, to, p, why, mtu, own)


cdef void complain_from(forwarder_t *f, port_t *to, packet_t *p, Complaint why, uint32_t mtu,
                        const address_t *own) noexcept nogil:
    """As often as the rate of the source's port allows."""
    cdef uint8_t out[REPLY_BYTES]
    cdef uint32_t n
    if address_is_unspecified6(own) or not bucket_take(&to.icmp_bucket, f.now_ns, ICMP_COST_NS, ICMP_DEPTH_NS):
        return
    pull(f, p)
    charge(f, COST_ERROR)
    n = reply_error(out, p, why, mtu, own)
    if n:
        answer(f, to, out, ICMP_HEADER + (IPV4_HEADER if out[0] >> 4 == 4 else IPV6_HEADER), n)


cdef void reset(forwarder_t *f, port_t *to, packet_t *p) noexcept nogil:
    """Answer a TCP segment that nobody will take."""
    cdef uint8_t out[REPLY_BYTES]
    cdef uint32_t n = reply_rst(out, p.header, p.header_length, p.head_length + p.body_length)
    charge(f, COST_RESET)
    if n and bucket_take(&to.rst_bucket, f.now_ns, RST_COST_NS, RST_DEPTH_NS):
        answer(f, to, out, n, n)


cdef int refuse(forwarder_t *f, port_t *src, packet_t *p) noexcept nogil:
    """There is nobody behind this address and port: as a host would say. False: it would say nothing."""
    cdef address_t source, destination
    cdef uint8_t protocol = transport_of(p)
    if protocol == PROTOCOL_TCP:
        reset(f, src, p)
    elif protocol == PROTOCOL_UDP:
        addresses_of(p, &source, &destination)
        complain_from(f, src, p, NO_PORT, 0, &destination)
    else:
        return False
    return True


cdef int for_the_router(forwarder_t *f, port_t *src, packet_t *p) noexcept nogil:
    """A packet to an address of the router itself: it answers echo, and refuses the rest politely."""
    if echo_to_reply(p.header, p.header_length):
        src.counters.generated += 1
        p.source = 0
        hand(f, src, p)
        return CONSUMED
    return CONSUMED if refuse(f, src, p) else <int> DROP_PROTOCOL


cdef int for_sharers(forwarder_t *f, port_t *src, packet_t *p, port_t **to) noexcept nogil:
    """A packet to an address that stacks share: to whose flow or port it is. The router answers for the host that they make."""
    cdef int verdict = steer_in(f, p, to)
    charge(f, COST_STEER)
    p.at_home = True
    if verdict == STEER_OWNER:
        return FORWARDED
    if verdict == STEER_ECHO:
        return for_the_router(f, src, p)
    if verdict == STEER_NOBODY:
        refuse(f, src, p)
        return <int> DROP_NO_PORT
    if verdict == STEER_PIECE:
        return <int> DROP_PIECE
    if verdict == STEER_HELD:
        return <int> DROP_HELD
    return <int> DROP_MALFORMED if verdict == STEER_MALFORMED else <int> DROP_PROTOCOL


cdef void pull(forwarder_t *f, packet_t *p) noexcept nogil:
    """Make all of a packet private: what an ICMP error is about stands behind its headers. Where they end stays as it was, since
    that is what the stack that gets it reads."""
    if p.head == p.header:
        return
    memcpy(f.scratch, p.header, p.header_length)
    memcpy(f.scratch + p.header_length, p.head + p.header_length, p.head_length - p.header_length)
    if p.body_length:                        # else there may be no body at all
        memcpy(f.scratch + p.head_length, p.body, p.body_length)
    charge(f, p.head_length + p.body_length)
    p.stays = False
    p.header = f.scratch
    p.head = f.scratch
    p.header_length = p.head_length
    p.body = f.scratch + p.head_length


cdef inline bint may_send(forwarder_t *f, port_t *src, packet_t *p, const address_t *source, uint8_t protocol,
                          int *verdict) noexcept nogil:
    """Does the source address belong to the attachment (security I1), and still to it? Where others have it too, the port?"""
    cdef hop_t *hop
    cdef int i
    for i in range(src.n_addresses):
        if address_equal(source, &src.addresses[i]):
            if src.epochs[i] == 0:
                verdict[0] = <int> DROP_OLD_EPOCH
                return False
            if src.shared >> i & 1:
                p.at_home = True
                if protocol == PROTOCOL_ICMP or protocol == PROTOCOL_ICMPV6:
                    pull(f, p)
                charge(f, COST_STEER)
                verdict[0] = steer_out(f, src, p)
                return verdict[0] == FORWARDED
            return True
    if f.routes.blocks and not martian(source) and not link_local4(source):
        charge(f, COST_LOOKUP)
        hop = routes_find(&f.routes, source)
        if hop != NULL and hop.kind == HOP_STACK and hop.port == src and table_find(&f.table, source) == NULL:
            return True
    verdict[0] = <int> DROP_SPOOFED
    return src.outside and is_outside(f, source)


cdef bint is_outside(forwarder_t *f, const address_t *source) noexcept nogil:
    """May an uplink bring packets from there? Not from stacks, pools, or who cannot be a sender."""
    cdef hop_t *hop = routes_find(&f.routes, source)
    return not martian(source) and table_find(&f.table, source) == NULL and (hop == NULL or hop.kind == HOP_UPLINK)


cdef network_t *network_of(forwarder_t *f, const address_t *a) noexcept nogil:
    cdef int i
    for i in range(f.n_networks):
        if network_has(&f.networks[i], a):
            return &f.networks[i]
    return NULL


cdef int of_the_dead(forwarder_t *f, port_t *src, packet_t *p) noexcept nogil:
    """A packet to somebody who is gone: nobody answers for him, so the router does."""
    if transport_of(p) == PROTOCOL_TCP:
        reset(f, src, p)
    else:
        complain(f, src, p, NO_HOST)
    return <int> DROP_DEAD_ADDRESS


cdef int no_entry(forwarder_t *f, port_t *src, packet_t *p, const address_t *destination, port_t **to) noexcept nogil:
    """Where to with an address that is not in the table: by the longest prefix, else to the world."""
    cdef hop_t *hop = routes_find(&f.routes, destination)
    charge(f, COST_LOOKUP)
    if hop != NULL and hop.kind == HOP_POOL:
        if not address_equal(destination, &hop.broadcast):
            complain(f, src, p, NO_HOST)
        return <int> DROP_UNKNOWN_ADDRESS
    if hop != NULL and hop.kind == HOP_STACK:
        if hop.port == NULL:
            return <int> DROP_HELD if hop.held else of_the_dead(f, src, p)
        if hop.port == src:
            return <int> DROP_DESTINATION
    to[0] = hop.port if hop != NULL else f.default_uplink
    if to[0] == NULL or to[0] == src:
        complain(f, src, p, NO_ROUTE)
        return <int> DROP_NO_ROUTE
    if link_local4(destination) and not to[0].outside:
        return <int> DROP_DESTINATION
    return FORWARDED


cdef int destination_of(forwarder_t *f, port_t *src, packet_t *p, const address_t *destination,
                        port_t **to) noexcept nogil:
    """The port for an address: FORWARDED, CONSUMED, or why not."""
    cdef entry_t *e
    if src.last_version == f.table.version and address_equal(destination, &src.last_destination):
        e = src.last_entry
    else:
        e = table_find(&f.table, destination)
        src.last_destination = destination[0]
        src.last_version = f.table.version
        src.last_entry = e
    if e == NULL:
        return no_entry(f, src, p, destination, to)
    if e.state == ENTRY_ACTIVE or e.state == ENTRY_COMMIT:
        to[0] = <port_t *> e.port
        return FORWARDED if to[0] != src or src.sharer != NULL else <int> DROP_DESTINATION
    if e.state == ENTRY_LOCAL:
        return for_the_router(f, src, p)
    if e.state == ENTRY_SHARED:
        return for_sharers(f, src, p, to)
    if e.state == ENTRY_DEAD:
        return of_the_dead(f, src, p)
    return <int> DROP_HELD


cdef int route_ipv4(forwarder_t *f, port_t *src, packet_t *p) noexcept nogil:
    cdef uint8_t *h = p.header
    cdef uint32_t ihl, total = p.head_length + p.body_length
    cdef uint64_t sum
    cdef address_t source, destination
    cdef port_t *to = NULL
    cdef int verdict
    if p.header_length < 20:
        return <int> DROP_MALFORMED
    ihl = (h[0] & 15) << 2
    if ihl < 20 or ihl > p.header_length:
        return <int> DROP_MALFORMED
    if load_be16(h + 2) != total:
        return <int> DROP_LENGTH
    sum = <uint64_t> load_native32(h) + load_native32(h + 4) + load_native32(h + 8) + load_native32(h + 12) \
        + load_native32(h + 16)
    if ihl > 20:
        sum += checksum_partial(h + 20, ihl - 20)
    if checksum_fold(sum) != 0xffff:
        return <int> DROP_CHECKSUM
    if ihl > 20 and check_ipv4_options(h + 20, ihl - 20) != 0:
        return <int> DROP_OPTIONS
    mapped(&source, load_native32(h + 12))
    mapped(&destination, load_native32(h + 16))
    if src.kind == PORT_STACK:
        if not may_send(f, src, p, &source, h[9], &verdict):
            return verdict
    elif martian4(h + 12) or link_local4(&source) or hosted(&f.table, &f.routes, &source):
        return <int> DROP_SPOOFED
    if martian4(h + 16):
        return <int> DROP_DESTINATION
    verdict = destination_of(f, src, p, &destination, &to)
    if verdict != FORWARDED:
        return verdict
    if h[8] <= 1 and not p.at_home:
        complain(f, src, p, TIME_EXCEEDED)
        return <int> DROP_TTL
    if total > to.mtu and not may_cut(to, p):
        complain(f, src, p, TOO_BIG, to.mtu)
        return <int> DROP_TOO_BIG
    if f.police != NULL and may_be_tcp(h) and not passes_police(f, src, p):
        return <int> DROP_POLICED
    if not p.at_home:
        decrement_ttl(p.header)              # of the copy that is handed on
    hand(f, to, p)
    return FORWARDED


cdef bint passes_police(forwarder_t *f, port_t *src, packet_t *p) noexcept nogil:
    cdef int verdict = police_judge(f.police, src, p, f.now_ns)
    return (verdict == PASS and not f.police.news) or passes_after_all(f, src, p, verdict)


cdef bint passes_after_all(forwarder_t *f, port_t *src, packet_t *p, int verdict) noexcept nogil:
    """A packet whose headers do not all stand in what was copied of it is copied as a whole, at its sender's expense. What even
    then cannot be read, though it may be TCP, does not pass: it could not be judged, nor who gets it."""
    if verdict == HIDDEN:
        pull(f, p)
        verdict = police_judge(f.police, src, p, f.now_ns)
    if f.police.news:
        f.police.news = False
        f.failures = True                    # control looks at what was found, too
    if verdict == CUT_OFF:
        port_fail(src, PORT_GREEDY)
    return verdict == PASS


cdef inline void decrement_ttl(uint8_t *h) noexcept nogil:
    """TTL minus one, checksum by RFC 1624."""
    cdef uint16_t before = load_native16(h + 8)
    h[8] -= 1
    store_native16(h + 10, checksum_update16(load_native16(h + 10), before, load_native16(h + 8)))


cdef int route_ipv6(forwarder_t *f, port_t *src, packet_t *p) noexcept nogil:
    cdef uint8_t *h = p.header
    cdef uint32_t total = p.head_length + p.body_length
    cdef address_t source, destination
    cdef port_t *to = NULL
    cdef int verdict
    if p.header_length < 40:
        return <int> DROP_MALFORMED
    if <uint32_t> load_be16(h + 4) + 40 != total:
        return <int> DROP_LENGTH
    memcpy(&source, h + 8, 16)
    memcpy(&destination, h + 24, 16)
    if address_is_v4(&destination) or address_is_v4(&source):        # mapped addresses are never on the wire
        return <int> DROP_MALFORMED
    if src.kind == PORT_STACK:
        if not may_send(f, src, p, &source, h[6], &verdict):
            return verdict
    elif h[8] == 0xff or source.hi == 0 or hosted(&f.table, &f.routes, &source):
        return <int> DROP_SPOOFED
    if ipv6_never_forwarded(h + 24):
        return <int> DROP_DESTINATION
    verdict = destination_of(f, src, p, &destination, &to)
    if verdict != FORWARDED:
        return verdict
    if src.kind == PORT_UPLINK and ipv6_never_forwarded(h + 8):      # a link-local neighbour speaks to the router only
        return <int> DROP_SPOOFED
    if h[7] <= 1 and not p.at_home:
        complain(f, src, p, TIME_EXCEEDED)
        return <int> DROP_TTL
    if total > to.mtu and not may_cut(to, p):
        complain(f, src, p, TOO_BIG, to.mtu)
        return <int> DROP_TOO_BIG
    if f.police != NULL and may_be_tcp(h) and not passes_police(f, src, p):
        return <int> DROP_POLICED
    if not p.at_home:
        p.header[7] -= 1
    hand(f, to, p)
    return FORWARDED


cdef inline void route(forwarder_t *f, port_t *src, packet_t *p) noexcept nogil:
    """Judge a packet and send it on; what becomes of it is counted at its source."""
    cdef int verdict = <int> DROP_MALFORMED
    cdef uint8_t version = p.header[0] >> 4 if p.header_length else 0
    src.counters.in_packets += 1
    src.counters.in_bytes += p.head_length + p.body_length
    p.source = src.slot + 1
    p.at_home = False
    if version == 4:
        verdict = route_ipv4(f, src, p)
    elif version == 6:
        verdict = route_ipv6(f, src, p)
    if verdict == FORWARDED:
        src.counters.forwarded += 1
    elif verdict == CONSUMED:
        src.counters.consumed += 1
    else:
        src.counters.drops_in[verdict] += 1


# ---- visiting ports

cdef inline void take(forwarder_t *f, port_t *port, packet_t *p) noexcept nogil:
    """A packet came out of a stack or an uplink."""
    if port.wire == NULL or p.header_length == 0:
        route(f, port, p)
    elif p.segment == 0:
        wire_push_back(port, p, f.now_ns)
    else:
        take_segments(f, port, p)


cdef void take_segments(forwarder_t *f, port_t *port, packet_t *p) noexcept nogil:
    """On an emulated link each segment is a packet, as on the one it stands for."""
    cdef tcp_view_t view
    cdef cutter_t cutter
    cdef packet_t piece
    if not tcp_view(p, &view) or not tcp_is_sound(p, &view):
        wire_push_back(port, p, f.now_ns)
        return
    cut_begin(&cutter, p, &view, p.segment)
    while cut_next(&cutter, &piece):
        wire_push_back(port, &piece, f.now_ns)


cdef int visit_wire(forwarder_t *f, port_t *port) noexcept nogil:
    """At most one batch each way of what has come to the end of an emulated link."""
    cdef packet_t p
    cdef held_t *held
    cdef int n = 0, m = 0
    f.charged = 0
    while n < BATCH:
        held = wire_arrived_back(port, &p, f.now_ns)
        if held == NULL:
            break
        n += 1
        route(f, port, &p)
        free(held)
    if port.kind == PORT_STACK:
        budget_owe(f, port, n * COST_PACKET)
    while m < BATCH:
        held = wire_arrived_out(port, &p, f.now_ns)
        if held == NULL:
            break
        m += 1
        port.counters.to_packets -= 1            # counted when it entered the link
        deliver(f, port, &p)
        free(held)
    if n + m:
        flush_dirty(f)
    return n + m


cdef void flush_dirty(forwarder_t *f) noexcept nogil:
    cdef port_t *port = f.dirty
    cdef uint64_t before
    f.dirty = NULL
    while port != NULL:
        port.listed = False
        if port.kind == PORT_UPLINK:
            port.dirty = False
            before = uplink_of(port).calls
            uplink_flush(port)
            charge(f, (uplink_of(port).calls - before) * COST_CALL)
        else:
            before = port.counters.kicks
            port_flush(port)
            charge(f, (port.counters.kicks - before) * COST_KICK)
        port = port.next_dirty


cdef int visit_stack(forwarder_t *f, port_t *port) noexcept nogil:
    """At most one turn of one attachment. Returns how many packets it had."""
    cdef uint32_t kind
    cdef int n = 0
    if port.queue_packets:
        port_drain(port)
        if port.dirty:
            port_flush(port)
    if (port.limit == NULL or not limit_shut(port.limit, f.now_ns)) and not (port.debt and budget_deferred(f, port)):
        n = take_turn(f, port)
    if ring_space_needs_kick(port.rx, &kind):
        port_ring(port, kind)
    if port.state == PORT_FAILED:
        f.failures = True
    return n


cdef int take_turn(forwarder_t *f, port_t *port) noexcept nogil:
    """A batch of packets out of an attachment's ring, less where they cost much or its limit says so."""
    cdef ring_record_t r
    cdef packet_t p
    cdef uint8_t header[HEADER_COPY]
    cdef limit_t *limit = port.limit
    cdef bint waits = False
    cdef int n = 0, status = RING_OK
    cdef int64_t budget = budget_begin(f, port), left = budget
    p.segment = 0
    while n < BATCH and left > f.charged:
        status = ring_peek(port.rx, &r)
        if status != RING_OK:
            break
        if limit != NULL and not limit_take(limit, r.head_length + r.body_length, f.now_ns):
            ring_unpeek(port.rx, &r)
            port.counters.limited += 1
            waits = True
            break
        n += 1
        if r.head_length:
            p.head = r.head
            p.head_length = r.head_length
            p.body = r.body
            p.body_length = r.body_length
        else:                                # a packet in one piece: all of it is the record's body
            p.head = r.body
            p.head_length = r.body_length
            p.body = NULL
            p.body_length = 0
        p.header = header
        p.stays = True
        p.header_length = p.head_length if p.head_length < HEADER_COPY else HEADER_COPY
        memcpy(header, p.head, p.header_length)
        left -= p.head_length + p.body_length + COST_PACKET
        if r.kind != RING_FRAME:
            p.header_length = 0              # nothing a stack may send: counted as malformed
        elif port.mirror != NULL:
            mirror_packet(port.mirror, MIRROR_FROM, p.head, p.head_length, p.body, p.body_length)
        take(f, port, &p)
    if n:
        flush_dirty(f)                       # what waits for others of its flow lies in the ring until then
        ring_release(port.rx)
        budget_end(f, port, budget, left)
        port.storm = 0
    if waits:
        ring_release_now(port.rx)            # it may be long until the next turn
    if (n or waits) and port.armed:
        ring_consumer_disarm(port.rx)
        port.armed = False
    if status == RING_DAMAGED:
        port.counters.header_errors += 1
    elif status == RING_POISONED or status == RING_CLOSED:
        port_fail(port, status)
    return n


cdef uint32_t split(const uint8_t *packet, uint32_t total) noexcept nogil:
    """Bytes of headers of a packet from an uplink: a record's body starts behind the transport header, or is all of it."""
    cdef uint32_t at
    cdef uint8_t protocol
    if packet[0] >> 4 == 4:
        at = (packet[0] & 15) << 2
        protocol = packet[9] if load_be16(packet + 6) & IPV4_OFFSET_MASK == 0 else 0     # later pieces have no header
    else:
        at = 40
        protocol = packet[6]
    if protocol == PROTOCOL_TCP and at + 20 <= total:
        at += (packet[at + 12] >> 4) << 2
    elif protocol == PROTOCOL_UDP or protocol == PROTOCOL_ICMP or protocol == PROTOCOL_ICMPV6:
        at += 8
    elif packet[0] >> 4 != 4:
        return total                         # headers between IP's and the transport's: in one piece
    if at < 20:
        at = 20
    return at if at < total else total


cdef int visit_uplink(forwarder_t *f, port_t *port) noexcept nogil:
    """At most one batch of an uplink's frames."""
    cdef packet_t p
    cdef frame_t frame
    cdef int n = 0
    uplink_advance(port, f.now_ns)
    while n < BATCH and uplink_receive(port, &frame, f.now_ns):
        n += 1
        if frame.length >= 20:
            p.header = frame.data
            p.head_length = p.header_length = split(p.header, frame.length)
            p.head = p.header
            p.body = p.header + p.head_length
            p.body_length = frame.length - p.head_length
            p.segment = frame.segment
            p.stays = False
            take(f, port, &p)
    if n:
        flush_dirty(f)
    if uplink_of(port).device.gone and port.state == PORT_ACTIVE:
        port_fail(port, RING_CLOSED)
        f.failures = True
    return n


cdef int visit(forwarder_t *f, port_t *port) noexcept nogil:
    cdef int n = 0
    if port.state != PORT_ACTIVE:
        return 0
    if port.wire != NULL:
        n = visit_wire(f, port)
    return n + (visit_uplink(f, port) if port.kind == PORT_UPLINK else visit_stack(f, port))
