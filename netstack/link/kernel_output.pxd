"""Packets into the raw sockets of ``kernel_ip``: the output half of its link, and the routes of the kernel."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.link.link cimport link_t

cdef int kernel_claim(link_t *self, uint32_t head_length, uint32_t body_length,
                      uint8_t **head, uint8_t **body) noexcept nogil
cdef void kernel_commit(link_t *self, int64_t now_ns) noexcept nogil
cdef void kernel_flush(link_t *self) noexcept nogil
cdef int64_t kernel_next_deadline(link_t *self) noexcept nogil
cdef void kernel_advance(link_t *self, int64_t now_ns) noexcept nogil
cdef int kernel_route(link_t *self, const uint8_t *dst, uint8_t *src) noexcept nogil
