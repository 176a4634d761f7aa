"""IPv6 packets on their way in (RFC 8200): who may have sent them, are they for us, what stands behind the header."""

from libc.stdint cimport uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.counters cimport DropReason
from netstack.ip.interface cimport interface_t, packet_in_t
from netstack.link.link cimport frame_t

cdef enum:
    MAX_EXTENSION_HEADERS = 8    # of one packet; the RFC sets no limit, senders use one or two


# A packet of which n bytes are in out.header; available: what the link delivered of it. Fills out: the transport's header
# follows the IPv6 header in out.header, whatever stood between them. A reason may come with out.problem set: the sender
# is to hear of it.
cdef DropReason ipv6_input(interface_t *ifc, const frame_t *frame, uint32_t n, uint32_t available,
                           packet_in_t *out) noexcept nogil
# The same for what was put together from pieces: its headers are walked once more. They hold no fragment header now.
cdef DropReason ipv6_again(packet_in_t *packet) noexcept nogil
# Where the transport's header begins in a private copy of a packet of length bytes, and of which protocol it is; False: not
# within it. Options are not looked at, a fragment that is not the first has none.
cdef bint ipv6_transport(const uint8_t *p, uint32_t length, uint8_t *protocol, uint32_t *at) noexcept nogil
# Does somebody here hear that group on this interface?
cdef bint ipv6_listens(const interface_t *ifc, const address_t *group) noexcept nogil
