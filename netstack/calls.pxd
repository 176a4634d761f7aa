"""Socket calls over the stack's non-blocking ones: one try under the lock, and whole calls that wait.

Counts, or negative errno numbers. The functions that wait take the lock themselves and are called without the
interpreter; the others are called with the lock held.
"""

from libc.errno cimport EAGAIN, EBADF, ECONNRESET, ENOTCONN, EPIPE
from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport endpoint_t
from netstack.driver cimport (
    driver_now,
    driver_pass,
    driver_settle,
    driver_show,
    driver_t,
    driver_unlock,
    owner_t,
)
from netstack.sock cimport SOCK_TCP
from netstack.stack.core cimport stack_set_now
from netstack.stack.sockets cimport sock_recv, sock_recvfrom, sock_send, sock_sendto
from netstack.tcp.tcb cimport tcb_t
from netstack.udp.endpoint cimport udp_endpoint_t

cdef enum:
    LOOKS = 64           # shares a call takes that must not wait


cdef ssize_t receive_waiting(owner_t *o, uint8_t *data, size_t n, int flags, endpoint_t *src, int64_t deadline,
                             int64_t slice) noexcept nogil
cdef ssize_t send_waiting(owner_t *o, const uint8_t *data, size_t n, int flags, const endpoint_t *to, bint everything,
                          int64_t deadline, int64_t slice, size_t *sent) noexcept nogil
cdef int wait_events(owner_t *o, uint32_t events, int64_t deadline, int64_t slice) noexcept nogil    # WAIT_*
cdef bint has_loan(const owner_t *o) noexcept nogil          # somebody's buffer is lent to the socket


cdef inline void look(driver_t *d) noexcept nogil:
    """Take a bounded share of what waits on the links, unless somebody leads: that is their business."""
    cdef uint32_t i
    cdef int64_t now = driver_now(d)
    stack_set_now(d.stack, now)
    if (d.leader != NULL and not d.loose) or d.dead:
        return
    if now < d.next_deadline:
        for i in range(d.link_count):
            if d.links[i].has_input(d.links[i]) and not d.links[i].dead:
                break
        else:
            return
    d.lead_count += 1
    driver_pass(d, now, d.short_budget, 0)


cdef inline bint look_again(driver_t *d, int *looks) noexcept nogil:
    """Before a call that must not wait says EAGAIN: one more share, if something still waits on the links.

    A share is counted in frames: what the call is about may stand behind a few small ones.
    """
    cdef uint32_t i
    if looks[0] == LOOKS or (d.leader != NULL and not d.loose) or d.dead:
        return False
    for i in range(d.link_count):
        if d.links[i].has_input(d.links[i]) and not d.links[i].dead:
            looks[0] += 1
            driver_pass(d, driver_now(d), d.short_budget, 0)
            return True
    return False


cdef inline void done(owner_t *o) noexcept nogil:
    """The end of a call under the lock: deliver what it caused and unlock."""
    driver_settle(o.driver)
    driver_show(o.driver, o)
    driver_unlock(o.driver)


cdef inline size_t readable(const owner_t *o) noexcept nogil:
    """How many bytes wait, as a hint for the size of a buffer: one call returns no more than this."""
    cdef const udp_endpoint_t *ep
    cdef const tcb_t *tcb
    if o.sock == NULL:
        return 0
    if o.sock.kind == SOCK_TCP:
        tcb = <const tcb_t *> o.sock
        return 0 if tcb.listener != NULL else tcb.rcv_nxt - tcb.rcv_read
    ep = <const udp_endpoint_t *> o.sock
    return ep.first.length if ep.first != NULL else 0


cdef inline ssize_t try_receive(owner_t *o, uint8_t *data, size_t n, int flags, endpoint_t *src) noexcept nogil:
    cdef ssize_t r
    if o.sock == NULL or o.driver.dead:
        return -EBADF
    if src != NULL:
        r = sock_recvfrom(o.driver.stack, o.sock, data, n, flags, src)
    else:
        r = sock_recv(o.driver.stack, o.sock, data, n, flags)
    return -ECONNRESET if r == -EAGAIN and o.cut_off else r


cdef inline ssize_t try_send(owner_t *o, const uint8_t *data, size_t n, int flags, const endpoint_t *to) noexcept nogil:
    if o.sock == NULL or o.driver.dead:
        return -EBADF
    if o.cut_off:
        return -ECONNRESET
    if to != NULL:
        return sock_sendto(o.driver.stack, o.sock, data, n, flags, to)
    cdef ssize_t r = sock_send(o.driver.stack, o.sock, data, n, flags)
    # Linux says EPIPE of a stream that never was connected.
    return -EPIPE if r == -ENOTCONN and o.sock.kind == SOCK_TCP else r
