/* descriptors.c - closing, duplicating and setting descriptors; a stdio stream over a socket. */
#include "preload.h"

EXPORT int close(int fd)
{
    shim_t *o;
    int r;
    if (shim_own(fd))
        return (int)shim_result(-EBADF);         /* programs close all that they may have inherited */
    o = shim_remove(fd);
    r = real()->close(fd);
    if (o != NULL)
        shim_end(o);
    return r;
}

EXPORT int close_range(unsigned int first, unsigned int last, int flags)
{
    if (flags)                                   /* CLOEXEC: so they are already; or another table of descriptors */
        return real()->close_range == NULL ? (int)shim_result(-ENOSYS) : real()->close_range(first, last, flags);
    if (first > last)
        return (int)shim_result(-EINVAL);
    for (unsigned int fd = first; fd <= last && fd < PLACES; fd++) {
        shim_t *o;
        if (shim_own((int)fd))
            continue;
        if ((o = shim_remove((int)fd)) != NULL) {
            real()->close((int)fd);
            shim_end(o);
        } else
            real()->close((int)fd);
    }
    return last < PLACES || real()->close_range == NULL
        ? 0 : real()->close_range(first > PLACES ? first : PLACES, last, 0);
}

EXPORT void closefrom(int first)
{
    close_range(first < 0 ? 0 : (unsigned int)first, UINT_MAX, 0);
}

/* `new` shows what `o` is, or what the kernel's is when that is NULL. */
static int duplicated(shim_t *o, int new)
{
    int r = 0;
    if (o == NULL)
        return new;
    if (new >= 0 && (r = shim_add(new, o)) < 0)
        real()->close(new);
    shim_put(o);
    return r < 0 ? (int)shim_result(r) : new;
}

EXPORT int dup(int fd)
{
    shim_t *o = shim_get(fd);
    return duplicated(o, real()->dup(fd));
}

EXPORT int dup3(int fd, int new, int flags)
{
    shim_t *o, *old;
    int r;
    if (fd == new)
        return (int)shim_result(-EINVAL);
    shim_move(new);
    o = shim_get(fd);
    old = real()->fcntl(fd, F_GETFD) < 0 ? NULL : shim_remove(new);
    r = real()->dup3(fd, new, flags);
    if (old != NULL)
        shim_end(old);
    return duplicated(o, r);
}

EXPORT int dup2(int fd, int new)
{
    return fd == new ? real()->dup2(fd, new) : dup3(fd, new, 0);
}

EXPORT int fcntl(int fd, int command, ...)
{
    shim_t *o = shim_get(fd);
    va_list list;
    void *argument;
    int r;
    va_start(list, command);
    argument = va_arg(list, void *);
    va_end(list);
    if (o == NULL)
        return real()->fcntl(fd, command, argument);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        return duplicated(o, real()->fcntl(fd, command, argument));
    if (command == F_GETFL)
        r = O_RDWR | (atomic_load(&o->nonblocking) ? O_NONBLOCK : 0);
    else if (command == F_SETFL) {
        atomic_store(&o->nonblocking, ((intptr_t)argument & O_NONBLOCK) != 0);
        r = 0;
    } else
        r = real()->fcntl(fd, command, argument);
    shim_put(o);
    return r;
}

EXPORT int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));

static int waiting_bytes(shim_t *o, int *n)
{
    struct iovec part = {NULL, 0};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t r;
    if (o->type == SOCK_STREAM) {
        shim_show(o, NSD_LEFT);          /* first: what comes from now on is told of */
        *n = nsd_streams(&o->s) ? (int)nsd_readable(&o->s) : 0;
        return 0;
    }
    r = shim_receive(o, &m, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
    *n = r < 0 ? 0 : (int)r;
    return r < 0 && r != -EAGAIN ? (int)r : 0;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    shim_t *o = shim_get(fd);
    va_list list;
    void *argument;
    int r = 0;
    va_start(list, request);
    argument = va_arg(list, void *);
    va_end(list);
    if (o == NULL)
        return real()->ioctl(fd, request, argument);
    if (request == FIONBIO)
        atomic_store(&o->nonblocking, *(int *)argument != 0);
    else if (request == FIONREAD)
        r = waiting_bytes(o, argument);
    else if (request == TIOCOUTQ)
        *(int *)argument = nsd_streams(&o->s)
            ? (int)(nsd_load64(&o->s.up->tail) - nsd_load64(&o->s.down->head)) : 0;
    else
        r = real()->ioctl(fd, request, argument) < 0 ? -errno : 0;
    shim_put(o);
    return (int)shim_result(r);
}

/* --- stdio, which would read the descriptor itself */

static ssize_t stream_read(void *cookie, char *data, size_t n) { return read((int)(intptr_t)cookie, data, n); }
static int stream_close(void *cookie) { return close((int)(intptr_t)cookie); }

static ssize_t stream_write(void *cookie, const char *data, size_t n)
{
    ssize_t r = write((int)(intptr_t)cookie, data, n);
    return r < 0 ? 0 : r;
}

EXPORT FILE *fdopen(int fd, const char *mode)
{
    static const cookie_io_functions_t calls = {stream_read, stream_write, NULL, stream_close};
    shim_t *o = shim_get(fd);
    FILE *stream;
    if (o == NULL)
        return real()->fdopen(fd, mode);
    shim_put(o);
    stream = fopencookie((void *)(intptr_t)fd, mode, calls);
#ifdef __GLIBC__
    if (stream != NULL)
        stream->_fileno = fd;            /* for fileno() alone: what the stream does goes by `calls` */
#endif
    return stream;
}
