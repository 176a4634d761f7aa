# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Neighbours (with the packets that wait for them) and limits of an interface, in a versioned form.

Free places of the table are kept too: the order in which entries are asked again is part of the state.
"""

import struct

from libc.stdint cimport INT64_MAX, INT64_MIN, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from netstack.ip.neighbor cimport (
    NEIGHBOR_FAILED, NEIGHBOR_FREE, NEIGHBOR_INCOMPLETE, NEIGHBOR_MAX, NEIGHBOR_QUEUE_MAX, neighbor_append,
    neighbor_claim, neighbor_commit, neighbor_schedule, neighbor_t, pending_packet_t,
)

cdef enum:
    VERSION = 1

HEADER = struct.Struct("<BHqqQQH")       # version, ip_id, bucket and defence (ns from now), conflicts, places
ENTRY = struct.Struct("<16s6sBBBqqq")    # address, mac, state, probes, queued; deadline, used, confirmed (ns from now)
PENDING = struct.Struct("<II")           # head length, whole length

cdef int64_t FAR = INT64_MAX // 4        # times further away than this stay where they are


cdef int64_t remaining(int64_t t_ns, int64_t now_ns) noexcept:
    """From a time to a distance; "never" and "long ago" keep their meaning under any clock."""
    if t_ns > FAR:
        return INT64_MAX
    return INT64_MIN if t_ns < -FAR else t_ns - now_ns


cdef int64_t absolute(int64_t distance_ns, int64_t now_ns) noexcept:
    if distance_ns > FAR:
        return INT64_MAX
    return INT64_MIN // 2 if distance_ns < -FAR else distance_ns + now_ns


cdef bytes interface_save(const interface_t *ifc, int64_t now_ns):
    cdef const neighbor_t *n
    cdef const pending_packet_t *p
    cdef uint32_t i
    parts = [HEADER.pack(VERSION, ifc.ip_id, remaining(ifc.icmp_tokens_ns, now_ns), remaining(ifc.defended_ns, now_ns),
                         ifc.conflicts, ifc.neighbors.conflicts, ifc.neighbors.count)]
    for i in range(ifc.neighbors.count):
        n = &ifc.neighbors.entries[i]
        parts.append(ENTRY.pack((<const uint8_t *> &n.address)[:16], (<const uint8_t *> n.mac)[:6], n.state, n.probes,
                                n.queued, remaining(n.deadline_ns, now_ns), remaining(n.used_ns, now_ns),
                                remaining(n.confirmed_ns, now_ns)))
        p = n.first
        while p != NULL:
            parts.append(PENDING.pack(p.head_length, p.length))
            parts.append((<const uint8_t *> p.data)[:p.length])
            p = p.next
    return b"".join(parts)


cdef int interface_restore(interface_t *ifc, bytes data, int64_t now_ns) except -1:
    cdef neighbor_t *n
    cdef pending_packet_t *p
    cdef Py_ssize_t at = HEADER.size
    cdef uint32_t i, places, head, length
    cdef int queued
    try:
        version, ip_id, tokens, defended, ours, theirs, places = HEADER.unpack_from(data)
        if version != VERSION or places > NEIGHBOR_MAX or ifc.neighbors.count:
            raise ValueError(f"interface state of version {version} with {places} neighbours")
        for i in range(places):
            address, mac, state, probes, queued, deadline, used, confirmed = ENTRY.unpack_from(data, at)
            at += ENTRY.size
            if state > NEIGHBOR_FAILED or queued > NEIGHBOR_QUEUE_MAX or (
                    queued and state in (NEIGHBOR_FREE, NEIGHBOR_FAILED)):
                raise ValueError(f"neighbour in state {state} with {queued} packets")
            n = neighbor_append(&ifc.neighbors)
            if n == NULL:
                raise MemoryError
            memcpy(&n.address, <const char *> address, 16)
            memcpy(n.mac, <const char *> mac, 6)
            n.state = state
            n.probes = probes
            n.deadline_ns = absolute(deadline, now_ns)
            n.used_ns = absolute(used, now_ns)
            n.confirmed_ns = absolute(confirmed, now_ns)
            ifc.neighbors.incomplete += state == NEIGHBOR_INCOMPLETE
            for _ in range(queued):
                head, length = PENDING.unpack_from(data, at)
                at += PENDING.size
                if not ifc.link_header <= head <= length or length > <uint32_t> ifc.link_header + 65535 or length > len(data) - at:
                    raise ValueError(f"a waiting frame of {head} of {length} bytes")
                p = neighbor_claim(&ifc.neighbors, n, head, length - head)
                if p == NULL:
                    raise MemoryError
                memcpy(p.data, <const char *> data + at, length)
                neighbor_commit(&ifc.neighbors, p)
                at += length
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes too many")
    except struct.error as error:
        raise ValueError(f"interface state cut short: {error}") from None
    ifc.ip_id = ip_id
    ifc.icmp_tokens_ns = absolute(tokens, now_ns)
    ifc.defended_ns = absolute(defended, now_ns)
    ifc.conflicts = ours
    ifc.neighbors.conflicts = theirs
    neighbor_schedule(&ifc.neighbors)
    return 0
