# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Fragmentation. Numbers of datagrams that are cut come from `ip_next_id`; those that are not have number 0 (RFC 6864).

An IPv6 packet gets a fragment header only when it is cut: no atomic fragments, whatever a router says (RFC 8021)."""

from libc.stdint cimport uint16_t
from libc.string cimport memcpy

from netstack.address cimport address_is_v4, address_v4
from netstack.counters cimport DROP_TX_FULL, drop
from netstack.ip.interface cimport CLAIM_FULL, CLAIM_OK, interface_claim, interface_commit, packet_out_t
from netstack.ip.shared cimport ip_next_id, ip_next_id6
from netstack.wire.byte_order cimport store_be16, store_be32, store_native16
from netstack.wire.checksum cimport checksum_finish, checksum_partial
from netstack.wire.ipv4 cimport IPV4_HEADER, IPV4_MF, write_ipv4
from netstack.wire.ipv6 cimport IPV6_HEADER, write_ipv6

cdef enum:
    FRAGMENT_HEADER = 8
    NEXT_HEADER_FRAGMENT = 44


cdef int ip_send(interface_t *ifc, const outgoing_t *d, int64_t now_ns) noexcept nogil:
    cdef packet_out_t out
    cdef bint v4 = address_is_v4(d.dst)
    cdef uint32_t length = d.head_length + d.body_length
    cdef uint32_t ip_length = IPV4_HEADER if v4 else IPV6_HEADER
    cdef int r
    if ip_length + length > d.mtu:
        return send_pieces(ifc, d, v4, now_ns)
    r = interface_claim(ifc, d.next_hop, ip_length + d.head_length, d.body_length, now_ns, &out)
    if r != CLAIM_OK:
        return r
    if v4:
        write_ipv4(out.ip, address_v4(d.src), address_v4(d.dst), d.protocol, ip_length + length, d.tos, d.ttl,
                   0 if d.df else ip_next_id(ifc.ip, d.src, d.dst), d.df)
    else:
        write_ipv6(out.ip, d.src, d.dst, d.protocol, length, d.tos, d.ttl, d.flow_label)
    if d.head_length:
        memcpy(out.ip + ip_length, d.head, d.head_length)
    if d.body_length:
        memcpy(out.body, d.body, d.body_length)
    interface_commit(&out, now_ns)
    return CLAIM_OK


cdef int send_pieces(interface_t *ifc, const outgoing_t *d, bint v4, int64_t now_ns) noexcept nogil:
    cdef packet_out_t out
    cdef uint32_t length = d.head_length + d.body_length, at = 0, n, head
    cdef uint32_t fixed = IPV4_HEADER if v4 else IPV6_HEADER + FRAGMENT_HEADER
    cdef uint32_t room = (d.mtu - fixed) & ~<uint32_t> 7
    cdef uint32_t id = ip_next_id(ifc.ip, d.src, d.dst) if v4 else ip_next_id6(ifc.ip, d.src, d.dst)
    cdef bint more
    cdef int r
    while at < length:
        n = length - at if length - at < room else room
        more = at + n < length
        head = d.head_length if at == 0 else 0         # the smallest MTU holds any transport's header
        r = interface_claim(ifc, d.next_hop, fixed + head, n - head, now_ns, &out)
        if r != CLAIM_OK:
            if at == 0:
                return r
            if r == CLAIM_FULL:
                drop(ifc.counters, DROP_TX_FULL)
            return CLAIM_OK
        if v4:
            write_ipv4(out.ip, address_v4(d.src), address_v4(d.dst), d.protocol, fixed + n, d.tos, d.ttl, <uint16_t> id, False)
            store_be16(out.ip + 6, <uint16_t> ((IPV4_MF if more else 0) | at >> 3))
            store_native16(out.ip + 10, 0)
            store_native16(out.ip + 10, checksum_finish(checksum_partial(out.ip, IPV4_HEADER)))
        else:
            write_ipv6(out.ip, d.src, d.dst, NEXT_HEADER_FRAGMENT, FRAGMENT_HEADER + n, d.tos, d.ttl, d.flow_label)
            out.ip[IPV6_HEADER] = d.protocol
            out.ip[IPV6_HEADER + 1] = 0
            store_be16(out.ip + IPV6_HEADER + 2, <uint16_t> (at | (1 if more else 0)))
            store_be32(out.ip + IPV6_HEADER + 4, id)
        if head:
            memcpy(out.ip + fixed, d.head, head)
        if n > head:
            memcpy(out.body, d.body + (at + head - d.head_length), n - head)
        interface_commit(&out, now_ns)
        ifc.counters.ip_fragments_out += 1
        at += n
    ifc.counters.ip_fragmented += 1
    return CLAIM_OK
