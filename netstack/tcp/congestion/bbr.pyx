"""BBR version 3 (draft-ietf-ccwg-bbr-04; section numbers are that draft's): a model of the path, its bandwidth and its smallest
round trip, sets both how fast and how much is sent; losses and ECN bound the model instead of halving a window.

Bytes, nanoseconds, bytes per second; gains are of 1000. Where the stack gives no rate sample with an acknowledgement, what was
delivered in a round trip stands for it. ECN, which the draft leaves open, is BBRv2's: the share of marked bytes lowers the
short-term bound, and more than half of them marked is "too high" for a probe.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.tcp.congestion.controller cimport congestion_register, tcb_of
from netstack.tcp.tcb cimport CC_OWNS_CWND, CC_PACED, congestion_ops_t, congestion_t, rate_sample_t

cdef enum:                       # section 2.4 and following
    STARTUP_PACING = 2770
    STARTUP_CWND = 2000
    DRAIN_PACING = 500
    CWND_GAIN = 2000
    UP_CWND = 2250
    UP_PACING = 1250
    DOWN_PACING = 900
    PROBE_RTT_CWND = 500
    UNIT = 1000
    PACING_MARGIN = 10           # section 2.5: 1 %
    LOSS_THRESH = 20             # 2 %
    BETA = 700
    HEADROOM = 150
    FULL_BW_GROWTH = 1250
    FULL_BW_COUNT = 3
    FULL_LOSS_COUNT = 6
    MIN_PIPE = 4                 # segments
    EXTRA_ACKED_ROUNDS = 10
    RENO_ROUNDS = 63
    ECN_SHIFT = 4                # g = 1/16
    ECN_THRESH = 512             # of 1024
    ECN_ONE = 1024
    SLOPE_MAX = 30

cdef int64_t MIN_RTT_FILTER_NS = 10 * <int64_t> NS_PER_S
cdef int64_t PROBE_RTT_INTERVAL_NS = 5 * <int64_t> NS_PER_S
cdef int64_t PROBE_RTT_DURATION_NS = 200 * NS_PER_MS
cdef int64_t NO_RTT = <int64_t> 1 << 62
cdef uint64_t NO_BW = <uint64_t> 1 << 62

cdef enum:
    NO_BOUND = 0xffffffff        # of inflight

cdef enum:                       # states, section 2.6
    STARTUP
    DRAIN
    PROBE_DOWN
    PROBE_CRUISE
    PROBE_REFILL
    PROBE_UP
    PROBE_RTT
    STATES

cdef enum:                       # ack_phase
    ACKS_INIT
    ACKS_REFILLING
    ACKS_PROBE_STARTING
    ACKS_PROBE_FEEDBACK
    ACKS_PROBE_STOPPING


cdef struct bbr_t:
    uint64_t max_bw[2]           # MaxBwFilter: this cycle and the one before
    uint64_t bw
    uint64_t bw_shortterm
    uint64_t bw_latest
    uint64_t full_bw
    uint64_t next_round_delivered
    uint64_t loss_round_delivered
    uint64_t extra_delivered
    uint64_t probe_up_acks
    uint64_t round_delivered     # where the own rate sample began
    uint64_t random
    int64_t round_ns
    int64_t min_rtt_ns
    int64_t min_rtt_stamp
    int64_t probe_rtt_ns         # probe_rtt_min_delay
    int64_t probe_rtt_stamp
    int64_t probe_rtt_done
    int64_t cycle_stamp
    int64_t probe_wait_ns
    int64_t extra_stamp
    uint32_t inflight_shortterm
    uint32_t inflight_longterm
    uint32_t inflight_latest
    uint32_t extra_acked[2]      # windows of EXTRA_ACKED_ROUNDS
    uint32_t extra_rounds
    uint32_t prior_cwnd
    uint32_t probe_up_cnt
    uint32_t rounds_since_probe
    uint32_t max_inflight
    uint32_t round_count
    uint32_t recovery_round      # round in which recovery began
    uint64_t lost_in_round
    uint64_t delivered_in_round
    uint64_t ce_in_round
    uint32_t ecn_alpha           # of ECN_ONE
    uint32_t loss_events
    uint16_t pacing_gain
    uint16_t cwnd_gain
    uint8_t state
    uint8_t ack_phase
    uint8_t round_start
    uint8_t loss_round_start
    uint8_t full_bw_reached
    uint8_t full_bw_now
    uint8_t full_bw_count
    uint8_t loss_in_round
    uint8_t ecn_in_round
    uint8_t probe_up_rounds
    uint8_t probe_samples
    uint8_t probe_rtt_round_done
    uint8_t probe_rtt_expired
    uint8_t idle_restart
    uint8_t in_recovery
    uint8_t conserving           # packet conservation: the first round of recovery


cdef struct sample_t:            # a rate sample made whole
    uint64_t rate                # 0: none
    uint64_t delivered
    uint32_t acked               # cumulatively and selectively
    uint32_t lost
    uint32_t tx_in_flight
    uint32_t in_flight
    uint8_t app_limited
    uint8_t cwnd_limited


cdef inline bbr_t *state_of(congestion_t *cc) noexcept nogil:
    return <bbr_t *> cc.extended


cdef inline uint64_t max_bw(const bbr_t *b) noexcept nogil:
    return b.max_bw[0] if b.max_bw[0] > b.max_bw[1] else b.max_bw[1]


cdef inline bint probing_cycle(const bbr_t *b) noexcept nogil:
    """IsInAProbeBWState."""
    return PROBE_DOWN <= b.state <= PROBE_UP


cdef inline uint32_t at_most(uint64_t v) noexcept nogil:
    return <uint32_t> (v if v < (1 << 30) else 1 << 30)


cdef uint32_t dice(bbr_t *b, uint32_t n) noexcept nogil:
    """0 .. n - 1, from the connection's own generator: the same seeds give the same bytes."""
    b.random = b.random * <uint64_t> 6364136223846793005 + <uint64_t> 1442695040888963407
    return <uint32_t> (b.random >> 33) % n


cdef uint32_t bdp(const congestion_t *cc, const bbr_t *b, uint64_t bw, uint32_t gain) noexcept nogil:
    """BDPMultiple (5.6.4.2)."""
    if b.min_rtt_ns >= NO_RTT or bw == 0:
        return tcb_of(<congestion_t *> cc).tcp.config.initial_cwnd_segments * cc.mss
    return at_most(<uint64_t> (<double> bw * <double> b.min_rtt_ns / 1e9 * gain / UNIT))


cdef uint32_t send_quantum(const congestion_t *cc, const bbr_t *b) noexcept nogil:
    cdef uint64_t n = cc.pacing_rate // 1000
    if n > 65536:
        n = 65536
    return <uint32_t> (n if n > 2 * cc.mss else 2 * cc.mss)


cdef uint32_t inflight(const congestion_t *cc, const bbr_t *b, uint64_t bw, uint32_t gain) noexcept nogil:
    """With what offloads and delayed acknowledgements need (QuantizationBudget)."""
    cdef uint32_t n = bdp(cc, b, bw, gain), budget = 3 * send_quantum(cc, b)
    if n < budget:
        n = budget
    if n < MIN_PIPE * cc.mss:
        n = MIN_PIPE * cc.mss
    if b.state == PROBE_UP:
        n += 2 * cc.mss
    return n


cdef uint32_t target_inflight(const congestion_t *cc, const bbr_t *b) noexcept nogil:
    cdef uint32_t n = bdp(cc, b, b.bw, UNIT)
    return n if n < cc.cwnd else cc.cwnd


cdef uint32_t with_headroom(const congestion_t *cc, const bbr_t *b) noexcept nogil:
    cdef uint32_t room, least = MIN_PIPE * cc.mss
    if b.inflight_longterm == NO_BOUND:
        return NO_BOUND
    room = <uint32_t> (<uint64_t> b.inflight_longterm * HEADROOM // UNIT)
    if room < cc.mss:
        room = cc.mss
    return b.inflight_longterm - room if b.inflight_longterm > room + least else least


# --- parts of the state that begin anew -------------------------------------------------------------------------------

cdef void start_round(congestion_t *cc, bbr_t *b) noexcept nogil:
    b.next_round_delivered = cc.delivered


cdef void reset_congestion_signals(bbr_t *b) noexcept nogil:
    b.loss_in_round = 0
    b.ecn_in_round = 0
    b.bw_latest = 0
    b.inflight_latest = 0


cdef void reset_shortterm(bbr_t *b) noexcept nogil:
    b.bw_shortterm = NO_BW
    b.inflight_shortterm = NO_BOUND


cdef void reset_full_bw(bbr_t *b) noexcept nogil:
    b.full_bw = 0
    b.full_bw_count = 0
    b.full_bw_now = 0


cdef void set_gains(bbr_t *b, uint8_t state, uint16_t pacing, uint16_t cwnd) noexcept nogil:
    b.state = state
    b.pacing_gain = pacing
    b.cwnd_gain = cwnd


cdef void bbr_init(congestion_t *cc, int64_t now_ns) noexcept nogil:
    cdef bbr_t *b = state_of(cc)
    b.random = tcb_of(cc).tcp.secret[0] ^ (<uint64_t> tcb_of(cc).iss << 16) ^ tcb_of(cc).sock.id
    b.min_rtt_ns = cc.srtt_ns if cc.srtt_ns else NO_RTT
    b.probe_rtt_ns = b.min_rtt_ns
    b.min_rtt_stamp = b.probe_rtt_stamp = now_ns
    b.extra_stamp = now_ns
    b.round_ns = now_ns
    b.round_delivered = cc.delivered
    b.inflight_longterm = NO_BOUND
    b.ecn_alpha = ECN_ONE
    reset_congestion_signals(b)
    reset_shortterm(b)
    start_round(cc, b)
    b.loss_round_delivered = cc.delivered
    # InitPacingRate (5.6.2): the initial window in a round trip, or in a millisecond
    cc.pacing_rate = <uint64_t> (<double> cc.cwnd * STARTUP_PACING / UNIT * 1e9 /
                                 <double> (cc.srtt_ns if cc.srtt_ns else NS_PER_MS))
    set_gains(b, STARTUP, STARTUP_PACING, STARTUP_CWND)


# --- ProbeBW (5.3.3) --------------------------------------------------------------------------------------------------

cdef void start_down(congestion_t *cc, bbr_t *b, int64_t now) noexcept nogil:
    reset_congestion_signals(b)
    b.probe_up_cnt = NO_BOUND
    b.rounds_since_probe = dice(b, 2)
    b.probe_wait_ns = 2 * <int64_t> NS_PER_S + <int64_t> dice(b, 1000) * NS_PER_MS
    b.cycle_stamp = now
    b.ack_phase = ACKS_PROBE_STOPPING
    start_round(cc, b)
    set_gains(b, PROBE_DOWN, DOWN_PACING, CWND_GAIN)


cdef void start_cruise(bbr_t *b) noexcept nogil:
    set_gains(b, PROBE_CRUISE, UNIT, CWND_GAIN)


cdef void start_refill(congestion_t *cc, bbr_t *b) noexcept nogil:
    reset_shortterm(b)
    b.probe_up_rounds = 0
    b.probe_up_acks = 0
    b.ack_phase = ACKS_REFILLING
    start_round(cc, b)
    set_gains(b, PROBE_REFILL, UNIT, CWND_GAIN)


cdef void raise_slope(congestion_t *cc, bbr_t *b) noexcept nogil:
    cdef uint64_t growth = <uint64_t> cc.mss << b.probe_up_rounds
    if b.probe_up_rounds < SLOPE_MAX:
        b.probe_up_rounds += 1
    b.probe_up_cnt = <uint32_t> (cc.cwnd // growth) * cc.mss         # bytes acknowledged per segment of growth
    if b.probe_up_cnt < cc.mss:
        b.probe_up_cnt = cc.mss


cdef void start_up(congestion_t *cc, bbr_t *b, const sample_t *rs, int64_t now) noexcept nogil:
    b.ack_phase = ACKS_PROBE_STARTING
    start_round(cc, b)
    reset_full_bw(b)
    b.full_bw = rs.rate
    b.cycle_stamp = now
    set_gains(b, PROBE_UP, UP_PACING, UP_CWND)
    raise_slope(cc, b)


cdef bint time_to_probe(congestion_t *cc, bbr_t *b, int64_t now) noexcept nogil:
    cdef uint32_t rounds = target_inflight(cc, b) // cc.mss
    if rounds > RENO_ROUNDS:
        rounds = RENO_ROUNDS
    if now - b.cycle_stamp > b.probe_wait_ns or b.rounds_since_probe >= rounds:
        start_refill(cc, b)
        return True
    return False


cdef bint inflight_too_high(const bbr_t *b, const sample_t *rs) noexcept nogil:
    """5.5.10.2: more than 2 % of what was in flight lost, or more than half of a round marked."""
    if rs.lost and <uint64_t> rs.lost * UNIT > <uint64_t> rs.tx_in_flight * LOSS_THRESH:
        return True
    return b.ecn_in_round and b.ce_in_round * ECN_ONE > b.delivered_in_round * ECN_THRESH


cdef void too_high(congestion_t *cc, bbr_t *b, const sample_t *rs, int64_t now) noexcept nogil:
    cdef uint32_t floor = <uint32_t> (<uint64_t> target_inflight(cc, b) * BETA // UNIT)
    b.probe_samples = 0
    if not rs.app_limited:
        b.inflight_longterm = rs.tx_in_flight if rs.tx_in_flight > floor else floor
    if b.state == PROBE_UP:
        start_down(cc, b, now)


cdef void adapt_longterm(congestion_t *cc, bbr_t *b, const sample_t *rs, int64_t now) noexcept nogil:
    """5.3.3.6."""
    cdef uint64_t delta
    if b.ack_phase == ACKS_PROBE_STARTING and b.round_start:
        b.ack_phase = ACKS_PROBE_FEEDBACK
    if b.ack_phase == ACKS_PROBE_STOPPING and b.round_start:
        b.probe_samples = 0
        b.ack_phase = ACKS_INIT
        if probing_cycle(b) and not rs.app_limited:
            b.max_bw[1] = b.max_bw[0]                  # AdvanceMaxBwFilter
            b.max_bw[0] = 0
    if inflight_too_high(b, rs):
        if b.probe_samples:
            too_high(cc, b, rs, now)
        return
    if b.inflight_longterm == NO_BOUND:
        return
    if rs.tx_in_flight > b.inflight_longterm:
        b.inflight_longterm = rs.tx_in_flight
    if b.state == PROBE_UP and rs.cwnd_limited and cc.cwnd >= b.inflight_longterm:
        b.probe_up_acks += rs.acked
        if b.probe_up_acks >= b.probe_up_cnt:
            delta = b.probe_up_acks // b.probe_up_cnt
            b.probe_up_acks -= delta * b.probe_up_cnt
            b.inflight_longterm = at_most(b.inflight_longterm + delta * cc.mss)
        if b.round_start:
            raise_slope(cc, b)


cdef void update_cycle(congestion_t *cc, bbr_t *b, const sample_t *rs, int64_t now) noexcept nogil:
    """UpdateProbeBWCyclePhase."""
    if not b.full_bw_reached:
        return
    adapt_longterm(cc, b, rs, now)
    if b.state == PROBE_DOWN:
        if not time_to_probe(cc, b, now) and rs.in_flight <= with_headroom(cc, b) and \
                rs.in_flight <= inflight(cc, b, max_bw(b), UNIT):
            start_cruise(b)
    elif b.state == PROBE_CRUISE:
        time_to_probe(cc, b, now)
    elif b.state == PROBE_REFILL:
        if b.round_start:
            b.probe_samples = 1
            start_up(cc, b, rs, now)
    elif b.state == PROBE_UP:
        if rs.cwnd_limited and cc.cwnd >= b.inflight_longterm:
            reset_full_bw(b)                           # the bound held it back: that is no plateau
            b.full_bw = rs.rate
        elif b.full_bw_now:
            start_down(cc, b, now)


# --- the model --------------------------------------------------------------------------------------------------------

cdef void update_round(congestion_t *cc, bbr_t *b, const rate_sample_t *rs) noexcept nogil:
    cdef uint64_t prior = rs.prior_delivered
    if rs.interval_ns <= 0:                            # no sample: a round is a flight
        prior = cc.delivered - rs.prior_in_flight if cc.delivered > rs.prior_in_flight else 0
    b.round_start = 0
    if prior >= b.next_round_delivered:
        start_round(cc, b)
        b.round_count += 1
        b.rounds_since_probe += 1
        b.round_start = 1
        b.conserving = 0
    b.loss_round_start = 0
    if prior >= b.loss_round_delivered:
        b.loss_round_delivered = cc.delivered
        b.loss_round_start = 1


cdef void make_sample(congestion_t *cc, bbr_t *b, const rate_sample_t *rs, sample_t *s) noexcept nogil:
    """The delivery rate of the sample, or of the round that has just ended."""
    s.acked = rs.acked + rs.sacked
    s.lost = rs.lost
    s.in_flight = rs.in_flight
    s.tx_in_flight = rs.tx_in_flight if rs.tx_in_flight else rs.prior_in_flight
    s.app_limited = rs.app_limited
    s.cwnd_limited = rs.cwnd_limited
    s.rate = 0
    s.delivered = rs.delivered
    if rs.interval_ns > 0:
        s.rate = <uint64_t> (<double> rs.delivered * 1e9 / <double> rs.interval_ns)
    elif b.round_start and rs.now_ns > b.round_ns:
        s.delivered = cc.delivered - b.round_delivered
        s.rate = <uint64_t> (<double> s.delivered * 1e9 / <double> (rs.now_ns - b.round_ns))
        s.app_limited = not rs.cwnd_limited
    if b.round_start:
        b.round_ns = rs.now_ns
        b.round_delivered = cc.delivered


cdef void adapt_shortterm(congestion_t *cc, bbr_t *b) noexcept nogil:
    """AdaptLowerBoundsFromCongestion (5.5.10.3), at the end of a round; BBRv2's for ECN."""
    cdef uint64_t cut
    if b.state == PROBE_REFILL or b.state == PROBE_UP or b.state == STARTUP:
        return
    if b.ecn_in_round:
        if b.inflight_shortterm == NO_BOUND:
            b.inflight_shortterm = cc.cwnd
        cut = <uint64_t> b.inflight_shortterm * b.ecn_alpha // (3 * ECN_ONE)
        b.inflight_shortterm -= <uint32_t> cut
    if not b.loss_in_round:
        return
    if b.bw_shortterm == NO_BW:
        b.bw_shortterm = max_bw(b)
    if b.inflight_shortterm == NO_BOUND:
        b.inflight_shortterm = cc.cwnd
    b.bw_shortterm = b.bw_shortterm // UNIT * BETA
    if b.bw_shortterm < b.bw_latest:
        b.bw_shortterm = b.bw_latest
    b.inflight_shortterm = <uint32_t> (<uint64_t> b.inflight_shortterm * BETA // UNIT)
    if b.inflight_shortterm < b.inflight_latest:
        b.inflight_shortterm = b.inflight_latest


cdef void update_signals(congestion_t *cc, bbr_t *b, const rate_sample_t *rs, const sample_t *s) noexcept nogil:
    """UpdateLatestDeliverySignals, UpdateMaxBw and UpdateCongestionSignals."""
    cdef uint32_t share
    if s.rate > b.bw_latest:
        b.bw_latest = s.rate
    if s.delivered > b.inflight_latest:
        b.inflight_latest = at_most(s.delivered)
    if s.rate and (s.rate >= max_bw(b) or not s.app_limited) and s.rate > b.max_bw[0]:
        b.max_bw[0] = s.rate
    b.delivered_in_round += s.acked
    b.ce_in_round += rs.ce_bytes
    b.lost_in_round += rs.lost
    if rs.lost:
        b.loss_in_round = 1
    if rs.ce_bytes:
        b.ecn_in_round = 1
    if not b.loss_round_start:
        return
    if b.delivered_in_round:
        share = <uint32_t> (b.ce_in_round * ECN_ONE // b.delivered_in_round)
        if share > ECN_ONE:
            share = ECN_ONE
        b.ecn_alpha = b.ecn_alpha - (b.ecn_alpha >> ECN_SHIFT) + (share >> ECN_SHIFT)
    adapt_shortterm(cc, b)


cdef void advance_signals(bbr_t *b, const sample_t *s) noexcept nogil:
    if not b.loss_round_start:
        return
    b.bw_latest = s.rate
    b.inflight_latest = at_most(s.delivered)
    b.loss_in_round = 0
    b.ecn_in_round = 0
    b.loss_events = 0
    b.lost_in_round = 0
    b.delivered_in_round = 0
    b.ce_in_round = 0


cdef void update_aggregation(congestion_t *cc, bbr_t *b, const sample_t *s, int64_t now) noexcept nogil:
    """UpdateACKAggregation (5.5.9)."""
    cdef uint64_t expected = <uint64_t> (<double> b.bw * <double> (now - b.extra_stamp) / 1e9), extra
    if b.extra_delivered <= expected:
        b.extra_delivered = 0
        b.extra_stamp = now
        expected = 0
    b.extra_delivered += s.acked
    extra = b.extra_delivered - expected if b.extra_delivered > expected else 0
    if extra > cc.cwnd:
        extra = cc.cwnd
    if b.round_start:
        b.extra_rounds += 1
        if b.extra_rounds >= EXTRA_ACKED_ROUNDS:
            b.extra_rounds = 0
            b.extra_acked[1] = b.extra_acked[0]
            b.extra_acked[0] = 0
    if extra > b.extra_acked[0]:
        b.extra_acked[0] = <uint32_t> extra


cdef void check_startup(congestion_t *cc, bbr_t *b, const sample_t *s) noexcept nogil:
    """CheckFullBWReached (5.3.1.2) and CheckStartupHighLoss (5.3.1.3)."""
    if b.full_bw_now or not b.round_start or s.app_limited or s.rate == 0:
        return
    if s.rate >= b.full_bw // UNIT * FULL_BW_GROWTH and s.rate > b.full_bw:
        reset_full_bw(b)
        b.full_bw = s.rate
        return
    b.full_bw_count += 1
    b.full_bw_now = b.full_bw_count >= FULL_BW_COUNT
    if b.full_bw_now:
        b.full_bw_reached = 1


cdef void check_startup_loss(congestion_t *cc, bbr_t *b, const sample_t *s) noexcept nogil:
    cdef uint32_t n
    if b.state != STARTUP or b.full_bw_reached or not b.loss_round_start:
        return
    if b.in_recovery and b.round_count > b.recovery_round and b.loss_events >= FULL_LOSS_COUNT and \
            b.lost_in_round * UNIT > (b.delivered_in_round + b.lost_in_round) * LOSS_THRESH or \
            b.ecn_in_round and b.ce_in_round * ECN_ONE > b.delivered_in_round * ECN_THRESH:
        b.full_bw_reached = 1
        n = bdp(cc, b, max_bw(b), UNIT)
        b.inflight_longterm = n if n > b.inflight_latest else b.inflight_latest


cdef void update_min_rtt(congestion_t *cc, bbr_t *b, const rate_sample_t *rs) noexcept nogil:
    cdef int64_t now = rs.now_ns
    b.probe_rtt_expired = now > b.probe_rtt_stamp + PROBE_RTT_INTERVAL_NS
    if rs.rtt_ns > 0 and (rs.rtt_ns < b.probe_rtt_ns or b.probe_rtt_expired):
        b.probe_rtt_ns = rs.rtt_ns
        b.probe_rtt_stamp = now
    if b.probe_rtt_ns < b.min_rtt_ns or now > b.min_rtt_stamp + MIN_RTT_FILTER_NS:
        b.min_rtt_ns = b.probe_rtt_ns
        b.min_rtt_stamp = b.probe_rtt_stamp


cdef uint32_t probe_rtt_cwnd(const congestion_t *cc, const bbr_t *b) noexcept nogil:
    cdef uint32_t n = bdp(cc, b, b.bw, PROBE_RTT_CWND)
    return n if n > MIN_PIPE * cc.mss else MIN_PIPE * cc.mss


cdef void save_cwnd(congestion_t *cc, bbr_t *b) noexcept nogil:
    if b.in_recovery or b.state == PROBE_RTT:
        if cc.cwnd > b.prior_cwnd:
            b.prior_cwnd = cc.cwnd
    else:
        b.prior_cwnd = cc.cwnd


cdef void restore_cwnd(congestion_t *cc, bbr_t *b) noexcept nogil:
    cdef uint32_t peak = tcb_of(cc).cc_peak            # the core lets no window grow past it unpaid
    if b.prior_cwnd < peak:
        peak = b.prior_cwnd
    if cc.cwnd < peak:
        cc.cwnd = peak


cdef void exit_probe_rtt(congestion_t *cc, bbr_t *b, int64_t now) noexcept nogil:
    reset_shortterm(b)
    if b.full_bw_reached:
        start_down(cc, b, now)
        start_cruise(b)
    else:
        set_gains(b, STARTUP, STARTUP_PACING, STARTUP_CWND)


cdef void check_probe_rtt(congestion_t *cc, bbr_t *b, const sample_t *s, int64_t now) noexcept nogil:
    """5.3.4.3."""
    if b.state != PROBE_RTT and b.probe_rtt_expired and not b.idle_restart:
        save_cwnd(cc, b)
        set_gains(b, PROBE_RTT, UNIT, PROBE_RTT_CWND)
        b.probe_rtt_done = 0
        b.ack_phase = ACKS_PROBE_STOPPING
        start_round(cc, b)
    if b.state == PROBE_RTT:
        if b.probe_rtt_done == 0 and s.in_flight <= probe_rtt_cwnd(cc, b):
            b.probe_rtt_done = now + PROBE_RTT_DURATION_NS
            b.probe_rtt_round_done = 0
            start_round(cc, b)
        elif b.probe_rtt_done:
            if b.round_start:
                b.probe_rtt_round_done = 1
            if b.probe_rtt_round_done and now > b.probe_rtt_done:
                b.probe_rtt_stamp = now
                restore_cwnd(cc, b)
                exit_probe_rtt(cc, b, now)
    if s.acked:
        b.idle_restart = 0


# --- control ----------------------------------------------------------------------------------------------------------

cdef void set_pacing(congestion_t *cc, bbr_t *b, uint32_t gain) noexcept nogil:
    cdef uint64_t rate = <uint64_t> (<double> b.bw * gain / UNIT * (UNIT - PACING_MARGIN) / UNIT)
    if rate and (b.full_bw_reached or rate > cc.pacing_rate):
        cc.pacing_rate = rate


cdef void set_cwnd(congestion_t *cc, bbr_t *b, const rate_sample_t *rs, const sample_t *s) noexcept nogil:
    """5.6.4."""
    cdef uint32_t extra = b.extra_acked[0] if b.extra_acked[0] > b.extra_acked[1] else b.extra_acked[1], cap
    cdef uint64_t n
    b.max_inflight = at_most(<uint64_t> inflight(cc, b, b.bw, b.cwnd_gain) + extra)
    if s.lost:
        cc.cwnd = cc.cwnd - s.lost if cc.cwnd > s.lost + cc.mss else cc.mss      # ModulateCwndForRecovery
    if b.conserving:
        n = <uint64_t> rs.in_flight + s.acked
        if n > <uint64_t> cc.cwnd + s.acked:
            n = <uint64_t> cc.cwnd + s.acked
        if cc.cwnd < n:
            cc.cwnd = at_most(n)
    else:
        n = <uint64_t> cc.cwnd + s.acked
        if b.full_bw_reached:
            cc.cwnd = at_most(n if n < b.max_inflight else b.max_inflight)
        elif cc.cwnd < b.max_inflight or \
                cc.delivered < <uint64_t> tcb_of(cc).tcp.config.initial_cwnd_segments * cc.mss:
            cc.cwnd = at_most(n)
        if cc.cwnd < MIN_PIPE * cc.mss and cc.cwnd + 2 * s.acked >= MIN_PIPE * cc.mss:
            cc.cwnd = MIN_PIPE * cc.mss
    if b.state == PROBE_RTT:
        cap = probe_rtt_cwnd(cc, b)
        if cc.cwnd > cap:
            cc.cwnd = cap
    cap = NO_BOUND                                     # BoundCwndForModel
    if probing_cycle(b) and b.state != PROBE_CRUISE:
        cap = b.inflight_longterm
    elif b.state == PROBE_RTT or b.state == PROBE_CRUISE:
        cap = with_headroom(cc, b)
    if b.inflight_shortterm < cap:
        cap = b.inflight_shortterm
    if cap < MIN_PIPE * cc.mss:
        cap = MIN_PIPE * cc.mss
    if cc.cwnd > cap:
        cc.cwnd = cap


cdef void bbr_on_ack(congestion_t *cc, const rate_sample_t *rs) noexcept nogil:
    cdef bbr_t *b = state_of(cc)
    cdef sample_t s
    if b == NULL:
        return
    update_round(cc, b, rs)
    make_sample(cc, b, rs, &s)
    update_signals(cc, b, rs, &s)
    update_aggregation(cc, b, &s, rs.now_ns)
    check_startup(cc, b, &s)
    check_startup_loss(cc, b, &s)
    if b.state == STARTUP and b.full_bw_reached:
        set_gains(b, DRAIN, DRAIN_PACING, CWND_GAIN)
    if b.state == DRAIN and rs.in_flight <= inflight(cc, b, max_bw(b), UNIT):
        start_down(cc, b, rs.now_ns)
    update_cycle(cc, b, &s, rs.now_ns)
    update_min_rtt(cc, b, rs)
    check_probe_rtt(cc, b, &s, rs.now_ns)
    advance_signals(b, &s)
    b.bw = max_bw(b)
    if b.bw_shortterm < b.bw:
        b.bw = b.bw_shortterm
    set_pacing(cc, b, b.pacing_gain)
    set_cwnd(cc, b, rs, &s)


cdef void bbr_on_loss(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    """Recovery begins: conserve packets for a round (5.6.4.4)."""
    cdef bbr_t *b = state_of(cc)
    save_cwnd(cc, b)
    if not b.in_recovery:
        b.recovery_round = b.round_count
    b.in_recovery = 1
    b.conserving = 1
    b.loss_in_round = 1
    if b.loss_events < NO_BOUND:
        b.loss_events += 1
    cc.cwnd = in_flight + cc.mss if in_flight + cc.mss < cc.cwnd else cc.cwnd
    start_round(cc, b)


cdef void bbr_on_rto(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    cdef bbr_t *b = state_of(cc)
    save_cwnd(cc, b)
    if not b.in_recovery:
        b.recovery_round = b.round_count
    b.in_recovery = 1
    b.loss_in_round = 1
    cc.cwnd = cc.mss


cdef void bbr_on_ecn(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil:
    state_of(cc).ecn_in_round = 1


cdef void bbr_on_recovered(congestion_t *cc, int64_t now_ns) noexcept nogil:
    cdef bbr_t *b = state_of(cc)
    b.in_recovery = 0
    b.conserving = 0
    restore_cwnd(cc, b)


cdef void bbr_undo(congestion_t *cc, int64_t now_ns) noexcept nogil:
    """A spurious recovery (5.5.11): nothing was lost, the bounds it set go."""
    cdef bbr_t *b = state_of(cc)
    b.in_recovery = 0
    b.conserving = 0
    b.loss_in_round = 0
    reset_full_bw(b)
    reset_shortterm(b)
    restore_cwnd(cc, b)


cdef void bbr_after_idle(congestion_t *cc, int64_t idle_ns, int64_t rto_ns) noexcept nogil:
    """HandleRestartFromIdle (5.4.1): the model is what it was, the window with it."""
    cdef bbr_t *b = state_of(cc)
    b.idle_restart = 1
    b.extra_stamp = tcb_of(cc).tcp.now_ns
    b.extra_delivered = 0
    b.round_ns = b.extra_stamp
    b.round_delivered = cc.delivered
    if probing_cycle(b):
        set_pacing(cc, b, UNIT)
    elif b.state == PROBE_RTT and b.probe_rtt_done and b.extra_stamp > b.probe_rtt_done:
        b.probe_rtt_stamp = b.extra_stamp
        restore_cwnd(cc, b)
        exit_probe_rtt(cc, b, b.extra_stamp)


cdef void bbr_load(congestion_t *cc, int64_t now_ns, int64_t shift_ns) noexcept nogil:
    cdef bbr_t *b = state_of(cc)
    b.round_ns += shift_ns
    b.min_rtt_stamp += shift_ns
    b.probe_rtt_stamp += shift_ns
    b.cycle_stamp += shift_ns
    b.extra_stamp += shift_ns
    if b.probe_rtt_done:
        b.probe_rtt_done += shift_ns
    if b.state >= STATES or b.probe_up_rounds > SLOPE_MAX or b.probe_up_cnt == 0 or b.min_rtt_ns <= 0:
        b.state = STARTUP                              # bytes of a snapshot are not trusted
        b.probe_up_rounds = 0
        b.probe_up_cnt = cc.mss
        b.min_rtt_ns = NO_RTT


cdef uint32_t bbr_info(const congestion_t *cc, uint8_t *out) noexcept nogil:
    """struct tcp_bbr_info: bandwidth (low and high half), smallest round trip in us, both gains of 256."""
    cdef const bbr_t *b = <const bbr_t *> cc.extended
    cdef uint64_t bw
    cdef uint32_t words[5]
    if b == NULL:
        return 0
    bw = b.bw
    words[0] = <uint32_t> bw
    words[1] = <uint32_t> (bw >> 32)
    words[2] = <uint32_t> (b.min_rtt_ns // 1000) if b.min_rtt_ns < NO_RTT else <uint32_t> -1
    words[3] = b.pacing_gain * 256 // UNIT
    words[4] = b.cwnd_gain * 256 // UNIT
    memcpy(out, words, sizeof(words))
    return sizeof(words)


cdef congestion_ops_t ops
ops.name = b"bbr"
ops.flags = CC_PACED | CC_OWNS_CWND
ops.extended_size = sizeof(bbr_t)
ops.init = bbr_init
ops.on_ack = bbr_on_ack
ops.on_loss = bbr_on_loss
ops.on_rto = bbr_on_rto
ops.on_ecn = bbr_on_ecn
ops.on_recovered = bbr_on_recovered
ops.undo = bbr_undo
ops.after_idle = bbr_after_idle
ops.load = bbr_load
ops.info = bbr_info
congestion_register(&ops)
