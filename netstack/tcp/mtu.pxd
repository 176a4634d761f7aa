"""How large a segment the path takes: what ICMP says (RFC 1191, RFC 5927) and what probes find out (RFC 4821, RFC 8899)."""

from libc.stdint cimport int64_t, uint32_t

from netstack.address cimport address_t
from netstack.tcp.tcb cimport tcb_t, tcp_t

cdef enum:
    MTU_FLOOR_V4 = 552           # bytes, as net.ipv4.route.min_pmtu (CVE-2004-1060: a forged report must not go below)
    MTU_FLOOR_V6 = 1280          # RFC 8200 section 5


cdef void mtu_start(tcb_t *tcb) noexcept nogil                       # tcb.mss is what both SYNs allow
cdef bint mtu_reported(tcb_t *tcb, uint32_t mtu, uint32_t seq) noexcept nogil    # "fragmentation needed"; True: believed
cdef uint32_t mtu_probe_limit(tcb_t *tcb, uint32_t limit, uint32_t available, uint32_t room) noexcept nogil
cdef void mtu_probe_sent(tcb_t *tcb, uint32_t start, uint32_t end) noexcept nogil
cdef void mtu_probe_arrived(tcb_t *tcb) noexcept nogil
cdef void mtu_probe_lost(tcb_t *tcb) noexcept nogil
cdef bint mtu_black_hole(tcb_t *tcb) noexcept nogil                  # several timeouts in a row; True: segments became smaller
cdef void mtu_refresh(tcb_t *tcb) noexcept nogil                     # what was believed may have grown old

# What is known of the paths to hosts, for all sockets of a stack: 0: nothing, or it has grown old.
cdef uint32_t path_mtu_recall(const tcp_t *tcp, const address_t *remote) noexcept nogil
cdef void path_mtu_learn(tcp_t *tcp, const address_t *remote, uint32_t mtu) noexcept nogil       # for ten minutes
