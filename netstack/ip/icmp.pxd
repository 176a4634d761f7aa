"""ICMP for IPv4 (RFC 792, 1122 section 3.2.2): echo answered, errors made under a rate limit, errors read."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from netstack.address cimport address_t
from netstack.counters cimport DropReason
from netstack.ip.interface cimport interface_t, packet_in_t
from netstack.wire.icmp cimport icmp_t


cdef struct icmp_message_t:
    uint8_t type
    uint8_t code
    # of an echo reply: what a ping socket wants
    uint16_t identifier
    uint16_t sequence
    const uint8_t *payload       # private, verified, valid until the next message; the 8 header bytes lie before it
    uint32_t payload_length
    # of an error: the packet that caused it, as we sent it
    uint8_t is_error
    uint8_t embedded_protocol
    uint16_t embedded_sport
    uint16_t embedded_dport
    uint32_t embedded_seq        # TCP sequence number, host order; 0 for others
    address_t embedded_src
    address_t embedded_dst
    uint32_t mtu                 # of "fragmentation needed", else 0
    uint32_t embedded_length     # of the packet, as its header says
    const uint8_t *quoted        # its bytes from the transport's header on, as many as came
    uint32_t quoted_length       # 8 at least
    uint32_t info                # of a parameter problem: where
    uint8_t wire_type            # type and code as they came (type and code above are always ICMP's)
    uint8_t wire_code
    address_t offender           # who sent the message
    int error                    # errno number the sockets get, where ICMPv6 says so; 0: by type and code


cdef enum:
    ICMP_CONSUMED = 255          # icmp_message_t.type: nothing for sockets
    ICMP_HARD = 0x10000          # in icmp_unreachable_errno: it will not go away by itself

# What "destination unreachable" of that code means as an errno number, ICMP_HARD added where Linux calls it fatal.
cdef int icmp_unreachable_errno(uint8_t code) noexcept nogil
# Checks the message; answers echo requests itself (out.type = 8 then, nothing more to do). DROP_NONE or why it was
# dropped, which the caller counts; icmp_in and icmp_out are counted here. What comes out is an echo reply (type 0), or
# an error (is_error) whose embedded packet has one of the interface's addresses as source.
cdef DropReason icmp_input(packet_in_t *packet, int64_t now_ns, icmp_message_t *out) noexcept nogil
# Destination unreachable (type 3) about a received packet; keeps silent where RFC 1122 says so; rate limited.
cdef void icmp_send_unreachable(packet_in_t *about, uint8_t code, int64_t now_ns) noexcept nogil
# Any error about a received packet; rest: the second word, host order.
cdef void icmp_send_error(packet_in_t *about, uint8_t type, uint8_t code, uint32_t rest, int64_t now_ns) noexcept nogil
# Echo request from a ping socket; 0 or a CLAIM_* number.
cdef int icmp_send_echo(interface_t *ifc, const address_t *src, const address_t *dst, const address_t *next_hop,
                        uint16_t identifier, uint16_t sequence, const uint8_t *payload, uint32_t length,
                        uint8_t ttl, int64_t now_ns) noexcept nogil
# --- shared with ICMPv6
# The interface and next hop of an answer to packet; NULL: no route.
cdef interface_t *way_back(packet_in_t *packet, address_t *next_hop) noexcept nogil
# The drop reason of an answer that could not be sent; DROP_NONE when the interface counted it already.
cdef DropReason why_not(int claimed) noexcept nogil
# The message in the interface's scratch memory, its sum verified over exactly those bytes and the pseudo header's.
cdef DropReason private_copy(packet_in_t *packet, const icmp_t *icmp, const uint8_t *payload,
                             uint32_t length, uint32_t pseudo_sum) noexcept nogil
# Ports, or an echo's identifier, of the packet an error is about: its transport's header is *at* bytes into the payload, 8
# bytes of it at least. echo_request: the type of ours where it is ICMP, else -1.
cdef DropReason read_quoted(icmp_message_t *out, uint32_t at, int echo_request) noexcept nogil
