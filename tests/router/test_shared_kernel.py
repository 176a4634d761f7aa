"""The kernel on the other side of a TAP meets stacks that share an address: as one host with several processes."""

import json
import os
import socket
import subprocess
import sys

import pytest

import netstack
from netstack.router import Router
from tests.router.lan import wait_until
from tests.support import ROOT

pytestmark = pytest.mark.root

KERNEL, SHARED = "192.0.2.1", "10.77.0.2"

WORKER = """
import http.server, os, socket, netstack
host = netstack.attach()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *_): pass
with netstack.patch(host):
    server = http.server.ThreadingHTTPServer(("10.77.0.2", 80), Answer, bind_and_activate=False)
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.server_bind()
    server.server_activate()
    print("ready", flush=True)
    server.serve_forever()
"""

FETCH = """
import collections, json, sys, urllib.request
seen = collections.Counter(urllib.request.urlopen("http://10.77.0.2/", timeout=20).read().decode() for _ in range(60))
print(json.dumps(seen))
"""

UDP = """
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(20)
s.connect(("10.77.0.2", {port}))
s.send(bytes(4000))
try:
    print(len(s.recv(65535)))
except ConnectionRefusedError:
    print("refused")
"""


@pytest.fixture
def router(runtime, netns):
    """Its TAP in a namespace whose kernel has 192.0.2.1 there and routes the pool to it."""
    netns.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
    netns.run("ip", "addr", "add", f"{KERNEL}/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    netns.run("ip", "route", "add", "10.77.0.0/16", "dev", "tap0")
    with netns.enter():
        router = Router(uplinks=["tap:tap0"], addressing="interface")
    with router:
        yield router
        assert router.check_conservation() == []


def test_workers_of_one_server_share_its_port(router, netns):
    workers = [subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                                env={**os.environ, **router.environment()}) for _ in range(3)]
    try:
        assert [w.stdout.readline() for w in workers] == ["ready\n"] * 3
        seen = json.loads(netns.run(sys.executable, "-c", FETCH).stdout)
        assert set(seen) == {str(w.pid) for w in workers} and sum(seen.values()) == 60
        workers[0].kill()
        workers[0].wait(20)
        wait_until(lambda: len(router.attachments()) == 2)
        seen = json.loads(netns.run(sys.executable, "-c", FETCH).stdout)
        assert set(seen) == {str(w.pid) for w in workers[1:]}, "nobody is sent to the dead"
    finally:
        for w in workers:
            w.kill()
            w.communicate()


def test_the_address_is_a_host_one_hop_near(router, netns):
    with router.attach():
        done = netns.run("ping", "-c", 2, "-i", 0.05, "-W", 5, SHARED)
        assert "2 received" in done.stdout and "ttl=64" in done.stdout
        done = netns.run(sys.executable, "-c", "import socket; print(socket.socket().connect_ex(('10.77.0.2', 9)))")
        assert done.stdout == "111\n"
        assert netns.run(sys.executable, "-c", UDP.format(port=9)).stdout == "refused\n"


def test_datagrams_in_pieces_come_and_go(router, netns):
    """The TAP carries 1,500 bytes: both the kernel and the stack cut 4,000."""
    with netstack.attach(router.name, mtu=1500) as host, host.socket(type=socket.SOCK_DGRAM) as s:
        s.bind((SHARED, 7))
        s.settimeout(20)
        client = netns.popen(sys.executable, "-c", UDP.format(port=7), stdout=subprocess.PIPE, text=True)
        data, peer = s.recvfrom(65535)
        assert len(data) == 4000 and peer[0] == KERNEL
        s.sendto(bytes(3000), peer)
        assert client.communicate(timeout=60)[0] == "3000\n"


def test_stacks_connect_out_to_the_kernel(router, netns):
    server = netns.popen(sys.executable, "-c", """
import socket
s = socket.create_server(("192.0.2.1", 80))
print("ready", flush=True)
for _ in range(2):
    c, peer = s.accept()
    c.sendall(repr(peer).encode())
    c.close()
""", stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        with netstack.attach(router.name) as a, netstack.attach(router.name) as b:
            for host in (a, b):
                with host.create_connection((KERNEL, 80), 20) as c:
                    assert c.recv(100) == repr(c.getsockname()).encode() and c.getsockname()[0] == SHARED
    finally:
        server.kill()
        server.communicate()
