# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reading and writing ARP, and neighbour solicitations and advertisements."""

from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy, memset

from netstack.address cimport (
    address_equal, address_from_v4, address_is_any, address_is_multicast6, address_is_unspecified6, address_is_v4, address_v4,
)
from netstack.ip.ndp cimport all_nodes, solicited_node
from netstack.router.devices.device cimport iovec
from netstack.wire.arp cimport ARP_LENGTH, ARP_REPLY, ARP_REQUEST, arp_t, parse_arp, write_arp
from netstack.wire.byte_order cimport load_be16, store_native16
from netstack.wire.checksum cimport checksum_finish, checksum_fold, checksum_partial, checksum_pseudo, checksum_pseudo_ipv6
from netstack.wire.ethernet cimport ETHERNET_HEADER, ETHERTYPE_ARP, ETHERTYPE_IPV6, write_ethernet
from netstack.wire.icmp6 cimport (
    ND_NEIGHBOR_ADVERTISEMENT, ND_NEIGHBOR_SOLICITATION, ND_OPTION_SOURCE, ND_OPTION_TARGET, ND_REDIRECT,
    ND_ROUTER_SOLICITATION,
)
from netstack.wire.ipv6 cimport IPV6_HEADER, PROTOCOL_ICMPV6, write_ipv6

cdef enum:
    MINIMUM_FRAME = 60               # bytes without check sequence (IEEE 802.3 section 3.2.7)
    MESSAGE = 24                     # bytes of a neighbour message without options
    LINK_OPTION = 8                  # of an option with an Ethernet address
    HOP_LIMIT = 255                  # what came over a router is none (RFC 4861 section 3.1)
    FLAG_ROUTER = 0x80               # of an advertisement
    FLAG_SOLICITED = 0x40
    FLAG_OVERRIDE = 0x20


# ---- hearing

cdef int hear_arp(const uint8_t *p, uint32_t length, heard_t *out) noexcept nogil:
    cdef arp_t arp
    if parse_arp(p, length, &arp) != 0:
        return MALFORMED
    address_from_v4(&out.claimed, arp.sender_be)
    memcpy(out.mac, arp.sender_mac, 6)
    out.located = True
    if arp.operation == ARP_REQUEST:
        address_from_v4(&out.about, arp.target_be)
        out.to = out.claimed
        return QUESTION if arp.sender_be != arp.target_be else ANSWER        # the latter: an announcement
    address_from_v4(&out.to, arp.target_be)
    out.solicited = True
    return ANSWER


cdef inline bint is_solicited_node(const address_t *a) noexcept nogil:
    cdef address_t group
    solicited_node(a, &group)
    return address_equal(a, &group)


cdef int hear_nd(const uint8_t *p, uint32_t length, heard_t *out) noexcept nogil:
    """A packet that `is_discovery` takes for one: checks of RFC 4861 sections 7.1.1 and 7.1.2."""
    cdef const uint8_t *message = p + IPV6_HEADER
    cdef uint32_t total = load_be16(p + 4), at = MESSAGE, size
    cdef uint8_t wanted
    cdef bint asks = message[0] == ND_NEIGHBOR_SOLICITATION
    cdef address_t source, destination
    if length < total + IPV6_HEADER or total < MESSAGE or p[7] != HOP_LIMIT or message[1] != 0:
        return MALFORMED
    if not asks and message[0] != ND_NEIGHBOR_ADVERTISEMENT:
        return MALFORMED                     # redirects and what routers say are nothing to us
    if checksum_fold(<uint64_t> checksum_partial(message, total)
                     + checksum_pseudo_ipv6(p + 8, p + 24, PROTOCOL_ICMPV6, total)) != 0xffff:
        return MALFORMED
    memcpy(&source, p + 8, 16)
    memcpy(&destination, p + 24, 16)
    memcpy(&out.about, message + 8, 16)
    if address_is_multicast6(&out.about) or address_is_multicast6(&source):
        return MALFORMED
    wanted = ND_OPTION_SOURCE if asks else ND_OPTION_TARGET
    while at < total:
        if at + 2 > total:
            return MALFORMED
        size = <uint32_t> message[at + 1] * 8
        if size == 0 or size > total - at:
            return MALFORMED
        if message[at] == wanted and size == LINK_OPTION and not out.located:
            memcpy(out.mac, message + at + 2, 6)
            out.located = True
        at += size
    if out.located and out.mac[0] & 1:
        return MALFORMED
    if asks:
        if address_is_unspecified6(&source) and (out.located or not is_solicited_node(&destination)):
            return MALFORMED
        out.claimed = out.to = source
        return QUESTION
    out.solicited = message[4] & FLAG_SOLICITED != 0
    if address_is_unspecified6(&source) or (out.solicited and address_is_multicast6(&destination)):
        return MALFORMED
    out.claimed = out.about
    out.to = destination
    return ANSWER


cdef bint is_discovery(const uint8_t *packet, uint32_t length) noexcept nogil:
    return length >= IPV6_HEADER + 8 and packet[0] >> 4 == 6 and packet[6] == PROTOCOL_ICMPV6 and \
        ND_ROUTER_SOLICITATION <= packet[IPV6_HEADER] <= ND_REDIRECT


cdef int hear(const uint8_t *frame, uint32_t length, heard_t *out) noexcept nogil:
    cdef uint16_t kind
    if length < ETHERNET_HEADER:
        return NOTHING
    kind = load_be16(frame + 12)
    length -= ETHERNET_HEADER
    memset(out, 0, sizeof(heard_t))
    if kind == ETHERTYPE_ARP:
        return hear_arp(frame + ETHERNET_HEADER, length, out)
    if kind == ETHERTYPE_IPV6 and is_discovery(frame + ETHERNET_HEADER, length):
        return hear_nd(frame + ETHERNET_HEADER, length, out)
    return NOTHING


# ---- speaking

cdef void put(device_t *device, uint8_t *frame, uint32_t length) noexcept nogil:
    cdef iovec part
    part.iov_base = frame
    part.iov_len = length
    if device.send(device, NULL, &part, 1) == 0 and device.flush != NULL:
        device.flush(device)


cdef void send_arp(device_t *device, const uint8_t *mac, uint16_t operation, const uint8_t *to, uint32_t sender_be,
                   const uint8_t *target_mac, uint32_t target_be) noexcept nogil:
    cdef uint8_t frame[MINIMUM_FRAME]
    memset(frame, 0, MINIMUM_FRAME)
    write_ethernet(frame, to, mac, ETHERTYPE_ARP)
    write_arp(frame + ETHERNET_HEADER, operation, mac, sender_be, target_mac, target_be)
    put(device, frame, MINIMUM_FRAME)


cdef void send_nd(device_t *device, const uint8_t *mac, uint8_t type, uint8_t flags, const address_t *about,
                  const uint8_t *to_mac, const address_t *source, const address_t *to) noexcept nogil:
    """A neighbour message with the option that tells our hardware address. to_mac NULL: the group's."""
    cdef uint8_t frame[ETHERNET_HEADER + IPV6_HEADER + MESSAGE + LINK_OPTION]
    cdef uint8_t *message = frame + ETHERNET_HEADER + IPV6_HEADER
    cdef uint8_t group[6]
    if to_mac == NULL:
        group[0] = 0x33                      # RFC 2464 section 7
        group[1] = 0x33
        memcpy(group + 2, <const uint8_t *> to + 12, 4)
        to_mac = group
    write_ethernet(frame, to_mac, mac, ETHERTYPE_IPV6)
    write_ipv6(frame + ETHERNET_HEADER, source, to, PROTOCOL_ICMPV6, MESSAGE + LINK_OPTION, 0, HOP_LIMIT, 0)
    memset(message, 0, 8)
    message[0] = type
    message[4] = flags
    memcpy(message + 8, about, 16)
    message[MESSAGE] = ND_OPTION_SOURCE if type == ND_NEIGHBOR_SOLICITATION else ND_OPTION_TARGET
    message[MESSAGE + 1] = 1                 # in units of 8 bytes
    memcpy(message + MESSAGE + 2, mac, 6)
    store_native16(message + 2, checksum_finish(
        <uint64_t> checksum_partial(message, MESSAGE + LINK_OPTION)
        + checksum_pseudo(source, to, PROTOCOL_ICMPV6, MESSAGE + LINK_OPTION)))
    put(device, frame, ETHERNET_HEADER + IPV6_HEADER + MESSAGE + LINK_OPTION)


cdef void send_question(device_t *device, const uint8_t *mac, const address_t *source, const address_t *about,
                        const uint8_t *to) noexcept nogil:
    cdef uint8_t everybody[6]
    cdef address_t group
    if address_is_v4(about):
        memset(everybody, 0xff, 6)
        send_arp(device, mac, ARP_REQUEST, to if to != NULL else everybody, address_v4(source), NULL, address_v4(about))
    elif to != NULL:
        send_nd(device, mac, ND_NEIGHBOR_SOLICITATION, 0, about, to, source, about)
    else:
        solicited_node(about, &group)
        send_nd(device, mac, ND_NEIGHBOR_SOLICITATION, 0, about, NULL, source, &group)


cdef void send_answer(device_t *device, const uint8_t *mac, const address_t *about, const uint8_t *to_mac,
                      const address_t *to, bint router) noexcept nogil:
    cdef uint8_t flags = FLAG_OVERRIDE | (FLAG_ROUTER if router else 0)
    cdef address_t group
    if address_is_v4(about):
        send_arp(device, mac, ARP_REPLY, to_mac, address_v4(about), to_mac, address_v4(to))
    elif address_is_any(to):                 # somebody tries the address (RFC 4862 section 5.4.3)
        all_nodes(&group)
        send_nd(device, mac, ND_NEIGHBOR_ADVERTISEMENT, flags, about, NULL, about, &group)
    else:
        send_nd(device, mac, ND_NEIGHBOR_ADVERTISEMENT, flags | FLAG_SOLICITED, about, to_mac, about, to)


cdef void send_announcement(device_t *device, const uint8_t *mac, const address_t *about) noexcept nogil:
    cdef uint8_t everybody[6]
    cdef address_t group
    if address_is_v4(about):
        memset(everybody, 0xff, 6)
        send_arp(device, mac, ARP_REQUEST, everybody, address_v4(about), NULL, address_v4(about))
    else:
        all_nodes(&group)
        send_nd(device, mac, ND_NEIGHBOR_ADVERTISEMENT, FLAG_OVERRIDE, about, NULL, about, &group)


cdef void link_local_of(const uint8_t *mac, address_t *out) noexcept nogil:
    cdef uint8_t *p = <uint8_t *> out
    memset(out, 0, sizeof(address_t))
    p[0] = 0xfe
    p[1] = 0x80
    p[8] = mac[0] ^ 2
    p[9] = mac[1]
    p[10] = mac[2]
    p[11] = 0xff
    p[12] = 0xfe
    p[13] = mac[3]
    p[14] = mac[4]
    p[15] = mac[5]
