# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The seeded impairment model (`impairment.pxd`) around any link, on its output side, its input side, or both.

Frames are copied into the injector and wait there for their time. The driver has to honour ``next_deadline`` and call
``advance``, as for any link that holds frames; times are those the driver tells, no clock is read.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from netstack.link.impairment cimport (
    held_bytes, held_t, line_free, line_init, line_next_due, line_peek, line_pop, line_push, line_t,
)
from netstack.link.link cimport frame_t, Link, link_t
from netstack.link.wrapper cimport Wrapper, wrapper_init, wrapper_refresh

from netstack.units import duration_ns, rate_bits, size_bytes

cdef enum:
    HELD_LIMIT = 64 << 20        # bytes under way before the stack feels backpressure
    PULL_ROUNDS = 16             # bound of one receive: this many batches are taken from the inner link


cdef void drain_output(link_t *self) noexcept nogil:
    """Hand the frames whose time has come to the inner link; stop where it has no room."""
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    cdef uint8_t *head
    cdef uint8_t *body
    cdef held_t *frame
    f.blocked = 0
    while True:
        frame = line_peek(&f.out, f.now_ns)
        if frame == NULL:
            break
        if inner.claim(inner, frame.head_length, frame.length - frame.head_length, &head, &body):
            f.blocked = 1
            break
        memcpy(head, held_bytes(frame), frame.head_length)
        if frame.length > frame.head_length:
            memcpy(body, held_bytes(frame) + frame.head_length, frame.length - frame.head_length)
        inner.commit(inner, f.now_ns)
        free(line_pop(&f.out))


cdef int fault_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                     uint8_t **head, uint8_t **body) noexcept nogil:
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    cdef uint32_t need = head_length + body_length
    cdef uint8_t *bigger
    if not f.impair_output:
        return inner.claim(inner, head_length, body_length, head, body)
    if f.out.held + need > HELD_LIMIT:
        return -1
    if need > f.claimed_capacity:
        bigger = <uint8_t *> realloc(f.claimed, need)
        if bigger == NULL:
            return -1
        f.claimed = bigger
        f.claimed_capacity = need
    f.head_length = head_length
    f.body_length = body_length
    head[0] = f.claimed
    body[0] = f.claimed + head_length
    return 0


cdef void fault_commit(link_t *self, int64_t now_ns) noexcept nogil:
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    if now_ns > f.now_ns:
        f.now_ns = now_ns
    if f.impair_output:
        line_push(&f.out, f.claimed, f.head_length, f.claimed + f.head_length, f.body_length, f.now_ns)
    else:
        inner.commit(inner, now_ns)


cdef void fault_flush(link_t *self) noexcept nogil:
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    if f.impair_output:
        drain_output(self)
    inner.flush(inner)
    wrapper_refresh(self)


cdef int fault_receive(link_t *self, frame_t *frames, int n) noexcept nogil:
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    cdef frame_t taken[FAULT_SHOWN]
    cdef held_t *held
    cdef int i, got, rounds
    if not f.impair_input:
        got = inner.receive(inner, frames, n)
        wrapper_refresh(self)
        return got
    for rounds in range(PULL_ROUNDS):
        got = inner.receive(inner, taken, FAULT_SHOWN)
        for i in range(got):
            line_push(&f.back, taken[i].head, taken[i].head_length, taken[i].body, taken[i].body_length, f.now_ns)
        inner.release(inner)
        if got < FAULT_SHOWN:
            break
    wrapper_refresh(self)
    if n > FAULT_SHOWN:
        n = FAULT_SHOWN
    got = 0
    while got < n and line_peek(&f.back, f.now_ns) != NULL:
        held = line_pop(&f.back)
        f.shown[got] = held
        frames[got].head = held_bytes(held)
        frames[got].head_length = held.head_length
        frames[got].body = held_bytes(held) + held.head_length
        frames[got].body_length = held.length - held.head_length
        got += 1
    f.shown_count = got
    return got


cdef void fault_release(link_t *self) noexcept nogil:
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    cdef int i
    if not f.impair_input:
        inner.release(inner)
        return
    for i in range(f.shown_count):
        free(f.shown[i])
    f.shown_count = 0


cdef int64_t fault_next_deadline(link_t *self) noexcept nogil:
    """The earliest frame under way; while the inner link is full its room is what counts, not the time."""
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    cdef int64_t deadline = inner.next_deadline(inner)
    if not f.blocked and line_next_due(&f.out) < deadline:
        deadline = line_next_due(&f.out)
    if line_next_due(&f.back) < deadline:
        deadline = line_next_due(&f.back)
    return deadline


cdef void fault_advance(link_t *self, int64_t now_ns) noexcept nogil:
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    if now_ns > f.now_ns:
        f.now_ns = now_ns
    inner.advance(inner, now_ns)
    if line_peek(&f.out, f.now_ns) != NULL:
        drain_output(self)
        inner.flush(inner)
    wrapper_refresh(self)


cdef int fault_arm(link_t *self, uint32_t kind) noexcept nogil:
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    if line_peek(&f.back, f.now_ns) != NULL:
        return 1
    return inner.arm(inner, kind)


cdef int fault_has_input(link_t *self) noexcept nogil:
    cdef fault_t *f = <fault_t *> self.state
    cdef link_t *inner = f.wrapper.inner
    return line_peek(&f.back, f.now_ns) != NULL or inner.has_input(inner) != 0


# ---------------------------------------------------------------------------------------------- settings

cdef uint64_t scaled(object probability, str name) except? 0:
    """A probability as a threshold for 64 random bits."""
    cdef double p = float(probability)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name} {probability!r}: a probability lies between 0 and 1")
    if p == 1.0:
        return <uint64_t> 0xffffffffffffffff
    return <uint64_t> (p * 18446744073709551616.0)


cdef int configure(line_t *line, dict settings) except -1:
    """Change those settings of a line that are given."""
    cdef str name
    for name, value in settings.items():
        if name == "loss":
            line.loss = scaled(value, name)
        elif name == "duplicate":
            line.duplicate = scaled(value, name)
        elif name == "reorder":
            line.reorder = scaled(value, name)
        elif name == "corrupt":
            line.corrupt = scaled(value, name)
        elif name == "delay":
            line.delay_ns = duration_ns(value)
        elif name == "jitter":
            line.jitter_ns = duration_ns(value)
        elif name == "reorder_delay":
            line.reorder_ns = max(1, duration_ns(value))
        elif name == "rate":
            line.rate = 0 if value is None else rate_bits(value)
        elif name == "queue":
            line.queue_packets = 0 if value is None else int(value)
        elif name == "queue_bytes":
            line.queue_bytes = 0 if value is None else size_bytes(value)
        elif name == "mark":
            line.mark_packets = 0 if value is None else int(value)
        else:
            raise TypeError(f"no impairment {name!r}: there are loss, duplicate, reorder, corrupt, delay, jitter, "
                            "reorder_delay, rate, queue, queue_bytes, mark")
    return 0


cdef dict line_stats(const line_t *line):
    return {
        "pushed": line.pushed, "delivered": line.popped, "lost": line.lost, "duplicated": line.duplicated,
        "reordered": line.reordered, "corrupted": line.corrupted, "marked": line.marked, "queue_dropped": line.queue_dropped,
        "no_memory": line.no_memory, "held": line.count,
    }


cdef class FaultInjector(Wrapper):
    """A link behind a bad network, repeatable from its seed.

    Parameters
    ----------
    inner : Link
        The link to wrap.
    seed : int
        Same seed, same frames, same times: same fate of every frame.
    output, input : mapping, optional
        Impairments of one direction only: ``FaultInjector(link, output={"loss": 0.1})``.
    **both
        Impairments of both directions, each on its own dice:

        ``loss``, ``duplicate``, ``reorder``, ``corrupt``
            probabilities per frame, 0 to 1. A corrupted frame has one bit flipped (on Ethernet: in an IP packet).
        ``delay``, ``jitter``, ``reorder_delay``
            nanoseconds or text (``"5ms"``). Jitter adds 0 to that much and keeps the order; a frame picked by
            ``reorder`` is held back up to ``reorder_delay`` (1 ms) more, and others may pass it.
        ``rate``
            bit/s or text (``"10mbit"``): frames leave one after the other.
        ``queue``, ``queue_bytes``
            what may wait for the rate, in frames and in bytes; beyond, frames are dropped at the tail.
        ``mark``
            ECN: while so many frames wait for the rate, a packet of an ECN-capable transport gets "congestion
            experienced" (RFC 3168), any other is dropped.

    Raises
    ------
    ValueError, TypeError
        A probability outside 0..1, a negative time, an unknown impairment.

    Examples
    --------
    >>> a, b = netstack.link.Wire()
    >>> bad = netstack.link.FaultInjector(a, seed=7, loss=0.01, delay="5ms")
    """

    def __init__(self, Link inner not None, *, seed=0, output=None, input=None, **both):
        cdef link_t *link = &self.link
        self.inner = inner
        self.seed = seed
        line_init(&self.state.out, <uint64_t> (2 * int(seed) & 0xffffffffffffffff))
        line_init(&self.state.back, <uint64_t> (2 * int(seed) + 1 & 0xffffffffffffffff))
        wrapper_init(link, &self.state.wrapper, &inner.link)
        link.state = &self.state
        self.state.out.media = inner.link.media
        self.state.back.media = inner.link.media
        link.claim = fault_claim
        link.commit = fault_commit
        link.flush = fault_flush
        link.receive = fault_receive
        link.release = fault_release
        link.next_deadline = fault_next_deadline
        link.advance = fault_advance
        link.arm = fault_arm
        link.has_input = fault_has_input
        self.set(output=output, input=input, **both)

    def set(self, *, output=None, input=None, **both):
        """Change impairments from now on; frames under way keep their times. Parameters as of the class."""
        if both or output:
            configure(&self.state.out, {**both, **(output or {})})
            self.state.impair_output = 1
        if both or input:
            configure(&self.state.back, {**both, **(input or {})})
            self.state.impair_input = 1

    def stats(self):
        """What happened so far: ``{"output": {...}, "input": {...}}``.

        In each direction pushed + duplicated = delivered + lost + queue_dropped + no_memory + held.
        """
        return {"output": line_stats(&self.state.out), "input": line_stats(&self.state.back)}

    def __dealloc__(self):
        cdef int i
        for i in range(self.state.shown_count):
            free(self.state.shown[i])
        line_free(&self.state.out)
        line_free(&self.state.back)
        free(self.state.claimed)
