"""The ring of ``rings/spsc_ring.h`` for Cython: the C calls, and the classes that own an end.

A user without the GIL takes the pointer once (``&consumer_ring.ring``), keeps a reference to the
object beside it, and calls the functions below; the object keeps the memory mapped.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from rings.mapping cimport memory_watch_t

cdef extern from "rings/spsc_ring.h" nogil:
    enum:
        RING_OK
        RING_EMPTY
        RING_FULL
        RING_POISONED
        RING_INVALID
        RING_CLOSED
        RING_DAMAGED
    enum:
        RING_PAD
        RING_FRAME
        RING_FRAME_REF
        RING_CONTROL
    enum:
        RING_AWAKE
        RING_LEADER
        RING_SERVICE
    enum:
        RING_MIN_CAPACITY
        RING_MAX_HEAD_BYTES
        RING_PUBLISH_RECORDS

    ctypedef struct ring_words_t:
        pass

    ctypedef struct ring_region_t:
        ring_words_t words

    ctypedef struct ring_producer_t:
        uint64_t capacity
        uint64_t tail
        uint64_t published
        uint64_t wanted
        uint64_t generation
        uint32_t claimed
        int state
        ring_region_t *mine
        const ring_region_t *theirs

    ctypedef struct ring_consumer_t:
        uint64_t capacity
        uint64_t next
        uint64_t tail
        uint64_t released
        uint64_t head
        uint64_t generation
        uint64_t header_errors
        uint64_t lost_bytes
        int state
        const ring_region_t *theirs
        ring_region_t *mine

    ctypedef struct ring_record_t:
        uint8_t *head
        uint8_t *body
        uint32_t head_length
        uint32_t body_length
        uint8_t kind

    bint ring_capacity_valid(uint64_t capacity)
    size_t ring_producer_region_bytes(uint64_t capacity)
    size_t ring_consumer_region_bytes()
    uint64_t ring_max_body(uint64_t capacity, uint32_t head_length)
    int ring_format(void *producer_region, void *consumer_region, uint64_t capacity, uint64_t generation)

    int ring_producer_attach(ring_producer_t *p, void *producer_region, const void *consumer_region,
                             uint64_t capacity)
    int ring_claim(ring_producer_t *p, uint8_t kind, uint32_t head_length, uint32_t body_length,
                   uint8_t **head, uint8_t **body)
    int ring_claim_reference(ring_producer_t *p, uint32_t head_length, uint32_t arena_offset,
                             uint32_t body_length, uint8_t **head)
    void ring_trim(ring_producer_t *p, uint32_t body_length)
    void ring_commit(ring_producer_t *p)
    void ring_note_streamed(ring_producer_t *p)      # its body goes past the caches: publish fences
    void ring_publish(ring_producer_t *p)
    bint ring_flush_needs_kick(ring_producer_t *p, uint32_t *kind)
    void ring_set_cpu(ring_producer_t *p, int cpu)
    uint64_t ring_free_bytes(ring_producer_t *p)
    bint ring_consumer_closed(const ring_producer_t *p)
    bint ring_producer_arm(ring_producer_t *p)
    bint ring_producer_arm_as(ring_producer_t *p, uint32_t kind)
    void ring_producer_disarm(ring_producer_t *p)
    bint ring_producer_close(ring_producer_t *p, uint32_t *kind)

    int ring_consumer_attach(ring_consumer_t *c, const void *producer_region, void *consumer_region,
                             uint64_t capacity)
    void ring_consumer_set_arena(ring_consumer_t *c, const void *arena, uint64_t arena_bytes)
    int ring_peek(ring_consumer_t *c, ring_record_t *r)
    void ring_unpeek(ring_consumer_t *c, const ring_record_t *r)
    void ring_release(ring_consumer_t *c)
    void ring_release_now(ring_consumer_t *c)
    bint ring_space_needs_kick(ring_consumer_t *c, uint32_t *kind)
    bint ring_has_data(ring_consumer_t *c)
    bint ring_consumer_arm(ring_consumer_t *c, uint32_t kind)
    void ring_consumer_disarm(ring_consumer_t *c)
    bint ring_consumer_close(ring_consumer_t *c, uint32_t *kind)
    bint ring_producer_closed(const ring_consumer_t *c)
    int ring_peer_cpu(const ring_consumer_t *c)

    void ring_set_owner(ring_region_t *mine, uint32_t pid, uint64_t start, uint64_t pid_namespace)
    uint32_t ring_owner(const ring_region_t *region, uint64_t *start, uint64_t *pid_namespace)


cdef object window_on(object memory, uint8_t *start, Py_ssize_t length, list views, bint read_only)
cdef int withdraw(list views) except -1


cdef class ProducerRing:
    """The producing end of a ring: ``&self.ring`` for C, plain calls for Python."""

    cdef ring_producer_t ring
    cdef object _mine        # Mapping of the producer's region, writable
    cdef object _theirs      # Mapping of the consumer's region
    cdef list _views         # memoryviews handed out by claim() and not yet committed
    cdef bint _attached
    cdef uint64_t _forks     # value of rings.mapping's fork count when attached
    cdef memory_watch_t watch

    cdef int check_here(self) except -1
    cdef int check(self) except -1
    cdef int failed(self, int status) except -1
    cdef int attach_at(self, object mine, size_t mine_offset, object theirs, size_t theirs_offset,
                       uint64_t capacity) except -1
    cdef void drop_views(self)


cdef class ConsumerRing:
    """The consuming end of a ring: ``&self.ring`` for C, plain calls for Python."""

    cdef ring_consumer_t ring
    cdef object _mine
    cdef object _theirs
    cdef list _views         # memoryviews handed out by peek() and not yet released
    cdef bint _attached
    cdef uint64_t _forks
    cdef memory_watch_t watch

    cdef int check_here(self) except -1
    cdef int check(self) except -1
    cdef int failed(self, int status) except -1
    cdef int attach_at(self, object theirs, size_t theirs_offset, object mine, size_t mine_offset,
                       uint64_t capacity) except -1
    cdef void drop_views(self)
