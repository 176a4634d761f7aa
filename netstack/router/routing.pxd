"""One packet: where it goes, what it is answered, or why it is dropped; and the visits of ports that take packets from them."""

from netstack.router.port cimport port_t
from netstack.router.state cimport forwarder_t

cdef enum:
    BATCH = 64                   # records of one visit
    BATCH_BYTES = 512 * 1024     # and bytes
    HEADER_COPY = 128            # bytes of a record that are copied before they are looked at


# At most one batch of one port; returns how many packets it had. Under the lock.
cdef int visit(forwarder_t *f, port_t *port) noexcept nogil
