# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Mappings of shared memory that a fork does not inherit.

A ring has one producer and one consumer, so a forked child must not share its parent's attachment:
the pages are MADV_DONTFORK. The hole this leaves in the child is filled with private zero pages at
once, before anything else of the child runs: a stale pointer then reads zeros, and unmapping a stale
mapping cannot take away memory that the child has put there meanwhile. ``fork_count`` lets every
call notice that it runs in a child.

Memory without seals can be truncated by the other side, which would kill this process by SIGBUS at its next
touch: every mapping is guarded (``rings/sigbus_guard.h``), and ``memory_lost`` tells that it happened.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from libc.errno cimport ENOMEM, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap,
)

import os

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil)

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *, size_t, int)
    enum: MADV_DONTFORK

cdef extern from "rings/sigbus_guard.h" nogil:
    """
    #define guard_losses() ((const uint64_t *)(void *)&sigbus_guard.losses)
    #define guard_mark(range) ((const uint32_t *)(void *)&(range)->lost)
    """
    ctypedef struct sigbus_range_t:
        pass
    int sigbus_guard_install()
    sigbus_range_t *sigbus_guard_add(const void *start, size_t size, bint writable)
    void sigbus_guard_remove(sigbus_range_t *range)
    const uint64_t *guard_losses()
    const uint32_t *guard_mark(sigbus_range_t *range)

cdef extern from *:
    """
    #include <pthread.h>
    static pthread_mutex_t mappings_lock = PTHREAD_MUTEX_INITIALIZER;
    """
    pthread_mutex_t mappings_lock

cdef mapping_t *mappings = NULL
cdef uint64_t forks = 0


cdef uint64_t *fork_count() noexcept nogil:
    """How often this process is a fork of one that had this module loaded."""
    return &forks


cdef void memory_watch(memory_watch_t *watch, Mapping one, Mapping other) noexcept:
    """Begin to watch two memories (which may be one)."""
    watch.losses = guard_losses()
    watch.seen = 0
    watch.lost[0] = one._lost
    watch.lost[1] = other._lost


cdef void before_fork() noexcept nogil:
    pthread_mutex_lock(&mappings_lock)


cdef void after_fork_in_parent() noexcept nogil:
    pthread_mutex_unlock(&mappings_lock)


cdef void after_fork_in_child() noexcept nogil:
    cdef mapping_t *m = mappings
    global forks
    forks += 1
    while m != NULL:
        mmap(m.address, m.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
        m = m.next
    pthread_mutex_unlock(&mappings_lock)


if pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0:
    raise MemoryError("pthread_atfork")


cdef class Mapping:
    """Map `size` bytes of the file `fd` shared; the fd may be closed afterwards.

    Parameters
    ----------
    fd : int
        A shared memory object.
    size : int
        Bytes, from the start of the object; the caller has checked that it is as long.
    writable : bool
        Without it a store through this mapping is a fault.

    Raises
    ------
    OSError
        What mmap reports; EPERM for a writable mapping of memory sealed against future writers.
    """

    def __cinit__(self, int fd, Py_ssize_t size, bint writable=True):
        cdef void *address
        cdef int failure
        cdef sigbus_range_t *guarded = NULL
        global mappings
        if size <= 0:
            raise ValueError(f"a mapping of {size} bytes")
        self._node = <mapping_t *> malloc(sizeof(mapping_t))
        if self._node == NULL:
            raise MemoryError
        # Under the lock no fork can come between the mapping and its place in the list.
        pthread_mutex_lock(&mappings_lock)
        address = mmap(NULL, size, PROT_READ | PROT_WRITE if writable else PROT_READ, MAP_SHARED, fd, 0)
        failure = errno
        if address != MAP_FAILED:
            failure = sigbus_guard_install()
            if failure == 0:
                failure = ENOMEM
                guarded = sigbus_guard_add(address, size, writable)
            if guarded == NULL:
                munmap(address, size)
                address = MAP_FAILED
        if address != MAP_FAILED:
            madvise(address, size, MADV_DONTFORK)
            self._node.address = address
            self._node.size = size
            self._node.guarded = guarded
            self._node.previous = NULL
            self._node.next = mappings
            if mappings != NULL:
                mappings.previous = self._node
            mappings = self._node
        pthread_mutex_unlock(&mappings_lock)
        if address == MAP_FAILED:
            free(self._node)
            self._node = NULL
            raise OSError(failure, f"map {size} bytes of shared memory: {os.strerror(failure)}")
        self._address = <uint8_t *> address
        self._size = size
        self._writable = writable
        self._lost = guard_mark(guarded)

    def __dealloc__(self):
        self.unmap()

    cdef void unmap(self) noexcept:
        global mappings
        if self._node == NULL:
            return
        pthread_mutex_lock(&mappings_lock)
        if self._node.previous != NULL:
            self._node.previous.next = self._node.next
        else:
            mappings = self._node.next
        if self._node.next != NULL:
            self._node.next.previous = self._node.previous
        sigbus_guard_remove(<sigbus_range_t *> self._node.guarded)
        munmap(self._node.address, self._node.size)
        pthread_mutex_unlock(&mappings_lock)
        free(self._node)
        self._node = NULL
        self._address = NULL
        self._lost = NULL

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self._address == NULL:
            raise ValueError("this mapping is closed")
        if flags & PyBUF_WRITABLE and not self._writable:
            raise BufferError("this mapping is read-only")
        PyBuffer_FillInfo(view, self, self._address, self._size, not self._writable, flags)
        self._exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self._exports -= 1

    cdef uint8_t *at(self, size_t offset, size_t length) except NULL:
        """The address of `length` bytes at `offset`: ValueError when they are not inside."""
        if self._address == NULL:
            raise ValueError("this mapping is closed")
        if offset > <size_t> self._size or length > <size_t> self._size - offset:
            raise ValueError(f"{length} bytes at {offset} are not inside a mapping of {self._size} bytes")
        return self._address + offset

    @property
    def address(self):
        """Where the memory is mapped, an int; valid while this object lives and is not closed."""
        return <uintptr_t> self._address

    @property
    def size(self):
        """Bytes."""
        return self._size

    @property
    def writable(self):
        return self._writable

    @property
    def lost(self):
        """The other side truncated the object, and a page that is gone was touched here.

        The pages that were touched are private ones of ones (0xff) since.
        """
        return self._lost != NULL and mapping_load32(self._lost) != 0

    @property
    def closed(self):
        return self._address == NULL

    def __len__(self):
        return self._size

    def close(self):
        """Unmap. BufferError while somebody holds a view; a second close does nothing."""
        if self._exports > 0:
            raise BufferError("cannot unmap: views of this memory exist")
        self.unmap()

    def __repr__(self):
        how = "closed" if self._address == NULL else f"at {<uintptr_t> self._address:#x}"
        return f"<Mapping of {self._size} bytes {how}>"

