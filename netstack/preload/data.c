/* data.c - the calls of libc that carry data, also those that _FORTIFY_SOURCE makes of them. */
#include "preload.h"


static ssize_t send_parts(shim_t *o, const struct iovec *parts, size_t count, int flags, const struct sockaddr *to,
                          socklen_t to_n)
{
    struct msghdr m = {.msg_iov = (struct iovec *)parts, .msg_iovlen = count, .msg_name = (void *)to, .msg_namelen = to_n};
    ssize_t r = count > IOV_MAX ? -EINVAL : shim_send(o, &m, flags);
    shim_put(o);
    return shim_result(r);
}

static ssize_t send_bytes(shim_t *o, const void *data, size_t n, int flags, const struct sockaddr *to, socklen_t to_n)
{
    struct iovec part = {(void *)data, n};
    return send_parts(o, &part, 1, flags, to, to_n);
}

static ssize_t receive_parts(shim_t *o, const struct iovec *parts, size_t count, int flags, struct sockaddr *from,
                             socklen_t *from_n)
{
    struct msghdr m = {.msg_iov = (struct iovec *)parts, .msg_iovlen = count, .msg_name = from,
                       .msg_namelen = from_n == NULL ? 0 : *from_n};
    ssize_t r = count > IOV_MAX ? -EINVAL : shim_receive(o, &m, flags);
    if (r >= 0 && from_n != NULL)
        *from_n = m.msg_namelen;
    shim_put(o);
    return shim_result(r);
}

static ssize_t receive_bytes(shim_t *o, void *data, size_t n, int flags, struct sockaddr *from, socklen_t *from_n)
{
    struct iovec part = {data, n};
    return receive_parts(o, &part, 1, flags, from, from_n);
}

EXPORT ssize_t send(int fd, const void *data, size_t n, int flags)
{
    shim_t *o = shim_get(fd);
    return o == NULL ? real()->send(fd, data, n, flags) : send_bytes(o, data, n, flags, NULL, 0);
}

EXPORT ssize_t sendto(int fd, const void *data, size_t n, int flags, __CONST_SOCKADDR_ARG to, socklen_t to_n)
{
    shim_t *o = shim_get(fd);
    return o == NULL ? real()->sendto(fd, data, n, flags, to, to_n)
                     : send_bytes(o, data, n, flags, to.__sockaddr__, to_n);
}

EXPORT ssize_t write(int fd, const void *data, size_t n)
{
    shim_t *o = shim_get(fd);
    return o == NULL ? real()->write(fd, data, n) : send_bytes(o, data, n, 0, NULL, 0);
}

EXPORT ssize_t writev(int fd, const struct iovec *parts, int count)
{
    shim_t *o = shim_get(fd);
    return o == NULL ? real()->writev(fd, parts, count) : send_parts(o, parts, (size_t)count, 0, NULL, 0);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    shim_t *o = shim_get(fd);
    ssize_t r;
    if (o == NULL)
        return real()->sendmsg(fd, m, flags);
    r = m->msg_iovlen > IOV_MAX ? -EMSGSIZE : shim_send(o, m, flags);
    shim_put(o);
    return shim_result(r);
}

EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    shim_t *o = shim_get(fd);
    unsigned int done = 0;
    ssize_t r = 0;
    if (o == NULL)
        return real()->sendmmsg(fd, messages, count, flags);
    for (; done < count && done < IOV_MAX && (r = shim_send(o, &messages[done].msg_hdr, flags)) >= 0; done++)
        messages[done].msg_len = (unsigned int)r;
    shim_put(o);
    return done ? (int)done : (int)shim_result(r);
}

EXPORT ssize_t recv(int fd, void *data, size_t n, int flags)
{
    shim_t *o = shim_get(fd);
    return o == NULL ? real()->recv(fd, data, n, flags) : receive_bytes(o, data, n, flags, NULL, NULL);
}

EXPORT ssize_t recvfrom(int fd, void *restrict data, size_t n, int flags, __SOCKADDR_ARG from, socklen_t *restrict from_n)
{
    shim_t *o = shim_get(fd);
    return o == NULL ? real()->recvfrom(fd, data, n, flags, from, from_n)
                     : receive_bytes(o, data, n, flags, from.__sockaddr__, from.__sockaddr__ == NULL ? NULL : from_n);
}

EXPORT ssize_t read(int fd, void *data, size_t n)
{
    shim_t *o = shim_get(fd);
    return o == NULL ? real()->read(fd, data, n) : receive_bytes(o, data, n, 0, NULL, NULL);
}

EXPORT ssize_t readv(int fd, const struct iovec *parts, int count)
{
    shim_t *o = shim_get(fd);
    return o == NULL ? real()->readv(fd, parts, count) : receive_parts(o, parts, (size_t)count, 0, NULL, NULL);
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    shim_t *o = shim_get(fd);
    ssize_t r;
    if (o == NULL)
        return real()->recvmsg(fd, m, flags);
    r = m->msg_iovlen > IOV_MAX ? -EMSGSIZE : shim_receive(o, m, flags);
    shim_put(o);
    return shim_result(r);
}

EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
    shim_t *o = shim_get(fd);
    unsigned int done = 0;
    ssize_t r = 0;
    if (o == NULL)
        return real()->recvmmsg(fd, messages, count, flags, timeout);
    for (; done < count && done < IOV_MAX; done++) {
        r = shim_receive(o, &messages[done].msg_hdr, done && flags & MSG_WAITFORONE ? flags | MSG_DONTWAIT : flags);
        if (r < 0)
            break;
        messages[done].msg_len = (unsigned int)r;
    }
    shim_put(o);
    return done ? (int)done : (int)shim_result(r);
}

/* The names under which programs built with _FORTIFY_SOURCE call them. */

EXPORT ssize_t __read_chk(int fd, void *data, size_t n, size_t room)
{
    if (n > room)
        abort();
    return read(fd, data, n);
}

EXPORT ssize_t __recv_chk(int fd, void *data, size_t n, size_t room, int flags)
{
    if (n > room)
        abort();
    return recv(fd, data, n, flags);
}

EXPORT ssize_t __recvfrom_chk(int fd, void *restrict data, size_t n, size_t room, int flags, __SOCKADDR_ARG from,
                              socklen_t *restrict from_n)
{
    if (n > room)
        abort();
    return recvfrom(fd, data, n, flags, from, from_n);
}
