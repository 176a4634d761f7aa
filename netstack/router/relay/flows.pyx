"""The table of flows: see flows.pxd."""

from libc.errno cimport EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport close

from netstack.address cimport address_equal
from netstack.driver cimport driver_abandon
from netstack.pollers cimport poller_watch
from netstack.router.relay.kernel cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, SO_LINGER, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET,
    epoll_ctl, epoll_event, linger, setsockopt, socket,
)
from netstack.router.relay.state cimport (
    FLOW_FREE, FLOWS_EVICTED, NO_DESCRIPTOR, NO_MEMORY, RELAY_BUCKETS, RELAY_CLIENT_BUCKETS, STREAMS_LIMITED, client_t,
    links_t, list_t,
)
from netstack.siphash cimport siphash
from netstack.stack.sockets cimport sock_close, sock_setsockopt
from netstack.wire.byte_order cimport load_be64

cdef enum:
    ANY_SOCKET = 1               # SOL_SOCKET and SO_LINGER of our stack: Linux's numbers
    ANY_LINGER = 13


# --- lists ------------------------------------------------------------------------------------------------------------

cdef inline links_t *links_of(flow_t *f, bint mine) noexcept nogil:
    return &f.mine if mine else &f.all


cdef void append(list_t *l, flow_t *f, bint mine) noexcept nogil:
    cdef links_t *links = links_of(f, mine)
    links.previous = l.last
    links.next = NULL
    if l.last != NULL:
        links_of(l.last, mine).next = f
    else:
        l.first = f
    l.last = f


cdef void take(list_t *l, flow_t *f, bint mine) noexcept nogil:
    cdef links_t *links = links_of(f, mine)
    if links.previous != NULL:
        links_of(links.previous, mine).next = links.next
    else:
        l.first = links.next
    if links.next != NULL:
        links_of(links.next, mine).previous = links.previous
    else:
        l.last = links.previous


cdef void flow_used(relay_t *r, flow_t *f) noexcept nogil:
    f.used_ns = r.stack.tcp.now_ns
    if f.client == NULL:
        return                                         # a published port is not given up
    take(&r.datagrams, f, False)
    append(&r.datagrams, f, False)
    take(&f.client.used, f, True)
    append(&f.client.used, f, True)


cdef void flow_queue(relay_t *r, flow_t *f) noexcept nogil:
    if f.queued:
        return
    f.queued = 1
    f.again = NULL
    if r.again_last != NULL:
        r.again_last.again = f
    else:
        r.again_first = f
    r.again_last = f


cdef flow_t *flow_unqueue(relay_t *r) noexcept nogil:
    cdef flow_t *f = r.again_first
    if f == NULL:
        return NULL
    r.again_first = f.again
    if r.again_first == NULL:
        r.again_last = NULL
    f.queued = 0
    return f


# --- by name ----------------------------------------------------------------------------------------------------------

cdef flow_t **bucket(relay_t *r, uint8_t protocol, const address_t *near, uint16_t near_port, const address_t *far,
                     uint16_t far_port) noexcept nogil:
    cdef uint64_t words[5]
    words[0] = near.hi
    words[1] = near.lo
    words[2] = far.hi if far != NULL else 0
    words[3] = far.lo if far != NULL else 0
    words[4] = <uint64_t> protocol << 32 | <uint64_t> near_port << 16 | far_port
    return &r.buckets[siphash(r.key, words, 5) & (RELAY_BUCKETS - 1)]


cdef inline bint named(const flow_t *f, uint8_t protocol, const address_t *near, uint16_t near_port, const address_t *far,
                       uint16_t far_port) noexcept nogil:
    if f.protocol != protocol or f.near_port != near_port or f.far_port != far_port or not address_equal(&f.near, near):
        return False
    return f.far.hi == 0 and f.far.lo == 0 if far == NULL else address_equal(&f.far, far)


cdef flow_t *flow_find(relay_t *r, uint8_t protocol, const address_t *near, uint16_t near_port, const address_t *far,
                       uint16_t far_port) noexcept nogil:
    cdef flow_t *f = bucket(r, protocol, near, near_port, far, far_port)[0]
    while f != NULL and not named(f, protocol, near, near_port, far, far_port):
        f = f.chain
    return f


cdef client_t **client_place(relay_t *r, const address_t *address) noexcept nogil:
    cdef client_t **place = &r.clients[siphash(r.key, <const uint64_t *> address, 2) & (RELAY_CLIENT_BUCKETS - 1)]
    while place[0] != NULL and not address_equal(&place[0].address, address):
        place = &place[0].next
    return place


cdef client_t *client_of(relay_t *r, const address_t *address) noexcept nogil:
    cdef client_t **place = client_place(r, address)
    if place[0] == NULL:
        place[0] = <client_t *> calloc(1, sizeof(client_t))
        if place[0] != NULL:
            place[0].address = address[0]
    return place[0]


cdef void client_left(relay_t *r, client_t *c) noexcept nogil:
    cdef client_t **place
    if c.streams or c.datagrams:
        return
    place = client_place(r, &c.address)
    place[0] = c.next
    free(c)


# --- life -------------------------------------------------------------------------------------------------------------

cdef bint make_room(relay_t *r, client_t *c, bint stream) noexcept nogil:
    """Whether one more flow may be."""
    if stream:
        if r.stream_count < r.limits.streams and c.streams < r.limits.client_streams:
            return True
        r.counts[<int> STREAMS_LIMITED] += 1
        return False
    c.streams += 1                                     # it stays, should its last flow make room
    if c.datagrams >= r.limits.client_datagrams:
        r.counts[<int> FLOWS_EVICTED] += 1
        flow_end(r, c.used.first, False)
    if r.datagram_count >= r.limits.datagrams:
        r.counts[<int> FLOWS_EVICTED] += 1
        flow_end(r, r.datagrams.first, False)
    c.streams -= 1
    return True


cdef flow_t *make(relay_t *r, uint8_t protocol, const address_t *near, uint16_t near_port, const address_t *far,
                  uint16_t far_port) noexcept nogil:
    cdef flow_t *f = <flow_t *> calloc(1, sizeof(flow_t))
    cdef flow_t **place
    if f == NULL:
        r.counts[<int> NO_MEMORY] += 1
        return NULL
    f.protocol = protocol
    f.fd = -1
    f.near = near[0]
    f.near_port = near_port
    if far != NULL:
        f.far = far[0]
    f.far_port = far_port
    f.used_ns = r.stack.tcp.now_ns
    place = bucket(r, protocol, near, near_port, far, far_port)
    f.chain = place[0]
    place[0] = f
    return f


cdef flow_t *flow_new(relay_t *r, uint8_t protocol, const address_t *near, uint16_t near_port, const address_t *far,
                      uint16_t far_port) noexcept nogil:
    cdef bint stream = protocol == RELAY_TCP
    cdef client_t *c = client_of(r, near)
    cdef flow_t *f
    if c == NULL:
        r.counts[<int> NO_MEMORY] += 1
        return NULL
    f = make(r, protocol, near, near_port, far, far_port) if make_room(r, c, stream) else NULL
    if f == NULL:
        client_left(r, c)
        return NULL
    f.client = c
    if stream:
        append(&r.streams, f, False)
        r.stream_count += 1
        c.streams += 1
    else:
        append(&r.datagrams, f, False)
        append(&c.used, f, True)
        r.datagram_count += 1
        c.datagrams += 1
    return f


cdef flow_t *flow_publish(relay_t *r, uint8_t protocol, const address_t *near, uint16_t near_port) noexcept nogil:
    cdef flow_t *f = make(r, protocol, near, near_port, NULL, 0)
    if f != NULL:
        f.permanent = 1
        append(&r.published, f, False)
    return f


cdef int flow_watch(relay_t *r, flow_t *f) noexcept nogil:
    cdef epoll_event e
    e.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    e.data.ptr = f
    return errno if epoll_ctl(r.epoll_fd, EPOLL_CTL_ADD, f.fd, &e) < 0 else 0


cdef int flow_open(relay_t *r, flow_t *f, int type, int protocol) noexcept nogil:
    cdef int error = 0
    f.fd = socket(f.target.any.sa_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol)
    if f.fd < 0:
        error = errno
    else:
        error = flow_watch(r, f)
    if error in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
        r.counts[<int> NO_DESCRIPTOR] += 1
    if error:
        flow_end(r, f, False)
    return error


cdef void close_kernel(relay_t *r, flow_t *f, bint reset) noexcept nogil:
    cdef epoll_event e
    if f.fd < 0:
        return
    epoll_ctl(r.epoll_fd, EPOLL_CTL_DEL, f.fd, &e)     # a copy of it in a forked child would keep it there
    if reset and f.protocol == RELAY_TCP:
        flow_hang_up(f.fd)
    else:
        close(f.fd)
    f.fd = -1


cdef void flow_drop_sock(relay_t *r, sock_t *sock, bint reset) noexcept nogil:
    cdef int at_once[2]
    at_once[0] = 1
    at_once[1] = 0
    if reset:
        sock_setsockopt(r.stack, sock, ANY_SOCKET, ANY_LINGER, <const uint8_t *> at_once, sizeof(at_once))
    sock_close(r.stack, sock)


cdef void flow_hang_up(int fd) noexcept nogil:
    cdef linger at_once
    at_once.l_onoff = 1
    at_once.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))
    close(fd)


cdef void close_stack(relay_t *r, flow_t *f, bint reset) noexcept nogil:
    cdef sock_t *sock = f.o.sock
    if sock == NULL:
        return
    poller_watch(&r.poller, &f.o, 0)
    sock.owner = NULL
    driver_abandon(r.driver, &f.o)
    flow_drop_sock(r, sock, reset)


cdef void flow_end(relay_t *r, flow_t *f, bint reset) noexcept nogil:
    cdef flow_t **place
    cdef flow_t *before = NULL
    cdef client_t *c = f.client
    close_kernel(r, f, reset)
    close_stack(r, f, reset)
    place = bucket(r, f.protocol, &f.near, f.near_port, &f.far, f.far_port)
    while place[0] != NULL and place[0] != f:
        place = &place[0].chain
    if place[0] == f:
        place[0] = f.chain
    if f.queued:
        place = &r.again_first
        while place[0] != f:
            before = place[0]
            place = &place[0].again
        place[0] = f.again
        if r.again_last == f:
            r.again_last = before
        f.queued = 0
    if c == NULL:
        take(&r.published, f, False)
    elif f.protocol == RELAY_TCP:
        take(&r.streams, f, False)
        r.stream_count -= 1
        c.streams -= 1
    else:
        take(&r.datagrams, f, False)
        take(&c.used, f, True)
        r.datagram_count -= 1
        c.datagrams -= 1
    if c != NULL:
        client_left(r, c)
        f.client = NULL
    free(f.waiting)
    free(f.peers)
    f.waiting = NULL
    f.peers = NULL
    f.state = FLOW_FREE
    f.again = r.dead
    r.dead = f


cdef void flow_bury(relay_t *r) noexcept nogil:
    cdef flow_t *f
    while r.dead != NULL:
        f = r.dead
        r.dead = f.again
        free(f)


cdef inline bint begins_with(const address_t *a, const address_t *prefix, uint32_t bits) noexcept nogil:
    """Are the first 1 to 128 bits the same?"""
    cdef uint64_t hi = load_be64(<const uint8_t *> a) ^ load_be64(<const uint8_t *> prefix)
    cdef uint64_t lo = load_be64(<const uint8_t *> a + 8) ^ load_be64(<const uint8_t *> prefix + 8)
    if bits <= 64:
        return hi >> (64 - bits) == 0
    return hi == 0 and lo >> (128 - bits) == 0


cdef void flow_forget(relay_t *r, const address_t *near, uint32_t bits) noexcept nogil:
    cdef flow_t *f
    cdef flow_t *after
    cdef int i
    for i in range(2):
        f = (r.datagrams if i else r.streams).first
        while f != NULL:
            after = f.all.next
            if begins_with(&f.near, near, bits):
                flow_end(r, f, True)
            f = after
