"""HyStart++ (RFC 9406): leave slow start when the round trip grows, before packets are lost. For any algorithm's slow start.

Rounds are counted in bytes delivered; round trips in microseconds. All of it is a struct of 32-bit words beside the
algorithm's own state.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.tcp.tcb cimport congestion_t, rate_sample_t

cdef enum:                       # section 4.3
    MIN_RTT_THRESH_US = 4000
    MAX_RTT_THRESH_US = 16000
    MIN_RTT_DIVISOR = 8
    N_RTT_SAMPLE = 8
    CSS_GROWTH_DIVISOR = 4
    CSS_ROUNDS = 5
    NO_RTT = 0xffffffff          # no round trip is as long as these 71 minutes: the RTO ends at 2

cdef enum:                       # hystart_t.phase
    HYSTART_SLOW_START = 0
    HYSTART_CSS = 1              # conservative slow start
    HYSTART_DONE = 2


cdef struct hystart_t:
    uint32_t round_end           # congestion_t.delivered, low 32 bits, at which the round ends
    uint32_t last_min_us         # lastRoundMinRTT
    uint32_t min_us              # currentRoundMinRTT
    uint32_t baseline_us         # cssBaselineMinRtt
    uint8_t samples
    uint8_t phase
    uint8_t css_rounds
    uint8_t started


cdef inline void hystart_reset(hystart_t *h) noexcept nogil:
    h.last_min_us = NO_RTT
    h.min_us = NO_RTT
    h.baseline_us = NO_RTT
    h.samples = 0
    h.phase = HYSTART_SLOW_START
    h.css_rounds = 0
    h.started = 0


cdef inline void hystart_round(hystart_t *h, congestion_t *cc, uint32_t in_flight) noexcept nogil:
    """A round ends: what was measured in it is what the next is compared with (section 4.2)."""
    h.last_min_us = h.min_us
    h.min_us = NO_RTT
    h.samples = 0
    h.round_end = <uint32_t> cc.delivered + in_flight
    if h.phase == HYSTART_CSS:
        h.css_rounds += 1
        if h.css_rounds >= CSS_ROUNDS:
            h.phase = HYSTART_DONE
            cc.ssthresh = cc.cwnd


cdef inline uint32_t hystart_on_ack(hystart_t *h, congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    """In slow start: how many of the bytes acknowledged may grow the window; sets ssthresh when slow start is over."""
    cdef uint32_t us, thresh
    if not h.started:
        h.started = 1
        h.round_end = <uint32_t> cc.delivered + rs.in_flight
    if rs.rtt_ns > 0:
        us = <uint32_t> (rs.rtt_ns // 1000)
        if us < h.min_us:
            h.min_us = us
        if h.samples < 255:
            h.samples += 1
        if h.samples >= N_RTT_SAMPLE:
            if h.phase == HYSTART_SLOW_START and h.last_min_us != NO_RTT:
                thresh = h.last_min_us // MIN_RTT_DIVISOR
                if thresh < MIN_RTT_THRESH_US:
                    thresh = MIN_RTT_THRESH_US
                elif thresh > MAX_RTT_THRESH_US:
                    thresh = MAX_RTT_THRESH_US
                if h.min_us >= h.last_min_us + thresh:
                    h.baseline_us = h.min_us
                    h.phase = HYSTART_CSS
                    h.css_rounds = 0
            elif h.phase == HYSTART_CSS and h.min_us < h.baseline_us:
                h.baseline_us = NO_RTT             # it was jitter: slow start goes on
                h.phase = HYSTART_SLOW_START
    if <int> (<uint32_t> cc.delivered - h.round_end) >= 0:
        hystart_round(h, cc, rs.in_flight)
    return rs.acked // CSS_GROWTH_DIVISOR if h.phase == HYSTART_CSS else rs.acked
