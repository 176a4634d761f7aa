"""Programs in C from their packages, preloaded on two stacks: servers on one daemon, clients on another."""

import contextlib
import http.server
import json
import os
import random
import shutil
import ssl
import subprocess
import threading

import pytest

import netstack
from netstack.daemon.paths import socket_path
from tests import support
from tests.daemon.test_cli import CLI
from tests.daemon.test_preload import LIBRARY

LIMIT = 30.0
CLIENT = "10.89.0.5"
SERVER = "10.89.0.6"

pytestmark = pytest.mark.skipif(support.SANITIZED, reason="a sanitizer's runtime is preloaded already")


def needs(*programs):
    missing = [name for name in programs if not shutil.which(name)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


class Stack:
    """A daemon: programs that are run here have its sockets."""

    def __init__(self, name, address):
        self.name, self.address = name, address
        self.daemon = subprocess.Popen([*CLI, "daemon", "--name", name, "--address", address], stderr=subprocess.PIPE,
                                       text=True)
        assert f"daemon '{name}': {address}/16" in self.daemon.stderr.readline()
        self.env = {**os.environ, "LD_PRELOAD": str(LIBRARY), "NETSTACK_DAEMON_SOCKET": socket_path(name)}

    def run(self, *argv, **options):
        """The output of a program that must succeed."""
        return support.run(argv, timeout=LIMIT, env=self.env, **options).stdout

    @contextlib.contextmanager
    def running(self, *argv, until, **options):
        """A server, once it has printed ``until``."""
        process = subprocess.Popen(argv, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   **options)
        try:
            said = ""
            while until not in said:
                line = process.stdout.readline()
                assert line, f"{argv[0]} ended: {said}"
                said += line
            rest = threading.Thread(target=process.stdout.read, daemon=True)
            rest.start()
            yield process
            assert process.poll() is None, f"{argv[0]} ended with {process.returncode}"
            process.kill()
            rest.join(LIMIT)
        finally:
            process.kill()
            process.wait(LIMIT)
            process.stdout.close()

    def close(self):
        self.daemon.terminate()
        _, said = self.daemon.communicate(timeout=LIMIT)
        return said


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    """Two daemons behind one router: for clients, for servers."""
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setenv("NETSTACK_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
        monkey.setenv("PYTHONPATH", os.pathsep.join([str(support.ROOT), os.environ.get("PYTHONPATH", "")]))
        monkey.delenv("NETSTACK_DAEMON", raising=False)
        with netstack.Router("10.89.0.0/16", "default"):
            stacks = [Stack("clients", CLIENT), Stack("servers", SERVER)]
            yield stacks
            said = [stack.close() for stack in stacks]
    assert not any("cut off" in each or "Traceback" in each for each in said), said


@pytest.fixture(scope="module")
def redis(stacks):
    with stacks[1].running("redis-server", "--port", "6379", "--bind", "0.0.0.0", "--save", "", "--protected-mode",
                           "no", "--io-threads", "1", until="Ready to accept"):
        yield stacks[0]


@needs("redis-server", "redis-benchmark")
def test_redis_answers_all_of_its_benchmark(redis):
    """The default tests of 50 clients, one request at a time."""
    n = support.scale(5000, 200)
    said = redis.run("redis-benchmark", "-h", SERVER, "-n", str(n), "--csv", "-d", "100")
    rows = [line.split(",") for line in said.splitlines()[1:]]
    assert len(rows) >= 19, said
    assert all(float(row[1].strip('"')) > 0 for row in rows)


@needs("redis-server", "redis-benchmark", "redis-cli")
def test_redis_answers_pipelines(redis):
    """16 requests at a time, each a value of its own; the server counts them."""
    n = support.scale(100_000, 3200)
    redis.run("redis-cli", "-h", SERVER, "FLUSHALL")
    redis.run("redis-benchmark", "-h", SERVER, "-n", str(n), "-P", "16", "-c", "50", "-t", "lpush", "-q")
    assert int(redis.run("redis-cli", "-h", SERVER, "LLEN", "mylist")) >= n
    value = "v" * 300_000
    redis.run("redis-cli", "-h", SERVER, "-x", "SET", "large", input=value)
    assert redis.run("redis-cli", "-h", SERVER, "GET", "large").strip() == value


@needs("iperf3")
@pytest.mark.parametrize("options", [[], ["-R"], ["--bidir"], ["-P", "4"], ["-R", "-P", "4"], ["-Z"],
                                     ["-u", "-b", "4M"], ["-u", "-b", "4M", "-R"]], ids=" ".join)
def test_iperf3_measures(stacks, options):
    """It ends when everything is sent, so what has arrived by then is less by what is on its way."""
    size = support.scale(200_000_000, 20_000_000) if "-u" not in options else 300_000
    with stacks[1].running("iperf3", "-s", "--forceflush", until="Server listening"):
        said = json.loads(stacks[0].run("iperf3", "-c", SERVER, "-n", str(size), "-J", *options))
    assert "error" not in said, said["error"]
    end = said["end"]
    if "-u" in options:
        assert end["sum"]["bytes"] >= size and end["sum"]["lost_packets"] < end["sum"]["packets"] // 2
        return
    assert end["sum_sent"]["bytes"] >= size // 2 and 0 < end["sum_received"]["bytes"] <= end["sum_sent"]["bytes"]
    if "--bidir" in options:
        assert end["sum_sent_bidir_reverse"]["bytes"] >= size // 4 and end["sum_received_bidir_reverse"]["bytes"]
    assert len(said["start"]["connected"]) == (4 if "-P" in options else 2 if "--bidir" in options else 1)


NGINX = """
daemon off; master_process off; worker_processes 1; error_log stderr notice; pid {folder}/pid;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; client_max_body_size 10m;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 8080; listen 8443 ssl;
        ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
        location / {{ root {folder}/www; }}
        location /through/ {{ proxy_pass http://{server}:8080/; proxy_http_version 1.1; }}
        location /up {{ client_body_in_file_only on; proxy_pass http://{server}:8080/empty; proxy_method GET; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def site(stacks, tmp_path_factory):
    """Nginx in one process: the client's stack, and where the files are."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "www").mkdir()
    (folder / "www/file").write_bytes(random.Random(5).randbytes(3_000_000))
    (folder / "www/small").write_text("a small page\n")
    (folder / "www/empty").write_text("")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert(SERVER)
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, server=SERVER))
    with stacks[1].running("nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder), until="getrlimit"):
        yield stacks[0], folder


@needs("nginx", "curl")
def test_curl_asks_nginx_again_and_again_on_one_connection(site):
    client, folder = site
    urls = [f"http://{SERVER}:8080/{name}" for name in ("small", "through/small", "small")]
    said = client.run("curl", "-sS", "--max-time", "25", "-w", "%{num_connects}\n", *urls)
    assert said == "a small page\n1\na small page\n0\na small page\n0\n"


@needs("nginx", "curl")
@pytest.mark.parametrize("scheme, port", [("http", 8080), ("https", 8443)])
def test_curl_fetches_in_parallel(site, scheme, port, tmp_path):
    client, folder = site
    wanted = (folder / "www/file").read_bytes()
    urls = [word for i in range(6) for word in ("-o", str(tmp_path / str(i)), f"{scheme}://{SERVER}:{port}/file")]
    client.run("curl", "-sS", "--parallel", "--max-time", "25", "--cacert", str(folder / "ca.pem"), *urls)
    for i in range(6):
        assert (tmp_path / str(i)).read_bytes() == wanted


@needs("nginx", "curl")
def test_curl_uploads(site):
    client, folder = site
    client.run("curl", "-sS", "--max-time", "25", "--fail", "-T", str(folder / "www/file"), f"http://{SERVER}:8080/up")
    [stored] = (folder / "body").iterdir()
    assert stored.read_bytes() == (folder / "www/file").read_bytes()


@needs("nginx", "wrk")
@pytest.mark.parametrize("name", ["small", "file"])
def test_wrk_loads_nginx(site, name):
    """Connections by epoll and writev, sendfile; answers that are not 200, and errors, would be told."""
    client, _ = site
    said = client.run("wrk", "-t", "2", "-c", "16", "-d", "1s", f"http://{SERVER}:8080/{name}")
    done = int(said.split(" requests in")[0].split()[-1])
    assert done >= 16 and "Non-2xx" not in said, said
    assert "Socket errors" not in said or "connect 0, read 0, write 0" in said, said     # a busy machine is slow


@needs("curl")
def test_curl_talks_tls_to_a_python_program_on_its_own_stack(stacks, tmp_path):
    trustme = pytest.importorskip("trustme")
    address = "10.89.0.7"
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert(address).configure_cert(context)
    body = random.Random(8).randbytes(500_000)

    class Echo(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    (tmp_path / "up").write_bytes(body)
    with netstack.attach(address=address) as host:
        with host.patch():
            server = http.server.ThreadingHTTPServer((address, 443), Echo)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            stacks[0].run("curl", "-sS", "--max-time", "25", "--cacert", str(tmp_path / "ca.pem"), "-H", "Expect:",
                          "--data-binary", f"@{tmp_path / 'up'}", "-o", str(tmp_path / "down"), f"https://{address}/")
        finally:
            server.shutdown()
            server.server_close()
            thread.join(LIMIT)
    assert (tmp_path / "down").read_bytes() == body


@needs("nc")
def test_nc_carries_both_ways(stacks, tmp_path):
    up, down = random.Random(1).randbytes(400_000), random.Random(2).randbytes(300_000)
    (tmp_path / "up").write_bytes(up)
    (tmp_path / "down").write_bytes(down)
    with open(tmp_path / "down", "rb") as speaks, open(tmp_path / "heard", "wb") as hears:
        server = subprocess.Popen(["nc", "-v", "-N", "-l", "5000"], env=stacks[1].env, stdin=speaks, stdout=hears,
                                  stderr=subprocess.PIPE)
    try:
        assert b"Listening" in server.stderr.readline()
        with open(tmp_path / "up", "rb") as speaks, open(tmp_path / "back", "wb") as hears:
            done = subprocess.run(["nc", "-N", SERVER, "5000"], env=stacks[0].env, stdin=speaks, stdout=hears,
                                  timeout=LIMIT)
        assert done.returncode == 0 and server.wait(LIMIT) == 0
    finally:
        server.kill()
        server.communicate()
    assert (tmp_path / "heard").read_bytes() == up and (tmp_path / "back").read_bytes() == down
