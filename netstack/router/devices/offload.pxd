"""What a device left to do on a packet, as the kernel's TAP and packet sockets tell it: ``struct virtio_net_hdr``
(``linux/virtio_net.h``; VIRTIO 1.2 section 5.1.6), in front of each frame, in native byte order.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    VNET_NEEDS_CHECKSUM = 1
    VNET_TCPV4 = 1
    VNET_TCPV6 = 4
    VNET_ECN = 0x80                  # beside the kind: CWR belongs to the first segment


cdef struct vnet_t:
    uint8_t flags
    uint8_t kind                     # 0: a packet as it is; else one that stands for several segments
    uint16_t header_length           # of the frame's headers
    uint16_t segment                 # payload bytes of each
    uint16_t checksum_start          # from the beginning of the frame
    uint16_t checksum_offset         # from there


# Complete a checksum that was left to the device: 0, or -1 when what is said of it cannot be.
cdef int vnet_finish(const vnet_t *vnet, uint8_t *frame, uint32_t length) noexcept nogil
