"""The router as a station on an Ethernet: it answers for the addresses it hosts, finds its neighbours, and tells of addresses
that arrive. What carries its frames is a device.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.router.devices.device cimport device_t, frame_t
from netstack.router.neighbors cimport neighbors_t
from netstack.router.port cimport packet_t, port_t
from netstack.router.routes cimport routes_t
from netstack.router.table cimport table_t


cdef struct side_t:                  # of one version of IP
    address_t own                    # who asks; zero: nobody
    address_t base                   # the network that is reached directly, when there is a gateway
    address_t mask
    address_t gateway
    bint routed                      # there is one; else everything is reached directly


cdef struct station_t:
    uint8_t mac[6]
    device_t *device
    const table_t *table             # addresses it answers for, beside its own
    const routes_t *routes           # and those of blocks that live behind attachments
    side_t v4
    side_t v6
    address_t link_local             # what asks for neighbours that are link-local
    int64_t next_deadline_ns
    neighbors_t neighbors


cdef int station_init(station_t *s, device_t *device, const uint8_t *mac, const table_t *table,
                      const routes_t *routes, const uint64_t *key) noexcept nogil        # -1 without memory
cdef void station_free(station_t *s) noexcept nogil
cdef inline side_t *station_side(station_t *s, const address_t *a) noexcept nogil:
    return &s.v6 if a.hi else &s.v4
# A frame came in. Bytes of its IP packet, which begins behind the Ethernet header; 0: it is none, or not for us.
cdef uint32_t station_input(port_t *port, frame_t *frame, int64_t now_ns) noexcept nogil
# Send an IP packet to its neighbour, or keep it until he is found. 0, or -1 when dropped (and counted).
cdef int station_hand(port_t *port, packet_t *p, int64_t now_ns) noexcept nogil
# Ask again what is due, and give up on who does not answer.
cdef void station_advance(port_t *port, int64_t now_ns) noexcept nogil
# An address has arrived: all on the link should send to us.
cdef void station_announce(station_t *s, const address_t *a) noexcept nogil
