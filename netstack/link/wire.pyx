# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""An in-process wire: two link ends over two queues. For one thread, or two that take turns; it has no doorbell.

A frame is a block of its own, so that memory checkers see any access beyond it. Head and body keep the split the
sender made, as in a channel.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from netstack.link.link cimport frame_t, Link, link_t, MEDIA_ETHERNET, MEDIA_IP

from netstack.units import size_bytes


cdef int wire_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                    uint8_t **head, uint8_t **body) noexcept nogil:
    cdef wire_end_t *end = <wire_end_t *> self.state
    cdef uint32_t need = head_length + body_length
    if self.dead:
        return -1
    if (end.limit_frames and end.out.count >= end.limit_frames) or \
            (end.limit_bytes and end.out.bytes + need > end.limit_bytes):
        end.refused += 1
        return -1
    if end.claimed == NULL or end.claimed_capacity != need:
        free(end.claimed)
        end.claimed = <wire_frame_t *> malloc(sizeof(wire_frame_t) + need)
        if end.claimed == NULL:
            return -1
        end.claimed_capacity = need
    end.claimed.head_length = head_length
    end.claimed.length = need
    head[0] = <uint8_t *> (end.claimed + 1)
    body[0] = head[0] + head_length
    return 0


cdef void wire_commit(link_t *self, int64_t now_ns) noexcept nogil:
    cdef wire_end_t *end = <wire_end_t *> self.state
    cdef wire_frame_t *frame = end.claimed
    if frame == NULL:
        return
    end.claimed = NULL
    frame.next = NULL
    if end.out.last == NULL:
        end.out.first = frame
    else:
        end.out.last.next = frame
    end.out.last = frame
    end.out.count += 1
    end.out.bytes += frame.length


cdef void wire_flush(link_t *self) noexcept nogil:
    cdef wire_end_t *end = <wire_end_t *> self.state
    end.out.visible = end.out.last


cdef int wire_receive(link_t *self, frame_t *frames, int n) noexcept nogil:
    cdef wire_end_t *end = <wire_end_t *> self.state
    cdef wire_queue_t *queue = end.back
    cdef wire_frame_t *frame
    cdef wire_frame_t *tail = NULL
    cdef int got = 0
    wire_release(self)
    while got < n and queue.visible != NULL:
        frame = queue.first
        queue.first = frame.next
        if frame.next == NULL:
            queue.last = NULL
        if frame == queue.visible:
            queue.visible = NULL
        queue.count -= 1
        queue.bytes -= frame.length
        frame.next = NULL
        if tail == NULL:
            end.shown = frame
        else:
            tail.next = frame
        tail = frame
        frames[got].head = <const uint8_t *> (frame + 1)
        frames[got].head_length = frame.head_length
        frames[got].body = frames[got].head + frame.head_length
        frames[got].body_length = frame.length - frame.head_length
        got += 1
    return got


cdef void wire_release(link_t *self) noexcept nogil:
    cdef wire_end_t *end = <wire_end_t *> self.state
    cdef wire_frame_t *frame
    while end.shown != NULL:
        frame = end.shown
        end.shown = frame.next
        free(frame)


cdef int wire_has_input(link_t *self) noexcept nogil:
    return (<wire_end_t *> self.state).back.visible != NULL


cdef int wire_arm(link_t *self, uint32_t kind) noexcept nogil:
    return (<wire_end_t *> self.state).back.visible != NULL


cdef class _Queues:
    """Both directions; lives as long as either end."""

    def __cinit__(self):
        memset(self.directions, 0, sizeof(self.directions))

    def __dealloc__(self):
        cdef wire_frame_t *frame
        cdef int i
        for i in range(2):
            while self.directions[i].first != NULL:
                frame = self.directions[i].first
                self.directions[i].first = frame.next
                free(frame)


cdef class WireEnd(Link):
    """One end of a `Wire`. Tests may also use it by hand with `put` and `get`."""

    def put(self, bytes frame not None, int64_t now_ns=0):
        """Send one frame. Returns False when the wire is full or closed."""
        cdef uint8_t *head
        cdef uint8_t *body
        cdef const uint8_t *data = frame
        if wire_claim(&self.link, <uint32_t> len(frame), 0, &head, &body):
            return False
        memcpy(head, data, len(frame))
        wire_commit(&self.link, now_ns)
        wire_flush(&self.link)
        return True

    def get(self):
        """The next frame as bytes, or None."""
        cdef frame_t frame
        cdef bytes out
        if wire_receive(&self.link, &frame, 1) == 0:
            return None
        out = frame.head[:frame.head_length + frame.body_length]
        wire_release(&self.link)
        return out

    @property
    def refused(self):
        """How often a frame found no room."""
        return self.state.refused

    @property
    def waiting(self):
        """Frames under way to this end."""
        return self.state.back.count if self.state.back != NULL else 0

    def close(self):
        """Pull the plug: both ends are dead from now on; frames under way can still be read."""
        self.link.dead = 1
        if self.peer is not None:
            self.peer.link.dead = 1

    def __dealloc__(self):
        wire_release(&self.link)
        free(self.state.claimed)


cdef void join(WireEnd end, _Queues queues, int side):
    cdef link_t *link = &end.link
    end.queues = queues
    end.state.out = &queues.directions[side]
    end.state.back = &queues.directions[1 - side]
    link.state = &end.state
    link.claim = wire_claim
    link.commit = wire_commit
    link.flush = wire_flush
    link.receive = wire_receive
    link.release = wire_release
    link.has_input = wire_has_input
    link.arm = wire_arm


cdef class Wire:
    """Two stacks of one process, joined: ``a, b = Wire()``.

    Parameters
    ----------
    mtu : int
        Largest IP packet, 68 to 65535 bytes.
    media : str
        ``"ip"`` or ``"ethernet"``.
    capacity : int or str, optional
        Bytes that fit on the wire in each direction; a full wire is backpressure to the sender. Default: no limit.
    frames : int, optional
        The same in frames.
    """

    def __init__(self, *, mtu=1500, media="ip", capacity=None, frames=None):
        cdef WireEnd end
        if not 68 <= mtu <= 65535:
            raise ValueError(f"mtu {mtu}: an IP packet has 68 to 65535 bytes")
        if media not in ("ip", "ethernet"):
            raise ValueError(f"media {media!r}: say 'ip' or 'ethernet'")
        queues = _Queues()
        self.a = WireEnd()
        self.b = WireEnd()
        join(self.a, queues, 0)
        join(self.b, queues, 1)
        self.a.peer = self.b
        self.b.peer = self.a
        for end in (self.a, self.b):
            end.link.mtu = mtu
            end.link.media = MEDIA_ETHERNET if media == "ethernet" else MEDIA_IP
            end.state.limit_bytes = 0 if capacity is None else size_bytes(capacity)
            end.state.limit_frames = 0 if frames is None else frames

    def __iter__(self):
        return iter((self.a, self.b))
