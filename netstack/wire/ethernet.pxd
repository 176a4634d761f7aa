"""Ethernet II headers (RFC 894): 14 bytes, no VLAN tags."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from netstack.counters cimport DropReason, DROP_LINK_MALFORMED, DROP_NONE
from netstack.wire.byte_order cimport load_be16, store_be16

cdef enum:
    ETHERNET_HEADER = 14         # bytes
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_ARP = 0x0806
    ETHERTYPE_IPV6 = 0x86dd


cdef struct ethernet_t:
    uint8_t dst[6]
    uint8_t src[6]
    uint16_t ethertype           # host order


cdef inline DropReason parse_ethernet(const uint8_t *p, uint32_t available, ethernet_t *out) noexcept nogil:
    """Read the header from link memory, each byte once. A group address as source is malformed (IEEE 802.3 3.2.3)."""
    if available < ETHERNET_HEADER:
        return DROP_LINK_MALFORMED
    memcpy(out.dst, p, 12)       # dst and src lie side by side
    out.ethertype = load_be16(p + 12)
    if out.src[0] & 1:
        return DROP_LINK_MALFORMED
    return DROP_NONE


cdef inline void write_ethernet(uint8_t *p, const uint8_t *dst, const uint8_t *src,
                                uint16_t ethertype) noexcept nogil:
    memcpy(p, dst, 6)
    memcpy(p + 6, src, 6)
    store_be16(p + 12, ethertype)


cdef inline bint ethernet_is_group(const uint8_t *mac) noexcept nogil:
    """Broadcast or multicast."""
    return mac[0] & 1


cdef bytes mac_bytes(object mac)
