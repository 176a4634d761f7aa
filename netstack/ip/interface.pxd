"""An interface of a stack: a link, its addresses, its neighbours; the way of one IP packet in and out."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_equal, address_t
from netstack.counters cimport counters_t, DropReason
from netstack.ip.groups cimport igmp_t
from netstack.ip.ip6 cimport ip6_conf_t, ip6_t
from netstack.ip.neighbor cimport neighbor_t, neighbor_table_t
from netstack.ip.shared cimport ip_t
from netstack.ip.trial cimport acd_t
from netstack.link.link cimport frame_t, link_t

cdef enum:
    INTERFACE_ADDRESSES = 16     # at most, per interface
    HEADER_COPY = 128            # bytes of a received packet that are copied before anything is believed

cdef enum:                       # packet_in_t.protocol
    PROTOCOL_NOTHING = 59        # "no next header"
    PROTOCOL_CONSUMED = 256      # a frame that is nothing for a transport: no protocol's number

cdef enum:                       # what interface_claim returns
    CLAIM_OK = 0
    CLAIM_FULL = -1              # the link has no room: try again after it drained (backpressure)
    CLAIM_UNREACHABLE = -2       # the next hop does not answer: EHOSTUNREACH
    CLAIM_DROPPED = -3           # neighbour queue or memory full: counted, the packet is lost as on any link



cdef struct packet_in_t


cdef struct interface_t:
    link_t *link
    counters_t *counters
    ip_t *ip                     # what it shares with the stack's other interfaces
    uint32_t index
    uint32_t mtu                 # largest IP packet, bytes
    uint16_t link_header         # 14 on Ethernet, 0 on IP media
    uint8_t media
    uint8_t loopback
    uint8_t kernel_ip            # the kernel has judged addresses, and forwards to itself (LINK_KERNEL_IP)
    uint8_t shared               # others have our addresses too (LINK_SHARED_ADDRESS)
    uint8_t any_address          # every address of a single host is ours: this stack ends flows on behalf of others
    uint8_t mac[6]
    uint8_t address_count
    uint8_t prefix_lengths[INTERFACE_ADDRESSES]   # of the 16-byte form: IPv4 /24 is 120
    address_t addresses[INTERFACE_ADDRESSES]
    uint8_t flushed              # 0: packets were committed since the last flush
    neighbor_table_t neighbors
    uint32_t v4[INTERFACE_ADDRESSES]              # the same addresses as on the wire, for the packet path
    uint32_t v4_broadcast[INTERFACE_ADDRESSES]    # directed broadcast of each, 0 where there is none (/31, /32)
    int64_t defended_ns          # when we last defended an address (RFC 5227 section 2.4)
    uint64_t conflicts           # frames in which another station claimed one of our addresses
    igmp_t *igmp                 # groups; NULL: none was ever joined or asked about
    acd_t *acd                   # addresses on trial; NULL: none ever was
    ip6_conf_t conf              # net.ipv6.conf.*
    ip6_t *ip6                   # NULL: no neighbour discovery here (IP media, or IPv6 not in use)
    uint64_t *random             # the stack's: state of its generator, and its secret
    const uint64_t *secret
    uint8_t *scratch             # ICMP messages are copied here before they are believed; made when needed
    uint32_t scratch_size
    void *context                # for the callbacks
    # Where answers to dst leave, and through which next hop (RFC 1122 section 3.3.1); NULL: no route. A stack with
    # gateways sets it. Not set: this interface, next hop dst itself.
    interface_t *(*route_to)(void *context, const address_t *dst, address_t *next_hop) noexcept nogil
    # Ask for a neighbour's hardware address: everybody (to NULL) or the one we knew. False: the link has no room.
    bint (*ask_arp)(interface_t *ifc, neighbor_t *n, const uint8_t *to, int64_t now_ns) noexcept nogil
    bint (*ask_nd)(interface_t *ifc, neighbor_t *n, const uint8_t *to, int64_t now_ns) noexcept nogil
    void (*advance_ip6)(interface_t *ifc, int64_t now_ns) noexcept nogil     # what is due in ip6
    # A router's prefixes and the route through it come and go: 0 or -errno.
    int (*change_route)(void *context, interface_t *ifc, bint add, const address_t *prefix, uint8_t prefix_length,
                        const address_t *gateway) noexcept nogil
    # a packet that waited for a neighbour in vain: the IP packet, its length
    void (*on_unreachable)(void *context, interface_t *ifc, const uint8_t *packet, uint32_t length) noexcept nogil
    # Sees whole packets for one host before the protocols do; True: it took this one. NULL: nobody wants to.
    bint (*divert)(void *context, packet_in_t *packet) noexcept nogil
    void *divert_context


cdef struct fragment_t:
    uint32_t at                  # bytes of headers the whole datagram begins with (IPv6: those before the fragment header)
    uint32_t field               # IPv6: where in them the number of what follows the fragment header goes
    uint32_t data_at             # where the piece's bytes stand in the packet as it came
    uint32_t length              # how many they are
    uint32_t offset              # where they belong, bytes
    uint32_t id
    uint8_t next_header          # of what was cut in pieces
    uint8_t more                 # it is not the last


cdef struct packet_in_t:
    # A received IP packet: headers copied and checked, payload still in the link's memory.
    interface_t *interface
    const frame_t *frame
    uint8_t header[HEADER_COPY]  # private copy, from the IP header on
    uint32_t header_bytes        # how many bytes of it were copied
    uint32_t header_length       # of the IP header
    uint32_t length              # of the IP packet (total length) without what was skipped, bytes
    uint32_t skipped             # bytes of extension headers behind the IPv6 header; neither in header nor in length
    uint32_t protocol_at         # where in the packet as it came the number of its protocol stands (IPv6)
    uint32_t problem_at          # pointer of the Parameter Problem
    uint8_t problem              # of a packet that was dropped: the sender is to be told of it with code problem - 1
    uint8_t fragmented           # it had a fragment header, or was put together from fragments
    uint16_t protocol
    uint8_t ttl
    uint8_t tos
    uint8_t broadcast            # destination is broadcast or multicast, by link or by IP
    uint8_t piece                # a piece of a datagram, for `reassembly_input`
    uint8_t reassembled          # none any more: put together from pieces, in private memory
    fragment_t fragment          # of a piece
    address_t src
    address_t dst


cdef struct packet_out_t:
    # A claimed place for one outgoing IP packet.
    interface_t *interface
    uint8_t *ip                  # where the IP header goes; the transport header follows it
    uint8_t *body                # where the payload goes
    uint32_t length              # whole frame, bytes
    void *pending                # not NULL: a buffer of the neighbour table instead of the link's memory


# Fill *out* from a frame: link header, ARP (answered here), IP header, destination ours? DROP_NONE when there is a
# packet for a transport; ARP and other consumed frames return DROP_NONE with out.protocol = PROTOCOL_CONSUMED.
# The returned reason is counted by the caller; packets_in, bytes_in and ip_delivered are counted here.
cdef DropReason interface_input(interface_t *ifc, const frame_t *frame, int64_t now_ns, packet_in_t *out) noexcept nogil

# Where the payload lies behind a transport header of transport_header_length bytes, in the link's memory. False: the
# record is malformed (headers split over head and body), or the packet ends before the header does.
# True also says that packet.header holds the whole transport header.
cdef bint packet_payload(const packet_in_t *packet, uint32_t transport_header_length,
                         const uint8_t **payload, uint32_t *length) noexcept nogil

# n bytes of a received packet from *at* on, wherever they lie, and their sum: as they stand in the link's memory, or with
# what was checked from the private copy.
cdef uint32_t frame_copy(const packet_in_t *packet, uint32_t at, uint8_t *dst, uint32_t n) noexcept nogil
cdef uint32_t packet_copy(const packet_in_t *packet, uint32_t at, uint8_t *dst, uint32_t n) noexcept nogil

# header_length: IP plus transport header. Writes the link header; the caller writes IP header on, then commits.
# What is not committed is dropped with the next claim. Commit counts packets_out and bytes_out.
cdef int interface_claim(interface_t *ifc, const address_t *next_hop, uint32_t header_length, uint32_t body_length,
                         int64_t now_ns, packet_out_t *out) noexcept nogil
cdef void interface_commit(packet_out_t *out, int64_t now_ns) noexcept nogil
cdef void interface_flush(interface_t *ifc) noexcept nogil

cdef inline int interface_index_of(const interface_t *ifc, const address_t *a) noexcept nogil:
    """Place of an address among the interface's, or -1."""
    cdef uint32_t i
    for i in range(ifc.address_count):
        if address_equal(&ifc.addresses[i], a):
            return <int> i
    return -1


cdef inline uint32_t interface_mtu(const interface_t *ifc, bint v4) noexcept nogil:
    """The largest packet of that version; a router may have said less of IPv6 (RFC 4861 section 4.6.4)."""
    if v4 or ifc.ip6 == NULL or ifc.ip6.router_mtu == 0 or ifc.ip6.router_mtu > ifc.mtu:
        return ifc.mtu
    return ifc.ip6.router_mtu


cdef bint interface_has_address(const interface_t *ifc, const address_t *a) noexcept nogil
cdef bint interface_on_link(const interface_t *ifc, const address_t *a) noexcept nogil    # within one of its prefixes
cdef int interface_add_address(interface_t *ifc, const address_t *a, uint8_t prefix_length) noexcept nogil  # 0, -errno
cdef int interface_remove_address(interface_t *ifc, const address_t *a) noexcept nogil
# loopback and mac are set by the caller afterwards.
cdef void interface_init(interface_t *ifc, link_t *link, uint32_t index, counters_t *counters, ip_t *ip) noexcept nogil
cdef void interface_free(interface_t *ifc) noexcept nogil
cdef int64_t interface_next_deadline(interface_t *ifc) noexcept nogil
cdef void interface_advance(interface_t *ifc, int64_t now_ns) noexcept nogil               # neighbours; timers of IPv6
cdef void interface_announce(interface_t *ifc, const address_t *a, int64_t now_ns) noexcept nogil  # gratuitous ARP
cdef bint interface_is_broadcast(const interface_t *ifc, uint32_t be) noexcept nogil     # limited or directed
