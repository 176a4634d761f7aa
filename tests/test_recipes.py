"""The recipes of docs/python.md, each as it is printed."""

import contextlib
import http.server
import json
import shlex
import shutil
import ssl
import subprocess
import sys
import threading

import pytest

import netstack
from tests.cli.conftest import NETSTACK, SERVER, runtime, servers  # noqa: F401 - fixtures
from tests.support import ROOT, run
from tests.test_tutorials import blocks

FETCH = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(len(opener.open(sys.argv[1], timeout=30).read()))
"""
BODY = bytes(100_000)
needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(runtime, servers, tmp_path, monkeypatch):  # noqa: F811
    """Web servers at 10.88.0.53, plain and TLS; fetch.py, which trusts their certificate."""
    trustme = pytest.importorskip("trustme")
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.example").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "fetch.py").write_text(FETCH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    with servers.host.patch():
        web = [http.server.ThreadingHTTPServer((SERVER, port), Page) for port in (80, 443)]
        web[1].socket = context.wrap_socket(web[1].socket, server_side=True)
    threads = [threading.Thread(target=each.serve_forever, args=(0.02,), daemon=True) for each in web]
    for thread in threads:
        thread.start()
    yield context
    for each, thread in zip(web, threads, strict=True):
        each.shutdown()
        each.server_close()
        thread.join(30)


def recipe(word):
    """The lines of the recipe that has the word."""
    [text] = [block for block in blocks("python.md", "sh") if word in block]
    return [shlex.split(line) for line in text.strip().splitlines()]


def does(argv):
    assert argv[0] == "netstack"
    return run([*NETSTACK, *argv[1:]]).stdout


def test_a_network_for_each_worker(tmp_path):
    """Both workers listen at one port at once: each waits for the other one's word before it lets go."""
    pytest.importorskip("xdist")
    [conftest] = [block for block in blocks("python.md", "py") if "own_network" in block]
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(f"""
import pathlib, socket, time
import pytest

@pytest.mark.parametrize("me, other", [("a", "b"), ("b", "a")])
def test_port_8000(me, other):
    with socket.create_server(("10.50.0.1", 8000)) as listener:
        pathlib.Path({str(tmp_path)!r}, me).touch()
        for _ in range(3000):
            if pathlib.Path({str(tmp_path)!r}, other).exists():
                break
            time.sleep(0.01)
        else:
            pytest.fail("the other worker is not there")
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(me.encode())
            assert listener.accept()[0].recv(1) == me.encode()
""")
    done = run([sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "--rootdir", tmp_path,
                tmp_path], cwd=ROOT)
    assert "2 passed" in done.stdout


@pytest.mark.usefixtures("site")
def test_a_program_behind_its_own_name_server():
    [command] = recipe("http://server.example/")
    assert does(command) == f"{len(BODY)}\n"


@pytest.mark.usefixtures("site")
def test_a_client_on_a_slow_line(tmp_path):
    [command] = recipe("--rate")
    assert does(command) == f"{len(BODY)}\n"
    counters = json.loads((tmp_path / "counters.json").read_text())
    assert counters["tcp_payload_in"] >= len(BODY)


@needs_tshark
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def test_what_one_program_says_under_tls(site, tmp_path, version):
    site.maximum_version = version
    program, tshark = recipe("--pcap")
    assert does(program) == f"{len(BODY)}\n"
    assert run(tshark, cwd=tmp_path).stdout.split() == ["https://server.example/", "200"]
    assert (tmp_path / "fetch.pcapng").stat().st_mode & 0o077 == 0
    without = [word if word != "http" else "tls.app_data" for word in tshark]
    assert run(without, cwd=tmp_path).stdout.strip(), "it went through TLS"


SERVES = """
import http.server, ssl, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello " * 1000)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[2:])
server = http.server.HTTPServer((sys.argv[1], 443), Page)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
for _ in range(3):
    server.handle_request()
"""


@needs_tshark
def test_a_server_s_capture_has_the_keys_of_all_its_connections(runtime, tmp_path):  # noqa: F811
    trustme = pytest.importorskip("trustme")
    address = "10.88.0.7"
    authority = trustme.CA()
    certificate = authority.issue_cert(address)
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key"))
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)
    with netstack.Router("10.88.0.0/16", "default"), netstack.attach() as client:
        server = subprocess.Popen([*NETSTACK, "run", "--address", address, "--pcap", str(tmp_path / "it.pcapng"), "--",
                                   "-c", SERVES, address, str(tmp_path / "cert"), str(tmp_path / "key")],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout.readline() == "ready\n"
            for _ in range(3):
                s = client.create_connection((address, 443), 30)
                with netstack.tls.wrap_socket(trusts, s, server_hostname=address) as tls:
                    tls.sendall(b"GET /page HTTP/1.0\r\n\r\n")
                    with contextlib.suppress(ssl.SSLEOFError):
                        assert tls.makefile("rb").read().endswith(b"hello " * 1000)
            assert server.wait(30) == 0
        finally:
            server.kill()
            server.communicate()
    shown = run(["tshark", "-r", tmp_path / "it.pcapng", "-Y", "http.request", "-T", "fields", "-e",
                 "http.request.uri"]).stdout
    assert shown.split() == ["/page"] * 3


def test_a_key_log_grows_beyond_its_place_in_the_file(tmp_path):
    """Keys of more connections than there is room for in front go between the packets; no line is cut or lost."""
    scapy = pytest.importorskip("scapy.all")
    from netstack.link import PcapWriter, channel_pair

    log = open(tmp_path / "log", "w+b", buffering=0)
    lines = [b"CLIENT_RANDOM %064x %096x\n" % (i, i * i) for i in range(1000)]
    here, there = channel_pair()
    writer = PcapWriter(here, tmp_path / "keys.pcapng", key_log=(log.fileno(), 0))
    with netstack.Host(link=writer, address="10.1.0.1/24") as a, netstack.Host(link=there, address="10.1.0.2/24"):
        with a.socket(type=2) as s:
            for line in lines:
                log.write(line)
                if line is lines[500]:
                    s.sendto(b"x", ("10.1.0.2", 9))
                    writer.flush_file()
            s.sendto(b"y", ("10.1.0.2", 9))
        writer.flush_file()
        raw = (tmp_path / "keys.pcapng").read_bytes()
    log.close()
    found, at = b"", 0
    while at < len(raw):
        kind, length = (int.from_bytes(raw[at + i:at + i + 4], "little") for i in (0, 4))
        assert raw[at + length - 4:at + length] == raw[at + 4:at + 8]
        if kind == 10:
            assert raw[at + 8:at + 12] == b"KSLT"
            found += raw[at + 16:at + 16 + int.from_bytes(raw[at + 12:at + 16], "little")]
        at += length
    assert [line for line in found.splitlines(keepends=True) if line != b"\n"] == lines
    assert len(scapy.rdpcap(str(tmp_path / "keys.pcapng"))) >= 2


def test_only_pcapng_has_a_place_for_keys(tmp_path):
    from netstack.link import PcapWriter, channel_pair

    with pytest.raises(ValueError, match="pcapng file only"):
        PcapWriter(channel_pair()[0], tmp_path / "x.pcap", format="pcap", key_log=(0, 0))


def test_a_key_log_is_in_memory_or_where_the_environment_says(tmp_path):
    program = ("import os, ssl, sys\nfrom netstack import key_log\nfd, at = key_log.start()\n"
               "assert key_log.start() == (fd, at)\n"
               "print(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename, at)")
    (tmp_path / "file").write_text("old\n")
    plain = run([sys.executable, "-c", program], cwd=ROOT, env={"PATH": "/usr/bin"}).stdout
    assert plain.startswith("/proc/self/fd/") and plain.endswith(" 0\n")
    named = run([sys.executable, "-c", program], cwd=ROOT, env={"SSLKEYLOGFILE": str(tmp_path / "file")}).stdout
    assert named == f"{tmp_path / 'file'} 4\n"
