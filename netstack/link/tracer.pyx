# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What passed a link, as records of 64 bytes in a plain buffer that wraps: the last ones are kept.

Switched off it costs one comparison a frame, switched on a few loads and stores; numpy is imported only when somebody
asks for the records. Headers are parsed from a private copy, since the frame may lie in another process's reach.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from netstack.link.link cimport Link, MEDIA_ETHERNET
from netstack.link.tee cimport tee_init, tee_t
from netstack.link.wrapper cimport Wrapper

cdef enum:
    LOOK_BYTES = 14 + 60 + 60    # link header, IPv4 header with options, TCP header with options
    PROTOCOL_ICMP = 1
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    PROTOCOL_UDPLITE = 136

# The fields of a record, for ``numpy.dtype`` (host byte order, no padding).
FIELDS = [
    ("t_ns", "i8"), ("length", "u4"), ("direction", "u1"), ("version", "u1"), ("protocol", "u1"), ("flags", "u1"),
    ("sport", "u2"), ("dport", "u2"), ("seq", "u4"), ("ack", "u4"), ("window", "u2"), ("payload", "u2"),
    ("src", "u1", (16,)), ("dst", "u1", (16,)),
]


cdef inline uint32_t get_u16(const uint8_t *p) noexcept nogil:
    return <uint32_t> p[0] << 8 | p[1]


cdef inline uint32_t get_u32(const uint8_t *p) noexcept nogil:
    return get_u16(p) << 16 | get_u16(p + 2)


cdef void read_transport(trace_record_t *r, const uint8_t *p, uint32_t available, uint32_t length) noexcept nogil:
    """The fields of a transport header of which `available` bytes were copied; the packet has `length` from here."""
    cdef uint32_t header
    if r.protocol == PROTOCOL_TCP and available >= 20:
        r.sport = <uint16_t> get_u16(p)
        r.dport = <uint16_t> get_u16(p + 2)
        r.seq = get_u32(p + 4)
        r.ack = get_u32(p + 8)
        r.flags = p[13]
        r.window = <uint16_t> get_u16(p + 14)
        header = (p[12] >> 4) * 4
        r.payload = <uint16_t> (length - header if length >= header else 0)
    elif (r.protocol == PROTOCOL_UDP or r.protocol == PROTOCOL_UDPLITE) and available >= 8:
        r.sport = <uint16_t> get_u16(p)
        r.dport = <uint16_t> get_u16(p + 2)
        r.payload = <uint16_t> (length - 8)
    elif available >= 2 and r.protocol == PROTOCOL_ICMP:
        r.sport = <uint16_t> get_u16(p)


cdef void read_ip(trace_record_t *r, const uint8_t *p, uint32_t available) noexcept nogil:
    """Fill the record from an IP packet of which `available` bytes were copied."""
    cdef uint32_t header, total
    if available >= 20 and p[0] >> 4 == 4:
        header = (p[0] & 15) * 4
        total = get_u16(p + 2)
        r.version = 4
        r.protocol = p[9]
        r.src[10] = r.src[11] = r.dst[10] = r.dst[11] = 0xff
        memcpy(r.src + 12, p + 12, 4)
        memcpy(r.dst + 12, p + 16, 4)
        if header < 20 or header > available or total < header or get_u16(p + 6) & 0x1fff:
            return                                # malformed, or a later fragment
        read_transport(r, p + header, available - header, total - header)
    elif available >= 40 and p[0] >> 4 == 6:
        r.version = 6
        r.protocol = p[6]
        memcpy(r.src, p + 8, 16)
        memcpy(r.dst, p + 24, 16)
        read_transport(r, p + 40, available - 40, get_u16(p + 4))


cdef void trace_frame(tee_t *tee, int direction, const uint8_t *head, uint32_t head_length,
                      const uint8_t *body, uint32_t body_length) noexcept nogil:
    cdef trace_t *t = <trace_t *> tee
    cdef trace_record_t *r = &t.records[t.count % t.capacity]
    cdef uint8_t look[LOOK_BYTES]
    cdef uint32_t available = head_length if head_length < LOOK_BYTES else LOOK_BYTES
    cdef uint32_t skip = 0
    t.count += 1
    memset(r, 0, sizeof(trace_record_t))
    r.t_ns = tee.now_ns
    r.length = head_length + body_length
    r.direction = <uint8_t> direction
    memcpy(look, head, available)
    if tee.wrapper.inner.media == MEDIA_ETHERNET:
        skip = 14
        if available < skip or not (get_u16(look + 12) == 0x0800 or get_u16(look + 12) == 0x86dd):
            return
    read_ip(r, look + skip, available - skip)


cdef class Tracer(Wrapper):
    """A link that keeps a binary record of each frame, both ways.

    Parameters
    ----------
    inner : Link
        The link to wrap.
    records : int
        How many records to keep, 64 bytes each; the oldest go first. Default 65,536 (4 MiB, touched as it fills).
    on : bool
        Whether to begin at once.

    Attributes
    ----------
    on : bool
        Tracing now? Settable at any time.
    count : int
        Frames seen while on, also those whose record was overwritten.
    """

    def __init__(self, Link inner not None, *, records=65536, on=True):
        if records < 1:
            raise ValueError(f"records {records}: keep at least one")
        self.inner = inner
        tee_init(&self.link, &self.state.tee, &inner.link)
        self.link.state = &self.state
        self.state.tee.on_frame = trace_frame
        self.state.records = <trace_record_t *> calloc(records, sizeof(trace_record_t))
        if self.state.records == NULL:
            raise MemoryError(f"no memory for {records} trace records")
        self.state.capacity = records
        self.state.tee.on = 1 if on else 0

    @property
    def on(self):
        return self.state.tee.on != 0

    @on.setter
    def on(self, value):
        self.state.tee.on = 1 if value else 0

    @property
    def count(self):
        return self.state.count

    def raw(self):
        """The records that are kept, oldest first, as bytes; 64 each, laid out as `FIELDS`."""
        cdef uint64_t kept = min(self.state.count, self.state.capacity)
        cdef uint64_t first = self.state.count % self.state.capacity if self.state.count > self.state.capacity else 0
        cdef const char *base = <const char *> self.state.records
        cdef size_t size = sizeof(trace_record_t)
        if kept == 0:
            return b""
        return base[first * size:kept * size] + (base[:first * size] if first else b"")

    def records(self):
        """The records that are kept, oldest first, as a numpy structured array (a copy)."""
        import numpy
        return numpy.frombuffer(self.raw(), dtype=numpy.dtype(FIELDS))

    def clear(self):
        """Forget all records."""
        self.state.count = 0

    def __dealloc__(self):
        free(self.state.records)
