"""Packets out of the raw sockets of ``kernel_ip``: the input half of its link."""

from libc.stdint cimport uint32_t

from netstack.link.link cimport frame_t, link_t

cdef int kernel_receive(link_t *self, frame_t *frames, int n) noexcept nogil
cdef void kernel_release(link_t *self) noexcept nogil
cdef int kernel_has_input(link_t *self) noexcept nogil
cdef int kernel_arm(link_t *self, uint32_t kind) noexcept nogil
cdef int kernel_poll_fd(link_t *self, uint32_t kind) noexcept nogil
