"""What an uplink asks of its device: a struct of functions beside its state. Who owns it is a `Device`.

A device moves Ethernet frames or IP packets and knows nothing of what is in them. All calls are the data thread's, or
control's under the router's lock.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec *iov, int iovcnt)
    ssize_t writev(int fd, const iovec *iov, int iovcnt)

cdef enum:
    ETHERNET_FRAME_BYTES = 65536 + 64        # the largest frame that any device shows
    PARTS_MAX = 66                           # of one frame to `send`


cdef struct vnet_t:
    uint8_t flags
    uint8_t kind                     # 0: a packet as it is; else one that stands for several segments
    uint16_t header_length           # of the frame's headers
    uint16_t segment                 # payload bytes of each
    uint16_t checksum_start          # from the beginning of the frame
    uint16_t checksum_offset         # from there


cdef struct frame_t:
    uint8_t *data                # ours to change until the next `receive`
    uint32_t length
    uint16_t segment             # payload bytes of each TCP segment that it stands for; 0: it is one packet


cdef struct device_t:
    void *state
    int fd                       # readable when there is something to receive
    uint32_t mtu                 # largest IP packet, bytes
    bint ethernet                # frames; else IP packets
    bint offload                 # it takes frames with work left to do on them: checksum, cutting
    int64_t again_ns             # it wants to be visited again after this; 0: when `fd` is readable
    int gone                     # errno of why it is of no use any more; 0: it is
    # The next frame: True, or False when there is none.
    bint (*receive)(device_t *self, frame_t *frame) noexcept nogil
    # Take a frame that lies in several pieces: 0 or errno. Nothing of it is looked at afterwards. vnet: what is left to do on
    # it, NULL: nothing.
    int (*send)(device_t *self, const vnet_t *vnet, const iovec *parts, int n) noexcept nogil
    # The end of a batch: what was sent leaves now. NULL: it has left.
    void (*flush)(device_t *self) noexcept nogil
    # Something is wrong with `fd`, says epoll: is the device gone? NULL: `receive` will find out.
    void (*trouble)(device_t *self) noexcept nogil


# Has the device ended, rather than being down (EIO, ENETDOWN) or busy?
cdef bint device_ended(int error) noexcept nogil


cdef class Device:
    cdef device_t device
    cdef readonly str name
    cdef readonly bytes mac


cdef struct file_t:
    vnet_t vnet                  # in front of the frame, where the device has it there
    uint8_t frame[ETHERNET_FRAME_BYTES]


cdef class FileDevice(Device):
    pass
