/* Loads and stores of wire fields: big-endian, at any alignment.
 *
 * A field is read once into a local through memcpy, which compiles to one load
 * (and one bswap) and is defined at every address. No Python.h.
 */
#ifndef NETSTACK_BYTE_ORDER_H
#define NETSTACK_BYTE_ORDER_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NETSTACK_LITTLE_ENDIAN 1
#elif __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define NETSTACK_LITTLE_ENDIAN 0
#else
#error "mixed-endian machines are not supported"
#endif

/* Host order to network order and back: the same function both ways. */
static inline uint16_t host_to_be16(uint16_t v) { return NETSTACK_LITTLE_ENDIAN ? __builtin_bswap16(v) : v; }
static inline uint32_t host_to_be32(uint32_t v) { return NETSTACK_LITTLE_ENDIAN ? __builtin_bswap32(v) : v; }
static inline uint64_t host_to_be64(uint64_t v) { return NETSTACK_LITTLE_ENDIAN ? __builtin_bswap64(v) : v; }
static inline uint16_t be16_to_host(uint16_t v) { return host_to_be16(v); }
static inline uint32_t be32_to_host(uint32_t v) { return host_to_be32(v); }
static inline uint64_t be64_to_host(uint64_t v) { return host_to_be64(v); }

/* Words as they lie in memory (what checksums are made of). */
static inline uint16_t load_native16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t load_native32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t load_native64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void store_native16(void *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void store_native32(void *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void store_native64(void *p, uint64_t v) { memcpy(p, &v, 8); }

/* Big-endian fields as numbers. */
static inline uint16_t load_be16(const void *p) { return be16_to_host(load_native16(p)); }
static inline uint32_t load_be32(const void *p) { return be32_to_host(load_native32(p)); }
static inline uint64_t load_be64(const void *p) { return be64_to_host(load_native64(p)); }
static inline void store_be16(void *p, uint16_t v) { store_native16(p, host_to_be16(v)); }
static inline void store_be32(void *p, uint32_t v) { store_native32(p, host_to_be32(v)); }
static inline void store_be64(void *p, uint64_t v) { store_native64(p, host_to_be64(v)); }

#endif
