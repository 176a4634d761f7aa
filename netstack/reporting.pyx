"""Answers to ``netstack ss`` and ``netstack neigh``; see reporting.pxd."""

from libc.errno cimport EAGAIN, errno
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport close, geteuid

from netstack.demux cimport as_request, as_tw, is_request, is_tw
from netstack.driver cimport driver_unlock, park_lock, park_now_ns, report_cursor_t
from netstack.ip.interface cimport interface_t
from netstack.ip.neighbor cimport NEIGHBOR_FREE
from netstack.stack.core cimport stack_set_now
from netstack.stack.report cimport (
    neighbor_report_t, report_neighbor, report_request, report_socket, report_t, report_time_wait,
)

cdef extern from "<sys/socket.h>" nogil:
    int SOL_SOCKET, SO_PEERCRED, SOCK_CLOEXEC, SOCK_NONBLOCK, MSG_NOSIGNAL, MSG_DONTWAIT
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        pass
    int accept4(int fd, sockaddr *address, socklen_t *length, int flags)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
    ssize_t send(int fd, const void *data, size_t n, int flags)

cdef extern from * nogil:
    """
    #include <stdint.h>
    struct netstack_ucred { int32_t pid; uint32_t uid; uint32_t gid; };   /* struct ucred, which needs _GNU_SOURCE */
    """
    cdef struct netstack_ucred:
        int pid
        unsigned int uid
        unsigned int gid

cdef enum:
    PATIENCE_NS = 1_000_000_000  # for a client that does not read


cdef void reporting_init(reporting_t *r, int listening) noexcept nogil:
    r.listening = listening
    r.client = -1


cdef void hang_up(reporting_t *r) noexcept nogil:
    close(r.client)
    r.client = -1


cdef void reporting_close(reporting_t *r) noexcept nogil:
    if r.client >= 0:
        hang_up(r)
    if r.listening >= 0:
        close(r.listening)
        r.listening = -1


cdef bint same_user(int fd) noexcept nogil:
    cdef netstack_ucred peer
    cdef socklen_t n = sizeof(peer)
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 and peer.uid == geteuid()


cdef bint begin(driver_t *d) noexcept nogil:
    """Take the next client and send the head. False: there is none to go on with."""
    cdef reporting_t *r = &d.reporting
    cdef report_head_t head
    r.client = accept4(r.listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
    if r.client < 0:
        return False
    head.magic = REPORT_MAGIC
    head.record_bytes = sizeof(report_t)
    head.sockets = d.stack.sock_count
    head.time_wait = d.stack.demux.tw_count
    head.segments_in = d.stack.tcp.counters.tcp_segments_in
    head.segments_out = d.stack.tcp.counters.tcp_segments_out
    if not same_user(r.client) or send(r.client, &head, sizeof(head), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(head):
        r.refused += 1
        hang_up(r)
        return False
    memset(&r.at, 0, sizeof(r.at))
    r.until = park_now_ns() + PATIENCE_NS
    return True


cdef uint32_t take_sockets(driver_t *d, report_t *out, report_cursor_t *at) noexcept nogil:
    """The next records. A socket that moves in the table meanwhile may be missed, or told twice."""
    cdef uint32_t n = 0, slots = d.stack.demux.mask + 1 if d.stack.demux.slots != NULL else 0
    while n < REPORT_BATCH and at.socket_at < d.stack.sock_count:
        report_socket(d.stack, d.stack.socks[at.socket_at], &out[n])
        at.socket_at += 1
        n += 1
    if not d.stack.demux.tw_count and not d.stack.tcp.request_count:
        at.slot_at = slots
    while n < REPORT_BATCH and at.slot_at < slots:
        if is_tw(d.stack.demux.slots[at.slot_at].p):
            report_time_wait(d.stack, as_tw(d.stack.demux.slots[at.slot_at].p), &out[n])
            n += 1
        elif is_request(d.stack.demux.slots[at.slot_at].p):
            report_request(d.stack, as_request(d.stack.demux.slots[at.slot_at].p), &out[n])
            n += 1
        at.slot_at += 1
    return n


cdef uint32_t take_neighbors(driver_t *d, neighbor_report_t *out, report_cursor_t *at) noexcept nogil:
    cdef uint32_t n = 0
    cdef interface_t *ifc
    while n < NEIGHBOR_BATCH and at.interface_at < d.stack.interface_count:
        ifc = d.stack.interfaces[at.interface_at]
        if at.entry_at >= ifc.neighbors.count:
            at.interface_at += 1
            at.entry_at = 0
            continue
        if ifc.neighbors.entries[at.entry_at].state != NEIGHBOR_FREE:
            report_neighbor(ifc, &ifc.neighbors.entries[at.entry_at], d.stack.tcp.now_ns, &out[n])
            n += 1
        at.entry_at += 1
    return n


cdef size_t take_batch(driver_t *d, void *out, report_cursor_t *at) noexcept nogil:
    """The next packet of the answer, and its length; 0: there is no more."""
    cdef report_mark_t *mark = <report_mark_t *> out
    cdef uint32_t n
    if at.section == REPORT_SOCKETS:
        n = take_sockets(d, <report_t *> out, at)
        if n:
            return n * sizeof(report_t)
        at.section = REPORT_MARK
    if at.section == REPORT_MARK:
        mark.magic = NEIGHBOR_MAGIC
        mark.record_bytes = sizeof(neighbor_report_t)
        at.section = REPORT_NEIGHBORS
        return sizeof(report_mark_t)
    return take_neighbors(d, <neighbor_report_t *> out, at) * sizeof(neighbor_report_t)


cdef void reporting_step(driver_t *d) noexcept nogil:
    cdef reporting_t *r = &d.reporting
    cdef report_cursor_t at
    cdef void *out
    cdef size_t n
    cdef ssize_t sent
    cdef bint full
    if r.client < 0 and not begin(d):
        return
    out = malloc(REPORT_BATCH * sizeof(report_t))      # neighbours need less
    while out != NULL:
        at = r.at
        stack_set_now(d.stack, park_now_ns())
        n = take_batch(d, out, &at)
        if n == 0:
            r.answered += 1
            break
        driver_unlock(d)
        sent = send(r.client, out, n, MSG_NOSIGNAL | MSG_DONTWAIT)
        full = sent < 0 and errno == EAGAIN
        park_lock(&d.lock)
        if full and park_now_ns() < r.until:
            free(out)
            return                                     # the service thread sleeps on the client too
        if sent < 0 or d.stop:
            r.refused += 1
            break
        r.at = at
        r.until = park_now_ns() + PATIENCE_NS
    free(out)
    hang_up(r)
