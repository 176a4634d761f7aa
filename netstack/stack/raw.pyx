"""Raw sockets stand in the table of bound ports under their protocol's number. Of IPv4 they hear whole packets, of IPv6 what
follows the headers; what they hear goes its usual way as well."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from netstack.address cimport address_equal, address_is_any, address_is_v4
from netstack.counters cimport DROP_NONE, DropReason
from netstack.demux cimport demux_first
from netstack.ip.interface cimport packet_copy
from netstack.sock cimport SF_V6, SOCK_RAW, sock_t
from netstack.stack.multicast cimport multicast_wanted
from netstack.udp.endpoint cimport EM_CHECKSUM, datagram_t, endpoint_append, endpoint_room
from netstack.wire.checksum cimport checksum_fold, checksum_partial, checksum_pseudo
from netstack.wire.ipv4 cimport PROTOCOL_ICMP
from netstack.wire.ipv6 cimport PROTOCOL_ICMPV6



cdef void arrival_of(const packet_in_t *packet, arrival_t *how) noexcept nogil:
    cdef uint32_t i
    memset(how, 0, sizeof(arrival_t))
    how.dst = packet.dst
    how.interface = <uint8_t> packet.interface.index
    how.ttl = packet.ttl
    how.tos = packet.tos
    how.offender = packet.dst
    if packet.broadcast:                               # our own address there, for IP_PKTINFO
        for i in range(packet.interface.address_count):
            if address_is_v4(&packet.interface.addresses[i]) == address_is_v4(&packet.dst):
                how.offender = packet.interface.addresses[i]
                break


cdef bint raw_wants(const udp_endpoint_t *ep, const packet_in_t *packet) noexcept nogil:
    cdef bint v4 = address_is_v4(&packet.src)
    cdef uint8_t type
    if ep.lport != packet.protocol or v4 != (ep.sock.flags & SF_V6 == 0) or ep.shutdown & 1:
        return False
    if not address_is_any(&ep.local) and not address_equal(&ep.local, &packet.dst):
        return False
    if ep.connected and not address_equal(&ep.remote, &packet.src):
        return False
    if not multicast_wanted(ep, packet):
        return False
    if packet.protocol == (PROTOCOL_ICMP if v4 else PROTOCOL_ICMPV6) and packet.header_bytes > packet.header_length:
        type = packet.header[packet.header_length]
        if (type < 32 or not v4) and ep.filter[type >> 5] >> (type & 31) & 1:
            return False
    return True


cdef bint raw_input(stack_t *stack, packet_in_t *packet) noexcept nogil:
    cdef sock_t *sock = demux_first(&stack.demux, SOCK_RAW, packet.protocol)
    cdef bint heard = False
    while sock != NULL:
        if sock.kind == SOCK_RAW and raw_wants(<udp_endpoint_t *> sock, packet):
            heard = give_copy(stack, <udp_endpoint_t *> sock, packet) or heard
        sock = sock.bind_next
    return heard


cdef bint give_copy(stack_t *stack, udp_endpoint_t *ep, packet_in_t *packet) noexcept nogil:
    cdef bint v4 = address_is_v4(&packet.src)
    cdef uint32_t at = 0 if v4 else packet.header_length, length = packet.length - at
    cdef DropReason reason = DROP_NONE
    cdef datagram_t *d = endpoint_room(ep, length, &reason)
    if d == NULL:
        return True                                    # its queue is full, counted there; the protocol is not unknown
    packet_copy(packet, at, <uint8_t *> (d + 1), length)
    if not v4 and (ep.modes & EM_CHECKSUM or packet.protocol == PROTOCOL_ICMPV6) and checksum_fold(
            <uint64_t> checksum_pseudo(&packet.src, &packet.dst, packet.protocol, length)
            + checksum_partial(<const uint8_t *> (d + 1), length)) != 0xffff:
        free(d)                                        # RFC 3542 section 3.1
        return True
    d.src = packet.src
    arrival_of(packet, &d.how)
    endpoint_append(ep, &stack.tcp.events, d)
    stack.tcp.counters.raw_in += 1
    return True
