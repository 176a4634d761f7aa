"""What happened: drops by reason and protocol counts. Plain uint64 words, written only by the stack that owns them."""

from libc.stdint cimport uint64_t


cpdef enum DropReason:
    DROP_NONE = 0              # not dropped
    DROP_LINK_MALFORMED        # record or frame too short for its link header, or headers split over head and body
    DROP_LINK_TYPE             # an ethertype or link record we do not speak
    DROP_LINK_NOT_OURS         # Ethernet destination is neither us nor broadcast/multicast
    DROP_ARP_MALFORMED
    DROP_ARP_UNSOLICITED       # ARP reply nobody asked for
    DROP_ARP_ON_CHANNEL        # ARP on a medium that has none
    DROP_NEIGHBOR_QUEUE        # queue while resolving was full
    DROP_NEIGHBOR_UNREACHABLE  # resolution failed
    DROP_IP_VERSION
    DROP_IP_HEADER_LENGTH
    DROP_IP_TOTAL_LENGTH
    DROP_IP_CHECKSUM
    DROP_IP_OPTIONS            # source routes and malformed options
    DROP_IP_FRAGMENT           # fragments are refused
    DROP_IP_SOURCE             # martian source, or our own address from outside
    DROP_IP_DESTINATION        # not an address of this stack
    DROP_IP_PROTOCOL           # no such protocol here
    DROP_IP_NO_ROUTE
    DROP_IP_TTL
    DROP_ICMP_LENGTH
    DROP_ICMP_CHECKSUM
    DROP_ICMP_TYPE
    DROP_ICMP_EMBEDDED         # the embedded packet does not belong to anything of ours
    DROP_ICMP_RATE
    DROP_UDP_LENGTH
    DROP_UDP_CHECKSUM
    DROP_UDP_NO_PORT
    DROP_UDP_BUFFER_FULL
    DROP_TCP_LENGTH            # data offset below 5 or beyond the segment
    DROP_TCP_CHECKSUM
    DROP_TCP_NO_PORT           # no connection and no listener: answered by RST
    DROP_TCP_FLAGS             # a combination that no state accepts
    DROP_TCP_BACKLOG           # listen queue full
    DROP_TCP_SEQUENCE          # outside the window
    DROP_TCP_ACK               # acknowledgement outside what RFC 5961 section 5 allows
    DROP_TCP_PAWS              # timestamp older than the last (RFC 7323 section 5)
    DROP_TCP_DUPLICATE         # only data that was received before
    DROP_TCP_OUT_OF_MEMORY
    DROP_TCP_OOO_LIMIT         # out-of-order queue at its cap
    DROP_TCP_CLOSED            # data for a connection whose application closed
    DROP_TCP_DEFERRED          # a bare third segment while TCP_DEFER_ACCEPT waits for data
    DROP_NO_MEMORY
    DROP_TX_FULL               # a datagram that found the link full
    DROP_FRAGMENT_LENGTH       # empty, no multiple of 8, or beyond 65,535 bytes
    DROP_FRAGMENT_TINY         # the transport's header is cut (RFC 1858, 3128)
    DROP_FRAGMENT_OVERLAP      # of a datagram given up because its pieces overlap or contradict (RFC 5722)
    DROP_FRAGMENT_DUPLICATE    # an exact copy of one that is there
    DROP_FRAGMENT_TIMEOUT      # the rest of the datagram did not come
    DROP_FRAGMENT_LIMIT        # memory for fragments, or a source's share of it, is used up
    DROP_FRAGMENT_ECN          # ECN codepoints that one datagram cannot have
    DROP_RAW_FILTER            # no raw socket wants it, and nobody else takes it
    DROP_MULTICAST             # of a group, or a source in it, that nobody here asked for
    DROP_IGMP                  # malformed, or not from this link
    DROP_IP_EXTENSION          # IPv6 extension headers: malformed, too many, or of a kind that is refused
    DROP_ND_INVALID            # neighbour discovery that fails a check of RFC 4861
    DROP_ND_UNSOLICITED        # an advertisement nobody asked for
    DROP_ND_IGNORED            # router advertisements and redirects where they are not accepted
    DROP_ND_ON_CHANNEL         # neighbour discovery on a medium that has none
    DROP_MLD_INVALID           # multicast listener discovery that fails a check of RFC 3810
    DROP_UDPLITE_COVERAGE      # a checksum coverage that cannot be, or less than the socket asks for (RFC 3828)
    DROP_REASONS               # how many there are


cdef struct counters_t:
    uint64_t packets_in
    uint64_t packets_out
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t ip_delivered
    uint64_t ip_fragments_in      # pieces of datagrams
    uint64_t ip_fragments_used    # those that became part of a whole one
    uint64_t ip_fragment_steps    # looked at for them: datagrams of a source, pieces of a datagram
    uint64_t ip_reassembled       # datagrams made of pieces
    uint64_t ip_fragmented        # datagrams sent in pieces
    uint64_t ip_fragments_out
    uint64_t ip_pmtu_lowered      # reports about datagrams that were believed
    uint64_t icmp_in
    uint64_t icmp_out
    uint64_t icmp_errors_in       # that found the socket they concern
    uint64_t raw_in               # copies given to raw sockets
    uint64_t igmp_in
    uint64_t igmp_out
    uint64_t address_conflicts    # another station used an address of ours (RFC 5227)
    uint64_t arp_refused          # changes of a neighbour in use that nobody confirmed
    uint64_t udp_in
    uint64_t udp_out
    uint64_t udplite_in
    uint64_t udplite_out
    uint64_t tcp_segments_in
    uint64_t tcp_segments_out
    uint64_t tcp_payload_in       # bytes delivered in order
    uint64_t tcp_payload_out      # bytes sent for the first time
    uint64_t tcp_retransmits      # segments sent again
    uint64_t tcp_timeouts         # RTO expiries
    uint64_t tcp_fast_retransmits
    uint64_t tcp_tail_probes      # RFC 8985 section 7
    uint64_t tcp_undos            # reductions of the window taken back
    uint64_t tcp_sack_steps       # records looked at for them
    uint64_t tcp_recovery_steps   # ... by recovery: for what is lost, for what to send again, for taking a reduction back
    uint64_t tcp_sack_invalid     # blocks outside of what is in flight
    uint64_t tcp_fast_path        # segments taken by header prediction
    uint64_t tcp_out_of_order
    uint64_t tcp_resets_in
    uint64_t tcp_resets_out
    uint64_t tcp_challenge_acks
    uint64_t tcp_active_opens
    uint64_t tcp_passive_opens
    uint64_t tcp_attempt_fails
    uint64_t tcp_established_resets
    uint64_t tcp_time_wait
    uint64_t tcp_pmtu_lowered         # reports of too large packets that were believed
    uint64_t tcp_memory_aborts        # connections ended because memory was short
    uint64_t tcp_mtu_probes
    uint64_t tcp_mtu_probes_arrived
    uint64_t congestion_clamped       # decisions of an algorithm that the core did not let stand
    uint64_t congestion_fallbacks     # connections that went on with the default: unknown after a restore, or a plug-in failed
    uint64_t tcp_syncookies_sent          # SYNs answered by a cookie
    uint64_t tcp_syncookies_received      # acknowledgements that brought one back
    uint64_t tcp_syncookies_failed        # that brought something else while cookies were out
    uint64_t tcp_listen_overflows         # SYNs and third segments that found the accept queue full
    uint64_t tcp_fast_open_active         # our SYN's data was acknowledged
    uint64_t tcp_fast_open_active_fail    # it was not, and was sent again
    uint64_t tcp_fast_open_passive        # children made by a SYN with data
    uint64_t tcp_fast_open_passive_fail   # cookies that were not ours
    uint64_t tcp_fast_open_cookies_asked
    uint64_t tcp_fast_open_overflows      # Fast Open that found too many waiting for the end of their handshake
    uint64_t tcp_fast_open_blackholes     # connections that gave reason to stop Fast Open for a while
    uint64_t ip6_extension_headers    # walked
    uint64_t nd_conflicts             # addresses of ours that another station had (RFC 4862 section 5.4)
    uint64_t drops[64]            # by DropReason


cdef inline DropReason drop(counters_t *c, DropReason reason) noexcept nogil:
    """Count a drop and return its reason, so that callers can write ``return drop(...)``."""
    c.drops[<int> reason] += 1
    return reason


cdef dict counters_as_dict(const counters_t *c)
