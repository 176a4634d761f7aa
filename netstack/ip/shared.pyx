# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Numbers of datagrams that nobody foresees, and limits of errors that tell nobody anything."""

from libc.stdint cimport INT64_MIN
from libc.string cimport memcpy, memset

from netstack.clock cimport NS_PER_MS, NS_PER_S
from netstack.siphash cimport random_next, siphash

cdef enum:
    SALT_ID = 0x6970             # what the secret is used for: kept apart
    SALT_LIMIT = 0x69636d70
    ROUNDS = 4                   # of a Feistel cipher: then it is a random permutation for whoever lacks the key
    DESTINATION_BURST = 6        # errors at once to one host, as Linux (XRLIM_BURST_FACTOR)
    RESETS_OF_ONE = 200          # a second, and at once, as FreeBSD's net.inet.icmp.icmplim has it for all
    RESETS_OF_ALL = 1000


cdef void ip_init(ip_t *ip, const uint8_t *secret, const uint8_t *random) noexcept nogil:
    cdef uint32_t i
    memset(ip, 0, sizeof(ip_t))
    memcpy(ip.secret, secret, 16)
    memcpy(ip.random, random, 16)
    ip.random[1] ^= <uint64_t> SALT_LIMIT
    if ip.random[0] == 0 and ip.random[1] == 0:
        ip.random[0] = 1
    for i in range(<uint32_t> IP_ID_COUNTERS):
        ip.id_counters[i] = <uint32_t> (random_next(ip.random) >> 32)
    ip.icmp_next_ns = INT64_MIN // 2
    ip.reset_next_ns = INT64_MIN // 2
    ip.config.echo_ignore_broadcasts = 1
    ip.config.default_ttl = 64
    ip.config.ratelimit_ms = 1000
    ip.config.msgs_per_sec = 1000
    ip.config.msgs_burst = 50
    ip.config.max_memberships = 20
    ip.config.max_msf = 10
    ip.config.ignore_redirects = 1


cdef uint64_t pair_hash(const ip_t *ip, const address_t *src, const address_t *dst, uint64_t salt) noexcept nogil:
    cdef uint64_t words[5]
    words[0] = src.hi
    words[1] = src.lo
    words[2] = dst.hi
    words[3] = dst.lo
    words[4] = salt
    return siphash(ip.secret, words, 5)


cdef uint32_t permuted(ip_t *ip, const address_t *src, const address_t *dst, int half) noexcept nogil:
    """The next of a counter's numbers of 2 * half bits, through a permutation that is the pair's own."""
    cdef uint64_t key[2]
    cdef uint64_t word
    cdef uint32_t mask = (<uint32_t> 1 << half) - 1, n, left, right, turn
    key[0] = pair_hash(ip, src, dst, SALT_ID)
    key[1] = ip.secret[1]
    n = ip.id_counters[key[0] % IP_ID_COUNTERS]
    ip.id_counters[key[0] % IP_ID_COUNTERS] += 1
    left = (n >> half) & mask
    right = n & mask
    for turn in range(<uint32_t> ROUNDS):
        word = (<uint64_t> turn << 32) | right
        n = left ^ (<uint32_t> siphash(key, &word, 1) & mask)
        left = right
        right = n
    return (left << half) | right


cdef uint16_t ip_next_id(ip_t *ip, const address_t *src, const address_t *dst) noexcept nogil:
    return <uint16_t> permuted(ip, src, dst, 8)


cdef uint32_t ip_next_id6(ip_t *ip, const address_t *src, const address_t *dst) noexcept nogil:
    return permuted(ip, src, dst, 16)


cdef bint within(ip_t *ip, icmp_limit_t *places, uint32_t count, int64_t *all_ns, const address_t *dst, int64_t wait,
                 int64_t own_burst, int64_t step, int64_t burst, int64_t now_ns) noexcept nogil:
    """First the destination's own bucket, one each *wait* ns, then that of all: who has used up his own takes nothing from
    others.

    The bucket of all, one each *step* ns, holds a random number of tokens, drawn anew with each answer, and loses a random
    number with each: what is left of it cannot be counted from outside.
    """
    cdef uint64_t h = pair_hash(ip, dst, dst, SALT_LIMIT)
    cdef icmp_limit_t *place = &places[h % count]
    cdef uint32_t tag = <uint32_t> (h >> 32) | 1
    cdef uint64_t chance
    if wait:
        if place.tag != tag or place.next_ns < now_ns - own_burst * wait:
            place.tag = tag
            place.next_ns = now_ns - own_burst * wait
        if place.next_ns + wait > now_ns:
            return False
    chance = random_next(ip.random) >> 32
    burst -= <int64_t> (chance % <uint64_t> (burst // 2 + 1))
    if all_ns[0] < now_ns - burst * step:
        all_ns[0] = now_ns - burst * step
    if all_ns[0] + step > now_ns:
        return False
    all_ns[0] += step + <int64_t> (chance >> 16) * step // 65536       # 1 to 2 tokens: half the rate at worst
    if wait:
        place.next_ns += wait
    return True


cdef bint icmp_may_send(ip_t *ip, const address_t *dst, int64_t now_ns) noexcept nogil:
    if ip.config.msgs_per_sec == 0:
        return False
    return within(ip, ip.icmp_limits, ICMP_LIMIT_PLACES, &ip.icmp_next_ns, dst, <int64_t> ip.config.ratelimit_ms * NS_PER_MS,
                  DESTINATION_BURST, NS_PER_S // ip.config.msgs_per_sec, ip.config.msgs_burst, now_ns)


cdef bint reset_may_send(ip_t *ip, const address_t *dst, int64_t now_ns) noexcept nogil:
    return within(ip, ip.reset_limits, RESET_LIMIT_PLACES, &ip.reset_next_ns, dst, NS_PER_S // RESETS_OF_ONE, RESETS_OF_ONE,
                  NS_PER_S // RESETS_OF_ALL, RESETS_OF_ALL, now_ns)
