/* exec.c - sockets stay with a process that becomes another program, and with one that posix_spawn starts.
 *
 * What a new program inherits are descriptors alone. So sockets that stay open are kept for it at the daemon by a
 * reservation, and NETSTACK_DAEMON_SOCKETS says which they are, by the inodes of their readiness descriptors: those of a
 * duplicate, made by whomever, are the same. A child of vfork has its parent's memory: nothing is changed here.
 */
#include "preload.h"

#include <dirent.h>
#include <inttypes.h>

enum { MOST = 128, LINE = 112 };         /* sockets that are handed on; characters for each */

#define VARIABLE "NETSTACK_DAEMON_SOCKETS="

typedef struct {
    uint64_t key;                        /* of the reservation; 0: no socket stays */
    char text[sizeof VARIABLE + LINE * (MOST + 1)];
} telling_t;

extern char **environ;

static size_t variables(char *const envp[])
{
    size_t n = 0;
    while (envp != NULL && envp[n] != NULL)
        n++;
    return n;
}

static int has(char *const envp[], const char *name)
{
    for (; envp != NULL && *envp != NULL; envp++)
        if (strncmp(*envp, name, strlen(name)) == 0)
            return 1;
    return 0;
}

/* Of the sockets that stay open: how many, at most MOST. */
static size_t staying(ino_t *inodes)
{
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    size_t n = 0;
    while (folder != NULL && n < MOST && (entry = readdir(folder)) != NULL) {
        struct stat about;
        int fd = atoi(entry->d_name), flags = real()->fcntl(fd, F_GETFD);
        if (flags >= 0 && !(flags & FD_CLOEXEC) && fstat(fd, &about) == 0 && S_ISSOCK(about.st_mode))
            inodes[n++] = about.st_ino;
    }
    if (folder != NULL)
        closedir(folder);
    return n;
}

/* An environment that tells of the sockets, in `memory` (variables(envp) + 2 places), or the one that was given. */
static char *const *tell(telling_t *t, char *const envp[], int all, char **memory)
{
    uint32_t numbers[MOST];
    shim_t *found[MOST];
    ino_t inodes[MOST];
    size_t n = 0, count = 0;
    char *at = t->text;
    t->key = 0;
    if (!has(envp, "NETSTACK_DAEMON_SOCKET="))
        return envp;
    if (all || (n = staying(inodes)) > 0)
        count = shim_list(all ? NULL : inodes, n, found, MOST);
    for (size_t i = 0; i < count; i++)
        numbers[i] = found[i]->s.number;
    if (count && shim_reserve(numbers, count, &t->key) != 0)
        t->key = 0;
    at += sprintf(at, VARIABLE "%" PRIx64, t->key);
    for (size_t i = 0; i < count; i++) {
        shim_t *o = found[i];
        at += sprintf(at, ";%ju,%u,%" PRIx64 ",%d,%d,%d,%d,%" PRId64 ",%" PRId64, (uintmax_t)o->inode, o->s.number,
                      o->s.key, o->family, o->type, o->protocol, atomic_load(&o->nonblocking),
                      atomic_load(&o->receive_timeout_ns), atomic_load(&o->send_timeout_ns));
        shim_put(o);
    }
    if (t->key == 0)
        return envp;
    n = variables(envp);
    memcpy(memory, envp, n * sizeof *envp);
    memory[n] = t->text;
    memory[n + 1] = NULL;
    return memory;
}

/* After a call that made no other program. */
static int failed(telling_t *t, int r)
{
    int error = errno;
    if (t->key != 0)
        shim_release(t->key);
    errno = error;
    return r;
}

void exec_inherit(void)
{
    const char *text = getenv("NETSTACK_DAEMON_SOCKETS");
    DIR *folder;
    uint64_t key;
    if (text == NULL || sscanf(text, "%" SCNx64, &key) != 1)
        return;
    for (const char *at = strchr(text, ';'); at != NULL; at = strchr(at + 1, ';')) {
        shim_t like = {0};
        uintmax_t inode;
        uint64_t of_socket;
        unsigned number;
        int nonblocking;
        int64_t receive, send_;
        struct dirent *entry;
        if (sscanf(at, ";%ju,%u,%" SCNx64 ",%d,%d,%d,%d,%" SCNd64 ",%" SCNd64, &inode, &number, &of_socket,
                   &like.family, &like.type, &like.protocol, &nonblocking, &receive, &send_) != 9)
            break;
        like.inode = (ino_t)inode;
        atomic_store(&like.nonblocking, nonblocking);
        atomic_store(&like.receive_timeout_ns, receive);
        atomic_store(&like.send_timeout_ns, send_);
        folder = opendir("/proc/self/fd");
        while (folder != NULL && (entry = readdir(folder)) != NULL) {
            struct stat about;
            int fd = atoi(entry->d_name);
            if (fd != dirfd(folder) && fstat(fd, &about) == 0 && S_ISSOCK(about.st_mode) && about.st_ino == like.inode)
                shim_adopt(fd, number, of_socket, &like);
        }
        if (folder != NULL)
            closedir(folder);
    }
    shim_release(key);
    unsetenv("NETSTACK_DAEMON_SOCKETS");
}

/* --- the calls */

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
    telling_t t;
    char *memory[variables(envp) + 2];
    return failed(&t, real()->execve(path, argv, tell(&t, envp, 0, memory)));
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
    telling_t t;
    char *memory[variables(envp) + 2];
    return failed(&t, real()->execvpe(file, argv, tell(&t, envp, 0, memory)));
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
    telling_t t;
    char *memory[variables(envp) + 2];
    return failed(&t, real()->fexecve(fd, argv, tell(&t, envp, 0, memory)));
}

EXPORT int execv(const char *path, char *const argv[]) { return execve(path, argv, environ); }
EXPORT int execvp(const char *file, char *const argv[]) { return execvpe(file, argv, environ); }

/* The arguments of execl and its like, `first` and on to the NULL, as a vector on the stack. */
#define VECTOR(argv, first, list)                                                                                      \
    size_t count = 1, i = 0;                                                                                           \
    va_start(list, first);                                                                                             \
    while (va_arg(list, char *) != NULL)                                                                               \
        count++;                                                                                                       \
    va_end(list);                                                                                                      \
    char *argv[count + 1];                                                                                             \
    va_start(list, first);                                                                                             \
    for (argv[i++] = (char *)first; i <= count; i++)                                                                   \
        argv[i] = va_arg(list, char *)

EXPORT int execl(const char *path, const char *first, ...)
{
    va_list list;
    VECTOR(argv, first, list);
    va_end(list);
    return execve(path, argv, environ);
}

EXPORT int execlp(const char *file, const char *first, ...)
{
    va_list list;
    VECTOR(argv, first, list);
    va_end(list);
    return execvpe(file, argv, environ);
}

EXPORT int execle(const char *path, const char *first, ...)
{
    va_list list;
    VECTOR(argv, first, list);
    char *const *envp = va_arg(list, char *const *);
    va_end(list);
    return execve(path, argv, envp);
}

/* File actions may let any socket stay open, under another number. What the child does not find it gives back. */
EXPORT int posix_spawn(pid_t *child, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    telling_t t;
    char *memory[variables(envp) + 2];
    int r = real()->posix_spawn(child, path, actions, attributes, argv, tell(&t, envp, actions != NULL, memory));
    return r == 0 ? 0 : failed(&t, r);
}

EXPORT int posix_spawnp(pid_t *child, const char *file, const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    telling_t t;
    char *memory[variables(envp) + 2];
    int r = real()->posix_spawnp(child, file, actions, attributes, argv, tell(&t, envp, actions != NULL, memory));
    return r == 0 ? 0 : failed(&t, r);
}
