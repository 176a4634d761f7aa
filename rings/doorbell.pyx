# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""An eventfd that two processes of one owner share: one kicks, the other sleeps on it.

Which end sleeps, and whether a kick is needed at all, is decided by the sleep words in the ring
(``rings/spsc_ring.h``); this is only the thing that makes the kernel wake somebody.
"""

import os

from libc.errno cimport errno


cdef class Doorbell:
    """A new eventfd, or the ownership of an existing one.

    Parameters
    ----------
    fd : int, optional
        An eventfd to take over, made non-blocking. Without it a new one is created (non-blocking,
        close-on-exec).

    Raises
    ------
    OSError
        No file descriptor left, or `fd` is not open.
    """

    def __cinit__(self, int fd=-1):
        self.fd = -1
        if fd < 0:
            fd = doorbell_create()
            if fd < 0:
                raise OSError(errno, f"eventfd: {os.strerror(errno)}")
        else:
            os.set_blocking(fd, False)
        self.fd = fd

    def __dealloc__(self):
        if self.fd >= 0:
            close_fd(self.fd)

    def kick(self):
        """Wake whoever waits. Never blocks."""
        if self.fd < 0:
            raise ValueError("this doorbell is closed")
        doorbell_kick(self.fd)

    def drain(self):
        """Take back all kicks so far; True if there was one."""
        if self.fd < 0:
            raise ValueError("this doorbell is closed")
        return bool(doorbell_drain(self.fd))

    def fileno(self):
        if self.fd < 0:
            raise ValueError("this doorbell is closed")
        return self.fd

    def close(self):
        """Close the file descriptor now; a second close does nothing."""
        if self.fd >= 0:
            close_fd(self.fd)
            self.fd = -1

    def __repr__(self):
        return f"<Doorbell fd={self.fd}>"


cdef extern from "<unistd.h>" nogil:
    int close_fd "close"(int fd)
