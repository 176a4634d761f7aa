"""A queue of a network interface, by an AF_XDP socket: rings and frames in memory shared with its driver."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from netstack.router.devices.device cimport Device


cdef struct xdp_ring_t:
    # One producer, one consumer: the kernel is the other side. Indices run freely.
    uint32_t *producer
    uint32_t *consumer
    uint32_t *flags
    void *entries                # addresses or descriptors
    uint32_t own                 # our index
    void *memory
    size_t memory_bytes


cdef struct xdp_state_t:
    uint8_t *frames              # half of them to receive into, half to send from
    xdp_ring_t fill              # frames that the kernel may receive into
    xdp_ring_t received
    xdp_ring_t sent              # descriptors to be sent
    xdp_ring_t done              # frames that have been sent
    uint64_t spare[2048]         # addresses of frames that we may send from
    uint32_t n_spare
    uint64_t shown               # the frame that the router looks at, and ...
    bint showing                 # ... that there is one
    bint unsent                  # descriptors the kernel was not told of


cdef class XdpDevice(Device):
    cdef xdp_state_t state
    cdef int memory_fd           # of the frames
    cdef int link_fd             # the program's attachment
    cdef readonly str mode
    cdef readonly bint zero_copy

    cdef void release(self) noexcept
