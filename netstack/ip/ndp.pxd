"""Neighbour discovery (RFC 4861 sections 7.1, 7.2): solicitations and advertisements of neighbours, heard and sent.

As with ARP, nothing said unasked makes or changes a neighbour: an advertisement counts when we asked, and one that overrides
what we know makes us ask the station we know first (security row H3).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.counters cimport DropReason
from netstack.ip.interface cimport interface_t, packet_in_t
from netstack.ip.ip6 cimport held_t
from netstack.ip.neighbor cimport neighbor_t

cdef enum:
    ND_HOP_LIMIT = 255           # what no router has passed on (RFC 4861 section 3.1)


cdef struct nd_options_t:
    # Where the options of a message stand that carry one thing each; NULL: there is none.
    const uint8_t *source_mac
    const uint8_t *target_mac
    const uint8_t *nonce         # its bytes; nonce_length of them
    uint32_t nonce_length
    uint32_t mtu                 # 0: none


# Read the options behind the fixed part. False: one has length 0, or they do not end with the message.
cdef bint nd_options(const uint8_t *p, uint32_t at, uint32_t length, nd_options_t *out) noexcept nogil
# A message of neighbour or listener discovery: private copy, checksum verified, on an Ethernet link.
cdef DropReason ndp_input(packet_in_t *packet, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil
# The question for a neighbour (interface_t.ask_nd).
cdef bint nd_ask(interface_t *ifc, neighbor_t *n, const uint8_t *to, int64_t now_ns) noexcept nogil
# Is anybody there with the address on trial (RFC 4862 section 5.4.2)? With its nonce.
cdef bint nd_probe(interface_t *ifc, const held_t *trial, int64_t now_ns) noexcept nogil
# Tell all nodes that the address is ours (RFC 4861 section 7.2.6).
cdef bint nd_announce(interface_t *ifc, const address_t *a, int64_t now_ns) noexcept nogil
# One ICMPv6 message to a group or, with a MAC, to one station; its checksum is filled in. alert: with the Router Alert
# option (RFC 2711). False: the link has no room.
cdef bint nd_send(interface_t *ifc, const uint8_t *mac, const address_t *src, const address_t *dst, uint8_t *message,
                  uint32_t length, uint8_t hop_limit, bint alert, int64_t now_ns) noexcept nogil
cdef void all_nodes(address_t *out) noexcept nogil               # ff02::1
cdef void solicited_node(const address_t *a, address_t *out) noexcept nogil      # RFC 4291 section 2.7.1
