"""TCP header and options: bytes to fields and back (RFC 9293 section 3.1, RFC 7323, RFC 2018, RFC 7413, RFC 9768)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from netstack.counters cimport DROP_NONE, DROP_TCP_LENGTH, DropReason
from netstack.wire.byte_order cimport load_be16, load_be32, store_be16, store_be32

from typing import NamedTuple

cdef enum:
    SYN = 2
    OPT_END = 0
    OPT_NOP = 1
    OPT_MSS = 2
    OPT_WSCALE = 3
    OPT_SACK_PERMITTED = 4
    OPT_SACK = 5
    OPT_TIMESTAMPS = 8
    OPT_FASTOPEN = 34            # RFC 7413 section 4.1.1
    OPT_EXPERIMENTAL = 254       # RFC 6994: a magic number of 16 bits says whose
    FASTOPEN_MAGIC = 0xf989      # RFC 7413 appendix B
    FASTOPEN_COOKIE_MIN = 4
    OPT_ACCECN0 = 172            # RFC 9768 section 3.2.3
    OPT_ACCECN1 = 174


cdef inline uint32_t load_be24(const uint8_t *p) noexcept nogil:
    return <uint32_t> p[0] << 16 | load_be16(p + 1)


cdef inline void store_be24(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t> (v >> 16)
    store_be16(p + 1, <uint16_t> v)


cdef DropReason parse_tcp(const uint8_t *p, uint32_t available, uint32_t segment_length, tcp_header_t *out) noexcept nogil:
    """Read header and options from the private copy *p*.

    A data offset below 5 words or beyond the segment is refused before any option is looked at.
    """
    cdef uint32_t header_length
    if available < 20 or segment_length < 20:
        return DROP_TCP_LENGTH
    header_length = (p[12] >> 4) * 4
    if header_length < 20 or header_length > segment_length or header_length > available:
        return DROP_TCP_LENGTH
    out.sport = load_be16(p)
    out.dport = load_be16(p + 2)
    out.seq = load_be32(p + 4)
    out.ack = load_be32(p + 8)
    out.header_length = <uint8_t> header_length
    out.flags = <uint16_t> (p[13] | (p[12] & 1) << 8)
    out.wnd = load_be16(p + 14)
    out.urgent = load_be16(p + 18)
    out.wscale = 255
    out.sack_permitted = 0
    out.sack_count = 0
    out.mss = 0
    out.has_ts = 0
    out.accecn_fields = NO_ACCECN
    out.fastopen_length = NO_FASTOPEN
    # The usual case first: NOP NOP TIMESTAMPS and nothing else.
    if header_length == 32 and p[20] == OPT_NOP and p[21] == OPT_NOP and p[22] == OPT_TIMESTAMPS and p[23] == 10:
        out.has_ts = 1
        out.tsval = load_be32(p + 24)
        out.tsecr = load_be32(p + 28)
        return DROP_NONE
    if header_length > 20:
        parse_tcp_options(p + 20, header_length - 20, out)
    return DROP_NONE


cdef void parse_tcp_options(const uint8_t *p, uint32_t n, tcp_header_t *out) noexcept nogil:
    """Walk the options; a length of 0 or 1, or past the end, ends the walk (what came before still counts)."""
    cdef uint32_t i = 0, size, k
    cdef uint8_t kind
    while i < n:
        kind = p[i]
        if kind == OPT_END:
            return
        if kind == OPT_NOP:
            i += 1
            continue
        if i + 1 >= n:
            return
        size = p[i + 1]
        if size < 2 or i + size > n:
            return
        if kind == OPT_MSS and size == 4:
            out.mss = load_be16(p + i + 2)
        elif kind == OPT_WSCALE and size == 3:
            out.wscale = p[i + 2] if p[i + 2] <= 14 else 14      # RFC 7323 section 2.3
        elif kind == OPT_SACK_PERMITTED and size == 2:
            out.sack_permitted = 1
        elif kind == OPT_TIMESTAMPS and size == 10:
            out.has_ts = 1
            out.tsval = load_be32(p + i + 2)
            out.tsecr = load_be32(p + i + 6)
        elif kind == OPT_SACK and size >= 10 and (size - 2) % 8 == 0:
            out.sack_count = <uint8_t> ((size - 2) // 8)
            for k in range(out.sack_count):
                out.sack[k].start = load_be32(p + i + 2 + 8 * k)
                out.sack[k].end = load_be32(p + i + 6 + 8 * k)
        elif (kind == OPT_ACCECN0 or kind == OPT_ACCECN1) and size <= 2 + 3 * ACCECN_FIELDS and (size - 2) % 3 == 0:
            out.accecn_order = kind == OPT_ACCECN1
            out.accecn_fields = <uint8_t> ((size - 2) // 3)
            for k in range(out.accecn_fields):
                out.accecn[k] = load_be24(p + i + 2 + 3 * k)
        elif kind == OPT_FASTOPEN and out.flags & SYN:
            take_fastopen(p + i + 2, size - 2, 0, out)
        elif kind == OPT_EXPERIMENTAL and size >= 4 and out.flags & SYN and load_be16(p + i + 2) == FASTOPEN_MAGIC:
            take_fastopen(p + i + 4, size - 4, 1, out)
        i += size


cdef void take_fastopen(const uint8_t *p, uint32_t size, uint8_t experimental, tcp_header_t *out) noexcept nogil:
    """A cookie of a wrong size is none (RFC 7413 section 4.1.1: even, 4 to 16 bytes); size 0 asks for one."""
    if size & 1 or (size and not FASTOPEN_COOKIE_MIN <= size <= FASTOPEN_COOKIE_MAX):
        return
    out.fastopen_length = <uint8_t> size
    out.fastopen_experimental = experimental
    memcpy(out.fastopen, p, size)


cdef inline uint32_t accecn_padded(const tcp_options_t *o) noexcept nogil:
    """Bytes of the AccECN option with what aligns the next: SACK blocks want to begin at 2 modulo 4."""
    cdef uint32_t n
    if o.accecn_fields == NO_ACCECN:
        return 0
    n = 2 + 3 * o.accecn_fields
    return ((n + 1) & ~<uint32_t> 3) + 2 if o.sack_count else (n + 3) & ~<uint32_t> 3


cdef uint32_t tcp_options_length(const tcp_options_t *o) noexcept nogil:
    """How many bytes ``write_tcp_options`` will write."""
    cdef uint32_t n = 0
    if o.mss:
        n += 4
    if o.has_ts:
        n += 12
    elif o.sack_permitted:
        n += 4
    if o.wscale != 255:
        n += 4
    if o.sack_count:
        n += (2 if o.accecn_fields != NO_ACCECN else 4) + 8 * o.sack_count
    if o.fastopen_length != NO_FASTOPEN:
        n += (o.fastopen_length + (4 if o.fastopen_experimental else 2) + 3) & ~3
    return n + accecn_padded(o)


cdef uint32_t write_tcp_options(uint8_t *p, const tcp_options_t *o) noexcept nogil:
    """Write options in Linux's order: mss, sackOK, TS, AccECN, nop wscale; nop nop TS, AccECN; nop nop sack; Fast Open."""
    cdef uint8_t *start = p
    cdef int k
    cdef uint32_t n
    if o.mss:
        p[0] = OPT_MSS
        p[1] = 4
        store_be16(p + 2, o.mss)
        p += 4
    if o.has_ts:
        if o.sack_permitted:
            p[0] = OPT_SACK_PERMITTED
            p[1] = 2
        else:
            p[0] = OPT_NOP
            p[1] = OPT_NOP
        p[2] = OPT_TIMESTAMPS
        p[3] = 10
        store_be32(p + 4, o.tsval)
        store_be32(p + 8, o.tsecr)
        p += 12
    if o.accecn_fields != NO_ACCECN:
        n = accecn_padded(o)
        memset(p, OPT_NOP, n)
        p[0] = OPT_ACCECN1
        p[1] = <uint8_t> (2 + 3 * o.accecn_fields)
        for k in range(o.accecn_fields):
            store_be24(p + 2 + 3 * k, o.accecn[k])
        p += n
    if o.sack_permitted and not o.has_ts:
        p[0] = OPT_NOP
        p[1] = OPT_NOP
        p[2] = OPT_SACK_PERMITTED
        p[3] = 2
        p += 4
    if o.wscale != 255:
        p[0] = OPT_NOP
        p[1] = OPT_WSCALE
        p[2] = 3
        p[3] = o.wscale
        p += 4
    if o.sack_count:
        if o.accecn_fields == NO_ACCECN:       # else what aligns stands there already
            p[0] = OPT_NOP
            p[1] = OPT_NOP
            p += 2
        p[0] = OPT_SACK
        p[1] = <uint8_t> (2 + 8 * o.sack_count)
        p += 2
        for k in range(o.sack_count):
            store_be32(p, o.sack[k].start)
            store_be32(p + 4, o.sack[k].end)
            p += 8
    if o.fastopen_length != NO_FASTOPEN:
        p = write_fastopen(p, o)
    return <uint32_t> (p - start)


cdef uint8_t *write_fastopen(uint8_t *p, const tcp_options_t *o) noexcept nogil:
    cdef uint32_t base = 4 if o.fastopen_experimental else 2, size = base + o.fastopen_length
    p[1] = <uint8_t> size
    if o.fastopen_experimental:
        p[0] = OPT_EXPERIMENTAL
        store_be16(p + 2, FASTOPEN_MAGIC)
    else:
        p[0] = OPT_FASTOPEN
    memcpy(p + base, o.fastopen, o.fastopen_length)
    p += size
    while size & 3:
        p[0] = OPT_NOP
        p += 1
        size += 1
    return p


cdef void write_tcp(uint8_t *p, uint16_t sport, uint16_t dport, uint32_t seq, uint32_t ack, uint8_t header_length,
                    uint16_t flags, uint16_t wnd) noexcept nogil:
    """The fixed 20 bytes; the checksum field is left zero for the caller to fill."""
    store_be16(p, sport)
    store_be16(p + 2, dport)
    store_be32(p + 4, seq)
    store_be32(p + 8, ack)
    p[12] = <uint8_t> ((header_length >> 2) << 4 | flags >> 8)
    p[13] = <uint8_t> flags
    store_be16(p + 14, wnd)
    memset(p + 16, 0, 4)


class TcpHeader(NamedTuple):
    """A TCP header as Python sees it; all numbers in host order, lengths in bytes."""

    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    urgent: int
    header_length: int
    mss: int | None
    wscale: int | None
    sack_permitted: bool
    timestamps: tuple[int, int] | None
    sack: tuple[tuple[int, int], ...]
    accecn: tuple[int, tuple[int, ...]] | None = None     # order (0 or 1) and the counters, as they stand there
    fastopen: bytes | None = None
    """A Fast Open cookie, ``b""`` when one is asked for."""


def parse(data):
    """Read the TCP header at the start of *data* (header and payload of one segment).

    Parameters
    ----------
    data : bytes-like
        A whole TCP segment.

    Returns
    -------
    TcpHeader

    Raises
    ------
    ValueError
        When the data offset is below 5 words or lies beyond the segment (RFC 9293 section 3.1).
    """
    cdef bytes copy = bytes(data)
    cdef tcp_header_t h
    cdef uint8_t private[60]
    cdef uint32_t n = <uint32_t> len(copy), k = n if n < 60 else 60
    memset(private, 0, 60)
    memcpy(private, <const char *> copy, k)
    if parse_tcp(private, k, n, &h) != DROP_NONE:
        raise ValueError(f"no TCP header in these {n} bytes: data offset out of bounds")
    return TcpHeader(
        h.sport, h.dport, h.seq, h.ack, h.flags, h.wnd, h.urgent, h.header_length,
        h.mss or None, None if h.wscale == 255 else h.wscale, bool(h.sack_permitted),
        (h.tsval, h.tsecr) if h.has_ts else None,
        tuple((h.sack[i].start, h.sack[i].end) for i in range(h.sack_count)),
        (h.accecn_order, tuple(h.accecn[i] for i in range(h.accecn_fields))) if h.accecn_fields != NO_ACCECN else None,
        None if h.fastopen_length == NO_FASTOPEN else (<const char *> h.fastopen)[:h.fastopen_length],
    )
