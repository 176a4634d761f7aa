# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What control may ask about the addresses that stacks share: who joins, who has which port (``claims``)."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

import os

from netstack.address cimport address_parse, address_t
from netstack.errors import ConfigError
from netstack.router.binding cimport address_change
from netstack.router.claims cimport (
    CLAIM_PROTOCOL, CLAIM_TCP, CLAIM_UDP, claims_claim, claims_inherit, claims_join, claims_lease, claims_new,
    claims_promise, claims_release, claims_share, claims_stay, flow_learn, group_has, names_t,
    LEASE_PORTS, sharer_t,
)
from netstack.router.forwarding cimport Forwarder
from netstack.router.port cimport MAX_PORT_ADDRESSES, port_t
from netstack.router.state cimport enter, forwarder_t, leave
from netstack.router.table cimport ENTRY_SHARED
from rings.doorbell cimport doorbell_now_ns

TCP = <int> CLAIM_TCP
UDP = <int> CLAIM_UDP
PROTOCOL = <int> CLAIM_PROTOCOL


cdef int64_t time_of(forwarder_t *f) noexcept nogil:
    """That of the data thread, or of who makes its rounds."""
    return doorbell_now_ns() if f.running else f.now_ns


cdef int done(int status, str what) except -1:
    """Raises the OSError of an errno, negative, that is said of `what`."""
    if status < 0:
        raise OSError(-status, f"{what}: {os.strerror(-status)}")
    return 0


cdef class SharedAddresses:
    """Addresses of several attachments at once, told apart by ports.

    Parameters
    ----------
    forwarder : Forwarder
        The data path; one of these each.
    addresses : iterable
        Not leased to anybody. Echo requests to them are answered by the router.
    """

    cdef Forwarder forwarder
    cdef readonly tuple addresses

    def __cinit__(self, Forwarder forwarder not None, addresses):
        cdef forwarder_t *f = forwarder.f
        cdef bytes key = os.urandom(16)
        self.forwarder = forwarder
        self.addresses = tuple(addresses)
        if f.claims != NULL:
            raise ConfigError("this data path shares addresses already")
        f.claims = claims_new(<const uint64_t *> <char *> key)
        if f.claims == NULL:
            raise MemoryError
        with nogil:
            enter(f)
        try:
            for address in self.addresses:
                address_change(f, address, ENTRY_SHARED)
        finally:
            leave(f)

    def join(self, uint64_t ident, uint32_t uid, *addresses, bint returned=False):
        """The attachment may use these of the addresses (all by default), from ports that it claims. Groups are of one user's.

        One that has `returned` may have what was promised to its user.
        """
        cdef forwarder_t *f = self.forwarder.f
        cdef port_t *port = self.forwarder.port(ident)
        cdef address_t a
        cdef int i
        addresses = addresses or self.addresses
        if not set(addresses) <= set(self.addresses):
            raise ConfigError("an attachment joins addresses that are shared, no others")
        if port.n_addresses + len(addresses) > MAX_PORT_ADDRESSES:
            raise ConfigError(f"an attachment has at most {MAX_PORT_ADDRESSES} addresses")
        with nogil:
            enter(f)
        try:
            if claims_join(port, uid) < 0:
                raise MemoryError
            (<sharer_t *> port.sharer).returned = returned
            for address in addresses:
                address_parse(address, &a)
                i = port.n_addresses
                port.addresses[i] = a
                port.epochs[i] = 1
                port.shared |= <uint32_t> 1 << i
                port.n_addresses += 1
        finally:
            leave(f)

    def claim(self, uint64_t ident, uint32_t kind, uint32_t number, uint32_t flags=0):
        """Have a port (`TCP`, `UDP`) or the packets of a protocol that has none (`PROTOCOL`).

        Parameters
        ----------
        ident : int
            The attachment.
        kind, number : int
            What, and which.
        flags : int
            1: SO_REUSEADDR, a port that rests may be had; 2: SO_REUSEPORT, shared with others of the user who ask for that.

        Raises
        ------
        OSError
            EADDRINUSE; ENOBUFS: it has too many.
        """
        cdef forwarder_t *f = self.forwarder.f
        cdef port_t *port = self.forwarder.port(ident)
        cdef int r
        with nogil:
            enter(f)
            r = claims_claim(f.claims, port, kind, number, flags, time_of(f))
            leave(f)
        done(r, f"{'protocol' if kind == CLAIM_PROTOCOL else 'port'} {number}")

    def promise(self, uint32_t kind, uint32_t number, uint32_t uid, int64_t until_ns):
        """A number was a stack's when the router before this one was killed: until then it waits to be claimed again by
        one of this user that has `returned`, and packets to it are dropped in silence."""
        cdef forwarder_t *f = self.forwarder.f
        with nogil:
            enter(f)
            claims_promise(f.claims, kind, number, uid, until_ns)
            leave(f)

    def share(self, uint64_t ident, uint32_t kind, uint32_t number):
        """A process is about to fork: this port of its own may come to be its children's too (`inherit`).

        Raises
        ------
        OSError
            EINVAL: it has no such port.
        """
        cdef forwarder_t *f = self.forwarder.f
        cdef port_t *port = self.forwarder.port(ident)
        cdef int r
        with nogil:
            enter(f)
            r = claims_share(f.claims, port, kind, number)
            leave(f)
        done(r, f"port {number}")

    def know(self, uint64_t ident, uint32_t kind, uint32_t number, flows):
        """Connections that a process has at a port that it shares: ``(own address, peer's address, peer's port)``."""
        cdef forwarder_t *f = self.forwarder.f
        cdef port_t *port = self.forwarder.port(ident)
        cdef names_t names
        memset(&names, 0, sizeof(names))
        if kind > CLAIM_UDP or not 0 < number < 65536:
            return
        names.kind = kind
        names.lport = <uint16_t> number
        for own, other, rport in flows:
            address_parse(own, &names.local)
            address_parse(other, &names.remote)
            names.rport = rport
            with nogil:
                enter(f)
                if f.claims.numbers[kind][number].group != NULL and group_has(f.claims.numbers[kind][number].group, port):
                    flow_learn(f.claims, port, &names, False, time_of(f))
                leave(f)

    def inherit(self, uint64_t ident, uint64_t parent, uint32_t kind, uint32_t number, bint yields):
        """A forked child has a port of its parent too.

        Parameters
        ----------
        ident, parent : int
            The attachments of both.
        kind, number : int
            `TCP` or `UDP`, and which.
        yields : bool
            Nobody in the parent waits for connections there: new ones go to the children, as long as there is one.

        Raises
        ------
        OSError
            EINVAL: the parent does not share such a port. EPERM: another user's. ENOBUFS: too many children.
        """
        cdef forwarder_t *f = self.forwarder.f
        cdef port_t *port = self.forwarder.port(ident)
        cdef port_t *whose = self.forwarder.port(parent)
        cdef int r
        with nogil:
            enter(f)
            r = claims_inherit(f.claims, port, whose, kind, number, yields)
            leave(f)
        done(r, f"port {number} of a parent")

    def stay(self, uint64_t ident, uint32_t kind, uint32_t number):
        """A parent looks at its listener again: it yields no more."""
        cdef forwarder_t *f = self.forwarder.f
        cdef port_t *port = self.forwarder.port(ident)
        with nogil:
            enter(f)
            claims_stay(f.claims, port, kind, number)
            leave(f)

    def release(self, uint64_t ident, uint32_t kind, uint32_t number):
        """Give it back; leased ports stay. One that is not the attachment's is an OSError (EINVAL)."""
        cdef forwarder_t *f = self.forwarder.f
        cdef port_t *port = self.forwarder.port(ident)
        cdef int r
        with nogil:
            enter(f)
            r = claims_release(f.claims, port, kind, number)
            leave(f)
        done(r, f"port {number}")

    def lease(self, uint64_t ident, uint32_t kind):
        """Some ports at random, to be used without asking: a list, empty if all are taken."""
        cdef forwarder_t *f = self.forwarder.f
        cdef port_t *port = self.forwarder.port(ident)
        cdef uint16_t ports[LEASE_PORTS]
        cdef int n
        with nogil:
            enter(f)
            n = claims_lease(f.claims, port, kind, ports, time_of(f))
            leave(f)
        done(n, "ports")
        return [ports[i] for i in range(n)]

    def owned(self, uint64_t ident):
        """What an attachment has: sorted list of (kind, number)."""
        cdef forwarder_t *f = self.forwarder.f
        cdef port_t *port = self.forwarder.port(ident)
        cdef sharer_t *s
        cdef uint32_t i
        with nogil:
            enter(f)
        try:
            s = <sharer_t *> port.sharer
            return [] if s == NULL else sorted((s.owned[i] >> 16, s.owned[i] & 0xffff) for i in range(s.count))
        finally:
            leave(f)

    @property
    def claimed(self):
        """How many ports and protocols somebody has."""
        return self.forwarder.f.claims.claimed

    @property
    def leased(self):
        """How many of these are leased."""
        return self.forwarder.f.claims.leased
