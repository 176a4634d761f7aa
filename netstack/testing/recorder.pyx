# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A link that remembers every frame: the packet log of simulated hosts."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from netstack.link.link cimport Link, MEDIA_ETHERNET
from netstack.link.tee cimport TEE_IN, tee_init, tee_t
from netstack.link.wrapper cimport Wrapper


cdef struct logged_t:            # followed by the bytes, padded to 8
    int64_t t_ns
    uint32_t length
    uint32_t direction


cdef struct recorder_t:
    tee_t tee                    # first
    uint8_t *log
    size_t used
    size_t capacity
    uint64_t count
    uint64_t missed              # no memory


cdef inline size_t padded(uint32_t length) noexcept nogil:
    return (<size_t> length + 7) & ~<size_t> 7


cdef void record(tee_t *tee, int direction, const uint8_t *head, uint32_t head_length,
                 const uint8_t *body, uint32_t body_length) noexcept nogil:
    cdef recorder_t *r = <recorder_t *> tee
    cdef uint32_t length = head_length + body_length
    cdef size_t need = sizeof(logged_t) + padded(length)
    cdef size_t capacity
    cdef uint8_t *bigger
    cdef logged_t *entry
    if r.used + need > r.capacity:
        capacity = 2 * r.capacity + need + 65536
        bigger = <uint8_t *> realloc(r.log, capacity)
        if bigger == NULL:
            r.missed += 1
            return
        r.log = bigger
        r.capacity = capacity
    entry = <logged_t *> (r.log + r.used)
    entry.t_ns = tee.now_ns
    entry.length = length
    entry.direction = <uint32_t> direction
    memcpy(<uint8_t *> (entry + 1), head, head_length)
    if body_length:
        memcpy(<uint8_t *> (entry + 1) + head_length, body, body_length)
    memset(<uint8_t *> (entry + 1) + length, 0, padded(length) - length)     # logs are compared as bytes
    r.used += need
    r.count += 1


cdef class Recorder(Wrapper):
    """A link that keeps every frame, both ways, in memory.

    Parameters
    ----------
    inner : Link
        The link to wrap.
    on : bool
        Whether to begin at once.
    """

    cdef recorder_t state

    def __init__(self, Link inner not None, *, on=True):
        self.inner = inner
        tee_init(&self.link, &self.state.tee, &inner.link)
        self.link.state = &self.state
        self.state.tee.on_frame = record
        self.state.tee.on = 1 if on else 0

    @property
    def on(self):
        """Recording now? Settable at any time."""
        return self.state.tee.on != 0

    @on.setter
    def on(self, value):
        self.state.tee.on = 1 if value else 0

    def __len__(self):
        return self.state.count

    def frames(self):
        """All frames as a list of (t_ns, ``"in"`` or ``"out"``, bytes)."""
        cdef list out = []
        cdef size_t at = 0
        cdef logged_t *entry
        while at < self.state.used:
            entry = <logged_t *> (self.state.log + at)
            out.append((entry.t_ns, "in" if entry.direction == TEE_IN else "out",
                        (<uint8_t *> (entry + 1))[:entry.length]))
            at += sizeof(logged_t) + padded(entry.length)
        return out

    def raw(self, *, outgoing_only=False):
        """The log as bytes, to compare two runs: times, directions and frames."""
        if not outgoing_only:
            return (<uint8_t *> self.state.log)[:self.state.used] if self.state.used else b""
        return b"".join(t.to_bytes(8, "little") + f for t, d, f in self.frames() if d == "out")

    def packets(self):
        """All frames that hold an IP packet, parsed, as a list of `Packet`."""
        from netstack.testing.packets import parse_packet

        cdef int skip = 14 if self.link.media == MEDIA_ETHERNET else 0
        out = []
        for t, direction, frame in self.frames():
            if skip and frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
                continue
            try:
                out.append(parse_packet(frame[skip:], t, direction))
            except ValueError:
                continue
        return out

    def clear(self):
        """Forget everything so far."""
        self.state.used = 0
        self.state.count = 0

    def __dealloc__(self):
        free(self.state.log)
