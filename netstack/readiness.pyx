"""Readiness descriptors: see readiness.pxd. All calls under the lock of the socket's driver."""

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from posix.unistd cimport close

from netstack.sock cimport EVENT_ERR, EVENT_HUP, EVENT_IN, EVENT_OUT, EVENT_RDHUP

cdef extern from "<sys/socket.h>" nogil:
    int AF_UNIX, SOCK_STREAM, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, SO_SNDBUF, SHUT_WR, SHUT_RDWR
    int MSG_DONTWAIT, MSG_NOSIGNAL
    int socketpair(int domain, int type, int protocol, int *pair)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int n)
    int shutdown(int fd, int how)
    ssize_t send(int fd, const void *data, size_t n, int flags)
    ssize_t recv(int fd, void *data, size_t n, int flags)

cdef extern from "<fcntl.h>" nogil:
    int F_SETFL, O_APPEND, O_NONBLOCK
    int fcntl(int fd, int command, int flags)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    ctypedef uint64_t eventfd_t
    int eventfd(unsigned int initial, int flags)
    int eventfd_write(int fd, eventfd_t value)
    int eventfd_read(int fd, eventfd_t *value)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int poll(pollfd *fds, unsigned long n, int timeout_ms)

cdef char[2048] filler           # zeros: what makes a pair unwritable


cdef int ready_open(ready_t *r, int kind) noexcept nogil:
    """A fresh descriptor that shows: writable, not readable."""
    cdef int pair[2]
    cdef int smallest = 1        # the kernel rounds it up to a few KiB
    if kind == READY_EVENT:
        r.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if r.fd < 0:
            return -errno
        r.stack_fd = -1
    else:
        if socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0:
            return -errno
        r.fd = pair[0]
        r.stack_fd = pair[1]
        setsockopt(r.fd, SOL_SOCKET, SO_SNDBUF, &smallest, sizeof(smallest))
        # It means nothing to a socket, but sendfile(2) and splice(2) then refuse (EINVAL), as they do an eventfd: a
        # file laid into this descriptor would be lost, while after EINVAL every caller reads it and sends.
        fcntl(r.fd, F_SETFL, O_NONBLOCK | O_APPEND)
    r.kind = <uint8_t> kind
    r.eof = r.dead = r.readable = 0
    r.writable = 1
    return 0


cdef void show_event(ready_t *r, bint readable) noexcept nogil:
    cdef eventfd_t count
    cdef pollfd look
    if readable == r.readable:
        return
    r.readable = readable
    if readable:
        eventfd_write(r.fd, 1)
        return
    # It blocks if the program's socket does, and the program may have read it, by mistake.
    look.fd = r.fd
    look.events = <short> POLLIN
    if poll(&look, 1, 0) == 1:
        eventfd_read(r.fd, &count)


cdef void make_writable(ready_t *r, bint writable) noexcept nogil:
    cdef char[4096] trash
    if writable == r.writable:
        return
    r.writable = writable
    if writable:
        while recv(r.stack_fd, trash, sizeof(trash), MSG_DONTWAIT) > 0:
            pass
    else:
        while send(r.fd, filler, sizeof(filler), MSG_DONTWAIT | MSG_NOSIGNAL) > 0:
            pass


cdef void make_readable(ready_t *r, bint readable) noexcept nogil:
    cdef char byte = 0
    if readable == r.readable:
        return
    r.readable = readable
    if readable:
        send(r.stack_fd, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL)
    else:
        recv(r.fd, &byte, 1, MSG_DONTWAIT)


cdef void ready_show(ready_t *r, uint32_t mask) noexcept nogil:
    """Let the descriptor show ``mask``. Nothing happens when it shows that already."""
    if r.kind == READY_EVENT:
        show_event(r, (mask & (EVENT_IN | EVENT_ERR | EVENT_HUP)) != 0)
        return
    if r.kind != READY_PAIR or r.dead:
        return
    if mask & (EVENT_ERR | EVENT_HUP):
        make_writable(r, True)
        shutdown(r.stack_fd, SHUT_RDWR)
        r.dead = 1
        return
    make_writable(r, (mask & EVENT_OUT) != 0)
    if r.eof:
        return
    if mask & EVENT_RDHUP:
        # The bytes that wait are shown by one byte of ours in front of the end of file: both stay readable.
        shutdown(r.stack_fd, SHUT_WR)
        r.eof = 1
        return
    make_readable(r, (mask & EVENT_IN) != 0)


cdef int ready_give(ready_t *r) noexcept nogil:
    cdef int fd = r.fd
    if r.stack_fd >= 0:
        close(r.stack_fd)
    r.kind = READY_NONE
    r.fd = r.stack_fd = -1
    return fd


cdef void ready_close(ready_t *r) noexcept nogil:
    if r.kind != READY_NONE:
        close(r.fd)
        if r.stack_fd >= 0:
            close(r.stack_fd)
        r.kind = READY_NONE
        r.fd = r.stack_fd = -1
