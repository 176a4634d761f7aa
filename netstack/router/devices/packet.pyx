# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""AF_PACKET: a second station on an interface of the kernel (``packet(7)``, ``Documentation/networking/packet_mmap.rst``).

The kernel writes what arrives into blocks and hands over whole ones, a millisecond after their first frame at the latest;
frames to be sent are put into slots and leave with one call for all. The station has an Ethernet address of its own: the
interface is told to take that too (it becomes promiscuous only where its hardware knows one address), a filter keeps away
what is for others, and the kernel goes on using the interface beside. The two do not hear each other: a frame that this
machine sends through the interface does not come in by it.

Frames that never were on a wire, from a veth, may lack their checksum and stand for several segments: a header in front of
each says so (``offload``).
"""

from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, ENOBUFS, ENODEV, errno
from libc.stdint cimport int64_t, uint16_t
from libc.string cimport memcpy, memset

import errno as errno_names
import os
import socket
import struct

from netstack.errors import LinkError
from netstack.link.tap import LinkMissingError, LinkPermissionError, ask_interface, check_device_name, device_mtu
from netstack.router.devices.device cimport device_t, frame_t, iovec, vnet_t
from netstack.router.devices.kernel cimport (
    c_getsockopt, c_sendto, MAP_FAILED, MAP_POPULATE, MAP_SHARED, mmap, MSG_DONTWAIT, munmap, PROT_READ, PROT_WRITE, SO_ERROR, sockaddr, socklen_t, SOL_SOCKET,
)
from netstack.router.devices.offload cimport vnet_finish, vnet_segment

cdef extern from "<sys/socket.h>" nogil:
    int c_getsockname "getsockname"(int, sockaddr *, socklen_t *)

cdef extern from "<linux/if_packet.h>" nogil:
    struct sockaddr_ll:
        int sll_ifindex
    struct tpacket3_hdr:
        uint32_t tp_next_offset
        uint32_t tp_snaplen
        uint32_t tp_len
        uint32_t tp_status
        uint16_t tp_mac
    struct tpacket_hdr_v1:
        uint32_t block_status
        uint32_t num_pkts
        uint32_t offset_to_first_pkt
    union tpacket_bd_header_u:
        tpacket_hdr_v1 bh1
    struct tpacket_block_desc:
        tpacket_bd_header_u hdr
    enum:
        TP_STATUS_KERNEL
        TP_STATUS_USER
        TP_STATUS_VLAN_VALID
        TP_STATUS_AVAILABLE
        TP_STATUS_SEND_REQUEST
        TP_STATUS_SENDING
        TPACKET3_HDRLEN

cdef extern from * nogil:
    """
    /* The kernel is on the other side of both words: its stores before it hands over a block or a slot are seen
     * after the load, ours before the store. */
    #define packet_load_status(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define packet_store_status(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    uint32_t packet_load_status(const uint32_t *)
    void packet_store_status(uint32_t *, uint32_t)

cdef enum:
    BLOCK_BYTES = 1 << 18        # the largest frame of the kernel's, 64 KiB, fits into a block
    BLOCKS = 16
    SLOT_BYTES = 1 << 17         # so it does into a slot
    SLOTS = 32
    RECEIVE_BYTES = BLOCKS * BLOCK_BYTES
    SEND_BYTES = SLOTS * SLOT_BYTES
    RETIRE_MS = 1                # a block is handed over so long after it was begun, also if it is not full

cdef int64_t FULL_RETRY_NS = 1000000
cdef int64_t DOWN_RETRY_NS = 250000000

# <linux/if_packet.h>, <linux/if_ether.h>, <linux/if_arp.h>, <linux/filter.h>, <asm/socket.h>
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_VERSION, PACKET_TX_RING = 1, 5, 10, 13
PACKET_LOSS, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 14, 15, 23
PACKET_MR_ALLMULTI, PACKET_MR_UNICAST = 2, 3
TPACKET_V3 = 2
ETH_P_ALL = 3
ARPHRD_ETHER = 1
SIOCGIFHWADDR = 0x8927
SO_ATTACH_FILTER, SO_SNDBUFFORCE = 26, 32
VLAN_TAG_PRESENT = 0xFFFFF000 + 48           # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT


def station_filter(mac):
    """A filter in the kernel's classic BPF: untagged ARP and IP for a station, or for a group."""
    high, low = struct.unpack("!IH", mac)
    reject, accept = 12, 13
    return [
        (0x30, 0, 0, VLAN_TAG_PRESENT),                      # 0: did it have a VLAN tag?
        (0x15, 0, reject - 2, 0),
        (0x28, 0, 0, 12),                                    # 2: of what type is it?
        (0x15, 2, 0, 0x0806),
        (0x15, 1, 0, 0x0800),
        (0x15, 0, reject - 6, 0x86DD),
        (0x30, 0, 0, 0),                                     # 6: is it for a group?
        (0x45, accept - 8, 0, 1),
        (0x20, 0, 0, 0),                                     # 8: or for this station?
        (0x15, 0, reject - 10, high),
        (0x28, 0, 0, 4),
        (0x15, accept - 12, reject - 12, low),
        (0x06, 0, 0, 0),                                     # 12: reject
        (0x06, 0, 0, 0xFFFFFFFF),                            # 13: accept
    ]


# ---------------------------------------------------------------------------------------------- receiving

cdef inline tpacket_hdr_v1 *block_at(packet_rings_t *r, uint32_t block) noexcept nogil:
    return &(<tpacket_block_desc *> (r.memory + <size_t> block * BLOCK_BYTES)).hdr.bh1


cdef bint packet_receive(device_t *self, frame_t *frame) noexcept nogil:
    cdef packet_rings_t *r = <packet_rings_t *> self.state
    cdef tpacket_hdr_v1 *block
    cdef tpacket3_hdr *h
    cdef vnet_t vnet
    if self.again_ns:
        packet_flush(self)
        if r.down:
            packet_trouble(self)
    while True:
        if r.left == 0:
            if r.held:
                packet_store_status(&block_at(r, r.block).block_status, TP_STATUS_KERNEL)
                r.held = False
                r.block = (r.block + 1) % BLOCKS
            block = block_at(r, r.block)
            if not packet_load_status(&block.block_status) & TP_STATUS_USER:
                return False
            r.held = True
            r.left = block.num_pkts
            r.following = <uint8_t *> r.memory + <size_t> r.block * BLOCK_BYTES + block.offset_to_first_pkt
            continue
        h = <tpacket3_hdr *> r.following
        r.left -= 1
        r.following += h.tp_next_offset
        if h.tp_snaplen != h.tp_len or h.tp_status & TP_STATUS_VLAN_VALID:
            continue                         # cut off; or of another network than this
        frame.data = <uint8_t *> h + h.tp_mac
        frame.length = h.tp_snaplen
        if r.down:
            r.down = False
            self.again_ns = 0
        memcpy(&vnet, frame.data - sizeof(vnet_t), sizeof(vnet_t))
        if vnet_finish(&vnet, frame.data, frame.length) == 0:
            frame.segment = vnet_segment(&vnet)
            return True


# ---------------------------------------------------------------------------------------------- sending

cdef inline tpacket3_hdr *slot_at(packet_rings_t *r, uint32_t slot) noexcept nogil:
    return <tpacket3_hdr *> (r.memory + RECEIVE_BYTES + <size_t> slot * SLOT_BYTES)


cdef inline bint vacant(tpacket3_hdr *h) noexcept nogil:
    return not packet_load_status(&h.tp_status) & <uint32_t> (TP_STATUS_SEND_REQUEST | TP_STATUS_SENDING)


cdef int packet_send(device_t *self, const vnet_t *vnet, const iovec *parts, int n) noexcept nogil:
    cdef packet_rings_t *r = <packet_rings_t *> self.state
    cdef tpacket3_hdr *h = slot_at(r, r.slot)
    cdef uint8_t *at = <uint8_t *> h + (TPACKET3_HDRLEN - sizeof(sockaddr_ll))
    cdef uint8_t *end = <uint8_t *> h + SLOT_BYTES
    cdef uint8_t *begin = at
    cdef int i
    if not vacant(h):
        packet_flush(self)
        if not vacant(h):
            return ENOBUFS
    if vnet == NULL:
        memset(at, 0, sizeof(vnet_t))
    else:
        memcpy(at, vnet, sizeof(vnet_t))
    at += sizeof(vnet_t)
    for i in range(n):
        if parts[i].iov_len > <size_t> (end - at):
            return EMSGSIZE
        memcpy(at, parts[i].iov_base, parts[i].iov_len)
        at += parts[i].iov_len
    h.tp_next_offset = 0
    h.tp_len = <uint32_t> (at - begin)
    packet_store_status(&h.tp_status, TP_STATUS_SEND_REQUEST)
    r.slot = (r.slot + 1) % SLOTS
    r.filled += 1
    return 0


cdef void take_back(packet_rings_t *r) noexcept nogil:
    """An interface that is down sends nothing: slots that the kernel did not take are ours again, the last first."""
    cdef uint32_t before
    while r.filled:
        before = (r.slot + SLOTS - 1) % SLOTS
        if packet_load_status(&slot_at(r, before).tp_status) != TP_STATUS_SEND_REQUEST:
            break
        packet_store_status(&slot_at(r, before).tp_status, TP_STATUS_AVAILABLE)
        r.slot = before
        r.filled -= 1
    r.filled = 0


cdef void packet_flush(device_t *self) noexcept nogil:
    cdef packet_rings_t *r = <packet_rings_t *> self.state
    cdef int tries
    if r.filled == 0:
        return
    self.again_ns = 0
    for tries in range(16):
        if c_sendto(self.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0:
            r.filled = 0
            r.down = False
            return
        if errno == EAGAIN or errno == ENOBUFS:      # enough is under way: the rest is tried again
            self.again_ns = FULL_RETRY_NS
            return
        if errno != EINTR:
            break
    take_back(r)
    packet_trouble(self)


cdef void packet_trouble(device_t *self) noexcept nogil:
    """Down, or gone? The error is swallowed either way, or epoll would tell it again and again. Of an interface that goes
    while it is down nobody is told: it is looked at now and then."""
    cdef packet_rings_t *r = <packet_rings_t *> self.state
    cdef sockaddr_ll bound
    cdef socklen_t length = sizeof(sockaddr_ll)
    cdef int error = 0
    cdef socklen_t error_length = sizeof(int)
    c_getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &error, &error_length)
    if c_getsockname(self.fd, <sockaddr *> &bound, &length) == 0 and bound.sll_ifindex <= 0:
        self.gone = ENODEV
    r.down = True
    self.again_ns = DOWN_RETRY_NS


# ---------------------------------------------------------------------------------------------- opening

def _set_up(s, index, mac):
    """Options of the socket, before it is bound: nothing that is not for us may come in."""
    import ctypes

    program = b"".join(struct.pack("HBBI", *step) for step in station_filter(mac))
    steps = ctypes.create_string_buffer(program)
    s.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER,
                 struct.pack("HP", len(program) // 8, ctypes.addressof(steps)))
    s.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
    s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.setsockopt(SOL_PACKET, PACKET_LOSS, 1)             # a frame that cannot be sent does not stop the others
    s.setsockopt(SOL_PACKET, PACKET_RX_RING,
                 struct.pack("7I", BLOCK_BYTES, BLOCKS, BLOCK_BYTES, BLOCKS, RETIRE_MS, 0, 0))
    s.setsockopt(SOL_PACKET, PACKET_TX_RING, struct.pack("7I", SLOT_BYTES, SLOTS, SLOT_BYTES, SLOTS, 0, 0, 0))
    for kind, address in ((PACKET_MR_UNICAST, mac), (PACKET_MR_ALLMULTI, b"")):
        s.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("iHH8s", index, kind, len(address), address))
    try:
        s.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * SEND_BYTES)
    except OSError:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * SEND_BYTES)


def open_packet(name, mac):
    """A socket on an interface, with its rings; what needs CAP_NET_RAW and CAP_NET_ADMIN.

    Parameters
    ----------
    name : str
        The interface; Ethernet.
    mac : bytes
        The station's Ethernet address, 6 bytes.

    Returns
    -------
    tuple
        ``(descriptor, mtu)`` for `PacketDevice`.

    Raises
    ------
    netstack.errors.LinkError
        Missing, not permitted, or no Ethernet.
    ValueError
        A name that no interface can have.
    """
    check_device_name(name)
    try:
        index = socket.if_nametoindex(name)
        family = struct.unpack_from("H", ask_interface(name, SIOCGIFHWADDR))[0]
    except OSError as error:
        raise LinkMissingError(errno_names.ENODEV, f"packet {name}: there is no such interface; `ip link` lists "
                                                   f"those that there are") from error
    if family != ARPHRD_ETHER:
        raise LinkError(errno_names.EINVAL, f"packet {name}: not an Ethernet")
    try:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except PermissionError as error:
        raise LinkPermissionError(
            error.errno, f"packet {name}: not permitted; run as root, or give this Python the capability: "
                         f"setcap cap_net_raw,cap_net_admin+ep {os.path.realpath('/proc/self/exe')}") from error
    with s:
        try:
            _set_up(s, index, bytes(mac))
            s.bind((name, ETH_P_ALL))
        except OSError as error:
            raise LinkError(error.errno, f"packet {name}: {error.strerror}") from error
        mtu = device_mtu(name, "packet")
        return s.detach(), mtu


cdef class PacketDevice(Device):
    """An interface of the kernel, on whose network the router is a station of its own.

    Parameters
    ----------
    name : str
        The interface.
    fd : int
        The socket that `open_packet` opened; the device's from now on.
    mtu : int
        Largest IP packet, bytes.
    offload : bool
        Send TCP packets of up to 64 KiB that the interface or the kernel cuts.

    Raises
    ------
    netstack.errors.LinkError
        The rings cannot be mapped.
    """

    def __init__(self, name, int fd, mtu, *, bint offload=True):
        cdef device_t *d = &self.device
        cdef void *memory
        self.name = name
        d.fd = fd
        d.mtu = mtu
        memory = mmap(NULL, RECEIVE_BYTES + SEND_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0)
        if memory == MAP_FAILED:
            raise LinkError(errno, f"packet {name}: map the rings: {os.strerror(errno)}")
        self.rings.memory = <uint8_t *> memory
        d.ethernet = True
        d.offload = offload
        d.state = &self.rings
        d.receive = packet_receive
        d.send = packet_send
        d.flush = packet_flush
        d.trouble = packet_trouble

    def close(self):
        """Leave the interface."""
        self.unmap()
        Device.close(self)

    cdef void unmap(self) noexcept:
        if self.rings.memory != NULL:
            munmap(self.rings.memory, RECEIVE_BYTES + SEND_BYTES)
        self.rings.memory = NULL

    def __dealloc__(self):
        self.unmap()
