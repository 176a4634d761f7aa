# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The stack's side of a shared address: which ports it has, and how it asks the router for one (``link.ports``).

A port that a program names is claimed by a message on the control socket, whose answer the call waits for; ports for
connections that go out come from a lease, and only every 64th asks for another. Giving a port back is a message without an
answer. The waiting lets the interpreter go: the router may live in this very process.
"""

from libc.errno cimport EADDRNOTAVAIL, EAGAIN, EINTR, EINVAL, ENETDOWN, ENOMEM, ETIMEDOUT, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

import os

from netstack.link.link cimport Link, LINK_SHARED_ADDRESS, link_t, port_keeper_t
from rings.doorbell cimport doorbell_now_ns

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void *data, size_t length, int flags)
    ssize_t c_recv "recv"(int fd, void *data, size_t length, int flags)
    enum: MSG_DONTWAIT
    enum: MSG_NOSIGNAL

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *, unsigned long, int)
    enum: POLLIN

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *, const void *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_trylock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)

cdef extern from "Python.h" nogil:
    ctypedef struct PyThreadState:
        pass
    int PyGILState_Check()
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *)

cdef enum:
    PORTS = 65536
    KINDS = 3                    # TCP, UDP, protocols without ports: as in the router's claims
    MESSAGE = 512                # netstack.router.protocol, of which this is the only other reader
    HEADER = 16
    VERSION = 1
    CLAIM = 7
    UNCLAIM = 8
    LEASE = 9
    INHERIT = 14
    STAY = 15
    SHARE = 16
    FLOWS = 17
    TOKEN = 16
    FLOW = 34                    # own address, peer's address, its port
    FLOWS_MOST = (MESSAGE - HEADER - 4) // FLOW
    LEASE_PORTS = 64
    OURS = 1 << 31               # of a sequence number: no question of the Python side has it
    CLAIMED = 1
    LEASED = 2
    HOW = 3                      # the two above; and with what flags a number was claimed
    FLAGS = 2                    # bits from here

cdef uint8_t FAMILY = CLAIMED | 2 << FLAGS   # shared with children: claimed with SO_REUSEPORT from a router that comes back

cdef int64_t TIMEOUT_NS = 5000000000         # for an answer of the router


cdef struct shared_ports_t:
    port_keeper_t keeper         # first: what the stack calls
    pthread_mutex_t lock
    int fd                       # the control socket; -1: closed
    uint32_t sequence
    uint32_t messages
    uint8_t *held[KINDS]         # by number: CLAIMED, LEASED or 0
    uint16_t *leased[2]
    uint32_t n_leased[2]
    uint8_t buffer[MESSAGE]


# ---- asking the router

cdef void write_message(shared_ports_t *s, uint16_t type, uint8_t kind, uint8_t flags, uint16_t number) noexcept nogil:
    cdef uint16_t head[2]
    head[0] = VERSION
    head[1] = type
    s.sequence = (s.sequence + 1) | <uint32_t> OURS
    memset(s.buffer, 0, MESSAGE)
    memcpy(s.buffer, b"NSRT", 4)
    memcpy(s.buffer + 4, head, 4)
    memcpy(s.buffer + 8, &s.sequence, 4)
    s.buffer[HEADER] = kind
    s.buffer[HEADER + 1] = flags
    memcpy(s.buffer + HEADER + 2, &number, 2)


cdef int read_answer(shared_ports_t *s, uint16_t type) noexcept nogil:
    """The answer to the last question, in the buffer: its status, negative. Others came too late, and are passed over."""
    cdef int64_t until = doorbell_now_ns() + TIMEOUT_NS, left
    cdef pollfd one
    cdef ssize_t n
    cdef uint16_t kind
    cdef int32_t status
    one.fd = s.fd
    one.events = POLLIN
    while True:
        left = until - doorbell_now_ns()
        if left <= 0:
            return -ETIMEDOUT
        if poll(&one, 1, <int> (left // 1000000) + 1) < 0 and errno != EINTR:
            return -ENETDOWN
        n = c_recv(s.fd, s.buffer, MESSAGE, MSG_DONTWAIT)
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            continue
        if n != MESSAGE or memcmp(s.buffer, b"NSRT", 4) != 0:
            return -ENETDOWN
        memcpy(&kind, s.buffer + 6, 2)
        memcpy(&status, s.buffer + 12, 4)
        if kind == type and memcmp(s.buffer + 8, &s.sequence, 4) == 0:
            return -status if status >= 0 else -EINVAL


cdef int ask(shared_ports_t *s, uint16_t type, uint8_t kind, uint8_t flags, uint16_t number) noexcept nogil:
    """Under the lock. 0, or -errno: the router's, -ENETDOWN (it is gone), -ETIMEDOUT."""
    if s.fd < 0:
        return -ENETDOWN
    write_message(s, type, kind, flags, number)
    return ask_written(s, type)


cdef int ask_written(shared_ports_t *s, uint16_t type) noexcept nogil:
    s.messages += 1
    if c_send(s.fd, s.buffer, MESSAGE, MSG_NOSIGNAL | MSG_DONTWAIT) != MESSAGE:
        return -ENETDOWN
    return read_answer(s, type)


cdef void tell(shared_ports_t *s, uint16_t type, uint8_t kind, uint16_t number) noexcept nogil:
    """Under the lock: a message that has no answer. One that finds no room is not sent."""
    if s.fd < 0:
        return
    write_message(s, type, kind, 0, number)
    s.messages += 1
    if c_send(s.fd, s.buffer, MESSAGE, MSG_NOSIGNAL | MSG_DONTWAIT) == MESSAGE and type == UNCLAIM:
        s.held[kind][number] = 0


cdef int exchange(shared_ports_t *s, uint16_t type, uint8_t kind, uint8_t flags, uint16_t number) noexcept nogil:
    """`ask` without the interpreter: the router's thread may need it."""
    cdef PyThreadState *state = PyEval_SaveThread() if PyGILState_Check() else NULL
    cdef int r
    pthread_mutex_lock(&s.lock)
    r = ask(s, type, kind, flags, number)
    if r == 0 and type == LEASE:
        r = take_lease(s, kind)
    elif r == 0 and type == CLAIM and s.held[kind][number] == 0:
        s.held[kind][number] = CLAIMED | flags << FLAGS
    pthread_mutex_unlock(&s.lock)
    if state != NULL:
        PyEval_RestoreThread(state)
    return r


cdef int take_lease(shared_ports_t *s, uint8_t kind) noexcept nogil:
    cdef uint16_t n, port
    cdef uint16_t *bigger
    cdef uint32_t i
    memcpy(&n, s.buffer + HEADER, 2)
    if n == 0 or n > LEASE_PORTS:
        return -EADDRNOTAVAIL
    bigger = <uint16_t *> realloc(s.leased[kind], (s.n_leased[kind] + n) * sizeof(uint16_t))
    if bigger == NULL:
        return -ENOMEM
    s.leased[kind] = bigger
    for i in range(n):
        memcpy(&port, s.buffer + HEADER + 2 + 2 * i, 2)
        if port and s.held[kind][port] & HOW != LEASED:
            s.held[kind][port] = LEASED
            bigger[s.n_leased[kind]] = port
            s.n_leased[kind] += 1
    return 0


# ---- what the stack calls

cdef int ports_claim(port_keeper_t *keeper, int udp, uint16_t port, int flags) noexcept nogil:
    cdef shared_ports_t *s = <shared_ports_t *> keeper
    if s.held[udp][port]:
        return 0
    return exchange(s, CLAIM, <uint8_t> udp, <uint8_t> flags, port)


cdef void ports_release(port_keeper_t *keeper, int udp, uint16_t port) noexcept nogil:
    """A message that finds no room is not sent, and the port stays ours until the next time, or the end."""
    cdef shared_ports_t *s = <shared_ports_t *> keeper
    if s.held[udp][port] & HOW != CLAIMED or pthread_mutex_trylock(&s.lock) != 0:
        return
    tell(s, UNCLAIM, <uint8_t> udp, port)
    pthread_mutex_unlock(&s.lock)


cdef int ports_pick(port_keeper_t *keeper, int udp, uint32_t random, uint32_t i) noexcept nogil:
    """All that are leased, from a random one on; then those of one more lease, and so on."""
    cdef shared_ports_t *s = <shared_ports_t *> keeper
    cdef int r
    if i < s.n_leased[udp]:
        return s.leased[udp][(random + i) % s.n_leased[udp]]
    r = exchange(s, LEASE, <uint8_t> udp, 0, 0)
    if r < 0:
        return r
    return s.leased[udp][i] if i < s.n_leased[udp] else -EADDRNOTAVAIL


cdef class SharedPorts:
    """Ports of an address that other stacks have too.

    Parameters
    ----------
    control_fd : int
        The connection to the router, on which nobody else asks while this is open.
    link : Link
        Gets this as its keeper of ports; before a stack is put on it.
    name : str
        The router's, for messages.
    """

    cdef shared_ports_t *s
    cdef str name

    def __cinit__(self, int control_fd, Link link not None, str name):
        cdef shared_ports_t *s = <shared_ports_t *> calloc(1, sizeof(shared_ports_t))
        cdef int kind
        if s == NULL:
            raise MemoryError
        self.s = s
        self.name = name
        pthread_mutex_init(&s.lock, NULL)
        s.fd = control_fd
        for kind in range(KINDS):
            s.held[kind] = <uint8_t *> calloc(PORTS, 1)
            if s.held[kind] == NULL:
                raise MemoryError
        for kind in range(2):
            s.keeper.users[kind] = <uint32_t *> calloc(PORTS, sizeof(uint32_t))
            if s.keeper.users[kind] == NULL:
                raise MemoryError
        s.keeper.claim = ports_claim
        s.keeper.release = ports_release
        s.keeper.pick = ports_pick
        link.link.ports = &s.keeper
        link.link.capabilities |= LINK_SHARED_ADDRESS

    def __dealloc__(self):
        cdef int kind
        if self.s == NULL:
            return
        for kind in range(KINDS):
            free(self.s.held[kind])
        for kind in range(2):
            free(self.s.keeper.users[kind])
            free(self.s.leased[kind])
        pthread_mutex_destroy(&self.s.lock)
        free(self.s)

    cdef check(self, uint32_t kind, uint32_t number):
        if kind >= KINDS or not 0 < number < PORTS:
            raise ValueError(f"kind {kind}, number {number}: there is no such port or protocol")

    def claim(self, uint32_t kind, uint32_t number, uint32_t flags=0):
        """What the stack does for sockets: have this port (0 TCP, 1 UDP), or the packets of a protocol without ports (2).

        Raises
        ------
        OSError
            EADDRINUSE, or whatever else the router says; ENETDOWN: it is gone.
        """
        cdef int r
        self.check(kind, number)
        with nogil:
            r = exchange(self.s, CLAIM, <uint8_t> kind, <uint8_t> flags, <uint16_t> number)
        if r < 0:
            raise OSError(-r, f"router {self.name!r}: number {number}: {os.strerror(-r)}")

    def release(self, uint32_t kind, uint32_t number):
        """Give back what `claim` got."""
        self.check(kind, number)
        with nogil:
            ports_release(&self.s.keeper, <int> kind, <uint16_t> number)

    def expect(self, uint32_t kind, uint32_t number):
        """In a forked child: a port that is about to be inherited may be bound."""
        self.check(kind, number)
        self.s.held[kind][number] = FAMILY

    def inherit(self, uint32_t kind, uint32_t number, bytes token not None, bint yields):
        """In a forked child: have a port that its parent has, by the parent's token. `expect` it first, and listen: from now
        on connections come.

        Raises
        ------
        OSError
            ESRCH: the parent has left. EINVAL: it has no such port.
        """
        cdef int r
        cdef const uint8_t *secret = <const uint8_t *> <const char *> token
        self.check(kind, number)
        if len(token) != TOKEN:
            raise ValueError(f"a token has {TOKEN} bytes, not {len(token)}")
        with nogil:
            pthread_mutex_lock(&self.s.lock)
            if self.s.fd < 0:
                r = -ENETDOWN
            else:
                write_message(self.s, INHERIT, <uint8_t> kind, <uint8_t> yields, <uint16_t> number)
                memcpy(self.s.buffer + HEADER + 4, secret, TOKEN)
                r = ask_written(self.s, INHERIT)
            pthread_mutex_unlock(&self.s.lock)
        if r < 0:
            raise OSError(-r, f"router {self.name!r}: port {number} of the parent: {os.strerror(-r)}")

    def share(self, uint32_t kind, uint32_t number, list flows not None):
        """Before a fork: children may come to have this port too. What one has there now, one keeps.

        Parameters
        ----------
        kind, number : int
            As of `claim`; a leased port becomes one's own like one that was claimed.
        flows : list of bytes
            Of each connection there: its own address, its peer's (16 bytes each), and the peer's port (little endian).

        Raises
        ------
        OSError
            EINVAL: it is not one's own.
        """
        cdef shared_ports_t *s = self.s
        cdef bytes piece
        cdef const char *bytes_
        cdef size_t length
        cdef uint32_t i, n
        cdef int r
        self.check(kind, number)
        with nogil:
            r = exchange(s, SHARE, <uint8_t> kind, 0, <uint16_t> number)
        if r < 0:
            raise OSError(-r, f"router {self.name!r}: port {number}: {os.strerror(-r)}")
        for first in range(0, len(flows), FLOWS_MOST):
            piece = b"".join(flows[first:first + FLOWS_MOST])
            bytes_, length = piece, len(piece)
            with nogil:
                pthread_mutex_lock(&s.lock)
                if s.fd >= 0:
                    write_message(s, FLOWS, <uint8_t> kind, 0, <uint16_t> number)
                    s.buffer[HEADER + 1] = <uint8_t> (length // FLOW)
                    memcpy(s.buffer + HEADER + 4, bytes_, length)
                    s.messages += 1
                    c_send(s.fd, s.buffer, MESSAGE, MSG_NOSIGNAL)
                pthread_mutex_unlock(&s.lock)
        if kind > 1:
            return
        with nogil:
            pthread_mutex_lock(&s.lock)
            if s.held[kind][number] & HOW == LEASED:
                n = s.n_leased[kind]
                for i in range(n):
                    if s.leased[kind][i] == number:
                        s.leased[kind][i] = s.leased[kind][n - 1]
                        s.n_leased[kind] = n - 1
                        break
            s.held[kind][number] = FAMILY
            pthread_mutex_unlock(&s.lock)

    def stay(self, uint32_t kind, uint32_t number):
        """After children had this port, and connections went to them alone: want some again."""
        self.check(kind, number)
        with nogil:
            pthread_mutex_lock(&self.s.lock)
            tell(self.s, STAY, <uint8_t> kind, <uint16_t> number)
            pthread_mutex_unlock(&self.s.lock)

    def held(self, uint32_t kind):
        """Numbers that were claimed by name."""
        self.check(kind, 1)
        return [n for n in range(PORTS) if self.s.held[kind][n] & HOW == CLAIMED]

    def leased(self, uint32_t kind):
        """Ports for connections that go out: 0 TCP, 1 UDP."""
        if kind > 1:
            raise ValueError(f"kind {kind}: ports are leased for TCP (0) and UDP (1)")
        return [self.s.leased[kind][i] for i in range(self.s.n_leased[kind])]

    @property
    def messages(self):
        """How many the router was sent."""
        return self.s.messages

    def renew(self, int control_fd):
        """Another router has the address now, on this connection: claim everything there that this stack has.

        Returns
        -------
        int
            How many numbers are not to be had any more.
        """
        cdef shared_ports_t *s = self.s
        cdef int kind, number
        cdef uint8_t how
        cdef int lost = 0
        with nogil:
            pthread_mutex_lock(&s.lock)
            s.fd = control_fd
            for kind in range(KINDS):
                for number in range(1, PORTS):
                    how = s.held[kind][number]
                    if how and ask(s, CLAIM, <uint8_t> kind, how >> FLAGS, <uint16_t> number) < 0:
                        lost += 1
            pthread_mutex_unlock(&s.lock)
        return lost

    def close(self):
        """The connection to the router belongs to others again; no port can be had any more."""
        with nogil:
            pthread_mutex_lock(&self.s.lock)
            self.s.fd = -1
            pthread_mutex_unlock(&self.s.lock)
