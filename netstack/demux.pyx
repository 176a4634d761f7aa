"""Tables keyed by SipHash under a secret of the stack, so that nobody outside can choose names that collide (D13)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from netstack.address cimport address_equal, address_is_any, address_is_v4
from netstack.link.link cimport KEEPER_REUSEADDR, KEEPER_REUSEPORT
from netstack.sock cimport SF_BOUND, SF_CHOSEN, SF_REUSEADDR, SF_REUSEPORT, SF_V6ONLY, SOCK_PING, SOCK_TCP, SOCK_UDP
from netstack.tcp.connection cimport receive_window_field
from netstack.tcp.ecn cimport ecn_ack_codepoint, ecn_ack_flags
from netstack.tcp.isn cimport tuple_hash
from netstack.tcp.tcb cimport LISTEN, TF_IN_DEMUX, TF_TS_OK

cdef enum:
    SALT_DEMUX = 3
    FIRST_SLOTS = 64


cdef uint32_t demux_hash(const tcp_t *tcp, const address_t *local, const address_t *remote,
                         uint16_t lport, uint16_t rport) noexcept nogil:
    return <uint32_t> tuple_hash(tcp.secret, local, remote, lport, rport, SALT_DEMUX)


# --- ports that others have too ---------------------------------------------------------------------------------------

cdef int demux_claim(demux_t *d, const sock_t *sock, uint16_t port) noexcept nogil:
    cdef int udp = sock.kind == SOCK_UDP
    if d.keeper == NULL or (not udp and sock.kind != SOCK_TCP) or d.keeper.users[udp][port]:
        return 0
    return d.keeper.claim(d.keeper, udp, port, (KEEPER_REUSEADDR if sock.flags & SF_REUSEADDR else 0)
                          | (KEEPER_REUSEPORT if sock.flags & SF_REUSEPORT else 0))


cdef int demux_pick(demux_t *d, const sock_t *sock, uint32_t random, uint32_t i) noexcept nogil:
    if d.keeper == NULL or d.keeper.pick == NULL or (sock.kind != SOCK_TCP and sock.kind != SOCK_UDP):
        return 0
    return d.keeper.pick(d.keeper, sock.kind == SOCK_UDP, random, i)


cdef inline void port_used(demux_t *d, uint8_t kind, uint16_t port) noexcept nogil:
    if d.keeper != NULL and kind <= SOCK_UDP:
        d.keeper.users[kind == SOCK_UDP][port] += 1


cdef inline void port_left(demux_t *d, uint8_t kind, uint16_t port) noexcept nogil:
    """One user less; a port that rests in TIME-WAIT is still one's own (RFC 9293 section 3.6.1)."""
    cdef int udp = kind == SOCK_UDP
    if d.keeper == NULL or kind > SOCK_UDP:
        return
    d.keeper.users[udp][port] -= 1
    if d.keeper.users[udp][port] == 0:
        d.keeper.release(d.keeper, udp, port)


# --- connections ------------------------------------------------------------------------------------------------------

cdef bint matches(void *p, const address_t *local, const address_t *remote, uint16_t lport, uint16_t rport) noexcept nogil:
    cdef tcb_t *tcb
    cdef tw_t *tw
    cdef request_t *r
    if is_request(p):
        r = as_request(p)
        return r.lport == lport and r.rport == rport and address_equal(&r.remote, remote) and \
            address_equal(&r.local, local)
    if is_tw(p):
        tw = as_tw(p)
        return tw.lport == lport and tw.rport == rport and address_equal(&tw.remote, remote) and \
            address_equal(&tw.local, local)
    tcb = <tcb_t *> p
    return tcb.lport == lport and tcb.rport == rport and address_equal(&tcb.remote, remote) and \
        address_equal(&tcb.local, local)


cdef void *demux_find(const demux_t *d, uint32_t hash, const address_t *local, const address_t *remote,
                      uint16_t lport, uint16_t rport) noexcept nogil:
    """The connection or TIME-WAIT record of these names, or NULL."""
    cdef uint32_t i
    if d.slots == NULL:
        return NULL
    i = hash & d.mask
    while d.slots[i].p != NULL:
        if d.slots[i].hash == hash and matches(d.slots[i].p, local, remote, lport, rport):
            return d.slots[i].p
        i = (i + 1) & d.mask
    return NULL


cdef void put(demux_t *d, void *p, uint32_t hash) noexcept nogil:
    cdef uint32_t i = hash & d.mask
    while d.slots[i].p != NULL:
        i = (i + 1) & d.mask
    d.slots[i].p = p
    d.slots[i].hash = hash


cdef int grow(demux_t *d) noexcept nogil:
    """Keep the table at most three quarters full."""
    cdef uint32_t size = d.mask + 1 if d.slots != NULL else 0, i
    cdef slot_t *old = d.slots
    cdef slot_t *slots
    if d.slots != NULL and 4 * (d.count + 1) <= 3 * size:
        return 0
    slots = <slot_t *> calloc(2 * size if size else FIRST_SLOTS, sizeof(slot_t))
    if slots == NULL:
        return -1
    d.slots = slots
    d.mask = (2 * size if size else FIRST_SLOTS) - 1
    for i in range(size):
        if old[i].p != NULL:
            put(d, old[i].p, old[i].hash)
    free(old)
    return 0


cdef void take_out(demux_t *d, void *p, uint32_t hash) noexcept nogil:
    """Remove and close the gap, so that probing needs no tombstones."""
    cdef uint32_t i = hash & d.mask, j, home
    while d.slots[i].p != p:
        if d.slots[i].p == NULL:
            return
        i = (i + 1) & d.mask
    d.count -= 1
    j = i
    while True:
        j = (j + 1) & d.mask
        if d.slots[j].p == NULL:
            break
        home = d.slots[j].hash & d.mask
        if ((j - home) & d.mask) >= ((j - i) & d.mask):
            d.slots[i] = d.slots[j]
            i = j
    d.slots[i].p = NULL


cdef int demux_insert(demux_t *d, tcb_t *tcb) noexcept nogil:
    if grow(d) != 0:
        return -1
    put(d, tcb, tcb.hash)
    d.count += 1
    tcb.flags |= TF_IN_DEMUX
    port_used(d, SOCK_TCP, tcb.lport)
    return 0


cdef void demux_remove(demux_t *d, tcb_t *tcb) noexcept nogil:
    if tcb.flags & TF_IN_DEMUX:
        tcb.flags &= ~TF_IN_DEMUX
        take_out(d, tcb, tcb.hash)
        port_left(d, SOCK_TCP, tcb.lport)


cdef int demux_request_insert(demux_t *d, request_t *r) noexcept nogil:
    if grow(d) != 0:
        return -1
    put(d, <void *> (<uint64_t> r | 2), r.hash)
    d.count += 1
    return 0


cdef void demux_request_remove(demux_t *d, request_t *r) noexcept nogil:
    take_out(d, <void *> (<uint64_t> r | 2), r.hash)


# --- TIME-WAIT --------------------------------------------------------------------------------------------------------

cdef void tw_append(demux_t *d, tw_t *tw) noexcept nogil:
    tw.next = NULL
    tw.back = d.tw_last
    if d.tw_last == NULL:
        d.tw_first = tw
    else:
        d.tw_last.next = tw
    d.tw_last = tw


cdef void tw_unlink(demux_t *d, tw_t *tw) noexcept nogil:
    if tw.back == NULL:
        d.tw_first = tw.next
    else:
        tw.back.next = tw.next
    if tw.next == NULL:
        d.tw_last = tw.back
    else:
        tw.next.back = tw.back


cdef int demux_tw_insert(demux_t *d, const tw_t *like) noexcept nogil:
    cdef tw_t *tw = <tw_t *> malloc(sizeof(tw_t))
    if tw == NULL or grow(d) != 0:
        free(tw)
        return -1
    tw[0] = like[0]
    tw_append(d, tw)
    d.tw_count += 1
    put(d, <void *> (<uint64_t> tw | 1), tw.hash)
    d.count += 1
    port_used(d, SOCK_TCP, tw.lport)
    return 0


cdef tw_t *demux_time_wait(demux_t *d, tcb_t *tcb, int64_t expires_ns, uint32_t limit) noexcept nogil:
    """Let a record take the connection's place; beyond *limit* records the oldest goes. NULL: no memory, none is kept."""
    cdef tw_t tw
    cdef tw_t *made = NULL
    port_used(d, SOCK_TCP, tcb.lport)                  # it must not be given back between one and the other
    demux_remove(d, tcb)
    if d.tw_count >= limit and d.tw_first != NULL:
        demux_tw_remove(d, d.tw_first)
    tw.local = tcb.local
    tw.remote = tcb.remote
    tw.lport = tcb.lport
    tw.rport = tcb.rport
    tw.snd_nxt = tcb.snd_nxt
    tw.rcv_nxt = tcb.rcv_nxt
    tw.ts_recent = tcb.ts_recent
    tw.ts_offset = tcb.ts_offset
    tw.hash = tcb.hash
    tw.wnd = receive_window_field(tcb, False)
    tw.has_ts = (tcb.flags & TF_TS_OK) != 0
    tw.interface = tcb.route_interface
    tw.ace = ecn_ack_flags(tcb)
    tw.ecn = ecn_ack_codepoint(tcb)
    tw.expires_ns = expires_ns
    if limit and demux_tw_insert(d, &tw) == 0:
        made = d.tw_last
    port_left(d, SOCK_TCP, tcb.lport)
    return made


cdef void demux_tw_restart(demux_t *d, tw_t *tw, int64_t expires_ns) noexcept nogil:
    tw_unlink(d, tw)
    tw.expires_ns = expires_ns
    tw_append(d, tw)


cdef void demux_tw_remove(demux_t *d, tw_t *tw) noexcept nogil:
    tw_unlink(d, tw)
    d.tw_count -= 1
    take_out(d, <void *> (<uint64_t> tw | 1), tw.hash)
    port_left(d, SOCK_TCP, tw.lport)
    free(tw)


cdef void demux_free(demux_t *d) noexcept nogil:
    """The table and the records; connections are the stack's."""
    cdef tw_t *tw
    while d.tw_first != NULL:
        tw = d.tw_first
        d.tw_first = tw.next
        free(tw)
    d.tw_last = NULL
    free(d.slots)
    d.slots = NULL
    d.count = 0


# --- bound ports ------------------------------------------------------------------------------------------------------

cdef uint16_t sock_port(const sock_t *sock) noexcept nogil:
    return (<const tcb_t *> sock).lport if sock.kind == SOCK_TCP else (<const udp_endpoint_t *> sock).lport


cdef const address_t *sock_address(const sock_t *sock) noexcept nogil:
    return &(<const tcb_t *> sock).local if sock.kind == SOCK_TCP else &(<const udp_endpoint_t *> sock).local


cdef inline uint32_t bucket(uint8_t kind, uint16_t port) noexcept nogil:
    return (port ^ (port >> 8) ^ (kind * 37)) & (BIND_BUCKETS - 1)


cdef inline bint any_covers(const address_t *any, uint16_t flags, const address_t *a) noexcept nogil:
    """Is a socket's unspecified address one for *a* too? 0.0.0.0 stands for IPv4; :: for IPv6, and for IPv4 unless the
    socket is IPV6_V6ONLY (RFC 3493 section 5.3)."""
    if address_is_v4(a):
        return address_is_v4(any) or not flags & SF_V6ONLY
    return not address_is_v4(any)


cdef inline bint overlap(const sock_t *sock, const address_t *local, const address_t *there, uint16_t flags) noexcept nogil:
    """Would *sock* at *local* share addresses with who stands *there*, with those flags?"""
    return address_equal(there, local) or (address_is_any(there) and any_covers(there, flags, local)) or (
        address_is_any(local) and any_covers(local, sock.flags, there))


cdef bint demux_overlap(const sock_t *sock, const address_t *local, const sock_t *other) noexcept nogil:
    return overlap(sock, local, sock_address(other), other.flags)


cdef bint demux_port_taken(const demux_t *d, const sock_t *sock, const address_t *local, uint16_t port,
                           bint connecting) noexcept nogil:
    """Would binding *sock* there collide? Wildcards collide with every address; SO_REUSEADDR lets all but listeners
    share, SO_REUSEPORT on both lets anybody, as on Linux. connecting: a connection's names are four, so the port of
    another whose port nobody asked for is no obstacle."""
    cdef const sock_t *other = d.bound[bucket(sock.kind, port)]
    while other != NULL:
        if other != sock and other.kind == sock.kind and sock_port(other) == port and \
                not (connecting and other.flags & SF_CHOSEN) and \
                overlap(sock, local, sock_address(other), other.flags):
            if not (other.flags & SF_REUSEPORT and sock.flags & SF_REUSEPORT) and not (
                    other.flags & SF_REUSEADDR and sock.flags & SF_REUSEADDR and
                    (sock.kind != SOCK_TCP or (<const tcb_t *> other).state != LISTEN)):
                return True
        other = other.bind_next
    return False


cdef bint demux_port_in_use(const demux_t *d, const sock_t *sock, const address_t *local, uint16_t port) noexcept nogil:
    """Do connections stand there already? With SO_REUSEADDR or SO_REUSEPORT those in TIME-WAIT, and those that have it too,
    do not count.
    Walks the whole table: for bind() with a port of its own only."""
    cdef uint32_t i
    cdef uint16_t reuse = sock.flags & (SF_REUSEADDR | SF_REUSEPORT)
    cdef const tcb_t *tcb
    cdef const tw_t *tw
    if d.slots == NULL:
        return False
    for i in range(d.mask + 1):
        if d.slots[i].p == NULL or is_request(d.slots[i].p):   # its listener is bound there
            continue
        if is_tw(d.slots[i].p):
            tw = as_tw(d.slots[i].p)
            if not reuse and tw.lport == port and overlap(sock, local, &tw.local, 0):
                return True
        else:
            tcb = <const tcb_t *> d.slots[i].p
            if tcb.lport == port and overlap(sock, local, &tcb.local, tcb.sock.flags) and \
                    not reuse & tcb.sock.flags:
                return True
    return False


cdef void demux_bind(demux_t *d, sock_t *sock) noexcept nogil:
    cdef uint32_t b = bucket(sock.kind, sock_port(sock))
    if sock.flags & SF_BOUND:
        return
    sock.flags |= SF_BOUND
    port_used(d, sock.kind, sock_port(sock))
    sock.bind_next = d.bound[b]
    d.bound[b] = sock


cdef void demux_unbind(demux_t *d, sock_t *sock) noexcept nogil:
    cdef sock_t **at
    if not sock.flags & SF_BOUND:
        return
    sock.flags &= ~<uint8_t> SF_BOUND
    at = &d.bound[bucket(sock.kind, sock_port(sock))]
    while at[0] != NULL:
        if at[0] == sock:
            at[0] = sock.bind_next
            port_left(d, sock.kind, sock_port(sock))
            return
        at = &at[0].bind_next


cdef sock_t *demux_first(const demux_t *d, uint8_t kind, uint16_t port) noexcept nogil:
    return d.bound[bucket(kind, port)]


cdef inline bint turn(uint32_t hash, uint32_t i) noexcept nogil:
    """Of sockets that fit a flow equally (SO_REUSEPORT), is it the i-th's rather than an earlier one's? One in i flows is."""
    hash = (hash ^ i * 0x9e3779b9U) * 0x85ebca6bU
    hash = (hash ^ hash >> 13) * 0xc2b2ae35U
    return (<uint64_t> (hash ^ hash >> 16) * i) >> 32 == 0


cdef inline int closeness(const sock_t *sock, const address_t *there, const address_t *local) noexcept nogil:
    """How well a socket that stands *there* fits packets to *local*: exactly 2, any address of its own version 1, of both
    versions 0; -1: not at all."""
    if not address_is_any(there):
        return 2 if address_equal(there, local) else -1
    if not any_covers(there, sock.flags, local):
        return -1
    return address_is_v4(there) == address_is_v4(local)


cdef tcb_t *demux_listener(const demux_t *d, const address_t *local, uint16_t port, uint32_t hash) noexcept nogil:
    cdef sock_t *sock = d.bound[bucket(SOCK_TCP, port)]
    cdef tcb_t *tcb
    cdef tcb_t *best = NULL
    cdef int score, best_score = -1
    cdef uint32_t alike = 0
    while sock != NULL:
        if sock.kind == SOCK_TCP:
            tcb = <tcb_t *> sock
            if tcb.state == LISTEN and tcb.lport == port:
                score = closeness(sock, &tcb.local, local)
                if score > best_score:
                    best_score = score
                    best = tcb
                    alike = 1
                elif score == best_score and score >= 0:
                    alike += 1
                    if turn(hash, alike):
                        best = tcb
        sock = sock.bind_next
    return best if best != NULL else d.any_listener


cdef udp_endpoint_t *demux_datagram(const demux_t *d, const tcp_t *tcp, uint8_t kind, const address_t *local, uint16_t lport,
                                    const address_t *remote, uint16_t rport) noexcept nogil:
    cdef sock_t *sock = d.bound[bucket(kind, lport)]
    cdef udp_endpoint_t *ep
    cdef udp_endpoint_t *best = NULL
    cdef int score, best_score = -1
    cdef uint32_t alike = 0
    while sock != NULL:
        if sock.kind == kind:
            ep = <udp_endpoint_t *> sock
            score = closeness(sock, &ep.local, local) if ep.lport == lport else -1
            if score >= 0 and ep.connected:
                if address_equal(&ep.remote, remote) and (ep.rport == rport or kind == SOCK_PING):
                    score += 4
                else:
                    score = -1
            if score > best_score:
                best_score = score
                best = ep
                alike = 1
            elif score == best_score and score >= 0 and sock.flags & SF_REUSEPORT and best.sock.flags & SF_REUSEPORT:
                alike += 1
                if turn(demux_hash(tcp, local, remote, lport, rport), alike):
                    best = ep
        sock = sock.bind_next
    return best
