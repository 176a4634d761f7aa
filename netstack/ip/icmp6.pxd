"""ICMPv6 (RFC 4443): echo answered, errors made under a rate limit, errors read."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from netstack.address cimport address_t
from netstack.counters cimport DropReason
from netstack.ip.icmp cimport icmp_message_t
from netstack.ip.interface cimport interface_t, packet_in_t

# As icmp_input, with ICMP's numbers: type 0 for an echo reply, 3 (code 4: packet too big), 11 and 12 for errors, whose
# errno number is out.error. Neighbour and listener discovery end here; their type is ICMP_CONSUMED then.
cdef DropReason icmp6_input(packet_in_t *packet, int64_t now_ns, icmp_message_t *out) noexcept nogil
# An error about a received packet; keeps silent where RFC 4443 section 2.4 (e) says so; rate limited. word: pointer or MTU.
cdef void icmp6_send_error(packet_in_t *about, uint8_t type, uint8_t code, uint32_t word, int64_t now_ns) noexcept nogil
# The Parameter Problem that ipv6_input noted.
cdef void icmp6_send_problem(packet_in_t *about, int64_t now_ns) noexcept nogil
# Echo request from a ping socket; 0 or a CLAIM_* number.
cdef int icmp6_send_echo(interface_t *ifc, const address_t *src, const address_t *dst, const address_t *next_hop,
                         uint16_t identifier, uint16_t sequence, const uint8_t *payload, uint32_t length,
                         uint8_t hop_limit, uint8_t traffic_class, int64_t now_ns) noexcept nogil
