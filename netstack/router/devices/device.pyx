# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The owner of a device, as control holds it; and the plainest one, a descriptor that is read and written."""

from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, ENETDOWN, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close as close_fd, read

import os

from netstack.router.devices.offload cimport vnet_finish, vnet_segment


cdef bint device_ended(int error) noexcept nogil:
    return error != EAGAIN and error != ENOBUFS and error != EIO and error != EINVAL and error != ENETDOWN \
        and error != EMSGSIZE


cdef class Device:
    """A device that an uplink's frames go through.

    Attributes
    ----------
    name : str
        Of the network interface.
    mac : bytes or None
        The Ethernet address that the router has to have there; None: any that is nobody else's.
    """

    def __cinit__(self, *args, **options):
        memset(&self.device, 0, sizeof(device_t))
        self.device.fd = -1

    @property
    def mtu(self):
        """Largest IP packet, bytes, as it was when the device was opened."""
        return self.device.mtu

    @property
    def offload(self):
        """Does it take frames that are still to be cut and summed?"""
        return bool(self.device.offload)

    @property
    def ethernet(self):
        """Does it carry Ethernet frames, rather than IP packets?"""
        return bool(self.device.ethernet)

    def fileno(self):
        """Readable when there is something to receive; -1 when closed."""
        return self.device.fd

    def lost(self):
        """Has the device gone without the data path being told? Asked every second of those that `must_be_asked`."""
        return False

    @property
    def must_be_asked(self):
        return False

    def close(self):
        """Give the device back. No uplink may use it any more."""
        cdef int fd = self.device.fd
        self.device.fd = -1
        if fd >= 0:
            os.close(fd)

    def __dealloc__(self):
        if self.device.fd >= 0:
            close_fd(self.device.fd)


# ---- a descriptor

cdef bint file_receive(device_t *self, frame_t *frame) noexcept nogil:
    cdef file_t *file = <file_t *> self.state
    cdef uint32_t front = sizeof(vnet_t) if self.offload else 0
    cdef ssize_t n
    while True:
        n = read(self.fd, <uint8_t *> file + sizeof(vnet_t) - front, ETHERNET_FRAME_BYTES + front)
        if n > 0:
            frame.data = file.frame
            frame.length = <uint32_t> n - front if n > front else 0
            frame.segment = 0
            if front:
                if vnet_finish(&file.vnet, frame.data, frame.length) != 0:
                    frame.length = 0
                frame.segment = vnet_segment(&file.vnet)
            return True
        if n < 0 and errno == EINTR:
            continue
        if n < 0 and device_ended(errno):
            self.gone = errno
        return False


cdef int file_send(device_t *self, const vnet_t *vnet, const iovec *parts, int n) noexcept nogil:
    cdef vnet_t nothing
    cdef iovec all_parts[PARTS_MAX + 1]
    if self.offload:
        if vnet == NULL:
            memset(&nothing, 0, sizeof(vnet_t))
            vnet = &nothing
        all_parts[0].iov_base = <void *> vnet
        all_parts[0].iov_len = sizeof(vnet_t)
        memcpy(all_parts + 1, parts, n * sizeof(iovec))
        parts = all_parts
        n += 1
    while writev(self.fd, parts, n) < 0:
        if errno == EINTR:
            continue
        if device_ended(errno):
            self.gone = errno
        return errno
    return 0


cdef class FileDevice(Device):
    """A descriptor each read and write of which is one frame: TAP, TUN, a socket that stands for one in tests.

    Parameters
    ----------
    fd : int
        Non-blocking. The device owns it from now on.
    mtu : int
        Largest IP packet, bytes.
    ethernet : bool
        Frames, else IP packets.
    name : str
        Of the network interface.
    offload : bool
        In front of each frame there is a ``struct virtio_net_hdr`` that says what is left to do on it.
    """

    def __init__(self, int fd, *, uint32_t mtu=1500, bint ethernet=True, str name="", bint offload=False):
        self.name = name
        self.device.fd = fd
        self.device.mtu = mtu
        self.device.ethernet = ethernet
        self.device.offload = offload
        self.device.receive = file_receive
        self.device.send = file_send
        self.device.state = malloc(sizeof(file_t))
        if self.device.state == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.device.state)
