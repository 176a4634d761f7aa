"""IPv4 groups an interface listens to: only the structures; `igmp` is the protocol."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    IGMP_GROUPS = 256            # of one interface
    IGMP_SOURCES = 32            # of one group's filter; more are not told to routers, sockets filter by themselves


cdef struct source_set_t:
    uint32_t count
    uint32_t be[IGMP_SOURCES]


cdef struct igmp_group_t:
    uint32_t be                  # as on the wire
    uint8_t exclude              # all sources but those; else only those
    uint8_t left                 # nobody listens any more: only the report is missing
    uint8_t mode_changed         # the report says the whole filter, not what changed in it
    uint8_t reports              # how often the change is still to be reported
    int64_t report_ns            # when
    int64_t answer_ns            # when a query about the group is answered; INT64_MAX: none
    source_set_t sources
    source_set_t allow           # changes to report
    source_set_t block
    source_set_t asked           # sources a query named; none: it was about all


cdef struct igmp_t:
    igmp_group_t *groups
    uint32_t count
    uint32_t capacity
    int64_t general_ns           # when a general query is answered; INT64_MAX: none
    int64_t v1_until_ns          # a querier of that version is there until then (RFC 3376 section 7.2.1)
    int64_t v2_until_ns
