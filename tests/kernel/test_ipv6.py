"""IPv6 against the kernel on one Ethernet: echo, TCP, addresses in conflict, radvd, groups; tshark judges."""

import contextlib
import http.server
import json
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest

from tests.support import STRANGE_PAYLOAD

pytestmark = pytest.mark.root
KERNEL, OURS = "fd09::1", "fd09::2"
KERNEL4, OURS4 = "10.9.6.1", "10.9.6.2"
BAD = ("tcp.checksum.status==0 || udp.checksum.status==0 || icmpv6.checksum.status==0 || ip.checksum.status==0 || "
       f"((_ws.malformed || _ws.expert.severity==error) && !({STRANGE_PAYLOAD}))")


def tshark(capture, display_filter, *fields):
    if not shutil.which("tshark"):
        pytest.skip("needs tshark")
    done = subprocess.run(
        ["tshark", "-r", str(capture), "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
         "-Y", display_filter, "-T", "fields", *(a for f in fields or ("frame.number",) for a in ("-e", f))],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@contextlib.contextmanager
def ethernet(netns, tmp_path, addresses=(f"{OURS}/64", f"{OURS4}/24"), kernel=(f"{KERNEL}/64", f"{KERNEL4}/24"),
             before=lambda: None, pardoned="icmpv6.type==0", **options):
    """A host of ours and the kernel at the two ends of a TAP; at the end tshark finds nothing wrong with any frame.

    Those that the filter ``pardoned`` lets through are not judged: errors quote packets that are cut.
    """
    import netstack
    from netstack.link import PcapWriter, Tap

    with netns.enter():
        tap = Tap("tap0")
    for address in kernel:
        netns.run("ip", "addr", "add", address, "dev", "tap0", *(("nodad",) if ":" in address else ()))
    netns.run("ip", "link", "set", "tap0", "up")
    before()
    capture = tmp_path / "capture.pcapng"
    host = netstack.Host(link=PcapWriter(tap, str(capture), snap_length=0x40000), address=addresses, drain=5, **options)
    host.capture = capture
    try:
        yield host
    finally:
        host.close()
    bad = tshark(capture, f"({BAD}) && !({pardoned})", "frame.number", "_ws.col.Info")
    assert not bad, bad[:10]


def test_each_pings_the_other(netns, tmp_path):
    with ethernet(netns, tmp_path) as host:
        said = netns.run("ping", "-6", "-c", "3", "-i", "0.2", "-s", "1000", OURS).stdout
        assert b" 0% packet loss" in (said if isinstance(said, bytes) else said.encode())
        with host.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6) as s:
            s.settimeout(60)
            s.sendto(bytes((128, 0, 0, 0, 0, 0, 0, 7)) + b"payload", (KERNEL, 0))
            data, address = s.recvfrom(100)
        assert (data[0], data[6:8], data[8:], address[0]) == (129, b"\0\7", b"payload", KERNEL)


def test_link_local_addresses_reach_each_other(netns, tmp_path):
    with ethernet(netns, tmp_path) as host:
        own = next(a for a in host.stack.addresses if a.startswith("fe80")).partition("%")[0]
        netns.run("ping", "-6", "-c", "1", "-W", "20", f"{own}%tap0")
        shown = json.loads(netns.run("ip", "-6", "-j", "addr", "show", "dev", "tap0", "scope", "link").stdout)
        theirs = next(a["local"] for link in shown for a in link.get("addr_info", []) if "local" in a)
        with netns.enter():
            kernel = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            kernel.bind(("::", 5454))
        kernel.settimeout(60)
        with kernel, host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.settimeout(60)
            s.sendto(b"hello", (theirs, 5454, 0, 1))
            data, address = kernel.recvfrom(100)
            assert (data, address[0]) == (b"hello", own)
            kernel.sendto(b"answer", address)
            assert s.recvfrom(100) == (b"answer", (theirs, 5454, 0, 1))


@contextlib.contextmanager
def web_server(host):
    """CPython's http.server on a dual-stack socket of the host."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.client_address[0].encode() + b"\n" + bytes(100_000)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6

        def server_bind(self):
            self.socket = host.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
            self.server_name, self.server_port = "host", 8080

        def server_activate(self):
            pass

    server = Server(("::", 8080), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_dual_stack_web_server_is_fetched_over_both_versions(netns, tmp_path):
    with ethernet(netns, tmp_path) as host, web_server(host):
        for url, client in ((f"http://[{OURS}]:8080/", KERNEL), (f"http://{OURS4}:8080/", f"::ffff:{KERNEL4}")):
            done = netns.run("curl", "-s", "-g", "--max-time", "60", "-o", "/dev/stdout", url)
            body = done.stdout if isinstance(done.stdout, bytes) else done.stdout.encode("latin1")
            assert body == client.encode() + b"\n" + bytes(100_000)


@pytest.mark.skipif(not shutil.which("dnsmasq"), reason="needs dnsmasq (dnsmasq-base)")
def test_a_dual_stack_web_server_is_fetched_by_name_over_both_versions(netns, tmp_path):
    from tests.kernel.test_names import dnsmasq, resolv_conf

    record = f"--host-record=both.test.example,{OURS4},{OURS}"
    with ethernet(netns, tmp_path) as host, web_server(host), dnsmasq(netns, tmp_path, KERNEL4, record), \
            resolv_conf(netns, f"nameserver {KERNEL4}\n"):
        for version, client in (("-4", f"::ffff:{KERNEL4}"), ("-6", KERNEL)):
            done = netns.run("curl", "-s", version, "--max-time", "60", "http://both.test.example:8080/")
            assert done.stdout.encode("latin1") == client.encode() + b"\n" + bytes(100_000)


def test_fragments_go_both_ways(netns, tmp_path):
    data = bytes(range(251)) * 80
    with ethernet(netns, tmp_path) as host:
        said = netns.run("ping", "-6", "-c", "3", "-i", "0.2", "-W", "20", "-s", "20000", OURS).stdout
        assert " 0% packet loss" in said
        with netns.enter():
            kernel = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with kernel, host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours:
            kernel.settimeout(60)
            ours.settimeout(60)
            kernel.bind((KERNEL, 0))
            for size in (1452, 1453, 20_000):
                ours.sendto(data[:size], kernel.getsockname())
                got, address = kernel.recvfrom(70_000)
                assert got == data[:size] and address[0] == OURS
                kernel.sendto(got, address)
                assert ours.recv(70_000) == data[:size]
    for end in (OURS, KERNEL):
        assert tshark(host.capture, f"ipv6.fraghdr && ipv6.src=={end}")


def test_an_address_the_kernel_has_is_not_taken(netns, tmp_path):
    with ethernet(netns, tmp_path, addresses=(f"{KERNEL}/64", f"{OURS}/64")) as host:
        assert KERNEL not in host.stack.addresses and OURS in host.stack.addresses
        assert host.counters()["nd_conflicts"] == 1


def test_the_kernel_does_not_take_an_address_of_ours(netns, tmp_path):
    with ethernet(netns, tmp_path):
        netns.run("ip", "addr", "add", f"{OURS}/64", "dev", "tap0")
        flags: list[str] = []
        for _ in range(100):
            shown = json.loads(netns.run("ip", "-6", "-j", "addr", "show", "dev", "tap0").stdout)
            info = next(a for a in shown[0]["addr_info"] if a["local"] == OURS)
            flags = [k for k in ("tentative", "dadfailed") if info.get(k)]
            if "dadfailed" in flags or not flags:
                break
            time.sleep(0.1)
        assert "dadfailed" in flags


def test_radvd_gives_addresses_a_route_and_name_servers(netns, tmp_path):
    if not shutil.which("radvd"):
        pytest.skip("needs radvd")
    config = tmp_path / "radvd.conf"
    config.write_text("""
interface tap0 {
    AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvCurHopLimit 33; AdvLinkMTU 1400;
    prefix 2001:db8:9::/64 { AdvOnLink on; AdvAutonomous on; };
    RDNSS 2001:db8:9::53 { };
};
""")
    running: list[subprocess.Popen] = []

    def start():
        netns.run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
        with netns.enter():
            running.append(subprocess.Popen(
                ["radvd", "-n", "-C", str(config), "-p", str(tmp_path / "radvd.pid"), "-u", "root", "-m", "stderr"],
                stderr=subprocess.DEVNULL))

    try:
        with ethernet(netns, tmp_path, addresses=(), kernel=("2001:db8:9::1/64", "2001:db8:77::1/128"), before=start,
                      sysctl={"net.ipv6.conf.all.accept_ra": 1}) as host:
            with host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
                s.settimeout(0.1)
                end = time.monotonic() + 60
                while not any(a.startswith("2001:") for a in host.stack.addresses) and time.monotonic() < end:
                    with contextlib.suppress(TimeoutError):
                        s.recv(1)
            own = next(a for a in host.stack.addresses if a.startswith("2001:"))
            assert host.stack.name_servers == ["2001:db8:9::53"]
            netns.run("ping", "-6", "-c", "1", "-W", "20", own)
            with host.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6) as s:
                s.settimeout(60)             # beyond the prefix: through the router
                s.sendto(bytes((128, 0, 0, 0, 0, 0, 0, 1)), ("2001:db8:77::1", 0))
                assert s.recvfrom(100)[1][0] == "2001:db8:77::1"
        hops = tshark(host.capture, f"ipv6.src=={own} && icmpv6.type==128", "ipv6.hlim")
        assert {h for h, in hops} == {"33"}
    finally:
        for process in running:
            process.terminate()
            process.wait(10)


def test_the_kernel_takes_our_listener_reports_for_what_they_are(netns, tmp_path):
    with ethernet(netns, tmp_path) as host:
        with host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.bind(("::", 7000))
            s.setsockopt(41, 20, socket.inet_pton(socket.AF_INET6, "ff15::1234") + (1).to_bytes(4, "little"))
            with netns.enter():
                kernel = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            with kernel:
                kernel.setsockopt(41, 17, int(open_index(netns)))
                kernel.sendto(b"news", ("ff15::1234", 7000))
                s.settimeout(60)
                assert s.recv(10) == b"news"
    assert tshark(host.capture, "icmpv6.type==143 && icmpv6.mldr.mar.multicast_address==ff15::1234")


def open_index(netns):
    return json.loads(netns.run("ip", "-j", "link", "show", "tap0").stdout)[0]["ifindex"]


def test_a_group_is_sent_to_and_only_the_sources_wanted_are_heard(netns, tmp_path):
    """The kernel is member of one group and sender to another, of which we want one source at a time (RFC 3678)."""
    def sockaddr(text):
        return struct.pack("=HHI16sI", 10, 0, 0, socket.inet_pton(socket.AF_INET6, text), 0) + bytes(100)

    group = "ff15::77"
    with ethernet(netns, tmp_path, kernel=(f"{KERNEL}/64", "fd09::11/64")) as host:
        with netns.enter():
            kernel = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with kernel, host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            index = open_index(netns)
            kernel.settimeout(60)
            kernel.bind(("::", 7001))
            kernel.setsockopt(41, 20, socket.inet_pton(socket.AF_INET6, "ff15::78") + struct.pack("=I", index))
            with host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
                out.sendto(b"from us", ("ff15::78", 7001))
            assert kernel.recv(100) == b"from us"
            s.settimeout(60)
            s.bind(("::", 7000))
            wanted = struct.pack("=I4x", 1) + sockaddr(group) + sockaddr("fd09::11")
            s.setsockopt(41, 46, wanted)                     # MCAST_JOIN_SOURCE_GROUP
            for source in (KERNEL, "fd09::11"):
                with netns.enter():
                    sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                with sender:
                    sender.bind((source, 0))
                    sender.setsockopt(41, 17, index)
                    sender.sendto(source.encode(), (group, 7000))
            assert s.recvfrom(100)[0] == b"fd09::11"
            s.setsockopt(41, 47, wanted)                     # MCAST_LEAVE_SOURCE_GROUP
    records = tshark(host.capture, f"icmpv6.type==143 && icmpv6.mldr.mar.multicast_address=={group}",
                     "icmpv6.mldr.mar.record_type", "icmpv6.mldr.mar.source_address")
    assert {kind for kind, source in records if source == "fd09::11"} == {"5", "6"}
