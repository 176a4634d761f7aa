# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What control may say about how much attachments send (``limit``)."""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

from netstack.errors import ConfigError
from netstack.router.forwarding cimport Forwarder
from netstack.router.limit cimport limit_advance, limit_init, limit_set, limit_t, TOKEN_PARTS
from netstack.router.port cimport PORT_STACK, port_t
from netstack.router.state cimport enter, leave
from rings.doorbell cimport doorbell_kick, doorbell_now_ns

cdef int64_t MOST = 1 << 32              # tokens a second, and in a bucket: 34 Gbit/s; parts fit into 64 bits


def limit(Forwarder forwarder not None, uint64_t ident, *, bytes=0, packets=0, depth_bytes=0, depth_packets=0):
    """Limit what an attachment may send, from now on.

    Parameters
    ----------
    forwarder : Forwarder
    ident : int
        The attachment's port.
    bytes, packets : int
        Of IP packets, a second; 0: no limit.
    depth_bytes, depth_packets : int
        Most that it may send at once after a pause. At least one packet, whatever they say.

    Raises
    ------
    ConfigError
        A number that cannot be, or an uplink.
    KeyError
        No such port.
    """
    cdef port_t *port = forwarder.port(ident)
    cdef limit_t *fresh = NULL
    cdef limit_t *gone = NULL
    cdef int64_t bytes_s, packets_s, most_bytes, most_packets, now_ns
    for number in (bytes, packets, depth_bytes, depth_packets):
        if not 0 <= number <= MOST:
            raise ConfigError(f"limit {number}: 0 to {MOST} bytes or packets a second, and at once")
    if port.kind != PORT_STACK:
        raise ConfigError("a limit is on what an attachment sends, not an uplink")
    bytes_s, packets_s = bytes, packets
    most_bytes, most_packets = max(depth_bytes, port.mtu), max(depth_packets, 1)
    if bytes_s or packets_s:
        fresh = <limit_t *> calloc(1, sizeof(limit_t))
        if fresh == NULL:
            raise MemoryError
    with nogil:
        enter(forwarder.f)
        now_ns = doorbell_now_ns() if forwarder.f.running else forwarder.f.now_ns
        if port.limit == NULL and fresh != NULL:
            limit_init(fresh, now_ns)
            port.limit = fresh
            fresh = NULL
            forwarder.f.limited += 1
        if port.limit != NULL:
            limit_advance(port.limit, now_ns)
            limit_set(&port.limit.bytes, bytes_s, most_bytes * TOKEN_PARTS)
            limit_set(&port.limit.packets, packets_s, most_packets * TOKEN_PARTS)
            port.limit.until_ns = 0
            if not bytes_s and not packets_s:
                gone = port.limit
                port.limit = NULL
                forwarder.f.limited -= 1
        leave(forwarder.f)
        free(fresh)
        free(gone)
        doorbell_kick(forwarder.f.wake_fd)


def limit_of(Forwarder forwarder not None, uint64_t ident):
    """The limit of an attachment: (bytes a second, packets a second, bytes at once, packets at once), 0 where there is none.

    Raises
    ------
    KeyError
        No such port.
    """
    cdef port_t *port = forwarder.port(ident)
    cdef limit_t now
    with nogil:
        enter(forwarder.f)
        limit_init(&now, 0)
        if port.limit != NULL:
            now = port.limit[0]
        leave(forwarder.f)
    return (now.bytes.rate, now.packets.rate, now.bytes.depth // <int64_t> TOKEN_PARTS,
            now.packets.depth // <int64_t> TOKEN_PARTS)
