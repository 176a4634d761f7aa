"""Where a packet of a stack may go: see policy.pxd."""

from libc.stdint cimport uint16_t

from netstack.address cimport address_equal, address_is_any, address_is_multicast6, address_is_v4, address_t, address_v4
from netstack.ip.route cimport address_in_prefix
from netstack.router.relay.kernel cimport name_read, name_write
from netstack.wire.ipv4 cimport ipv4_source_is_martian


cdef bint policy_loopback(const address_t *a) noexcept nogil:
    cdef const unsigned char *p = <const unsigned char *> a
    if address_is_v4(a):
        return p[12] == 127
    return a.hi == 0 and p[15] == 1 and p[8] | p[9] | p[10] | p[11] | p[12] | p[13] | p[14] == 0


cdef bint policy_is_own(const relay_t *r, const address_t *a) noexcept nogil:
    cdef int i
    for i in range(r.own_count):
        if address_equal(a, &r.own[i]):
            return True
    return False


cdef bint policy_own(const relay_t *r, bint v4, address_t *out) noexcept nogil:
    cdef int i
    for i in range(r.own_count):
        if address_is_v4(&r.own[i]) == v4:
            out[0] = r.own[i]
            return True
    return False


cdef bint policy_foreign(const relay_t *r, const address_t *a) noexcept nogil:
    if address_is_v4(a):
        return not ipv4_source_is_martian(address_v4(a)) and not policy_is_own(r, a)
    return a.hi != 0 and not address_is_multicast6(a) and not policy_is_own(r, a)


cdef int policy_judge(const relay_t *r, const address_t *to, uint16_t port, kernel_name_t *target,
                      unsigned int *length) noexcept nogil:
    cdef int i
    for i in range(r.alias_count):
        if address_equal(to, &r.aliases[i].shown):
            length[0] = name_write(target, &r.aliases[i].real, port)
            return POLICY_ALIAS
    if policy_is_own(r, to):
        if port != 53 or r.server_count == 0:
            return POLICY_OURS
        i = r.server_at % r.server_count
        length[0] = name_write(target, &r.servers[i].address, r.servers[i].port)
        return POLICY_NAMES
    if address_is_any(to) or policy_loopback(to) or not policy_foreign(r, to):
        return POLICY_DENIED
    for i in range(r.denied_count):
        if address_is_v4(to) == address_is_v4(&r.denied[i].address) and \
                address_in_prefix(to, &r.denied[i].address, r.denied[i].length):
            return POLICY_DENIED
    length[0] = name_write(target, to, port)
    return POLICY_AS_IS


cdef void policy_server_failed(relay_t *r, const kernel_name_t *server) noexcept nogil:
    cdef address_t a
    cdef uint16_t port = 0
    cdef int i
    if r.server_count == 0 or not name_read(server, &a, &port):
        return
    i = r.server_at % r.server_count
    if address_equal(&a, &r.servers[i].address) and port == r.servers[i].port:
        r.server_at += 1
