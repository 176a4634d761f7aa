"""A channel as a link: two rings in shared memory, one each way, and the doorbells of both sides."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.link.link cimport Link
from rings.mapping cimport memory_watch_t
from rings.peer cimport peer_t
from rings.spsc_ring cimport ring_consumer_t, ring_producer_t

cdef enum:
    PACKET_MIN = 20              # an IPv4 header; whatever is shorter is no packet


cdef enum:                       # what the owner of a channel link prepared
    CHANGE_NOTHING = 0
    CHANGE_LOSE = 1              # the other side is gone and may come back
    CHANGE_RENEW = 2             # it is back, with other memory
    CHANGE_END = 3               # it does not come back


cdef struct channel_t:
    ring_producer_t *tx          # NULL: closed
    ring_consumer_t *rx
    const uint64_t *forks        # how often this process forked away from one that had rings
    uint64_t forks_seen          # ... when the link was made: a child has no memory there
    int peer_fds[4]              # what we kick, by kind of sleeper
    int own_fds[4]               # what we sleep on
    uint8_t starved              # a claim found no room since the last arm
    uint8_t producer_armed
    uint8_t poisoned             # the peer broke the ring's format
    uint8_t truncated            # the peer shortened the memory
    uint8_t streaming            # bodies are stored past the caches, outside of trials
    uint8_t timed                # the group of bodies under way is being timed
    uint32_t group               # counts groups of 64 KiB of large bodies
    uint32_t group_bytes
    uint32_t body_length         # of the claim
    int64_t claimed_ns
    int64_t spent_ns             # between claim and commit, in the group under way
    int64_t cost_ns[2]           # of the last timed group: plain stores, streaming stores
    memory_watch_t watch
    peer_t peer                  # the process at the other side; region NULL: somebody else looks after that
    uint64_t malformed           # records that are no packet: dropped
    uint64_t refused             # claims that found no room
    # --- the other side may be replaced
    uint8_t down                 # it is gone: what it had sent is still taken, what is sent is dropped
    uint8_t next_change          # CHANGE_*: prepared, not yet done
    uint8_t *sink                # where packets are written while it is down
    uint64_t outages
    uint64_t dropped_down
    ring_producer_t *next_tx
    ring_consumer_t *next_rx
    int next_peer_fds[4]
    int next_own_fds[4]          # become own_fds, whose numbers others know
    memory_watch_t next_watch


cdef class ChannelLink(Link):
    cdef channel_t state
    cdef readonly object channel # rings.channel.Channel
    cdef public object keep      # lives as long as the link
    cdef object bells            # of the first channel: they own the numbers of own_fds
    cdef object next_channel
    cdef list silent             # eventfds that nobody rings, while it is down

    cdef forget(self)
