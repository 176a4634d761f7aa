/* connections.c - making sockets, connecting and accepting, and their names. */
#include "preload.h"

EXPORT int socket(int family, int type, int protocol)
{
    int kind = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
    nsd_message_t m = {.type = NSD_OPEN, .a = family, .b = kind, .c = protocol};
    if (family != AF_INET && family != AF_INET6)
        return real()->socket(family, type, protocol);
    return (int)shim_result(shim_obtain(NULL, &m, family, kind, protocol, type));
}

static int connect_to(shim_t *o, const struct sockaddr *address, socklen_t n)
{
    nsd_message_t m = {.type = NSD_CONNECT};
    int r = address_in(o, address, n, &m);
    if (r < 0)
        return r;
    r = shim_ask(o, &m, NULL, 0);
    if (r != -EINPROGRESS || atomic_load(&o->nonblocking))
        return r;
    r = shim_wait(o, POLLOUT, shim_deadline(atomic_load(&o->send_timeout_ns)));
    if (r < 0)
        return r == -EAGAIN ? -EINPROGRESS : r;
    r = shim_error(o);
    return r > 0 ? -r : r;
}

EXPORT int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t n)
{
    shim_t *o = shim_get(fd);
    int r;
    if (o == NULL)
        return real()->connect(fd, address, n);
    r = connect_to(o, address.__sockaddr__, n);
    shim_show(o, 0);
    shim_put(o);
    return (int)shim_result(r);
}

EXPORT int bind(int fd, __CONST_SOCKADDR_ARG address, socklen_t n)
{
    nsd_message_t m = {.type = NSD_BIND};
    shim_t *o = shim_get(fd);
    int r;
    if (o == NULL)
        return real()->bind(fd, address, n);
    if ((r = address_in(o, address.__sockaddr__, n, &m)) == 0)
        r = shim_ask(o, &m, NULL, 0);
    shim_put(o);
    return (int)shim_result(r);
}

EXPORT int listen(int fd, int backlog)
{
    nsd_message_t m = {.type = NSD_LISTEN, .a = backlog < 0 ? 0 : backlog};
    shim_t *o = shim_get(fd);
    int r;
    if (o == NULL)
        return real()->listen(fd, backlog);
    r = shim_ask(o, &m, NULL, 0);
    shim_put(o);
    return (int)shim_result(r);
}

static int accept_from(shim_t *o, struct sockaddr *address, socklen_t *n, int flags)
{
    int64_t deadline = shim_deadline(atomic_load(&o->receive_timeout_ns));
    int r;
    for (;;) {
        nsd_message_t m = {.type = NSD_ACCEPT, .number = o->s.number};
        r = shim_obtain(o, &m, o->family, o->type, o->protocol, flags);
        shim_show(o, NSD_TOOK);
        if (r >= 0)
            address_out(o, &m, address, n);
        if (r != -EAGAIN || atomic_load(&o->nonblocking))
            return r;
        if ((r = shim_wait(o, POLLIN, deadline)) < 0)
            return r;
    }
}

EXPORT int accept4(int fd, __SOCKADDR_ARG address, socklen_t *restrict n, int flags)
{
    shim_t *o = shim_get(fd);
    int r;
    if (o == NULL)
        return real()->accept4(fd, address, n, flags);
    r = flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC) ? -EINVAL : accept_from(o, address.__sockaddr__, n, flags);
    shim_put(o);
    return (int)shim_result(r);
}

EXPORT int accept(int fd, __SOCKADDR_ARG address, socklen_t *restrict n)
{
    shim_t *o = shim_get(fd);
    int r;
    if (o == NULL)
        return real()->accept(fd, address, n);
    r = accept_from(o, address.__sockaddr__, n, 0);
    shim_put(o);
    return (int)shim_result(r);
}

EXPORT int shutdown(int fd, int how)
{
    nsd_message_t m = {.type = NSD_SHUTDOWN, .a = how};
    shim_t *o = shim_get(fd);
    int r;
    if (o == NULL)
        return real()->shutdown(fd, how);
    r = shim_ask(o, &m, NULL, 0);
    shim_put(o);
    return (int)shim_result(r);
}

static int name(shim_t *o, int whose, struct sockaddr *address, socklen_t *n)
{
    nsd_message_t m = {.type = NSD_NAME, .a = whose};
    int r;
    if (address == NULL || n == NULL)
        return -EFAULT;
    if ((r = shim_ask(o, &m, NULL, 0)) == 0)
        address_out(o, &m, address, n);
    return r;
}

EXPORT int getsockname(int fd, __SOCKADDR_ARG address, socklen_t *restrict n)
{
    shim_t *o = shim_get(fd);
    int r;
    if (o == NULL)
        return real()->getsockname(fd, address, n);
    r = name(o, 0, address.__sockaddr__, n);
    shim_put(o);
    return (int)shim_result(r);
}

EXPORT int getpeername(int fd, __SOCKADDR_ARG address, socklen_t *restrict n)
{
    shim_t *o = shim_get(fd);
    int r;
    if (o == NULL)
        return real()->getpeername(fd, address, n);
    r = name(o, 1, address.__sockaddr__, n);
    shim_put(o);
    return (int)shim_result(r);
}
