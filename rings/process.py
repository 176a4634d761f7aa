"""Who this process is to the others that hold ends of its rings (see ``rings/peer.pxd``)."""

import os

_identity = None


def identity():
    """(pid, start time in clock ticks, inode of the pid namespace) of this process."""
    from rings.peer import process_start_time

    global _identity
    if _identity is None or _identity[0] != os.getpid() or not _identity[1]:
        _identity = (os.getpid(), process_start_time(os.getpid()), _namespace())
    return _identity


def _namespace():
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
