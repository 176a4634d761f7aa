/* daemon_client.h - the client side of a daemon's sockets, for C: no Python.h, no library beside libc and libpthread.
 *
 * Calls never block but where they say so, and return a count or 0, or a negative errno number. nsd_call asks the daemon
 * and waits for its answer, which it gives at once. Threads, and processes that share a socket after fork, may call at
 * the same time. When the daemon is gone each call says -ECONNRESET; a sleeper notices within NSD_LOOK_NS.
 */
#ifndef NETSTACK_DAEMON_CLIENT_H
#define NETSTACK_DAEMON_CLIENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "daemon_shared.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    NSD_FDS = 4,                         /* most descriptors that come with a reply */
    NSD_KICKS = 100,                     /* milliseconds that a byte of the daemon's may be on its way */
    NSD_LOOK_NS = 50000000               /* how often a sleeper looks whether the daemon lives */
};

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010       /* Linux 5.1 */
#endif
#define NSD_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)

enum { NSD_READY_NOW = 0, NSD_TIMEOUT = 1, NSD_INTERRUPTED = 2, NSD_DEAD = 3 };    /* what nsd_wait returns */

typedef struct {
    int control;                         /* SOCK_SEQPACKET */
    int bell;                            /* eventfd: wakes the daemon for a note */
    uint32_t sequence;
    uint32_t noted;                      /* the board's down.note that was answered */
    int64_t spin_ns;                     /* how long a wait looks at the words before it sleeps */
    int64_t spin_now_ns;
    uint32_t spin_waits;
    uint32_t checks;                     /* sends since somebody looked whether the daemon lives, modulo 16 */
    _Atomic int dead;
    nsd_down_t *down;                    /* the board */
    nsd_up_t *up;
    pthread_mutex_t lock;                /* one request at a time */
    pthread_mutex_t note_lock;
} nsd_client_t;

typedef struct {
    nsd_client_t *client;
    uint32_t number;
    uint64_t key;                        /* who knows it may adopt the socket */
    uint64_t capacity;                   /* of each ring, bytes */
    nsd_down_t *down;
    nsd_up_t *up;
    int ready_fd;                        /* shows readiness; -1: nobody asked */
    _Atomic int cleared;                 /* the pair's error, once ours was told */
    _Atomic int closed;
} nsd_socket_t;

static inline int64_t nsd_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Among clients of one socket only; whoever died with it left words that hold. */
static inline void nsd_lock(pthread_mutex_t *m)
{
    if (pthread_mutex_lock(m) == EOWNERDEAD)
        pthread_mutex_consistent(m);
}

static inline int nsd_lost(nsd_client_t *c)
{
    atomic_store_explicit(&c->dead, 1, memory_order_release);
    return -ECONNRESET;
}

/* Whether the daemon lives, by its end of the control socket. */
static inline int nsd_alive(nsd_client_t *c)
{
    struct pollfd p = {c->control, 0, 0};
    if (atomic_load_explicit(&c->dead, memory_order_acquire))
        return 0;
    if (poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL)))
        nsd_lost(c);
    return !atomic_load_explicit(&c->dead, memory_order_acquire);
}

/* --- the memory */

static inline uint8_t *nsd_down_bytes(nsd_down_t *d) { return (uint8_t *)d + NSD_PAGE; }
static inline uint8_t *nsd_up_bytes(nsd_up_t *u) { return (uint8_t *)u + NSD_PAGE; }

/* F_SEAL_EXEC, which newer kernels set on top, does not matter here. */
static inline int nsd_seals(int fd)
{
    int seals = fcntl(fd, F_GET_SEALS);
    return seals < 0 ? seals : seals & ~0x20;
}

static inline int nsd_map(int down_fd, int up_fd, uint64_t capacity, nsd_down_t **down, nsd_up_t **up)
{
    struct stat a, b;
    size_t size = NSD_PAGE + (size_t)capacity;
    if (fstat(down_fd, &a) < 0 || fstat(up_fd, &b) < 0)
        return -errno;
    if ((uint64_t)a.st_size != size || (uint64_t)b.st_size != size || capacity & (capacity - 1))
        return -EPROTO;
    if (nsd_seals(down_fd) != (NSD_SEALS | F_SEAL_FUTURE_WRITE) || nsd_seals(up_fd) != NSD_SEALS)
        return -EPROTO;                  /* nobody may shorten it, and only the daemon writes its own */
    void *d = mmap(NULL, size, PROT_READ, MAP_SHARED, down_fd, 0);
    if (d == MAP_FAILED)
        return -errno;
    void *u = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, up_fd, 0);
    if (u == MAP_FAILED) {
        int e = errno;
        munmap(d, size);
        return -e;
    }
    *down = (nsd_down_t *)d;
    *up = (nsd_up_t *)u;
    return 0;
}

static inline void nsd_unmap(nsd_down_t *down, nsd_up_t *up, uint64_t capacity)
{
    if (down != NULL)
        munmap((void *)down, NSD_PAGE + (size_t)capacity);
    if (up != NULL)
        munmap((void *)up, NSD_PAGE + (size_t)capacity);
}

/* The locks of a socket that this client has just made. */
static inline void nsd_make_locks(nsd_up_t *u)
{
    pthread_mutexattr_t shared;
    pthread_mutexattr_init(&shared);
    pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&u->send_lock, &shared);
    pthread_mutex_init(&u->receive_lock, &shared);
    pthread_mutexattr_destroy(&shared);
}

/* --- messages */

/* Ask and wait for the answer: its status, and in *m the answer. `fds` has room for NSD_FDS, *count says how many came. */
static inline int nsd_call(nsd_client_t *c, nsd_message_t *m, const void *data, size_t n, void *answer, size_t room,
                           size_t *got, int *fds, int *count)
{
    union { char bytes[CMSG_SPACE(NSD_FDS * sizeof(int))]; struct cmsghdr align; } control;
    struct iovec out[2] = {{m, sizeof *m}, {(void *)data, n}};
    struct iovec in[2] = {{m, sizeof *m}, {answer, room}};
    struct msghdr ask = {.msg_iov = out, .msg_iovlen = n ? 2 : 1};
    struct msghdr hear = {.msg_iov = in, .msg_iovlen = room ? 2 : 1};
    uint32_t sequence;
    uint16_t type = m->type;
    ssize_t r;
    *count = 0;
    *got = 0;
    if (n > NSD_DATA_MOST)
        return -EMSGSIZE;
    pthread_mutex_lock(&c->lock);
    if (atomic_load_explicit(&c->dead, memory_order_acquire)) {
        pthread_mutex_unlock(&c->lock);
        return -ECONNRESET;
    }
    sequence = ++c->sequence;
    m->magic = NSD_MAGIC;
    m->version = NSD_VERSION;
    m->sequence = sequence;
    m->status = 0;
    do
        r = sendmsg(c->control, &ask, MSG_NOSIGNAL);
    while (r < 0 && errno == EINTR);
    if (r >= 0) {
        hear.msg_control = control.bytes;
        hear.msg_controllen = sizeof control.bytes;
        do
            r = recvmsg(c->control, &hear, MSG_CMSG_CLOEXEC);
        while (r < 0 && errno == EINTR);
    }
    if (r > 0)
        for (struct cmsghdr *h = CMSG_FIRSTHDR(&hear); h != NULL; h = CMSG_NXTHDR(&hear, h))
            if (h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS && *count == 0) {
                *count = (int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(fds, CMSG_DATA(h), (size_t)*count * sizeof(int));
            }
    if (r < (ssize_t)sizeof *m || m->magic != NSD_MAGIC || m->type != type || m->sequence != sequence)
        nsd_lost(c);
    pthread_mutex_unlock(&c->lock);
    if (atomic_load_explicit(&c->dead, memory_order_acquire)) {
        while (*count > 0)
            close(fds[--*count]);
        return -ECONNRESET;
    }
    *got = (size_t)r - sizeof *m;
    return -m->status;
}

/* As nsd_call, of a socket, without data or descriptors in the answer. */
static inline int nsd_ask(nsd_socket_t *s, nsd_message_t *m, const void *data, size_t n)
{
    int fds[NSD_FDS], count;
    size_t got;
    m->number = s->number;
    int r = nsd_call(s->client, m, data, n, NULL, 0, &got, fds, &count);
    while (count > 0)
        close(fds[--count]);
    return r;
}

/* Join the daemon at `path`; `key` of a reservation, or 0. `about` gets what it says of itself, at most `room` bytes. */
static inline int nsd_join(nsd_client_t *c, const char *path, uint64_t key, int64_t spin_ns, void *about, size_t room,
                           size_t *got)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    nsd_message_t m = {.type = NSD_HELLO, .key = key};
    int fds[NSD_FDS], count, r;
    if (strlen(path) >= sizeof a.sun_path)
        return -ENAMETOOLONG;
    strcpy(a.sun_path, path);
    memset(c, 0, sizeof *c);
    c->bell = -1;
    c->spin_ns = c->spin_now_ns = spin_ns;
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->note_lock, NULL);
    c->control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (c->control < 0)
        return -errno;
    if (connect(c->control, (struct sockaddr *)&a, sizeof a) < 0)
        r = -errno;
    else if ((r = nsd_call(c, &m, NULL, 0, about, room, got, fds, &count)) == 0) {
        r = count == 3 ? nsd_map(fds[0], fds[1], NSD_NOTES * sizeof(uint32_t), &c->down, &c->up) : -EPROTO;
        if (r == 0)
            c->bell = fds[2];
        for (int i = 0; i < count; i++)
            if (i != 2 || r != 0)
                close(fds[i]);
    }
    if (r != 0) {
        close(c->control);
        c->control = -1;
    }
    return r;
}

static inline void nsd_leave(nsd_client_t *c)
{
    nsd_lost(c);
    if (c->control >= 0)
        close(c->control);
    if (c->bell >= 0)
        close(c->bell);
    nsd_unmap(c->down, c->up, NSD_NOTES * sizeof(uint32_t));
    c->control = c->bell = -1;
    c->down = NULL;
    c->up = NULL;
}

/* A request that gives a socket: OPEN, ACCEPT, ADOPT. */
static inline int nsd_obtain(nsd_client_t *c, nsd_message_t *m, nsd_socket_t *s)
{
    int fds[NSD_FDS], count, made = m->type != NSD_ADOPT;
    size_t got;
    int r = nsd_call(c, m, NULL, 0, NULL, 0, &got, fds, &count);
    if (r == 0)
        r = count == 2 ? nsd_map(fds[0], fds[1], (uint64_t)(uint32_t)m->c, &s->down, &s->up) : -EPROTO;
    while (count > 0)
        close(fds[--count]);
    if (r != 0)
        return r;
    s->client = c;
    s->number = m->number;
    s->key = m->key;
    s->capacity = (uint32_t)m->c;
    s->ready_fd = -1;
    atomic_store(&s->cleared, 0);
    atomic_store(&s->closed, 0);
    if (made)
        nsd_make_locks(s->up);
    return 0;
}

/* --- waking the daemon */

/* Have the daemon look at the socket. */
static inline void nsd_poke(nsd_socket_t *s)
{
    nsd_client_t *c = s->client;
    uint32_t board;
    uint64_t tail;
    pthread_mutex_lock(&c->note_lock);
    if (c->up != NULL) {
        _Atomic uint32_t *notes = (_Atomic uint32_t *)(void *)nsd_up_bytes(c->up);
        tail = atomic_load_explicit(&c->up->tail, memory_order_relaxed);
        if (tail - nsd_load64(&c->down->head) < NSD_NOTES) {       /* else the daemon looks at every socket */
            nsd_store32(&notes[tail % NSD_NOTES], s->number);
            nsd_store64(&c->up->tail, tail + 1);
        }
        nsd_fence();
        board = nsd_load32(&c->down->note);
        if ((board & NSD_NOTE_DATA) && board != c->noted) {
            uint64_t one = 1;
            c->noted = board;
            if (write(c->bell, &one, sizeof one) < 0)
                errno = 0;               /* full: it was rung already */
        }
    }
    pthread_mutex_unlock(&c->note_lock);
}

/* After publishing, if the daemon asked to be told: once for each time that it asked. */
static inline void nsd_note(nsd_socket_t *s, uint32_t kind)
{
    uint32_t word;
    nsd_fence();                         /* either what was published is seen, or the daemon's word */
    word = nsd_load32(&s->down->note);
    if ((word & kind) && atomic_exchange(&s->up->noted, word) != word)
        nsd_poke(s);
}

/* --- streams */

/* The error that nobody was told yet, now told; 0: none. */
static inline int nsd_take_error(nsd_socket_t *s)
{
    uint32_t e = nsd_load32(&s->down->error);
    return atomic_exchange(&s->up->error_taken, e) == e ? 0 : (int)(e & 0xffff);
}

static inline int nsd_has_error(nsd_socket_t *s)
{
    return nsd_load32(&s->down->error) != nsd_load32(&s->up->error_taken);
}

static inline int nsd_streams(nsd_socket_t *s)
{
    return (nsd_load32(&s->down->events) & NSD_STREAM) != 0;
}

/* Bytes that wait in the ring. */
static inline size_t nsd_readable(nsd_socket_t *s)
{
    return (size_t)(nsd_load64(&s->down->tail) - nsd_load64(&s->up->head));
}

/* Of a stream (nsd_streams): bytes taken, -EAGAIN, -EPIPE, or the pending error. */
static inline ssize_t nsd_send(nsd_socket_t *s, const uint8_t *data, size_t n)
{
    uint64_t tail, room, at, first;
    ssize_t r;
    if (nsd_has_error(s) && (r = nsd_take_error(s)) != 0)
        return -r;
    nsd_lock(&s->up->send_lock);
    if (nsd_load32(&s->down->events) & NSD_SHUT)
        r = -EPIPE;
    else {
        tail = atomic_load_explicit(&s->up->tail, memory_order_relaxed);
        room = s->capacity - (tail - nsd_load64(&s->down->head));
        if (room < s->capacity && (s->client->checks++ & 15) == 0 && !nsd_alive(s->client)) {
            pthread_mutex_unlock(&s->up->send_lock);
            return -ECONNRESET;          /* what was sent before lies there still */
        }
        r = (ssize_t)(n < room ? n : room);
        at = tail & (s->capacity - 1);
        first = s->capacity - at;
        if ((uint64_t)r <= first)
            memcpy(nsd_up_bytes(s->up) + at, data, (size_t)r);
        else {
            memcpy(nsd_up_bytes(s->up) + at, data, (size_t)first);
            memcpy(nsd_up_bytes(s->up), data + first, (size_t)r - (size_t)first);
        }
        nsd_store64(&s->up->tail, tail + (uint64_t)r);
        if (r == 0 && n)
            r = -EAGAIN;
    }
    pthread_mutex_unlock(&s->up->send_lock);
    if (r > 0)
        nsd_note(s, NSD_NOTE_DATA);
    return r;
}

/* Of a stream: bytes, 0 at its end, -EAGAIN, or the pending error once the bytes before it are read. `data` NULL: they are
 * thrown away. */
static inline ssize_t nsd_recv(nsd_socket_t *s, uint8_t *data, size_t n, int peek)
{
    uint64_t head, have, at, first;
    uint32_t events;
    ssize_t r;
    int e;
    nsd_lock(&s->up->receive_lock);
    events = nsd_load32(&s->down->events);               /* before the tail: what ends stands behind the last byte */
    head = atomic_load_explicit(&s->up->head, memory_order_relaxed);
    have = nsd_load64(&s->down->tail) - head;
    if (have == 0 || n == 0)
        r = n == 0 ? 0 : !(events & NSD_EOF) ? -EAGAIN : (events & NSD_CUT) && (e = nsd_take_error(s)) ? -e : 0;
    else {
        r = (ssize_t)(n < have ? n : have);
        at = head & (s->capacity - 1);
        first = s->capacity - at;
        if (data == NULL)
            ;
        else if ((uint64_t)r <= first)
            memcpy(data, nsd_down_bytes(s->down) + at, (size_t)r);
        else {
            memcpy(data, nsd_down_bytes(s->down) + at, (size_t)first);
            memcpy(data + first, nsd_down_bytes(s->down), (size_t)r - (size_t)first);
        }
        if (!peek)
            nsd_store64(&s->up->head, head + (uint64_t)r);
    }
    pthread_mutex_unlock(&s->up->receive_lock);
    if (r > 0 && !peek)
        nsd_note(s, NSD_NOTE_SPACE);
    return r;
}

/* --- what holds now, and waiting for it */

/* By the numbers of poll(2), and 0x4000: all that was sent has arrived. */
static inline uint32_t nsd_state(nsd_socket_t *s)
{
    uint32_t events = nsd_load32(&s->down->events), out = events & 0xffff;
    if (nsd_has_error(s))
        out |= POLLERR | POLLIN | POLLOUT;
    if (!(events & NSD_STREAM))
        return out;
    if (events & NSD_EOF)
        out |= POLLIN | POLLRDHUP;
    if (nsd_readable(s))
        out |= POLLIN;
    if ((events & NSD_SHUT) ||
        atomic_load_explicit(&s->up->tail, memory_order_relaxed) - nsd_load64(&s->down->head) < s->capacity)
        out |= POLLOUT;
    return out;
}

static inline int nsd_spin(nsd_socket_t *s, uint32_t events, int64_t until)
{
    nsd_client_t *c = s->client;
    int64_t budget = c->spin_now_ns, now = nsd_now_ns(), end;
    if (budget == 0 && (++c->spin_waits & 15) == 0)
        budget = c->spin_ns;             /* it may pay again */
    end = now + budget < until ? now + budget : until;
    while (budget && now < end) {
        for (int i = 0; i < 32; i++) {
            if (nsd_state(s) & events) {
                c->spin_now_ns = c->spin_ns;
                return 1;
            }
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
        }
        now = nsd_now_ns();
    }
    c->spin_now_ns = budget / 2 < c->spin_ns / 8 ? 0 : budget / 2;
    return 0;
}

/* Sleep until one of `events` or an error holds: NSD_*. `until` is the caller's deadline, `slice` when he wants to look
 * around; both of CLOCK_MONOTONIC, INT64_MAX without end. */
static inline int nsd_wait(nsd_socket_t *s, uint32_t events, int64_t until, int64_t slice)
{
    struct timespec ts;
    uint32_t bell;
    int64_t now, wake;
    int r = -1;
    events |= POLLERR | POLLHUP;
    if (nsd_spin(s, events, until < slice ? until : slice))
        return NSD_READY_NOW;
    atomic_fetch_add(&s->up->waiting, 1);
    while (r < 0) {
        bell = nsd_load32(&s->down->bell);
        nsd_fence();
        now = nsd_now_ns();
        if (atomic_load(&s->closed) || !nsd_alive(s->client))
            r = NSD_DEAD;
        else if (nsd_state(s) & events)
            r = NSD_READY_NOW;
        else if (now >= until)
            r = NSD_TIMEOUT;
        else if (now >= slice)
            r = NSD_INTERRUPTED;
        else {
            wake = now + NSD_LOOK_NS;
            wake = wake < until ? wake : until;
            wake = wake < slice ? wake : slice;
            ts.tv_sec = wake / 1000000000;
            ts.tv_nsec = wake % 1000000000;
            if (syscall(SYS_futex, (uint32_t *)&s->down->bell, FUTEX_WAIT_BITSET, bell, &ts, NULL,
                        FUTEX_BITSET_MATCH_ANY) < 0 && errno == EINTR)
                r = nsd_state(s) & events ? NSD_READY_NOW : NSD_INTERRUPTED;
        }
    }
    atomic_fetch_sub(&s->up->waiting, 1);
    return r;
}

/* This process gives its reference up, after NSD_CLOSE: whoever waits is let go. The memory stays until nsd_forget. */
static inline void nsd_closed(nsd_socket_t *s)
{
    atomic_store(&s->closed, 1);
    syscall(SYS_futex, (uint32_t *)&s->down->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static inline void nsd_forget(nsd_socket_t *s)
{
    nsd_unmap(s->down, s->up, s->capacity);
    s->down = NULL;
    s->up = NULL;
}

/* --- a pair that shows readiness to poll, select and epoll; it carries no data
 *
 * Readable: a byte lies in it, which the daemon puts there when up.armed says that one is wanted. Not writable: it is
 * full of bytes, which the daemon takes out when there is room again. The end of the stream, an error, and the daemon's
 * end: the pair's.
 */

enum {                                   /* what a call did, for nsd_show */
    NSD_TOOK = 1,                        /* data or a connection, which the daemon's byte announced */
    NSD_EMPTIED = 2,                     /* all that there was, and the caller saw it: what comes now is a new edge */
    NSD_LEFT = 8,                        /* some of it, or looked: what comes on top is a new edge, too */
    NSD_FILLED = 4                       /* there was no room for all, and the caller saw it: room is a new edge */
};

/* Have the daemon put a byte in when there is more than `seen`. `again`: unless it will do so anyhow, after now. */
static inline void nsd_arm(nsd_socket_t *s, _Atomic uint64_t *seen, int again)
{
    uint64_t upto;
    nsd_lock(&s->up->receive_lock);
    if (again && nsd_load32(&s->down->kicking) != nsd_load32(&s->up->armed)) {
        pthread_mutex_unlock(&s->up->receive_lock);
        return;
    }
    nsd_store64(&s->up->seen, upto = nsd_load64(seen));
    atomic_fetch_add(&s->up->armed, 1);
    pthread_mutex_unlock(&s->up->receive_lock);
    nsd_fence();
    if (nsd_streams(s) ? nsd_load64(&s->down->tail) != upto : (nsd_state(s) & POLLIN) != 0)
        nsd_poke(s);
}

static inline int nsd_drain(nsd_socket_t *s)
{
    char trash[512];
    int any = 0;
    ssize_t r;
    do
        if ((r = recv(s->ready_fd, trash, sizeof trash, MSG_DONTWAIT)) > 0)
            any = 1;
    while (r == sizeof trash);
    return any;
}

static inline void nsd_show_readable(nsd_socket_t *s, int did)
{
    struct pollfd byte = {s->ready_fd, POLLIN, 0};
    int kicked = nsd_load32(&s->down->kicked) == nsd_load32(&s->up->armed), done = 0;
    if (!(did & NSD_EMPTIED) && (nsd_state(s) & (POLLIN | POLLRDHUP))) {
        if (did & NSD_LEFT)
            nsd_arm(s, &s->down->tail, 1);
        return;
    }
    if (!kicked && !(did & NSD_TOOK))
        return;
    nsd_fence();                         /* either the daemon sees that all was taken, or it is seen kicking */
    for (int i = 0; i < NSD_KICKS && !done; i++) {
        done = nsd_load32(&s->down->kicking) == nsd_load32(&s->down->kicked);
        kicked |= nsd_drain(s);
        if (!done)                       /* its byte is on the way, and would tell of what is not there any more */
            poll(&byte, 1, 1);
    }
    if (kicked)
        nsd_arm(s, &s->up->head, 0);
}

static inline void nsd_show_writable(nsd_socket_t *s, int did)
{
    static const char filler[2048];
    uint32_t filled = nsd_load32(&s->up->filled);
    int drained = nsd_load32(&s->down->drained) == filled, sent = 0;
    if (!(did & NSD_FILLED) && nsd_state(s) & POLLOUT) {
        if ((filled & 1) && drained)
            atomic_fetch_add(&s->up->filled, 1);
        return;
    }
    while (send(s->ready_fd, filler, sizeof filler, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        sent = 1;
    if ((filled & 1) && !drained && !sent)
        return;                          /* full since before: the edge comes */
    /* Full now, and so is the edge to come. The daemon may be emptying it for the number before: then it does so again. */
    atomic_fetch_add(&s->up->filled, filled & 1 ? 2 : 1);
    nsd_fence();
    if (nsd_state(s) & POLLOUT)
        nsd_poke(s);
}

/* After each call that may have changed what the pair has to show; `did` is of NSD_TOOK and so on. */
static inline void nsd_show(nsd_socket_t *s, int did)
{
    uint32_t state;
    int error;
    socklen_t n = sizeof error;
    if (s->ready_fd < 0)
        return;
    state = nsd_state(s);
    if (state & (POLLERR | POLLHUP)) {
        if (!(state & POLLERR) && !atomic_exchange(&s->cleared, 1))
            getsockopt(s->ready_fd, SOL_SOCKET, SO_ERROR, &error, &n);
        return;
    }
    nsd_show_readable(s, did);
    nsd_show_writable(s, did);
}

/* The descriptor, made by the first call, or a negative errno number. */
static inline int nsd_fileno(nsd_socket_t *s)
{
    nsd_message_t m = {.type = NSD_READY, .number = s->number};
    int fds[NSD_FDS], count, r;
    size_t got;
    if (s->ready_fd >= 0)
        return s->ready_fd;
    nsd_lock(&s->up->receive_lock);      /* a byte is wanted at once if there is something */
    nsd_store64(&s->up->seen, nsd_load64(&s->up->head));
    atomic_fetch_add(&s->up->armed, 1);
    pthread_mutex_unlock(&s->up->receive_lock);
    r = nsd_call(s->client, &m, NULL, 0, NULL, 0, &got, fds, &count);
    if (r == 0 && count != 1)
        r = -EPROTO;
    if (r != 0) {
        while (count > 0)
            close(fds[--count]);
        return r;
    }
    s->ready_fd = fds[0];
    nsd_show(s, 0);
    return s->ready_fd;
}

#endif
