/* transfer.c - data of a socket, in and out, by a msghdr. Streams go through the rings; datagrams, and what the rings
 * cannot say, are messages. */
#include "preload.h"

enum { DATAGRAM_MOST = 65536, ANCILLARY_MOST = 1024 };

/* Ancillary data on its way to and from the daemon. */
typedef struct {
    int32_t level;
    int32_t type;
    uint32_t n;
} item_t;

static int waits(const shim_t *o, int flags)
{
    return !(flags & MSG_DONTWAIT) && !atomic_load(&o->nonblocking);
}

static size_t whole(const struct msghdr *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->msg_iovlen; i++)
        n += m->msg_iov[i].iov_len;
    return n;
}

/* A program that looks now and then, and is not told otherwise, learns of the daemon's end here. */
static ssize_t not_now(shim_t *o)
{
    return nsd_alive(o->s.client) ? -EAGAIN : -ECONNRESET;
}

/* --- sending */

static ssize_t send_message(shim_t *o, const struct msghdr *m, int flags)
{
    nsd_message_t ask = {.type = NSD_SEND, .a = flags & ~(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE)};
    size_t n = whole(m), items = 0;
    struct msghdr *h = (struct msghdr *)m;
    uint8_t *data = NULL, *at;
    ssize_t r;
    if (m->msg_name != NULL && (r = address_in(o, m->msg_name, m->msg_namelen, &ask)) < 0)
        return r;
    ask.b = m->msg_name != NULL;
    if (n > DATAGRAM_MOST - 1 && o->type != SOCK_STREAM)
        return -EMSGSIZE;
    if (n > DATAGRAM_MOST)
        n = DATAGRAM_MOST;
    if (m->msg_iovlen == 1 && m->msg_controllen == 0) {
        r = shim_ask(o, &ask, m->msg_iov[0].iov_base, n);
        return r < 0 ? r : ask.a;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c != NULL; c = CMSG_NXTHDR(h, c))
        items += sizeof(item_t) + c->cmsg_len - CMSG_LEN(0);
    if (items > ANCILLARY_MOST)
        return -EINVAL;
    if ((at = data = malloc(items + n + 1)) == NULL)
        return -ENOMEM;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c != NULL; c = CMSG_NXTHDR(h, c)) {
        item_t item = {c->cmsg_level, c->cmsg_type, (uint32_t)(c->cmsg_len - CMSG_LEN(0))};
        memcpy(at, &item, sizeof item);
        memcpy(at + sizeof item, CMSG_DATA(c), item.n);
        at += sizeof item + item.n;
    }
    for (size_t i = 0, left = n; i < m->msg_iovlen && left; i++) {
        size_t part = m->msg_iov[i].iov_len < left ? m->msg_iov[i].iov_len : left;
        memcpy(at, m->msg_iov[i].iov_base, part);
        at += part;
        left -= part;
    }
    ask.c = (int)items;
    r = shim_ask(o, &ask, data, items + n);
    free(data);
    return r < 0 ? r : ask.a;
}

/* As much as goes now: bytes, or a negative errno number. */
static ssize_t send_now(shim_t *o, const struct msghdr *m, size_t skip, int flags)
{
    size_t sent = 0, wanted = whole(m) - skip;
    ssize_t r = 0;
    if (o->type != SOCK_STREAM || flags & (MSG_OOB | MSG_FASTOPEN) || !nsd_streams(&o->s))
        return send_message(o, m, flags);
    for (size_t i = 0; i < m->msg_iovlen; i++) {
        const struct iovec *v = &m->msg_iov[i];
        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        r = nsd_send(&o->s, (const uint8_t *)v->iov_base + skip, v->iov_len - skip);
        if (r > 0)
            sent += (size_t)r;
        if (r < 0 || (size_t)r < v->iov_len - skip)
            break;
        skip = 0;
    }
    shim_show(o, (r >= 0 || r == -EAGAIN) && sent < wanted && !waits(o, flags) ? NSD_FILLED : 0);
    return sent || r >= 0 ? (ssize_t)sent : r;
}

ssize_t shim_send(shim_t *o, const struct msghdr *m, int flags)
{
    int64_t deadline = shim_deadline(atomic_load(&o->send_timeout_ns));
    size_t n = whole(m), sent = 0;
    struct msghdr rest = *m;
    ssize_t r;
    if (o->type == SOCK_STREAM) {
        rest.msg_controllen = 0;
        if (!(flags & MSG_FASTOPEN))
            rest.msg_name = NULL;
    }
    for (;;) {
        r = send_now(o, &rest, sent, flags);
        if (r >= 0) {
            sent += (size_t)r;
            if (sent >= n || o->type != SOCK_STREAM || !waits(o, flags))
                break;
            continue;
        }
        if (r == -EINPROGRESS && waits(o, flags)) {            /* MSG_FASTOPEN: its SYN is out */
            flags &= ~MSG_FASTOPEN;
            rest.msg_name = NULL;
            r = -EAGAIN;
        }
        if (r == -EAGAIN && !waits(o, flags))
            r = not_now(o);
        if (r != -EAGAIN || !waits(o, flags) || (r = shim_wait(o, POLLOUT, deadline)) < 0)
            break;
    }
    if (sent || r >= 0)
        return (ssize_t)sent;
    if (r == -EPIPE && o->type == SOCK_STREAM && !(flags & MSG_NOSIGNAL))
        raise(SIGPIPE);
    return r;
}

/* --- receiving */

static void put_items(struct msghdr *m, const uint8_t *items, size_t n)
{
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    size_t used = 0;
    while (n >= sizeof(item_t)) {
        item_t item;
        memcpy(&item, items, sizeof item);
        items += sizeof item;
        n -= sizeof item;
        if (item.n > n)
            break;
        if (c == NULL || used + CMSG_LEN(item.n) > m->msg_controllen) {
            m->msg_flags |= MSG_CTRUNC;
            break;
        }
        c->cmsg_level = item.level;
        c->cmsg_type = item.type;
        c->cmsg_len = CMSG_LEN(item.n);
        memcpy(CMSG_DATA(c), items, item.n);
        used += CMSG_SPACE(item.n);
        c = (struct cmsghdr *)((uint8_t *)c + CMSG_SPACE(item.n));
        items += item.n;
        n -= item.n;
    }
    m->msg_controllen = used < m->msg_controllen ? used : m->msg_controllen;
}

static ssize_t receive_message(shim_t *o, struct msghdr *m, int flags)
{
    nsd_message_t ask = {.type = NSD_RECV, .b = flags & ~(MSG_WAITALL | MSG_TRUNC | MSG_DONTWAIT | MSG_CMSG_CLOEXEC)};
    size_t n = whole(m), got = 0, at;
    uint8_t *data;
    ssize_t r;
    if (n > DATAGRAM_MOST)
        n = DATAGRAM_MOST;
    if ((data = malloc(n + ANCILLARY_MOST)) == NULL)
        return -ENOMEM;
    ask.a = (int)n;
    ask.c = m->msg_control == NULL ? 0 : (int)(m->msg_controllen < ANCILLARY_MOST ? m->msg_controllen : ANCILLARY_MOST);
    r = shim_ask_data(o, &ask, data, n + ANCILLARY_MOST, &got);
    if (r == 0) {
        at = ask.c >= 0 && o->type != SOCK_STREAM ? (size_t)ask.c : 0;
        if (at > got || got - at > n) {
            free(data);
            return -EPROTO;
        }
        m->msg_flags = o->type == SOCK_STREAM ? 0 : ask.b & ~(MSG_DONTWAIT | MSG_PEEK);
        if (o->type != SOCK_STREAM) {
            address_out(o, &ask, m->msg_name, &m->msg_namelen);
            put_items(m, data, at);
            m->msg_flags |= (size_t)ask.a > got - at ? MSG_TRUNC : 0;
        }
        r = o->type != SOCK_STREAM && flags & MSG_TRUNC ? ask.a : (ssize_t)(got - at);
        for (size_t i = 0; i < m->msg_iovlen && at < got; i++) {
            size_t part = m->msg_iov[i].iov_len < got - at ? m->msg_iov[i].iov_len : got - at;
            memcpy(m->msg_iov[i].iov_base, data + at, part);
            at += part;
        }
    }
    free(data);
    return r;
}

static ssize_t receive_now(shim_t *o, struct msghdr *m, size_t skip, int flags)
{
    size_t taken = 0, wanted = whole(m) - skip;
    ssize_t r = 0;
    if (o->type != SOCK_STREAM || flags & (MSG_OOB | MSG_ERRQUEUE) || !nsd_streams(&o->s))
        return receive_message(o, m, flags);
    m->msg_flags = 0;
    m->msg_namelen = 0;
    m->msg_controllen = 0;
    for (size_t i = 0; i < m->msg_iovlen; i++) {
        const struct iovec *v = &m->msg_iov[i];
        if (skip && skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        r = nsd_recv(&o->s, flags & MSG_TRUNC ? NULL : (uint8_t *)v->iov_base + skip, v->iov_len - skip,
                     flags & MSG_PEEK);
        if (r > 0)
            taken += (size_t)r;
        if (r < 0 || (size_t)r < v->iov_len - skip || flags & MSG_PEEK)
            break;
        skip = 0;
    }
    shim_show(o, NSD_TOOK | (!(flags & MSG_PEEK) && taken < wanted ? NSD_EMPTIED : waits(o, flags) ? 0 : NSD_LEFT));
    return taken || r >= 0 ? (ssize_t)taken : r;
}

ssize_t shim_receive(shim_t *o, struct msghdr *m, int flags)
{
    int64_t deadline = shim_deadline(atomic_load(&o->receive_timeout_ns));
    size_t n = whole(m), got = 0;
    int all = flags & MSG_WAITALL && !(flags & MSG_PEEK) && o->type == SOCK_STREAM && waits(o, flags);
    ssize_t r;
    for (;;) {
        r = receive_now(o, m, got, flags);
        if (r > 0)
            got += (size_t)r;
        if (r > 0 && all && got < n)
            continue;
        if (r == -EAGAIN && !waits(o, flags))
            r = not_now(o);
        if (r != -EAGAIN || !waits(o, flags) || (r = shim_wait(o, POLLIN, deadline)) < 0)
            break;
    }
    return got ? (ssize_t)got : r;
}
