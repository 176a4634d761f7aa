# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Doing what a device would have done on the way out, where the frame never went out."""

from libc.stdint cimport uint16_t

from netstack.wire.byte_order cimport store_native16
from netstack.wire.checksum cimport checksum_finish, checksum_partial


cdef int vnet_finish(const vnet_t *vnet, uint8_t *frame, uint32_t length) noexcept nogil:
    """The field holds the pseudo header's sum already, so that the sum from `checksum_start` on is all there is to it."""
    cdef uint32_t at = <uint32_t> vnet.checksum_start + vnet.checksum_offset
    cdef uint16_t check
    if not vnet.flags & VNET_NEEDS_CHECKSUM:
        return 0
    if at + 2 > length:
        return -1
    check = checksum_finish(checksum_partial(frame + vnet.checksum_start, length - vnet.checksum_start))
    store_native16(frame + at, check if check else 0xffff)       # 0 means "none" to UDP, and is as good as this to TCP
    return 0
