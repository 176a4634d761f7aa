"""Event loops that drive a stack: see pollers.pxd."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack.doorbells cimport arm, dead_links, disarm, drain, leader_spin, ring
from netstack.driver cimport (
    driver_leave,
    driver_now,
    driver_pass,
    driver_state,
    driver_t,
    driver_unlock,
    owner_t,
    park_load,
    park_lock,
    park_now_ns,
    park_store,
    poller_t,
)
from netstack.link.link cimport BELL_LEADER
from netstack.sock cimport EVENT_ERR, EVENT_HUP

cdef extern from "<sys/eventfd.h>" nogil:
    ctypedef uint64_t eventfd_t
    int eventfd_read(int fd, eventfd_t *value)


cdef void unlist(poller_t *p, owner_t *o) noexcept nogil:
    if not o.listed:
        return
    o.listed = 0
    p.count -= 1
    if o.listed_previous != NULL:
        o.listed_previous.listed_next = o.listed_next
    else:
        p.first = o.listed_next
    if o.listed_next != NULL:
        o.listed_next.listed_previous = o.listed_previous
    else:
        p.last = o.listed_previous


cdef void enlist(poller_t *p, owner_t *o) noexcept nogil:
    o.listed = 1
    p.count += 1
    o.listed_next = NULL
    o.listed_previous = p.last
    if p.last != NULL:
        p.last.listed_next = o
    else:
        p.first = o
    p.last = o


cdef void poller_join(driver_t *d, poller_t *p) noexcept nogil:
    p.driver = d
    p.next = d.pollers
    d.pollers = p


cdef void poller_part(poller_t *p) noexcept nogil:
    cdef driver_t *d = p.driver
    cdef poller_t **place = &d.pollers
    cdef owner_t *o = d.owners
    if p.asleep:
        poller_woke(p, 0)
    while o != NULL:
        if o.poller == p:
            unlist(p, o)
            o.poller = NULL
            o.interest = 0
        o = o.next
    while p.first != NULL:       # sockets that were closed meanwhile are not among the owners
        o = p.first
        unlist(p, o)
        o.poller = NULL
        o.interest = 0
    while place[0] != p:
        place = &place[0].next
    place[0] = p.next


cdef void poller_watch(poller_t *p, owner_t *o, uint32_t interest) noexcept nogil:
    o.interest = interest
    if not interest:
        unlist(p, o)
        o.poller = NULL
        return
    o.poller = p
    if not o.listed:
        enlist(p, o)
    if p.asleep and not p.rung:  # a loop that rests runs meanwhile: it may be ready already
        p.rung = 1
        ring(p.bell)


cdef void poller_note(driver_t *d, owner_t *o) noexcept nogil:
    cdef poller_t *p = o.poller
    if not o.listed:
        enlist(p, o)
    if p.asleep and not p.rung:
        p.rung = 1
        ring(p.bell)             # under the lock: the loop closes its bell under it


cdef inline uint32_t heard(driver_t *d, const owner_t *o) noexcept nogil:
    return driver_state(d, o) & (o.interest | EVENT_ERR | EVENT_HUP)


cdef bint any_ready(poller_t *p) noexcept nogil:
    """Whether a socket of the list is ready; those in front of it that are not leave the list."""
    while p.first != NULL:
        if heard(p.driver, p.first):
            return True
        unlist(p, p.first)
    return False


cdef owner_t *poller_take(poller_t *p, uint32_t *state) noexcept nogil:
    cdef owner_t *o = p.first
    if o == NULL:
        return NULL
    state[0] = heard(p.driver, o)
    unlist(p, o)
    if state[0]:
        enlist(p, o)             # behind the others: it may be ready for more than one turn
    return o


cdef bint poller_look(poller_t *p) noexcept nogil:
    cdef driver_t *d = p.driver
    if d.leader == NULL and not d.dead:
        d.lead_count += 1
        driver_pass(d, driver_now(d), d.budget, 0)
    return any_ready(p)


cdef bint poller_sleeps(poller_t *p, int64_t until, bint spin, int64_t *wake_at) noexcept nogil:
    cdef driver_t *d = p.driver
    cdef bint hit
    cdef uint32_t dead
    wake_at[0] = until
    if p.bells != d.bells and not d.dead:
        return False                 # it has to get the doorbells first that the links have now
    if d.leader == NULL and not d.dead:
        d.leader = &p.waiter
        d.lead_wake_at = 0
        if driver_pass(d, park_now_ns(), d.budget, 0) or any_ready(p):
            driver_leave(d)
            return False
        park_store(&d.kick, 0)
        d.wake_leader = 0
        if spin and d.spin_ns:
            until = until if until < d.next_deadline else d.next_deadline
            d.lead_wake_at = until
            dead = dead_links(d)
            d.spinning += 1
            driver_unlock(d)
            hit = leader_spin(d, until, dead)
            park_lock(&d.lock)
            d.spinning -= 1
            if hit or park_load(&d.kick) or any_ready(p):
                driver_pass(d, park_now_ns(), d.budget, 0)
                driver_leave(d)
                return False
        if arm(d, BELL_LEADER):
            driver_pass(d, park_now_ns(), d.budget, 0)
            driver_leave(d)
            return False
        if d.next_deadline < wake_at[0]:
            wake_at[0] = d.next_deadline
        d.lead_wake_at = wake_at[0]
        d.leader_asleep = 1
        d.sleeps += 1
        d.loose = p.loose
        if d.loose and not d.service_hears and d.service_on:
            d.wake_service = 1             # to hear our doorbells from now on
    elif any_ready(p):
        return False
    p.asleep = 1
    p.rung = 0
    d.pollers_asleep += 1
    return True


cdef void poller_woke(poller_t *p, uint32_t rang) noexcept nogil:
    cdef driver_t *d = p.driver
    cdef eventfd_t count
    if not p.asleep:
        return
    p.asleep = 0
    d.pollers_asleep -= 1
    if rang & RANG_BELL:
        eventfd_read(p.bell, &count)
    if d.leader != &p.waiter:
        return
    d.leader_asleep = d.loose = 0
    disarm(d)
    if rang & RANG_LEADER:
        eventfd_read(d.leader_fd, &count)
    if rang & RANG_LINK:
        drain(d, BELL_LEADER)
    if not d.dead:
        driver_pass(d, park_now_ns(), d.budget, 0)
    driver_leave(d)
