"""Shared memory for rings: made by one process, handed to another as a file descriptor.

Two backends behind one interface:

``posix``
    POSIX shared memory (``posix_ipc``): a random 128-bit name, created exclusively with mode 0600 and
    unlinked as soon as both sides hold it, which is at once when the fd itself is handed over. Cannot
    be protected against a peer that truncates it: for processes that trust each other.
``memfd``
    Anonymous memory sealed against shrinking, growing and further seals: what a peer that is not
    trusted may map. Optionally sealed against other writers too.

All pages are allocated at creation, so a full file system says ENOSPC there instead of killing
somebody later. Every holder of a named segment keeps a shared lock on it; `sweep` removes the
segments whose holders all died.
"""

import errno
import fcntl
import os
import re
import secrets
import time

from rings.errors import RegionMismatch
from rings.mapping import Mapping

BACKENDS = ("posix", "memfd")
NAME_PREFIX = "ns-"
NAME = re.compile(NAME_PREFIX + "[0-9a-f]{32}")
SHM_FOLDER = "/dev/shm"

MFD_NOEXEC_SEAL = 0x0008  # Linux 6.3; older kernels refuse it and get a plain memfd
F_SEAL_EXEC = 0x0020
F_SEAL_FUTURE_WRITE = 0x0010
F_SEAL_SEAL = 0x0001
F_SEAL_SHRINK = 0x0002
F_SEAL_GROW = 0x0004
SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW
F_ADD_SEALS = 1033
F_GET_SEALS = 1034


class Region:
    """A piece of shared memory: its fd, and its mapping into this process.

    Attributes
    ----------
    fd : int
        To be handed to the peer; closed with the region.
    size : int
        Bytes.
    backend : str
        ``posix`` or ``memfd``.
    name : str or None
        The name of a posix segment that is still linked.
    mapping : Mapping
        The memory. A forked child does not have it.
    """

    def __init__(self, fd, size, backend, mapping, name=None):
        self.fd = fd
        self.size = size
        self.backend = backend
        self.mapping = mapping
        self.name = name
        self._pid = os.getpid()

    @property
    def buf(self):
        """A memoryview of all of it; the mapping cannot be closed while it exists."""
        return memoryview(self.mapping)

    @property
    def address(self):
        """Where it is mapped, an int."""
        return self.mapping.address

    def unlink(self):
        """Remove the name: the memory lives on with its holders. A second call does nothing."""
        if self.name is not None:
            import posix_ipc

            name, self.name = self.name, None
            try:
                posix_ipc.unlink_shared_memory("/" + name)
            except posix_ipc.ExistentialError:
                pass

    def remap(self, writable=True):
        """Map the memory anew, for a forked child that takes it over."""
        self.mapping = Mapping(self.fd, self.size, writable)
        self._pid = os.getpid()

    def close(self):
        """Unmap, close the fd, and remove the name if this process made it. Idempotent.

        Raises
        ------
        BufferError
            Views of the memory still exist.
        """
        self.mapping.close()
        self._drop()

    def _drop(self):
        if self._pid == os.getpid():
            self.unlink()
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __del__(self):
        # The mapping goes by itself, once the last view of it is gone.
        if getattr(self, "fd", -1) >= 0:
            self._drop()

    def __repr__(self):
        return f"<Region {self.backend} fd={self.fd} size={self.size}>"


def create(size, backend="posix", *, named=False, single_writer=False):
    """Make shared memory of `size` bytes, zeroed, every page allocated.

    Parameters
    ----------
    size : int
        Bytes; rounded up to whole pages by the caller if it wants to map parts apart.
    backend : {"posix", "memfd"}
    named : bool
        posix only: keep the name until a peer has attached by it (or ``unlink`` or ``close``).
    single_writer : bool
        memfd only: nobody else can ever map it writable (F_SEAL_FUTURE_WRITE).

    Raises
    ------
    OSError
        ENOSPC: no room for so many bytes; EMFILE: no fd left.
    ValueError
        Unknown backend, or an option it does not have.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r}: say one of {', '.join(BACKENDS)}")
    if size <= 0:
        raise ValueError(f"shared memory of {size} bytes")
    if single_writer and backend != "memfd":
        raise ValueError("only memfd memory can be sealed against other writers")
    if named and backend != "posix":
        raise ValueError("only posix memory has a name")
    fd, name = _create_posix(size) if backend == "posix" else (_create_memfd(size), None)
    try:
        mapping = Mapping(fd, size)
        if backend == "memfd":
            fcntl.fcntl(fd, F_ADD_SEALS, SEALS | (F_SEAL_FUTURE_WRITE if single_writer else 0))
        region = Region(fd, size, backend, mapping, name)
    except BaseException:
        os.close(fd)
        if name is not None:
            _unlink_quietly(name)
        raise
    if not named:
        region.unlink()
    return region


def attach(fd, size, backend, *, writable=True, single_writer=None):
    """Map memory that another process made and whose `fd` it handed over.

    Takes the fd over, also when it fails. `size` is what both sides agreed on, never a word in the
    memory itself.

    Parameters
    ----------
    writable : bool
        Without it a store here is a fault: for memory that only the peer writes.
    single_writer : bool, optional
        memfd: must be (True), must not be (False), or may be sealed against further writers (None).

    Raises
    ------
    RegionMismatch
        The size differs, or the seals of a memfd are not exactly those of `create`.
    OSError
        What the kernel says.
    """
    try:
        found = os.fstat(fd).st_size
        if found != size:
            raise RegionMismatch(errno.EINVAL, f"shared memory of {found} bytes where {size} were agreed on")
        if backend == "memfd":
            _check_seals(fd, single_writer)
        elif backend != "posix":
            raise ValueError(f"backend {backend!r}: say one of {', '.join(BACKENDS)}")
        else:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        mapping = Mapping(fd, size, writable)
    except BaseException:
        os.close(fd)
        raise
    return Region(fd, size, backend, mapping)


def attach_name(name, size, *, writable=True):
    """Map a posix segment by its name, and remove the name: both sides hold it now.

    Raises
    ------
    FileNotFoundError
        No such segment (its maker died and it was swept, or somebody attached already).
    RegionMismatch
        The size differs, or the segment belongs to another user or is open to others.
    """
    import posix_ipc

    try:
        segment = posix_ipc.SharedMemory("/" + name)
    except posix_ipc.ExistentialError:
        raise FileNotFoundError(errno.ENOENT, "no such shared memory", name) from None
    status = os.fstat(segment.fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(segment.fd)
        raise RegionMismatch(errno.EPERM, f"shared memory {name} is not ours alone")
    region = attach(segment.fd, size, "posix", writable=writable)
    _unlink_quietly(name)
    return region


def sweep(min_age_s=2.0):
    """Remove the named segments of this user whose holders all died. Returns their names.

    Live holders keep a shared lock, so a segment whose exclusive lock can be had is dead; this does
    not depend on process ids. Segments younger than `min_age_s` seconds are left alone.
    """
    removed = []
    try:
        entries = list(os.scandir(SHM_FOLDER))
    except OSError:
        return removed           # none here, or no descriptor left to look with
    for entry in entries:
        if not NAME.fullmatch(entry.name):
            continue
        try:
            fd = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid() or time.time() - status.st_ctime < min_age_s:
                continue
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(entry.path)
            removed.append(entry.name)
        except OSError:
            continue
        finally:
            os.close(fd)
    return removed


def _create_posix(size):
    import posix_ipc

    while True:
        name = NAME_PREFIX + secrets.token_hex(16)
        # Exclusively: plain O_CREAT would open what somebody else has put there.
        try:
            segment = posix_ipc.SharedMemory("/" + name, posix_ipc.O_CREX, mode=0o600)
        except OSError as error:
            if error.errno is not None:
                raise
            # Out of descriptors: posix_ipc says in words alone whether it is the process or the system.
            number = errno.EMFILE if "process" in str(error) else errno.ENFILE
            raise OSError(number, f"shared memory: {os.strerror(number)}") from None
        fd = segment.fd
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.fstat(fd).st_nlink == 0:
                os.close(fd)  # swept before it was locked
                continue
            _allocate(fd, size)
        except BaseException:
            os.close(fd)
            _unlink_quietly(name)
            raise
        return fd, name


def _create_memfd(size):
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("rings", flags | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create("rings", flags)
    try:
        _allocate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _allocate(fd, size):
    """Sparse memory would kill the first one who touches a page that is not there: allocate it all."""
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise OSError(error.errno, f"{size} bytes of shared memory: {os.strerror(error.errno)}") from None


def _check_seals(fd, single_writer):
    """Exactly the seals of `create`: "some seal" is not enough (an unsealable memfd has F_SEAL_SEAL)."""
    try:
        seals = fcntl.fcntl(fd, F_GET_SEALS)
    except OSError as error:
        raise RegionMismatch(error.errno, "memory without seals was offered as a memfd") from None
    found = seals & ~F_SEAL_EXEC
    if single_writer is None:
        good = found & ~F_SEAL_FUTURE_WRITE == SEALS
    else:
        good = found == SEALS | (F_SEAL_FUTURE_WRITE if single_writer else 0)
    if not good:
        raise RegionMismatch(errno.EPERM, f"memfd with seals {found:#x}: it must be sealed against shrinking")


def _unlink_quietly(name):
    import posix_ipc

    try:
        posix_ipc.unlink_shared_memory("/" + name)
    except posix_ipc.ExistentialError:
        pass
