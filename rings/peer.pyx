# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Watching the process at the other end of a ring, by pidfd."""

from libc.errno cimport ESRCH, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport strtoull
from libc.string cimport strrchr
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open
from posix.unistd cimport close, getpid, read

from rings.doorbell cimport DOORBELL_OTHER, doorbell_poll
from rings.spsc_ring cimport ring_owner, ring_region_t

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
    int dup3(int old, int new, int flags)

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_pidfd_open

cdef enum:
    START_TIME = 20              # field of /proc/PID/stat, counted behind the name (proc(5): field 22)


cdef uint64_t start_time(uint32_t pid) noexcept nogil:
    """When a process started, clock ticks since boot; 0 if there is no such process."""
    cdef char text[1024]
    cdef char *at
    cdef int fd, field
    cdef ssize_t n
    snprintf(text, sizeof(text), b"/proc/%u/stat", pid)
    fd = open(text, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return 0
    n = read(fd, text, sizeof(text) - 1)
    close(fd)
    if n <= 0:
        return 0
    text[n] = 0
    at = strrchr(text, c")")     # the name may hold spaces and parentheses
    for field in range(START_TIME):
        while at != NULL and at[0] != 0 and at[0] != c" ":
            at += 1
        if at == NULL or at[0] == 0:
            return 0
        at += 1
    return strtoull(at, NULL, 10)


def process_start_time(uint32_t pid):
    """When a process started, clock ticks since boot; 0 if there is no such process."""
    return start_time(pid)


cdef void peer_init(peer_t *p, const ring_region_t *region, uint64_t own_namespace) noexcept nogil:
    p.region = region
    p.own_namespace = own_namespace
    p.pid = 0
    p.start = 0
    p.fd = -1
    p.gone = False


cdef void watch(peer_t *p) noexcept nogil:
    """Open the pidfd. Under the number of the one before, on which somebody may sleep."""
    cdef int fd = <int> syscall(SYS_pidfd_open, p.pid, 0)
    if fd < 0:
        p.gone = errno == ESRCH
        return
    if start_time(p.pid) != p.start:
        p.gone = True            # a later process with the same id
        close(fd)
    elif p.fd < 0:
        p.fd = fd
    else:
        dup3(fd, p.fd, O_CLOEXEC)
        close(fd)


cdef void peer_look(peer_t *p) noexcept nogil:
    cdef uint64_t start, namespace
    cdef uint32_t pid = ring_owner(p.region, &start, &namespace)
    if pid == p.pid and start == p.start:
        return
    p.pid = pid
    p.start = start
    p.gone = False
    if pid == 0 or start == 0 or pid == <uint32_t> getpid() or namespace != p.own_namespace:
        peer_forget(p)
    else:
        watch(p)
        if p.gone:
            peer_forget(p)


cdef bint peer_died(peer_t *p) noexcept nogil:
    cdef uint64_t start, namespace
    if p.fd < 0 or doorbell_poll(-1, p.fd, 0) != DOORBELL_OTHER:
        return p.gone
    p.gone = ring_owner(p.region, &start, &namespace) == p.pid and start == p.start
    peer_forget(p)
    return p.gone


cdef void peer_forget(peer_t *p) noexcept nogil:
    if p.fd >= 0:
        close(p.fd)
        p.fd = -1
