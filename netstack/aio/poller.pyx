"""What an event loop holds of one host: it drives the host while it sleeps, and tells which sockets became ready."""

cimport cython
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport close

from netstack.driver cimport Driver, driver_forked, driver_t, driver_unlock, owner_t, park_lock, park_now_ns, poller_t
from netstack.handle cimport Handle
from netstack.link.link cimport NEVER
from netstack.pollers cimport (
    RANG_BELL,
    RANG_LEADER,
    RANG_LINK,
    poller_join,
    poller_look,
    poller_part,
    poller_rests,
    poller_sleeps,
    poller_take,
    poller_watch,
    poller_woke,
)

import os


@cython.no_gc_clear              # __dealloc__ needs the driver, also when a whole loop is garbage
cdef class Poller:
    """Many sockets of one host for one event loop, whose thread makes all calls.

    Parameters
    ----------
    driver : Driver
        The host's.

    Attributes
    ----------
    fds : list of int
        What the loop sleeps on, for reading.
    """

    cdef poller_t p
    cdef Driver driver
    cdef dict tags               # Handle: tag. Keeps alive what the list points to
    cdef readonly list fds
    cdef list duplicates         # those of `fds` that are ours to close
    cdef bint parted

    def __cinit__(self, Driver driver not None):
        cdef driver_t *d = &driver.d
        cdef uint32_t i
        memset(&self.p, 0, sizeof(self.p))
        self.parted = True
        self.driver = driver
        self.tags = {}
        self.p.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Duplicates: a closed host's numbers may be given to others while they still stand in the loop's selector.
        self.duplicates = [os.dup(d.leader_fd)]
        self.fds = []
        for i in range(d.link_count):
            if d.leader_fds[i] >= 0 and d.kernel_fd[i]:
                self.fds.append(d.leader_fds[i])       # a device: a duplicate would keep it busy
            elif d.leader_fds[i] >= 0:
                self.duplicates.append(os.dup(d.leader_fds[i]))
        self.fds = [self.p.bell, *self.duplicates, *self.fds]
        with nogil:
            park_lock(&d.lock)
            poller_join(d, &self.p)
            driver_unlock(d)
        self.parted = False

    def __dealloc__(self):
        self.part()

    def close(self):
        """The loop no longer looks after any socket."""
        self.part()
        self.tags.clear()

    cdef void part(self) noexcept:
        cdef driver_t *d
        if self.parted:
            return
        self.parted = True
        d = &self.driver.d
        if not driver_forked(d):
            with nogil:
                park_lock(&d.lock)
                poller_part(&self.p)
                driver_unlock(d)
        close(self.p.bell)
        for fd in self.duplicates:
            close(fd)

    @property
    def usable(self):
        """False once it is closed, or in a child of the process that made the host."""
        return not self.parted and not driver_forked(&self.driver.d)

    @property
    def host_closed(self):
        return bool(self.driver.d.dead)

    def watch(self, Handle handle not None, unsigned int events, object tag=None):
        """Tell of ``events`` (EVENT_IN, EVENT_OUT) of a socket, and of errors, by ``tag``; 0: no more.

        Raises
        ------
        RuntimeError
            Another event loop looks after it.
        """
        cdef driver_t *d = &self.driver.d
        cdef owner_t *o = &handle.o
        if not self.usable:
            return
        if o.poller != NULL and o.poller != &self.p:
            raise RuntimeError(f"{handle!r} is looked after by another event loop")
        if events:
            self.tags[handle] = tag
        with nogil:
            park_lock(&d.lock)
            o.tag = <void *> tag
            poller_watch(&self.p, o, events)
            driver_unlock(d)
        if not events:
            self.tags.pop(handle, None)

    def sleeps(self, object seconds):
        """Get ready for a sleep of ``seconds``, None without end; how long it may be, None without end. 0: not at all."""
        cdef driver_t *d = &self.driver.d
        cdef int64_t until = NEVER, wake_at = NEVER, now
        cdef bint sleep
        if not self.usable:
            return seconds
        if seconds is not None:
            if seconds <= 0:
                with nogil:
                    park_lock(&d.lock)
                    poller_look(&self.p)
                    driver_unlock(d)
                return 0
            until = park_now_ns() + <int64_t> (min(seconds, 9e8) * 1e9)
        with nogil:
            park_lock(&d.lock)
            sleep = poller_sleeps(&self.p, until, &wake_at)
            driver_unlock(d)
        if not sleep:
            return 0
        if wake_at == NEVER:
            return None
        now = park_now_ns()
        return max(wake_at - now, 0) / 1e9

    @property
    def bell(self):
        """The descriptor that rings while the loop rests."""
        return self.p.bell

    def rest(self):
        """Get ready for a sleep elsewhere, which the bell ends. False: a socket is ready, do not sleep."""
        cdef driver_t *d = &self.driver.d
        cdef bint rests
        if not self.usable:
            return True
        with nogil:
            park_lock(&d.lock)
            rests = poller_rests(&self.p)
            driver_unlock(d)
        return bool(rests)

    def woke(self, fds):
        """The sleep is over; ``fds`` are those of `fds` that woke it."""
        cdef driver_t *d = &self.driver.d
        cdef uint32_t rang = 0
        if not self.usable:
            return
        for fd in fds:
            rang |= RANG_BELL if fd == self.p.bell else RANG_LEADER if fd == self.duplicates[0] else RANG_LINK
        with nogil:
            park_lock(&d.lock)
            poller_woke(&self.p, rang)
            driver_unlock(d)

    def ready(self):
        """``[(tag, events)]`` of the sockets that are ready now."""
        cdef driver_t *d = &self.driver.d
        cdef owner_t *o
        cdef owner_t **found = NULL
        cdef uint32_t *states = NULL
        cdef uint32_t i, n = 0, count
        cdef list out = []
        if self.p.first == NULL or not self.usable:
            return out
        with nogil:
            park_lock(&d.lock)
            count = self.p.count
            found = <owner_t **> malloc(count * (sizeof(owner_t *) + sizeof(uint32_t)) + 1)
            if found != NULL:
                states = <uint32_t *> (found + count)
                for i in range(count):
                    o = poller_take(&self.p, &states[n])
                    if o == NULL:
                        break
                    if states[n]:
                        found[n] = o
                        n += 1
            driver_unlock(d)
        if found == NULL:
            raise MemoryError
        for i in range(n):       # they are all there: only this thread takes them from `tags`
            out.append((<object> found[i].tag, states[i]))
        free(found)
        return out

    def __len__(self):
        return len(self.tags)
