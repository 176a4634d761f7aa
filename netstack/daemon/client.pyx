"""A process's connection to a daemon, and what becomes of it in a fork.

Before a fork the parent has the daemon reserve a reference to each of its sockets; the child joins with the key of that
reservation. The rings' memory it has inherited, so its sockets go on as they are. A child that never joins (because it
executes another program at once) costs nothing: the reservation ends by itself, and with it the references.
"""

from libc.errno cimport ECONNREFUSED, ENOENT
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close

import os
import weakref

from netstack.daemon.paths import daemon_name, socket_path
from netstack.errors import NoDaemonError, RouterError

_clients = weakref.WeakSet()     # of this process


cdef class Client:
    """Join a daemon.

    Parameters
    ----------
    name : str, optional
        Which; ``$NETSTACK_DAEMON`` or ``default`` without it.
    spin_us : float
        How long a wait looks before it sleeps, microseconds.

    Raises
    ------
    NoDaemonError
        None runs under that name.
    """

    def __cinit__(self, name=None, double spin_us=20.0):
        memset(&self.c, 0, sizeof(self.c))
        self.path = os.fsencode(socket_path(name))
        self.spin_us = spin_us if len(os.sched_getaffinity(0)) > 1 else 0
        cdef int r = self.join(0)
        if r in (-ECONNREFUSED, -ENOENT):
            raise NoDaemonError(ECONNREFUSED, f"no daemon named {daemon_name(name)!r} is running: start one with "
                                              "'netstack daemon'")
        if r < 0:
            raise RouterError(-r, f"join the daemon {daemon_name(name)!r}: {os.strerror(-r)}")
        _clients.add(self)

    def join(self, uint64_t key):
        """Connect; 0 or a negative errno number. With the key of a reservation its references are this process's."""
        cdef char about[4096]
        cdef size_t got = 0
        cdef int r
        cdef int64_t spin_ns = <int64_t> (self.spin_us * 1000)
        cdef const char *path = self.path
        with nogil:
            r = nsd_join(&self.c, path, key, spin_ns, about, sizeof(about), &got)
        self.joined = r == 0
        if r == 0:
            lines = about[:got].decode().split("\n")
            self.addresses = tuple(line for line in lines if " " not in line and line)
            self.pid = int(lines[len(lines) - 1].partition(" ")[2])
        return r

    def __dealloc__(self):
        self.close()

    def close(self):
        """Leave: the daemon closes what nobody else has. A second call does nothing."""
        if self.joined:
            self.joined = False
            nsd_leave(&self.c)

    @property
    def alive(self):
        """Whether the daemon is."""
        return self.joined and nsd_alive(&self.c) != 0

    cdef int ask(self, nsd_message_t *m) except -1:
        """One request without data or descriptors: 0 or an errno number."""
        cdef int fds[NSD_FDS]
        cdef int count, r
        cdef size_t got
        with nogil:
            r = nsd_call(&self.c, m, NULL, 0, NULL, 0, &got, fds, &count)
        while count > 0:
            count -= 1
            close(fds[count])
        return -r

    def reserve(self):
        """A key by which another process can have references to all sockets of this one (for ten seconds); 0: none."""
        cdef nsd_message_t m
        memset(&m, 0, sizeof(m))
        m.type = NSD_RESERVE
        return m.key if self.ask(&m) == 0 else 0

    def release(self, uint64_t key):
        """The reservation is not needed."""
        cdef nsd_message_t m
        memset(&m, 0, sizeof(m))
        m.type = NSD_RELEASE
        m.key = key
        self.ask(&m)

    def source_address(self, str destination):
        """Which own address packets to ``destination`` would have; None: it is out of reach."""
        from netstack.daemon.protocol import endpoint_fields, Message

        cdef nsd_message_t m
        cdef bytes raw = endpoint_fields((destination, 0))["address"]
        cdef const unsigned char *p = raw
        memset(&m, 0, sizeof(m))
        m.type = NSD_ROUTE
        m.address = p[:16]
        if self.ask(&m):
            return None
        found = Message(0, address=(<const char *> m.address)[:16])
        return found.endpoint(10)[0] if not found.address.startswith(bytes(10) + b"\xff\xff") else found.endpoint(2)[0]

    def before_fork(self):
        self.reserved = self.reserve() if self.joined and self.sockets and self.alive else 0

    def after_fork_in_child(self):
        """The parent's connection is not ours; its sockets are, by the reservation."""
        cdef uint64_t key = self.reserved
        self.reserved = 0
        if self.joined:
            nsd_leave(&self.c)
            self.join(key)


def _before() -> None:
    for client in list(_clients):
        client.before_fork()


def _in_child() -> None:
    for client in list(_clients):
        client.after_fork_in_child()


os.register_at_fork(before=_before, after_in_child=_in_child)
