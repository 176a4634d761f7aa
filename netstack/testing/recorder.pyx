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


# --- segments, read without the stack's own parsers -------------------------------------------------------------------

cdef inline uint32_t get_u16(const uint8_t *p) noexcept nogil:
    return <uint32_t> p[0] << 8 | p[1]


cdef inline uint32_t get_u32(const uint8_t *p) noexcept nogil:
    return get_u16(p) << 16 | get_u16(p + 2)


cdef uint32_t folded_sum(const uint8_t *p, uint32_t n, uint32_t start) noexcept nogil:
    """The sum of 16-bit words in memory order, folded to 16 bits: right is 0xffff in either byte order (RFC 1071)."""
    cdef uint64_t total = start
    cdef uint32_t i, word, whole = n & ~<uint32_t> 3
    cdef uint8_t rest[4]
    for i in range(0, whole, 4):
        memcpy(&word, p + i, 4)
        total += word
    if n & 3:
        memset(rest, 0, 4)
        memcpy(rest, p + whole, n & 3)
        memcpy(&word, rest, 4)
        total += word
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return <uint32_t> total


cdef object read_segment(const uint8_t *p, uint32_t length, int64_t t_ns, bint outgoing):
    """One packet as a tuple, None when it is no TCP segment or came in damaged."""
    cdef uint32_t header, total, offset, at, end, size, mss = 0
    cdef const uint8_t *t
    cdef uint8_t pseudo[4]
    cdef bint has_mss = False, sack_ok = False, has_ts = False, fast_open = False, sound
    cdef int wscale = -1
    cdef uint32_t tsval = 0, tsecr = 0
    cdef tuple sack = ()
    cdef bytes name
    if p[0] >> 4 != 4 or p[9] != 6:
        return None
    header = (p[0] & 15) * 4
    total = get_u16(p + 2)
    sound = header >= 20 and header + 20 <= total and total <= length and not get_u16(p + 6) & 0x3fff
    if sound:
        t = p + header
        offset = (t[12] >> 4) * 4
        size = total - header
        pseudo[0], pseudo[1], pseudo[2], pseudo[3] = 0, 6, <uint8_t> (size >> 8), <uint8_t> (size & 0xff)
        sound = 20 <= offset <= size and folded_sum(p, header, 0) == 0xffff and \
            folded_sum(t, size, folded_sum(p + 12, 8, folded_sum(pseudo, 4, 0))) == 0xffff
    if not sound:
        return (t_ns, True, b"", 0, 0, 0, 0, b"", -1, -1, False, -1, 0, (), False, 0, 0, False) if outgoing else None
    at = 20
    while at < offset:
        if t[at] == 0:
            break
        if t[at] == 1:
            at += 1
            continue
        if at + 1 >= offset or t[at + 1] < 2 or at + t[at + 1] > offset:
            break
        end = at + t[at + 1]
        if t[at] == 2 and t[at + 1] == 4:
            has_mss = True
            mss = get_u16(t + at + 2)
        elif t[at] == 3 and t[at + 1] == 3:
            wscale = t[at + 2]
        elif t[at] == 4 and t[at + 1] == 2:
            sack_ok = True
        elif t[at] == 5 and (t[at + 1] - 2) % 8 == 0:
            sack = tuple([(get_u32(t + k), get_u32(t + k + 4)) for k in range(at + 2, end, 8)])
        elif t[at] == 8 and t[at + 1] == 10:
            has_ts = True
            tsval = get_u32(t + at + 2)
            tsecr = get_u32(t + at + 6)
        elif t[at] == 34 or (t[at] == 254 and t[at + 1] >= 4 and get_u16(t + at + 2) == 0xf989):
            fast_open = True
        at = end
    if outgoing:
        name = p[12:20] + t[:4]
    else:
        name = p[16:20] + p[12:16] + t[2:4] + t[:2]
    return (t_ns, outgoing, name, <int> (t[13] | (t[12] & 1) << 8), get_u32(t + 4), get_u32(t + 8), get_u16(t + 14),
            t[offset:size], <int> mss if has_mss else -1, wscale, sack_ok, <int64_t> tsval if has_ts else -1, tsecr, sack,
            fast_open, <int> (offset - 20), p[1], True)


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

    def segments(self):
        """The TCP segments over IPv4, for `netstack.testing.StateChecker`: tuples with the fields of its `Segment`.

        What came in damaged is left out, since the stack must behave as if it had not come; what went out damaged is not
        ``sound``.
        """
        cdef list out = []
        cdef size_t at = 0
        cdef logged_t *entry
        cdef uint32_t skip = 14 if self.link.media == MEDIA_ETHERNET else 0
        cdef const uint8_t *p
        while at < self.state.used:
            entry = <logged_t *> (self.state.log + at)
            at += sizeof(logged_t) + padded(entry.length)
            p = <const uint8_t *> (entry + 1)
            if entry.length < skip + 20 or (skip and (p[12] != 0x08 or p[13] != 0x00)):
                continue
            segment = read_segment(p + skip, entry.length - skip, entry.t_ns, entry.direction != TEE_IN)
            if segment is not None:
                out.append(segment)
        return out

    def clear(self):
        """Forget everything so far."""
        self.state.used = 0
        self.state.count = 0

    def __dealloc__(self):
        free(self.state.log)
