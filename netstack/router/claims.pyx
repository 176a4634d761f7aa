# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Ports of a shared address: who has them, who may have them, and whose a flow is.

A port belongs to one attachment, or to a group of one user's that all asked for SO_REUSEPORT, or that are a process and
the children it forked. A flow to a group goes to the
member whose hash with it is largest (rendezvous hashing: only the flows of a member that leaves change hands), unless a
member has sent on it: then it is remembered as his, so that members who come later take none from him. What is remembered
is a circle for each attachment, so that nobody pushes out another's flows, and another one for handshakes, so that a flood of
SYNs pushes out no connection; forgetting one costs nothing until somebody joins.

Ports for connections that go out are leased, 64 at a time, drawn at random from all that are free, so that the stack that
has them needs to ask nobody, and who has seen one port knows nothing of the next.
"""

from libc.errno cimport EADDRINUSE, EINVAL, ENOBUFS, ENOMEM, EPERM
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from netstack.address cimport address_equal
from netstack.router.port cimport port_t
from netstack.siphash cimport siphash

cdef int64_t REST_NS = 60000000000           # 2 MSL, as long as a connection stays in TIME-WAIT
cdef int64_t ECHO_NS = 10000000000           # an echo request that is not answered by then may be another's

cdef enum:
    DRAWS = 4096                 # for one lease


cdef inline uint32_t numbers_of(int kind) noexcept nogil:
    return 256 if kind == CLAIM_PROTOCOL else 65536


cdef claims_t *claims_new(const uint64_t *key) noexcept nogil:
    cdef claims_t *c = <claims_t *> calloc(1, sizeof(claims_t))
    cdef int kind
    if c == NULL:
        return NULL
    memcpy(c.key, key, 16)
    for kind in range(CLAIM_KINDS):
        c.numbers[kind] = <claim_t *> calloc(numbers_of(kind), sizeof(claim_t))    # pages that nobody touches cost nothing
        if c.numbers[kind] == NULL:
            claims_free(c)
            return NULL
    return c


cdef void claims_free(claims_t *c) noexcept nogil:
    """Every attachment has left."""
    cdef int kind
    if c == NULL:
        return
    for kind in range(CLAIM_KINDS):
        free(c.numbers[kind])
    free(c)


# ---- what an attachment has

cdef int claims_join(port_t *port, uint32_t uid) noexcept nogil:
    cdef sharer_t *s = <sharer_t *> port.sharer
    if s == NULL:
        s = <sharer_t *> calloc(1, sizeof(sharer_t))
        if s == NULL:
            return -ENOMEM
        s.uid = uid
        port.sharer = s
    return 0


cdef int own(sharer_t *s, uint32_t kind, uint32_t number) noexcept nogil:
    cdef uint32_t *bigger
    cdef uint32_t capacity
    if s.count == OWNED_MAX:
        return -ENOBUFS
    if s.count == s.capacity:
        capacity = s.capacity * 2 if s.capacity else 256
        bigger = <uint32_t *> realloc(s.owned, capacity * sizeof(uint32_t))
        if bigger == NULL:
            return -ENOMEM
        s.owned = bigger
        s.capacity = capacity
    s.owned[s.count] = kind << 16 | number
    s.count += 1
    return 0


cdef void disown(sharer_t *s, uint32_t kind, uint32_t number) noexcept nogil:
    cdef uint32_t i
    for i in range(s.count):
        if s.owned[i] == kind << 16 | number:
            s.count -= 1
            s.owned[i] = s.owned[s.count]
            return


cdef bint group_has(const group_t *group, const port_t *port) noexcept nogil:
    cdef uint32_t i
    for i in range(group.count):
        if group.members[i] == port:
            return True
    return False


cdef void group_add(group_t *group, port_t *port) noexcept nogil:
    """There is room."""
    group.members[group.count] = port
    group.yields[group.count] = GROUP_TAKES
    group.count += 1


cdef bint group_all_yield(const group_t *group) noexcept nogil:
    cdef uint32_t i
    for i in range(group.count):
        if group.yields[i] != GROUP_YIELDS:
            return False
    return True


cdef void group_drop(claim_t *claim, const port_t *port) noexcept nogil:
    """A member less; an empty group is none."""
    cdef group_t *group = claim.group
    cdef uint32_t i
    for i in range(group.count):
        if group.members[i] == port:
            group.count -= 1
            group.members[i] = group.members[group.count]
            group.yields[i] = group.yields[group.count]
            break
    if group.count == 0:
        free(group)
        claim.group = NULL


cdef void claims_leave(claims_t *c, port_t *port, int64_t now_ns) noexcept nogil:
    cdef sharer_t *s = <sharer_t *> port.sharer
    cdef claim_t *claim
    cdef uint32_t i, kind
    cdef int place
    if s == NULL:
        return
    port.sharer = NULL
    for i in range(s.count):
        kind = s.owned[i] >> 16
        claim = &c.numbers[kind][s.owned[i] & 0xffff]
        if claim.group != NULL:
            group_drop(claim, port)
        else:
            claim.owner = NULL
        if claim.group == NULL:
            c.claimed -= 1
            if kind == CLAIM_TCP or claim.leased:
                claim.rests_until_ns = now_ns + REST_NS
        if claim.leased:
            claim.leased = False
            c.leased -= 1
    if s.flows != NULL:
        for place in range(FLOWS_MAX + HALF_OPEN_MAX):
            flow_forget(&s.flows[place])
    free(s.flows)
    free(s.owned)
    free(s)


cdef void claims_promise(claims_t *c, uint32_t kind, uint32_t number, uint32_t uid, int64_t until_ns) noexcept nogil:
    if kind < CLAIM_KINDS and 0 < number < numbers_of(kind):
        c.numbers[kind][number].promised_until_ns = until_ns
        c.numbers[kind][number].promised_uid = uid


cdef bint claims_promised(const claims_t *c, uint32_t kind, uint32_t number, int64_t now_ns) noexcept nogil:
    return kind < CLAIM_KINDS and c.numbers[kind][number].promised_until_ns > now_ns


cdef int claims_claim(claims_t *c, port_t *port, uint32_t kind, uint32_t number, uint32_t flags, int64_t now_ns) noexcept nogil:
    """Have this number, alone or with others who ask for SO_REUSEPORT: 0, -EADDRINUSE, -ENOBUFS (too many), -ENOMEM."""
    cdef sharer_t *s = <sharer_t *> port.sharer
    cdef claim_t *claim
    cdef group_t *group
    cdef bint promised
    cdef int r
    if s == NULL:
        return -EPERM
    if kind >= CLAIM_KINDS or number == 0 or number >= numbers_of(kind):
        return -EINVAL
    claim = &c.numbers[kind][number]
    promised = claim.promised_until_ns > now_ns
    if claim.owner == port:
        return 0
    if claim.owner != NULL or (promised and not (s.returned and s.uid == claim.promised_uid)):
        return -EADDRINUSE
    group = claim.group
    if group != NULL:
        if group_has(group, port):
            return 0
        if not flags & CLAIM_REUSEPORT or not group.open or group.uid != s.uid or group.count == GROUP_MEMBERS:
            return -EADDRINUSE
    elif not promised and claim.rests_until_ns > now_ns and not flags & (CLAIM_REUSEADDR | CLAIM_REUSEPORT):
        return -EADDRINUSE
    r = own(s, kind, number)
    if r < 0:
        return r
    if flags & CLAIM_REUSEPORT and group == NULL:
        group = claim.group = <group_t *> calloc(1, sizeof(group_t))
        if group == NULL:
            s.count -= 1
            return -ENOMEM
        group.uid = s.uid
        group.open = True
    if group == NULL or group.count == 0:
        c.claimed += 1
    if group == NULL:
        claim.owner = port
    else:
        group_add(group, port)
    claim.rests_until_ns = claim.promised_until_ns = 0
    return 0


cdef int claims_share(claims_t *c, port_t *port, uint32_t kind, uint32_t number) noexcept nogil:
    cdef sharer_t *s = <sharer_t *> port.sharer
    cdef claim_t *claim
    if s == NULL or kind > CLAIM_UDP or number == 0 or number >= numbers_of(kind):
        return -EINVAL
    claim = &c.numbers[kind][number]
    if claim.group != NULL:
        return 0 if group_has(claim.group, port) else -EINVAL
    if claim.owner != port:
        return -EINVAL
    claim.group = <group_t *> calloc(1, sizeof(group_t))
    if claim.group == NULL:
        return -ENOMEM
    claim.group.uid = s.uid
    claim.owner = NULL
    group_add(claim.group, port)
    if claim.leased:                         # a listener's now, and no more for connections that go out
        claim.leased = False
        c.leased -= 1
    return 0


cdef int claims_inherit(claims_t *c, port_t *heir, port_t *parent, uint32_t kind, uint32_t number, bint yields) noexcept nogil:
    cdef sharer_t *s = <sharer_t *> heir.sharer
    cdef group_t *group
    cdef uint32_t i
    cdef int r
    if s == NULL:
        return -EPERM
    if kind > CLAIM_UDP or number == 0 or number >= numbers_of(kind):
        return -EINVAL
    group = c.numbers[kind][number].group
    if group == NULL or not group_has(group, parent):
        return -EINVAL
    if s.uid != group.uid:
        return -EPERM
    if not group_has(group, heir):
        if group.count == GROUP_MEMBERS:
            return -ENOBUFS
        r = own(s, kind, number)
        if r < 0:
            return r
        group_add(group, heir)
    if yields:
        for i in range(group.count):
            if group.members[i] == parent and group.yields[i] == GROUP_TAKES:
                group.yields[i] = GROUP_YIELDS
    return 0


cdef void claims_stay(claims_t *c, port_t *port, uint32_t kind, uint32_t number) noexcept nogil:
    cdef group_t *group
    cdef uint32_t i
    if kind > CLAIM_UDP or number >= numbers_of(kind):
        return
    group = c.numbers[kind][number].group
    if group == NULL:
        return
    for i in range(group.count):
        if group.members[i] == port:
            group.yields[i] = GROUP_STAYS


cdef int claims_release(claims_t *c, port_t *port, uint32_t kind, uint32_t number) noexcept nogil:
    """Give a number back: its stack has kept it through TIME-WAIT. Leased ones stay, for the next connection."""
    cdef sharer_t *s = <sharer_t *> port.sharer
    cdef claim_t *claim
    if s == NULL or kind >= CLAIM_KINDS or number >= numbers_of(kind):
        return -EINVAL
    claim = &c.numbers[kind][number]
    if claim.leased:
        return 0
    if claim.owner == port:
        claim.owner = NULL
    elif claim.group != NULL and group_has(claim.group, port):
        group_drop(claim, port)
    else:
        return -EINVAL
    disown(s, kind, number)
    if claim.group == NULL:
        c.claimed -= 1
    return 0


cdef uint64_t draw(claims_t *c) noexcept nogil:
    """The next of a sequence that nobody can tell from chance without the key."""
    c.draws += 1
    return siphash(c.key, &c.draws, 1)


cdef int claims_lease(claims_t *c, port_t *port, uint32_t kind, uint16_t *ports, int64_t now_ns) noexcept nogil:
    cdef sharer_t *s = <sharer_t *> port.sharer
    cdef claim_t *claim
    cdef uint32_t number
    cdef int n = 0, i, r
    if s == NULL:
        return -EPERM
    if kind > CLAIM_UDP:
        return -EINVAL
    for i in range(DRAWS):
        if n == LEASE_PORTS:
            break
        number = LEASED_FIRST + <uint32_t> (draw(c) % (65536 - LEASED_FIRST))
        claim = &c.numbers[kind][number]
        if claim.owner != NULL or claim.group != NULL or claim.rests_until_ns > now_ns or \
                claim.promised_until_ns > now_ns:
            continue
        r = own(s, kind, number)
        if r < 0:
            return n if n else r
        claim.owner = port
        claim.leased = True
        claim.rests_until_ns = 0
        c.claimed += 1
        c.leased += 1
        ports[n] = <uint16_t> number
        n += 1
    return n


# ---- flows

cdef uint64_t names_hash(const claims_t *c, const names_t *names) noexcept nogil:
    cdef uint64_t words[5]
    words[0] = names.local.hi
    words[1] = names.local.lo
    words[2] = names.remote.hi
    words[3] = names.remote.lo
    words[4] = <uint64_t> names.kind << 32 | <uint64_t> names.lport << 16 | names.rport
    return siphash(c.key, words, 5)


cdef flow_t *flow_find(claims_t *c, const names_t *names) noexcept nogil:
    cdef flow_t *flow = c.buckets[names_hash(c, names) % FLOW_BUCKETS]
    while flow != NULL:
        if flow.names.lport == names.lport and flow.names.rport == names.rport and flow.names.kind == names.kind and \
                address_equal(&flow.names.remote, &names.remote) and address_equal(&flow.names.local, &names.local):
            return flow
        flow = flow.chain
    return NULL


cdef void flow_forget(flow_t *flow) noexcept nogil:
    if flow.owner == NULL:
        return
    flow.back[0] = flow.chain
    if flow.chain != NULL:
        flow.chain.back = flow.back
    flow.owner = NULL


cdef bint flow_learn(claims_t *c, port_t *port, const names_t *names, bint half_open, int64_t now_ns) noexcept nogil:
    cdef sharer_t *s = <sharer_t *> port.sharer
    cdef flow_t *flow = flow_find(c, names)
    cdef flow_t **bucket
    if flow != NULL:
        if flow.owner == port:
            flow.used_ns = now_ns
            if half_open or flow < s.flows + FLOWS_MAX:
                return True
        elif names.kind != CLAIM_ECHO or now_ns - flow.used_ns < ECHO_NS:
            return False
        flow_forget(flow)
    if s.flows == NULL:
        s.flows = <flow_t *> calloc(FLOWS_MAX + HALF_OPEN_MAX, sizeof(flow_t))
        if s.flows == NULL:
            return True                      # by its hash it is still his, until somebody joins
    if half_open:
        flow = &s.flows[FLOWS_MAX + s.next_half_open]
        s.next_half_open = (s.next_half_open + 1) % HALF_OPEN_MAX
    else:
        flow = &s.flows[s.next_flow]
        s.next_flow = (s.next_flow + 1) % FLOWS_MAX
    flow_forget(flow)
    bucket = &c.buckets[names_hash(c, names) % FLOW_BUCKETS]
    flow.names = names[0]
    flow.owner = port
    flow.used_ns = now_ns
    flow.chain = bucket[0]
    flow.back = bucket
    if flow.chain != NULL:
        flow.chain.back = &flow.chain
    bucket[0] = flow
    return True


cdef port_t *claims_owner(claims_t *c, const names_t *names) noexcept nogil:
    cdef claim_t *claim
    cdef flow_t *flow
    cdef port_t *best = NULL
    cdef uint64_t words[2]
    cdef uint64_t score, most = 0
    cdef uint32_t i
    cdef bint any_will_do
    if names.kind == CLAIM_ECHO:
        flow = flow_find(c, names)
        return flow.owner if flow != NULL else NULL
    claim = &c.numbers[names.kind][names.lport]
    if claim.group == NULL:
        return claim.owner
    if claim.group.count == 1:
        return claim.group.members[0]
    flow = flow_find(c, names)
    if flow != NULL and group_has(claim.group, flow.owner):
        return flow.owner
    words[0] = names_hash(c, names)
    any_will_do = group_all_yield(claim.group)
    for i in range(claim.group.count):
        if claim.group.yields[i] == GROUP_YIELDS and not any_will_do:
            continue
        words[1] = claim.group.members[i].id
        score = siphash(c.key, words, 2)
        if score >= most:
            most = score
            best = claim.group.members[i]
    return best
