"""Doorbells of a driver: how its leader and its service thread sleep on the links, and how the leader spins before.

Functions here move no packets. All but the sleeps and the spin are called under the lock.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.signal cimport sigset_t
from posix.unistd cimport close

from netstack.driver cimport (
    DRIVER_LINKS,
    driver_t,
    links_now_t,
    loopback_pending,
    park_cpu,
    park_load,
    park_now_ns,
    park_pause,
)
from netstack.link.link cimport BELL_LEADER, BELL_SERVICE, NEVER, link_t

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int POLLIN, POLLOUT

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec

cdef extern from "<poll.h>" nogil:
    int ppoll(pollfd *fds, unsigned long n, const timespec *timeout, const sigset_t *mask)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    ctypedef uint64_t eventfd_t
    int eventfd(unsigned int initial, int flags)
    int eventfd_write(int fd, eventfd_t value)
    int eventfd_read(int fd, eventfd_t *value)

cdef extern from "<sys/epoll.h>" nogil:
    int EPOLL_CLOEXEC, EPOLLIN, EPOLLONESHOT, EPOLL_CTL_ADD, EPOLL_CTL_MOD
    cdef union epoll_data:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int n, int timeout_ms)

cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef enum:
    NOWHERE = 0xffffffff         # the CPU of a peer that does not say


cdef void ring(int fd) noexcept nogil:
    eventfd_write(fd, 1)


cdef void unring(int fd) noexcept nogil:
    cdef eventfd_t count
    eventfd_read(fd, &count)


cdef int doorbells_open(driver_t *d) noexcept nogil:
    """Our own eventfds, and what the links give to sleep on. 0, or -1 with errno."""
    cdef uint32_t i
    cdef epoll_event event
    d.leader_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    d.service_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if d.leader_fd < 0 or d.service_fd < 0:
        return -1
    for i in range(d.link_count):
        d.leader_fds[i] = d.links[i].poll_fd(d.links[i], BELL_LEADER)
        d.service_fds[i] = d.links[i].poll_fd(d.links[i], BELL_SERVICE)
        d.kernel_fd[i] = d.leader_fds[i] >= 0 and d.leader_fds[i] == d.service_fds[i]
        if not d.kernel_fd[i]:
            continue
        if d.epoll_fd < 0:
            d.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        event.events = EPOLLONESHOT            # disabled until armed
        event.data.fd = <int> i
        if epoll_ctl(d.epoll_fd, EPOLL_CTL_ADD, d.service_fds[i], &event) < 0:
            return -1
    return 0


cdef void doorbells_close(driver_t *d) noexcept nogil:
    if d.leader_fd >= 0:
        close(d.leader_fd)
    if d.service_fd >= 0:
        close(d.service_fd)
    if d.epoll_fd >= 0:
        close(d.epoll_fd)
    d.leader_fd = d.service_fd = d.epoll_fd = -1


cdef uint32_t dead_links(const driver_t *d) noexcept nogil:
    cdef uint32_t i, dead = 0
    for i in range(d.link_count):
        if d.links[i].dead:
            dead |= <uint32_t> 1 << i
    return dead


cdef bint has_input(driver_t *d, uint32_t dead) noexcept nogil:
    cdef uint32_t i
    for i in range(d.link_count):
        if d.links[i].has_input(d.links[i]) and not dead >> i & 1:
            return True
    return False


cdef void disarm(driver_t *d) noexcept nogil:
    cdef uint32_t i
    for i in range(d.link_count):
        d.links[i].disarm(d.links[i])


cdef bint arm(driver_t *d, uint32_t kind) noexcept nogil:
    """Arm every doorbell for ``kind`` of sleeper. True: input (or room) is there already, and nothing is armed."""
    cdef uint32_t i
    cdef epoll_event event
    if loopback_pending(d):
        return True
    for i in range(d.link_count):
        if d.links[i].arm(d.links[i], kind) and not (d.links[i].dead and d.known_dead & (1 << i)):
            disarm(d)
            return True
    if kind == BELL_SERVICE and d.epoll_fd >= 0:
        for i in range(d.link_count):
            if d.kernel_fd[i]:
                # Fires once, also for what is there already.
                event.events = EPOLLIN | EPOLLONESHOT
                event.data.fd = <int> i
                epoll_ctl(d.epoll_fd, EPOLL_CTL_MOD, d.service_fds[i], &event)
    return False


cdef timespec *remaining(int64_t until, timespec *ts) noexcept nogil:
    cdef int64_t left
    if until == NEVER:
        return NULL
    left = until - park_now_ns()
    if left < 0:
        left = 0
    ts.tv_sec = left // 1_000_000_000
    ts.tv_nsec = left % 1_000_000_000
    return ts


cdef void links_now(driver_t *d, links_now_t *now) noexcept nogil:
    cdef uint32_t i
    now.dead = dead_links(d)
    for i in range(d.link_count):
        now.peers[i] = -1 if d.links[i].dead else d.links[i].peer_fd(d.links[i])
    now.hear = d.loose and not d.ticking
    now.telling = d.reporting.client >= 0
    now.asking = d.reporting.client if now.telling else d.reporting.listening


cdef int watch_peers(driver_t *d, const links_now_t *now, pollfd *fds) noexcept nogil:
    """The descriptors of the processes behind the links; how many there are."""
    cdef uint32_t i
    cdef int n = 0
    for i in range(d.link_count):
        if now.peers[i] >= 0:
            fds[n].fd = now.peers[i]
            fds[n].events = POLLIN
            fds[n].revents = 0
            n += 1
    return n


cdef bint any_ready(const pollfd *fds, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        if fds[i].revents:
            return True
    return False


cdef void peers_died(driver_t *d) noexcept nogil:
    """Let the links see which of their peers it was. Lock held."""
    cdef uint32_t i
    for i in range(d.link_count):
        d.links[i].peer_died(d.links[i])


cdef int leader_sleep(driver_t *d, int64_t until, const links_now_t *now, int *woken) noexcept nogil:
    """Sleep on the doorbells of the links and on our own. Lock not held. 0 or EINTR; sets what woke it."""
    cdef pollfd fds[2 * DRIVER_LINKS + 1]
    cdef timespec ts
    cdef uint32_t i
    cdef int n = 1, r, peers
    fds[0].fd = d.leader_fd
    fds[0].events = POLLIN
    for i in range(d.link_count):
        if d.leader_fds[i] >= 0 and not now.dead >> i & 1:
            fds[n].fd = d.leader_fds[i]
            fds[n].events = POLLIN
            n += 1
    fds[0].revents = 0
    peers = watch_peers(d, now, fds + n)
    r = ppoll(fds, n + peers, remaining(until, &ts), NULL)
    woken[0] = BELL if r > 0 else 0
    if r > 0 and peers and any_ready(fds + n, peers):
        woken[0] |= DIED
    if r > 0 and fds[0].revents:
        unring(d.leader_fd)
    return errno if r < 0 else 0


cdef void drain(driver_t *d, uint32_t kind) noexcept nogil:
    cdef uint32_t i
    for i in range(d.link_count):
        if not d.kernel_fd[i]:
            d.links[i].drain_fd(d.links[i], kind)


cdef bint leader_spin(driver_t *d, int64_t until, uint32_t dead) noexcept nogil:
    """Look at the links for a while before sleeping. Lock not held; only the leader drains, so what it sees stays.

    The budget adapts: a hit restores it, a miss halves it, and when it is gone every 16th wait tries again. On the CPU
    where the peer last ran, looking would keep the peer from running: give the CPU away between two looks. With one CPU
    to run on and a peer of which nothing is known, there is no telling: sleep.
    """
    cdef int64_t budget = d.spin_now_ns, end
    cdef uint32_t i = 0, peer
    cdef link_t *link
    cdef bint same
    d.spin_waits += 1
    if d.spin_ns == 0 or d.link_count == 0:
        return False
    if budget == 0:
        if d.spin_waits & 15:
            return False
        budget = d.spin_ns
    link = d.links[0]
    peer = link.peer_cpu(link)
    if d.one_cpu and peer == NOWHERE:
        return False
    same = peer == park_cpu()
    end = park_now_ns() + budget
    if end > until:
        end = until
    while True:
        if has_input(d, dead) or park_load(&d.kick):
            d.spin_now_ns = d.spin_ns
            d.spin_hits += 1
            return True
        if same:
            sched_yield()
            same = link.peer_cpu(link) == park_cpu()
            if park_now_ns() >= end:
                break
        else:
            park_pause()
            i += 1
            if i & 15 == 0:
                if park_now_ns() >= end:
                    break
                same = i & 255 == 0 and link.peer_cpu(link) == park_cpu()
    d.spin_now_ns //= 2
    if d.spin_now_ns < d.spin_ns // 8:
        d.spin_now_ns = 0
    return False


cdef int add_leader_fds(driver_t *d, const links_now_t *now, pollfd *fds) noexcept nogil:
    """What a leader sleeps on; how many descriptors that are."""
    cdef uint32_t i
    cdef int n = 1
    fds[0].fd = d.leader_fd
    fds[0].events = POLLIN
    fds[0].revents = 0
    for i in range(d.link_count):
        if d.leader_fds[i] >= 0 and not now.dead >> i & 1:
            fds[n].fd = d.leader_fds[i]
            fds[n].events = POLLIN
            fds[n].revents = 0
            n += 1
    return n


cdef int service_sleep(driver_t *d, int64_t until, const links_now_t *now) noexcept nogil:
    """Sleep until a doorbell rings, a kick comes or ``until``. Lock not held. What woke it: BELL, KICK, DIED, ASKED, HEARD.

    HEARD, of the leader's doorbells, leaves them ringing: the leader silences them.
    """
    cdef pollfd fds[3 * DRIVER_LINKS + 4]
    cdef epoll_event events[DRIVER_LINKS]
    cdef timespec ts
    cdef uint32_t i
    cdef int n = 1, r, at, peers, hears, woken = 0, place = 0
    fds[0].fd = d.service_fd
    fds[0].events = POLLIN
    fds[0].revents = 0
    if d.epoll_fd >= 0:
        fds[n].fd = d.epoll_fd
        fds[n].events = POLLIN
        fds[n].revents = 0
        n += 1
    for i in range(d.link_count):
        if not d.kernel_fd[i] and d.service_fds[i] >= 0 and not now.dead >> i & 1:
            fds[n].fd = d.service_fds[i]
            fds[n].events = POLLIN
            n += 1
    if now.asking >= 0:
        place = n
        fds[n].fd = now.asking
        fds[n].events = POLLOUT if now.telling else POLLIN
        fds[n].revents = 0
        n += 1
    peers = watch_peers(d, now, fds + n)
    hears = add_leader_fds(d, now, fds + n + peers) if now.hear else 0
    r = ppoll(fds, n + peers + hears, remaining(until, &ts), NULL)
    if r <= 0:
        return 0
    for at in range(n + peers, n + peers + hears):
        if fds[at].revents:
            woken |= HEARD
            r -= 1
    if place and fds[place].revents:
        woken |= ASKED
        r -= 1
    if peers and any_ready(fds + n, peers):
        woken |= DIED
    if fds[0].revents:
        unring(d.service_fd)
        woken |= KICK
        r -= 1
    if r:
        woken |= BELL
    if d.epoll_fd >= 0 and fds[1].revents:
        epoll_wait(d.epoll_fd, events, DRIVER_LINKS, 0)    # ONESHOT: they are disabled by this
    return woken
