"""A link in process memory: what ``Stack.input`` and ``pop_output`` stand on, and the loopback.

Packets lie in blocks that never move while anybody looks at them, so a stack may answer into the queue it is reading
from (``loop``). Blocks grow with the load and the last one is reused.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.link.link cimport Link, link_t

cdef enum:
    QUEUE_BLOCK_MIN = 16384      # bytes of the first block; each further one is twice as large
    QUEUE_BLOCK_MAX = 262144
    QUEUE_LIMIT = 16777216       # default cap per direction, bytes of memory used by packets


cdef struct queue_record_t:
    # In front of each packet, 16-byte aligned.
    int64_t t_ns                 # when it was committed
    uint32_t length              # of the packet, bytes
    uint32_t size                # of the record, padding included


cdef struct queue_block_t:
    queue_block_t *next
    uint32_t capacity
    uint32_t filled              # bytes of records
    # records follow, 16-byte aligned


cdef struct packet_queue_t:
    # A FIFO: filled at `last`, shown from `show`, freed from `first`.
    queue_block_t *first
    queue_block_t *last
    queue_block_t *spare
    queue_block_t *show_block
    uint32_t show_offset         # next record to show, within show_block
    uint32_t first_offset        # next record to free, within first
    uint32_t count               # packets not shown yet
    uint32_t shown               # packets shown and not freed
    uint64_t bytes               # memory of packets not freed
    uint64_t limit
    uint32_t next_block          # size of the next new block
    uint32_t claimed             # payload bytes claimed, behind last.filled; 0: no claim


cdef void queue_init(packet_queue_t *q, uint64_t limit) noexcept nogil
cdef void queue_free(packet_queue_t *q) noexcept nogil
cdef uint8_t *queue_claim(packet_queue_t *q, uint32_t length) noexcept nogil            # NULL: no room, or no memory
cdef void queue_commit(packet_queue_t *q, int64_t t_ns) noexcept nogil
cdef queue_record_t *queue_show(packet_queue_t *q) noexcept nogil                       # NULL: none left
cdef void queue_release(packet_queue_t *q) noexcept nogil                               # free what was shown
cdef const uint8_t *queue_bytes(const queue_record_t *r) noexcept nogil

# What the stack calls. push: 0, -ENOBUFS at the cap, -EMSGSIZE for 0 bytes or more than a frame holds.
cdef int queue_link_push(link_t *link, const uint8_t *p, uint32_t n) noexcept nogil
# The oldest packet sent: its bytes stay valid until the next pop. 1, or 0 when there is none.
cdef int queue_link_pop(link_t *link, const uint8_t **p, uint32_t *n, int64_t *t_ns) noexcept nogil


cdef struct queue_link_t:
    packet_queue_t queues[2]
    packet_queue_t *rx           # what receive shows
    packet_queue_t *tx           # what was committed; with loop the same as rx
    uint8_t starved              # a claim failed since the last arm


cdef class QueueLink(Link):
    cdef queue_link_t q
    cdef readonly bint loop
