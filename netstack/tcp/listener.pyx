"""What a listener keeps, and how little of it for a SYN that may come from nobody (RFC 4987).

A SYN leaves a record of some 150 bytes, `request_t`, which answers for itself: SYN,ACKs, their timer, challenges. The third
segment of the handshake makes a connection of it, which then takes that segment as any other. When there are too many
records the peer keeps what is needed (`syn_cookies`). A full accept queue makes SYNs and third segments go unheard, and
they come again (as Linux; `tcp_abort_on_overflow` has them refused).

Timeouts double from 1 s and are the same for all, so each length has a list that is in the order of deadlines by itself.
"""

from libc.errno cimport ECONNRESET
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from netstack.address cimport address_is_v4
from netstack.clock cimport NEVER, NS_PER_S
from netstack.counters cimport (
    DROP_NONE, DROP_TCP_ACK, DROP_TCP_BACKLOG, DROP_TCP_CHECKSUM, DROP_TCP_DEFERRED, DROP_TCP_DUPLICATE, DROP_TCP_FLAGS,
    DROP_TCP_OUT_OF_MEMORY, DROP_TCP_PAWS, DROP_TCP_SEQUENCE,
)
from netstack.sock cimport EVENT_IN, SF_ORPHAN, sock_event
from netstack.tcp.connection cimport (
    ISN_STEP, connection_abort, connection_from_request, leave, queue_bare, receive_space, window_shift,
)
from netstack.tcp.ecn cimport (
    ACE_FLAGS, ACE_START, ace_flags, ecn_request, ecn_request_again, ecn_request_flags,
)
from netstack.tcp.fast_open cimport fast_open_cookie, fast_open_forget_resets, fast_open_server
from netstack.tcp.input cimport segment_verify, synchronized_segment
from netstack.tcp.isn cimport isn_of, random_below, timestamp_clock, timestamp_offset_of
from netstack.tcp.seq cimport seq_ge, seq_gt, seq_le, seq_lt
from netstack.tcp.syn_cookies cimport COOKIE_FAILED, COOKIE_REFUSED, cookie_check, cookie_isn, cookie_timestamp
from netstack.tcp.tcb cimport (
    ACK, CC_NEEDS_ECN, CLOSED, ECN_ACCURATE, ECT_0, FIN, MAX_BARE, NOT_ECT, REQUEST_LEVELS, RQ_ACKED, RQ_COOKIE_ASKED, RQ_DUE, RQ_EXPERIMENTAL, RQ_SACK,
    RQ_TIMESTAMPS, RQ_WSCALE, RST, SYN, SYN_RCVD, TF_ACCEPTED, TF_IN_ACCEPT, TM_CC_CHOSEN, congestion_ops_t, request_list_t,
)
from netstack.wire.tcp cimport NO_FASTOPEN

cdef enum:
    SMALLEST_QUEUE = 8           # half-open connections that any listener may have
    RTO_FIRST_S = 1              # RFC 6298 section 2.1
    RTO_MAX_S = 120
    COOKIES_FOR_S = 120          # after the last one was given: as long as one is good for
    REFUSALS = 200               # RSTs a listener answers to ACKs without a cookie, a second, while it gives them; and
    REFUSALS_MORE = 50           # up to so many more, at random, so that nobody can count by them


# --- lists ------------------------------------------------------------------------------------------------------------

cdef inline void list_append(request_list_t *list, request_t *r) noexcept nogil:
    r.later = NULL
    r.earlier = list.last
    if list.last == NULL:
        list.first = r
    else:
        list.last.later = r
    list.last = r


cdef inline void list_remove(request_list_t *list, request_t *r) noexcept nogil:
    if r.earlier == NULL:
        list.first = r.later
    else:
        r.earlier.later = r.later
    if r.later == NULL:
        list.last = r.earlier
    else:
        r.later.earlier = r.earlier


cdef inline request_list_t *list_of(tcp_t *tcp, const request_t *r) noexcept nogil:
    if r.flags & RQ_DUE:
        return &tcp.requests_due
    return &tcp.requests[r.retries if r.retries < REQUEST_LEVELS else REQUEST_LEVELS - 1]


cdef uint32_t queue_limit(const listener_t *l) noexcept nogil:
    return l.backlog if l.backlog > SMALLEST_QUEUE else SMALLEST_QUEUE


cdef inline bint accept_full(const listener_t *l) noexcept nogil:
    """As Linux: one more than the backlog."""
    return l.accept_count > l.backlog


cdef void request_join(request_t *r) noexcept nogil:
    cdef listener_t *l = r.listener.listener
    cdef tcp_t *tcp = r.listener.tcp
    r.back = NULL
    r.next = l.requests
    if r.next != NULL:
        r.next.back = r
    l.requests = r
    l.syn_count += 1
    if r.retries == 0:
        l.young += 1
    tcp.request_count += 1
    list_append(list_of(tcp, r), r)


cdef void request_drop(tcp_t *tcp, request_t *r) noexcept nogil:
    """Out of every list, and gone."""
    cdef listener_t *l = r.listener.listener
    list_remove(list_of(tcp, r), r)
    if r.back == NULL:
        l.requests = r.next
    else:
        r.back.next = r.next
    if r.next != NULL:
        r.next.back = r.back
    l.syn_count -= 1
    if r.retries == 0:
        l.young -= 1
    tcp.request_count -= 1
    tcp.request_gone(tcp.stack, r)
    free(r)


# --- a SYN ------------------------------------------------------------------------------------------------------------

cdef inline const congestion_ops_t *algorithm(const tcb_t *listener) noexcept nogil:
    return listener.cc_ops if listener.modes & TM_CC_CHOSEN else listener.tcp.congestion


cdef void request_fill(request_t *r, tcb_t *listener, const segment_t *seg) noexcept nogil:
    """What the SYN offers, against what we do."""
    cdef tcp_t *tcp = listener.tcp
    memset(r, 0, sizeof(request_t))
    r.listener = listener
    r.local = seg.dst
    r.remote = seg.src
    r.lport = seg.dport
    r.rport = seg.sport
    r.interface = seg.interface
    r.irs = seg.seq
    r.peer_mss = seg.mss
    r.peer_window = <uint16_t> seg.wnd
    if seg.has_ts and tcp.config.timestamps:
        r.flags |= RQ_TIMESTAMPS
        r.ts_recent = seg.tsval
    if seg.sack_permitted and tcp.config.sack:
        r.flags |= RQ_SACK
    if seg.wscale != 255 and tcp.config.window_scaling:
        r.flags |= RQ_WSCALE
        r.snd_wscale = seg.wscale
    r.ts_offset = timestamp_offset_of(tcp, &r.local, &r.remote, r.lport, r.rport)
    ecn_request(r, seg, algorithm(listener))
    request_offer(r)


cdef void request_offer(request_t *r) noexcept nogil:
    """What our SYN,ACK says of us: the listener's settings."""
    cdef tcb_t *listener = r.listener
    cdef uint32_t mss = listener.tcp.link_mss(listener.tcp.stack, &r.remote, r.interface), space = receive_space(listener)
    r.mss = <uint16_t> (mss if mss < 65535 else 65535)
    r.window = <uint16_t> (space if space < 65535 else 65535)    # never scaled there (RFC 7323 section 2.2)
    r.rcv_wscale = window_shift(listener) if r.flags & RQ_WSCALE else 0


cdef DropReason listen_state(tcb_t *listener, segment_t *seg, const uint32_t *above, tcb_t **child) noexcept nogil:
    if not segment_verify(listener.tcp, seg):
        return DROP_TCP_CHECKSUM
    if seg.flags & RST:
        return DROP_TCP_FLAGS
    if seg.flags & ACK:
        return ack_for_listener(listener, seg, child)
    if not seg.flags & SYN or seg.flags & FIN or seg.broadcast:
        return DROP_TCP_FLAGS
    return syn_for_listener(listener, seg, above, child)


cdef DropReason syn_for_listener(tcb_t *listener, const segment_t *seg, const uint32_t *above,
                                 tcb_t **child) noexcept nogil:
    cdef tcp_t *tcp = listener.tcp
    cdef listener_t *l = listener.listener
    cdef request_t fresh
    cdef request_t *r
    cdef bint cookie = False
    if l.deferred:
        return DROP_TCP_BACKLOG
    # Names that lived a minute ago are a peer who can hear us: those need no cookie.
    if above == NULL and (tcp.config.syncookies == 2 or l.syn_count >= queue_limit(l)):
        if not tcp.config.syncookies:
            return DROP_TCP_BACKLOG
        cookie = True
    if accept_full(l):
        tcp.counters.tcp_listen_overflows += 1
        return DROP_TCP_BACKLOG
    if not tcp.config.syncookies and above == NULL and \
            l.syn_count >= tcp.config.max_syn_backlog - tcp.config.max_syn_backlog // 4:
        return DROP_TCP_BACKLOG                        # without cookies the last quarter is for peers that are known
    request_fill(&fresh, listener, seg)
    if cookie:
        return give_cookie(&fresh)
    fresh.iss = isn_of(tcp, &fresh.local, &fresh.remote, fresh.lport, fresh.rport)
    if above != NULL and not seq_gt(fresh.iss, above[0]):
        fresh.iss = above[0] + ISN_STEP                # a fast connection can outrun the clock that ISNs are made from
    if tcp.config.fastopen & 2:
        child[0] = fast_open_server(&fresh, seg)
        if child[0] != NULL:
            return DROP_NONE
    r = <request_t *> calloc(1, sizeof(request_t))
    if r == NULL:
        return DROP_TCP_OUT_OF_MEMORY
    r[0] = fresh
    if not tcp.request_keep(tcp.stack, r):
        free(r)
        return DROP_TCP_OUT_OF_MEMORY
    r.flags |= RQ_DUE
    request_join(r)
    return DROP_NONE


cdef bare_t *new_bare(tcp_t *tcp) noexcept nogil:
    """A place among what strangers provoke. When all are taken, output runs before the next frame is looked at."""
    cdef bare_t *b
    if tcp.bare_count >= MAX_BARE:
        tcp.ack_urgent = 1
        return NULL
    b = &tcp.bare[tcp.bare_count]
    tcp.bare_count += 1
    if tcp.bare_count == MAX_BARE:
        tcp.ack_urgent = 1
    return b


cdef DropReason give_cookie(request_t *r) noexcept nogil:
    """Answer, and keep nothing."""
    cdef tcb_t *listener = r.listener
    cdef tcp_t *tcp = listener.tcp
    cdef bare_t *b = new_bare(tcp)
    if b == NULL:
        return DROP_TCP_BACKLOG
    if not r.flags & RQ_TIMESTAMPS:
        r.flags = 0                                    # there is no place to keep what else was offered
        r.rcv_wscale = 0
        r.ecn = 0
    r.iss = cookie_isn(tcp, r)
    request_answer(tcp, r, b)
    if b.has_ts:
        b.tsval = cookie_timestamp(tcp, r)
    listener.listener.overflow_ns = tcp.now_ns if tcp.now_ns else 1
    tcp.counters.tcp_syncookies_sent += 1
    return DROP_NONE


cdef void request_answer(const tcp_t *tcp, const request_t *r, bare_t *out) noexcept nogil:
    cdef tcb_t *listener = r.listener
    memset(out, 0, sizeof(bare_t))
    out.src = r.local
    out.dst = r.remote
    out.sport = r.lport
    out.dport = r.rport
    out.seq = r.iss
    out.ack = r.irs + 1
    out.flags = <uint16_t> (SYN | ACK | ecn_request_flags(tcp, r))
    if out.flags & ACE_FLAGS and algorithm(listener).flags & CC_NEEDS_ECN:
        out.ecn = ECT_0                                # RFC 8257 section 3.5
    out.accecn = r.ecn == ECN_ACCURATE and tcp.config.ecn_option and r.sent == 0
    out.wnd = r.window
    out.interface = r.interface
    out.ttl = listener.ttl if address_is_v4(&r.remote) else listener.hops
    out.tos = listener.tos if address_is_v4(&r.remote) else listener.tclass
    out.mss = listener.settings.user_mss if listener.settings.user_mss and listener.settings.user_mss < r.mss else r.mss
    out.wscale = r.rcv_wscale if r.flags & RQ_WSCALE else 255
    out.sack_permitted = (r.flags & RQ_SACK) != 0
    out.has_ts = (r.flags & RQ_TIMESTAMPS) != 0
    out.tsval = timestamp_clock(tcp) + r.ts_offset
    out.tsecr = r.ts_recent
    out.fastopen_length = NO_FASTOPEN
    if r.flags & RQ_COOKIE_ASKED and r.sent == 0:
        out.fastopen_length = fast_open_cookie(listener, &r.local, &r.remote, out.fastopen)
        out.fastopen_experimental = (r.flags & RQ_EXPERIMENTAL) != 0


cdef void request_sent(tcp_t *tcp, request_t *r) noexcept nogil:
    """The timer starts anew with each SYN,ACK, as Linux has it."""
    list_remove(&tcp.requests_due, r)
    r.flags &= ~<uint8_t> RQ_DUE
    if r.sent == 0:
        r.sent_ns = tcp.now_ns
    else:
        tcp.counters.tcp_retransmits += 1
    if r.sent < 255:
        r.sent += 1
    start_timer(tcp, r)


# --- its timer --------------------------------------------------------------------------------------------------------

cdef void start_timer(tcp_t *tcp, request_t *r) noexcept nogil:
    cdef int64_t wait = <int64_t> RTO_FIRST_S << (r.retries if r.retries < REQUEST_LEVELS else REQUEST_LEVELS - 1)
    r.deadline_ns = tcp.now_ns + (wait if wait < RTO_MAX_S else RTO_MAX_S) * NS_PER_S
    list_append(list_of(tcp, r), r)


cdef int64_t requests_next(const tcp_t *tcp) noexcept nogil:
    cdef int64_t d = NEVER
    cdef int i
    if tcp.request_count == 0:
        return d
    for i in range(REQUEST_LEVELS):
        if tcp.requests[i].first != NULL and tcp.requests[i].first.deadline_ns < d:
            d = tcp.requests[i].first.deadline_ns
    return d


cdef void requests_fire(tcp_t *tcp, int64_t now_ns) noexcept nogil:
    cdef int i
    for i in range(REQUEST_LEVELS):
        while tcp.requests[i].first != NULL and tcp.requests[i].first.deadline_ns <= now_ns:
            on_request_timer(tcp, tcp.requests[i].first)


cdef uint32_t retry_limit(const tcp_t *tcp, const listener_t *l) noexcept nogil:
    """Half of the queue is for young ones: when it is more than half full, old ones are given up early, as Linux does."""
    cdef uint32_t retries = tcp.config.synack_retries, young = 2 * l.young
    if 2 * l.syn_count > queue_limit(l):
        while retries > 2 and l.syn_count >= young:
            retries -= 1
            young *= 2
            if young == 0:
                return 2 if retries > 2 else retries
    return retries


cdef void on_request_timer(tcp_t *tcp, request_t *r) noexcept nogil:
    """With TCP_DEFER_ACCEPT whoever has acknowledged is asked again only at the end of its time."""
    cdef tcb_t *listener = r.listener
    cdef uint8_t defer = listener.settings.defer_accept
    cdef bint acked = r.flags & RQ_ACKED != 0
    cdef bint expired = r.retries >= retry_limit(tcp, listener.listener), again = True
    if defer:
        expired = expired and (not acked or r.retries >= defer)
        again = not acked or r.retries >= defer - 1
    if expired:
        tcp.counters.tcp_attempt_fails += 1
        request_drop(tcp, r)
        return
    list_remove(list_of(tcp, r), r)
    if r.retries == 0:
        listener.listener.young -= 1
    if r.retries < 255:
        r.retries += 1
    if again:
        tcp.counters.tcp_timeouts += 1
        r.flags |= RQ_DUE
        list_append(&tcp.requests_due, r)
    else:
        start_timer(tcp, r)


# --- segments of a half-open connection -------------------------------------------------------------------------------

cdef bint may_answer(tcp_t *tcp, request_t *r) noexcept nogil:
    """So many answers a second to what is suspicious or repeated, per record, never globally (RFC 5961 section 7)."""
    if tcp.now_ns - r.challenge_ns >= NS_PER_S or r.challenge_ns == 0:
        r.challenge_ns = tcp.now_ns
        r.challenge_count = 0
    if r.challenge_count >= tcp.config.challenge_ack_limit or r.challenge_count == 255:
        return False
    r.challenge_count += 1
    return True


cdef void answer_ack(tcp_t *tcp, request_t *r) noexcept nogil:
    """<SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>."""
    cdef bare_t *b = new_bare(tcp)
    if b == NULL:
        return
    request_answer(tcp, r, b)
    b.seq = r.iss + 1
    b.flags = <uint16_t> (ACK | (ace_flags(ACE_START) if r.ecn == ECN_ACCURATE else 0))
    b.ecn = NOT_ECT
    b.wnd = <uint16_t> ((r.window + (1 << r.rcv_wscale) - 1) >> r.rcv_wscale)     # not less than the SYN,ACK offered


cdef void challenge(tcp_t *tcp, request_t *r) noexcept nogil:
    if may_answer(tcp, r):
        tcp.counters.tcp_challenge_acks += 1
        answer_ack(tcp, r)


cdef void answer_again(tcp_t *tcp, request_t *r) noexcept nogil:
    if r.flags & RQ_DUE or not may_answer(tcp, r):
        return
    list_remove(list_of(tcp, r), r)
    r.flags |= RQ_DUE
    list_append(&tcp.requests_due, r)


cdef DropReason request_arrives(tcp_t *tcp, request_t *r, segment_t *seg, tcb_t **child) noexcept nogil:
    """SYN-RECEIVED of 3.10.7.4, step by step, as far as no connection is needed for it."""
    cdef uint32_t rcv_nxt = r.irs + 1, edge = rcv_nxt + r.window
    cdef uint32_t length = seg.length + (1 if seg.flags & SYN else 0) + (1 if seg.flags & FIN else 0)
    cdef uint32_t end = seg.seq + length
    cdef bint acceptable
    if not segment_verify(tcp, seg):
        return DROP_TCP_CHECKSUM
    if r.flags & RQ_TIMESTAMPS and seg.has_ts and not seg.flags & RST and <int32_t> (seg.tsval - r.ts_recent) < 0:
        challenge(tcp, r)
        return DROP_TCP_PAWS
    if length == 0:
        acceptable = seq_ge(seg.seq, rcv_nxt) and seq_le(seg.seq, edge) and (
            not seg.flags & RST or r.window == 0 or seg.seq != edge)
    else:
        acceptable = seg.seq == rcv_nxt or (seq_gt(end, rcv_nxt) and seq_lt(seg.seq, edge))
    if seg.flags & SYN and seg.seq == r.irs and not seg.flags & RST:
        ecn_request_again(r, seg)
        answer_again(tcp, r)                           # the peer's SYN again: so is our answer; data on it is not looked at
        return DROP_TCP_DUPLICATE
    if not acceptable:
        if seg.flags & RST:
            return DROP_TCP_SEQUENCE
        challenge(tcp, r)
        return DROP_TCP_DUPLICATE if length and seq_le(end, rcv_nxt) and not seg.flags & SYN else DROP_TCP_SEQUENCE
    if seg.flags & RST:
        if seg.seq != rcv_nxt:
            challenge(tcp, r)
            return DROP_TCP_SEQUENCE
        tcp.counters.tcp_resets_in += 1
        tcp.counters.tcp_attempt_fails += 1
        request_drop(tcp, r)
        return DROP_NONE
    if seg.flags & SYN:
        challenge(tcp, r)
        return DROP_TCP_FLAGS
    if not seg.flags & ACK:
        return DROP_TCP_FLAGS
    if seg.ack != r.iss + 1 or r.sent == 0:
        queue_bare(tcp, seg, seg.ack, 0, RST)
        return DROP_TCP_ACK
    return handshake_over(tcp, r, seg, child)


cdef DropReason handshake_over(tcp_t *tcp, request_t *r, segment_t *seg, tcb_t **child) noexcept nogil:
    cdef tcb_t *listener = r.listener
    cdef request_t known = r[0]
    if r.retries < listener.settings.defer_accept and seg.length == 0 and not seg.flags & FIN:
        r.flags |= RQ_ACKED
        return DROP_TCP_DEFERRED
    if accept_full(listener.listener):
        tcp.counters.tcp_listen_overflows += 1
        if tcp.config.abort_on_overflow:
            queue_bare(tcp, seg, seg.ack, 0, RST)
            tcp.counters.tcp_attempt_fails += 1
            request_drop(tcp, r)
        else:
            r.flags |= RQ_ACKED
        return DROP_TCP_BACKLOG
    request_drop(tcp, r)                               # its place among the names is the connection's
    return become(&known, seg, child)


cdef DropReason become(const request_t *r, segment_t *seg, tcb_t **child) noexcept nogil:
    """The connection, which takes the segment that ends its handshake."""
    cdef tcb_t *listener = r.listener
    cdef tcp_t *tcp = listener.tcp
    cdef tcb_t *tcb = tcp.spawn(tcp.stack, r)
    cdef DropReason reason
    if tcb == NULL:
        return DROP_TCP_OUT_OF_MEMORY
    tcb.parent = listener
    connection_from_request(tcb, r)
    child[0] = tcb
    reason = synchronized_segment(tcb, seg)
    if tcb.state == SYN_RCVD:
        connection_abort(tcb, ECONNRESET, False)       # does not happen: the segment was looked at before
        child[0] = NULL
    return reason


# --- cookies ----------------------------------------------------------------------------------------------------------

cdef bint may_refuse(tcb_t *listener) noexcept nogil:
    cdef listener_t *l = listener.listener
    cdef tcp_t *tcp = listener.tcp
    if l.refused_ns == 0 or tcp.now_ns - l.refused_ns >= NS_PER_S:
        l.refused_ns = tcp.now_ns if tcp.now_ns else 1
        l.refused = 0
        l.refused_limit = REFUSALS + random_below(tcp, REFUSALS_MORE)
    l.refused += 1
    return l.refused <= l.refused_limit


cdef DropReason ack_for_listener(tcb_t *listener, segment_t *seg, tcb_t **child) noexcept nogil:
    """An acknowledgement of nothing we remember: a reset, unless it brings back a cookie that was given."""
    cdef tcp_t *tcp = listener.tcp
    cdef listener_t *l = listener.listener
    cdef request_t r
    cdef int verdict
    if seg.flags & SYN or not tcp.config.syncookies or l.overflow_ns == 0 or \
            tcp.now_ns - l.overflow_ns >= <int64_t> COOKIES_FOR_S * NS_PER_S:
        queue_bare(tcp, seg, seg.ack, 0, RST)
        return DROP_TCP_FLAGS
    verdict = cookie_check(tcp, seg, &r)
    if verdict == COOKIE_FAILED:
        tcp.counters.tcp_syncookies_failed += 1
        if may_refuse(listener):
            queue_bare(tcp, seg, seg.ack, 0, RST)
        return DROP_TCP_FLAGS
    tcp.counters.tcp_syncookies_received += 1
    if verdict == COOKIE_REFUSED:
        return DROP_TCP_FLAGS
    if accept_full(l):
        tcp.counters.tcp_listen_overflows += 1
        return DROP_TCP_BACKLOG
    r.listener = listener
    r.peer_window = <uint16_t> (seg.wnd if seg.wnd < 65535 else 65535)
    request_offer(&r)
    return become(&r, seg, child)


# --- the accept queue -------------------------------------------------------------------------------------------------

cdef void listener_forget(tcb_t *child) noexcept nogil:
    """A child leaves its listener."""
    cdef listener_t *listener
    if child.parent == NULL:
        return
    listener = child.parent.listener
    if child.flags & TF_IN_ACCEPT:
        child.flags &= ~TF_IN_ACCEPT
        listener.accept_count -= 1
        if child.sibling_back != NULL:
            child.sibling_back.sibling = child.sibling
        if child.sibling != NULL:
            child.sibling.sibling_back = child.sibling_back
        if listener.accept_first == child:
            listener.accept_first = child.sibling
        if listener.accept_last == child:
            listener.accept_last = child.sibling_back
    child.parent = NULL
    child.sibling = NULL
    child.sibling_back = NULL


cdef bint listener_adopt(tcb_t *child) noexcept nogil:
    cdef tcb_t *parent = child.parent
    cdef listener_t *listener
    if parent == NULL or child.flags & TF_IN_ACCEPT:
        return True                                    # by Fast Open it is there already, or even accepted
    listener = parent.listener
    if accept_full(listener):
        return False
    child.flags |= TF_IN_ACCEPT
    child.sibling = NULL
    child.sibling_back = listener.accept_last
    if listener.accept_last == NULL:
        listener.accept_first = child
    else:
        listener.accept_last.sibling = child
    listener.accept_last = child
    listener.accept_count += 1
    child.tcp.counters.tcp_passive_opens += 1
    sock_event(&child.tcp.events, &parent.sock, EVENT_IN)
    return True


cdef tcb_t *listener_accept(tcb_t *tcb) noexcept nogil:
    """The oldest connection in the queue, or NULL."""
    cdef tcb_t *child = tcb.listener.accept_first
    if child == NULL:
        return NULL
    listener_forget(child)
    child.flags |= TF_ACCEPTED
    child.sock.flags &= ~<uint8_t> SF_ORPHAN
    return child


cdef void listener_refuse(tcb_t *tcb, int error) noexcept nogil:
    """Children nobody accepted are reset. Handshakes not finished are forgotten, as Linux does: their last ACK meets a
    closed port."""
    cdef listener_t *listener = tcb.listener
    cdef tcb_t *child
    while listener.requests != NULL:
        tcb.tcp.counters.tcp_attempt_fails += 1
        request_drop(tcb.tcp, listener.requests)
    while listener.accept_first != NULL:
        child = listener.accept_first
        if child.state == CLOSED:                      # a Fast Open that was reset
            listener_forget(child)
            tcb.tcp.released(tcb.tcp.stack, child)
        else:
            connection_abort(child, error, True)


cdef void listener_discard(tcb_t *tcb) noexcept nogil:
    if tcb.listener == NULL:
        return
    while tcb.listener.requests != NULL:
        request_drop(tcb.tcp, tcb.listener.requests)
    fast_open_forget_resets(tcb.listener)
    free(tcb.listener)
    tcb.listener = NULL


cdef void listener_close(tcb_t *tcb) noexcept nogil:
    listener_refuse(tcb, ECONNRESET)
    listener_discard(tcb)
    leave(tcb)
