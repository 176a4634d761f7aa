"""TCP connections that the router watches: a bounded table, and what is remembered of each.

A connection is two halves, one for each sender. Numbers are sequence numbers unless they have a unit.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.siphash cimport siphash

cdef enum:
    WATCHED_BUCKETS = 1024
    WATCHED_WAYS = 8                 # connections of a bucket
    KEY_WORDS = 5


cdef struct half_t:                  # what one end sends, and what the other says of it
    uint64_t port                    # id of where it comes from; 0: nothing came yet
    uint32_t isn
    uint32_t top                     # behind the last byte that came
    uint32_t delivered               # behind the last byte that was handed on to the other end
    uint32_t acked                   # by the other end
    uint32_t edge                    # the furthest right edge of a window that the sender was told
    uint32_t mss                     # bytes: as the other end says in its SYN, else the largest payload that was seen; at
                                     # most what the link carries that the sender is on
    uint32_t syn_window              # bytes; of the sender's own SYN
    uint16_t own_mss                 # bytes; of the sender's own SYN, 0: none
    uint8_t shift                    # of windows that the sender offers; NO_SHIFT: its SYN has none
    bint opened                      # its SYN was seen
    bint started                     # `top` and `acked` mean something
    bint doubt                       # it spoke with two tongues: the other end is not judged by what this one sends
    bint direct                      # its packets reach it without another router in between that may cut them
    bint fin
    uint8_t found                    # what its sender did: bits by Misdeed
    # --- data that the router dropped: [hole, hole_end) was never handed on
    bint has_hole
    uint32_t hole
    uint32_t hole_end
    # --- acknowledgements that the other end may still send: one for each segment that it got and has not acknowledged
    uint32_t credit                  # of what it got before `credit_mark` was sent
    uint32_t credit_next             # and since then
    uint32_t credit_mark
    uint32_t divided                 # acknowledgements beyond that
    uint32_t claimed                 # acknowledged without having got it: up to here
    uint32_t optimistic              # how often
    uint32_t overruns                # segments beyond the window
    # --- a round: from when the sender knew of a loss until it knows of the next one
    bint missing                     # something was dropped that was not sent again yet
    uint32_t lost                    # its first byte
    int64_t episode_ns               # when it began
    uint64_t sent_bytes              # payload, in this round
    uint64_t lost_bytes              # in all that are counted
    uint32_t strikes                 # rounds that are counted
    uint64_t strike_bytes[2]         # sent in the first and in the second half of them
    int64_t strike_ns[2]
    uint32_t turn                    # of packets that are dropped early


cdef struct watched_t:
    uint64_t key[KEY_WORDS]          # both addresses, both ports: the smaller end first
    int64_t last_ns                  # when a packet of it came
    uint64_t owner                   # id of the port whose packet made the record
    bint used
    bint matched                     # both SYNs were seen, one acknowledges the other: windows and acknowledgements can be judged
    bint closed                      # by a reset
    bint signed                      # segments are signed: none may be changed
    bint shared_window               # the window is that of several connections (Multipath TCP): not judged
    uint8_t punished                 # bit i: the data of half i
    half_t halves[2]


cdef struct watch_t:
    uint64_t secret[2]
    watched_t *last                  # that was found: packets come in bursts
    watched_t *flows                 # WATCHED_BUCKETS * WATCHED_WAYS


cdef inline bint same_key(const uint64_t *a, const uint64_t *b) noexcept nogil:
    return a[1] == b[1] and a[3] == b[3] and a[4] == b[4] and a[0] == b[0] and a[2] == b[2]


cdef watched_t *watched_look_up(watch_t *watch, const uint64_t *key) noexcept nogil
# A record for a connection of which nothing is known. It takes the place of another where there is none free.
cdef watched_t *watched_make(watch_t *watch, const uint64_t *key, uint64_t owner, int64_t now_ns) noexcept nogil
# Forget what was known of a connection; what its ends did, only if it was closed.
cdef void watched_restart(watched_t *w) noexcept nogil


cdef inline watched_t *watched_find(watch_t *watch, const uint64_t *key) noexcept nogil:
    """NULL: nothing is known of it."""
    if watch.last != NULL and same_key(watch.last.key, key):
        return watch.last
    return watched_look_up(watch, key)
