# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The memory and the thread of a router's data path, and what it counted. What it does per packet: ``routing``, ``rounds``."""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

import os

from netstack.errors import ConfigError
from netstack.router.budget cimport budget_init
from netstack.router.claims cimport claims_free, claims_leave
from netstack.router.counting cimport add_counters, counter_values, unbalanced, waiting
from netstack.router.counting import counter_names
from netstack.router.emulation cimport wire_free
from netstack.router.epoll cimport EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, epoll_create1, epoll_ctl, epoll_event
from netstack.router.policing cimport police_free
from netstack.router.port cimport DROP_DETACHED, port_clear_queue, port_counters_t, port_t
from netstack.router.rounds cimport close_descriptors, one_round, round_at, run
from netstack.router.routes cimport routes_free, routes_init
from netstack.router.state cimport enter, forwarder_t, leave, PACKET_BYTES, pthread_mutex_t, pthread_t
from netstack.router.table cimport table_free, table_init
from netstack.router.uplink cimport uplink_free, uplink_of
from rings.doorbell cimport doorbell_kick, doorbell_spin_init

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *, const void *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    int pthread_create(pthread_t *, const void *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)
    int pthread_setname_np(pthread_t, const char *)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *)
    int sigdelset(sigset_t *, int)
    int pthread_sigmask(int, const sigset_t *, sigset_t *)
    enum: SIG_SETMASK
    enum: SIGBUS

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int, int)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef extern from * nogil:
    """
    #define forwarder_store_flag(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    void forwarder_store_flag(bint *, bint)


cdef class DataPath:
    """What there is of a `Forwarder` before it has ports: its parameters are described there."""

    def __cinit__(self, networks=(), router_address=(), *, uint32_t max_ports=1024, uint64_t queue_limit=1 << 20,
                  int64_t spin_us=50, bint fair=True, bint codel=False, bint budget=True, str greedy="off"):
        cdef bytes secret = os.urandom(16)
        cdef forwarder_t *f
        cdef epoll_event event
        self._keep = {}
        self._mirrored = {}
        if not 1 <= max_ports <= 65535:
            raise ConfigError(f"max_ports {max_ports}: 1 to 65535")
        f = self.f = <forwarder_t *> calloc(1, sizeof(forwarder_t))
        if f == NULL:
            raise MemoryError
        f.epoll_fd = f.wake_fd = f.event_fd = -1
        pthread_mutex_init(&f.gate, NULL)
        pthread_mutex_init(&f.main, NULL)
        routes_init(&f.routes)
        f.max_ports = max_ports
        f.queue_limit = queue_limit
        f.fair = fair
        f.codel = codel
        budget_init(f, budget)
        f.cpus = len(os.sched_getaffinity(0))
        f.next_generation = 1
        doorbell_spin_init(&f.spin, spin_us * 1000 if f.cpus > 1 else 0)
        f.slots = <port_t **> calloc(max_ports, sizeof(port_t *))
        f.active = <port_t **> calloc(max_ports, sizeof(port_t *))
        f.scratch = <uint8_t *> malloc(PACKET_BYTES)
        if f.slots == NULL or f.active == NULL or f.scratch == NULL or table_init(&f.table, <const uint64_t *> <char *> secret) != 0:
            raise MemoryError
        f.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        f.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        f.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if f.epoll_fd < 0 or f.wake_fd < 0 or f.event_fd < 0:
            raise OSError(errno, os.strerror(errno))
        event.events = EPOLLIN
        event.data.u64 = 0
        if epoll_ctl(f.epoll_fd, EPOLL_CTL_ADD, f.wake_fd, &event) != 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        cdef uint32_t i
        cdef forwarder_t *f = self.f
        if f == NULL:
            return
        if f.running:
            self.stop()
        for i in range(f.n_active):
            port_clear_queue(f.active[i], DROP_DETACHED)
            wire_free(f.active[i].wire)
            uplink_free(uplink_of(f.active[i]))
            if f.claims != NULL:
                claims_leave(f.claims, f.active[i], 0)
            free(f.active[i].mirror)
            free(f.active[i].limit)
            free(f.active[i])
        claims_free(f.claims)
        free(f.slots)
        free(f.scratch)
        free(f.active)
        police_free(self._police)
        table_free(&f.table)
        routes_free(&f.routes)
        close_descriptors(f)
        pthread_mutex_destroy(&f.gate)
        pthread_mutex_destroy(&f.main)
        free(f)

    # ---- running

    def start(self):
        """Start the data thread."""
        cdef sigset_t every, before
        cdef int status
        if self.f.running:
            return
        self.f.stopping = False
        sigfillset(&every)
        sigdelset(&every, SIGBUS)            # handled where memory is touched: rings/sigbus_guard.h
        pthread_sigmask(SIG_SETMASK, &every, &before)
        status = pthread_create(&self.f.thread, NULL, run, self.f)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if status != 0:
            raise OSError(status, f"cannot start the forwarding thread: {os.strerror(status)}")
        self.f.running = True
        pthread_setname_np(self.f.thread, b"netstack-router")

    def stop(self):
        """Stop the data thread and wait for it; what waits in rings stays there."""
        if not self.f.running:
            return
        forwarder_store_flag(&self.f.stopping, True)
        with nogil:
            doorbell_kick(self.f.wake_fd)
            pthread_join(self.f.thread, NULL)
        self.f.running = False

    def close(self):
        """Stop, and close the descriptors; counters can still be read. The ports must have been removed."""
        self.stop()
        close_descriptors(self.f)

    def run_once(self, now_ns=None):
        """One round in the calling thread (without `start`), at a time of any clock; returns how many packets it took."""
        cdef int n
        cdef int64_t now = -1 if now_ns is None else now_ns
        with nogil:
            n = one_round(self.f) if now < 0 else round_at(self.f, now)
        return n

    def fileno(self):
        """An eventfd that is readable when a port failed: read it, then ask `failed`."""
        return self.f.event_fd

    # ---- ports and counters

    cdef port_t *port(self, uint64_t ident) except NULL:
        cdef uint32_t slot = ident & 0xffff
        if slot >= self.f.max_ports or self.f.slots[slot] == NULL or self.f.slots[slot].id != ident:
            raise KeyError(f"no port {ident}")
        return self.f.slots[slot]

    def has_port(self, uint64_t ident):
        """Is there a port of that number?"""
        return ident in self._keep

    def state(self, uint64_t ident):
        """`PortState` of a port."""
        return self.port(ident).state

    def mtu(self, uint64_t ident):
        """Largest packet that a port takes, bytes."""
        return self.port(ident).mtu

    def queue_bytes(self, uint64_t ident):
        """Private memory that waits for a port."""
        return self.port(ident).queue_bytes

    def values(self, uint64_t ident=0):
        """Counters of a port, or of the whole router (0), in the order of `counter_names`."""
        cdef port_counters_t total
        cdef uint64_t queued = 0
        cdef uint32_t i
        cdef port_t *port = NULL
        if ident:
            port = self.port(ident)
        with nogil:
            enter(self.f)
            if port != NULL:
                total = port.counters
                queued = waiting(port)
            else:
                total = self.f.retired
                for i in range(self.f.n_active):
                    add_counters(&total, &self.f.active[i].counters)
                    queued += waiting(self.f.active[i])
            leave(self.f)
        return counter_values(&total, queued)

    def counters(self, uint64_t ident=0):
        """Counters of a port, or of the whole router, by name."""
        return dict(zip(counter_names(), self.values(ident)))

    def check_conservation(self):
        """Packets in = packets out + drops, for every port and for the router, at one moment.

        Returns
        -------
        list of str
            The laws that do not hold: empty.
        """
        cdef list broken = []
        cdef port_counters_t total
        cdef port_counters_t *c
        cdef uint32_t i
        with nogil:
            enter(self.f)
        try:
            total = self.f.retired
            unbalanced(&total, 0, "retired", broken)
            for i in range(self.f.n_active):
                c = &self.f.active[i].counters
                unbalanced(c, waiting(self.f.active[i]), f"port {self.f.active[i].id}", broken)
                add_counters(&total, c)
            if total.forwarded + total.generated + total.split != total.to_packets:
                broken.append(f"router: forwarded {total.forwarded} + generated {total.generated} + split {total.split} != "
                              f"handed over {total.to_packets}")
        finally:
            leave(self.f)
        return broken

    @property
    def rounds(self):
        return self.f.rounds

    @property
    def sleeps(self):
        """How often the data thread went to sleep."""
        return self.f.sleeps

    @property
    def ports(self):
        """How many ports are in service."""
        return self.f.n_active
