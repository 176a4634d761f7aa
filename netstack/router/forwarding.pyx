# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Forwarding between attachments and uplinks.

A round visits every port, in batches of 64 records. A record's header is copied privately and judged there; its payload
is copied once, from ring to ring. A destination that does not take its packets gets a bounded private queue, then drops:
the router waits for nobody (design section 8, rule 5). Bytes in a ring are another process's memory: each is read once.

With nothing to do the thread arms the doorbells of its rings and sleeps in epoll. Stacks ring eventfds that the router
neither reads nor writes (security R10); one that rings without sending is not listened to for a while (R11).
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close, read, write

import os

from netstack.address cimport address_equal, address_format, address_from_v4, address_parse, address_is_v4, address_v4
from netstack.errors import ConfigError
from netstack.router.port import Drop
from netstack.router.port cimport (
    DROP_CHECKSUM, DROP_COUNT, DROP_DEAD_ADDRESS, DROP_DESTINATION, DROP_DETACHED, DROP_HELD, DROP_LENGTH,
    DROP_MALFORMED, DROP_NO_ROUTE, DROP_OLD_EPOCH, DROP_OPTIONS, DROP_PROTOCOL, DROP_SPOOFED, DROP_TOO_BIG, DROP_TTL,
    DROP_UNKNOWN_ADDRESS, MAX_PORT_ADDRESSES, PORT_ACTIVE, PORT_FAILED, PORT_HELD, PORT_STACK, PORT_TAP,
    bucket_take, packet_t, port_clear_queue, port_drain, port_fail, port_flush, port_hand, port_ring,
)
from netstack.router.replies cimport REPLY_BYTES, echo_to_reply, reply_icmp_error, reply_rst
from netstack.router.table cimport (
    ENTRY_ACTIVE, ENTRY_COMMIT, ENTRY_DEAD, ENTRY_HOLD, ENTRY_LOCAL, entry_t, table_find, table_free, table_init,
    table_insert, table_remove,
)
from netstack.router.tap cimport (
    tap_advance, tap_arp, tap_arp_target, tap_free, tap_hand, tap_init, tap_ip, tap_read, tap_t,
)
from netstack.wire.byte_order cimport host_to_be32, load_be16, load_native16, load_native32, store_native16
from netstack.wire.checksum cimport checksum_fold, checksum_partial, checksum_update16
from netstack.wire.ethernet cimport ETHERNET_HEADER
from netstack.wire.icmp cimport (
    ICMP_CODE_FRAGMENTATION, ICMP_CODE_HOST, ICMP_CODE_NET, ICMP_CODE_PORT, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE,
)
from netstack.wire.ipv4 cimport (
    IPV4_OFFSET_MASK, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, check_ipv4_options, ipv4_source_is_martian,
)
from rings.doorbell cimport doorbell_now_ns, doorbell_spin_begin, doorbell_spin_end, doorbell_spin_init
from rings.doorbell cimport doorbell_kick
from rings.mapping cimport mapping_load, memory_lost
from rings.spsc_ring cimport (
    ConsumerRing, ProducerRing, RING_CLOSED, RING_DAMAGED, RING_EMPTY, RING_FRAME, RING_LEADER, RING_OK,
    RING_POISONED, ring_consumer_arm, ring_consumer_disarm, ring_has_data, ring_peek, ring_producer_arm_as, ring_record_t,
    ring_release, ring_space_needs_kick,
)

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *, const void *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
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
    int epoll_wait(int, epoll_event *, int, int)
    enum:
        EPOLLIN
        EPOLLET
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int, int)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef extern from "rings/cache_line.h" nogil:
    void cpu_relax()

cdef extern from * nogil:
    """
    #define forwarder_load_flag(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define forwarder_store_flag(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    bint forwarder_load_flag(bint *)
    void forwarder_store_flag(bint *, bint)

cdef enum:
    EVENTS = 64
    STORM = 64                       # empty doorbells in a row
    FORWARDED = -1                   # verdicts beside Drop
    CONSUMED = -2

cdef int64_t MUTED_NS = 10000000             # how long a storming doorbell is not listened to
cdef int64_t FAR_AWAY = 0x7fffffffffffffff
cdef int64_t ICMP_COST_NS = 1000000          # 1,000 errors a second to one port, bursts of 50 (Linux: icmp_msgs_per_sec)
cdef int64_t ICMP_DEPTH_NS = 50000000
cdef int64_t RST_COST_NS = 20000             # 50,000 resets a second to one port, bursts of 5,000
cdef int64_t RST_DEPTH_NS = 100000000
cdef int64_t LONGEST_SLEEP_NS = 60000000000


# ---- judging and forwarding one packet

cdef void hand(forwarder_t *f, port_t *port, packet_t *p) noexcept nogil:
    if port.kind == PORT_TAP:
        tap_hand(port, p, f.now_ns)
        return
    port_hand(port, p)
    if port.dirty and not port.listed:
        port.listed = True
        port.next_dirty = f.dirty
        f.dirty = port
    if port.state == PORT_FAILED:
        f.failures = True


cdef void answer(forwarder_t *f, port_t *to, uint8_t *packet, uint32_t length) noexcept nogil:
    """Send a packet of the router's own back to where its cause came from."""
    cdef packet_t p
    p.header = packet
    p.header_length = p.head_length = length
    p.head = packet
    p.body = NULL
    p.body_length = 0
    to.counters.generated += 1
    hand(f, to, &p)


cdef void icmp_error(forwarder_t *f, port_t *to, packet_t *p, uint8_t type, uint8_t code, uint32_t mtu) noexcept nogil:
    """Tell the source of an IPv4 packet why it was dropped, as often as its rate allows."""
    cdef uint8_t out[REPLY_BYTES]
    cdef uint32_t n
    if p.header[0] >> 4 != 4 or f.router_be == 0:
        return
    if not bucket_take(&to.icmp_bucket, f.now_ns, ICMP_COST_NS, ICMP_DEPTH_NS):
        return
    n = reply_icmp_error(out, p.header, (p.header[0] & 15) << 2, p.header_length, type, code, mtu, f.router_be)
    if n:
        answer(f, to, out, n)


cdef void reset(forwarder_t *f, port_t *to, packet_t *p) noexcept nogil:
    """Answer a TCP segment that nobody will take."""
    cdef uint8_t out[REPLY_BYTES]
    cdef uint32_t n = reply_rst(out, p.header, p.header_length, p.head_length + p.body_length)
    if n and bucket_take(&to.rst_bucket, f.now_ns, RST_COST_NS, RST_DEPTH_NS):
        answer(f, to, out, n)


cdef int for_the_router(forwarder_t *f, port_t *src, packet_t *p, uint8_t protocol) noexcept nogil:
    """A packet to an address of the router itself: it answers echo, and refuses the rest politely."""
    if echo_to_reply(p.header, p.header_length):
        src.counters.generated += 1
        hand(f, src, p)
        return CONSUMED
    if protocol == PROTOCOL_TCP:
        reset(f, src, p)
        return CONSUMED
    if protocol == PROTOCOL_UDP:
        icmp_error(f, src, p, ICMP_UNREACHABLE, ICMP_CODE_PORT, 0)
        return CONSUMED
    return <int> DROP_PROTOCOL


cdef inline bint may_send(port_t *src, const address_t *source, int *verdict) noexcept nogil:
    """Does the source address belong to the attachment (security I1), and still to it?"""
    cdef int i
    for i in range(src.n_addresses):
        if address_equal(source, &src.addresses[i]):
            if src.epochs[i] == 0:
                verdict[0] = <int> DROP_OLD_EPOCH
                return False
            return True
    verdict[0] = <int> DROP_SPOOFED
    return False


cdef network_t *network_of(forwarder_t *f, const address_t *a) noexcept nogil:
    cdef int i
    for i in range(f.n_networks):
        if (a.lo & f.networks[i].mask.lo) == f.networks[i].base.lo and \
                (a.hi & f.networks[i].mask.hi) == f.networks[i].base.hi:
            return &f.networks[i]
    return NULL


cdef int no_entry(forwarder_t *f, port_t *src, packet_t *p, const address_t *destination, port_t **to) noexcept nogil:
    """Where to with an address that is not in the table: an unleased one of the pool, or the world."""
    cdef network_t *network = network_of(f, destination)
    if network != NULL:
        if not address_equal(destination, &network.broadcast):
            icmp_error(f, src, p, ICMP_UNREACHABLE, ICMP_CODE_HOST, 0)
        return <int> DROP_UNKNOWN_ADDRESS
    if f.default_uplink == NULL or f.default_uplink == src:
        icmp_error(f, src, p, ICMP_UNREACHABLE, ICMP_CODE_NET, 0)
        return <int> DROP_NO_ROUTE
    to[0] = f.default_uplink
    return FORWARDED


cdef int destination_of(forwarder_t *f, port_t *src, packet_t *p, const address_t *destination, uint8_t protocol,
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
        return FORWARDED if to[0] != src else <int> DROP_DESTINATION
    if e.state == ENTRY_LOCAL:
        return for_the_router(f, src, p, protocol)
    if e.state == ENTRY_DEAD:
        if protocol == PROTOCOL_TCP:
            reset(f, src, p)
        else:
            icmp_error(f, src, p, ICMP_UNREACHABLE, ICMP_CODE_HOST, 0)
        return <int> DROP_DEAD_ADDRESS
    return <int> DROP_HELD


cdef inline void mapped(address_t *a, uint32_t be) noexcept nogil:
    """`address_from_v4` in one store: the comparison right behind it loads all of `lo`."""
    cdef uint32_t words[2]
    words[0] = host_to_be32(0x0000ffff)
    words[1] = be
    a.hi = 0
    memcpy(&a.lo, words, 8)


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
        if not may_send(src, &source, &verdict):
            return verdict
    elif ipv4_source_is_martian(load_native32(h + 12)) or table_find(&f.table, &source) != NULL:
        return <int> DROP_SPOOFED
    if h[16] == 0 or h[16] == 127 or h[16] >= 224:
        return <int> DROP_DESTINATION
    verdict = destination_of(f, src, p, &destination, h[9], &to)
    if verdict != FORWARDED:
        return verdict
    if h[8] <= 1:
        icmp_error(f, src, p, ICMP_TIME_EXCEEDED, 0, 0)
        return <int> DROP_TTL
    if total > to.mtu:
        icmp_error(f, src, p, ICMP_UNREACHABLE, ICMP_CODE_FRAGMENTATION, to.mtu)
        return <int> DROP_TOO_BIG
    decrement_ttl(h)
    hand(f, to, p)
    return FORWARDED


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
        if not may_send(src, &source, &verdict):
            return verdict
    elif h[8] == 0xff or table_find(&f.table, &source) != NULL:
        return <int> DROP_SPOOFED
    if h[24] == 0xff or (h[24] == 0xfe and (h[25] & 0xc0) == 0x80) or destination.hi == 0:
        return <int> DROP_DESTINATION                                # multicast, link-local, :: and ::1
    verdict = destination_of(f, src, p, &destination, h[6], &to)
    if verdict != FORWARDED:
        return verdict
    if h[7] <= 1:
        return <int> DROP_TTL
    if total > to.mtu:
        return <int> DROP_TOO_BIG
    h[7] -= 1
    hand(f, to, p)
    return FORWARDED


cdef inline void route(forwarder_t *f, port_t *src, packet_t *p) noexcept nogil:
    """Judge a packet and send it on; what becomes of it is counted at its source."""
    cdef int verdict = <int> DROP_MALFORMED
    cdef uint8_t version = p.header[0] >> 4 if p.header_length else 0
    src.counters.in_packets += 1
    src.counters.in_bytes += p.head_length + p.body_length
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

cdef void flush_dirty(forwarder_t *f) noexcept nogil:
    cdef port_t *port = f.dirty
    f.dirty = NULL
    while port != NULL:
        port.listed = False
        port_flush(port)
        port = port.next_dirty


cdef int visit_stack(forwarder_t *f, port_t *port) noexcept nogil:
    """At most one batch of one attachment. Returns how many packets it had."""
    cdef ring_record_t r
    cdef packet_t p
    cdef uint8_t header[HEADER_COPY]
    cdef uint32_t kind
    cdef int n = 0, status = RING_OK
    cdef int64_t budget = BATCH_BYTES
    if port.queue_first != NULL:
        port_drain(port)
        if port.dirty:
            port_flush(port)
    p.header = header
    while n < BATCH and budget > 0:
        status = ring_peek(port.rx, &r)
        if status != RING_OK:
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
        p.header_length = p.head_length if p.head_length < HEADER_COPY else HEADER_COPY
        memcpy(header, p.head, p.header_length)
        budget -= p.head_length + p.body_length
        if r.kind != RING_FRAME:
            p.header_length = 0              # nothing a stack may send: counted as malformed
        route(f, port, &p)
    if n:
        ring_release(port.rx)
        port.storm = 0
        if port.armed:
            ring_consumer_disarm(port.rx)
            port.armed = False
        flush_dirty(f)
    if ring_space_needs_kick(port.rx, &kind):
        port_ring(port, kind)
    if status == RING_DAMAGED:
        port.counters.header_errors += 1
    elif status == RING_POISONED or status == RING_CLOSED:
        port_fail(port, status)
    if port.state == PORT_FAILED:
        f.failures = True
    return n


cdef uint32_t split(const uint8_t *packet, uint32_t total) noexcept nogil:
    """Bytes of headers of a packet from an uplink: a record's body starts behind the transport header."""
    cdef uint32_t at
    if packet[0] >> 4 != 4:
        return total if total < 60 else 60
    at = (packet[0] & 15) << 2
    if at + 20 <= total and load_be16(packet + 6) & IPV4_OFFSET_MASK == 0:
        if packet[9] == PROTOCOL_TCP:
            at += (packet[at + 12] >> 4) << 2
        elif packet[9] == PROTOCOL_UDP or packet[9] == PROTOCOL_ICMP:
            at += 8
    elif at + 8 <= total and packet[9] == PROTOCOL_ICMP:
        at += 8
    if at < 20:
        at = 20
    return at if at < total else total


cdef int visit_tap(forwarder_t *f, port_t *port) noexcept nogil:
    cdef tap_t *tap = <tap_t *> port.uplink
    cdef packet_t p
    cdef address_t target
    cdef uint32_t length = 0, total, target_be
    cdef int n = 0
    tap_advance(port, f.now_ns)
    while n < BATCH and tap_read(tap, &length):
        n += 1
        total = tap_ip(tap, length)
        if total >= 20:
            p.header = tap.frame + ETHERNET_HEADER
            p.head_length = p.header_length = split(p.header, total)
            p.head = p.header
            p.body = p.header + p.head_length
            p.body_length = total - p.head_length
            route(f, port, &p)
        elif tap_arp_target(tap, length, &target_be):
            address_from_v4(&target, target_be)
            tap_arp(port, length, target_be == tap.address_be or table_find(&f.table, &target) != NULL, f.now_ns)
    if n:
        flush_dirty(f)
    if tap.gone and port.state == PORT_ACTIVE:
        port_fail(port, RING_CLOSED)
        f.failures = True
    return n


cdef int visit(forwarder_t *f, port_t *port) noexcept nogil:
    if port.state != PORT_ACTIVE:
        return 0
    return visit_tap(f, port) if port.kind == PORT_TAP else visit_stack(f, port)


# ---- the thread

cdef inline void enter(forwarder_t *f) noexcept nogil:
    pthread_mutex_lock(&f.gate)
    pthread_mutex_lock(&f.main)
    pthread_mutex_unlock(&f.gate)


cdef inline void leave(forwarder_t *f) noexcept nogil:
    pthread_mutex_unlock(&f.main)


cdef void fail_truncated(forwarder_t *f) noexcept nogil:
    """Pages of shared memory are gone: the ports whose memory it was get nothing and give nothing any more."""
    cdef uint32_t i
    f.losses_seen = mapping_load(f.losses)
    for i in range(f.n_active):
        if f.active[i].kind == PORT_STACK and memory_lost(&f.active[i].watch):
            port_fail(f.active[i], RING_POISONED)
            f.failures = True


cdef int one_round(forwarder_t *f) noexcept nogil:
    """Visit every port once. Control can come in between two visits."""
    cdef int n, total = 0
    cdef uint32_t i = 0, busy = 0
    enter(f)
    f.rounds += 1
    f.now_ns = doorbell_now_ns()
    while i < f.n_active:
        n = visit(f, f.active[i])
        total += n
        i += 1
        if n:
            busy += 1
            leave(f)
            enter(f)
    if total:
        f.last_busy_ns = f.now_ns
        f.busy_ports = busy
    if f.losses != NULL and mapping_load(f.losses) != f.losses_seen:
        fail_truncated(f)
    if f.failures:
        f.failures = False
        doorbell_kick(f.event_fd)
    leave(f)
    return total


cdef void unmute(forwarder_t *f, port_t *port) noexcept nogil:
    cdef epoll_event event
    port.muted_until_ns = 0
    port.storm = 0
    f.n_muted -= 1
    event.events = EPOLLIN | <uint32_t> EPOLLET
    event.data.u64 = port.id
    epoll_ctl(f.epoll_fd, EPOLL_CTL_MOD, port.wake_fd, &event)


cdef void mute(forwarder_t *f, port_t *port) noexcept nogil:
    """A doorbell that rings without packets is not listened to for a while; its ring is still looked at then."""
    cdef epoll_event event
    port.muted_until_ns = f.now_ns + MUTED_NS
    f.n_muted += 1
    event.events = 0
    event.data.u64 = port.id
    epoll_ctl(f.epoll_fd, EPOLL_CTL_MOD, port.wake_fd, &event)


cdef bint arm(forwarder_t *f, port_t *port) noexcept nogil:
    """Have the stack ring when it sends or makes room. True: there is something to do already."""
    cdef uint32_t kind
    cdef bint found = False
    if not port.armed:
        if ring_consumer_arm(port.rx, RING_LEADER):
            found = True
        else:
            port.armed = True
        if ring_space_needs_kick(port.rx, &kind):
            port_ring(port, kind)
    if port.queue_first != NULL and not port.space_armed:
        if ring_producer_arm_as(port.tx, RING_LEADER):
            found = True
        else:
            port.space_armed = True
    return found


cdef int64_t prepare_sleep(forwarder_t *f) noexcept nogil:
    """Arm all that is not armed. Nanoseconds to sleep, 0: do not."""
    cdef int64_t until = f.now_ns + LONGEST_SLEEP_NS
    cdef uint32_t i
    cdef port_t *port
    for i in range(f.n_active):
        port = f.active[i]
        if port.state != PORT_ACTIVE:
            continue
        if port.kind == PORT_TAP:
            if (<tap_t *> port.uplink).next_deadline_ns < until:
                until = (<tap_t *> port.uplink).next_deadline_ns
            continue
        if port.muted_until_ns:
            if port.muted_until_ns <= f.now_ns:
                unmute(f, port)
            elif port.muted_until_ns < until:
                until = port.muted_until_ns
        if arm(f, port):
            return 0
    if f.losses != NULL and mapping_load(f.losses) != f.losses_seen:
        return 0                             # arming touched memory that is gone
    until -= f.now_ns
    return until if until > 0 else 0


cdef void take_events(forwarder_t *f, epoll_event *events, int n) noexcept nogil:
    """Doorbells that rang: their ports are looked at in the next round, and armed anew before the next sleep."""
    cdef int i
    cdef uint32_t slot
    cdef uint64_t count
    cdef port_t *port
    for i in range(n):
        if events[i].data.u64 == 0:
            if read(f.wake_fd, &count, 8) < 0:
                pass
            continue
        slot = <uint32_t> events[i].data.u64 & 0xffff
        port = f.slots[slot] if slot < f.max_ports else NULL
        if port == NULL or port.id != events[i].data.u64 or port.kind != PORT_STACK:
            continue
        port.counters.wakes += 1
        port.armed = False
        port.space_armed = False
        port.storm += 1
        if not ring_has_data(port.rx) and port.queue_first == NULL:
            port.counters.spurious += 1
            if port.storm >= STORM and not port.muted_until_ns and port.state == PORT_ACTIVE:
                mute(f, port)


cdef void *run(void *argument) noexcept nogil:
    """The data thread: rounds while there is work, a little spinning if a core is free for it, sleep."""
    cdef forwarder_t *f = <forwarder_t *> argument
    cdef epoll_event events[EVENTS]
    cdef int64_t budget, until, wait_ns
    cdef int n
    while not forwarder_load_flag(&f.stopping):
        if one_round(f):
            continue
        # The stacks that talk and this thread: spinning takes a core from somebody when there are more than cores.
        if f.busy_ports + 1 <= f.cpus:
            budget = doorbell_spin_begin(&f.spin)
            if budget:
                until = f.now_ns + budget
                n = 0
                while n == 0 and f.now_ns < until and not forwarder_load_flag(&f.stopping):
                    cpu_relax()
                    n = one_round(f)
                doorbell_spin_end(&f.spin, budget, n != 0)
                if n:
                    continue
        enter(f)
        f.now_ns = doorbell_now_ns()
        wait_ns = prepare_sleep(f)
        leave(f)
        if wait_ns == 0:
            continue
        f.sleeps += 1
        n = epoll_wait(f.epoll_fd, events, EVENTS, <int> ((wait_ns + 999999) // 1000000))
        enter(f)
        f.now_ns = doorbell_now_ns()
        take_events(f, events, n)
        if f.failures:
            f.failures = False
            doorbell_kick(f.event_fd)
        leave(f)
    return NULL


cdef void close_descriptors(forwarder_t *f) noexcept nogil:
    if f.epoll_fd >= 0:
        close(f.epoll_fd)
    if f.wake_fd >= 0:
        close(f.wake_fd)
    if f.event_fd >= 0:
        close(f.event_fd)
    f.epoll_fd = f.wake_fd = f.event_fd = -1


# ---- the Python side: control

cdef list COUNTER_NAMES = [
    "in_packets", "in_bytes", "forwarded", "consumed", "to_packets", "generated", "out_packets", "out_bytes",
    "queued_total", "marked", "kicks", "wakes", "spurious", "header_errors",
]
cdef list DROP_NAMES = [Drop(i).name.lower()[5:] for i in range(<int> DROP_COUNT)]


def counter_names():
    """Names of the values that `Forwarder.values` gives, in their order."""
    return [*COUNTER_NAMES, "queued", *(f"drop_in_{n}" for n in DROP_NAMES), *(f"drop_out_{n}" for n in DROP_NAMES)]


cdef list counter_values(const port_counters_t *c, uint64_t queued):
    cdef list values = [
        c.in_packets, c.in_bytes, c.forwarded, c.consumed, c.to_packets, c.generated, c.out_packets, c.out_bytes,
        c.queued_total, c.marked, c.kicks, c.wakes, c.spurious, c.header_errors, queued,
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


cdef str failure_name(port_t *port):
    if port.kind == PORT_STACK and memory_lost(&port.watch):
        return "truncated"
    return "closed" if port.failure == RING_CLOSED else "poisoned"


cdef class Forwarder:
    """The data path of a router, and what control may ask of it.

    Parameters
    ----------
    networks : iterable of ipaddress networks
        The pools: addresses in them that nobody has are unreachable, never sent to an uplink.
    router_address : bytes or None
        16 bytes; where ICMP errors come from.
    max_ports : int
        Attachments and uplinks together, at most 65,535.
    queue_limit : int
        Bytes that wait in private memory for one attachment whose ring is full.
    spin_us : int
        How long to look at the rings before sleeping, if a core is free; 0 never.
    """

    def __cinit__(self, networks=(), router_address=None, *, uint32_t max_ports=1024, uint64_t queue_limit=1 << 20,
                  int64_t spin_us=50):
        cdef bytes secret = os.urandom(16)
        cdef forwarder_t *f
        cdef epoll_event event
        cdef address_t a
        self._keep = {}
        if not 1 <= max_ports <= 65535:
            raise ConfigError(f"max_ports {max_ports}: 1 to 65535")
        f = self.f = <forwarder_t *> calloc(1, sizeof(forwarder_t))
        if f == NULL:
            raise MemoryError
        f.epoll_fd = f.wake_fd = f.event_fd = -1
        pthread_mutex_init(&f.gate, NULL)
        pthread_mutex_init(&f.main, NULL)
        f.max_ports = max_ports
        f.queue_limit = queue_limit
        f.cpus = len(os.sched_getaffinity(0))
        f.next_generation = 1
        doorbell_spin_init(&f.spin, spin_us * 1000 if f.cpus > 1 else 0)
        f.slots = <port_t **> calloc(max_ports, sizeof(port_t *))
        f.active = <port_t **> calloc(max_ports, sizeof(port_t *))
        if f.slots == NULL or f.active == NULL or table_init(&f.table, <const uint64_t *> <char *> secret) != 0:
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
        if router_address is not None:
            address_parse(router_address, &a)
            if address_is_v4(&a):
                f.router_be = address_v4(&a)
            self.bind_local(router_address)

    def __dealloc__(self):
        cdef uint32_t i
        cdef forwarder_t *f = self.f
        if f == NULL:
            return
        if f.running:
            self.stop()
        for i in range(f.n_active):
            port_clear_queue(f.active[i], DROP_DETACHED)
            if f.active[i].uplink != NULL:
                tap_free(<tap_t *> f.active[i].uplink)
                free(f.active[i].uplink)
            free(f.active[i])
        free(f.slots)
        free(f.active)
        table_free(&f.table)
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

    def run_once(self):
        """One round in the calling thread (without `start`); returns how many packets it took."""
        cdef int n
        with nogil:
            n = one_round(self.f)
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
                  bint bells_are_sockets=False, keep=None):
        """Take an attachment's rings into service.

        Parameters
        ----------
        tx, rx : rings.spsc_ring.ProducerRing, ConsumerRing
            The router's ends, towards the stack and from it.
        wake_fd : int
            eventfd that the stack rings.
        bells : tuple of int
            What the router rings, by kind of sleeper: (-1, leader, service, -1).
        bells_are_sockets : bool
            They are sockets (strangers) instead of eventfds (one owner).
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

    def add_tap(self, int fd, bytes mac not None, address, *, uint32_t mtu=1500, gateway=None, network=None,
                bint default=True, keep=None):
        """Take a TAP into service.

        Parameters
        ----------
        fd : int
            The device, non-blocking, without packet information. Stays open while the port exists.
        mac : bytes
            The router's Ethernet address on it.
        address : bytes
            The router's own IPv4 address on it: 16 bytes.
        gateway, network : bytes and ipaddress.IPv4Network, optional
            Destinations outside the network go to the gateway; without one everything is asked for by ARP.
        default : bool
            Packets for addresses outside the pools go here.
        """
        cdef port_t *port
        cdef epoll_event event
        cdef address_t a
        cdef int status
        cdef tap_t *tap = <tap_t *> malloc(sizeof(tap_t))
        if tap == NULL:
            raise MemoryError
        tap_init(tap, fd)
        memcpy(tap.mac, <const char *> mac, 6)
        address_parse(address, &a)
        tap.address_be = address_v4(&a)
        if gateway is not None:
            address_parse(gateway, &a)
            tap.gateway_be = address_v4(&a)
            tap.network_be = load_native32(<const uint8_t *> <char *> network.network_address.packed)
            tap.netmask_be = load_native32(<const uint8_t *> <char *> network.netmask.packed)
        try:
            port = self.new_port(PORT_TAP, mtu, keep)
        except BaseException:
            free(tap)
            raise
        port.uplink = tap
        port.wake_fd = fd
        event.events = EPOLLIN
        event.data.u64 = port.id
        if epoll_ctl(self.f.epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0:
            status = errno
            del self._keep[port.id]
            free(tap)
            free(port)
            raise OSError(status, f"watch an uplink: {os.strerror(status)}")
        self.publish(port)
        if default:
            with nogil:
                enter(self.f)
                self.f.default_uplink = port
                leave(self.f)
        return port.id

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
            if port.muted_until_ns:
                f.n_muted -= 1
            port_clear_queue(port, DROP_DETACHED)
            if port.uplink != NULL:
                port.counters.drops_out[<int> DROP_DETACHED] += port.queue_packets
                tap_free(<tap_t *> port.uplink)
            add_counters(&f.retired, &port.counters)
            leave(f)
        values = dict(zip(counter_names(), counter_values(&port.counters, 0)))
        free(port.uplink)
        free(port)
        del self._keep[ident]
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

    # ---- addresses

    def add_network(self, network):
        """Make a pool known: its addresses are never sent to an uplink."""
        cdef network_t *n
        cdef bytes mask = network.netmask.packed
        if self.f.n_networks == MAX_NETWORKS:
            raise ConfigError(f"a router has at most {MAX_NETWORKS} pools")
        n = &self.f.networks[self.f.n_networks]
        memset(n, 0, sizeof(network_t))
        address_parse(network.network_address, &n.base)
        mask = b"\xff" * (16 - len(mask)) + mask
        memcpy(&n.mask, <const char *> mask, 16)
        if network.version == 4:
            address_parse(network.broadcast_address, &n.broadcast)
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
                           ENTRY_COMMIT: "commit"}
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
            leave(self.f)

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
                queued = port.queue_packets
            else:
                total = self.f.retired
                for i in range(self.f.n_active):
                    add_counters(&total, &self.f.active[i].counters)
                    queued += self.f.active[i].queue_packets
            leave(self.f)
        return counter_values(&total, queued)

    def counters(self, uint64_t ident=0):
        """Counters of a port, or of the whole router, by name."""
        return dict(zip(counter_names(), self.values(ident)))

    def state(self, uint64_t ident):
        """`PortState` of a port."""
        return self.port(ident).state

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
                unbalanced(c, self.f.active[i].queue_packets, f"port {self.f.active[i].id}", broken)
                add_counters(&total, c)
            if total.forwarded + total.generated != total.to_packets:
                broken.append(f"router: forwarded {total.forwarded} + generated {total.generated} != "
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
