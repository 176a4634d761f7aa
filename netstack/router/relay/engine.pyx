"""The relay's loop: it leads a stack that has every address, and sleeps for the stack and the kernel's sockets together.

One thread, without the interpreter from its start to its end. What control asks for (`Relay`'s methods) is done under the
driver's lock, which the thread holds but when it sleeps. Each flow has a bounded share of a round.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.unistd cimport close

from netstack.address cimport address_parse, address_t
from netstack.clock cimport NS_PER_S
from netstack.driver cimport (
    Driver, driver_adopt, driver_abandon, driver_settle, driver_t, driver_unlock, owner_t, park_lock, park_now_ns,
)
from netstack.ip.interface cimport packet_in_t
from netstack.link.link cimport NEVER
from netstack.pollers cimport (
    RANG_BELL, RANG_LEADER, RANG_LINK, poller_join, poller_look, poller_part, poller_sleeps, poller_take, poller_watch,
    poller_woke,
)
from netstack.router.relay.datagrams cimport datagram_arrives, datagram_ready, datagrams_sweep, echo_arrives
from netstack.router.relay.flows cimport (
    RELAY_TCP, RELAY_UDP, flow_bury, flow_end, flow_forget, flow_publish, flow_unqueue, flow_watch,
)
from netstack.router.relay.kernel cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, epoll_create1, epoll_ctl, epoll_wait, name_write,
)
from netstack.router.relay.state cimport (
    COUNTS, FLOW_FREE, FLOW_LISTENING, FLOW_OPEN, OTHER_PROTOCOL, RELAY_OWN, RELAY_PEERS, RELAY_PREFIXES,
    RELAY_SCRATCH, RELAY_SERVERS, flow_t, list_t,
)
from netstack.router.relay.streams cimport stream_arrives, stream_pump, stream_ready, streams_accept, streams_sweep
from netstack.sock cimport EVENT_IN, sock_t
from netstack.stack.core cimport stack_set_now
from netstack.stack.sockets cimport sock_close, sock_listen, sock_open
from netstack.tcp.tcb cimport tcb_t
from netstack.wire.ipv4 cimport PROTOCOL_ICMP
from netstack.wire.ipv6 cimport PROTOCOL_ICMPV6

import ipaddress
import os

from netstack.errors import ConfigError
from netstack.router.relay.state import Count

cdef extern from "<sys/eventfd.h>" nogil:
    ctypedef uint64_t eventfd_t
    int eventfd_read(int fd, eventfd_t *value)
    int eventfd_write(int fd, eventfd_t value)

cdef enum:
    BATCH = 64                   # descriptors a round
    PUMPS = 256                  # connections a round
    BACKLOG = 65535              # the limits of flows bound it
    OF_STACK = 1                 # kinds of descriptors that are no flow's: numbers that are no pointers
    OF_WAKE = 64

COUNTER_NAMES = [Count(i).name.lower() for i in range(<int> COUNTS)]


cdef bint divert(void *context, packet_in_t *packet) noexcept nogil:
    """A packet of a stack, whole and for one host: True when it ended here."""
    cdef relay_t *r = <relay_t *> context
    if packet.protocol == RELAY_TCP:
        return stream_arrives(r, packet)
    if packet.protocol == RELAY_UDP:
        return datagram_arrives(r, packet)
    if packet.protocol == PROTOCOL_ICMP or packet.protocol == PROTOCOL_ICMPV6:
        return echo_arrives(r, packet)
    r.counts[<int> OTHER_PROTOCOL] += 1
    return False                                       # the stack says that it does not speak it


cdef int register(relay_t *r, int fd, uint64_t kind) except -1:
    cdef epoll_event e
    e.events = EPOLLIN
    e.data.u64 = kind
    if epoll_ctl(r.epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0:
        raise OSError(errno, os.strerror(errno))
    return 0


@cython.no_gc_clear
cdef class Relay:
    """Ends the flows of other stacks on a stack of its own, and goes on with them over the kernel's sockets.

    Parameters
    ----------
    driver : Driver
        Of a stack with one link, without a service thread. The relay makes every address the stack's.
    own : iterable of str
        Addresses of the stack itself: names are asked for there, at port 53.
    streams, datagrams : int
        How many connections, and how many UDP ports and echo identifiers, there may be in all.
    client_streams, client_datagrams : int
        And of one address.
    idle_s : float
        After how many seconds without traffic a UDP port or echo identifier loses its socket.
    """

    def __cinit__(self, Driver driver not None, own=(), *, uint32_t streams=4096, uint32_t client_streams=1024,
                  uint32_t datagrams=2048, uint32_t client_datagrams=512, double idle_s=120.0):
        cdef driver_t *d = &driver.d
        cdef bytes secret = os.urandom(16)
        cdef sock_t *sock = NULL
        cdef uint32_t i
        cdef int status
        self.closed = True
        self.driver = driver
        self.duplicates = []
        if min(streams, client_streams, datagrams, client_datagrams) < 1:
            raise ConfigError("a relay without room for a single flow")
        self.r = <relay_t *> calloc(1, sizeof(relay_t))
        if self.r == NULL:
            raise MemoryError
        self.r.epoll_fd = self.r.wake_fd = self.r.poller.bell = -1
        self.r.scratch = <unsigned char *> malloc(RELAY_SCRATCH)
        if self.r.scratch == NULL:
            raise MemoryError
        memcpy(self.r.key, <const char *> secret, 16)
        self.r.driver = d
        self.r.stack = d.stack
        self.r.interface = d.stack.interfaces[0]
        self.r.limits.streams = streams
        self.r.limits.client_streams = client_streams
        self.r.limits.datagrams = datagrams
        self.r.limits.client_datagrams = client_datagrams
        self.r.limits.idle_ns = <int64_t> (idle_s * 1e9)
        for address in own:
            if self.r.own_count == RELAY_OWN:
                raise ConfigError(f"a relay has at most {<int> RELAY_OWN} addresses of its own")
            address_parse(address, &self.r.own[self.r.own_count])
            self.r.own_count += 1
        self.r.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.r.epoll_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.r.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.r.poller.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        watched = [self.r.poller.bell, d.leader_fd, *(d.leader_fds[i] for i in range(d.link_count) if d.leader_fds[i] >= 0)]
        register(self.r, self.r.wake_fd, OF_WAKE)
        for i, fd in enumerate(watched):
            self.duplicates.append(os.dup(fd))
            register(self.r, self.duplicates[i], OF_STACK + i)
        with nogil:
            park_lock(&d.lock)
            stack_set_now(d.stack, park_now_ns())
            status = sock_open(d.stack, 2, 1, 0, &sock)
            if status == 0:
                (<tcb_t *> sock).lport = 0
                driver_adopt(d, &self.r.listener, sock)
                status = sock_listen(d.stack, sock, BACKLOG)
            if status == 0:
                d.stack.demux.any_listener = <tcb_t *> sock
                self.r.interface.any_address = 1
                self.r.interface.divert_context = self.r
                self.r.interface.divert = divert
                poller_join(d, &self.r.poller)
                poller_watch(&self.r.poller, &self.r.listener, EVENT_IN)
            driver_unlock(d)
        if status < 0:
            raise OSError(-status, f"the relay cannot listen: {os.strerror(-status)}")
        self.closed = False

    def __dealloc__(self):
        if self.r == NULL:
            return
        self.close()
        for fd in (self.r.epoll_fd, self.r.wake_fd, self.r.poller.bell):
            if fd >= 0:
                close(fd)
        free(self.r.scratch)
        free(self.r)

    def close(self):
        """End all flows, those of the kernel by resets. The loop must have ended; the driver must not have."""
        cdef driver_t *d = &self.driver.d
        cdef list_t *lists[3]
        cdef int i
        if self.closed:
            return
        self.closed = True
        with nogil:
            park_lock(&d.lock)
            stack_set_now(d.stack, park_now_ns())
            lists[0] = &self.r.streams
            lists[1] = &self.r.datagrams
            lists[2] = &self.r.published
            for i in range(3):
                while lists[i].first != NULL:
                    flow_end(self.r, lists[i].first, True)
            flow_bury(self.r)
            d.stack.demux.any_listener = NULL
            self.r.interface.divert = NULL
            self.r.interface.any_address = 0
            poller_watch(&self.r.poller, &self.r.listener, 0)
            driver_settle(d)
            driver_abandon_listener(self.r)
            poller_part(&self.r.poller)
            driver_unlock(d)
        for fd in self.duplicates:
            os.close(fd)
        self.duplicates = []

    # --- control

    def wake(self):
        """Let `run` return."""
        eventfd_write(self.r.wake_fd, 1)

    def forget(self, address):
        """A stack is gone: everything of this address, or network, ends, towards the kernel by resets."""
        cdef address_t a
        cdef uint32_t bits = 128
        cdef driver_t *d = &self.driver.d
        if hasattr(address, "prefixlen"):
            bits -= address.max_prefixlen - address.prefixlen
            address = address.network_address
        address_parse(address, &a)
        if self.closed:
            return
        with nogil:
            park_lock(&d.lock)
            stack_set_now(d.stack, park_now_ns())
            flow_forget(self.r, &a, bits)
            driver_settle(d)
            driver_unlock(d)

    def set_servers(self, servers):
        """Name servers of the machine: list of (address, port), the first three count."""
        cdef driver_t *d = &self.driver.d
        cdef address_t found[RELAY_SERVERS]
        cdef uint16_t ports[RELAY_SERVERS]
        cdef int n = 0, i
        for address, port in servers[:<int> RELAY_SERVERS]:
            address_parse(address, &found[n])
            ports[n] = port
            n += 1
        with nogil:
            park_lock(&d.lock)
            for i in range(n):
                self.r.servers[i].address = found[i]
                self.r.servers[i].port = ports[i]
            self.r.server_count = n
            driver_unlock(d)

    def deny(self, network):
        """Destinations that are not served: an ``ipaddress`` network."""
        if self.r.denied_count == RELAY_PREFIXES:
            raise ConfigError(f"at most {<int> RELAY_PREFIXES} networks can be denied")
        address_parse(str(network.network_address), &self.r.denied[self.r.denied_count].address)
        self.r.denied[self.r.denied_count].length = network.prefixlen + (96 if network.version == 4 else 0)
        self.r.denied_count += 1

    def alias(self, shown, real):
        """What stacks call `shown` is `real` of the machine, such as its loopback."""
        if self.r.alias_count == RELAY_PREFIXES:
            raise ConfigError(f"at most {<int> RELAY_PREFIXES} addresses can stand for others")
        address_parse(shown, &self.r.aliases[self.r.alias_count].shown)
        address_parse(real, &self.r.aliases[self.r.alias_count].real)
        self.r.alias_count += 1

    def publish(self, int fd, bint stream, address, uint16_t port):
        """Give what arrives at a socket of the kernel, listening or bound, to a port of a stack. The descriptor is the
        relay's from now on, also when this fails."""
        cdef driver_t *d = &self.driver.d
        cdef address_t a
        cdef flow_t *f
        cdef int status = 0
        address_parse(address, &a)
        with nogil:
            park_lock(&d.lock)
            stack_set_now(d.stack, park_now_ns())
            f = flow_publish(self.r, 0 if stream else RELAY_UDP, &a, port)
            if f != NULL:
                f.fd = fd
                f.state = FLOW_LISTENING if stream else FLOW_OPEN
                f.target_length = name_write(&f.target, &a, 0)
                f.peers = NULL if stream else <uint16_t *> calloc(RELAY_PEERS, sizeof(uint16_t))
                status = flow_watch(self.r, f)
                if status or (f.peers == NULL and not stream):
                    flow_end(self.r, f, False)
                    f = NULL
            else:
                close(fd)
            driver_unlock(d)
        if f == NULL:
            raise OSError(status, os.strerror(status)) if status else MemoryError()

    # --- looking at it

    def counters(self):
        """What happened so far, by name, and how many flows there are now (``streams``, ``datagrams``)."""
        cdef driver_t *d = &self.driver.d
        cdef uint64_t counts[<int> COUNTS]
        cdef uint32_t streams, datagrams
        with nogil:
            park_lock(&d.lock)
            memcpy(counts, self.r.counts, sizeof(counts))
            streams = self.r.stream_count
            datagrams = self.r.datagram_count
            driver_unlock(d)
        out = dict(zip(COUNTER_NAMES, [counts[i] for i in range(<int> COUNTS)]))
        return {"streams": streams, "datagrams": datagrams, **out}

    # --- the loop

    cdef void dispatch(self, epoll_event *events, int n) noexcept nogil:
        """What the kernel's sockets have. Lock held."""
        cdef flow_t *f
        cdef int i
        for i in range(n):
            if events[i].data.u64 <= OF_WAKE:
                continue
            f = <flow_t *> events[i].data.ptr
            if f.state == FLOW_FREE:
                continue                               # it ended earlier in this round
            if f.protocol == RELAY_TCP or f.state == FLOW_LISTENING:
                stream_ready(self.r, f, events[i].events)
            else:
                datagram_ready(self.r, f, events[i].events)

    cdef bint work(self) noexcept nogil:
        """What connections of the stack have, in shares. Lock held. True: there was something."""
        cdef relay_t *r = self.r
        cdef flow_t *f
        cdef flow_t *end = r.again_last
        cdef owner_t *o
        cdef uint32_t state, n = r.poller.count, i
        cdef bint did = False
        for i in range(n if n < PUMPS else PUMPS):
            o = poller_take(&r.poller, &state)
            if o == NULL:
                break
            if state == 0:
                continue
            did = True
            if o == &r.listener:
                streams_accept(r)
            else:
                stream_pump(r, <flow_t *> o)
        while end != NULL:
            f = flow_unqueue(r)
            if f == NULL:
                break
            did = True
            if f == end:
                end = NULL
            if f.protocol == RELAY_TCP or f.state == FLOW_LISTENING:
                stream_pump(r, f)
            else:
                datagram_ready(r, f, 0)
        if did:
            driver_settle(r.driver)
        if r.stack.tcp.now_ns - r.swept_ns >= NS_PER_S:
            r.swept_ns = r.stack.tcp.now_ns
            streams_sweep(r)
            datagrams_sweep(r)
            driver_settle(r.driver)
            self.look = r.names_asked
            r.names_asked = 0
        return did

    cdef bint round(self) noexcept nogil:
        """Work, and sleep when there is nothing to do. False: control has to look at something."""
        cdef relay_t *r = self.r
        cdef driver_t *d = r.driver
        cdef epoll_event events[BATCH]
        cdef int64_t wake_at = NEVER, until = NEVER, now
        cdef uint32_t rang = 0
        cdef uint64_t which
        cdef eventfd_t count
        cdef bint busy, sleeps = False, woken = False
        cdef int timeout = 0, n, i
        self.rounds += 1
        park_lock(&d.lock)
        poller_look(&r.poller)
        busy = self.work()
        if r.again_first != NULL:
            busy = True
        if r.streams.first != NULL or r.datagrams.first != NULL or r.published.first != NULL:
            until = r.swept_ns + NS_PER_S
        if not busy:
            sleeps = poller_sleeps(&r.poller, until, True, &wake_at)
        driver_unlock(d)
        if sleeps and wake_at == NEVER:
            timeout = -1
        elif sleeps:
            now = park_now_ns()
            timeout = 0 if wake_at <= now else <int> min((wake_at - now + 999_999) // 1_000_000, <int64_t> 1_000_000)
        self.sleeps += sleeps
        n = epoll_wait(r.epoll_fd, events, BATCH, timeout)
        for i in range(n):
            which = events[i].data.u64
            if which == OF_WAKE:
                woken = True
                eventfd_read(r.wake_fd, &count)
            elif which < OF_WAKE:
                rang |= RANG_BELL if which == OF_STACK else RANG_LEADER if which == OF_STACK + 1 else RANG_LINK
        park_lock(&d.lock)
        if sleeps:
            poller_woke(&r.poller, rang)
        stack_set_now(d.stack, park_now_ns())
        if n > 0:
            self.dispatch(events, n)
            driver_settle(d)
        flow_bury(r)
        driver_unlock(d)
        woken |= self.look
        self.look = False
        return not woken

    def run(self):
        """Relay until `wake`, or until names were asked for: then tell it who the servers are (`set_servers`) and go on."""
        with nogil:
            while self.round():
                pass


cdef void driver_abandon_listener(relay_t *r) noexcept nogil:
    cdef sock_t *sock = r.listener.sock
    sock.owner = NULL
    driver_abandon(r.driver, &r.listener)
    sock_close(r.stack, sock)
