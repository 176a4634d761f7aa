"""Two stacks and a C caller: the measured loops without Python in them.

Each function makes what it needs, runs, and returns a dictionary of plain numbers. Those of two processes fork; the
child takes CPU 1, the parent CPU 0, both spin, and they meet in a piece of shared memory.
"""

import mmap
import os
import random
import signal

from libc.errno cimport EAGAIN, EINPROGRESS
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from netstack.address cimport address_parse, endpoint_t
from netstack.clock cimport NEVER
from netstack.link.link cimport Link, link_t
from netstack.link.queue cimport queue_link_pop, queue_link_push
from netstack.sock cimport EVENT_IN, EVENT_OUT, sock_t
from netstack.stack.core cimport stack_advance, stack_next_event, stack_process, stack_set_now, stack_t
from netstack.stack.sockets cimport (
    sock_accept, sock_bind, sock_close, sock_connect, sock_lend, sock_lend_taken, sock_listen, sock_open, sock_poll,
    sock_recv, sock_recvfrom, sock_send, sock_sendto, sock_setsockopt, sock_shutdown,
)
from netstack.stack.stack cimport Stack
from netstack.tcp.tcb cimport ESTABLISHED, request_t, tcb_t

from netstack.link import QueueLink, Wire, channel_pair
from netstack.stack import Stack as MakeStack
from netstack.testing import build_tcp

CPUS = sorted(os.sched_getaffinity(0))

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<time.h>" nogil:
    enum: CLOCK_THREAD_CPUTIME_ID

cdef enum:
    PORT = 5001
    BUDGET = 256                 # frames a pass
    TCP_NODELAY = 1
    CHUNK = 262144               # bytes an application call moves in bulk rows


cdef int64_t clock_ns(int which) noexcept nogil:
    cdef timespec t
    clock_gettime(which, &t)
    return <int64_t> t.tv_sec * 1000000000 + t.tv_nsec


cdef inline int64_t now() noexcept nogil:
    return clock_ns(CLOCK_MONOTONIC)


cdef bint polite = False         # more parties than cores: whoever finds nothing lets others run


def set_polite(bint value):
    """Yield the CPU after every turn that brought nothing."""
    global polite
    polite = value


cdef inline void pass_over(stack_t *stack, int64_t now_ns) noexcept nogil:
    """What a driver does in one turn: input, timers, output; events are the caller's to poll."""
    cdef uint64_t before = stack.tcp.counters.packets_in
    stack_process(stack, now_ns, BUDGET)
    while stack_next_event(stack) != NULL:
        pass
    if polite and stack.tcp.counters.packets_in == before:
        sched_yield()


# --- what two processes share ----------------------------------------------------------------------------------------

cdef struct meeting_t:
    int64_t ready                # the child may be talked to
    int64_t stop                 # the parent is done
    int64_t count                # what the child counted, published when it stops
    int64_t ended_ns
    int64_t failed


cdef class Meeting:
    cdef object memory
    cdef meeting_t *m

    def __init__(self):
        cdef uint8_t[::1] view
        self.memory = mmap.mmap(-1, 4096)
        view = self.memory
        self.m = <meeting_t *> &view[0]


cdef inline void store(int64_t *p, int64_t value) noexcept nogil:
    (<volatile_i64 *> p)[0] = value


cdef inline int64_t load(int64_t *p) noexcept nogil:
    return (<volatile_i64 *> p)[0]

cdef extern from *:
    """
    typedef volatile int64_t volatile_i64;
    """
    ctypedef int64_t volatile_i64


def pin(cpu):
    """Keep this process on one of the CPUs it began with, where there are so many."""
    if len(CPUS) > cpu:
        os.sched_setaffinity(0, {CPUS[cpu]})


cdef class Pair:
    """Two stacks, 10.0.0.1 and 10.0.0.2, over one link; sockets made in C."""
    cdef readonly Stack a
    cdef readonly Stack b
    cdef object links
    cdef public object child

    def __init__(self, links, mtu, sysctl=None, a_address="10.0.0.1", b_address="10.0.0.2"):
        self.links = links
        if isinstance(a_address, str):
            a_address = (a_address,)
        self.a = MakeStack(links=[links[0]], addresses=tuple(a + "/24" for a in a_address), mtu=mtu, seed=1,
                           sysctl=sysctl or {})
        self.b = MakeStack(links=[links[1]], addresses=b_address + "/24", mtu=mtu, seed=2, sysctl=sysctl or {})


cdef void endpoint(endpoint_t *e, text, port):
    address_parse(text, &e.address)
    e.port = port


cdef sock_t *listening(Stack stack, text, port, backlog=128) except NULL:
    cdef sock_t *s
    cdef endpoint_t e
    endpoint(&e, text, port)
    stack_set_now(stack.c, now())
    if sock_open(stack.c, 2, 1, 0, &s) or sock_bind(stack.c, s, &e) or sock_listen(stack.c, s, backlog):
        raise OSError("listen failed")
    return s


cdef sock_t *connecting(Stack stack, text, port, bint nodelay=False) except NULL:
    cdef sock_t *s
    cdef endpoint_t e
    cdef int one = 1
    endpoint(&e, text, port)
    stack_set_now(stack.c, now())
    if sock_open(stack.c, 2, 1, 0, &s):
        raise OSError("socket failed")
    if nodelay:
        sock_setsockopt(stack.c, s, 6, TCP_NODELAY, <uint8_t *> &one, 4)
    if sock_connect(stack.c, s, &e) != -EINPROGRESS:
        raise OSError("connect failed")
    return s


cdef int wait_established(stack_t *stack, sock_t *s, int64_t timeout_ns) noexcept nogil:
    cdef int64_t t = now(), end = t + timeout_ns
    while (<tcb_t *> s).state != ESTABLISHED:
        t = now()
        if t > end:
            return -1
        pass_over(stack, t)
    return 0


cdef sock_t *wait_accept(stack_t *stack, sock_t *listener, int64_t timeout_ns) noexcept nogil:
    cdef sock_t *s = NULL
    cdef int64_t t = now(), end = t + timeout_ns
    while sock_accept(stack, listener, &s) != 0:
        t = now()
        if t > end:
            return NULL
        pass_over(stack, t)
    return s


def make_links(kind, mtu, capacity=None, checksum=True):
    """``"wire"``: in-process queue; ``"channel"``: shared memory."""
    if kind == "wire":
        return tuple(Wire(mtu=mtu))
    return channel_pair(capacity=capacity, mtu=mtu, checksum=checksum)


# --- one thread ------------------------------------------------------------------------------------------------------

def segment(kind="channel", mtu=1500, total=64 << 20, chunk=65536, bint lend=True, sysctl=None):
    """Bulk data through two stacks of one thread: CPU time of both ends per data segment, acknowledgements included."""
    cdef Pair pair = Pair(make_links(kind, mtu), mtu, sysctl)
    cdef stack_t *a = pair.a.c
    cdef stack_t *b = pair.b.c
    cdef sock_t *listener = listening(pair.b, "10.0.0.2", PORT)
    cdef sock_t *out = connecting(pair.a, "10.0.0.2", PORT)
    cdef sock_t *into = NULL
    cdef int64_t t = now(), started, wall
    cdef uint64_t sent = 0, got = 0, goal = total, size = chunk, segments, acks, at_most = 0
    cdef ssize_t n
    cdef uint8_t *source = <uint8_t *> calloc(1, chunk)
    cdef uint8_t *target = <uint8_t *> calloc(1, chunk)
    cdef int i
    for i in range(50):
        pass_over(a, now())
        pass_over(b, now())
        if into == NULL:
            sock_accept(b, listener, &into)
    if into == NULL:
        raise RuntimeError("no connection")
    # warm up: slow start, buffers
    cdef int stage
    cdef uint64_t until
    for stage in range(2):
        until = got + (goal if stage else goal // 8)
        started = clock_ns(CLOCK_THREAD_CPUTIME_ID)
        wall = now()
        segments = a.tcp.counters.tcp_segments_out
        acks = b.tcp.counters.tcp_segments_out
        with nogil:
            while got < until:
                t = now()
                stack_set_now(a, t)
                n = sock_send(a, out, source, size, 0)
                if lend:
                    sock_lend(b, into, target, size)
                pass_over(b, t)
                if lend:
                    got += sock_lend_taken(b, into)
                while True:
                    n = sock_recv(b, into, target, size, 0)
                    if n <= 0:
                        break
                    got += n
                pass_over(a, t)
        started = clock_ns(CLOCK_THREAD_CPUTIME_ID) - started
        wall = now() - wall
        segments = a.tcp.counters.tcp_segments_out - segments
        acks = b.tcp.counters.tcp_segments_out - acks
    free(source)
    free(target)
    return {"ns": <double> started / segments, "segments": segments, "acks": acks, "bytes": goal,
            "gbit_s": <double> goal * 8 / started, "wall_ns": wall,
            "retransmits": a.tcp.counters.tcp_retransmits, "fast_path": b.tcp.counters.tcp_fast_path}


def count_segments(segments, bint lend=False, kind="channel"):
    """So many data segments through two stacks of one thread on virtual time: for counting instructions."""
    cdef Pair pair = Pair(make_links(kind, 1500), 1500)
    cdef stack_t *a = pair.a.c
    cdef stack_t *b = pair.b.c
    cdef sock_t *listener = listening(pair.b, "10.0.0.2", PORT)
    cdef sock_t *out = connecting(pair.a, "10.0.0.2", PORT)
    cdef sock_t *into = NULL
    cdef int64_t t = now() + <int64_t> 3600 * 1000000000
    cdef uint64_t got = 0, goal = 1448 * <uint64_t> segments
    cdef size_t size = 65160                           # 45 whole segments
    cdef ssize_t n
    cdef uint8_t *source = <uint8_t *> calloc(1, size)
    cdef uint8_t *target = <uint8_t *> calloc(1, size)
    while into == NULL:
        t += 1000
        pass_over(a, t)
        pass_over(b, t)
        sock_accept(b, listener, &into)
    while got < goal:
        t += 10000
        stack_set_now(a, t)
        sock_send(a, out, source, size, 0)
        if lend:
            sock_lend(b, into, target, size)
        pass_over(b, t)
        if lend:
            got += sock_lend_taken(b, into)
        while True:
            n = sock_recv(b, into, target, size, 0)
            if n <= 0:
                break
            got += n
        pass_over(a, t)
    free(source)
    free(target)
    return a.tcp.counters.tcp_segments_out


# --- two processes ---------------------------------------------------------------------------------------------------

cdef void child_bulk(stack_t *b, sock_t *listener, meeting_t *m, uint8_t *target, size_t size, bint lend) noexcept nogil:
    cdef sock_t *s = wait_accept(b, listener, <int64_t> 20 * 1000000000)
    cdef int64_t t = 0, end
    cdef ssize_t n
    cdef uint64_t got = 0
    if s == NULL:
        store(&m.failed, 1)
        return
    end = now() + <int64_t> 60 * 1000000000
    while t < end:
        t = now()
        if lend:
            sock_lend(b, s, target, size)
        pass_over(b, t)
        n = 0
        if lend:
            n = <ssize_t> sock_lend_taken(b, s)
            got += n
        if n == 0:
            n = sock_recv(b, s, target, size, 0)
            if n == 0:
                break
            if n > 0:
                got += n
    store(&m.count, got)
    store(&m.ended_ns, now())
    sock_close(b, s)
    store(&m.ready, 2)
    end = now() + 200000000
    while now() < end and not load(&m.stop):
        pass_over(b, now())


def bulk(mtu=1500, seconds=0.5, kind="channel", capacity=None, chunk=CHUNK, bint lend=True, sysctl=None, bint checksum=True,
         links=None, addresses=("10.0.0.1", "10.0.0.2")):
    """One TCP direction, two processes: Gbit/s of payload from the first send to the receiver's end of file."""
    cdef Pair pair = Pair(links or make_links(kind, mtu, capacity, checksum), mtu, sysctl, *addresses)
    cdef Meeting meeting = Meeting()
    cdef sock_t *listener = listening(pair.b, addresses[1], PORT)
    cdef uint8_t *data = <uint8_t *> calloc(1, chunk)
    cdef size_t size = chunk
    cdef sock_t *s
    cdef int64_t t, end, started
    cdef stack_t *a = pair.a.c
    cdef uint64_t segments
    pid = os.fork()
    if pid == 0:
        try:
            pin(1)
            keep = adopt(pair, 1)
            child_bulk(pair.b.c, listener, meeting.m, data, size, lend)
        finally:
            os._exit(0)
    pin(0)
    s = connecting(pair.a, addresses[1], PORT)
    try:
        if wait_established(a, s, <int64_t> 20 * 1000000000):
            raise RuntimeError("no connection")
        started = now()
        end = started + <int64_t> (seconds * 1e9)
        segments = a.tcp.counters.tcp_segments_out
        with nogil:
            t = started
            while t < end:
                t = now()
                pass_over(a, t)
                sock_send(a, s, data, size, 0)
            sock_shutdown(a, s, 1)
            end = t + <int64_t> 20 * 1000000000
            while load(&meeting.m.ready) != 2 and t < end and not load(&meeting.m.failed):
                t = now()
                pass_over(a, t)
            store(&meeting.m.stop, 1)
        if load(&meeting.m.ready) != 2:
            raise RuntimeError("the receiver did not come to the end")
    finally:
        os.waitpid(pid, 0)
        free(data)
    took = load(&meeting.m.ended_ns) - started
    return {"gbit_s": load(&meeting.m.count) * 8 / took, "bytes": load(&meeting.m.count),
            "retransmits": a.tcp.counters.tcp_retransmits, "segments": a.tcp.counters.tcp_segments_out - segments,
            "acks": a.tcp.counters.tcp_segments_in}


cdef object adopt(Pair pair, int which):
    """In the child: take over the link's memory, in the place where the stack looks for it."""
    cdef Link old = pair.links[which]
    cdef Link fresh
    if not hasattr(old, "adopt"):
        return None
    fresh = old.adopt()
    memcpy(&old.link, &fresh.link, sizeof(old.link))
    return fresh


cdef object run_child(Pair pair, object body):
    """Fork; the child pins itself to CPU 1, takes over its side of the link, runs *body* and is gone."""
    pid = os.fork()
    if pid == 0:
        try:
            pin(1)
            keep = adopt(pair, 1)
            body()
        finally:
            os._exit(0)
    pin(0)
    return pid


cdef void finish(stack_t *stack, meeting_t *m) noexcept nogil:
    """The child goes on answering until the parent has seen what it came for."""
    cdef int64_t end = now() + <int64_t> 5 * 1000000000
    while not load(&m.stop) and now() < end:
        pass_over(stack, now())


cdef void child_echo(stack_t *b, sock_t *listener, meeting_t *m, uint8_t *data) noexcept nogil:
    cdef sock_t *s = wait_accept(b, listener, <int64_t> 20 * 1000000000)
    cdef ssize_t n = -1
    cdef int one = 1
    if s == NULL:
        return
    sock_setsockopt(b, s, 6, TCP_NODELAY, <uint8_t *> &one, 4)
    while n != 0 and not load(&m.stop):
        pass_over(b, now())
        n = sock_recv(b, s, data, 65536, 0)
        if n > 0:
            sock_send(b, s, data, n, 0)


def pingpong(double seconds=0.3, size=64, mtu=1500, kind="channel", links=None, addresses=("10.0.0.1", "10.0.0.2")):
    """Round trips of *size* bytes, both sides spinning: microseconds each."""
    cdef Pair pair = Pair(links or make_links(kind, mtu), mtu, None, *addresses)
    cdef Meeting meeting = Meeting()
    cdef sock_t *listener = listening(pair.b, addresses[1], PORT)
    cdef uint8_t *data = <uint8_t *> calloc(1, 65536)
    cdef stack_t *a = pair.a.c
    cdef stack_t *b = pair.b.c
    cdef sock_t *s
    cdef size_t message = size, got
    cdef ssize_t n
    cdef int64_t t, end, started, trips = 0
    pid = run_child(pair, lambda: child_echo(b, listener, meeting.m, data))
    try:
        s = connecting(pair.a, addresses[1], PORT, True)
        if wait_established(a, s, <int64_t> 20 * 1000000000):
            raise RuntimeError("no connection")
        with nogil:
            started = now()
            t = started
            end = started + <int64_t> (seconds * 1e9)
            while t < end:
                sock_send(a, s, data, message, 0)
                got = 0
                while got < message and t < end + 1000000000:
                    t = now()
                    pass_over(a, t)
                    n = sock_recv(a, s, data, message - got, 0)
                    if n > 0:
                        got += n
                trips += 1
            store(&meeting.m.stop, 1)
    finally:
        store(&meeting.m.stop, 1)
        os.waitpid(pid, 0)
        free(data)
    return {"us": (t - started) / 1e3 / trips, "trips": trips}


cdef void child_serve(stack_t *b, sock_t **listeners, int n_listeners, meeting_t *m) noexcept nogil:
    """Accepts, waits for the end of each stream, closes."""
    cdef sock_t *live[256]
    cdef uint8_t data[64]
    cdef int n_live = 0, i
    cdef ssize_t n
    while not load(&m.stop):
        pass_over(b, now())
        for i in range(n_listeners):
            while n_live < 256 and sock_accept(b, listeners[i], &live[n_live]) == 0:
                n_live += 1
        i = 0
        while i < n_live:
            n = sock_recv(b, live[i], data, 64, 0)
            if n == -EAGAIN:
                i += 1
                continue
            sock_close(b, live[i])
            n_live -= 1
            live[i] = live[n_live]


def connect_close(double seconds=0.3, ports=16, kind="channel", links=None, addresses=("10.0.0.1", "10.0.0.2")):
    """Connect, FIN of the client, FIN of the server, close: how often a second, one after the other."""
    cdef Pair pair = Pair(links or make_links(kind, 1500), 1500, None, *addresses)
    cdef Meeting meeting = Meeting()
    cdef sock_t *listeners[64]
    cdef stack_t *a = pair.a.c
    cdef stack_t *b = pair.b.c
    cdef sock_t *s
    cdef uint8_t data[64]
    cdef endpoint_t e
    cdef int i, n_ports = ports
    cdef int64_t t, end, started, count = 0
    cdef bint failed = False
    for i in range(n_ports):
        listeners[i] = listening(pair.b, addresses[1], PORT + i, 1024)
    endpoint(&e, addresses[1], PORT)
    pid = run_child(pair, lambda: child_serve(b, listeners, n_ports, meeting.m))
    try:
        with nogil:
            started = now()
            t = started
            end = started + <int64_t> (seconds * 1e9)
            while t < end and not failed:
                t = now()
                stack_set_now(a, t)
                e.port = <uint16_t> (PORT + count % n_ports)
                if sock_open(a, 2, 1, 0, &s) or sock_connect(a, s, &e) != -EINPROGRESS:
                    failed = True
                    break
                if wait_established(a, s, 1000000000):
                    failed = True
                    break
                sock_shutdown(a, s, 1)
                while sock_recv(a, s, data, 64, 0) != 0:
                    t = now()
                    pass_over(a, t)
                    if t > end + 1000000000:
                        failed = True
                        break
                sock_close(a, s)
                count += 1
            t = now()
    finally:
        store(&meeting.m.stop, 1)
        os.waitpid(pid, 0)
    if failed:
        raise RuntimeError(f"stopped after {count} connections")
    return {"per_s": count * 1e9 / (t - started), "connections": count}


def messages(double seconds=0.3, size=64, mtu=1500, bint nodelay=True, kind="channel", links=None,
             addresses=("10.0.0.1", "10.0.0.2")):
    """A stream written in pieces of *size* bytes, one call each: pieces a second at the receiver."""
    cdef Pair pair = Pair(links or make_links(kind, mtu), mtu, None, *addresses)
    cdef Meeting meeting = Meeting()
    cdef sock_t *listener = listening(pair.b, addresses[1], PORT)
    cdef uint8_t *data = <uint8_t *> calloc(1, CHUNK)
    cdef stack_t *a = pair.a.c
    cdef stack_t *b = pair.b.c
    cdef sock_t *s
    cdef size_t message = size
    cdef int64_t t, end, started
    cdef int i
    pid = run_child(pair, lambda: child_bulk(b, listener, meeting.m, data, CHUNK, False))
    try:
        s = connecting(pair.a, addresses[1], PORT, nodelay)
        if wait_established(a, s, <int64_t> 20 * 1000000000):
            raise RuntimeError("no connection")
        with nogil:
            started = now()
            t = started
            end = started + <int64_t> (seconds * 1e9)
            while t < end:
                t = now()
                pass_over(a, t)
                for i in range(16):
                    if sock_send(a, s, data, message, 0) < 0:
                        break
            sock_shutdown(a, s, 1)
            end = t + <int64_t> 20 * 1000000000
            while load(&meeting.m.ready) != 2 and t < end:
                t = now()
                pass_over(a, t)
    finally:
        store(&meeting.m.stop, 1)
        os.waitpid(pid, 0)
        free(data)
    if load(&meeting.m.ready) != 2:
        raise RuntimeError("the receiver did not come to the end")
    return {"per_s": load(&meeting.m.count) / message * 1e9 / (load(&meeting.m.ended_ns) - started),
            "segments": a.tcp.counters.tcp_segments_out}


cdef void child_udp(stack_t *b, sock_t *s, meeting_t *m, uint8_t *data) noexcept nogil:
    cdef int64_t count = 0
    while not load(&m.stop):
        pass_over(b, now())
        while sock_recvfrom(b, s, data, 2048, 0, NULL) >= 0:
            count += 1
    store(&m.ended_ns, now())
    store(&m.count, count)
    store(&m.ready, 2)


def udp(double seconds=0.3, size=64, kind="channel", links=None, addresses=("10.0.0.1", "10.0.0.2")):
    """Datagrams of *size* bytes, one call each: how many a second reach the receiving application."""
    cdef Pair pair = Pair(links or make_links(kind, 1500), 1500, None, *addresses)
    cdef Meeting meeting = Meeting()
    cdef uint8_t *data = <uint8_t *> calloc(1, 4096)
    cdef stack_t *a = pair.a.c
    cdef stack_t *b = pair.b.c
    cdef sock_t *out
    cdef sock_t *into
    cdef endpoint_t e
    cdef size_t message = size
    cdef int64_t t, end, started
    cdef int i
    endpoint(&e, addresses[1], PORT)
    if sock_open(b, 2, 2, 0, &into) or sock_bind(b, into, &e) or sock_open(a, 2, 2, 0, &out):
        raise OSError("no socket")
    pid = run_child(pair, lambda: child_udp(b, into, meeting.m, data))
    try:
        with nogil:
            started = now()
            t = started
            end = started + <int64_t> (seconds * 1e9)
            while t < end:
                t = now()
                pass_over(a, t)
                for i in range(32):
                    if sock_sendto(a, out, data, message, 0, &e) < 0:
                        break
    finally:
        store(&meeting.m.stop, 1)
        os.waitpid(pid, 0)
        free(data)
    return {"per_s": load(&meeting.m.count) * 1e9 / (load(&meeting.m.ended_ns) - started),
            "sent": a.tcp.counters.udp_out}


# --- one stack, and something else behind its link -------------------------------------------------------------------

def send_to(Link link, address, peer, port, double seconds, chunk=CHUNK):
    """Connect to a peer that reads to the end and closes: Gbit/s of payload from the first send until it has closed."""
    cdef Stack stack = MakeStack(links=[link], addresses=address, mtu=link.mtu, seed=1)
    cdef stack_t *a = stack.c
    cdef uint8_t *data = <uint8_t *> calloc(1, chunk)
    cdef uint8_t answer[64]
    cdef size_t size = chunk
    cdef ssize_t n
    cdef uint64_t sent = 0
    cdef int64_t t, end, started
    cdef sock_t *s
    pin(0)
    s = connecting(stack, peer, port)
    if wait_established(a, s, <int64_t> 20 * 1000000000):
        raise RuntimeError("no connection")
    with nogil:
        started = t = now()
        end = started + <int64_t> (seconds * 1e9)
        while t < end:
            t = now()
            pass_over(a, t)
            n = sock_send(a, s, data, size, 0)
            if n > 0:
                sent += n
        sock_shutdown(a, s, 1)
        end = t + <int64_t> 20 * 1000000000
        n = -EAGAIN
        while n == -EAGAIN and t < end:
            t = now()
            pass_over(a, t)
            n = sock_recv(a, s, answer, 64, 0)
    free(data)
    if n:
        raise RuntimeError("the receiver did not come to the end")
    return {"gbit_s": sent * 8 / <double> (t - started), "retransmits": a.tcp.counters.tcp_retransmits,
            "segments": a.tcp.counters.tcp_segments_out}


def receive_from(Link link, address, port, double patience, chunk=CHUNK):
    """Accept a connection and read to its end: Gbit/s of payload from the first byte on."""
    cdef Stack stack = MakeStack(links=[link], addresses=address, mtu=link.mtu, seed=1)
    cdef stack_t *b = stack.c
    cdef uint8_t *data = <uint8_t *> calloc(1, chunk)
    cdef size_t size = chunk
    cdef ssize_t n = -EAGAIN
    cdef uint64_t got = 0
    cdef int64_t t = now(), end = t + <int64_t> (patience * 1e9), started = 0
    cdef sock_t *listener = listening(stack, address.partition("/")[0], port)
    cdef sock_t *s
    pin(0)
    s = wait_accept(b, listener, <int64_t> (patience * 1e9))
    if s == NULL:
        raise RuntimeError("no connection")
    with nogil:
        while t < end and (n > 0 or n == -EAGAIN):
            t = now()
            sock_lend(b, s, data, size)
            pass_over(b, t)
            n = <ssize_t> sock_lend_taken(b, s)
            if n == 0:
                n = sock_recv(b, s, data, size, 0)
            if n > 0:
                if not started:
                    started = t
                got += n
    free(data)
    if n or not started:
        raise RuntimeError("the stream did not come to the end")
    return {"gbit_s": got * 8 / <double> (t - started), "segments": b.tcp.counters.tcp_segments_in,
            "acks": b.tcp.counters.tcp_segments_out}


# --- floods ----------------------------------------------------------------------------------------------------------

cdef int carry(stack_t *a, stack_t *b, link_t *from_a, link_t *to_b, uint32_t address) noexcept nogil:
    """What a stack sent to that address goes on to the other; the rest was for nobody. How many packets there were."""
    cdef const uint8_t *p
    cdef uint32_t n, to
    cdef int64_t t
    cdef int count = 0
    while queue_link_pop(from_a, &p, &n, &t):
        count += 1
        to = (<uint32_t> p[16] << 24) | (<uint32_t> p[17] << 16) | (<uint32_t> p[18] << 8) | p[19]
        if to == address:
            queue_link_push(to_b, p, n)
    return count


def syn_flood(double seconds=0.3, backlog=128, batch=200, packets=20000):
    """Spoofed SYNs as fast as one core takes them, a client's connection after each batch of them.

    SYNs answered a second; how long a client's connect took, the batches between its segments included (microseconds);
    growth of resident memory (bytes).
    """
    cdef Link client_link = QueueLink(mtu=1500, media="ip"), server_link = QueueLink(mtu=1500, media="ip")
    cdef Stack client = MakeStack(addresses="10.0.0.1", seed=1, links=[client_link])
    cdef Stack server = MakeStack(addresses="10.0.0.2", seed=2, links=[server_link])
    cdef stack_t *a = client.c
    cdef stack_t *b = server.c
    cdef sock_t *listener = listening(server, "10.0.0.2", PORT, backlog)
    cdef sock_t *s
    cdef sock_t *accepted = NULL
    cdef uint8_t[::1] flat
    cdef int32_t linger[2]
    cdef int64_t t, start, began, spent = 0
    cdef uint64_t syns = 0
    cdef int i, turn, at = 0, size, count = packets, each = batch
    cdef list took = []
    rng = random.Random(1)
    raws = [build_tcp(f"{rng.randrange(11, 200)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}", "10.0.0.2",
                      rng.randrange(1024, 65536), PORT, "S", seq=rng.getrandbits(32), mss=1460, sack_permitted=True,
                      timestamp=(rng.getrandbits(32), 0), window_scale=7) for _ in range(count)]
    size = len(raws[0])
    flat = bytearray(b"".join(raws))
    linger[0], linger[1] = 1, 0
    before = resident()
    start = now()
    while now() - start < <int64_t> (seconds * 1e9):
        s = connecting(client, "10.0.0.2", PORT)
        began = now()
        for turn in range(64):
            carry(a, b, &client_link.link, &server_link.link, 0x0a000002)
            t = now()
            for i in range(each):
                queue_link_push(&server_link.link, &flat[at * size], size)
                at = at + 1 if at + 1 < count else 0
            while stack_process(b, now(), BUDGET):
                pass
            syns += each
            spent += now() - t
            while stack_next_event(b) != NULL:
                pass
            carry(b, a, &server_link.link, &client_link.link, 0x0a000001)
            stack_process(a, now(), BUDGET)
            while stack_next_event(a) != NULL:
                pass
            if (<tcb_t *> s).state == ESTABLISHED and sock_accept(b, listener, &accepted) == 0:
                took.append((now() - began) / 1000)
                break
        else:
            raise OSError("a client did not get in")
        sock_setsockopt(a, s, 1, 13, <uint8_t *> linger, 8)
        sock_close(a, s)
        sock_close(b, accepted)
    took.sort()
    return {"syns_per_s": syns / (spent / 1e9), "clients": len(took), "p50_us": took[len(took) // 2],
            "p99_us": took[len(took) * 99 // 100], "grown": resident() - before, "half_open_bytes": sizeof(request_t),
            "cookies": server.counters()["tcp_syncookies_sent"]}


# --- memory ----------------------------------------------------------------------------------------------------------

def resident():
    """Resident bytes of this process."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def idle_connections(n=100000, bint handles=False):
    """Resident bytes per established, silent connection end; both ends live here, so growth / (2 * n).

    handles: each end also has its Python object, as an application would hold it.
    """
    # A local port serves one connection of an address: four addresses have enough for 100,000.
    clients = tuple(f"10.0.0.{i}" for i in range(11, 15))
    cdef Pair pair = Pair(make_links("wire", 1500), 1500, {"net.core.somaxconn": 65535}, clients)
    cdef stack_t *a = pair.a.c
    cdef stack_t *b = pair.b.c
    cdef sock_t *listeners[64]
    cdef sock_t *s
    cdef endpoint_t e
    cdef endpoint_t local[4]
    cdef int64_t t = 1000000000
    cdef int i, k, established = 0, count = n, batch = 32
    kept = []
    for i in range(4):
        endpoint(&local[i], clients[i], 0)
    for i in range(64):
        endpoint(&e, "10.0.0.2", PORT + i)
        if sock_open(b, 2, 1, 0, &listeners[i]) or sock_bind(b, listeners[i], &e) or sock_listen(b, listeners[i], 4096):
            raise OSError("listen failed")
    before = resident()
    while established < count:
        for k in range(batch):
            e.port = <uint16_t> (PORT + (established + k) % 64)
            if sock_open(a, 2, 1, 0, &s) or sock_bind(a, s, &local[k & 3]) or sock_connect(a, s, &e) != -EINPROGRESS:
                raise OSError(f"connect failed after {established}")
            if handles:
                kept.append(pair.a.wrap(s))
        for k in range(4):
            t += 1000
            pass_over(b, t)
            pass_over(a, t)
        for i in range(64):
            while sock_accept(b, listeners[i], &s) == 0:
                established += 1
                if handles:
                    kept.append(pair.b.wrap(s))
    t += <int64_t> 2 * 1000000000                      # everything delayed has been said
    pass_over(b, t)
    pass_over(a, t)
    pass_over(b, t)
    grown = resident() - before
    return {"bytes": grown / 2 / established, "connections": established, "sizeof_tcb": sizeof(tcb_t)}
