"""An uplink as the data path sees it: a device, and the router's station on it where it carries Ethernet.

Only IP packets cross between uplinks and attachments: whatever else comes from a stack never gets here (security I5).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.router.devices.device cimport device_t, frame_t
from netstack.router.port cimport DROP_LINK, packet_t, port_t
from netstack.router.segments cimport joined_t
from netstack.router.station cimport station_t
from netstack.wire.ethernet cimport ETHERNET_HEADER


cdef struct uplink_t:
    device_t *device
    station_t *station               # NULL: the device carries IP packets, nobody has to be found
    joined_t joined                  # segments of the batch that go out as one frame
    uint8_t ethernet[ETHERNET_HEADER]    # before them
    uint32_t ethernet_length
    uint64_t calls                   # of the system that sending took


cdef inline uplink_t *uplink_of(const port_t *port) noexcept nogil:
    return <uplink_t *> port.uplink


cdef inline station_t *station_of(const port_t *port) noexcept nogil:
    return uplink_of(port).station


cdef inline int uplink_sent(port_t *port, int status, uint32_t length) noexcept nogil:
    """Count what a device's `send` said of a packet: 0, or -1."""
    if status == 0:
        port.counters.out_packets += 1
        port.counters.out_bytes += length
        return 0
    port.counters.drops_out[<int> DROP_LINK] += 1
    return -1


# Send a packet behind an Ethernet header, or have it wait for others of its flow until the end of the batch. 0, or -1.
cdef int uplink_transmit(port_t *port, packet_t *p, const uint8_t *ethernet, uint32_t ethernet_length) noexcept nogil
cdef int uplink_hand(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil      # 0, or -1 when dropped (and counted)
# Look at the next frame: False when there is none. `packet` is the IP packet in it; of 0 bytes: there is none for us.
cdef bint uplink_receive(port_t *port, frame_t *packet, int64_t now_ns) noexcept nogil
cdef void uplink_advance(port_t *port, int64_t now_ns) noexcept nogil
cdef int64_t uplink_deadline(const port_t *port, int64_t now_ns) noexcept nogil
cdef void uplink_flush(port_t *port) noexcept nogil
cdef void uplink_free(uplink_t *uplink) noexcept nogil
cdef void uplink_trouble(port_t *port) noexcept nogil          # epoll reports an error on its descriptor
