"""Connections to published ports: taken from the kernel, and asked for at the stack whose port it is."""

from netstack.router.relay.state cimport flow_t, relay_t


# A listening socket of the kernel's may have connections; each becomes a flow that calls its stack.
cdef void published_accept(relay_t *r, flow_t *published) noexcept nogil
