"""Every test here runs on both backends, and none may leave a file descriptor or a name behind."""

import gc
import os
import threading

import pytest

import rings


@pytest.fixture(params=["posix", "memfd"])
def backend(request):
    return request.param


@pytest.fixture
def ring(backend):
    """Makes rings on the backend under test and closes them."""
    made = []

    def make(capacity=4096):
        pair = rings.ring(capacity, backend)
        made.append(pair)
        return pair

    yield make
    for pair in made:
        for end in pair:
            end.close()


def open_fds():
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the one that listed the folder
    return found


def ours(fds):
    """The descriptors that rings makes: shared memory, eventfds, pidfds."""
    marks = ("/memfd:rings", "/dev/shm/ns-", "anon_inode:[eventfd]", "anon_inode:[pidfd]", "pidfd:")
    return sorted(name for name in fds.values() if name.startswith(marks))


def names():
    return {name for name in os.listdir("/dev/shm") if name.startswith("ns-")}


def left_behind(before):
    """Names that were not there before, and stay: other processes make some and remove them at once."""
    left = names() - before
    for _ in range(200):
        if not left:
            break
        threading.Event().wait(0.05)
        left &= names()
    return left


@pytest.fixture(scope="module", autouse=True)
def others_objects_left_alone():
    """What other tests left is collected once, not in every test's search for leaks: that took half a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_leaks():
    # Not the names: other processes may make and remove some meanwhile.
    gc.collect()
    before = ours(open_fds())
    yield
    for _ in range(100):                      # what another thread is about to close is no leak
        gc.collect()
        if ours(open_fds()) == before:
            return
        threading.Event().wait(0.05)
    assert ours(open_fds()) == before


@pytest.fixture
def in_child():
    """Runs a function in a forked child; the child must end with 0 before the test does."""
    children = []

    def start(function, *arguments):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                function(*arguments)
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(pid)
        return pid

    yield start
    for pid in children:
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:
            continue  # the test has waited for it
        assert os.waitstatus_to_exitcode(status) == 0
