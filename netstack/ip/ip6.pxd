"""What an interface knows of IPv6 beyond its addresses: addresses on trial, lifetimes, routers, prefixes, groups, timers.

Only the structures. `autoconf` makes and tries addresses (RFC 4862), `discovery` keeps routers and prefixes (RFC 4861),
`mld` the multicast groups (RFC 3810). On an Ethernet interface it is made with the first IPv6 address, or when router
advertisements are to be heard; on IP media only for groups that were joined, and no protocol runs there.
"""

from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.ip.groups cimport filter_t

cdef enum:
    IP6_ADDRESSES = 16           # as many as an interface has, and on trial
    IP6_ROUTERS = 8
    IP6_PREFIXES = 16            # on-link prefixes
    IP6_SERVERS = 8              # name servers (RFC 8106)
    IP6_DOMAINS = 6              # search domains
    IP6_DOMAIN_MAX = 255         # bytes of one, as on the wire (RFC 1035 section 3.1)
    IP6_REDIRECTS = 32           # routes to single hosts made by redirects: the oldest gives way
    IP6_GROUPS = 64              # multicast groups of one interface
    IP6_NONCE = 6                # bytes (RFC 3971 section 5.3.2)

cdef enum:                       # held_t.origin
    ORIGIN_CONFIGURED = 0
    ORIGIN_LINK_LOCAL = 1        # made by us, fe80::/64
    ORIGIN_SLAAC = 2             # made from an advertised prefix


cdef struct ip6_conf_t:
    # Settings, by Linux's names.
    uint8_t accept_dad
    uint8_t dad_transmits
    uint8_t accept_ra            # 0: router advertisements are ignored (security row G4)
    uint8_t accept_ra_defrtr
    uint8_t accept_ra_pinfo
    uint8_t accept_ra_mtu
    uint8_t autoconf
    uint8_t accept_redirects
    uint8_t echo_ignore_multicast    # net.ipv6.icmp.echo_ignore_multicast
    uint8_t has_stable_secret
    uint8_t echo_ignore_all      # net.ipv6.icmp.echo_ignore_all
    uint64_t stable_secret[2]    # of RFC 7217; without one: made from the stack's secret


cdef struct held_t:
    # One of the interface's IPv6 addresses, or one on trial.
    address_t address
    uint8_t prefix_length
    uint8_t origin
    uint8_t attempt              # DAD_Counter of RFC 7217
    uint8_t probes               # solicitations sent, of an address on trial
    uint8_t nonce[IP6_NONCE]     # of the last of them (RFC 7527)
    int64_t deadline_ns          # when the next is due, or the trial is over; 0: it has not begun
    int64_t preferred_until_ns   # INT64_MAX: for ever
    int64_t valid_until_ns


cdef struct router_t:
    address_t address            # link-local
    int64_t until_ns
    int8_t preference            # -1, 0, 1 (RFC 4191 section 2.1)


cdef struct prefix_t:
    # On link, and so reached without a router.
    address_t prefix
    int64_t until_ns
    uint8_t length


cdef struct server_t:
    address_t address
    int64_t until_ns


cdef struct domain_t:
    int64_t until_ns
    uint8_t length
    uint8_t name[IP6_DOMAIN_MAX]     # labels, the root's included


cdef struct group_t:
    address_t address
    int64_t report_ns            # when a change is reported (again); INT64_MAX: nothing to report
    int64_t answer_ns            # when a query is answered; INT64_MAX: none
    filter_t *filter             # made with the group
    uint32_t users               # addresses of ours that need it, from every source
    uint8_t wanted               # by sockets
    uint8_t reports              # of the change, still to be sent
    uint8_t left                 # nobody listens any more: only the reports are missing


cdef struct ip6_t:
    int64_t next_deadline_ns
    held_t held[IP6_ADDRESSES]   # lifetimes of the interface's IPv6 addresses, in no order
    held_t trial[IP6_ADDRESSES]
    router_t routers[IP6_ROUTERS]
    prefix_t prefixes[IP6_PREFIXES]
    server_t servers[IP6_SERVERS]
    domain_t domains[IP6_DOMAINS]
    group_t groups[IP6_GROUPS]
    address_t redirects[IP6_REDIRECTS]   # destinations; ::: a free place
    uint32_t redirect_next       # place of the next, modulo their number
    uint32_t held_count
    uint32_t trial_count
    uint32_t router_count
    uint32_t prefix_count
    uint32_t server_count
    uint32_t domain_count
    uint32_t group_count
    address_t default_router     # whose route is in the table; ::: none
    int64_t retrans_ns           # between solicitations
    int64_t reachable_ns         # a neighbour stays so; random around base_reachable_ms (RFC 4861 section 6.3.2)
    int64_t reachable_again_ns   # when that is chosen anew
    int64_t solicit_ns           # when a router is asked for; INT64_MAX: not
    int64_t solicit_wait_ns      # between two such questions (RFC 7559)
    int64_t general_ns           # when a general multicast query is answered; INT64_MAX: none
    int64_t old_querier_until_ns # a querier of MLD version 1 is there until then (RFC 3810 section 8)
    uint32_t base_reachable_ms
    uint32_t router_mtu          # 0: none advertised
    uint8_t hop_limit            # advertised, 0: none
    uint8_t other_config         # the latest advertisement says that DHCPv6 knows more (RFC 4861 section 4.2, M or O)
    uint8_t running              # neighbour discovery runs: an Ethernet link
    uint8_t started              # the link-local address is there or on trial
    uint8_t look_again           # a neighbour failed, a router came or went: choose the default router again
