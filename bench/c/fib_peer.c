/* DPDK's rte_fib, a DIR-24-8 table, on the tables of bench/route_tables.py.
 *
 * fib_peer ENTRIES ADDRESSES SECONDS: prints lookups per second, bytes, seconds to load.
 * ENTRIES: 8 bytes each, address in network order, length, 0, answer (native); ADDRESSES: 4 bytes each. */
#include <arpa/inet.h>
#include <rte_config.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_fib.h>
#include <rte_memory.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BULK 32
#define GROUPS (1 << 17) /* tables of 256 for prefixes longer than /24 */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint8_t *file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) || (*size = (size_t)ftell(f)) == 0)
        exit(1);
    rewind(f);
    uint8_t *data = malloc(*size);
    if (!data || fread(data, 1, *size, f) != *size)
        exit(1);
    fclose(f);
    return data;
}

int main(int argc, char **argv)
{
    char *eal[] = {argv[0], "--no-huge", "--no-pci", "--no-telemetry", "--no-shconf", "-m", "1024", NULL};
    if (argc != 4)
        return 2;
    size_t size;
    uint8_t *entries = file(argv[1], &size);
    uint32_t n = (uint32_t)(size / 8);
    uint8_t *packed = file(argv[2], &size);
    uint32_t count = (uint32_t)(size / 4) / BULK * BULK;
    uint32_t *addresses = malloc(count * 4);
    for (uint32_t i = 0; addresses && i < count; i++) {
        memcpy(&addresses[i], packed + 4 * i, 4);
        addresses[i] = ntohl(addresses[i]);
    }
    if (!addresses || rte_eal_init(sizeof(eal) / sizeof(*eal) - 1, eal) < 0) {
        fprintf(stderr, "DPDK does not start here: %s\n", rte_strerror(rte_errno));
        return 3;
    }
    struct rte_fib_conf config = {.type = RTE_FIB_DIR24_8, .default_nh = 0, .max_routes = (int)n + 1, .rib_ext_sz = 0,
                                  .dir24_8 = {.nh_sz = RTE_FIB_DIR24_8_4B, .num_tbl8 = GROUPS}};
    struct rte_fib *table = rte_fib_create("bench", SOCKET_ID_ANY, &config);
    if (!table) {
        fprintf(stderr, "no table: %s\n", rte_strerror(rte_errno));
        return 3;
    }
    double began = now();
    for (uint32_t i = 0; i < n; i++) {
        uint32_t address;
        uint16_t hop;
        memcpy(&address, entries + 8 * i, 4);
        memcpy(&hop, entries + 8 * i + 6, 2);
        uint8_t length = entries[8 * i + 4];
        int status = rte_fib_add(table, ntohl(address), length, hop);
        if (status) {
            fprintf(stderr, "prefix %u of %u: %s\n", i, n, rte_strerror(-status));
            return 3;
        }
    }
    double loaded = now() - began, seconds = atof(argv[3]), took;
    uint64_t done = 0, sum = 0;
    began = now();
    do {
        for (uint32_t i = 0; i < count; i += BULK) {
            uint64_t hops[BULK];
            rte_fib_lookup_bulk(table, &addresses[i], hops, BULK);
            sum += hops[0];
        }
        done += count;
        took = now() - began;
    } while (took < seconds);
    /* tbl24, and the groups that are used: one for each /24 that has a longer prefix */
    uint8_t *used = calloc(1 << 24, 1);
    uint64_t groups = 0;
    for (uint32_t i = 0; used && i < n; i++)
        if (entries[8 * i + 4] > 24) {
            uint32_t address;
            memcpy(&address, entries + 8 * i, 4);
            groups += !used[ntohl(address) >> 8];
            used[ntohl(address) >> 8] = 1;
        }
    printf("%.0f %llu %.3f %llu\n", done / took, (unsigned long long)((4ull << 24) + groups * 1024), loaded,
           (unsigned long long)(sum & 1));
    return 0;
}
