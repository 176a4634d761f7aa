"""Sockets as C calls. Nothing here blocks; whoever waits is the driver's business."""

from libc.errno cimport (
    EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EALREADY, EDESTADDRREQ, EINPROGRESS, EINVAL, EISCONN,
    EMSGSIZE, ENETUNREACH, ENOMEM, ENOTCONN, EOPNOTSUPP, EPIPE, EPROTONOSUPPORT, EACCES,
)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from netstack.address cimport (
    address_equal, address_from_v4, address_is_any, address_is_link_local, address_is_multicast6, address_is_v4,
    address_set_zone, address_t, address_v4, address_zone,
)
from netstack.demux cimport (
    as_tw, demux_bind, demux_claim, demux_find, demux_hash, demux_insert, demux_overlap, demux_pick, demux_port_in_use,
    demux_port_taken, demux_tw_remove, demux_unbind, is_tw,
)
from netstack.ip.interface cimport CLAIM_FULL, CLAIM_OK, interface_is_broadcast
from netstack.sock cimport (
    EVENT_ERR, EVENT_IN, EVENT_OUT, SF_BROADCAST, SF_CHOSEN, SF_ORPHAN, SF_QUEUED_EVENT, SF_REUSEPORT, SF_V6, SF_V6ONLY, SOCK_PING,
    SOCK_RAW, SOCK_TCP, SOCK_UDPLITE, kind_is_udp,
)
from netstack.stack.core cimport (
    stack_flow_label, stack_hop_limit, stack_is_local, stack_link_mss, stack_new_tcb, stack_register, stack_route, stack_send_planned, stack_settle,
    stack_source, stack_tcb_output, stack_unregister,
)
from netstack.stack.multicast cimport multicast_leave_all
from netstack.stack.options cimport option_get, option_set
from netstack.stack.sending cimport datagram_send, send_how_t
from netstack.tcp.accounting cimport account_limits
from netstack.tcp.buffers cimport receive_take, send_append, send_reserve, send_room
from netstack.tcp.connection cimport (
    connection_abort, connection_close, connection_consumed, connection_open, connection_poll, connection_raise_isn,
    connection_shutdown_write,
    lent_drain,
)
from netstack.tcp.fast_open cimport (
    TFO_CLIENT, fast_open_listen, fast_open_may_defer, fast_open_room, fast_open_start,
)
from netstack.tcp.isn cimport random_below
from netstack.tcp.listener cimport listener_accept, listener_discard, listener_refuse
from netstack.tcp.output cimport next_segment, plan_t
from netstack.tcp.records cimport record_end
from netstack.tcp.tcb cimport (
    CLOSED, CLOSING, ESTABLISHED, FIN_WAIT_1, FO_CHILD, FO_CONNECT, FO_DEFERRED, LAST_ACK, LISTEN, SYN_RCVD, SYN_SENT,
    TF_FIN_QUEUED, TF_FIN_RECEIVED, TF_MORE, TF_SHUT_RD, TF_SYN_SENT, TF_WANT_WRITE, TIME_WAIT, TM_FAST_OPEN, TM_MORE_LAST,
    TM_URGENT, data_end, listener_t, receive_end, send_segment_limit, tcb_t, want_output,
)
from netstack.udp.endpoint cimport (
    PMTU_DONT, arrival_t, endpoint_receive, udp_endpoint_free, udp_endpoint_init, udp_endpoint_t,
)
from netstack.wire.ipv4 cimport PROTOCOL_UDPLITE
from netstack.wire.ipv6 cimport PROTOCOL_ICMPV6

cdef enum:
    MSG_OOB = 1
    MSG_PEEK = 2
    MSG_TRUNC = 0x20
    MSG_EOR = 0x80
    MSG_ERRQUEUE = 0x2000
    MSG_MORE = 0x8000
    MSG_FASTOPEN = 0x20000000
    PORT_TRIES = 64
    LOOKED_THROUGH = 16384       # places of the table of connections


# --- making and naming ------------------------------------------------------------------------------------------------

cdef int sock_open(stack_t *stack, int family, int type, int protocol, sock_t **out) noexcept nogil:
    cdef tcb_t *tcb
    cdef udp_endpoint_t *ep
    if family != 2 and family != 10:
        return -EAFNOSUPPORT
    type &= 0xf
    if type == 1 and (protocol == 0 or protocol == 6):
        tcb = stack_new_tcb(stack)
        if tcb == NULL:
            return -ENOMEM
        out[0] = &tcb.sock
    elif (type == 2 and protocol in (0, 17, 1 if family == 2 else PROTOCOL_ICMPV6)) or (type == 3 and 0 < protocol <= 255) or (
            type == 2 and protocol == PROTOCOL_UDPLITE and stack.demux.keeper == NULL):   # beside the kernel nobody keeps its ports
        ep = <udp_endpoint_t *> calloc(1, sizeof(udp_endpoint_t))
        if ep == NULL:
            return -ENOMEM
        udp_endpoint_init(ep)
        ep.ttl = stack.ip.config.default_ttl
        if stack.ip.config.no_pmtu_disc:
            ep.pmtu_discovery = PMTU_DONT
        if type == 2 and (protocol == 1 or protocol == PROTOCOL_ICMPV6):
            ep.sock.kind = SOCK_PING
        if type == 2 and protocol == PROTOCOL_UDPLITE:
            ep.sock.kind = SOCK_UDPLITE
        if type == 3:
            ep.sock.kind = SOCK_RAW
            ep.protocol = <uint8_t> protocol
            ep.lport = <uint16_t> protocol
            stack.raw_count += 1
        if stack_register(stack, &ep.sock) != 0:
            stack.raw_count -= type == 3
            free(ep)
            return -ENOMEM
        if type == 3:
            demux_bind(&stack.demux, &ep.sock)         # hears from the beginning (raw(7))
        out[0] = &ep.sock
    else:
        return -EPROTONOSUPPORT
    if family == 10:
        out[0].flags |= SF_V6
        if stack.bindv6only or out[0].kind == SOCK_PING:       # echo is ICMPv6's there
            out[0].flags |= SF_V6ONLY
    else:
        set_any(out[0])
    return 0


cdef void set_local(sock_t *sock, const address_t *a, uint16_t port) noexcept nogil:
    if sock.kind == SOCK_TCP:
        (<tcb_t *> sock).local = a[0]
        (<tcb_t *> sock).lport = port
    else:
        (<udp_endpoint_t *> sock).local = a[0]
        (<udp_endpoint_t *> sock).lport = port


cdef void set_any(sock_t *sock) noexcept nogil:
    """The unspecified address of the socket's family: what that covers depends on it (`demux`)."""
    cdef address_t *local = &(<tcb_t *> sock).local if sock.kind == SOCK_TCP else &(<udp_endpoint_t *> sock).local
    memset(local, 0, sizeof(address_t))
    if not sock.flags & SF_V6:
        address_from_v4(local, 0)


cdef int fit_address(const stack_t *stack, const sock_t *sock, endpoint_t *e) noexcept nogil:
    """Make an address of the caller's one of ours: the right family, and of a link-local one the link.

    A link-local address without a zone is of the interface the socket is bound to, or of the only one there is; Linux
    asks for the zone even then. 0, -EAFNOSUPPORT, -ENETUNREACH (IPv4 at an IPV6_V6ONLY socket), -EINVAL (which link?).
    """
    cdef uint32_t zone = e.scope
    if address_is_v4(&e.address):
        return -ENETUNREACH if sock.flags & SF_V6ONLY else 0
    if not sock.flags & SF_V6:
        return -EAFNOSUPPORT
    if not address_is_link_local(&e.address):
        return 0
    if address_zone(&e.address):
        zone = address_zone(&e.address)
    if zone == 0:
        zone = sock.device
    if zone == 0 and stack.interface_count == 2:
        zone = 1
    if zone == 0 or zone >= stack.interface_count or (sock.device and zone != sock.device):
        return -EINVAL
    address_set_zone(&e.address, zone)
    return 0


cdef uint16_t local_port(const sock_t *sock) noexcept nogil:
    return (<const tcb_t *> sock).lport if sock.kind == SOCK_TCP else (<const udp_endpoint_t *> sock).lport


cdef uint16_t free_port(stack_t *stack, sock_t *sock, const address_t *local) noexcept nogil:
    """A port nobody is bound to, at random over the whole range (RFC 6056 section 3.3.1); 0: all taken. Nor one at which
    connections stand or rest, so that who closes the socket can bind another one there; as long as looking is cheap."""
    cdef uint32_t first = stack.tcp.config.port_first, n = stack.tcp.config.port_last - first + 1
    cdef uint32_t offset = random_below(&stack.tcp, n), i
    cdef uint16_t port
    cdef int r
    for i in range(n):
        r = demux_pick(&stack.demux, sock, offset, i)
        if r < 0:
            return 0
        port = <uint16_t> r if r else <uint16_t> (first + (offset + i) % n)
        if demux_port_taken(&stack.demux, sock, local, port, False):
            continue
        if sock.kind == SOCK_TCP and stack.demux.mask < LOOKED_THROUGH and \
                demux_port_in_use(&stack.demux, sock, local, port):
            continue
        r = demux_claim(&stack.demux, sock, port)
        if r == 0:
            return port
        if r != -EADDRINUSE:                           # no descriptor is left for any
            return 0
    return 0


cdef int sock_bind(stack_t *stack, sock_t *sock, const endpoint_t *local) noexcept nogil:
    cdef endpoint_t e = local[0]
    cdef bint bound
    cdef int r
    if sock.kind == SOCK_RAW:
        r = fit_address(stack, sock, &e)
        if r < 0:
            return -EINVAL if r == -ENETUNREACH else r
        if not address_is_any(&e.address) and not stack_is_local(stack, &e.address) and \
                not is_broadcast(stack, &e.address):
            return -EADDRNOTAVAIL
        (<udp_endpoint_t *> sock).local = e.address
        return 0
    bound = local_port(sock) or (sock.kind == SOCK_TCP and (<tcb_t *> sock).state != CLOSED)
    if bound and sock.flags & SF_V6:
        return -EINVAL
    r = fit_address(stack, sock, &e)
    if r < 0:
        return -EINVAL if r == -ENETUNREACH else r     # as Linux: IPv4 at an IPV6_V6ONLY socket
    if not address_is_any(&e.address) and not stack_is_local(stack, &e.address) and \
            not (kind_is_udp(sock.kind) and is_broadcast(stack, &e.address)):
        return -EADDRNOTAVAIL
    if bound:                                          # as Linux: IPv4 looks at the address first
        return -EINVAL
    if e.port == 0:
        e.port = free_port(stack, sock, &e.address)
        if e.port == 0:
            return -EADDRINUSE
    elif demux_port_taken(&stack.demux, sock, &e.address, e.port, False) or (
            sock.kind == SOCK_TCP and demux_port_in_use(&stack.demux, sock, &e.address, e.port)):
        return -EADDRINUSE
    else:
        r = demux_claim(&stack.demux, sock, e.port)
        if r < 0:
            return r
    set_local(sock, &e.address, e.port)
    demux_bind(&stack.demux, sock)
    return 0


cdef bint stack_is_group(const stack_t *stack, const address_t *a) noexcept nogil:
    return is_broadcast(stack, a)


cdef int sock_give_port(stack_t *stack, sock_t *sock) noexcept nogil:
    cdef udp_endpoint_t *ep = <udp_endpoint_t *> sock
    ep.lport = free_port(stack, sock, &ep.local)
    if ep.lport == 0:
        return -EAGAIN
    demux_bind(&stack.demux, sock)
    return 0


cdef bint is_broadcast(const stack_t *stack, const address_t *a) noexcept nogil:
    cdef uint32_t i
    cdef const uint8_t *p = <const uint8_t *> a
    if not address_is_v4(a):
        return p[0] == 0xff
    if p[12] >= 224 and p[12] < 240:
        return True
    for i in range(stack.interface_count):
        if interface_is_broadcast(stack.interfaces[i], address_v4(a)):
            return True
    return False


cdef int sock_local(stack_t *stack, sock_t *sock, endpoint_t *out) noexcept nogil:
    if sock.kind == SOCK_TCP:
        out.address = (<tcb_t *> sock).local
        out.port = (<tcb_t *> sock).lport
    else:
        out.address = (<udp_endpoint_t *> sock).local
        out.port = (<udp_endpoint_t *> sock).lport
    out.scope = 0
    return 0


cdef int sock_remote(stack_t *stack, sock_t *sock, endpoint_t *out) noexcept nogil:
    out.scope = 0
    if sock.kind == SOCK_TCP:
        # As Linux, accept() tells the name of a Fast Open that was reset meanwhile.
        if (<tcb_t *> sock).state <= SYN_SENT and not ((<tcb_t *> sock).state == CLOSED and
                                                       (<tcb_t *> sock).fast_open & FO_CHILD):
            return -ENOTCONN
        out.address = (<tcb_t *> sock).remote
        out.port = (<tcb_t *> sock).rport
        return 0
    if not (<udp_endpoint_t *> sock).connected:
        return -ENOTCONN
    out.address = (<udp_endpoint_t *> sock).remote
    out.port = (<udp_endpoint_t *> sock).rport
    return 0


# --- connecting -------------------------------------------------------------------------------------------------------

cdef int sock_connect(stack_t *stack, sock_t *sock, const endpoint_t *remote) noexcept nogil:
    cdef endpoint_t to = remote[0]
    cdef int r = fit_address(stack, sock, &to)
    if r < 0:
        return r
    any_is_us(&to.address)
    if sock.kind == SOCK_TCP:
        return connect_tcp(stack, <tcb_t *> sock, &to, False, NULL, 0, NULL)
    return connect_datagram(stack, <udp_endpoint_t *> sock, &to)


cdef void any_is_us(address_t *a) noexcept nogil:
    """As Linux: the unspecified address as a destination is this host."""
    if not address_is_any(a):
        return
    if address_is_v4(a):
        (<uint8_t *> a)[12] = 127
    (<uint8_t *> a)[15] = 1


cdef int connect_datagram(stack_t *stack, udp_endpoint_t *ep, const endpoint_t *to) noexcept nogil:
    cdef address_t next_hop, source
    cdef int i = stack_route(stack, &to.address, &next_hop)
    if i < 0 or not stack_source(stack, i, &to.address, &source):
        return -ENETUNREACH
    if not address_is_any(&ep.local) and address_is_v4(&ep.local) != address_is_v4(&to.address):
        return -ENETUNREACH if address_is_v4(&to.address) else -EINVAL
    if ep.lport == 0:
        ep.lport = free_port(stack, &ep.sock, &source)
        if ep.lport == 0:
            return -EAGAIN
        ep.local = source
        demux_bind(&stack.demux, &ep.sock)
    elif address_is_any(&ep.local):
        ep.local = source
    if is_broadcast(stack, &to.address) and not ep.sock.flags & SF_BROADCAST and not is_multicast(&to.address):
        return -EACCES
    ep.remote = to.address
    ep.rport = to.port if ep.sock.kind != SOCK_RAW else 0
    ep.connected = 1
    return 0


cdef bint is_multicast(const address_t *a) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *> a
    return p[12] >> 4 == 14 if address_is_v4(a) else p[0] == 0xff


cdef bint stood(const tcb_t *tcb) noexcept nogil:
    """A connection that has ended: the peer's SYN was seen. As Linux, its socket does not begin anew."""
    return tcb.state == CLOSED and tcb.peer_mss != 0


cdef int connect_tcp(stack_t *stack, tcb_t *tcb, const endpoint_t *to, bint fast, const uint8_t *data, size_t n,
                     size_t *taken) noexcept nogil:
    """fast: by Fast Open, with as much of the data on the SYN as fits; *taken* says how much."""
    cdef int i, error
    cdef bint wait = False
    cdef address_t source
    cdef bint raise_isn = False
    cdef uint32_t last = 0
    if tcb.sock.error:
        error = tcb.sock.error
        tcb.sock.error = 0
        return -error
    if tcb.fast_open & FO_DEFERRED:
        return -EISCONN                                # as Linux: it said so when connect() returned
    if tcb.state == SYN_SENT or tcb.state == SYN_RCVD:
        return -EALREADY
    if tcb.state != CLOSED or stood(tcb):
        return -EISCONN
    if to.port == 0:
        return -EADDRNOTAVAIL
    if is_broadcast(stack, &to.address):
        return -ENETUNREACH
    i = stack_route(stack, &to.address, &tcb.next_hop)
    if i < 0 or not stack_source(stack, i, &to.address, &source):
        return -ENETUNREACH
    if not address_is_any(&tcb.local) and address_is_v4(&tcb.local) != address_is_v4(&to.address):
        return -ENETUNREACH if address_is_v4(&to.address) else -EINVAL
    tcb.route_interface = <uint8_t> i
    tcb.remote = to.address
    tcb.rport = to.port
    if tcb.lport == 0 or address_is_any(&tcb.local):
        tcb.local = source
    if tcb.lport == 0:
        if not choose_port(stack, tcb):
            tcb.lport = 0
            return -EADDRNOTAVAIL
        tcb.sock.flags |= SF_CHOSEN
        demux_bind(&stack.demux, &tcb.sock)
    elif not names_free(stack, tcb, &raise_isn, &last):
        return -EADDRNOTAVAIL
    if demux_insert(&stack.demux, tcb) != 0:
        return -ENOMEM
    demux_bind(&stack.demux, &tcb.sock)
    tcb.hops = stack_hop_limit(stack, i, &tcb.remote, tcb.hops)
    tcb.flow_label = stack_flow_label(stack, &tcb.local, &tcb.remote, tcb.lport, tcb.rport, 6)
    connection_open(tcb, stack_link_mss(stack, tcb))
    if raise_isn:
        connection_raise_isn(tcb, last)
    if tcb.fast_open & FO_CONNECT and not fast:
        fast_open_start(tcb)
        wait = fast_open_may_defer(tcb)
    elif fast:
        fast_open_start(tcb)
        taken[0] = load_syn(tcb, data, n)
    if wait:
        tcb.fast_open |= FO_DEFERRED
        return 0
    stack_settle(stack)
    return -EINPROGRESS


cdef size_t load_syn(tcb_t *tcb, const uint8_t *data, size_t n) noexcept nogil:
    """What the SYN carries, into the send buffer."""
    cdef size_t room = fast_open_room(tcb)
    if room > send_room(tcb):
        room = send_room(tcb)
    if n > room:
        n = room
    if n == 0 or send_reserve(tcb, <uint32_t> n) != 0:
        return 0
    send_append(tcb, data, <uint32_t> n)
    return n


cdef ssize_t send_fast(stack_t *stack, tcb_t *tcb, const uint8_t *data, size_t n, const endpoint_t *to) noexcept nogil:
    """sendto() with MSG_FASTOPEN, or the first write after a connect() that waited for it: how much went on the SYN, or
    EINPROGRESS when that is nothing, which is not an error of the connection."""
    cdef size_t taken = 0
    cdef int r
    if tcb.fast_open & FO_DEFERRED:
        tcb.fast_open &= ~FO_DEFERRED
        taken = load_syn(tcb, data, n)
        want_output(tcb)
        stack_settle(stack)
        r = -EINPROGRESS
    elif not stack.tcp.config.fastopen & TFO_CLIENT:
        return -EOPNOTSUPP
    elif to == NULL:
        return -EINVAL if tcb.state == CLOSED else (-EALREADY if tcb.state == SYN_SENT else -EISCONN)
    else:
        r = connect_tcp(stack, tcb, to, True, data, n, &taken)
    if r == -EINPROGRESS and taken:
        return <ssize_t> taken
    return r


cdef bint names_free(stack_t *stack, tcb_t *tcb, bint *raise_isn, uint32_t *last) noexcept nogil:
    """No connection has these four names. One in TIME-WAIT gives way when timestamps protect the new one (RFC 6191), which
    then has to begin above *last*."""
    cdef void *p
    tcb.hash = demux_hash(&stack.tcp, &tcb.local, &tcb.remote, tcb.lport, tcb.rport)
    p = demux_find(&stack.demux, tcb.hash, &tcb.local, &tcb.remote, tcb.lport, tcb.rport)
    if p == NULL:
        return True
    if is_tw(p) and as_tw(p).has_ts and stack.tcp.config.timestamps:
        raise_isn[0] = True
        last[0] = as_tw(p).snd_nxt
        demux_tw_remove(&stack.demux, as_tw(p))
        return True
    return False


cdef bint choose_port(stack_t *stack, tcb_t *tcb) noexcept nogil:
    """An unpredictable port: random tries first, then every port from a random one on (RFC 6056)."""
    cdef uint32_t first = stack.tcp.config.port_first, n = stack.tcp.config.port_last - first + 1
    cdef uint32_t offset = random_below(&stack.tcp, n), i
    cdef int r
    for i in range(n + PORT_TRIES):
        r = demux_pick(&stack.demux, &tcb.sock, offset, i)
        if r < 0:
            return False
        if r:
            tcb.lport = <uint16_t> r
        elif i < PORT_TRIES:
            tcb.lport = <uint16_t> (first + random_below(&stack.tcp, n))
        else:
            tcb.lport = <uint16_t> (first + (offset + i) % n)
        tcb.hash = demux_hash(&stack.tcp, &tcb.local, &tcb.remote, tcb.lport, tcb.rport)
        if demux_find(&stack.demux, tcb.hash, &tcb.local, &tcb.remote, tcb.lport, tcb.rport) == NULL and \
                not demux_port_taken(&stack.demux, &tcb.sock, &tcb.local, tcb.lport, True):
            r = demux_claim(&stack.demux, &tcb.sock, tcb.lport)
            if r == 0:
                return True
            if r != -EADDRINUSE:
                return False
    return False


cdef int sock_listen(stack_t *stack, sock_t *sock, int backlog) noexcept nogil:
    cdef tcb_t *tcb = <tcb_t *> sock
    if sock.kind != SOCK_TCP:
        return -EOPNOTSUPP
    if (tcb.state != CLOSED and tcb.state != LISTEN) or stood(tcb):
        return -EINVAL
    if tcb.lport == 0:
        set_any(sock)
        tcb.lport = free_port(stack, sock, &tcb.local)
        if tcb.lport == 0:
            return -EADDRINUSE
        demux_bind(&stack.demux, sock)
    elif tcb.state == CLOSED and listener_there(stack, tcb):
        return -EADDRINUSE
    if tcb.listener == NULL:
        tcb.listener = <listener_t *> calloc(1, sizeof(listener_t))
        if tcb.listener == NULL:
            return -ENOMEM
    tcb.listener.backlog = backlog if backlog > 0 else 0
    if tcb.listener.backlog > stack.tcp.config.somaxconn:
        tcb.listener.backlog = stack.tcp.config.somaxconn
    fast_open_listen(tcb)
    tcb.state = LISTEN
    return 0


cdef void sock_defer(sock_t *sock, bint on) noexcept nogil:
    if sock.kind == SOCK_TCP and (<tcb_t *> sock).listener != NULL:
        (<tcb_t *> sock).listener.deferred = on


cdef bint listener_there(stack_t *stack, tcb_t *tcb) noexcept nogil:
    """SO_REUSEADDR lets two sockets bind a port, but only one listen there; SO_REUSEPORT lets both."""
    cdef uint32_t i
    cdef tcb_t *other
    for i in range(stack.sock_count):
        other = <tcb_t *> stack.socks[i]
        if other.sock.kind == SOCK_TCP and other != tcb and other.state == LISTEN and other.lport == tcb.lport and \
                demux_overlap(&tcb.sock, &tcb.local, &other.sock) and \
                not (other.sock.flags & SF_REUSEPORT and tcb.sock.flags & SF_REUSEPORT):
            return True
    return False


cdef int sock_accept(stack_t *stack, sock_t *sock, sock_t **out) noexcept nogil:
    cdef tcb_t *child
    if sock.kind != SOCK_TCP:
        return -EOPNOTSUPP
    if (<tcb_t *> sock).state != LISTEN:
        return -EINVAL
    child = listener_accept(<tcb_t *> sock)
    if child == NULL:
        return -EAGAIN
    out[0] = &child.sock
    return 0


# --- sending ----------------------------------------------------------------------------------------------------------

cdef ssize_t sock_send(stack_t *stack, sock_t *sock, const uint8_t *data, size_t n, int flags) noexcept nogil:
    cdef udp_endpoint_t *ep
    cdef endpoint_t to
    if sock.kind == SOCK_TCP:
        return send_tcp(stack, <tcb_t *> sock, data, n, flags, NULL)
    ep = <udp_endpoint_t *> sock
    if not ep.connected:
        if sock.flags & SF_V6:
            return -EDESTADDRREQ
        return -EOPNOTSUPP if flags & MSG_OOB else -EMSGSIZE if n > 0xffff else -EDESTADDRREQ
    to.address = ep.remote
    to.port = ep.rport
    return sock_sendto(stack, sock, data, n, flags, &to)


cdef ssize_t send_tcp(stack_t *stack, tcb_t *tcb, const uint8_t *data, size_t n, int flags,
                      const endpoint_t *to) noexcept nogil:
    """Into the link and the send buffer in one pass while windows allow, the rest into the buffer alone."""
    cdef size_t done = 0
    cdef uint32_t fresh, unsent, limit, taken
    cdef int error
    cdef bint no_memory = False
    cdef plan_t plan
    if tcb.sock.error:
        error = tcb.sock.error
        tcb.sock.error = 0
        return -error
    if (flags & MSG_FASTOPEN and tcb.state < SYN_RCVD) or tcb.fast_open & FO_DEFERRED:   # later it says nothing
        return send_fast(stack, tcb, data, n, to)
    if tcb.state == SYN_SENT or (tcb.state == SYN_RCVD and not tcb.modes & TM_FAST_OPEN):
        return -EAGAIN
    if tcb.flags & TF_FIN_QUEUED or tcb.state in (CLOSED, LISTEN, TIME_WAIT):
        return -EPIPE                                  # never connected too, as Linux
    if flags & MSG_MORE:
        tcb.flags |= TF_MORE
        tcb.modes |= TM_MORE_LAST
    else:
        tcb.flags &= ~TF_MORE
        tcb.modes &= ~TM_MORE_LAST
    if flags & MSG_OOB and n:
        tcb.modes |= TM_URGENT                         # as RFC 6093 has it: in line, and everything up to its end
        tcb.snd_up = data_end(tcb) + <uint32_t> n
    fresh = send_room(tcb)
    send_reserve(tcb, <uint32_t> n if n < fresh else fresh)      # all of it at once: growing by pieces copies them again
    while done < n:
        fresh = send_room(tcb)
        if fresh > n - done:
            fresh = <uint32_t> (n - done)
        if fresh == 0:
            break
        limit = send_segment_limit(tcb)
        if fresh < limit and fresh < n - done and tcb.snd_len and 3 * limit <= tcb.snd_wanted:
            # The buffer's last corner holds no whole segment: filling it would cut one in two and send the next through
            # the buffer. What is under way makes room for whole ones (poll(2) says so at a third of the buffer).
            break
        unsent = data_end(tcb) - tcb.snd_nxt
        if unsent < limit and not tcb.rec.waiting and next_segment(tcb, fresh, &plan) and plan.fresh:
            taken = plan.length - unsent
            if send_reserve(tcb, taken) != 0:
                no_memory = True
                break
            error = stack_send_planned(stack, tcb, &plan, data + done)
            if error == CLAIM_OK:
                done += taken
                continue
        # No room in a window or in the link: only complete the short rest there may be, then try again.
        if 0 < unsent < limit and fresh > limit - unsent:
            fresh = limit - unsent
        if send_reserve(tcb, fresh) != 0:
            no_memory = True
            break
        send_append(tcb, data + done, fresh)
        done += fresh
        if stack_tcb_output(stack, tcb) == CLAIM_FULL:
            want_output(tcb)
    if done < n:
        tcb.flags |= TF_WANT_WRITE
        if flags & MSG_OOB:
            tcb.snd_up = data_end(tcb)
    elif flags & MSG_EOR and n:
        record_end(tcb)
    account_limits(tcb)
    stack_settle(stack)
    if done:
        return <ssize_t> done
    if n == 0:
        return 0
    return -ENOMEM if no_memory else -EAGAIN


cdef ssize_t sock_sendto(stack_t *stack, sock_t *sock, const uint8_t *data, size_t n, int flags,
                         const endpoint_t *to) noexcept nogil:
    if sock.kind == SOCK_TCP:
        return send_tcp(stack, <tcb_t *> sock, data, n, flags, to)
    if flags & MSG_OOB and not sock.flags & SF_V6:     # as Linux, which lets it pass in IPv6
        return -EOPNOTSUPP
    return datagram_send(stack, <udp_endpoint_t *> sock, data, n, to, NULL)


cdef ssize_t sock_sendmsg(stack_t *stack, sock_t *sock, const uint8_t *data, size_t n, const endpoint_t *to,
                          const send_how_t *how) noexcept nogil:
    cdef endpoint_t peer
    if sock.kind == SOCK_TCP:
        return -EOPNOTSUPP
    if to == NULL:
        if not (<udp_endpoint_t *> sock).connected:
            return -EDESTADDRREQ
        peer.address = (<udp_endpoint_t *> sock).remote
        peer.port = (<udp_endpoint_t *> sock).rport
        peer.scope = 0
        to = &peer
    return datagram_send(stack, <udp_endpoint_t *> sock, data, n, to, how)


cdef int sock_fit(const stack_t *stack, const sock_t *sock, endpoint_t *e) noexcept nogil:
    cdef int r = fit_address(stack, sock, e)
    if r == 0:
        any_is_us(&e.address)
    return r


# --- receiving --------------------------------------------------------------------------------------------------------

cdef ssize_t sock_recv(stack_t *stack, sock_t *sock, uint8_t *data, size_t n, int flags) noexcept nogil:
    cdef tcb_t *tcb
    cdef uint32_t got
    cdef int error
    if sock.kind != SOCK_TCP:
        return sock_recvfrom(stack, sock, data, n, flags, NULL)
    tcb = <tcb_t *> sock
    if n > 0x7fffffff:
        n = 0x7fffffff
    if flags & MSG_OOB:
        if tcb.state == LISTEN:
            return -ENOTCONN
        return -EINVAL                                 # as Linux with SO_OOBINLINE: urgent data is in the stream
    got = receive_take(tcb, data, <uint32_t> n, flags & MSG_PEEK)
    if got:
        if not flags & MSG_PEEK:
            connection_consumed(tcb)
            stack_settle(stack)
        return got
    if n == 0 and tcb.rcv_nxt != tcb.rcv_read and tcb.listener == NULL:
        return 0                                       # there are bytes
    if tcb.flags & TF_FIN_RECEIVED:
        return 0                                       # as Linux: of a reset behind the end of the stream writers hear
    if sock.error:
        error = sock.error
        sock.error = 0
        return -error
    if tcb.flags & TF_SHUT_RD or tcb.state == TIME_WAIT:
        return 0
    if tcb.state == CLOSED:
        return 0 if stood(tcb) else -ENOTCONN
    if tcb.state == LISTEN:
        return -ENOTCONN
    return -EAGAIN


cdef ssize_t sock_recvfrom(stack_t *stack, sock_t *sock, uint8_t *data, size_t n, int flags,
                           endpoint_t *src) noexcept nogil:
    cdef udp_endpoint_t *ep = <udp_endpoint_t *> sock
    if sock.kind == SOCK_TCP:
        if src != NULL:
            memset(src, 0, sizeof(endpoint_t))
        return sock_recv(stack, sock, data, n, flags)
    return receive_datagram(ep, data, n, flags, src, NULL)


cdef ssize_t receive_datagram(udp_endpoint_t *ep, uint8_t *data, size_t n, int flags, endpoint_t *src,
                              arrival_t *how) noexcept nogil:
    cdef endpoint_t whom
    cdef uint32_t length = 0
    cdef ssize_t got
    cdef int error
    cdef bint errors = flags & MSG_ERRQUEUE != 0
    if ep.sock.error and not errors:
        error = ep.sock.error
        ep.sock.error = 0
        return -error
    got = endpoint_receive(ep, data, n, &whom, &length, flags & MSG_PEEK, errors, how)
    if got < 0:
        return 0 if ep.shutdown & 1 and not errors else got
    if errors:
        ep.sock.error = ep.first_error.how.error if ep.first_error != NULL else 0      # as Linux: the next one's
    if src != NULL:
        src[0] = whom
    return length if flags & MSG_TRUNC else got


cdef ssize_t sock_recvmsg(stack_t *stack, sock_t *sock, uint8_t *data, size_t n, int flags, endpoint_t *src,
                          arrival_t *how, uint32_t *wants) noexcept nogil:
    cdef udp_endpoint_t *ep = <udp_endpoint_t *> sock
    if sock.kind == SOCK_TCP:
        return -EOPNOTSUPP
    wants[0] = ep.wants
    return receive_datagram(ep, data, n, flags, src, how)


cdef bint sock_finished(const sock_t *sock) noexcept nogil:
    cdef const tcb_t *tcb = <const tcb_t *> sock
    return sock.kind != SOCK_TCP or tcb.state not in (FIN_WAIT_1, CLOSING, LAST_ACK, SYN_RCVD)


cdef void sock_lend(stack_t *stack, sock_t *sock, uint8_t *data, size_t n) noexcept nogil:
    cdef tcb_t *tcb = <tcb_t *> sock
    if sock.kind != SOCK_TCP:
        return
    tcb.lent = data
    tcb.lent_size = <uint32_t> (n if n < 0x7fffffff else 0x7fffffff)
    tcb.lent_filled = 0
    lent_drain(tcb)


cdef size_t sock_lend_filled(stack_t *stack, sock_t *sock) noexcept nogil:
    return (<tcb_t *> sock).lent_filled if sock.kind == SOCK_TCP else 0


cdef size_t sock_lend_taken(stack_t *stack, sock_t *sock) noexcept nogil:
    cdef tcb_t *tcb = <tcb_t *> sock
    cdef size_t n
    if sock.kind != SOCK_TCP:
        return 0
    n = tcb.lent_filled
    tcb.lent = NULL
    tcb.lent_filled = 0
    if n:
        connection_consumed(tcb)
        stack_settle(stack)
    return n


# --- ending -----------------------------------------------------------------------------------------------------------

cdef int sock_shutdown(stack_t *stack, sock_t *sock, int how) noexcept nogil:
    cdef tcb_t *tcb
    if how < 0 or how > 2:
        return -EINVAL
    if sock.kind != SOCK_TCP:
        if not (<udp_endpoint_t *> sock).connected:
            return -ENOTCONN
        (<udp_endpoint_t *> sock).shutdown |= 3 if how == 2 else how + 1
        return 0
    tcb = <tcb_t *> sock
    if tcb.state == LISTEN and how != 1:
        listener_refuse(tcb, 0)
        demux_unbind(&stack.demux, sock)
        listener_discard(tcb)
        tcb.state = CLOSED
        tcb.lport = 0
        stack_settle(stack)
        return 0
    if tcb.state == LISTEN:
        return 0                                       # SHUT_WR: as Linux, nothing to end
    if tcb.state == CLOSED or tcb.state == SYN_SENT:
        return -ENOTCONN
    if how == 0 or how == 2:
        tcb.flags |= TF_SHUT_RD
    if how == 1 or how == 2:
        connection_shutdown_write(tcb)
    stack_settle(stack)
    return 0


cdef void forget_event(stack_t *stack, sock_t *sock) noexcept nogil:
    """Out of the list of events: nobody is there to hear them."""
    cdef sock_t **at = &stack.tcp.events.first
    cdef sock_t *before = NULL
    if not sock.flags & SF_QUEUED_EVENT:
        return
    while at[0] != NULL:
        if at[0] == sock:
            at[0] = sock.event_next
            if stack.tcp.events.last == sock:
                stack.tcp.events.last = before
            break
        before = at[0]
        at = &at[0].event_next
    sock.flags &= ~<uint8_t> SF_QUEUED_EVENT


cdef void sock_close(stack_t *stack, sock_t *sock) noexcept nogil:
    sock.owner = NULL
    forget_event(stack, sock)
    if sock.kind == SOCK_TCP:
        connection_close(<tcb_t *> sock)
        stack_settle(stack)
        return
    demux_unbind(&stack.demux, sock)
    stack.raw_count -= sock.kind == SOCK_RAW
    multicast_leave_all(stack, <udp_endpoint_t *> sock)
    udp_endpoint_free(<udp_endpoint_t *> sock)
    stack_unregister(stack, sock)
    free(sock)


cdef uint32_t stack_lingering(stack_t *stack) noexcept nogil:
    cdef uint32_t i, n = 0
    cdef tcb_t *tcb
    for i in range(stack.sock_count):
        tcb = <tcb_t *> stack.socks[i]
        if tcb.sock.kind == SOCK_TCP and tcb.sock.flags & SF_ORPHAN and tcb.parent == NULL and \
                tcb.state in (FIN_WAIT_1, CLOSING, LAST_ACK):
            n += 1
    return n


# --- state ------------------------------------------------------------------------------------------------------------

cdef uint32_t sock_poll(stack_t *stack, sock_t *sock) noexcept nogil:
    cdef udp_endpoint_t *ep
    cdef uint32_t mask
    if sock.kind == SOCK_TCP:
        mask = connection_poll(<tcb_t *> sock)
        if not mask & EVENT_OUT and (<tcb_t *> sock).state >= ESTABLISHED:
            (<tcb_t *> sock).flags |= TF_WANT_WRITE    # whoever asked wants to hear when there is room
        return mask
    ep = <udp_endpoint_t *> sock
    mask = 0 if stack.datagram_waiters else EVENT_OUT
    if ep.first != NULL or ep.shutdown & 1:
        mask |= EVENT_IN
    if ep.first_error != NULL:
        mask |= EVENT_ERR
    if sock.error:
        mask |= EVENT_ERR | EVENT_IN | EVENT_OUT
    return mask


cdef int sock_take_error(sock_t *sock) noexcept nogil:
    cdef int error = sock.error
    sock.error = 0
    return error


cdef int sock_setsockopt(stack_t *stack, sock_t *sock, int level, int name, const uint8_t *value,
                         uint32_t n) noexcept nogil:
    cdef int r = option_set(stack, sock, level, name, value, n)
    stack_settle(stack)
    return r


cdef int sock_getsockopt(stack_t *stack, sock_t *sock, int level, int name, uint8_t *value, uint32_t *n) noexcept nogil:
    return option_get(stack, sock, level, name, value, n)
