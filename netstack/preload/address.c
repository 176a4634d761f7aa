/* address.c - socket addresses to the fields of a message and back. IPv4 is mapped; of a link-local IPv6 address the
 * fourth byte says the interface. */
#include "preload.h"

static int link_local(const uint8_t *a) { return a[0] == 0xfe && (a[1] & 0xc0) == 0x80; }

int address_in(const shim_t *o, const struct sockaddr *address, socklen_t n, nsd_message_t *m)
{
    if (address == NULL)
        return -EFAULT;
    if (n < sizeof(sa_family_t))
        return -EINVAL;
    if (address->sa_family != o->family)
        return -EAFNOSUPPORT;
    memset(m->address, 0, sizeof m->address);
    if (o->family == AF_INET) {
        struct sockaddr_in a;
        if (n < sizeof a)
            return -EINVAL;
        memcpy(&a, address, sizeof a);
        m->address[10] = m->address[11] = 0xff;
        memcpy(m->address + 12, &a.sin_addr, 4);
        m->port = ntohs(a.sin_port);
    } else {
        struct sockaddr_in6 a;
        if (n < offsetof(struct sockaddr_in6, sin6_scope_id))
            return -EINVAL;
        memset(&a, 0, sizeof a);
        memcpy(&a, address, n < sizeof a ? n : sizeof a);
        memcpy(m->address, &a.sin6_addr, 16);
        m->port = ntohs(a.sin6_port);
        m->scope = a.sin6_scope_id;
        if (link_local(m->address))
            m->address[3] = (uint8_t)a.sin6_scope_id;
    }
    return 0;
}

void address_out(const shim_t *o, const nsd_message_t *m, struct sockaddr *address, socklen_t *n)
{
    union { struct sockaddr_in v4; struct sockaddr_in6 v6; } a;
    socklen_t whole, room;
    if (address == NULL || n == NULL)
        return;
    memset(&a, 0, sizeof a);
    if (o->family == AF_INET) {
        whole = sizeof a.v4;
        a.v4.sin_family = AF_INET;
        a.v4.sin_port = htons(m->port);
        memcpy(&a.v4.sin_addr, m->address + 12, 4);
    } else {
        whole = sizeof a.v6;
        a.v6.sin6_family = AF_INET6;
        a.v6.sin6_port = htons(m->port);
        memcpy(&a.v6.sin6_addr, m->address, 16);
        a.v6.sin6_scope_id = m->scope;
        if (link_local(m->address) && m->address[3]) {
            a.v6.sin6_scope_id = m->address[3];
            a.v6.sin6_addr.s6_addr[3] = 0;
        }
    }
    room = *n < whole ? *n : whole;
    memcpy(address, &a, room);
    *n = whole;
}
