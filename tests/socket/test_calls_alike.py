"""Everything the standard library refuses is refused alike: `calls_alike` on the kernel and on a stack, by state,
wherever the stack is.

Compared are what a call gives, the class and errno of what it raises, and the audit events it makes. Both sides reach
themselves only: the kernel's is a network namespace.
"""

from __future__ import annotations

import errno
import re
import socket as kernel

import pytest

from tests.places import MODES, host_in
from tests.socket import calls_alike
from tests.support import network_namespace, scale

pytestmark = [pytest.mark.root, pytest.mark.unwatched]

OF_DATAGRAMS = "|".join(name for names in calls_alike.DATAGRAM_OPTIONS.values() for name in names)
# Where a stack differs on purpose: calls, states, and why.
ON_PURPOSE = [(re.compile(call), re.compile(state), why) for call, state, why in (
    (r"\.nonsense = ", r"", "instances have a __dict__: their hottest methods stand there"),
    (r"bind\(", r"stream, (reset|refused)", "a socket whose connection failed keeps its address; Linux gives it back"),
    (r"getsockname\(\)", r"stream, refused", "the same"),
    (r"connect(_ex)?\(.*, 0(, |\))", r"stream", "nobody listens at port 0: EADDRNOTAVAIL at once"),
    (r"send(to|msg)\(.*::ffff:127.0.0.1', 0\)", r"IPv6 datagram, connected", "both port and address are wrong"),
    (r"sendmsg\(\[b'x'\], \[\(", r"datagram", "a wrong item is told of before a missing peer"),
    (rf"[gs]etsockopt\(IPPROTO_IP(V6)?, ({OF_DATAGRAMS})", r"stream", "options of datagrams"),
)]


EVERY_MODE = pytest.mark.parametrize("ours", MODES, indirect=True)


class KernelsSide:
    """A kernel's sockets, and what came of the calls of each state on them, which is asked once for all modes."""

    def __init__(self, namespace) -> None:
        self.namespace = namespace
        self.outcomes: dict[tuple[str, int], tuple] = {}

    def socket(self, family: int, type: int) -> kernel.socket:
        with self.namespace.enter():
            return kernel.socket(family, type)

    def outcome(self, state: str, number: int, call) -> tuple:
        key = state, number
        if key not in self.outcomes:
            self.outcomes[key] = calls_alike.outcome(self.socket, state, call)
        return self.outcomes[key]


@pytest.fixture(scope="module")
def kernels():
    calls_alike.begin_auditing()
    with network_namespace() as namespace:
        namespace.run("ip", "addr", "add", "10.0.0.1/24", "dev", "lo")
        namespace.run("ip", "-6", "addr", "add", "fd00::1/64", "dev", "lo", "nodad")
        yield KernelsSide(namespace)


@pytest.fixture(scope="module")
def ours(request, kernels):
    """``(mode, makes a stack's socket)``."""
    with host_in(request, request.param, "10.0.0.1/24", "fd00::1/64") as host:
        yield request.param, host.socket


def on_purpose(call: str, state: str) -> bool:
    return any(pattern.match(call) and where.search(state) for pattern, where, _ in ON_PURPOSE)


def some_of(state: str, mode: str):
    """``(number, name, call)``: for the library stack all, for the others as many as the scale wants, those that other
    states leave out."""
    step = 1 if mode == "library" else max(1, 1000 // scale(1000))
    first = list(calls_alike.STATES).index(state)
    for number, (name, call) in enumerate(calls_alike.calls()):
        if (number + first) % step == 0 and not on_purpose(name, state):
            yield number, name, call


@EVERY_MODE
@pytest.mark.parametrize("state", calls_alike.STATES)
def test_a_call_has_the_same_outcome(kernels, ours, state):
    mode, make = ours
    compared, different = 0, []
    for number, name, call in some_of(state, mode):
        expected = kernels.outcome(state, number, call)
        found = calls_alike.outcome(make, state, call)
        compared += 1
        if found != expected:
            different.append(f"{name}: {found}, the kernel {expected}")
    assert not different, f"{state}: {len(different)} of {compared}\n" + "\n".join(different[:40])
    assert compared > (2000 if mode == "library" else min(2000, scale(2000)))


@EVERY_MODE
def test_a_difference_would_be_seen(kernels, ours):
    """The oracle itself: one call, two states."""
    def look(make, state):
        return calls_alike.outcome(make, state, lambda s: s.recv(1))

    for make in (kernels.socket, ours[1]):
        assert look(make, "stream") == ("raises", "OSError", errno.ENOTCONN, [])
        assert look(make, "stream, bytes wait") == ("gives", "1 bytes", [])
        connecting = calls_alike.outcome(make, "datagram", lambda s: s.connect(("127.0.0.1", 9)))
        assert connecting == ("gives", None, [("'socket.connect'", ("'127.0.0.1'", 9))])


@EVERY_MODE
@pytest.mark.parametrize("name", calls_alike.NOT_THERE)
def test_an_option_that_is_not_there_is_unknown(ours, name):
    level = kernel.SOL_SOCKET if name.startswith("SO_") else kernel.IPPROTO_IP
    for type in (kernel.SOCK_STREAM, kernel.SOCK_DGRAM):
        with ours[1](kernel.AF_INET, type) as s:
            with pytest.raises(OSError) as caught:
                s.setsockopt(level, getattr(kernel, name), 1)
            assert caught.value.errno == errno.ENOPROTOOPT
