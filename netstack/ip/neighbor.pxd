"""ARP cache of one interface (RFC 826, 1122 section 2.3.2): probe, queue while resolving, expiry.

An entry is made only when we want to send; a reply nobody asked for never makes or changes one (``security.md`` H1 rule:
it is confirmed by a probe first). Entries and queued packets are capped.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t

cdef enum:                       # neighbor_t.state
    NEIGHBOR_FREE = 0
    NEIGHBOR_INCOMPLETE = 1
    NEIGHBOR_REACHABLE = 2
    NEIGHBOR_STALE = 3
    NEIGHBOR_PROBE = 4
    NEIGHBOR_FAILED = 5


cdef struct pending_packet_t:
    pending_packet_t *next
    uint32_t length              # whole frame
    uint8_t *data                # Ethernet header on


cdef struct neighbor_t:
    address_t address
    uint8_t mac[6]
    uint8_t state
    uint8_t probes               # sent so far
    uint8_t queued
    int64_t deadline_ns          # retry, or end of reachability
    int64_t used_ns
    pending_packet_t *first
    pending_packet_t *last


cdef struct neighbor_table_t:
    neighbor_t *entries
    uint32_t count
    uint32_t capacity
