"""IPv4 addresses on trial, as an interface holds them: only the structures; `acd` is the protocol."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t

cdef enum:
    TRIALS = 8                   # of one interface at a time

cdef enum:                       # trial_t.state
    TRIAL_PROBING = 1            # asked whether somebody has it
    TRIAL_ANNOUNCING = 2         # ours; said so once already
    TRIAL_CONFLICT = 3           # somebody has it: never taken
    TRIAL_DONE = 4


cdef struct trial_t:
    address_t address
    uint8_t prefix_length
    uint8_t state
    uint8_t sent                 # probes, then announcements
    uint8_t mac[6]               # who has it
    int64_t next_ns


cdef struct acd_t:
    uint32_t count
    trial_t trials[TRIALS]
