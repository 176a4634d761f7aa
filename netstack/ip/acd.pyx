# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Address conflict detection: three probes at random distances, two announcements; defence is `arp_input`'s.

An address on trial is not among the interface's: nothing is sent from it, nothing for it is taken."""

from libc.errno cimport EEXIST, EINVAL, ENOMEM, ENOSPC
from libc.stdint cimport INT64_MAX, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy

from netstack.address cimport address_equal, address_is_v4, address_v4
from netstack.clock cimport NS_PER_S
from netstack.ip.arp cimport arp_announce, arp_probe
from netstack.ip.interface cimport interface_add_address, interface_has_address
from netstack.ip.trial cimport TRIALS, TRIAL_ANNOUNCING, TRIAL_CONFLICT, TRIAL_DONE, TRIAL_PROBING, trial_t
from netstack.link.link cimport MEDIA_ETHERNET
from netstack.siphash cimport random_next

cdef enum:                       # RFC 5227 section 1.1
    PROBE_WAIT_S = 1
    PROBE_NUM = 3
    PROBE_MIN_S = 1
    PROBE_MAX_S = 2
    ANNOUNCE_WAIT_S = 2
    ANNOUNCE_NUM = 2
    ANNOUNCE_INTERVAL_S = 2


cdef int64_t random_between(interface_t *ifc, int64_t low_s, int64_t high_s) noexcept nogil:
    return low_s * NS_PER_S + <int64_t> (random_next(ifc.ip.random) % <uint64_t> ((high_s - low_s) * NS_PER_S))


cdef int acd_begin(interface_t *ifc, const address_t *a, uint8_t prefix_length) noexcept nogil:
    cdef trial_t *t
    cdef uint32_t i
    if not address_is_v4(a) or prefix_length < 96 or prefix_length > 128:
        return -EINVAL
    if ifc.media != MEDIA_ETHERNET:
        return interface_add_address(ifc, a, prefix_length)
    if interface_has_address(ifc, a):
        return -EEXIST
    if ifc.acd == NULL:
        ifc.acd = <acd_t *> calloc(1, sizeof(acd_t))
        if ifc.acd == NULL:
            return -ENOMEM
    t = NULL
    for i in range(ifc.acd.count):
        if address_equal(&ifc.acd.trials[i].address, a):
            if ifc.acd.trials[i].state < TRIAL_CONFLICT:
                return -EEXIST
            t = &ifc.acd.trials[i]                     # tried again after a conflict
    if t == NULL:
        if ifc.acd.count == <uint32_t> TRIALS:
            return -ENOSPC
        t = &ifc.acd.trials[ifc.acd.count]
        ifc.acd.count += 1
    t.address = a[0]
    t.prefix_length = prefix_length
    t.state = TRIAL_PROBING
    t.sent = 0
    t.next_ns = 0                                      # from the first moment we are told of
    return 0


cdef void acd_heard(interface_t *ifc, const arp_t *arp, int64_t now_ns) noexcept nogil:
    """Somebody speaks from the address, or probes for it himself (section 2.1.1)."""
    cdef trial_t *t
    cdef uint32_t i, be
    if ifc.acd == NULL or memcmp(arp.sender_mac, ifc.mac, 6) == 0:
        return
    for i in range(ifc.acd.count):
        t = &ifc.acd.trials[i]
        be = address_v4(&t.address)
        if t.state == TRIAL_PROBING and (arp.sender_be == be or (arp.sender_be == 0 and arp.target_be == be)):
            t.state = TRIAL_CONFLICT
            t.next_ns = INT64_MAX
            memcpy(t.mac, arp.sender_mac, 6)
            ifc.counters.address_conflicts += 1


cdef int64_t acd_next_deadline(const acd_t *acd) noexcept nogil:
    cdef int64_t d = INT64_MAX
    cdef uint32_t i
    if acd == NULL:
        return d
    for i in range(acd.count):
        if acd.trials[i].state < TRIAL_CONFLICT and acd.trials[i].next_ns < d:
            d = acd.trials[i].next_ns
    return d


cdef void acd_advance(interface_t *ifc, int64_t now_ns) noexcept nogil:
    cdef trial_t *t
    cdef uint32_t i
    if ifc.acd == NULL:
        return
    for i in range(ifc.acd.count):
        t = &ifc.acd.trials[i]
        if t.state >= TRIAL_CONFLICT or t.next_ns > now_ns:
            continue
        if t.next_ns == 0:
            t.next_ns = now_ns + 1 + random_between(ifc, 0, PROBE_WAIT_S)
            continue
        if t.state == TRIAL_PROBING and t.sent < PROBE_NUM:
            arp_probe(ifc, address_v4(&t.address), now_ns)
            t.sent += 1
            if t.sent < PROBE_NUM:
                t.next_ns = now_ns + random_between(ifc, PROBE_MIN_S, PROBE_MAX_S)
            else:
                t.next_ns = now_ns + ANNOUNCE_WAIT_S * NS_PER_S
            continue
        if t.state == TRIAL_PROBING:
            if interface_add_address(ifc, &t.address, t.prefix_length) < 0:
                t.state = TRIAL_CONFLICT
                continue
            t.state = TRIAL_ANNOUNCING
            t.sent = 0
        arp_announce(ifc, address_v4(&t.address), now_ns)
        t.sent += 1
        t.next_ns = now_ns + ANNOUNCE_INTERVAL_S * NS_PER_S
        if t.sent == ANNOUNCE_NUM:
            t.state = TRIAL_DONE
