"""F14: file descriptors run out, at every step. What needs one says so, leaves nothing behind, and goes on when there
are some again; what needs none goes on."""

import errno
import os
import resource

import netstack
from netstack.errors import NetstackError
from tests.support import descriptors


class Allowed:
    """So many descriptors beyond those that are open."""

    def __init__(self, more):
        self.more = more

    def __enter__(self):
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Numbers below the highest that are free count, too: take them.
        self.fill = []
        highest = max(descriptors())
        while (fd := os.dup(0)) < highest:
            self.fill.append(fd)
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1 + self.more, self.limits[1]))

    def __exit__(self, *exc):
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
        for fd in self.fill:
            os.close(fd)


def steps(run, most=60):
    """Run with no descriptor to spare, with one, with two, until it gets through. Returns how many it needed."""
    run()                                        # what is opened once for all
    before = descriptors()
    for more in range(most):
        try:
            with Allowed(more):
                run()
        except OSError as error:
            assert error.errno in (errno.EMFILE, errno.ENFILE, errno.EPROTO, errno.ECONNRESET), error
        except NetstackError as error:
            assert "descriptor" in str(error), error
        else:
            assert descriptors() == before
            return more
        assert descriptors() == before, more
    raise AssertionError(f"{most} descriptors were not enough")


def test_f14_a_host_is_made_or_not_at_every_limit(runtime):
    def run():
        netstack.Host(address="10.0.0.1/24").close()

    assert steps(run) >= 2


def test_f14_a_router_of_another_process_takes_back_what_a_stack_could_not_take(runtime, backend):
    from tests.faults.routers import Nursery
    from tests.router.lan import wait_until

    with Nursery(backend=backend, ring_capacity=1 << 18) as nursery:
        open_in_router = f"/proc/{nursery.pid}/fd"

        def run():
            netstack.attach(nursery.name, drain=0).close()

        run()
        wait_until(lambda: nursery.attachments() == {})
        before = len(os.listdir(open_in_router))
        assert steps(run) >= 6
        assert nursery.attachments() == {}
        wait_until(lambda: len(os.listdir(open_in_router)) <= before)


def test_f14_a_router_is_made_or_not_at_every_limit(runtime, backend):
    """With its control socket, the file that it writes for the next router, and a listener for its counters."""
    def run():
        netstack.Router(name="scarce", backend=backend, metrics="127.0.0.1:0").close()

    assert steps(run) >= 10
