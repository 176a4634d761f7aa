"""The C client of a daemon (``netstack/daemon_client.h``), and a process's connection to one."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "netstack/daemon_client.h" nogil:
    enum:
        NSD_FDS
        NSD_DATA_MOST
        NSD_HELLO
        NSD_OPEN
        NSD_CLOSE
        NSD_DUP
        NSD_ADOPT
        NSD_BIND
        NSD_CONNECT
        NSD_LISTEN
        NSD_ACCEPT
        NSD_SHUTDOWN
        NSD_NAME
        NSD_GETSOCKOPT
        NSD_SETSOCKOPT
        NSD_SEND
        NSD_RECV
        NSD_RESERVE
        NSD_RELEASE
        NSD_ROUTE
        NSD_READY_NOW
        NSD_TIMEOUT
        NSD_INTERRUPTED
        NSD_DEAD
        NSD_TOOK
        NSD_EMPTIED
        NSD_LEFT
        NSD_FILLED

    ctypedef struct nsd_message_t:
        uint16_t type
        uint32_t number
        int32_t a
        int32_t b
        int32_t c
        uint64_t key
        uint8_t address[16]
        uint16_t port
        uint32_t scope

    ctypedef struct nsd_client_t:
        pass

    ctypedef struct nsd_socket_t:
        nsd_client_t *client
        uint32_t number
        uint64_t key
        int ready_fd
        int closed

    int64_t nsd_now_ns()
    int nsd_alive(nsd_client_t *c)
    int nsd_call(nsd_client_t *c, nsd_message_t *m, const void *data, size_t n, void *answer, size_t room, size_t *got,
                 int *fds, int *count)
    int nsd_ask(nsd_socket_t *s, nsd_message_t *m, const void *data, size_t n)
    int nsd_join(nsd_client_t *c, const char *path, uint64_t key, int64_t spin_ns, void *about, size_t room, size_t *got)
    void nsd_leave(nsd_client_t *c)
    int nsd_obtain(nsd_client_t *c, nsd_message_t *m, nsd_socket_t *s)
    int nsd_take_error(nsd_socket_t *s)
    int nsd_streams(nsd_socket_t *s)
    size_t nsd_readable(nsd_socket_t *s)
    ssize_t nsd_send(nsd_socket_t *s, const uint8_t *data, size_t n)
    ssize_t nsd_recv(nsd_socket_t *s, uint8_t *data, size_t n, int peek)
    uint32_t nsd_state(nsd_socket_t *s)
    int nsd_wait(nsd_socket_t *s, uint32_t events, int64_t until, int64_t slice)
    void nsd_closed(nsd_socket_t *s)
    void nsd_forget(nsd_socket_t *s)
    void nsd_show(nsd_socket_t *s, int did)
    int nsd_fileno(nsd_socket_t *s)


cdef class Client:
    cdef nsd_client_t c
    cdef bytes path
    cdef double spin_us
    cdef uint64_t reserved       # for the child that a fork is about to make; 0: none
    cdef readonly tuple addresses
    cdef readonly int pid        # of the daemon
    cdef bint joined
    cdef public uint32_t sockets # how many this process has: a fork without any reserves nothing
    cdef object __weakref__

    cdef int ask(self, nsd_message_t *m) except -1
