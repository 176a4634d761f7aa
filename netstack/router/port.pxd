"""A port: one attachment or uplink as the data path sees it. Handing a packet to a port never waits.

Conservation, for every port and at any moment:
    in_packets  = forwarded + consumed + sum(drops_in)
    to_packets  = out_packets + sum(drops_out) + queued      (on an emulated link: and under way)
and for the router: sum(forwarded) + generated + split = sum(to_packets).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.link.impairment cimport line_t
from netstack.router.fair cimport fair_t, waiting_t
from netstack.router.limit cimport limit_t
from netstack.router.mirror cimport mirror_t
from netstack.router.packet cimport packet_t, write_packet
from netstack.router.table cimport entry_t
from rings.mapping cimport memory_watch_t
from rings.spsc_ring cimport RING_FRAME, RING_OK, ring_claim, ring_commit, ring_consumer_t, ring_producer_t


cpdef enum Drop:
    DROP_MALFORMED = 0       # not an IP packet: version, header length, head shorter than the header
    DROP_LENGTH              # total length is not the record's
    DROP_CHECKSUM            # of the IPv4 header
    DROP_OPTIONS             # source routes and malformed options
    DROP_SPOOFED             # source is not an address of the attachment
    DROP_OLD_EPOCH           # source (or queued destination) has moved on to another attachment
    DROP_DESTINATION         # an address that is never forwarded: multicast, loopback, this network
    DROP_NO_ROUTE            # neither ours nor is there an uplink
    DROP_UNKNOWN_ADDRESS     # of the pool, but nobody has it
    DROP_DEAD_ADDRESS        # its owner is gone (answered where an answer is due)
    DROP_HELD                # its owner moves or may come back
    DROP_TTL                 # time or hop limit exceeded
    DROP_TOO_BIG             # larger than the next link's mtu
    DROP_PROTOCOL            # for the router itself, which does not speak it
    DROP_RATE                # an answer was due, its rate is limited
    DROP_QUEUE_FULL          # the destination does not take its packets: ring and private queue full
    DROP_DETACHED            # the destination is gone; or queued when it went
    DROP_NEIGHBOR            # no answer to ARP, or too many wait for one
    DROP_LINK                # the uplink device refused or lost it
    DROP_NO_MEMORY
    DROP_EMULATED            # lost on an emulated link, or its queue was full
    DROP_NO_PORT             # of a shared address, but nobody has that port (answered where an answer is due)
    DROP_PIECE               # of a shared address: part of a datagram whose first piece was not seen
    DROP_POLICED             # of a TCP connection that misbehaves, of a stack that is detached for that, or not to be judged
    DROP_COUNT               # how many there are


cpdef enum PortState:
    PORT_ACTIVE = 1
    PORT_FAILED = 2          # poisoned, truncated or closed by its stack: waits for control to detach it
    PORT_HELD = 3            # its addresses move: taken from, not given to


cdef enum:
    MAX_PORT_ADDRESSES = 8
    PORT_STACK = 0
    PORT_UPLINK = 1
    PORT_GREEDY = 100        # failure: its TCP misbehaved


cdef struct port_counters_t:
    uint64_t in_packets      # from the stack or uplink
    uint64_t in_bytes
    uint64_t forwarded       # of those, handed to another port
    uint64_t consumed        # of those, meant for the router itself
    uint64_t to_packets      # handed to this port, by other ports or by the router
    uint64_t generated       # of those, made by the router
    uint64_t split           # of those, made by cutting packets that were too large
    uint64_t out_packets     # written to the stack's ring or the uplink
    uint64_t out_bytes
    uint64_t queued_total    # that went through the private queue
    uint64_t marked          # ECN marks set because of a long private queue
    uint64_t kicks           # doorbells rung
    uint64_t wakes           # doorbells received
    uint64_t spurious        # of those, with nothing to do
    uint64_t header_errors   # records that an error of memory destroyed, never counted as packets
    uint64_t limited         # times that the next packet had to wait for the attachment's limit
    uint64_t deferred        # rounds in which it had packets, and owed more than a turn's work
    uint64_t work            # what its packets cost the router, in units of budget.pxd
    uint64_t neighbor_conflicts  # claims to the address of a neighbour of an uplink with another hardware address
    uint64_t greedy[4]       # connections in which the stack misbehaved, by Misdeed (`policing`)
    uint64_t policed         # packets changed or put back for that
    uint64_t drops_in[24]    # by Drop
    uint64_t drops_out[24]


cdef struct bucket_t:        # token bucket
    int64_t credit_ns
    int64_t last_ns


cdef struct wire_t:          # an emulated link between port and router
    line_t out               # towards the stack or uplink
    line_t back
    uint8_t *scratch
    fair_t *fair             # who waits for the rate of `out`; NULL: one queue for all


cdef struct port_t:
    uint64_t id
    uint32_t slot
    uint32_t kind
    uint32_t state
    uint32_t mtu
    uint32_t epoch
    int failure              # why PORT_FAILED: a ring state
    void *police             # police_t; NULL: nobody watches
    bint outside             # it speaks for all the world: from any address but those of stacks and pools
    # --- towards the stack, and from it
    ring_producer_t *tx
    ring_consumer_t *rx
    memory_watch_t watch     # on the memory of both
    void *uplink             # uplink_t of PORT_UPLINK
    int bells[4]             # by kind of sleeper, -1 none
    bint wake_is_socket      # what the other side rings, so that it has to be emptied
    bint bells_are_sockets
    int wake_fd              # the stack rings it; never read, never written
    bint armed               # the stack kicks us at its next flush
    bint space_armed         # the stack kicks us when it made room
    bint dirty               # something was committed since the last flush
    bint listed              # in the router's list of dirty ports
    port_t *next_dirty
    # --- addresses it may send from
    int n_addresses
    address_t addresses[MAX_PORT_ADDRESSES]
    uint32_t epochs[MAX_PORT_ADDRESSES]     # of each; 0: superseded
    uint32_t shared          # bit i: address i is shared with others
    void *sharer             # sharer_t: what it has of it; NULL: nothing
    # --- the last destination, valid while the table's version is the same
    address_t last_destination
    uint64_t last_version
    entry_t *last_entry
    # --- what did not fit into its ring
    fair_t *queue            # by source; NULL: nothing has waited yet
    waiting_t *next_out      # out of the queue, the first for which there is room
    bint one_queue           # for all sources
    uint64_t queue_packets   # both; of an uplink those that wait for a neighbour
    uint64_t queue_bytes
    uint64_t queue_limit
    # --- storms of empty doorbells
    uint32_t storm
    int64_t muted_until_ns
    bucket_t icmp_bucket
    bucket_t rst_bucket
    wire_t *wire             # NULL: none
    mirror_t *mirror         # NULL: nobody looks on
    limit_t *limit           # on what it sends; NULL: none
    int64_t debt             # work of turns before, to be paid for by rounds to come
    port_counters_t counters


cdef inline int port_hand(port_t *port, packet_t *p) noexcept nogil:
    """Give a packet to an attachment's stack. 0, or -1 when it was dropped (and counted)."""
    cdef uint8_t *head = NULL            # gcc at -O1 does not see that a claim that succeeds sets them
    cdef uint8_t *body = NULL
    port.counters.to_packets += 1
    if port.state != PORT_ACTIVE or port.queue_packets or port.mirror != NULL or \
            ring_claim(port.tx, RING_FRAME, p.head_length, p.body_length, &head, &body) != RING_OK:
        return port_hand_slowly(port, p)
    write_packet(p, head, body)
    ring_commit(port.tx)
    port.counters.out_packets += 1
    port.counters.out_bytes += p.head_length + p.body_length
    port.dirty = True
    return 0


cdef bint bucket_take(bucket_t *b, int64_t now_ns, int64_t cost_ns, int64_t depth_ns) noexcept nogil
cdef int port_hand_slowly(port_t *port, packet_t *packet) noexcept nogil
cdef int port_drain(port_t *port) noexcept nogil
cdef void port_flush(port_t *port) noexcept nogil
cdef void port_ring(port_t *port, uint32_t kind) noexcept nogil
cdef void port_clear_queue(port_t *port, Drop reason) noexcept nogil
cdef void port_fail(port_t *port, int why) noexcept nogil
