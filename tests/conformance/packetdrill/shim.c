/*
 * The stack under packetdrill: a shared object of the form packetdrill loads with --so_filename.
 *
 * Three things live here and nothing else: the virtual clock, the calls that block, and the border between C calls and
 * the Python of backend.py, which holds the Stack. There is no protocol logic, and no packet is changed.
 *
 * The clock stands still unless packetdrill moves it: by sleeping, by waiting for a packet, and by one microsecond for
 * each look at the clock, because packetdrill spins on it. Only one of its two threads does so at a time: the one that
 * makes system calls waits for the time of a call while the main thread waits for it.
 *
 * The same object must be preloaded (LD_PRELOAD): that makes libpython's names visible to extension modules, and it
 * catches the getsockopt() of libc, which packetdrill uses for the data of its %{ }% assertions.
 *
 * Environment: PD_SHIM_PATH (sys.path, ':' between), PD_SHIM_HOME (the interpreter's prefix). The flags given with
 * --so_flags go to backend.py as they are.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "packetdrill.h"

#define NEVER INT64_MAX
#define MAX_FD 1024
#define MAX_PARKED 4

enum { EVENT_IN = 1, EVENT_OUT = 4 };

/* ---- state, all of it under one mutex --------------------------------------------------------------------------- */

struct parked {                       /* a call that waits in a thread of its own */
	const char *question;             /* the backend's method that says whether it may go on */
	PyObject *args;
	int64_t until_us;
	int released;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int64_t now_us = 1000000000000LL;
static int64_t deadline_us = NEVER;   /* when the stack has something to do */
static PyObject *backend;
static pid_t main_thread;
static uint8_t ours[MAX_FD];          /* 1: a descriptor that backend.py gave out */
static uint8_t nonblocking[MAX_FD];
static struct parked *waiting[MAX_PARKED];
static int unstamped;                 /* released calls that have not read the clock yet */
static __thread int just_released;

static int is_ours(int fd)
{
	return fd >= 0 && fd < MAX_FD && ours[fd];
}

static int on_main_thread(void)
{
	return syscall(SYS_gettid) == main_thread;
}

/* ---- into Python ------------------------------------------------------------------------------------------------ */

/* One call of the backend at the present time; takes over args. The result, or minus an errno. Needs the GIL. */
static long invoke(const char *method, PyObject *args)
{
	long long result = -EIO, deadline = -1;
	PyObject *out = NULL;

	if (args)
		out = PyObject_CallMethod(backend, "call", "LsN", (long long)now_us, method, args);
	if (out && PyArg_ParseTuple(out, "LL", &result, &deadline))
		deadline_us = deadline < 0 ? NEVER : deadline;
	if (PyErr_Occurred())
		PyErr_Print();
	Py_XDECREF(out);
	return result;
}

static PyObject *bytes_in(const void *p, size_t n)
{
	return PyMemoryView_FromMemory(n ? (char *)p : (char *)"", n, PyBUF_READ);
}

static PyObject *bytes_out(void *p, size_t n)
{
	static char nothing[1];

	return PyMemoryView_FromMemory(n ? (char *)p : nothing, n, PyBUF_WRITE);
}

/* ---- clock and blocking ----------------------------------------------------------------------------------------- */

static int may_go_on(struct parked *w)
{
	if (now_us >= w->until_us)
		return 1;
	Py_INCREF(w->args);
	return invoke(w->question, w->args) != 0;
}

/*
 * Called with the GIL whenever the stack may have changed. Calls that may go on are released, and each takes its
 * time stamp before virtual time moves again: otherwise the scheduler of this machine would show in the results.
 */
static void settle(void)
{
	int released = 0;

	for (int i = 0; i < MAX_PARKED; i++) {
		struct parked *w = waiting[i];

		if (w && !w->released && may_go_on(w)) {
			w->released = 1;
			unstamped++;
			released = 1;
		}
	}
	if (!released)
		return;
	pthread_cond_broadcast(&changed);
	Py_BEGIN_ALLOW_THREADS
	while (unstamped)
		pthread_cond_wait(&changed, &mutex);
	Py_END_ALLOW_THREADS
}

static int64_t next_event(void)
{
	int64_t at = deadline_us;

	for (int i = 0; i < MAX_PARKED; i++)
		if (waiting[i] && !waiting[i]->released && waiting[i]->until_us < at)
			at = waiting[i]->until_us;
	return at;
}

/* Move the clock to t, with everything that is due on the way at its own time. Needs the GIL. */
static void run_until(int64_t t)
{
	for (int64_t at; (at = next_event()) <= t; ) {
		int64_t before = now_us;

		if (at > now_us)
			now_us = at;
		invoke("advance", PyTuple_New(0));
		settle();
		if (next_event() <= at && now_us == before)
			break;                    /* nothing came of it: never spin */
	}
	if (t > now_us)
		now_us = t;
}

/* Whether nothing is due within one tick of the clock: then it may move without asking Python. */
static int is_quiet(int64_t t)
{
	return next_event() > t;
}

/* Wait until question(args) holds. 0, or -EDEADLK when nothing can ever make it hold. Needs the GIL; takes over args. */
static int wait_for(const char *question, PyObject *args, int64_t until_us)
{
	struct parked w = { question, args, until_us, 0 };
	int slot = 0, result = 0;

	if (on_main_thread()) {           /* it owns the clock: run it forward */
		for (int64_t at; !may_go_on(&w); run_until(at)) {
			at = next_event() < until_us ? next_event() : until_us;
			if (at == NEVER) {
				result = -EDEADLK;
				break;
			}
		}
		Py_DECREF(args);
		return result;
	}
	if (may_go_on(&w)) {
		Py_DECREF(args);
		return 0;
	}
	while (slot < MAX_PARKED && waiting[slot])
		slot++;
	if (slot == MAX_PARKED) {
		Py_DECREF(args);
		return -EDEADLK;
	}
	waiting[slot] = &w;
	Py_BEGIN_ALLOW_THREADS
	while (!w.released)               /* procfs shows this thread asleep: so packetdrill knows that the call blocks */
		pthread_cond_wait(&changed, &mutex);
	Py_END_ALLOW_THREADS
	waiting[slot] = NULL;
	just_released = 1;
	Py_DECREF(args);
	return 0;
}

/* Every call of the interface stands between these two. */
#define ENTER() \
	pthread_mutex_lock(&mutex); \
	PyGILState_STATE gil = PyGILState_Ensure()

static long leave(PyGILState_STATE gil, long result)
{
	if (on_main_thread())
		settle();
	PyGILState_Release(gil);
	pthread_mutex_unlock(&mutex);
	if (result >= 0)
		return result;
	errno = (int)-result;
	return -1;
}

/* A call that is tried again after each wait. Takes over args; needs the GIL. */
static long until_done(const char *method, PyObject *args, int fd, int event, int dont_wait)
{
	long r;

	for (;;) {
		Py_INCREF(args);
		r = invoke(method, args);
		if (r != -EAGAIN || dont_wait || nonblocking[fd])
			break;
		r = wait_for("ready", Py_BuildValue("(ii)", fd, event), NEVER);
		if (r < 0)
			break;
	}
	Py_DECREF(args);
	return r;
}

/* ---- the network device and the clock --------------------------------------------------------------------------- */

static int shim_netdev_send(void *u, const void *packet, size_t n)
{
	(void)u;
	ENTER();
	return (int)leave(gil, invoke("input", Py_BuildValue("(N)", bytes_in(packet, n))));
}

/* The next packet out. When the stack will never send one, nothing: packetdrill then fails the script cleanly. */
static int shim_netdev_receive(void *u, void *buffer, size_t *n, long long *time_us)
{
	(void)u;
	long got;
	ENTER();
	for (;;) {
		int64_t at;

		got = invoke("output", Py_BuildValue("(NN)", bytes_out(buffer, *n), bytes_out(time_us, sizeof(*time_us))));
		if (got)
			break;
		at = next_event();
		if (at == NEVER)
			break;
		run_until(at);
	}
	*n = got > 0 ? (size_t)got : 0;
	leave(gil, 0);
	return 0;
}

static int shim_usleep(void *u, useconds_t us)
{
	(void)u;
	ENTER();
	settle();
	run_until(now_us + us);
	return (int)leave(gil, 0);
}

static int shim_gettimeofday(void *u, struct timeval *tv, struct timezone *tz)
{
	(void)u;
	(void)tz;
	pthread_mutex_lock(&mutex);
	if (just_released) {
		just_released = 0;
		unstamped--;
		pthread_cond_broadcast(&changed);
	} else if (is_quiet(now_us + 1)) {
		now_us++;
	} else {
		PyGILState_STATE gil = PyGILState_Ensure();

		run_until(now_us + 1);
		PyGILState_Release(gil);
	}
	tv->tv_sec = now_us / 1000000;
	tv->tv_usec = now_us % 1000000;
	pthread_mutex_unlock(&mutex);
	return 0;
}

/* ---- making and ending sockets ---------------------------------------------------------------------------------- */

static int keep(long fd, int no_block)
{
	if (fd >= MAX_FD)
		return -EMFILE;
	if (fd >= 0) {
		ours[fd] = 1;
		nonblocking[fd] = no_block != 0;
	}
	return (int)fd;
}

static int shim_socket(void *u, int domain, int type, int protocol)
{
	(void)u;
	ENTER();
	long fd = invoke("socket", Py_BuildValue("(iii)", domain, type & 0xf, protocol));

	return (int)leave(gil, keep(fd, type & SOCK_NONBLOCK));
}

static int shim_bind(void *u, int fd, const struct sockaddr *address, socklen_t n)
{
	(void)u;
	ENTER();
	return (int)leave(gil, invoke("bind", Py_BuildValue("(iN)", fd, bytes_in(address, n))));
}

static int shim_listen(void *u, int fd, int backlog)
{
	(void)u;
	ENTER();
	return (int)leave(gil, invoke("listen", Py_BuildValue("(ii)", fd, backlog)));
}

static int shim_accept(void *u, int fd, struct sockaddr *address, socklen_t *n)
{
	(void)u;
	uint8_t peer[32] = { 0 };
	ENTER();
	long r = is_ours(fd) ? until_done("accept", Py_BuildValue("(iN)", fd, bytes_out(peer, sizeof(peer))), fd, EVENT_IN, 0)
	                     : -EBADF;

	r = keep(r, 0);
	if (r >= 0 && address && n) {
		memcpy(address, peer, *n < peer[31] ? *n : peer[31]);
		*n = peer[31];
	}
	return (int)leave(gil, r);
}

static int shim_connect(void *u, int fd, const struct sockaddr *address, socklen_t n)
{
	(void)u;
	ENTER();
	long r = is_ours(fd) ? invoke("connect", Py_BuildValue("(iN)", fd, bytes_in(address, n))) : -EBADF;

	if (r == -EINPROGRESS && !nonblocking[fd]) {
		r = wait_for("ready", Py_BuildValue("(ii)", fd, EVENT_OUT), NEVER);
		if (r == 0)
			r = invoke("take_error", Py_BuildValue("(i)", fd));
	}
	return (int)leave(gil, r);
}

static int shim_shutdown(void *u, int fd, int how)
{
	(void)u;
	ENTER();
	return (int)leave(gil, invoke("shutdown", Py_BuildValue("(ii)", fd, how)));
}

static int shim_close(void *u, int fd)
{
	(void)u;
	ENTER();
	long r = -EBADF;

	if (is_ours(fd)) {
		ours[fd] = 0;
		r = invoke("close", Py_BuildValue("(i)", fd));
		if (r == -EAGAIN)             /* SO_LINGER: it waits until the peer has all */
			r = wait_for("lingered", Py_BuildValue("(i)", fd), NEVER);
	}
	return (int)leave(gil, r);
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

static long usable(int fd, const void *buffer, size_t n, int flags)
{
	if (!is_ours(fd))
		return -EBADF;
	return buffer || !n || flags & MSG_TRUNC ? 0 : -EFAULT;
}

static ssize_t receive(int fd, void *buffer, size_t n, int flags, uint8_t *peer)
{
	ENTER();
	long r = usable(fd, buffer, n, flags);

	if (!r)
		r = until_done("recv", Py_BuildValue("(iNiN)", fd, bytes_out(buffer, n), flags & ~MSG_DONTWAIT, bytes_out(peer, 32)),
		               fd, flags & MSG_ERRQUEUE ? 8 : EVENT_IN, flags & (MSG_DONTWAIT | MSG_ERRQUEUE));
	return leave(gil, r);
}

static void give_address(const uint8_t *peer, void *address, socklen_t *n)
{
	if (!address || !n)
		return;
	memcpy(address, peer, *n < peer[31] ? *n : peer[31]);
	*n = peer[31];
}

static ssize_t shim_recvfrom(void *u, int fd, void *buffer, size_t n, int flags, struct sockaddr *address, socklen_t *size)
{
	(void)u;
	uint8_t peer[32] = { 0 };
	ssize_t r = receive(fd, buffer, n, flags, peer);

	if (r >= 0)
		give_address(peer, address, size);
	return r;
}

static ssize_t shim_recv(void *u, int fd, void *buffer, size_t n, int flags)
{
	return shim_recvfrom(u, fd, buffer, n, flags, NULL, NULL);
}

static ssize_t shim_read(void *u, int fd, void *buffer, size_t n)
{
	return shim_recvfrom(u, fd, buffer, n, 0, NULL, NULL);
}

static size_t total(const struct iovec *iov, size_t count)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		n += iov[i].iov_len;
	return n;
}

static ssize_t scatter(int fd, const struct iovec *iov, size_t count, int flags, uint8_t *peer)
{
	size_t n = total(iov, count), done = 0;
	uint8_t *flat = malloc(n ? n : 1);
	ssize_t r;

	if (!flat) {
		errno = ENOMEM;
		return -1;
	}
	r = receive(fd, flat, n, flags, peer);
	for (size_t i = 0; r > 0 && i < count && done < (size_t)r; i++) {
		size_t part = (size_t)r - done < iov[i].iov_len ? (size_t)r - done : iov[i].iov_len;

		memcpy(iov[i].iov_base, flat + done, part);
		done += part;
	}
	free(flat);
	return r;
}

static ssize_t shim_readv(void *u, int fd, const struct iovec *iov, int count)
{
	(void)u;
	uint8_t peer[32] = { 0 };

	return scatter(fd, iov, (size_t)count, 0, peer);
}

static ssize_t shim_recvmsg(void *u, int fd, struct msghdr *message, int flags)
{
	(void)u;
	uint8_t peer[32] = { 0 };
	socklen_t size = message->msg_namelen;
	ssize_t r = scatter(fd, message->msg_iov, message->msg_iovlen, flags, peer);

	if (r < 0)
		return r;
	give_address(peer, message->msg_name, &size);
	message->msg_namelen = message->msg_name ? size : 0;
	message->msg_flags = 0;
	if (!(flags & MSG_ERRQUEUE)) {    /* control messages (TCP_INQ and such) */
		ENTER();
		long n = invoke("control", Py_BuildValue("(iN)", fd, bytes_out(message->msg_control, message->msg_controllen)));

		message->msg_controllen = n > 0 ? (size_t)n : 0;
		leave(gil, 0);
	}
	return r;
}

static ssize_t transmit(int fd, const void *data, size_t n, int flags, const void *to, size_t to_size)
{
	size_t done = 0;
	ENTER();
	long r = usable(fd, data, n, 0);

	while (r >= 0) {
		r = until_done("send", Py_BuildValue("(iNiN)", fd, bytes_in((const char *)data + done, n - done),
		                                     flags & ~MSG_DONTWAIT, bytes_in(to, to ? to_size : 0)),
		               fd, EVENT_OUT, flags & MSG_DONTWAIT);
		if (!nonblocking[fd] && !(flags & MSG_DONTWAIT) && (r == -EINPROGRESS || (r >= 0 && flags & MSG_FASTOPEN))) {
			/* It has begun to connect too: that a blocking call waits for, then it goes on as any other. */
			done += r > 0 ? (size_t)r : 0;
			r = wait_for("ready", Py_BuildValue("(ii)", fd, EVENT_OUT), NEVER);
			if (r == 0)
				r = invoke("take_error", Py_BuildValue("(i)", fd));
			if (r < 0)
				return leave(gil, r);
			flags &= ~MSG_FASTOPEN;
			to_size = 0;
			if (done >= n)
				break;
			continue;
		}
		if (r < 0)
			break;
		done += (size_t)r;
		if (done >= n || nonblocking[fd] || flags & MSG_DONTWAIT)
			break;
		if (r == 0 && (r = wait_for("ready", Py_BuildValue("(ii)", fd, EVENT_OUT), NEVER)) < 0)
			break;
	}
	return leave(gil, r < 0 && !done ? r : (long)done);
}

static ssize_t shim_sendto(void *u, int fd, const void *data, size_t n, int flags, const struct sockaddr *to, socklen_t size)
{
	(void)u;
	return transmit(fd, data, n, flags, to, size);
}

static ssize_t shim_send(void *u, int fd, const void *data, size_t n, int flags)
{
	(void)u;
	return transmit(fd, data, n, flags, NULL, 0);
}

static ssize_t shim_write(void *u, int fd, const void *data, size_t n)
{
	(void)u;
	return transmit(fd, data, n, 0, NULL, 0);
}

static ssize_t gather(int fd, const struct iovec *iov, size_t count, int flags, const void *to, size_t to_size)
{
	size_t n = total(iov, count), done = 0;
	uint8_t *flat = malloc(n ? n : 1);
	ssize_t r;

	if (!flat) {
		errno = ENOMEM;
		return -1;
	}
	for (size_t i = 0; i < count; i++) {
		memcpy(flat + done, iov[i].iov_base, iov[i].iov_len);
		done += iov[i].iov_len;
	}
	r = transmit(fd, flat, n, flags, to, to_size);
	free(flat);
	return r;
}

static ssize_t shim_writev(void *u, int fd, const struct iovec *iov, int count)
{
	(void)u;
	return gather(fd, iov, (size_t)count, 0, NULL, 0);
}

static ssize_t shim_sendmsg(void *u, int fd, const struct msghdr *message, int flags)
{
	(void)u;
	return gather(fd, message->msg_iov, message->msg_iovlen, flags, message->msg_name, message->msg_namelen);
}

/* ---- options and control ---------------------------------------------------------------------------------------- */

static int shim_fcntl(void *u, int fd, int command, ...)
{
	(void)u;
	va_list list;
	long argument;

	va_start(list, command);
	argument = va_arg(list, long);
	va_end(list);
	if (!is_ours(fd)) {
		errno = EBADF;
		return -1;
	}
	if (command == F_SETFL) {
		nonblocking[fd] = (argument & O_NONBLOCK) != 0;
		return 0;
	}
	if (command == F_GETFL)
		return O_RDWR | (nonblocking[fd] ? O_NONBLOCK : 0);
	errno = EINVAL;
	return -1;
}

static int shim_ioctl(void *u, int fd, unsigned long request, ...)
{
	(void)u;
	va_list list;
	int *value;

	va_start(list, request);
	value = va_arg(list, int *);
	va_end(list);
	ENTER();
	long r = invoke("ioctl", Py_BuildValue("(ikN)", fd, request, bytes_out(value, value ? sizeof(*value) : 0)));

	return (int)leave(gil, r);
}

static int shim_getsockopt(void *u, int fd, int level, int name, void *value, socklen_t *n)
{
	(void)u;
	ENTER();
	long r = invoke("getsockopt", Py_BuildValue("(iiiN)", fd, level, name, bytes_out(value, *n)));

	if (r >= 0) {
		*n = (socklen_t)r;
		r = 0;
	}
	return (int)leave(gil, r);
}

static int shim_setsockopt(void *u, int fd, int level, int name, const void *value, socklen_t n)
{
	(void)u;
	ENTER();
	return (int)leave(gil, invoke("setsockopt", Py_BuildValue("(iiiN)", fd, level, name, bytes_in(value, value ? n : 0))));
}

/* ---- waiting for several ---------------------------------------------------------------------------------------- */

static int64_t after_ms(int timeout)
{
	return timeout < 0 ? NEVER : now_us + (int64_t)timeout * 1000;
}

static long wait_or_time_out(const char *question, PyObject *args, int timeout)
{
	if (timeout == 0) {
		Py_DECREF(args);
		return 0;
	}
	return wait_for(question, args, after_ms(timeout));
}

static int shim_poll(void *u, struct pollfd *list, nfds_t count, int timeout)
{
	(void)u;
	ENTER();
	PyObject *args = Py_BuildValue("(N)", bytes_out(list, count * sizeof(*list)));
	long r;

	Py_INCREF(args);
	r = wait_or_time_out("poll", args, timeout);
	if (r < 0)
		Py_DECREF(args);
	else
		r = invoke("poll", args);
	return (int)leave(gil, r);
}

static int shim_epoll_create(void *u, int size)
{
	(void)u;
	ENTER();
	return (int)leave(gil, keep(invoke("epoll_create", Py_BuildValue("(i)", size)), 0));
}

static int shim_epoll_ctl(void *u, int epfd, int op, int fd, struct epoll_event *event)
{
	(void)u;
	ENTER();
	long r = invoke("epoll_ctl", Py_BuildValue("(iiiN)", epfd, op, fd, bytes_in(event, event ? sizeof(*event) : 0)));

	return (int)leave(gil, r);
}

static int shim_epoll_wait(void *u, int epfd, struct epoll_event *events, int count, int timeout)
{
	(void)u;
	ENTER();
	long r = wait_or_time_out("epoll_ready", Py_BuildValue("(i)", epfd), timeout);

	if (r >= 0)
		r = invoke("epoll_wait", Py_BuildValue("(iN)", epfd, bytes_out(events, (size_t)count * sizeof(*events))));
	return (int)leave(gil, r);
}

/* Pipes stay the kernel's; what is spliced goes through a buffer here. */
static int shim_pipe(void *u, int pair[2])
{
	(void)u;
	return pipe(pair);
}

static int shim_splice(void *u, int in, loff_t *off_in, int out, loff_t *off_out, size_t n, unsigned flags)
{
	char buffer[65536];
	size_t part = n < sizeof(buffer) ? n : sizeof(buffer);
	ssize_t got, sent;

	if (is_ours(in)) {
		got = shim_recvfrom(u, in, buffer, part, flags & SPLICE_F_NONBLOCK ? MSG_DONTWAIT : 0, NULL, NULL);
		return (int)(got > 0 ? write(out, buffer, (size_t)got) : got);
	}
	if (!is_ours(out))
		return (int)splice(in, off_in, out, off_out, n, flags);
	got = read(in, buffer, part);
	sent = got > 0 ? shim_send(u, out, buffer, (size_t)got, flags & SPLICE_F_MORE ? MSG_MORE : 0) : got;
	return (int)sent;
}

static void shim_free(void *u)
{
	(void)u;
	ENTER();
	leave(gil, invoke("finish", PyTuple_New(0)));
}

/* ---- start ------------------------------------------------------------------------------------------------------ */

/* packetdrill reads TCP_INFO and others for %{ }% through libc. */
__attribute__((visibility("default")))
int getsockopt(int fd, int level, int name, void *value, socklen_t *n)
{
	if (is_ours(fd))
		return shim_getsockopt(NULL, fd, level, name, value, n);
	return (int)syscall(SYS_getsockopt, fd, level, name, value, n);
}

static void start_python(const char *flags)
{
	const char *path = getenv("PD_SHIM_PATH"), *home = getenv("PD_SHIM_HOME");
	PyConfig config;
	PyStatus status;
	PyObject *sys_path, *module;

	PyConfig_InitPythonConfig(&config);
	config.install_signal_handlers = 0;
	config.site_import = 0;
	config.write_bytecode = 0;
	if (home)
		PyConfig_SetBytesString(&config, &config.home, home);
	status = Py_InitializeFromConfig(&config);
	PyConfig_Clear(&config);
	if (PyStatus_Exception(status)) {
		fprintf(stderr, "shim: the interpreter does not start: %s\n", status.err_msg ? status.err_msg : "?");
		exit(2);
	}
	sys_path = PySys_GetObject("path");
	for (const char *p = path; p && *p; ) {
		size_t n = strcspn(p, ":");
		PyObject *entry = PyUnicode_DecodeFSDefaultAndSize(p, (Py_ssize_t)n);

		PyList_Append(sys_path, entry);
		Py_XDECREF(entry);
		p += n + (p[n] == ':');
	}
	module = PyImport_ImportModule("tests.conformance.packetdrill.backend");
	backend = module ? PyObject_CallMethod(module, "Backend", "s", flags ? flags : "") : NULL;
	if (!backend) {
		PyErr_Print();
		exit(2);
	}
	PyEval_SaveThread();
}

__attribute__((visibility("default")))
void packetdrill_interface_init(const char *flags, struct packetdrill_interface *i)
{
	main_thread = (pid_t)syscall(SYS_gettid);
	unsetenv("LD_PRELOAD");           /* not for the shells and interpreters that scripts start */
	start_python(flags);
	*i = (struct packetdrill_interface) {
		.free = shim_free, .socket = shim_socket, .bind = shim_bind, .listen = shim_listen, .accept = shim_accept,
		.connect = shim_connect, .read = shim_read, .readv = shim_readv, .recv = shim_recv, .recvfrom = shim_recvfrom,
		.recvmsg = shim_recvmsg, .write = shim_write, .writev = shim_writev, .send = shim_send, .sendto = shim_sendto,
		.sendmsg = shim_sendmsg, .fcntl = shim_fcntl, .ioctl = shim_ioctl, .close = shim_close,
		.shutdown = shim_shutdown, .getsockopt = shim_getsockopt, .setsockopt = shim_setsockopt, .poll = shim_poll,
		.netdev_send = shim_netdev_send, .netdev_receive = shim_netdev_receive, .usleep = shim_usleep,
		.gettimeofday = shim_gettimeofday, .epoll_create = shim_epoll_create, .epoll_ctl = shim_epoll_ctl,
		.epoll_wait = shim_epoll_wait, .pipe = shim_pipe, .splice = shim_splice,
	};
}
