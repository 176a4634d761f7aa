"""LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus-01, after RFC 6817): background transfers that get out of the way.

The queueing delay, round trip less the smallest round trip of the last ten minutes, is held near TARGET; where other traffic
adds to it the window shrinks in proportion. Against RFC 6817 it measures round trips, decreases multiplicatively, grows no
faster than Reno scaled by GAIN, and slows down from time to time so that the base delay can be seen.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from netstack.clock cimport NS_PER_MS
from netstack.tcp.congestion.controller cimport CWND_MAX, congestion_register
from netstack.tcp.tcb cimport congestion_ops_t, congestion_t, rate_sample_t

cdef enum:
    TARGET_US = 60000            # section 4.1
    GAIN_MAX = 16                # section 4.2: GAIN = 1 / min(16, ceil(2 TARGET / base))
    BASE_MINUTES = 10            # RFC 6817 section 3.4.2
    CURRENT = 4                  # samples whose smallest is the current delay
    SLOWDOWN_ROUNDS = 2          # section 4.4: two segments for two round trips
    SLOWDOWN_EVERY = 9           # times as long as a slowdown took
    NO_RTT = 0xffffffff

cdef enum:                       # ledbat_t.phase
    FIRST_SLOW_START
    SETTLING                     # two round trips to the first slowdown
    STEADY
    SLOW                         # two segments
    RAMP                         # slow start back to where it was


cdef struct ledbat_t:
    uint32_t base_us[BASE_MINUTES]
    uint32_t current_us[CURRENT]
    uint32_t minute_ms           # when base_us[0] began
    uint32_t round_end
    uint32_t next_ms             # of the slowdown, STEADY
    uint32_t slow_ms             # when it began
    uint32_t saved               # cwnd before it
    uint32_t rest                # growth not yet a byte: of GAIN_MAX
    uint8_t current_at
    uint8_t phase
    uint8_t rounds               # left of SETTLING and SLOW
    uint8_t started


cdef inline ledbat_t *state(congestion_t *cc) noexcept nogil:
    return <ledbat_t *> cc.extended


cdef void ledbat_init(congestion_t *cc, int64_t now_ns) noexcept nogil:
    cdef ledbat_t *s = state(cc)
    cdef int i
    for i in range(BASE_MINUTES):
        s.base_us[i] = NO_RTT
    for i in range(CURRENT):
        s.current_us[i] = NO_RTT
    s.minute_ms = <uint32_t> (now_ns // NS_PER_MS)
    s.phase = FIRST_SLOW_START
    if cc.min_rtt_ns:
        s.base_us[0] = <uint32_t> (cc.min_rtt_ns // 1000)


cdef void remember(ledbat_t *s, uint32_t us, uint32_t now_ms) noexcept nogil:
    cdef int i
    while now_ms - s.minute_ms >= 60000:
        for i in range(BASE_MINUTES - 1, 0, -1):
            s.base_us[i] = s.base_us[i - 1]
        s.base_us[0] = NO_RTT
        if now_ms - s.minute_ms >= 60000 * BASE_MINUTES:
            s.minute_ms = now_ms
        else:
            s.minute_ms += 60000
    if us < s.base_us[0]:
        s.base_us[0] = us
    s.current_us[s.current_at] = us
    s.current_at = <uint8_t> ((s.current_at + 1) % CURRENT)


cdef uint32_t smallest(const uint32_t *values, int n) noexcept nogil:
    cdef uint32_t least = NO_RTT
    cdef int i
    for i in range(n):
        if values[i] < least:
            least = values[i]
    return least


cdef uint32_t gain_divisor(uint32_t base_us) noexcept nogil:
    cdef uint32_t n
    if base_us == NO_RTT:                              # none in all the minutes that are remembered
        base_us = TARGET_US
    if base_us == 0:
        return GAIN_MAX
    if base_us >= 2 * TARGET_US:
        return 1
    n = (2 * TARGET_US + base_us - 1) // base_us
    return n if n < GAIN_MAX else GAIN_MAX


cdef void begin_slowdown(congestion_t *cc, uint32_t now_ms) noexcept nogil:
    cdef ledbat_t *s = state(cc)
    s.saved = cc.cwnd
    s.slow_ms = now_ms
    s.phase = SLOW
    s.rounds = SLOWDOWN_ROUNDS
    cc.ssthresh = cc.cwnd if cc.cwnd > 2 * cc.mss else 2 * cc.mss
    if cc.cwnd > 2 * cc.mss:
        cc.cwnd = 2 * cc.mss


cdef void end_slowdown(ledbat_t *s, uint32_t now_ms) noexcept nogil:
    s.phase = STEADY
    s.next_ms = now_ms + SLOWDOWN_EVERY * (now_ms - s.slow_ms)


cdef void end_of_round(congestion_t *cc, uint32_t now_ms) noexcept nogil:
    cdef ledbat_t *s = state(cc)
    if s.phase == SETTLING or s.phase == SLOW:
        s.rounds -= 1
        if s.rounds == 0:
            if s.phase == SLOW:
                s.phase = RAMP
            else:
                begin_slowdown(cc, now_ms)
    elif s.phase == STEADY and <int32_t> (now_ms - s.next_ms) >= 0:
        begin_slowdown(cc, now_ms)


cdef void grow(congestion_t *cc, uint64_t sixteenths) noexcept nogil:
    """By bytes, counted in sixteenths so that a small GAIN loses nothing."""
    cdef ledbat_t *s = state(cc)
    cdef uint64_t have = s.rest + sixteenths
    s.rest = <uint32_t> (have % GAIN_MAX)
    have //= GAIN_MAX
    cc.cwnd = <uint32_t> (cc.cwnd + have if cc.cwnd + have < CWND_MAX else CWND_MAX)


cdef void adjust(congestion_t *cc, const rate_sample_t *rs, uint32_t base, uint32_t delay) noexcept nogil:
    """Sections 4.2 and 4.3: W += max(GAIN - W (delay / TARGET - 1), -W / 2), per round trip and in segments; here per ACK."""
    cdef uint64_t share, down
    if delay <= TARGET_US:
        if rs.cwnd_limited:
            grow(cc, <uint64_t> rs.acked * cc.mss // cc.cwnd * GAIN_MAX // gain_divisor(base))
        return
    share = <uint64_t> cc.cwnd * (delay - TARGET_US) // TARGET_US      # per round trip
    if share > cc.cwnd // 2:
        share = cc.cwnd // 2
    down = share * rs.acked // cc.cwnd
    if cc.cwnd > 2 * cc.mss:
        cc.cwnd = cc.cwnd - <uint32_t> down if cc.cwnd > down + 2 * cc.mss else 2 * cc.mss


cdef void ledbat_on_ack(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    cdef ledbat_t *s = state(cc)
    cdef uint32_t now_ms = <uint32_t> (rs.now_ns // NS_PER_MS), base, delay, now_us
    if not s.started:
        s.started = 1
        s.round_end = <uint32_t> cc.delivered + rs.in_flight
    if rs.rtt_ns > 0:
        now_us = <uint32_t> (rs.rtt_ns // 1000)
        remember(s, now_us if now_us else 1, now_ms)
    base = smallest(s.base_us, BASE_MINUTES)
    now_us = smallest(s.current_us, CURRENT)
    delay = now_us - base if base != NO_RTT and now_us != NO_RTT and now_us > base else 0
    if <int32_t> (<uint32_t> cc.delivered - s.round_end) >= 0:
        end_of_round(cc, now_ms)
        s.round_end = <uint32_t> cc.delivered + rs.in_flight
    if rs.in_recovery or s.phase == SLOW:
        return
    if s.phase == FIRST_SLOW_START and (delay > TARGET_US // 4 * 3 or cc.cwnd >= cc.ssthresh):
        cc.ssthresh = cc.cwnd if cc.cwnd > 2 * cc.mss else 2 * cc.mss     # section 4.3: leave before the target is met
        s.phase = SETTLING
        s.rounds = 2
    if s.phase == FIRST_SLOW_START or s.phase == RAMP:
        if rs.cwnd_limited:
            grow(cc, <uint64_t> rs.acked * GAIN_MAX // gain_divisor(base if base != NO_RTT else TARGET_US))
        if s.phase == RAMP and cc.cwnd >= s.saved:
            if s.saved >= cc.mss:
                cc.cwnd = s.saved
            end_slowdown(s, now_ms)
        return
    adjust(cc, rs, base, delay)


cdef void ledbat_on_loss(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    cdef ledbat_t *s = state(cc)
    cdef uint32_t half = cc.cwnd // 2
    cc.ssthresh = half if half > 2 * cc.mss else 2 * cc.mss
    cc.cwnd = cc.ssthresh
    if s.phase == RAMP or s.phase == SLOW:
        s.saved //= 2                                  # the way back ends earlier
    elif s.phase == FIRST_SLOW_START:
        s.phase = SETTLING
        s.rounds = 2


cdef void ledbat_on_rto(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    ledbat_on_loss(cc, in_flight, now_ns)
    state(cc).saved = cc.ssthresh
    state(cc).slow_ms = <uint32_t> (now_ns // NS_PER_MS)
    state(cc).phase = RAMP
    cc.cwnd = cc.mss


cdef void ledbat_load(congestion_t *cc, int64_t now_ns, int64_t shift_ns) noexcept nogil:
    cdef ledbat_t *s = state(cc)
    cdef uint32_t ms = <uint32_t> (shift_ns // NS_PER_MS)
    s.minute_ms += ms
    s.next_ms += ms
    s.slow_ms += ms
    s.current_at %= CURRENT                            # bytes of a snapshot are not trusted with an index
    if s.phase > RAMP:
        s.phase = STEADY
    if s.rounds == 0:
        s.rounds = 1


cdef congestion_ops_t ops
ops.name = b"ledbat"
ops.extended_size = sizeof(ledbat_t)
ops.init = ledbat_init
ops.on_ack = ledbat_on_ack
ops.on_loss = ledbat_on_loss
ops.on_rto = ledbat_on_rto
ops.load = ledbat_load
congestion_register(&ops)
