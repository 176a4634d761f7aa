"""Life of a TCB: made CLOSED, cleared when it reaches CLOSED for good."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

from netstack.sock cimport SOCK_TCP
from netstack.tcp.buffers cimport buffers_free
from netstack.tcp.congestion.controller cimport congestion_stop
from netstack.tcp.records cimport records_clear
from netstack.tcp.scoreboard cimport recovery_release
from netstack.tcp.settings cimport settings_release
from netstack.tcp.timers cimport timer_remove


cdef void tcp_config_init(tcp_config_t *config) noexcept nogil:
    """Defaults, Linux's where Linux has the knob."""
    memset(config, 0, sizeof(tcp_config_t))
    config.timestamps = 1
    config.sack = 1
    config.window_scaling = 1
    config.syncookies = 1
    config.max_syn_backlog = 4096          # Linux takes it from its memory
    config.slow_start_after_idle = 1
    config.syn_retries = 6
    config.synack_retries = 5
    config.retries2 = 15                   # R2 of RFC 9293 section 3.8.3, at least 100 s
    config.orphan_retries = 8
    config.quickack_segments = 16
    config.moderate_rcvbuf = 1
    config.mtu_probing = 0
    config.base_mss = 1024
    config.cubic_hystart = 2               # RFC 9406
    config.min_tso_segs = 2
    config.pacing_ss_ratio = 200
    config.pacing_ca_ratio = 120
    config.retries1 = 3
    config.dsack = 1
    config.early_retrans = 3
    config.recovery = 1
    config.frto = 2
    config.reordering = 3                  # RFC 5681 section 3.2's three duplicates
    config.max_reordering = 300
    config.ecn = 2                         # answer, do not ask
    config.ecn_fallback = 1
    config.ecn_option = 2
    config.ecn_option_beacon = 3
    config.rmem_default = 1 << 20          # bytes
    config.rmem_max = 6 << 20
    config.wmem_default = 1 << 20
    config.wmem_max = 4 << 20
    config.fin_timeout_ms = 60000
    config.time_wait_ms = 60000            # as Linux; RFC 9293 section 3.4.2 says 2 MSL, MSL 2 minutes
    config.max_tw = 65536
    config.max_orphans = 16384
    config.mem_max = 1 << 30
    config.challenge_ack_limit = 10        # RFC 5961 section 7, per connection
    config.min_snd_mss = 216               # FreeBSD's; Linux's 48 still lets a peer make us send 40 times the headers (CVE-2019-11479)
    config.initial_cwnd_segments = 10      # RFC 6928
    config.somaxconn = 4096
    config.delayed_ack_ms = 40             # RFC 9293 section 3.8.6.3 allows 500
    config.rto_min_ms = 200                # RFC 6298 section 2.4 says 1 s; 200 ms as Linux
    config.keepalive_time_s = 7200
    config.keepalive_intvl_s = 75
    config.keepalive_probes = 9
    config.port_first = 10240
    config.port_last = 65535


cdef void tcb_init(tcb_t *tcb, tcp_t *tcp) noexcept nogil:
    """A CLOSED connection with the stack's defaults. The caller gives it its place in the table of sockets."""
    memset(tcb, 0, sizeof(tcb_t))
    tcb.sock.kind = SOCK_TCP
    tcb.tcp = tcp
    tcb.state = CLOSED
    tcb.predicted = ACK
    tcb.ttl = tcb.hops = 64
    tcb.snd_wanted = tcp.config.wmem_default
    tcb.rcv_wanted = tcp.config.rmem_default
    tcb.cc_ops = tcp.congestion
    tcb.rto_ns = 1000000000
    tcb.mss = 536                          # RFC 9293 section 3.7.1, until the SYN says more
    tcb.quickack = tcp.config.quickack_segments
    tcb.route_interface = 255
    tcb.rec = &tcp.idle
    tcb.settings = &tcp.defaults
    tcb.ecn = &tcp.no_ecn
    tcb.hist.reordering = tcp.config.reordering
    tcb.hist.rack_steps = 1
    tcp.tcb_count += 1


cdef void tcb_clear(tcb_t *tcb) noexcept nogil:
    """Give back everything the connection holds; lists it may still be in are the caller's to leave."""
    cdef tcp_t *tcp = tcb.tcp
    congestion_stop(tcb)
    timer_remove(tcb)
    recovery_release(tcb)
    buffers_free(tcb)
    if tcb.ecn != &tcp.no_ecn:
        free(tcb.ecn)
        tcb.ecn = &tcp.no_ecn
    records_clear(tcb)
    settings_release(tcb)
    tcb.rtx_deadline = 0
    tcb.ack_deadline = 0
    tcb.state_deadline = 0
    tcb.keepalive_deadline = 0
    tcb.lent = NULL


cdef uint32_t send_segment_limit(const tcb_t *tcb) noexcept nogil:
    """Payload bytes of a full segment: the MSS less the options every segment carries (RFC 6691)."""
    return tcb.mss - 12 if tcb.flags & TF_TS_OK else tcb.mss
