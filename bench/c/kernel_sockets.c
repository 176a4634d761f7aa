/* kernel_sockets.c - the kernel's sockets under the loads of the scoreboard, from C.
 *
 *   kernel_sockets bulk|pingpong|connect|messages|udp|segment [--link loopback|veth] [--mtu N]
 *                  [--seconds S] [--cc reno] [--chunk BYTES] [--blocking]
 *
 * Two processes, the sender or client on the first CPU of the affinity mask, its peer on the second; `segment`
 * has both ends in one thread. `veth`: two network namespaces of their own, every offload off, which needs root;
 * `--mtu` with `loopback` needs root too (a namespace whose lo has that MTU and no offload). Congestion control is
 * set on each socket by TCP_CONGESTION. Spins unless --blocking. Prints one number a line:
 * bulk Gbit/s; pingpong us a round trip; connect, messages, udp: a second; segment: ns of CPU per segment.
 * Exit: 0 done, 2 usage, 3 not possible here (no root, no veth).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 5001, LOOPBACK_ADDRESSES = 200, MESSAGE = 64 };

typedef struct {
	_Atomic int64_t ready, count, stop, ended_ns;
} meeting_t;

static meeting_t *meeting;
static const char *congestion = "reno", *test = "", *link_name = "loopback";
static int mtu, blocking;
static double seconds = 0.5;
static size_t chunk = 256 << 10;
static char *buffer;
static char server_address[32] = "127.0.0.1";

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

static void pin(int which)
{
	cpu_set_t have, one;

	CPU_ZERO(&one);
	if (sched_getaffinity(0, sizeof have, &have))
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &have) && which-- == 0) {
			CPU_SET(cpu, &one);
			sched_setaffinity(0, sizeof one, &one);
			return;
		}
}

/* ---- namespaces and devices ---- */

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

static void offload_off(const char *device)
{
	static const uint32_t commands[] = {ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO, ETHTOOL_SSG, ETHTOOL_STXCSUM};
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
		struct ethtool_value value = {.cmd = commands[i], .data = 0};
		struct ifreq request = {.ifr_data = (void *)&value};

		snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
		ioctl(s, SIOCETHTOOL, &request); /* a device may not have a knob: then there is nothing to turn off */
	}
	close(s);
}

static void make_lo(void)
{
	if (unshare(CLONE_NEWNET))
		die("unshare");
	command("ip link set lo mtu %d up", mtu);
	offload_off("lo");
}

/* ---- sockets ---- */

static int make_socket(int type)
{
	int s = socket(AF_INET, type, 0), one = 1;

	if (s < 0)
		die("socket");
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (type == SOCK_STREAM && setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, congestion, (socklen_t)strlen(congestion)))
		die("TCP_CONGESTION");
	return s;
}

static void set_nodelay(int s)
{
	int one = 1;

	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static struct sockaddr_in address(const char *text, int offset)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};

	inet_pton(AF_INET, text, &a.sin_addr);
	a.sin_addr.s_addr = htonl(ntohl(a.sin_addr.s_addr) + (uint32_t)offset);
	return a;
}

static int listening(void)
{
	int s = make_socket(SOCK_STREAM);
	struct sockaddr_in a = address("0.0.0.0", 0);

	if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 1024))
		die("listen");
	return s;
}

static int connected(int offset)
{
	int s = make_socket(SOCK_STREAM);
	struct sockaddr_in a = address(server_address, offset);

	if (connect(s, (struct sockaddr *)&a, sizeof a))
		die("connect");
	return s;
}

static ssize_t receive(int s, void *data, size_t n)
{
	for (;;) {
		ssize_t got = recv(s, data, n, blocking ? 0 : MSG_DONTWAIT);

		if (got >= 0 || errno != EAGAIN)
			return got;
	}
}

/* ---- the two sides ---- */

static int is(const char *name) { return !strcmp(test, name); }

static void server(void)
{
	int64_t count = 0;
	ssize_t n;

	if (is("udp")) {
		int s = make_socket(SOCK_DGRAM), size = 4 << 20;
		struct sockaddr_in a = address("0.0.0.0", 0);

		setsockopt(s, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
		if (bind(s, (struct sockaddr *)&a, sizeof a))
			die("bind");
		meeting->ready = 1;
		while (!meeting->stop)
			if (recv(s, buffer, chunk, MSG_DONTWAIT) > 0)
				count++;
		meeting->ended_ns = now_ns();
		meeting->count = count;
		meeting->ready = 2;
		return;
	}
	int listener = listening();
	meeting->ready = 1;
	if (is("connect")) {
		while (!meeting->stop) {
			struct pollfd p = {.fd = listener, .events = POLLIN};
			int s = accept4(listener, NULL, NULL, 0);

			if (s < 0) {
				poll(&p, 1, 100);
				continue;
			}
			while (receive(s, buffer, MESSAGE) > 0)
				;
			close(s);
		}
		return;
	}
	int s = accept(listener, NULL, NULL);
	if (is("pingpong")) {
		set_nodelay(s);
		while ((n = receive(s, buffer, MESSAGE)) > 0)
			if (send(s, buffer, (size_t)n, MSG_NOSIGNAL) != n)
				break;
		return;
	}
	while ((n = receive(s, buffer, chunk)) > 0)
		count += n;
	meeting->ended_ns = now_ns();
	meeting->count = count;
	meeting->ready = 2;
}

static double client(void)
{
	int64_t start, end;
	int s;

	while (!meeting->ready)
		sched_yield();
	if (is("connect")) {
		int64_t n = 0;

		start = now_ns();
		end = start + (int64_t)(seconds * 1e9);
		while (now_ns() < end) {
			s = connected(strcmp(link_name, "loopback") ? 0 : (int)(n % LOOPBACK_ADDRESSES));
			shutdown(s, SHUT_WR);
			if (receive(s, buffer, MESSAGE) != 0)
				die("recv");
			close(s);
			n++;
		}
		meeting->stop = 1;
		return (double)n * 1e9 / (double)(now_ns() - start);
	}
	if (is("udp")) {
		struct sockaddr_in a = address(server_address, 0);

		s = make_socket(SOCK_DGRAM);
		if (connect(s, (struct sockaddr *)&a, sizeof a))
			die("connect");
		start = now_ns();
		end = start + (int64_t)(seconds * 1e9);
		while (now_ns() < end)
			for (int i = 0; i < 16; i++)
				if (send(s, buffer, MESSAGE, 0) < 0 && errno != ECONNREFUSED && errno != ENOBUFS)
					die("send");
		meeting->stop = 1;
		while (meeting->ready != 2)
			sched_yield();
		return (double)meeting->count * 1e9 / (double)(meeting->ended_ns - start);
	}
	s = connected(0);
	if (is("pingpong")) {
		int64_t n = 0;

		set_nodelay(s);
		start = now_ns();
		end = start + (int64_t)(seconds * 1e9);
		while (now_ns() < end) {
			if (send(s, buffer, MESSAGE, 0) != MESSAGE)
				die("send");
			for (ssize_t got = 0; got < MESSAGE;)
				got += receive(s, buffer, MESSAGE);
			n++;
		}
		return (double)(now_ns() - start) / 1e3 / (double)n;
	}
	size_t size = chunk;
	if (is("messages")) {
		set_nodelay(s);
		size = MESSAGE;
	}
	start = now_ns();
	end = start + (int64_t)(seconds * 1e9);
	while (now_ns() < end)
		for (size_t k = 0; k < (size == MESSAGE ? 16 : 1); k++)
			if (send(s, buffer, size, 0) < 0)
				die("send");
	shutdown(s, SHUT_WR);
	while (meeting->ready != 2)
		sched_yield();
	double took = (double)(meeting->ended_ns - start);
	return is("messages") ? (double)meeting->count / MESSAGE * 1e9 / took : (double)meeting->count * 8 / took;
}

/* Both ends in one thread: CPU time of this thread, softirqs included, per segment of a full MSS. */
static double segment(void)
{
	int listener = listening(), out = connected(0), into = accept(listener, NULL, NULL);
	int64_t end = now_ns() + (int64_t)(seconds * 1e9), cpu, bytes = 0;
	struct tcp_info info;
	socklen_t size = sizeof info;
	size_t piece = chunk < 65536 ? chunk : 65536;

	for (int stage = 0; stage < 2; stage++) {
		bytes = 0;
		cpu = clock_of(CLOCK_THREAD_CPUTIME_ID);
		while (bytes < 1 << 23 || (stage && now_ns() < end)) {
			ssize_t sent = send(out, buffer, piece, MSG_DONTWAIT), got;

			if (sent < 0 && errno != EAGAIN)
				die("send");
			while ((got = recv(into, buffer, chunk, MSG_DONTWAIT)) > 0)
				bytes += got;
		}
		cpu = clock_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
	}
	if (getsockopt(out, IPPROTO_TCP, TCP_INFO, &info, &size))
		die("TCP_INFO");
	return (double)cpu / ((double)bytes / info.tcpi_snd_mss);
}

int main(int argc, char **argv)
{
	int64_t patience;
	pid_t child;

	if (argc < 2)
		return fprintf(stderr, "kernel_sockets TEST [OPTION ...]\n"), 2;
	test = argv[1];
	for (int i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "--blocking"))
			blocking = 1;
		else if (i + 1 == argc)
			return fprintf(stderr, "%s: needs a value\n", argv[i]), 2;
		else if (!strcmp(argv[i], "--link"))
			link_name = argv[++i];
		else if (!strcmp(argv[i], "--mtu"))
			mtu = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--seconds"))
			seconds = atof(argv[++i]);
		else if (!strcmp(argv[i], "--cc"))
			congestion = argv[++i];
		else if (!strcmp(argv[i], "--chunk"))
			chunk = strtoul(argv[++i], NULL, 0);
		else
			return fprintf(stderr, "unknown option %s\n", argv[i]), 2;
	}
	signal(SIGPIPE, SIG_IGN);
	meeting = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	buffer = calloc(1, chunk < 65536 ? 65536 : chunk);
	if (meeting == MAP_FAILED || !buffer)
		die("memory");
	int veth = !strcmp(link_name, "veth");
	if (mtu && !veth)
		make_lo();
	if (is("segment")) {
		pin(0);
		printf("%.1f\n", segment());
		return 0;
	}
	if (veth && unshare(CLONE_NEWNET))
		die("unshare");
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (veth) {
			if (unshare(CLONE_NEWNET))
				die("unshare");
			meeting->ready = -1;
			while (meeting->ready == -1)
				usleep(1000);
			command("ip address add 10.9.0.2/24 dev veth1 && ip link set veth1 mtu %d up", mtu ? mtu : 1500);
			offload_off("veth1");
		}
		pin(1);
		server();
		_exit(0);
	}
	if (veth) {
		while (meeting->ready != -1)
			usleep(1000);
		command("ip link add veth0 type veth peer name veth1 netns %d", (int)child);
		command("ip address add 10.9.0.1/24 dev veth0 && ip link set veth0 mtu %d up", mtu ? mtu : 1500);
		offload_off("veth0");
		strcpy(server_address, "10.9.0.2");
		meeting->ready = 0;
	}
	pin(0);
	double value = client();
	patience = now_ns() + 2000000000;
	while (waitpid(child, NULL, WNOHANG) == 0)
		if (now_ns() > patience) {
			kill(child, SIGKILL);
			waitpid(child, NULL, 0);
			break;
		} else {
			usleep(1000);
		}
	printf("%.3f\n", value);
	return 0;
}
