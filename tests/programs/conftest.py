"""Unchanged programs: servers under one host's patch, clients under another's, a wire that loses 2 % between them."""

import contextlib
import http.server
import ssl
import threading

import pytest

import netstack
from netstack.link import FaultInjector, channel_pair

LIMIT = 30.0
SERVER = "10.7.0.2"
BODY = bytes(range(256)) * 400


class Wire:
    def __init__(self, loss):
        here, there = channel_pair()
        if loss:
            here, there = FaultInjector(here, seed=7, loss=loss), FaultInjector(there, seed=8, loss=loss)
        self.client = netstack.Host(link=here, address="10.7.0.1/24", drain=5)
        self.server = netstack.Host(link=there, address=f"{SERVER}/24", drain=5)

    def close(self):
        self.client.close()
        self.server.close()


@pytest.fixture(params=[0.0, 0.02], ids=["clean", "lossy"])
def wire(request):
    wire = Wire(request.param)
    yield wire
    carried = wire.client.counters()["tcp_payload_in"] + wire.client.counters()["tcp_payload_out"]
    wire.close()
    assert carried, "nothing went through the stack"


@pytest.fixture(scope="session")
def authority():
    return pytest.importorskip("trustme").CA()


@pytest.fixture(scope="session")
def contexts(authority):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(SERVER).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return client, server


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(LIMIT)


@pytest.fixture
def web(wire, contexts):
    """The standard library's HTTP servers: ``(http://..., https://...)``, asked from the client's host."""
    with wire.server.patch():
        plain = http.server.ThreadingHTTPServer((SERVER, 0), Pages)
        secure = http.server.ThreadingHTTPServer((SERVER, 0), Pages)
        plain.daemon_threads = secure.daemon_threads = True
        secure.socket = contexts[1].wrap_socket(secure.socket, server_side=True)
    with serving(plain), serving(secure), wire.client.patch():
        yield f"http://{SERVER}:{plain.server_port}", f"https://{SERVER}:{secure.server_port}"
