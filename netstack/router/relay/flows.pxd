"""The table of flows: found by name, bounded in number, ended in one way."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from netstack.address cimport address_t
from netstack.router.relay.state cimport flow_t, relay_t
from netstack.sock cimport sock_t

cdef enum:                       # protocols, as IP has them; echo is 1 or 58
    RELAY_TCP = 6
    RELAY_UDP = 17


# By the stack's end and the other; far NULL: a flow to whoever.
cdef flow_t *flow_find(relay_t *r, uint8_t protocol, const address_t *near, uint16_t near_port, const address_t *far,
                       uint16_t far_port) noexcept nogil
# A new one in the table, without descriptor; NULL: the limits or the memory do not allow it (counted). UDP and echo make room
# by ending the flow of that address, or of all, that was used least recently.
cdef flow_t *flow_new(relay_t *r, uint8_t protocol, const address_t *near, uint16_t near_port, const address_t *far,
                      uint16_t far_port) noexcept nogil
# A flow that belongs to nobody's limits: a published port of a stack. Of TCP (protocol 0) it listens.
cdef flow_t *flow_publish(relay_t *r, uint8_t protocol, const address_t *near, uint16_t near_port) noexcept nogil
# Give it a descriptor of the target's family, which the loop watches from now on. 0 or an errno number, after which it is
# over.
cdef int flow_open(relay_t *r, flow_t *f, int type, int protocol) noexcept nogil
cdef int flow_watch(relay_t *r, flow_t *f) noexcept nogil        # the descriptor it has; 0 or an errno number
# Over: both its sides are closed, by a reset where it is asked for. Freed by flow_bury, when nobody looks at it any more.
cdef void flow_end(relay_t *r, flow_t *f, bint reset) noexcept nogil
# Give up a socket of our stack, or a connection of the kernel's by a reset, that is no flow's.
cdef void flow_drop_sock(relay_t *r, sock_t *sock, bint reset) noexcept nogil
cdef void flow_hang_up(int fd) noexcept nogil
cdef void flow_bury(relay_t *r) noexcept nogil
cdef void flow_used(relay_t *r, flow_t *f) noexcept nogil        # of UDP and echo: not idle
cdef void flow_queue(relay_t *r, flow_t *f) noexcept nogil       # to be pumped again soon
cdef flow_t *flow_unqueue(relay_t *r) noexcept nogil
# All of a stack that is gone: of its address, or of those that begin with so many bits (of 16 bytes) of it.
cdef void flow_forget(relay_t *r, const address_t *near, uint32_t bits) noexcept nogil
