"""``netstack router --metrics``: the counters, as a parser of Prometheus' text format finds them."""

import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import urllib.request

import pytest

import netstack
from netstack.errors import ConfigError, RouterError
from netstack.router.metrics import CONNECTIONS_MAX, family
from tests.cli.conftest import NETSTACK, netstack_command
from tests.support import ROOT

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (-?[0-9.]+(?:e[+-]?[0-9]+)?|NaN|\+Inf|-Inf)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"(?:,|$)')


def parse(text):
    """``{name: {frozenset of labels: value}}``, by the rules of exposition format 0.0.4 and no others."""
    assert text.endswith("\n")
    kinds, found, current, finished = {}, {}, None, set()
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in finished and name != current, f"{name} comes twice"
            finished.add(current)
            current = name
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current and kind in ("counter", "gauge")
            assert (kind == "counter") == name.endswith("_total")
            kinds[name] = kind
        else:
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert name == current and name in kinds
            pairs, at = [], 0
            while labels and at < len(labels):
                label = LABEL.match(labels, at)
                assert label, line
                pairs.append((label[1], re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label[2])))
                at = label.end()
            assert len(dict(pairs)) == len(pairs)
            series = found.setdefault(name, {})
            assert frozenset(pairs) not in series, f"a sample comes twice: {line}"
            series[frozenset(pairs)] = float(value)
    return found


def total(series, **labels):
    return sum(value for names, value in series.items() if set(labels.items()) <= names)


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.host)


def over_unix(path, method="GET", target="/metrics"):
    connection = UnixConnection(str(path))
    connection.request(method, target)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def talk(router, count=50):
    """Pings through the router, and datagrams to an address that nobody has."""
    with netstack.attach(router.name, drain=1) as a, netstack.attach(router.name, drain=1) as b:
        listener = b.create_server((b.addresses[0].split("/")[0], 7))
        with a.create_connection(listener.getsockname(), timeout=20) as c:
            peer, _ = listener.accept()
            with peer:
                for _ in range(count):
                    c.sendall(b"x" * 1000)
                    got = 0
                    while got < 1000:
                        got += len(peer.recv(1000))
        with a.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"x", ("10.88.200.200", 9))
        yield a
        listener.close()


def test_every_counter_is_there_with_its_value(runtime):
    where = str(runtime / "metrics.sock")
    with netstack.Router("10.88.0.0/16", "default", metrics=f"unix:{where}") as router:
        assert router.metrics_address == f"unix:{where}" and stat.S_IMODE(os.stat(where).st_mode) == 0o600
        for _ in talk(router):
            answer, text = over_unix(where)
            assert answer.status == 200 and answer.getheader("Content-Type").startswith("text/plain; version=0.0.4")
            found = parse(text)
            infos = router.attachments()
            assert total(found["netstack_router_attachments"]) == len(infos) == 2
            for name in ("packets", "bytes"):
                series = found[f"netstack_attachment_{name}_total"]
                for info in infos:
                    for direction, which in (("from", "in"), ("to", "out")):
                        value = total(series, attachment=str(info.id), direction=direction)
                        assert 0 < value <= getattr(info, f"{name}_{which}")
        counters, (_, text) = router.counters(), over_unix(where)
        found = parse(text)
        for direction in ("in", "out"):
            for name in ("packets", "bytes"):
                series = found[f"netstack_router_{name}_total"]
                assert total(series, direction=direction) == counters[f"{direction}_{name}"]
            for name, value in counters.items():
                if name.startswith(f"drop_{direction}_"):
                    reason = name[len(f"drop_{direction}_"):]
                    assert total(found["netstack_router_drops_total"], direction=direction, reason=reason) == value
        assert total(found["netstack_router_drops_total"], reason="unknown_address") == 1
        assert total(found["netstack_router_endings_total"]) == 2 == sum(router.endings().values())
        # Packets in = packets out + drops + what waits, as a dashboard would add it up.
        given = total(found["netstack_router_forwarded_total"]) + total(found["netstack_router_generated_total"])
        assert given == (total(found["netstack_router_packets_total"], direction="out")
                         + total(found["netstack_router_drops_total"], direction="out")
                         + total(found["netstack_router_queued_packets"]))
    assert not os.path.exists(where)


def test_over_tcp_on_loopback_with_the_port_it_got(runtime):
    with netstack.Router("10.88.0.0/16", "default", metrics=":0") as router:
        assert router.metrics_address.startswith("127.0.0.1:")
        with urllib.request.urlopen(f"http://{router.metrics_address}/metrics", timeout=20) as answer:
            info = parse(answer.read().decode())["netstack_router_info"]
        assert total(info, name="default", pool="10.88.0.0/16", backend="posix") == 1


def test_who_is_silent_or_asks_wrongly_does_not_keep_others_out(runtime):
    where = str(runtime / "m")
    with netstack.Router("10.88.0.0/16", "default", metrics=where):
        silent = []
        for _ in range(3 * CONNECTIONS_MAX):
            s = socket.socket(socket.AF_UNIX)
            s.connect(where)
            s.settimeout(20)
            s.send(b"GET /met")
            silent.append(s)
        assert over_unix(where)[0].status == 200
        assert silent[0].recv(1) == b""                  # the oldest had to go
        for request, status in ((b"\0" * 20000, 400), (b"GET\r\n\r\n", 400), (b"GET / SPDY/1\r\n\r\n", 400)):
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(20)
                s.connect(where)
                s.sendall(request)
                assert s.recv(65536).startswith(b"HTTP/1.1 %d " % status)
        assert over_unix(where, "POST")[0].status == 405
        assert over_unix(where, target="/secrets")[0].status == 404
        answer, text = over_unix(where, "HEAD")
        assert answer.status == 200 and text == "" and int(answer.getheader("Content-Length")) > 1000
        for s in silent:
            s.close()


@pytest.mark.parametrize("where", ["9100", "localhost:9100", "127.0.0.1:70000", "127.0.0.1:", "[::1"])
def test_addresses_that_cannot_be(runtime, where):
    with pytest.raises(ConfigError, match="metrics"):
        netstack.Router("10.88.0.0/16", "default", metrics=where)
    netstack.Router("10.88.0.0/16", "default").close()   # nothing was left behind


def test_a_place_that_is_taken_stays_who_has_it(runtime):
    (runtime / "file").write_text("precious")
    with netstack.Router("10.88.0.0/16", "one", metrics=str(runtime / "m")):
        for taken in ("m", "file"):
            with pytest.raises(RouterError, match="in use"):
                netstack.Router("10.89.0.0/16", "two", metrics=str(runtime / taken))
        assert over_unix(runtime / "m")[0].status == 200
    assert (runtime / "file").read_text() == "precious"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(runtime / "m"))
    with netstack.Router("10.88.0.0/16", "one", metrics=str(runtime / "m")):
        assert over_unix(runtime / "m")[0].status == 200


def test_values_of_labels_are_escaped():
    odd = 'a"b\\c\nd'
    text = "\n".join(family("x_total", "counter", "Text.", [({"k": odd}, 1)])) + "\n"
    assert parse(text) == {"x_total": {frozenset({("k", odd)}): 1.0}}


def test_the_option_of_the_command(runtime):
    where = runtime / "metrics"
    process = subprocess.Popen([*NETSTACK, "router", "--metrics", f"unix:{where}"], cwd=ROOT, stderr=subprocess.PIPE,
                               text=True)
    try:
        line = next(line for line in process.stderr if "metrics at" in line)
        assert line.strip().endswith(f"unix:{where}")
        assert total(parse(over_unix(where)[1])["netstack_router_attachments"]) == 0
        assert json.loads(netstack_command("ps", "--json").stdout) == []
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and not where.exists()
    finally:
        process.kill()
        process.wait(20)
        process.stderr.close()
    wrong = netstack_command("router", "--metrics", "nowhere")
    assert wrong.returncode == 1 and "unix:PATH" in wrong.stderr and "Traceback" not in wrong.stderr
