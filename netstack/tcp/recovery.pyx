"""NewReno fast retransmit and fast recovery, and going back after a timeout.

``rtx_nxt`` is where sending goes on. In fast recovery it stays at ``snd_nxt`` and single segments at ``snd_una`` are sent
again by TF_RTX_HEAD; after a timeout it goes back to ``snd_una`` and everything up to ``recover`` is sent again under
slow start, skipping what acknowledgements show to have arrived.
"""

from libc.stdint cimport uint32_t

from netstack.tcp.congestion.controller cimport congestion_loss, congestion_rto
from netstack.tcp.mtu cimport mtu_probe_lost
from netstack.tcp.rtt cimport rto_backoff
from netstack.tcp.seq cimport seq_ge, seq_gt
from netstack.tcp.tcb cimport (
    TF_IN_RECOVERY, TF_RTO_RECOVERY, TF_RTT_TIMING, TF_RTX_HEAD, want_output,
)

cdef enum:
    DUPACK_THRESHOLD = 3         # RFC 5681 section 3.2


cdef uint32_t flight_size(const tcb_t *tcb) noexcept nogil:
    """Bytes believed to be in the network: after a timeout, only what was sent again."""
    return tcb.rtx_nxt - tcb.snd_una


cdef void recovery_on_duplicate(tcb_t *tcb) noexcept nogil:
    cdef uint32_t flight
    if tcb.dupacks < 255:
        tcb.dupacks += 1
    if tcb.flags & TF_IN_RECOVERY:
        # A segment left the network (RFC 6582 section 3.2 step 3), but no more of them than were out when the loss was
        # seen: invented duplicates must not keep us sending (RFC 5681 section 5).
        if tcb.cc.cwnd < tcb.cc.ssthresh + (tcb.recover - tcb.snd_una):
            tcb.cc.cwnd += tcb.cc.mss
        want_output(tcb)
        return
    if tcb.flags & TF_RTO_RECOVERY:
        return
    if tcb.dupacks != DUPACK_THRESHOLD:
        if tcb.dupacks < DUPACK_THRESHOLD:
            want_output(tcb)                          # each of the first two lets one new segment out (RFC 3042)
        return
    if tcb.mtu_probe_size and tcb.snd_una == tcb.mtu_probe_start:
        mtu_probe_lost(tcb)                           # too large, not congestion (RFC 4821 section 7.5)
        recovery_resend(tcb)
        return
    if not seq_gt(tcb.snd_una, tcb.recover):
        return                                        # duplicates caused by our own retransmissions: section 3.2 step 2
    tcb.flags |= TF_IN_RECOVERY | TF_RTX_HEAD
    tcb.recover = tcb.snd_nxt
    flight = tcb.snd_nxt - tcb.snd_una
    if flight > tcb.cc.cwnd:
        flight = tcb.cc.cwnd                          # without what limited transmit sent (RFC 5681 section 3.2 step 2)
    congestion_loss(tcb, flight)
    tcb.cc.cwnd += DUPACK_THRESHOLD * tcb.cc.mss
    tcb.flags &= ~TF_RTT_TIMING
    tcb.tcp.counters.tcp_fast_retransmits += 1
    want_output(tcb)


cdef void recovery_on_ack(tcb_t *tcb, uint32_t acked) noexcept nogil:
    cdef uint32_t flight
    tcb.dupacks = 0
    if tcb.flags & TF_IN_RECOVERY:
        if seq_ge(tcb.snd_una, tcb.recover):
            # Full acknowledgement: deflate without a burst (section 3.2 step 3, first choice).
            flight = tcb.snd_nxt - tcb.snd_una
            if flight < tcb.cc.mss:
                flight = tcb.cc.mss
            tcb.cc.cwnd = tcb.cc.ssthresh
            if flight + tcb.cc.mss < tcb.cc.cwnd:
                tcb.cc.cwnd = flight + tcb.cc.mss
            tcb.flags &= ~(TF_IN_RECOVERY | TF_RTX_HEAD)
        else:
            # Partial: the next hole is lost too.
            tcb.flags |= TF_RTX_HEAD
            tcb.cc.cwnd = tcb.cc.cwnd - acked if tcb.cc.cwnd > acked else 0
            if acked >= tcb.cc.mss:
                tcb.cc.cwnd += tcb.cc.mss
            if tcb.cc.cwnd < tcb.cc.mss:
                tcb.cc.cwnd = tcb.cc.mss
            want_output(tcb)
        return
    if tcb.flags & TF_RTO_RECOVERY and seq_ge(tcb.snd_una, tcb.recover):
        tcb.flags &= ~TF_RTO_RECOVERY
    if not tcb.flags & TF_RTO_RECOVERY:
        tcb.recover = tcb.snd_una - 1                 # dragged along, so that 2 GiB later it is not "ahead" again
    if seq_gt(tcb.snd_una, tcb.snd_small):
        tcb.snd_small = tcb.snd_una                   # the same


cdef void recovery_resend(tcb_t *tcb) noexcept nogil:
    """What is in flight was too large for the path: it goes again in smaller segments, and nothing says congestion."""
    if tcb.snd_una == tcb.snd_nxt:
        return
    tcb.flags &= ~(TF_IN_RECOVERY | TF_RTX_HEAD | TF_RTT_TIMING)
    tcb.flags |= TF_RTO_RECOVERY
    tcb.dupacks = 0
    tcb.recover = tcb.snd_nxt
    tcb.rtx_nxt = tcb.snd_una
    want_output(tcb)


cdef void recovery_on_timeout(tcb_t *tcb) noexcept nogil:
    """Sections 5.4 to 5.6: halve once per episode, go back to the first unacknowledged byte, double the RTO."""
    if not tcb.flags & TF_RTO_RECOVERY or tcb.retries == 0:
        congestion_rto(tcb, tcb.snd_nxt - tcb.snd_una)
    else:
        tcb.cc.cwnd = tcb.cc.mss
    tcb.flags &= ~(TF_IN_RECOVERY | TF_RTX_HEAD | TF_RTT_TIMING)
    tcb.flags |= TF_RTO_RECOVERY
    tcb.dupacks = 0
    tcb.recover = tcb.snd_nxt
    tcb.rtx_nxt = tcb.snd_una
    rto_backoff(tcb)
    tcb.tcp.counters.tcp_timeouts += 1
    want_output(tcb)
