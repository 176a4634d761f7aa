# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Notices that the router is gone: its end of the control socket hangs up, also after a kill -9.

A thread of C with a small stack, all signals blocked, that never touches Python: it marks the link dead and rings the
stack's own doorbells, so that whoever sleeps on them looks.
"""

from libc.errno cimport EINTR, errno
from posix.unistd cimport close, getpid

import os

from netstack.link.link cimport Link, link_t
from rings.doorbell cimport doorbell_create, doorbell_kick

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)
    int pthread_attr_init(pthread_attr_t *)
    int pthread_attr_destroy(pthread_attr_t *)
    int pthread_attr_setstacksize(pthread_attr_t *, size_t)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *)
    int pthread_sigmask(int, const sigset_t *, sigset_t *)
    enum: SIG_SETMASK

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *, unsigned long, int)
    enum:
        POLLIN
        POLLRDHUP
        POLLHUP
        POLLERR

cdef struct watch_t:
    pthread_t thread
    int control_fd
    int stop_fd
    int bells[2]                 # eventfds to ring, -1: a socket that hangs up by itself
    link_t *link


cdef void *watch(void *argument) noexcept nogil:
    cdef watch_t *w = <watch_t *> argument
    cdef pollfd fds[2]
    cdef int i
    fds[0].fd = w.control_fd
    fds[0].events = POLLRDHUP
    fds[1].fd = w.stop_fd
    fds[1].events = POLLIN
    while True:
        fds[0].revents = fds[1].revents = 0
        if poll(fds, 2, -1) < 0 and errno != EINTR:
            return NULL
        if fds[1].revents:
            return NULL
        if fds[0].revents & (POLLHUP | POLLERR | POLLRDHUP):
            w.link.dead = 1
            for i in range(2):
                if w.bells[i] >= 0:
                    doorbell_kick(w.bells[i])
            return NULL


cdef class Watcher:
    """Marks `link` dead when `control_fd` hangs up.

    Parameters
    ----------
    control_fd : int
        The connection to the router; stays open until `stop`.
    link : Link
        Kept alive by this object.
    bells : iterable of int
        At most two eventfds on which the stack sleeps.
    """

    cdef watch_t w
    cdef Link link
    cdef int pid

    def __cinit__(self, int control_fd, Link link not None, bells=()):
        cdef sigset_t every, before
        cdef pthread_attr_t attributes
        cdef int status, i
        self.pid = -1
        self.w.stop_fd = -1
        self.w.bells[0] = self.w.bells[1] = -1
        for i, fd in enumerate(bells):
            self.w.bells[i & 1] = fd
        self.link = link
        self.w.link = &link.link
        self.w.control_fd = control_fd
        self.w.stop_fd = doorbell_create()
        if self.w.stop_fd < 0:
            raise OSError(errno, os.strerror(errno))
        pthread_attr_init(&attributes)
        pthread_attr_setstacksize(&attributes, 64 << 10)
        sigfillset(&every)
        pthread_sigmask(SIG_SETMASK, &every, &before)
        status = pthread_create(&self.w.thread, &attributes, watch, &self.w)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        pthread_attr_destroy(&attributes)
        if status != 0:
            raise OSError(status, f"cannot start a thread: {os.strerror(status)}")
        self.pid = getpid()

    def stop(self):
        """End the thread. Stopping twice is allowed; in a forked child there is none to end."""
        if self.pid == getpid():
            self.pid = -1
            with nogil:
                doorbell_kick(self.w.stop_fd)
                pthread_join(self.w.thread, NULL)
        if self.w.stop_fd >= 0:
            close(self.w.stop_fd)
            self.w.stop_fd = -1

    def __dealloc__(self):
        self.stop()
