# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The two ends of a ring over mapped memory: no system call, nothing that blocks, no doorbell.

``rings.endpoint`` adds waiting, ``rings.channel`` pairs two rings; C and Cython users go past all of
this by the pointer to the struct inside (``spsc_ring.pxd``).
"""

import errno

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from rings.mapping cimport Mapping, fork_count, memory_lost, memory_watch

from rings.errors import RegionMismatch, RingClosed, RingDamaged, RingForked, RingPoisoned, RingSizeError, RingTruncated

MIN_CAPACITY = RING_MIN_CAPACITY
LEADER = RING_LEADER
SERVICE = RING_SERVICE
FRAME = RING_FRAME
FRAME_REF = RING_FRAME_REF
CONTROL = RING_CONTROL


def producer_region_bytes(uint64_t capacity):
    """Bytes of the region that the producer writes: its words and the data. A multiple of 4096."""
    check_capacity(capacity)
    return ring_producer_region_bytes(capacity)


def consumer_region_bytes():
    """Bytes of the region that the consumer writes. A multiple of 4096."""
    return ring_consumer_region_bytes()


def format_ring(Mapping producer, size_t producer_offset, Mapping consumer, size_t consumer_offset,
                uint64_t capacity, uint64_t generation=0):
    """Write the constants of an empty ring into its two regions: by their creator, once.

    Raises
    ------
    RingSizeError
        The capacity is no power of two from 512 on.
    ValueError
        A region does not lie inside its mapping, or is read-only.
    """
    check_capacity(capacity)
    if not producer.writable or not consumer.writable:
        raise ValueError("the creator of a ring needs both regions writable")
    if ring_format(producer.at(producer_offset, ring_producer_region_bytes(capacity)),
                   consumer.at(consumer_offset, ring_consumer_region_bytes()), capacity, generation) != RING_OK:
        raise ValueError("a region must start at a multiple of 128 bytes")


cdef int check_capacity(uint64_t capacity) except -1:
    if not ring_capacity_valid(capacity):
        raise RingSizeError(f"capacity {capacity}: say a power of two from {RING_MIN_CAPACITY} bytes on")
    return 0


cdef int truncated() except -1:
    raise RingTruncated("the shared memory of this ring was truncated by its other side")


@cython.final
cdef class Window:
    """The bytes of one record, exported as a buffer; knows whether anybody still looks at them."""

    cdef Mapping memory      # stays mapped while somebody looks
    cdef uint8_t *start
    cdef Py_ssize_t length
    cdef bint read_only
    cdef Py_ssize_t exports

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.start, self.length, self.read_only, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1


cdef object window_on(object memory, uint8_t *start, Py_ssize_t length, list views, bint read_only):
    """A memoryview of ring memory, withdrawn when its record goes back to the ring."""
    cdef Window window = Window.__new__(Window)
    window.memory = memory
    window.start = start
    window.length = length
    window.read_only = read_only
    view = PyMemoryView_FromObject(window)
    views.append((window, view))
    return view


cdef int withdraw(list views) except -1:
    """Withdraw views: BufferError when something else (a slice, an array) still looks at one."""
    while views:
        window, view = last = views.pop()
        view.release()
        if (<Window> window).exports > 0:
            views.append(last)
            raise BufferError("a view of this record is still in use: release it first")
    return 0


cdef class ProducerRing:
    """The producing end of a ring.

    Parameters
    ----------
    mine, theirs : Mapping
        The memory of the producer's region (writable) and of the consumer's.
    mine_offset, theirs_offset : int
        Where in them the regions start, bytes.
    capacity : int
        Bytes of data, as the creator said; the regions must agree.

    Raises
    ------
    RegionMismatch
        The memory is not a ring of this capacity and version.
    RingPoisoned
        The indices found there contradict each other.
    """

    def __init__(self, Mapping mine, size_t mine_offset, Mapping theirs, size_t theirs_offset, uint64_t capacity):
        self.attach_at(mine, mine_offset, theirs, theirs_offset, capacity)

    cdef int attach_at(self, object mine, size_t mine_offset, object theirs, size_t theirs_offset,
                       uint64_t capacity) except -1:
        cdef int status
        check_capacity(capacity)
        memory_watch(&self.watch, <Mapping?> mine, <Mapping?> theirs)
        if not (<Mapping?> mine)._writable:
            raise ValueError("the producer's region must be writable")
        status = ring_producer_attach(
            &self.ring, (<Mapping> mine).at(mine_offset, ring_producer_region_bytes(capacity)),
            (<Mapping?> theirs).at(theirs_offset, ring_consumer_region_bytes()), capacity)
        if status != RING_OK:
            self.failed(status)
        self._mine = mine
        self._theirs = theirs
        self._views = []
        self._forks = fork_count()[0]
        self._attached = True
        return 0

    cdef int check_here(self) except -1:
        if not self._attached:
            raise RingClosed("this end of the ring was closed")
        if self._forks != fork_count()[0]:
            raise RingForked("this end of the ring belongs to the parent process; adopt() takes it over")
        return 0

    cdef int check(self) except -1:
        self.check_here()
        if memory_lost(&self.watch):
            truncated()
        return 0

    cdef int failed(self, int status) except -1:
        """Raise what a status means that is neither OK nor full."""
        if memory_lost(&self.watch):
            truncated()
        if status == RING_POISONED:
            raise RingPoisoned("the consumer published an impossible index")
        if status == RING_CLOSED:
            raise RingClosed("the consumer closed the ring")
        raise RegionMismatch("this memory holds no ring of that capacity and version")

    cdef void drop_views(self):
        if self._views:
            withdraw(self._views)

    @property
    def capacity(self):
        """Bytes of data the ring holds, headers and padding included."""
        return self.ring.capacity

    @property
    def max_message(self):
        """The longest message, bytes: a record may take half of the ring."""
        return ring_max_body(self.ring.capacity, 0)

    @property
    def generation(self):
        return self.ring.generation

    @property
    def free_bytes(self):
        """Bytes not in use, from a fresh look at the consumer's index."""
        self.check()
        return ring_free_bytes(&self.ring)

    def own(self, uint32_t pid, uint64_t start, uint64_t namespace):
        """Say which process holds this end, so that the other can watch it. See ``rings.process.identity``."""
        self.check()
        ring_set_owner(self.ring.mine, pid, start, namespace)

    @property
    def peer_closed(self):
        """The consumer has closed its end."""
        self.check()
        return bool(ring_consumer_closed(&self.ring))

    def claim_record(self, uint32_t length, uint32_t head_length=0, uint8_t kind=RING_FRAME):
        """Reserve a record: (head, body) as writable memoryviews, or None if the ring is full.

        Nothing is visible before ``commit``. A claim not committed is dropped by the next one.

        Raises
        ------
        RingSizeError
            It can never fit: over half of the ring, or a head of more than 944 bytes.
        RingClosed, RingPoisoned
        """
        cdef uint8_t *head
        cdef uint8_t *body
        cdef int status
        self.check()
        withdraw(self._views)
        status = ring_claim(&self.ring, kind, head_length, length, &head, &body)
        if status == RING_OK:
            return (window_on(self._mine, head, head_length, self._views, False),
                    window_on(self._mine, body, length, self._views, False))
        if status == RING_FULL:
            return None
        if status == RING_INVALID:
            raise RingSizeError(f"{length} bytes: a message of this ring has at most {self.max_message}")
        self.failed(status)

    def commit(self, length=None):
        """The claimed record is complete, or its first `length` body bytes are. Withdraws the views."""
        cdef Window body
        self.check()
        if not self.ring.claimed or not self._views:
            raise ValueError("nothing is claimed")
        body = self._views[len(self._views) - 1][0]
        if length is not None and not 0 <= length <= body.length:
            raise ValueError(f"commit of {length} bytes where {body.length} were claimed")
        withdraw(self._views)
        if length is not None:
            ring_trim(&self.ring, length)
        ring_commit(&self.ring)

    def flush(self):
        """Publish. Returns the kind of sleeper to kick now (LEADER, SERVICE), or 0."""
        cdef uint32_t kind = 0
        self.check()
        ring_flush_needs_kick(&self.ring, &kind)
        return kind

    def arm(self, uint32_t kind=RING_LEADER):
        """About to sleep for space as `kind`: True = do not, the refused record fits or there is news."""
        self.check()
        return bool(ring_producer_arm_as(&self.ring, kind))

    def disarm(self):
        """Awake again."""
        self.check()
        ring_producer_disarm(&self.ring)

    def shut(self):
        """Publish, and say that nothing follows. Returns the kind of sleeper to kick now, or 0."""
        cdef uint32_t kind = 0
        self.check_here()
        self._views.clear()
        ring_producer_close(&self.ring, &kind)
        return kind

    def drop(self):
        """Let go of the memory, which goes with its last view. C users must have finished."""
        self._attached = False
        self._mine = self._theirs = None
        self._views = []


cdef class ConsumerRing:
    """The consuming end of a ring.

    Parameters
    ----------
    theirs, mine : Mapping
        The memory of the producer's region, and of the consumer's (writable).
    theirs_offset, mine_offset : int
        Where in them the regions start, bytes.
    capacity : int
        Bytes of data, as the creator said; the regions must agree.

    Raises
    ------
    RegionMismatch
        The memory is not a ring of this capacity and version.
    """

    def __init__(self, Mapping theirs, size_t theirs_offset, Mapping mine, size_t mine_offset, uint64_t capacity):
        self.attach_at(theirs, theirs_offset, mine, mine_offset, capacity)

    cdef int attach_at(self, object theirs, size_t theirs_offset, object mine, size_t mine_offset,
                       uint64_t capacity) except -1:
        cdef int status
        check_capacity(capacity)
        memory_watch(&self.watch, <Mapping?> mine, <Mapping?> theirs)
        if not (<Mapping?> mine)._writable:
            raise ValueError("the consumer's region must be writable")
        status = ring_consumer_attach(
            &self.ring, (<Mapping?> theirs).at(theirs_offset, ring_producer_region_bytes(capacity)),
            (<Mapping> mine).at(mine_offset, ring_consumer_region_bytes()), capacity)
        if status != RING_OK:
            self.failed(status)
        self._mine = mine
        self._theirs = theirs
        self._views = []
        self._forks = fork_count()[0]
        self._attached = True
        return 0

    cdef int check_here(self) except -1:
        if not self._attached:
            raise RingClosed("this end of the ring was closed")
        if self._forks != fork_count()[0]:
            raise RingForked("this end of the ring belongs to the parent process; adopt() takes it over")
        return 0

    cdef int check(self) except -1:
        self.check_here()
        if memory_lost(&self.watch):
            truncated()
        return 0

    cdef int failed(self, int status) except -1:
        """Raise what a status means that is neither OK nor empty."""
        if memory_lost(&self.watch):
            truncated()
        if status == RING_POISONED:
            raise RingPoisoned("the producer published an impossible index or record")
        if status == RING_DAMAGED:
            raise RingDamaged(errno.EIO, "a record was damaged in memory, and lost with what was published behind it")
        if status == RING_CLOSED:
            raise RingClosed("the producer closed the ring, and everything in it was taken")
        raise RegionMismatch("this memory holds no ring of that capacity and version")

    cdef void drop_views(self):
        if self._views:
            withdraw(self._views)

    @property
    def capacity(self):
        """Bytes of data the ring holds, headers and padding included."""
        return self.ring.capacity

    @property
    def generation(self):
        return self.ring.generation

    @property
    def peer_closed(self):
        """The producer has closed its end; messages may still be there."""
        self.check()
        return bool(ring_producer_closed(&self.ring))

    @property
    def header_errors(self):
        """Records whose header an error of memory damaged, so far."""
        return self.ring.header_errors

    @property
    def lost_bytes(self):
        """Bytes of the ring that were dropped with them."""
        return self.ring.lost_bytes

    @property
    def has_data(self):
        """Something is there to take: a message, the end, or an error."""
        self.check()
        return bool(ring_has_data(&self.ring))

    def peek_record(self):
        """The next record as (kind, head, body), read-only views of the ring; None if there is none.

        The views are withdrawn by ``release``; the producer cannot reuse the memory before. Between
        processes that do not trust each other copy first and look at the copy: the bytes can change.

        Raises
        ------
        RingClosed, RingPoisoned
        RingDamaged
            Once for each record that an error of memory destroyed: peek again.
        """
        cdef ring_record_t record
        cdef int status
        self.check()
        status = ring_peek(&self.ring, &record)
        if status == RING_OK:
            return (record.kind,
                    window_on(self._theirs, record.head, record.head_length, self._views, True),
                    window_on(self._theirs, record.body, record.body_length, self._views, True))
        if status == RING_EMPTY:
            return None
        self.failed(status)

    def release(self):
        """Give back everything peeked so far. Returns the kind of producer to kick now, or 0."""
        cdef uint32_t kind = 0
        self.check()
        withdraw(self._views)
        ring_release_now(&self.ring)
        ring_space_needs_kick(&self.ring, &kind)
        return kind

    def arm(self, uint32_t kind=RING_LEADER):
        """About to sleep for records as `kind`: True = do not, there is something to peek.

        A False stays armed until ``disarm`` or the next ``arm``: the producer's next flush kicks.
        """
        self.check()
        return bool(ring_consumer_arm(&self.ring, kind))

    def disarm(self):
        """Awake again."""
        self.check()
        ring_consumer_disarm(&self.ring)

    def shut(self):
        """Say that nothing is taken any more. Returns the kind of producer to kick now, or 0."""
        cdef uint32_t kind = 0
        self.check_here()
        ring_consumer_close(&self.ring, &kind)
        return kind

    def drop(self):
        """Let go of the memory, which goes with its last view. C users must have finished."""
        self._attached = False
        self._mine = self._theirs = None
        self._views = []
