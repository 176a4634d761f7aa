# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A process gives up what it does not need: capabilities, files, system calls, core dumps. Linux.

For processes that others depend on and that strangers talk to, the router and the daemon: what breaks into one has found
little. Nothing of this can be taken back, and all of it must come before further threads are started (Landlock is of
the calling thread and those it makes).
"""

import os
import socket
from typing import NamedTuple

from libc.errno cimport EINVAL, ENOSYS, EOPNOTSUPP, EPERM, errno
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long)
    enum:
        PR_SET_DUMPABLE
        PR_SET_NO_NEW_PRIVS
        PR_CAPBSET_READ
        PR_CAPBSET_DROP
        PR_CAP_AMBIENT
        PR_CAP_AMBIENT_CLEAR_ALL

cdef extern from "<dlfcn.h>" nogil:
    enum:
        RTLD_NOW
    void *dlopen(const char *, int)

cdef extern from "<sys/syscall.h>" nogil:
    long syscall(long, ...)
    enum:
        SYS_capset
        SYS_seccomp

cdef extern from "<linux/capability.h>" nogil:
    enum:
        _LINUX_CAPABILITY_VERSION_3

cdef extern from "<linux/filter.h>" nogil:
    struct sock_filter:
        pass
    struct sock_fprog:
        unsigned short len
        sock_filter *filter

cdef extern from "<linux/seccomp.h>" nogil:
    enum:
        SECCOMP_SET_MODE_FILTER
        SECCOMP_FILTER_FLAG_TSYNC

cdef extern from "netstack/confinement.h" nogil:
    enum:
        CONFINEMENT_ARCH
        CONFINEMENT_FAMILIES
    ctypedef struct confinement_t:
        sock_filter *code
        unsigned short n
    void confinement_build(confinement_t *, int, const int *, int)

cdef extern from *:
    """
    /* <linux/landlock.h> may be older than the kernel: version 1 to 5 of its interface. */
    #include <stdint.h>
    #include <sys/syscall.h>
    #ifndef SYS_landlock_create_ruleset
    #define SYS_landlock_create_ruleset 444
    #define SYS_landlock_add_rule 445
    #define SYS_landlock_restrict_self 446
    #endif
    struct landlock_below { uint64_t access; int32_t folder; } __attribute__((packed));
    """
    enum:
        SYS_landlock_create_ruleset
        SYS_landlock_add_rule
        SYS_landlock_restrict_self
    struct landlock_below:
        uint64_t access
        int32_t folder

cdef enum:
    LANDLOCK_VERSION = 1             # flag of create_ruleset: only say what the kernel speaks
    LANDLOCK_BELOW = 1               # rule about a folder and what is below it
    # access to files (Documentation/userspace-api/landlock.rst)
    FILE_EXECUTE = 1 << 0
    FILE_WRITE = 1 << 1
    FILE_READ = 1 << 2
    FOLDER_READ = 1 << 3
    FOLDER_REMOVE = 1 << 4
    FILE_REMOVE = 1 << 5
    FOLDER_MAKE = 1 << 7
    FILE_MAKE = 1 << 8
    SOCKET_MAKE = 1 << 9
    VERSION_1 = (1 << 13) - 1
    FILE_REFER = 1 << 13             # version 2
    FILE_TRUNCATE = 1 << 14          # version 3
    DEVICE_IOCTL = 1 << 15           # version 5
    OF_FILES = FILE_EXECUTE | FILE_WRITE | FILE_READ | FILE_TRUNCATE | DEVICE_IOCTL

cdef uint64_t READING = FILE_READ | FOLDER_READ
cdef uint64_t WRITING = READING | FILE_WRITE | FILE_REMOVE | FILE_MAKE | SOCKET_MAKE | FOLDER_MAKE | FOLDER_REMOVE | \
    FILE_TRUNCATE | DEVICE_IOCTL


class Confined(NamedTuple):
    """What `confine` achieved on this kernel.

    Attributes
    ----------
    landlock : int
        Version of the kernel's Landlock that keeps files away; 0: it has none.
    seccomp : bool
        System calls are judged.
    """

    landlock: int
    seccomp: bool


def _fail(what):
    raise OSError(errno, f"{what}: {os.strerror(errno)}")


def landlock_version():
    """The version of Landlock that the kernel speaks, 0 for none."""
    cdef long version = syscall(SYS_landlock_create_ruleset, <void *> NULL, <size_t> 0, <uint32_t> LANDLOCK_VERSION)
    return max(version, 0)


def forbid_dumps():
    """No core dumps; processes of the same user cannot trace this one or read its memory (security R19)."""
    if prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _fail("PR_SET_DUMPABLE")


def give_up_capabilities(keep=()):
    """Keep only these capabilities, by number, as far as they are there; new ones cannot be had by executing anything."""
    cdef uint64_t kept = 0
    cdef uint32_t header[2]
    cdef uint32_t data[6]                # effective, permitted, inheritable; twice, for the lower and upper 32
    cdef int i
    with open("/proc/self/status") as file:
        had = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm"))
    for number in keep:
        kept |= <uint64_t> had & <uint64_t> 1 << <int> number
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        _fail("PR_SET_NO_NEW_PRIVS")
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for i in range(64):
        if prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1 and not kept >> i & 1:
            prctl(PR_CAPBSET_DROP, i, 0, 0, 0)           # not allowed without CAP_SETPCAP: nothing executes anyway
    header[0] = _LINUX_CAPABILITY_VERSION_3
    header[1] = 0
    memset(data, 0, sizeof(data))
    for i in range(2):
        data[3 * i] = data[3 * i + 1] = <uint32_t> (kept >> 32 * i)
    if syscall(SYS_capset, header, data) != 0:
        _fail("capset")


def restrict_files(read=(), write=()):
    """Only files below these folders, or these files, may be opened from now on (Landlock).

    Parameters
    ----------
    read, write : iterable of str
        May be read; may be read, written, made and removed, and asked anything as devices. Those that do not exist,
        or are out of reach already, are left out.

    Returns
    -------
    int
        The version of Landlock; 0 and nothing restricted where the kernel has none.
    """
    cdef uint64_t judged = VERSION_1     # struct landlock_ruleset_attr as far as its first version goes
    cdef landlock_below below
    cdef int version = landlock_version(), ruleset
    if version < 1:
        return 0
    if version >= 2:
        judged |= FILE_REFER
    if version >= 3:
        judged |= FILE_TRUNCATE
    if version >= 5:
        judged |= DEVICE_IOCTL
    dlopen("libgcc_s.so.1", RTLD_NOW)    # glibc opens it when the first thread ends, and aborts where it can't
    ruleset = <int> syscall(SYS_landlock_create_ruleset, &judged, sizeof(judged), <uint32_t> 0)
    if ruleset < 0:
        _fail("landlock_create_ruleset")
    try:
        for paths, access in ((read, READING), (write, WRITING)):
            for path in paths:
                try:
                    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
                except (FileNotFoundError, NotADirectoryError, PermissionError):
                    continue
                try:
                    below.folder = folder
                    below.access = access & judged
                    if not os.path.isdir(path):
                        below.access &= OF_FILES
                    if syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_BELOW, &below, <uint32_t> 0) != 0:
                        _fail(f"landlock_add_rule {path}")
                finally:
                    os.close(folder)
        if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            _fail("PR_SET_NO_NEW_PRIVS")
        if syscall(SYS_landlock_restrict_self, ruleset, <uint32_t> 0) != 0:
            _fail("landlock_restrict_self")
    finally:
        os.close(ruleset)
    return version


def restrict_calls(families=(socket.AF_UNIX,)):
    """Judge every system call of this process from now on (seccomp): what a server of rings and sockets needs is allowed,
    what only an intruder needs ends the process, the rest fails with EPERM. No process is started, no page becomes
    executable, so that no extension module can be loaded any more.

    Parameters
    ----------
    families : iterable of int
        Sockets of these address families may be made.

    Returns
    -------
    bool
        False and nothing changed where the kernel has no seccomp or there is no table for the processor.
    """
    cdef confinement_t filter
    cdef sock_fprog program
    cdef int[8] wanted
    cdef int n = 0
    if CONFINEMENT_ARCH == 0:
        return False
    families = sorted(set(families))
    if len(families) > CONFINEMENT_FAMILIES:
        raise ValueError(f"{len(families)} address families: at most {<int> CONFINEMENT_FAMILIES}")
    for family in families:
        wanted[n] = family
        n += 1
    confinement_build(&filter, os.getpid(), wanted, n)
    program.len = filter.n
    program.filter = filter.code
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        _fail("PR_SET_NO_NEW_PRIVS")
    if syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0:
        if errno == ENOSYS or errno == EINVAL or errno == EOPNOTSUPP:
            return False
        _fail("seccomp")
    return True


def confine(*, read=(), write=(), families=(socket.AF_UNIX,), capabilities=()):
    """Everything of this module, for the rest of the process's life: see `restrict_files`, `restrict_calls` and
    `give_up_capabilities`.

    Returns
    -------
    Confined
        What this kernel could do of it.
    """
    forbid_dumps()
    give_up_capabilities(capabilities)
    return Confined(restrict_files(read, write), restrict_calls(families))
