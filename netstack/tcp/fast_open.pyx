"""Both ends of RFC 7413, as Linux has them: cookies, their cache, and what is done when the network does not play along.

A cookie is SipHash-2-4 of both addresses under a key of the stack's or of the listener's; one made with the key before is
good too, and answered with a new one. A server's child stands in SYN-RECEIVED, is accepted, read and written there; its
SYN,ACK alone is sent again until it is acknowledged. `snd_una` is that of the data from the beginning, since the SYN is no
byte of the send buffer; `rtx_nxt` says whether the SYN,ACK is due. A client's SYN carries no more than the server's last
MSS less 40 bytes for options, the first one only: sent again it is an ordinary SYN.
"""

from libc.errno cimport ECONNRESET
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from netstack.address cimport address_equal, address_is_v4, address_v4
from netstack.clock cimport NS_PER_S
from netstack.siphash cimport siphash, siphash_2_4
from netstack.sock cimport EVENT_ERR, EVENT_HUP, EVENT_IN, EVENT_OUT, SF_ORPHAN, sock_event
from netstack.tcp.accounting cimport count_segment_in
from netstack.tcp.buffers cimport receive_reserve, receive_store, send_acknowledged
from netstack.tcp.congestion.controller cimport congestion_stop
from netstack.tcp.connection cimport connection_established, connection_from_request
from netstack.tcp.listener cimport listener_adopt
from netstack.tcp.scoreboard cimport (
    mark_lost, recovery_reserve, scoreboard_append, scoreboard_reserve,
)
from netstack.tcp.settings cimport settings_own
from netstack.tcp.tcb cimport (
    CLOSED, FO_ACKED, FO_ASKED, FO_CHILD, FO_EXPERIMENTAL, FO_NO_COOKIE, FO_SYN, FO_SYN_DATA, FO_TRIAL,
    MAX_FAST_OPEN_CACHE, RQ_COOKIE_ASKED, RQ_EXPERIMENTAL, SYN_RCVD, SYN_SENT, TFO_COOKIE_UNAVAILABLE, TFO_DATA_NOT_ACKED,
    TFO_SYN_RETRANSMITTED, TF_FIN_AHEAD, TF_PASSIVE, TF_SYN_SENT, TM_FAST_OPEN, sent_t, settings_t, want_output,
)
from netstack.tcp.timers cimport timer_remove
from netstack.wire.tcp cimport NO_FASTOPEN, tcp_options_length

cdef enum:
    COOKIE_BYTES = 8
    OPTIONS_MAX = 40             # RFC 9293 section 3.1: what a header has room for
    RESET_S = 60                 # how long a Fast Open that was reset takes a place
    SALT_FAST_OPEN = 10
    BLACKHOLE_DOUBLINGS = 6      # of the time without Fast Open

cdef enum:                       # what may be on a SYN
    NOTHING = 0
    ASK = 1                      # the option, empty
    COOKIE = 2                   # the option and data
    DATA = 3                     # data alone


# --- cookies ----------------------------------------------------------------------------------------------------------

cdef void fast_open_make_keys(tcp_t *tcp) noexcept nogil:
    cdef uint64_t words[1]
    if tcp.fast_open.key_count:
        return
    words[0] = <uint64_t> SALT_FAST_OPEN << 32
    tcp.fast_open.keys[0] = siphash(tcp.secret, words, 1)
    words[0] |= 1
    tcp.fast_open.keys[1] = siphash(tcp.secret, words, 1)
    tcp.fast_open.key_count = 1


cdef void make_cookie(const uint64_t *key, const address_t *local, const address_t *remote, uint8_t *out) noexcept nogil:
    """Over the client's address and ours, as they are on the wire."""
    cdef uint64_t words[4]
    cdef uint32_t both[2]
    cdef uint64_t cookie
    if address_is_v4(remote):
        both[0] = address_v4(remote)
        both[1] = address_v4(local)
        memcpy(words, both, 8)
        cookie = siphash_2_4(key, words, 1)
    else:
        memcpy(words, remote, 16)
        memcpy(words + 2, local, 16)
        cookie = siphash_2_4(key, words, 4)
    memcpy(out, &cookie, COOKIE_BYTES)


cdef const uint64_t *keys_of(tcb_t *listener, int *count) noexcept nogil:
    cdef tcp_t *tcp = listener.tcp
    if listener.settings.fast_open_key_count:
        count[0] = listener.settings.fast_open_key_count
        return listener.settings.fast_open_keys
    fast_open_make_keys(tcp)
    count[0] = tcp.fast_open.key_count
    return tcp.fast_open.keys


cdef uint8_t fast_open_cookie(tcb_t *listener, const address_t *local, const address_t *remote,
                              uint8_t *out) noexcept nogil:
    cdef int count
    make_cookie(keys_of(listener, &count), local, remote, out)
    return COOKIE_BYTES


cdef int which_key(const request_t *r, const segment_t *seg) noexcept nogil:
    """1 the current, 2 the backup, 0 none made this cookie. Equal in every byte, and in length."""
    cdef uint8_t cookie[COOKIE_BYTES]
    cdef int count, i
    cdef const uint64_t *keys = keys_of(r.listener, &count)
    if seg.fastopen_length != COOKIE_BYTES:
        return 0
    for i in range(count):
        make_cookie(keys + 2 * i, &r.local, &r.remote, cookie)
        if memcmp(cookie, seg.fastopen, COOKIE_BYTES) == 0:
            return i + 1
    return 0


# --- server -----------------------------------------------------------------------------------------------------------

cdef void fast_open_listen(tcb_t *listener) noexcept nogil:
    cdef tcp_t *tcp = listener.tcp
    cdef settings_t *settings
    if tcp.config.fastopen & TFO_SERVER and tcp.config.fastopen & TFO_SERVER_ALL and listener.settings.fast_open_max == 0:
        settings = settings_own(listener)
        if settings != NULL:
            settings.fast_open_max = listener.listener.backlog


cdef bint has_place(tcb_t *listener) noexcept nogil:
    """So many may wait for the end of their handshake; who was reset counts for a minute more, against a spoofer who has
    the owner of an address reset what he opens in its name (RFC 7413 section 5.1)."""
    cdef listener_t *l = listener.listener
    if listener.settings.fast_open_max == 0:
        return False
    if l.fast_open_count < listener.settings.fast_open_max:
        return True
    if l.reset_count == 0 or l.resets[l.reset_first] > listener.tcp.now_ns:
        listener.tcp.counters.tcp_fast_open_overflows += 1
        return False
    l.reset_first = (l.reset_first + 1) % l.reset_capacity
    l.reset_count -= 1
    l.fast_open_count -= 1
    return l.fast_open_count < listener.settings.fast_open_max


cdef void give_cookie(request_t *r, const segment_t *seg) noexcept nogil:
    r.flags |= RQ_COOKIE_ASKED
    if seg.fastopen_experimental:
        r.flags |= RQ_EXPERIMENTAL


cdef tcb_t *fast_open_server(request_t *r, const segment_t *seg) noexcept nogil:
    cdef tcb_t *listener = r.listener
    cdef tcp_t *tcp = listener.tcp
    cdef tcb_t *child
    cdef int key = 0
    cdef bint needs_cookie = not (tcp.config.fastopen & TFO_SERVER_NO_COOKIE or listener.fast_open & FO_NO_COOKIE)
    if seg.fastopen_length == 0:
        tcp.counters.tcp_fast_open_cookies_asked += 1
    if (seg.length == 0 and seg.fastopen_length == NO_FASTOPEN) or not has_place(listener):
        return NULL
    if needs_cookie:
        if seg.fastopen_length == NO_FASTOPEN:
            return NULL
        key = which_key(r, seg) if seg.fastopen_length else 0
        if key == 0:
            if seg.fastopen_length:
                tcp.counters.tcp_fast_open_passive_fail += 1
            give_cookie(r, seg)
            return NULL
    child = make_child(r, seg)
    if child == NULL:
        tcp.counters.tcp_fast_open_passive_fail += 1
        if needs_cookie:
            give_cookie(r, seg)
        return NULL
    tcp.counters.tcp_fast_open_passive += 1
    if key == 2:                                       # made with the key before: here is a new one
        child.fast_open |= FO_ASKED
        if seg.fastopen_experimental:
            child.fast_open |= FO_EXPERIMENTAL
    return child


cdef tcb_t *make_child(request_t *r, const segment_t *seg) noexcept nogil:
    """In the accept queue at once, with the SYN's data readable. NULL: no memory or no room; nothing has changed."""
    cdef tcb_t *listener = r.listener
    cdef tcp_t *tcp = listener.tcp
    cdef uint32_t n = seg.length if seg.length < r.window else r.window
    cdef tcb_t *child = tcp.spawn(tcp.stack, r)
    if child == NULL:
        return NULL
    connection_from_request(child, r)
    child.fast_open |= FO_CHILD
    if n:
        if receive_reserve(child, child.rcv_nxt + n) == 0:
            receive_store(child, child.rcv_nxt, seg.payload, n)
            child.fast_open |= FO_SYN_DATA | FO_ACKED
        else:
            n = 0
    child.rcv_nxt += n
    child.rcv_adv = child.rcv_nxt
    child.bytes_received = n
    tcp.counters.tcp_payload_in += n
    count_segment_in(child, n)
    child.snd_una = r.iss + 1
    child.snd_nxt = child.snd_una
    connection_established(child)
    child.state = SYN_RCVD
    child.rtx_nxt = r.iss
    child.flags &= ~TF_SYN_SENT
    child.modes |= TM_FAST_OPEN
    child.fast_open_parent = listener.sock.id
    listener.listener.fast_open_count += 1
    child.parent = listener
    listener_adopt(child)
    want_output(child)
    return child


cdef void fast_open_over(tcb_t *child, bint reset) noexcept nogil:
    cdef tcp_t *tcp = child.tcp
    cdef tcb_t *listener
    cdef listener_t *l
    if not child.modes & TM_FAST_OPEN:
        return
    child.modes &= ~TM_FAST_OPEN
    listener = tcp.listener_of(tcp.stack, child)
    if listener == NULL or listener.sock.id != child.fast_open_parent:
        return                                         # it is closed, and another may stand there
    l = listener.listener
    if reset and l.resets == NULL and listener.settings.fast_open_max:
        l.resets = <int64_t *> calloc(listener.settings.fast_open_max, sizeof(int64_t))
        l.reset_capacity = listener.settings.fast_open_max if l.resets != NULL else 0
    if reset and l.reset_count < l.reset_capacity:
        l.resets[(l.reset_first + l.reset_count) % l.reset_capacity] = tcp.now_ns + <int64_t> RESET_S * NS_PER_S
        l.reset_count += 1
    elif l.fast_open_count:
        l.fast_open_count -= 1


cdef void fast_open_reset(tcb_t *child) noexcept nogil:
    """It can still be accepted, what the SYN brought read, and then the reset is told, as Linux does."""
    cdef tcp_t *tcp = child.tcp
    cdef bint orphan = child.sock.flags & SF_ORPHAN
    fast_open_over(child, True)
    congestion_stop(child)
    child.state = CLOSED
    child.sock.error = ECONNRESET
    child.rtx_deadline = child.ack_deadline = child.pace_deadline = child.state_deadline = child.keepalive_deadline = 0
    timer_remove(child)
    child.sock.flags &= ~<uint8_t> SF_ORPHAN           # the accept queue holds it
    tcp.released(tcp.stack, child)
    tcp.counters.tcp_attempt_fails += 1
    if orphan:
        child.sock.flags |= SF_ORPHAN
    else:
        sock_event(&tcp.events, &child.sock, EVENT_IN | EVENT_OUT | EVENT_ERR | EVENT_HUP)


cdef void fast_open_forget_resets(listener_t *l) noexcept nogil:
    free(l.resets)
    l.resets = NULL
    l.reset_count = l.reset_capacity = l.reset_first = 0


# --- what a client remembers ------------------------------------------------------------------------------------------

cdef fast_open_cache_t *find(const tcp_t *tcp, const address_t *local, const address_t *remote) noexcept nogil:
    cdef uint32_t i
    for i in range(tcp.fast_open.cache_count):
        if address_equal(&tcp.fast_open.cache[i].remote, remote) and address_equal(&tcp.fast_open.cache[i].local, local):
            return &tcp.fast_open.cache[i]
    return NULL


cdef fast_open_cache_t *fast_open_remember(tcp_t *tcp, const address_t *local, const address_t *remote) noexcept nogil:
    """The entry of that server, a new one in place of the oldest if there is none. NULL: no memory."""
    cdef fast_open_cache_t *e = find(tcp, local, remote)
    cdef uint32_t i
    if e == NULL:
        if tcp.fast_open.cache == NULL:
            tcp.fast_open.cache = <fast_open_cache_t *> calloc(MAX_FAST_OPEN_CACHE, sizeof(fast_open_cache_t))
            if tcp.fast_open.cache == NULL:
                return NULL
        if tcp.fast_open.cache_count < MAX_FAST_OPEN_CACHE:
            e = &tcp.fast_open.cache[tcp.fast_open.cache_count]
            tcp.fast_open.cache_count += 1
        else:
            e = tcp.fast_open.cache
            for i in range(<uint32_t> MAX_FAST_OPEN_CACHE):
                if tcp.fast_open.cache[i].used_ns < e.used_ns:
                    e = &tcp.fast_open.cache[i]
        memset(e, 0, sizeof(fast_open_cache_t))
        e.local = local[0]
        e.remote = remote[0]
    e.used_ns = tcp.now_ns
    return e


# --- client -----------------------------------------------------------------------------------------------------------

cdef bint fast_open_blocked(const tcp_t *tcp) noexcept nogil:
    cdef uint32_t doublings
    if tcp.config.fastopen_blackhole_timeout_s == 0 or tcp.fast_open.blackholes == 0:
        return False
    doublings = tcp.fast_open.blackholes - 1 if tcp.fast_open.blackholes <= BLACKHOLE_DOUBLINGS else BLACKHOLE_DOUBLINGS
    return tcp.now_ns - tcp.fast_open.blackhole_ns < \
        (<int64_t> tcp.config.fastopen_blackhole_timeout_s << doublings) * NS_PER_S


cdef int allowed(tcb_t *tcb, fast_open_cache_t **entry) noexcept nogil:
    cdef tcp_t *tcp = tcb.tcp
    entry[0] = find(tcp, &tcb.local, &tcb.remote)
    if fast_open_blocked(tcp):
        return NOTHING
    if tcp.fast_open.blackholes and tcp.config.fastopen_blackhole_timeout_s:
        tcb.fast_open |= FO_TRIAL
    if tcp.config.fastopen & TFO_CLIENT_NO_COOKIE or tcb.fast_open & FO_NO_COOKIE:
        return DATA
    if entry[0] != NULL and entry[0].length:
        return COOKIE
    tcb.fast_open_fail = TFO_COOKIE_UNAVAILABLE
    return ASK


cdef bint fast_open_may_defer(tcb_t *tcb) noexcept nogil:
    cdef fast_open_cache_t *e
    return allowed(tcb, &e) >= COOKIE


cdef void fast_open_start(tcb_t *tcb) noexcept nogil:
    tcb.fast_open |= FO_SYN
    tcb.snd_una = tcb.iss + 1


cdef uint32_t fast_open_room(tcb_t *tcb) noexcept nogil:
    cdef fast_open_cache_t *e
    cdef uint32_t mss = tcb.mss
    if allowed(tcb, &e) < COOKIE:
        return 0
    if e != NULL and e.mss and e.mss < mss:
        mss = e.mss
    if tcb.settings.user_mss and tcb.settings.user_mss < mss:
        mss = tcb.settings.user_mss
    return mss - OPTIONS_MAX if mss > OPTIONS_MAX else 0


cdef void fast_open_syn(tcb_t *tcb, plan_t *plan) noexcept nogil:
    cdef fast_open_cache_t *e
    cdef int what = allowed(tcb, &e)
    cdef uint32_t room
    if what == ASK:
        plan.options.fastopen_length = 0
        plan.options.fastopen_experimental = e != NULL and e.try_experimental == 1
    elif what == COOKIE:
        plan.options.fastopen_length = e.length
        plan.options.fastopen_experimental = e.experimental
        memcpy(plan.options.fastopen, e.cookie, e.length)
    if tcp_options_length(&plan.options) > OPTIONS_MAX:
        plan.options.fastopen_length = NO_FASTOPEN
        return
    if what >= COOKIE:
        room = fast_open_room(tcb)
        plan.length = tcb.snd_len if tcb.snd_len < room else room


cdef void fast_open_syn_sent(tcb_t *tcb, const plan_t *plan) noexcept nogil:
    tcb.fast_open &= ~FO_SYN
    if plan.options.fastopen_length != NO_FASTOPEN:
        tcb.fast_open |= FO_ASKED
        if plan.options.fastopen_experimental:
            tcb.fast_open |= FO_EXPERIMENTAL
    if plan.length:
        tcb.fast_open |= FO_SYN_DATA
        tcb.bytes_sent += plan.length
        tcb.tcp.counters.tcp_payload_out += plan.length


cdef void learn(tcb_t *tcb, const segment_t *seg, bint data_left) noexcept nogil:
    """What the SYN,ACK says for the next time (RFC 7413 section 4.1.3.1)."""
    cdef tcp_t *tcp = tcb.tcp
    cdef fast_open_cache_t *e = fast_open_remember(tcp, &tcb.local, &tcb.remote)
    cdef uint8_t length = seg.fastopen_length if tcb.fast_open & FO_ASKED else NO_FASTOPEN, try_other = 0
    cdef bint lost = False
    if e == NULL:
        return
    if tcb.fast_open & FO_ASKED:
        if tcb.syn_retries:
            lost = length == NO_FASTOPEN and data_left
        elif length == NO_FASTOPEN and not tcb.fast_open & FO_SYN_DATA:
            try_other = 2 if tcb.fast_open & FO_EXPERIMENTAL else 1
    if seg.mss:
        e.mss = seg.mss
    if length != NO_FASTOPEN and length:
        e.length = length
        e.experimental = seg.fastopen_experimental
        memcpy(e.cookie, seg.fastopen, length)
    elif try_other > e.try_experimental and e.length == 0:
        e.try_experimental = try_other
    if lost:
        e.lost += 1 if e.lost < 255 else 0
        e.lost_ns = tcp.now_ns
    else:
        e.lost = 0


cdef bint fast_open_answered(tcb_t *tcb, const segment_t *seg) noexcept nogil:
    """Established, and `snd_una` still at the first byte: what the SYN,ACK acknowledges goes, the rest is sent again and
    nothing is said to the congestion control (RFC 7413 section 4.2.2)."""
    cdef uint32_t acked = seg.ack - tcb.snd_una, sent = tcb.snd_nxt - tcb.snd_una
    cdef sent_t *record
    learn(tcb, seg, acked < sent)
    if acked:
        send_acknowledged(tcb, acked)
        tcb.cc.delivered += acked
        tcb.snd_una = seg.ack
    if acked == sent:
        if tcb.fast_open & FO_SYN_DATA:
            tcb.fast_open |= FO_ACKED
            tcb.tcp.counters.tcp_fast_open_active += 1
        return True
    tcb.fast_open_fail = TFO_SYN_RETRANSMITTED if tcb.syn_retries else TFO_DATA_NOT_ACKED
    tcb.tcp.counters.tcp_fast_open_active_fail += 1
    if recovery_reserve(tcb) and scoreboard_reserve(tcb):
        record = scoreboard_append(tcb, tcb.snd_una, tcb.snd_nxt)
        mark_lost(tcb, record)
    want_output(tcb)
    return False


cdef void black_hole(tcp_t *tcp) noexcept nogil:
    if tcp.config.fastopen_blackhole_timeout_s == 0:
        return
    tcp.fast_open.blackholes += 1
    tcp.fast_open.blackhole_ns = tcp.now_ns
    tcp.counters.tcp_fast_open_blackholes += 1


cdef void fast_open_timeout(tcb_t *tcb, bint last) noexcept nogil:
    """The third timeout in a row, or the end, of a connection that was opened so: some box eats it. No Fast Open for a
    while, twice as long each time, for anybody of this stack (as Linux)."""
    if tcb.flags & TF_PASSIVE or not tcb.fast_open & (FO_ASKED | FO_SYN_DATA):
        return
    if tcb.retries == 2 or (tcb.retries < 2 and last):
        black_hole(tcb.tcp)


cdef void fast_open_ended(tcb_t *tcb) noexcept nogil:
    """A FIN beyond a gap and never any data: what the SYN began was eaten. Data on a connection made in trial: it was not."""
    if tcb.flags & TF_PASSIVE or not tcb.fast_open & FO_ASKED or tcb.state == SYN_SENT:
        return
    if tcb.counts.data_segments_in == 0:
        if tcb.flags & TF_FIN_AHEAD and tcb.range_count == 0:
            black_hole(tcb.tcp)
    elif tcb.fast_open & FO_TRIAL:
        tcb.tcp.fast_open.blackholes = 0
