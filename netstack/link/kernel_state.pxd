"""What a stack on the kernel's IP knows of it: raw sockets, packets read ahead, packets that wait to be sent."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.link.kernel_ports cimport kernel_ports_t

cdef enum:
    KERNEL_BATCH = 32            # packets read ahead, and packets that wait for one sendmmsg
    KERNEL_ROUTES = 16           # a power of two
    KERNEL_PACKET = 65600        # room for the largest packet the kernel shows, an IPv6 header and 65,535 bytes
    NOTE_MAX = 1280              # an ICMP message of our own making

cdef enum:                       # raw sockets, by number; from RAW_TCP6 on of IPv6
    RAW_TCP4 = 0
    RAW_UDP4 = 1
    RAW_ICMP4 = 2
    RAW_TCP6 = 3
    RAW_UDP6 = 4
    RAW_ICMP6 = 5
    RAW_COUNT = 6


cdef struct route_t:
    uint8_t dst[16]
    uint8_t src[16]
    int64_t until_ns


cdef struct kernel_ip_t:
    int raw[RAW_COUNT]           # input; -1: none
    int out4                     # output, with headers of ours
    int out6
    int probe4                   # connected to ask for a source address or an mtu, never sends
    int probe6
    int epoll_fd
    uint32_t scope               # the kernel's number of the device that link-local addresses are on; 0: of none
    kernel_ports_t ports
    # --- input
    uint8_t *input               # KERNEL_BATCH packets of KERNEL_PACKET bytes
    uint32_t lengths[KERNEL_BATCH]
    int filled
    int taken
    uint8_t shown                # the stack looks at packets of the batch
    uint8_t note[NOTE_MAX]       # "too big" about a packet that the kernel refused, shown as input
    uint32_t note_length         # 0: none
    uint8_t note_shown
    # --- output
    uint8_t *output              # KERNEL_BATCH packets of mtu bytes
    uint32_t out_lengths[KERNEL_BATCH]
    uint32_t out_first           # the oldest that waits
    uint32_t out_count
    uint32_t claimed             # length of the open claim
    uint8_t blocked              # the kernel had no room
    int64_t now_ns
    int64_t retry_ns
    # --- routes asked for lately, each in the place that its destination has
    route_t routes[KERNEL_ROUTES]
    # --- what happened
    uint64_t dropped             # packets that the kernel refused
    uint64_t too_big             # of them, those larger than the mtu of their device
    uint64_t completed           # arrived without the sum that the kernel leaves to the card
    uint64_t foreign             # for ports that are not ours
    uint64_t truncated
    int last_error
