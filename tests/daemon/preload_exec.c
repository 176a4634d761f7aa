/* Sockets that a program hands to the next one; argument: an address that the kernel does not have. It runs itself. */
#include "preload_test.h"

#include <spawn.h>

extern char **environ;

static const char *self;

/* The program that inherits `fd`: says in which way it came, hears a word and says what it heard. */
static int inherited(const char *how, int fd)
{
    struct timeval limit;
    char got[32] = "";
    socklen_t n = sizeof limit;
    int option = 0;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &n) == 0 && limit.tv_sec == 15);
    n = sizeof option;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &option, &n) == 0 && option == AF_INET);
    CHECK(getenv("NETSTACK_DAEMON_SOCKETS") == NULL);
    CHECK(write(fd, how, strlen(how)) == (ssize_t)strlen(how));
    CHECK(read(fd, got, sizeof got) == 5 && write(fd, got, 5) == 5);
    return 0;
}

static void talk(const char *how)
{
    struct timeval limit = {15, 0};
    char got[32];
    size_t n = strlen(how);
    CHECK(setsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    CHECK(recv(a, got, n, MSG_WAITALL) == (ssize_t)n && memcmp(got, how, n) == 0);
    CHECK(write(a, "hello", 5) == 5 && recv(a, got, 5, MSG_WAITALL) == 5 && memcmp(got, "hello", 5) == 0);
    CHECK(read(a, got, 1) == 0 && close(a) == 0);        /* the other program was the last who had it */
}

static void set_limit(void)
{
    struct timeval limit = {15, 0};
    CHECK(setsockopt(b, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
}

static void by(const char *how)
{
    char number[16];
    int status;
    pid_t child;
    make_pair();
    set_limit();
    CHECK(fcntl(a, F_SETFD, FD_CLOEXEC) == 0);
    sprintf(number, "%d", b);
    if ((child = strcmp(how, "vfork") == 0 ? vfork() : fork()) == 0) {
        char *argv[] = {(char *)self, (char *)how, number, NULL};
        if (strcmp(how, "execl") == 0)
            execl(self, self, how, number, NULL);
        else if (strcmp(how, "execle") == 0)
            execle(self, self, how, number, NULL, environ);
        else if (strcmp(how, "execlp") == 0)
            execlp(self, self, how, number, NULL);
        else if (strcmp(how, "execvp") == 0)
            execvp(self, argv);
        else
            execv(self, argv);
        _exit(9);
    }
    CHECK(child > 0 && close(b) == 0);
    talk(how);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* As inetd does it: standard input is a socket. */
static void spawned_as_standard_input(void)
{
    char *argv[] = {(char *)self, "spawn", "0", NULL};
    posix_spawn_file_actions_t actions;
    int status;
    pid_t child;
    make_pair();
    set_limit();
    CHECK(fcntl(a, F_SETFD, FD_CLOEXEC) == 0 && fcntl(b, F_SETFD, FD_CLOEXEC) == 0);
    CHECK(posix_spawn_file_actions_init(&actions) == 0 && posix_spawn_file_actions_adddup2(&actions, b, 0) == 0);
    CHECK(posix_spawn(&child, self, &actions, NULL, argv, environ) == 0 && close(b) == 0);
    CHECK(posix_spawn_file_actions_destroy(&actions) == 0);
    talk("spawn");
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void a_program_that_is_not_there(void)
{
    char *argv[] = {"nothing", NULL}, got[8];
    make_pair();
    CHECK(execve("/nowhere/nothing", argv, environ) == -1 && errno == ENOENT);
    CHECK(close(b) == 0 && read(a, got, 8) == 0 && close(a) == 0);       /* no reservation holds it */
}

static void what_closes_at_exec_does(void)
{
    char got[8];
    int status;
    pid_t child;
    make_pair();
    CHECK(fcntl(a, F_SETFD, FD_CLOEXEC) == 0 && fcntl(b, F_SETFD, FD_CLOEXEC) == 0);
    if ((child = fork()) == 0) {
        execlp("sleep", "sleep", "20", NULL);
        _exit(9);
    }
    CHECK(close(b) == 0 && read(a, got, 8) == 0 && close(a) == 0);       /* while it sleeps */
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
}

int main(int argc, char **argv)
{
    static const char *const ways[] = {"execv", "execl", "execle", "execlp", "execvp", "vfork"};
    if (argc == 3)
        return inherited(argv[1], atoi(argv[2]));
    CHECK(argc == 2);
    self = argv[0];
    make_listener(argv[1]);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        by(ways[i]);
    spawned_as_standard_input();
    a_program_that_is_not_there();
    what_closes_at_exec_does();
    CHECK(close(listener) == 0);
    puts("all is well");
    return 0;
}
