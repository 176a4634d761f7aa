"""Who drives a stack. The words and rules stand in driver.pxd; this is how they move.

Nothing here touches Python but the class at the end: a waiting thread holds the lock of the driver and not the
interpreter, and the service thread never knows that there is an interpreter.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from libc.signal cimport SIGBUS
from posix.signal cimport sigdelset, sigfillset, sigset_t

from cpython.ref cimport Py_INCREF

from netstack.address cimport address_equal
from netstack.doorbells cimport (
    ASKED,
    BELL,
    DIED,
    HEARD,
    arm,
    dead_links,
    disarm,
    doorbells_close,
    doorbells_open,
    drain,
    has_input,
    leader_sleep,
    links_now,
    peers_died,
    leader_spin,
    ring,
    service_sleep,
)
from netstack.link.link cimport BELL_LEADER, BELL_SERVICE, NEVER, Link
from netstack.pollers cimport poller_note
from netstack.readiness cimport READY_NONE, ready_close, ready_give, ready_open, ready_show
from netstack.reporting cimport reporting_close, reporting_init, reporting_step
from netstack.sock cimport EVENT_ERR, EVENT_FINISHED, EVENT_HUP, EVENT_IN, EVENT_OUT, EVENT_RDHUP, SOCK_TCP, sock_t
from netstack.stack.core cimport (
    stack_next_deadline, stack_next_event, stack_process, stack_resume, stack_set_now, stack_settle,
)
from netstack.stack.sockets cimport (
    sock_close,
    sock_finished,
    sock_lend_filled,
    sock_lend_taken,
    sock_poll,
    stack_lingering,
)
from netstack.stack.stack cimport Stack
from netstack.tcp.congestion.plugin cimport (
    decision_t, plugin_apply, plugin_decide, plugin_discard, plugin_fail, plugin_t, plugin_take, report_t,
)
from netstack.tcp.tcb cimport CLOSED, tcb_t

import logging
import os
import threading
import weakref

import netstack.tcp.congestion.plugin as plugin

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

cdef extern from "<signal.h>" nogil:
    int SIG_SETMASK
    int pthread_sigmask(int how, const sigset_t *new, sigset_t *old)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_attr_t:
        pass
    int pthread_attr_init(pthread_attr_t *attr)
    int pthread_attr_setstacksize(pthread_attr_t *attr, size_t bytes)
    int pthread_attr_destroy(pthread_attr_t *attr)
    int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *) noexcept nogil, void *arg)
    int pthread_join(pthread_t thread, void **result)
    int pthread_setname_np(pthread_t thread, const char *name)
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil, void (*child)() noexcept nogil)

cdef enum:
    SHORT_BYTES = 16 << 10       # a pass with the interpreter held takes about this much input
    PASS_BYTES = 512 << 10       # another pass
    SERVICE_STACK = 256 << 10    # bytes of address space; touched pages are few
    TICK_FIRST_NS = 500_000
    TICK_LAST_NS = 4_000_000
    LED_LOOK_NS = 1_000_000      # the service thread leaves a deadline to the leader, and looks again after this
    SLICES = 5
    LEAVE_PASSES = 2             # a leaving leader takes input for others this often, then leaves it too

cdef int64_t[5] SLICE_NS = [1_000_000, 8_000_000, 64_000_000, 512_000_000, 1_000_000_000]

cdef unsigned long main_thread = 0


cdef void after_fork_in_child() noexcept nogil:
    global fork_generation
    fork_generation += 1


cdef bint on_main_thread() noexcept nogil:
    return PyThread_get_thread_ident() == main_thread


cdef int64_t signal_slice(int *step, int64_t now_ns) noexcept nogil:
    """The end of this wait's slice. Signals go to the main thread's handlers only, so only it needs slices: they catch
    a signal that came between the interpreter's last look and the sleep."""
    cdef int64_t end
    if not on_main_thread():
        return NEVER
    end = now_ns + SLICE_NS[step[0]]
    if step[0] < SLICES - 1:
        step[0] += 1
    return end


# --- the lock and what it collects ------------------------------------------------------------------------------------


cdef void driver_lock(driver_t *d) noexcept nogil:
    park_lock(&d.lock)


cdef void deliver(driver_t *d) noexcept nogil:
    """Unlock and wake whom the lock's holder collected. Words are set already: a late wake is at worst spurious."""
    cdef park_word_t *wakes[DRIVER_WAKES]
    cdef uint32_t i, n = d.wake_count
    cdef bint leader = d.wake_leader, service = d.wake_service
    cdef int leader_fd = d.leader_fd, service_fd = d.service_fd
    cdef int plugin_fd = d.plugin_fd if plugins_waiting(d) else -1
    if plugin_fd >= 0:
        d.plugins_rung = 1
    for i in range(n):
        wakes[i] = d.wakes[i]
    d.wake_count = 0
    d.wake_leader = d.wake_service = 0
    park_unlock(&d.lock)
    if leader:
        ring(leader_fd)
    for i in range(n):
        park_wake(wakes[i])
    if service:
        ring(service_fd)
    if plugin_fd >= 0:
        ring(plugin_fd)


cdef inline bint plugins_waiting(const driver_t *d) noexcept nogil:
    """Connections have a report for an algorithm in Python, and its thread has not been told."""
    return d.plugin_fd >= 0 and not d.plugins_rung and not d.dead and d.stack.tcp.plugin_first != NULL


cdef void driver_unlock(driver_t *d) noexcept nogil:
    if d.wake_count or d.wake_leader or d.wake_service or plugins_waiting(d):
        deliver(d)
    else:
        park_unlock(&d.lock)


cdef void kick_leader(driver_t *d) noexcept nogil:
    """Make the leader look: it spins on ``kick``, or sleeps and is woken after the unlock."""
    park_store(&d.kick, 1)
    if d.leader_asleep and not d.wake_leader:
        d.wake_leader = 1
        d.leader_kicks += 1


cdef void kick_service(driver_t *d) noexcept nogil:
    if d.service_on and not d.wake_service:
        d.wake_service = 1
        d.service_kicks += 1


cdef void wake(driver_t *d, waiter_t *w) noexcept nogil:
    if w == d.leader:
        kick_leader(d)
        return
    if park_load(&w.word):
        return
    park_store(&w.word, 1)
    d.follower_wakes += 1
    if d.wake_count < DRIVER_WAKES:
        d.wakes[d.wake_count] = &w.word
        d.wake_count += 1
    else:
        park_wake(&w.word)


cdef void wake_all(driver_t *d) noexcept nogil:
    cdef waiter_t *w = d.first
    while w != NULL:
        wake(d, w)
        w = w.next


# --- passes -----------------------------------------------------------------------------------------------------------


cdef void collect_events(driver_t *d) noexcept nogil:
    """Wake the waiters of sockets that became ready, and let descriptors show it."""
    cdef sock_t *sock
    cdef owner_t *o
    cdef waiter_t *w
    cdef uint32_t mask
    while True:
        sock = stack_next_event(d.stack)
        if sock == NULL:
            return
        mask = sock.events
        sock.events = 0
        o = <owner_t *> sock.owner
        if o == NULL:
            continue
        w = o.waiters
        while w != NULL:
            if mask & (w.events | EVENT_ERR | EVENT_HUP | EVENT_RDHUP):
                wake(d, w)
            w = w.sibling
        driver_show(d, o)
        if o.poller != NULL and mask & (o.interest | EVENT_ERR | EVENT_HUP | EVENT_RDHUP):
            poller_note(d, o)


cdef int64_t links_deadline(driver_t *d) noexcept nogil:
    cdef int64_t t, earliest = NEVER
    cdef uint32_t i
    for i in range(d.link_count):
        t = d.links[i].next_deadline(d.links[i])
        if t < earliest:
            earliest = t
    return earliest


cdef void watch_deadline(driver_t *d) noexcept nogil:
    """Whoever sleeps must wake no later than the next deadline."""
    cdef int64_t t = stack_next_deadline(d.stack), l = links_deadline(d)
    if l < t:
        t = l
    d.next_deadline = t
    if d.leader != NULL:
        if t < d.lead_wake_at:
            d.lead_wake_at = t
            kick_leader(d)
    elif t < d.service_wake_at:
        d.service_wake_at = t
        kick_service(d)


cdef bint connected_outside(driver_t *d, sock_t *sock) noexcept nogil:
    """A TCP connection to an address that is not the stack's own, also one that is only being made."""
    cdef tcb_t *tcb = <tcb_t *> sock
    return sock.kind == SOCK_TCP and tcb.state != CLOSED and tcb.rport != 0 and not address_equal(&tcb.local, &tcb.remote)


cdef void watch_links(driver_t *d) noexcept nogil:
    """A host whose links are all dead reaches nobody any more: let its waiters hear of it."""
    cdef uint32_t i
    if d.links_dead or not d.link_count:
        return
    for i in range(d.link_count):
        if d.links[i].dead:
            d.known_dead |= <uint32_t> 1 << i
    if d.known_dead != (<uint32_t> 1 << d.link_count) - 1:
        return
    d.links_dead = 1
    cdef owner_t *o = d.owners
    while o != NULL:
        o.cut_off = connected_outside(d, o.sock)
        driver_show(d, o)
        if o.poller != NULL:
            poller_note(d, o)
        o = o.next
    wake_all(d)


cdef int driver_pass(driver_t *d, int64_t now, int budget, uint32_t who) noexcept nogil:
    cdef uint32_t i
    cdef int more
    d.stack.driver = who
    for i in range(d.link_count):
        if d.links[i].next_deadline(d.links[i]) <= now:
            d.links[i].advance(d.links[i], now)
    more = stack_process(d.stack, now, budget)
    d.stack.driver = 0
    collect_events(d)
    watch_deadline(d)
    watch_links(d)
    return more


cdef void driver_settle(driver_t *d) noexcept nogil:
    """What a call sent to the stack itself is processed at once: nobody's doorbell rings for it."""
    if loopback_pending(d):
        driver_pass(d, driver_now(d), d.short_budget, 0)
        while loopback_pending(d):
            driver_pass(d, driver_now(d), d.short_budget, 0)
        return
    collect_events(d)
    watch_deadline(d)


# --- waiting ----------------------------------------------------------------------------------------------------------


cdef bint waiter_ready(driver_t *d, waiter_t *w) noexcept nogil:
    cdef owner_t *o = w.owner
    if o == NULL:
        return stack_lingering(d.stack) == 0 or d.links_dead
    if o.sock == NULL or o.cut_off:
        return True
    if w.lent and sock_lend_filled(d.stack, o.sock):
        return True
    if w.events == EVENT_FINISHED:
        return sock_finished(o.sock)
    return (sock_poll(d.stack, o.sock) & (w.events | EVENT_ERR | EVENT_HUP)) != 0


cdef void link_waiter(driver_t *d, waiter_t *w) noexcept nogil:
    w.next = NULL
    w.previous = d.last
    if d.last != NULL:
        d.last.next = w
    else:
        d.first = w
    d.last = w
    if w.owner != NULL:
        w.sibling = w.owner.waiters
        w.owner.waiters = w


cdef void unlink_waiter(driver_t *d, waiter_t *w) noexcept nogil:
    cdef waiter_t **place
    cdef uint32_t i
    if w.previous != NULL:
        w.previous.next = w.next
    else:
        d.first = w.next
    if w.next != NULL:
        w.next.previous = w.previous
    else:
        d.last = w.previous
    if w.owner != NULL:
        place = &w.owner.waiters
        while place[0] != w:
            place = &place[0].sibling
        place[0] = w.sibling
    for i in range(d.wake_count):
        if d.wakes[i] == &w.word:
            d.wake_count -= 1
            d.wakes[i] = d.wakes[d.wake_count]
            break


cdef bint somebody_sleeps(driver_t *d) noexcept nogil:
    return d.first != NULL or d.ready_fds != 0 or d.pollers_asleep != 0


cdef void take_loose(driver_t *d) noexcept nogil:
    """The lead of an event loop that may be busy elsewhere goes to who needs it. The loop's bell tells it of its sockets."""
    d.leader = NULL
    d.loose = d.leader_asleep = 0
    d.lead_wake_at = 0


cdef void driver_leave(driver_t *d) noexcept nogil:
    """The leader goes. Nobody is woken for it: from here the service thread hears the doorbells, or, while it ticks
    because somebody leads now and then, looks every tick whether that goes on."""
    cdef int tries = 0
    d.leader = NULL
    d.lead_wake_at = 0
    d.lead_count += 1
    d.wake_leader = 0
    if d.first != NULL:
        d.hand_overs += 1
    if somebody_sleeps(d):
        while arm(d, BELL_SERVICE):
            if tries == LEAVE_PASSES:
                d.look = 1
                kick_service(d)
                break
            driver_pass(d, park_now_ns(), d.budget, 0)
            tries += 1
    elif not d.ticking and arm(d, BELL_SERVICE):
        # More is there already and most likely for this thread, which comes back for it: the service thread ticks.
        d.ticking = 1
        d.tick_ns = TICK_FIRST_NS
        kick_service(d)
    if d.next_deadline < d.service_wake_at:
        d.service_wake_at = d.next_deadline
        kick_service(d)


cdef int lead(driver_t *d, waiter_t *w, int64_t until) noexcept nogil:
    """One turn of the leader: a pass, and when it brought nothing a spin and a sleep. 0 or EINTR.

    The doorbells are armed under the lock, right before the sleep; a kick is given under the lock as well, so none can
    fall between the last look and the sleep.
    """
    cdef bint hit
    cdef links_now_t links
    cdef int more, r, woken = 0
    if d.loose:
        take_loose(d)
    d.leader = w
    d.lead_wake_at = 0
    more = driver_pass(d, park_now_ns(), d.budget, 0)
    if more or waiter_ready(d, w):
        return 0
    if d.next_deadline < until:
        until = d.next_deadline
    d.lead_wake_at = until
    park_store(&d.kick, 0)
    d.wake_leader = 0
    if d.spin_ns:
        links.dead = dead_links(d)
        d.spinning += 1
        driver_unlock(d)
        hit = leader_spin(d, until, links.dead)
        park_lock(&d.lock)
        d.spinning -= 1
        if hit or park_load(&d.kick):
            return 0
        until = until if until < d.next_deadline else d.next_deadline
    if arm(d, BELL_LEADER):
        return 0
    d.lead_wake_at = until
    d.leader_asleep = 1
    d.sleeps += 1
    links_now(d, &links)
    driver_unlock(d)
    r = leader_sleep(d, until, &links, &woken)
    park_lock(&d.lock)
    d.leader_asleep = 0
    disarm(d)
    if woken & BELL:
        drain(d, BELL_LEADER)
    if woken & DIED:
        peers_died(d)
    return r


cdef int driver_wait(driver_t *d, waiter_t *w, int64_t deadline, int64_t slice) noexcept nogil:
    cdef int64_t now, until = deadline if deadline < slice else slice
    cdef int r, result
    park_store(&w.word, 0)
    link_waiter(d, w)
    while True:
        if d.dead:
            result = WAIT_DEAD
            break
        if waiter_ready(d, w):
            result = WAIT_READY
            break
        now = park_now_ns()
        if now >= deadline:
            result = WAIT_TIMEOUT
            break
        if now >= slice:
            result = WAIT_INTERRUPTED
            break
        if d.leader == NULL or d.leader == w or d.loose:
            r = lead(d, w, until)
        else:
            park_store(&w.word, 0)         # under the lock that every waker holds: a later one sets it
            driver_unlock(d)
            r = park_wait(&w.word, 0, until)
            park_lock(&d.lock)
        if r == EINTR and not d.dead and not waiter_ready(d, w):
            result = WAIT_INTERRUPTED
            break
    unlink_waiter(d, w)
    if d.leader == w:
        driver_leave(d)
    return result


# --- sockets under the driver's care ----------------------------------------------------------------------------------


cdef void driver_adopt(driver_t *d, owner_t *o, sock_t *sock) noexcept nogil:
    o.driver = d
    o.sock = sock
    o.waiters = NULL
    o.cut_off = o.listed = 0
    o.poller = NULL
    o.interest = 0
    o.ready.kind = READY_NONE
    o.ready.fd = o.ready.stack_fd = -1
    o.previous = NULL
    o.next = d.owners
    if d.owners != NULL:
        d.owners.previous = o
    d.owners = o
    sock.owner = o


cdef void driver_abandon(driver_t *d, owner_t *o) noexcept nogil:
    cdef waiter_t *w = o.waiters
    if o.previous != NULL:
        o.previous.next = o.next
    else:
        d.owners = o.next
    if o.next != NULL:
        o.next.previous = o.previous
    o.sock = NULL
    while w != NULL:
        wake(d, w)
        w = w.sibling
    if o.poller != NULL:
        poller_note(d, o)
    if o.ready.kind != READY_NONE:
        ready_close(&o.ready)
        d.ready_fds -= 1


cdef uint32_t driver_state(driver_t *d, const owner_t *o) noexcept nogil:
    cdef tcb_t *tcb
    if o.sock == NULL or o.cut_off:
        return EVENT_IN | EVENT_ERR | EVENT_HUP
    tcb = <tcb_t *> o.sock if o.sock.kind == SOCK_TCP else NULL
    if tcb != NULL and tcb.state == CLOSED and tcb.rport == 0:
        return EVENT_OUT                   # never connected: may still become something, a hang-up is for good
    if tcb != NULL and tcb.lent_filled and o.poller != NULL:
        return sock_poll(d.stack, o.sock) | EVENT_IN       # in the event loop's buffer
    return sock_poll(d.stack, o.sock)


cdef void driver_show(driver_t *d, owner_t *o) noexcept nogil:
    if o.ready.kind != READY_NONE and o.sock != NULL:
        ready_show(&o.ready, driver_state(d, o))


cdef int driver_fileno(driver_t *d, owner_t *o, int kind) noexcept nogil:
    """Give the socket a descriptor. From now on its changes are shown there, and the service thread stands by for
    whoever sleeps on it."""
    cdef int r
    if o.ready.kind == READY_NONE:
        r = ready_open(&o.ready, kind)
        if r < 0:
            return r
        d.ready_fds += 1
        if d.leader == NULL:
            kick_service(d)                # it may have nothing armed
    driver_show(d, o)
    return o.ready.fd


cdef int driver_give_fd(driver_t *d, owner_t *o) noexcept nogil:
    """Give the descriptor away: it shows nothing any more, and the caller closes it."""
    cdef int fd = ready_give(&o.ready)
    d.ready_fds -= 1
    return fd


# --- the service thread -----------------------------------------------------------------------------------------------


cdef void let_callers_in(driver_t *d) noexcept nogil:
    driver_unlock(d)
    park_lock(&d.lock)


cdef void *service_main(void *arg) noexcept nogil:
    """Stand by: act when nobody leads and a doorbell rang, a deadline came, or nobody led for a whole tick.

    While somebody leads now and then, the input is theirs: the thread only looks every tick whether that goes on. A loose
    leader's doorbells it hears too: if that one has not come within a tick, it takes the lead.
    """
    cdef driver_t *d = <driver_t *> arg
    cdef int64_t now, until
    cdef uint64_t seen
    cdef bint stay_out = False, rung, overdue = False
    cdef links_now_t links
    cdef int woken
    park_lock(&d.lock)
    while not d.stop:
        d.service_wake_at = 0
        seen = d.lead_count
        if overdue and d.loose:
            take_loose(d)
            stay_out = False
        if d.leader == NULL and (not stay_out or park_now_ns() >= d.next_deadline):
            d.service_passes += 1
            while driver_pass(d, park_now_ns(), d.budget, 1) and d.leader == NULL and not d.stop:
                let_callers_in(d)
        while d.leader == NULL and (somebody_sleeps(d) or not d.ticking) and not d.stop and arm(d, BELL_SERVICE):
            driver_pass(d, park_now_ns(), d.budget, 1)
            let_callers_in(d)
        until = d.next_deadline
        now = park_now_ns()
        if d.leader != NULL and until < now + LED_LOOK_NS:
            until = now + LED_LOOK_NS      # the leader keeps this one
        if d.ticking and now + d.tick_ns < until:
            until = now + d.tick_ns
        d.service_wake_at = until
        links_now(d, &links)
        d.service_hears = links.hear or d.ticking
        if links.telling and d.reporting.until < until:
            until = d.reporting.until      # it may never read
        driver_unlock(d)
        woken = service_sleep(d, until, &links)
        park_lock(&d.lock)
        rung = woken & BELL or d.look
        d.look = 0
        if woken & BELL:
            drain(d, BELL_SERVICE)
        if woken & DIED:
            peers_died(d)
        if woken & ASKED or (links.telling and park_now_ns() >= d.reporting.until):
            reporting_step(d)
        if woken & ~ASKED:
            d.service_wakes += 1
        stay_out = not rung and d.ticking and d.lead_count != seen
        overdue = d.loose and d.lead_count == seen and (has_input(d, dead_links(d)) or d.next_deadline <= park_now_ns())
        if rung:
            if d.lead_count != d.rung_count:
                # Somebody led since it last rang and is likely to be back: nobody sleeps, so give them a tick.
                if not d.ticking:
                    d.ticking = 1
                    d.tick_ns = TICK_FIRST_NS
                stay_out = not somebody_sleeps(d)
            d.rung_count = d.lead_count
        elif (overdue or woken & HEARD) and not d.ticking:
            d.ticking = 1                  # the loop is likely to come: give it a tick
            d.tick_ns = TICK_FIRST_NS
            overdue = False
        elif d.ticking:
            if d.lead_count == seen:
                d.ticking = 0
            elif d.tick_ns < TICK_LAST_NS:
                d.tick_ns *= 2
    driver_unlock(d)
    return NULL


cdef bint change_links(driver_t *d, bint resume) noexcept nogil:
    """Let the links take what their owners prepared. Lock held; who looks at them without it is waited for: not long."""
    cdef uint32_t i
    cdef poller_t *p
    while d.spinning and not d.dead:
        kick_leader(d)
        let_callers_in(d)
        park_pause()
    if d.dead:
        return False
    for i in range(d.link_count):
        d.links[i].change(d.links[i])
    d.bells += 1
    if resume:
        stack_resume(d.stack, driver_now(d))
    driver_pass(d, driver_now(d), d.budget, 0)
    if d.leader != NULL:                   # everybody who sleeps does so on bells that are gone
        kick_leader(d)
    d.look = 1
    kick_service(d)
    p = d.pollers
    while p != NULL:
        if p.asleep and not p.rung:
            p.rung = 1
            ring(p.bell)
        p = p.next
    return True


cdef int start_service(driver_t *d) noexcept nogil:
    cdef sigset_t everything, before
    cdef pthread_attr_t attributes
    cdef int r
    sigfillset(&everything)
    sigdelset(&everything, SIGBUS)       # handled where memory is touched: rings/sigbus_guard.h
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, SERVICE_STACK)
    pthread_sigmask(SIG_SETMASK, &everything, &before)
    d.service_on = 1
    r = pthread_create(&d.thread, &attributes, service_main, d)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attributes)
    if r:
        d.service_on = 0
    else:
        pthread_setname_np(d.thread, "netstack")
    return r


cdef void stop(driver_t *d) noexcept nogil:
    """End the service thread and every wait. Lock not held."""
    cdef bint join
    park_lock(&d.lock)
    d.dead = 1
    d.stop = 1
    wake_all(d)
    if d.leader != NULL:
        kick_leader(d)                     # an event loop is nobody's waiter
    kick_service(d)
    join = d.service_on
    d.service_on = 0
    driver_unlock(d)
    if join:
        pthread_join(d.thread, NULL)


# --- Python -----------------------------------------------------------------------------------------------------------


_drivers = weakref.WeakSet()


def _in_child():
    """The memory of a parent's rings is not in the child: keep what owns it from touching it when it is collected."""
    global main_thread
    main_thread = threading.get_ident()
    cdef Driver driver
    for driver in list(_drivers):
        reporting_close(&driver.d.reporting)           # the parent's: it must not outlive the parent in us
        Py_INCREF(driver)
        Py_INCREF(driver.stack)
        Py_INCREF(driver.links)
    _drivers.clear()
    _plugin_bells.clear()                              # the thread that heard it is the parent's


# Algorithms in Python: one thread of the process, asleep until a stack has a report for one, asks them all. So a connection
# that only the standby thread works for has its algorithm too, and no lock is held while Python thinks.
_plugin_bells = []


def serve_plugins():
    """Start that thread, once there are both an algorithm and a driver, and let every stack ring for it."""
    cdef Driver driver
    if not _drivers:
        return
    if not _plugin_bells:
        bell = os.eventfd(0, os.EFD_CLOEXEC)
        _plugin_bells.append(bell)
        threading.Thread(target=_answer_plugins, args=(bell,), name="netstack-congestion", daemon=True).start()
    for driver in list(_drivers):
        driver.set_plugin_bell(_plugin_bells[0])


def _answer_plugins(bell):
    while True:
        os.read(bell, 8)
        for driver in list(_drivers):
            try:
                driver.run_plugins()
            except Exception:                          # of one driver: the others' connections need their answers
                logging.getLogger("netstack.congestion").exception("a host's algorithms were not asked")


cdef class Driver:
    """A stack with its links, a clock and who runs it.

    Parameters
    ----------
    stack : Stack
        The stack to drive; its links are the stack's.
    spin_us : float
        The longest look at the links before a waiting thread sleeps, microseconds; adapted downwards while it does not
        pay. 0 never spins. A process that may use one CPU only spins on links that say where their peer runs, as
        channels do: they tell whether the peer has a CPU of its own or must be let in between two looks.
    service : bool
        Run the standby thread. Without it acknowledgements and retransmissions wait for the next call.
    report : int
        A listening AF_UNIX SOCK_SEQPACKET descriptor, the driver's from here on, on which the standby thread answers
        ``netstack ss``; -1: none.
    virtual_ns : int
        The time, if it is virtual: it stands until `set_time` moves it. Nothing may wait then, and there is no standby
        thread. 0: the machine's clock.
    """

    def __cinit__(self, Stack stack not None, double spin_us=50.0, bint service=True, int report=-1, int64_t virtual_ns=0):
        cdef driver_t *d = &self.d
        cdef Link link
        memset(d, 0, sizeof(driver_t))
        d.leader_fd = d.service_fd = d.plugin_fd = d.epoll_fd = -1
        reporting_init(&d.reporting, report)
        self.stack = stack
        d.virtual_ns = virtual_ns
        self.links = list(stack.links)
        outside = self.links[:len(self.links) - 1]
        d.stack = stack.c
        d.generation = fork_generation
        d.next_deadline = d.service_wake_at = NEVER
        if len(self.links) > DRIVER_LINKS:
            raise ValueError(f"{len(self.links)} links: a host has at most {DRIVER_LINKS}")
        for link in outside:
            d.links[d.link_count] = &link.link
            d.link_count += 1
        link = self.links[len(self.links) - 1]
        d.loopback = &link.link
        d.short_budget = frames_of(outside, SHORT_BYTES)
        d.budget = frames_of(outside, PASS_BYTES)
        if doorbells_open(d) < 0:
            raise OSError(errno, os.strerror(errno))
        if spin_us > 0:
            d.spin_ns = d.spin_now_ns = <int64_t> (spin_us * 1000)
            d.one_cpu = len(os.sched_getaffinity(0)) == 1
        if service and not virtual_ns and start_service(d):
            raise OSError("the service thread could not be started")
        _drivers.add(self)
        if plugin.classes:
            serve_plugins()

    def __dealloc__(self):
        cdef driver_t *d = &self.d
        if driver_forked(d):
            return
        if not d.dead and d.stack != NULL:
            with nogil:
                stop(d)
        reporting_close(&d.reporting)
        doorbells_close(d)

    def close(self):
        """End the service thread; every waiting and every later call fails with EBADF. Twice is allowed."""
        cdef driver_t *d = &self.d
        if driver_forked(d) or d.dead:
            return
        with nogil:
            stop(d)
        reporting_close(&d.reporting)

    @property
    def virtual(self):
        """Whether its time is virtual."""
        return self.d.virtual_ns != 0

    def set_time(self, int64_t now_ns):
        """Virtual time goes on to that moment.

        Raises
        ------
        ValueError
            It lies in the past, or the time is not virtual.
        """
        if not self.d.virtual_ns or now_ns < self.d.virtual_ns:
            raise ValueError(f"{now_ns} ns: the time is {self.d.virtual_ns} ns")
        self.d.virtual_ns = now_ns

    def settle(self):
        """Let the stack do what it can at this moment. False: there was nothing to do."""
        cdef driver_t *d = &self.d
        cdef int64_t now = driver_now(d)
        cdef uint32_t i
        cdef bint due
        if d.dead:
            return False
        with nogil:
            park_lock(&d.lock)
            due = loopback_pending(d) or d.next_deadline <= now
            for i in range(d.link_count):
                due = due or d.links[i].has_input(d.links[i])
            if due:
                while driver_pass(d, now, d.budget, 0):
                    pass
            driver_unlock(d)
        return bool(due)

    def change_links(self, bint resume=False):
        """Let the links take what their owners prepared (`netstack.link.ChannelLink.renew`).

        Parameters
        ----------
        resume : bool
            The way out is there again: connections send at once what was lost meanwhile.

        Returns
        -------
        bool
            False: the host was closed, and nothing was done.
        """
        cdef driver_t *d = &self.d
        cdef bint done
        if driver_forked(d):
            return False
        with nogil:
            park_lock(&d.lock)
            done = change_links(d, resume)
            driver_unlock(d)
        return bool(done)

    @property
    def next_deadline(self):
        """When the stack or a link has something to do by itself, ns of its clock; None: never."""
        return None if self.d.next_deadline == NEVER else self.d.next_deadline

    def add_address(self, text, gateway=None):
        """As `netstack.stack.Stack.add_address`, under the lock."""
        with nogil:
            park_lock(&self.d.lock)
        try:
            stack_set_now(self.d.stack, driver_now(&self.d))
            self.stack.add_address(text, gateway)
        finally:
            driver_unlock(&self.d)

    def remove_address(self, text):
        """As `netstack.stack.Stack.remove_address`, under the lock."""
        with nogil:
            park_lock(&self.d.lock)
        try:
            self.stack.remove_address(text)
        finally:
            driver_unlock(&self.d)

    def source_address(self, destination):
        """As `netstack.stack.Stack.source_address`, under the lock; None in a forked child, whose stack is the parent's."""
        if driver_forked(&self.d):
            return None
        with nogil:
            park_lock(&self.d.lock)
        try:
            return self.stack.source_address(destination)
        finally:
            driver_unlock(&self.d)

    def learnt(self):
        """What routers have announced, read under the lock: name servers, search domains, whether DHCPv6 knows more."""
        if driver_forked(&self.d):
            return [], [], False
        with nogil:
            park_lock(&self.d.lock)
        try:
            return self.stack.name_servers, self.stack.search_domains, self.stack.other_configuration
        finally:
            driver_unlock(&self.d)

    def start_trace(self, records=65536):
        """As `netstack.stack.Stack.start_trace`, under the lock."""
        with nogil:
            park_lock(&self.d.lock)
        try:
            self.stack.start_trace(records)
        finally:
            driver_unlock(&self.d)

    def stop_trace(self):
        """As `netstack.stack.Stack.stop_trace`, under the lock."""
        with nogil:
            park_lock(&self.d.lock)
        try:
            return self.stack.stop_trace()
        finally:
            driver_unlock(&self.d)

    cdef void set_plugin_bell(self, int bell):
        cdef driver_t *d = &self.d
        if driver_forked(d) or d.dead:
            return
        with nogil:
            park_lock(&d.lock)
            d.stack.tcp.plugins_elsewhere = 1
            d.plugin_fd = bell
            driver_unlock(d)

    def run_plugins(self):
        """Ask the algorithms in Python of this stack's connections; what they allow is sent."""
        cdef driver_t *d = &self.d
        cdef report_t report
        cdef decision_t decision
        cdef plugin_t *p
        cdef bint agreed
        while not driver_forked(d):
            with nogil:
                park_lock(&d.lock)
                p = plugin_take(&d.stack.tcp, &report) if not d.dead else NULL
                if p == NULL:
                    d.plugins_rung = 0
                driver_unlock(d)
            if p == NULL:
                return
            if p.tcb == NULL:
                plugin_discard(p)
                continue
            agreed = plugin_decide(p, &report, &decision)
            with nogil:
                park_lock(&d.lock)
                if not d.dead:
                    stack_set_now(d.stack, driver_now(d))
                    if agreed:
                        plugin_apply(p, &decision)
                    else:
                        plugin_fail(p)
                    stack_settle(d.stack)
                    driver_settle(d)
                driver_unlock(d)

    def close_sockets(self):
        """Close every socket that programs still hold: threads that wait on one get EBADF."""
        cdef driver_t *d = &self.d
        cdef sock_t *sock
        if driver_forked(d) or d.dead:
            return
        with nogil:
            park_lock(&d.lock)
            stack_set_now(d.stack, driver_now(d))
            while d.owners != NULL:
                sock = d.owners.sock
                sock_lend_taken(d.stack, sock)
                sock.owner = NULL
                driver_abandon(d, d.owners)
                sock_close(d.stack, sock)
            driver_settle(d)
            driver_unlock(d)

    @property
    def closed(self):
        return bool(self.d.dead)

    @property
    def forked(self):
        """True in a child of the process that made it."""
        return driver_forked(&self.d)

    def linger(self, double seconds):
        """Drive until all data and FINs of closed sockets are acknowledged, at most ``seconds``. True: they are."""
        cdef driver_t *d = &self.d
        cdef waiter_t w
        cdef int64_t deadline
        cdef int r, step = 0
        if driver_forked(d) or d.dead:
            return True
        memset(&w, 0, sizeof(w))
        deadline = park_now_ns() + <int64_t> (seconds * 1e9)
        while True:
            with nogil:
                park_lock(&d.lock)
                r = driver_wait(d, &w, deadline, signal_slice(&step, park_now_ns()))
                driver_unlock(d)
            if r != WAIT_INTERRUPTED:
                return r != WAIT_TIMEOUT
            check_signals()

    def counters(self):
        """Who drove: segments by caller and by service thread, sleeps, spins, wake-ups. All since the start.

        ``ring_header_errors`` counts the records of channels that an error of the host's memory destroyed, ``link_outages``
        how often a router was gone and waited for, ``drop_link_down`` the packets that were sent meanwhile.
        """
        cdef driver_t *d = &self.d
        return {
            "segments_by_caller": d.stack.segments_by[0], "segments_by_service": d.stack.segments_by[1],
            "leads": d.lead_count, "hand_overs": d.hand_overs, "sleeps": d.sleeps, "spin_hits": d.spin_hits,
            "follower_wakes": d.follower_wakes, "leader_kicks": d.leader_kicks, "service_kicks": d.service_kicks,
            "service_passes": d.service_passes, "service_wakes": d.service_wakes,
            "reports_answered": d.reporting.answered, "reports_refused": d.reporting.refused,
            "ring_header_errors": sum([link_count(link, "header_errors") for link in self.links]),
            "link_outages": sum([link_count(link, "outages") for link in self.links]),
            "drop_link_down": sum([link_count(link, "dropped_down") for link in self.links]),
        }

    @property
    def sockets(self):
        """How many sockets programs hold open."""
        cdef owner_t *o
        cdef int n = 0
        park_lock(&self.d.lock)
        o = self.d.owners
        while o != NULL:
            n += 1
            o = o.next
        park_unlock(&self.d.lock)
        return n


cdef link_count(link, name):
    """What a channel counted, also under wrappers."""
    while (inner := getattr(link, "inner", None)) is not None:
        link = inner
    return link.stats().get(name, 0) if hasattr(link, "stats") else 0


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1


cdef int check_signals() except -1:
    return PyErr_CheckSignals()


cdef int frames_of(list links, int n_bytes):
    """Frames per pass and link that together are about ``n_bytes``."""
    cdef int largest = max([link.mtu for link in links], default=1500)
    return max(1, min(256, n_bytes // largest))


fork_generation = 0
main_thread = threading.main_thread().ident
if pthread_atfork(NULL, NULL, after_fork_in_child):
    raise OSError("pthread_atfork failed")
os.register_at_fork(after_in_child=_in_child)
plugin.watchers.append(serve_plugins)
