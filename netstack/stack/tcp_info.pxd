"""What TCP_INFO, TCP_CC_INFO and SO_MEMINFO say: Linux's layouts, true values."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.sock cimport sock_t
from netstack.stack.core cimport stack_t
from netstack.tcp.tcb cimport tcb_t

cdef enum:
    TCP_INFO_BYTES = 280
    CC_INFO_BYTES = 20           # the largest of union tcp_cc_info (linux/inet_diag.h)
    MEMINFO_WORDS = 9            # SK_MEMINFO_* (linux/sock_diag.h)


cdef struct tcp_info_t:
    # struct tcp_info of linux/tcp.h: names without tcpi_, times in microseconds or, where last_, milliseconds; windows and
    # counts of the scoreboard in segments; bit fields as the bytes they share.
    uint8_t state                # include/net/tcp_states.h
    uint8_t ca_state             # TCP_CA_*
    uint8_t retransmits
    uint8_t probes
    uint8_t backoff
    uint8_t options              # TCPI_OPT_*
    uint8_t wscale               # snd_wscale: 4, rcv_wscale: 4
    uint8_t rate_flags           # delivery_rate_app_limited: 1, fastopen_client_fail: 2
    uint32_t rto
    uint32_t ato
    uint32_t snd_mss
    uint32_t rcv_mss
    uint32_t unacked
    uint32_t sacked
    uint32_t lost
    uint32_t retrans
    uint32_t fackets
    uint32_t last_data_sent
    uint32_t last_ack_sent
    uint32_t last_data_recv
    uint32_t last_ack_recv
    uint32_t pmtu
    uint32_t rcv_ssthresh
    uint32_t rtt
    uint32_t rttvar
    uint32_t snd_ssthresh
    uint32_t snd_cwnd
    uint32_t advmss
    uint32_t reordering
    uint32_t rcv_rtt
    uint32_t rcv_space
    uint32_t total_retrans
    uint64_t pacing_rate
    uint64_t max_pacing_rate
    uint64_t bytes_acked
    uint64_t bytes_received
    uint32_t segs_out
    uint32_t segs_in
    uint32_t notsent_bytes
    uint32_t min_rtt
    uint32_t data_segs_in
    uint32_t data_segs_out
    uint64_t delivery_rate
    uint64_t busy_time
    uint64_t rwnd_limited
    uint64_t sndbuf_limited
    uint32_t delivered
    uint32_t delivered_ce
    uint64_t bytes_sent
    uint64_t bytes_retrans
    uint32_t dsack_dups
    uint32_t reord_seen
    uint32_t rcv_ooopack
    uint32_t snd_wnd
    uint32_t rcv_wnd
    uint32_t rehash
    uint16_t total_rto
    uint16_t total_rto_recoveries
    uint32_t total_rto_time      # milliseconds
    uint32_t received_ce
    uint32_t delivered_e1_bytes
    uint32_t delivered_e0_bytes
    uint32_t delivered_ce_bytes
    uint32_t received_e1_bytes
    uint32_t received_e0_bytes
    uint32_t received_ce_bytes
    uint32_t ecn_flags           # ecn_mode: 2, accecn_opt_seen: 2, accecn_fail_mode: 4, options2: 24


cdef uint8_t linux_state(uint8_t state) noexcept nogil   # numbers of include/net/tcp_states.h
cdef uint8_t ca_state(const tcb_t *tcb) noexcept nogil    # TCP_CA_*
cdef void tcp_info_fill(const stack_t *stack, const tcb_t *tcb, tcp_info_t *info) noexcept nogil
cdef uint32_t cc_info_fill(const tcb_t *tcb, uint8_t *out) noexcept nogil        # bytes of CC_INFO_BYTES; 0: nothing to say
cdef void meminfo_fill(const sock_t *sock, uint32_t *words) noexcept nogil
