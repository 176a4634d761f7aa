# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Four threads that call the entry points of one host, none of which ever holds the interpreter.

``test_threads_tsan.py`` builds this beside the modules it uses, all with the thread sanitizer. Everything is bounded by
counts; a call that takes longer than LIMIT_NS is a lost wake-up.

* *server*: accepts on the near host and echoes, one connection at a time, until its listener is closed under it;
* *churn*: connects to the server over the loopback, sends, checks the echo, ends in one of three ways; datagrams;
* *reader* and *writer*: the two directions of one connection to the far host, which echoes; now and then the writer
  closes it while the reader waits. The writer also looks at the connection's descriptor with poll(2).

A fifth thread is the far host's only caller. `run_end` lets link and host go away under four waiting threads. Both hosts have their service threads.
"""

from libc.errno cimport EAGAIN, EBADF, ECONNRESET, EINPROGRESS, ENOTCONN, EPIPE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from netstack.address cimport address_equal, address_parse, endpoint_t
from netstack.calls cimport done, has_loan, look, receive_waiting, send_waiting, wait_events
from netstack.driver cimport (
    WAIT_DEAD,
    WAIT_READY,
    WAIT_TIMEOUT,
    Driver,
    driver_abandon,
    driver_adopt,
    driver_fileno,
    driver_settle,
    driver_show,
    driver_t,
    driver_unlock,
    owner_t,
    park_add,
    park_load,
    park_lock,
    park_now_ns,
    park_store,
    park_wait,
    park_wake,
    park_word_t,
)
from netstack.link.link cimport NEVER
from netstack.readiness cimport READY_PAIR
from netstack.sock cimport EVENT_IN, EVENT_OUT, sock_t
from netstack.stack.core cimport stack_set_now
from netstack.stack.sockets cimport (
    sock_accept,
    sock_bind,
    sock_close,
    sock_connect,
    sock_getsockopt,
    sock_lend_taken,
    sock_listen,
    sock_local,
    sock_open,
    sock_poll,
    sock_remote,
    sock_shutdown,
    sock_take_error,
)
from netstack.stack.stack cimport Stack

from netstack.config import StackConfig
from netstack.link.channel import channel_pair

ctypedef void *(*main_t)(void *) noexcept nogil

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, const void *attr, main_t start, void *arg)
    int pthread_join(pthread_t thread, void **result)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int POLLIN, POLLOUT
    int poll(pollfd *fds, unsigned long n, int timeout_ms)

cdef enum:
    AF_INET = 2
    STREAM = 1
    DATAGRAM = 2
    SHUT_WR = 1
    SOL_TCP = 6
    TCP_INFO = 11
    MESSAGE = 12000              # the most that churn sends before it reads: fits the buffers
    CHUNK = 6000
    LONGEST = 90_000             # what the writer sends in one connection
    THREADS = 5                  # server, churn, reader, writer; and the far host's

cdef int64_t LIMIT_NS = 60_000_000_000


cdef struct job_t:
    world_t *world
    uint64_t random
    const char *failed           # what went wrong, NULL: nothing
    long code
    long connections
    long datagrams
    long timeouts
    long closed_under_us


cdef struct world_t:
    driver_t *near
    driver_t *far
    int rounds
    owner_t near_listener
    owner_t far_listener
    owner_t datagrams
    owner_t shared               # the connection of reader and writer
    long length                  # of what the writer sends
    long seed
    uint8_t cut                  # the writer closes it half way
    park_word_t beats            # datagrams that arrived
    park_word_t stage            # odd: a connection is there for the writer; even: the writer is finished with it
    endpoint_t near_address
    endpoint_t far_address
    job_t jobs[THREADS]


# --- small things -----------------------------------------------------------------------------------------------------


cdef uint32_t random_below(job_t *j, uint32_t n) noexcept nogil:
    j.random ^= j.random << 13
    j.random ^= j.random >> 7
    j.random ^= j.random << 17
    return <uint32_t> ((j.random >> 16) % n)


cdef bint fail(job_t *j, const char *what, long code) noexcept nogil:
    """Note the first failure of this thread. False, to be returned."""
    if j.failed == NULL:
        j.failed = what
        j.code = code
    return False


cdef inline uint8_t letter(long seed, long at) noexcept nogil:
    return <uint8_t> (seed + at * 31 + (at >> 8) * 7)


cdef void write_text(uint8_t *data, long n, long seed, long at) noexcept nogil:
    cdef long i
    for i in range(n):
        data[i] = letter(seed, at + i)


cdef bint is_text(const uint8_t *data, long n, long seed, long at) noexcept nogil:
    cdef long i
    for i in range(n):
        if data[i] != letter(seed, at + i):
            return False
    return True


cdef int64_t some_deadline(job_t *j) noexcept nogil:
    """Mostly long; sometimes at once, sometimes within the time of a spin or of a sleep."""
    cdef uint32_t kind = random_below(j, 8)
    if kind == 0:
        return 0
    if kind == 1:
        return park_now_ns() + random_below(j, 30_000)
    if kind == 2:
        return park_now_ns() + random_below(j, 1_000_000)
    return park_now_ns() + LIMIT_NS


# --- the calls of a socket, as Handle makes them ----------------------------------------------------------------------


cdef int open_socket(driver_t *d, owner_t *o, int kind) noexcept nogil:
    cdef sock_t *sock = NULL
    cdef int r
    memset(o, 0, sizeof(owner_t))
    o.driver = d
    park_lock(&d.lock)
    stack_set_now(d.stack, park_now_ns())
    r = sock_open(d.stack, AF_INET, kind, 0, &sock)
    if r == 0:
        driver_adopt(d, o, sock)
    driver_unlock(d)
    return r


cdef int bind_socket(owner_t *o, const endpoint_t *local) noexcept nogil:
    cdef int r
    park_lock(&o.driver.lock)
    r = sock_bind(o.driver.stack, o.sock, local)
    done(o)
    return r


cdef int listen_at(driver_t *d, owner_t *o, const endpoint_t *local) noexcept nogil:
    cdef int r = open_socket(d, o, STREAM)
    if r == 0:
        r = bind_socket(o, local)
    if r == 0:
        park_lock(&d.lock)
        r = sock_listen(d.stack, o.sock, 16)
        done(o)
    return r


cdef int connect_to(owner_t *o, const endpoint_t *remote) noexcept nogil:
    cdef driver_t *d = o.driver
    cdef int r, waited
    park_lock(&d.lock)
    look(d)
    r = sock_connect(d.stack, o.sock, remote)
    done(o)
    if r != -EINPROGRESS:
        return r
    waited = wait_events(o, EVENT_OUT, park_now_ns() + LIMIT_NS, NEVER)
    if waited != WAIT_READY:
        return -EAGAIN
    park_lock(&d.lock)
    r = -sock_take_error(o.sock)
    driver_show(d, o)
    driver_unlock(d)
    return r


cdef int accept_from(job_t *j, owner_t *listener, owner_t *new) noexcept nogil:
    """0, -EBADF when the listener was closed, -EAGAIN after the limit."""
    cdef driver_t *d = listener.driver
    cdef sock_t *sock
    cdef int64_t deadline, end = park_now_ns() + LIMIT_NS
    cdef int r
    memset(new, 0, sizeof(owner_t))
    new.driver = d
    while True:
        sock = NULL
        park_lock(&d.lock)
        look(d)
        r = -EBADF if listener.sock == NULL or d.dead else sock_accept(d.stack, listener.sock, &sock)
        if r == 0:
            driver_adopt(d, new, sock)
        done(listener)
        if r != -EAGAIN:
            return r
        if park_now_ns() > end:
            return r
        deadline = some_deadline(j)
        if wait_events(listener, EVENT_IN, deadline, NEVER) == WAIT_TIMEOUT:
            j.timeouts += 1


cdef int shut_down(owner_t *o, int how) noexcept nogil:
    cdef int r
    park_lock(&o.driver.lock)
    look(o.driver)
    r = sock_shutdown(o.driver.stack, o.sock, how)
    done(o)
    return r


cdef void close_socket(owner_t *o) noexcept nogil:
    cdef driver_t *d = o.driver
    cdef sock_t *sock
    park_lock(&d.lock)
    sock = o.sock
    if sock != NULL:
        look(d)
        if has_loan(o):
            sock_lend_taken(d.stack, sock)
        sock.owner = NULL
        driver_abandon(d, o)
        sock_close(d.stack, sock)
        driver_settle(d)
    driver_unlock(d)


cdef ssize_t receive(job_t *j, owner_t *o, uint8_t *data, size_t n, endpoint_t *src) noexcept nogil:
    """With deadlines of all kinds until something comes."""
    cdef int64_t end = park_now_ns() + LIMIT_NS
    cdef ssize_t r
    while True:
        r = receive_waiting(o, data, n, 0, src, some_deadline(j), NEVER)
        if r != -EAGAIN or park_now_ns() > end:
            return r
        j.timeouts += 1


cdef int send_all(job_t *j, owner_t *o, const uint8_t *data, size_t n, const endpoint_t *to) noexcept nogil:
    cdef int64_t end = park_now_ns() + LIMIT_NS
    cdef size_t sent = 0
    cdef ssize_t r
    while True:
        r = send_waiting(o, data, n, 0, to, True, some_deadline(j), NEVER, &sent)
        if r != -EAGAIN or park_now_ns() > end:
            return <int> r
        j.timeouts += 1


cdef int ask(owner_t *o) noexcept nogil:
    """What a program asks of a connection between two calls. The state poll shows, or a negative errno number."""
    cdef driver_t *d = o.driver
    cdef endpoint_t local, remote
    cdef uint8_t info[512]
    cdef uint32_t n = sizeof(info)
    cdef int r
    park_lock(&d.lock)
    look(d)
    r = -EBADF
    if o.sock != NULL:
        r = sock_local(d.stack, o.sock, &local)
        if r == 0:
            r = sock_remote(d.stack, o.sock, &remote)
        if r == 0 or r == -ENOTCONN:
            r = sock_getsockopt(d.stack, o.sock, SOL_TCP, TCP_INFO, info, &n)
        if r == 0:
            r = <int> sock_poll(d.stack, o.sock)
    done(o)
    return r


cdef int watch_descriptor(owner_t *o) noexcept nogil:
    """Look at the descriptor of a connection. 0, or a negative errno number."""
    cdef driver_t *d = o.driver
    cdef pollfd p
    cdef int r
    park_lock(&d.lock)
    look(d)
    r = driver_fileno(d, o, READY_PAIR) if o.sock != NULL else -EBADF
    driver_unlock(d)
    if r < 0:
        return r
    p.fd = r
    p.events = <short> (POLLIN | POLLOUT)
    poll(&p, 1, 1)
    return 0


# --- the threads ------------------------------------------------------------------------------------------------------


cdef bint echo(job_t *j, owner_t *o) noexcept nogil:
    """Until the peer ends it, in order or not."""
    cdef uint8_t data[CHUNK]
    cdef ssize_t n
    cdef int r
    while True:
        n = receive(j, o, data, 1 + random_below(j, CHUNK), NULL)
        if n <= 0:
            break
        r = send_all(j, o, data, n, NULL)
        if r < 0:
            n = r
            break
    close_socket(o)
    j.connections += 1
    if n < 0 and n != -ECONNRESET and n != -EPIPE:
        return fail(j, b"the echoing end", n)
    return True


cdef void serve(job_t *j, owner_t *listener) noexcept nogil:
    cdef owner_t *o = <owner_t *> calloc(1, sizeof(owner_t))
    cdef int r
    while o != NULL:
        r = accept_from(j, listener, o)
        if r == -EBADF:
            break                # closed under us: the end
        if r:
            fail(j, b"accept", r)
            break
        if not echo(j, o):
            break
    free(o)


cdef void *server_main(void *arg) noexcept nogil:
    cdef job_t *j = <job_t *> arg
    serve(j, &j.world.near_listener)
    return NULL


cdef void *far_main(void *arg) noexcept nogil:
    cdef job_t *j = <job_t *> arg
    serve(j, &j.world.far_listener)
    return NULL


cdef bint exchange(job_t *j, owner_t *o, long seed) noexcept nogil:
    """Send, and read all or half of the echo; then end it by a FIN, by closing, or by closing upon unread data."""
    cdef uint8_t data[MESSAGE]
    cdef long n = 1 + random_below(j, MESSAGE), got = 0, wanted = n
    cdef uint32_t ending = random_below(j, 4)
    cdef ssize_t r
    write_text(data, n, seed, 0)
    r = send_all(j, o, data, n, NULL)
    if r < 0:
        return fail(j, b"churn: send", r)
    if ending == 0:
        wanted = n // 2
    elif ending > 1:
        r = shut_down(o, SHUT_WR)
        if r < 0:
            return fail(j, b"churn: shutdown", r)
    while got < wanted:
        r = receive(j, o, data, wanted - got, NULL)
        if r <= 0:
            return fail(j, b"churn: receive", r)
        if not is_text(data, r, seed, got):
            return fail(j, b"churn: another text came back", got)
        got += r
    if ending > 1:
        r = receive(j, o, data, 1, NULL)
        if r != 0:
            return fail(j, b"churn: the end of the stream", r)
    r = ask(o)
    if r < 0 and r != -ENOTCONN:
        return fail(j, b"churn: options", r)
    return True


cdef bint datagram(job_t *j, long seed) noexcept nogil:
    """To a socket of the same host."""
    cdef owner_t a, b
    cdef endpoint_t at = j.world.near_address, src
    cdef uint8_t data[CHUNK]
    cdef uint8_t back[CHUNK]
    cdef long n = 1 + random_below(j, CHUNK)
    cdef ssize_t r
    at.port = 9000
    src.port = 0
    r = open_socket(j.world.near, &a, DATAGRAM)
    if r == 0:
        r = open_socket(j.world.near, &b, DATAGRAM)
    if r == 0:
        r = bind_socket(&b, &at)
    if r < 0:
        return fail(j, b"datagram: bind", r)
    write_text(data, n, seed, 0)
    r = send_all(j, &a, data, n, &at)
    if r < 0:
        return fail(j, b"datagram: send", r)
    r = receive(j, &b, back, sizeof(back), &src)
    if r != n or not is_text(back, n, seed, 0) or not address_equal(&src.address, &at.address):
        return fail(j, b"datagram: another text came", r)
    close_socket(&a)
    close_socket(&b)
    j.datagrams += 1
    return True


cdef void *churn_main(void *arg) noexcept nogil:
    cdef job_t *j = <job_t *> arg
    cdef world_t *w = j.world
    cdef owner_t o
    cdef long i
    cdef int r
    for i in range(w.rounds):
        r = open_socket(w.near, &o, STREAM)
        if r == 0:
            r = connect_to(&o, &w.near_address)
        if r < 0:
            fail(j, b"churn: connect", r)
            break
        if not exchange(j, &o, i):
            break
        close_socket(&o)
        j.connections += 1
        if i % 3 == 0 and not datagram(j, i):
            break
    close_socket(&w.near_listener)
    return NULL


cdef void set_stage(world_t *w, uint32_t stage) noexcept nogil:
    park_store(&w.stage, stage)
    park_wake(&w.stage)


cdef bint await_stage(job_t *j, uint32_t stage) noexcept nogil:
    cdef int64_t end = park_now_ns() + LIMIT_NS
    while park_load(&j.world.stage) < stage:
        if park_now_ns() > end:
            return fail(j, b"the other half of the connection does not come", stage)
        park_wait(&j.world.stage, stage - 1, end)
    return True


cdef bint read_back(job_t *j) noexcept nogil:
    cdef world_t *w = j.world
    cdef uint8_t data[CHUNK]
    cdef long got = 0
    cdef ssize_t r
    while True:
        r = receive(j, &w.shared, data, 1 + random_below(j, CHUNK), NULL)
        if r <= 0:
            break
        if not is_text(data, r, w.seed, got):
            return fail(j, b"reader: another text came back", got)
        got += r
    if w.cut and r == -EBADF:
        j.closed_under_us += 1
        return True
    if r != 0 or got != w.length:
        return fail(j, b"reader: receive", r)
    return True


cdef void *reader_main(void *arg) noexcept nogil:
    cdef job_t *j = <job_t *> arg
    cdef world_t *w = j.world
    cdef uint32_t i
    cdef int r
    for i in range(<uint32_t> w.rounds):
        w.length = 1 + random_below(j, LONGEST)
        w.seed = i
        w.cut = i % 4 == 3
        r = open_socket(w.near, &w.shared, STREAM)
        if r == 0:
            r = connect_to(&w.shared, &w.far_address)
        if r < 0:
            fail(j, b"reader: connect", r)
            break
        set_stage(w, 2 * i + 1)
        if not read_back(j) or not await_stage(j, 2 * i + 2):
            break
        close_socket(&w.shared)
        j.connections += 1
    close_socket(&w.far_listener)
    return NULL


cdef bint write_out(job_t *j) noexcept nogil:
    cdef world_t *w = j.world
    cdef uint8_t data[CHUNK]
    cdef long at = 0, n
    cdef int r
    while at < w.length:
        if w.cut and at >= w.length // 2:
            break
        n = 1 + random_below(j, CHUNK)
        if n > w.length - at:
            n = w.length - at
        write_text(data, n, w.seed, at)
        r = send_all(j, &w.shared, data, n, NULL)
        if r < 0:
            return fail(j, b"writer: send", r)
        at += n
        if random_below(j, 8) == 0:
            r = watch_descriptor(&w.shared)
            if r < 0:
                return fail(j, b"writer: descriptor", r)
    if w.cut:
        close_socket(&w.shared)
        return True
    r = shut_down(&w.shared, SHUT_WR)
    if r < 0:
        return fail(j, b"writer: shutdown", r)
    return True


cdef void *writer_main(void *arg) noexcept nogil:
    cdef job_t *j = <job_t *> arg
    cdef uint32_t i
    for i in range(<uint32_t> j.world.rounds):
        if not await_stage(j, 2 * i + 1) or not write_out(j):
            break
        set_stage(j.world, 2 * i + 2)
    return NULL


# --- the end of link and host, while four threads call ----------------------------------------------------------------


cdef void *accept_to_the_end(void *arg) noexcept nogil:
    cdef job_t *j = <job_t *> arg
    cdef owner_t o
    cdef int r = wait_events(&j.world.near_listener, EVENT_IN, NEVER, NEVER)
    if r != WAIT_DEAD:
        fail(j, b"waiting for a connection", r)
    r = accept_from(j, &j.world.near_listener, &o)
    if r != -EBADF:
        fail(j, b"accept from a closed host", r)
    return NULL


cdef void *receive_to_the_end(void *arg) noexcept nogil:
    """From the far host: nothing, until the link dies; then a reset, until the host is closed."""
    cdef job_t *j = <job_t *> arg
    cdef uint8_t data[CHUNK]
    cdef ssize_t r = receive(j, &j.world.shared, data, sizeof(data), NULL)
    if r != -ECONNRESET:
        fail(j, b"receive over a dead link", r)
    set_stage(j.world, 1)
    while r == -ECONNRESET:
        r = receive_waiting(&j.world.shared, data, sizeof(data), 0, NULL, some_deadline(j), NEVER)
        j.timeouts += 1
    if r != -EBADF:
        fail(j, b"receive from a closed host", r)
    return NULL


cdef void *datagrams_in(void *arg) noexcept nogil:
    cdef job_t *j = <job_t *> arg
    cdef uint8_t data[CHUNK]
    cdef endpoint_t src
    cdef ssize_t r
    while True:
        r = receive_waiting(&j.world.datagrams, data, sizeof(data), 0, &src, some_deadline(j), NEVER)
        if r < 0 and r != -EAGAIN:
            break
        if r > 0:
            j.datagrams += 1
            park_add(&j.world.beats, 1)
    if r != -EBADF:
        fail(j, b"datagrams from a closed host", r)
    return NULL


cdef void *datagrams_out(void *arg) noexcept nogil:
    """To the thread above, at the pace of the other's reads."""
    cdef job_t *j = <job_t *> arg
    cdef endpoint_t to = j.world.near_address
    cdef owner_t o
    cdef uint8_t data[CHUNK]
    cdef size_t sent
    cdef ssize_t r = open_socket(j.world.near, &o, DATAGRAM)
    cdef uint32_t seen
    to.port = 9000
    write_text(data, sizeof(data), 0, 0)
    while r >= 0 or r == -EAGAIN:
        sent = 0
        seen = park_load(&j.world.beats)
        r = send_waiting(&o, data, 1 + random_below(j, CHUNK), 0, &to, True, some_deadline(j), NEVER, &sent)
        if r == 0:
            park_wait(&j.world.beats, seen, park_now_ns() + 1_000_000)
    if r != -EBADF:
        fail(j, b"datagrams to a closed host", r)
    return NULL


# --- all together -----------------------------------------------------------------------------------------------------


cdef int start(world_t *w, const main_t *mains, int n, pthread_t *threads) noexcept nogil:
    """Start the threads; how many run."""
    cdef int i
    for i in range(n):
        w.jobs[i].world = w
        w.jobs[i].random = <uint64_t> (i + 1) * 0x9e3779b97f4a7c15ULL
        if pthread_create(&threads[i], NULL, mains[i], &w.jobs[i]):
            return i
    return n


cdef void join(pthread_t *threads, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        pthread_join(threads[i], NULL)


def make_host(link, address, spin_us):
    stack = Stack(StackConfig(media="ip", addresses=(address,), mtu=link.mtu, seed=7), [link])
    return Driver(stack, spin_us=spin_us, service=True)


cdef class World:
    """Two hosts on a channel, and what the threads share."""

    cdef Driver near
    cdef Driver far
    cdef object far_link
    cdef world_t *w
    cdef object failures

    def __cinit__(self, int rounds, double spin_us):
        a, b = channel_pair(mtu=9000)
        self.near = make_host(a, "10.0.0.1/24", spin_us)
        self.far = make_host(b, "10.0.0.2/24", spin_us)
        self.far_link = b
        self.failures = []
        self.w = <world_t *> calloc(1, sizeof(world_t))
        self.w.near = &self.near.d
        self.w.far = &self.far.d
        self.w.rounds = rounds
        address_parse("10.0.0.1", &self.w.near_address.address)
        address_parse("10.0.0.2", &self.w.far_address.address)
        self.w.near_address.port = self.w.far_address.port = 7000

    def __dealloc__(self):
        free(self.w)

    def report(self):
        """Print what happened as name=number; raise when a thread saw something wrong."""
        cdef job_t total
        cdef job_t *j
        cdef int i
        memset(&total, 0, sizeof(total))
        for i in range(THREADS):
            j = &self.w.jobs[i]
            total.connections += j.connections
            total.datagrams += j.datagrams
            total.timeouts += j.timeouts
            total.closed_under_us += j.closed_under_us
            if j.failed != NULL:
                self.failures.append(f"{j.failed.decode()}: {j.code}")
        print(f"connections={total.connections} datagrams={total.datagrams} timeouts={total.timeouts} "
              f"closed_under_us={total.closed_under_us}", *[f"{k}={v}" for k, v in self.near.counters().items()])
        if self.failures:
            raise SystemExit("; ".join(self.failures))


def run(int rounds, *, double spin_us):
    """Play ``rounds`` rounds of connections and datagrams."""
    cdef World world = World(rounds, spin_us)
    cdef world_t *w = world.w
    cdef main_t[THREADS] mains
    cdef pthread_t[THREADS] threads
    cdef int n = 0, r
    mains[0] = server_main
    mains[1] = churn_main
    mains[2] = reader_main
    mains[3] = writer_main
    mains[4] = far_main
    with nogil:
        r = listen_at(w.near, &w.near_listener, &w.near_address)
        if r == 0:
            r = listen_at(w.far, &w.far_listener, &w.far_address)
        if r == 0:
            n = start(w, mains, THREADS, threads)
            join(threads, n)
    if n < THREADS:
        world.failures.append(f"the start: {r}, {n} threads")
    world.near.close()
    world.far.close()
    world.report()


def run_end(int rounds, *, double spin_us):
    """While four threads call the near host, the far end of its link goes away, then the host is closed."""
    cdef World world = World(rounds, spin_us)
    cdef world_t *w = world.w
    cdef endpoint_t at = w.near_address
    cdef main_t[4] mains
    cdef pthread_t[4] threads
    cdef uint32_t seen
    cdef int64_t end
    cdef int n = 0, r
    mains[0] = accept_to_the_end
    mains[1] = receive_to_the_end
    mains[2] = datagrams_in
    mains[3] = datagrams_out
    at.port = 9000
    with nogil:
        r = listen_at(w.near, &w.near_listener, &w.near_address)
        if r == 0:
            r = listen_at(w.far, &w.far_listener, &w.far_address)
        if r == 0:
            r = open_socket(w.near, &w.shared, STREAM)
        if r == 0:
            r = connect_to(&w.shared, &w.far_address)
        if r == 0:
            r = open_socket(w.near, &w.datagrams, DATAGRAM)
        if r == 0:
            r = bind_socket(&w.datagrams, &at)
        if r == 0:
            n = start(w, mains, 4, threads)
        end = park_now_ns() + LIMIT_NS
        while n == 4 and park_now_ns() < end:
            seen = park_load(&w.beats)
            if seen >= <uint32_t> w.rounds:
                break
            park_wait(&w.beats, seen, park_now_ns() + 1_000_000)
    if n < 4:
        world.failures.append(f"the start: {r}, {n} threads")
    world.far.close()
    world.far_link.close()
    with nogil:
        if n == 4:
            await_stage(&w.jobs[1], 1)
    world.near.close()
    with nogil:
        join(threads, n)
    world.report()
