"""A network interface that exists, by a packet socket with rings in memory shared with the kernel (TPACKET_V3)."""

from libc.stdint cimport uint8_t, uint32_t

from netstack.router.devices.device cimport Device


cdef struct packet_rings_t:
    uint8_t *memory              # blocks to receive from, then slots to send from
    uint32_t block               # the block whose turn it is
    bint held                    # it is ours
    uint32_t left                # frames of it that were not looked at
    uint8_t *following           # the next of them
    bint down                    # or gone: it is asked again and again
    uint32_t slot                # the next slot to be filled
    uint32_t filled              # slots since the last flush that went through


cdef class PacketDevice(Device):
    cdef packet_rings_t rings

    cdef void unmap(self) noexcept
