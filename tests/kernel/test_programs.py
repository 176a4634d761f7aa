"""Programs on a stack and programs under the kernel talk to each other, over a TAP that is clean or loses 2 %."""

import shutil
import subprocess
import threading

import pytest

import netstack
from netstack.link import FaultInjector, PcapWriter, Tap
from tests.kernel.conftest import KERNEL, OURS, judge
from tests.programs.conftest import BODY, Pages, serving

pytestmark = pytest.mark.root

LIMIT = 60


@pytest.fixture(params=[0.0, 0.02], ids=["clean", "lossy"])
def host(request, netns, tmp_path):
    """A host at 10.9.0.2; the kernel of the namespace is at 10.9.0.1."""
    with netns.enter():
        tap = Tap("tap0")
    netns.run("ip", "addr", "add", f"{KERNEL}/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    link = PcapWriter(tap, tmp_path / "capture.pcapng", snap_length=0x40000)
    if request.param:
        link = FaultInjector(link, seed=7, loss=request.param)
    with netstack.Host(link=link, address=f"{OURS}/24", drain=5) as host:
        yield host
    if not request.param:                        # tshark calls its own reassembly of what is sent again malformed
        judge(tmp_path / "capture.pcapng")


@pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")
def test_redis_py_on_the_stack_and_redis_server_under_the_kernel(netns, host):
    redis = pytest.importorskip("redis")
    server = netns.popen("redis-server", "--port", "6379", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no",
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert any("Ready to accept" in line for line in server.stdout)
        threading.Thread(target=server.stdout.read, daemon=True).start()
        with host.patch(), redis.Redis(host=KERNEL, socket_timeout=LIMIT) as client:
            client.set("key", b"v" * 300_000)
            assert client.get("key") == b"v" * 300_000
            with client.pipeline() as pipe:
                for i in range(100):
                    pipe.rpush("list", i)
                pipe.execute()
            assert client.lrange("list", 0, -1) == [b"%d" % i for i in range(100)]
            with client.pubsub() as listener:
                listener.subscribe("news")
                assert listener.get_message(timeout=LIMIT)["type"] == "subscribe"
                client.publish("news", "word")
                assert listener.get_message(timeout=LIMIT)["data"] == b"word"
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_under_the_kernel_and_http_server_with_tls_on_the_stack(netns, host, tmp_path):
    import http.server
    import ssl

    trustme = pytest.importorskip("trustme")
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(OURS).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    (tmp_path / "up").write_bytes(BODY)
    with host.patch():
        server = http.server.ThreadingHTTPServer((OURS, 443), Pages)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        for more in ([], ["--data-binary", f"@{tmp_path / 'up'}", "-H", "Expect:"]):
            netns.run("curl", "-sS", "--noproxy", "*", "--max-time", "50", "--cacert", tmp_path / "ca", "-o",
                      tmp_path / "down", *more, f"https://{OURS}/")
            assert (tmp_path / "down").read_bytes() == BODY
