"""ARP for IPv4 over Ethernet (RFC 826): 28 bytes, nothing else is spoken."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from netstack.counters cimport DropReason, DROP_ARP_MALFORMED, DROP_NONE
from netstack.wire.byte_order cimport load_be16, load_be32, load_native32, store_be16, store_be32, store_native32

cdef enum:
    ARP_LENGTH = 28              # bytes
    ARP_REQUEST = 1
    ARP_REPLY = 2


cdef struct arp_t:
    uint16_t operation           # ARP_REQUEST or ARP_REPLY
    uint8_t sender_mac[6]
    uint8_t target_mac[6]
    uint32_t sender_be           # IPv4 addresses as on the wire
    uint32_t target_be


cdef inline DropReason parse_arp(const uint8_t *p, uint32_t available, arp_t *out) noexcept nogil:
    """Read from a private copy. Hardware Ethernet, protocol IPv4, lengths 6 and 4, request or reply, a sender that
    one station can have: anything else is malformed.
    """
    cdef uint32_t sender
    if available < ARP_LENGTH:
        return DROP_ARP_MALFORMED
    if load_be32(p) != 0x00010800 or load_be16(p + 4) != 0x0604:
        return DROP_ARP_MALFORMED
    out.operation = load_be16(p + 6)
    memcpy(out.sender_mac, p + 8, 6)
    out.sender_be = load_native32(p + 14)
    memcpy(out.target_mac, p + 18, 6)
    out.target_be = load_native32(p + 24)
    if out.operation != ARP_REQUEST and out.operation != ARP_REPLY:
        return DROP_ARP_MALFORMED
    if out.sender_mac[0] & 1:
        return DROP_ARP_MALFORMED
    sender = p[14]               # 0.0.0.0 asks whether an address is free (RFC 5227 section 2.1.1)
    if sender == 127 or sender >= 224 or (sender == 0 and out.sender_be != 0):
        return DROP_ARP_MALFORMED
    return DROP_NONE


cdef inline void write_arp(uint8_t *p, uint16_t operation, const uint8_t *sender_mac, uint32_t sender_be,
                           const uint8_t *target_mac, uint32_t target_be) noexcept nogil:
    """Write 28 bytes; target_mac NULL stands for zeros, as in a request."""
    store_be32(p, 0x00010800)
    store_be16(p + 4, 0x0604)
    store_be16(p + 6, operation)
    memcpy(p + 8, sender_mac, 6)
    store_native32(p + 14, sender_be)
    if target_mac == NULL:
        store_be32(p + 18, 0)
        store_be16(p + 22, 0)
    else:
        memcpy(p + 18, target_mac, 6)
    store_native32(p + 24, target_be)
