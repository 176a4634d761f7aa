# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Frames to and from an uplink's device, by way of the station where there is one."""

from libc.stdlib cimport free
from libc.string cimport memcpy

from netstack.clock cimport NEVER
from netstack.router.devices.device cimport iovec, vnet_t
from netstack.router.port cimport DROP_CHECKSUM
from netstack.router.segments cimport cut_size, describe, join, tcp_is_sound, tcp_view, tcp_view_t
from netstack.router.station cimport station_advance, station_free, station_hand, station_input


cdef void send_joined(port_t *port) noexcept nogil:
    """Those that wait for others: one as it came, more as one frame that is cut elsewhere."""
    cdef uplink_t *uplink = uplink_of(port)
    cdef joined_t *j = &uplink.joined
    cdef device_t *device = uplink.device
    cdef vnet_t vnet
    cdef int packets = j.packets, status
    if packets == 0:
        return
    j.packets = 0
    j.parts[0].iov_base = uplink.ethernet
    j.parts[0].iov_len = uplink.ethernet_length
    j.parts[1].iov_base = j.first
    j.parts[1].iov_len = j.view.headers
    if packets > 1:
        describe(&vnet, j.first, &j.view, uplink.ethernet_length, j.segment)
    uplink.calls += device.flush == NULL
    status = device.send(device, &vnet if packets > 1 else NULL, j.parts, packets + 2)
    if status == 0:
        port.counters.out_packets += packets
        port.counters.out_bytes += j.view.headers * packets + j.view.payload
    else:
        port.counters.drops_out[<int> DROP_LINK] += packets


cdef int send_now(port_t *port, packet_t *p, const vnet_t *vnet, const uint8_t *ethernet,
                  uint32_t ethernet_length) noexcept nogil:
    cdef device_t *device = uplink_of(port).device
    cdef iovec parts[4]
    parts[0].iov_base = <void *> ethernet
    parts[0].iov_len = ethernet_length
    parts[1].iov_base = p.header
    parts[1].iov_len = p.header_length
    parts[2].iov_base = <void *> (p.head + p.header_length)
    parts[2].iov_len = p.head_length - p.header_length
    parts[3].iov_base = <void *> p.body
    parts[3].iov_len = p.body_length
    uplink_of(port).calls += device.flush == NULL
    return uplink_sent(port, device.send(device, vnet, parts, 4), p.head_length + p.body_length)


cdef int send_large(port_t *port, packet_t *p, const uint8_t *ethernet, uint32_t ethernet_length) noexcept nogil:
    """A packet that the device cuts. Its checksum is made anew there, so it is looked at here."""
    cdef tcp_view_t view
    cdef vnet_t vnet
    cdef uint32_t segment
    if not tcp_view(p, &view):
        return send_now(port, p, NULL, ethernet, ethernet_length)
    segment = cut_size(p, &view, port.mtu)
    if segment == 0 or view.payload <= segment:
        return send_now(port, p, NULL, ethernet, ethernet_length)
    if not tcp_is_sound(p, &view):
        port.counters.drops_out[<int> DROP_CHECKSUM] += 1
        return -1
    describe(&vnet, p.header, &view, ethernet_length, segment)
    return send_now(port, p, &vnet, ethernet, ethernet_length)


cdef int uplink_transmit(port_t *port, packet_t *p, const uint8_t *ethernet, uint32_t ethernet_length) noexcept nogil:
    cdef uplink_t *uplink = uplink_of(port)
    cdef bint closed = False, large = p.segment or p.head_length + p.body_length > port.mtu
    cdef int tries
    if not uplink.device.offload:
        return send_now(port, p, NULL, ethernet, ethernet_length)
    for tries in range(2):
        if not large and join(&uplink.joined, p, &closed):
            if uplink.joined.packets == 1:
                memcpy(uplink.ethernet, ethernet, ethernet_length)
                uplink.ethernet_length = ethernet_length
            if closed:
                send_joined(port)
            return 0
        if uplink.joined.packets == 0:
            break
        send_joined(port)                    # those before it go first
    if large:
        return send_large(port, p, ethernet, ethernet_length)
    return send_now(port, p, NULL, ethernet, ethernet_length)


cdef int uplink_hand(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil:
    port.counters.to_packets += 1
    if station_of(port) != NULL:
        return station_hand(port, p, now_ns)
    return uplink_transmit(port, p, uplink_of(port).ethernet, 0)


cdef bint uplink_receive(port_t *port, frame_t *packet, int64_t now_ns) noexcept nogil:
    cdef uplink_t *uplink = uplink_of(port)
    if not uplink.device.receive(uplink.device, packet):
        return False
    if uplink.station != NULL:
        packet.length = station_input(port, packet, now_ns)
        packet.data += ETHERNET_HEADER
    return True


cdef void uplink_advance(port_t *port, int64_t now_ns) noexcept nogil:
    if station_of(port) != NULL:
        station_advance(port, now_ns)


cdef int64_t uplink_deadline(const port_t *port, int64_t now_ns) noexcept nogil:
    cdef int64_t deadline = station_of(port).next_deadline_ns if station_of(port) != NULL else NEVER
    cdef int64_t again_ns = uplink_of(port).device.again_ns
    return now_ns + again_ns if again_ns and now_ns + again_ns < deadline else deadline


cdef void uplink_flush(port_t *port) noexcept nogil:
    cdef uplink_t *uplink = uplink_of(port)
    send_joined(port)
    if uplink.device.flush != NULL:          # one call for what was sent since the last
        uplink.calls += 1
        uplink.device.flush(uplink.device)


cdef void uplink_trouble(port_t *port) noexcept nogil:
    cdef uplink_t *uplink = uplink_of(port)
    if uplink.device.trouble != NULL:
        uplink.device.trouble(uplink.device)


cdef void uplink_free(uplink_t *uplink) noexcept nogil:
    if uplink != NULL and uplink.station != NULL:
        station_free(uplink.station)
        free(uplink.station)
    free(uplink)
