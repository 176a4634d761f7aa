"""The daemon's loop: see engine.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.daemon.pipe cimport pipe_t
from netstack.daemon.shared cimport nsd_down_t, nsd_up_t
from netstack.driver cimport Driver, poller_t
from netstack.handle cimport Handle

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        unsigned int events
        epoll_data_t data


cdef struct board_t:
    nsd_down_t *down
    nsd_up_t *up
    uint64_t head                # ours: notes that were read
    uint32_t note                # the word: sequence << 2 | 1 while the daemon sleeps
    uint32_t client              # its number
    int bell                     # eventfd, never read
    uint32_t storm               # rings in a row without a note
    int64_t muted_until_ns       # its bell is not listened to; 0: it is
    bint poisoned                # its notes cannot be: the server is told
    board_t *next


cdef class Pipe:
    cdef pipe_t p
    cdef readonly Handle handle
    cdef readonly object down    # the memory
    cdef readonly object up
    cdef readonly uint32_t number
    cdef readonly uint64_t capacity


cdef class Board:
    cdef board_t b
    cdef readonly object down
    cdef readonly object up


cdef class Engine:
    cdef poller_t poller
    cdef Driver driver
    cdef pipe_t **table          # by number
    cdef uint32_t size
    cdef board_t *boards
    cdef pipe_t *first           # those to pump
    cdef pipe_t *last
    cdef uint32_t lingering
    cdef uint32_t muted          # bells that are not listened to
    cdef int epoll
    cdef int64_t spin_ns
    cdef list duplicates
    cdef list watched            # descriptors of the stack, by their number in epoll
    cdef bint parted
    cdef uint32_t told[64]       # what the server is to see to: kind and number
    cdef uint32_t told_count
    cdef readonly uint64_t rounds
    cdef readonly uint64_t sleeps

    cdef take_bells(self)
    cdef void queue(self, pipe_t *p) noexcept nogil
    cdef bint tell(self, uint32_t kind, uint32_t number) noexcept nogil
    cdef void pump(self, pipe_t *p) noexcept nogil
    cdef void heard(self, uint32_t client) noexcept nogil
    cdef void listen_for(self, board_t *b, uint32_t events) noexcept nogil
    cdef int64_t unmute(self, int64_t until) noexcept nogil
    cdef bint read_notes(self, board_t *b) noexcept nogil
    cdef bint work(self) noexcept nogil
    cdef bint spin(self, int64_t until) noexcept nogil
    cdef bint look(self, int64_t end) noexcept nogil
    cdef bint arm(self) noexcept nogil
    cdef void disarm(self) noexcept nogil
    cdef int round(self, epoll_event *events, int64_t until) noexcept nogil
