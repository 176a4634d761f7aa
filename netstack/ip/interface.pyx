# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The way of a packet through an interface: checked on its way in, given a place on its way out."""

from libc.errno cimport EADDRNOTAVAIL, EEXIST, EINVAL, ENOSPC
from libc.stdint cimport INT64_MIN, UINT32_MAX
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from netstack.address cimport (
    address_from_v4, address_is_any, address_is_multicast6, address_is_v4, address_set_zone, address_v4,
)
from netstack.counters cimport (
    DROP_ARP_MALFORMED, DROP_ARP_ON_CHANNEL, DROP_IP_DESTINATION, DROP_IP_FRAGMENT, DROP_IP_HEADER_LENGTH, DROP_IP_SOURCE,
    DROP_IP_VERSION, DROP_LINK_MALFORMED, DROP_LINK_NOT_OURS, DROP_LINK_TYPE, DROP_MULTICAST, DROP_NEIGHBOR_QUEUE, DROP_NONE, drop,
)
from netstack.ip.acd cimport acd_advance, acd_next_deadline
from netstack.ip.arp cimport arp_announce, arp_ask, arp_input
from netstack.ip.igmp cimport igmp_advance, igmp_free, igmp_listens, igmp_next_deadline
from netstack.ip.ipv6 cimport ipv6_input
from netstack.ip.mld cimport mld_free
from netstack.ip.neighbor cimport (
    neighbor_claim, neighbor_commit, neighbor_free, neighbor_init, neighbor_t, pending_packet_t,
)
from netstack.ip.nud cimport NUD_FULL, NUD_NO_ROOM, NUD_UNREACHABLE, NUD_WAIT, nud_advance, nud_resolve
from netstack.ip.route cimport address_in_prefix
from netstack.link.link cimport LINK_CHECKSUM_TRUSTED, LINK_KERNEL_IP, LINK_SHARED_ADDRESS, MEDIA_ETHERNET
from netstack.wire.arp cimport ARP_LENGTH
from netstack.wire.byte_order cimport host_to_be32, load_be32
from netstack.wire.checksum cimport checksum_and_copy, checksum_combine
from netstack.wire.ethernet cimport (
    ETHERNET_HEADER, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernet_is_group, ethernet_t, parse_ethernet, write_ethernet,
)
from netstack.wire.ipv4 cimport IPV4_HEADER, IPV4_MF, IPV4_OFFSET_MASK, ipv4_source_is_martian, ipv4_t, parse_ipv4_header


# ---- making ----------------------------------------------------------------

cdef void interface_init(interface_t *ifc, link_t *link, uint32_t index, counters_t *counters, ip_t *ip) noexcept nogil:
    memset(ifc, 0, sizeof(interface_t))
    ifc.link = link
    ifc.counters = counters
    ifc.ip = ip
    ifc.index = index
    ifc.mtu = link.mtu
    ifc.media = link.media
    ifc.kernel_ip = link.capabilities & LINK_KERNEL_IP != 0
    ifc.shared = link.capabilities & LINK_SHARED_ADDRESS != 0
    ifc.link_header = ETHERNET_HEADER if link.media == MEDIA_ETHERNET else 0
    ifc.flushed = 1
    ifc.ask_arp = arp_ask
    ifc.conf.accept_dad = 1
    ifc.conf.dad_transmits = 1
    ifc.conf.accept_ra_defrtr = 1
    ifc.conf.accept_ra_pinfo = 1
    ifc.conf.accept_ra_mtu = 1
    ifc.conf.autoconf = 1
    ifc.conf.echo_ignore_multicast = 1
    ifc.defended_ns = INT64_MIN // 2
    neighbor_init(&ifc.neighbors, ip.secret)


cdef void interface_free(interface_t *ifc) noexcept nogil:
    neighbor_free(&ifc.neighbors)
    igmp_free(ifc.igmp)
    ifc.igmp = NULL
    free(ifc.acd)
    ifc.acd = NULL
    mld_free(ifc.ip6)
    free(ifc.ip6)
    ifc.ip6 = NULL
    free(ifc.scratch)
    ifc.scratch = NULL
    ifc.scratch_size = 0


cdef uint32_t first_byte(uint32_t be) noexcept nogil:
    return (<const uint8_t *> &be)[0]


cdef int interface_add_address(interface_t *ifc, const address_t *a, uint8_t prefix_length) noexcept nogil:
    """Add an address: 0, -EINVAL (none a host can have, or a prefix that cannot be), -EEXIST or -ENOSPC."""
    cdef uint32_t i = ifc.address_count
    cdef uint32_t host_bits
    if prefix_length > 128 or address_is_any(a) or address_is_multicast6(a):
        return -EINVAL
    if address_is_v4(a) and (prefix_length < 96 or first_byte(address_v4(a)) >= 224):
        return -EINVAL
    if interface_index_of(ifc, a) >= 0:
        return -EEXIST
    if i == INTERFACE_ADDRESSES:
        return -ENOSPC
    ifc.addresses[i] = a[0]
    address_set_zone(&ifc.addresses[i], ifc.index + 1)
    ifc.prefix_lengths[i] = prefix_length
    ifc.v4[i] = 0
    ifc.v4_broadcast[i] = 0
    if address_is_v4(a):
        ifc.v4[i] = address_v4(a)
        host_bits = 128 - prefix_length
        if host_bits >= 2 and not ifc.loopback:      # RFC 3021: a /31 has no broadcast
            ifc.v4_broadcast[i] = ifc.v4[i] | host_to_be32(<uint32_t> ((<uint64_t> 1 << host_bits) - 1))
    ifc.address_count += 1
    return 0


cdef int interface_remove_address(interface_t *ifc, const address_t *a) noexcept nogil:
    """Take an address away: 0 or -EADDRNOTAVAIL."""
    cdef int at = interface_index_of(ifc, a)
    cdef uint32_t i
    if at < 0:
        return -EADDRNOTAVAIL
    ifc.address_count -= 1
    for i in range(<uint32_t> at, ifc.address_count):
        ifc.addresses[i] = ifc.addresses[i + 1]
        ifc.prefix_lengths[i] = ifc.prefix_lengths[i + 1]
        ifc.v4[i] = ifc.v4[i + 1]
        ifc.v4_broadcast[i] = ifc.v4_broadcast[i + 1]
    return 0


# ---- questions -------------------------------------------------------------

cdef bint interface_has_address(const interface_t *ifc, const address_t *a) noexcept nogil:
    """Whether the address is ours. A loopback interface has all of its prefixes (127.0.0.0/8)."""
    return interface_index_of(ifc, a) >= 0 or (ifc.loopback and interface_on_link(ifc, a))


cdef bint interface_on_link(const interface_t *ifc, const address_t *a) noexcept nogil:
    cdef uint32_t i
    for i in range(ifc.address_count):
        if address_in_prefix(a, &ifc.addresses[i], ifc.prefix_lengths[i]):
            return True
    return False


cdef bint interface_is_broadcast(const interface_t *ifc, uint32_t be) noexcept nogil:
    cdef uint32_t i
    if be == UINT32_MAX:
        return True
    for i in range(ifc.address_count):
        if ifc.v4_broadcast[i] == be and be != 0:
            return True
    return False


# ---- in --------------------------------------------------------------------

cdef DropReason ethernet_input(interface_t *ifc, const frame_t *frame, int64_t now_ns, packet_in_t *out,
                               uint8_t *version) noexcept nogil:
    """The link header. version: of the IP packet that follows; 0 for a frame that ended here."""
    cdef ethernet_t ethernet
    cdef uint8_t arp[ARP_LENGTH]
    cdef DropReason reason = parse_ethernet(frame.head, frame.head_length, &ethernet)
    if reason != DROP_NONE:
        return reason
    if memcmp(ethernet.dst, ifc.mac, 6) != 0:
        if not ethernet_is_group(ethernet.dst):
            return DROP_LINK_NOT_OURS
        out.broadcast = 1
    if ethernet.ethertype == ETHERTYPE_IPV4:
        version[0] = 4
        return DROP_NONE
    if ethernet.ethertype == ETHERTYPE_IPV6:
        version[0] = 6
        return DROP_NONE
    if ethernet.ethertype != ETHERTYPE_ARP:
        return DROP_LINK_TYPE
    if frame.head_length < ETHERNET_HEADER + ARP_LENGTH:
        return DROP_ARP_MALFORMED
    memcpy(arp, frame.head + ETHERNET_HEADER, ARP_LENGTH)
    return arp_input(ifc, arp, ARP_LENGTH, now_ns)


cdef DropReason classify(const uint8_t *header, uint32_t n) noexcept nogil:
    """Why a packet is of no version, or not of the one its link header says: ARP by mistake, or another version."""
    if n >= 8 and load_be32(header) == 0x00010800 and load_be32(header + 4) >> 16 == 0x0604:
        return DROP_ARP_ON_CHANNEL
    return DROP_IP_VERSION


cdef DropReason check_addresses(interface_t *ifc, const ipv4_t *ip, packet_in_t *out) noexcept nogil:
    """Could the sender have that address, and is it for us (RFC 1122 section 3.2.1.3)?"""
    cdef bint ours = False
    cdef uint32_t i
    if ifc.loopback:             # only this stack itself sends here, from and to whatever is its own
        out.broadcast |= first_byte(ip.dst_be) >= 224
        return DROP_NONE
    if ifc.kernel_ip:
        out.broadcast = first_byte(ip.dst_be) >= 224 or interface_is_broadcast(ifc, ip.dst_be)
        return DROP_NONE
    if ipv4_source_is_martian(ip.src_be):
        return DROP_IP_SOURCE
    for i in range(ifc.address_count):
        if (ip.src_be == ifc.v4[i] and not ifc.shared) or ip.src_be == ifc.v4_broadcast[i]:
            return DROP_IP_SOURCE
        if ip.dst_be == ifc.v4[i] and ip.dst_be != 0:      # 0 stands for IPv6 addresses
            ours = True
        elif ip.dst_be == ifc.v4_broadcast[i] and ip.dst_be != 0:
            ours = True
            out.broadcast = 1
    if ours or (ifc.any_address and not ipv4_source_is_martian(ip.dst_be)):
        return DROP_NONE
    out.broadcast = 1
    if ip.dst_be == UINT32_MAX:
        return DROP_NONE
    if first_byte(ip.dst_be) >> 4 == 14:
        return DROP_NONE if igmp_listens(ifc.igmp, ip.dst_be) else DROP_MULTICAST
    return DROP_IP_DESTINATION


cdef inline void copy_header(uint8_t *to, const uint8_t *p, uint32_t n) noexcept nogil:
    """At most HEADER_COPY bytes as moves of fixed size; where they overlap the later one wins, and only `to` is read."""
    if n >= 64:
        memcpy(to, p, 64)
        memcpy(to + n - 64, p + n - 64, 64)
    elif n >= 32:
        memcpy(to, p, 32)
        memcpy(to + n - 32, p + n - 32, 32)
    elif n >= 16:
        memcpy(to, p, 16)
        memcpy(to + n - 16, p + n - 16, 16)
    else:
        memcpy(to, p, n)


cdef DropReason interface_input(interface_t *ifc, const frame_t *frame, int64_t now_ns, packet_in_t *out) noexcept nogil:
    cdef const uint8_t *p
    cdef uint32_t n, room, available
    cdef uint8_t version = 0
    cdef ipv4_t ip
    cdef DropReason reason
    ifc.counters.packets_in += 1
    ifc.counters.bytes_in += <uint64_t> frame.head_length + frame.body_length
    out.interface = ifc
    out.frame = frame
    out.protocol = PROTOCOL_CONSUMED
    out.broadcast = 0
    out.piece = 0
    out.reassembled = 0
    out.skipped = 0
    out.problem = 0
    out.fragmented = 0
    if ifc.media == MEDIA_ETHERNET:
        reason = ethernet_input(ifc, frame, now_ns, out, &version)
        if reason != DROP_NONE or version == 0:
            return reason

    # What is believed below is copied here first, from memory that others may write.
    p = frame.head + ifc.link_header
    room = frame.head_length - ifc.link_header
    if frame.body_length > 0x7fffffff - room:
        return DROP_LINK_MALFORMED
    available = room + frame.body_length
    n = room if room < HEADER_COPY else HEADER_COPY
    copy_header(out.header, p, n)
    if n < IPV4_HEADER:
        return DROP_LINK_MALFORMED if frame.body_length else DROP_IP_HEADER_LENGTH
    if out.header[0] >> 4 == 6 and version != 4:
        return ipv6_input(ifc, frame, n, available, out)
    if out.header[0] >> 4 != 4 or version == 6:
        return classify(out.header, n)
    if frame.body_length and <uint32_t> (out.header[0] & 15) << 2 > n:
        return DROP_LINK_MALFORMED
    reason = parse_ipv4_header(out.header, available, not ifc.link.capabilities & LINK_CHECKSUM_TRUSTED, &ip)
    if reason != DROP_NONE and reason != DROP_IP_FRAGMENT:
        return reason
    out.piece = reason == DROP_IP_FRAGMENT
    reason = check_addresses(ifc, &ip, out)
    if reason != DROP_NONE:
        return reason
    if out.piece:
        out.fragment.at = out.fragment.data_at = ip.header_length
        out.fragment.field = 0
        out.fragment.length = ip.total_length - ip.header_length
        out.fragment.offset = <uint32_t> (ip.flags_offset & IPV4_OFFSET_MASK) * 8
        out.fragment.more = ip.flags_offset & IPV4_MF != 0
        out.fragment.id = ip.id
        out.fragment.next_header = ip.protocol
    out.header_bytes = n if n < ip.total_length else ip.total_length
    out.header_length = ip.header_length
    out.length = ip.total_length
    out.protocol = ip.protocol
    out.ttl = ip.ttl
    out.tos = ip.tos
    address_from_v4(&out.src, ip.src_be)
    address_from_v4(&out.dst, ip.dst_be)
    ifc.counters.ip_delivered += out.piece == 0
    return DROP_NONE


cdef bint packet_payload(const packet_in_t *packet, uint32_t transport_header_length,
                         const uint8_t **payload, uint32_t *length) noexcept nogil:
    cdef const frame_t *frame = packet.frame
    cdef uint32_t offset = packet.header_length + transport_header_length
    cdef uint32_t link_header = packet.interface.link_header
    if transport_header_length > HEADER_COPY or offset > packet.header_bytes:
        return False
    length[0] = packet.length - offset
    if frame.body_length == 0 or length[0] == 0:
        payload[0] = frame.head + link_header + packet.skipped + offset
        return True
    payload[0] = frame.body
    return frame.head_length == link_header + packet.skipped + offset


cdef uint32_t frame_copy(const packet_in_t *packet, uint32_t at, uint8_t *dst, uint32_t n) noexcept nogil:
    cdef const frame_t *frame = packet.frame
    cdef uint32_t head_end = frame.head_length - packet.interface.link_header, done = 0, total = 0
    if at < head_end:
        done = n if n < head_end - at else head_end - at
        total = checksum_and_copy(dst, frame.head + packet.interface.link_header + at, done)
    if done < n:
        total = checksum_combine(total, checksum_and_copy(dst + done, frame.body + (at + done - head_end), n - done), done)
    return total


cdef uint32_t packet_copy(const packet_in_t *packet, uint32_t at, uint8_t *dst, uint32_t n) noexcept nogil:
    cdef uint32_t done = 0, total = 0
    cdef uint32_t kept = packet.header_length if packet.skipped else packet.header_bytes     # as it came
    if at < kept:
        done = n if n < kept - at else kept - at
        total = checksum_and_copy(dst, packet.header + at, done)
    if done < n:
        total = checksum_combine(total, frame_copy(packet, at + done, dst + done, n - done), done)
    return total


# ---- out -------------------------------------------------------------------

cdef int wait_claim(interface_t *ifc, neighbor_t *n, uint32_t header_length, uint32_t body_length,
                    packet_out_t *out) noexcept nogil:
    """A place in the queue of a neighbour that has not answered yet."""
    cdef pending_packet_t *p = neighbor_claim(&ifc.neighbors, n, ETHERNET_HEADER + header_length, body_length)
    if p == NULL:
        drop(ifc.counters, DROP_NEIGHBOR_QUEUE)
        return CLAIM_DROPPED
    write_ethernet(p.data, n.mac, ifc.mac,                     # n.mac is filled in when it is known
                   ETHERTYPE_IPV4 if address_is_v4(&n.address) else ETHERTYPE_IPV6)
    out.pending = p
    out.ip = p.data + ETHERNET_HEADER
    out.body = p.data + p.head_length
    return CLAIM_OK


cdef int ethernet_claim(interface_t *ifc, const address_t *next_hop, uint32_t header_length, uint32_t body_length,
                        int64_t now_ns, packet_out_t *out) noexcept nogil:
    cdef bint v4 = address_is_v4(next_hop)
    cdef uint32_t be = address_v4(next_hop)
    cdef const uint8_t *b = <const uint8_t *> &be
    cdef uint8_t mac[6]
    cdef neighbor_t *n = NULL
    cdef uint8_t *head
    cdef int found
    if v4 and b[0] >> 4 == 14:   # RFC 1112 section 6.4
        mac[0] = 0x01
        mac[1] = 0x00
        mac[2] = 0x5e
        mac[3] = b[1] & 0x7f
        mac[4] = b[2]
        mac[5] = b[3]
    elif v4 and interface_is_broadcast(ifc, be):
        memset(mac, 0xff, 6)
    elif not v4 and address_is_multicast6(next_hop):
        mac[0] = 0x33            # RFC 2464 section 7
        mac[1] = 0x33
        memcpy(mac + 2, b, 4)
    else:
        if not v4 and ifc.ip6 == NULL:
            return CLAIM_UNREACHABLE     # no neighbour discovery here: no IPv6 address
        found = nud_resolve(ifc, next_hop, now_ns, &n)
        if found == NUD_WAIT:
            return wait_claim(ifc, n, header_length, body_length, out)
        if found == NUD_FULL:
            return CLAIM_FULL
        if found == NUD_UNREACHABLE:
            return CLAIM_UNREACHABLE
        if found == NUD_NO_ROOM:
            drop(ifc.counters, DROP_NEIGHBOR_QUEUE)
            return CLAIM_DROPPED
        memcpy(mac, n.mac, 6)
    if ifc.link.claim(ifc.link, ETHERNET_HEADER + header_length, body_length, &head, &out.body) != 0:
        return CLAIM_FULL
    write_ethernet(head, mac, ifc.mac, ETHERTYPE_IPV4 if v4 else ETHERTYPE_IPV6)
    out.ip = head + ETHERNET_HEADER
    return CLAIM_OK


cdef int interface_claim(interface_t *ifc, const address_t *next_hop, uint32_t header_length, uint32_t body_length,
                         int64_t now_ns, packet_out_t *out) noexcept nogil:
    out.interface = ifc
    out.pending = NULL
    out.length = ifc.link_header + header_length + body_length
    if ifc.media == MEDIA_ETHERNET:
        return ethernet_claim(ifc, next_hop, header_length, body_length, now_ns, out)
    if ifc.link.claim(ifc.link, header_length, body_length, &out.ip, &out.body) != 0:
        return CLAIM_FULL
    return CLAIM_OK


cdef void interface_commit(packet_out_t *out, int64_t now_ns) noexcept nogil:
    cdef interface_t *ifc = out.interface
    if out.pending != NULL:
        neighbor_commit(&ifc.neighbors, <pending_packet_t *> out.pending)
        out.pending = NULL
        return
    ifc.link.commit(ifc.link, now_ns)
    ifc.flushed = 0
    ifc.counters.packets_out += 1
    ifc.counters.bytes_out += out.length


cdef void interface_flush(interface_t *ifc) noexcept nogil:
    if not ifc.flushed:
        ifc.flushed = 1
        ifc.link.flush(ifc.link)


# ---- time ------------------------------------------------------------------

cdef int64_t interface_next_deadline(interface_t *ifc) noexcept nogil:
    cdef int64_t d = ifc.neighbors.next_deadline_ns, e = igmp_next_deadline(ifc.igmp)
    if e < d:
        d = e
    if ifc.ip6 != NULL and ifc.ip6.next_deadline_ns < d:
        d = ifc.ip6.next_deadline_ns
    e = acd_next_deadline(ifc.acd)
    return e if e < d else d


cdef void interface_advance(interface_t *ifc, int64_t now_ns) noexcept nogil:
    nud_advance(ifc, now_ns)
    igmp_advance(ifc, now_ns)
    acd_advance(ifc, now_ns)
    if ifc.ip6 != NULL and ifc.ip6.next_deadline_ns <= now_ns:
        ifc.advance_ip6(ifc, now_ns)


cdef void interface_announce(interface_t *ifc, const address_t *a, int64_t now_ns) noexcept nogil:
    """Gratuitous ARP for an IPv4 address of ours; those of IPv6 are announced by `nd_announce`."""
    if ifc.media == MEDIA_ETHERNET and address_is_v4(a):
        arp_announce(ifc, address_v4(a), now_ns)
