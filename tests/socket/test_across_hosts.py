"""A socket of one host that is asked for what only another host of the process reaches says so."""

import asyncio
import errno
import re
import socket
import sys

import pytest

import netstack
from netstack.link import channel_pair
from netstack.testing import VirtualNetwork
from tests.places import MODES, daemon_of, host_in
from tests.socket.conftest import LIMIT

A, B, NOWHERE = "10.41.0.1", "10.42.0.1", "10.43.0.1"


@pytest.fixture(params=MODES)
def hosts(request):
    with host_in(request, request.param, f"{A}/24") as a, netstack.Host(address=(f"{B}/24", "fd42::1/64")) as b:
        yield a, b


def says(a, b, address=B):
    return re.escape(f"{address} is on the network of another host of this process, {b!r}; this socket is one of {a!r}")


def test_connect_and_bind_name_the_other_host(hosts):
    a, b = hosts
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with a.socket(type=kind) as s, pytest.raises(OSError, match=says(a, b)) as e:
            s.connect((B, 80))
        assert e.value.errno == errno.ENETUNREACH and type(e.value) is OSError
    with a.socket() as s:
        assert s.connect_ex((B, 80)) == errno.ENETUNREACH
    with a.socket() as s, pytest.raises(OSError, match=says(a, b)) as e:
        s.bind((B, 0))
    assert e.value.errno == errno.EADDRNOTAVAIL
    with a.socket(socket.AF_INET6) as s, pytest.raises(OSError, match=says(a, b, "fd42::7")):
        s.connect(("fd42::7", 80))
    with pytest.raises(OSError, match=says(a, b)):
        a.create_connection((B, 80), timeout=5)


def test_an_address_that_nobody_has_and_other_errors_are_as_they_were(hosts):
    a, b = hosts
    for address, code in (((NOWHERE, 80), errno.ENETUNREACH), ((A, 1), errno.ECONNREFUSED),
                          (("127.0.0.1", 1), errno.ECONNREFUSED)):
        with a.socket() as s, pytest.raises(OSError) as e:
            s.settimeout(LIMIT)
            s.connect(address)
        assert e.value.errno == code and "another host" not in str(e.value)
    with a.socket() as s:
        s.setblocking(False)
        with pytest.raises(BlockingIOError):
            s.connect((A, 1))


def test_a_closed_host_is_not_named(hosts):
    a, b = hosts
    b.close()
    with a.socket() as s, pytest.raises(OSError) as e:
        s.settimeout(LIMIT)
        s.connect((B, 80))
    assert e.value.errno == errno.ENETUNREACH
    assert "another host" not in str(e.value) and not getattr(e.value, "__notes__", [])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
@pytest.mark.parametrize("hosts", ["library"], indirect=True)
def test_a_timeout_has_a_note(hosts):
    """A host with a link may reach anything behind it: it sends, and hears nothing."""
    b = hosts[1]
    here, there = channel_pair()
    with netstack.Host(link=here, address=f"{A}/24", drain=0) as a, a.socket() as s, pytest.raises(TimeoutError) as e:
        s.settimeout(0.01)
        s.connect((B, 80))
    assert str(e.value) == "timed out"
    note, = e.value.__notes__
    assert note.startswith(f"{B} is on the network of another host of this process, {b!r}; this socket is one of ")
    there.close()


def test_a_daemon_may_reach_what_another_host_has():
    here, there = channel_pair()
    with daemon_of(f"{A}/24", link=here) as (a,), netstack.Host(link=there, address=f"{B}/24", drain=1) as b, \
            b.create_server((B, 0)) as listener, a.create_connection(listener.getsockname(), LIMIT) as s:
        server, _ = listener.accept()
        server.close()
        assert s.recv(1) == b""


def test_event_loops_say_it_too():
    """TCP gives up after minutes, of virtual time."""
    with netstack.Host(address=f"{B}/24") as b, VirtualNetwork() as net:
        a = net.host(A)

        async def main():
            with pytest.raises(TimeoutError, match=says(a, b)):
                await asyncio.open_connection(B, 80)

        net.run(main())
