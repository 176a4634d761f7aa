"""The table of algorithms, their life in a connection, and the guard rails around what they decide.

Every compiled module of this package that registers an algorithm is found by itself: the package imports all of its
modules (``__init__.py``), and a module calls ``congestion_register`` at its end. Adding one is adding its file. The table only
grows, so it is read without a lock.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp, strlen

from netstack.clock cimport NS_PER_S

cdef uint64_t PACING_MAX = <uint64_t> 1 << 40         # bytes per second: beyond every link; more is nonsense
cdef const congestion_ops_t *table[CONGESTION_MAX]
cdef uint32_t count = 0


# --- the table --------------------------------------------------------------------------------------------------------

cdef int congestion_register(const congestion_ops_t *ops) except -1:
    global count
    cdef size_t n = strlen(ops.name)
    if n == 0 or n >= CONGESTION_NAME:
        raise ValueError(f"congestion control {ops.name.decode()!r}: a name has 1 to {CONGESTION_NAME - 1} characters")
    if ops.init == NULL or ops.on_ack == NULL:
        raise ValueError(f"congestion control {ops.name.decode()!r}: init and on_ack are needed")
    if congestion_find(ops.name) != NULL:
        raise ValueError(f"congestion control {ops.name.decode()!r} is registered already")
    if count == CONGESTION_MAX:
        raise ValueError(f"more than {CONGESTION_MAX} congestion controls")
    table[count] = ops
    count += 1
    return 0


cdef const congestion_ops_t *congestion_find(const char *name) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if strcmp(table[i].name, name) == 0:
            return table[i]
    return NULL


cdef const congestion_ops_t *congestion_at(uint32_t i) noexcept nogil:
    return table[i] if i < count else NULL


cdef const congestion_ops_t *congestion_default() noexcept nogil:
    cdef const congestion_ops_t *ops = congestion_find(b"cubic")
    return ops if ops != NULL else congestion_find(b"reno")


cdef list congestion_names():
    cdef uint32_t i
    return [table[i].name.decode() for i in range(count)]


# --- life -------------------------------------------------------------------------------------------------------------

cdef bint obtain(tcb_t *tcb, const congestion_ops_t *ops) noexcept nogil:
    """Fresh state for an algorithm. False: no memory for it."""
    memset(tcb.cc.private_state, 0, sizeof(tcb.cc.private_state))
    tcb.cc.extended = NULL
    tcb.cc.pacing_rate = 0
    if ops.extended_size:
        tcb.cc.extended = calloc(1, ops.extended_size)
        if tcb.cc.extended == NULL:
            return False
    tcb.cc_ops = ops
    return True


cdef void begin(tcb_t *tcb, const congestion_ops_t *ops) noexcept nogil:
    """ops, or the default when there is no memory for its state, takes the window as it stands."""
    cdef uint32_t before = tcb.cc.cwnd
    if not obtain(tcb, ops):
        obtain(tcb, congestion_find(b"reno"))          # needs none
        tcb.tcp.counters.congestion_fallbacks += 1
    tcb.modes |= TM_CC_ACTIVE
    tcb.cc_ops.init(&tcb.cc, tcb.tcp.now_ns)
    congestion_guard(tcb, before, 0)
    congestion_set_paced(tcb)


cdef void congestion_start(tcb_t *tcb, uint32_t cwnd) noexcept nogil:
    congestion_stop(tcb)
    if tcb.cc.cwnd_clamp < tcb.cc.mss:
        tcb.cc.cwnd_clamp = CWND_MAX
    tcb.cc.cwnd = cwnd
    tcb.cc.ssthresh = CWND_MAX
    tcb.cc.srtt_ns = tcb.srtt_ns
    tcb.cc.min_rtt_ns = tcb.srtt_ns                    # the handshake's, if it was timed
    tcb.cc.delivered = 0
    tcb.cc_peak = cwnd
    tcb.cc_prior_cwnd = 0
    tcb.cc_prior_ssthresh = 0
    begin(tcb, tcb.cc_ops)


cdef void congestion_switch(tcb_t *tcb, const congestion_ops_t *ops) noexcept nogil:
    """As Linux: the new algorithm finds cwnd and ssthresh as they are and nothing else."""
    if tcb.cc_ops == ops:
        return
    if not tcb.modes & TM_CC_ACTIVE:
        tcb.cc_ops = ops
        return
    congestion_stop(tcb)
    begin(tcb, ops)


cdef void congestion_stop(tcb_t *tcb) noexcept nogil:
    if not tcb.modes & TM_CC_ACTIVE:
        return
    tcb.modes &= ~(TM_CC_ACTIVE | TM_PACED)
    if tcb.cc_ops.release != NULL:
        tcb.cc_ops.release(&tcb.cc)
    free(tcb.cc.extended)
    tcb.cc.extended = NULL
    tcb.cc.pacing_rate = 0
    tcb.pace_deadline = 0


cdef bint congestion_reload(tcb_t *tcb, const void *extended, uint32_t size, int64_t shift_ns) noexcept nogil:
    """What does not fit begins anew, with the same window."""
    cdef uint64_t state[8]
    cdef uint64_t rate = tcb.cc.pacing_rate
    if not tcb.modes & TM_CC_ACTIVE:
        tcb.cc.extended = NULL
        return True
    memcpy(state, tcb.cc.private_state, sizeof(state))
    if tcb.cc_ops.extended_size != size or not obtain(tcb, tcb.cc_ops):
        tcb.tcp.counters.congestion_fallbacks += 1
        begin(tcb, tcb.cc_ops)
        return False
    memcpy(tcb.cc.private_state, state, sizeof(state))
    tcb.cc.pacing_rate = rate
    if size:
        memcpy(tcb.cc.extended, extended, size)
    if tcb.cc_ops.load != NULL:
        tcb.cc_ops.load(&tcb.cc, tcb.tcp.now_ns, shift_ns)
    return True


# --- guard rails ------------------------------------------------------------------------------------------------------

cdef void congestion_guard(tcb_t *tcb, uint32_t before, uint64_t earned) noexcept nogil:
    """Hold cwnd between one segment and the clamp, and its growth to twice what was acknowledged, up to where it lawfully
    stood before: slow start doubles, and what the path carried a while ago may be tried again (undo, BBR's ProbeRTT)."""
    cdef congestion_t *cc = &tcb.cc
    cdef uint64_t lawful = before + 2 * earned
    cdef uint32_t least = cc.mss if cc.mss else 1
    if lawful < tcb.cc_peak:
        lawful = tcb.cc_peak
    if lawful < 4 * least:
        lawful = 4 * least                             # less than any initial window: harmless
    if cc.cwnd > lawful:
        cc.cwnd = <uint32_t> lawful
        tcb.tcp.counters.congestion_clamped += 1
    if cc.cwnd > cc.cwnd_clamp:
        cc.cwnd = cc.cwnd_clamp                        # as it was asked for: no offence
    if cc.cwnd < least:
        cc.cwnd = least
        tcb.tcp.counters.congestion_clamped += 1
    if cc.cwnd > tcb.cc_peak:
        tcb.cc_peak = cc.cwnd
    if cc.ssthresh < 2 * least:
        cc.ssthresh = 2 * least
        tcb.tcp.counters.congestion_clamped += 1


cdef void congestion_remember(tcb_t *tcb) noexcept nogil:
    """What a spurious reduction is undone to. The peak fades, loss by loss."""
    cdef uint32_t faded = tcb.cc_peak - tcb.cc_peak // 4
    tcb.cc_prior_cwnd = tcb.cc.cwnd
    tcb.cc_prior_ssthresh = tcb.cc.ssthresh
    tcb.cc_peak = tcb.cc.cwnd if tcb.cc.cwnd > faded else faded


cdef void congestion_undo(tcb_t *tcb) noexcept nogil:
    cdef uint32_t before = tcb.cc.cwnd
    if tcb.cc_prior_cwnd == 0:
        return
    if tcb.cc_ops.undo != NULL:
        tcb.cc_ops.undo(&tcb.cc, tcb.tcp.now_ns)
    else:
        if tcb.cc.cwnd < tcb.cc_prior_cwnd:
            tcb.cc.cwnd = tcb.cc_prior_cwnd
        if tcb.cc.ssthresh < tcb.cc_prior_ssthresh:
            tcb.cc.ssthresh = tcb.cc_prior_ssthresh
    congestion_guard(tcb, before, 0)
    tcb.cc_prior_cwnd = 0


# --- pacing -----------------------------------------------------------------------------------------------------------

cdef void congestion_set_paced(tcb_t *tcb) noexcept nogil:
    """Paced are algorithms that ask for it, sockets with SO_MAX_PACING_RATE, and all when the stack says so."""
    if not tcb.modes & TM_CC_ACTIVE:
        return
    if tcb.cc_ops.flags & CC_PACED or tcb.settings.max_pacing_rate or tcb.tcp.config.pacing:
        tcb.modes |= TM_PACED
        congestion_set_rate(tcb)
    else:
        tcb.modes &= ~TM_PACED
        tcb.cc.pacing_rate = 0


cdef void congestion_set_rate(tcb_t *tcb) noexcept nogil:
    """The rate within its bounds; derived, as Linux does, from the window and the round trip for algorithms that set none."""
    cdef congestion_t *cc = &tcb.cc
    cdef uint64_t most = tcb.settings.max_pacing_rate if tcb.settings.max_pacing_rate else <uint64_t> PACING_MAX, rate = cc.pacing_rate
    cdef uint32_t percent
    if not tcb.cc_ops.flags & CC_PACED:
        if tcb.srtt_ns <= 0:
            cc.pacing_rate = tcb.settings.max_pacing_rate       # 0: as fast as it goes, until there is a round trip
            return
        percent = tcb.tcp.config.pacing_ss_ratio if cc.cwnd < cc.ssthresh // 2 else tcb.tcp.config.pacing_ca_ratio
        rate = <uint64_t> cc.cwnd * percent // 100 * NS_PER_S // <uint64_t> tcb.srtt_ns
        cc.pacing_rate = most if rate > most else (rate if rate > cc.mss else cc.mss)
        return
    if rate == 0:
        return                                         # the algorithm does not know yet: not paced
    if rate > most:
        cc.pacing_rate = most
        if most == PACING_MAX:
            tcb.tcp.counters.congestion_clamped += 1
    elif rate < cc.mss:
        cc.pacing_rate = cc.mss                        # a segment a second
        tcb.tcp.counters.congestion_clamped += 1
