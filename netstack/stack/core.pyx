"""The layers joined: a frame comes in and finds its connection; what connections want to say goes out; time passes."""

from libc.errno cimport EHOSTUNREACH, ETIMEDOUT
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from netstack.address cimport (
    address_equal, address_is_link_local, address_is_multicast6, address_is_v4, address_set_zone, address_v4, address_zone,
)
from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.counters cimport (
    DROP_IP_NO_ROUTE, DROP_IP_PROTOCOL, DROP_IP_SOURCE, DROP_LINK_MALFORMED, DROP_NONE, DROP_TCP_CHECKSUM,
    DROP_TCP_FLAGS, DROP_TCP_LENGTH, DROP_TX_FULL, DropReason, drop,
)
from netstack.demux cimport (
    as_request, as_tcb, as_tw, demux_find, demux_free, demux_hash, demux_insert, demux_listener, demux_remove,
    demux_request_insert, demux_request_remove, demux_time_wait, demux_tw_remove, demux_tw_restart, demux_unbind, is_tw, tw_t,
)
from netstack.ip.autoconf cimport ip6_add_address
from netstack.ip.icmp cimport icmp_send_error, icmp_send_unreachable
from netstack.ip.icmp6 cimport icmp6_send_error, icmp6_send_problem
from netstack.ip.igmp cimport igmp_input
from netstack.ip.interface cimport (
    CLAIM_FULL, CLAIM_OK, CLAIM_UNREACHABLE, PROTOCOL_CONSUMED, PROTOCOL_NOTHING,
    interface_add_address, interface_advance, interface_claim, interface_commit, interface_flush,
    interface_free, interface_has_address, interface_init, interface_input, interface_is_broadcast, interface_mtu, interface_next_deadline, packet_in_t,
    packet_out_t, packet_payload,
)
from netstack.ip.ipv6 cimport ipv6_again
from netstack.ip.nud cimport nud_progress
from netstack.ip.reassembly cimport (
    reassembly_expire, reassembly_free, reassembly_init, reassembly_input, reassembly_next_deadline, reassembly_release,
)
from netstack.ip.route cimport route_add, route_free, route_init, route_lookup, route_remove
from netstack.ip.shared cimport ip_init, reset_may_send
from netstack.ip.source cimport source_address
from netstack.link.link cimport LINK_CHECKSUM_TRUSTED, LINK_NOWHERE, MEDIA_ETHERNET, frame_t
from netstack.sock cimport (
    SF_KEEPALIVE, SF_ORPHAN, SF_QUEUED_EVENT, SF_REUSEADDR, SF_REUSEPORT, SF_V6, SF_V6ONLY, SOCK_TCP,
)
from netstack.stack.datagrams cimport icmp_arrives, on_unreachable, udp_input, wake_datagram_waiters
from netstack.stack.raw cimport raw_input
from netstack.stack.sockets cimport stack_is_group
from netstack.stack.tracing cimport trace_received, trace_sent
from netstack.tcp.accounting cimport account_limits
from netstack.tcp.buffers cimport pool_free, send_forget
from netstack.tcp.congestion.controller cimport congestion_default
from netstack.tcp.connection cimport connection_abort
from netstack.tcp.ecn cimport ecn_reserve
from netstack.tcp.input cimport segment_arrives, segment_for_nobody, segment_verify
from netstack.tcp.listener cimport (
    listen_state, listener_discard, request_answer, request_arrives, request_sent, requests_fire, requests_next,
)
from netstack.tcp.invariants cimport NETSTACK_CHECKED, check_invariants, check_shared
from netstack.tcp.output cimport (
    bare_length, next_segment, on_sent, on_timer, plan_t, retry_now, write_bare, write_fresh_segment, write_segment,
)
from netstack.tcp.scoreboard cimport recovery_free_spares
from netstack.tcp.seq cimport seq_gt
from netstack.tcp.settings cimport settings_share
from netstack.tcp.tcb cimport (
    ACK, ESTABLISHED, FIN, INHERITED_FLAGS, MAX_BARE, RST, SYN, SYN_SENT, TF_OUTPUT, TF_PERSIST, TM_CC_CHOSEN,
    TM_ORPHAN, TM_RCVBUF_SET, TM_SNDBUF_SET, bare_t, request_t, segment_t, tcb_clear, tcb_init, tcp_config_init, want_output,
)
from netstack.tcp.timers cimport timers_due, timers_free, timers_next
from netstack.udp.endpoint cimport udp_endpoint_free, udp_endpoint_t
from netstack.wire.checksum cimport checksum_combine, checksum_partial, checksum_pseudo
from netstack.wire.flow cimport flow_label
from netstack.wire.icmp cimport ICMP_TIME_EXCEEDED
from netstack.wire.icmp6 cimport ICMP6_BAD_NEXT_HEADER, ICMP6_PARAMETER_PROBLEM, ICMP6_TIME_EXCEEDED
from netstack.wire.ipv4 cimport IPV4_HEADER, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_UDPLITE, write_ipv4
from netstack.wire.ipv6 cimport IPV6_HEADER, PROTOCOL_ICMPV6, write_ipv6
from netstack.wire.tcp cimport NO_ACCECN, NO_FASTOPEN, parse_tcp, tcp_header_t

cdef enum:
    BATCH = 32                   # frames taken from a link at a time
    OUTPUT_BURST = 64            # segments of one connection before the next has its turn
    PROTOCOL_IGMP = 2
    DEFAULT_HOPS = 64            # net.ipv4.ip_default_ttl, net.ipv6.conf.*.hop_limit
    HEADERS_MAX = 100            # IPv6 header and the longest TCP header


# --- life -------------------------------------------------------------------------------------------------------------

cdef void stack_init(stack_t *stack, const uint8_t *seed) noexcept nogil:
    memset(stack, 0, sizeof(stack_t))
    memcpy(stack.tcp.secret, seed, 16)
    memcpy(stack.tcp.random, seed + 16, 16)
    if stack.tcp.random[0] == 0 and stack.tcp.random[1] == 0:
        stack.tcp.random[0] = 1
    tcp_config_init(&stack.tcp.config)
    stack.tcp.congestion = congestion_default()
    stack.tcp.stack = stack
    stack.tcp.released = on_released
    stack.tcp.to_time_wait = on_time_wait
    stack.tcp.spawn = on_spawn
    stack.tcp.request_keep = on_request_keep
    stack.tcp.request_gone = on_request_gone
    stack.tcp.listener_of = on_listener_of
    stack.tcp.link_mss = on_link_mss
    stack.tcp.bare = <bare_t *> malloc(MAX_BARE * sizeof(bare_t))
    stack.tcp.bare_capacity = MAX_BARE if stack.tcp.bare != NULL else 0
    stack.next_sock_id = 1
    stack.auto_flowlabels = 1
    route_init(&stack.routes)
    ip_init(&stack.ip, seed, seed + 16)
    reassembly_init(&stack.fragments, seed, &stack.tcp.counters)


cdef void free_sock(stack_t *stack, sock_t *sock) noexcept nogil:
    if sock.kind == SOCK_TCP:
        tcb_clear(<tcb_t *> sock)
        listener_discard(<tcb_t *> sock)
        stack.tcp.tcb_count -= 1
    else:
        udp_endpoint_free(<udp_endpoint_t *> sock)
    stack_unregister(stack, sock)
    free(sock)


cdef void stack_destroy(stack_t *stack) noexcept nogil:
    cdef uint32_t i
    stack.demux.keeper = NULL                          # it is a link's, which may be gone
    while stack.sock_count:
        free_sock(stack, stack.socks[stack.sock_count - 1])
    free(stack.socks)
    demux_free(&stack.demux)
    timers_free(&stack.tcp)
    recovery_free_spares(&stack.tcp)
    pool_free(&stack.tcp)
    free(stack.trace)
    free(stack.tcp.scratch)
    free(stack.tcp.bare)
    free(stack.tcp.fast_open.cache)
    for i in range(stack.interface_count):
        interface_free(stack.interfaces[i])
        free(stack.interfaces[i])
    stack.interface_count = 0
    route_free(&stack.routes)
    reassembly_free(&stack.fragments)


cdef interface_t *route_to(void *context, const address_t *dst, address_t *next_hop) noexcept nogil:
    cdef stack_t *stack = <stack_t *> context
    cdef int i = stack_route(stack, dst, next_hop)
    return stack.interfaces[i] if i >= 0 else NULL


cdef int change_route(void *context, interface_t *ifc, bint add, const address_t *prefix, uint8_t prefix_length,
                      const address_t *gateway) noexcept nogil:
    """What routers announce and take back. Connections go on through the routes there are now."""
    cdef stack_t *stack = <stack_t *> context
    cdef address_t next_hop
    cdef tcb_t *tcb
    cdef uint32_t i
    cdef int r
    if add:
        r = route_add(&stack.routes, prefix, prefix_length, gateway, <uint16_t> ifc.index)
    else:
        r = route_remove(&stack.routes, prefix, prefix_length)
    for i in range(stack.sock_count):
        tcb = <tcb_t *> stack.socks[i]
        if tcb.sock.kind == SOCK_TCP and tcb.state >= SYN_SENT and not address_is_v4(&tcb.remote) and \
                stack_route(stack, &tcb.remote, &next_hop) == tcb.route_interface:
            tcb.next_hop = next_hop
    return r


cdef int stack_add_address(stack_t *stack, interface_t *ifc, const address_t *a, uint8_t prefix_length) noexcept nogil:
    if address_is_v4(a):
        return interface_add_address(ifc, a, prefix_length)
    return ip6_add_address(ifc, a, prefix_length, stack.tcp.now_ns)


cdef interface_t *stack_add_interface(stack_t *stack, link_t *link) noexcept nogil:
    cdef interface_t *ifc
    if stack.interface_count >= STACK_INTERFACES:
        return NULL
    ifc = <interface_t *> calloc(1, sizeof(interface_t))
    if ifc == NULL:
        return NULL
    interface_init(ifc, link, stack.interface_count, &stack.tcp.counters, &stack.ip)
    ifc.context = stack
    ifc.on_unreachable = on_unreachable
    ifc.route_to = route_to
    ifc.change_route = change_route
    ifc.random = stack.tcp.random
    ifc.secret = stack.tcp.secret
    if link.ports != NULL:
        stack.demux.keeper = link.ports
    stack.interfaces[stack.interface_count] = ifc
    stack.interface_count += 1
    return ifc


cdef int stack_register(stack_t *stack, sock_t *sock) noexcept nogil:
    cdef sock_t **table
    cdef uint32_t capacity
    if stack.sock_count == stack.sock_capacity:
        capacity = stack.sock_capacity * 2 if stack.sock_capacity else 16
        table = <sock_t **> realloc(stack.socks, capacity * sizeof(sock_t *))
        if table == NULL:
            return -1
        stack.socks = table
        stack.sock_capacity = capacity
    if sock.id == 0:
        sock.id = stack.next_sock_id
        stack.next_sock_id += 1
    sock.index = stack.sock_count
    stack.socks[stack.sock_count] = sock
    stack.sock_count += 1
    return 0


cdef void stack_unregister(stack_t *stack, sock_t *sock) noexcept nogil:
    stack.sock_count -= 1
    stack.socks[sock.index] = stack.socks[stack.sock_count]
    stack.socks[sock.index].index = sock.index


cdef tcb_t *stack_new_tcb(stack_t *stack) noexcept nogil:
    cdef tcb_t *tcb = <tcb_t *> malloc(sizeof(tcb_t))
    if tcb == NULL:
        return NULL
    tcb_init(tcb, &stack.tcp)
    if stack_register(stack, &tcb.sock) != 0:
        stack.tcp.tcb_count -= 1
        free(tcb)
        return NULL
    return tcb


cdef void on_released(void *context, tcb_t *tcb) noexcept nogil:
    """TCP is done with a connection: freed at the end of the pass, unless the application still holds it."""
    cdef stack_t *stack = <stack_t *> context
    if stack.last_tcb == tcb:
        stack.last_tcb = NULL
    demux_remove(&stack.demux, tcb)
    demux_unbind(&stack.demux, &tcb.sock)
    if tcb.sock.flags & SF_ORPHAN:
        tcb.sibling = stack.dead
        stack.dead = tcb


cdef void on_time_wait(void *context, tcb_t *tcb) noexcept nogil:
    cdef stack_t *stack = <stack_t *> context
    if stack.last_tcb == tcb:
        stack.last_tcb = NULL
    demux_time_wait(&stack.demux, tcb, stack.tcp.now_ns + <int64_t> stack.tcp.config.time_wait_ms * NS_PER_MS,
                    stack.tcp.config.max_tw)


cdef bint on_request_keep(void *context, request_t *r) noexcept nogil:
    cdef stack_t *stack = <stack_t *> context
    r.hash = demux_hash(&stack.tcp, &r.local, &r.remote, r.lport, r.rport)
    return demux_request_insert(&stack.demux, r) == 0


cdef void on_request_gone(void *context, request_t *r) noexcept nogil:
    demux_request_remove(&(<stack_t *> context).demux, r)


cdef tcb_t *on_listener_of(void *context, const tcb_t *child) noexcept nogil:
    return demux_listener(&(<stack_t *> context).demux, &child.local, child.lport, child.hash)


cdef uint32_t on_link_mss(void *context, const address_t *dst, uint8_t interface) noexcept nogil:
    """The largest segment the way to *dst* carries; where there is none, that of the interface it speaks by."""
    cdef stack_t *stack = <stack_t *> context
    cdef address_t next_hop
    cdef int i = stack_route(stack, dst, &next_hop)
    return stack.interfaces[i if i >= 0 else interface].mtu - (40 if address_is_v4(dst) else 60)


cdef tcb_t *on_spawn(void *context, const request_t *r) noexcept nogil:
    """A child of a listener: its names from the SYN, its settings from the listener."""
    cdef stack_t *stack = <stack_t *> context
    cdef tcb_t *child = stack_new_tcb(stack)
    cdef const tcb_t *listener = r.listener
    cdef int i
    if child == NULL:
        return NULL
    child.local = r.local
    child.remote = r.remote
    child.lport = r.lport
    child.rport = r.rport
    child.hash = demux_hash(&stack.tcp, &child.local, &child.remote, child.lport, child.rport)
    child.sock.flags = (listener.sock.flags & (SF_KEEPALIVE | SF_REUSEADDR | SF_REUSEPORT | SF_V6 | SF_V6ONLY)) | \
        SF_ORPHAN
    child.flags = listener.flags & INHERITED_FLAGS
    child.snd_wanted = listener.snd_wanted
    child.rcv_wanted = listener.rcv_wanted
    if listener.modes & TM_CC_CHOSEN:
        child.cc_ops = listener.cc_ops
        child.modes |= TM_CC_CHOSEN
    if r.ecn and not ecn_reserve(child):
        free_sock(stack, &child.sock)
        return NULL
    child.ttl = listener.ttl
    child.hops = listener.hops
    child.tos = listener.tos
    child.tclass = listener.tclass
    settings_share(child, listener)
    child.modes |= listener.modes & (TM_SNDBUF_SET | TM_RCVBUF_SET)
    i = stack_route(stack, &child.remote, &child.next_hop)
    if i < 0:
        i = r.interface
        child.next_hop = child.remote
    child.route_interface = <uint8_t> i
    child.hops = stack_hop_limit(stack, i, &child.remote, child.hops)
    child.flow_label = stack_flow_label(stack, &child.local, &child.remote, child.lport, child.rport, PROTOCOL_TCP)
    if demux_insert(&stack.demux, child) != 0:
        free_sock(stack, &child.sock)
        return NULL
    return child


cdef void stack_reap(stack_t *stack) noexcept nogil:
    """Free what is dead and in no list any more."""
    cdef tcb_t *tcb = stack.dead
    cdef tcb_t *after
    stack.dead = NULL
    while tcb != NULL:
        after = tcb.sibling
        if tcb.flags & TF_OUTPUT or tcb.sock.flags & SF_QUEUED_EVENT:
            tcb.sibling = stack.dead
            stack.dead = tcb
        else:
            free_sock(stack, &tcb.sock)
        tcb = after


# --- where to ---------------------------------------------------------------------------------------------------------

cdef bint is_loopback(const address_t *a) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *> a
    if address_is_v4(a):
        return p[12] == 127
    return a.hi == 0 and p[15] == 1 and (a.lo & ~(<uint64_t> 0xff << 56)) == 0


cdef bint stack_is_local(const stack_t *stack, const address_t *a) noexcept nogil:
    cdef uint32_t i
    if is_loopback(a):
        return True
    for i in range(stack.interface_count):
        if interface_has_address(stack.interfaces[i], a):
            return True
    return False


cdef int stack_route(const stack_t *stack, const address_t *dst, address_t *next_hop) noexcept nogil:
    cdef int i
    if stack_is_local(stack, dst):
        next_hop[0] = dst[0]
        for i in range(<int> stack.interface_count):
            if stack.interfaces[i].shared and interface_has_address(stack.interfaces[i], dst):
                return i                               # it may be another's port
        return 0 if stack.interfaces[0].kernel_ip else stack.interface_count - 1       # the loopback is last
    if address_is_link_local(dst) or address_is_multicast6(dst):
        next_hop[0] = dst[0]                           # one of our links, the first where a group names none
        i = <int> address_zone(dst) - 1 if address_is_link_local(dst) else 0
        if i < 0 or i >= <int> stack.interface_count:
            return -1
        return -1 if address_is_link_local(dst) and stack.interfaces[i].link.capabilities & LINK_NOWHERE else i
    i = route_lookup(&stack.routes, dst, next_hop)
    if i < 0 or i >= <int> stack.interface_count:
        return -1
    if stack.interfaces[i].link.capabilities & LINK_NOWHERE and not is_group(stack.interfaces[i], dst):
        return -1
    return i


cdef bint is_group(const interface_t *ifc, const address_t *dst) noexcept nogil:
    """What our own sockets may hear, even where nobody else is."""
    return address_is_v4(dst) and ((<const uint8_t *> dst)[12] >> 4 == 14 or interface_is_broadcast(ifc, address_v4(dst)))


cdef bint stack_source(const stack_t *stack, int interface, const address_t *dst, address_t *out) noexcept nogil:
    """The address to speak from: dst itself when it is ours, else the interface's, on the same net where there is one."""
    cdef interface_t *ifc = stack.interfaces[interface]
    cdef uint32_t i
    cdef int j
    if stack_is_local(stack, dst):
        out[0] = dst[0]
        return True
    if ifc.link.route != NULL:
        return ifc.link.route(ifc.link, <const uint8_t *> dst, <uint8_t *> out) == 0
    if not address_is_v4(dst):
        if source_address(ifc, dst, stack.tcp.now_ns, out):
            return True
        for j in range(<int> stack.interface_count):   # an interface without a number of its own speaks for another
            if not stack.interfaces[j].loopback and not address_is_link_local(dst) and \
                    source_address(stack.interfaces[j], dst, stack.tcp.now_ns, out) and not address_is_link_local(out):
                return True
        return False
    for i in range(ifc.address_count):
        if address_is_v4(&ifc.addresses[i]) == address_is_v4(dst):
            out[0] = ifc.addresses[i]
            return True
    for j in range(<int> stack.interface_count):
        ifc = stack.interfaces[j]
        for i in range(ifc.address_count):
            if address_is_v4(&ifc.addresses[i]) == address_is_v4(dst) and not is_loopback(&ifc.addresses[i]):
                out[0] = ifc.addresses[i]
                return True
    return False


cdef void stack_rezone(const stack_t *stack, address_t *a) noexcept nogil:
    cdef address_t numbered = a[0]
    cdef uint32_t i
    if not address_is_link_local(a) or address_zone(a):
        return
    for i in range(stack.interface_count):
        address_set_zone(&numbered, i + 1)
        if interface_has_address(stack.interfaces[i], &numbered):
            a[0] = numbered
            return


cdef uint32_t stack_flow_label(const stack_t *stack, const address_t *src, const address_t *dst, uint16_t sport,
                               uint16_t dport, uint8_t protocol) noexcept nogil:
    if address_is_v4(dst) or not stack.auto_flowlabels:
        return 0
    return flow_label(stack.tcp.secret, src, dst, sport, dport, protocol)


cdef uint8_t stack_hop_limit(const stack_t *stack, int interface, const address_t *dst, uint8_t chosen) noexcept nogil:
    cdef const interface_t *ifc = stack.interfaces[interface]
    if chosen != DEFAULT_HOPS or address_is_v4(dst) or ifc.ip6 == NULL or ifc.ip6.hop_limit == 0:
        return chosen
    return ifc.ip6.hop_limit


cdef uint32_t stack_link_mss(const stack_t *stack, const tcb_t *tcb) noexcept nogil:
    """The largest segment the way out carries, IP and TCP headers off (RFC 6691)."""
    cdef bint v4 = address_is_v4(&tcb.remote)
    return interface_mtu(stack.interfaces[tcb.route_interface], v4) - (40 if v4 else 60)


# --- in ---------------------------------------------------------------------------------------------------------------

cdef DropReason tcp_input(stack_t *stack, packet_in_t *packet) noexcept nogil:
    cdef tcp_header_t h
    cdef segment_t seg
    cdef uint32_t length = packet.length - packet.header_length
    cdef const uint8_t *head = packet.header + packet.header_length
    cdef tcb_t *tcb
    cdef void *p
    cdef uint32_t hash, k, una
    cdef DropReason reason
    cdef tcb_t *child = NULL
    stack.tcp.counters.tcp_segments_in += 1
    stack.segments_by[stack.driver] += 1
    if packet.header_bytes < packet.header_length + 20:
        return DROP_TCP_LENGTH if length < 20 else DROP_LINK_MALFORMED
    reason = parse_tcp(head, packet.header_bytes - packet.header_length, length, &h)
    if reason != DROP_NONE:
        return reason
    if packet.broadcast:
        return DROP_TCP_FLAGS                          # RFC 9293 MUST-57: silently
    if not packet_payload(packet, h.header_length, &seg.payload, &seg.length):
        return DROP_LINK_MALFORMED
    seg.src = packet.src
    seg.dst = packet.dst
    seg.sport = h.sport
    seg.dport = h.dport
    seg.seq = h.seq
    seg.ack = h.ack
    seg.wnd = h.wnd
    seg.flags = h.flags
    seg.has_ts = h.has_ts
    seg.tsval = h.tsval
    seg.tsecr = h.tsecr
    seg.wscale = h.wscale
    seg.mss = h.mss
    seg.sack_permitted = h.sack_permitted
    seg.urgent = h.urgent
    seg.sack_count = h.sack_count
    seg.ecn = packet.tos & 3
    seg.newer = 0
    seg.accecn_fields = h.accecn_fields
    for k in range(h.sack_count):
        seg.sack[k].start = h.sack[k].start
        seg.sack[k].end = h.sack[k].end
    if h.accecn_fields != NO_ACCECN:
        seg.accecn_order = h.accecn_order
        for k in range(h.accecn_fields):
            seg.accecn[k] = h.accecn[k]
    seg.trusted = (packet.interface.link.capabilities & LINK_CHECKSUM_TRUSTED) != 0 and not packet.reassembled
    seg.interface = <uint8_t> packet.interface.index
    seg.broadcast = 0
    seg.fastopen_length = h.fastopen_length
    if h.fastopen_length != NO_FASTOPEN:
        seg.fastopen_experimental = h.fastopen_experimental
        memcpy(seg.fastopen, h.fastopen, h.fastopen_length)
    seg.partial = checksum_combine(checksum_pseudo(&seg.src, &seg.dst, PROTOCOL_TCP, length),
                                   checksum_partial(head, h.header_length), 0)
    tcb = stack.last_tcb
    if tcb != NULL and tcb.rport == seg.sport and tcb.lport == seg.dport and \
            address_equal(&tcb.remote, &seg.src) and address_equal(&tcb.local, &seg.dst):
        una = tcb.snd_una
        reason = segment_arrives(tcb, &seg)
        if tcb.snd_una != una:
            path_works(stack, packet, tcb)
        if stack.trace != NULL:
            trace_received(stack.trace, tcb, &seg)
        if NETSTACK_CHECKED:
            check_invariants(tcb)
        return reason
    hash = demux_hash(&stack.tcp, &seg.dst, &seg.src, seg.dport, seg.sport)
    p = demux_find(&stack.demux, hash, &seg.dst, &seg.src, seg.dport, seg.sport)
    if p != NULL and as_tcb(p) != NULL:
        stack.last_tcb = <tcb_t *> p
        una = (<tcb_t *> p).snd_una
        reason = segment_arrives(<tcb_t *> p, &seg)
        if (<tcb_t *> p).snd_una != una:
            path_works(stack, packet, <tcb_t *> p)
        if stack.trace != NULL:
            trace_received(stack.trace, <tcb_t *> p, &seg)
        if NETSTACK_CHECKED:
            check_invariants(<tcb_t *> p)
        return reason
    if p != NULL and is_tw(p):
        return time_wait_input(stack, as_tw(p), &seg)
    if p != NULL:
        reason = request_arrives(&stack.tcp, as_request(p), &seg, &child)
    else:
        tcb = demux_listener(&stack.demux, &seg.dst, seg.dport, hash)
        if tcb == NULL:
            seg.broadcast = not (seg.flags & RST or packet.interface.loopback or
                                 reset_may_send(&stack.ip, &seg.src, stack.tcp.now_ns))    # over the limit: no answer
            return segment_for_nobody(&stack.tcp, &seg)
        reason = listen_state(tcb, &seg, NULL, &child)
    if child != NULL:
        if stack.trace != NULL:
            trace_received(stack.trace, child, &seg)
        if NETSTACK_CHECKED:
            check_invariants(child)
    return reason


cdef inline void path_works(stack_t *stack, const packet_in_t *packet, const tcb_t *tcb) noexcept nogil:
    """New data was acknowledged: the neighbour on the way there passes our packets on (RFC 4861 section 7.3.1)."""
    if packet.interface.media == MEDIA_ETHERNET:
        nud_progress(stack.interfaces[tcb.route_interface], &tcb.next_hop, stack.tcp.now_ns)


cdef DropReason time_wait_input(stack_t *stack, tw_t *tw, segment_t *seg) noexcept nogil:
    """TIME-WAIT (3.10.7.4): a RST does not end it (RFC 1337), a newer SYN may (RFC 6191), all else is acknowledged."""
    cdef tcb_t *listener
    cdef bare_t *b
    cdef tcp_t *tcp = &stack.tcp
    cdef int32_t later
    if not segment_verify(tcp, seg):
        return DROP_TCP_CHECKSUM
    if seg.flags & RST:
        return DROP_TCP_FLAGS
    if seg.flags & SYN and not seg.flags & ACK:
        later = <int32_t> (seg.tsval - tw.ts_recent) if tw.has_ts and seg.has_ts else 0
        if later > 0 or (later == 0 and seq_gt(seg.seq, tw.rcv_nxt)):
            listener = demux_listener(&stack.demux, &seg.dst, seg.dport, tw.hash)
            if listener != NULL:
                return reincarnate(stack, listener, tw, seg)
    if not seg.flags & (ACK | SYN):
        return DROP_TCP_FLAGS                          # fifth: "if the ACK bit is off, drop the segment"
    if seg.flags & FIN and seg.seq + seg.length + 1 == tw.rcv_nxt:
        demux_tw_restart(&stack.demux, tw, tcp.now_ns + <int64_t> tcp.config.time_wait_ms * NS_PER_MS)
    if (seg.length or seg.flags & (SYN | FIN) or seg.seq != tw.rcv_nxt) and tcp.bare_count < MAX_BARE:
        b = &tcp.bare[tcp.bare_count]
        tcp.bare_count += 1
        memset(b, 0, sizeof(bare_t))
        b.src = tw.local
        b.dst = tw.remote
        b.sport = tw.lport
        b.dport = tw.rport
        b.seq = tw.snd_nxt
        b.ack = tw.rcv_nxt
        b.flags = ACK | tw.ace
        b.ecn = tw.ecn
        b.wnd = tw.wnd
        b.has_ts = tw.has_ts
        b.tsval = <uint32_t> (<uint64_t> (tcp.now_ns + tcp.clock_shift_ns) // NS_PER_MS) + tw.ts_offset
        b.tsecr = tw.ts_recent
        b.interface = tw.interface
    return DROP_NONE


cdef DropReason reincarnate(stack_t *stack, tcb_t *listener, tw_t *tw, segment_t *seg) noexcept nogil:
    """A new connection under the names of one in TIME-WAIT; its sequence numbers begin above the old ones."""
    cdef uint32_t last = tw.snd_nxt
    cdef tcb_t *child = NULL
    demux_tw_remove(&stack.demux, tw)
    return listen_state(listener, seg, &last, &child)


cdef void stack_frame(stack_t *stack, interface_t *ifc, const frame_t *frame) noexcept nogil:
    cdef packet_in_t packet
    cdef bint heard = False
    cdef DropReason reason = interface_input(ifc, frame, stack.tcp.now_ns, &packet)
    if reason == DROP_NONE and stack.interface_count > 2 and not ifc.loopback and \
            packet.protocol != PROTOCOL_CONSUMED and stack_is_local(stack, &packet.src) and \
            not (ifc.shared and interface_has_address(ifc, &packet.src)):
        reason = DROP_IP_SOURCE                        # one of our own addresses, from outside (CVE-1999-0016)
    if reason == DROP_NONE and ifc.loopback and not packet.broadcast and packet.protocol != PROTOCOL_CONSUMED:
        packet.broadcast = stack_is_group(stack, &packet.dst)      # what we sent to all, come back
    if reason == DROP_NONE and packet.piece:
        reason = reassembly_input(&stack.fragments, &packet, stack.tcp.now_ns)
        if reason == DROP_NONE and packet.piece:
            return                                     # kept until the rest is there
        stack.tcp.counters.ip_delivered += packet.reassembled
        if packet.reassembled and not address_is_v4(&packet.src):
            reason = ipv6_again(&packet)
    if reason == DROP_NONE and stack.raw_count and packet.protocol != PROTOCOL_CONSUMED:
        heard = raw_input(stack, &packet)
    if reason == DROP_NONE and ifc.divert != NULL and packet.protocol != PROTOCOL_CONSUMED and not packet.broadcast and \
            ifc.divert(ifc.divert_context, &packet):
        packet.protocol = PROTOCOL_CONSUMED
    if reason == DROP_NONE:
        if ifc.loopback and packet.protocol != PROTOCOL_CONSUMED:
            stack_rezone(stack, &packet.src)
            stack_rezone(stack, &packet.dst)
        if packet.protocol == PROTOCOL_TCP:
            reason = tcp_input(stack, &packet)
        elif packet.protocol == PROTOCOL_UDP or packet.protocol == PROTOCOL_UDPLITE:
            reason = udp_input(stack, &packet)
        elif packet.protocol == (PROTOCOL_ICMP if address_is_v4(&packet.dst) else PROTOCOL_ICMPV6):
            reason = icmp_arrives(stack, &packet)
        elif packet.protocol == PROTOCOL_IGMP and address_is_v4(&packet.dst):
            reason = igmp_input(&packet, stack.tcp.now_ns)
        elif packet.protocol != PROTOCOL_CONSUMED and not heard:
            unknown_protocol(stack, &packet)
            reason = DROP_IP_PROTOCOL
    elif packet.problem:
        icmp6_send_problem(&packet, stack.tcp.now_ns)
    if reason != DROP_NONE:
        drop(&stack.tcp.counters, reason)
    if packet.reassembled:
        reassembly_release(&stack.fragments)


cdef void expire_fragments(stack_t *stack, int64_t now_ns) noexcept nogil:
    cdef packet_in_t packet
    cdef int due
    while True:
        due = reassembly_expire(&stack.fragments, now_ns, &packet)
        if due == 0:
            break
        if due == 1 and address_is_v4(&packet.src):
            icmp_send_error(&packet, ICMP_TIME_EXCEEDED, 1, 0, now_ns)
        elif due == 1:
            icmp6_send_error(&packet, ICMP6_TIME_EXCEEDED, 1, 0, now_ns)
    reassembly_release(&stack.fragments)


cdef void unknown_protocol(stack_t *stack, packet_in_t *packet) noexcept nogil:
    """Nobody here speaks it: the sender hears so (RFC 1122 section 3.2.2.1, RFC 8200 section 4)."""
    if address_is_v4(&packet.dst):
        icmp_send_unreachable(packet, 2, stack.tcp.now_ns)
    elif packet.protocol != PROTOCOL_NOTHING:
        icmp6_send_error(packet, ICMP6_PARAMETER_PROBLEM, ICMP6_BAD_NEXT_HEADER, packet.protocol_at, stack.tcp.now_ns)


cdef int receive_from(stack_t *stack, interface_t *ifc, int budget) noexcept nogil:
    """At most budget frames; 1 when there may be more."""
    cdef frame_t frames[BATCH]
    cdef int n, i, want
    while budget > 0:
        want = BATCH if budget > BATCH else budget
        n = ifc.link.receive(ifc.link, frames, want)
        for i in range(n):
            stack_frame(stack, ifc, &frames[i])
            if stack.tcp.ack_urgent:
                stack.tcp.ack_urgent = 0
                if not ifc.loopback:                   # whose frames lie where output would write
                    stack_output(stack)
        if n:
            ifc.link.release(ifc.link)
        budget -= n
        if n < want:
            return 0
    return 1


# --- out --------------------------------------------------------------------------------------------------------------

cdef int stack_send_planned(stack_t *stack, tcb_t *tcb, const plan_t *plan, const uint8_t *data) noexcept nogil:
    """Claim, write, commit one decided segment. data: the payload is the application's (plan.fresh)."""
    cdef packet_out_t out
    cdef interface_t *ifc = stack.interfaces[tcb.route_interface]
    # Headers are made and summed here and then stored in one go: reading them back out of a line that the other core
    # still owns would wait for it, segment after segment.
    cdef uint8_t header[HEADERS_MAX]
    cdef bint v4 = address_is_v4(&tcb.remote)
    cdef uint32_t ip_length = IPV4_HEADER if v4 else IPV6_HEADER
    cdef uint32_t header_length = ip_length + plan.header_length
    cdef int r = interface_claim(ifc, &tcb.next_hop, header_length, plan.length, stack.tcp.now_ns, &out)
    if r != CLAIM_OK:
        return r
    if plan.fresh and data != NULL:
        write_fresh_segment(tcb, plan, header + ip_length, out.body, data, ifc.link.stream)
    else:
        write_segment(tcb, plan, header + ip_length, out.body, ifc.link.stream)
    if v4:
        write_ipv4(header, address_v4(&tcb.local), address_v4(&tcb.remote), PROTOCOL_TCP, header_length + plan.length,
                   tcb.tos | plan.ecn, tcb.ttl, 0, True)
    else:
        write_ipv6(header, &tcb.local, &tcb.remote, PROTOCOL_TCP, plan.header_length + plan.length, tcb.tclass | plan.ecn,
                   tcb.hops, tcb.flow_label)
    if header_length == 52:
        memcpy(out.ip, header, 52)                     # the usual one: a length the compiler knows
    else:
        memcpy(out.ip, header, header_length)
    interface_commit(&out, stack.tcp.now_ns)
    on_sent(tcb, plan)
    if stack.trace != NULL:
        trace_sent(stack.trace, tcb, plan)
    return CLAIM_OK


cdef int stack_tcb_output(stack_t *stack, tcb_t *tcb) noexcept nogil:
    cdef int r = send_burst(stack, tcb)
    account_limits(tcb)
    return r


cdef int send_burst(stack_t *stack, tcb_t *tcb) noexcept nogil:
    """Everything the connection may send now, a burst at a time. CLAIM_FULL when the link stopped it."""
    cdef plan_t plan
    cdef int r, n = 0
    while next_segment(tcb, 0, &plan):
        r = stack_send_planned(stack, tcb, &plan, NULL)
        if r == CLAIM_FULL:
            return CLAIM_FULL
        if r == CLAIM_UNREACHABLE:
            if tcb.state == SYN_SENT:
                connection_abort(tcb, EHOSTUNREACH, False)
                return CLAIM_OK
            tcb.soft_error = EHOSTUNREACH
        if r != CLAIM_OK:
            on_sent(tcb, &plan)                        # lost, as on any link: the timer repairs it
        n += 1
        if n >= OUTPUT_BURST:
            want_output(tcb)
            return CLAIM_OK
    return CLAIM_OK


cdef int send_bare(stack_t *stack, const bare_t *b) noexcept nogil:
    cdef packet_out_t out
    cdef address_t next_hop
    cdef int i = stack_route(stack, &b.dst, &next_hop), r
    cdef uint32_t n = bare_length(b)
    cdef uint8_t ttl = b.ttl if b.ttl else 64
    cdef bint v4 = address_is_v4(&b.dst)
    if i < 0 and not b.flags & SYN:
        drop(&stack.tcp.counters, DROP_IP_NO_ROUTE)
        return CLAIM_UNREACHABLE
    if i < 0:                                          # an answer to a SYN: back the way it came
        i = b.interface
        next_hop = b.dst
    r = interface_claim(stack.interfaces[i], &next_hop, (IPV4_HEADER if v4 else IPV6_HEADER) + n, 0, stack.tcp.now_ns,
                        &out)
    if r != CLAIM_OK:
        return r
    if v4:
        write_bare(b, out.ip + IPV4_HEADER)
        write_ipv4(out.ip, address_v4(&b.src), address_v4(&b.dst), PROTOCOL_TCP, IPV4_HEADER + n, b.tos | b.ecn, ttl, 0, True)
    else:
        write_bare(b, out.ip + IPV6_HEADER)
        write_ipv6(out.ip, &b.src, &b.dst, PROTOCOL_TCP, n, b.tos | b.ecn, ttl,
                   stack_flow_label(stack, &b.src, &b.dst, b.sport, b.dport, PROTOCOL_TCP))
    interface_commit(&out, stack.tcp.now_ns)
    stack.tcp.counters.tcp_segments_out += 1
    return CLAIM_OK


cdef void send_answers(stack_t *stack) noexcept nogil:
    """SYN,ACKs of half-open connections that are due; those a full link stops stay so."""
    cdef bare_t answer
    while stack.tcp.requests_due.first != NULL:
        request_answer(&stack.tcp, stack.tcp.requests_due.first, &answer)
        if send_bare(stack, &answer) == CLAIM_FULL:
            return
        request_sent(&stack.tcp, stack.tcp.requests_due.first)


cdef void stack_flush(stack_t *stack) noexcept nogil:
    cdef uint32_t i
    for i in range(stack.interface_count):
        interface_flush(stack.interfaces[i])


cdef void stack_output(stack_t *stack) noexcept nogil:
    """What every connection in the output list wants to send; those a full link stops stay in the list."""
    cdef tcp_t *tcp = &stack.tcp
    cdef tcb_t *tcb
    cdef tcb_t *blocked = NULL
    cdef tcb_t *blocked_last = NULL
    cdef uint32_t full = 0, i
    # First what belongs to no connection: behind those that fill the link again and again it would never have room.
    for i in range(tcp.bare_count):
        if send_bare(stack, &tcp.bare[i]) == CLAIM_FULL:
            drop(&tcp.counters, DROP_TX_FULL)
    tcp.bare_count = 0
    send_answers(stack)
    while tcp.output_first != NULL:
        tcb = tcp.output_first
        tcp.output_first = tcb.output_next
        if tcp.output_first == NULL:
            tcp.output_last = NULL
        tcb.flags &= ~TF_OUTPUT
        if not full & (1 << tcb.route_interface) and stack_tcb_output(stack, tcb) != CLAIM_FULL:
            continue
        full |= <uint32_t> 1 << tcb.route_interface
        if tcb.flags & TF_OUTPUT:
            continue
        tcb.flags |= TF_OUTPUT
        tcb.output_next = NULL
        if blocked == NULL:
            blocked = tcb
        else:
            blocked_last.output_next = tcb
        blocked_last = tcb
    if blocked != NULL:
        tcp.output_first = blocked
        tcp.output_last = blocked_last
    if stack.datagram_waiters and not full:
        wake_datagram_waiters(stack)
    stack_flush(stack)


# --- time -------------------------------------------------------------------------------------------------------------

cdef void stack_set_now(stack_t *stack, int64_t now_ns) noexcept nogil:
    """Time only moves forward."""
    if now_ns > stack.tcp.now_ns:
        stack.tcp.now_ns = now_ns


cdef void relieve_memory(stack_t *stack) noexcept nogil:
    """Too many buffers (CVE-2008-4609, RFC 6429): connections whose peer opens no window are ended until three quarters of
    tcp_mem are left, those nobody waits for first, then the larger ones. Whoever moves data is never ended. At most ten
    looks a second, so that an attacker who keeps memory short does not make every pass walk all sockets."""
    cdef tcp_t *tcp = &stack.tcp
    cdef uint64_t enough = tcp.config.mem_max - tcp.config.mem_max // 4
    cdef uint32_t i, round, average
    cdef tcb_t *tcb
    if tcp.now_ns - tcp.relieved_ns < NS_PER_S // 10 and tcp.relieved_ns:
        return
    tcp.relieved_ns = tcp.now_ns
    average = <uint32_t> (tcp.buffer_bytes // (tcp.tcb_count if tcp.tcb_count else 1))
    for round in range(3):
        for i in range(stack.sock_count):
            tcb = <tcb_t *> stack.socks[i]
            if tcp.buffer_bytes <= enough:
                return
            if tcb.sock.kind != SOCK_TCP or tcb.state < ESTABLISHED or not tcb.flags & TF_PERSIST or tcb.snd_wnd:
                continue
            if (round == 0 and not tcb.modes & TM_ORPHAN) or (round == 1 and tcb.snd_cap < average):
                continue
            tcp.counters.tcp_memory_aborts += 1
            connection_abort(tcb, ETIMEDOUT, True)
            send_forget(tcb)


cdef int64_t stack_next_deadline(stack_t *stack) noexcept nogil:
    cdef int64_t d = timers_next(&stack.tcp), e = requests_next(&stack.tcp)
    cdef uint32_t i
    if e < d:
        d = e
    if stack.demux.tw_first != NULL and stack.demux.tw_first.expires_ns < d:
        d = stack.demux.tw_first.expires_ns
    e = reassembly_next_deadline(&stack.fragments)
    if e < d:
        d = e
    for i in range(stack.interface_count):
        e = interface_next_deadline(stack.interfaces[i])
        if e < d:
            d = e
    return d


cdef void stack_advance(stack_t *stack, int64_t now_ns) noexcept nogil:
    """Fire what is due by now, in the order of the deadlines, each at its own time, with the output it causes."""
    cdef int64_t d, start
    cdef tcb_t *tcb
    cdef uint32_t i
    while True:
        d = stack_next_deadline(stack)
        if d > now_ns:
            break
        stack_set_now(stack, d)
        start = stack.tcp.now_ns
        while True:
            tcb = timers_due(&stack.tcp, start)
            if tcb == NULL:
                break
            on_timer(tcb)
            if NETSTACK_CHECKED:
                check_invariants(tcb)
        requests_fire(&stack.tcp, start)
        for i in range(stack.interface_count):
            if interface_next_deadline(stack.interfaces[i]) <= start:
                interface_advance(stack.interfaces[i], start)
        while stack.demux.tw_first != NULL and stack.demux.tw_first.expires_ns <= start:
            demux_tw_remove(&stack.demux, stack.demux.tw_first)
        if reassembly_next_deadline(&stack.fragments) <= start:
            expire_fragments(stack, start)
        stack_output(stack)
    stack_set_now(stack, now_ns)
    if stack.tcp.output_first != NULL or stack.tcp.bare_count or stack.tcp.requests_due.first != NULL or \
            stack.datagram_waiters:
        stack_output(stack)


cdef int talk_to_ourselves(stack_t *stack) noexcept nogil:
    """What went into the loopback is input again in the same pass; bounded, two of our sockets may chat for long."""
    cdef interface_t *ifc
    cdef int rounds = 0
    if stack.interface_count == 0:
        return 0
    ifc = stack.interfaces[stack.interface_count - 1]
    while ifc.link.has_input(ifc.link) and rounds < 64:
        receive_from(stack, ifc, 4 * BATCH)
        stack_output(stack)
        rounds += 1
    return ifc.link.has_input(ifc.link)


cdef void check_stack(stack_t *stack) noexcept nogil:
    """Everything, in debug builds: at the end of a call and of a pass."""
    cdef uint32_t i
    check_shared(&stack.tcp)
    for i in range(stack.sock_count):
        if stack.socks[i].kind == SOCK_TCP:
            check_invariants(<tcb_t *> stack.socks[i])


cdef void stack_settle(stack_t *stack) noexcept nogil:
    if stack.tcp.output_first != NULL or stack.tcp.bare_count or stack.tcp.requests_due.first != NULL:
        stack_output(stack)
    else:
        stack_flush(stack)
    talk_to_ourselves(stack)
    if stack.dead != NULL:
        stack_reap(stack)
    if NETSTACK_CHECKED:
        check_stack(stack)


cdef void stack_resume(stack_t *stack, int64_t now_ns) noexcept nogil:
    """The way out was interrupted and is there again: what waits for an acknowledgement is due now."""
    cdef uint32_t i
    stack_set_now(stack, now_ns)
    for i in range(stack.sock_count):
        if stack.socks[i].kind == SOCK_TCP:
            retry_now(<tcb_t *> stack.socks[i])


cdef int stack_process(stack_t *stack, int64_t now_ns, int budget) noexcept nogil:
    cdef uint32_t i
    cdef int more = 0
    stack_set_now(stack, now_ns)                       # first: what fires late fires now, and once (fault row F12)
    for i in range(stack.interface_count):
        # Always, not only when due: links that delay or stamp what they receive learn the time so.
        stack.interfaces[i].link.advance(stack.interfaces[i].link, now_ns)
        more |= receive_from(stack, stack.interfaces[i], budget)
    if stack.tcp.buffer_bytes > stack.tcp.config.mem_max - stack.tcp.config.mem_max // 8:
        relieve_memory(stack)
    stack_advance(stack, now_ns)
    more |= talk_to_ourselves(stack)
    stack_flush(stack)
    stack_reap(stack)
    if NETSTACK_CHECKED:
        check_stack(stack)
    return more


cdef sock_t *stack_next_event(stack_t *stack) noexcept nogil:
    cdef sock_t *sock = stack.tcp.events.first
    if sock == NULL:
        return NULL
    stack.tcp.events.first = sock.event_next
    if stack.tcp.events.first == NULL:
        stack.tcp.events.last = NULL
    sock.flags &= ~<uint8_t> SF_QUEUED_EVENT
    return sock
