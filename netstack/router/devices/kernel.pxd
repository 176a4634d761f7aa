"""The kernel's calls that devices with rings in its memory share."""

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *, size_t, int, int, int, long)
    int munmap(void *, size_t)
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_POPULATE
    void *MAP_FAILED

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    ssize_t c_sendto "sendto"(int, const void *, size_t, int, const sockaddr *, socklen_t)
    int c_getsockopt "getsockopt"(int, int, int, void *, socklen_t *)
    enum:
        MSG_DONTWAIT
        SOL_SOCKET
        SO_ERROR
