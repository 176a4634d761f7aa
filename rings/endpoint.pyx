# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Producer and Consumer: the two ends of a ring as Python programs use them.

They add to ``rings.spsc_ring`` the copying of messages, waiting (spin a little, then sleep on an
eventfd), the notice of a dead peer, and what selectors and asyncio need. One thread at a time per end;
a call that waits lets the interpreter go, and a call from another thread meanwhile is refused.
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.unistd cimport getpid

from rings.doorbell cimport (
    DOORBELL_OTHER, Doorbell, doorbell_drain, doorbell_flush, doorbell_kick, doorbell_now_ns, doorbell_poll,
    doorbell_space, doorbell_spin_for_data, doorbell_spin_for_space, doorbell_spin_init, doorbell_spin_t,
)
from rings.mapping cimport fork_count, memory_lost
from rings.peer cimport peer_died, peer_forget, peer_init, peer_look, peer_t
from rings.spsc_ring cimport (
    RING_DAMAGED, RING_EMPTY, RING_FRAME, RING_FULL, RING_INVALID, RING_LEADER, RING_OK, ConsumerRing,
    ProducerRing, ring_claim, ring_commit, ring_consumer_arm, ring_consumer_close, ring_consumer_disarm,
    ring_owner, ring_peek, ring_producer_arm, ring_producer_close,
    ring_producer_disarm, ring_producer_region_bytes, ring_record_t, ring_region_t, ring_release,
    ring_release_now, ring_set_owner, ring_unpeek, window_on, withdraw,
)

from rings.errors import RingBusy, RingClosed, RingEmpty, RingForked, RingFull, RingSizeError
from rings.process import identity

# A sleep is cut into slices that grow: a signal that came between the last look and the sleep waits
# no longer than the slice.
cdef enum:
    FIRST_SLICE_NS = 1_000_000
    LAST_SLICE_NS = 1_000_000_000
    SPIN_NS = 50_000
    WITHOUT_WAITING = -1


cdef int64_t default_spin_ns():
    return SPIN_NS if len(os.sched_getaffinity(0)) > 1 else 0


cdef int64_t deadline_of(object timeout) except? -2:
    """Monotonic time in ns at which to give up; WITHOUT_WAITING for a timeout of 0."""
    cdef double seconds
    if timeout is None:
        return INT64_MAX
    seconds = timeout
    if seconds <= 0:
        return WITHOUT_WAITING
    if seconds > 1e9:
        return INT64_MAX
    return doorbell_now_ns() + <int64_t> (seconds * 1e9)


cdef bint moved(const ring_region_t *mine) noexcept:
    """Another process has become this end meanwhile (it adopted or attached it)."""
    cdef uint64_t start, namespace
    return ring_owner(mine, &start, &namespace) != <uint32_t> getpid()


cdef class Producer(ProducerRing):
    """The end of a ring that messages are put into. Made by `rings.ring` or `rings.attach`.

    All sizes are bytes, all timeouts seconds: None waits for ever, 0 not at all.
    """

    cdef int fds[4]              # what we kick, by kind of sleeper
    cdef doorbell_spin_t spin
    cdef Doorbell _data          # the consumer sleeps on it
    cdef Doorbell _space         # this end sleeps on it
    cdef object _region
    cdef peer_t _peer
    cdef bint _waiting           # a thread is inside without the GIL
    cdef bint _watched           # fileno() was asked for: a refused put leaves the end armed
    cdef bint _armed
    cdef bint _closing           # another thread wants this end closed

    def __cinit__(self):
        self._peer.fd = -1

    def __dealloc__(self):
        peer_forget(&self._peer)

    def __init__(self, region, uint64_t capacity, Doorbell data not None, Doorbell space not None):
        cdef size_t tail = ring_producer_region_bytes(capacity)
        self.attach_at(region.mapping, 0, region.mapping, tail, capacity)
        self._region = region
        self._data = data
        self._space = space
        self.fds[:] = [-1, data.fd, -1, -1]
        self._waiting = self._watched = self._armed = self._closing = False
        doorbell_spin_init(&self.spin, default_spin_ns())
        pid, start, namespace = identity()
        ring_set_owner(self.ring.mine, pid, start, namespace)
        peer_forget(&self._peer)
        peer_init(&self._peer, self.ring.theirs, namespace)

    cdef int begin(self) except -1:
        self.check()
        if self._waiting:
            raise RingBusy("another thread waits in this end: one thread at a time")
        if self._views:
            withdraw(self._views)
        if self._armed:
            self._armed = False
            ring_producer_disarm(&self.ring)
        return 0

    cdef int claim_now(self, Py_ssize_t length, uint8_t **body) noexcept:
        cdef uint8_t *head
        if length > <Py_ssize_t> UINT32_MAX:
            return RING_INVALID
        return ring_claim(&self.ring, RING_FRAME, 0, <uint32_t> length, &head, body)

    cdef int claim_by(self, int status, Py_ssize_t length, int64_t deadline, uint8_t **body) except -1:
        """Go on after a refused claim until there is room; raises RingFull when the time is over."""
        while status == RING_FULL:
            doorbell_flush(&self.ring, self.fds)  # the consumer may sleep with a full ring
            if deadline == WITHOUT_WAITING:
                if not self._watched or not self.expose():
                    raise RingFull("the ring is full")
            elif not self.wait(deadline):
                raise RingFull("the ring was full until the timeout")
            status = self.claim_now(length, body)
        if status == RING_INVALID:
            raise RingSizeError(f"{length} bytes: a message of this ring has at most {self.max_message}")
        if status != RING_OK:
            self.failed(status)
        return 0

    cdef bint expose(self) except -1:
        """Make the fd tell of space: True if there is some already."""
        doorbell_drain(self._space.fd)
        if ring_producer_arm(&self.ring):
            return True
        self._armed = True
        return False

    cdef bint wait(self, int64_t deadline) except -1:
        """Wait for space, news or the deadline (then False)."""
        cdef int64_t slice_ns = FIRST_SLICE_NS, until
        cdef int seen = 0
        cdef bint hit
        self._waiting = True
        try:
            while True:
                with nogil:
                    hit = doorbell_spin_for_space(&self.spin, &self.ring)
                if hit:
                    return True
                self.check()
                if moved(self.ring.mine):
                    raise RingForked("another process has taken this end over")
                peer_look(&self._peer)
                if self._peer.gone:
                    raise RingClosed("the consumer's process died")
                if self._closing:
                    break
                if ring_producer_arm(&self.ring):
                    return True
                until = min(deadline, doorbell_now_ns() + slice_ns)
                with nogil:
                    seen = doorbell_poll(self._space.fd, self._peer.fd, until)
                    ring_producer_disarm(&self.ring)
                if seen < 0:
                    raise OSError(-seen, f"poll: {os.strerror(-seen)}")
                if seen & DOORBELL_OTHER:
                    peer_died(&self._peer)
                PyErr_CheckSignals()
                if seen == 0 and doorbell_now_ns() >= deadline:
                    return False
                slice_ns = min(8 * slice_ns, LAST_SLICE_NS)
        finally:
            self._waiting = False
        self.close()
        raise RingClosed("another thread closed this end")

    def put(self, data, timeout=None):
        """Copy one message into the ring and publish it.

        Parameters
        ----------
        data : bytes-like
            Contiguous; may be empty. At most `max_message` bytes.
        timeout : float, optional
            Seconds to wait for room.

        Raises
        ------
        RingFull
            No room within the timeout.
        RingClosed
            The consumer closed, or its process died, or this end is closed.
        RingPoisoned
            The consumer published an impossible index.
        RingSizeError
            The message can never fit.
        """
        cdef uint8_t *body
        cdef Py_buffer view
        cdef int status
        self.begin()
        if PyBytes_CheckExact(data):
            status = self.claim_now(PyBytes_GET_SIZE(data), &body)
            if status != RING_OK:
                self.claim_by(status, PyBytes_GET_SIZE(data), deadline_of(timeout), &body)
            memcpy(body, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                status = self.claim_now(view.len, &body)
                if status != RING_OK:
                    self.claim_by(status, view.len, deadline_of(timeout), &body)
                memcpy(body, view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
        ring_commit(&self.ring)
        doorbell_flush(&self.ring, self.fds)
        if memory_lost(&self.watch):
            self.check()

    def put_nowait(self, data):
        """``put`` with a timeout of 0."""
        self.put(data, 0)

    def put_many(self, messages, timeout=None):
        """Put messages in order, publishing in batches.

        Parameters
        ----------
        messages : iterable of bytes-like
        timeout : float, optional
            Seconds for all of them together.

        Returns
        -------
        int
            How many were put: fewer than all if the time was over. An exception that is raised
            after some were put leaves those in the ring.
        """
        cdef Py_ssize_t count = 0
        cdef uint8_t *body
        cdef Py_buffer view
        cdef int64_t deadline
        cdef int status
        self.begin()
        deadline = deadline_of(timeout)
        try:
            for data in messages:
                if PyBytes_CheckExact(data):
                    status = self.claim_now(PyBytes_GET_SIZE(data), &body)
                    if status != RING_OK:
                        self.claim_by(status, PyBytes_GET_SIZE(data), deadline, &body)
                    memcpy(body, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
                else:
                    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
                    try:
                        status = self.claim_now(view.len, &body)
                        if status != RING_OK:
                            self.claim_by(status, view.len, deadline, &body)
                        memcpy(body, view.buf, view.len)
                    finally:
                        PyBuffer_Release(&view)
                ring_commit(&self.ring)
                count += 1
        except RingFull:
            pass
        finally:
            if self._attached:
                doorbell_flush(&self.ring, self.fds)
        self.check()
        return count

    def claim(self, Py_ssize_t length, timeout=None):
        """Reserve a message of `length` bytes: a writable memoryview of the ring itself.

        Fill it, then ``publish``. Without a publish nothing was sent: the next call drops the claim.
        """
        cdef uint8_t *body
        cdef int status
        self.begin()
        if length < 0:
            raise RingSizeError(f"a message of {length} bytes")
        status = self.claim_now(length, &body)
        if status != RING_OK:
            self.claim_by(status, length, deadline_of(timeout), &body)
        return window_on(self._mine, body, length, self._views, False)

    def publish(self, length=None):
        """Send the claimed message, or its first `length` bytes. Withdraws the view.

        Raises
        ------
        BufferError
            Another object (a slice, an array) still uses the claimed memory.
        ValueError
            Nothing is claimed, or less than `length`.
        """
        if self._waiting:
            raise RingBusy("another thread waits in this end: one thread at a time")
        self.commit(length)
        doorbell_flush(&self.ring, self.fds)
        self.check()

    def fileno(self):
        """A file descriptor for selectors: readable when a refused ``put_nowait`` is worth a retry.

        After a wake-up call ``put_nowait`` until it works or raises RingFull again, which rearms it.
        """
        self.check()
        if not self._watched:
            self._watched = True
            doorbell_kick(self._space.fd)
        return self._space.fd

    @property
    def peer_fileno(self):
        """A pidfd of the consumer's process, -1 if there is none to watch."""
        self.check()
        peer_look(&self._peer)
        return self._peer.fd

    @property
    def peer_gone(self):
        """The consumer's process is known to be dead."""
        return self._peer.gone

    def check_peer(self):
        """Look whether the consumer's process is alive; raises RingClosed if it is not."""
        self.check()
        peer_look(&self._peer)
        if self._peer.fd >= 0 and doorbell_poll(-1, self._peer.fd, 0) & DOORBELL_OTHER:
            peer_died(&self._peer)
        if self._peer.gone:
            raise RingClosed("the consumer's process died")

    @property
    def spin_us(self):
        """Microseconds to spin before sleeping; 0 never spins. Adapts itself below this."""
        return self.spin.full_ns / 1000

    @spin_us.setter
    def spin_us(self, double value):
        doorbell_spin_init(&self.spin, <int64_t> (value * 1000))

    @property
    def closed(self):
        """This end is closed or detached."""
        return not self._attached

    def aput(self, data):
        """``put`` as a coroutine, which waits in the running asyncio loop."""
        from rings.aio import put

        return put(self, data)

    def export(self):
        """What another process needs to become this end: an `rings.EndState`. See `rings.attach`."""
        from rings.ends import EndState

        self.check()
        return EndState(role="producer", backend=self._region.backend, capacity=self.ring.capacity,
                        generation=self.ring.generation,
                        fds=(self._region.fd, self._data.fd, self._space.fd))

    def adopt(self):
        """In a forked child: become this end; the parent must not use it any more. Returns self."""
        if self._region is None:
            raise RingClosed("this end of the ring was closed")
        if self._forks != fork_count()[0]:
            self._region.remap()
            self.__init__(self._region, self.ring.capacity, self._data, self._space)
        return self

    def close(self):
        """Say that nothing follows, wake the consumer, and detach. Idempotent."""
        cdef uint32_t kind
        if self._attached and self._forks == fork_count()[0]:
            if self._waiting:
                self._closing = True  # that thread closes when it sees this
                doorbell_kick(self._space.fd)
                return
            if not moved(self.ring.mine) and ring_producer_close(&self.ring, &kind):
                doorbell_kick(self._data.fd)
        self.detach()

    def detach(self):
        """Forget this end without a word to the consumer: another process has it. Idempotent."""
        self.drop()
        peer_forget(&self._peer)
        self._region = None
        self._data = self._space = None

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __reduce__(self):
        from rings.ends import reduce

        return reduce(self)

    def __repr__(self):
        return f"<Producer {'closed' if not self._attached else self.ring.capacity}>"


cdef class Consumer(ConsumerRing):
    """The end of a ring that messages are got from. Made by `rings.ring` or `rings.attach`.

    All sizes are bytes, all timeouts seconds: None waits for ever, 0 not at all. Iterating gets
    messages until the producer closes.
    """

    cdef int fds[4]
    cdef doorbell_spin_t spin
    cdef Doorbell _data          # this end sleeps on it
    cdef Doorbell _space         # the producer sleeps on it
    cdef object _region
    cdef peer_t _peer
    cdef bint _waiting
    cdef bint _watched
    cdef bint _armed
    cdef bint _closing           # another thread wants this end closed
    cdef uint64_t _told          # damaged records that the caller was told of

    def __cinit__(self):
        self._peer.fd = -1

    def __dealloc__(self):
        peer_forget(&self._peer)

    def __init__(self, region, uint64_t capacity, Doorbell data not None, Doorbell space not None):
        cdef size_t tail = ring_producer_region_bytes(capacity)
        self.attach_at(region.mapping, 0, region.mapping, tail, capacity)
        self._region = region
        self._data = data
        self._space = space
        self.fds[:] = [-1, space.fd, -1, -1]
        self._waiting = self._watched = self._armed = self._closing = False
        self._told = 0
        doorbell_spin_init(&self.spin, default_spin_ns())
        pid, start, namespace = identity()
        ring_set_owner(self.ring.mine, pid, start, namespace)
        peer_forget(&self._peer)
        peer_init(&self._peer, self.ring.theirs, namespace)

    cdef int begin(self) except -1:
        self.check()
        if self._waiting:
            raise RingBusy("another thread waits in this end: one thread at a time")
        if self._armed:
            self._armed = False
            ring_consumer_disarm(&self.ring)
        return 0

    cdef int peek_waiting(self, ring_record_t *record, object timeout) except -1:
        """Peek, waiting for a record; raises RingEmpty when the time is over."""
        cdef int status = RING_DAMAGED
        cdef int64_t deadline
        if self.ring.header_errors == self._told:
            status = ring_peek(&self.ring, record)
            if status == RING_OK:
                return 0
        doorbell_space(&self.ring, self.fds)
        deadline = deadline_of(timeout)
        while status == RING_EMPTY:
            if self._peer.gone:
                raise RingClosed("the producer's process died, and everything it published was taken")
            if deadline == WITHOUT_WAITING:
                if not self._watched or not self.expose():
                    raise RingEmpty("the ring is empty")
            elif not self.wait(deadline):
                raise RingEmpty("the ring was empty until the timeout")
            status = ring_peek(&self.ring, record)
        if status == RING_DAMAGED:
            self._told = self.ring.header_errors
        if status != RING_OK:
            self.failed(status)
        return 0

    cdef bint expose(self) except -1:
        """Make the fd tell of messages: True if there is one already."""
        doorbell_drain(self._data.fd)
        if ring_consumer_arm(&self.ring, RING_LEADER):
            return True
        doorbell_space(&self.ring, self.fds)
        self._armed = True
        return False

    cdef bint wait(self, int64_t deadline) except -1:
        """Wait for a message, news or the deadline (then False)."""
        cdef int64_t slice_ns = FIRST_SLICE_NS, until
        cdef int seen = 0
        cdef bint hit
        self._waiting = True
        try:
            while True:
                with nogil:
                    hit = doorbell_spin_for_data(&self.spin, &self.ring)
                if hit:
                    return True
                self.check()
                if moved(self.ring.mine):
                    raise RingForked("another process has taken this end over")
                peer_look(&self._peer)
                if self._peer.gone:
                    return True
                if self._closing:
                    break
                hit = ring_consumer_arm(&self.ring, RING_LEADER)
                doorbell_space(&self.ring, self.fds)
                if hit:
                    return True
                until = min(deadline, doorbell_now_ns() + slice_ns)
                with nogil:
                    seen = doorbell_poll(self._data.fd, self._peer.fd, until)
                    ring_consumer_disarm(&self.ring)
                if seen < 0:
                    raise OSError(-seen, f"poll: {os.strerror(-seen)}")
                if seen & DOORBELL_OTHER:
                    peer_died(&self._peer)
                PyErr_CheckSignals()
                if seen == 0 and doorbell_now_ns() >= deadline:
                    return False
                slice_ns = min(8 * slice_ns, LAST_SLICE_NS)
        finally:
            self._waiting = False
        self.close()
        raise RingClosed("another thread closed this end")

    cdef object take(self, ring_record_t *record):
        """A private copy of a record's bytes, head and body."""
        cdef object message = PyBytes_FromStringAndSize(
            NULL, <Py_ssize_t> record.head_length + <Py_ssize_t> record.body_length)
        cdef char *start = PyBytes_AS_STRING(message)
        if record.head_length:
            memcpy(start, record.head, record.head_length)
        memcpy(start + record.head_length, record.body, record.body_length)
        return message

    cdef int give_back(self) except -1:
        if self._views:
            withdraw(self._views)
        ring_release(&self.ring)
        doorbell_space(&self.ring, self.fds)
        if memory_lost(&self.watch):  # what was just copied may be no message
            self.check()
        return 0

    def get(self, timeout=None):
        """The next message, as bytes. Also gives back what was peeked before.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for a message.

        Raises
        ------
        RingEmpty
            No message within the timeout.
        RingClosed
            The producer closed or died and everything was taken, or this end is closed.
        RingPoisoned
            The producer published an impossible index or record.
        RingDamaged
            An error of the host's memory destroyed messages; told once, and the next call goes on.
        """
        cdef ring_record_t record
        self.begin()
        self.peek_waiting(&record, timeout)
        message = self.take(&record)
        self.give_back()
        return message

    def get_nowait(self):
        """``get`` with a timeout of 0."""
        return self.get(0)

    def get_into(self, buffer, timeout=None):
        """Copy the next message to the start of a writable buffer; returns its length, bytes.

        Raises
        ------
        RingSizeError
            The buffer is shorter than the message, which stays in the ring.
        """
        cdef ring_record_t record
        cdef Py_buffer view
        cdef Py_ssize_t length
        self.begin()
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            self.peek_waiting(&record, timeout)
            length = <Py_ssize_t> record.head_length + <Py_ssize_t> record.body_length
            if length > view.len:
                ring_unpeek(&self.ring, &record)
                raise RingSizeError(f"a message of {length} bytes does not fit a buffer of {view.len}")
            memcpy(view.buf, record.head, record.head_length)
            memcpy(<uint8_t *> view.buf + record.head_length, record.body, record.body_length)
        finally:
            PyBuffer_Release(&view)
        self.give_back()
        return length

    def get_many(self, Py_ssize_t most=256, timeout=None):
        """At least one message, and what else is there up to `most`: a list of bytes.

        Waits for the first only.
        """
        cdef ring_record_t record
        cdef list messages = []
        self.begin()
        if most < 1:
            raise ValueError(f"get_many of {most} messages")
        self.peek_waiting(&record, timeout)
        messages.append(self.take(&record))
        while len(messages) < most and ring_peek(&self.ring, &record) == RING_OK:
            messages.append(self.take(&record))
        self.give_back()
        return messages

    def peek(self, timeout=None):
        """The next message as a read-only memoryview of the ring itself, without a copy.

        It stays valid until ``release``. More can be peeked before.
        """
        cdef ring_record_t record
        self.begin()
        self.peek_waiting(&record, timeout)
        return window_on(self._theirs, record.body, record.body_length, self._views, True)

    def release(self):
        """Give back everything peeked: the producer may write there again. Withdraws the views.

        Raises
        ------
        BufferError
            Another object (a slice, an array) still uses the memory.
        """
        self.check()
        if self._waiting:
            raise RingBusy("another thread waits in this end: one thread at a time")
        withdraw(self._views)
        ring_release_now(&self.ring)
        doorbell_space(&self.ring, self.fds)
        self.check()

    def fileno(self):
        """A file descriptor for selectors: readable when there may be a message.

        After a wake-up call ``get_nowait`` until it raises RingEmpty, which rearms it.
        """
        self.check()
        if not self._watched:
            self._watched = True
            doorbell_kick(self._data.fd)
        return self._data.fd

    @property
    def peer_fileno(self):
        """A pidfd of the producer's process, -1 if there is none to watch."""
        self.check()
        peer_look(&self._peer)
        return self._peer.fd

    @property
    def peer_gone(self):
        """The producer's process is known to be dead; what it published can still be taken."""
        return self._peer.gone

    def check_peer(self):
        """Look whether the producer's process is alive; returns whether it is known to be dead."""
        self.check()
        peer_look(&self._peer)
        return bool(peer_died(&self._peer))

    @property
    def spin_us(self):
        """Microseconds to spin before sleeping; 0 never spins. Adapts itself below this."""
        return self.spin.full_ns / 1000

    @spin_us.setter
    def spin_us(self, double value):
        doorbell_spin_init(&self.spin, <int64_t> (value * 1000))

    @property
    def closed(self):
        """This end is closed or detached."""
        return not self._attached

    def aget(self):
        """``get`` as a coroutine, which waits in the running asyncio loop."""
        from rings.aio import get

        return get(self)

    def export(self):
        """What another process needs to become this end: an `rings.EndState`. See `rings.attach`."""
        from rings.ends import EndState

        self.check()
        ring_release_now(&self.ring)
        return EndState(role="consumer", backend=self._region.backend, capacity=self.ring.capacity,
                        generation=self.ring.generation,
                        fds=(self._region.fd, self._data.fd, self._space.fd))

    def adopt(self):
        """In a forked child: become this end; the parent must not use it any more. Returns self."""
        if self._region is None:
            raise RingClosed("this end of the ring was closed")
        if self._forks != fork_count()[0]:
            self._region.remap()
            self.__init__(self._region, self.ring.capacity, self._data, self._space)
        return self

    def close(self):
        """Say that nothing is taken any more, wake the producer, and detach. Idempotent."""
        cdef uint32_t kind
        if self._attached and self._forks == fork_count()[0]:
            if self._waiting:
                self._closing = True  # that thread closes when it sees this
                doorbell_kick(self._data.fd)
                return
            if not moved(self.ring.mine) and ring_consumer_close(&self.ring, &kind):
                doorbell_kick(self._space.fd)
        self.detach()

    def detach(self):
        """Forget this end without a word to the producer: another process has it. Idempotent."""
        self.drop()
        peer_forget(&self._peer)
        self._region = None
        self._data = self._space = None

    def __iter__(self):
        while True:
            try:
                message = self.get()
            except RingClosed:
                return
            yield message

    def __aiter__(self):
        from rings.aio import messages

        return messages(self)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __reduce__(self):
        from rings.ends import reduce

        return reduce(self)

    def __repr__(self):
        return f"<Consumer {'closed' if not self._attached else self.ring.capacity}>"
