# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""TAP (Ethernet frames) and TUN (IP packets): a network device of the kernel whose other side is this program.

Linux only (``Documentation/networking/tuntap.rst``). Frames are read ahead in a batch into private memory; a frame
that the kernel has no room for is kept and tried again, and until it is gone the stack's claims fail: nothing is lost
here silently.
"""

import errno as errno_names
import fcntl
import os
import socket
import struct

from libc.errno cimport EAGAIN, EBADFD, EINTR, ENODEV, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from posix.unistd cimport close as close_fd, read, write

from netstack.link.link cimport frame_t, Link, link_t, MEDIA_ETHERNET, MEDIA_IP, NEVER

from netstack.errors import LinkError

cdef enum:
    ETHERNET_HEADER = 14
    RETRY_NS = 1000000           # a full device is looked at again after this

# <linux/if_tun.h>, <linux/sockios.h>
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
SIOCGIFMTU = 0x8921
SIOCGIFHWADDR = 0x8927


class LinkPermissionError(LinkError, PermissionError):
    """The device exists, but this user may not open it."""


class LinkMissingError(LinkError, FileNotFoundError):
    """There is no such device, or no ``/dev/net/tun``."""


class LinkBusyError(LinkError, BlockingIOError):
    """Another program holds the device."""


# ---------------------------------------------------------------------------------------------- packet path

cdef void fill(link_t *self) noexcept nogil:
    """Read ahead until the batch is full or the device is empty. Requires: everything read before was taken."""
    cdef tap_t *t = <tap_t *> self.state
    cdef ssize_t n
    cdef int tries
    t.filled = 0
    t.taken = 0
    for tries in range(2 * TAP_BATCH):
        if t.filled == TAP_BATCH or t.fd < 0:
            return
        n = read(t.fd, t.input + <size_t> t.filled * t.frame_max, t.frame_max)
        if n > 0:
            t.lengths[t.filled] = <uint32_t> n
            t.filled += 1
            continue
        if n < 0 and errno == EINTR:
            continue
        if n < 0 and (errno == EBADFD or errno == ENODEV):
            self.dead = 1                         # the device was deleted
            t.last_error = errno
        elif n < 0 and errno != EAGAIN:
            t.last_error = errno
        return


cdef int tap_receive(link_t *self, frame_t *frames, int n) noexcept nogil:
    cdef tap_t *t = <tap_t *> self.state
    cdef int i, got
    if t.taken == t.filled:
        fill(self)
    got = t.filled - t.taken
    if got > n:
        got = n
    for i in range(got):
        frames[i].head = t.input + <size_t> (t.taken + i) * t.frame_max
        frames[i].head_length = t.lengths[t.taken + i]
        frames[i].body = NULL
        frames[i].body_length = 0
    t.taken += got
    t.shown = got > 0
    return got


cdef void tap_release(link_t *self) noexcept nogil:
    (<tap_t *> self.state).shown = 0


cdef void write_pending(link_t *self) noexcept nogil:
    """Hand the frame to the kernel. Afterwards it is gone, or pending because there was no room."""
    cdef tap_t *t = <tap_t *> self.state
    cdef ssize_t n
    cdef int tries
    t.pending = 0
    for tries in range(16):
        n = write(t.fd, t.output, t.output_length)
        if n >= 0:
            return
        if errno == EINTR:
            continue
        if errno == EAGAIN:
            t.pending = 1
            t.retry_ns = t.now_ns + RETRY_NS
            return
        t.last_error = errno
        t.dropped += 1
        if errno == EBADFD or errno == ENODEV:
            self.dead = 1
        return
    t.pending = 1
    t.retry_ns = t.now_ns + RETRY_NS


cdef int tap_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                   uint8_t **head, uint8_t **body) noexcept nogil:
    cdef tap_t *t = <tap_t *> self.state
    if t.fd < 0 or self.dead or head_length > t.frame_max or body_length > t.frame_max - head_length:
        return -1
    if t.pending:
        write_pending(self)
        if t.pending:
            return -1
    t.output_length = head_length + body_length
    head[0] = t.output
    body[0] = t.output + head_length
    return 0


cdef void tap_commit(link_t *self, int64_t now_ns) noexcept nogil:
    cdef tap_t *t = <tap_t *> self.state
    t.now_ns = now_ns
    write_pending(self)


cdef int64_t tap_next_deadline(link_t *self) noexcept nogil:
    cdef tap_t *t = <tap_t *> self.state
    return t.retry_ns if t.pending else NEVER


cdef void tap_advance(link_t *self, int64_t now_ns) noexcept nogil:
    cdef tap_t *t = <tap_t *> self.state
    t.now_ns = now_ns
    if t.pending and now_ns >= t.retry_ns:
        write_pending(self)


cdef int tap_has_input(link_t *self) noexcept nogil:
    cdef tap_t *t = <tap_t *> self.state
    if t.taken == t.filled and not t.shown:       # what the stack still looks at stays
        fill(self)
    return t.taken != t.filled or self.dead


cdef int tap_arm(link_t *self, uint32_t kind) noexcept nogil:
    """A descriptor needs no arming: it is readable as long as frames wait. Only what was read ahead must be told."""
    cdef tap_t *t = <tap_t *> self.state
    return t.taken != t.filled


cdef int tap_poll_fd(link_t *self, uint32_t kind) noexcept nogil:
    return (<tap_t *> self.state).fd


# ---------------------------------------------------------------------------------------------- opening

def _raise(error, name, what, device):
    """Say what went wrong while opening, and what to do instead."""
    number = error.errno
    if number in (errno_names.EPERM, errno_names.EACCES):
        raise LinkPermissionError(
            number, f"{what} {name}: not permitted; run as root, or let root make it for this user: "
                    f"ip tuntap add dev {name} mode {what} user {os.environ.get('USER') or os.getuid()}") from error
    if number in (errno_names.ENOENT, errno_names.ENODEV, errno_names.ENXIO):
        raise LinkMissingError(number, f"{what} {name}: {device} is missing; load the kernel module tun, or give the "
                                       f"container the device") from error
    if number == errno_names.EBUSY:
        raise LinkBusyError(number, f"{what} {name}: another program holds it") from error
    raise LinkError(number, f"{what} {name}: {error.strerror}") from error


def check_device_name(name):
    """A name that an interface can have; else `TypeError` or `ValueError`."""
    if not isinstance(name, str):
        raise TypeError(f"name {name!r}: give the device's name as text")
    if not 1 <= len(name.encode()) <= 15 or "/" in name or any(c.isspace() for c in name) or name in (".", ".."):
        raise ValueError(f"name {name!r}: an interface has 1 to 15 bytes, none of them a space or a slash")
    return name


def open_tun(name, kind, *, device="/dev/net/tun", flags=0):
    """An open, non-blocking descriptor of a TAP or TUN.

    Parameters
    ----------
    name, device : str
        As `Tun` has them.
    kind : {"tap", "tun"}
    flags : int
        More of ``IFF_*``.

    Raises
    ------
    LinkError, ValueError
        As `Tun`.
    """
    what = kind
    check_device_name(name)
    flags |= IFF_TAP if kind == "tap" else IFF_TUN
    try:
        fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        _raise(error, name, what, device)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags | IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        if error.errno == errno_names.EINVAL:
            raise LinkError(error.errno, f"{what} {name}: a device of that name exists and is no {what}") from error
        _raise(error, name, what, device)
    return fd


def device_mtu(name, kind):
    """The mtu of an interface, bytes; at most what an IP packet can have."""
    try:
        return min(max(struct.unpack_from("i", ask_interface(name, SIOCGIFMTU))[0], 68), 65535)
    except OSError as error:
        _raise(error, name, kind, name)


def device_mac(name):
    """The Ethernet address of an interface, 6 bytes."""
    return ask_interface(name, SIOCGIFHWADDR)[2:8]


def ask_interface(name, request):
    """The answer to an interface ioctl (struct ifreq behind the name)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        return fcntl.ioctl(s, request, struct.pack("16s24x", name.encode()))[16:]


cdef class Tun(Link):
    """A TUN device as a link: IP packets to and from the kernel.

    Parameters
    ----------
    name : str
        Name of the device, at most 15 bytes. It is made if it does not exist (needs CAP_NET_ADMIN) and is gone with
        the link then; one that root made for this user needs no privilege.
    device : str
        The device node.

    Raises
    ------
    LinkError
        With the matching built-in: `PermissionError` (not permitted), `FileNotFoundError` (no device node).
    ValueError
        A name that no interface can have.

    Notes
    -----
    The device must be set up (``ip link set NAME up``) before frames pass. Its mtu is read when it is opened.
    """

    def __cinit__(self, *args, **kwargs):
        self.state.fd = -1

    def __init__(self, name, *, device="/dev/net/tun"):
        self._setup(name, "tun", device)

    def _setup(self, name, what, device):
        cdef tap_t *t = &self.state
        cdef link_t *link = &self.link
        check_device_name(name)
        if t.fd >= 0:
            raise RuntimeError("this link is open already")
        self.name = name
        t.fd = open_tun(name, what, device=device)
        try:
            link.mtu = device_mtu(name, what)
        except OSError:
            self.close()
            raise
        link.media = MEDIA_ETHERNET if what == "tap" else MEDIA_IP
        t.frame_max = link.mtu + (ETHERNET_HEADER + 4 if what == "tap" else 0)
        t.input = <uint8_t *> malloc(<size_t> TAP_BATCH * t.frame_max)
        t.output = <uint8_t *> malloc(t.frame_max)
        if t.input == NULL or t.output == NULL:
            self.close()
            raise MemoryError("no memory for frame buffers")
        link.state = t
        link.claim = tap_claim
        link.commit = tap_commit
        link.receive = tap_receive
        link.release = tap_release
        link.next_deadline = tap_next_deadline
        link.advance = tap_advance
        link.arm = tap_arm
        link.poll_fd = tap_poll_fd
        link.has_input = tap_has_input

    def fileno(self):
        """The descriptor of the device, -1 when closed."""
        return self.state.fd

    @property
    def dropped(self):
        """Frames that the kernel refused, as a device that is down does."""
        return self.state.dropped

    def close(self):
        """Close the device. One that was made by opening it is gone then."""
        cdef int fd = self.state.fd
        self.state.fd = -1
        self.link.dead = 1
        if fd >= 0:
            os.close(fd)

    def __dealloc__(self):
        if self.state.fd >= 0:
            close_fd(self.state.fd)
        free(self.state.input)
        free(self.state.output)


cdef class Tap(Tun):
    """A TAP device as a link: Ethernet frames to and from the kernel. Parameters and errors as `Tun`.

    Attributes
    ----------
    device_mac : bytes
        The kernel's address on this device, 6 bytes. The stack behind the link has one of its own.
    """

    def __init__(self, name, *, device="/dev/net/tun"):
        self._setup(name, "tap", device)
        self.device_mac = device_mac(name)
