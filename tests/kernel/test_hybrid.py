"""The hybrid stack: TCP and UDP of ours on the kernel's IP, met by the kernel's over a veth and over its own loopback.

`near` is the namespace whose addresses the stack shares with its kernel, `far` a kernel alone. tshark watches the wire.
"""

import contextlib
import errno
import hashlib
import http.server
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import urllib.request

import pytest

from tests import support
from tests.kernel.wires import tshark
from tests.router.lan import wait_until
from tests.support import MALFORMED

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")]

FAR, NEAR, FAR6, NEAR6 = "10.9.8.1", "10.9.8.2", "fd09:8::1", "fd09:8::2"
VERSIONS = pytest.mark.parametrize("version", [4, 6])
END = b"the end of this capture"
DATA = random.Random(8).randbytes(3_000_000)


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Site:
    """Both namespaces, our host in the near one, and what went over the wire between them."""

    def __init__(self, near, far, host, link):
        self.near, self.far, self.host, self.link = near, far, host, link

    def kernel_socket(self, where, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        with where.enter():
            s = socket.socket(family, kind)
        s.settimeout(60)
        return s

    def kernel_listener(self, where, address):
        s = self.kernel_socket(where, socket.AF_INET6 if ":" in address else socket.AF_INET)
        s.bind((address, 0))
        s.listen()
        return s

    def resets(self):
        """How many the near kernel's TCP has sent."""
        return int(self._snmp("Tcp")["OutRsts"])

    def _snmp(self, protocol):
        with self.near.enter():
            lines = [line.split() for line in open("/proc/thread-self/net/snmp") if line.startswith(protocol + ":")]
        return dict(zip(lines[0], lines[1], strict=True))

    def unreachables(self):
        return int(self._snmp("Icmp")["OutDestUnreachs"])


def written(capture):
    """The watcher has written what came last, and so everything."""
    with open(capture, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - 65536))
        return END in file.read()


@contextlib.contextmanager
def sites(tmp_path, *, watch=True, **options):
    import netstack
    from netstack.link import KernelIp

    with support.network_namespace() as near, support.network_namespace() as far:
        support.run(["ip", "-n", near.name, "link", "add", "wire", "type", "veth", "peer", "name", "wire",
                     "netns", far.name])
        for where, four, six in ((near, NEAR, NEAR6), (far, FAR, FAR6)):
            where.run("ip", "addr", "add", f"{four}/24", "dev", "wire")
            where.run("ip", "addr", "add", f"{six}/64", "dev", "wire", "nodad")
            where.run("ip", "link", "set", "wire", "up")
        capture = tmp_path / "wire.pcapng"
        watcher = far.popen("tshark", "-q", "-i", "wire", "-w", capture, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE) if watch else None
        try:
            if watcher:
                line = b"."
                while line and b"Capturing" not in line:
                    line = watcher.stderr.readline()
                wait_until(lambda: capture.exists() and capture.stat().st_size > 0)
            with near.enter():
                link = KernelIp()
                with netstack.Host(link=link, address=link.addresses, drain=5, **options) as host:
                    yield Site(near, far, host, link)
        finally:
            if watcher:
                with far.enter(), socket.socket(type=socket.SOCK_DGRAM) as s:
                    wait_until(lambda: s.sendto(END, (NEAR, 9)) and written(capture))
                watcher.send_signal(2)
                watcher.wait(60)
                watcher.stderr.close()
        if watch:
            bad = tshark(capture, f"((tcp || udp) && (ip.src=={NEAR} || ipv6.src=={NEAR6}) && "
                                  "(tcp.checksum.status==0 || udp.checksum.status==0)) || " + MALFORMED,
                         "frame.number", "_ws.col.Info")
            assert not bad, bad[:10]


@pytest.fixture
def site(tmp_path):
    with sites(tmp_path) as both:
        yield both


@contextlib.contextmanager
def serving(host, address, data):
    """Our HTTP server; its port."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    with host.patch():
        server = Server((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def url(address, port):
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


# --- TCP --------------------------------------------------------------------------------------------------------------


@VERSIONS
def test_the_far_kernels_curl_fetches_from_our_server(site, tmp_path, version):
    address = NEAR if version == 4 else NEAR6
    out = tmp_path / "out"
    with serving(site.host, address, DATA) as port:
        site.far.run("curl", "-gsS", "--fail", "--max-time", "120", "-o", out, url(address, port))
    assert digest(out.read_bytes()) == digest(DATA)
    assert site.resets() == 0


@pytest.mark.parametrize("address", [NEAR, NEAR6, "127.0.0.1", "::1"])
def test_the_near_kernels_curl_fetches_from_our_server_over_its_loopback(site, tmp_path, address):
    out = tmp_path / "out"
    with serving(site.host, address, DATA) as port:
        site.near.run("curl", "-gsS", "--fail", "--max-time", "120", "-o", out, url(address, port))
    assert digest(out.read_bytes()) == digest(DATA)
    assert site.resets() == 0 and site.link.stats()["completed"] > 0, "the kernel leaves sums on its loopback undone"


@pytest.mark.parametrize("where, address", [("far", FAR), ("far", FAR6), ("near", NEAR), ("near", NEAR6),
                                            ("near", "127.0.0.1"), ("near", "::1")])
def test_our_client_fetches_from_a_kernel_server(site, tmp_path, where, address):
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(DATA)
    kernel = getattr(site, where)
    server = kernel.popen(sys.executable, "-m", "http.server", "--bind", address, "--directory", tmp_path / "www",
                          "8081", stdout=-3, stderr=-3)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def answers():
        with site.kernel_socket(kernel, family) as probe:
            return probe.connect_ex((address, 8081)) == 0

    try:
        wait_until(answers)
        before = site.resets()                         # the probes that came too early
        with site.host.patch(), urllib.request.urlopen(url(address, 8081) + "file", timeout=120) as response:
            got = response.read()
    finally:
        server.kill()
        server.wait()
    assert digest(got) == digest(DATA)
    assert site.resets() == before


@VERSIONS
def test_data_both_ways_and_a_half_close(site, version):
    far = FAR if version == 4 else FAR6
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with site.kernel_listener(site.far, far) as listener, site.host.socket(family) as ours:
        ours.settimeout(60)
        ours.connect(listener.getsockname())
        theirs, address = listener.accept()
        assert address[:2] == ours.getsockname()[:2] and address[0] == (NEAR if version == 4 else NEAR6)
        with theirs:
            theirs.settimeout(60)
            sender = threading.Thread(target=lambda: (theirs.sendall(DATA), theirs.shutdown(socket.SHUT_WR)))
            sender.start()
            got = b"".join(iter(lambda: ours.recv(1 << 16), b""))
            sender.join(60)
            ours.sendall(DATA[:500_000])
            ours.shutdown(socket.SHUT_WR)
            back = b"".join(iter(lambda: theirs.recv(1 << 16), b""))
    assert digest(got) == digest(DATA) and digest(back) == digest(DATA[:500_000])


def test_our_two_ends_meet_through_the_kernel(site):
    with site.host.create_server((NEAR, 0)) as listener, site.host.socket() as a:
        listener.settimeout(60)
        a.settimeout(60)
        a.connect(listener.getsockname())
        b, _ = listener.accept()
        with b:
            b.settimeout(60)
            a.sendall(b"to myself")
            assert b.recv(100) == b"to myself"
    assert site.resets() == 0


def test_a_closed_port_refuses_whoever_owns_it(site):
    with site.host.socket() as s:
        s.settimeout(60)
        for address in (FAR, NEAR, "127.0.0.1"):
            with site.host.socket() as s, pytest.raises(ConnectionRefusedError):
                s.settimeout(60)
                s.connect((address, 9))


def test_nothing_on_the_wire_is_a_reset(tmp_path):
    """Not of a connection that lives, not after a close, not in TIME-WAIT, not from the port of a closed listener."""
    with sites(tmp_path) as site:
        with site.host.create_server((NEAR, 0)) as listener:
            listener.settimeout(60)
            for who_closes in ("far", "near"):
                with site.kernel_socket(site.far) as theirs:
                    theirs.connect(listener.getsockname())
                    ours, _ = listener.accept()
                    first, second = (theirs, ours) if who_closes == "far" else (ours, theirs)
                    second.settimeout(60)
                    first.sendall(b"x")
                    assert second.recv(10) == b"x"
                    first.shutdown(socket.SHUT_WR)
                    assert second.recv(10) == b""
                    second.close()
                    first.close()
        with site.kernel_listener(site.far, FAR) as there, site.host.socket() as ours:
            ours.settimeout(60)
            ours.connect(there.getsockname())
            there.accept()[0].close()
            assert ours.recv(10) == b""
        assert site.resets() == 0
    assert tshark(tmp_path / "wire.pcapng", f"tcp.flags.syn==1 && ip.src=={NEAR}")
    assert not tshark(tmp_path / "wire.pcapng", "tcp.flags.reset==1")


def test_the_kernels_own_connections_go_on(tmp_path):
    """Our stack sees segments of the kernel's connections, if at all, and says nothing about them."""
    with sites(tmp_path, watch=False) as site, site.host.create_server((NEAR, 0)), \
            site.kernel_listener(site.near, NEAR) as listener, site.kernel_socket(site.far) as theirs:
        theirs.connect(listener.getsockname())
        near, _ = listener.accept()
        with near:
            near.settimeout(60)
            theirs.sendall(DATA[:200_000])
            theirs.shutdown(socket.SHUT_WR)
            assert digest(b"".join(iter(lambda: near.recv(1 << 16), b""))) == digest(DATA[:200_000])
        assert site.host.counters()["tcp_segments_in"] == 0 and site.resets() == 0


# --- ports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("at, ours", [(NEAR, NEAR), ("127.0.0.1", NEAR), ("", ""), (NEAR6, NEAR)])
def test_a_port_of_the_kernels_is_in_use(site, kind, at, ours):
    with site.kernel_socket(site.near, socket.AF_INET6 if ":" in at else socket.AF_INET, kind) as theirs:
        theirs.bind((at, 0))
        port = theirs.getsockname()[1]
        with site.host.socket(type=kind) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind == socket.SOCK_STREAM:
                theirs.listen()
            with pytest.raises(OSError) as e:
                s.bind((ours, port))
            assert e.value.errno == errno.EADDRINUSE
    with site.host.socket(type=kind) as s:
        s.bind((ours, port))                           # free now


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_of_ours_is_in_use_for_the_kernel_until_we_close(site, kind):
    with site.host.socket(type=kind) as s:
        s.bind((NEAR, 0))
        port = s.getsockname()[1]
        for at in (NEAR, "127.0.0.1", NEAR6):
            with site.kernel_socket(site.near, socket.AF_INET6 if ":" in at else socket.AF_INET, kind) as theirs, \
                    pytest.raises(OSError) as e:
                theirs.bind((at, port))
            assert e.value.errno == errno.EADDRINUSE
    with site.kernel_socket(site.near, kind=kind) as theirs:
        theirs.bind((NEAR, port))


def test_an_ephemeral_port_is_held_while_a_connection_and_its_time_wait_need_it(site):
    with site.kernel_listener(site.far, FAR) as listener:
        with site.host.socket() as ours:
            ours.settimeout(60)
            ours.connect(listener.getsockname())
            port = ours.getsockname()[1]
            theirs, _ = listener.accept()
            assert site.link.holds(port)
        with theirs:                                   # we closed first: TIME-WAIT is ours
            theirs.settimeout(60)
            assert theirs.recv(10) == b""
    wait_until(lambda: "TIME_WAIT" in {row.state for row in site.host.stack.sockets()})
    with site.kernel_socket(site.near) as s, pytest.raises(OSError) as e:
        s.bind((NEAR, port))
    assert e.value.errno == errno.EADDRINUSE and site.link.holds(port)


def test_many_connections_get_ports_of_their_own(site):
    """More than the filter names, which lets every port through then."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(site.kernel_listener(site.far, FAR))
        listener.listen(500)
        pairs = []
        for _ in range(230):
            ours = stack.enter_context(site.host.socket())
            ours.settimeout(60)
            ours.connect(listener.getsockname())
            theirs = stack.enter_context(listener.accept()[0])
            pairs.append((ours, theirs))
        assert len({ours.getsockname()[1] for ours, _ in pairs}) == len(pairs) == site.link.stats()["tcp_ports"]
        for n, (ours, theirs) in enumerate(pairs):
            theirs.sendall(b"%d" % n)
            assert ours.recv(10) == b"%d" % n
        for ours, theirs in pairs:                     # they close first, so nothing rests here
            theirs.close()
            assert ours.recv(1) == b""
            ours.close()
        wait_until(lambda: site.link.stats()["tcp_ports"] == 0)
        with site.host.create_server((NEAR, 0)) as server, site.kernel_socket(site.far) as s:
            s.connect(server.getsockname())            # few ports again: the filter names them
            server.settimeout(60)
            server.accept()[0].close()


def test_two_programs_share_the_kernels_address_but_no_port(site):
    import netstack

    with site.near.enter(), netstack.attach(mode="hybrid", visible=False) as other:
        with site.host.create_server((NEAR, 0)) as first, other.create_server((NEAR, 0)) as second:
            with other.socket() as s, pytest.raises(OSError) as e:
                s.bind(first.getsockname())
            assert e.value.errno == errno.EADDRINUSE
            for server in (first, second):
                server.settimeout(60)
                with site.kernel_socket(site.far) as s:
                    s.connect(server.getsockname())
                    t, _ = server.accept()
                    with t:
                        t.sendall(b"hello")
                        assert s.recv(10) == b"hello"
            with other.socket() as s:                  # and they reach each other
                s.settimeout(60)
                s.connect(first.getsockname())
                first.accept()[0].close()
                assert s.recv(1) == b""
    assert site.resets() == 0


# --- UDP, ICMP, path MTU ----------------------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("length", [1, 1400, 20_000])
def test_datagrams_go_both_ways(site, version, length):
    near, far, family = (NEAR, FAR, socket.AF_INET) if version == 4 else (NEAR6, FAR6, socket.AF_INET6)
    with site.kernel_socket(site.far, family, socket.SOCK_DGRAM) as theirs, \
            site.host.socket(family, socket.SOCK_DGRAM) as ours:
        theirs.bind((far, 0))
        ours.settimeout(60)
        ours.sendto(DATA[:length], theirs.getsockname()[:2])
        got, address = theirs.recvfrom(70_000)
        assert got == DATA[:length] and address[0] == near
        theirs.sendto(DATA[:length], address)
        got, address = ours.recvfrom(70_000)
        assert got == DATA[:length] and address[:2] == theirs.getsockname()[:2]
    assert site.unreachables() == 0


def test_a_datagram_to_our_closed_port_is_the_kernels_to_refuse(site):
    with site.host.socket(type=socket.SOCK_DGRAM) as ours:
        ours.bind((NEAR, 0))
        port = ours.getsockname()[1]
    with site.kernel_socket(site.far, kind=socket.SOCK_DGRAM) as theirs:
        theirs.connect((NEAR, port))
        theirs.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            theirs.recv(10)


def test_a_closed_port_of_a_kernel_refuses_our_datagrams(site):
    with site.kernel_socket(site.far, kind=socket.SOCK_DGRAM) as s:
        s.bind((FAR, 0))
        nobody = s.getsockname()
    with site.host.socket(type=socket.SOCK_DGRAM) as ours:
        ours.settimeout(60)
        ours.connect(nobody)
        ours.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            ours.recv(10)


def test_our_ping_is_answered(site):
    with site.host.socket(type=socket.SOCK_DGRAM, proto=socket.IPPROTO_ICMP) as ping:
        ping.settimeout(60)
        ping.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 7) + DATA[:56], (FAR, 0))
        answer, address = ping.recvfrom(1000)
    assert address == (FAR, 0) and answer[0] == 0 and answer[8:] == DATA[:56]


@VERSIONS
def test_a_device_that_carries_less_than_it_did_is_noticed(site, version):
    """The kernel refuses the packet (EMSGSIZE): the stack hears of it as from a router, and goes on."""
    far, family = (FAR, socket.AF_INET) if version == 4 else (FAR6, socket.AF_INET6)
    with site.kernel_listener(site.far, far) as listener, site.host.socket(family) as ours:
        ours.settimeout(60)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        site.near.run("ip", "link", "set", "wire", "mtu", "1300")
        with theirs:
            theirs.settimeout(60)
            sender = threading.Thread(target=lambda: (ours.sendall(DATA[:300_000]), ours.shutdown(socket.SHUT_WR)))
            sender.start()
            got = b"".join(iter(lambda: theirs.recv(1 << 16), b""))
            sender.join(60)
    assert digest(got) == digest(DATA[:300_000]) and site.link.stats()["too_big"] > 0


def test_a_network_the_kernel_has_no_way_to_is_unreachable(site):
    with site.host.socket() as s, pytest.raises(OSError) as e:
        s.settimeout(60)
        s.connect(("192.0.2.1", 80))
    assert e.value.errno == errno.ENETUNREACH


# --- the command, and what it says ------------------------------------------------------------------------------------


def netstack_run(where, *argv, before=(), **options):
    return where.popen(*before, sys.executable, "-m", "netstack", "run", "--mode", "hybrid", *argv, cwd=support.ROOT,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       env={**os.environ, "PYTHONUNBUFFERED": "1"}, **options)


def test_an_unchanged_server_runs_on_the_kernels_address(tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    out = tmp_path / "out"
    with sites(tmp_path, watch=False) as site:
        site.host.close()
        program = netstack_run(site.near, "--stats", tmp_path / "stats", "--", "-m", "http.server", "8080",
                               "--directory", tmp_path)
        try:
            assert "8080" in program.stdout.readline()
            site.far.run("curl", "-sS", "--fail", "--max-time", "120", "-o", out, f"http://{NEAR}:8080/file")
            with site.kernel_socket(site.near) as s, pytest.raises(OSError):
                s.bind((NEAR, 8080))
        finally:
            program.send_signal(2)
            program.wait(60)
            program.stdout.close()
        assert digest(out.read_bytes()) == digest(DATA) and site.resets() == 0
        assert '"tcp_segments_in": 0' not in (tmp_path / "stats").read_text()


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv (util-linux)")
def test_without_the_capability_it_says_which(netns):
    program = netstack_run(netns, "--", "-c", "pass", before=(
        "setpriv", "--inh-caps=-net_raw", "--bounding-set=-net_raw", "--"))
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 1 and "CAP_NET_RAW" in said and "Traceback" not in said


def test_an_address_the_kernel_has_not_is_an_error(netns):
    program = netstack_run(netns, "--address", "192.0.2.7", "--", "-c", "pass")
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 1 and "192.0.2.7" in said and "Traceback" not in said


def test_a_forked_child_does_not_hold_its_parents_ports(site):
    ready, told = os.pipe()
    with site.host.create_server((NEAR, 0)) as listener:
        port = listener.getsockname()[1]
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write)
            os.write(told, b"x")
            os.read(read, 1)
            os._exit(0)
        os.close(read)
        os.read(ready, 1)
    try:
        with site.kernel_socket(site.near) as s:
            s.bind((NEAR, port))
    finally:
        for fd in (write, ready, told):
            os.close(fd)
        os.waitpid(child, 0)
