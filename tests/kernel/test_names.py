"""Names against dnsmasq over a TAP; glibc, asked the same in the namespace, is the judge."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

import netstack
from netstack.link import PcapWriter
from tests.kernel.conftest import judge
from tests.router.lan import wait_until
from tests.support import ROOT

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dnsmasq"), reason="needs dnsmasq (dnsmasq-base)")]

SERVER, OURS = "10.9.0.1", "10.9.0.2"
MANY = [f"10.8.{n // 250}.{n % 250 + 1}" for n in range(200)]
RECORDS = [
    "--host-record=www.test.example,10.9.0.80,2001:db8::80,60", "--host-record=four.test.example,10.9.0.4",
    "--host-record=six.test.example,2001:db8::6", "--cname=alias.test.example,middle.test.example,60",
    "--cname=middle.test.example,www.test.example", "--host-record=short.lab.example,10.9.0.7",
    "--txt-record=text.test.example,hello", "--ptr-record=99.0.9.10.in-addr.arpa,pointed.test.example",
    *(f"--host-record=many.test.example,{address}" for address in MANY),
]
NAMES = ["www.test.example", "four.test.example", "six.test.example", "alias.test.example", "short",
         "many.test.example", "WWW.Test.Example", "text.test.example", "nothing.test.example", "nothing", "10.1.2.3"]
ASK = """
import json, socket, sys
def outcome(call, *args):
    try:
        return call(*args)
    except OSError as error:
        return [type(error).__name__, error.errno]
def addresses(name, family):
    found = outcome(socket.getaddrinfo, name, 80, family, 1, 0, socket.AI_CANONNAME)
    return found if found[0] == "gaierror" else [found[0][3], sorted(entry[4][0] for entry in found)]
out = {f"{name}/{family}": addresses(name, family) for name in json.loads(sys.argv[1]) for family in (0, 2, 10)}
for address in ("10.9.0.80", "10.9.0.99", "10.9.0.123"):
    out[address] = outcome(socket.gethostbyaddr, address)
    out[address + "/info"] = outcome(socket.getnameinfo, (address, 80), 0)
for name in ("alias.test.example", "four.test.example", "nothing.test.example"):
    out[name + "/ex"] = outcome(socket.gethostbyname_ex, name)
"""


@contextlib.contextmanager
def dnsmasq(netns, tmp_path, address=SERVER, *more):
    """A name server in the namespace; its log."""
    log = tmp_path / "dnsmasq.log"
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
               "--port=53", f"--listen-address={address}", "--bind-interfaces", "--pid-file", "--log-queries",
               f"--log-facility={log}", "--local=/example/", "--auth-ttl=60", *RECORDS, *more]
    process = netns.popen(*command, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: process.poll() is not None or log.exists() and "started" in log.read_text())
        assert process.poll() is None, process.stderr.read()
        yield log
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()


@contextlib.contextmanager
def resolv_conf(netns, text: str):
    """What programs of the namespace find in /etc (ip-netns(8))."""
    folder = pathlib.Path("/etc/netns") / netns.name
    folder.mkdir(parents=True)
    (folder / "resolv.conf").write_text(text)
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    try:
        yield
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def lan(netns, tmp_path):
    """The namespace with dnsmasq at 10.9.0.1, and a host of ours on its TAP."""
    with netns.enter():
        tap = netstack.link.Tap("tap0")
    netns.run("ip", "addr", "add", f"{SERVER}/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    capture = tmp_path / "capture.pcapng"
    config = netstack.ResolverConfig(servers=(SERVER,), search=("test.example", "lab.example"), hosts="")
    with dnsmasq(netns, tmp_path) as log:
        link = PcapWriter(tap, str(capture), snap_length=0x40000)
        with netstack.Host(link=link, address=f"{OURS}/24", drain=5, resolver=config) as host:
            host.log = log
            yield host
    judge(capture)


def test_every_answer_is_glibcs(lan, netns):
    """Both families, aliases, the search list, 200 addresses, names of addresses, and every error."""
    with resolv_conf(netns, f"nameserver {SERVER}\nsearch test.example lab.example\n"):
        done = netns.run(sys.executable, "-c", f"{ASK}\nprint(json.dumps(out))", json.dumps(NAMES))
    with lan.patch():
        space = {"sys": None}
        argv, sys.argv = sys.argv, ["x", json.dumps(NAMES)]
        try:
            exec(ASK, space)  # noqa: S102
        finally:
            sys.argv = argv
    ours, glibcs = json.loads(json.dumps(space["out"])), json.loads(done.stdout)
    for question in glibcs:
        assert ours[question] == glibcs[question], question
    assert f"from {OURS}" in lan.log.read_text()


def test_the_capture_is_well_formed_dns_with_random_ports_and_ids(lan, tmp_path):
    if not shutil.which("tshark"):
        pytest.skip("needs tshark")
    for name in NAMES[:7]:
        lan.getaddrinfo(name, 80)
    lan.close()
    fields = ("dns.flags.response", "udp.srcport", "dns.id", "dns.rr.udp_payload_size")
    done = subprocess.run(["tshark", "-r", str(tmp_path / "capture.pcapng"), "-Y", "dns && udp && !_ws.malformed",
                           "-T", "fields", *(word for field in fields for word in ("-e", field))],
                          capture_output=True, text=True, check=True, timeout=300)
    queries = [line.split("\t") for line in done.stdout.splitlines() if line.startswith(("0", "False"))]
    assert len(queries) >= 12 and len({id for _, _, id, _ in queries}) >= len(queries) - 1
    assert len({port for _, port, _, _ in queries}) >= len(queries) // 2 and {size for *_, size in queries} == {"1232"}


def test_a_program_by_name_with_lo_down_never_asks_the_kernel(netns, tmp_path, monkeypatch):
    """urllib under ``netstack run``: the program's only way out is its router's TAP."""
    folder = tmp_path / "runtime"
    folder.mkdir(0o700)
    monkeypatch.setenv("NETSTACK_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    netns.run("ip", "link", "set", "lo", "down")
    netns.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
    netns.run("ip", "addr", "add", "192.0.2.1/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    netns.run("ip", "route", "add", "10.77.0.0/16", "via", "192.0.2.2")
    with netns.enter():
        web = socket.create_server(("192.0.2.1", 80))
        router = netstack.Router(uplinks=["tap:tap0,address=192.0.2.2/24,gateway=192.0.2.1"])
    program = """
import concurrent.futures, socket, threading, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with concurrent.futures.ThreadPoolExecutor() as pool:
    print(pool.submit(lambda: opener.open("http://web.test.example/", timeout=60).read().decode()).result())
print(socket.gethostbyname(socket.gethostname()))
"""
    with router, web, dnsmasq(netns, tmp_path, "192.0.2.1", "--host-record=web.test.example,192.0.2.1") as log, \
            resolv_conf(netns, "nameserver 127.0.0.1\n"):
        client = subprocess.Popen(
            [*netns.prefix, sys.executable, "-m", "netstack", "run", "--name", router.name, "--dns", "192.0.2.1", "--",
             "-c", program], env={**os.environ, **router.environment()}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True)
        web.settimeout(60)
        connection, peer = web.accept()
        with connection:
            connection.recv(10000)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nby name")
        out, errors = client.communicate(timeout=60)
        assert client.returncode == 0, errors
        assert out.splitlines() == ["by name", peer[0]]
        assert f"query[A] web.test.example from {peer[0]}" in log.read_text()
        assert "from 192.0.2.1" not in log.read_text() and "127.0.0.1" not in log.read_text()


def test_a_lease_says_whom_to_ask(netns, tmp_path):
    """dnsmasq gives the address, the server and the domain: nothing is configured."""
    with netns.enter():
        tap = netstack.link.Tap("tap0")
    netns.run("ip", "addr", "add", f"{SERVER}/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    dhcp = ["--dhcp-range=10.9.0.100,10.9.0.150", "--dhcp-option=option:dns-server,10.9.0.1", "--domain=test.example",
            "--dhcp-authoritative", f"--dhcp-leasefile={tmp_path}/leases", "--interface=tap0"]
    with dnsmasq(netns, tmp_path, SERVER, *dhcp) as log, netstack.Host(link=tap, address="dhcp", drain=1) as host:
        assert host.gethostbyname("four") == "10.9.0.4"
        assert "query[A] four.test.example from 10.9.0.1" in log.read_text()


def test_a_router_that_says_so_makes_dhcpv6_tell_whom_to_ask(netns, tmp_path):
    """dnsmasq advertises a prefix with the O flag and answers the information request: nothing is configured."""
    router = "2001:db8:9::1"
    with netns.enter():
        tap = netstack.link.Tap("tap0")
    netns.run("ip", "addr", "add", f"{router}/64", "dev", "tap0", "nodad")
    netns.run("ip", "link", "set", "tap0", "up")
    told = ["--dhcp-range=2001:db8:9::,ra-stateless", "--enable-ra", "--log-dhcp", "--interface=tap0",
            f"--dhcp-option=option6:dns-server,[{router}]", "--dhcp-option=option6:domain-search,test.example",
            "--dhcp-option=option6:information-refresh-time,1h", f"--dhcp-leasefile={tmp_path}/leases"]
    capture = tmp_path / "capture.pcapng"
    sysctl = {"net.ipv6.conf.all.accept_ra": 1}
    with dnsmasq(netns, tmp_path, router, *told) as log, netstack.Host(
            link=PcapWriter(tap, str(capture), snap_length=0x40000), sysctl=sysctl, drain=1) as host:
        wait_until(lambda: host._dhcp6.information is not None, 60)
        wait_until(lambda: any(a.startswith("2001:") for a in host.stack.addresses), 60)
        said = host._dhcp6.information
        assert said.servers == (router,) and said.search == ("test.example",)
        assert host._learnt_names() == ([router], ["test.example"])
        assert host.getaddrinfo("six", 80, socket.AF_INET6)[0][4][0] == "2001:db8::6"
        own = next(a for a in host.stack.addresses if a.startswith("2001:"))
        assert f"query[AAAA] six.test.example from {own}" in log.read_text()
    assert "DHCPINFORMATION-REQUEST(tap0)" in log.read_text()
    judge(capture)


@pytest.mark.skipif(not shutil.which("radvd"), reason="needs radvd")
def test_routers_alone_may_tell_whom_to_ask(netns, tmp_path):
    """radvd gives the prefix, the server and the domain (RFC 8106); nobody speaks DHCP."""
    router = "2001:db8:9::1"
    with netns.enter():
        tap = netstack.link.Tap("tap0")
    netns.run("ip", "addr", "add", f"{router}/64", "dev", "tap0", "nodad")
    netns.run("ip", "link", "set", "tap0", "up")
    netns.run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
    config = tmp_path / "radvd.conf"
    config.write_text("""
interface tap0 {
    AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;
    prefix 2001:db8:9::/64 { AdvOnLink on; AdvAutonomous on; };
    RDNSS 2001:db8:9::1 { };
    DNSSL test.example lab.example { };
};
""")
    radvd = netns.popen("radvd", "-n", "-C", config, "-p", tmp_path / "radvd.pid", "-u", "root", "-m", "stderr",
                        stderr=subprocess.DEVNULL)
    try:
        with dnsmasq(netns, tmp_path, router), netstack.Host(
                link=tap, sysctl={"net.ipv6.conf.all.accept_ra": 1}, drain=1) as host:
            wait_until(lambda: any(a.startswith("2001:") for a in host.stack.addresses), 60)
            assert host._learnt_names() == ([router], ["test.example", "lab.example"])
            assert host._dhcp6.information is None
            assert host.gethostbyname("short") == "10.9.0.7"          # in the second domain
    finally:
        radvd.terminate()
        radvd.wait(10)
