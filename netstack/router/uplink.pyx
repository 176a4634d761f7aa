# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Frames to and from an uplink's device, by way of the station where there is one."""

from libc.stdlib cimport free

from netstack.clock cimport NEVER
from netstack.router.devices.device cimport frame_t, iovec
from netstack.router.station cimport station_advance, station_free, station_hand, station_input
from netstack.wire.ethernet cimport ETHERNET_HEADER


cdef int uplink_hand(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil:
    cdef uplink_t *uplink = uplink_of(port)
    cdef iovec parts[3]
    port.counters.to_packets += 1
    if uplink.station != NULL:
        return station_hand(port, p, now_ns)
    parts[0].iov_base = p.header
    parts[0].iov_len = p.header_length
    parts[1].iov_base = <void *> (p.head + p.header_length)
    parts[1].iov_len = p.head_length - p.header_length
    parts[2].iov_base = <void *> p.body
    parts[2].iov_len = p.body_length
    return uplink_sent(port, uplink.device.send(uplink.device, parts, 3), p.head_length + p.body_length)


cdef bint uplink_receive(port_t *port, uint8_t **packet, uint32_t *length, int64_t now_ns) noexcept nogil:
    cdef uplink_t *uplink = uplink_of(port)
    cdef frame_t frame
    if not uplink.device.receive(uplink.device, &frame):
        return False
    if uplink.station == NULL:
        packet[0] = frame.data
        length[0] = frame.length
    else:
        packet[0] = frame.data + ETHERNET_HEADER
        length[0] = station_input(port, &frame, now_ns)
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
    if uplink.device.flush != NULL:
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
