/* kernel_forwarding.c - what the kernel's forwarding costs between two veth pairs, on one core.
 *
 *   kernel_forwarding [--seconds S]
 *
 * Three network namespaces of their own, which needs root: this process is the router, a child on the same CPU sends
 * packets of 64 bytes (IPv4, UDP) in batches, the third drops them. A veth delivers on the CPU that sends, so sending,
 * forwarding and dropping share one core. The same is measured with forwarding off, where the router drops each packet
 * after looking up its route, turn about, and the difference of the medians is what counts: the sender's own work stays
 * out of the figure. Time is CPU time of the sending thread, in which the kernel does all of this.
 * Prints packets per second. Exit: 0 done, 2 usage, 3 not possible here (no root, no veth).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, PAYLOAD = 64 - 28, TURNS = 40 };

typedef struct {
	_Atomic int ready, go;         /* go: number of the turn to send; -1 ends */
	_Atomic int64_t sent, took_ns; /* of the turn */
} meeting_t;

static meeting_t *meeting;
static double seconds = 0.4;

static int64_t clock_of(clockid_t which)
{
	struct timespec t;

	clock_gettime(which, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t now_ns(void) { return clock_of(CLOCK_MONOTONIC); }

static void die(const char *what)
{
	perror(what);
	exit(3);
}

static void command(const char *format, ...)
{
	char text[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	if (system(text)) {
		fprintf(stderr, "failed: %s\n", text);
		exit(3);
	}
}

static void wait_until(_Atomic int *word, int value)
{
	int64_t end = now_ns() + 20000000000;

	while (*word != value) {
		if (now_ns() > end) {
			fprintf(stderr, "the other process says nothing\n");
			exit(1);
		}
		usleep(200);
	}
}

static void write_word(const char *path, int value)
{
	FILE *f = fopen(path, "w");

	if (!f || fprintf(f, "%d", value) < 0 || fclose(f))
		die(path);
}

/* Packets that left a device of this namespace. */
static int64_t packets_out(const char *device)
{
	char line[512], name[32];
	unsigned long long out = 0, found;
	FILE *f = fopen("/proc/net/dev", "r");

	if (!f)
		die("/proc/net/dev");
	while (fgets(line, sizeof line, f))
		if (sscanf(line, " %31[^:]: %*u %*u %*u %*u %*u %*u %*u %*u %*u %llu", name, &found) == 2 &&
		    !strcmp(name, device))
			out = found;
	fclose(f);
	return (int64_t)out;
}

static int ascending(const void *a, const void *b)
{
	return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static void send_for(int s, double how_long)
{
	static char payload[PAYLOAD];
	struct iovec piece = {payload, sizeof payload};
	struct mmsghdr batch[BATCH];
	int64_t end = now_ns() + (int64_t)(how_long * 1e9), cpu = clock_of(CLOCK_THREAD_CPUTIME_ID), n = 0;
	int r;

	memset(batch, 0, sizeof batch);
	for (int i = 0; i < BATCH; i++) {
		batch[i].msg_hdr.msg_iov = &piece;
		batch[i].msg_hdr.msg_iovlen = 1;
	}
	do {
		r = sendmmsg(s, batch, BATCH, 0);
		n += r > 0 ? r : 0;
	} while (now_ns() < end);
	meeting->sent = n;
	meeting->took_ns = clock_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
}

static void sender(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
	int s, turn = 1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWNET))
		die("unshare");
	meeting->ready = 1;
	wait_until(&meeting->ready, 2);
	command("ip address add 10.9.1.2/24 dev a0 && ip link set a0 up && ip route add default via 10.9.1.1");
	inet_pton(AF_INET, "10.9.2.99", &to.sin_addr);
	s = socket(AF_INET, SOCK_DGRAM, 0);
	if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to))
		die("connect");
	meeting->ready = 3;
	for (;; turn++) {
		wait_until(&meeting->go, turn);
		if (turn > TURNS)
			return;
		send_for(s, seconds / TURNS);
		meeting->ready = 3 + turn;
	}
}

static void receiver(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWNET))
		die("unshare");
	meeting->ready = 1;
	wait_until(&meeting->ready, 2);
	command("ip address add 10.9.2.2/24 dev b0 && ip link set b0 address 02:00:00:00:00:02 up");
	meeting->ready = 3;
	for (;;)
		pause();
}

/* A child in a namespace of its own, up to the point where it waits for its device. */
static pid_t start(void (*body)(void))
{
	pid_t pid;

	meeting->ready = 0;
	pid = fork();
	if (pid == 0) {
		body();
		_exit(0);
	}
	wait_until(&meeting->ready, 1);
	return pid;
}

int main(int argc, char **argv)
{
	double ns[2][TURNS / 2], forwarded, dropped;
	int64_t through;
	pid_t from, to;
	cpu_set_t have, one;

	if (argc == 3 && !strcmp(argv[1], "--seconds"))
		seconds = atof(argv[2]);
	else if (argc != 1)
		return fprintf(stderr, "kernel_forwarding [--seconds S]\n"), 2;
	meeting = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (meeting == MAP_FAILED)
		die("memory");
	CPU_ZERO(&one);
	if (!sched_getaffinity(0, sizeof have, &have))
		for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
			if (CPU_ISSET(cpu, &have)) {
				CPU_SET(cpu, &one);
				sched_setaffinity(0, sizeof one, &one);
				break;
			}
	signal(SIGCHLD, SIG_DFL);
	if (unshare(CLONE_NEWNET))
		die("unshare");
	to = start(receiver);
	command("ip link add vb type veth peer name b0 netns %d && ip address add 10.9.2.1/24 dev vb && "
		"ip link set vb up", (int)to);
	meeting->ready = 2;
	wait_until(&meeting->ready, 3);
	command("ip neigh add 10.9.2.99 lladdr 02:00:00:00:00:02 dev vb nud permanent");
	from = start(sender);
	command("ip link add va type veth peer name a0 netns %d && ip address add 10.9.1.1/24 dev va && "
		"ip link set va up", (int)from);
	meeting->ready = 2;
	wait_until(&meeting->ready, 3);
	for (int turn = 1; turn <= TURNS; turn++) {
		write_word("/proc/sys/net/ipv4/ip_forward", turn & 1);
		through = packets_out("vb");
		meeting->go = turn;
		wait_until(&meeting->ready, 3 + turn);
		through = packets_out("vb") - through;
		if (turn & 1 && through < meeting->sent - meeting->sent / 50) {
			fprintf(stderr, "%lld of %lld packets were forwarded\n", (long long)through,
				(long long)meeting->sent);
			exit(1);
		}
		ns[turn & 1][(turn - 1) / 2] = (double)meeting->took_ns / (double)meeting->sent;
	}
	meeting->go = TURNS + 1;
	waitpid(from, NULL, 0);
	kill(to, SIGKILL);
	waitpid(to, NULL, 0);
	qsort(ns[0], TURNS / 2, sizeof **ns, ascending);
	qsort(ns[1], TURNS / 2, sizeof **ns, ascending);
	forwarded = ns[1][TURNS / 4];
	dropped = ns[0][TURNS / 4];
	fprintf(stderr, "%.0f ns a packet sent and forwarded, %.0f ns sent and dropped at the router\n", forwarded, dropped);
	if (forwarded <= dropped)
		return 1;
	printf("%.0f\n", 1e9 / (forwarded - dropped));
	return 0;
}
