"""UDP endpoints: bounded receive queue, checksum-and-copy into it (RFC 768, 1122 section 4.1)."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from netstack.address cimport address_t, endpoint_t
from netstack.counters cimport counters_t, DropReason
from netstack.sock cimport event_list_t, sock_t


cdef enum:                       # udp_endpoint_t.wants: what recvmsg tells besides the bytes
    WANT_PKTINFO = 0x001         # IP_PKTINFO
    WANT_TTL = 0x002             # IP_RECVTTL
    WANT_TOS = 0x004             # IP_RECVTOS
    WANT_PKTINFO6 = 0x008        # IPV6_RECVPKTINFO
    WANT_HOPLIMIT = 0x010        # IPV6_RECVHOPLIMIT
    WANT_TCLASS = 0x020          # IPV6_RECVTCLASS
    WANT_ERRORS = 0x040          # IP_RECVERR
    WANT_ERRORS6 = 0x080         # IPV6_RECVERR
    WANT_DESTINATION = 0x100     # IP_RECVORIGDSTADDR

cdef enum:                       # udp_endpoint_t.modes
    EM_HEADER_INCLUDED = 0x01    # IP_HDRINCL
    EM_MULTICAST_OWN = 0x04      # IP_MULTICAST_ALL is off: only groups this socket joined
    EM_CHECKSUM = 0x08           # IPV6_CHECKSUM: the sum lies at check_offset
    EM_V6ONLY = 0x10
    EM_MULTICAST_OWN6 = 0x20     # IPV6_MULTICAST_ALL is off
    EM_RECEIVE_COVERAGE = 0x40   # UDPLITE_RECV_CSCOV was set: receive_coverage counts

cdef enum:                       # udp_endpoint_t.pmtu_discovery: IP_MTU_DISCOVER
    PMTU_DONT = 0                # no DF; cut to the path's MTU
    PMTU_WANT = 1                # DF while it fits, else cut
    PMTU_DO = 2                  # always DF: EMSGSIZE above the path's MTU
    PMTU_PROBE = 3               # DF; only the interface's MTU counts
    PMTU_INTERFACE = 4           # no DF; the interface's MTU counts, reports are not believed; never cut
    PMTU_OMIT = 5                # the same, but cut

cdef enum:                       # arrival_t.origin: linux/errqueue.h
    ORIGIN_NONE = 0
    ORIGIN_LOCAL = 1
    ORIGIN_ICMP = 2
    ORIGIN_ICMP6 = 3


cdef struct arrival_t:
    # How a datagram came: what ancillary data is made of.
    address_t dst
    uint8_t interface
    uint8_t ttl
    uint8_t tos
    # Of an entry of the error queue (struct sock_extended_err).
    uint8_t origin
    uint8_t type
    uint8_t code
    int32_t error                # an errno number
    uint32_t info                # MTU of a packet that was too big
    address_t offender           # who said so


cdef struct datagram_t:
    datagram_t *next
    address_t src                # of an error: where the datagram was going
    uint16_t sport
    uint32_t length
    arrival_t how
    # the payload follows the struct


cdef struct membership_t:
    membership_t *next
    address_t group
    uint32_t interface
    uint8_t exclude              # sources are those not wanted; else the only ones wanted
    uint32_t source_count
    address_t *sources


cdef struct udp_endpoint_t:
    sock_t sock                  # first: a udp_endpoint_t * is a sock_t *
    address_t local
    address_t remote
    uint16_t lport               # host order; of a ping socket: the echo identifier
    uint16_t rport
    uint8_t connected
    uint8_t shutdown             # 1 read, 2 write
    uint8_t ttl                  # of IPv4 packets
    uint8_t hops                 # of IPv6 packets
    uint8_t tos                  # of IPv4 packets
    uint8_t tclass               # of IPv6 packets
    uint8_t protocol             # of a raw socket
    uint8_t pmtu_discovery       # PMTU_*
    uint8_t multicast_ttl        # hop limit of datagrams to groups
    uint8_t multicast_interface  # number (index + 1) of where they leave; 0: the route says
    uint8_t multicast_loop       # a copy goes to the sockets of this stack
    address_t multicast_source   # IP_MULTICAST_IF's address; any: the interface's
    uint16_t wants               # WANT_*
    uint16_t modes               # EM_*
    int32_t check_offset
    uint32_t filter[8]           # raw: ICMP types not wanted, a bit each (ICMP_FILTER uses the first word, ICMP6_FILTER all)
    uint16_t big_length          # the last large datagram that went out: total length, where to and when (RFC 5927 section 7.3)
    address_t big_dst
    int64_t big_ns
    uint8_t dont_fragment        # IPV6_DONTFRAG: EMSGSIZE instead of fragments
    uint16_t send_coverage       # UDPLITE_SEND_CSCOV: bytes that the checksum covers, header included; 0: all
    uint16_t receive_coverage    # UDPLITE_RECV_CSCOV: the least that a datagram covered in part must have; 0: all
    uint32_t rcvbuf              # limit, bytes, bookkeeping included
    uint32_t sndbuf
    uint32_t queued_bytes
    uint32_t queued
    uint32_t dropped             # because the queue was full
    datagram_t *first
    datagram_t *last
    datagram_t *first_error      # the error queue (IP_RECVERR)
    datagram_t *last_error
    uint32_t error_bytes
    membership_t *memberships


cdef void udp_endpoint_init(udp_endpoint_t *ep) noexcept nogil
cdef void udp_endpoint_free(udp_endpoint_t *ep) noexcept nogil       # the queue; not the struct
# Sum-and-copy the payload into the queue: the first *covered* bytes count. partial: pseudo header plus UDP header sum, or -1
# when there is none to check.
cdef DropReason udp_deliver(udp_endpoint_t *ep, event_list_t *events, const address_t *src, uint16_t sport,
                            const uint8_t *payload, uint32_t length, uint32_t covered, int64_t partial,
                            const arrival_t *how) noexcept nogil
# Room for a datagram of that length, which the caller fills and puts into the queue; NULL: *reason* says why not.
cdef datagram_t *endpoint_room(udp_endpoint_t *ep, uint32_t length, DropReason *reason) noexcept nogil
cdef void endpoint_append(udp_endpoint_t *ep, event_list_t *events, datagram_t *d) noexcept nogil
# Put an error into its queue: about a datagram to *to*, of which payload is what was quoted.
cdef void endpoint_error(udp_endpoint_t *ep, event_list_t *events, const endpoint_t *to, const uint8_t *payload,
                         uint32_t length, const arrival_t *how) noexcept nogil
# The next datagram's bytes, at most n; -EAGAIN. *length gets the datagram's whole length. peek: leave it there.
cdef ssize_t udp_receive(udp_endpoint_t *ep, uint8_t *buf, size_t n, endpoint_t *src, uint32_t *length,
                         bint peek) noexcept nogil
# The same, also from the error queue; how may be NULL.
cdef ssize_t endpoint_receive(udp_endpoint_t *ep, uint8_t *buf, size_t n, endpoint_t *src, uint32_t *length,
                              bint peek, bint errors, arrival_t *how) noexcept nogil
