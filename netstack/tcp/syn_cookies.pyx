"""Cookies as Linux bakes them, so that who reads a capture knows what is seen.

The initial sequence number is F(names) + the SYN's own + (minute << 24) + (G(names, the SYN's own, minute) + index mod 2^24): the
minute moves a cookie out of date, the index names one of four segment sizes. What else the SYN offered lies in the lowest six
bits of the timestamp: window shift (15: none), SACK, ECN; a SYN without timestamps keeps none of them. F and G are SipHash
under keys derived from the stack's secret, G under another key each minute, so that what a peer saw of one minute
says nothing of the next. A check is two hashes, whatever the segment says.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from netstack.address cimport address_is_v4
from netstack.clock cimport NS_PER_S
from netstack.siphash cimport siphash
from netstack.tcp.ecn cimport ecn_cookie_mode
from netstack.tcp.isn cimport timestamp_clock, timestamp_offset_of, tuple_hash
from netstack.tcp.tcb cimport RQ_SACK, RQ_TIMESTAMPS, RQ_WSCALE

cdef enum:
    PERIOD_S = 60                # how long a minute of the cookie is
    MAX_AGE = 2                  # in such minutes: a cookie is good for one to two of them
    DATA_BITS = 24
    DATA_MASK = 0xffffff
    SIZES = 4
    SALT_COOKIE = 8
    SALT_COOKIE_KEY = 9
    TS_BITS = 6
    TS_MASK = 63
    TS_WSCALE = 15               # of the shift; 15 itself: no window scaling
    TS_SACK = 16
    TS_ECN = 32

# Rising; chosen by Linux from measured traffic.
cdef uint16_t *SIZES_V4 = [536, 1300, 1440, 1460]
cdef uint16_t *SIZES_V6 = [1220, 1420, 1440, 8940]


cdef inline uint32_t minute_now(const tcp_t *tcp) noexcept nogil:
    return <uint32_t> (<uint64_t> (tcp.now_ns + tcp.clock_shift_ns) // (<uint64_t> PERIOD_S * NS_PER_S))


cdef uint32_t names_hash(const tcp_t *tcp, const request_t *r, uint32_t minute, bint timed) noexcept nogil:
    cdef uint64_t key[2]
    cdef uint64_t words[1]
    words[0] = (<uint64_t> SALT_COOKIE_KEY << 33) | (<uint64_t> timed << 32) | (minute if timed else 0)
    key[0] = siphash(tcp.secret, words, 1)
    words[0] |= <uint64_t> 1 << 63
    key[1] = siphash(tcp.secret, words, 1)
    return <uint32_t> tuple_hash(key, &r.local, &r.remote, r.lport, r.rport, r.irs if timed else SALT_COOKIE)


cdef uint32_t cookie_isn(const tcp_t *tcp, request_t *r) noexcept nogil:
    cdef const uint16_t *sizes = SIZES_V4 if address_is_v4(&r.remote) else SIZES_V6
    cdef uint32_t minute = minute_now(tcp), index = SIZES - 1
    cdef uint16_t mss = r.peer_mss if r.peer_mss else 536
    while index and mss < sizes[index]:
        index -= 1
    r.peer_mss = sizes[index]
    return names_hash(tcp, r, 0, False) + r.irs + (minute << DATA_BITS) + \
        ((names_hash(tcp, r, minute, True) + index) & DATA_MASK)


cdef uint32_t cookie_timestamp(const tcp_t *tcp, const request_t *r) noexcept nogil:
    """Never ahead of the clock, or the connection's own timestamps would seem to go back."""
    cdef uint32_t now = timestamp_clock(tcp), options = TS_WSCALE, t
    if r.flags & RQ_WSCALE:
        options = r.snd_wscale
    if r.flags & RQ_SACK:
        options |= TS_SACK
    if r.ecn:
        options |= TS_ECN
    t = (now & ~<uint32_t> TS_MASK) | options
    if <int32_t> (t - now) > 0:
        t -= 1 << TS_BITS
    return t + r.ts_offset


cdef int cookie_check(tcp_t *tcp, const segment_t *seg, request_t *r) noexcept nogil:
    cdef uint32_t cookie = seg.ack - 1, age, index, options
    cdef uint32_t minute = minute_now(tcp)
    memset(r, 0, sizeof(request_t))
    r.local = seg.dst
    r.remote = seg.src
    r.lport = seg.dport
    r.rport = seg.sport
    r.iss = cookie
    r.irs = seg.seq - 1
    r.interface = seg.interface
    cookie -= names_hash(tcp, r, 0, False) + r.irs
    age = (minute - (cookie >> DATA_BITS)) & 0xff
    if age >= MAX_AGE:
        return COOKIE_FAILED
    index = (cookie - names_hash(tcp, r, minute - age, True)) & DATA_MASK
    if index >= SIZES:
        return COOKIE_FAILED
    r.peer_mss = SIZES_V4[index] if address_is_v4(&r.remote) else SIZES_V6[index]
    r.ts_offset = timestamp_offset_of(tcp, &r.local, &r.remote, r.lport, r.rport)
    if not seg.has_ts:
        return COOKIE_GOOD
    options = (seg.tsecr - r.ts_offset) & TS_MASK
    r.ts_recent = seg.tsval
    r.flags = RQ_TIMESTAMPS
    if options & TS_SACK:
        r.flags |= RQ_SACK
    if options & TS_WSCALE != TS_WSCALE:
        r.flags |= RQ_WSCALE
        r.snd_wscale = <uint8_t> (options & TS_WSCALE)
    r.ecn = ecn_cookie_mode((options & TS_ECN) != 0, seg.flags)
    if not tcp.config.timestamps or (r.flags & RQ_SACK and not tcp.config.sack) or \
            (r.flags & RQ_WSCALE and not tcp.config.window_scaling):
        return COOKIE_REFUSED
    return COOKIE_GOOD
