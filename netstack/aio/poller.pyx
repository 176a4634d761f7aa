"""What an event loop holds of one host: it drives the host while it sleeps, and tells which sockets became ready."""

cimport cython
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport close

from netstack.driver cimport Driver, driver_forked, driver_t, driver_unlock, owner_t, park_lock, park_now_ns, park_try_hard
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
from netstack.sock cimport EVENT_ERR, EVENT_HUP, EVENT_IN, EVENT_OUT

import asyncio
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

    def __cinit__(self, Driver driver not None):
        cdef driver_t *d = &driver.d
        memset(&self.p, 0, sizeof(self.p))
        self.parted = True
        self.driver = driver
        self.tags = {}
        self.p.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.duplicates = []
        self.take_bells()
        with nogil:
            park_lock(&d.lock)
            poller_join(d, &self.p)
            driver_unlock(d)
        self.parted = False

    def __dealloc__(self):
        self.part()

    def take_bells(self):
        """Make `fds` those that the links ring now. Those that were there are closed: no selector may have them."""
        cdef driver_t *d = &self.driver.d
        cdef uint32_t i
        cdef list devices = []
        for fd in self.duplicates:
            close(fd)
        self.p.bells = d.bells
        # Duplicates: a closed host's numbers may be given to others while they still stand in the loop's selector.
        self.leader_fd = os.dup(d.leader_fd)
        self.duplicates = [self.leader_fd]
        for i in range(d.link_count):
            if d.leader_fds[i] >= 0 and d.kernel_fd[i]:
                devices.append(d.leader_fds[i])        # a device: a duplicate would keep it busy
            elif d.leader_fds[i] >= 0:
                self.duplicates.append(os.dup(d.leader_fds[i]))
        self.fds = [self.p.bell, *self.duplicates, *devices]

    cpdef bint stale(self) noexcept:
        """The links ring others than `fds` by now."""
        return not self.parted and self.p.bells != self.driver.d.bells and not self.driver.d.dead

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

    cdef bint alive(self) noexcept:
        return not self.parted and not driver_forked(&self.driver.d)

    @property
    def usable(self):
        """False once it is closed, or in a child of the process that made the host."""
        return self.alive()

    @property
    def host_closed(self):
        return bool(self.driver.d.dead)

    @property
    def done(self):
        """The host is closed, and nothing of it is watched any more."""
        return bool(self.driver.d.dead) and not self.tags

    def watch(self, Handle handle not None, unsigned int events, object tag=None):
        """Tell of ``events`` (EVENT_IN, EVENT_OUT) of a socket, and of errors, by ``tag``; 0: no more.

        Raises
        ------
        RuntimeError
            Another event loop looks after it.
        """
        self.tell(handle, events, tag)

    cdef int tell(self, Handle handle, uint32_t events, object tag) except -1:
        cdef driver_t *d = &self.driver.d
        cdef owner_t *o = &handle.o
        if not self.alive():
            return 0
        if o.poller != NULL and o.poller != &self.p:
            raise RuntimeError(f"{handle!r} is looked after by another event loop")
        if events:
            self.tags[handle] = tag
        self.lock()
        o.tag = <void *> tag
        poller_watch(&self.p, o, events)
        driver_unlock(d)
        if not events:
            self.tags.pop(handle, None)
        return 0

    cdef void lock(self) noexcept:
        cdef driver_t *d = &self.driver.d
        if not park_try_hard(&d.lock):
            with nogil:
                park_lock(&d.lock)

    # --- sleeping

    cdef bint look(self) noexcept:
        cdef driver_t *d = &self.driver.d
        cdef bint ready
        if not self.alive():
            return False
        with nogil:
            park_lock(&d.lock)
            ready = poller_look(&self.p)
            driver_unlock(d)
        return ready

    cdef bint fall_asleep(self, int64_t until, bint spin, int64_t *wake_at) noexcept:
        cdef driver_t *d = &self.driver.d
        cdef bint sleeps
        self.rang = 0
        if not self.alive():
            wake_at[0] = until
            return True
        with nogil:
            park_lock(&d.lock)
            sleeps = poller_sleeps(&self.p, until, spin, wake_at)
            driver_unlock(d)
        return sleeps

    cdef void note(self, int fd) noexcept:
        self.rang |= RANG_BELL if fd == self.p.bell else RANG_LEADER if fd == self.leader_fd else RANG_LINK

    cdef void wake(self) noexcept:
        cdef driver_t *d = &self.driver.d
        if not self.p.asleep or not self.alive():
            return
        with nogil:
            park_lock(&d.lock)
            poller_woke(&self.p, self.rang)
            driver_unlock(d)
        self.rang = 0

    def rest(self):
        """Get ready for a sleep in a loop that goes on without us: on `fds`, and for the seconds that this returns.

        None: without end. 0: a socket is ready, do not sleep. The lead is loose meanwhile: who needs it takes it.
        """
        cdef int64_t wake_at = NEVER
        if not self.alive():
            return None
        self.p.loose = 1
        if not self.fall_asleep(NEVER, False, &wake_at):
            return 0.0
        return None if wake_at == NEVER else max(wake_at - park_now_ns(), 1) / 1e9

    @property
    def resting(self):
        return bool(self.p.asleep)

    def woke(self, int fd):
        """That sleep is over, by one of `fds`; -1: by the time."""
        if fd >= 0:
            self.note(fd)
        self.wake()

    # --- what is ready

    def schedule(self, add):
        """Give the handles of the watches whose sockets are ready to ``add``, in turn."""
        cdef Watch watch
        cdef uint32_t events
        for tag, state in self.ready():
            watch = tag
            events = state
            if events & (EVENT_IN | EVENT_ERR | EVENT_HUP) and watch.reader is not None:
                add(watch.reader)
            if events & (EVENT_OUT | EVENT_ERR | EVENT_HUP) and watch.writer is not None:
                add(watch.writer)

    def ready(self):
        """``[(tag, events)]`` of the sockets that are ready now."""
        cdef driver_t *d = &self.driver.d
        cdef owner_t *o
        cdef owner_t **found = NULL
        cdef uint32_t *states = NULL
        cdef uint32_t i, n = 0, count
        cdef list out = []
        if self.p.first == NULL or not self.alive():
            return out
        self.lock()
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


cdef class Watch:
    """The two callbacks of a socket, as ``add_reader`` and ``add_writer`` keep them for a descriptor.

    Attributes
    ----------
    reader, writer : asyncio.Handle or None
        What the loop calls.
    transport : bool
        It is a transport's: the socket is not for ``loop.sock_recv`` and the like.
    """

    def __init__(self, loop, Poller poller not None, Handle handle not None):
        self.loop = loop
        self.poller = poller
        self.handle = handle

    cdef object instead(self, object before, object callback, tuple args):
        if before is not None:
            before.cancel()
        return None if callback is None else asyncio.Handle(callback, args, self.loop)

    cdef int tell(self, bint news) except -1:
        if not news:
            return 0
        return self.poller.tell(self.handle, (EVENT_IN if self.reader is not None else 0)
                                | (EVENT_OUT if self.writer is not None else 0), self)

    def on_readable(self, callback, *args):
        """Call ``callback(*args)`` in each turn in which it is readable; None: no more."""
        cdef object before = self.reader
        self.reader = self.instead(before, callback, args)
        self.tell((before is None) != (callback is None))

    def on_writable(self, callback, *args):
        """As `on_readable`."""
        cdef object before = self.writer
        self.writer = self.instead(before, callback, args)
        self.tell((before is None) != (callback is None))

    @property
    def idle(self):
        return self.reader is None and self.writer is None

    def close(self):
        """Neither any more."""
        self.on_readable(None)
        self.on_writable(None)
        self.loop._forget(self.handle)
