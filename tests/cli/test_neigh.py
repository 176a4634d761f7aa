"""``netstack neigh`` and `Stack.neighbors`: whom stacks know on their links."""

import contextlib
import json
import os
import socket

import pytest
from click.testing import CliRunner

import netstack
from netstack.cli import neigh
from netstack.reports import NEIGHBOR, NeighborInfo
from netstack.stacks import ask, stacks
from tests.cli.conftest import netstack_command


def shown(*options, code=0):
    done = CliRunner().invoke(neigh.command, options)
    assert done.exit_code == code, done.output
    return done.output.splitlines()


@contextlib.contextmanager
def ethernet(count):
    """A host on an Ethernet where nobody answers, that asked for ``count`` neighbours."""
    link = netstack.link.QueueLink(media="ethernet", mtu=1500)
    with netstack.Host(link=link, address="10.9.0.2/16", drain=0) as host:
        with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            for n in range(count):
                with contextlib.suppress(OSError):
                    s.sendto(b"x", (f"10.9.{1 + n // 250}.{1 + n % 250}", 9))
            yield host


def test_who_was_asked_and_has_not_answered(runtime):
    with ethernet(2) as host:
        who = f'users:(("{open(f"/proc/{os.getpid()}/comm").read().strip()}",pid={os.getpid()}))'
        lines = shown()
        assert [line.split(" ", 3)[:3] for line in lines] == [["10.9.1.1", "dev", "if1"], ["10.9.1.2", "dev", "if1"]]
        assert all(line.endswith(who) and "lladdr" not in line for line in lines)
        assert {n.state for n in host.stack.neighbors()} <= {"INCOMPLETE", "FAILED"}
        assert shown("10.9.1.2")[0].startswith("10.9.1.2 ") and len(shown("10.9.1.2")) == 1
        assert shown("--nud", "reachable") == [] and shown("-6") == [] and len(shown("-4")) == 2
        assert "used " in shown("-s")[0] and "queued 1" in shown("-s")[0]
        assert shown("--pid", "1") == []
        stack, = json.loads("\n".join(shown("--json")))
        assert stack["pid"] == os.getpid() and stack["neighbors"][0]["confirmed_ms"] is None


def test_more_than_fit_into_one_message_all_arrive(runtime):
    with ethernet(256) as host:                          # the most without an answer
        assert len(shown()) == len(host.stack.neighbors()) == 256
        sockets = [host.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
        found, = stacks()
        assert len(found.sockets) == 101 and len({n.address for n in found.neighbors}) == 256
        for s in sockets:
            s.close()


def test_a_stack_without_links_to_share_has_none(runtime):
    with netstack.Host(address="10.9.0.2/24"):
        assert shown() == []
        assert json.loads("\n".join(shown("--json")))[0]["neighbors"] == []
    assert netstack_command("neigh").stdout == ""


@pytest.mark.root
def test_a_kernel_at_the_other_end_of_a_tap(runtime, netns):
    with netns.enter():
        tap = netstack.link.Tap("tap0")
    netns.run("ip", "addr", "add", "10.9.0.1/24", "dev", "tap0")
    netns.run("ip", "link", "set", "tap0", "up")
    mac = json.loads(netns.run("ip", "-json", "link", "show", "tap0").stdout)[0]["address"]
    with netstack.Host(link=tap, address="10.9.0.2/24", drain=1) as host:
        with pytest.raises(ConnectionRefusedError):
            host.create_connection(("10.9.0.1", 9), timeout=30)
        line, = shown("--nud", "reachable")
        assert line.startswith(f"10.9.0.1 dev if1 lladdr {mac} REACHABLE users:")
        with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"x", ("10.9.0.77", 9))
            assert any(line.startswith("10.9.0.77 dev if1") and "lladdr" not in line for line in shown())


def test_states_by_linux_names_and_options_that_cannot_be():
    assert shown("--nud", "sleepy", code=2)
    with pytest.raises(ValueError):
        NeighborInfo.parse(bytes(NEIGHBOR.size - 1))
    with pytest.raises(ValueError):
        NeighborInfo.parse(bytes(NEIGHBOR.size))


def test_an_answer_with_a_mark_that_means_nothing_is_not_believed(runtime):
    head = b"NSK1" + (416).to_bytes(4, "little") + bytes(24)
    for mark in (b"NEIX" + (44).to_bytes(4, "little"), b"NEIG" + (1).to_bytes(4, "little"),
                 b"NEIG" + (1 << 20).to_bytes(4, "little")):
        path = str(runtime / "1.0.stack")
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as impostor:
            impostor.bind(path)
            impostor.listen()
            child = os.fork()
            if child == 0:
                with contextlib.suppress(OSError):
                    peer, _ = impostor.accept()
                    peer.send(head)
                    peer.send(mark)
                    peer.send(b"\xff" * 88)
                os._exit(0)
            assert ask(path) is None
            os.waitpid(child, 0)
        os.unlink(path)
