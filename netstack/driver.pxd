"""Who drives a stack: threads that wait take the lead, a standby service thread keeps time when nobody is inside.

The protocol, in short (``driver_wait``, ``driver_leave`` and ``service_main`` in driver.pyx are its three parts):

* One lock per stack. Everything below is read and written under it, but ``kick``, which the spinning leader reads.
* A thread that must wait becomes the leader when there is none: it drains the links, runs the timers, spins a little,
  arms the links' doorbells and sleeps. Other waiting threads are followers: each sleeps on a word of its own, which
  whoever makes its socket ready sets under the lock.
* The lead is taken, never given. A leader that leaves wakes nobody, it arms the doorbells for the service thread.
* Links are armed and disarmed under the lock. Arming says "input is there already" instead of losing a wake-up: the
  link stores its sleep word, fences, and looks at the ring again; the peer publishes, fences, and looks at the word.
* Wake-ups are collected under the lock and delivered after it.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.link.link cimport link_t
from netstack.readiness cimport ready_t
from netstack.sock cimport sock_t
from netstack.stack.core cimport stack_t


cdef extern from "netstack/park.h" nogil:
    ctypedef struct park_lock_t:
        pass
    ctypedef struct park_word_t:
        pass
    int64_t park_now_ns()
    void park_pause()
    uint32_t park_cpu()
    uint32_t park_load(park_word_t *w)
    void park_store(park_word_t *w, uint32_t v)
    uint32_t park_add(park_word_t *w, uint32_t v)
    int park_wait(park_word_t *w, uint32_t expected, int64_t until)
    void park_wake(park_word_t *w)
    int park_try(park_lock_t *l)
    int park_try_hard(park_lock_t *l)
    void park_lock(park_lock_t *l)
    void park_unlock(park_lock_t *l)


cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t


cdef enum:
    DRIVER_LINKS = 8
    DRIVER_WAKES = 16            # wake-ups collected under the lock before they are delivered one by one

cdef enum:                       # what driver_wait returns
    WAIT_READY = 0
    WAIT_TIMEOUT = 1
    WAIT_INTERRUPTED = 2         # a signal came, or the slice is over: let the interpreter look, then wait again
    WAIT_DEAD = 3                # the host was closed


cdef struct waiter_t:
    # On the stack of the waiting thread, linked here while it waits.
    waiter_t *previous
    waiter_t *next
    waiter_t *sibling            # next waiter of the same socket
    owner_t *owner               # NULL: waits until nothing lingers
    uint32_t events              # EVENT_* it waits for
    uint8_t lent                 # its buffer is lent to the socket
    park_word_t word             # 1: woken


cdef struct owner_t:
    # sock_t.owner: what the driver knows of a socket. Part of a Connection, which outlives its waiters.
    driver_t *driver
    sock_t *sock                 # NULL once closed
    waiter_t *waiters
    owner_t *previous            # all open sockets of the driver
    owner_t *next
    uint8_t cut_off              # a connection whose links are all dead
    uint8_t listed               # it stands in its event loop's list
    uint32_t interest            # EVENT_* that its event loop wants to hear of
    poller_t *poller             # the event loop that looks after it; NULL: none
    owner_t *listed_previous
    owner_t *listed_next
    void *tag                    # what the event loop calls it
    ready_t ready                # the descriptor that fileno() gave out, if it did


cdef struct poller_t:
    # An event loop that drives us while it sleeps on descriptors of its own; see pollers.pxd.
    driver_t *driver
    poller_t *next               # all of the driver
    owner_t *first               # sockets that may have something for it
    owner_t *last
    uint32_t count               # how many those are
    waiter_t waiter              # stands for it in driver_t.leader
    int bell                     # eventfd: rung when a socket became ready while it sleeps
    uint8_t asleep
    uint8_t rung
    uint8_t loose                # it is not told that it woke, and may be in a callback: others may take its lead
    uint32_t bells               # driver_t.bells, when it took the links' doorbells to sleep on


cdef struct report_cursor_t:
    # How far an answer has come.
    uint32_t socket_at           # next place in the stack's table of sockets
    uint32_t slot_at             # next slot of the demux: TIME-WAIT records
    uint32_t interface_at        # whose neighbours come next
    uint32_t entry_at            # and where in its table
    uint8_t section              # REPORT_*


cdef struct reporting_t:
    # Who is being told what sockets there are; see reporting.pxd.
    int listening                # -1: nobody can ask
    int client                   # who is being answered; -1: nobody
    int64_t until                # when the client is given up
    report_cursor_t at
    uint64_t answered
    uint64_t refused             # another user's, or too slow


cdef struct driver_t:
    park_lock_t lock
    stack_t *stack
    link_t *links[DRIVER_LINKS]  # the loopback is apart
    uint32_t link_count
    link_t *loopback             # NULL: none
    int short_budget             # frames per link and pass while the interpreter is held: about 16 KiB
    int budget                   # otherwise
    uint32_t generation          # of forks, when it was made
    uint8_t dead                 # closed: every call fails
    uint8_t links_dead           # no link is left that could carry anything
    uint32_t known_dead          # links whose death was noted, a bit each
    uint32_t bells               # rises when links get other doorbells behind the same numbers
    # --- who drives
    waiter_t *leader
    waiter_t *first              # all waiters
    waiter_t *last
    owner_t *owners              # all open sockets
    poller_t *pollers            # event loops
    uint32_t pollers_asleep
    uint32_t ready_fds           # sockets that gave out a descriptor: somebody may sleep on it
    int64_t next_deadline        # of stack and links
    int64_t virtual_ns           # the time, of a host on virtual time; 0: the machine's clock is right
    int64_t lead_wake_at         # when the sleeping leader wakes by itself; 0 while it is awake
    int64_t service_wake_at      # the same of the service thread
    uint64_t lead_count          # how often somebody led
    park_word_t kick             # tells a spinning leader to look
    uint8_t leader_asleep
    uint8_t loose                # the leader is such an event loop, and rests
    uint8_t service_hears        # the service thread listens to the doorbells of a loose leader, or looks soon
    uint8_t wake_leader          # to be delivered after the unlock
    uint8_t wake_service
    uint32_t wake_count
    park_word_t *wakes[DRIVER_WAKES]
    int leader_fd                # eventfd: wakes our own leader
    int service_fd               # eventfd: wakes the service thread
    int plugin_fd                # eventfd of the process's thread that asks algorithms in Python; -1: there is none
    uint8_t plugins_rung         # it was told and has not looked yet
    int leader_fds[DRIVER_LINKS] # of the links, -1: none
    int service_fds[DRIVER_LINKS]
    uint8_t kernel_fd[DRIVER_LINKS]  # one descriptor for both kinds: the kernel's, re-enabled for the service by epoll
    int epoll_fd                 # holds the kernel's descriptors for the service thread; -1: there is none
    # --- spinning
    int64_t spin_ns              # the most
    int64_t spin_now_ns          # what is worth trying now
    uint32_t spin_waits
    uint8_t one_cpu              # all this process may use
    uint32_t spinning            # who looks at the links without the lock: they may not change
    # --- service thread
    pthread_t thread
    uint8_t service_on
    uint8_t stop
    uint8_t ticking              # somebody leads now and then: only look whether this goes on
    int64_t tick_ns
    uint8_t look                 # the service thread is asked to act as if rung
    uint64_t rung_count          # lead_count when the service thread was last rung
    # --- netstack ss
    reporting_t reporting
    # --- counters
    uint64_t sleeps
    uint64_t spin_hits
    uint64_t hand_overs          # a leader left while others waited
    uint64_t follower_wakes
    uint64_t leader_kicks
    uint64_t service_kicks
    uint64_t service_passes
    uint64_t service_wakes


# What is taken under the lock for those who sleep without it.
cdef struct links_now_t:
    uint32_t dead                # the links that are dead, a bit each
    int peers[DRIVER_LINKS]      # of the others, descriptors of the processes behind them, -1: not known
    int asking                   # of who asks for reports, -1: nobody can
    uint8_t telling              # it is in the middle of one
    uint8_t hear                 # listen to the leader's doorbells too


# The lock. driver_unlock delivers the collected wake-ups.
cdef void driver_lock(driver_t *d) noexcept nogil
cdef void driver_unlock(driver_t *d) noexcept nogil
# One pass of the stack. who: 0 a caller, 1 the service thread. 1 when input is left. Lock held.
cdef int driver_pass(driver_t *d, int64_t now_ns, int budget, uint32_t who) noexcept nogil
# After a socket call under the lock: deliver what went to the loopback, collect events, look at the deadline.
cdef void driver_settle(driver_t *d) noexcept nogil
# Wait until the waiter's socket is ready. Lock held on entry and exit, interpreter not held.
cdef int driver_wait(driver_t *d, waiter_t *w, int64_t deadline, int64_t slice) noexcept nogil
# A socket comes under the driver's care, and leaves it (its waiters wake, its descriptor closes). Lock held.
cdef void driver_adopt(driver_t *d, owner_t *o, sock_t *sock) noexcept nogil
cdef void driver_abandon(driver_t *d, owner_t *o) noexcept nogil
# What holds of a socket now, EVENT_*. Lock held.
cdef uint32_t driver_state(driver_t *d, const owner_t *o) noexcept nogil
# The leader goes. Lock held.
cdef void driver_leave(driver_t *d) noexcept nogil
# Let the descriptor of a socket, if it has one, show its state; make one. Lock held.
cdef void driver_show(driver_t *d, owner_t *o) noexcept nogil
cdef int driver_fileno(driver_t *d, owner_t *o, int kind) noexcept nogil   # the descriptor, or -errno
cdef int driver_give_fd(driver_t *d, owner_t *o) noexcept nogil            # the socket has none any more
# How often this process is a child of one that had drivers.
cdef uint32_t fork_generation


cdef inline int64_t driver_now(const driver_t *d) noexcept nogil:
    return d.virtual_ns if d.virtual_ns else park_now_ns()


cdef inline bint loopback_pending(const driver_t *d) noexcept nogil:
    return d.loopback != NULL and d.loopback.has_input(d.loopback)


cdef inline bint driver_forked(const driver_t *d) noexcept nogil:
    """True in a child of the process that made the driver: nothing of it may be touched."""
    return d.generation != fork_generation


# When a blocking call of this thread must let the interpreter look for signals; NEVER outside the main thread.
cdef int64_t signal_slice(int *step, int64_t now_ns) noexcept nogil
cdef bint on_main_thread() noexcept nogil


cdef class Driver:
    cdef driver_t d
    cdef readonly object stack   # kept alive
    cdef list links
    cdef object __weakref__

    cdef void set_plugin_bell(self, int bell)
