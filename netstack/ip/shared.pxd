"""What the interfaces of one stack share: settings, secrets, limits of errors, numbers of datagrams."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t

cdef enum:
    IP_ID_COUNTERS = 64          # destinations fall into so many
    ICMP_LIMIT_PLACES = 256      # destinations whose errors are counted apart
    RESET_LIMIT_PLACES = 64      # destinations whose resets are


cdef struct ip_config_t:
    # Names as in Linux: net.ipv4.*
    uint8_t echo_ignore_all      # icmp_echo_ignore_all
    uint8_t echo_ignore_broadcasts
    uint8_t no_pmtu_disc         # ip_no_pmtu_disc: datagrams go without DF unless a socket asks for it
    uint8_t default_ttl
    uint32_t ratelimit_ms        # icmp_ratelimit: one error a destination in so long; 0: no limit
    uint32_t msgs_per_sec        # icmp_msgs_per_sec: of all errors
    uint32_t msgs_burst          # icmp_msgs_burst
    uint32_t max_memberships     # igmp_max_memberships: of one socket
    uint32_t max_msf             # igmp_max_msf: sources of one membership
    uint8_t igmp_version         # force_igmp_version: 0: as the querier speaks
    uint8_t acd                  # addresses are probed before they are used (RFC 5227)
    uint8_t ignore_redirects     # always: redirects are never followed


cdef struct icmp_limit_t:
    uint32_t tag                 # of the destination
    int64_t next_ns              # token bucket as virtual time


cdef struct ip_t:
    ip_config_t config
    uint64_t secret[2]
    uint64_t random[2]
    uint32_t id_counters[IP_ID_COUNTERS]
    int64_t icmp_next_ns         # bucket of all errors
    icmp_limit_t icmp_limits[ICMP_LIMIT_PLACES]
    int64_t reset_next_ns        # the same of segments that no socket wants and a RST answers
    icmp_limit_t reset_limits[RESET_LIMIT_PLACES]


cdef void ip_init(ip_t *ip, const uint8_t *secret, const uint8_t *random) noexcept nogil     # 16 bytes each
# Number of a datagram that may be cut up (RFC 7739, 6864): keyed, never used twice for a pair of hosts before all are.
cdef uint16_t ip_next_id(ip_t *ip, const address_t *src, const address_t *dst) noexcept nogil
cdef uint32_t ip_next_id6(ip_t *ip, const address_t *src, const address_t *dst) noexcept nogil
# May an error go to that host now? Limits per destination, and of all with a random part (CVE-2020-25705, CVE-2021-20322).
cdef bint icmp_may_send(ip_t *ip, const address_t *dst, int64_t now_ns) noexcept nogil
# May a RST answer a segment of that host that belongs to nothing here? 200 a second, 1000 to all (security row G5).
cdef bint reset_may_send(ip_t *ip, const address_t *dst, int64_t now_ns) noexcept nogil
