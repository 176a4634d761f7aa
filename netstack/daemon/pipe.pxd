"""A socket between its stack and the memory that its clients share: the daemon's half of the rings.

Nothing in shared memory is believed (security R4 to R9): own indices and sizes are private and only published, the
clients' words are read once each and checked, and what cannot be poisons the pipe. All calls under the driver's lock.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from netstack.daemon.shared cimport nsd_down_t, nsd_up_t
from netstack.driver cimport owner_t, poller_t

cdef enum:                       # what pipe_pump returns
    PIPE_IDLE = 0
    PIPE_MORE = 1                # its share is used up: pump it again soon
    PIPE_POISONED = 2
    PIPE_FINISHED = 3            # given up, and everything was handed to the stack


cdef struct pipe_t:
    owner_t *o
    nsd_down_t *down
    nsd_up_t *up
    uint8_t *down_bytes
    const uint8_t *up_bytes
    uint64_t capacity            # of each ring
    uint64_t tail                # ours: bytes for the client
    uint64_t head                # ours: bytes of the client's that were taken
    uint64_t seen_tail           # the clients', as last read and found good
    uint64_t seen_head
    uint32_t number
    uint32_t bell
    uint32_t events              # as told
    uint32_t errors              # how many were told
    uint32_t note                # the word: sequence << 2 | NSD_NOTE_*
    uint32_t kicked              # the clients' up.armed that was answered
    uint32_t drained             # the clients' up.filled that was answered
    int front_fd                 # the readiness pair: its clients' end
    int back_fd                  # and ours; -1: there is none
    uint8_t committed            # the rings have memory
    uint8_t streaming            # and carry the data
    uint8_t shut_wanted          # a FIN behind what is in the ring
    uint8_t shut                 # clients may send no more
    uint8_t broken               # what is sent is lost
    uint8_t over                 # nothing more comes from the stack
    uint8_t cut                  # and that is no end of the peer's
    uint8_t orphan               # no client has it any more
    uint8_t lingers              # somebody waits until all of it arrived
    uint8_t finished             # it did
    uint8_t poisoned
    uint8_t told                 # the server knows that it is over
    uint8_t hung                 # the pair shows hang-up
    uint8_t ended                # the pair shows end of file
    uint8_t queued               # it stands in the list of those to pump
    pipe_t *next


cdef int pipe_pump(pipe_t *p, poller_t *poller) noexcept nogil
cdef bint pipe_unread(pipe_t *p) noexcept nogil          # bytes that no client took
