"""Groups an interface listens to, and sets of sources: what `igmp` and `mld` share."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t

cdef enum:
    IGMP_GROUPS = 256            # of one interface
    GROUP_SOURCES = 32           # of one group's filter; more are not told to routers, sockets filter by themselves

cdef enum:                       # record types of a report (RFC 3376 section 4.2.12, RFC 3810 section 5.2.12)
    IS_INCLUDE = 1
    IS_EXCLUDE = 2
    TO_INCLUDE = 3
    TO_EXCLUDE = 4
    ALLOW_NEW = 5
    BLOCK_OLD = 6


cdef struct source_set_t:
    uint32_t count
    address_t sources[GROUP_SOURCES]


cdef struct filter_t:
    # Which sources of a group are heard, and what routers are still to hear of that.
    uint8_t exclude              # all sources but those; else only those
    uint8_t mode_changed         # the report says the whole filter, not what changed in it
    source_set_t sources
    source_set_t allow           # changes to report
    source_set_t block
    source_set_t asked           # sources a query named; none: it was about all


cdef struct igmp_group_t:
    uint32_t be                  # as on the wire
    uint8_t left                 # nobody listens any more: only the report is missing
    uint8_t reports              # how often the change is still to be reported
    int64_t report_ns            # when
    int64_t answer_ns            # when a query about the group is answered; INT64_MAX: none
    filter_t filter


cdef struct igmp_t:
    igmp_group_t *groups
    uint32_t count
    uint32_t capacity
    int64_t general_ns           # when a general query is answered; INT64_MAX: none
    int64_t v1_until_ns          # a querier of that version is there until then (RFC 3376 section 7.2.1)
    int64_t v2_until_ns


cdef bint set_has(const source_set_t *s, const address_t *a) noexcept nogil
cdef void set_add(source_set_t *s, const address_t *a) noexcept nogil        # nothing when it is full
cdef void set_take(source_set_t *s, const address_t *a) noexcept nogil
# Make a filter another one and note what routers are to hear. False: it is that already.
cdef bint filter_change(filter_t *f, bint exclude, const source_set_t *sources) noexcept nogil
cdef void filter_reported(filter_t *f) noexcept nogil
# Of the sources a query named those that are heard (RFC 3376 section 5.2, RFC 3810 section 6.3); they count as answered.
cdef void filter_answer(filter_t *f, source_set_t *heard) noexcept nogil
