"""packetdrill's runner and shim: what needs no packetdrill, and, where there is one, its judgement."""

import errno
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from tests import support
from tests.conformance.packetdrill import run
from tests.conformance.packetdrill.backend import Backend, read_sockaddr, write_sockaddr
from tests.conformance.packetdrill.relax import relax, relaxes

HERE = Path(__file__).parent / "packetdrill"


def test_relax_changes_what_is_allowed():
    script = (
        "+0.00 > S. 0:0(0) ack 1 win 65535 <mss 1460,nop,wscale 6,sackOK,TS val 1 ecr 2>\n"
        "+0.05 < . 1:1(0) ack 1 win 32767\n"
        "* > . 1:1(0) ack 1001 win 65535\n"
        "+0.00 getsockopt(4, SOL_SOCKET, SO_RCVBUF, [65536], [4]) = 0\n"
        "+0.00 %{ assert tcpi_state == TCPI_CLOSED and tcpi_state != TCPI_LAST_ACK }%\n"
    )
    assert relax(script) == (
        "+0.00 > S. 0:0(0) ack 1 <...>\n"
        "+0.05 < . 1:1(0) ack 1 win 32767\n"
        "* > . 1:1(0) ack 1001\n"
        "+0.00 %{ assert tcpi_state == TCP_CLOSE and tcpi_state != TCP_LAST_ACK }%\n"
    )


def test_relax_leaves_syn_options_when_timestamps_follow():
    script = "0 > S. 0:0(0) ack 1 <mss 1460,TS val 1 ecr 2>\n0 > . 1:1(0) ack 1 <nop,nop,TS val 1 ecr 2>\n"
    assert relax(script) == script


def test_relaxations_are_for_others_than_linux():
    assert relaxes("freebsd-net/tcp-testsuite") and relaxes("nplab/packetdrill")
    assert not any(relaxes(r) for r in ("google/packetdrill", "torvalds/linux", "google/gvisor", "intel-lab-lkp/linux"))


def test_a_scripts_own_options_are_read_with_and_without_quotes():
    text = '--mtu=1400\n--ip_version="ipv4-mapped-ipv6"\n0 `sysctl --quiet=1`\n'
    assert run.own_options(text) == {"mtu": "1400", "ip_version": "ipv4-mapped-ipv6"}


def test_a_script_is_run_where_the_programs_it_names_are(tmp_path):
    script = tmp_path / "tests" / "tcp" / "one.pkt"
    script.parent.mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    for program in (tmp_path / "scripts" / "defaults.sh", script.parent / "own.sh"):
        program.touch()
    assert run.folder_of(script, "`scripts/defaults.sh\nsysctl -q a=1`\n0 `nstat -n`\n", tmp_path) == tmp_path
    assert run.folder_of(script, "`./own.sh`\n", tmp_path) == script.parent
    assert run.folder_of(script, "`../none.sh`\n", tmp_path) == script.parent
    assert run.folder_of(script, "0 socket(..., SOCK_STREAM, 0) = 3\n", tmp_path) == script.parent


def test_summary_sums_to_the_list(tmp_path):
    listed = tmp_path / "list"
    listed.write_text("# comment\n\na/b one/x.pkt\na/b one/y.pkt\na/b two/z.pkt\n")
    scripts = run.read_list(listed)
    results = [run.Result(s, s.path != "one/y.pkt", s.path == "two/z.pkt", "why") for s in scripts]
    summary = run.summarize(results)
    assert (summary["passed"], summary["failed"], summary["relaxed"]) == (2, 1, 1)
    assert summary["mean_over_topics"] == 0.75
    assert summary["topics"]["a/b one"] == {"passed": 1, "failed": 1, "relaxed": 0}
    assert list(summary["failures"]) == ["a/b one/y.pkt"]


def test_no_program_is_said_and_is_no_completed_run(monkeypatch, capsys, tmp_path):
    (tmp_path / "list").write_text("a/b x.pkt\n")
    monkeypatch.delenv("PACKETDRILL", raising=False)
    assert run.main(["--scripts", str(tmp_path), "--list", str(tmp_path / "list")]) == 2
    assert "PACKETDRILL is not set" in capsys.readouterr().err


def test_standin_sysctl_writes_what_has_a_counterpart(tmp_path):
    for name in ("tcp_sack", "tcp_timestamps", "tcp_window_scaling", "tcp_rmem"):
        (tmp_path / name).write_text("old\n")
    settings = tmp_path / "settings"
    environment = dict(os.environ, PD_SYSCTL_ROOT=str(tmp_path), PD_SETTINGS=str(settings))
    command = [HERE / "standins" / "sysctl", "-w"]
    for setting in ("net.inet.tcp.sack.enable=0", "net.inet.tcp.rfc1323=1", "net.inet.tcp.recvspace=65536",
                    "net.inet.tcp.hostcache.purgenow=1", "net.inet.tcp.delacktime=40", "kern.ipc.maxsockbuf=2097152"):
        subprocess.run([*command, setting], env=environment, check=True, stdout=subprocess.DEVNULL)
    assert settings.read_text().split() == ["net.ipv4.tcp_quickack_segments=0"] * 5 + ["net.ipv4.tcp_delayed_ack_ms=40"]
    settings.unlink()
    found = {path.name.removeprefix("tcp_"): path.read_text().strip() for path in tmp_path.iterdir()}
    assert found == {"sack": "0", "timestamps": "1", "window_scaling": "1", "rmem": "4096 65536 2097152"}


def sockaddr(host, port):
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("fd00::1", 443, 0, 0)])
def test_sockaddr_there_and_back(address):
    view = memoryview(bytearray(32))
    write_sockaddr(view, address)
    assert read_sockaddr(view[: view[31]]) == address[:2]


def test_backend_speaks_system_calls(tmp_path):
    states = tmp_path / "states"
    backend = Backend(f"local_ip=192.168.0.1/16,mtu=1500,states={states}")
    call = backend.call
    fd, _ = call(1, "socket", (socket.AF_INET, socket.SOCK_STREAM, 0))
    assert call(2, "bind", (fd, sockaddr("0.0.0.0", 8080)))[0] == 0
    assert call(3, "listen", (fd, 1))[0] == 0
    assert call(4, "accept", (fd, memoryview(bytearray(32))))[0] == -errno.EAGAIN
    assert call(5, "bind", (999, sockaddr("0.0.0.0", 1)))[0] == -errno.EBADF
    assert "8080" in states.read_text() and "LISTEN" in states.read_text()
    client, _ = call(6, "socket", (socket.AF_INET, socket.SOCK_STREAM, 0))
    result, deadline = call(7, "connect", (client, sockaddr("192.0.2.1", 80)))
    assert (result, deadline) == (-errno.EINPROGRESS, 7 + 1_000_000)
    out, at = memoryview(bytearray(2000)), memoryview(bytearray(8))
    size, _ = call(8, "output", (out, at))
    assert size == 60 and struct.unpack("=q", at)[0] == 7, "the SYN, stamped with the time it was made at"
    poll = bytearray(struct.pack("=ihh", client, 4, 0) + struct.pack("=ihh", 999, 1, 0))
    assert call(9, "poll", (memoryview(poll),))[0] == 1
    assert struct.unpack_from("=ihh", poll, 8) == (999, 1, 32)
    for each in (fd, client):
        assert call(10, "close", (each,))[0] == 0


def packetdrill_missing():
    try:
        program = run.find_packetdrill()
        run.find_header(program, os.environ.get("PACKETDRILL_SCRIPTS"))
        run.python_library()
    except run.Missing as missing:
        return str(missing)
    return support.root_missing()


@pytest.mark.packetdrill
@pytest.mark.parametrize("script", sorted(path.name for path in (HERE / "scripts").glob("*.pkt")))
def test_own_scripts(script, tmp_path):
    reason = packetdrill_missing()
    if reason:
        pytest.skip(reason)
    runner = run.Runner(tmp_path, run.find_packetdrill(), tmp_path)
    (tmp_path / "own" / "repo").mkdir(parents=True)
    (tmp_path / "own" / "repo" / script).write_text((HERE / "scripts" / script).read_text())
    result = runner.run(run.Script("own/repo", script))
    assert result.passed, result.output


@pytest.mark.packetdrill
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_list_reaches_its_target():
    reason = packetdrill_missing()
    if not reason and not os.environ.get("PACKETDRILL_LIST"):
        reason = "PACKETDRILL_SCRIPTS and PACKETDRILL_LIST are not set: the folder of checkouts and the list to run"
    if reason:
        pytest.skip(reason)
    listed = run.read_list(os.environ["PACKETDRILL_LIST"])
    summary = run.summarize(run.run_all(os.environ["PACKETDRILL_SCRIPTS"], listed))
    assert summary["passed"] + summary["failed"] == len(listed)
    assert summary["mean_over_topics"] >= 0.95, sorted(summary["failures"])
