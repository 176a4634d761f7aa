"""Connections to published ports: see published.pxd."""

from libc.errno cimport EAGAIN, EINPROGRESS, errno
from libc.stdint cimport uint16_t
from libc.string cimport memset

from netstack.address cimport address_is_v4, address_t, endpoint_t
from netstack.driver cimport driver_adopt
from netstack.pollers cimport poller_watch
from netstack.router.relay.flows cimport (
    RELAY_TCP, flow_drop_sock, flow_end, flow_hang_up, flow_new, flow_queue, flow_watch,
)
from netstack.router.relay.kernel cimport (
    IPPROTO_TCP, SO_OOBINLINE, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, TCP_NODELAY, accept4, kernel_name_t, name_read,
    setsockopt,
)
from netstack.router.relay.policy cimport policy_foreign, policy_loopback
from netstack.router.relay.state cimport FLOW_CALLING, STREAMS_PUBLISHED_REFUSED
from netstack.sock cimport EVENT_OUT, sock_t
from netstack.stack.sockets cimport sock_connect, sock_local, sock_open
from netstack.tcp.tcb cimport tcb_t

cdef enum:
    ACCEPTS = 64                 # connections taken in one turn


cdef void call_stack(relay_t *r, const flow_t *published, int fd, const kernel_name_t *name) noexcept nogil:
    """A connection to a published port: the stack's server sees who called, or us where that is the machine itself."""
    cdef sock_t *sock = NULL
    cdef bint v4 = address_is_v4(&published.near)
    cdef address_t caller
    cdef uint16_t port = 0
    cdef endpoint_t to, local
    cdef tcb_t *tcb
    cdef flow_t *f
    cdef int one = 1
    cdef bint shown = name_read(name, &caller, &port) and policy_foreign(r, &caller) and not policy_loopback(&caller) and \
        address_is_v4(&caller) == v4
    memset(&to, 0, sizeof(to))
    to.address = published.near
    to.port = published.near_port
    if sock_open(r.stack, 2 if v4 else 10, 1, 0, &sock) < 0:
        flow_hang_up(fd)
        return
    if shown:
        tcb = <tcb_t *> sock
        tcb.local = caller
        tcb.lport = port
    if sock_connect(r.stack, sock, &to) != -EINPROGRESS or sock_local(r.stack, sock, &local) < 0:
        flow_drop_sock(r, sock, True)
        flow_hang_up(fd)
        r.counts[<int> STREAMS_PUBLISHED_REFUSED] += 1
        return
    f = flow_new(r, RELAY_TCP, &published.near, published.near_port, &local.address, local.port)
    if f == NULL:
        flow_drop_sock(r, sock, True)
        flow_hang_up(fd)
        return
    f.fd = fd
    f.state = FLOW_CALLING
    driver_adopt(r.driver, &f.o, sock)
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one))
    if flow_watch(r, f) != 0:
        flow_end(r, f, True)
        return
    poller_watch(&r.poller, &f.o, EVENT_OUT)


cdef void published_accept(relay_t *r, flow_t *published) noexcept nogil:
    cdef kernel_name_t name
    cdef unsigned int length
    cdef int i, fd
    for i in range(ACCEPTS):
        length = sizeof(name)
        fd = accept4(published.fd, &name.any, &length, SOCK_CLOEXEC | SOCK_NONBLOCK)
        if fd < 0 and errno == EAGAIN:
            published.readable = 0
        if fd < 0:
            return                                     # without descriptors they wait, until the next sweep
        call_stack(r, published, fd, &name)
    flow_queue(r, published)
