"""The compiled half of a socket: the standard library's calls over the stack's non-blocking ones.

A short call keeps the interpreter and takes the lock of the driver; only waiting, a busy lock, or more than 16 KiB lets
the interpreter go. While the lock is held no Python code runs: buffers are made before, objects after. Every call that
finds input waiting and nobody leading takes a bounded share of it, so that a program that only sends still drives.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EBADF, EINPROGRESS, EINTR, EINVAL, ENETDOWN, EOPNOTSUPP
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from netstack.address cimport address_format, address_parse, endpoint_t
from netstack.calls cimport (
    done,
    has_loan,
    look,
    look_again,
    readable,
    receive_waiting,
    send_waiting,
    try_receive,
    try_send,
    wait_events,
)
from netstack.clock cimport NS_PER_S
from netstack.driver cimport (
    WAIT_DEAD,
    WAIT_INTERRUPTED,
    WAIT_TIMEOUT,
    Driver,
    driver_abandon,
    driver_adopt,
    driver_fileno,
    driver_forked,
    driver_give_fd,
    driver_now,
    driver_settle,
    driver_show,
    driver_t,
    driver_unlock,
    owner_t,
    park_lock,
    park_now_ns,
    park_try_hard,
    signal_slice,
)
from netstack.face cimport Face, as_int, option_value
from netstack.link.link cimport NEVER
from netstack.readiness cimport READY_EVENT, READY_PAIR, ready_close
from netstack.sock cimport EVENT_FINISHED, EVENT_IN as C_IN, EVENT_OUT as C_OUT, SOCK_TCP, sock_t
from netstack.stack.core cimport stack_is_local, stack_set_now
from netstack.stack.sending cimport send_how_init, send_how_t
from netstack.stack.sockets cimport (
    sock_accept,
    sock_bind,
    sock_close,
    sock_connect,
    sock_defer,
    sock_getsockopt,
    sock_lend,
    sock_lend_taken,
    sock_listen,
    sock_local,
    sock_open,
    sock_recvmsg,
    sock_remote,
    sock_sendmsg,
    sock_setsockopt,
    sock_shutdown,
    sock_take_error,
)
from netstack.tcp.tcb cimport ESTABLISHED, TF_LINGER, receive_end, tcb_t
from netstack.udp.endpoint cimport arrival_t, udp_endpoint_t

import os
import stat
import warnings
import weakref

from netstack.ancillary import Arrival, fitting, from_ancillary, to_ancillary
from netstack.congestion import find as find_algorithm
from netstack.errors import ForkedError

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    SMALL = 1024                 # received through the stack of the thread instead of a bytes object made for it
    KEEP_BYTES = 16 << 10        # more than this lets the interpreter go
    MSG_PEEK = 0x2
    MSG_TRUNC = 0x20
    MSG_DONTWAIT = 0x40
    MSG_WAITALL = 0x100
    MSG_ERRQUEUE = 0x2000
    MSG_FASTOPEN = 0x20000000

cdef str AGAIN = os.strerror(EAGAIN)

# What Handle.wait waits for: the numbers of poll(2).
EVENT_IN = C_IN
EVENT_OUT = C_OUT

# Descriptors that show readiness and carry no data, with the Handle whose readiness it is: never to be read, written or
# given to sendfile.
readiness_fds = weakref.WeakValueDictionary()

# Of those that are stream pairs, which a duplicate still shows: inode number to Handle.
readiness_files = weakref.WeakValueDictionary()


# Listeners at addresses that stacks share: what forked children may have too.
listeners = weakref.WeakSet()


def handle_behind(int fd):
    """The socket whose readiness a duplicate of its descriptor shows; None: it is something else."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return readiness_files.get(status.st_ino) if stat.S_ISSOCK(status.st_mode) and fd not in readiness_fds else None


def handle_of(fd):
    """The socket that a readiness descriptor shows, found by its number; None: it is something else, or is closed."""
    handle = readiness_fds.get(fd) if isinstance(fd, int) else None
    try:
        status = os.fstat(fd) if handle is not None else None
    except OSError:
        return None
    if status is None or stat.S_IFMT(status.st_mode):                  # an eventfd has no type
        return handle if status is not None and readiness_files.get(status.st_ino) is handle else None
    return handle


def repeat_blocking(handle):
    """Let the readiness descriptor have O_NONBLOCK as a kernel's socket would."""
    os.set_blocking(handle.shown_fd, handle.timeout is None)


def describe(handle):
    """What a socket's ``repr`` says of it."""
    text = f"family={handle.family}, type={handle.type}, proto={handle.proto}"
    if handle.shown_fd >= 0:
        text = f"fd={handle.shown_fd}, {text}"
    if handle.closed:
        return f"[closed] {text}"
    for word, ask in (("laddr", handle.getsockname), ("raddr", handle.getpeername)):
        try:
            text += f", {word}={ask()}"
        except OSError:
            pass
    return text


cdef void enter(driver_t *d):
    """Take the lock; the interpreter is kept unless the lock is busy for long."""
    if not park_try_hard(&d.lock):
        with nogil:
            park_lock(&d.lock)


cdef class Handle(Face):
    """A socket of one host, without the standard library's class around it.

    Methods are those of ``socket.socket`` with its arguments, results and errors; some stand in `netstack.face`.
    """

    @staticmethod
    def open(Driver driver not None, int family, int type, int proto, object host=None):
        """A new socket. ``proto`` 0 means the usual one of the type.

        Raises
        ------
        OSError
            EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT, ENOMEM.
        """
        cdef Handle self = Handle.__new__(Handle)
        cdef sock_t *sock = NULL
        cdef driver_t *d = &driver.d
        cdef int r
        self.driver = driver
        self.host = host
        self.family = family
        self.type = type
        self.proto = proto
        self.o.driver = d
        self.shareable = getattr(host, "shares_address", False)
        if self.shareable:
            self.said = []
        self.without_waiting()
        self.usable()
        enter(d)
        stack_set_now(d.stack, driver_now(d))
        r = -EBADF if d.dead else sock_open(d.stack, family, type, proto, &sock)
        if r == 0:
            driver_adopt(d, &self.o, sock)
        driver_unlock(d)
        if r < 0:
            raise self.failure(-r, "socket")
        return self

    def __del__(self):
        # Here and not in the socket around it: a bound method may outlive that one, and is a use of the socket.
        if self.o.sock == NULL:
            return
        if driver_forked(self.o.driver):
            self.forget()
            return
        text = f"unclosed {self!r}"
        self.close()
        warnings.warn(text, ResourceWarning, stacklevel=1, source=self)

    def __repr__(self):
        return f"<{self.shown_as} {describe(self)}>"

    cdef Handle sibling(self):
        cdef Handle new = Handle.__new__(Handle)
        new.driver = self.driver
        new.host = self.host
        new.family = self.family
        new.type = self.type
        new.proto = self.proto
        new.o.driver = self.o.driver
        new.without_waiting()
        return new

    cdef void without_waiting(self):
        """On virtual time no call may wait: nothing would move the time meanwhile."""
        if self.o.driver.virtual_ns:
            self.timeout_ns = 0
            self.timeout = 0.0

    def settimeout(self, object value, /):
        """Seconds, 0 for non-blocking, None for blocking."""
        if self.will is not None and driver_forked(self.o.driver):
            self.usable()                              # the descriptor is the parent's until then
        if self.o.driver.virtual_ns and value != 0:
            raise OSError(EOPNOTSUPP, "this host's time is virtual, no call may wait for it: use the event loop of "
                                      "netstack.testing.VirtualNetwork")
        Face.settimeout(self, value)
        if self.o.sock == NULL:
            raise OSError(EBADF, os.strerror(EBADF))
        if self.o.ready.kind:
            repeat_blocking(self)

    def closed_twin(self):
        """A closed socket of the same kind: what stays with an object that gave its socket away."""
        return self.sibling()

    cdef int usable(self) except -1:
        if driver_forked(self.o.driver):
            if self.will is not None and self.o.sock != NULL:
                return self.revive()
            raise ForkedError(EBADF, "this socket belongs to the parent process: make a new one after fork()")
        return 0

    # --- listeners in forked children

    def bequeath(self):
        """Before a fork: let the router know that children may come to have this listener's port."""
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef tcb_t *tcb
        cdef uint32_t i
        cdef list flows
        if driver_forked(d) or d.dead or o.sock == NULL or not self.listening:
            return
        self.will = self.getsockname()
        if self.offered:
            return
        flows = []
        enter(d)
        for i in range(d.stack.sock_count):
            tcb = <tcb_t *> d.stack.socks[i]
            if tcb.sock.kind == SOCK_TCP and tcb.lport == self.will[1] and tcb.state >= ESTABLISHED:
                flows.append((<char *> &tcb.local)[:16] + (<char *> &tcb.remote)[:16] + (<char *> &tcb.rport)[:2])
        driver_unlock(d)
        self.host.lease.ports.share(0, self.will[1], flows)
        self.offered = True

    def defer(self):
        """After a fork, in the parent: while nobody waits for connections here, leave them to the children."""
        cdef owner_t *o = &self.o
        if self.watched or not self.offered or driver_forked(o.driver):
            return
        enter(o.driver)
        if o.sock != NULL:
            sock_defer(o.sock, True)
        driver_unlock(o.driver)
        self.deferred = True

    def watch(self):
        """Somebody waits for connections: they are wanted here, too."""
        cdef owner_t *o = &self.o
        self.usable()
        self.watched = True
        if not self.deferred:
            return
        self.deferred = False
        enter(o.driver)
        if o.sock != NULL:
            sock_defer(o.sock, False)
        driver_unlock(o.driver)
        self.host.lease.ports.stay(0, self.will[1])

    cdef int revive(self) except -1:
        """In a forked child: become a listener at the parent's port, of a host of the child's own."""
        cdef owner_t *o = &self.o
        cdef Handle new
        cdef sock_t *sock
        cdef int fd = o.ready.fd if o.ready.kind else -1
        host = self.host.heir()
        new = Handle.open(host.driver, self.family, self.type, self.proto, host)
        try:
            for option in self.said:
                new.setsockopt(*option)
            host.lease.ports.expect(0, self.will[1])
            new.bind(self.will)
            new.listen(self.backlog)
            host.lease.ports.inherit(0, self.will[1], self.host.lease.token, not self.watched)
        except BaseException:
            new.close()
            raise
        listeners.discard(new)
        enter(new.o.driver)
        sock = new.o.sock
        driver_abandon(new.o.driver, &new.o)
        memset(o, 0, sizeof(o[0]))
        driver_adopt(new.o.driver, o, sock)
        driver_unlock(o.driver)
        self.driver = new.driver
        self.host = host
        self.offered = self.deferred = self.watched = False
        if fd >= 0:
            readiness_fds.pop(fd, None)
            self.fileno_at(fd)
        return 0

    cdef void forget(self) noexcept:
        """In a forked child: give up what was inherited. The parent's socket is not touched."""
        if self.o.ready.kind:
            readiness_fds.pop(self.o.ready.fd, None)
            ready_close(&self.o.ready)
        self.o.sock = NULL

    # --- errors and addresses

    cdef object failure(self, int code, str operation, object remote=None):
        """The exception for an errno number, naming the operation and both ends as far as they are known."""
        cdef endpoint_t local
        cdef endpoint_t peer
        cdef bint has_local = False, has_peer = False
        cdef driver_t *d = self.o.driver
        if code == EAGAIN:
            return self.not_now()
        if not d.dead:
            enter(d)
            if self.o.sock != NULL:
                has_local = sock_local(d.stack, self.o.sock, &local) == 0
                has_peer = remote is None and sock_remote(d.stack, self.o.sock, &peer) == 0
            driver_unlock(d)
        if has_peer:
            remote = self.from_endpoint(&peer)
        text = f"{os.strerror(code)}: {operation}"
        if has_local and local.port:
            text += f" {address_format(&local.address)}:{local.port}"
        if remote:
            text += f" -> {remote[0]}:{remote[1]}"
        return OSError(code, text)

    # --- waiting

    cdef int wait_for(self, unsigned int events, int64_t deadline, int *step) except -1:
        """WAIT_READY or WAIT_TIMEOUT; signal handlers run meanwhile. EBADF when the socket is closed."""
        cdef owner_t *o = &self.o
        cdef int waited
        cdef int64_t slice
        while True:
            slice = signal_slice(step, park_now_ns())
            with nogil:
                waited = wait_events(o, events, deadline, slice)
            if waited == WAIT_DEAD or self.o.sock == NULL:
                raise OSError(EBADF, os.strerror(EBADF))
            if waited != WAIT_INTERRUPTED:
                return waited
            PyErr_CheckSignals()

    def wait(self, unsigned int events, object seconds=None):
        """Wait until one of ``events`` (EVENT_IN, EVENT_OUT), an error or a hang-up holds. False: not within ``seconds``."""
        cdef int64_t deadline = NEVER
        cdef int step = 0
        self.usable()
        if seconds is not None:
            deadline = park_now_ns() + <int64_t> (min(max(seconds, 0.0), 9e9) * 1e9)
        return self.wait_for(events, deadline, &step) != WAIT_TIMEOUT

    # --- connections

    def bind(self, address):
        """Bind to a local address and port; port 0 picks one."""
        cdef endpoint_t e
        cdef owner_t *o = &self.o
        cdef int r
        self.usable()
        self.to_endpoint(address, "bind", &e)
        enter(o.driver)
        r = -EBADF if o.sock == NULL else sock_bind(o.driver.stack, o.sock, &e)
        done(o)
        if r < 0:
            raise self.failure(-r, f"bind to {address[0] or '*'}:{address[1]}")

    cdef int connect_number(self, object address) except -1:
        cdef endpoint_t e
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef int64_t deadline
        cdef int r, step = 0
        self.usable()
        self.to_endpoint(address, "connect", &e)
        enter(d)
        look(d)
        if o.sock == NULL or d.dead:
            r = -EBADF
        elif d.links_dead and not self.own_address(&e):
            r = -ENETDOWN
        else:
            r = sock_connect(d.stack, o.sock, &e)
        done(o)
        if r == -EINPROGRESS and self.timeout_ns:
            deadline = self.deadline()
            if self.wait_for(C_OUT, deadline, &step) == WAIT_TIMEOUT:
                return EAGAIN
            enter(d)
            r = -EBADF if o.sock == NULL else -sock_take_error(o.sock)
            if r == 0 and o.cut_off:
                r = -ENETDOWN
            driver_show(d, o)
            driver_unlock(d)
        return -r

    cdef bint own_address(self, const endpoint_t *e):
        return stack_is_local(self.o.driver.stack, &e.address)

    def listen(self, backlog=128):
        """Accept connections; ``backlog`` may wait for `accept`."""
        cdef owner_t *o = &self.o
        cdef int r, most = as_int(backlog)
        self.usable()
        enter(o.driver)
        stack_set_now(o.driver.stack, driver_now(o.driver))
        r = -EBADF if o.sock == NULL else sock_listen(o.driver.stack, o.sock, max(most, 0))
        done(o)
        if r < 0:
            raise self.failure(-r, "listen")
        self.listening = True
        self.backlog = most
        if self.shareable:
            listeners.add(self)

    def accept(self):
        """The next connection: ``(Handle, address of the peer)``."""
        cdef owner_t *o = &self.o
        cdef driver_t *d
        cdef Handle new
        cdef sock_t *sock
        cdef endpoint_t e
        cdef int64_t deadline = 0
        cdef int r, step = 0, looks = 0
        self.usable()
        if not self.watched:
            self.watch()
        d = o.driver
        new = self.sibling()
        while True:
            sock = NULL
            memset(&e, 0, sizeof(e))
            enter(d)
            look(d)
            r = -EBADF if o.sock == NULL or d.dead else sock_accept(d.stack, o.sock, &sock)
            while r == -EAGAIN and self.timeout_ns == 0 and look_again(d, &looks):
                r = -EBADF if o.sock == NULL or d.dead else sock_accept(d.stack, o.sock, &sock)
            if r == 0:
                driver_adopt(d, &new.o, sock)
                sock_remote(d.stack, sock, &e)
            done(o)
            if r == 0:
                return new, self.from_endpoint(&e)
            if r != -EAGAIN:
                raise self.failure(-r, "accept")
            if self.timeout_ns == 0:
                raise BlockingIOError(EAGAIN, AGAIN)
            if not deadline:
                deadline = self.deadline()
            if self.wait_for(C_IN, deadline, &step) == WAIT_TIMEOUT:
                raise TimeoutError("timed out")

    def shutdown(self, how, /):
        """End reading (0), writing (1) or both (2)."""
        cdef owner_t *o = &self.o
        cdef int r, direction = as_int(how)
        self.usable()
        enter(o.driver)
        look(o.driver)
        r = -EBADF if o.sock == NULL else sock_shutdown(o.driver.stack, o.sock, direction)
        done(o)
        if r < 0:
            raise self.failure(-r, "shutdown")

    def close(self):
        """Give the socket up. Data on its way is still delivered; threads that wait on it get EBADF."""
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef sock_t *sock
        if d == NULL or o.sock == NULL:
            return
        if driver_forked(d):
            self.forget()
            return
        if o.sock.kind == SOCK_TCP and (<tcb_t *> o.sock).flags & TF_LINGER and not d.virtual_ns:
            try:
                self.linger()
            finally:
                self.release()
        else:
            self.release()

    cdef int linger(self) except -1:
        """SO_LINGER: wait until the peer has everything, at most for the time the application gave."""
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef tcb_t *tcb
        cdef int64_t deadline = 0
        cdef int step = 0
        enter(d)
        if o.sock != NULL:
            look(d)
            tcb = <tcb_t *> o.sock
            if tcb.settings.linger_s and tcb.state >= ESTABLISHED and receive_end(tcb) == tcb.rcv_read:
                deadline = park_now_ns() + <int64_t> tcb.settings.linger_s * NS_PER_S
                sock_shutdown(d.stack, o.sock, 1)
                driver_settle(d)
        driver_unlock(d)
        if deadline:
            self.wait_for(EVENT_FINISHED, deadline, &step)
        return 0

    cdef void release(self) noexcept:
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef sock_t *sock
        if o.ready.kind:
            readiness_fds.pop(o.ready.fd, None)
        enter(d)
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

    @property
    def shareable_listener(self):
        """Whether forked children may come to have it: who asks for its descriptor is somebody who waits (`watch`)."""
        return self.shareable and self.listening and self.o.sock != NULL

    @property
    def closed(self):
        return self.o.sock == NULL

    @property
    def shown_fd(self):
        """The readiness descriptor, if somebody asked for it; else -1."""
        return self.o.ready.fd if self.o.ready.kind else -1

    def fileno(self):
        """A descriptor that shows readiness to select, poll and epoll; it carries no data. -1 once closed."""
        cdef owner_t *o = &self.o
        cdef driver_t *d
        cdef int r
        if o.sock == NULL:
            return -1
        self.usable()
        d = o.driver
        enter(d)
        look(d)
        if o.sock == NULL:
            r = -1
        else:
            r = driver_fileno(d, o, READY_EVENT if self.listening or o.sock.kind != SOCK_TCP else READY_PAIR)
        driver_unlock(d)
        if r < -1:
            raise OSError(-r, os.strerror(-r))
        if r >= 0 and readiness_fds.get(r) is not self:
            readiness_fds[r] = self
            if self.o.ready.kind == READY_PAIR:
                readiness_files[os.fstat(r).st_ino] = self
            repeat_blocking(self)
        return r

    def fileno_at(self, int fd):
        """As `fileno`, but the descriptor gets the number ``fd``; what was open there is closed."""
        cdef owner_t *o = &self.o
        cdef int r = self.fileno()
        if r < 0 or r == fd:
            return r
        readiness_fds.pop(r, None)
        os.dup2(r, fd, False)
        enter(o.driver)
        if o.ready.kind:
            o.ready.fd = fd
        driver_unlock(o.driver)
        os.close(r)
        readiness_fds[fd] = self
        return fd

    def release_fileno(self):
        """Give the readiness descriptor to the caller, who closes it; -1: there is none."""
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef int r = -1
        self.usable()
        enter(d)
        if o.ready.kind:
            r = driver_give_fd(d, o)
        driver_unlock(d)
        readiness_fds.pop(r, None)
        return r

    def getsockname(self):
        cdef endpoint_t e
        cdef owner_t *o = &self.o
        cdef int r
        self.usable()
        enter(o.driver)
        r = -EBADF if o.sock == NULL else sock_local(o.driver.stack, o.sock, &e)
        driver_unlock(o.driver)
        if r < 0:
            raise self.failure(-r, "getsockname")
        return self.from_endpoint(&e)

    def getpeername(self):
        cdef endpoint_t e
        cdef owner_t *o = &self.o
        cdef int r
        self.usable()
        enter(o.driver)
        look(o.driver)
        r = -EBADF if o.sock == NULL else sock_remote(o.driver.stack, o.sock, &e)
        done(o)
        if r < 0:
            raise self.failure(-r, "getpeername")
        return self.from_endpoint(&e)

    # --- options

    def getsockopt(self, level, option, buflen=0, /):
        """An int, or ``buflen`` bytes at most."""
        cdef uint8_t value[1024]
        cdef uint32_t n = sizeof(int)
        cdef int r, number, at = as_int(level), which = as_int(option), most = as_int(buflen)
        cdef owner_t *o = &self.o
        self.usable()
        if most < 0 or most > 1024:
            raise OSError("getsockopt buflen out of range")
        if most:
            n = <uint32_t> most
        memset(value, 0, sizeof(value))
        enter(o.driver)
        look(o.driver)
        r = -EBADF if o.sock == NULL else sock_getsockopt(o.driver.stack, o.sock, at, which, value, &n)
        done(o)
        if r < 0:
            raise self.failure(-r, f"getsockopt {level}, {option}")
        if most:
            return PyBytes_FromStringAndSize(<char *> value, n)
        memcpy(&number, value, sizeof(number))
        return number

    def setsockopt(self, level, option, value, optlen=None, /):
        """``value``: an int or a bytes-like object. None with ``optlen``, which few families have, is EFAULT."""
        cdef owner_t *o = &self.o
        cdef int at = as_int(level), which = as_int(option), r
        cdef bytes data
        self.usable()
        if value is None and isinstance(optlen, int) and o.sock == NULL:
            raise OSError(EBADF, os.strerror(EBADF))
        data = option_value(value, optlen)
        if at == 6 and which == 13 and data:           # TCP_CONGESTION: a package may offer the algorithm
            find_algorithm(data)
        enter(o.driver)
        stack_set_now(o.driver.stack, driver_now(o.driver))
        r = -EBADF
        if o.sock != NULL:
            r = sock_setsockopt(o.driver.stack, o.sock, at, which, <const uint8_t *> PyBytes_AS_STRING(data),
                                <uint32_t> len(data))
        done(o)
        if r < 0:
            raise self.failure(-r, f"setsockopt {level}, {option}")
        if self.shareable:
            self.said.append((at, which, data))

    # --- receiving

    cdef ssize_t receive(self, unsigned char *data, size_t n, int flags, endpoint_t *src) except -1:
        """Into a buffer; blocks as the socket does. The caller's operation has raised when this returns -1."""
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef int64_t deadline = 0, slice = NEVER
        cdef bint blocking = self.blocks(flags), waitall = flags & MSG_WAITALL and o.sock != NULL and self.timeout_ns < 0
        cdef ssize_t r
        cdef size_t got = 0
        cdef int step = 0, looks = 0
        self.usable()
        flags &= ~(MSG_DONTWAIT | MSG_WAITALL)
        if n <= KEEP_BYTES:
            enter(d)
            look(d)
            r = try_receive(o, data, n, flags, src)
            while r == -EAGAIN and not blocking and look_again(d, &looks):
                r = try_receive(o, data, n, flags, src)
            done(o)
        elif not blocking:
            with nogil:
                r = receive_waiting(o, data, n, flags, src, 0, NEVER)
        else:
            r = -EINTR
        while True:
            if r == -EINTR or (r == -EAGAIN and blocking):
                if not deadline:
                    deadline = self.deadline()
                elif r == -EAGAIN:
                    break
                slice = signal_slice(&step, park_now_ns())
                with nogil:
                    r = receive_waiting(o, data + got, n - got, flags, src, deadline, slice)
                if r == -EINTR:
                    PyErr_CheckSignals()
                continue
            if r > 0 and waitall and blocking and not flags & MSG_PEEK and got + r < n and self.type == 1:
                got += r
                r = -EINTR
                continue
            break
        if r >= 0:
            return r + got
        if got:
            return got
        if r == -EAGAIN and not blocking:
            raise BlockingIOError(EAGAIN, AGAIN)
        raise self.failure(-<int> r, "recv")

    cdef object receive_bytes(self, Py_ssize_t n, int flags, endpoint_t *src, str operation):
        cdef uint8_t small[SMALL]
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef bytes out
        cdef size_t room
        cdef ssize_t r
        cdef int64_t deadline = 0
        cdef int step = 0, looks = 0
        self.usable()
        if n < 0:
            raise ValueError(f"negative buffersize in {operation}")
        if n == 0 and src == NULL:
            return b""
        if flags & (MSG_WAITALL | MSG_TRUNC):
            out = PyBytes_FromStringAndSize(NULL, n)
            r = self.receive(<unsigned char *> PyBytes_AS_STRING(out), n, flags, src)
            return out[:r]
        while True:
            enter(d)
            look(d)
            room = readable(o)
            if room > <size_t> n:
                room = n
            if room <= SMALL:
                r = try_receive(o, small, min(n, SMALL), flags & ~MSG_DONTWAIT, src)
                if r == -EAGAIN and not self.blocks(flags) and look_again(d, &looks):
                    driver_unlock(d)
                    continue
                done(o)
                if r >= 0:
                    return PyBytes_FromStringAndSize(<char *> small, r)
                if r != -EAGAIN:
                    raise self.failure(-<int> r, operation)
                if not self.blocks(flags):
                    raise BlockingIOError(EAGAIN, AGAIN)
                if not deadline:
                    deadline = self.deadline()
                if self.wait_for(C_IN, deadline, &step) == WAIT_TIMEOUT:
                    raise TimeoutError("timed out")
                continue
            driver_unlock(d)
            out = PyBytes_FromStringAndSize(NULL, room)
            r = self.receive(<unsigned char *> PyBytes_AS_STRING(out), room, flags, src)
            return out if <size_t> r == room else out[:r]

    cdef object receive_datagram(self, bytearray space, Py_ssize_t size, Py_ssize_t room, int flags):
        """``(whole length, ancillary, flags, address)``."""
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef endpoint_t e
        cdef arrival_t how
        cdef uint32_t wants = 0, port = 0
        cdef int64_t deadline = 0
        cdef ssize_t r
        cdef int step = 0, looks = 0
        cdef unsigned char *data = <unsigned char *> PyByteArray_AS_STRING(space)
        self.usable()
        while True:
            enter(d)
            look(d)
            if o.sock == NULL or d.dead:
                r = -EBADF
            else:
                r = sock_recvmsg(d.stack, o.sock, data, size, (flags & ~MSG_DONTWAIT) | MSG_TRUNC, &e, &how, &wants)
                if r == -EAGAIN and not self.blocks(flags) and look_again(d, &looks):
                    driver_unlock(d)
                    continue
                port = (<const udp_endpoint_t *> o.sock).lport
            done(o)
            if r >= 0:
                break
            if r != -EAGAIN:
                raise self.failure(-<int> r, "recvmsg")
            if not self.blocks(flags) or flags & MSG_ERRQUEUE:
                raise BlockingIOError(EAGAIN, AGAIN)
            if not deadline:
                deadline = self.deadline()
            if self.wait_for(C_IN, deadline, &step) == WAIT_TIMEOUT:
                raise TimeoutError("timed out")
        items, out_flags = fitting(to_ancillary(wants, Arrival(
            address_format(&how.dst), address_format(&how.offender), how.interface + 1, how.ttl, how.tos, how.origin, how.type,
            how.code, how.error, how.info, port)), room)
        return r, items, out_flags | (flags & MSG_ERRQUEUE), self.from_endpoint(&e)

    cdef void lend(self, unsigned char *data, size_t n) noexcept:
        cdef owner_t *o = &self.o
        if o.sock == NULL or driver_forked(o.driver):
            return
        enter(o.driver)
        if o.sock != NULL and not o.driver.dead and not has_loan(o):
            sock_lend(o.driver.stack, o.sock, data, n)
        done(o)

    cdef size_t take_lent(self) noexcept:
        cdef owner_t *o = &self.o
        cdef size_t n = 0
        if o.sock == NULL or driver_forked(o.driver):
            return 0
        enter(o.driver)
        if o.sock != NULL:
            look(o.driver)
            n = sock_lend_taken(o.driver.stack, o.sock)
        done(o)
        return n

    # --- sending

    cdef ssize_t transmit(self, const unsigned char *data, size_t n, int flags, const endpoint_t *to, bint everything,
                          str operation) except -1:
        """Bytes sent: all of them, or what went before the timeout or an error when that is not wanted."""
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef int64_t deadline = 0, slice
        cdef size_t sent = 0
        cdef ssize_t r
        cdef bint blocking = self.blocks(flags)
        cdef int step = 0, looks = 0
        self.usable()
        flags &= ~MSG_DONTWAIT
        if flags & MSG_FASTOPEN and self.type == 1:
            return self.transmit_fast(data, n, flags, to, blocking, operation)
        if n <= KEEP_BYTES:
            enter(d)
            look(d)
            r = try_send(o, data, n, flags, to)
            while r == -EAGAIN and not blocking and look_again(d, &looks):
                r = try_send(o, data, n, flags, to)
            done(o)
            if r >= 0:
                sent = r
                if sent == n or not (everything or self.timeout_ns < 0):
                    return sent
                r = -EINTR
            elif r == -EINPROGRESS and blocking:
                r = -EINTR                 # a connect() that waited for this write: its SYN is out now
        elif not blocking:
            with nogil:
                r = send_waiting(o, data, n, flags, to, False, 0, NEVER, &sent)
            if r == 0:
                return sent
        else:
            r = -EINTR
        if blocking and (r == -EINTR or r == -EAGAIN):
            deadline = self.deadline()
            while True:
                slice = signal_slice(&step, park_now_ns())
                with nogil:
                    r = send_waiting(o, data, n, flags, to, everything or self.timeout_ns < 0, deadline, slice, &sent)
                if r != -EINTR:
                    break
                PyErr_CheckSignals()
            if r == 0:
                return sent
        if sent and not everything:
            return sent
        if r == -EINTR:                    # a non-blocking sendall that could not send everything
            r = -EAGAIN
        if r == -EAGAIN and not blocking:
            raise BlockingIOError(EAGAIN, AGAIN)
        raise self.failure(-<int> r, operation)

    cdef ssize_t transmit_fast(self, const unsigned char *data, size_t n, int flags, const endpoint_t *to, bint blocking,
                               str operation) except -1:
        """Connect and send at once (TCP Fast Open). A blocking socket waits for the handshake, as Linux does, then sends on."""
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef ssize_t r
        cdef int error, step = 0
        enter(d)
        look(d)
        r = try_send(o, data, n, flags, to)
        done(o)
        if r < 0 and not (blocking and r == -EINPROGRESS):
            raise self.failure(-<int> r, operation)
        if not blocking:
            return r
        if r < 0:
            r = 0
        if self.wait_for(C_OUT, self.deadline(), &step) == WAIT_TIMEOUT:
            if r:
                return r
            raise TimeoutError("timed out")
        enter(d)
        error = EBADF if o.sock == NULL else sock_take_error(o.sock)
        driver_show(d, o)
        driver_unlock(d)
        if error:
            raise self.failure(error, operation)
        if <size_t> r == n:
            return r
        return r + self.transmit(data + r, n - r, flags & ~MSG_FASTOPEN, NULL, False, operation)

    cdef object send_instructed(self, bytes data, list ancillary, int flags, object address):
        """One datagram with what its ancillary data says."""
        cdef owner_t *o = &self.o
        cdef driver_t *d = o.driver
        cdef endpoint_t e
        cdef send_how_t how
        cdef int64_t deadline = 0
        cdef ssize_t r
        cdef int step = 0
        cdef bint named = address is not None
        self.usable()
        if o.sock == NULL:
            raise OSError(EBADF, os.strerror(EBADF))
        send_how_init(&how)
        try:
            said = from_ancillary(ancillary)
        except ValueError as error:
            raise OSError(EINVAL, f"Invalid argument: {error}") from None
        how.ttl, how.tos = said.ttl, said.tos
        how.interface = said.interface
        if said.source:
            address_parse(said.source, &how.source)
        if named:
            self.to_endpoint(address, "sendmsg", &e)
        while True:
            enter(d)
            look(d)
            r = -EBADF if o.sock == NULL or d.dead else sock_sendmsg(
                d.stack, o.sock, <const uint8_t *> PyBytes_AS_STRING(data), len(data), &e if named else NULL, &how)
            done(o)
            if r >= 0:
                return r
            if r != -EAGAIN:
                raise self.failure(-<int> r, "sendmsg", address)
            if not self.blocks(flags):
                raise BlockingIOError(EAGAIN, AGAIN)
            if not deadline:
                deadline = self.deadline()
            if self.wait_for(C_OUT, deadline, &step) == WAIT_TIMEOUT:
                raise TimeoutError("timed out")


def _before_fork():
    for handle in list(listeners):
        try:
            handle.bequeath()
        except OSError:                                # the router is gone, or refuses: so it will tell the child
            continue


def _in_parent():
    for handle in list(listeners):
        handle.defer()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent)
