"""UDP and echo through the relay.

A UDP port of a stack has one socket of the kernel, whoever it talks to: the port that others see stays the same, and anybody
may answer (endpoint-independent mapping and filtering, RFC 4787 sections 4.1 and 5), so that protocols which learn their own
name from a third party, or are answered from another address, work as without a relay. Destinations that are not what they
say (aliases, name servers) have a socket apart, whose answers are shown as from where the question went.
"""

from netstack.ip.interface cimport packet_in_t
from netstack.router.relay.state cimport flow_t, relay_t


# A packet of a stack: True when it was taken.
cdef bint datagram_arrives(relay_t *r, packet_in_t *packet) noexcept nogil
cdef bint echo_arrives(relay_t *r, packet_in_t *packet) noexcept nogil
# The kernel has answers or errors: EPOLL*.
cdef void datagram_ready(relay_t *r, flow_t *f, unsigned int events) noexcept nogil
cdef void datagrams_sweep(relay_t *r) noexcept nogil     # once a second: what was idle for too long ends
