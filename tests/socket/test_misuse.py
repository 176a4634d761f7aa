"""What a program does wrong, or asks for in vain, it is told in a way that it can act on."""

import errno
import socket
import sys

import pytest

from netstack.patching import StaleReferenceWarning
from tests.places import MODES, host_in
from tests.support import ROOT, run

TCP_REPAIR, TCP_ULP, UDP_SEGMENT, SO_MARK, SO_TXTIME = 19, 31, 103, 36, 61
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture(scope="module", params=MODES)
def host(request):
    with host_in(request, request.param, "10.6.0.1/24", "fd06::1/64") as host:
        yield host


@pytest.mark.parametrize("kind, level, option", [
    (STREAM, socket.SOL_SOCKET, SO_MARK),
    (STREAM, socket.SOL_SOCKET, socket.SO_BINDTODEVICE),
    (DATAGRAM, socket.SOL_SOCKET, SO_TXTIME),
    (STREAM, socket.IPPROTO_TCP, TCP_REPAIR),
    (STREAM, socket.IPPROTO_TCP, TCP_ULP),
    (DATAGRAM, socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (DATAGRAM, socket.IPPROTO_UDP, UDP_SEGMENT),
    (STREAM, socket.IPPROTO_UDP, UDP_SEGMENT),
    (STREAM, socket.IPPROTO_IP, socket.IP_TRANSPARENT),
    (DATAGRAM, socket.IPPROTO_IP, socket.IP_TRANSPARENT),
    (STREAM, socket.IPPROTO_IPV6, socket.IPV6_RTHDR),
    (STREAM, socket.SOL_SOCKET, 9999),
    (STREAM, 9999, 1),
])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_an_option_that_the_stack_does_not_have_is_no_option(host, family, kind, level, option):
    with host.socket(family, kind) as s:
        for call in (lambda: s.setsockopt(level, option, 1), lambda: s.getsockopt(level, option)):
            with pytest.raises(OSError) as caught:
                call()
            # As Linux: getsockopt() of another protocol's level is EOPNOTSUPP in IPv4.
            assert caught.value.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP)


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM])
def test_half_of_an_option_s_value_is_a_wrong_value(host, kind):
    with host.socket(socket.AF_INET, kind) as s, pytest.raises(OSError) as caught:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 1)
    assert caught.value.errno == errno.EINVAL


def test_every_option_of_the_standard_library_works_or_says_no(host):
    """None is taken in silence: what could be set can be read, or it is an error that Linux has for options."""
    levels = {"SO_": socket.SOL_SOCKET, "TCP_": socket.IPPROTO_TCP, "IP_": socket.IPPROTO_IP,
              "IPV6_": socket.IPPROTO_IPV6}
    refusals = {errno.ENOPROTOOPT, errno.EINVAL, errno.ENOENT, errno.EADDRNOTAVAIL}
    tried = 0
    for prefix, level in levels.items():
        for name in dir(socket):
            if not name.startswith(prefix) or "_VM_" in name or "J1939" in name:
                continue
            for kind in (STREAM, DATAGRAM):
                with host.socket(socket.AF_INET6 if prefix == "IPV6_" else socket.AF_INET, kind) as s:
                    tried += 1
                    try:
                        s.setsockopt(level, getattr(socket, name), 1)
                    except OSError as error:
                        assert error.errno in refusals, f"{name}: {error!r}"
                    else:
                        s.getsockopt(level, getattr(socket, name))
    assert tried > 100


ASYNCIO = """
import asyncio, sys, types, warnings
import netstack
from asyncio import open_connection, start_server
early = types.ModuleType("my_server")
exec("import asyncio\\nfrom socket import socket as made, getaddrinfo as look_up", early.__dict__)
sys.modules["my_server"] = early
running = asyncio.new_event_loop()               # before the patch, and used behind it
host = netstack.Host(address="10.6.0.1/24")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    patch = netstack.patch(host)
[warning] = caught
print(warning.category.__name__, str(warning.message))

async def main():
    server = await start_server(lambda r, w: (w.write(b"here"), w.close()), "10.6.0.1", 80)
    reader, writer = await open_connection("10.6.0.1", 80)
    print(await reader.read(), host.counters()["tcp_payload_in"])
    writer.close()
    server.close()

running.run_until_complete(asyncio.wait_for(main(), 30))
running.close()
patch.undo()
"""


def test_a_patch_behind_asyncio_warns_by_name_of_those_alone_that_kept_the_kernel_s():
    """asyncio looks names up when it uses them: what a program took of it, and loops it has made, are the host's."""
    warning, said = run([sys.executable, "-c", ASYNCIO], cwd=ROOT).stdout.strip().splitlines()
    assert warning.startswith(StaleReferenceWarning.__name__)
    assert "my_server.made" in warning and "my_server.look_up" in warning
    assert "asyncio" not in warning
    assert said == "b'here' 4"
