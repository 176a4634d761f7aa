"""Socket calls that wait: see calls.pxd."""

from libc.errno cimport EAGAIN, EBADF, EINPROGRESS, EINTR
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from netstack.address cimport endpoint_t
from netstack.driver cimport (
    WAIT_DEAD,
    WAIT_INTERRUPTED,
    WAIT_READY,
    WAIT_TIMEOUT,
    driver_settle,
    driver_t,
    driver_wait,
    owner_t,
    park_lock,
    park_now_ns,
    waiter_t,
)
from netstack.sock cimport EVENT_IN, EVENT_OUT, SOCK_TCP
from netstack.stack.core cimport stack_set_now
from netstack.stack.sockets cimport sock_lend, sock_lend_taken
from netstack.tcp.tcb cimport tcb_t


cdef ssize_t why_not(int waited) noexcept nogil:
    """What a call returns when its wait ended without what it waited for."""
    if waited == WAIT_TIMEOUT:
        return -EAGAIN
    if waited == WAIT_INTERRUPTED:
        return -EINTR
    return -EBADF


cdef bint has_loan(const owner_t *o) noexcept nogil:
    return o.sock != NULL and o.sock.kind == SOCK_TCP and (<const tcb_t *> o.sock).lent != NULL


cdef ssize_t receive_waiting(owner_t *o, uint8_t *data, size_t n, int flags, endpoint_t *src, int64_t deadline,
                             int64_t slice) noexcept nogil:
    """Bytes; -EAGAIN: not until the deadline; -EINTR: let the interpreter look; another negative errno.

    While it waits, the buffer is lent to the connection: segments in order are summed and copied straight into it.
    Data that arrived is returned before timeout and signals are looked at.
    """
    cdef driver_t *d = o.driver
    cdef waiter_t w
    cdef ssize_t r
    cdef int waited, looks = 0
    park_lock(&d.lock)
    look(d)
    r = try_receive(o, data, n, flags, src)
    while r == -EAGAIN and not deadline and look_again(d, &looks):
        r = try_receive(o, data, n, flags, src)
    while r == -EAGAIN and deadline:
        memset(&w, 0, sizeof(w))
        w.owner = o
        w.events = EVENT_IN
        w.lent = n and flags == 0 and src == NULL and o.sock.kind == SOCK_TCP and not has_loan(o)
        if w.lent:
            sock_lend(d.stack, o.sock, data, n)
        waited = driver_wait(d, &w, deadline, slice)
        if w.lent and o.sock != NULL:
            r = <ssize_t> sock_lend_taken(d.stack, o.sock)
            if r > 0:
                break
        stack_set_now(d.stack, park_now_ns())
        r = try_receive(o, data, n, flags, src)
        if r == -EAGAIN and waited != WAIT_READY:
            r = why_not(waited)
            break
    done(o)
    return r


cdef ssize_t send_waiting(owner_t *o, const uint8_t *data, size_t n, int flags, const endpoint_t *to, bint everything,
                          int64_t deadline, int64_t slice, size_t *sent) noexcept nogil:
    """Send on from ``sent[0]``: until something went, or everything. 0 or a negative errno as above."""
    cdef driver_t *d = o.driver
    cdef waiter_t w
    cdef ssize_t r
    cdef int waited = WAIT_READY, looks = 0
    park_lock(&d.lock)
    look(d)
    while True:
        r = try_send(o, data + sent[0], n - sent[0], flags, to)
        while r == -EAGAIN and not deadline and look_again(d, &looks):
            r = try_send(o, data + sent[0], n - sent[0], flags, to)
        if r >= 0:
            sent[0] += r
            r = 0
            if sent[0] >= n or not everything:
                break
            driver_settle(d)
            continue
        if r == -EINPROGRESS and deadline:
            r = -EAGAIN                                # a connect() that waited for this write: its SYN is out now
        if r != -EAGAIN or not deadline:
            break
        if waited != WAIT_READY:
            r = why_not(waited)
            break
        memset(&w, 0, sizeof(w))
        w.owner = o
        w.events = EVENT_OUT
        waited = driver_wait(d, &w, deadline, slice)
        stack_set_now(d.stack, park_now_ns())
    done(o)
    return r


cdef int wait_events(owner_t *o, uint32_t events, int64_t deadline, int64_t slice) noexcept nogil:
    cdef driver_t *d = o.driver
    cdef waiter_t w
    cdef int waited
    memset(&w, 0, sizeof(w))
    w.owner = o
    w.events = events
    park_lock(&d.lock)
    waited = WAIT_DEAD if o.sock == NULL else driver_wait(d, &w, deadline, slice)
    done(o)
    return waited
