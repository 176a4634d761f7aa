"""What a relay knows: its flows, who has how many, where packets may go, and what was counted.

A *flow* is what one descriptor of the kernel stands for: a TCP connection of a stack; a UDP port or an echo identifier of a
stack, whoever it talks to; a published port. Everything is under the lock of the relay's driver.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.driver cimport driver_t, owner_t, poller_t
from netstack.ip.interface cimport interface_t
from netstack.router.relay.kernel cimport kernel_name_t
from netstack.stack.core cimport stack_t

cdef enum:
    RELAY_SCRATCH = 65536        # the largest datagram; a connection's bytes in one call
    RELAY_BUCKETS = 4096         # of flows by name
    RELAY_CLIENT_BUCKETS = 256
    RELAY_PREFIXES = 32
    RELAY_OWN = 16               # MAX_NETWORKS
    RELAY_SERVERS = 3            # as resolv.conf(5) has
    RELAY_PEERS = 64             # of the machine, that talk to one published UDP port
    SYN_BYTES = 128              # HEADER_COPY

cpdef enum Count:                # what is counted, by reason
    STREAMS_OPENED               # connections from stacks that the other end took
    STREAMS_REFUSED              # it refused
    STREAMS_UNREACHABLE          # the kernel, or a router, knows no way
    STREAMS_TIMED_OUT            # it did not answer
    STREAMS_RESET                # broken off by either end, and told to the other
    STREAMS_ABANDONED            # the stack did not finish its handshake, or is gone
    STREAMS_LIMITED              # too many, of one address or at all
    STREAMS_DENIED               # a destination that is not served
    STREAMS_PUBLISHED            # connections to published ports
    STREAMS_PUBLISHED_REFUSED    # that the stack did not take
    BYTES_OUT                    # of connections, to the kernel
    BYTES_IN                     # of connections, to stacks
    DATAGRAMS_OUT
    DATAGRAMS_IN
    DATAGRAMS_FLOWS              # UDP ports of stacks that got a socket
    DATAGRAMS_REFUSED            # the kernel took a datagram not; the stack is told why, where it said why
    DATAGRAMS_DENIED             # a destination that is not served
    DATAGRAMS_FULL               # answers for which the way to the stack had no room
    DATAGRAMS_STRANGE            # answers from addresses that cannot be those of others
    DATAGRAMS_ERRORS             # ICMP errors passed on
    ECHOES_OUT
    ECHOES_IN
    ECHOES_FORBIDDEN             # net.ipv4.ping_group_range does not have our group
    FLOWS_EVICTED                # of UDP and echo, for a new one
    FLOWS_IDLE                   # of UDP and echo, over since nothing came
    NO_DESCRIPTOR                # the kernel gave no socket: EMFILE, ENFILE, ENOBUFS
    NO_MEMORY
    BAD_CHECKSUM
    MALFORMED
    OTHER_PROTOCOL               # neither TCP, UDP nor an echo request
    COUNTS                       # how many there are

cdef enum:                       # flow_t.state
    FLOW_FREE = 0                # dead, or without descriptor yet
    FLOW_CONNECTING = 1          # TCP: the kernel asks the other end
    FLOW_REFUSED = 2             # TCP: it said no, as `verdict` says; the SYN is about to be answered
    FLOW_HANDSHAKE = 3           # TCP: the stack is answered, its third segment is waited for
    FLOW_CALLING = 4             # TCP to a published port: the stack is asked
    FLOW_OPEN = 5
    FLOW_LISTENING = 6           # a published TCP port


cdef struct links_t:
    flow_t *previous
    flow_t *next


cdef struct list_t:              # oldest first
    flow_t *first
    flow_t *last


cdef struct client_t:            # one address of a stack, while it has flows
    address_t address
    client_t *next               # in its bucket
    uint32_t streams
    uint32_t datagrams
    list_t used                  # its flows of UDP and echo, by last use


cdef struct flow_t:
    owner_t o                    # TCP: the socket of our stack. First: an owner_t * is a flow_t *
    uint8_t protocol             # 6, 17; 1 or 58 of echo
    uint8_t state                # FLOW_*
    uint8_t readable             # the kernel has something, as far as we know
    uint8_t writable
    uint8_t in_over              # the kernel's end of file went to the stack
    uint8_t out_over             # the stack's end of file went to the kernel
    uint8_t permanent            # of UDP: a published port
    uint8_t far_fixed            # answers are shown as from `far`, whoever they come from
    uint8_t answered             # of UDP and echo: something came back
    uint8_t queued               # in the list of those to be pumped again
    uint8_t ttl                  # last told to the kernel
    int verdict                  # FLOW_REFUSED: an errno number
    int fd
    uint32_t mtu                 # of UDP towards the stack, 0: the link's
    address_t near               # the stack's end
    address_t far                # the other end as the stack knows it; any: whoever
    uint16_t near_port           # of echo: the identifier
    uint16_t far_port
    kernel_name_t target         # the other end as the kernel knows it, where there is one; of UDP: the family
    unsigned int target_length
    int64_t used_ns              # last use, or when the state began
    uint8_t *waiting             # bytes of the stack's that the kernel did not take yet
    uint32_t waiting_at
    uint32_t waiting_end
    uint32_t syn_length
    uint8_t syn[128]             # the SYN, until it is answered
    uint16_t *peers              # of a published UDP port: ports of the machine that talked to it
    uint32_t peer_at
    client_t *client             # whose limits count; NULL: nobody's
    flow_t *chain                # in its bucket
    links_t all                  # of relay_t.streams or relay_t.datagrams
    links_t mine                 # of client_t.used
    flow_t *again                # next to be pumped again, or to be freed


cdef struct prefix_t:
    address_t address
    uint8_t length               # of the 16-byte form


cdef struct alias_t:             # an address of the stacks' network that stands for one of the machine
    address_t shown
    address_t real


cdef struct name_server_t:
    address_t address
    uint16_t port


cdef struct limits_t:
    uint32_t streams             # in all
    uint32_t client_streams      # of one address
    uint32_t datagrams
    uint32_t client_datagrams
    int64_t idle_ns              # of UDP and echo


cdef struct relay_t:
    driver_t *driver
    stack_t *stack
    interface_t *interface
    poller_t poller
    owner_t listener             # the socket that takes every connection
    int epoll_fd
    int wake_fd
    uint8_t *scratch
    uint64_t key[2]
    flow_t *buckets[4096]
    client_t *clients[256]
    list_t streams
    list_t datagrams             # by last use
    list_t published
    uint32_t stream_count
    uint32_t datagram_count      # without published ones
    flow_t *again_first
    flow_t *again_last
    flow_t *dead
    limits_t limits
    address_t own[16]            # our own addresses, one a pool: where names are asked for
    int own_count
    prefix_t denied[32]
    int denied_count
    alias_t aliases[32]
    int alias_count
    name_server_t servers[3]
    int server_count
    int server_at
    int64_t swept_ns
    uint8_t names_asked          # since control last looked whose servers there are
    uint64_t counts[32]
