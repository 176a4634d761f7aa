"""The state of one TCP connection (RFC 9293 section 3.3.1), and what all connections of a stack share.

Names are the RFC's: ``snd_una``, ``rcv_nxt``, ... Times are nanoseconds of the stack's clock; 0 in a deadline means
"not running". Sequence numbers index both buffers directly (position = seq & (capacity - 1)), so neither needs an offset.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.counters cimport counters_t
from netstack.sock cimport event_list_t, sock_t

cdef enum:                       # tcb_t.state
    CLOSED = 0
    LISTEN = 1
    SYN_SENT = 2
    SYN_RCVD = 3
    ESTABLISHED = 4
    FIN_WAIT_1 = 5
    FIN_WAIT_2 = 6
    CLOSE_WAIT = 7
    CLOSING = 8
    LAST_ACK = 9
    TIME_WAIT = 10

cdef enum:                       # flags of a segment
    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80
    AE = 0x100                   # RFC 9768 section 3.1; was the nonce sum

cdef enum:                       # tcb_t.flags: what happened to this connection
    TF_ACK_NOW = 0x0001          # an acknowledgement is owed at once
    TF_TS_OK = 0x0002            # timestamps agreed (RFC 7323)
    TF_SACK_OK = 0x0004          # selective acknowledgements agreed (RFC 2018)
    TF_WS_OK = 0x0008            # window scale agreed
    TF_FIN_QUEUED = 0x0010       # the application will send no more: FIN follows the last byte of the send buffer
    TF_FIN_SENT = 0x0020         # it was sent at least once
    TF_FIN_RECEIVED = 0x0040     # the peer's FIN is in order: end of file
    TF_FIN_AHEAD = 0x0080        # the peer's FIN was seen beyond a gap, at fin_seq
    TF_SHUT_RD = 0x0100          # the application reads no more
    TF_TAIL_PROBE = 0x0200       # a tail loss probe is due
    TF_PRIOR_ACK = 0x0400        # ecn.prior_ack is to be acknowledged before anything else
    TF_OUTPUT = 0x0800           # in the output list
    TF_PASSIVE = 0x1000          # came from a listener
    TF_RTT_TIMING = 0x4000       # rtt_seq is being timed
    TF_PERSIST = 0x8000          # rtx_deadline is the persist timer
    TF_WANT_WRITE = 0x10000      # a writer was told "full": tell it when there is room
    TF_ACCEPTED = 0x20000        # handed to the application
    TF_IN_DEMUX = 0x40000
    TF_CORK = 0x80000
    TF_MORE = 0x100000           # the last write said MSG_MORE
    TF_NODELAY = 0x800000
    TF_LINGER = 0x1000000        # SO_LINGER is on
    TF_RTX_HEAD = 0x4000000      # send the segment at snd_una again, whatever cwnd says
    TF_PROBE = 0x8000000         # send a probe (persist or keepalive): an old sequence number, no data
    TF_IN_ACCEPT = 0x20000000    # in its listener's accept queue (else, with a parent, among the embryonic)
    TF_FORCE = 0x40000000        # send a small segment now: the override of silly window avoidance
    TF_SYN_SENT = 0x10000000     # our SYN (or SYN,ACK) was sent at least once

cdef enum:                       # tcb_t.modes
    TM_URGENT = 0x0001           # bytes up to snd_up are urgent (RFC 6093)
    TM_SNDBUF_SET = 0x0002       # the application chose SO_SNDBUF: no tuning
    TM_RCVBUF_SET = 0x0004       # SO_RCVBUF
    TM_ORPHAN = 0x0008           # counted in tcp_t.orphans
    TM_MORE_LAST = 0x0010        # the last write said MSG_MORE: the end of the buffer is no end of a message
    TM_FAST_OPEN = 0x0020        # passive Fast Open whose SYN,ACK is not acknowledged yet: data flows already
    TM_CC_CHOSEN = 0x0100        # TCP_CONGESTION was set here or at the listener: the stack's default does not matter
    TM_CC_ACTIVE = 0x0200        # cc_ops has begun: its state is there
    TM_PACED = 0x0400            # cc.pacing_rate is kept up to date

cdef enum:                       # IP's two bits (RFC 3168 section 5)
    NOT_ECT = 0
    ECT_1 = 1
    ECT_0 = 2
    CE = 3

cdef enum:                       # tcb_t.ecn_mode; TCP_INFO's numbers
    ECN_OFF = 0
    ECN_CLASSIC = 1              # RFC 3168
    ECN_ACCURATE = 2             # RFC 9768
    ECN_ASKED = 3                # our SYN asked for AccECN

cdef enum:                       # ecn_t.flags
    EF_SEEN = 0x01               # something came with an ECT codepoint or CE
    EF_ECHO = 0x02               # classic: ECE on everything, until CWR (or, RFC 8257, until CE ends)
    EF_QUEUE_CWR = 0x04          # classic: the next new data says CWR
    EF_REFLECT = 0x08            # AccECN: the next segment tells how the SYN,ACK came, in the handshake's encoding
    EF_OPTION_WITH_DSACK = 0x10  # the last acknowledgement told a duplicate and had the option
    EF_PRIOR_ECHO = 0x20         # what TF_PRIOR_ACK is to say: ECE
    EF_HEARD = 0x40              # the peer's first feedback after the handshake was looked at

cdef enum:                       # ecn_t.fail; TCP_INFO's bits
    ECN_FAIL_ACE_SEND = 1        # the network changes or drops our ACE field
    ECN_FAIL_ACE_RECEIVE = 2     # the peer's
    ECN_FAIL_OPTION_SEND = 4     # our option gets lost
    ECN_FAIL_OPTION_RECEIVE = 8  # the peer's is zeroed, or came too late

cdef enum:                       # ecn_t.option_seen; TCP_INFO's numbers
    OPTION_UNSEEN = 0
    OPTION_EMPTY = 1
    OPTION_COUNTERS = 2
    OPTION_FAILED = 3


cdef struct ecn_t:
    # Explicit Congestion Notification; see tcp/ecn. Codepoints are IP's, and counters of bytes are in their order less one.
    uint8_t flags                # EF_*
    uint8_t fail                 # ECN_FAIL_*
    uint8_t option_seen          # OPTION_*
    uint8_t syn_sent             # codepoint that our SYN or SYN,ACK left with
    uint8_t syn_received         # and that the peer's came with
    uint8_t last_received        # of the segment before
    uint8_t estimate             # of what the peer counts at present; 0: unclear
    uint8_t option_demand        # segments still to carry the option
    uint8_t option_least         # counters it needs for what has changed
    uint8_t ce_pending           # CE received since an ACE field was sent, at most 15
    uint32_t received_ce         # packets: r.cep (RFC 9768 section 3.2.1), from 0
    uint32_t delivered_ce        # packets of ours the peer got with CE: s.cep
    uint32_t received_bytes[3]   # payload: r.e1b, r.e0b, r.ceb
    uint32_t delivered_bytes[3]
    uint32_t acked_average       # segments an acknowledgement covers, smoothed, in 64ths; 0: none yet
    uint32_t prior_ack
    int64_t option_ns            # when the option was sent last

cdef enum:                       # tcb_t.fast_open
    FO_CONNECT = 0x01            # TCP_FASTOPEN_CONNECT: connect() waits for the first write
    FO_NO_COOKIE = 0x02          # TCP_FASTOPEN_NO_COOKIE
    FO_DEFERRED = 0x04           # connect() was called, the SYN waits for the first write
    FO_SYN = 0x08                # the next SYN carries the option, or data without it: the first one only
    FO_ASKED = 0x10              # the SYN asked for a cookie
    FO_EXPERIMENTAL = 0x20       # with the experimental option
    FO_SYN_DATA = 0x40           # the SYN carried data
    FO_ACKED = 0x80              # and the SYN,ACK acknowledged it; of a server's: it took the SYN's data
    FO_CHILD = 0x100             # of a server's, by Fast Open
    FO_TRIAL = 0x200             # after a black hole the first to try again: if data comes, it is over
    FO_SETTINGS = FO_CONNECT | FO_NO_COOKIE

cdef enum:                       # tcb_t.fast_open_fail: TCP_INFO's tcpi_fastopen_client_fail
    TFO_STATUS_UNSPEC = 0
    TFO_COOKIE_UNAVAILABLE = 1   # no cookie was there: none was given
    TFO_DATA_NOT_ACKED = 2
    TFO_SYN_RETRANSMITTED = 3

cdef enum:                       # request_t.flags
    RQ_TIMESTAMPS = 0x01
    RQ_SACK = 0x02
    RQ_WSCALE = 0x04
    RQ_ACKED = 0x08              # the third ACK came, and was not enough: TCP_DEFER_ACCEPT, or no room to accept
    RQ_COOKIE_ASKED = 0x10       # a Fast Open cookie is to be given
    RQ_EXPERIMENTAL = 0x20
    RQ_DUE = 0x40                # in the list of those whose SYN,ACK is to be sent

cdef enum:
    REQUEST_LEVELS = 8           # timeouts of 1 s << level, at most 120 s: the last serves all later ones

cdef enum:                       # of a listener's flags, those its connections begin with
    INHERITED_FLAGS = TF_NODELAY | TF_CORK | TF_LINGER

cdef enum:
    MAX_RANGES = 128             # out-of-order pieces held per connection
    MAX_BARE = 64                # segments of strangers answered in one pass; more are dropped
    SCRATCH_BYTES = 65536
    MAX_PATH_MTUS = 32
    MAX_RECORD_ENDS = 16         # marks of MSG_EOR in what is not yet sent
    MAX_FAST_OPEN_CACHE = 64     # servers whose cookies a client remembers; the one not used longest gives way


cdef struct range_t:
    uint32_t start
    uint32_t end


cdef enum:                       # recovery_t.state: Linux's names, TCP_INFO's numbers
    CA_OPEN = 0
    CA_DISORDER = 1              # something is selectively acknowledged, or duplicates came
    CA_CWR = 2                   # the window is being reduced, nothing is lost: ECN, or a loss that a probe found
    CA_RECOVERY = 3              # fast recovery
    CA_LOSS = 4                  # after a timeout

cdef enum:                       # sent_t.flags
    SENT_SACKED = 1
    SENT_LOST = 2
    SENT_AGAIN = 4               # a retransmission of it is in flight
    SENT_TWICE = 8               # it was ever retransmitted
    SENT_APP_LIMITED = 16
    SENT_SAMPLED = 32            # its delivery has been counted for the rate
    SENT_LISTED = 64             # in the order of sending

cdef enum:                       # recovery_t.timer: what rtx_deadline stands for
    TIMER_RTO = 0                # and persist
    TIMER_PROBE = 1              # tail loss probe (RFC 8985 section 7)
    TIMER_REORDER = 2            # the reordering window of RACK (RFC 8985 section 6.3)


cdef struct sent_t:
    # A segment in flight; times are of its last transmission.
    uint32_t start
    uint32_t end                 # a FIN counts
    int64_t sent_ns
    uint64_t delivered           # congestion_t.delivered then
    int64_t delivered_ns         # when that was reached
    int64_t first_sent_ns        # when the flight it was sent in began
    uint64_t lost                # recovery_t.lost_ever then; the record has 64 bytes
    uint32_t in_flight           # bytes, it included
    uint32_t earlier             # neighbours in the order of sending: places in the array
    uint32_t later               # of one selectively acknowledged: the number of a record up to which all are
    uint8_t flags                # SENT_*
    uint8_t tree                 # of tcp/places, not of this record


cdef struct history_t:
    # What a connection has learnt about its path: all that is left of recovery while nothing is in flight.
    uint32_t reordering          # segments a duplicate may be early by
    uint32_t reordering_seen
    uint32_t dsack_seen          # segments the peer says it got twice
    uint8_t rack_steps
    uint8_t rack_persist
    uint64_t lost_ever           # bytes
    uint64_t app_limited         # congestion_t.delivered up to which samples are limited by the application; 0: none
    uint64_t rack_delivered      # when the reordering window was last widened
    int64_t min_rtt_at_ns


cdef struct recovery_t:
    # What is in flight, what of it is believed to have left the network, and what is done about it (tcp/scoreboard,
    # tcp/recovery, tcp/rack).
    sent_t *sent                 # ring of records in the order of sequence numbers; NULL while nothing is in flight
    uint32_t sent_capacity       # power of two
    uint32_t sent_first          # place of the first is sent_first & (sent_capacity - 1)
    uint32_t sent_count
    uint32_t order_first         # order of sending: of all but the selectively acknowledged and the lost
    uint32_t order_last
    uint32_t sacked              # bytes; without SACK, what duplicates stand for
    uint32_t lost
    uint32_t again               # bytes of retransmissions in flight
    uint32_t sacked_out          # the same in segments
    uint32_t lost_out
    uint32_t again_out
    uint32_t waiting             # records lost and not sent again yet
    uint32_t rack_at             # last in the order of sending of those that RACK's newest arrival overtook
    uint32_t marked              # number (sent_first counts up) of the first record not judged by duplicates above it ...
    uint32_t marked_above        # ... and how many from there on are selectively acknowledged
    uint32_t highest_sack        # one past the highest byte selectively acknowledged
    uint32_t high_seq            # snd_nxt when the present state began: acknowledged, the state is over
    uint32_t undo_marker         # snd_una when the window was reduced
    int32_t undo_again           # retransmissions since that D-SACK has not shown to be needless; -1: none can tell
    uint32_t stamp               # timestamp of the first retransmission of the episode
    int64_t again_ns             # when that was; 0: none
    uint32_t prior_cwnd
    uint32_t prior_ssthresh      # 0: the reduction cannot be undone
    uint32_t prr_delivered
    uint32_t prr_out
    uint32_t probe_high          # snd_nxt when a tail loss probe went out
    uint32_t largest_flight      # bytes, in the window that ends at usage_seq
    uint32_t usage_seq
    int64_t rack_sent_ns         # of the segment sent last among those that have arrived
    int64_t rack_rtt_ns
    int64_t delivered_ns
    int64_t first_sent_ns
    uint32_t rack_end
    uint8_t rack_advanced
    uint8_t rack_dsack
    uint8_t state                # CA_*
    uint8_t timer                # TIMER_*
    uint8_t probing              # 1: a probe is out, 2: and it was a retransmission
    uint8_t frto
    uint8_t new_first            # F-RTO: new data goes before retransmissions
    uint8_t undo                 # undo_marker stands
    uint8_t cwnd_limited
    uint8_t tree_valid           # the tree in sent[] names those that wait
    recovery_t *spare            # next of those that wait to be used again


cdef enum:                       # congestion_ops_t.flags
    CC_OWNS_CWND = 1             # the algorithm sets cwnd in recovery too: no proportional rate reduction over it (BBR)
    CC_NEEDS_ECN = 2             # asks for ECN on the connection (DCTCP)
    CC_UNSAVED = 8               # extended holds pointers: a snapshot keeps only its size
    CC_ECHOES_CE = 16            # as a receiver it echoes each change of CE, not one CE until CWR (RFC 8257 section 3.2)
    CC_PACED = 4                 # sets pacing_rate itself; else the core derives it from cwnd and the round trip

cdef enum:
    CC_PRIVATE = 8               # words of state that an algorithm has in the connection itself


cdef struct congestion_t:
    # What an algorithm sees and steers. Windows are bytes, rates bytes per second, times nanoseconds.
    uint32_t cwnd
    uint32_t ssthresh
    uint32_t mss                 # payload of a full segment, options taken off
    uint32_t cwnd_clamp          # the most cwnd may be; the core enforces it
    uint64_t pacing_rate         # 0: not paced
    uint64_t delivered           # bytes that reached the peer so far, acknowledged or selectively; never goes back
    int64_t min_rtt_ns           # over the last minutes (RFC 8985 section 6.2 step 1); 0: no sample yet
    int64_t srtt_ns              # 0: no sample yet
    uint64_t private_state[CC_PRIVATE]
    void *extended               # of ops.extended_size bytes, zeroed before init; NULL when that is 0


cdef struct rate_sample_t:
    # What one acknowledgement, or one batch of them, tells (draft-ietf-ccwg-bbr section 4.1).
    int64_t now_ns
    int64_t rtt_ns               # of the newest segment it covers that was sent once; 0: none
    int64_t interval_ns          # over which `delivered` was delivered; 0: no valid sample
    uint64_t prior_delivered     # congestion_t.delivered when the newest segment it covers was sent
    uint32_t delivered           # bytes delivered in the interval: delivery rate = delivered / interval_ns
    uint32_t acked               # bytes newly delivered, when snd_una moved
    uint32_t sacked              # bytes newly acknowledged, selectively
    uint32_t lost                # bytes newly found lost
    uint32_t prior_in_flight     # bytes in flight before it
    uint32_t in_flight           # bytes in flight after it
    uint32_t ce_bytes            # bytes of them that met congestion (ECE with ECN, counted with AccECN)
    uint32_t tx_in_flight        # bytes in flight when the newest segment it covers was sent
    uint8_t app_limited          # the sender had less to send than it might when that segment left
    uint8_t cwnd_limited         # cwnd was what held the sender back in the window it ends (RFC 7661)
    uint8_t in_recovery          # fast recovery: the core regulates cwnd, unless CC_OWNS_CWND; not after a timeout
    uint8_t ece                  # it carries ECE


cdef struct congestion_ops_t:
    # An algorithm: functions over a congestion_t; any but init and on_ack may be NULL. in_flight: bytes when the event happened.
    const char *name
    uint32_t flags               # CC_*
    uint32_t extended_size       # bytes of state beyond private_state
    void (*init)(congestion_t *cc, int64_t now_ns) noexcept nogil
    void (*release)(congestion_t *cc) noexcept nogil           # before the connection ends or changes its algorithm
    void (*on_sent)(congestion_t *cc, uint32_t bytes, uint32_t in_flight, int64_t now_ns) noexcept nogil
    void (*on_ack)(congestion_t *cc, const rate_sample_t *rs) noexcept nogil
    void (*on_loss)(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil    # once per loss episode: sets ssthresh
    void (*on_rto)(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil     # first timeout of an episode
    void (*on_ecn)(congestion_t *cc, uint32_t in_flight, int64_t now_ns) noexcept nogil     # once per window with ECE; NULL: on_loss
    void (*on_recovered)(congestion_t *cc, int64_t now_ns) noexcept nogil                   # the episode is over
    void (*undo)(congestion_t *cc, int64_t now_ns) noexcept nogil    # the last reduction was spurious; NULL: the core restores cwnd and ssthresh
    void (*after_idle)(congestion_t *cc, int64_t idle_ns, int64_t rto_ns) noexcept nogil
    # for a snapshot: private_state and extended are copied as they are; load mends what does not survive a move
    void (*load)(congestion_t *cc, int64_t now_ns, int64_t shift_ns) noexcept nogil   # shift_ns: add to every time kept
    # TCP_CC_INFO: the algorithm's struct of linux/inet_diag.h, at most 20 bytes, zeroed before; how many
    uint32_t (*info)(const congestion_t *cc, uint8_t *out) noexcept nogil


cdef struct request_t:
    # A half-open connection: what has to be known of a SYN until its handshake is over (tcp/listener).
    address_t local
    address_t remote
    uint16_t lport
    uint16_t rport
    uint32_t hash
    uint32_t iss
    uint32_t irs
    uint32_t ts_recent
    uint32_t ts_offset
    uint16_t peer_mss            # what it said; 0: nothing
    uint16_t mss                 # what our SYN,ACK says
    uint16_t peer_window         # of the SYN, never scaled
    uint16_t window              # what our SYN,ACK says
    uint8_t flags                # RQ_*
    uint8_t snd_wscale
    uint8_t rcv_wscale
    uint8_t retries              # timeouts
    uint8_t sent                 # SYN,ACKs sent
    uint8_t interface            # by which the SYN came
    uint8_t ecn                  # ECN_*: what was agreed
    uint8_t ecn_syn              # IP's codepoint of the newest SYN
    uint8_t ecn_fail             # ECN_FAIL_*
    uint8_t challenge_count
    int64_t challenge_ns
    int64_t deadline_ns          # when the SYN,ACK is sent again; 0: it has not been sent yet
    int64_t sent_ns              # when it was sent first
    tcb_t *listener
    request_t *next              # of the listener
    request_t *back
    request_t *later             # in order of deadline, among those of the same level; or to be sent
    request_t *earlier


cdef struct request_list_t:
    request_t *first
    request_t *last


cdef struct listener_t:
    tcb_t *accept_first          # established, or by Fast Open, waiting for accept()
    tcb_t *accept_last
    request_t *requests          # not yet established
    uint32_t backlog
    uint32_t accept_count
    uint32_t syn_count
    uint32_t young               # requests whose SYN,ACK was sent once
    int64_t overflow_ns          # when a SYN was last answered by a cookie; 0: never
    int64_t refused_ns           # the second refused counts in: ACKs that bear no cookie and were answered by RST
    uint32_t refused
    uint32_t refused_limit
    uint8_t deferred             # SYNs are passed over: they come again, and by then another process may take them
    uint32_t fast_open_count     # children whose handshake is not over, and resets remembered
    uint32_t reset_count
    uint32_t reset_first
    int64_t *resets              # ring of fast_open_max: until when a Fast Open that was reset takes a place (RFC 7413 section 5.1)
    uint32_t reset_capacity


cdef struct counts_t:
    # What happened to a connection, for TCP_INFO; see accounting.pxd. bytes_sent and the like stand in the tcb_t.
    uint32_t segments_in
    uint32_t segments_out
    uint32_t data_segments_in
    uint32_t data_segments_out
    uint32_t largest_in          # payload of the largest segment received
    uint32_t segments_acked      # of ours, cumulatively
    uint32_t out_of_order        # segments received beyond a gap
    uint32_t timeouts
    uint32_t timeout_episodes    # runs of them
    uint8_t rate_app_limited
    uint8_t limited_by           # LIMIT_*
    uint64_t bytes_resent
    int64_t timeouts_ns          # spent in such runs; the current one not included
    int64_t limited_ns[3]        # busy, limited by the peer's window, by the send buffer; the current stretch not included
    uint64_t rate_delivered      # the last delivery rate that says what the path can do: bytes over
    int64_t rate_interval_ns


cdef struct records_t:
    # Where MSG_EOR ended what was not sent yet, ascending: tcp/records.
    uint32_t count
    uint32_t ends[MAX_RECORD_ENDS]


cdef struct settings_t:
    # What the application asked for, 0 everywhere if nothing: tcp/settings. Connections share them.
    uint32_t users               # connections that point here; 0: the stack's, never written
    uint16_t keepalive_idle_s    # 0: the stack's, as the next two
    uint16_t keepalive_interval_s
    uint8_t keepalive_count
    uint8_t defer_accept         # TCP_DEFER_ACCEPT, as timeouts of the SYN,ACK; 0: off
    uint8_t fast_open_key_count  # 0: the stack's keys
    uint16_t user_mss            # TCP_MAXSEG, 0: none
    uint32_t linger_s
    uint32_t user_timeout_ms
    int32_t linger2_ms           # TCP_LINGER2; 0: the stack's, -1: none
    uint32_t notsent_lowat       # TCP_NOTSENT_LOWAT: bytes not yet sent at which a writer waits; 0: none
    uint32_t window_clamp        # TCP_WINDOW_CLAMP: the most we advertise; 0: none
    uint32_t fast_open_max       # TCP_FASTOPEN: how many Fast Open children may wait for the end of their handshake
    uint64_t max_pacing_rate     # SO_MAX_PACING_RATE, bytes per second; 0: none
    uint64_t fast_open_keys[4]   # TCP_FASTOPEN_KEY, the backup key last


cdef struct tcb_t:
    sock_t sock                  # first: a tcb_t * is a sock_t *
    # --- read and written by every segment
    uint32_t flags               # TF_*
    uint8_t state
    uint8_t snd_wscale           # the peer's shift: its window field << snd_wscale
    uint8_t rcv_wscale           # ours
    uint8_t ecn_mode             # ECN_*
    uint32_t snd_una
    uint32_t snd_nxt             # one past the highest sequence number ever sent
    uint32_t rtx_nxt             # of a SYN: iss, it is to be sent (again); else snd_nxt
    uint32_t snd_wnd             # bytes, scaled
    uint32_t snd_wl1
    uint32_t snd_wl2
    uint32_t max_snd_wnd
    uint32_t rcv_nxt
    uint32_t rcv_adv             # right edge of the window last advertised; never moves left
    uint32_t rcv_acked           # the last acknowledgement number sent
    uint32_t rcv_read            # next byte for the application
    uint32_t ts_recent
    uint32_t mss                 # largest payload we send in a segment without options
    uint32_t snd_len             # bytes in the send buffer, from snd_una (SYN not counted)
    uint32_t ack_pending         # segments with data received since our last acknowledgement
    uint16_t predicted           # flags of the next expected segment, PSH aside: ACK, with AccECN the ACE field that says nothing new
    uint16_t modes               # TM_*
    uint8_t *snd_buf
    uint8_t *rcv_buf
    uint32_t snd_cap             # power of two, or 0
    uint32_t rcv_cap
    uint32_t snd_wanted          # high-water mark of how far the send buffer may grow: sndbuf
    uint32_t rcv_wanted          # rcvbuf: what the window is computed from
    congestion_t cc
    const congestion_ops_t *cc_ops
    uint32_t cc_peak             # cwnd may grow up to here without being paid for: it was there, lawfully
    uint32_t pace_left           # bytes of the burst that may still leave before pace_at_ns
    int64_t pace_at_ns           # what was sent is drained at cc.pacing_rate by then
    int64_t pace_deadline        # when a paced connection goes on; 0: it waits for nothing
    int64_t rtx_deadline         # RTO, or persist when TF_PERSIST
    int64_t ack_deadline         # delayed acknowledgement
    int64_t timer_deadline       # what the heap has for us: not later than the earliest of all
    uint32_t heap_index          # place in the heap plus 1; 0: not in it
    uint32_t flow_label          # of its IPv6 packets (RFC 6437)
    tcp_t *tcp
    tcb_t *output_next
    # --- identity
    address_t local
    address_t remote
    uint16_t lport
    uint16_t rport
    uint32_t hash
    # --- timing
    int64_t srtt_ns
    int64_t rttvar_ns
    int64_t rto_ns
    int64_t rtt_time_ns          # when the SYN, then when the last timeout sent: what left before is timed no more
    uint32_t rtt_seq
    uint32_t ts_offset
    int64_t ts_recent_ns         # when ts_recent was taken
    int64_t last_send_ns
    int64_t last_receive_ns
    int64_t state_deadline       # FIN-WAIT-2 of an orphan, linger, user timeout
    int64_t keepalive_deadline
    # --- recovery and out-of-order data
    uint32_t cc_prior_cwnd       # before the last reduction; 0: nothing to undo
    uint32_t cc_prior_ssthresh
    recovery_t *rec              # tcp_t.idle while nothing is in flight and nothing to be remembered
    history_t hist
    uint32_t snd_small           # end of the last segment sent that was not full: what Nagle waits for
    uint32_t iss
    uint32_t irs
    uint32_t fin_seq
    range_t *ranges              # sorted, disjoint, all above rcv_nxt
    uint16_t range_count
    uint16_t range_capacity
    uint8_t ooo_acks             # segments beyond a gap since rcv_nxt moved, at most 255
    uint8_t mtu_probing
    uint16_t fast_open           # FO_*
    uint16_t mss_clamp           # what both SYNs and our link allow
    uint32_t sack_recent[3]      # where the ranges that changed last are, the latest first (RFC 2018 section 4)
    range_t duplicate            # what came again and the next acknowledgement reports (D-SACK, RFC 2883); empty: nothing
    uint8_t retries              # consecutive timeouts, or probes
    uint8_t keepalive_probes
    uint8_t quickack             # segments still acknowledged at once
    uint8_t syn_retries
    uint8_t ttl                  # of IPv4 packets
    uint8_t hops                 # of IPv6 packets
    uint8_t tos                  # of IPv4 packets
    uint8_t tclass               # of IPv6 packets
    uint8_t route_interface      # where packets leave; 255: not looked up
    uint8_t fast_open_fail
    int32_t soft_error           # what ICMP said; reported when the connection times out (RFC 5927)
    uint32_t challenge_count
    uint32_t peer_mss            # from its SYN
    int64_t challenge_ns         # start of the interval it counts in
    ecn_t *ecn                   # tcp_t.no_ecn unless ECN was asked for or agreed
    # --- a thread's buffer, lent while it waits in recv_into
    uint8_t *lent
    uint32_t lent_size
    uint32_t lent_filled
    # --- settings
    settings_t *settings         # never NULL
    address_t next_hop
    uint32_t snd_up              # SND.UP: one past the last urgent byte
    uint32_t burst_seq           # where the run of segments that leave together begins; see PSH
    records_t *records           # NULL: no record ends in what is not sent yet
    uint32_t fast_open_parent    # sock_t.id of the listener that counts a TM_FAST_OPEN child
    # --- path MTU; sizes are of whole packets
    uint32_t pmtu                # what ICMP said; 0: nothing
    uint32_t mtu_low             # known to pass
    uint32_t mtu_high            # not known not to
    uint32_t mtu_probe_size      # of the probe in flight; 0: none
    uint32_t mtu_probe_start
    uint32_t mtu_probe_end
    int64_t mtu_probe_ns         # when the last one was sent
    int64_t pmtu_until_ns        # when pmtu is forgotten
    # --- tuning of the receive buffer to what the application takes in a round trip
    uint32_t tune_seq            # rcv_read when the interval began
    uint32_t tune_space          # bytes taken in the best interval so far
    uint32_t tune_tsecr          # the echo last measured
    int64_t tune_ns              # when the interval began
    int64_t rcv_rtt_ns           # round trip as the receiver sees it; 0: unknown
    # --- listening
    listener_t *listener         # of a LISTEN socket
    tcb_t *parent                # of a child not yet accepted
    tcb_t *sibling               # next child, or next in the accept queue
    tcb_t *sibling_back
    # --- counted
    uint64_t bytes_sent          # payload, first transmissions
    uint64_t bytes_received      # payload, in order
    uint64_t retransmits         # segments
    int64_t last_data_ns         # when payload came last
    int64_t last_ack_ns          # when an acceptable acknowledgement came last
    int64_t limited_since_ns
    int64_t timeouts_since_ns    # 0: no run of timeouts
    counts_t counts


cdef struct bare_t:
    # A segment without a connection (or of TIME-WAIT): no payload. With SYN: the answer to one, by a cookie.
    address_t src
    address_t dst
    uint16_t sport
    uint16_t dport
    uint32_t seq
    uint32_t ack
    uint32_t tsval
    uint32_t tsecr
    uint16_t wnd
    uint16_t flags
    uint8_t has_ts
    uint8_t interface
    uint8_t ecn                  # IP's codepoint
    uint8_t wscale               # 255: none; the rest only with SYN
    uint8_t sack_permitted
    uint8_t tos
    uint8_t ttl                  # 0: the default
    uint16_t mss                 # 0: none
    uint8_t accecn               # with the AccECN option
    uint8_t fastopen_length      # 255: none
    uint8_t fastopen_experimental
    uint8_t fastopen[16]


cdef struct timer_heap_t:
    tcb_t **items
    uint32_t count
    uint32_t capacity


cdef struct buffer_pool_t:
    # Buffers given back, by power of two: 4 KiB << i. A bounded stock, so that short silences cost no malloc.
    void *free[12]
    uint32_t bytes


cdef struct tcp_config_t:
    uint8_t timestamps
    uint8_t syncookies           # 0 never, 1 when the queue of half-open connections is full, 2 always
    uint8_t abort_on_overflow
    uint32_t max_syn_backlog
    uint32_t fastopen            # bits as Linux: 1 client, 2 server, 4 data without cookie, 0x200 and 0x400 for servers
    uint32_t fastopen_blackhole_timeout_s
    uint8_t sack
    uint8_t window_scaling
    uint8_t slow_start_after_idle
    uint8_t syn_retries
    uint8_t synack_retries
    uint8_t retries2
    uint8_t dsack
    uint8_t early_retrans        # 3, 4: tail loss probes
    uint8_t recovery             # bits: 1 RACK, 2 fixed reordering window, 4 no threshold of duplicates
    uint8_t frto
    uint8_t reordering
    uint32_t max_reordering
    uint8_t orphan_retries
    uint8_t quickack_segments
    uint8_t moderate_rcvbuf
    uint8_t mtu_probing          # 0 never, 1 after a black hole, 2 always
    uint8_t retries1             # R1: timeouts after which the path is doubted
    uint8_t cubic_hystart        # 0 off, 1 classic (Linux), 2 HyStart++
    uint8_t pacing               # every connection is paced: net.core.default_qdisc is fq
    uint8_t min_tso_segs         # segments that leave together before one says PSH, at least
    uint16_t pacing_ss_ratio     # percent of cwnd / srtt
    uint16_t pacing_ca_ratio
    uint8_t ecn                  # tcp_ecn: 0 to 5
    uint8_t ecn_fallback
    uint8_t ecn_option           # AccECN option: 0 never, 1 when it tells something, 2 always
    uint8_t ecn_option_beacon    # at least so often a round trip
    uint32_t base_mss
    uint32_t notsent_lowat
    uint32_t rmem_default
    uint32_t rmem_max
    uint32_t wmem_default
    uint32_t wmem_max
    uint32_t fin_timeout_ms
    uint32_t time_wait_ms
    uint32_t max_tw
    uint32_t max_orphans
    uint64_t mem_max             # bytes all buffers together may hold
    uint32_t challenge_ack_limit # per connection and second (RFC 5961 section 7)
    uint32_t min_snd_mss
    uint32_t initial_cwnd_segments
    uint32_t somaxconn
    uint32_t delayed_ack_ms
    uint32_t rto_min_ms
    uint32_t keepalive_time_s
    uint32_t keepalive_intvl_s
    uint32_t keepalive_probes
    uint32_t port_first
    uint32_t port_last


cdef struct path_mtu_t:
    # What a router said of the way to a host.
    address_t remote
    int64_t until_ns
    uint32_t mtu


cdef struct fast_open_cache_t:
    # What a server said to a client of ours, for the next SYN (RFC 7413 section 4.1.3).
    address_t local
    address_t remote
    int64_t used_ns
    int64_t lost_ns              # when a SYN with data was last lost
    uint16_t mss
    uint8_t lost                 # how many were, in a row
    uint8_t try_experimental     # 1, 2: how often the standard option found no answer
    uint8_t length               # 0: no cookie
    uint8_t experimental
    uint8_t cookie[16]


cdef struct fast_open_t:
    # Of a stack: keys of cookies given, cookies got, and whether the network eats SYNs with data.
    uint64_t keys[4]             # current, backup
    uint8_t key_count            # 0: made when first needed
    fast_open_cache_t *cache     # MAX_FAST_OPEN_CACHE of them; NULL: none yet
    uint32_t cache_count
    uint32_t blackholes          # in a row
    int64_t blackhole_ns         # when the last was found


cdef struct tcp_t:
    # What the connections of a stack share. The first member of stack_t.
    int64_t now_ns
    int64_t clock_shift_ns       # timestamps and ISNs go on from here after a restore at another time
    timer_heap_t timers
    tcb_t *output_first          # connections with something to send
    tcb_t *output_last
    event_list_t events
    counters_t counters
    buffer_pool_t pool
    tcp_config_t config
    const congestion_ops_t *congestion
    void *plugin_first           # connections with a report for Python: see congestion/plugin
    void *plugin_last
    uint8_t plugins_elsewhere    # another thread asks them (the driver's); else the stack's caller does at the end of its call
    uint64_t secret[2]           # SipHash key: hash tables, ISNs, ports, timestamp offsets
    uint64_t random[2]           # state of the generator
    uint32_t tcb_count
    recovery_t idle              # of connections with nothing in flight; never written
    settings_t defaults          # of connections that were asked for nothing; never written
    ecn_t no_ecn                 # of connections without it; never written
    recovery_t *spare
    uint32_t spare_count
    uint32_t orphans             # closed by the application, finishing alone
    uint64_t buffer_bytes        # in buffers of connections
    int64_t relieved_ns          # when memory was last looked for
    uint8_t ack_urgent           # an acknowledgement has to leave before the pass goes on: the next would hide what it says
    path_mtu_t path_mtus[MAX_PATH_MTUS]            # for connections to come; the oldest gives way
    uint32_t path_mtu_next
    uint8_t *scratch             # 64 KiB: private copy of a payload that is not simply next
    request_list_t requests[REQUEST_LEVELS]        # half-open connections, each list in the order of deadlines
    request_list_t requests_due                    # their SYN,ACKs leave at the end of the pass
    uint32_t request_count
    fast_open_t fast_open
    bare_t *bare                 # segments without a connection, to be sent at the end of the pass
    uint32_t bare_count
    uint32_t bare_capacity
    # what TCP asks of the stack it lives in
    void *stack
    void (*released)(void *stack, tcb_t *tcb) noexcept nogil       # the TCB has reached CLOSED for good; the stack frees it
    void (*to_time_wait)(void *stack, tcb_t *tcb) noexcept nogil   # a small record takes over
    tcb_t *(*spawn)(void *stack, const request_t *request) noexcept nogil    # a child with its names; NULL: no memory
    bint (*request_keep)(void *stack, request_t *request) noexcept nogil      # found by its names from here on; False: no memory
    void (*request_gone)(void *stack, request_t *request) noexcept nogil
    tcb_t *(*listener_of)(void *stack, const tcb_t *child) noexcept nogil      # to whom its SYN would go now, or NULL
    uint32_t (*link_mss)(void *stack, const address_t *dst, uint8_t interface) noexcept nogil   # the largest segment towards dst


cdef struct segment_t:
    # A received segment: fields from the private header copy, payload still in the link's memory.
    address_t src
    address_t dst
    uint16_t sport
    uint16_t dport
    uint32_t seq
    uint32_t ack
    uint32_t wnd                 # the field, not scaled
    uint32_t length              # payload bytes
    uint16_t flags
    uint8_t has_ts
    uint8_t wscale               # from a SYN: shift, 255: none
    uint8_t sack_permitted
    uint16_t mss                 # from a SYN: 0: none
    uint16_t urgent
    uint32_t tsval
    uint32_t tsecr
    uint32_t sack_count
    range_t sack[4]
    uint8_t ecn                  # IP's codepoint
    uint8_t newer                # its timestamp is newer than the last one remembered; kept with AccECN only
    uint8_t accecn_fields        # NO_ACCECN: no option
    uint8_t accecn_order
    uint32_t accecn[3]
    const uint8_t *payload
    uint32_t partial             # sum of pseudo header and TCP header: with the payload's it must fold to 0xffff
    uint8_t trusted              # the link vouches for the sum
    uint8_t interface            # index of the interface it came by
    uint8_t broadcast
    uint8_t fastopen_length      # from a SYN: 255: no Fast Open option, 0: a cookie is asked for
    uint8_t fastopen_experimental
    uint8_t fastopen[16]         # set only with a length



# Output list: connections that owe something.
cdef inline void want_output(tcb_t *tcb) noexcept nogil:
    cdef tcp_t *tcp = tcb.tcp
    if tcb.flags & TF_OUTPUT:
        return
    tcb.flags |= TF_OUTPUT
    tcb.output_next = NULL
    if tcp.output_last == NULL:
        tcp.output_first = tcb
    else:
        tcp.output_last.output_next = tcb
    tcp.output_last = tcb


cdef inline uint32_t receive_end(const tcb_t *tcb) noexcept nogil:
    """One past the last byte of data in order: the FIN takes a sequence number but is no byte."""
    return tcb.rcv_nxt - 1 if tcb.flags & TF_FIN_RECEIVED else tcb.rcv_nxt


cdef inline uint32_t data_end(const tcb_t *tcb) noexcept nogil:
    """Sequence number one past the last byte in the send buffer."""
    return tcb.snd_una + tcb.snd_len


cdef inline bint is_synchronized(const tcb_t *tcb) noexcept nogil:
    return tcb.state >= ESTABLISHED


cdef void tcb_init(tcb_t *tcb, tcp_t *tcp) noexcept nogil
cdef void tcb_clear(tcb_t *tcb) noexcept nogil            # buffers, timers, lists; not the struct
cdef void tcp_config_init(tcp_config_t *config) noexcept nogil
cdef uint32_t send_segment_limit(const tcb_t *tcb) noexcept nogil   # payload of a full segment, options taken off
