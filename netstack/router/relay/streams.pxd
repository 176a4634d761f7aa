"""TCP through the relay: a connection of a stack and one of the kernel, joined end to end.

The kernel connects first. Only when the other end took the connection is the stack's SYN answered: a refusal is a RST, an
error the kernel names is ICMP, silence stays silence. So `connect` on the stack says what it would say on the machine itself.
"""

from libc.stdint cimport uint32_t

from netstack.ip.interface cimport packet_in_t
from netstack.router.relay.state cimport flow_t, relay_t


# A segment of a stack: True when it was taken.
cdef bint stream_arrives(relay_t *r, packet_in_t *packet) noexcept nogil
# Our listening socket has connections.
cdef void streams_accept(relay_t *r) noexcept nogil
# The stack's side changed.
cdef void stream_pump(relay_t *r, flow_t *f) noexcept nogil
# The kernel's side changed: EPOLL*.
cdef void stream_ready(relay_t *r, flow_t *f, uint32_t events) noexcept nogil
# Once a second: give up handshakes that nobody ends, take what a published port could not take before.
cdef void streams_sweep(relay_t *r) noexcept nogil
