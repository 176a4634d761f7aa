/* preload_test.h - what the programs share that test the preload library: a listener on the given address, and pairs. */
#ifndef PRELOAD_TEST_H
#define PRELOAD_TEST_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(what) do { if (!(what)) { fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__, #what, errno); exit(1); } } \
    while (0)

enum { LIMIT_MS = 20000 };

static struct sockaddr_in here;          /* the listener's */
static int listener, a, b;               /* a connected pair */

static struct sockaddr *address(void) { return (struct sockaddr *)&here; }

static void make_pair(void)
{
    struct sockaddr_in peer, mine;
    socklen_t n = sizeof peer, m = sizeof mine;
    CHECK((a = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    CHECK(connect(a, address(), sizeof here) == 0);
    CHECK((b = accept(listener, (struct sockaddr *)&peer, &n)) >= 0);
    CHECK(n == sizeof peer && getsockname(a, (struct sockaddr *)&mine, &m) == 0);
    CHECK(peer.sin_port == mine.sin_port && peer.sin_addr.s_addr == here.sin_addr.s_addr);
}

static inline void end_pair(void)
{
    CHECK(close(a) == 0 && close(b) == 0);
    CHECK(close(a) == -1 && errno == EBADF);
}

static void make_listener(const char *where)
{
    socklen_t n = sizeof here;
    int one = 1;
    here.sin_family = AF_INET;
    CHECK(inet_pton(AF_INET, where, &here.sin_addr) == 1);
    CHECK((listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    CHECK(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    CHECK(bind(listener, address(), sizeof here) == 0 && listen(listener, 64) == 0);
    CHECK(getsockname(listener, address(), &n) == 0 && here.sin_port != 0);
}

#endif
