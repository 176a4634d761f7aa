"""The selector of an event loop: it sleeps for the loop's hosts as well."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t

from netstack.aio.poller cimport Poller
from netstack.driver cimport park_now_ns
from netstack.link.link cimport NEVER

import os
import selectors

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLLOUT
    cdef union epoll_data:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_wait(int epfd, epoll_event *events, int n, int timeout_ms)

cdef enum:
    EVENTS = 64                  # taken from the kernel at a time; what is left is there the next time
    LOOK_NS = 50_000             # how long the kernel's descriptors may stay unseen while the hosts give work
    MS_NS = 1_000_000

cdef double LONGEST_S = 24 * 3600.0
cdef int READ = selectors.EVENT_READ, WRITE = selectors.EVENT_WRITE


class Selector(selectors.EpollSelector):
    """As the default selector; its sleeps drive the hosts whose pollers were added, and end when they need the loop."""

    def __init__(self):
        super().__init__()
        self.pollers = []
        self._sleeper = Sleeper(self.fileno(), self._fd_to_key, self.pollers)

    def add(self, poller):
        self.pollers.append(poller)
        for fd in poller.fds:
            self.register(fd, READ, poller)

    def remove(self, poller):
        self.pollers.remove(poller)
        for fd in poller.fds:
            self.unregister(fd)

    def renew(self, poller):
        """The links of its host ring other descriptors now."""
        for fd in poller.fds:
            self.unregister(fd)
        poller.take_bells()
        for fd in poller.fds:
            self.register(fd, READ, poller)

    def select(self, timeout=None):
        """Registered files that are ready; which sockets of the hosts are, say the pollers."""
        if not self.pollers:
            return super().select(timeout)
        while (stale := (<Sleeper> self._sleeper).stale()) is not None:
            self.renew(stale)
        return (<Sleeper> self._sleeper).sleep(timeout)


cdef class Sleeper:
    """The selector's sleep with hosts.

    Without sleeping the kernel is asked at most every 50 us: while the hosts give work, a system call in each turn would
    cost as much as a message. What the kernel has meanwhile waits so long.
    """

    cdef int epoll
    cdef dict keys               # the selector's: descriptor to SelectorKey
    cdef list pollers            # the selector's
    cdef int64_t seen_ns         # when the kernel was last asked

    def __init__(self, int epoll, dict keys, list pollers):
        self.epoll = epoll
        self.keys = keys
        self.pollers = pollers

    cdef Poller stale(self):
        """One whose host's links ring other descriptors by now, or None."""
        cdef Poller poller
        for poller in self.pollers:
            if poller.stale():
                return poller
        return None

    cdef list sleep(self, object timeout):
        cdef int64_t until = NEVER, now
        cdef double seconds
        cdef bint ready = False
        cdef Poller poller
        if timeout is not None:
            seconds = timeout
            until = 0 if seconds <= 0 else park_now_ns() + <int64_t> (min(seconds, LONGEST_S) * 1e9)
        if until == 0 or len(self.pollers) > 1:
            # Everybody's links before anybody sleeps or spins: what one host sent another may be all there is.
            for poller in self.pollers:
                ready |= poller.look()
        if until == 0 or ready:
            now = park_now_ns()
            if now - self.seen_ns < LOOK_NS:
                return []
            self.seen_ns = now
            return self.ask(0)
        return self.sleep_until(until)

    cdef list sleep_until(self, int64_t until):
        cdef int64_t now
        cdef int timeout_ms = -1
        cdef bint spin = len(self.pollers) == 1
        cdef Poller poller
        try:
            for poller in self.pollers:
                if not poller.fall_asleep(until, spin, &until):
                    until = 0
                    break
            now = park_now_ns()
            if until != NEVER:
                timeout_ms = 0 if until <= now else <int> ((until - now + MS_NS - 1) // MS_NS)
            if timeout_ms == 0 and now - self.seen_ns < LOOK_NS:
                return []
            self.seen_ns = now
            return self.ask(timeout_ms)
        finally:
            for poller in self.pollers:
                poller.wake()

    cdef list ask(self, int timeout_ms):
        """Ask the kernel, and let the pollers know which of their descriptors are ready."""
        cdef epoll_event[EVENTS] events
        cdef int i, n
        cdef list out = []
        with nogil:
            n = epoll_wait(self.epoll, events, EVENTS, timeout_ms)
        if n < 0:
            if errno != EINTR:
                raise OSError(errno, os.strerror(errno))
            PyErr_CheckSignals()
            return out
        for i in range(n):
            key = self.keys.get(events[i].data.fd)
            if key is None:
                continue
            data = key.data
            if type(data) is Poller:
                (<Poller> data).note(events[i].data.fd)
                continue
            mask = (READ if events[i].events & ~EPOLLOUT else 0) | (WRITE if events[i].events & ~EPOLLIN else 0)
            mask &= key.events
            if mask:
                out.append((key, mask))
        return out
