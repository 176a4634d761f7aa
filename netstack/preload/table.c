/* table.c - the program's sockets by descriptor, the one connection to the daemon, and fork. */
#include "preload.h"

#include <dlfcn.h>
#include <sys/resource.h>

enum { STRIPES = 64, OWN_FROM = 900, SPIN_NS = 20000 };

real_t real_calls;
static _Atomic(shim_t *) table[PLACES];
static pthread_mutex_t stripes[STRIPES];
static pthread_mutex_t join_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(nsd_client_t *) client;   /* NULL: not joined yet */
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
    nsd_client_t *c = atomic_load(&client);
    return fd >= 0 && c != NULL && (fd == c->control || fd == c->bell);
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

static void lock_client(nsd_client_t *c)
{
    pthread_mutex_lock(&c->lock);
    pthread_mutex_lock(&c->note_lock);
}

static void unlock_client(nsd_client_t *c)
{
    pthread_mutex_unlock(&c->note_lock);
    pthread_mutex_unlock(&c->lock);
}

void shim_move(int fd)
{
    nsd_client_t *c = atomic_load(&client);
    if (!shim_own(fd) || strange())
        return;
    lock_client(c);
    if (fd == c->control)
        c->control = moved(fd);
    else if (fd == c->bell)
        c->bell = moved(fd);
    unlock_client(c);
}

static int join_with(uint64_t key)
{
    char about[4096];
    size_t got;
    const char *path = getenv("NETSTACK_DAEMON_SOCKET");
    nsd_client_t *c = calloc(1, sizeof *c);
    int r = c == NULL ? -ENOMEM : path == NULL ? -ENOENT
                      : nsd_join(c, path, key, sysconf(_SC_NPROCESSORS_ONLN) > 1 ? SPIN_NS : 0, about, sizeof about,
                                 &got);
    if (r != 0) {
        free(c);
        return r;
    }
    c->control = moved(c->control);
    c->bell = moved(c->bell);
    atomic_store(&client, c);
    return 0;
}

/* The daemon's client, or NULL; another than before when the daemon had died and there is a new one. */
static nsd_client_t *join(void)
{
    nsd_client_t *c;
    int r = 0;
    pthread_mutex_lock(&join_lock);
    c = atomic_load(&client);
    if (c != NULL && atomic_load(&c->dead) && c->control >= 0) {
        lock_client(c);                  /* sockets go on pointing at it, so it stays */
        nsd_leave(c);
        unlock_client(c);
    }
    if ((c == NULL || atomic_load(&c->dead)) && (r = join_with(0)) != 0) {
        static const char text[] = "netstack: the daemon cannot be joined: ";
        const char *why = strerrorname_np(-r);
        struct iovec parts[3] = {{(void *)text, sizeof text - 1}, {(void *)why, why ? strlen(why) : 0}, {"\n", 1}};
        if (real()->writev(STDERR_FILENO, parts, 3) < 0)
            errno = 0;                   /* nobody listens */
    }
    c = r == 0 ? atomic_load(&client) : NULL;
    pthread_mutex_unlock(&join_lock);
    return c;
}

/* --- sockets */

static void drop_shim(shim_t *o)
{
    nsd_forget(&o->s);
    pthread_mutex_destroy(&o->show_lock);
    free(o);
}

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
    if (atomic_fetch_sub(&o->users, 1) == 1)
        drop_shim(o);
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

static shim_t *new_shim(int family, int type, int protocol, int nonblocking)
{
    shim_t *o = calloc(1, sizeof *o);
    if (o == NULL)
        return NULL;
    o->family = family;
    o->type = type;
    o->protocol = protocol;
    o->nonblocking = nonblocking;
    pthread_mutex_init(&o->show_lock, NULL);
    return o;
}

/* From now on `fd` is a descriptor of a socket that this process has. */
static void settle(int fd, shim_t *o)
{
    struct stat about;
    if (fstat(fd, &about) == 0)
        o->inode = about.st_ino;
    atomic_fetch_add(&sockets, 1);
    shim_add(fd, o);
}

int shim_obtain(shim_t *from, nsd_message_t *m, int family, int type, int protocol, int flags)
{
    nsd_message_t ask = *m, end = {.type = NSD_CLOSE, .a = 1};
    nsd_client_t *c = from == NULL ? join() : from->s.client;
    shim_t *o;
    int fd, r;
    if (c == NULL)
        return -ENETDOWN;
    if ((o = new_shim(family, type, protocol, (flags & SOCK_NONBLOCK) != 0)) == NULL)
        return -ENOMEM;
    r = nsd_obtain(c, m, &o->s);
    if (r == -ECONNRESET && from == NULL && atomic_load(&c->dead)) {       /* a new daemon may have its place */
        *m = ask;
        r = (c = join()) == NULL ? -ENETDOWN : nsd_obtain(c, m, &o->s);
    }
    if (r != 0) {
        drop_shim(o);
        return r;
    }
    fd = nsd_fileno(&o->s);
    if (fd < 0 || fd >= PLACES) {
        if (fd >= 0)
            real()->close(fd);
        nsd_ask(&o->s, &end, NULL, 0);
        drop_shim(o);
        return fd < 0 ? fd : -EMFILE;
    }
    if (!(flags & SOCK_CLOEXEC))
        real()->fcntl(fd, F_SETFD, 0);
    settle(fd, o);
    return fd;
}

/* --- for a program that takes this one's place */

size_t shim_list(const ino_t *inodes, size_t count, shim_t **found, size_t room)
{
    size_t n = 0, i;
    for (int fd = 0; fd < PLACES && n < room && atomic_load(&sockets); fd++) {
        shim_t *o = shim_get(fd);
        if (o == NULL)
            continue;
        for (i = 0; inodes != NULL && i < count && inodes[i] != o->inode; i++)
            ;
        if ((inodes != NULL && i == count) || atomic_load(&o->s.client->dead)) {
            shim_put(o);
            continue;
        }
        for (i = 0; i < n && found[i] != o; i++)
            ;
        if (i < n)
            shim_put(o);
        else
            found[n++] = o;
    }
    return n;
}

int shim_reserve(const uint32_t *numbers, size_t count, uint64_t *key)
{
    nsd_message_t m = {.type = NSD_RESERVE};
    nsd_client_t *c = atomic_load(&client);
    int fds[NSD_FDS], n, r;
    size_t got;
    if (c == NULL)
        return -ENETDOWN;
    r = nsd_call(c, &m, numbers, count * sizeof *numbers, NULL, 0, &got, fds, &n);
    *key = m.key;
    return r;
}

void shim_release(uint64_t key)
{
    nsd_message_t m = {.type = NSD_RELEASE, .key = key};
    nsd_client_t *c = join();
    int fds[NSD_FDS], n;
    size_t got;
    if (c != NULL)
        nsd_call(c, &m, NULL, 0, NULL, 0, &got, fds, &n);
}

int shim_adopt(int fd, uint32_t number, uint64_t key, const shim_t *like)
{
    nsd_message_t m = {.type = NSD_ADOPT, .number = number, .key = key};
    nsd_client_t *c = join();
    shim_t *o;
    int r;
    if (c == NULL || fd >= PLACES)
        return -ENETDOWN;
    for (int other = 0; other < fd; other++) {       /* a duplicate of one that is here already */
        o = shim_get(other);
        if (o != NULL && o->inode == like->inode) {
            r = shim_add(fd, o);
            shim_put(o);
            return r;
        }
        if (o != NULL)
            shim_put(o);
    }
    if ((o = new_shim(like->family, like->type, like->protocol, atomic_load(&like->nonblocking))) == NULL)
        return -ENOMEM;
    atomic_store(&o->receive_timeout_ns, atomic_load(&like->receive_timeout_ns));
    atomic_store(&o->send_timeout_ns, atomic_load(&like->send_timeout_ns));
    if ((r = nsd_obtain(c, &m, &o->s)) != 0) {
        drop_shim(o);
        return r;
    }
    o->s.ready_fd = fd;
    settle(fd, o);
    return 0;
}

/* --- calls of one */

void shim_show(shim_t *o, int did)
{
    pthread_mutex_lock(&o->show_lock);
    nsd_show(&o->s, did);
    pthread_mutex_unlock(&o->show_lock);
}

/* Whether a call that a signal interrupted goes on. Which signal it was nobody can tell any more: it does when all
 * handlers of the program ask for it. */
static int restarts(void)
{
    struct sigaction of;
    for (int number = 1; number < NSIG; number++)
        if (sigaction(number, NULL, &of) == 0 && of.sa_handler != SIG_DFL && of.sa_handler != SIG_IGN &&
            !(of.sa_flags & SA_RESTART))
            return 0;
    return 1;
}

int shim_wait(shim_t *o, uint32_t events, int64_t deadline_ns)
{
    for (;;)
        switch (nsd_wait(&o->s, events, deadline_ns, INT64_MAX)) {
        case NSD_READY_NOW:
            return 0;
        case NSD_TIMEOUT:
            return -EAGAIN;
        case NSD_INTERRUPTED:
            if (deadline_ns != INT64_MAX || !restarts())
                return -EINTR;
            break;
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
    r = nsd_call(o->s.client, m, NULL, 0, answer, room, got, fds, &count);
    while (count > 0)
        real()->close(fds[--count]);
    shim_show(o, NSD_TOOK);
    return r;
}

/* --- fork: the child has references of its own, by a reservation of its parent's */

static void before_fork(void)
{
    nsd_client_t *c;
    reserved = 0;
    pthread_mutex_lock(&join_lock);
    if ((c = atomic_load(&client)) == NULL)
        return;
    if (atomic_load(&sockets))
        shim_reserve(NULL, 0, &reserved);
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_lock(&stripes[i]);
    lock_client(c);
}

static void after_fork_in_parent(void)
{
    nsd_client_t *c = atomic_load(&client);
    if (c != NULL) {
        unlock_client(c);
        for (int i = 0; i < STRIPES; i++)
            pthread_mutex_unlock(&stripes[i]);
    }
    pthread_mutex_unlock(&join_lock);
}

/* Sockets of the child's are its new client's, but for those of a daemon that had died before. */
static void after_fork_in_child(void)
{
    nsd_client_t *old = atomic_load(&client), *now;
    atomic_store(&process, getpid());
    pthread_mutex_init(&join_lock, NULL);
    if (old == NULL)
        return;
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_init(&stripes[i], NULL);
    pthread_mutex_init(&old->lock, NULL);
    pthread_mutex_init(&old->note_lock, NULL);
    nsd_leave(old);
    atomic_store(&client, NULL);
    if (atomic_load(&sockets))
        join_with(reserved);
    now = atomic_load(&client);
    for (int fd = 0; fd < PLACES && atomic_load(&sockets); fd++) {
        shim_t *o = atomic_load(&table[fd]);
        if (o == NULL)
            continue;
        pthread_mutex_init(&o->show_lock, NULL);
        if (now != NULL && o->s.client == old)
            o->s.client = now;
    }
}

__attribute__((constructor)) static void begin(void)
{
    real_find();
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_init(&stripes[i], NULL);
    atomic_store(&process, getpid());
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    exec_inherit();
}
