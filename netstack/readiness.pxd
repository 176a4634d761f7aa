"""A kernel descriptor that shows the state of a user-space socket to select, poll, epoll and foreign event loops.

It carries no data. Two kinds: an AF_UNIX stream pair can show readable, writable, end of file and hang-up each by
itself; an eventfd is cheaper and knows "writable" and "readable and writable", enough for listeners and datagrams.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    READY_NONE = 0
    READY_PAIR = 1
    READY_EVENT = 2


cdef struct ready_t:
    int fd                       # the program's end
    int stack_fd                 # our end of a pair, else -1
    uint8_t kind                 # READY_*
    uint8_t eof                  # a pair shows end of file: never taken back
    uint8_t dead                 # a pair shows hang-up: never taken back
    uint8_t readable             # shown now
    uint8_t writable


cdef int ready_open(ready_t *r, int kind) noexcept nogil             # 0 or -errno
cdef void ready_show(ready_t *r, uint32_t mask) noexcept nogil       # EVENT_*: what holds now; a system call per change
cdef int ready_give(ready_t *r) noexcept nogil                       # the program's end, from now on the caller's
cdef void ready_close(ready_t *r) noexcept nogil
