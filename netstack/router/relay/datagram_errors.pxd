"""ICMP errors about datagrams of stacks, as the kernel tells them (IP_RECVERR), told to the stacks by ICMP again."""

from netstack.router.relay.state cimport flow_t, relay_t


cdef void datagram_errors(relay_t *r, flow_t *f) noexcept nogil      # a socket's queue of errors is not empty
