/* table.c - the program's sockets by descriptor, the one connection to the daemon, and fork. */
#include "preload.h"

#include <dlfcn.h>
#include <sys/resource.h>

enum { STRIPES = 64, OWN_FROM = 900, SPIN_NS = 20000 };

real_t real_calls;
static _Atomic(shim_t *) table[PLACES];
static pthread_mutex_t stripes[STRIPES];
static pthread_mutex_t join_lock = PTHREAD_MUTEX_INITIALIZER;
static nsd_client_t client;
static _Atomic int joined;
static _Atomic unsigned sockets;         /* that this process has */
static _Atomic pid_t process;            /* another: a child of vfork, whose memory is its parent's */
static uint64_t reserved;

static void find(void)
{
#define X(name) real_calls.name = (__typeof__(real_calls.name))dlsym(RTLD_NEXT, #name);
    REAL_CALLS(X)
    X(close_range)
#undef X
    atomic_store(&real_calls.found, 1);
}

void real_find(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
}

static int strange(void)
{
    return atomic_load_explicit(&process, memory_order_relaxed) != getpid();
}

static pthread_mutex_t *stripe(int fd) { return &stripes[fd % STRIPES]; }

/* --- the daemon */

int shim_own(int fd)
{
    return fd >= 0 && (fd == client.control || fd == client.bell) && atomic_load(&joined);
}

/* High up, where programs do not look for what they have inherited. */
static int moved(int fd)
{
    struct rlimit limit;
    int from = OWN_FROM, high;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < OWN_FROM + 64)
        from = (int)limit.rlim_cur / 2;
    high = real()->fcntl(fd, F_DUPFD_CLOEXEC, from);
    if (high < 0)
        return fd;
    real()->close(fd);
    return high;
}

void shim_move(int fd)
{
    if (!shim_own(fd) || strange())
        return;
    pthread_mutex_lock(&client.lock);
    pthread_mutex_lock(&client.note_lock);
    if (fd == client.control)
        client.control = moved(fd);
    else if (fd == client.bell)
        client.bell = moved(fd);
    pthread_mutex_unlock(&client.note_lock);
    pthread_mutex_unlock(&client.lock);
}

static int join_with(uint64_t key)
{
    char about[4096];
    size_t got;
    const char *path = getenv("NETSTACK_DAEMON_SOCKET");
    int r = path == NULL ? -ENOENT
                         : nsd_join(&client, path, key, sysconf(_SC_NPROCESSORS_ONLN) > 1 ? SPIN_NS : 0, about,
                                    sizeof about, &got);
    if (r == 0) {
        client.control = moved(client.control);
        client.bell = moved(client.bell);
        atomic_store(&joined, 1);
    }
    return r;
}

static int join(void)
{
    int r = 0;
    pthread_mutex_lock(&join_lock);
    if (!atomic_load(&joined) && (r = join_with(0)) != 0) {
        static const char text[] = "netstack: the daemon cannot be joined: ";
        const char *why = strerrorname_np(-r);
        struct iovec parts[3] = {{(void *)text, sizeof text - 1}, {(void *)why, why ? strlen(why) : 0}, {"\n", 1}};
        if (real()->writev(STDERR_FILENO, parts, 3) < 0)
            errno = 0;                   /* nobody listens */
        r = -ENETDOWN;
    }
    pthread_mutex_unlock(&join_lock);
    return r;
}

/* --- sockets */

shim_t *shim_get(int fd)
{
    shim_t *o;
    if (fd < 0 || fd >= PLACES || atomic_load_explicit(&table[fd], memory_order_acquire) == NULL)
        return NULL;
    pthread_mutex_lock(stripe(fd));
    o = atomic_load(&table[fd]);
    if (o != NULL)
        atomic_fetch_add(&o->users, 1);
    pthread_mutex_unlock(stripe(fd));
    return o;
}

void shim_put(shim_t *o)
{
    if (atomic_fetch_sub(&o->users, 1) != 1)
        return;
    nsd_forget(&o->s);
    pthread_mutex_destroy(&o->show_lock);
    free(o);
}

int shim_add(int fd, shim_t *o)
{
    if (fd >= PLACES)
        return -EMFILE;
    if (strange())
        return 0;
    atomic_fetch_add(&o->users, 1);
    atomic_fetch_add(&o->descriptors, 1);
    pthread_mutex_lock(stripe(fd));
    atomic_store(&table[fd], o);
    pthread_mutex_unlock(stripe(fd));
    return 0;
}

shim_t *shim_remove(int fd)
{
    shim_t *o;
    if (fd < 0 || fd >= PLACES || atomic_load(&table[fd]) == NULL || strange())
        return NULL;
    pthread_mutex_lock(stripe(fd));
    o = atomic_exchange(&table[fd], NULL);
    pthread_mutex_unlock(stripe(fd));
    if (o == NULL)
        return NULL;
    pthread_mutex_lock(&o->show_lock);
    if (o->s.ready_fd == fd) {           /* a duplicate goes on showing */
        o->s.ready_fd = -1;
        for (int other = 0; other < PLACES && atomic_load(&o->descriptors) > 1; other++)
            if (atomic_load(&table[other]) == o) {
                o->s.ready_fd = other;
                break;
            }
    }
    pthread_mutex_unlock(&o->show_lock);
    return o;
}

/* SO_LINGER: until the peer has everything, at most for so long. */
static void linger(shim_t *o, int seconds)
{
    nsd_message_t m = {.type = NSD_SHUTDOWN, .a = SHUT_WR, .b = 1};
    if (nsd_ask(&o->s, &m, NULL, 0) == 0)
        nsd_wait(&o->s, 0x4000, nsd_now_ns() + seconds * INT64_C(1000000000), INT64_MAX);
    m = (nsd_message_t){.type = NSD_CLOSE, .a = 1};
    nsd_ask(&o->s, &m, NULL, 0);
}

int shim_end(shim_t *o)
{
    nsd_message_t m = {.type = NSD_CLOSE};
    if (atomic_fetch_sub(&o->descriptors, 1) == 1) {
        if (nsd_ask(&o->s, &m, NULL, 0) == 0 && m.c > 0)
            linger(o, m.c);
        nsd_closed(&o->s);
        atomic_fetch_sub(&sockets, 1);
    }
    shim_put(o);
    return 0;
}

int shim_obtain(nsd_message_t *m, int family, int type, int protocol, int flags)
{
    nsd_message_t end = {.type = NSD_CLOSE, .a = 1};
    shim_t *o;
    int fd, r = join();
    if (r != 0)
        return r;
    if ((o = calloc(1, sizeof *o)) == NULL)
        return -ENOMEM;
    if ((r = nsd_obtain(&client, m, &o->s)) != 0) {
        free(o);
        return r;
    }
    o->family = family;
    o->type = type;
    o->protocol = protocol;
    o->nonblocking = (flags & SOCK_NONBLOCK) != 0;
    pthread_mutex_init(&o->show_lock, NULL);
    atomic_fetch_add(&sockets, 1);
    fd = nsd_fileno(&o->s);
    if (fd < 0 || fd >= PLACES) {
        if (fd >= 0)
            real()->close(fd);
        nsd_ask(&o->s, &end, NULL, 0);
        atomic_fetch_sub(&sockets, 1);
        nsd_forget(&o->s);
        free(o);
        return fd < 0 ? fd : -EMFILE;
    }
    shim_add(fd, o);
    return fd;
}

/* --- calls of one */

void shim_show(shim_t *o, int took)
{
    pthread_mutex_lock(&o->show_lock);
    nsd_show(&o->s, took);
    pthread_mutex_unlock(&o->show_lock);
}

int shim_wait(shim_t *o, uint32_t events, int64_t deadline_ns)
{
    switch (nsd_wait(&o->s, events, deadline_ns, INT64_MAX)) {
    case NSD_READY_NOW:
        return 0;
    case NSD_TIMEOUT:
        return -EAGAIN;
    case NSD_INTERRUPTED:
        return -EINTR;
    default:
        return atomic_load(&o->s.closed) ? -EBADF : -ECONNRESET;
    }
}

int shim_ask(shim_t *o, nsd_message_t *m, const void *data, size_t n)
{
    int r = nsd_ask(&o->s, m, data, n);
    shim_show(o, 0);
    return r;
}

int shim_ask_data(shim_t *o, nsd_message_t *m, void *answer, size_t room, size_t *got)
{
    int fds[NSD_FDS], count, r;
    m->number = o->s.number;
    r = nsd_call(&client, m, NULL, 0, answer, room, got, fds, &count);
    while (count > 0)
        real()->close(fds[--count]);
    shim_show(o, 1);
    return r;
}

/* --- fork: the child has references of its own, by a reservation of its parent's */

static void before_fork(void)
{
    nsd_message_t m = {.type = NSD_RESERVE};
    int fds[NSD_FDS], count;
    size_t got;
    reserved = 0;
    pthread_mutex_lock(&join_lock);
    if (!atomic_load(&joined))
        return;
    if (atomic_load(&sockets) && nsd_call(&client, &m, NULL, 0, NULL, 0, &got, fds, &count) == 0)
        reserved = m.key;
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_lock(&stripes[i]);
    pthread_mutex_lock(&client.lock);
    pthread_mutex_lock(&client.note_lock);
}

static void after_fork_in_parent(void)
{
    if (atomic_load(&joined)) {
        pthread_mutex_unlock(&client.note_lock);
        pthread_mutex_unlock(&client.lock);
        for (int i = 0; i < STRIPES; i++)
            pthread_mutex_unlock(&stripes[i]);
    }
    pthread_mutex_unlock(&join_lock);
}

static void after_fork_in_child(void)
{
    atomic_store(&process, getpid());
    pthread_mutex_init(&join_lock, NULL);
    if (!atomic_load(&joined))
        return;
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_init(&stripes[i], NULL);
    for (int fd = 0; fd < PLACES && atomic_load(&sockets); fd++) {
        shim_t *o = atomic_load(&table[fd]);
        if (o != NULL)
            pthread_mutex_init(&o->show_lock, NULL);
    }
    atomic_store(&joined, 0);
    nsd_leave(&client);
    if (atomic_load(&sockets))
        join_with(reserved);
}

__attribute__((constructor)) static void begin(void)
{
    real_find();
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_init(&stripes[i], NULL);
    atomic_store(&process, getpid());
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}
