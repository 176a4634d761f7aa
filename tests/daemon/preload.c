/* An ordinary program of sockets, which knows nothing of daemons; argument: an address that the kernel does not have. */
#include "preload_test.h"

#include <netinet/tcp.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/uio.h>

enum { MANY = 3000000 };

extern char **environ;

static void *write_many(void *data)
{
    size_t at = 0;
    while (at < MANY) {
        ssize_t r = write(a, (char *)data + at, MANY - at);
        CHECK(r > 0);
        at += (size_t)r;
    }
    CHECK(shutdown(a, SHUT_WR) == 0);
    return NULL;
}

static char *random_bytes(void)
{
    char *data = malloc(MANY);
    for (int i = 0; i < MANY; i++)
        data[i] = (char)(random() >> 4);
    return data;
}

static void blocking_streams(void)
{
    char *data = random_bytes(), *got = malloc(MANY);
    pthread_t writer;
    size_t at = 0;
    ssize_t r;
    make_pair();
    pthread_create(&writer, NULL, write_many, data);
    while ((r = read(b, got + at, at + 50000 < MANY ? 50000 : MANY - at)) > 0)
        at += (size_t)r;
    CHECK(r == 0 && at == MANY && memcmp(data, got, MANY) == 0);
    pthread_join(writer, NULL);
    CHECK(send(b, "back", 4, 0) == 4 && recv(a, got, 9, 0) == 4);
    end_pair();
    free(data);
    free(got);
}

/* Edge-triggered, both ends not blocking, in one thread. */
static void epoll_streams(void)
{
    char *data = random_bytes(), *got = malloc(MANY);
    struct epoll_event e = {.events = EPOLLOUT | EPOLLET}, found[2];
    int epoll = epoll_create1(0), one = 1;
    size_t out = 0, in = 0;
    make_pair();
    CHECK(ioctl(a, FIONBIO, &one) == 0 && fcntl(b, F_SETFL, O_NONBLOCK) == 0);
    CHECK(fcntl(a, F_GETFL) == (O_RDWR | O_NONBLOCK));
    e.data.fd = a;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, a, &e) == 0);
    e = (struct epoll_event){.events = EPOLLIN | EPOLLET, .data.fd = b};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, b, &e) == 0);
    CHECK(read(b, got, 1) == -1 && errno == EAGAIN);
    while (in < MANY) {
        int n = epoll_wait(epoll, found, 2, LIMIT_MS);
        ssize_t r = 1;
        CHECK(n > 0);
        for (int i = 0; i < n; i++) {
            if (found[i].data.fd == a)
                while (out < MANY && (r = send(a, data + out, MANY - out, 0)) > 0)
                    out += (size_t)r;
            else
                while (in < MANY && (r = recv(b, got + in, MANY - in, 0)) > 0)
                    in += (size_t)r;
            CHECK(r > 0 || errno == EAGAIN);
        }
    }
    CHECK(memcmp(data, got, MANY) == 0);
    close(epoll);
    end_pair();
    free(data);
    free(got);
}

static void not_blocking_connect(void)
{
    struct pollfd p = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), .events = POLLOUT};
    struct sockaddr_in nobody = here;
    int error = -1;
    socklen_t n = sizeof error;
    CHECK(connect(p.fd, address(), sizeof here) == 0 || errno == EINPROGRESS);
    CHECK(poll(&p, 1, LIMIT_MS) == 1 && p.revents == POLLOUT);
    CHECK(getsockopt(p.fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error == 0);
    CHECK(accept(listener, NULL, NULL) >= 0 && close(p.fd) == 0);
    nobody.sin_port = htons(1);
    p.fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(p.fd, (struct sockaddr *)&nobody, sizeof nobody) == -1 && errno == ECONNREFUSED);
    close(p.fd);
}

static void parts_timeouts_and_lengths(void)
{
    char one[3], two[9];
    struct iovec out[3] = {{"abc", 3}, {"", 0}, {"defgh", 5}}, in[2] = {{one, 3}, {two, 9}};
    struct timeval soon = {0, 20000}, shown;
    struct msghdr m = {.msg_iov = in, .msg_iovlen = 2};
    socklen_t n = sizeof shown;
    fd_set set;
    int waiting = 0;
    make_pair();
    CHECK(writev(a, out, 3) == 8);
    FD_ZERO(&set);
    FD_SET(b, &set);
    CHECK(select(b + 1, &set, NULL, NULL, NULL) == 1 && FD_ISSET(b, &set));
    CHECK(ioctl(b, FIONREAD, &waiting) == 0 && waiting == 8);
    CHECK(recv(b, two, 2, MSG_PEEK) == 2 && memcmp(two, "ab", 2) == 0);
    CHECK(recvmsg(b, &m, 0) == 8 && memcmp(one, "abc", 3) == 0 && memcmp(two, "defgh", 5) == 0);
    CHECK(setsockopt(b, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon) == 0);
    CHECK(getsockopt(b, SOL_SOCKET, SO_RCVTIMEO, &shown, &n) == 0 && shown.tv_usec == 20000);
    CHECK(recv(b, one, 1, 0) == -1 && errno == EAGAIN);
    CHECK(recv(b, one, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    end_pair();
}

static void duplicates_and_stdio(void)
{
    char line[64];
    int c, d = open("/dev/null", O_RDONLY);
    FILE *in, *out;
    make_pair();
    CHECK((c = dup(a)) >= 0 && dup2(b, d) == d && close(a) == 0 && close(b) == 0);
    CHECK((in = fdopen(c, "r")) != NULL && (out = fdopen(dup(c), "w")) != NULL);
    CHECK(fileno(in) == c && fileno(out) >= 0 && fileno(out) != c);
    CHECK(write(d, "a line\nmore\n", 12) == 12);
    CHECK(fgets(line, sizeof line, in) && strcmp(line, "a line\n") == 0);
    CHECK(fputs("answer", out) >= 0 && fclose(out) == 0 && read(d, line, 64) == 6);
    CHECK(fclose(in) == 0 && read(d, line, 64) == 0);
    CHECK(dup2(STDERR_FILENO, d) == d && fcntl(d, F_GETFD) >= 0 && close(d) == 0);
}

static void files(const char *self)
{
    static char part[70000], got[70000];
    int file = open(self, O_RDONLY);
    off_t at = 100;
    ssize_t n, r;
    make_pair();
    n = pread(file, part, 10000, 100);
    CHECK(n == 10000 && sendfile(a, file, &at, 10000) == n && at == 10100);
    for (ssize_t have = 0; have < n; have += r)
        CHECK((r = recv(b, got + have, (size_t)(n - have), 0)) > 0);
    CHECK(memcmp(part, got, (size_t)n) == 0 && close(file) == 0);
    end_pair();
}

static void children(void)
{
    char *argv[] = {"true", NULL}, got[8];
    int status;
    pid_t child;
    make_pair();
    CHECK((child = vfork()) >= 0);
    if (child == 0) {
        close(a);
        close(b);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(posix_spawnp(&child, "true", NULL, NULL, argv, environ) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK((child = fork()) >= 0);
    if (child == 0) {
        close(a);
        CHECK(read(b, got, 8) == 4 && write(b, "pong", 4) == 4);
        exit(0);
    }
    close(b);
    CHECK(write(a, "ping", 4) == 4 && read(a, got, 8) == 4 && memcmp(got, "pong", 4) == 0);
    CHECK(read(a, got, 8) == 0);                             /* the child was the last who had it */
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(a);
}

static void broken_pipe(void)
{
    int status;
    pid_t child;
    make_pair();
    CHECK(shutdown(a, SHUT_WR) == 0);
    CHECK(send(a, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
    if ((child = fork()) == 0) {
        write(a, "x", 1);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
    end_pair();
}

static void datagrams(void)
{
    struct sockaddr_in bound = here, from;
    socklen_t n = sizeof bound;
    char got[4000], sent[3000];
    int x = socket(AF_INET, SOCK_DGRAM, 0), y = socket(AF_INET, SOCK_DGRAM, 0), waiting;
    struct pollfd p = {.fd = y, .events = POLLIN};
    struct iovec parts[2] = {{sent, 1000}, {sent + 1000, 2000}};
    struct msghdr m = {.msg_iov = parts, .msg_iovlen = 2};
    memset(sent, 'u', sizeof sent);
    bound.sin_port = 0;
    CHECK(bind(y, (struct sockaddr *)&bound, n) == 0 && getsockname(y, (struct sockaddr *)&bound, &n) == 0);
    CHECK(poll(&p, 1, 0) == 0);
    CHECK(sendto(x, sent, 30, 0, (struct sockaddr *)&bound, n) == 30);
    CHECK(poll(&p, 1, LIMIT_MS) == 1 && ioctl(y, FIONREAD, &waiting) == 0 && waiting == 30);
    n = sizeof from;
    CHECK(recvfrom(y, got, 10, MSG_TRUNC, (struct sockaddr *)&from, &n) == 30);
    CHECK(from.sin_addr.s_addr == here.sin_addr.s_addr && n == sizeof from);
    CHECK(connect(y, (struct sockaddr *)&from, n) == 0 && sendmsg(y, &m, 0) == 3000);
    CHECK(read(x, got, sizeof got) == 3000 && memcmp(got, sent, 3000) == 0);
    CHECK(recv(x, got, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    CHECK(close(x) == 0 && close(y) == 0);
}

static void nothing(int number) { (void)number; }

static void *write_later(void *unused)
{
    (void)unused;
    CHECK(poll(NULL, 0, 60) == 0 && write(a, "late", 4) == 4);
    return NULL;
}

/* A signal every 10 ms, while a thread waits for 60: SA_RESTART says whether the call goes on. */
static void signals(void)
{
    struct sigaction on = {.sa_handler = nothing}, before;
    struct itimerval every = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
    struct timeval second = {5, 0};
    pthread_t writer;
    sigset_t alarm;
    char got[8];
    make_pair();
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarm, NULL);
    pthread_create(&writer, NULL, write_later, NULL);
    pthread_sigmask(SIG_UNBLOCK, &alarm, NULL);
    on.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGALRM, &on, &before) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0);
    CHECK(read(b, got, 8) == 4);
    on.sa_flags = 0;
    CHECK(sigaction(SIGALRM, &on, NULL) == 0);
    CHECK(read(b, got, 8) == -1 && errno == EINTR);
    CHECK(accept(listener, NULL, NULL) == -1 && errno == EINTR);
    on.sa_flags = SA_RESTART;            /* a call with a time limit is not taken up again: signal(7) */
    CHECK(sigaction(SIGALRM, &on, NULL) == 0 && setsockopt(b, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second) == 0);
    CHECK(read(b, got, 8) == -1 && errno == EINTR);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0 && sigaction(SIGALRM, &before, NULL) == 0);
    pthread_join(writer, NULL);
    end_pair();
}

/* Servers cork each answer. */
static void corked(void)
{
    int on = 1, told = 0;
    socklen_t n = sizeof told;
    char got[16];
    make_pair();
    CHECK(setsockopt(a, IPPROTO_TCP, TCP_CORK, &on, sizeof on) == 0);
    CHECK(getsockopt(a, IPPROTO_TCP, TCP_CORK, &told, &n) == 0 && told == 1 && n == sizeof told);
    CHECK(send(a, "head", 4, 0) == 4 && send(a, "body", 4, 0) == 4);
    on = 0;
    CHECK(setsockopt(a, IPPROTO_TCP, TCP_CORK, &on, sizeof on) == 0);
    CHECK(recv(b, got, 8, MSG_WAITALL) == 8 && memcmp(got, "headbody", 8) == 0);
    CHECK(setsockopt(a, IPPROTO_TCP, TCP_CORK, &on, 2) == -1 && errno == EINVAL);
    end_pair();
}

/* MSG_TRUNC on a stream throws away; splice moves between a pipe and a socket. */
static void thrown_away_and_spliced(void)
{
    char got[16];
    int pipes[2];
    make_pair();
    CHECK(send(a, "0123456789", 10, 0) == 10);
    CHECK(recv(b, NULL, 4, MSG_TRUNC | MSG_WAITALL) == 4 && recv(b, got, 16, 0) == 6 && memcmp(got, "456789", 6) == 0);
    CHECK(pipe(pipes) == 0 && write(pipes[1], "by a pipe", 9) == 9);
    CHECK(splice(pipes[0], NULL, a, NULL, 100, 0) == 9);
    CHECK(splice(b, NULL, pipes[1], NULL, 4, SPLICE_F_MOVE) == 4 && read(pipes[0], got, 16) == 4);
    CHECK(memcmp(got, "by a", 4) == 0 && splice(b, NULL, pipes[1], NULL, 100, 0) == 5);
    CHECK(read(pipes[0], got, 16) == 5 && memcmp(got, " pipe", 5) == 0);
    CHECK(fcntl(b, F_SETFL, O_NONBLOCK) == 0 && splice(b, NULL, pipes[1], NULL, 100, 0) == -1 && errno == EAGAIN);
    CHECK(fcntl(b, F_SETFL, 0) == 0);
    CHECK(splice(b, NULL, a, NULL, 100, 0) == -1 && errno == EINVAL);        /* one of them is a pipe */
    CHECK(shutdown(a, SHUT_WR) == 0 && splice(b, NULL, pipes[1], NULL, 100, 0) == 0);
    close(pipes[0]);
    close(pipes[1]);
    end_pair();
}

static void the_kernel_s_own(void)
{
    char got[4];
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && send(pair[0], "unix", 4, 0) == 4);
    CHECK(recv(pair[1], got, 4, 0) == 4 && close(pair[0]) == 0 && close(pair[1]) == 0);
    for (int fd = 3; fd < 2000; fd++)    /* as programs do that become daemons */
        if (fd != listener)
            close(fd);
}

int main(int argc, char **argv)
{
    socklen_t n = sizeof(int);
    int value = 0;
    CHECK(argc == 2);
    make_listener(argv[1]);
    CHECK(getsockopt(listener, SOL_SOCKET, SO_TYPE, &value, &n) == 0 && value == SOCK_STREAM && n == sizeof value);
    blocking_streams();
    the_kernel_s_own();
    epoll_streams();
    not_blocking_connect();
    parts_timeouts_and_lengths();
    duplicates_and_stdio();
    files(argv[0]);
    children();
    broken_pipe();
    datagrams();
    signals();
    corked();
    thrown_away_and_spliced();
    CHECK(close(listener) == 0);
    puts("all is well");
    return 0;
}
