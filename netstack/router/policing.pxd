"""TCPs that misbehave: found by what passes the router, which sees both directions, and held down if told so.

The hooks below are the data path's. None allocates, and what they believe of a packet never makes somebody else guilty:
what could be a misunderstanding ends the watching of that connection.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.router.packet cimport packet_t
from netstack.router.port cimport port_t
from netstack.router.watched cimport watch_t, watched_t
from netstack.wire.ipv4 cimport PROTOCOL_TCP

cdef enum:
    FINDINGS = 64                    # that wait to be told
    PENALTY_SOURCE = 0xffffffff      # of packets in a queue: of all that is put back


cpdef enum Misdeed:
    NO_BACK_OFF = 0                  # goes on sending at its rate though much of it is dropped
    ACK_DIVISION                     # acknowledges more often than it gets segments
    OPTIMISTIC_ACK                   # acknowledges what was not handed to it
    WINDOW_OVERRUN                   # sends beyond the window that it was offered


cpdef enum Policy:
    POLICY_OFF = 0                   # nobody is watched
    POLICY_COUNT                     # found, told, and nothing else
    POLICY_MARK                      # its packets are marked (ECN), or one in eight is dropped
    POLICY_CLAMP                     # the window that its acknowledgements offer is made small
    POLICY_PENALTY                   # its packets wait in a queue with a small share, where they have to wait
    POLICY_DETACH                    # whoever did what cannot happen by mistake is detached; the rest is counted


cdef enum:                           # what becomes of a packet
    PASS = 0
    DISCARD = 1
    CUT_OFF = 2                      # its attachment has to go
    HIDDEN = 3                       # its headers go on where they cannot be read: nothing was judged


cdef struct finding_t:
    uint64_t key[5]                  # of the connection (`watched_t`)
    int64_t when_ns
    uint64_t port                    # id of who did it
    uint64_t amount                  # bytes sent (NO_BACK_OFF), acknowledged too early or beyond the window; acknowledgements
    uint32_t culprit                 # which end: half of the connection
    uint32_t misdeed


cdef struct police_t:
    watch_t watch
    int policy
    uint64_t found                   # findings so far; the last FINDINGS of them are kept
    uint64_t told                    # taken by control
    finding_t findings[FINDINGS]
    bint news                        # control should look


cdef inline bint may_be_tcp(const uint8_t *h) noexcept nogil:
    """In a header of at least 20 bytes: is it TCP, or behind headers of IPv6 where it may be?"""
    if h[0] >> 4 == 4:
        return h[9] == PROTOCOL_TCP
    return h[6] == PROTOCOL_TCP or h[6] == 0 or h[6] == 43 or h[6] == 44 or h[6] == 60


# A packet came from a port and is about to go to another. What is judged is private, and what goes on.
cdef int police_judge(police_t *police, port_t *src, packet_t *p, int64_t now_ns) noexcept nogil
# It was handed to the stack or uplink that it is for. n: bytes that can be read of it, of so many in all.
cdef void police_delivered(police_t *police, const uint8_t *packet, uint32_t n, uint32_t total) noexcept nogil
# It was dropped at an output, because others waited there.
cdef void police_dropped(police_t *police, const uint8_t *packet, uint32_t n, uint32_t total) noexcept nogil



# ---- control

cdef police_t *police_new() except NULL
cdef void police_free(police_t *police) noexcept nogil
cdef void police_forget(police_t *police) noexcept nogil     # everything that was seen
cdef list police_findings(police_t *police)                  # that were not told yet, under the lock


cdef inline void police_delivers(void *police, const uint8_t *packet, uint32_t n, uint32_t total) noexcept nogil:
    if police != NULL and n >= 20 and may_be_tcp(packet):
        police_delivered(<police_t *> police, packet, n, total)


cdef inline void police_drops(void *police, const uint8_t *packet, uint32_t n, uint32_t total) noexcept nogil:
    if police != NULL and n >= 20 and may_be_tcp(packet):
        police_dropped(<police_t *> police, packet, n, total)
