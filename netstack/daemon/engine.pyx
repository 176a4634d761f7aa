"""The daemon's loop: it sleeps for clients and stack together, and moves what either has, without the interpreter.

One thread, which leads the stack as an event loop does (`netstack.pollers`). What needs Python, messages on control
sockets and pipes that ended, is handed to the server after each round. Every client has a board with a bell: it is rung
only while the loop sleeps. Each pipe has a bounded share of a round, so nobody waits for somebody else's stream.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close

from netstack.daemon.pipe cimport (
    PIPE_FINISHED,
    PIPE_IDLE,
    PIPE_MORE,
    PIPE_POISONED,
    pipe_pump,
    pipe_t,
    pipe_unread,
)
from netstack.daemon.shared cimport (
    NSD_NOTES,
    NSD_PAGE,
    nsd_down_t,
    nsd_fence,
    nsd_load64,
    nsd_note_at,
    nsd_store32,
    nsd_store64,
    nsd_up_t,
)
from netstack.driver cimport (
    Driver,
    driver_t,
    driver_unlock,
    loopback_pending,
    owner_t,
    park_lock,
    park_now_ns,
    park_pause,
    poller_t,
)
from netstack.handle cimport Handle
from netstack.link.link cimport NEVER
from netstack.pollers cimport (
    RANG_BELL,
    RANG_LEADER,
    RANG_LINK,
    poller_join,
    poller_look,
    poller_part,
    poller_sleeps,
    poller_take,
    poller_watch,
    poller_woke,
)

import os

cdef extern from "<sys/epoll.h>" nogil:
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    unsigned int EPOLLIN, EPOLLRDHUP, EPOLLET
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int most, int timeout)

cdef enum:
    BATCH = 64                   # descriptors a round
    PUMPS = 256                  # pipes a round
    STORM = 64                   # rings in a row without a note
    OF_STACK = 1                 # kinds of descriptors, in the upper half of epoll's word
    OF_BOARD = 2
    OF_SERVER = 3
    C_FINISHED = 1               # what the server is told of
    C_POISONED = 2
    C_BAD_BOARD = 3
    KIND_SHIFT = 24
    NUMBERS = 0xffffff

FINISHED, POISONED, BAD_BOARD = C_FINISHED, C_POISONED, C_BAD_BOARD

cdef int64_t MUTED_NS = 10_000_000             # how long a storming bell is not listened to
cdef int64_t LINGER_LOOK_NS = 5_000_000        # how often somebody's close() is looked after


cdef class Pipe:
    """A socket's memory and its place in the engine.

    Parameters
    ----------
    handle : Handle
        Its socket in the stack, without timeout.
    down, up : rings.mapping.Mapping
        The daemon's piece and the clients'.
    number : int
        Below the engine's size.
    """

    def __cinit__(self, Handle handle not None, down, up, uint32_t number, uint64_t capacity):
        memset(&self.p, 0, sizeof(self.p))
        self.handle = handle
        self.down = down
        self.up = up
        self.number = number
        self.capacity = capacity
        self.p.o = &handle.o
        self.p.down = <nsd_down_t *> <uintptr_t> down.address
        self.p.up = <nsd_up_t *> <uintptr_t> up.address
        self.p.down_bytes = <uint8_t *> self.p.down + NSD_PAGE
        self.p.up_bytes = <const uint8_t *> self.p.up + NSD_PAGE
        self.p.capacity = capacity
        self.p.number = number
        self.p.front_fd = self.p.back_fd = -1

    @property
    def unread(self):
        """Whether bytes wait that no client took."""
        return pipe_unread(&self.p)

    @property
    def drained(self):
        """Whether the stack has everything that clients wrote."""
        return not self.p.streaming or self.p.head == nsd_load64(&self.p.up.tail)

    @property
    def streaming(self):
        return bool(self.p.streaming)

    @property
    def committed(self):
        return bool(self.p.committed)

    def commit(self, bint connected=False):
        """Its rings have memory now. ``connected``: and carry data at once."""
        self.p.committed = 1
        self.p.streaming = connected

    def shut(self):
        """Clients send no more; a FIN goes behind what they sent."""
        self.p.shut = self.p.shut_wanted = 1

    @property
    def back_fd(self):
        """Our end of the readiness pair; -1: it has none, or it shows an error."""
        return self.p.back_fd

    def show_by(self, int front_fd, int back_fd):
        """The readiness pair: the clients' end, and ours, which may be closed from now on."""
        self.p.front_fd = front_fd
        self.p.back_fd = back_fd


cdef class Board:
    """A client's notes. ``bell`` is rung by it while the loop sleeps."""

    def __cinit__(self, down, up, uint32_t client, int bell):
        memset(&self.b, 0, sizeof(self.b))
        self.down = down
        self.up = up
        self.b.down = <nsd_down_t *> <uintptr_t> down.address
        self.b.up = <nsd_up_t *> <uintptr_t> up.address
        self.b.client = client
        self.b.bell = bell


@cython.no_gc_clear
cdef class Engine:
    """The loop of one daemon over one host.

    Parameters
    ----------
    driver : Driver
        The host's.
    size : int
        How many sockets there may be.
    spin_us : float
        How long it looks at links and boards before it sleeps, microseconds.
    """

    def __cinit__(self, Driver driver not None, uint32_t size, double spin_us=0):
        cdef driver_t *d = &driver.d
        cdef uint32_t i
        memset(&self.poller, 0, sizeof(self.poller))
        self.parted = True
        self.driver = driver
        self.size = size
        self.spin_ns = <int64_t> (spin_us * 1000)
        self.table = <pipe_t **> calloc(size, sizeof(pipe_t *))
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.table == NULL or self.epoll < 0:
            raise MemoryError
        self.poller.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.duplicates = []
        self.watched = []
        self.take_bells()
        with nogil:
            park_lock(&d.lock)
            poller_join(d, &self.poller)
            driver_unlock(d)
        self.parted = False

    def __dealloc__(self):
        self.close()
        free(self.table)

    cdef take_bells(self):
        """Sleep on what the links ring now."""
        cdef driver_t *d = &self.driver.d
        cdef uint32_t i
        for fd in self.watched:
            self.unwatch(fd)
        for fd in self.duplicates:
            os.close(fd)
        self.poller.bells = d.bells
        self.duplicates = [os.dup(d.leader_fd)]
        self.watched = [self.poller.bell, self.duplicates[0]]
        for i in range(d.link_count):
            if d.leader_fds[i] >= 0 and d.kernel_fd[i]:
                self.watched.append(d.leader_fds[i])   # a device: a duplicate would keep it busy
            elif d.leader_fds[i] >= 0:
                self.duplicates.append(os.dup(d.leader_fds[i]))
                self.watched.append(self.duplicates[len(self.duplicates) - 1])
        for i, fd in enumerate(self.watched):
            self.register(fd, OF_STACK, i, EPOLLIN)

    def close(self):
        """Leave the stack to others. A second call does nothing."""
        cdef driver_t *d
        if self.parted:
            return
        self.parted = True
        d = &self.driver.d
        with nogil:
            park_lock(&d.lock)
            poller_part(&self.poller)
            driver_unlock(d)
        close(self.poller.bell)
        close(self.epoll)
        for fd in self.duplicates:
            os.close(fd)

    def register(self, int fd, uint32_t kind, uint32_t which, uint32_t events):
        cdef epoll_event e
        e.events = events
        e.data.u64 = <uint64_t> kind << 32 | which
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &e) < 0:
            raise OSError(errno, os.strerror(errno))

    def watch(self, int fd):
        """Tell of a descriptor of the server's when it is readable or its other end is gone."""
        self.register(fd, OF_SERVER, fd, EPOLLIN | EPOLLRDHUP)

    def unwatch(self, int fd):
        cdef epoll_event e
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, &e)

    # --- sockets and clients

    def add(self, Pipe pipe not None):
        """A socket comes under the engine's care."""
        self.table[pipe.number] = &pipe.p
        pipe.p.o.tag = <void *> &pipe.p
        self.touch(pipe)

    def touch(self, Pipe pipe not None):
        """Something was done to its socket: see to it now."""
        cdef driver_t *d = &self.driver.d
        with nogil:
            park_lock(&d.lock)
            self.pump(&pipe.p)
            driver_unlock(d)

    def remove(self, Pipe pipe not None):
        """Its socket is about to be closed."""
        cdef driver_t *d = &self.driver.d
        cdef pipe_t **place = &self.first
        cdef pipe_t *before = NULL
        cdef uint32_t i
        with nogil:
            park_lock(&d.lock)
            poller_watch(&self.poller, pipe.p.o, 0)
            driver_unlock(d)
        if pipe.p.queued:
            while place[0] != &pipe.p:
                before = place[0]
                place = &place[0].next
            place[0] = pipe.p.next
            if self.last == &pipe.p:
                self.last = before
            pipe.p.queued = 0
        if pipe.p.lingers:
            self.lingering -= 1
            pipe.p.lingers = 0
        for i in range(self.told_count):
            if self.told[i] & NUMBERS == pipe.number and self.told[i] >> KIND_SHIFT != C_BAD_BOARD:
                self.told[i] = 0
        pipe.p.o.tag = NULL
        self.table[pipe.number] = NULL

    def abandon(self, Pipe pipe not None):
        """No client has it any more: what was written still goes out, then it is told as ended."""
        pipe.p.orphan = 1
        pipe.p.shut = 1
        self.touch(pipe)

    def linger(self, Pipe pipe not None):
        """Somebody waits until all of it has arrived."""
        if not pipe.p.lingers and not pipe.p.finished:
            pipe.p.lingers = 1
            self.lingering += 1

    def add_board(self, Board board not None):
        self.register(board.b.bell, OF_BOARD, board.b.client, EPOLLIN | EPOLLET)
        board.b.next = self.boards
        self.boards = &board.b

    def remove_board(self, Board board not None):
        cdef board_t **place = &self.boards
        self.unwatch(board.b.bell)
        while place[0] != &board.b:
            place = &place[0].next
        place[0] = board.b.next
        self.muted -= board.b.muted_until_ns != 0

    # --- a round, without the interpreter and, but for the sleep, under the lock of the driver

    cdef void queue(self, pipe_t *p) noexcept nogil:
        if p.queued:
            return
        p.queued = 1
        p.next = NULL
        if self.first == NULL:
            self.first = p
        else:
            self.last.next = p
        self.last = p

    cdef void pump(self, pipe_t *p) noexcept nogil:
        cdef int r = pipe_pump(p, &self.poller)
        if r == PIPE_MORE:
            self.queue(p)
        elif r != PIPE_IDLE and not p.told:
            p.told = self.tell(C_POISONED if r == PIPE_POISONED else C_FINISHED, p.number)
            if not p.told:
                self.queue(p)    # in the next round

    cdef bint tell(self, uint32_t kind, uint32_t number) noexcept nogil:
        if self.told_count == BATCH:
            return False
        self.told[self.told_count] = kind << KIND_SHIFT | number
        self.told_count += 1
        return True

    cdef void heard(self, uint32_t client) noexcept nogil:
        """A client rang. One that rings and rings without a note is not listened to for a while (security R11); its
        board is still looked at in each round."""
        cdef board_t *b = self.boards
        while b != NULL and b.client != client:
            b = b.next
        if b == NULL or b.muted_until_ns:
            return
        if nsd_load64(&b.up.tail) != b.head:
            return
        b.storm += 1
        if b.storm >= STORM:
            b.muted_until_ns = park_now_ns() + MUTED_NS
            self.muted += 1
            self.listen_for(b, 0)

    cdef void listen_for(self, board_t *b, uint32_t events) noexcept nogil:
        cdef epoll_event e
        e.events = events
        e.data.u64 = <uint64_t> OF_BOARD << 32 | b.client
        epoll_ctl(self.epoll, EPOLL_CTL_MOD, b.bell, &e)

    cdef int64_t unmute(self, int64_t until) noexcept nogil:
        """Listen again to those whose time is over. Returns when to come again, at most `until`."""
        cdef board_t *b = self.boards
        cdef int64_t now = park_now_ns()
        while b != NULL and self.muted:
            if b.muted_until_ns and b.muted_until_ns <= now:
                b.muted_until_ns = 0
                b.storm = 0
                self.muted -= 1
                self.listen_for(b, EPOLLIN | EPOLLET)
            elif b.muted_until_ns and b.muted_until_ns < until:
                until = b.muted_until_ns
            b = b.next
        return until

    cdef bint read_notes(self, board_t *b) noexcept nogil:
        """Pump what a client noted. True: there was something."""
        cdef uint64_t tail = nsd_load64(&b.up.tail)
        cdef uint64_t n = tail - b.head
        cdef uint32_t number, i
        if n == 0 or b.poisoned:
            return False
        if n > NSD_NOTES:
            b.poisoned = self.tell(C_BAD_BOARD, b.client)
            return False
        b.storm = 0
        if n == NSD_NOTES:       # full: some may be missing, so all are looked at
            b.head = tail
            for i in range(self.size):
                if self.table[i] != NULL:
                    self.queue(self.table[i])
        while b.head != tail:
            number = nsd_note_at(b.up, b.head)
            b.head += 1
            if number < self.size and self.table[number] != NULL:
                self.pump(self.table[number])
        nsd_store64(&b.down.head, b.head)
        return True

    cdef bint work(self) noexcept nogil:
        """Everything that is to be done now, in shares. True: there was something."""
        cdef board_t *b = self.boards
        cdef uint32_t state, n = self.poller.count, i
        cdef owner_t *o
        cdef pipe_t *p
        cdef pipe_t *end = self.last
        cdef bint did = False
        while b != NULL:
            if self.read_notes(b):
                did = True
            b = b.next
        if n > PUMPS:
            n = PUMPS
        for i in range(n):
            o = poller_take(&self.poller, &state)
            if o == NULL:
                break
            if state and o.tag != NULL:
                did = True
                self.pump(<pipe_t *> o.tag)
        while end != NULL and self.first != NULL:
            p = self.first
            self.first = p.next
            if self.first == NULL:
                self.last = NULL
            p.queued = 0
            did = True
            self.pump(p)
            if p == end:
                break
        if self.lingering:
            for i in range(self.size):
                p = self.table[i]
                if p != NULL and p.lingers:
                    self.pump(p)
                    if p.finished or p.poisoned:
                        p.lingers = 0
                        self.lingering -= 1
        return did

    cdef bint spin(self, int64_t until) noexcept nogil:
        """Look for a while. The lock is not held. True: something came."""
        cdef driver_t *d = &self.driver.d
        cdef int64_t end = park_now_ns() + self.spin_ns
        cdef bint hit
        if not self.spin_ns:
            return False
        if end > until:
            end = until
        park_lock(&d.lock)
        d.spinning += 1
        driver_unlock(d)
        hit = self.look(end)
        park_lock(&d.lock)
        d.spinning -= 1
        driver_unlock(d)
        return hit

    cdef bint look(self, int64_t end) noexcept nogil:
        cdef driver_t *d = &self.driver.d
        cdef board_t *b
        cdef uint32_t i
        while park_now_ns() < end:
            b = self.boards
            while b != NULL:
                if not b.poisoned and nsd_load64(&b.up.tail) != b.head:
                    return True
                b = b.next
            for i in range(d.link_count):
                if d.links[i].has_input(d.links[i]):
                    return True
            park_pause()
        return False

    cdef bint arm(self) noexcept nogil:
        """Ask every client to ring from now on. False: one has a note already."""
        cdef board_t *b = self.boards
        while b != NULL:
            b.note = (b.note & ~<uint32_t> 3) + 5
            nsd_store32(&b.down.note, b.note)
            b = b.next
        nsd_fence()
        b = self.boards
        while b != NULL:
            if not b.poisoned and nsd_load64(&b.up.tail) != b.head:
                return False
            b = b.next
        return True

    cdef void disarm(self) noexcept nogil:
        cdef board_t *b = self.boards
        while b != NULL:
            b.note &= ~<uint32_t> 3
            nsd_store32(&b.down.note, b.note)
            b = b.next

    cdef int round(self, epoll_event *events, int64_t until) noexcept nogil:
        """Work, and sleep when there is nothing to do. How many descriptors had something."""
        cdef driver_t *d = &self.driver.d
        cdef int64_t wake_at = NEVER, now
        cdef uint32_t rang = 0, i, which
        cdef int n, timeout = 0
        cdef bint busy, sleeps = False
        self.rounds += 1
        park_lock(&d.lock)
        poller_look(&self.poller)
        busy = self.work()
        driver_unlock(d)
        if self.lingering and until > park_now_ns() + LINGER_LOOK_NS:
            until = park_now_ns() + LINGER_LOOK_NS
        if self.muted:
            until = self.unmute(until)
        if self.told_count or self.first != NULL:
            busy = True
        if not busy and not self.spin(until) and self.arm():
            park_lock(&d.lock)
            sleeps = poller_sleeps(&self.poller, until, True, &wake_at)
            driver_unlock(d)
            if sleeps and wake_at == NEVER:
                timeout = -1
            elif sleeps:
                now = park_now_ns()
                timeout = 0 if wake_at <= now else <int> min((wake_at - now + 999_999) // 1_000_000, 1_000_000)
            self.sleeps += sleeps
        n = epoll_wait(self.epoll, events, BATCH, timeout)
        self.disarm()
        for i in range(<uint32_t> n if n > 0 else 0):
            if events[i].data.u64 >> 32 == OF_STACK:
                which = <uint32_t> events[i].data.u64
                rang |= RANG_BELL if which == 0 else RANG_LEADER if which == 1 else RANG_LINK
            elif events[i].data.u64 >> 32 == OF_BOARD:
                self.heard(<uint32_t> events[i].data.u64)
        if sleeps:
            park_lock(&d.lock)
            poller_woke(&self.poller, rang)
            driver_unlock(d)
        return n

    def turn(self, object seconds=None):
        """Move bytes, and sleep when there are none, until the server has something to do, or ``seconds`` are over.

        Returns
        -------
        descriptors : list of int
            Those of the server's that have something.
        told : list of (int, int)
            What the server must see to: ``(FINISHED or POISONED, number of a socket)``: it was given up and is done, or a
            client spoilt its memory; ``(BAD_BOARD, number of a client)``.
        """
        cdef epoll_event events[BATCH]
        cdef int64_t until = NEVER
        cdef bint due = False
        cdef int n = 0, i
        found = []
        if seconds is not None:
            until = park_now_ns() + <int64_t> (min(max(seconds, 0.0), 1e6) * 1e9)
        if self.poller.bells != self.driver.d.bells:
            self.take_bells()
        with nogil:
            while not due:
                n = self.round(events, until)
                due = self.told_count != 0 or park_now_ns() >= until or self.poller.bells != self.driver.d.bells
                for i in range(n):
                    if events[i].data.u64 >> 32 == OF_SERVER:
                        due = True
        for i in range(n):
            if events[i].data.u64 >> 32 == OF_SERVER:
                found.append(<int> <uint32_t> events[i].data.u64)
        told = [(self.told[i] >> KIND_SHIFT, self.told[i] & NUMBERS) for i in range(<int> self.told_count)]
        self.told_count = 0
        return found, told
