/* preload.h - what the files of netstack_preload.so share: libc's own calls, and the table of the program's sockets.
 *
 * A socket of the program is the readiness descriptor of a daemon's socket, a real descriptor of the kernel, so poll,
 * select and epoll stay libc's. Calls that carry data or mean the socket are found in the table by the descriptor.
 */
#ifndef NETSTACK_PRELOAD_H
#define NETSTACK_PRELOAD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* libc's functions, or those of a library preloaded behind this one. */
#define REAL_CALLS(X) \
    X(socket) X(connect) X(bind) X(listen) X(accept) X(accept4) X(shutdown) X(getsockname) X(getpeername) \
    X(getsockopt) X(setsockopt) X(send) X(sendto) X(sendmsg) X(sendmmsg) X(recv) X(recvfrom) X(recvmsg) X(recvmmsg) \
    X(read) X(readv) X(write) X(writev) X(close) X(dup) X(dup2) X(dup3) X(fcntl) X(ioctl) X(sendfile) X(sendfile64) \
    X(splice) X(fdopen) X(execve) X(execvpe) X(fexecve) X(posix_spawn) X(posix_spawnp)

typedef struct {
#define X(name) __typeof__(&name) name;
    REAL_CALLS(X)
#undef X
    int (*close_range)(unsigned int, unsigned int, int);
    _Atomic int found;
} real_t;

extern real_t real_calls;
void real_find(void);

static inline const real_t *real(void)
{
    if (!__atomic_load_n((int *)&real_calls.found, __ATOMIC_ACQUIRE))
        real_find();
    return &real_calls;
}

/* The client's own calls are not the program's. */
#define socket(...) real()->socket(__VA_ARGS__)
#define connect(...) real()->connect(__VA_ARGS__)
#define send(...) real()->send(__VA_ARGS__)
#define recv(...) real()->recv(__VA_ARGS__)
#define sendmsg(...) real()->sendmsg(__VA_ARGS__)
#define recvmsg(...) real()->recvmsg(__VA_ARGS__)
#define getsockopt(...) real()->getsockopt(__VA_ARGS__)
#define write(...) real()->write(__VA_ARGS__)
#define close(...) real()->close(__VA_ARGS__)
#include "netstack/daemon_client.h"
#undef socket
#undef connect
#undef send
#undef recv
#undef sendmsg
#undef recvmsg
#undef getsockopt
#undef write
#undef close

enum { PLACES = 1 << 16 };               /* descriptors above are refused (EMFILE) */

typedef struct {
    nsd_socket_t s;
    int family;
    int type;
    int protocol;
    ino_t inode;                         /* of the readiness descriptor and its duplicates */
    _Atomic int nonblocking;
    _Atomic int cork;                    /* as it was set: nothing is held back */
    _Atomic int64_t receive_timeout_ns;  /* 0: none */
    _Atomic int64_t send_timeout_ns;
    _Atomic unsigned users;              /* descriptors, and calls under way */
    _Atomic unsigned descriptors;
    pthread_mutex_t show_lock;           /* one thread at a time makes the descriptor show */
} shim_t;

/* --- table.c */

/* The socket of a descriptor, for `shim_put` when the call is over; NULL: it is the kernel's. */
shim_t *shim_get(int fd);
void shim_put(shim_t *o);
/* A socket by a request (OPEN, or of `from` ACCEPT) that gives one: its descriptor, or a negative errno number. */
int shim_obtain(shim_t *from, nsd_message_t *m, int family, int type, int protocol, int flags);
/* Another descriptor of it, which exists already. */
int shim_add(int fd, shim_t *o);
/* The descriptor is about to be closed. NULL: it is the kernel's. Else to be given to `shim_end` after that. */
shim_t *shim_remove(int fd);
int shim_end(shim_t *o);
/* A descriptor of this library's own, which the program must not close. */
int shim_own(int fd);
/* Give a number that the program asks for, and this library uses for itself, free. */
void shim_move(int fd);
void shim_show(shim_t *o, int did);      /* NSD_TOOK and so on */
/* 0 or a negative errno number: -EAGAIN after `deadline_ns`, -EINTR, -EBADF, -ECONNRESET. */
int shim_wait(shim_t *o, uint32_t events, int64_t deadline_ns);
int shim_ask(shim_t *o, nsd_message_t *m, const void *data, size_t n);
/* The whole answer: data of at most `room` bytes at `answer`. */
int shim_ask_data(shim_t *o, nsd_message_t *m, void *answer, size_t room, size_t *got);

static inline int64_t shim_deadline(int64_t timeout_ns)
{
    return timeout_ns > 0 ? nsd_now_ns() + timeout_ns : INT64_MAX;
}

/* As libc returns: -1 and errno for a negative errno number. */
static inline ssize_t shim_result(ssize_t r)
{
    if (r >= 0)
        return r;
    errno = (int)-r;
    return -1;
}

/* Sockets of this process whose inode is in `inodes` (NULL: all): at most `room` of them, each once, not yet `shim_put`. */
size_t shim_list(const ino_t *inodes, size_t count, shim_t **found, size_t room);
/* Keep sockets for a program to come, by a key; or do so no longer. */
int shim_reserve(const uint32_t *numbers, size_t count, uint64_t *key);
void shim_release(uint64_t key);
/* One that was kept for this program, as `fd`; what else `like` says of it is taken over. */
int shim_adopt(int fd, uint32_t number, uint64_t key, const shim_t *like);

/* --- exec.c */

/* Take the sockets over that the program before this one in the process has left. */
void exec_inherit(void);

/* --- address.c */

int address_in(const shim_t *o, const struct sockaddr *address, socklen_t n, nsd_message_t *m);
void address_out(const shim_t *o, const nsd_message_t *m, struct sockaddr *address, socklen_t *n);

/* --- options.c */

/* SO_ERROR, which it clears: an errno number, or negative: asking failed. */
int shim_error(shim_t *o);

/* --- transfer.c */

ssize_t shim_send(shim_t *o, const struct msghdr *m, int flags);
ssize_t shim_receive(shim_t *o, struct msghdr *m, int flags);

#endif
