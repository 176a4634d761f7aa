"""What an event loop holds of one host: see poller.pyx."""

from libc.stdint cimport int64_t, uint32_t

from netstack.driver cimport Driver, poller_t
from netstack.handle cimport Handle


cdef class Poller:
    cdef poller_t p
    cdef Driver driver
    cdef dict tags               # Handle: tag. Keeps alive what the list points to
    cdef readonly list fds
    cdef list duplicates         # those of `fds` that are ours to close
    cdef int leader_fd           # the duplicate of the leader's
    cdef bint parted
    cdef uint32_t rang           # what woke the loop, RANG_*

    cdef bint alive(self) noexcept
    # The links ring others than `fds` by now: out of the selector with these, `take_bells`, and in again.
    cpdef bint stale(self) noexcept
    cdef void part(self) noexcept
    cdef void lock(self) noexcept
    # A look at the links that does not lead to a sleep. True: a socket is ready.
    cdef bint look(self) noexcept
    # Get ready for a sleep until a moment. False: do not sleep. wake_at: when the loop has to be back.
    cdef bint fall_asleep(self, int64_t until, bint spin, int64_t *wake_at) noexcept
    # One of `fds` is readable.
    cdef void note(self, int fd) noexcept
    # The sleep is over, or did not come about.
    cdef void wake(self) noexcept
    cdef int tell(self, Handle handle, uint32_t events, object tag) except -1


cdef class Watch:
    cdef object loop
    cdef Poller poller
    cdef Handle handle
    cdef public object reader    # asyncio.Handle or None
    cdef public object writer
    cdef public bint transport   # a transport's: the socket is not for loop.sock_recv and the like

    cdef object instead(self, object before, object callback, tuple args)
    cdef int tell(self, bint news) except -1
