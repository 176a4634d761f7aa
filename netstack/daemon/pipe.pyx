"""Bytes between a socket of the stack and its clients' rings: see pipe.pxd."""

from libc.errno cimport EAGAIN, ECONNRESET
from libc.limits cimport INT_MAX
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close

from netstack.daemon.shared cimport (
    NSD_CUT,
    NSD_EOF,
    NSD_NOTE_DATA,
    NSD_NOTE_SPACE,
    NSD_SHUT,
    NSD_STREAM,
    nsd_fence,
    nsd_load32,
    nsd_load64,
    nsd_store32,
    nsd_store64,
)
from netstack.driver cimport driver_settle, driver_state, driver_t, owner_t, poller_t
from netstack.pollers cimport poller_watch
from netstack.sock cimport (
    EVENT_ERR,
    EVENT_FINISHED,
    EVENT_HUP,
    EVENT_IN,
    EVENT_OUT,
    EVENT_RDHUP,
    SOCK_TCP,
)
from netstack.stack.sockets cimport sock_finished, sock_recv, sock_send, sock_shutdown, sock_take_error
from netstack.tcp.tcb cimport ESTABLISHED, tcb_t

cdef extern from "<sys/socket.h>" nogil:
    int SHUT_WR, SHUT_RDWR, MSG_DONTWAIT, MSG_NOSIGNAL
    int shutdown(int fd, int how)
    ssize_t send(int fd, const void *data, size_t n, int flags)
    ssize_t recv(int fd, void *data, size_t n, int flags)

cdef extern from *:
    """
    #include <linux/futex.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static inline void pipe_wake(const void *word, int most)
    {
        syscall(SYS_futex, word, FUTEX_WAKE, most, NULL, NULL, 0);
    }
    """
    void pipe_wake(const void *word, int most) nogil

cdef enum:
    SHARE_BYTES = 256 << 10      # in each direction, before others have their turn
    DRAIN_ROUNDS = 16            # reads that empty a readiness pair, whoever fills it


cdef bint pipe_unread(pipe_t *p) noexcept nogil:
    return p.streaming and p.tail != nsd_load64(&p.up.head)


cdef bint poison(pipe_t *p) noexcept nogil:
    p.poisoned = 1
    return False


cdef void tell_error(pipe_t *p, uint32_t code) noexcept nogil:
    if code:
        p.errors += 1
        nsd_store32(&p.down.error, p.errors << 16 | (code & 0xffff))


cdef bint look(pipe_t *p) noexcept nogil:
    """Read both of the clients' indices, once. False: they cannot be (security R3, R5)."""
    cdef uint64_t tail = nsd_load64(&p.up.tail), head = nsd_load64(&p.up.head)
    if tail - p.head > p.capacity or tail - p.seen_tail > p.capacity:
        return poison(p)
    if p.tail - head > p.capacity or head - p.seen_head > p.capacity:
        return poison(p)
    p.seen_tail = tail
    p.seen_head = head
    return True


cdef bint towards_stack(pipe_t *p) noexcept nogil:
    """Hand over what lies in the clients' ring. True: the share was used up."""
    cdef driver_t *d = p.o.driver
    cdef uint64_t at, n, budget = SHARE_BYTES
    cdef ssize_t r
    while p.head != p.seen_tail and budget:
        at = p.head & (p.capacity - 1)
        n = min(p.seen_tail - p.head, p.capacity - at, budget)
        r = sock_send(d.stack, p.o.sock, p.up_bytes + at, n, 0)
        if r == -EAGAIN:
            break
        if r <= 0:                                     # nothing of it can be sent any more
            tell_error(p, <uint32_t> sock_take_error(p.o.sock))
            p.shut = p.broken = 1
            p.head = p.seen_tail
            break
        p.head += <uint64_t> r
        budget -= <uint64_t> r
    nsd_store64(&p.down.head, p.head)
    if p.shut_wanted and p.head == p.seen_tail:
        p.shut_wanted = 0
        if not p.broken:
            sock_shutdown(d.stack, p.o.sock, 1)
    return budget == 0


cdef bint from_stack(pipe_t *p) noexcept nogil:
    """Fill the ring towards the clients. True: the share was used up."""
    cdef driver_t *d = p.o.driver
    cdef uint64_t at, n, budget = SHARE_BYTES
    cdef ssize_t r
    while not p.over and budget:
        n = p.capacity - (p.tail - p.seen_head)
        at = p.tail & (p.capacity - 1)
        n = min(n, p.capacity - at, budget)
        if n == 0:
            break
        r = sock_recv(d.stack, p.o.sock, p.down_bytes + at, n, 0)
        if r == -EAGAIN and p.o.cut_off:
            r = -ECONNRESET
        if r == -EAGAIN:
            break
        if r <= 0:
            tell_error(p, <uint32_t> -r)
            p.over = 1
            p.cut = r < 0
            break
        p.tail += <uint64_t> r
        budget -= <uint64_t> r
    nsd_store64(&p.down.tail, p.tail)
    return budget == 0


cdef void show_ready(pipe_t *p) noexcept nogil:
    """Let the clients' readiness pair follow, with few system calls whatever they write (security R11)."""
    cdef char[4096] trash
    cdef char byte = 0
    cdef uint32_t armed, filled
    cdef int i
    if p.back_fd < 0 or p.hung:
        return
    filled = nsd_load32(&p.up.filled)
    if filled & 1 and filled != p.drained:
        # Clients fill it behind their last byte, so the index is read after the word.
        if p.events & (EVENT_OUT | NSD_SHUT) or \
                (p.events & NSD_STREAM and nsd_load64(&p.up.tail) - p.head < p.capacity):
            p.drained = filled
            for i in range(DRAIN_ROUNDS):
                if recv(p.back_fd, trash, sizeof(trash), MSG_DONTWAIT) <= 0:
                    break
            nsd_store32(&p.down.drained, filled)
    armed = nsd_load32(&p.up.armed)
    if armed != p.kicked:
        # Clients arm when they know of everything so far: what they had read, or left, before is not shown again.
        if p.events & (EVENT_IN | NSD_EOF) or p.tail != nsd_load64(&p.up.seen):
            nsd_store32(&p.down.kicking, armed)
            nsd_fence()
            if p.events & (EVENT_IN | NSD_EOF) or p.tail != nsd_load64(&p.up.head):
                p.kicked = armed
                send(p.back_fd, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL)
                nsd_store32(&p.down.kicked, armed)
            else:
                nsd_store32(&p.down.kicking, p.kicked)         # all was taken meanwhile
    if p.events & (EVENT_ERR | EVENT_HUP):
        p.hung = 1
        if p.events & EVENT_ERR or (p.errors and nsd_load32(&p.up.error_taken) != nsd_load32(&p.down.error)):
            # Closed with something unread in it, the kernel shows an error at the other end until it is asked for.
            send(p.front_fd, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL)
            close(p.back_fd)
            p.back_fd = -1
        else:
            shutdown(p.back_fd, SHUT_RDWR)
    elif p.events & NSD_EOF and not p.ended:
        shutdown(p.back_fd, SHUT_WR)
        p.ended = 1


cdef void tell(pipe_t *p, uint32_t events, bint moved) noexcept nogil:
    """Publish what holds now, and wake whoever waits for a change."""
    if events == p.events and not moved:
        show_ready(p)
        return
    p.events = events
    nsd_store32(&p.down.events, events)
    p.bell += 1
    nsd_store32(&p.down.bell, p.bell)
    nsd_fence()
    if nsd_load32(&p.up.waiting):
        pipe_wake(&p.down.bell, INT_MAX)
    show_ready(p)


cdef bint ask_for_note(pipe_t *p, uint32_t kinds) noexcept nogil:
    """Before it is left alone. True: there is something already."""
    p.note = (p.note & ~<uint32_t> 3) + 4 | kinds
    nsd_store32(&p.down.note, p.note)
    nsd_fence()
    if kinds & NSD_NOTE_DATA and nsd_load64(&p.up.tail) != p.seen_tail:
        return True
    return kinds & NSD_NOTE_SPACE and nsd_load64(&p.up.head) != p.seen_head


cdef int pump_stream(pipe_t *p, poller_t *poller) noexcept nogil:
    cdef driver_t *d = p.o.driver
    cdef uint64_t head = p.head, tail = p.tail
    cdef uint32_t errors = p.errors, state, events = NSD_STREAM, interest = 0, kinds = 0
    cdef bint more
    if not look(p):
        return PIPE_POISONED
    more = towards_stack(p)
    if p.orphan:
        if p.head == p.seen_tail:
            return PIPE_FINISHED
    elif from_stack(p):
        more = True
    driver_settle(d)
    state = driver_state(d, p.o)
    if state & EVENT_ERR and not p.o.cut_off:
        tell_error(p, <uint32_t> sock_take_error(p.o.sock))
        state &= ~<uint32_t> EVENT_ERR
    if state & EVENT_HUP and not p.broken:
        p.shut = p.broken = 1
        p.head = p.seen_tail
        nsd_store64(&p.down.head, p.head)
    events |= state & EVENT_HUP
    if p.over:
        events |= NSD_EOF | NSD_CUT if p.cut else NSD_EOF
    if p.shut:
        events |= NSD_SHUT
    if p.lingers and p.head == p.seen_tail and sock_finished(p.o.sock):
        p.finished = 1
    if p.finished:
        events |= EVENT_FINISHED
    tell(p, events, p.head != head or p.tail != tail or p.errors != errors)
    if p.head != p.seen_tail:
        interest |= EVENT_OUT
    else:
        kinds |= NSD_NOTE_DATA
    if not p.over and not p.orphan:
        if p.tail - p.seen_head < p.capacity:
            interest |= EVENT_IN
        else:
            kinds |= NSD_NOTE_SPACE
    if state & EVENT_HUP and not (interest & EVENT_IN and state & EVENT_IN):
        interest = 0                                   # nothing more comes of it: a hang-up stays one
    poller_watch(poller, p.o, interest)
    if ask_for_note(p, kinds):
        more = True
    return PIPE_MORE if more else PIPE_IDLE


cdef int pipe_pump(pipe_t *p, poller_t *poller) noexcept nogil:
    cdef uint32_t state, interest
    if p.poisoned:
        return PIPE_POISONED
    if p.o.sock == NULL:
        return PIPE_FINISHED
    if p.streaming:
        return pump_stream(p, poller)
    if p.orphan:
        return PIPE_FINISHED
    state = driver_state(p.o.driver, p.o)
    if p.committed and p.o.sock.kind == SOCK_TCP and (<tcb_t *> p.o.sock).state >= ESTABLISHED:
        p.streaming = 1                                # it was connecting
        return pump_stream(p, poller)
    if p.o.sock.kind != SOCK_TCP and state & EVENT_ERR:
        state = (state & ~<uint32_t> EVENT_ERR) | EVENT_IN | EVENT_OUT     # told once, then it goes on: no hang-up
    tell(p, state & (EVENT_IN | EVENT_OUT | EVENT_ERR | EVENT_HUP | EVENT_RDHUP), False)
    interest = (EVENT_IN | EVENT_OUT) & ~state
    poller_watch(poller, p.o, 0 if state & (EVENT_ERR | EVENT_HUP) else interest)
    return PIPE_IDLE
