"""TAP and TUN devices of the kernel as links."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.link.link cimport Link

cdef enum:
    TAP_BATCH = 32               # frames read ahead


cdef struct tap_t:
    int fd
    uint32_t frame_max           # mtu plus link header, bytes
    uint8_t *input               # TAP_BATCH frames of frame_max bytes
    uint32_t lengths[TAP_BATCH]
    int filled                   # frames in input ...
    int taken                    # ... of which the stack has seen so many
    uint8_t shown                # the stack looks at frames of the batch
    uint8_t *output              # one frame, written by commit
    uint32_t output_length
    uint8_t pending              # the kernel had no room for it yet
    int64_t now_ns               # the latest time told
    int64_t retry_ns             # when to try the pending frame again
    uint64_t dropped             # frames the kernel refused (device down)
    int last_error


cdef class Tun(Link):
    cdef tap_t state
    cdef readonly str name


cdef class Tap(Tun):
    cdef readonly bytes device_mac
