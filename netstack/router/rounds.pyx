# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The data thread: rounds over the ports, and how it sleeps when there is nothing to do.

With nothing to do the thread arms the doorbells of its rings and sleeps in epoll. Stacks ring eventfds that the router
neither reads nor writes (security R10); one that rings without sending is not listened to for a while (R11).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport close, read

from netstack.router.budget cimport budget_forgive
from netstack.router.emulation cimport wire_deadline
from netstack.router.epoll cimport EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, epoll_ctl, epoll_event, epoll_wait
from netstack.router.port cimport PORT_ACTIVE, port_fail, port_ring, PORT_STACK, port_t, PORT_UPLINK
from netstack.router.routing cimport visit
from netstack.router.state cimport enter, forwarder_t, leave
from netstack.router.uplink cimport uplink_deadline, uplink_trouble
from rings.doorbell cimport doorbell_kick, doorbell_now_ns, doorbell_spin_begin, doorbell_spin_end
from rings.mapping cimport mapping_load, memory_lost
from rings.spsc_ring cimport (
    ring_consumer_arm, ring_has_data, RING_LEADER, RING_POISONED, ring_producer_arm_as, ring_space_needs_kick,
)

cdef extern from "<poll.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    struct pollfd:
        int fd
        short events
    int ppoll(pollfd *, unsigned long, const timespec *, const void *)
    enum: POLLIN

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int, void *, size_t, int)
    enum: MSG_DONTWAIT

cdef extern from "rings/cache_line.h" nogil:
    void cpu_relax()

cdef extern from * nogil:
    """
    #define forwarder_load_flag(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    """
    bint forwarder_load_flag(bint *)         # pairs with the release in DataPath.stop

cdef enum:
    EVENTS = 64
    STORM = 64                       # empty doorbells in a row
    BELLS_MOST = 1024                # taken from a socket at a time: more than fit

cdef int64_t MUTED_NS = 10000000             # how long a storming doorbell is not listened to
cdef int64_t LONGEST_SLEEP_NS = 60000000000


cdef void fail_truncated(forwarder_t *f) noexcept nogil:
    """Pages of shared memory are gone: the ports whose memory it was get nothing and give nothing any more."""
    cdef uint32_t i
    f.losses_seen = mapping_load(f.losses)
    for i in range(f.n_active):
        if f.active[i].kind == PORT_STACK and memory_lost(&f.active[i].watch):
            port_fail(f.active[i], RING_POISONED)
            f.failures = True


cdef int one_round(forwarder_t *f) noexcept nogil:
    return round_at(f, doorbell_now_ns())


cdef int visit_all(forwarder_t *f, uint32_t *busy) noexcept nogil:
    """How many packets there were, and at how many ports."""
    cdef int n, total = 0
    cdef uint32_t i = 0
    busy[0] = 0
    f.n_deferred = 0
    while i < f.n_active:
        n = visit(f, f.active[i])
        total += n
        i += 1
        if n:
            busy[0] += 1
            leave(f)
            enter(f)
    return total


cdef int round_at(forwarder_t *f, int64_t now_ns) noexcept nogil:
    """Visit every port once. Control can come in between two visits."""
    cdef int total
    cdef uint32_t busy
    enter(f)
    f.rounds += 1
    f.now_ns = now_ns
    total = visit_all(f, &busy)
    if total == 0 and budget_forgive(f):
        total = visit_all(f, &busy)
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
    """Have the stack ring when it sends or makes room. True: there is something to do already.

    One whose packets wait for its limit does not ring when it sends more: the limit says when to look.
    """
    cdef uint32_t kind
    cdef bint found = False
    if not port.armed and (port.limit == NULL or port.limit.until_ns <= f.now_ns):
        if ring_consumer_arm(port.rx, RING_LEADER):
            found = True
        else:
            port.armed = True
        if ring_space_needs_kick(port.rx, &kind):
            port_ring(port, kind)
    if port.queue_packets and not port.space_armed:
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
        if port.wire != NULL and wire_deadline(port) < until:
            until = wire_deadline(port)
        if port.kind == PORT_UPLINK:
            if uplink_deadline(port, f.now_ns) < until:
                until = uplink_deadline(port, f.now_ns)
            continue
        if port.muted_until_ns:
            if port.muted_until_ns <= f.now_ns:
                unmute(f, port)
            elif port.muted_until_ns < until:
                until = port.muted_until_ns
        if port.limit != NULL and f.now_ns < port.limit.until_ns < until:
            until = port.limit.until_ns
        if arm(f, port):
            return 0
    if f.losses != NULL and mapping_load(f.losses) != f.losses_seen:
        return 0                             # arming touched memory that is gone
    until -= f.now_ns
    return until if until > 0 else 0


cdef bint nothing_for(forwarder_t *f, port_t *port) noexcept nogil:
    """Did a doorbell ring in vain? Packets that wait for a limit are no reason to ring, so they are no cover for a storm."""
    if port.queue_packets:
        return False
    return not ring_has_data(port.rx) or (port.limit != NULL and f.now_ns < port.limit.until_ns)


cdef void empty(int bell) noexcept nogil:
    """A full socket rings no more. What comes meanwhile rings again."""
    cdef char rung[8]
    cdef int i
    for i in range(BELLS_MOST):
        if c_recv(bell, rung, sizeof(rung), MSG_DONTWAIT) <= 0:
            break


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
        if port == NULL or port.id != events[i].data.u64:
            continue
        if port.kind == PORT_UPLINK:
            if events[i].events & (EPOLLERR | EPOLLHUP):
                uplink_trouble(port)
            continue
        if port.wake_is_socket:
            empty(port.wake_fd)
        port.counters.wakes += 1
        port.armed = False
        port.space_armed = False
        port.storm += 1
        if nothing_for(f, port):
            port.counters.spurious += 1
            if port.storm >= STORM and not port.muted_until_ns and port.state == PORT_ACTIVE:
                mute(f, port)


cdef int sleep_finely(int epoll_fd, int64_t wait_ns, epoll_event *events) noexcept nogil:
    """`epoll_wait` counts milliseconds, too coarse for packets under way and for limits."""
    cdef pollfd one
    cdef timespec limit
    one.fd = epoll_fd
    one.events = POLLIN
    limit.tv_sec = wait_ns // 1000000000
    limit.tv_nsec = wait_ns % 1000000000
    if ppoll(&one, 1, &limit, NULL) <= 0:
        return 0
    return epoll_wait(epoll_fd, events, EVENTS, 0)


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
        if f.wires or f.limited:
            n = sleep_finely(f.epoll_fd, wait_ns, events)
        else:
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
