"""Path MTU of a connection.

Three sources, each only ever lowering what the SYNs agreed on: an ICMP report that quotes data in flight and names a
believable size (RFC 5927 section 7, CVE-2004-1060), which is forgotten after ten minutes; the floor of the search while
probing is on; and a black hole, several timeouts in a row, which turns probing on (net.ipv4.tcp_mtu_probing = 1). A probe
is one segment of data larger than the others: its arrival raises the floor, its loss lowers the ceiling and is no sign of
congestion (RFC 4821 sections 7.2 to 7.7).
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t

from netstack.address cimport address_equal, address_is_v4
from netstack.clock cimport NS_PER_S
from netstack.tcp.seq cimport seq_ge, seq_lt
from netstack.tcp.tcb cimport CA_OPEN, MAX_PATH_MTUS, TF_TS_OK, path_mtu_t, tcp_t

cdef enum:
    BELIEVED_S = 600             # RFC 1191 section 6.3
    PROBE_AGAIN_S = 600          # RFC 4821 section 7.3 leaves it open; Linux's tcp_probe_interval
    PROBE_STEP = 8               # bytes; a smaller gain is not worth a probe
    PROBE_CWND = 11              # segments: a loss of one must be found by duplicates (RFC 4821 section 7.4)
    PROBE_REORDERING = 4         # segments that must follow the probe


cdef inline uint32_t header_bytes(const tcb_t *tcb) noexcept nogil:
    return 40 if address_is_v4(&tcb.remote) else 60


cdef inline uint32_t mtu_of(const tcb_t *tcb) noexcept nogil:
    return tcb.mss + header_bytes(tcb)


cdef void apply(tcb_t *tcb) noexcept nogil:
    cdef uint32_t mss = tcb.mss_clamp, head = header_bytes(tcb)
    if tcb.pmtu and tcb.pmtu - head < mss:
        mss = tcb.pmtu - head
    if tcb.mtu_probing and tcb.mtu_low - head < mss:
        mss = tcb.mtu_low - head
    tcb.mss = mss
    tcb.cc.mss = mss - 12 if tcb.flags & TF_TS_OK else mss
    if tcb.cc.cwnd < tcb.cc.mss:
        tcb.cc.cwnd = tcb.cc.mss           # it was one of the smaller segments, after a timeout


cdef void mtu_start(tcb_t *tcb) noexcept nogil:
    cdef uint32_t base = tcb.tcp.config.base_mss, advertised = tcb.cc.mss
    tcb.mss_clamp = tcb.mss
    tcb.pmtu = 0
    tcb.pmtu_until_ns = 0
    tcb.mtu_probing = tcb.tcp.config.mtu_probing > 1
    tcb.mtu_high = tcb.mss_clamp + header_bytes(tcb)
    tcb.mtu_low = (base if base < tcb.mss_clamp else tcb.mss_clamp) + header_bytes(tcb)
    tcb.mtu_probe_size = 0
    tcb.mtu_probe_ns = tcb.tcp.now_ns
    recall(tcb)
    if tcb.mtu_probing or tcb.pmtu:
        apply(tcb)
        tcb.cc.mss = advertised            # our SYN,ACK says what we can receive, whatever the way there carries


cdef void path_mtu_learn(tcp_t *tcp, const address_t *remote, uint32_t mtu) noexcept nogil:
    """For whoever sends to that host next (RFC 1191 section 3). Of two sizes the smaller stands while it lasts."""
    cdef path_mtu_t *entry = NULL
    cdef uint32_t i
    for i in range(<uint32_t> MAX_PATH_MTUS):
        if tcp.path_mtus[i].mtu and address_equal(&tcp.path_mtus[i].remote, remote):
            entry = &tcp.path_mtus[i]
    if entry == NULL:
        entry = &tcp.path_mtus[tcp.path_mtu_next % MAX_PATH_MTUS]
        tcp.path_mtu_next += 1
    elif entry.mtu < mtu and tcp.now_ns < entry.until_ns:
        return
    entry.remote = remote[0]
    entry.mtu = mtu
    entry.until_ns = tcp.now_ns + <int64_t> BELIEVED_S * NS_PER_S


cdef uint32_t path_mtu_recall(const tcp_t *tcp, const address_t *remote) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t> MAX_PATH_MTUS):
        if tcp.path_mtus[i].mtu and tcp.now_ns < tcp.path_mtus[i].until_ns and \
                address_equal(&tcp.path_mtus[i].remote, remote):
            return tcp.path_mtus[i].mtu
    return 0


cdef void recall(tcb_t *tcb) noexcept nogil:
    cdef path_mtu_t *entry
    cdef uint32_t i
    for i in range(<uint32_t> MAX_PATH_MTUS):
        entry = &tcb.tcp.path_mtus[i]
        if entry.mtu and entry.mtu < tcb.mtu_high and tcb.tcp.now_ns < entry.until_ns and \
                address_equal(&entry.remote, &tcb.remote):
            tcb.pmtu = entry.mtu
            tcb.pmtu_until_ns = entry.until_ns
            tcb.mtu_high = entry.mtu
            if tcb.mtu_low > entry.mtu:
                tcb.mtu_low = entry.mtu


cdef bint mtu_reported(tcb_t *tcb, uint32_t mtu, uint32_t seq) noexcept nogil:
    """Believed when it quotes data that is outstanding, of which there is enough for a packet larger than it says, and
    names no less than every path must carry. A router that names no size (RFC 1191 section 5) is answered by probing."""
    cdef uint32_t head = header_bytes(tcb), floor = MTU_FLOOR_V4 if head == 40 else MTU_FLOOR_V6
    cdef uint32_t options = 12 if tcb.flags & TF_TS_OK else 0
    if seq_lt(seq, tcb.snd_una) or not seq_lt(seq, tcb.snd_nxt):
        return False
    if mtu == 0 and head == 40 and tcb.tcp.config.mtu_probing:
        return tcb.snd_nxt - seq >= tcb.mss - options and shrink(tcb)
    if mtu < floor or mtu >= mtu_of(tcb) or tcb.snd_nxt - seq <= mtu - head - options:
        return False
    tcb.pmtu = mtu
    tcb.pmtu_until_ns = tcb.tcp.now_ns + <int64_t> BELIEVED_S * NS_PER_S
    if mtu < tcb.mtu_high:
        tcb.mtu_high = mtu
    if mtu < tcb.mtu_low:
        tcb.mtu_low = mtu
    tcb.mtu_probe_size = 0
    apply(tcb)
    path_mtu_learn(tcb.tcp, &tcb.remote, mtu)
    tcb.tcp.counters.tcp_pmtu_lowered += 1
    return True


cdef void mtu_refresh(tcb_t *tcb) noexcept nogil:
    if tcb.pmtu and tcb.tcp.now_ns >= tcb.pmtu_until_ns:
        tcb.pmtu = 0
        tcb.pmtu_until_ns = 0
        tcb.mtu_high = tcb.mss_clamp + header_bytes(tcb)
        apply(tcb)


# --- probing ----------------------------------------------------------------------------------------------------------

cdef uint32_t mtu_probe_limit(tcb_t *tcb, uint32_t limit, uint32_t available, uint32_t room) noexcept nogil:
    """Payload bytes the next segment of new data may have: *limit*, or that of a probe when one is due.

    available: bytes there are to send. room: bytes that cwnd and the peer's window let go.
    """
    cdef int64_t now = tcb.tcp.now_ns
    cdef uint32_t head = header_bytes(tcb), size, payload
    if tcb.mtu_probe_size or tcb.range_count or tcb.rec.state != CA_OPEN or tcb.retries or tcb.cc.cwnd < PROBE_CWND * tcb.cc.mss:
        return limit
    if tcb.mtu_high < tcb.mtu_low + PROBE_STEP:
        if now - tcb.mtu_probe_ns >= <int64_t> PROBE_AGAIN_S * NS_PER_S:
            tcb.mtu_high = (tcb.pmtu if tcb.pmtu else tcb.mss_clamp + head)
            tcb.mtu_probe_ns = now
        return limit
    size = (tcb.mtu_high + tcb.mtu_low + 1) // 2
    payload = size - head - (12 if tcb.flags & TF_TS_OK else 0)
    if payload <= limit or available < payload + PROBE_REORDERING * limit or room < payload + limit:
        return limit
    return payload


cdef void mtu_probe_sent(tcb_t *tcb, uint32_t start, uint32_t end) noexcept nogil:
    tcb.mtu_probe_size = end - start + header_bytes(tcb) + (12 if tcb.flags & TF_TS_OK else 0)
    tcb.mtu_probe_start = start
    tcb.mtu_probe_end = end
    tcb.mtu_probe_ns = tcb.tcp.now_ns
    tcb.tcp.counters.tcp_mtu_probes += 1


cdef void mtu_probe_arrived(tcb_t *tcb) noexcept nogil:
    if not seq_ge(tcb.snd_una, tcb.mtu_probe_end):
        return
    tcb.mtu_low = tcb.mtu_probe_size
    tcb.mtu_probe_size = 0
    apply(tcb)
    tcb.tcp.counters.tcp_mtu_probes_arrived += 1


cdef void mtu_probe_lost(tcb_t *tcb) noexcept nogil:
    tcb.mtu_high = tcb.mtu_probe_size - 1
    tcb.mtu_probe_size = 0


cdef bint shrink(tcb_t *tcb) noexcept nogil:
    """Half of what the search had shown to pass, at most the base, at least the floor; True: it became smaller."""
    cdef uint32_t head = header_bytes(tcb), mss = (tcb.mtu_low - head) // 2, before = tcb.mss
    if not tcb.mtu_probing:
        tcb.mtu_probing = 1
        tcb.mtu_probe_ns = tcb.tcp.now_ns
        mss = tcb.mtu_low - head
    if mss > tcb.tcp.config.base_mss:
        mss = tcb.tcp.config.base_mss
    if mss < tcb.tcp.config.min_snd_mss:
        mss = tcb.tcp.config.min_snd_mss
    if mss > tcb.mss_clamp:
        mss = tcb.mss_clamp
    tcb.mtu_low = mss + head
    tcb.mtu_probe_size = 0
    apply(tcb)
    return tcb.mss < before


cdef bint mtu_black_hole(tcb_t *tcb) noexcept nogil:
    """RFC 4821 section 7.7: everything is lost, again and again; smaller segments may pass."""
    if tcb.tcp.config.mtu_probing == 0:
        return False
    return shrink(tcb)
