# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Programs of a simulation that send and receive, compiled: no Python runs per packet or per event.

A stream's bytes come from a generator that can be asked for any place of it, so the receiver checks each byte where it
arrives and nobody keeps a payload.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EBADF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, strerror

from netstack.link.link cimport NEVER
from netstack.sock cimport sock_t
from netstack.stack.core cimport stack_t
from netstack.stack.sockets cimport sock_accept, sock_recv, sock_send, sock_shutdown
from netstack.stack.stack cimport StackSocket
from netstack.tcp.buffers cimport send_room
from netstack.tcp.tcb cimport tcb_t
from netstack.testing.engine cimport Engine

cdef enum:
    CHUNK = 65536                # bytes of one call of send or recv at most
    SHUT_WR = 1

cdef enum:                       # why a run is over
    IS_DONE
    HAS_FAILED
    TIME_IS_UP
    HAS_NOTHING_DUE
    HAS_NO_REST
    IS_PAUSED

DONE, FAILED, TIME_UP, NOTHING_DUE, NO_REST, PAUSED = range(6)


# --- the bytes --------------------------------------------------------------------------------------------------------

cdef inline uint64_t word(uint64_t seed, uint64_t index) noexcept nogil:
    """Word `index` of the stream of a seed (the output function of splitmix64)."""
    cdef uint64_t z = seed + (index + 1) * <uint64_t> 0x9e3779b97f4a7c15
    z = (z ^ (z >> 30)) * <uint64_t> 0xbf58476d1ce4e5b9
    z = (z ^ (z >> 27)) * <uint64_t> 0x94d049bb133111eb
    return z ^ (z >> 31)


cdef void generate(uint64_t seed, uint64_t offset, uint8_t *out, size_t n) noexcept nogil:
    """The n bytes from an offset of the stream on."""
    cdef uint64_t index = offset >> 3, w
    cdef size_t skip = offset & 7, part
    if skip and n:
        w = word(seed, index)
        part = 8 - skip if n > 8 - skip else n
        memcpy(out, <uint8_t *> &w + skip, part)
        out += part
        n -= part
        index += 1
    while n >= 8:
        w = word(seed, index)
        memcpy(out, &w, 8)
        out += 8
        n -= 8
        index += 1
    if n:
        w = word(seed, index)
        memcpy(out, &w, n)


def payload(uint64_t seed, uint64_t offset, Py_ssize_t n):
    """Bytes of the stream of a seed, as `Stream` sends them.

    Parameters
    ----------
    seed : int
        64 bits.
    offset, n : int
        Where to begin, and how many bytes.
    """
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    generate(seed, offset, <uint8_t *> <char *> out, <size_t> n)
    return out


# --- the programs -----------------------------------------------------------------------------------------------------

cdef struct end_t:
    stack_t *stack
    sock_t *sock                 # NULL: not accepted yet
    sock_t *listener             # where it comes from then
    uint64_t seed                # of what it sends
    uint64_t size
    uint64_t sent
    uint64_t peer_seed           # of what has to arrive
    uint64_t peer_size
    uint64_t received
    uint64_t wrong_at            # the first byte that differs, plus 1; 0: none
    uint32_t chunk
    uint8_t close_after          # a FIN follows the last byte
    uint8_t shut
    uint8_t eof
    int error                    # errno number


cdef bint end_send(end_t *e, uint8_t *scratch) noexcept nogil:
    """Write what there is room for. True when something was taken."""
    cdef uint64_t left
    cdef size_t n
    cdef ssize_t taken
    cdef bint moved = False
    while e.sent < e.size:
        left = send_room(<tcb_t *> e.sock)
        if left > e.size - e.sent:
            left = e.size - e.sent
        n = left if left < e.chunk else e.chunk
        generate(e.seed, e.sent, scratch, n)
        taken = sock_send(e.stack, e.sock, scratch, n if n else 1, 0)      # without room: to hear of an error
        if taken < 0:
            if taken != -EAGAIN:
                e.error = <int> -taken
            return moved
        e.sent += <uint64_t> taken
        moved = True
    if e.close_after and not e.shut:
        taken = sock_shutdown(e.stack, e.sock, SHUT_WR)
        if taken < 0:
            e.error = <int> -taken
            return moved
        e.shut = 1
        moved = True
    return moved


cdef bint end_receive(end_t *e, uint8_t *scratch, uint8_t *wanted) noexcept nogil:
    """Read what is there and compare. True when something was."""
    cdef ssize_t n
    cdef size_t i
    cdef bint moved = False
    while not e.eof:
        n = sock_recv(e.stack, e.sock, scratch, e.chunk, 0)
        if n < 0:
            if n != -EAGAIN:
                e.error = <int> -n
            return moved
        moved = True
        if n == 0:
            e.eof = 1
            return moved
        generate(e.peer_seed, e.received, wanted, <size_t> n)
        if not e.wrong_at and memcmp(scratch, wanted, <size_t> n) != 0:
            for i in range(<size_t> n):
                if scratch[i] != wanted[i]:
                    e.wrong_at = e.received + i + 1
                    break
        e.received += <uint64_t> n
        if not e.wrong_at and e.received > e.peer_size:
            e.wrong_at = e.peer_size + 1
    return moved


cdef bint end_pump(end_t *e, uint8_t *scratch) noexcept nogil:
    """Do what can be done now. True when something moved."""
    cdef bint moved = False
    if e.error:
        return False
    if e.sock == NULL:
        if e.listener == NULL or sock_accept(e.stack, e.listener, &e.sock) < 0:
            return False
        moved = True
    if e.sock.error:                                   # also of one that has nothing more to ask for
        e.error = e.sock.error
        return True
    if end_send(e, scratch):
        moved = True
    if not e.error and end_receive(e, scratch, scratch + CHUNK):
        moved = True
    return moved


cdef class Stream:
    """A socket of a simulated host that sends generated bytes and checks those that arrive.

    Parameters
    ----------
    host : netstack.testing.Host
        Whose socket it is.
    sock : StackSocket, optional
        The socket. Without it the stream accepts one from the listener.
    listener : StackSocket, optional
        Where to accept it from.

    Attributes
    ----------
    sent, received : int
        Bytes so far.
    eof, shut : bool
        The peer's end of stream was read; our own was queued.
    error : OSError or None
        What ended it.
    wrong_at : int or None
        Offset of the first received byte that is not the one sent, or lies beyond the last.
    """

    cdef end_t e
    cdef readonly object host
    cdef StackSocket handle
    cdef StackSocket listening

    def __init__(self, host, StackSocket sock=None, StackSocket listener=None):
        self.host = host
        self.e.chunk = CHUNK
        self.attach(sock, listener)
        host.streams.append(self)

    cdef int attach(self, StackSocket sock, StackSocket listener) except -1:
        self.handle = sock
        self.listening = listener
        self.e.sock = sock.live() if sock is not None else NULL
        self.e.listener = listener.live() if listener is not None else NULL
        owner = sock if sock is not None else listener
        if owner is None:
            raise ValueError("a stream needs a socket or a listener")
        self.e.stack = (<StackSocket> owner).stack.c
        return 0

    @property
    def sock(self):
        """The socket; None while it is not accepted."""
        if self.handle is None and self.e.sock != NULL:
            self.handle = self.host.stack.socket_by_id(self.e.sock.id)
        return self.handle

    @property
    def listener(self):
        """Where the socket is accepted from, or None."""
        return self.listening

    def rebind(self):
        """Find the sockets again, by their ids, after the host's stack was replaced."""
        stack = self.host.stack
        sock = None if self.sock is None else stack.socket_by_id(self.sock.id)
        self.attach(sock, None if self.listening is None else stack.socket_by_id(self.listening.id))

    def give(self, seed, size, peer_seed=0, peer_size=0, *, close=True, chunk=CHUNK):
        """What to send, and what to expect.

        Parameters
        ----------
        seed, size : int
            The bytes to send: so many of the stream of that seed (see `payload`).
        peer_seed, peer_size : int
            The bytes that should arrive.
        close : bool
            A FIN follows the last byte.
        chunk : int
            Bytes of one call, at most 65536.
        """
        if not 1 <= chunk <= CHUNK:
            raise ValueError(f"chunk {chunk}: 1 to {CHUNK} bytes")
        self.e.seed = seed
        self.e.size = size
        self.e.sent = 0
        self.e.peer_seed = peer_seed
        self.e.peer_size = peer_size
        self.e.received = 0
        self.e.wrong_at = 0
        self.e.close_after = 1 if close else 0
        self.e.chunk = chunk

    def pump(self):
        """Send and read what is possible now. True when something moved."""
        cdef uint8_t *scratch = <uint8_t *> malloc(2 * CHUNK)
        if scratch == NULL:
            raise MemoryError("no memory for a stream")
        try:
            return bool(end_pump(&self.e, scratch))
        finally:
            free(scratch)

    @property
    def sent(self):
        return self.e.sent

    @property
    def received(self):
        return self.e.received

    @property
    def eof(self):
        return self.e.eof != 0

    @property
    def shut(self):
        return self.e.shut != 0

    @property
    def error(self):
        return OSError(self.e.error, strerror(self.e.error).decode()) if self.e.error else None

    @property
    def wrong_at(self):
        return self.e.wrong_at - 1 if self.e.wrong_at else None

    def close(self):
        """Close the socket, and the listener it came from; the stack finishes alone."""
        if self in self.host.streams:
            self.host.streams.remove(self)
        for sock in (self.sock, self.listening):
            if sock is not None:
                sock.close()
        self.e.sock = NULL
        self.e.listener = NULL
        self.e.error = EBADF


cdef int run_ends(Engine engine, end_t **ends, Py_ssize_t count, uint8_t *scratch, int64_t until,
                  uint64_t events) noexcept nogil:
    cdef Py_ssize_t i, over
    cdef int64_t deadline
    cdef bint moved
    if not engine.rest():
        return HAS_NO_REST
    while True:
        while True:                                    # until nothing moves at this moment
            moved = False
            for i in range(count):
                if end_pump(ends[i], scratch):
                    moved = True
            if not moved:
                break
            if not engine.rest():
                return HAS_NO_REST
        over = 0
        for i in range(count):
            if ends[i].error or ends[i].wrong_at:
                return HAS_FAILED
            if ends[i].eof and (ends[i].shut or not ends[i].close_after):
                over += 1
        if over == count:
            return IS_DONE
        if events == 0:
            return IS_PAUSED
        events -= 1
        deadline = engine.deadline()
        if deadline == NEVER:
            return HAS_NOTHING_DUE
        if deadline > until:
            return TIME_IS_UP
        if deadline > engine.now_ns:
            engine.now_ns = deadline
        engine.steps += 1
        if not engine.rest():
            return HAS_NO_REST


def run_streams(Engine engine not None, streams, int64_t until, events=None):
    """Let time pass until every stream has sent and received everything.

    Parameters
    ----------
    engine : Engine
    streams : sequence of Stream
    until : int
        Virtual time at which to stop, nanoseconds.
    events : int, optional
        Stop after so many jumps of time.

    Returns
    -------
    int
        `DONE`; `FAILED`: a stream has an `error` or something `wrong_at`; `TIME_UP`; `NOTHING_DUE`: nothing will happen any
        more; `NO_REST`: frames go round without delay; `PAUSED`: the events are used up.
    """
    cdef tuple all_of_them = tuple(streams)
    cdef Py_ssize_t i, count = len(all_of_them)
    cdef end_t **ends = <end_t **> malloc((count + 1) * sizeof(end_t *))
    cdef uint8_t *scratch = <uint8_t *> malloc(2 * CHUNK)
    cdef uint64_t limit = 0xffffffffffffffff if events is None else events
    cdef int verdict
    if ends == NULL or scratch == NULL:
        free(ends)
        free(scratch)
        raise MemoryError("no memory for the streams")
    try:
        for i in range(count):
            ends[i] = &(<Stream?> all_of_them[i]).e
        with nogil:
            verdict = run_ends(engine, ends, count, scratch, until, limit)
        return verdict
    finally:
        free(ends)
        free(scratch)
