"""Sockets of a stack as C calls: never block, return a count or 0, or a negative errno number.

The caller holds the stack's lock, calls ``stack_set_now`` first, and wakes whoever waits for the events that
``stack_next_event`` then reports. Calls that make TCP send something send it at once and flush the link.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t, endpoint_t
from netstack.sock cimport sock_t
from netstack.stack.core cimport stack_t
from netstack.stack.sending cimport send_how_t
from netstack.udp.endpoint cimport arrival_t

# type: SOCK_STREAM 1, SOCK_DGRAM 2 (protocol 0, 17, or 1 for a ping socket), SOCK_RAW 3 (any but 0); family AF_INET 2, AF_INET6 10
cdef int sock_open(stack_t *stack, int family, int type, int protocol, sock_t **out) noexcept nogil
cdef int sock_bind(stack_t *stack, sock_t *sock, const endpoint_t *local) noexcept nogil
cdef int sock_connect(stack_t *stack, sock_t *sock, const endpoint_t *remote) noexcept nogil     # TCP: -EINPROGRESS
cdef int sock_listen(stack_t *stack, sock_t *sock, int backlog) noexcept nogil
cdef void sock_defer(sock_t *sock, bint on) noexcept nogil               # of a listener: pass over SYNs
cdef int sock_accept(stack_t *stack, sock_t *sock, sock_t **out) noexcept nogil                  # -EAGAIN
# flags: MSG_PEEK 2, MSG_DONTWAIT (ignored here), MSG_MORE 0x8000, MSG_NOSIGNAL (ignored), MSG_TRUNC 0x20
cdef ssize_t sock_send(stack_t *stack, sock_t *sock, const uint8_t *data, size_t n, int flags) noexcept nogil
cdef ssize_t sock_recv(stack_t *stack, sock_t *sock, uint8_t *data, size_t n, int flags) noexcept nogil
cdef ssize_t sock_sendto(stack_t *stack, sock_t *sock, const uint8_t *data, size_t n, int flags,
                         const endpoint_t *to) noexcept nogil
# With what sendmsg and recvmsg say besides the bytes; *wants*: which of it the socket asked for (WANT_*). MSG_ERRQUEUE takes
# from the error queue.
cdef ssize_t sock_sendmsg(stack_t *stack, sock_t *sock, const uint8_t *data, size_t n, const endpoint_t *to,
                          const send_how_t *how) noexcept nogil
cdef ssize_t sock_recvmsg(stack_t *stack, sock_t *sock, uint8_t *data, size_t n, int flags, endpoint_t *src,
                          arrival_t *how, uint32_t *wants) noexcept nogil
cdef bint stack_is_group(const stack_t *stack, const address_t *a) noexcept nogil    # broadcast or multicast
cdef int sock_give_port(stack_t *stack, sock_t *sock) noexcept nogil                 # of a datagram socket: 0 or -errno
cdef ssize_t sock_recvfrom(stack_t *stack, sock_t *sock, uint8_t *data, size_t n, int flags,
                           endpoint_t *src) noexcept nogil
cdef int sock_shutdown(stack_t *stack, sock_t *sock, int how) noexcept nogil                     # SHUT_RD 0, WR 1, RDWR 2
cdef void sock_close(stack_t *stack, sock_t *sock) noexcept nogil     # the handle is gone; the protocol finishes alone
cdef uint32_t sock_poll(stack_t *stack, sock_t *sock) noexcept nogil  # EVENT_* that hold now
cdef bint sock_finished(const sock_t *sock) noexcept nogil            # no FIN of ours, and no data before it, is on its way
cdef int sock_take_error(sock_t *sock) noexcept nogil                 # SO_ERROR: read and cleared
cdef int sock_setsockopt(stack_t *stack, sock_t *sock, int level, int name, const uint8_t *value,
                         uint32_t n) noexcept nogil
cdef int sock_getsockopt(stack_t *stack, sock_t *sock, int level, int name, uint8_t *value, uint32_t *n) noexcept nogil
cdef int sock_local(stack_t *stack, sock_t *sock, endpoint_t *out) noexcept nogil
cdef int sock_remote(stack_t *stack, sock_t *sock, endpoint_t *out) noexcept nogil               # -ENOTCONN
# Data of closed sockets still on its way (bytes unacknowledged, FINs too): what an exiting process waits for.
cdef uint32_t stack_lingering(stack_t *stack) noexcept nogil
# A thread that waits in recv_into lends its buffer: in-order segments are summed and copied straight into it.
# sock_lend_taken ends the loan and returns how many bytes arrived. Pinned memory; the stack's lock is held in between uses.
cdef void sock_lend(stack_t *stack, sock_t *sock, uint8_t *data, size_t n) noexcept nogil
cdef size_t sock_lend_taken(stack_t *stack, sock_t *sock) noexcept nogil
cdef size_t sock_lend_filled(stack_t *stack, sock_t *sock) noexcept nogil    # so far, the loan goes on
# --- for stack/options and the snapshot
# Make an address of the caller's one of ours, as sock_connect and sock_sendto do: 0 or -errno.
cdef int sock_fit(const stack_t *stack, const sock_t *sock, endpoint_t *e) noexcept nogil
