/* options.c - socket options. Those that mean the calls of this process, its timeouts, stay here, and TCP_CORK: servers
 * set and clear it with each answer, and two messages to the daemon cost more than the segment that it would save. */
#include "preload.h"

#include <netinet/tcp.h>

enum { VALUE_MOST = 1024 };

static _Atomic int64_t *timeout_of(shim_t *o, int level, int option)
{
    if (level != SOL_SOCKET)
        return NULL;
    if (option == SO_RCVTIMEO)
        return &o->receive_timeout_ns;
    return option == SO_SNDTIMEO ? &o->send_timeout_ns : NULL;
}

int shim_error(shim_t *o)
{
    nsd_message_t m = {.type = NSD_GETSOCKOPT, .a = SOL_SOCKET, .b = SO_ERROR, .c = sizeof(int)};
    uint8_t value[VALUE_MOST];
    size_t got;
    int number = 0, r;
    if (nsd_streams(&o->s)) {
        number = nsd_take_error(&o->s);
        shim_show(o, 0);
        return number;
    }
    if ((r = shim_ask_data(o, &m, value, sizeof value, &got)) < 0)
        return r;
    if (got >= sizeof number)
        memcpy(&number, value, sizeof number);
    return number;
}

static int is_cork(const shim_t *o, int level, int option)
{
    return level == IPPROTO_TCP && option == TCP_CORK && o->type == SOCK_STREAM;
}

static int get(shim_t *o, int level, int option, void *value, socklen_t *n)
{
    nsd_message_t m = {.type = NSD_GETSOCKOPT, .a = level, .b = option};
    _Atomic int64_t *timeout = timeout_of(o, level, option);
    uint8_t answer[VALUE_MOST];
    size_t got;
    int r;
    if (value == NULL || n == NULL)
        return -EFAULT;
    if (timeout != NULL) {
        int64_t ns = atomic_load(timeout);
        struct timeval t = {ns / 1000000000, ns % 1000000000 / 1000};
        got = sizeof t;
        memcpy(answer, &t, sizeof t);
    } else if (is_cork(o, level, option)) {
        r = atomic_load(&o->cork);
        got = sizeof r;
        memcpy(answer, &r, sizeof r);
    } else if (level == SOL_SOCKET && option == SO_ERROR) {
        if ((r = shim_error(o)) < 0)
            return r;
        got = sizeof r;
        memcpy(answer, &r, sizeof r);
    } else {
        m.c = *n < VALUE_MOST ? (int)*n : VALUE_MOST;
        if ((r = shim_ask_data(o, &m, answer, sizeof answer, &got)) < 0)
            return r;
    }
    if (got > *n)
        got = *n;
    memcpy(value, answer, got);
    *n = (socklen_t)got;
    return 0;
}

EXPORT int getsockopt(int fd, int level, int option, void *restrict value, socklen_t *restrict n)
{
    shim_t *o = shim_get(fd);
    int r;
    if (o == NULL)
        return real()->getsockopt(fd, level, option, value, n);
    r = get(o, level, option, value, n);
    shim_put(o);
    return (int)shim_result(r);
}

EXPORT int setsockopt(int fd, int level, int option, const void *value, socklen_t n)
{
    nsd_message_t m = {.type = NSD_SETSOCKOPT, .a = level, .b = option};
    shim_t *o = shim_get(fd);
    _Atomic int64_t *timeout;
    struct timeval t;
    int r = 0;
    if (o == NULL)
        return real()->setsockopt(fd, level, option, value, n);
    timeout = timeout_of(o, level, option);
    if (is_cork(o, level, option)) {
        int on;
        if (n < sizeof on || value == NULL)
            r = n < sizeof on ? -EINVAL : -EFAULT;
        else {
            memcpy(&on, value, sizeof on);
            atomic_store(&o->cork, on != 0);
        }
    } else if (timeout == NULL)
        r = n > VALUE_MOST ? -EINVAL : value == NULL && n ? -EFAULT : shim_ask(o, &m, value, n);
    else if (n < sizeof t)
        r = -EINVAL;
    else {
        memcpy(&t, value, sizeof t);
        if (t.tv_usec < 0 || t.tv_usec >= 1000000)
            r = -EDOM;
        else if (t.tv_sec < 0 || t.tv_sec > 1000000000)
            atomic_store(timeout, 0);
        else
            atomic_store(timeout, t.tv_sec * INT64_C(1000000000) + t.tv_usec * INT64_C(1000));
    }
    shim_put(o);
    return (int)shim_result(r);
}
