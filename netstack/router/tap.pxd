"""The TAP uplink: Ethernet towards the kernel, with ARP on both sides. Only IP packets cross to attachments."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.router.port cimport packet_t, port_t

cdef enum:
    NEIGHBORS = 256                  # entries; those in use are never pushed out by new ones
    NEIGHBORS_ASKED = 128            # of them without an answer
    NEIGHBOR_PENDING = 16            # packets that may wait for one answer
    TAP_FRAME_BYTES = 65536 + 64


cdef struct pending_t:
    pending_t *next
    uint32_t length                  # of the IP packet behind this header


cdef struct neighbor_t:
    uint32_t address_be              # 0: free
    uint8_t mac[6]
    uint8_t resolved
    uint8_t probes                   # requests sent without an answer
    uint8_t used                     # since the last probe
    uint8_t pending_count
    pending_t *pending
    int64_t deadline_ns              # next probe, or end of life


cdef struct tap_t:
    int fd
    uint8_t mac[6]
    uint32_t address_be              # the router's own on this side
    uint32_t network_be              # of the uplink's network, 0/0 when everything is reached directly
    uint32_t netmask_be
    uint32_t gateway_be              # 0: none
    int64_t next_deadline_ns
    int gone                         # the device reported an error for good: its errno
    neighbor_t neighbors[NEIGHBORS]
    uint8_t frame[TAP_FRAME_BYTES]


cdef void tap_init(tap_t *tap, int fd) noexcept nogil
cdef void tap_free(tap_t *tap) noexcept nogil
cdef int tap_read(tap_t *tap, uint32_t *length) noexcept nogil
cdef uint32_t tap_ip(tap_t *tap, uint32_t length) noexcept nogil
cdef bint tap_arp_target(tap_t *tap, uint32_t length, uint32_t *target_be) noexcept nogil
cdef void tap_arp(port_t *port, uint32_t length, bint hosted, int64_t now_ns) noexcept nogil
cdef int tap_hand(port_t *port, packet_t *packet, int64_t now_ns) noexcept nogil
cdef void tap_advance(port_t *port, int64_t now_ns) noexcept nogil
