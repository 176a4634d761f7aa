"""The tutorials of docs/ run as they are printed."""

import re
import shlex
import sys

import pytest

from tests.cli.conftest import netstack_command, runtime, servers  # noqa: F401 - fixtures
from tests.support import ROOT


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / name).read_text(), flags=re.M | re.S)


def run_programs(name):
    """All Python of a tutorial, one after the other in one namespace."""
    space = {"__name__": "tutorial"}
    for program in blocks(name, "python"):
        exec(compile(program, name, "exec"), space)


def test_names_in_python(capsys):
    run_programs("names.md")
    printed = capsys.readouterr().out.splitlines()
    assert "('10.9.0.7', 631)" in printed[0] and "('10.9.0.53', 80)" in printed[1] and printed[2] == "10.9.0.53"


@pytest.mark.usefixtures("servers")
def test_names_from_the_shell():
    lines = blocks("names.md", "sh")[0].strip().splitlines()
    expected = ["IN A 10.88.0.53", "server.example.", "1 received, 0% packet loss", "10.88.0.53"]
    for line, text in zip(lines, expected, strict=True):
        argv = [sys.executable if word == "python" else word for word in shlex.split(line)]
        assert argv[0] == "netstack"
        done = netstack_command(*argv[1:])
        assert done.returncode == 0 and text in done.stdout, (line, done.stdout, done.stderr)


def test_a_congestion_control(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    run_programs("congestion_control.md")
    programs = blocks("congestion_control.md", "python")
    algorithm = next(p for p in programs if "congestion.register" in p)
    assert len([line for line in algorithm.splitlines() if line.strip()]) < 30
    assert (tmp_path / "mine.svg").stat().st_size > 10_000


def test_python_programs(capfd):
    run_programs("python.md")
    printed = capfd.readouterr().out.splitlines()
    assert printed[:3] == ["b'hello' 10.9.0.1", "b'hello from the stack'", "b'hello again'"]
    assert {"socket", "getaddrinfo", "SSLContext.sslsocket_class", "sendfile"} <= set(printed[3].split())
    assert printed[4:] == ["True", "None", "b'A CHILD PROCESS\\n'", "b'at last' after 12 refusals"]
