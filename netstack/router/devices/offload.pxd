"""What a device left to do on a packet, as the kernel's TAP and packet sockets tell it: ``struct virtio_net_hdr``
(``linux/virtio_net.h``; VIRTIO 1.2 section 5.1.6), in front of each frame, in native byte order.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from netstack.router.devices.device cimport vnet_t

cdef enum:
    VNET_NEEDS_CHECKSUM = 1
    VNET_TCPV4 = 1
    VNET_TCPV6 = 4
    VNET_ECN = 0x80                  # beside the kind: CWR belongs to the first segment


# Complete a checksum that was left to the device: 0, or -1 when what is said of it cannot be.
cdef int vnet_finish(const vnet_t *vnet, uint8_t *frame, uint32_t length) noexcept nogil


cdef inline uint16_t vnet_segment(const vnet_t *vnet) noexcept nogil:
    """Payload bytes of each TCP segment that a frame stands for, 0: it is one packet."""
    return vnet.segment if vnet.kind & 0x7f == VNET_TCPV4 or vnet.kind & 0x7f == VNET_TCPV6 else 0
