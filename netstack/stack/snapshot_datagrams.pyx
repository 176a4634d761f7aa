"""A socket without connection as a record of a snapshot, and back: what it is, its queues, its groups."""

import struct

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from netstack.address cimport address_t
from netstack.sock cimport SF_BOUND, SF_QUEUED_EVENT, SOCK_RAW
from netstack.stack.core cimport stack_register, stack_t
from netstack.stack.snapshot_format cimport Reader, need, pack, unpack
from netstack.udp.endpoint cimport datagram_t, membership_t, udp_endpoint_init, udp_endpoint_t

QUEUED_FORM = "<16sHI16sBBBBBBiI16s"      # a datagram in a queue: source, how it came; its bytes follow
MEMBERSHIP_FORM = "<16sIBI"


cdef bytes datagram_record(const udp_endpoint_t *ep):
    cdef list out = [pack("datagram", ep)]
    cdef const datagram_t *d = ep.first
    cdef const membership_t *m = ep.memberships
    cdef uint32_t n = 0
    while d != NULL:
        out.append(queued_datagram(d))
        n += 1
        d = d.next
    out.insert(1, struct.pack("<I", n))
    n = 0
    d = ep.first_error
    at = len(out)
    while d != NULL:
        out.append(queued_datagram(d))
        n += 1
        d = d.next
    out.insert(at, struct.pack("<I", n))
    n = 0
    at = len(out)
    while m != NULL:
        out.append(struct.pack(MEMBERSHIP_FORM, (<const char *> &m.group)[:16], m.interface, m.exclude, m.source_count))
        out.append((<const char *> m.sources)[:16 * m.source_count] if m.source_count else b"")
        n += 1
        m = m.next
    out.insert(at, struct.pack("<I", n))
    return b"".join(out)


cdef bytes queued_datagram(const datagram_t *d):
    return struct.pack(QUEUED_FORM, (<const char *> &d.src)[:16], d.sport, d.length,
                       (<const char *> &d.how.dst)[:16], d.how.interface, d.how.ttl, d.how.tos, d.how.origin, d.how.type,
                       d.how.code, d.how.error, d.how.info, (<const char *> &d.how.offender)[:16]) + \
        (<const char *> (d + 1))[:d.length]


cdef datagram_t *read_datagram(Reader r) except NULL:
    """The opposite; the caller puts it into a queue."""
    cdef datagram_t *d
    cdef bytes src, dst, offender, raw
    src, port, length, dst, interface, ttl, tos, origin, type, code, error, info, offender = struct.unpack(
        QUEUED_FORM, r.take(struct.calcsize(QUEUED_FORM)))
    raw = r.take(length)
    d = <datagram_t *> calloc(1, sizeof(datagram_t) + <size_t> length)
    need(d != NULL)
    memcpy(&d.src, <const char *> src, 16)
    memcpy(&d.how.dst, <const char *> dst, 16)
    memcpy(&d.how.offender, <const char *> offender, 16)
    d.sport = port
    d.length = length
    d.how.interface, d.how.ttl, d.how.tos, d.how.origin = interface, ttl, tos, origin
    d.how.type, d.how.code, d.how.error, d.how.info = type, code, error, info
    memcpy(d + 1, <const char *> raw, d.length)
    return d


cdef object restore_datagram(stack_t *c, Reader r, list plan, int64_t shift):
    cdef udp_endpoint_t *ep = <udp_endpoint_t *> calloc(1, sizeof(udp_endpoint_t))
    cdef datagram_t *d
    cdef membership_t *m
    cdef membership_t **last
    cdef bytes raw, group
    need(ep != NULL)
    udp_endpoint_init(ep)
    unpack(r, plan, ep, shift)
    ep.sock.flags &= ~<uint8_t> (SF_QUEUED_EVENT | SF_BOUND)
    if stack_register(c, &ep.sock) != 0:
        free(ep)
        need(False)
    c.raw_count += ep.sock.kind == SOCK_RAW
    for _ in range(r.number("<I")):
        d = read_datagram(r)
        if ep.last == NULL:
            ep.first = d
        else:
            ep.last.next = d
        ep.last = d
        ep.queued += 1
        ep.queued_bytes += d.length + <uint32_t> sizeof(datagram_t)
    for _ in range(r.number("<I")):
        d = read_datagram(r)
        if ep.last_error == NULL:
            ep.first_error = d
        else:
            ep.last_error.next = d
        ep.last_error = d
        ep.error_bytes += d.length + <uint32_t> sizeof(datagram_t)
    last = &ep.memberships
    for _ in range(r.number("<I")):
        group, interface, exclude, count = struct.unpack(MEMBERSHIP_FORM, r.take(struct.calcsize(MEMBERSHIP_FORM)))
        raw = r.take(16 * count)
        m = <membership_t *> calloc(1, sizeof(membership_t))
        need(m != NULL)
        last[0] = m
        last = &m.next
        memcpy(&m.group, <const char *> group, 16)
        m.interface = interface
        m.exclude = exclude
        if count:
            m.sources = <address_t *> malloc(16 * <size_t> count)
            need(m.sources != NULL)
            memcpy(m.sources, <const char *> raw, 16 * <size_t> count)
        m.source_count = count
