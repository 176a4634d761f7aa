"""Explicit Congestion Notification.

Classic (RFC 3168): routers set CE on packets that say ECT, the receiver says ECE until it hears CWR, and a window is
reduced once. Accurate (AccECN, RFC 9768): AE, CWR and ECE together count the packets that came with CE, modulo 8, and an
option counts the bytes by codepoint; a handshake tells both ends what the network does to the codepoints and the flags.

With AccECN every segment but SYN and RST says ECT(0), as Linux does it; classic ECN has it on new data alone, unless the
algorithm asks for more (DCTCP, RFC 8257 section 3.5). Numbers of TCP_INFO and sysctls are Linux's.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from netstack.tcp.seq cimport seq_gt
from netstack.tcp.tcb cimport (
    ACK, CC_ECHOES_CE, CC_NEEDS_ECN, CE, ECN_ASKED, ECN_FAIL_ACE_RECEIVE, ECN_FAIL_ACE_SEND, ECN_FAIL_OPTION_RECEIVE,
    ECN_OFF, ECT_0, ECT_1, EF_ECHO, EF_HEARD, EF_OPTION_WITH_DSACK, EF_PRIOR_ECHO, EF_REFLECT, EF_SEEN, NOT_ECT,
    OPTION_COUNTERS, OPTION_EMPTY, OPTION_FAILED, SYN, SYN_RCVD, TF_ACK_NOW, TF_PASSIVE, TF_PRIOR_ACK, TF_SACK_OK, ecn_t,
    send_segment_limit, want_output,
)
from netstack.tcp.recovery cimport ACK_ADVANCED, ACK_ECE, ACK_SACKED
from netstack.wire.tcp cimport ACCECN_FIELDS, tcp_options_length

cdef enum:
    ASK_AND_ANSWER_ACCURATE = 3  # of tcp_ecn
    ASK_CLASSIC = 1
    ASK_CLASSIC_ANSWER_ACCURATE = 4
    FALLBACK_AFTER = 2           # AccECN: timeouts of a SYN or SYN,ACK after which its flags are taken off (section 3.1.4)
    CE_UNTOLD_MAX = 6            # CE packets after which an acknowledgement must leave (section 3.2.2.5.1)
    CE_PENDING_MAX = 15
    ACE_MAX = 7                  # more segments in one acknowledgement may have turned the ACE field round
    AVERAGE_SHIFT = 6            # weight of one acknowledgement in acked_average, and its precision
    THINNED = 4 << 6             # segments an acknowledgement, from which on the peer acknowledges sparsely by intent
    LATE_OPTION_BYTES = (1 << 23) - 1   # after that many a counter of 24 bits that is first seen says nothing
    COUNTER_TELLS = 22           # the option is sent at least once per 2^22 bytes (section 3.2.3.3)
    MAX_OPTIONS = 40             # bytes


# --- what flags mean --------------------------------------------------------------------------------------------------

cdef uint8_t ecn_syn_mode(uint8_t setting, bint needed, uint16_t flags, uint8_t codepoint) noexcept nogil:
    """Section 3.1.1, table 2, and 3.1.2: flags other than 000 and 011 ask for AccECN. A classic request may not be
    ECT (RFC 3168 section 6.1.1): one that is gets no ECN, as Linux has it, unless the algorithm needs it."""
    if setting >= ASK_AND_ANSWER_ACCURATE and flags & ACE_FLAGS and flags & ACE_FLAGS != CWR | ECE:
        return ECN_ACCURATE
    if flags & (CWR | ECE) != CWR | ECE:
        return ECN_OFF
    if needed:
        return ECN_CLASSIC
    if setting == 0 or (codepoint != NOT_ECT and not flags & AE):
        return ECN_OFF
    return ECN_CLASSIC


cdef uint16_t reflection(uint8_t codepoint) noexcept nogil:
    """The handshake's encoding of how a SYN or SYN,ACK arrived (tables 2 and 3): 010, 011, 100, 110."""
    if codepoint == ECT_1:
        return ace_flags(3)
    if codepoint == ECT_0:
        return ace_flags(4)
    return ace_flags(6 if codepoint == CE else 2)


cdef uint8_t reflected(uint32_t ace) noexcept nogil:
    """And back. Requires: 2, 3, 4 or 6."""
    if ace == 3:
        return ECT_1
    if ace == 4:
        return ECT_0
    return CE if ace == 6 else NOT_ECT


cdef uint16_t ecn_syn_answer(uint8_t mode, uint8_t codepoint) noexcept nogil:
    if mode == ECN_ACCURATE:
        return reflection(codepoint)
    return ECE if mode == ECN_CLASSIC else 0


cdef uint8_t ecn_cookie_mode(bint agreed, uint16_t flags) noexcept nogil:
    """A client that speaks AccECN says 2 to 7 there, one that speaks classic ECN has nothing to echo yet and says 0."""
    if not agreed:
        return ECN_OFF
    return ECN_ACCURATE if ace_of(flags) > 1 else ECN_CLASSIC


cdef inline bint transition_valid(uint8_t sent, uint8_t arrived) noexcept nogil:
    """A router may turn ECT into CE and nothing else (section 3.2.2.3); ECT(0) for ECT(1) is left alone, as in Linux."""
    return sent == arrived or (sent != NOT_ECT and sent != CE and arrived != NOT_ECT)


cdef inline bint needs_ecn(const tcb_t *tcb) noexcept nogil:
    return (tcb.cc_ops.flags & CC_NEEDS_ECN) != 0


cdef inline void predict(tcb_t *tcb) noexcept nogil:
    """Header prediction takes segments whose ACE field says nothing new."""
    tcb.predicted = ACK
    if tcb.ecn_mode == ECN_ACCURATE:
        tcb.predicted |= ace_flags(ACE_START + tcb.ecn.delivered_ce)


cdef inline void set_mode(tcb_t *tcb, uint8_t mode) noexcept nogil:
    tcb.ecn_mode = mode
    if mode == ECN_OFF and tcb.ecn.fail == 0:
        ecn_release(tcb)
    predict(tcb)


cdef inline void acknowledge_now(tcb_t *tcb) noexcept nogil:
    tcb.flags |= TF_ACK_NOW
    want_output(tcb)


cdef bint ecn_reserve(tcb_t *tcb) noexcept nogil:
    if tcb.ecn == &tcb.tcp.no_ecn:
        tcb.ecn = <ecn_t *> malloc(sizeof(ecn_t))
        if tcb.ecn == NULL:
            tcb.ecn = &tcb.tcp.no_ecn
            return False
    memset(tcb.ecn, 0, sizeof(ecn_t))
    if needs_ecn(tcb):
        tcb.ecn.syn_sent = ECT_0                       # RFC 8257 section 3.5
    return True


cdef void ecn_release(tcb_t *tcb) noexcept nogil:
    if tcb.ecn != &tcb.tcp.no_ecn:
        free(tcb.ecn)
        tcb.ecn = &tcb.tcp.no_ecn


# --- handshake --------------------------------------------------------------------------------------------------------

cdef void ecn_open(tcb_t *tcb) noexcept nogil:
    cdef uint8_t setting = tcb.tcp.config.ecn, mode = ECN_OFF
    ecn_release(tcb)
    if setting == ASK_AND_ANSWER_ACCURATE:
        mode = ECN_ASKED
    elif setting == ASK_CLASSIC or setting == ASK_CLASSIC_ANSWER_ACCURATE or needs_ecn(tcb):
        mode = ECN_CLASSIC
    if mode != ECN_OFF and not ecn_reserve(tcb):
        mode = ECN_OFF
    set_mode(tcb, mode)


cdef void ecn_request(request_t *r, const segment_t *seg, const congestion_ops_t *ops) noexcept nogil:
    r.ecn = ecn_syn_mode(r.listener.tcp.config.ecn, (ops.flags & CC_NEEDS_ECN) != 0, seg.flags, seg.ecn)
    r.ecn_syn = seg.ecn


cdef void ecn_request_again(request_t *r, const segment_t *seg) noexcept nogil:
    """As `ecn_syn_again`."""
    if r.ecn != ECN_ACCURATE:
        return
    r.ecn_syn = seg.ecn
    if ace_of(seg.flags) == 0:
        r.ecn_fail |= ECN_FAIL_ACE_RECEIVE


cdef uint16_t ecn_request_flags(const tcp_t *tcp, const request_t *r) noexcept nogil:
    """As `ecn_syn_flags`."""
    if r.ecn == ECN_ACCURATE and tcp.config.ecn_fallback and r.retries >= FALLBACK_AFTER:
        return 0
    return ecn_syn_answer(r.ecn, r.ecn_syn)


cdef void ecn_from_request(tcb_t *tcb, const request_t *r) noexcept nogil:
    if r.ecn != ECN_OFF:
        tcb.ecn.syn_received = r.ecn_syn
        tcb.ecn.last_received = r.ecn_syn
        tcb.ecn.fail = r.ecn_fail
    set_mode(tcb, r.ecn)


cdef void ecn_syn_again(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """The answer tells of the newest SYN; one without the flags says that the path may not like them (section 3.1.4.2)."""
    if tcb.ecn_mode != ECN_ACCURATE or not tcb.flags & TF_PASSIVE:
        return
    tcb.ecn.syn_received = seg.ecn
    if ace_of(seg.flags) == 0:
        tcb.ecn.fail |= ECN_FAIL_ACE_RECEIVE


cdef void ecn_syn_crossed(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    if tcb.ecn_mode == ECN_ASKED:
        set_mode(tcb, ecn_syn_mode(ASK_AND_ANSWER_ACCURATE, False, seg.flags, NOT_ECT))
    elif tcb.ecn_mode == ECN_CLASSIC and seg.flags & (CWR | ECE) != CWR | ECE:
        set_mode(tcb, ECN_OFF)
    if tcb.ecn_mode != ECN_OFF:
        tcb.ecn.syn_received = seg.ecn
        tcb.ecn.last_received = seg.ecn


cdef void look_at_option(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """The first option with counters: those of ECT begin at 1, so zero is a middlebox's (section 3.2.3.2.4)."""
    if seg.accecn_fields == NO_ACCECN or tcb.ecn.option_seen >= OPTION_COUNTERS:
        return
    if seg.accecn_fields == 0:
        tcb.ecn.option_seen = OPTION_EMPTY
    elif seg.accecn[0] == 0 or (seg.accecn_fields == ACCECN_FIELDS and seg.accecn[2] == 0):
        tcb.ecn.option_seen = OPTION_FAILED
        tcb.ecn.fail |= ECN_FAIL_OPTION_RECEIVE
    else:
        tcb.ecn.option_seen = OPTION_COUNTERS


cdef bint take_reflection(tcb_t *tcb, uint32_t ace) noexcept nogil:
    """How our SYN or SYN,ACK reached the peer; one changed as no router may change it ends our ECT (section 3.2.2.3)."""
    if tcb.tcp.config.ecn_fallback and not transition_valid(tcb.ecn.syn_sent, reflected(ace)):
        tcb.ecn.fail |= ECN_FAIL_ACE_RECEIVE
        return False
    return True


cdef void ecn_syn_answered(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """Table 2. A classic SYN is answered by ECE without CWR; 101 is reserved and means AccECN (section 3.1.3)."""
    cdef uint32_t ace = ace_of(seg.flags)
    if tcb.ecn_mode == ECN_CLASSIC:
        if seg.flags & (CWR | ECE) != ECE:
            set_mode(tcb, ECN_OFF)
        return
    if tcb.ecn_mode != ECN_ASKED:
        return
    if ace == 0 or ace == 7:
        set_mode(tcb, ECN_OFF)
    elif ace == 1:
        set_mode(tcb, ECN_CLASSIC)
    else:
        tcb.ecn.syn_received = seg.ecn
        tcb.ecn.last_received = seg.ecn
        tcb.ecn.flags |= EF_REFLECT
        if seg.accecn_fields != NO_ACCECN:
            look_at_option(tcb, seg)
            tcb.ecn.option_demand = 2
        if ace != 5:
            take_reflection(tcb, ace)
        if seg.ecn == CE:
            tcb.ecn.received_ce = 1
            tcb.ecn.ce_pending = 1
        set_mode(tcb, ECN_ACCURATE)


cdef void ecn_answer_again(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """The peer may not have heard how its SYN,ACK came: the acknowledgement that follows says it of this one."""
    if tcb.ecn_mode != ECN_ACCURATE or tcb.flags & TF_PASSIVE or seg.seq != tcb.irs or not seg.flags & ACK:
        return
    tcb.ecn.syn_received = seg.ecn
    tcb.ecn.flags |= EF_REFLECT
    if tcb.state == SYN_RCVD:
        acknowledge_now(tcb)                           # of a simultaneous open: nothing else would tell it
    if seg.accecn_fields != NO_ACCECN and tcb.ecn.option_seen < OPTION_COUNTERS:
        look_at_option(tcb, seg)
        if tcb.ecn.option_demand == 0:
            tcb.ecn.option_demand = 1


cdef void ecn_established(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """The ACK of our SYN,ACK (table 4). 000 means that someone takes the flags away, or, when our last SYN,ACK had none,
    that the peer knows of no ECN (section 3.1.4.2); with data it is no reflection, but zero still is none."""
    cdef uint32_t ace = ace_of(seg.flags)
    if tcb.ecn_mode == ECN_ASKED:
        set_mode(tcb, ECN_OFF)
    if tcb.ecn_mode != ECN_ACCURATE:
        return
    tcb.ecn.option_demand = 1
    look_at_option(tcb, seg)
    if ace == 0:
        if tcb.flags & TF_PASSIVE and ecn_syn_flags(tcb) == 0:
            tcb.ecn.fail |= ECN_FAIL_ACE_SEND
            set_mode(tcb, ECN_OFF)
            return
        tcb.ecn.fail |= ECN_FAIL_ACE_RECEIVE
    elif ace != 1 and ace != 5 and ace != 7 and seg.length == 0 and take_reflection(tcb, ace) and reflected(ace) == CE:
        tcb.ecn.delivered_ce = 1
    predict(tcb)


cdef uint16_t ecn_syn_flags(const tcb_t *tcb) noexcept nogil:
    """Flags beside SYN. A SYN that got no answer goes again without them: at once when it asks for classic ECN (RFC 3168
    section 6.1.1.1), the second time when for AccECN; so does a SYN,ACK."""
    cdef bint fallback = tcb.tcp.config.ecn_fallback != 0
    if tcb.ecn_mode == ECN_OFF:
        return 0
    if tcb.state == SYN_RCVD or tcb.flags & TF_PASSIVE:
        if tcb.ecn_mode == ECN_ACCURATE and tcb.flags & TF_PASSIVE and fallback and tcb.syn_retries >= FALLBACK_AFTER:
            return 0
        return ecn_syn_answer(tcb.ecn_mode, tcb.ecn.syn_received)
    if tcb.ecn_mode == ECN_ASKED:
        return 0 if fallback and tcb.syn_retries >= FALLBACK_AFTER else ACE_FLAGS
    return 0 if fallback and tcb.syn_retries else CWR | ECE


cdef bint ecn_syn_option(const tcb_t *tcb, bint again) noexcept nogil:
    """A SYN never has the option, the first SYN,ACK does; sent again, a middlebox may be why (section 3.1.4.2)."""
    if tcb.ecn_mode != ECN_ACCURATE or tcb.state != SYN_RCVD or not tcb.tcp.config.ecn_option:
        return False
    return not again if tcb.flags & TF_PASSIVE else tcb.syn_retries < FALLBACK_AFTER


# --- what arrives -----------------------------------------------------------------------------------------------------

cdef void echo_changes(tcb_t *tcb, bint ce) noexcept nogil:
    """RFC 8257 section 3.2: what came before the change is acknowledged with the old state, at once; ECE is then the new
    state. So the sender learns which bytes met congestion although acknowledgements are delayed."""
    if ce == ((tcb.ecn.flags & EF_ECHO) != 0):
        return
    if seq_gt(tcb.rcv_nxt, tcb.rcv_acked) and not tcb.flags & TF_PRIOR_ACK:
        tcb.flags |= TF_PRIOR_ACK
        tcb.ecn.prior_ack = tcb.rcv_nxt
        tcb.ecn.flags &= ~<uint8_t> EF_PRIOR_ECHO
        if not ce:
            tcb.ecn.flags |= EF_PRIOR_ECHO
        tcb.tcp.ack_urgent = 1
    tcb.ecn.flags ^= EF_ECHO
    acknowledge_now(tcb)


cdef void received_classic(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """RFC 3168 section 6.1.3. Only data counts: nothing else may be ECT."""
    cdef bint ce = seg.ecn == CE
    if seg.length == 0:
        return
    if seg.ecn != NOT_ECT:
        tcb.ecn.flags |= EF_SEEN
    if ce:
        tcb.ecn.received_ce += 1
    if seg.flags & CWR:
        acknowledge_now(tcb)                           # its window may be very small now
    if tcb.cc_ops.flags & CC_ECHOES_CE:
        echo_changes(tcb, ce)
        return
    if seg.flags & CWR:
        tcb.ecn.flags &= ~<uint8_t> EF_ECHO
    if ce and not tcb.ecn.flags & EF_ECHO:
        tcb.ecn.flags |= EF_ECHO
        acknowledge_now(tcb)


cdef void received_accurate(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """RFC 9768 section 3.2.1: CE on every packet, bytes of payload by codepoint. A change of the codepoint is told at once
    and twice; so is more CE than the ACE field can tell (section 3.2.2.5.1)."""
    cdef ecn_t *e = tcb.ecn
    cdef bint edge = seg.ecn != e.last_received
    cdef uint32_t before
    cdef uint8_t least
    if seg.ecn != NOT_ECT:
        e.flags |= EF_SEEN
        if seg.ecn == CE:
            e.received_ce += 1
            if e.ce_pending < CE_PENDING_MAX:
                e.ce_pending += 1
        if seg.length:
            before = e.received_bytes[seg.ecn - 1]
            e.received_bytes[seg.ecn - 1] = before + seg.length
            least = 1 if seg.ecn == ECT_1 else (2 if seg.ecn == CE else 3)      # its place in order 1
            if least > e.option_least:
                e.option_least = least
            if (before ^ (before + seg.length)) >> COUNTER_TELLS and e.option_demand == 0:
                e.option_demand = 1
    if edge or seg.ecn == CE:
        e.last_received = seg.ecn
        e.option_demand = 2
        if edge and seg.length:
            acknowledge_now(tcb)
    if e.ce_pending >= CE_UNTOLD_MAX:
        acknowledge_now(tcb)
        tcb.tcp.ack_urgent = 1


cdef void ecn_received(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    if tcb.ecn_mode == ECN_ACCURATE:
        received_accurate(tcb, seg)
    elif tcb.ecn_mode == ECN_CLASSIC:
        received_classic(tcb, seg)


cdef void ecn_duplicate(tcb_t *tcb, uint32_t start) noexcept nogil:
    """The same data a third time, although an acknowledgement with the option told of the second: the option seems to be
    why acknowledgements get lost (section 3.2.3.2.2)."""
    if tcb.ecn_mode == ECN_ACCURATE and tcb.ecn.flags & EF_OPTION_WITH_DSACK and start == tcb.duplicate.start:
        tcb.ecn.fail |= ECN_FAIL_OPTION_SEND


# --- feedback ---------------------------------------------------------------------------------------------------------

cdef inline uint8_t codepoint_of(uint8_t order, uint32_t i) noexcept nogil:
    """Which codepoint the counter at place i is of (table 5)."""
    if i == 1:
        return CE
    return ECT_1 if (i == 0) == (order == 1) else ECT_0


cdef bint take_option(tcb_t *tcb, const segment_t *seg, uint32_t bytes) noexcept nogil:
    """Counters of bytes. While all that arrives has one codepoint, acknowledgements without the option are counted for it.
    True: what delivered_bytes gained is what this acknowledgement stands for."""
    cdef ecn_t *e = tcb.ecn
    cdef uint32_t i, start
    cdef int32_t delta
    cdef bint sure = e.estimate != 0, changed = False, unclear = False
    cdef uint8_t codepoint
    if e.fail & ECN_FAIL_OPTION_RECEIVE:
        return False
    if seg.accecn_fields == NO_ACCECN:
        if e.option_seen == OPTION_UNSEEN:
            if tcb.bytes_sent >= LATE_OPTION_BYTES:    # a counter that comes now may have wrapped
                e.option_seen = OPTION_FAILED
                e.fail |= ECN_FAIL_OPTION_RECEIVE
        elif e.estimate:
            e.delivered_bytes[e.estimate - 1] += bytes
            return True
        return False
    look_at_option(tcb, seg)
    if e.fail & ECN_FAIL_OPTION_RECEIVE:
        return False
    for i in range(seg.accecn_fields):
        codepoint = codepoint_of(seg.accecn_order, i)
        start = 0 if codepoint == CE else 1
        delta = <int32_t> ((seg.accecn[i] - start - e.delivered_bytes[codepoint - 1]) << 8) >> 8    # 24 bits, signed
        e.delivered_bytes[codepoint - 1] += <uint32_t> delta
        if delta < 0:
            unclear = True
        if delta and codepoint != e.estimate:
            if changed:
                unclear = True
            else:
                e.estimate = codepoint
                changed = True
    if unclear:
        e.estimate = 0
        return False
    return sure


cdef uint32_t marked_packets(tcb_t *tcb, uint32_t delta, uint32_t ce_bytes, bint sure, uint32_t segments,
                             uint32_t bytes) noexcept nogil:
    """How many packets met congestion, when the ACE field has moved by *delta*: it may have gone round (section 3.2.2.5,
    appendix A.2). The option decides where it can; else the larger, unless the peer acknowledges so rarely by intent."""
    cdef uint32_t most, mss = tcb.cc.mss, estimate
    if segments <= ACE_MAX:
        return delta
    most = segments - ((segments - delta) & ACE_MAX)
    if sure:
        if ce_bytes == 0:
            return delta
        if segments >= 2 * (ACE_MAX + 1) and tcb.flags & TF_SACK_OK:
            if bytes <= ce_bytes:
                return most
            estimate = <uint32_t> ((<unsigned long long> ce_bytes * segments + bytes - 1) // bytes)
            estimate = delta + (estimate & ~<uint32_t> ACE_MAX)
            return estimate if estimate < most else most
        if ce_bytes > delta * mss:
            return most
        if ce_bytes < most * mss >> 1:
            return delta
    elif tcb.ecn.acked_average > THINNED:
        return delta
    return most


cdef void acknowledged_accurate(tcb_t *tcb, const segment_t *seg, ack_t *a) noexcept nogil:
    """Of an acknowledgement that is newer than the last: it moves something, or its timestamp says so."""
    cdef ecn_t *e = tcb.ecn
    cdef uint32_t ace = ace_of(seg.flags), bytes = <uint32_t> (tcb.cc.delivered - a.prior_delivered)
    cdef uint32_t ce_before = e.delivered_bytes[CE - 1], delta, ce_bytes
    cdef bint sure
    if not e.flags & EF_HEARD:
        e.flags |= EF_HEARD
        if ace == 0 and not tcb.flags & TF_PASSIVE and tcb.counts.segments_out <= 3:
            e.fail |= ECN_FAIL_ACE_RECEIVE             # three marks cannot be: someone zeroes it (section 3.2.2.4)
    if not a.flags & (ACK_ADVANCED | ACK_SACKED) and not seg.newer:
        return
    sure = take_option(tcb, seg, bytes)
    ce_bytes = e.delivered_bytes[CE - 1] - ce_before
    if <int32_t> ce_bytes < 0:
        ce_bytes = 0
    if a.delivered:
        delta = a.delivered << AVERAGE_SHIFT
        if e.acked_average:
            delta = ((e.acked_average << AVERAGE_SHIFT) - e.acked_average + delta) >> AVERAGE_SHIFT
        e.acked_average = delta if delta < 0xffff else 0xffff
    if e.fail & ECN_FAIL_ACE_RECEIVE:
        return                                         # nothing of ours is ECT: nothing can have met CE
    if tcb.flags & TF_PASSIVE and tcb.retransmits and seg.length == 0 and seg.ack == tcb.iss + 1 and \
            seg.seq == tcb.irs + 1:
        return                                         # perhaps the answer to a SYN,ACK sent again: its field is no counter
    delta = marked_packets(tcb, (ace - ACE_START - e.delivered_ce) & ACE_MAX, ce_bytes, sure, a.delivered, bytes)
    if delta == 0:
        return
    e.delivered_ce += delta
    predict(tcb)
    a.flags |= ACK_ECE
    if seg.accecn_fields == NO_ACCECN or e.fail & ECN_FAIL_OPTION_RECEIVE:
        ce_bytes = delta * tcb.cc.mss
    a.ce_bytes = ce_bytes if ce_bytes < bytes else bytes


cdef void ecn_acknowledged(tcb_t *tcb, const segment_t *seg, ack_t *a) noexcept nogil:
    if tcb.ecn_mode == ECN_ACCURATE:
        acknowledged_accurate(tcb, seg, a)
    elif tcb.ecn_mode == ECN_CLASSIC and seg.flags & (ECE | SYN) == ECE:
        a.flags |= ACK_ECE
        a.ce_bytes = <uint32_t> (tcb.cc.delivered - a.prior_delivered)
        tcb.ecn.delivered_ce += a.delivered


# --- what leaves ------------------------------------------------------------------------------------------------------

cdef bint ecn_beacon(const tcb_t *tcb) noexcept nogil:
    """The option goes out some times a round trip even when there is nothing new in it (section 3.2.3.3)."""
    cdef int64_t per_round = tcb.tcp.config.ecn_option_beacon
    return per_round != 0 and (tcb.tcp.now_ns - tcb.ecn.option_ns) * per_round >= tcb.srtt_ns


cdef void fit_option(tcb_t *tcb, plan_t *plan) noexcept nogil:
    """As many counters as there is room for, but those that have changed; one SACK block may give way to them, as in
    Linux. What has no room waits for the next segment."""
    cdef uint8_t blocks = plan.options.sack_count, fields = ACCECN_FIELDS
    if plan.length and plan.length + OPTION_SPACE + (4 + 8 * blocks if blocks else 0) > send_segment_limit(tcb):
        return
    while True:
        plan.options.accecn_fields = fields
        if tcp_options_length(&plan.options) <= MAX_OPTIONS:
            break
        if fields > tcb.ecn.option_least:
            fields -= 1
        elif plan.options.sack_count > 2 and tcb.ecn.option_least:
            plan.options.sack_count -= 1
            fields = ACCECN_FIELDS
        else:
            plan.options.sack_count = blocks
            plan.options.accecn_fields = NO_ACCECN
            return
    plan.options.accecn[0] = tcb.ecn.received_bytes[ECT_1 - 1] + 1
    plan.options.accecn[1] = tcb.ecn.received_bytes[CE - 1]
    plan.options.accecn[2] = tcb.ecn.received_bytes[ECT_0 - 1] + 1
    plan.header_length = 20 + tcp_options_length(&plan.options)


cdef uint16_t ecn_ack_flags(const tcb_t *tcb) noexcept nogil:
    if tcb.ecn_mode == ECN_CLASSIC:
        return ECE if tcb.ecn.flags & EF_ECHO else 0
    if tcb.ecn_mode != ECN_ACCURATE:
        return 0
    if tcb.ecn.flags & EF_REFLECT:
        return reflection(tcb.ecn.syn_received)
    return ace_flags(ACE_START + tcb.ecn.received_ce)


cdef uint8_t ecn_ack_codepoint(const tcb_t *tcb) noexcept nogil:
    """Of a segment without new data: RFC 3168 sections 6.1.4 and 6.1.5 leave it out."""
    if tcb.ecn_mode == ECN_CLASSIC:
        return ECT_0 if needs_ecn(tcb) else NOT_ECT
    if tcb.ecn_mode == ECN_ACCURATE and not tcb.ecn.fail & (ECN_FAIL_ACE_SEND | ECN_FAIL_ACE_RECEIVE):
        return ECT_0
    return NOT_ECT


cdef void ecn_plan(tcb_t *tcb, plan_t *plan) noexcept nogil:
    """Flags, codepoint and option of a segment that is no SYN."""
    plan.ecn = ecn_ack_codepoint(tcb)
    plan.flags |= ecn_ack_flags(tcb)
    if tcb.ecn_mode == ECN_CLASSIC:
        if plan.length and not plan.retransmit:
            plan.ecn = ECT_0
            if tcb.ecn.flags & EF_QUEUE_CWR:
                plan.flags |= CWR
    elif tcb.ecn_mode == ECN_ACCURATE and ecn_option_due(tcb):
        fit_option(tcb, plan)


cdef void ecn_sent(tcb_t *tcb, const plan_t *plan) noexcept nogil:
    """Before what the segment reports is forgotten."""
    cdef ecn_t *e = tcb.ecn
    if plan.flags & SYN:
        return
    if tcb.ecn_mode == ECN_CLASSIC:
        if plan.flags & CWR:
            e.flags &= ~<uint8_t> EF_QUEUE_CWR
        return
    e.ce_pending = 0
    e.flags &= ~<uint8_t> EF_REFLECT
    if plan.options.accecn_fields == NO_ACCECN:
        return
    e.option_ns = tcb.tcp.now_ns
    e.option_least = 0
    if e.option_demand:
        e.option_demand -= 1
    e.flags &= ~<uint8_t> EF_OPTION_WITH_DSACK
    if plan.options.sack_count and tcb.duplicate.start != tcb.duplicate.end:
        e.flags |= EF_OPTION_WITH_DSACK
