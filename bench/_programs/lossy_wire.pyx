"""A bad network between links, in real time: what TUN devices and channels are plugged into to be measured.

Ports stand on two sides. What enters on one side goes through the seeded impairment model of ``netstack/link`` and comes
out on the other, at the port that has the destination address; so several stacks may share one bottleneck. A wire of
several lanes has a line with dice of its own for each, chosen by the TCP port of the server: flows then meet the same losses
whatever the other flows do. One thread without the interpreter does it all: it sleeps on the descriptors of the links
until the next packet is due.
"""

import threading

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from netstack.link.fault_injector cimport configure, line_stats
from netstack.link.impairment cimport (
    held_bytes, held_t, line_free, line_init, line_next_due, line_peek, line_pop, line_push, line_t, prng_seed,
)
from netstack.link.link cimport BELL_LEADER, Link, NEVER, frame_t, link_t

import ipaddress

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *m, const void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *m)
    int pthread_mutex_unlock(pthread_mutex_t *m)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int POLLIN

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC
    int clock_gettime(int which, timespec *t)

cdef extern from "<poll.h>" nogil:
    int ppoll(pollfd *fds, unsigned long n, const timespec *timeout, const void *mask)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags)
    int eventfd_write(int fd, uint64_t value)
    int eventfd_read(int fd, uint64_t *value)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_TIMERSLACK
    int prctl(int option, unsigned long value)

cdef enum:
    PORTS = 8
    LANES = 64
    BATCH = 64                   # frames taken from a link at a time
    ROUNDS = 16                  # batches taken from one link before the others have their turn
    NEAR_NS = 15000              # a packet due within this is waited for awake
    RETRY_NS = 100000            # a port without room is tried again after this
    LATE_NS = 1000000            # delivered later than this after its time: counted


cdef struct port_t:
    link_t *link
    uint8_t address[4]
    int side


cdef inline int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t> t.tv_sec * 1000000000 + t.tv_nsec


cdef class LossyWire:
    """A wire between the ports of a left and a right side.

    Parameters
    ----------
    left, right : list of (str, Link)
        IPv4 address and link of each port, ``"0.0.0.0"`` for all that is for no other of its side. The links stay their owner's, who closes them after the wire.
    lanes : int
        How many lines each way.
    first_port : int
        Packets of the TCP server ports ``first_port`` and following travel in lanes 0 and following; others in lane 0.
    seed, impairments
        As of `set`.
    """
    cdef port_t ports[PORTS]
    cdef int port_count
    cdef line_t lines[2][LANES]  # by the side that packets come from
    cdef int lanes
    cdef uint32_t first_port
    cdef pthread_mutex_t lock
    cdef int bell                # eventfd: look again
    cdef bint stop
    cdef uint64_t unroutable     # packets to nobody on the other side
    cdef uint64_t late
    cdef int64_t worst_ns
    cdef object links
    cdef object thread

    def __init__(self, left, right, *, int lanes=1, first_port=0, seed=0, **impairments):
        cdef int i, side
        if not 1 <= lanes <= LANES or len(left) + len(right) > PORTS:
            raise ValueError(f"at most {LANES} lanes and {PORTS} ports")
        self.lanes = lanes
        self.first_port = first_port
        self.links = []
        self.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        pthread_mutex_init(&self.lock, NULL)
        for side, ports in enumerate((left, right)):
            for i in range(lanes):
                line_init(&self.lines[side][i], 0)
            for address, link in ports:
                self.plug(side, address, link)
        self.set(seed=seed, **impairments)
        self.thread = threading.Thread(target=self.run, name="lossy wire", daemon=True)
        self.thread.start()

    cdef int plug(self, int side, address, Link link) except -1:
        cdef port_t *port = &self.ports[self.port_count]
        cdef bytes packed = ipaddress.IPv4Address(address).packed
        cdef const uint8_t *p = packed
        port.link = &link.link
        port.side = side
        memcpy(port.address, p, 4)
        self.links.append(link)
        self.port_count += 1
        return 0

    def set(self, *, seed=None, from_left=None, from_right=None, **both):
        """Change impairments (those of `netstack.link.FaultInjector`) from now on, and the dice when a seed is given.

        ``from_left`` and ``from_right`` are mappings for packets that come from that side only. Packets under way keep their times.
        """
        cdef int i, side
        cdef uint64_t number
        cdef dict settings
        with nogil:
            pthread_mutex_lock(&self.lock)
        try:
            for side, own in enumerate((from_left, from_right)):
                settings = {**both, **(own or {})}
                for i in range(self.lanes):
                    configure(&self.lines[side][i], settings)
                    if seed is not None:
                        number = (2 * (LANES * int(seed) + i) + side) & 0xffffffffffffffff
                        prng_seed(&self.lines[side][i].prng, number)
        finally:
            pthread_mutex_unlock(&self.lock)
            eventfd_write(self.bell, 1)

    def stats(self):
        """Counts: of each side's lines together (as `netstack.link.FaultInjector.stats`), and of the wire itself.

        ``late`` packets came out more than 1 ms after their time, ``worst_ns`` is the latest.
        """
        cdef int i, side
        sums = []
        with nogil:
            pthread_mutex_lock(&self.lock)
        try:
            for side in range(2):
                lines = [line_stats(&self.lines[side][i]) for i in range(self.lanes)]
                sums.append({name: sum(line[name] for line in lines) for name in lines[0]})
            return {"from_left": sums[0], "from_right": sums[1], "unroutable": self.unroutable, "late": self.late,
                    "worst_ns": self.worst_ns}
        finally:
            pthread_mutex_unlock(&self.lock)

    def close(self):
        """Stop; what is under way is lost."""
        if self.thread is not None:
            with nogil:
                pthread_mutex_lock(&self.lock)
                self.stop = True
                pthread_mutex_unlock(&self.lock)
            eventfd_write(self.bell, 1)
            self.thread.join()
            self.thread = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __dealloc__(self):
        cdef int i, side
        for side in range(2):
            for i in range(self.lanes):
                line_free(&self.lines[side][i])
        if self.bell > 0:
            close(self.bell)

    # --- the thread

    cdef line_t *lane(self, int side, const frame_t *frame) noexcept nogil:
        cdef const uint8_t *p = frame.head
        cdef uint32_t at, port, i
        if self.lanes == 1 or frame.head_length < 24 or p[0] >> 4 != 4 or p[9] != 6:
            return &self.lines[side][0]
        at = (p[0] & 15) * 4
        if at + 4 > frame.head_length:
            return &self.lines[side][0]
        for i in range(2):
            port = <uint32_t> p[at + 2 * i] << 8 | p[at + 2 * i + 1]
            if self.first_port <= port < self.first_port + <uint32_t> self.lanes:
                return &self.lines[side][port - self.first_port]
        return &self.lines[side][0]

    cdef int take(self, port_t *port, int64_t t) noexcept nogil:
        """Let what a port sends enter the wire; how many packets."""
        cdef frame_t frames[BATCH]
        cdef link_t *link = port.link
        cdef int i, got, rounds, total = 0
        link.advance(link, t)
        for rounds in range(ROUNDS):
            got = link.receive(link, frames, BATCH)
            for i in range(got):
                line_push(self.lane(port.side, &frames[i]), frames[i].head, frames[i].head_length,
                          frames[i].body, frames[i].body_length, t)
            if got == 0:
                break
            link.release(link)
            total += got
        return total

    cdef port_t *destination(self, int side, held_t *frame) noexcept nogil:
        cdef const uint8_t *p = held_bytes(frame)
        cdef uint8_t *a
        cdef port_t *gateway = NULL
        cdef int i
        if frame.length >= 20 and p[0] >> 4 == 4:
            for i in range(self.port_count):
                a = self.ports[i].address
                if self.ports[i].side == side:
                    continue
                if a[0] == p[16] and a[1] == p[17] and a[2] == p[18] and a[3] == p[19]:
                    return &self.ports[i]
                if a[0] == 0:
                    gateway = &self.ports[i]
        return gateway

    cdef int64_t give(self, int side, line_t *line, int64_t t) noexcept nogil:
        """Let out what is due; when the line is to be looked at again."""
        cdef held_t *frame
        cdef port_t *port
        cdef link_t *link
        cdef uint8_t *head
        cdef uint8_t *body
        cdef int64_t lateness
        while True:
            frame = line_peek(line, t)
            if frame == NULL:
                return line_next_due(line)
            port = self.destination(side, frame)
            if port == NULL:
                self.unroutable += 1
                free(line_pop(line))
                continue
            link = port.link
            if link.claim(link, frame.head_length, frame.length - frame.head_length, &head, &body):
                if not link.dead:
                    return t + RETRY_NS
            else:
                memcpy(head, held_bytes(frame), frame.head_length)
                if frame.length > frame.head_length:
                    memcpy(body, held_bytes(frame) + frame.head_length, frame.length - frame.head_length)
                link.commit(link, t)
            lateness = t - frame.due_ns
            if lateness > LATE_NS:
                self.late += 1
            if lateness > self.worst_ns:
                self.worst_ns = lateness
            free(line_pop(line))

    cdef int64_t turn(self, int64_t t) noexcept nogil:
        """Everything once. When something is due next; -1: there was input, so look again at once."""
        cdef int i, side, got = 0
        cdef int64_t due, next_due = NEVER
        for i in range(self.port_count):
            got += self.take(&self.ports[i], t)
        for side in range(2):
            for i in range(self.lanes):
                due = self.give(side, &self.lines[side][i], t)
                if due < next_due:
                    next_due = due
        for i in range(self.port_count):
            self.ports[i].link.flush(self.ports[i].link)
            due = self.ports[i].link.next_deadline(self.ports[i].link)
            if due < next_due:
                next_due = due
        return -1 if got else next_due

    cdef void sleep(self, int64_t until) noexcept nogil:
        cdef pollfd fds[PORTS + 1]
        cdef timespec ts
        cdef link_t *link
        cdef int64_t left = 0
        cdef uint64_t rung
        cdef int i, armed, n = 1
        fds[0].fd = self.bell
        fds[0].events = POLLIN
        fds[0].revents = 0
        for armed in range(self.port_count):
            link = self.ports[armed].link
            if link.dead:
                continue
            if link.arm(link, BELL_LEADER):
                break
            fds[n].fd = link.poll_fd(link, BELL_LEADER)
            fds[n].events = POLLIN
            n += 1
        else:
            if until != NEVER:
                left = until - now()
                if left < 0:
                    left = 0
                ts.tv_sec = left // 1000000000
                ts.tv_nsec = left % 1000000000
            ppoll(fds, n, NULL if until == NEVER else &ts, NULL)
        for i in range(self.port_count):
            link = self.ports[i].link
            if not link.dead:
                link.disarm(link)
                link.drain_fd(link, BELL_LEADER)
        if fds[0].revents & POLLIN:
            eventfd_read(self.bell, &rung)

    cdef void loop(self) noexcept nogil:
        cdef int64_t due
        cdef bint stop = False
        prctl(PR_SET_TIMERSLACK, 1)
        while not stop:
            pthread_mutex_lock(&self.lock)
            due = self.turn(now())
            stop = self.stop
            pthread_mutex_unlock(&self.lock)
            if not stop and due > now() + NEAR_NS:
                self.sleep(due)

    def run(self):
        with nogil:
            self.loop()
