"""``netstack ss`` and `netstack.stacks` on real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile

import pytest
from click.testing import CliRunner

import netstack
from netstack.cli import ss
from netstack.reports import TcpInfo
from netstack.stacks import ask, stacks
from tests.support import ROOT

LIMIT = 60
PROGRAM = """
import netstack, sys
host = netstack.Host(address="10.0.0.1/24")
server = host.create_server(("10.0.0.1", 8080))
client = host.create_connection(("10.0.0.1", 8080))
accepted, _ = server.accept()
client.sendall(bytes(5000))
udp = host.socket(2, 2)
udp.bind(("", 5353))
print(client.getsockname()[1], flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A place of its own for the sockets that are asked."""
    path = tmp_path / "runtime"
    path.mkdir(0o700)
    monkeypatch.setenv("NETSTACK_RUNTIME_DIR", str(path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return path


class Program:
    """A process with a listener, a connection to itself and a datagram socket."""

    def __init__(self, command=(sys.executable, "-c", PROGRAM)):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def do(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@contextlib.contextmanager
def running():
    program = Program()
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()


def shown(*options):
    done = CliRunner().invoke(ss.command, options)
    assert done.exit_code == 0, done.output
    return done.output


def lines(*options):
    return [line.split() for line in shown(*options).splitlines()[1:]]


def test_nothing_runs():
    assert shown("-tn").split() == ["State", "Recv-Q", "Send-Q", "Local", "Address:Port", "Peer", "Address:Port",
                                    "Process"]
    assert stacks() == []
    program = [sys.executable, "-m", "netstack", "ss", "-tn"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == shown("-tn") and done.returncode == 0


def test_columns_and_options_are_those_of_ss():
    with running() as program:
        who = f'users:(("{open(f"/proc/{program.process.pid}/comm").read().strip()}",pid={program.process.pid}))'
        ends = f"10.0.0.1:{program.port}", "10.0.0.1:8080"
        assert lines("-tn") == [["ESTAB", "0", "0", *ends, who], ["ESTAB", "5000", "0", *ends[::-1], who]]
        listener = ["LISTEN", "0", "128", "10.0.0.1:8080", "0.0.0.0:*", who]
        assert lines("-tln") == [listener]
        datagram = ["UNCONN", "0", "0", "0.0.0.0:5353", "0.0.0.0:*", who]
        assert sorted(lines("-ln")) == [["tcp", *listener], ["udp", *datagram]]
        assert len(lines("-an")) == 4 and len(lines("-ta")) == 3 and len(lines("-ua")) == 1
        assert lines("-un") == []
        assert lines("-tl")[0][3] == "10.0.0.1:http-alt" or lines("-tl")[0][3] == "10.0.0.1:8080"
        assert lines("-tan", "--pid", "1") == []


def test_the_second_line_says_what_tcp_info_says():
    with running():
        line = shown("-tinem").splitlines()
        assert line[2].startswith("\t skmem:(r0,") and " sk:" in line[1]
        words = dict(w.split(":", 1) for w in line[3].split() if ":" in w)
        assert words["bytes_sent"] == "5000" and words["bytes_acked"] == "5001" and "rtt" in words
        assert line[3].split()[:2] == ["ts", "sack"] and int(words["cwnd"]) >= 10


def test_json_has_everything_and_agrees_with_the_process_itself(tmp_path):
    with running() as program:
        stack, = json.loads(shown("-t", "--json"))
        assert stack["pid"] == program.process.pid and stack["segments_in"] > 0
        client = next(s for s in stack["sockets"] if s["lport"] == program.port)
        assert client["state"] == "ESTABLISHED" and client["tcp"]["bytes_acked"] == 5001
        program.do(f"open({str(tmp_path / 'info')!r}, 'wb').write(client.tcp_info().pack())")
        inside = TcpInfo.parse((tmp_path / "info").read_bytes())
        moving = ("last_data_sent", "last_data_recv", "last_ack_recv")
        assert {k: v for k, v in client["tcp"].items() if k not in moving} == {
            k: getattr(inside, k) for k in client["tcp"] if k not in moving}


def test_what_changes_is_seen():
    with running() as program:
        program.do("accepted.recv(5000); client.close()")
        assert sorted(line[0] for line in lines("-tn")) == ["CLOSE-WAIT", "FIN-WAIT-2"]
        program.do("accepted.close()")
        record, = (line for line in lines("-taeon") if line[0] == "TIME-WAIT")
        assert any(word.startswith("timer:(timewait,") for word in record)
        program.do("host.close()")
        assert stacks() == []


def test_a_killed_process_is_forgotten(folder):
    with running() as program:
        assert len(stacks()) == 1
        program.process.send_signal(signal.SIGKILL)
        program.process.wait(LIMIT)
        assert len(os.listdir(folder)) == 1
        assert stacks() == [] and os.listdir(folder) == []


def test_a_child_does_not_answer_for_its_dead_parent(folder):
    forking = "import os\nif os.fork() == 0:\n    sys.stdin.read()\n    os._exit(0)\n"
    code = PROGRAM.replace("for line in sys.stdin:", forking + "for line in sys.stdin:")
    program = Program((sys.executable, "-c", code))
    try:
        found, = stacks()
        assert found.pid == program.process.pid
        program.process.kill()
        program.process.wait(LIMIT)
        assert stacks() == []
    finally:
        program.process.stdin.close()                    # the child ends with it
        program.process.stdout.close()


def test_stacks_of_netstack_run_and_of_several_processes_are_listed():
    with netstack.Router("10.88.0.0/16", "default") as router:
        server = subprocess.Popen(
            [sys.executable, "-m", "netstack", "run", "--address", "10.88.0.5", "--", "-c",
             "import socket; s = socket.create_server(('', 7)); print(1, flush=True); "
             "c, _ = s.accept(); c.send(b'1'); c.recv(9)"],
            stdout=subprocess.PIPE, text=True, env={**os.environ, **router.environment()})
        try:
            assert server.stdout.readline() == "1\n"
            with netstack.attach("default") as host, host.create_connection(("10.88.0.5", 7)) as client:
                assert client.recv(1) == b"1"              # the server, too, knows that it stands
                port = client.getsockname()[1]
                found = {(line[0], line[3], line[4]) for line in lines("-tan")}
                mine = host.addresses[0].split("/")[0]
                assert ("ESTAB", f"{mine}:{port}", "10.88.0.5:7") in found
                assert ("ESTAB", "10.88.0.5:7", f"{mine}:{port}") in found
                assert {s.pid for s in stacks()} == {server.pid, os.getpid()}
        finally:
            server.kill()
            server.communicate()


# --- who asks ---------------------------------------------------------------------------------------------------------

def report_path(folder):
    name, = (n for n in os.listdir(folder) if n.endswith(".stack"))
    return os.path.join(folder, name)


def test_an_invisible_host_opens_nothing(folder):
    with netstack.Host(address="10.0.0.1/24", visible=False), netstack.Host(address="10.0.0.2/24", service=False):
        assert os.listdir(folder) == []


def test_without_a_folder_a_host_works_all_the_same(folder, monkeypatch):
    folder.chmod(0o755)                                  # others may enter: refused
    with netstack.Host(address="10.0.0.1/24") as host:
        host.create_server(("10.0.0.1", 80)).close()
    assert os.listdir(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's process")
def test_another_user_is_not_answered(monkeypatch):
    place = tempfile.mkdtemp()
    try:
        monkeypatch.setenv("NETSTACK_RUNTIME_DIR", place)
        with netstack.Host(address="10.0.0.1/24") as host:
            path = report_path(place)
            os.chmod(place, 0o711)                       # even where the folder would let him
            os.chmod(path, stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
            child = os.fork()
            if child == 0:
                try:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
                        stranger.settimeout(20)
                        stranger.connect(path)
                        os._exit(len(stranger.recv(4096)))
                finally:
                    os._exit(99)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert host.counters()["reports_refused"] == 1 and host.counters()["reports_answered"] == 0
            os.chmod(place, 0o700)
            assert ask(path) is not None
    finally:
        os.rmdir(place)


def test_who_does_not_read_is_cut_off_and_stops_nobody(folder):
    with netstack.Host(address="10.0.0.1/24") as host:
        sockets = [host.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3000)]    # more than the kernel holds
        server = host.create_server(("10.0.0.1", 80))
        client = host.create_connection(("10.0.0.1", 80))
        accepted, _ = server.accept()
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as lazy:
            lazy.connect(report_path(folder))
            lazy.send(b"nonsense")
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(100):
                client.sendall(bytes(1000))
                assert len(accepted.recv(1000, socket.MSG_WAITALL)) == 1000
            known = ask(report_path(folder))             # has its turn when the lazy one is cut off
            assert known is not None and len(known.sockets) == len(sockets) + 3
            assert host.counters()["reports_refused"] == 1
        for s in (*sockets, client, accepted, server):
            s.close()


def test_a_client_that_leaves_in_the_middle_is_no_matter(folder):
    with netstack.Host(address="10.0.0.1/24") as host:
        sockets = [host.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3000)]
        for _ in range(20):
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as hasty:
                hasty.connect(report_path(folder))
                hasty.recv(1)
        known = ask(report_path(folder))
        assert known is not None and len(known.sockets) == 3000
        for s in sockets:
            s.close()


def test_an_answer_that_is_none_is_not_believed(folder):
    for answer in (b"", b"NSK1", b"NSK1" + bytes(28), b"NSK1" + (416).to_bytes(4, "little") + bytes(24)):
        path = str(folder / "1.0.stack")
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as impostor:
            impostor.bind(path)
            impostor.listen()
            child = os.fork()
            if child == 0:
                with contextlib.suppress(OSError):
                    peer, _ = impostor.accept()
                    if answer:
                        peer.send(answer)
                        peer.send(b"\xff" * 832)
                os._exit(0)
            assert ask(path) is None
            os.waitpid(child, 0)
        os.unlink(path)


# --- words ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ms, text", [(0, "0ms"), (188, "188ms"), (1204, "1.204ms"), (12000, "12sec"),
                                      (119000, "1min59sec"), (7_140_000, "119min")])
def test_timers_are_written_as_ss_writes_them(ms, text):
    assert ss.duration(ms) == text


@pytest.mark.parametrize("name, data, text", [
    ("bbr", (1_000_000).to_bytes(8, "little") + (1500).to_bytes(4, "little") + (739).to_bytes(4, "little")
     + (512).to_bytes(4, "little"), "bbr:(bw:8000000bps,mrtt:1.5,pacing_gain:2.88672,cwnd_gain:2)"),
    ("dctcp", b"\1\0\0\0" + (1024).to_bytes(4, "little") + (3).to_bytes(4, "little") + (9).to_bytes(4, "little"),
     "dctcp:(ce_state:0,alpha:1024,ab_ecn:3,ab_tot:9)"),
    ("vegas", b"".join(n.to_bytes(4, "little") for n in (1, 4, 2500, 2000)), "vegas:(rttcnt:4,rtt:2.5,minrtt:2)"),
    ("reno", b"", ""),
])
def test_algorithms_tell_their_own(name, data, text):
    class Info:
        congestion, cc_info = name, data

    assert ss.congestion_details(Info) == text
