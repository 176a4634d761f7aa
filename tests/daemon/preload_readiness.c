/* What poll and epoll say of sockets, as a program sees it that knows nothing of daemons; argument: an address that the
 * kernel does not have. */
#include "preload_test.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>

enum { MANY = 6000000, CHILDREN = 3, CALLS = 30 };

/* Writes pieces of odd sizes with pauses, so that bytes arrive at any moment of the reader's. */
static void *write_pieces(void *data)
{
    unsigned seed = 7;
    for (size_t at = 0; at < MANY;) {
        size_t n = (size_t)rand_r(&seed) % (rand_r(&seed) % 16 ? 3000 : 300000) + 1;
        ssize_t r = write(a, (char *)data + at, n < MANY - at ? n : MANY - at);
        CHECK(r > 0);
        at += (size_t)r;
        if (rand_r(&seed) % 8 == 0)
            poll(NULL, 0, 0);
    }
    return NULL;
}

/* epoll(7): a short count means that there is no more for now; the next byte is a new edge. */
static void a_short_read_is_followed_by_an_edge(void)
{
    static char data[MANY], got[65536];
    struct epoll_event e = {.events = EPOLLIN | EPOLLET};
    int epoll = epoll_create1(0);
    pthread_t writer;
    size_t in = 0;
    for (size_t i = 0; i < MANY; i++)
        data[i] = (char)(i * 31 >> 3);
    make_pair();
    CHECK(fcntl(b, F_SETFL, O_NONBLOCK) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, b, &e) == 0);
    pthread_create(&writer, NULL, write_pieces, data);
    while (in < MANY) {
        ssize_t r;
        CHECK(epoll_wait(epoll, &e, 1, LIMIT_MS) == 1);
        do {
            r = recv(b, got, sizeof got, 0);
            CHECK(r > 0 || (r < 0 && errno == EAGAIN));
            CHECK(r < 0 || memcmp(got, data + in, (size_t)r) == 0);
            in += r > 0 ? (size_t)r : 0;
        } while (r == sizeof got);
    }
    pthread_join(writer, NULL);
    close(epoll);
    end_pair();
}

static void *read_pieces(void *unused)
{
    static char got[100000];
    unsigned seed = 9;
    size_t in = 0;
    (void)unused;
    while (in < MANY) {
        ssize_t r = read(b, got, (size_t)rand_r(&seed) % sizeof got + 1);
        CHECK(r > 0);
        in += (size_t)r;
    }
    return NULL;
}

static void a_short_write_is_followed_by_an_edge(void)
{
    static char data[MANY];
    struct epoll_event e = {.events = EPOLLOUT | EPOLLET};
    int epoll = epoll_create1(0);
    pthread_t reader;
    size_t out = 0;
    make_pair();
    CHECK(fcntl(a, F_SETFL, O_NONBLOCK) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, a, &e) == 0);
    pthread_create(&reader, NULL, read_pieces, NULL);
    while (out < MANY) {
        ssize_t r;
        size_t n;
        CHECK(epoll_wait(epoll, &e, 1, LIMIT_MS) == 1);
        do {
            n = MANY - out < 50000 ? MANY - out : 50000;
            r = send(a, data + out, n, 0);
            CHECK(r > 0 || (r < 0 && errno == EAGAIN));
            out += r > 0 ? (size_t)r : 0;
        } while (r == (ssize_t)n && out < MANY);
    }
    pthread_join(reader, NULL);
    close(epoll);
    end_pair();
}

/* As wrk does it: each event is followed by a read that must find something. */
static void what_is_readable_can_be_read(void)
{
    static char data[MANY], got[4096];
    struct epoll_event e = {.events = EPOLLIN};
    int epoll = epoll_create1(0), n;
    pthread_t writer;
    size_t in = 0;
    make_pair();
    CHECK(fcntl(b, F_SETFL, O_NONBLOCK) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, b, &e) == 0);
    pthread_create(&writer, NULL, write_pieces, data);
    while (in < MANY) {
        CHECK(epoll_wait(epoll, &e, 1, LIMIT_MS) == 1);
        do {
            ssize_t r = read(b, got, sizeof got);
            CHECK(r > 0);
            in += (size_t)r;
            CHECK(ioctl(b, FIONREAD, &n) == 0);
        } while (n > 0);
    }
    pthread_join(writer, NULL);
    close(epoll);
    end_pair();
}

/* Nginx counts on it: having asked how much there is, it hears of what comes on top though it has not read all. */
static void what_comes_on_top_is_an_edge(void)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLET};
    int epoll = epoll_create1(0), n = 0;
    char got[16];
    make_pair();
    CHECK(fcntl(b, F_SETFL, O_NONBLOCK) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, b, &e) == 0);
    for (int round = 0; round < 20; round++) {
        CHECK(write(a, "0123456789", 10) == 10 && epoll_wait(epoll, &e, 1, LIMIT_MS) == 1);
        CHECK(read(b, got, 4) == 4 && epoll_wait(epoll, &e, 1, 5) == 0);
        CHECK(write(a, "abc", 3) == 3 && epoll_wait(epoll, &e, 1, LIMIT_MS) == 1);
        for (n = 0; n != 9;)
            CHECK(ioctl(b, FIONREAD, &n) == 0);
        CHECK(epoll_wait(epoll, &e, 1, 5) == 0);
        CHECK(write(a, "def", 3) == 3 && epoll_wait(epoll, &e, 1, LIMIT_MS) == 1 && recv(b, got, 16, 0) == 12);
        CHECK(recv(b, got, 16, 0) == -1 && errno == EAGAIN && epoll_wait(epoll, &e, 1, 5) == 0);
    }
    close(epoll);
    end_pair();
}

static void one_shot_and_a_duplicate(void)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT}, found;
    int epoll = epoll_create1(0), c;
    char got[8];
    make_pair();
    CHECK((c = dup(b)) >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, c, &e) == 0);
    CHECK(write(a, "one", 3) == 3 && epoll_wait(epoll, &found, 1, LIMIT_MS) == 1 && found.events == EPOLLIN);
    CHECK(epoll_wait(epoll, &found, 1, 20) == 0);                /* once */
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, c, &e) == 0 && epoll_wait(epoll, &found, 1, LIMIT_MS) == 1);
    CHECK(close(b) == 0 && read(c, got, 8) == 3 && epoll_ctl(epoll, EPOLL_CTL_MOD, c, &e) == 0);
    CHECK(epoll_wait(epoll, &found, 1, 20) == 0);                /* it was read by another descriptor */
    CHECK(write(a, "two", 3) == 3 && epoll_wait(epoll, &found, 1, LIMIT_MS) == 1 && read(c, got, 8) == 3);
    b = c;
    close(epoll);
    end_pair();
}

/* Children share a listener in epolls of their own, as servers with several workers do. */
static void children_share_a_listener(void)
{
    pid_t children[CHILDREN];
    int status, served = 0;
    CHECK(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    for (int i = 0; i < CHILDREN; i++)
        if ((children[i] = fork()) == 0) {
            struct epoll_event e = {.events = EPOLLIN | EPOLLEXCLUSIVE};
            int epoll = epoll_create1(0), n = 0, s;
            char order = 0;
            CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e) == 0);
            while (order != 'q') {
                CHECK(epoll_wait(epoll, &e, 1, LIMIT_MS) == 1);
                if ((s = accept4(listener, NULL, NULL, 0)) < 0) {
                    CHECK(errno == EAGAIN);
                    continue;
                }
                CHECK(read(s, &order, 1) == 1 && write(s, &order, 1) == 1 && close(s) == 0);
                n += order != 'q';
            }
            _exit(n);
        }
    for (int i = 0; i < CALLS + CHILDREN; i++) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        char order = i < CALLS ? 'x' : 'q', answer = 0;
        CHECK(connect(s, address(), sizeof here) == 0 && write(s, &order, 1) == 1);
        CHECK(read(s, &answer, 1) == 1 && answer == order && close(s) == 0);
    }
    for (int i = 0; i < CHILDREN; i++) {
        CHECK(waitpid(children[i], &status, 0) == children[i] && WIFEXITED(status));
        served += WEXITSTATUS(status);
    }
    CHECK(served == CALLS && fcntl(listener, F_SETFL, 0) == 0);
}

/* As poll(2) shows it under Linux: an error until it is told, and the hang-up. */
static void errors_and_hang_ups(void)
{
    struct pollfd p = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), .events = POLLIN | POLLOUT | POLLRDHUP};
    struct linger now = {1, 0};
    struct sockaddr_in nobody = here;
    socklen_t n = sizeof(int);
    int error = 0;
    char got[8];
    nobody.sin_port = htons(1);
    CHECK(connect(p.fd, (struct sockaddr *)&nobody, sizeof nobody) == -1);
    CHECK(errno == EINPROGRESS || errno == ECONNREFUSED);
    if (errno == EINPROGRESS) {
        CHECK(poll(&p, 1, LIMIT_MS) == 1 && p.revents == (POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP));
        CHECK(getsockopt(p.fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error == ECONNREFUSED);
        CHECK(poll(&p, 1, LIMIT_MS) == 1 && p.revents == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
    }
    close(p.fd);
    make_pair();                         /* a half-closed connection */
    p.fd = b;
    CHECK(shutdown(a, SHUT_WR) == 0 && poll(&p, 1, LIMIT_MS) == 1);
    for (int i = 0; i < 1000 && !(p.revents & POLLRDHUP); i++)
        CHECK(poll(&p, 1, LIMIT_MS) == 1 && usleep(1000) == 0);
    CHECK(p.revents == (POLLIN | POLLOUT | POLLRDHUP));
    end_pair();
    make_pair();                         /* a reset */
    p.fd = b;
    p.events = POLLRDHUP;
    CHECK(setsockopt(a, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0 && close(a) == 0);
    CHECK(poll(&p, 1, LIMIT_MS) == 1 && p.revents == (POLLRDHUP | POLLERR | POLLHUP));
    CHECK(read(b, got, 8) == -1 && errno == ECONNRESET && read(b, got, 8) == 0);
    CHECK(poll(&p, 1, LIMIT_MS) == 1 && p.revents == (POLLRDHUP | POLLHUP));
    CHECK(send(b, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE && close(b) == 0);
}

/* A refused datagram is an error of one call; the socket goes on. */
static void a_datagram_socket_survives_an_error(void)
{
    struct sockaddr_in nobody = here, peer = here;
    int x = socket(AF_INET, SOCK_DGRAM, 0), y = socket(AF_INET, SOCK_DGRAM, 0);
    struct pollfd p = {.fd = x, .events = POLLIN};
    socklen_t n = sizeof peer;
    char got[8];
    nobody.sin_port = htons(1);
    CHECK(connect(x, (struct sockaddr *)&nobody, sizeof nobody) == 0 && send(x, "?", 1, 0) == 1);
    CHECK(poll(&p, 1, LIMIT_MS) == 1 && p.revents & (POLLIN | POLLERR));
    CHECK(recv(x, got, 8, MSG_DONTWAIT) == -1 && errno == ECONNREFUSED);
    CHECK(recv(x, got, 8, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    CHECK(poll(&p, 1, 20) == 0);
    peer.sin_port = 0;
    CHECK(bind(y, (struct sockaddr *)&peer, n) == 0 && getsockname(y, (struct sockaddr *)&peer, &n) == 0);
    CHECK(connect(x, (struct sockaddr *)&peer, n) == 0 && getsockname(x, (struct sockaddr *)&nobody, &n) == 0);
    CHECK(sendto(y, "hello", 5, 0, (struct sockaddr *)&nobody, n) == 5);
    CHECK(poll(&p, 1, LIMIT_MS) == 1 && p.revents == POLLIN && recv(x, got, 8, 0) == 5);
    CHECK(poll(&p, 1, 20) == 0 && close(x) == 0 && close(y) == 0);
}

static void flags_of_accept(void)
{
    int s[2], c;
    for (int i = 0; i < 2; i++)
        CHECK((s[i] = socket(AF_INET, SOCK_STREAM, 0)) >= 0 && connect(s[i], address(), sizeof here) == 0);
    CHECK((c = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0);
    CHECK(fcntl(c, F_GETFD) == FD_CLOEXEC && fcntl(c, F_GETFL) == (O_RDWR | O_NONBLOCK) && close(c) == 0);
    CHECK((c = accept4(listener, NULL, NULL, 0)) >= 0 && fcntl(c, F_GETFD) == 0 && fcntl(c, F_GETFL) == O_RDWR);
    CHECK(close(c) == 0 && accept4(listener, NULL, NULL, 1) == -1 && errno == EINVAL);
    CHECK(fcntl(listener, F_GETFD) == FD_CLOEXEC && fcntl(s[0], F_GETFD) == 0);
    CHECK(close(s[0]) == 0 && close(s[1]) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    make_listener(argv[1]);
    a_short_read_is_followed_by_an_edge();
    a_short_write_is_followed_by_an_edge();
    what_is_readable_can_be_read();
    what_comes_on_top_is_an_edge();
    one_shot_and_a_duplicate();
    children_share_a_listener();
    errors_and_hang_ups();
    a_datagram_socket_survives_an_error();
    flags_of_accept();
    CHECK(close(listener) == 0);
    puts("all is well");
    return 0;
}
