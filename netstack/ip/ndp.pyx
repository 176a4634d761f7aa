# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Neighbour solicitations and advertisements over the neighbour table; routers and listeners are passed on."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from netstack.address cimport (
    address_equal, address_is_link_local, address_is_multicast6, address_is_unspecified6, address_set_zone,
)
from netstack.counters cimport DROP_ND_IGNORED, DROP_ND_INVALID, DROP_ND_UNSOLICITED, DROP_NONE, DROP_TX_FULL
from netstack.ip.autoconf cimport trial_conflict, trial_of
from netstack.ip.discovery cimport redirect_input, router_input, router_left
from netstack.ip.interface cimport interface_index_of
from netstack.ip.ip6 cimport IP6_NONCE
from netstack.ip.mld cimport mld_input
from netstack.ip.neighbor cimport (
    NEIGHBOR_FAILED, NEIGHBOR_INCOMPLETE, NEIGHBOR_PROBE, neighbor_find,
)
from netstack.ip.nud cimport nud_confirm, nud_contradicted, nud_heard
from netstack.ip.source cimport source_address
from netstack.link.link cimport link_t
from netstack.wire.byte_order cimport load_be32, store_native16
from netstack.wire.checksum cimport checksum_finish, checksum_partial, checksum_pseudo
from netstack.wire.ethernet cimport ETHERNET_HEADER, ETHERTYPE_IPV6, write_ethernet
from netstack.wire.icmp6 cimport (
    ND_NEIGHBOR_ADVERTISEMENT, ND_NEIGHBOR_SOLICITATION, ND_OPTION_MTU, ND_OPTION_NONCE, ND_OPTION_SOURCE,
    ND_OPTION_TARGET, ND_REDIRECT, ND_ROUTER_ADVERTISEMENT, ND_ROUTER_SOLICITATION,
)
from netstack.wire.ipv6 cimport IPV6_HEADER, NEXT_HOP_BY_HOP, PROTOCOL_ICMPV6, write_address, write_ipv6

cdef enum:
    MESSAGE = 24                 # bytes of a neighbour message without options
    LINK_OPTION = 8              # of an option with an Ethernet address
    ALERT = 8                    # of a hop-by-hop header with the Router Alert option
    FLAG_ROUTER = 0x80           # of an advertisement
    FLAG_SOLICITED = 0x40
    FLAG_OVERRIDE = 0x20

cdef int64_t DEFEND_NS = 10000000000     # between two defences of an address (RFC 5227 section 2.4, as for ARP)


# ---- sending ---------------------------------------------------------------

cdef void all_nodes(address_t *out) noexcept nogil:
    memset(out, 0, sizeof(address_t))
    (<uint8_t *> out)[0] = 0xff
    (<uint8_t *> out)[1] = 0x02
    (<uint8_t *> out)[15] = 1


cdef void solicited_node(const address_t *a, address_t *out) noexcept nogil:
    all_nodes(out)
    (<uint8_t *> out)[11] = 1
    (<uint8_t *> out)[12] = 0xff
    memcpy(<uint8_t *> out + 13, <const uint8_t *> a + 13, 3)


cdef bint nd_send(interface_t *ifc, const uint8_t *mac, const address_t *src, const address_t *dst, uint8_t *message,
                  uint32_t length, uint8_t hop_limit, bint alert, int64_t now_ns) noexcept nogil:
    cdef link_t *link = ifc.link
    cdef uint32_t extra = ALERT if alert else 0, whole = ETHERNET_HEADER + IPV6_HEADER + extra + length
    cdef uint8_t group[6]
    cdef uint8_t *head
    cdef uint8_t *body
    cdef uint8_t *option
    if link.claim(link, whole, 0, &head, &body) != 0:
        return False
    if mac == NULL:
        group[0] = 0x33          # RFC 2464 section 7
        group[1] = 0x33
        memcpy(group + 2, <const uint8_t *> dst + 12, 4)
        mac = group
    store_native16(message + 2, 0)
    store_native16(message + 2, checksum_finish(
        <uint64_t> checksum_partial(message, length) + checksum_pseudo(src, dst, PROTOCOL_ICMPV6, length)))
    write_ethernet(head, mac, ifc.mac, ETHERTYPE_IPV6)
    write_ipv6(head + ETHERNET_HEADER, src, dst, NEXT_HOP_BY_HOP if alert else PROTOCOL_ICMPV6, extra + length, 0,
               hop_limit, 0)
    if alert:
        option = head + ETHERNET_HEADER + IPV6_HEADER
        memset(option, 0, ALERT)
        option[0] = PROTOCOL_ICMPV6
        option[2] = 5            # Router Alert: value 0, multicast listener discovery (RFC 2711 section 2.1)
        option[3] = 2
        option[6] = 1            # PadN
    memcpy(head + ETHERNET_HEADER + IPV6_HEADER + extra, message, length)
    link.commit(link, now_ns)
    ifc.flushed = 0
    ifc.counters.packets_out += 1
    ifc.counters.bytes_out += whole
    ifc.counters.icmp_out += 1
    return True


cdef uint32_t begin(uint8_t *message, uint8_t type, uint8_t flags, const address_t *target) noexcept nogil:
    memset(message, 0, 8)
    message[0] = type
    message[4] = flags
    write_address(message + 8, target)
    return MESSAGE


cdef uint32_t link_option(const interface_t *ifc, uint8_t *message, uint32_t at, uint8_t type) noexcept nogil:
    message[at] = type
    message[at + 1] = 1          # in units of 8 bytes
    memcpy(message + at + 2, ifc.mac, 6)
    return at + LINK_OPTION


cdef bint nd_ask(interface_t *ifc, neighbor_t *n, const uint8_t *to, int64_t now_ns) noexcept nogil:
    cdef uint8_t message[MESSAGE + LINK_OPTION]
    cdef address_t src, dst
    cdef uint32_t length = begin(message, ND_NEIGHBOR_SOLICITATION, 0, &n.address)
    if not source_address(ifc, &n.address, now_ns, &src):
        return True              # no address yet: asked in vain, and again when that is due
    length = link_option(ifc, message, length, ND_OPTION_SOURCE)
    if to == NULL:
        solicited_node(&n.address, &dst)
    else:
        dst = n.address
    return nd_send(ifc, to, &src, &dst, message, length, ND_HOP_LIMIT, False, now_ns)


cdef bint nd_probe(interface_t *ifc, const held_t *trial, int64_t now_ns) noexcept nogil:
    cdef uint8_t message[MESSAGE + 8]
    cdef address_t src, dst
    begin(message, ND_NEIGHBOR_SOLICITATION, 0, &trial.address)
    message[MESSAGE] = ND_OPTION_NONCE       # RFC 7527 section 4.1: what comes back to us is no duplicate
    message[MESSAGE + 1] = 1
    memcpy(message + MESSAGE + 2, trial.nonce, IP6_NONCE)
    memset(&src, 0, sizeof(src))
    solicited_node(&trial.address, &dst)
    return nd_send(ifc, NULL, &src, &dst, message, MESSAGE + 8, ND_HOP_LIMIT, False, now_ns)


cdef bint advertise(interface_t *ifc, const address_t *a, const uint8_t *mac, const address_t *dst, uint8_t flags,
                    int64_t now_ns) noexcept nogil:
    cdef uint8_t message[MESSAGE + LINK_OPTION]
    cdef uint32_t length = begin(message, ND_NEIGHBOR_ADVERTISEMENT, flags, a)
    length = link_option(ifc, message, length, ND_OPTION_TARGET)
    return nd_send(ifc, mac, a, dst, message, length, ND_HOP_LIMIT, False, now_ns)


cdef bint nd_announce(interface_t *ifc, const address_t *a, int64_t now_ns) noexcept nogil:
    cdef address_t everybody
    all_nodes(&everybody)
    return advertise(ifc, a, NULL, &everybody, FLAG_OVERRIDE, now_ns)


# ---- hearing ---------------------------------------------------------------

cdef bint nd_options(const uint8_t *p, uint32_t at, uint32_t length, nd_options_t *out) noexcept nogil:
    cdef uint32_t size
    memset(out, 0, sizeof(nd_options_t))
    while at < length:
        if at + 2 > length:
            return False
        size = <uint32_t> p[at + 1] * 8
        if size == 0 or size > length - at:
            return False
        if p[at] == ND_OPTION_SOURCE and size == LINK_OPTION and out.source_mac == NULL:
            out.source_mac = p + at + 2
        elif p[at] == ND_OPTION_TARGET and size == LINK_OPTION and out.target_mac == NULL:
            out.target_mac = p + at + 2
        elif p[at] == ND_OPTION_NONCE and out.nonce == NULL:
            out.nonce = p + at + 2
            out.nonce_length = size - 2
        elif p[at] == ND_OPTION_MTU and size == 8:
            out.mtu = load_be32(p + at + 4)
        at += size
    return True


cdef bint is_solicited_node(const address_t *a) noexcept nogil:
    cdef address_t group
    solicited_node(a, &group)
    return address_equal(a, &group)


cdef DropReason solicited(packet_in_t *packet, const address_t *target, const nd_options_t *options,
                          int64_t now_ns) noexcept nogil:
    """A neighbour solicitation (RFC 4861 sections 7.1.1, 7.2.3; RFC 4862 section 5.4.3)."""
    cdef interface_t *ifc = packet.interface
    cdef bint probe = address_is_unspecified6(&packet.src)
    cdef held_t *trial = trial_of(ifc, target)
    cdef neighbor_t *n
    cdef address_t everybody
    if probe and (options.source_mac != NULL or not is_solicited_node(&packet.dst)):
        return DROP_ND_INVALID
    if options.source_mac != NULL and options.source_mac[0] & 1:
        return DROP_ND_INVALID
    if trial != NULL:
        if not probe:
            return DROP_ND_IGNORED           # it is not ours yet
        if options.nonce_length == IP6_NONCE and memcmp(options.nonce, trial.nonce, IP6_NONCE) == 0:
            return DROP_ND_IGNORED           # our own, come back (RFC 7527 section 4.2)
        trial_conflict(ifc, trial, now_ns)
        return DROP_NONE
    if interface_index_of(ifc, target) < 0:
        return DROP_ND_IGNORED
    if probe:
        all_nodes(&everybody)
        return DROP_NONE if advertise(ifc, target, NULL, &everybody, FLAG_OVERRIDE, now_ns) else DROP_TX_FULL
    n = neighbor_find(&ifc.neighbors, &packet.src)
    if n != NULL and n.state != NEIGHBOR_INCOMPLETE and n.state != NEIGHBOR_FAILED and options.source_mac != NULL \
            and memcmp(n.mac, options.source_mac, 6) != 0:
        nud_contradicted(ifc, n, now_ns)
    # To whom asks, at the address he names; who names none is where his frame came from.
    return DROP_NONE if advertise(
        ifc, target, options.source_mac if options.source_mac != NULL else packet.frame.head + 6, &packet.src,
        FLAG_SOLICITED | FLAG_OVERRIDE, now_ns) else DROP_TX_FULL


cdef DropReason advertised(packet_in_t *packet, const uint8_t *p, const address_t *target, const nd_options_t *options,
                           int64_t now_ns) noexcept nogil:
    """A neighbour advertisement (RFC 4861 sections 7.1.2, 7.2.5; RFC 4862 section 5.4.4)."""
    cdef interface_t *ifc = packet.interface
    cdef uint8_t flags = p[4]
    cdef const uint8_t *mac = options.target_mac
    cdef held_t *trial
    cdef neighbor_t *n
    if address_is_unspecified6(&packet.src) or (flags & FLAG_SOLICITED and address_is_multicast6(&packet.dst)) or \
            (mac != NULL and mac[0] & 1):
        return DROP_ND_INVALID
    trial = trial_of(ifc, target)
    if trial != NULL:
        trial_conflict(ifc, trial, now_ns)
        return DROP_NONE
    if interface_index_of(ifc, target) >= 0:
        ifc.conflicts += 1
        if now_ns - ifc.defended_ns >= DEFEND_NS:
            ifc.defended_ns = now_ns
            nd_announce(ifc, target, now_ns)
        return DROP_ND_UNSOLICITED
    n = neighbor_find(&ifc.neighbors, target)
    if n == NULL or n.state == NEIGHBOR_FAILED:
        return DROP_ND_UNSOLICITED
    if n.state == NEIGHBOR_INCOMPLETE:
        if mac == NULL:
            return DROP_ND_UNSOLICITED
        memcpy(n.mac, mac, 6)
        if flags & FLAG_SOLICITED:
            nud_confirm(ifc, n, now_ns)
        else:
            nud_heard(ifc, n, now_ns)
    elif mac != NULL and memcmp(n.mac, mac, 6) != 0:
        nud_contradicted(ifc, n, now_ns)     # also with the override flag
        return DROP_ND_UNSOLICITED
    elif n.state == NEIGHBOR_PROBE and flags & FLAG_SOLICITED:
        nud_confirm(ifc, n, now_ns)
    else:
        return DROP_ND_UNSOLICITED
    if not flags & FLAG_ROUTER:
        router_left(ifc, target, now_ns)     # a host now (RFC 4861 section 7.2.5)
    return DROP_NONE


cdef DropReason ndp_input(packet_in_t *packet, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil:
    cdef uint8_t type = p[0]
    cdef address_t target
    cdef nd_options_t options
    if type < ND_ROUTER_SOLICITATION or type > ND_REDIRECT:
        return mld_input(packet, p, length, now_ns)
    if packet.ttl != ND_HOP_LIMIT or p[1] != 0:
        return DROP_ND_INVALID
    if type == ND_ROUTER_SOLICITATION:
        return DROP_ND_IGNORED               # for routers
    if type == ND_ROUTER_ADVERTISEMENT:
        return router_input(packet, p, length, now_ns)
    if type == ND_REDIRECT:
        return redirect_input(packet, p, length, now_ns)
    if length < MESSAGE or not nd_options(p, MESSAGE, length, &options):
        return DROP_ND_INVALID
    memcpy(&target, p + 8, 16)
    if address_is_multicast6(&target):
        return DROP_ND_INVALID
    if address_is_link_local(&target):
        address_set_zone(&target, packet.interface.index + 1)
    if type == ND_NEIGHBOR_SOLICITATION:
        return solicited(packet, &target, &options, now_ns)
    return advertised(packet, p, &target, &options, now_ns)
