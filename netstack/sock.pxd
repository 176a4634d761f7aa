"""The part that every socket of a stack begins with: identity, pending error, readiness events."""

from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t

cdef enum:                       # sock_t.kind
    SOCK_TCP = 1                 # tcb_t (a listener is a tcb_t in LISTEN)
    SOCK_UDP = 2                 # udp_endpoint_t
    SOCK_PING = 3                # udp_endpoint_t that sends and receives ICMP echo
    SOCK_RAW = 4                 # udp_endpoint_t of IP packets; its port is its protocol
    SOCK_UDPLITE = 5             # udp_endpoint_t whose checksum covers a part (RFC 3828); its ports are its own

cdef enum:                       # events and poll masks: the numbers of poll(2)
    EVENT_IN = 0x001
    EVENT_OUT = 0x004
    EVENT_ERR = 0x008
    EVENT_HUP = 0x010
    EVENT_RDHUP = 0x2000
    EVENT_FINISHED = 0x4000      # not poll's: all that was sent, the FIN too, is acknowledged (SO_LINGER waits for it)

cdef enum:                       # sock_t.flags
    SF_REUSEADDR = 1
    SF_KEEPALIVE = 2
    SF_BROADCAST = 4
    SF_ORPHAN = 8                # the application closed it; the protocol finishes alone
    SF_QUEUED_EVENT = 16         # already in the event list
    SF_BOUND = 32
    SF_REUSEPORT = 64
    SF_V6 = 128                  # made as AF_INET6
    SF_V6ONLY = 256              # IPV6_V6ONLY
    SF_CHOSEN = 512              # connect() chose its port: other connections may have it too, to other peers


cdef struct sock_t:
    uint32_t id                  # never reused within one stack
    uint8_t kind
    uint8_t device               # interface number (index + 1) it is bound to, by SO_BINDTODEVICE; 0: any
    uint16_t flags
    uint16_t events              # readiness that came up since the driver last looked (EVENT_*)
    int16_t error                # pending SO_ERROR, an errno number
    uint32_t index               # place in the stack's table of sockets
    sock_t *event_next           # list of sockets with events
    sock_t *bind_next            # chain of the table of bound ports
    void *owner                  # the driver's: waiters, readiness fd


cdef struct event_list_t:
    sock_t *first
    sock_t *last


cdef inline bint kind_is_udp(uint8_t kind) noexcept nogil:
    """UDP or UDP-Lite: a header of 8 bytes, ports, broadcasts."""
    return kind == SOCK_UDP or kind == SOCK_UDPLITE


cdef inline void sock_event(event_list_t *events, sock_t *sock, uint32_t mask) noexcept nogil:
    """Note that something about ``sock`` became ready. Only edges matter; who waits looks at the state itself."""
    sock.events |= <uint16_t> mask
    if sock.flags & (SF_QUEUED_EVENT | SF_ORPHAN):
        return                   # in the list already, or nobody is there to hear
    sock.flags |= SF_QUEUED_EVENT
    sock.event_next = NULL
    if events.last == NULL:
        events.first = sock
    else:
        events.last.event_next = sock
    events.last = sock
