"""Event loops that drive a stack: they lead while they sleep in their own select, and look after many sockets at once.

A loop sleeps on the doorbells of the links, as any leader, and on a bell of its own, which whoever else makes one of its
sockets ready rings: another thread leads, or sends through the stack's loopback. Each poller keeps a list of the sockets
that may have something for it. What a socket's state really is, is looked at when the list is read (`poller_take`): a
socket stays in the list while it is ready, as in a level-triggered epoll.

All functions are called under the lock of the driver, and give it back held.
"""

from libc.stdint cimport int64_t, uint32_t

from netstack.driver cimport driver_t, owner_t, poller_t

cdef enum:                       # which of its descriptors woke a loop
    RANG_BELL = 1                # its own
    RANG_LEADER = 2              # the leader's
    RANG_LINK = 4                # a link's


cdef void poller_join(driver_t *d, poller_t *p) noexcept nogil
cdef void poller_part(poller_t *p) noexcept nogil            # sockets that it looked after are nobody's
# Hear of EVENT_* of a socket from now on; 0: no more.
cdef void poller_watch(poller_t *p, owner_t *o, uint32_t interest) noexcept nogil
# Something about a socket may have changed.
cdef void poller_note(driver_t *d, owner_t *o) noexcept nogil
# Before the loop sleeps until ``until``: False: it need not. ``wake_at`` is when the stack needs it. spin: look at the
# links for a while first, if that pays.
cdef bint poller_sleeps(poller_t *p, int64_t until, bint spin, int64_t *wake_at) noexcept nogil
# It woke, by RANG_*.
cdef void poller_woke(poller_t *p, uint32_t rang) noexcept nogil
# A look at the links without sleeping. True: a socket is ready.
cdef bint poller_look(poller_t *p) noexcept nogil
# The next socket of the list that is ready and its state, in turn; NULL: the one after ``last`` was the last.
cdef owner_t *poller_take(poller_t *p, uint32_t *state) noexcept nogil
