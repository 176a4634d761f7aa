"""CUBIC (RFC 9438) in integers, with the constants and roundings of Linux, so that both choose the same window.

Windows inside are segments, as in Linux; times milliseconds, in the cubic function 1/1024 s. The cube root is taken once per
epoch, the cubic function at most once per millisecond; every other acknowledgement adds and compares.

Slow start ends by HyStart++ (RFC 9406), or, where the setting ``net.ipv4.tcp_cubic_hystart`` says 1, by the classic HyStart
that Linux has: acknowledgement trains longer than half a round trip, or a longer round trip.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from netstack.clock cimport NS_PER_MS
from netstack.tcp.congestion.controller cimport CWND_MAX, congestion_register, tcb_of
from netstack.tcp.congestion.hystart cimport hystart_on_ack, hystart_reset, hystart_t
from netstack.tcp.congestion.window cimport additive_increase, slow_start, window_after_idle
from netstack.tcp.tcb cimport congestion_ops_t, congestion_t, rate_sample_t

cdef enum:
    BETA = 717                   # of 1024: beta_cubic = 0.7 (section 4.6)
    SCALE = 1024
    RTT_SCALE = 410              # C = 0.4 in segments / s^3 (section 5), as 410 / 2^10
    RENO_SCALE = 15              # 8 (1 + beta) / (3 (1 - beta)): one segment per so many eighths of a window (section 4.3)
    T_BITS = 10                  # time in 1/1024 s
    T_MAX = 300 << T_BITS        # beyond it the cube would not fit; no epoch matters for that long
    SETTLED_MS = 1000            # round trips right after a reduction say little about the path
    QUIET_MS = 31                # the same window for so long: nothing to compute anew
    FIRST_CNT = 20               # without a W_max at least 5 % growth per round trip
    HYSTART_OFF = 0
    HYSTART_CLASSIC = 1
    HYSTART_PLUS = 2
    CLASSIC_LOW_WINDOW = 16      # segments
    CLASSIC_SAMPLES = 8
    CLASSIC_ACK_GAP_US = 2000
    CLASSIC_MIN_US = 4000
    CLASSIC_MAX_US = 16000


cdef struct classic_t:
    uint32_t round_end           # delivered
    uint32_t round_start_us
    uint32_t last_ack_us
    uint32_t min_us
    uint8_t samples
    uint8_t found
    uint8_t started
    uint8_t unused


cdef union start_t:
    hystart_t plus
    classic_t classic


cdef struct cubic_t:
    uint32_t credit              # bytes towards the next segment of growth
    uint32_t cnt                 # one segment for so many segments acknowledged
    uint32_t last_max            # W_max, segments
    uint32_t last_cwnd
    uint32_t last_ms
    uint32_t origin
    uint32_t k                   # 1/1024 s
    uint32_t delay_min_ms        # the smallest round trip, at least 1; 0: none yet
    uint32_t epoch_ms            # 0: no epoch runs
    uint32_t ack_credit          # bytes, of the Reno-friendly estimate
    uint32_t reno_cwnd           # W_est
    start_t start


cdef inline cubic_t *state(congestion_t *cc) noexcept nogil:
    return <cubic_t *> cc.private_state


cdef inline uint32_t ms_of(int64_t ns) noexcept nogil:
    cdef uint32_t ms = <uint32_t> (ns // NS_PER_MS)
    return ms if ms else 1


cdef uint32_t cube_root(uint64_t a) noexcept nogil:
    """The largest r with r^3 <= a, bit by bit."""
    cdef uint64_t r = 0, t
    cdef int s = 63
    while s >= 0:
        r <<= 1
        t = 3 * r * (r + 1) + 1
        if a >> s >= t:
            a -= t << s
            r += 1
        s -= 3
    return <uint32_t> r


cdef void forget(congestion_t *cc) noexcept nogil:
    cdef cubic_t *s = state(cc)
    memset(s, 0, sizeof(cubic_t))
    if tcb_of(cc).tcp.config.cubic_hystart == HYSTART_PLUS:
        hystart_reset(&s.start.plus)


cdef void cubic_init(congestion_t *cc, int64_t now_ns) noexcept nogil:
    forget(cc)


# --- congestion avoidance ---------------------------------------------------------------------------------------------

cdef void begin_epoch(cubic_t *s, uint32_t cwnd, uint32_t acked, uint32_t now_ms) noexcept nogil:
    """K = cubic_root((W_max - cwnd) / C) (figure 2)."""
    s.epoch_ms = now_ms
    s.ack_credit = acked
    s.reno_cwnd = cwnd
    if s.last_max <= cwnd:
        s.k = 0
        s.origin = cwnd
    else:
        s.k = cube_root((<uint64_t> 1 << (10 + 3 * T_BITS)) // <uint64_t> RTT_SCALE * (s.last_max - cwnd))
        s.origin = s.last_max


cdef uint32_t target(const cubic_t *s, uint32_t now_ms) noexcept nogil:
    """W_cubic(t + RTT) = C (t - K)^3 + W_max (figure 1), segments."""
    cdef uint64_t t = (<uint64_t> (now_ms - s.epoch_ms) + s.delay_min_ms << T_BITS) // 1000, off, delta
    off = s.k - t if t < s.k else t - s.k
    if off > T_MAX:
        off = T_MAX
    delta = <uint64_t> RTT_SCALE * off * off * off >> (10 + 3 * T_BITS)
    if t < s.k:
        return s.origin - <uint32_t> delta if delta < s.origin else 0
    return s.origin + <uint32_t> delta


cdef void update(cubic_t *s, uint32_t cwnd, uint32_t mss, uint32_t acked, uint32_t now_ms) noexcept nogil:
    """Sets cnt: how many segments acknowledged earn one."""
    cdef uint32_t goal, per, n
    s.ack_credit += acked
    if s.last_cwnd == cwnd and <int32_t> (now_ms - s.last_ms) <= QUIET_MS:
        return
    if s.epoch_ms == 0 or now_ms != s.last_ms:
        s.last_cwnd = cwnd
        s.last_ms = now_ms
        if s.epoch_ms == 0:
            begin_epoch(s, cwnd, acked, now_ms)
        goal = target(s, now_ms)
        s.cnt = cwnd // (goal - cwnd) if goal > cwnd else 100 * cwnd
        if s.last_max == 0 and s.cnt > FIRST_CNT:
            s.cnt = FIRST_CNT
    # Never slower than Reno with the same average would be (section 4.3).
    per = (cwnd * RENO_SCALE >> 3) * mss
    if s.ack_credit > per and per:
        n = (s.ack_credit - 1) // per
        s.ack_credit -= n * per
        s.reno_cwnd += n
    if s.reno_cwnd > cwnd:
        n = cwnd // (s.reno_cwnd - cwnd)
        if s.cnt > n:
            s.cnt = n
    if s.cnt < 2:
        s.cnt = 2                                      # at most half a window per round trip


cdef void cubic_on_ack(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    cdef cubic_t *s = state(cc)
    cdef uint32_t acked = rs.acked, now_ms = ms_of(rs.now_ns), ms
    cdef uint64_t price
    if rs.rtt_ns > 0 and not (s.epoch_ms and <int32_t> (now_ms - s.epoch_ms) < SETTLED_MS):
        ms = ms_of(rs.rtt_ns)
        if s.delay_min_ms == 0 or ms < s.delay_min_ms:
            s.delay_min_ms = ms
    if cc.ssthresh >= CWND_MAX:                        # HyStart is for the first slow start (RFC 9406 section 4.3)
        acked = leave_slow_start(cc, s, rs)
    if rs.in_recovery or not rs.cwnd_limited:
        return
    if cc.cwnd < cc.ssthresh:
        acked = slow_start(cc, acked)
        if acked == 0:
            return
    update(s, cc.cwnd // cc.mss, cc.mss, acked, now_ms)
    if cc.cwnd < CWND_MAX:
        price = <uint64_t> s.cnt * cc.mss
        additive_increase(cc, &s.credit, <uint32_t> (price if price < CWND_MAX else CWND_MAX), acked)


cdef void cubic_on_loss(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    """Multiplicative decrease (section 4.6) with fast convergence (section 4.7)."""
    cdef cubic_t *s = state(cc)
    cdef uint32_t cwnd = cc.cwnd // cc.mss, thresh
    s.epoch_ms = 0
    if cwnd < s.last_max:
        s.last_max = cwnd * (SCALE + BETA) // (2 * SCALE)
    else:
        s.last_max = cwnd
    thresh = cwnd * BETA // SCALE
    cc.ssthresh = (thresh if thresh > 2 else 2) * cc.mss
    cc.cwnd = cc.ssthresh


cdef void cubic_on_rto(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    """The same reduction, then everything is learned anew (section 4.8)."""
    cubic_on_loss(cc, in_flight, now_ns)
    forget(cc)
    cc.cwnd = cc.mss


cdef void cubic_after_idle(congestion_t *cc, int64_t idle_ns, int64_t rto_ns) noexcept nogil:
    """The epoch does not run while there is nothing to send (section 5.8)."""
    cdef cubic_t *s = state(cc)
    if s.epoch_ms:
        s.epoch_ms += <uint32_t> (idle_ns // NS_PER_MS)
    window_after_idle(cc, idle_ns, rto_ns, tcb_of(cc).tcp.config.initial_cwnd_segments * cc.mss)


cdef void cubic_load(congestion_t *cc, int64_t now_ns, int64_t shift_ns) noexcept nogil:
    cdef cubic_t *s = state(cc)
    cdef uint32_t ms = <uint32_t> (shift_ns // NS_PER_MS)
    if s.epoch_ms:
        s.epoch_ms += ms
        if s.epoch_ms == 0:
            s.epoch_ms = 1
    s.last_ms += ms
    if tcb_of(cc).tcp.config.cubic_hystart == HYSTART_CLASSIC:
        s.start.classic.round_start_us += <uint32_t> (shift_ns // 1000)
        s.start.classic.last_ack_us += <uint32_t> (shift_ns // 1000)


# --- the end of slow start --------------------------------------------------------------------------------------------

cdef uint32_t leave_slow_start(congestion_t *cc, cubic_t *s, const rate_sample_t *rs) noexcept nogil:
    """How many of the bytes acknowledged may grow the window."""
    cdef uint8_t kind = tcb_of(cc).tcp.config.cubic_hystart
    if kind == HYSTART_PLUS:
        return hystart_on_ack(&s.start.plus, cc, rs)
    if kind == HYSTART_CLASSIC and not s.start.classic.found and rs.rtt_ns > 0:
        classic_on_ack(cc, s, rs)
    return rs.acked


cdef void classic_on_ack(congestion_t *cc, cubic_t *s, const rate_sample_t *rs) noexcept nogil:
    """Ha and Rhee, "Taming the elephants" (2011), as Linux has it: ACK train and delay increase."""
    cdef classic_t *h = &s.start.classic
    cdef uint32_t now_us = <uint32_t> (rs.now_ns // 1000), us = <uint32_t> (rs.rtt_ns // 1000)
    cdef uint32_t least_us = s.delay_min_ms * 1000, thresh
    if not h.started or <int32_t> (<uint32_t> cc.delivered - h.round_end) > 0:
        h.started = 1
        h.round_start_us = h.last_ack_us = now_us
        h.round_end = <uint32_t> cc.delivered + rs.in_flight
        h.min_us = <uint32_t> -1
        h.samples = 0
    if cc.cwnd < CLASSIC_LOW_WINDOW * cc.mss:
        return
    if <int32_t> (now_us - h.last_ack_us) <= CLASSIC_ACK_GAP_US:
        h.last_ack_us = now_us
        thresh = least_us if cc.pacing_rate else least_us // 2
        if <int32_t> (now_us - h.round_start_us) > <int32_t> thresh:
            h.found = 1
    if us < h.min_us:
        h.min_us = us
    if h.samples < CLASSIC_SAMPLES:
        h.samples += 1
    else:
        thresh = least_us // 8
        if thresh < CLASSIC_MIN_US:
            thresh = CLASSIC_MIN_US
        elif thresh > CLASSIC_MAX_US:
            thresh = CLASSIC_MAX_US
        if h.min_us > least_us + thresh:
            h.found = 1
    if h.found:
        cc.ssthresh = cc.cwnd


cdef congestion_t one
cdef congestion_ops_t ops
ops.name = b"cubic"
ops.init = cubic_init
ops.on_ack = cubic_on_ack
ops.on_loss = cubic_on_loss
ops.on_rto = cubic_on_rto
ops.after_idle = cubic_after_idle
ops.load = cubic_load
if sizeof(cubic_t) > sizeof(one.private_state):
    raise SystemError("the state of CUBIC does not fit")
congestion_register(&ops)
