"""Who has which port of an address that stacks share: claims, leases, groups behind one listener, and the rest of the dead."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.router.port cimport port_t

cdef enum:
    CLAIM_TCP = 0                # kinds of numbers; each has a table of its own
    CLAIM_UDP = 1
    CLAIM_PROTOCOL = 2           # IP protocols that have no ports
    CLAIM_KINDS = 3
    CLAIM_ECHO = 3               # of a flow only: identifiers of echo requests

    CLAIM_REUSEADDR = 1          # flags of a claim; as KEEPER_REUSEADDR and KEEPER_REUSEPORT of netstack.link
    CLAIM_REUSEPORT = 2

    LEASED_FIRST = 10240         # from here on ports are leased to whoever wants any; lower ones belong to who names them
    LEASE_PORTS = 64             # of one lease
    GROUP_MEMBERS = 64           # stacks behind one listener
    OWNED_MAX = 16384            # numbers of one attachment
    FLOWS_MAX = 8192             # remembered flows of one attachment
    HALF_OPEN_MAX = 1024         # and those on which nothing but a SYN went out
    FLOW_BUCKETS = 16384
    PIECES = 1024                # datagrams in pieces that are remembered


cdef struct group_t:             # stacks of one user behind one number: by SO_REUSEPORT, or a process and its children
    uint32_t uid
    uint32_t count
    bint open                    # who asks for SO_REUSEPORT may join
    port_t *members[GROUP_MEMBERS]
    uint8_t yields[GROUP_MEMBERS]        # GROUP_*

cdef enum:
    GROUP_TAKES = 0
    GROUP_YIELDS = 1             # has a listener that nobody looks at: new flows go to the others
    GROUP_STAYS = 2              # has said that somebody does; what its children believe counts no more


cdef struct claim_t:
    port_t *owner                # or
    group_t *group
    int64_t rests_until_ns       # without either: its stack is dead, and segments to it may still be under way
    int64_t promised_until_ns    # without either: the router was killed, and its stack may come back and claim it again
    uint32_t promised_uid        # whose
    bint leased


cdef struct names_t:             # a flow, seen from the shared address
    address_t local
    address_t remote
    uint16_t lport               # or the number of the protocol, or the identifier of an echo
    uint16_t rport
    uint32_t kind


cdef struct flow_t:              # which member of a group has a flow; and who sent an echo request
    flow_t *chain
    flow_t **back
    names_t names
    port_t *owner
    int64_t used_ns


cdef struct sharer_t:            # what one attachment has of the shared address
    uint32_t uid
    bint returned                # it was here before the router was killed: what was promised to its user it may have
    uint32_t count
    uint32_t capacity
    uint32_t *owned              # kind << 16 | number
    flow_t *flows                # FLOWS_MAX places in a circle, then HALF_OPEN_MAX in another; NULL owner: free
    uint32_t next_flow
    uint32_t next_half_open


cdef struct piece_t:             # where the pieces of a datagram go, or come from, whose first one was seen
    address_t src
    address_t dst
    uint32_t ident
    uint8_t protocol
    bint outward
    uint64_t port                # its id: it may be gone
    int64_t since_ns


cdef struct claims_t:
    claim_t *numbers[CLAIM_KINDS]
    flow_t *buckets[FLOW_BUCKETS]
    piece_t pieces[PIECES]
    uint64_t key[2]
    uint64_t draws               # of random numbers
    uint32_t claimed             # numbers that somebody has
    uint32_t leased              # of those, by a lease


cdef claims_t *claims_new(const uint64_t *key) noexcept nogil            # NULL without memory
cdef void claims_free(claims_t *c) noexcept nogil
cdef int claims_join(port_t *port, uint32_t uid) noexcept nogil          # an attachment shares the address: 0 or -ENOMEM
# The attachment is gone: what it had rests, or is free. Nothing of it is left in any table.
cdef void claims_leave(claims_t *c, port_t *port, int64_t now_ns) noexcept nogil
# A number waits for a stack of this user that was here before the router was killed. And: it does.
cdef void claims_promise(claims_t *c, uint32_t kind, uint32_t number, uint32_t uid, int64_t until_ns) noexcept nogil
cdef bint claims_promised(const claims_t *c, uint32_t kind, uint32_t number, int64_t now_ns) noexcept nogil
cdef int claims_claim(claims_t *c, port_t *port, uint32_t kind, uint32_t number, uint32_t flags, int64_t now_ns) noexcept nogil
cdef int claims_release(claims_t *c, port_t *port, uint32_t kind, uint32_t number) noexcept nogil
# A process that is about to fork: its number becomes that of a group, to which its children belong. From now on its flows are
# remembered. 0, -EINVAL (not its own), -ENOMEM.
cdef int claims_share(claims_t *c, port_t *port, uint32_t kind, uint32_t number) noexcept nogil
# A child of the process that has the number has it too, and the parent `yields` if it waits for nobody there: 0, -EINVAL
# (the parent does not share such a number), -EPERM (another user), -ENOBUFS, -ENOMEM.
cdef int claims_inherit(claims_t *c, port_t *heir, port_t *parent, uint32_t kind, uint32_t number, bint yields) noexcept nogil
cdef void claims_stay(claims_t *c, port_t *port, uint32_t kind, uint32_t number) noexcept nogil      # it yields no more
# Some ports at random: how many (0: all are taken), or -errno.
cdef int claims_lease(claims_t *c, port_t *port, uint32_t kind, uint16_t *ports, int64_t now_ns) noexcept nogil

cdef bint group_has(const group_t *group, const port_t *port) noexcept nogil
cdef flow_t *flow_find(claims_t *c, const names_t *names) noexcept nogil
# The attachment sends on this flow, `half_open`: so far a SYN. False: it is another's, who may still do so (then it stays his).
cdef bint flow_learn(claims_t *c, port_t *port, const names_t *names, bint half_open, int64_t now_ns) noexcept nogil
# The attachment that packets of these names are for, NULL: nobody.
cdef port_t *claims_owner(claims_t *c, const names_t *names) noexcept nogil
