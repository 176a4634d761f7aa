"""The debug build's conscience: after every segment, timer and call the state must make sense.

Each rule says in words what is checked; the first that fails is printed with the connection's variables, and the process
aborts, so that the test or fuzzer that caused it stands in the backtrace.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport fflush, fprintf, stderr
from libc.stdlib cimport abort

from netstack.clock cimport NEVER
from netstack.sock cimport SF_QUEUED_EVENT, sock_t
from netstack.tcp.ecn cimport ACE_START, ace_flags
from netstack.tcp.places cimport place_next
from netstack.tcp.scoreboard cimport NONE, sent_at
from netstack.tcp.seq cimport seq_gt, seq_le, seq_lt
from netstack.tcp.tcb cimport (
    ACK, CE, CLOSED, ECN_ACCURATE, ECN_ASKED, ECN_OFF, ESTABLISHED, FO_DEFERRED, LISTEN, MAX_RANGES, MAX_RECORD_ENDS, REQUEST_LEVELS, RQ_DUE,
    SENT_AGAIN, SENT_LISTED, SENT_LOST, SENT_SACKED, SYN_RCVD, SYN_SENT, TF_ACK_NOW, TF_FIN_AHEAD, TF_FIN_QUEUED,
    TF_FIN_RECEIVED, TF_FIN_SENT, TF_IN_ACCEPT, TF_OUTPUT, TF_PRIOR_ACK, TF_SACK_OK, TIME_WAIT, data_end, ecn_t, listener_t,
    receive_end, recovery_t, request_t, sent_t, settings_t,
)

cdef enum:
    LIST_LIMIT = 1 << 24         # a longer list is a cycle


cdef void broken(const tcb_t *t, const char *rule) noexcept nogil:
    fprintf(stderr, b"invariant broken: %s\n", rule)
    if t != NULL:
        fprintf(stderr, b"  id %u state %d flags %#x ports %d %d\n", t.sock.id, <int> t.state, t.flags, <int> t.lport,
                <int> t.rport)
        fprintf(stderr, b"  snd_una %u rtx_nxt %u snd_nxt %u snd_len %u snd_cap %u snd_wnd %u cwnd %u\n", t.snd_una,
                t.rtx_nxt, t.snd_nxt, t.snd_len, t.snd_cap, t.snd_wnd, t.cc.cwnd)
        fprintf(stderr, b"  rcv_read %u rcv_nxt %u rcv_adv %u rcv_cap %u rcv_wanted %u ranges %d\n", t.rcv_read, t.rcv_nxt,
                t.rcv_adv, t.rcv_cap, t.rcv_wanted, <int> t.range_count)
    fflush(stderr)
    abort()


cdef bint is_next(const recovery_t *rec, const sent_t *r) noexcept nogil:
    cdef uint64_t steps = 0
    cdef uint32_t place = place_next(rec.sent, rec.sent_capacity, rec.sent_first & (rec.sent_capacity - 1), &steps)
    if place == rec.sent_capacity:
        place = place_next(rec.sent, rec.sent_capacity, 0, &steps)
    return place == <uint32_t> (r - rec.sent)


cdef void check_scoreboard(const tcb_t *t) noexcept nogil:
    cdef const recovery_t *rec = t.rec
    cdef uint32_t i, at = t.snd_una, sacked = 0, lost = 0, again = 0, waiting = 0, listed = 0, order = rec.order_first
    cdef const sent_t *r
    for i in range(rec.sent_count):
        r = sent_at(t, i)
        if r.start != at or not seq_gt(r.end, r.start):
            broken(t, b"records cover snd_una to snd_nxt without a gap")
        at = r.end
        if r.flags & SENT_SACKED:
            sacked += r.end - r.start
        if r.flags & SENT_LOST:
            lost += r.end - r.start
            if r.flags & SENT_SACKED:
                broken(t, b"nothing is lost and arrived")
            if not r.flags & SENT_AGAIN:
                if waiting == 0 and rec.tree_valid and not is_next(rec, r):
                    broken(t, b"the tree knows the first that waits")
                waiting += 1
        if r.flags & SENT_AGAIN:
            again += r.end - r.start
        if r.flags & SENT_LISTED:
            listed += 1
            if r.flags & SENT_SACKED or r.flags & (SENT_LOST | SENT_AGAIN) == SENT_LOST:
                broken(t, b"what has arrived, or waits, is not in the order of sending")
    if at != t.snd_nxt:
        broken(t, b"records end at snd_nxt")
    if lost != rec.lost or again != rec.again or waiting != rec.waiting or (t.flags & TF_SACK_OK and sacked != rec.sacked):
        broken(t, b"the scoreboard's sums are those of its records")
    while rec.sent_count and order != NONE:
        if listed == 0 or not rec.sent[order].flags & SENT_LISTED:
            broken(t, b"the order of sending holds the listed records")
        listed -= 1
        order = rec.sent[order].later
    if listed:
        broken(t, b"every listed record is in the order of sending")


cdef void check_sending(const tcb_t *t) noexcept nogil:
    cdef uint32_t fin = 1 if t.flags & TF_FIN_SENT else 0
    if t.state >= ESTABLISHED and not (seq_le(t.snd_una, t.rtx_nxt) and seq_le(t.rtx_nxt, t.snd_nxt)):
        broken(t, b"snd_una <= rtx_nxt <= snd_nxt")
    if t.snd_len > t.snd_cap:
        broken(t, b"snd_len <= snd_cap")
    if t.snd_len and t.snd_buf == NULL or t.snd_cap & (t.snd_cap - 1):
        broken(t, b"a send buffer that is there, of a power of two")
    if t.state >= ESTABLISHED and seq_gt(t.snd_nxt, data_end(t) + fin):
        broken(t, b"nothing was sent that is not in the send buffer")
    if fin and not t.flags & TF_FIN_QUEUED:
        broken(t, b"no FIN is sent that was not queued")
    if t.records != NULL and not (0 < t.records.count <= MAX_RECORD_ENDS and seq_gt(t.records.ends[0], t.snd_nxt) and
                                  seq_le(t.records.ends[t.records.count - 1], data_end(t))):
        broken(t, b"records end in what is not yet sent")
    if t.snd_wnd > t.max_snd_wnd:
        broken(t, b"snd_wnd <= max_snd_wnd")
    if t.state >= ESTABLISHED and (t.cc.cwnd < t.cc.mss or t.cc.mss == 0):
        broken(t, b"cwnd >= one segment")
    if t.state >= ESTABLISHED:
        check_scoreboard(t)
    if t.state >= ESTABLISHED and t.snd_una != t.snd_nxt and not t.rtx_deadline and not t.flags & TF_OUTPUT:
        broken(t, b"what is outstanding has a timer or waits for the link")
    if t.rto_ns < 1000000 or t.rto_ns > 121 * <int64_t> 1000000000:
        broken(t, b"RTO between 1 ms and 120 s")


cdef void check_receiving(const tcb_t *t) noexcept nogil:
    cdef int i
    cdef uint32_t end = t.rcv_nxt
    if seq_lt(receive_end(t), t.rcv_read):
        broken(t, b"rcv_read <= rcv_nxt")
    if seq_lt(t.rcv_adv, receive_end(t)):
        broken(t, b"data up to rcv_adv and no further")
    if t.rcv_cap & (t.rcv_cap - 1) or (t.rcv_cap and t.rcv_buf == NULL):
        broken(t, b"a receive buffer that is there, of a power of two")
    if t.range_count > MAX_RANGES or t.range_count > t.range_capacity:
        broken(t, b"not more ranges than allowed")
    for i in range(t.range_count):
        if not seq_gt(t.ranges[i].start, end):
            broken(t, b"ranges lie above rcv_nxt, sorted, apart from each other")
        if not seq_gt(t.ranges[i].end, t.ranges[i].start):
            broken(t, b"no range is empty")
        end = t.ranges[i].end
    if t.range_count and seq_gt(end, t.rcv_adv):
        broken(t, b"ranges lie within the window")
    if t.range_count == 0:
        end = receive_end(t)
    if end - t.rcv_read > t.rcv_cap:
        broken(t, b"what was received fits the receive buffer")
    if t.flags & TF_FIN_AHEAD and (t.flags & TF_FIN_RECEIVED or seq_le(t.fin_seq, t.rcv_nxt) and t.fin_seq != t.rcv_nxt):
        broken(t, b"a FIN ahead is ahead")
    if t.lent != NULL and t.lent_filled > t.lent_size:
        broken(t, b"a lent buffer is not overfilled")


cdef void check_congestion_notification(const tcb_t *t) noexcept nogil:
    if t.ecn_mode > ECN_ASKED or t.ecn.estimate > CE or t.ecn.option_least > 3 or t.ecn.option_demand > 2:
        broken(t, b"ECN is of a kind there is")
    if t.ecn_mode != ECN_OFF and t.ecn == &t.tcp.no_ecn:
        broken(t, b"ECN has its state")
    if t.ecn_mode == ECN_ASKED and t.state != SYN_SENT:
        broken(t, b"what a SYN asks is settled by its answer")
    if t.ecn_mode == ECN_ACCURATE and t.state >= ESTABLISHED and t.predicted != (
            ACK | ace_flags(ACE_START + t.ecn.delivered_ce)):
        broken(t, b"the predicted ACE field is that of the marks we know of")
    if t.ecn_mode != ECN_ACCURATE and t.predicted != ACK:
        broken(t, b"without AccECN an acknowledgement is ACK")
    if t.flags & TF_PRIOR_ACK and seq_gt(t.ecn.prior_ack, t.rcv_nxt):
        broken(t, b"what came before a change of CE has come")


cdef void check_listener(const tcb_t *t) noexcept nogil:
    cdef const listener_t *l = t.listener
    cdef const tcb_t *child = l.accept_first
    cdef const tcb_t *back = NULL
    cdef const request_t *r = l.requests
    cdef const request_t *before = NULL
    cdef uint32_t n = 0, young = 0
    while child != NULL:
        if child.parent != t or child.sibling_back != back or not child.flags & TF_IN_ACCEPT or n > LIST_LIMIT:
            broken(child, b"the accept queue is a list of this listener's children")
        back = child
        child = child.sibling
        n += 1
    if n != l.accept_count or back != l.accept_last:
        broken(t, b"accept_count and accept_last tell the accept queue")
    n = 0
    while r != NULL:
        if r.listener != t or r.back != before or n > LIST_LIMIT:
            broken(t, b"the list of requests holds this listener's half-open connections")
        if r.retries == 0:
            young += 1
        before = r
        r = r.next
        n += 1
    if n != l.syn_count or young != l.young:
        broken(t, b"syn_count and young tell the half-open connections")
    if l.reset_count > l.reset_capacity or l.reset_count > l.fast_open_count:
        broken(t, b"a reset remembered takes a place of Fast Open")


cdef void check_invariants(const tcb_t *t) noexcept nogil:
    cdef int64_t d = NEVER
    if t.state > TIME_WAIT:
        broken(t, b"a state of RFC 9293")
    if t.state == CLOSED or t.state == TIME_WAIT:
        if t.rtx_deadline or t.ack_deadline or t.state_deadline or t.keepalive_deadline or t.heap_index:
            broken(t, b"no timer runs in CLOSED, nor in the handle of TIME-WAIT")
        return
    if t.state == LISTEN:
        if t.listener == NULL:
            broken(t, b"LISTEN has its queues")
        check_listener(t)
        return
    check_congestion_notification(t)
    check_sending(t)
    if t.state >= SYN_RCVD:
        check_receiving(t)
    if t.rtx_deadline and t.rtx_deadline < d:
        d = t.rtx_deadline
    if t.ack_deadline and t.ack_deadline < d:
        d = t.ack_deadline
    if t.state_deadline and t.state_deadline < d:
        d = t.state_deadline
    if t.keepalive_deadline and t.keepalive_deadline < d:
        d = t.keepalive_deadline
    if d != NEVER and (t.heap_index == 0 or t.timer_deadline > d):
        broken(t, b"the heap knows the earliest deadline")
    if t.state == SYN_SENT and not t.rtx_deadline and not t.flags & TF_OUTPUT and not t.fast_open & FO_DEFERRED:
        broken(t, b"a SYN has a timer or waits for the link")
    if t.flags & TF_ACK_NOW and not t.flags & TF_OUTPUT:
        broken(t, b"an acknowledgement owed is in the output list")


cdef void check_requests(const tcp_t *tcp) noexcept nogil:
    cdef uint32_t n = 0
    cdef int i
    cdef const request_t *r
    for i in range(REQUEST_LEVELS):
        r = tcp.requests[i].first
        while r != NULL:
            if r.later != NULL and r.later.deadline_ns < r.deadline_ns or r.flags & RQ_DUE or n > LIST_LIMIT:
                broken(NULL, b"half-open connections wait in the order of their deadlines")
            n += 1
            r = r.later
    r = tcp.requests_due.first
    while r != NULL:
        n += 1
        r = r.later
    if n != tcp.request_count:
        broken(NULL, b"every half-open connection waits for its time, or for the link")


cdef bint is_zero(const void *p, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if (<const unsigned char *> p)[i]:
            return False
    return True


cdef void check_shared(const tcp_t *tcp) noexcept nogil:
    cdef uint32_t i, n = 0
    cdef const tcb_t *t
    cdef const tcb_t *last = NULL
    cdef const sock_t *s = tcp.events.first
    for i in range(tcp.timers.count):
        t = tcp.timers.items[i]
        if t.heap_index != i + 1:
            broken(t, b"heap_index tells the place in the heap")
        if i and tcp.timers.items[(i - 1) // 2].timer_deadline > t.timer_deadline:
            broken(t, b"no child in the heap is due before its parent")
    check_requests(tcp)
    if not is_zero(&tcp.defaults, sizeof(settings_t)) or not is_zero(&tcp.no_ecn, sizeof(ecn_t)):
        broken(NULL, b"what many connections share is never written")
    t = tcp.output_first
    while t != NULL:
        if not t.flags & TF_OUTPUT or n > LIST_LIMIT:
            broken(t, b"the output list holds those that want output")
        last = t
        t = t.output_next
        n += 1
    if last != tcp.output_last and tcp.output_first != NULL:
        broken(last, b"output_last is the last of the output list")
    n = 0
    while s != NULL:
        if not s.flags & SF_QUEUED_EVENT or n > LIST_LIMIT:
            broken(NULL, b"the event list holds sockets with events")
        s = s.event_next
        n += 1
