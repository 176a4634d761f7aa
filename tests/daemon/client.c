/* A program in C on a daemon's sockets: connects to an echo server, checks what comes back, and shares the socket with a
 * child that it forks. Arguments: the control socket, the port. */
#include "netstack/daemon_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#define CHECK(what) do { if (!(what)) { fprintf(stderr, "line %d: %s\n", __LINE__, #what); exit(1); } } while (0)

static const uint8_t LOOPBACK[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1};

static void send_all(nsd_socket_t *s, const uint8_t *data, size_t n)
{
    while (n) {
        ssize_t r = nsd_send(s, data, n);
        if (r == -EAGAIN) {
            CHECK(nsd_wait(s, POLLOUT, nsd_now_ns() + 20000000000, INT64_MAX) == NSD_READY_NOW);
            continue;
        }
        CHECK(r > 0);
        data += r;
        n -= (size_t)r;
    }
}

static void receive_all(nsd_socket_t *s, uint8_t *data, size_t n)
{
    while (n) {
        ssize_t r = nsd_recv(s, data, n, 0);
        if (r == -EAGAIN) {
            CHECK(nsd_wait(s, POLLIN, nsd_now_ns() + 20000000000, INT64_MAX) == NSD_READY_NOW);
            continue;
        }
        CHECK(r > 0);
        data += r;
        n -= (size_t)r;
    }
}

static void echo(nsd_socket_t *s, size_t n, uint8_t first)
{
    uint8_t *out = malloc(n), *in = calloc(1, n);
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(first + i * 7);
    for (size_t at = 0; at < n; at += 65536) {
        size_t part = n - at < 65536 ? n - at : 65536;
        send_all(s, out + at, part);
        receive_all(s, in + at, part);
    }
    CHECK(memcmp(out, in, n) == 0);
    free(out);
    free(in);
}

int main(int argc, char **argv)
{
    nsd_client_t client;
    nsd_socket_t s;
    char about[4096];
    size_t got;
    int status;
    CHECK(argc == 3);
    CHECK(nsd_join(&client, "/nowhere/at/all", 0, 0, about, sizeof about, &got) == -ENOENT);
    CHECK(nsd_join(&client, argv[1], 0, 20000, about, sizeof about, &got) == 0);
    CHECK(got > 0 && nsd_alive(&client));

    nsd_message_t m = {.type = NSD_OPEN, .a = 2, .b = 1};
    CHECK(nsd_obtain(&client, &m, &s) == 0);
    m = (nsd_message_t){.type = NSD_CONNECT, .port = (uint16_t)atoi(argv[2])};
    memcpy(m.address, LOOPBACK, 16);
    int r = nsd_ask(&s, &m, NULL, 0);
    CHECK(r == 0 || r == -EINPROGRESS);
    CHECK(nsd_wait(&s, POLLOUT, nsd_now_ns() + 20000000000, INT64_MAX) == NSD_READY_NOW);
    CHECK(nsd_streams(&s));
    CHECK(nsd_recv(&s, (uint8_t *)about, 1, 0) == -EAGAIN);
    echo(&s, 5, 1);
    echo(&s, 3000000, 2);

    struct pollfd p = {nsd_fileno(&s), POLLIN | POLLOUT, 0};
    CHECK(p.fd >= 0 && poll(&p, 1, 0) == 1 && p.revents == POLLOUT);
    send_all(&s, (const uint8_t *)"x", 1);
    p.events = POLLIN;
    CHECK(poll(&p, 1, 20000) == 1);
    receive_all(&s, (uint8_t *)about, 1);
    nsd_show(&s, 1);
    CHECK(poll(&p, 1, 0) == 0);

    m = (nsd_message_t){.type = NSD_RESERVE};
    CHECK(nsd_ask(&s, &m, NULL, 0) == 0);
    uint64_t key = m.key;
    pid_t child = fork();
    if (child == 0) {
        nsd_leave(&client);
        CHECK(nsd_join(&client, argv[1], key, 0, about, sizeof about, &got) == 0);
        echo(&s, 100000, 3);
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    echo(&s, 100000, 4);

    m = (nsd_message_t){.type = NSD_CLOSE};
    CHECK(nsd_ask(&s, &m, NULL, 0) == 0);
    nsd_closed(&s);
    CHECK(nsd_wait(&s, POLLIN, INT64_MAX, INT64_MAX) == NSD_DEAD);
    close(s.ready_fd);
    nsd_forget(&s);
    nsd_leave(&client);
    CHECK(!nsd_alive(&client));
    puts("all is well");
    return 0;
}
