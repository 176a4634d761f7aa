"""Whose is a packet of an address that stacks share: judged by ports, not by the address alone."""

from netstack.address cimport address_t
from netstack.router.port cimport packet_t, port_t
from netstack.router.state cimport forwarder_t

cdef enum:                       # verdicts of steer_in
    STEER_OWNER = 0              # to an attachment
    STEER_ECHO = 1               # an echo request: the router answers
    STEER_NOBODY = 2             # nobody has the port: the router refuses
    STEER_PROTOCOL = 3           # nobody claimed the protocol
    STEER_PIECE = 4              # a later piece whose first one was not seen
    STEER_MALFORMED = 5
    STEER_HELD = 6               # the port waits for its stack to come back


# Which attachment a packet to a shared address is for.
cdef int steer_in(forwarder_t *f, const packet_t *p, port_t **to) noexcept nogil
# May the attachment send this packet from a shared address? FORWARDED (-1) or a Drop.
cdef int steer_out(forwarder_t *f, port_t *src, const packet_t *p) noexcept nogil
