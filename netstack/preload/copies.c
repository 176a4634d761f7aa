/* copies.c - sendfile and splice, between a socket and a file or a pipe: by a copy. */
#include "preload.h"

enum { PIECE = 1 << 16 };

static ssize_t copy_file(shim_t *o, int in, off_t *offset, size_t n)
{
    uint8_t *data = malloc(PIECE);
    size_t done = 0;
    ssize_t r = 0;
    if (data == NULL)
        return -ENOMEM;
    while (done < n) {
        size_t want = n - done < PIECE ? n - done : PIECE;
        off_t at = offset == NULL ? lseek(in, 0, SEEK_CUR) : *offset;
        ssize_t got = at < 0 ? -1 : pread(in, data, want, at);
        struct iovec part = {data, got > 0 ? (size_t)got : 0};
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
        r = got < 0 ? -errno : got;
        if (got <= 0 || (r = shim_send(o, &m, 0)) < 0)
            break;
        done += (size_t)r;
        if (offset != NULL)
            *offset += r;
        else if (lseek(in, at + r, SEEK_SET) < 0)
            break;
        if (r < got)
            break;
    }
    free(data);
    return done ? (ssize_t)done : r;
}

EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t n)
{
    shim_t *o = shim_get(out);
    ssize_t r;
    if (o == NULL)
        return real()->sendfile(out, in, offset, n);
    r = copy_file(o, in, offset, n);
    shim_put(o);
    return shim_result(r);
}

_Static_assert(sizeof(off_t) == sizeof(off64_t), "built with 64 bits of file offset");

EXPORT ssize_t sendfile64(int out, int in, off64_t *offset, size_t n)
{
    return sendfile(out, in, offset, n);
}

/* --- splice: from a pipe only what there is room for, to a pipe only what it took */

static int is_pipe(int fd)
{
    struct stat about;
    return fstat(fd, &about) == 0 && S_ISFIFO(about.st_mode);
}

static int ready(int fd, short events)
{
    struct pollfd p = {fd, events, 0};
    return poll(&p, 1, 0) > 0;
}

static ssize_t from_pipe(shim_t *o, int in, size_t n, unsigned int flags, uint8_t *data)
{
    int waits = !atomic_load(&o->nonblocking);
    size_t sent = 0;
    ssize_t got, r;
    if (!nsd_streams(&o->s))
        return -ENOTCONN;
    if (!waits) {
        size_t room = o->s.capacity - (size_t)(nsd_load64(&o->s.up->tail) - nsd_load64(&o->s.down->head));
        if (room == 0) {
            shim_show(o, NSD_FILLED);
            return -EAGAIN;
        }
        n = n < room ? n : room;
    }
    if (flags & SPLICE_F_NONBLOCK && !ready(in, POLLIN))
        return -EAGAIN;
    if ((got = real()->read(in, data, n < PIECE ? n : PIECE)) <= 0)
        return got < 0 ? -errno : 0;
    while (sent < (size_t)got) {         /* another thread may have taken the room */
        struct iovec part = {data + sent, (size_t)got - sent};
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
        r = shim_send(o, &m, 0);
        if (r > 0)
            sent += (size_t)r;
        else if (r != -EAGAIN || shim_wait(o, POLLOUT, INT64_MAX) < 0)
            return sent ? (ssize_t)sent : r;
    }
    return got;
}

static ssize_t to_pipe(shim_t *o, int out, size_t n, unsigned int flags, uint8_t *data)
{
    struct iovec part = {data, n < PIECE ? n : PIECE};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t got = shim_receive(o, &m, MSG_PEEK);
    if (got <= 0)
        return got;
    if (flags & SPLICE_F_NONBLOCK && !ready(out, POLLOUT))
        return -EAGAIN;
    if ((got = real()->write(out, data, (size_t)got)) <= 0)
        return got < 0 ? -errno : 0;
    part.iov_len = (size_t)got;
    return shim_receive(o, &m, MSG_TRUNC | MSG_DONTWAIT);
}

EXPORT ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned int flags)
{
    shim_t *from = shim_get(in), *to = shim_get(out);
    uint8_t *data = NULL;
    ssize_t r;
    if (from == NULL && to == NULL)
        return real()->splice(in, in_at, out, out_at, n, flags);
    if (in_at != NULL || out_at != NULL)
        r = -ESPIPE;
    else if (!is_pipe(from == NULL ? in : out) || (from == NULL ? to : from)->type != SOCK_STREAM)
        r = -EINVAL;
    else if ((data = malloc(PIECE)) == NULL)
        r = -ENOMEM;
    else
        r = from == NULL ? from_pipe(to, in, n, flags, data) : to_pipe(from, out, n, flags, data);
    free(data);
    if (from != NULL)
        shim_put(from);
    if (to != NULL)
        shim_put(to);
    return shim_result(r);
}
