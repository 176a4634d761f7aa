"""Watching the process at the other end of a ring, by pidfd.

The owner words in a ring say who holds an end: process id, start time and pid namespace. A pidfd
opened from them and checked against the start time cannot hit a later process with the same id. In
another pid namespace the id means nothing: then only a proper close is noticed.
"""

import os

_identity = None


def identity():
    """(pid, start time in clock ticks, inode of the pid namespace) of this process."""
    global _identity
    if _identity is None or _identity[0] != os.getpid():
        _identity = (os.getpid(), start_time("self") or 0, _namespace())
    return _identity


def start_time(pid):
    """When a process started, clock ticks since boot; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The second field, the name, may hold spaces and parentheses.
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def watch(pid, start, namespace):
    """A pidfd of that process: readable once it is dead.

    Returns
    -------
    int
        The pidfd; -1 if it cannot be watched from here.

    Raises
    ------
    ProcessLookupError
        It is dead already.
    """
    if namespace != identity()[2]:
        return -1
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return -1
    if start_time(pid) != start:
        os.close(fd)
        raise ProcessLookupError(f"process {pid} is gone")
    return fd


def _namespace():
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
