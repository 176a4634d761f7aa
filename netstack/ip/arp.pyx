# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The ARP protocol over the neighbour table."""

from libc.stdint cimport uint16_t
from libc.string cimport memcmp, memcpy

from netstack.address cimport address_from_v4, address_t, address_v4
from netstack.counters cimport DROP_ARP_UNSOLICITED, DROP_NONE, DROP_TX_FULL
from netstack.ip.acd cimport acd_heard
from netstack.ip.neighbor cimport NEIGHBOR_FAILED, NEIGHBOR_INCOMPLETE, NEIGHBOR_PROBE, neighbor_find
from netstack.ip.nud cimport nud_confirm, nud_contradicted
from netstack.ip.route cimport address_in_prefix
from netstack.link.link cimport link_t
from netstack.wire.arp cimport ARP_LENGTH, ARP_REPLY, ARP_REQUEST, arp_t, parse_arp, write_arp
from netstack.wire.ethernet cimport ETHERNET_HEADER, ETHERTYPE_ARP, write_ethernet

cdef int64_t DEFEND_NS = 10000000000     # RFC 5227 section 2.4 DEFEND_INTERVAL

cdef uint8_t[6] BROADCAST_MAC
BROADCAST_MAC[:] = [255, 255, 255, 255, 255, 255]


# ---- sending ---------------------------------------------------------------

cdef bint send_arp(interface_t *ifc, uint16_t operation, const uint8_t *to, uint32_t sender_be,
                   const uint8_t *target_mac, uint32_t target_be, int64_t now_ns) noexcept nogil:
    """One ARP frame; False when the link has no room."""
    cdef link_t *link = ifc.link
    cdef uint8_t *head
    cdef uint8_t *body
    if link.claim(link, ETHERNET_HEADER + ARP_LENGTH, 0, &head, &body) != 0:
        return False
    write_ethernet(head, to, ifc.mac, ETHERTYPE_ARP)
    write_arp(head + ETHERNET_HEADER, operation, ifc.mac, sender_be, target_mac, target_be)
    link.commit(link, now_ns)
    ifc.flushed = 0
    ifc.counters.packets_out += 1
    ifc.counters.bytes_out += ETHERNET_HEADER + ARP_LENGTH
    return True


cdef uint32_t source_for(const interface_t *ifc, const address_t *target) noexcept nogil:
    """Our address in the target's prefix, else the first one; 0.0.0.0 without addresses (an ARP probe)."""
    cdef uint32_t i
    cdef uint32_t first = 0
    for i in range(ifc.address_count):
        if address_in_prefix(target, &ifc.addresses[i], ifc.prefix_lengths[i]):
            return ifc.v4[i]
        if first == 0:
            first = ifc.v4[i]
    return first


cdef bint arp_ask(interface_t *ifc, neighbor_t *n, const uint8_t *to, int64_t now_ns) noexcept nogil:
    return send_arp(ifc, ARP_REQUEST, to if to != NULL else BROADCAST_MAC, source_for(ifc, &n.address), NULL,
                    address_v4(&n.address), now_ns)


cdef void arp_announce(interface_t *ifc, uint32_t address_be, int64_t now_ns) noexcept nogil:
    """Tell the link that the address is ours (RFC 5227 section 2.3)."""
    send_arp(ifc, ARP_REQUEST, BROADCAST_MAC, address_be, NULL, address_be, now_ns)


cdef void arp_probe(interface_t *ifc, uint32_t address_be, int64_t now_ns) noexcept nogil:
    """RFC 5227 section 2.1.1: a question that names no sender, so that nobody takes it for an answer."""
    send_arp(ifc, ARP_REQUEST, BROADCAST_MAC, 0, NULL, address_be, now_ns)


# ---- hearing ---------------------------------------------------------------

cdef bint is_ours(const interface_t *ifc, uint32_t be) noexcept nogil:
    cdef uint32_t i
    for i in range(ifc.address_count):
        if ifc.v4[i] == be and be != 0:          # 0 stands for IPv6 addresses
            return True
    return False


cdef DropReason arp_input(interface_t *ifc, const uint8_t *p, uint32_t length, int64_t now_ns) noexcept nogil:
    cdef arp_t arp
    cdef address_t sender
    cdef neighbor_t *n
    cdef DropReason reason = parse_arp(p, length, &arp)
    if reason != DROP_NONE:
        return reason
    if memcmp(arp.sender_mac, ifc.mac, 6) == 0:      # our own frame, come back
        return DROP_ARP_UNSOLICITED
    acd_heard(ifc, &arp, now_ns)
    if is_ours(ifc, arp.sender_be):
        ifc.conflicts += 1
        ifc.counters.address_conflicts += 1
        if now_ns - ifc.defended_ns >= DEFEND_NS:
            ifc.defended_ns = now_ns
            arp_announce(ifc, arp.sender_be, now_ns)
        return DROP_ARP_UNSOLICITED

    address_from_v4(&sender, arp.sender_be)
    n = neighbor_find(&ifc.neighbors, &sender)
    if arp.operation == ARP_REPLY:
        if n == NULL or not is_ours(ifc, arp.target_be):
            if n != NULL and n.state != NEIGHBOR_INCOMPLETE and memcmp(n.mac, arp.sender_mac, 6) != 0:
                nud_contradicted(ifc, n, now_ns)
            return DROP_ARP_UNSOLICITED
        if n.state == NEIGHBOR_INCOMPLETE:
            memcpy(n.mac, arp.sender_mac, 6)
            nud_confirm(ifc, n, now_ns)
            return DROP_NONE
        if n.state == NEIGHBOR_PROBE and memcmp(n.mac, arp.sender_mac, 6) == 0:
            nud_confirm(ifc, n, now_ns)
            return DROP_NONE
        if memcmp(n.mac, arp.sender_mac, 6) != 0 and n.state != NEIGHBOR_FAILED:
            nud_contradicted(ifc, n, now_ns)
        return DROP_ARP_UNSOLICITED

    if n != NULL and n.state != NEIGHBOR_INCOMPLETE and n.state != NEIGHBOR_FAILED \
            and memcmp(n.mac, arp.sender_mac, 6) != 0:
        nud_contradicted(ifc, n, now_ns)
    if is_ours(ifc, arp.target_be):
        if not send_arp(ifc, ARP_REPLY, arp.sender_mac, arp.target_be, arp.sender_mac, arp.sender_be, now_ns):
            return DROP_TX_FULL
    return DROP_NONE
