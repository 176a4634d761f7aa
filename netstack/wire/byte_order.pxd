"""Loads and stores of big-endian fields at any alignment (``netstack/byte_order.h``)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "netstack/byte_order.h" nogil:
    uint16_t host_to_be16(uint16_t v)
    uint32_t host_to_be32(uint32_t v)
    uint64_t host_to_be64(uint64_t v)
    uint16_t be16_to_host(uint16_t v)
    uint32_t be32_to_host(uint32_t v)
    uint64_t be64_to_host(uint64_t v)

    uint16_t load_native16(const void *p)
    uint32_t load_native32(const void *p)
    uint64_t load_native64(const void *p)
    void store_native16(void *p, uint16_t v)
    void store_native32(void *p, uint32_t v)
    void store_native64(void *p, uint64_t v)

    uint16_t load_be16(const void *p)
    uint32_t load_be32(const void *p)
    uint64_t load_be64(const void *p)
    void store_be16(void *p, uint16_t v)
    void store_be32(void *p, uint32_t v)
    void store_be64(void *p, uint64_t v)
