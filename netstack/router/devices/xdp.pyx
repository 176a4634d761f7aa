# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""AF_XDP: a queue of an interface is the router's (``Documentation/networking/af_xdp.rst``).

A small program in the kernel, of our own and loaded by ``bpf(2)``, hands what arrives on the queue to the socket before the
kernel's stack sees it, so that the router takes over the interface's Ethernet address there. Where the driver can do it the
frames are not copied; else they are, and on any interface the generic hook works. Program and attachment end with the
process: both are held by descriptors only.

`open_queue` does what needs privileges and gives three descriptors: the socket, the memory of its frames, and the attachment
of the program, which keeps program and map. `XdpDevice` maps the memory and needs nothing but them, so that another process
may have opened them (``netstack/router/opener.py``).

The kernel's checks of what we put into the rings are its own; what it puts there is checked against the frames that we gave.
"""

from libc.errno cimport EAGAIN, EBUSY, EINTR, EMSGSIZE, ENETDOWN, ENOBUFS, ENODEV, ENXIO, errno
from libc.stdint cimport int64_t, uint16_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close as close_fd

import errno as errno_names
import os
import socket
import struct

from netstack.errors import LinkError
from netstack.link.tap import (
    LinkBusyError, LinkMissingError, LinkPermissionError, ask_interface, check_device_name, device_mtu,
)
from netstack.router.devices.device cimport device_t, frame_t, iovec, vnet_t
from netstack.router.devices.kernel cimport (
    c_getsockopt, c_sendto, MAP_FAILED, MAP_POPULATE, MAP_SHARED, mmap, MSG_DONTWAIT, munmap, PROT_READ, PROT_WRITE, SO_ERROR, sockaddr, socklen_t, SOL_SOCKET,
)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recvfrom "recvfrom"(int, void *, size_t, int, sockaddr *, socklen_t *)
    int c_setsockopt "setsockopt"(int, int, int, const void *, socklen_t)
    int c_bind "bind"(int, const sockaddr *, socklen_t)
    enum: AF_XDP

cdef extern from "<linux/if_xdp.h>" nogil:
    struct sockaddr_xdp:
        uint16_t sxdp_family
        uint16_t sxdp_flags
        uint32_t sxdp_ifindex
        uint32_t sxdp_queue_id
    struct xdp_ring_offset:
        uint64_t producer
        uint64_t consumer
        uint64_t desc
        uint64_t flags
    struct xdp_mmap_offsets:
        xdp_ring_offset rx
        xdp_ring_offset tx
        xdp_ring_offset fr
        xdp_ring_offset cr
    struct xdp_umem_reg:
        uint64_t addr
        uint64_t len
        uint32_t chunk_size
        uint32_t headroom
        uint32_t flags
    struct xdp_desc:
        uint64_t addr
        uint32_t len
        uint32_t options
    enum:
        XDP_USE_NEED_WAKEUP
        XDP_RING_NEED_WAKEUP
        XDP_MMAP_OFFSETS
        XDP_RX_RING
        XDP_TX_RING
        XDP_UMEM_REG
        XDP_UMEM_FILL_RING
        XDP_UMEM_COMPLETION_RING
        XDP_OPTIONS
        XDP_OPTIONS_ZEROCOPY
        XDP_PGOFF_RX_RING
        XDP_PGOFF_TX_RING
    uint64_t XDP_UMEM_PGOFF_FILL_RING
    uint64_t XDP_UMEM_PGOFF_COMPLETION_RING

cdef extern from * nogil:
    """
    #include <linux/bpf.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define xdp_bpf(command, attribute, size) syscall(__NR_bpf, (command), (attribute), (size))
    /* The kernel is the other side of each ring: what it wrote before it moved its index is seen after the load,
     * what we wrote is seen by it before our index. */
    #define xdp_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define xdp_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    long xdp_bpf(int, void *, unsigned int)
    uint32_t xdp_load(const uint32_t *)
    void xdp_store(uint32_t *, uint32_t)

cdef enum:
    SOL_XDP = 283
    FRAME_BYTES = 4096
    FRAMES = 4096
    EACH = 2048                  # entries of each ring, a power of two: half of the frames
    FRAME_MTU = 3498             # headroom of the kernel's (256) and an Ethernet header with a tag are in a frame, too
    MEMORY_BYTES = FRAMES * FRAME_BYTES

cdef int64_t RETRY_NS = 1000000

# <linux/bpf.h>, <linux/if_link.h>
BPF_MAP_CREATE, BPF_MAP_UPDATE_ELEM, BPF_PROG_LOAD, BPF_LINK_CREATE = 0, 2, 5, 28
BPF_MAP_TYPE_XSKMAP, BPF_PROG_TYPE_XDP, BPF_XDP = 17, 6, 37
BPF_FUNC_redirect_map = 51
XDP_PASS = 2
XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE = 2, 4
QUEUES = 256                     # of an interface, at most


# ---------------------------------------------------------------------------------------------- receiving

cdef inline uint64_t *address_at(xdp_ring_t *r, uint32_t i) noexcept nogil:
    return <uint64_t *> r.entries + (i & (EACH - 1))


cdef inline xdp_desc *descriptor_at(xdp_ring_t *r, uint32_t i) noexcept nogil:
    return <xdp_desc *> r.entries + (i & (EACH - 1))


cdef void give_back(device_t *self, xdp_state_t *x) noexcept nogil:
    """The kernel may receive into the frame again that was looked at."""
    if not x.showing:
        return
    x.showing = False
    address_at(&x.fill, x.fill.own)[0] = x.shown & ~<uint64_t> (FRAME_BYTES - 1)
    x.fill.own += 1
    xdp_store(x.fill.producer, x.fill.own)
    if xdp_load(x.fill.flags) & XDP_RING_NEED_WAKEUP:
        c_recvfrom(self.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL)


cdef bint xdp_receive(device_t *self, frame_t *frame) noexcept nogil:
    cdef xdp_state_t *x = <xdp_state_t *> self.state
    cdef xdp_desc d
    give_back(self, x)
    if self.again_ns:
        xdp_flush(self)
    while True:
        if xdp_load(x.received.producer) == x.received.own:
            return False
        d = descriptor_at(&x.received, x.received.own)[0]
        x.received.own += 1
        xdp_store(x.received.consumer, x.received.own)
        if d.addr >= MEMORY_BYTES or d.len > FRAME_BYTES - (d.addr & (FRAME_BYTES - 1)):
            continue
        x.shown = d.addr
        x.showing = True
        frame.data = x.frames + d.addr
        frame.length = d.len
        frame.segment = 0
        return True


# ---------------------------------------------------------------------------------------------- sending

cdef void collect(xdp_state_t *x) noexcept nogil:
    """Frames that have left are ours again."""
    cdef uint32_t end = xdp_load(x.done.producer)
    while x.done.own != end and x.n_spare < EACH:
        x.spare[x.n_spare] = address_at(&x.done, x.done.own)[0] & ~<uint64_t> (FRAME_BYTES - 1)
        x.n_spare += 1
        x.done.own += 1
    xdp_store(x.done.consumer, x.done.own)


cdef int xdp_send(device_t *self, const vnet_t *vnet, const iovec *parts, int n) noexcept nogil:
    cdef xdp_state_t *x = <xdp_state_t *> self.state
    cdef xdp_desc *d
    cdef uint64_t address
    cdef uint32_t length = 0
    cdef int i
    if x.n_spare == 0:
        collect(x)
        if x.n_spare == 0:
            x.unsent = True
            xdp_flush(self)
            collect(x)
            if x.n_spare == 0:
                return ENOBUFS
    address = x.spare[x.n_spare - 1]
    for i in range(n):
        if parts[i].iov_len > <size_t> (FRAME_BYTES - length):
            return EMSGSIZE
        memcpy(x.frames + address + length, parts[i].iov_base, parts[i].iov_len)
        length += <uint32_t> parts[i].iov_len
    x.n_spare -= 1
    d = descriptor_at(&x.sent, x.sent.own)       # there is room: as many entries as frames
    d.addr = address
    d.len = length
    d.options = 0
    x.sent.own += 1
    xdp_store(x.sent.producer, x.sent.own)
    x.unsent = True
    return 0


cdef void xdp_flush(device_t *self) noexcept nogil:
    cdef xdp_state_t *x = <xdp_state_t *> self.state
    cdef int tries
    if not x.unsent and not self.again_ns:
        return
    x.unsent = False
    self.again_ns = 0
    for tries in range(2 * EACH):                # copying, the kernel sends 32 frames a call
        if xdp_load(x.sent.consumer) == x.sent.own or not xdp_load(x.sent.flags) & XDP_RING_NEED_WAKEUP:
            return
        if c_sendto(self.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0 or errno == EINTR:
            continue
        if errno == EAGAIN:
            continue
        if errno == EBUSY or errno == ENOBUFS or errno == ENETDOWN:
            break
        xdp_trouble(self)
        if errno == ENXIO:
            self.gone = ENODEV
        return
    self.again_ns = RETRY_NS


cdef void xdp_trouble(device_t *self) noexcept nogil:
    """An interface that is gone has taken the socket's queue along."""
    cdef int error = 0
    cdef socklen_t length = sizeof(int)
    if c_getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 and error == ENETDOWN:
        self.gone = ENODEV


# ---------------------------------------------------------------------------------------------- opening

def _bpf(command, attribute):
    """The bpf system call: its answer, or OSError."""
    cdef bytearray data = bytearray(attribute)
    cdef unsigned char *p = data
    cdef long status = xdp_bpf(command, p, len(data))
    if status < 0:
        raise OSError(errno, os.strerror(errno))
    return status


def steering_program(map_fd):
    """What runs for each frame: to the socket of its queue, or on to the kernel where there is none. Machine code of eBPF
    (RFC 9669): ``return redirect_map(map, context->rx_queue_index, XDP_PASS)``.
    """
    return b"".join(struct.pack("<BBhi", *step) for step in (
        (0x61, 0x12, 16, 0),                     # r2 = *(u32 *) (r1 + 16): rx_queue_index of struct xdp_md
        (0x18, 0x11, 0, map_fd),                 # r1 = the map, in two halves
        (0, 0, 0, 0),
        (0xB7, 0x03, 0, XDP_PASS),               # r3 = what to do with a queue that has no socket
        (0x85, 0, 0, BPF_FUNC_redirect_map),
        (0x95, 0, 0, 0),                         # return r0
    ))


cdef int map_ring(int fd, xdp_ring_t *r, const xdp_ring_offset *at, size_t entry, uint64_t page_offset) noexcept:
    r.memory_bytes = at.desc + EACH * entry
    r.memory = mmap(NULL, r.memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, <long> page_offset)
    if r.memory == MAP_FAILED:
        r.memory = NULL
        return -1
    r.producer = <uint32_t *> (<uint8_t *> r.memory + at.producer)
    r.consumer = <uint32_t *> (<uint8_t *> r.memory + at.consumer)
    r.flags = <uint32_t *> (<uint8_t *> r.memory + at.flags)
    r.entries = <uint8_t *> r.memory + at.desc
    return 0


cdef void unmap_ring(xdp_ring_t *r) noexcept:
    if r.memory != NULL:
        munmap(r.memory, r.memory_bytes)
    r.memory = NULL


def open_queue(name, int queue):
    """What needs privileges: a socket bound to the queue, and the program that steers its frames there.

    Returns
    -------
    descriptors : tuple of int
        The socket, the memory of the frames, the attachment of the program.
    facts : dict
        ``mac`` (hexadecimal), ``mtu``, ``mode`` and ``zero_copy``.

    Raises
    ------
    netstack.errors.LinkError
        Missing, not permitted, busy, or no Ethernet.
    ValueError
        A name that no interface can have.
    """
    check_device_name(name)
    try:
        index = socket.if_nametoindex(name)
        hardware = ask_interface(name, 0x8927)               # SIOCGIFHWADDR
    except OSError as error:
        raise LinkMissingError(errno_names.ENODEV, f"xdp {name}: there is no such interface; `ip link` lists those "
                                                   f"that there are") from error
    if struct.unpack_from("H", hardware)[0] != 1:            # ARPHRD_ETHER
        raise LinkError(errno_names.EINVAL, f"xdp {name}: not an Ethernet")
    facts = {"mac": hardware[2:8].hex(), "mtu": min(device_mtu(name, "xdp"), FRAME_MTU)}
    opened = []
    try:
        opened.append(socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0).detach())
        opened.append(os.memfd_create("netstack-xdp", os.MFD_CLOEXEC))
        os.ftruncate(opened[1], MEMORY_BYTES)
        register_frames(opened[0], opened[1])
        map_fd = _bpf(BPF_MAP_CREATE, struct.pack("<5I", BPF_MAP_TYPE_XSKMAP, 4, 4, QUEUES, 0) + bytes(52))
        try:
            facts["mode"] = attach_program(map_fd, index, opened)
            facts["zero_copy"] = bind_queue(opened[0], index, queue)
            update_map(map_fd, queue, opened[0])
        finally:
            os.close(map_fd)                                 # the program has it
    except OSError as error:
        for fd in opened:
            os.close(fd)
        raise _explained(error, name, queue) from error
    return tuple(opened), facts


def register_frames(int fd, int memory_fd):
    """The socket gets its frames, which stay pinned while it lives, and its rings."""
    cdef xdp_umem_reg region
    cdef int entries = EACH, status
    cdef void *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory_fd, 0)
    if memory == MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    memset(&region, 0, sizeof(region))
    region.addr = <uint64_t> memory
    region.len = MEMORY_BYTES
    region.chunk_size = FRAME_BYTES
    status = c_setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &region, sizeof(region))
    number = errno
    munmap(memory, MEMORY_BYTES)
    if status != 0:
        raise OSError(number, os.strerror(number))
    for option in (XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING):
        if c_setsockopt(fd, SOL_XDP, option, &entries, sizeof(int)) != 0:
            raise OSError(errno, os.strerror(errno))


def attach_program(map_fd, index, opened):
    """Have the interface run the program; its attachment joins what is `opened`. Returns the mode."""
    program, licence = steering_program(map_fd), b"Apache-2.0\0"
    cdef const unsigned char *code = program
    cdef const unsigned char *said = licence
    program_fd = _bpf(BPF_PROG_LOAD, struct.pack(
        "<IIQQIIQII", BPF_PROG_TYPE_XDP, len(program) // 8, <uint64_t> code, <uint64_t> said, 0, 0, 0, 0, 0) + bytes(80))
    try:
        for mode, flags in (("native", XDP_FLAGS_DRV_MODE), ("generic", XDP_FLAGS_SKB_MODE)):
            try:
                opened.append(_bpf(BPF_LINK_CREATE, struct.pack("<4I", program_fd, index, BPF_XDP, flags) + bytes(48)))
            except OSError as error:
                if mode == "native" and error.errno in (errno_names.EOPNOTSUPP, errno_names.EINVAL, errno_names.ERANGE):
                    continue
                raise
            return mode
    finally:
        os.close(program_fd)                                 # the attachment has it


def bind_queue(int fd, index, queue):
    """Returns whether frames are not copied."""
    cdef sockaddr_xdp where
    cdef int options = 0
    cdef socklen_t length = sizeof(int)
    memset(&where, 0, sizeof(where))
    where.sxdp_family = AF_XDP
    where.sxdp_flags = XDP_USE_NEED_WAKEUP
    where.sxdp_ifindex = index
    where.sxdp_queue_id = queue
    if c_bind(fd, <sockaddr *> &where, sizeof(where)) != 0:
        raise OSError(errno, os.strerror(errno))
    if c_getsockopt(fd, SOL_XDP, XDP_OPTIONS, &options, &length) != 0:
        return False
    return bool(options & XDP_OPTIONS_ZEROCOPY)


def update_map(map_fd, queue, fd):
    """Frames of the queue go to this socket."""
    cdef uint32_t key = queue, value = fd
    _bpf(BPF_MAP_UPDATE_ELEM, struct.pack("<IIQQQ", map_fd, 0, <uint64_t> &key, <uint64_t> &value, 0))


cdef class XdpDevice(Device):
    """A queue of an interface, taken over.

    Parameters
    ----------
    name : str
        The interface; Ethernet.
    descriptors, facts
        What `open_queue` gave for it. The descriptors are the device's from now on, also when that fails.

    Attributes
    ----------
    mac : bytes
        The interface's Ethernet address, the router's from now on.
    mode : {"native", "generic"}
        Whether the driver runs the program, or the kernel behind it.
    zero_copy : bool
        The driver writes into the router's memory.

    Raises
    ------
    netstack.errors.LinkError
        Its memory cannot be mapped.

    Notes
    -----
    A frame that never was on a wire, from a veth, may lack its checksum, and nothing says so here: let the veth's other end
    write checksums (``ethtool -K PEER tx off``).
    """

    def __cinit__(self, *args, **options):
        self.memory_fd = self.link_fd = -1

    def __init__(self, name, descriptors, facts):
        cdef device_t *d = &self.device
        self.name = name
        d.fd, self.memory_fd, self.link_fd = descriptors
        self.mac = bytes.fromhex(facts["mac"])
        self.mode = facts["mode"]
        self.zero_copy = facts["zero_copy"]
        try:
            self.map_all()
        except OSError as error:
            Device.close(self)
            self.release()
            raise LinkError(error.errno, f"xdp {name}: {error.strerror}") from error
        d.mtu = facts["mtu"]
        d.ethernet = True
        d.state = &self.state
        d.receive = xdp_receive
        d.send = xdp_send
        d.flush = xdp_flush
        d.trouble = xdp_trouble

    def map_all(self):
        """The frames and the four rings; half of the frames are the kernel's to receive into."""
        cdef xdp_state_t *x = &self.state
        cdef xdp_mmap_offsets at
        cdef socklen_t length = sizeof(at)
        cdef int i, fd = self.device.fd
        cdef void *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self.memory_fd, 0)
        if memory == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        x.frames = <uint8_t *> memory
        if c_getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length) != 0:
            raise OSError(errno, os.strerror(errno))
        if map_ring(fd, &x.fill, &at.fr, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING) != 0 or \
                map_ring(fd, &x.done, &at.cr, sizeof(uint64_t), XDP_UMEM_PGOFF_COMPLETION_RING) != 0 or \
                map_ring(fd, &x.received, &at.rx, sizeof(xdp_desc), XDP_PGOFF_RX_RING) != 0 or \
                map_ring(fd, &x.sent, &at.tx, sizeof(xdp_desc), XDP_PGOFF_TX_RING) != 0:
            raise OSError(errno, os.strerror(errno))
        for i in range(EACH):
            address_at(&x.fill, i)[0] = <uint64_t> i * FRAME_BYTES
            x.spare[i] = <uint64_t> (EACH + i) * FRAME_BYTES
        x.n_spare = EACH
        x.fill.own = EACH
        xdp_store(x.fill.producer, EACH)
        if xdp_load(x.fill.flags) & XDP_RING_NEED_WAKEUP:        # the driver has looked for frames already
            c_recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL)

    def lost(self):
        """The interface is gone, or somebody has detached the program: neither shows at the socket."""
        with open(f"/proc/self/fdinfo/{self.link_fd}", "rb") as file:    # which needs no privilege, as bpf(2) does
            return b"ifindex:\t0\n" in file.read()

    @property
    def must_be_asked(self):
        return True

    def close(self):
        """Give the queue back to the kernel."""
        Device.close(self)
        self.release()

    cdef void release(self) noexcept:
        cdef xdp_state_t *x = &self.state
        cdef int fd
        for fd in (self.link_fd, self.memory_fd):
            if fd >= 0:
                close_fd(fd)
        self.link_fd = self.memory_fd = -1
        unmap_ring(&x.fill)
        unmap_ring(&x.done)
        unmap_ring(&x.received)
        unmap_ring(&x.sent)
        if x.frames != NULL:
            munmap(x.frames, MEMORY_BYTES)
        x.frames = NULL

    def __dealloc__(self):
        self.release()


def _explained(error, name, queue):
    """What went wrong, and what to do."""
    number = error.errno
    if number in (errno_names.EPERM, errno_names.EACCES):
        return LinkPermissionError(
            number, f"xdp {name}: not permitted; run as root, or give this Python the capabilities: "
                    f"setcap cap_net_raw,cap_net_admin,cap_bpf+ep {os.path.realpath('/proc/self/exe')}")
    if number == errno_names.EBUSY:
        return LinkBusyError(number, f"xdp {name}: another program holds queue {queue}, or has an XDP program there: "
                                     f"`ip link show {name}` tells")
    if number == errno_names.EAFNOSUPPORT:
        return LinkError(number, f"xdp {name}: this kernel has no AF_XDP (CONFIG_XDP_SOCKETS); use packet:{name}")
    if number == errno_names.EINVAL:
        return LinkError(number, f"xdp {name}: refused; has it a queue {queue}? `ethtool -l {name}` tells")
    return LinkError(number, f"xdp {name}: {error.strerror}")
