"""``netstack doctor``: what this machine offers, judged by what the kernel really allows."""

import json
import os
import resource
import subprocess

import pytest

import netstack
from netstack.cli import machine
from netstack.wire import checksum
from tests.cli.conftest import NETSTACK, netstack_command
from tests.support import ROOT

NOBODY = 65534


def checks(**options):
    """By (group, name), as the program shows them."""
    done = netstack_command("doctor", "--json", **options)
    assert done.returncode == 0, done.stderr
    return {(c["group"], c["name"]): c for c in json.loads(done.stdout)}


def test_exit_0_and_a_line_for_each_check(runtime):
    done = netstack_command("doctor")
    assert done.returncode == 0 and done.stderr == ""
    for (group, name), check in checks().items():
        assert f"\n{group}\n" in "\n" + done.stdout
        assert f"  {check['state']:8} {name:22} " in done.stdout
        assert bool(check["advice"]) == (check["state"] != "ok")


def test_cpu_is_what_the_checksum_uses_and_a_cap_is_seen(runtime):
    have = checksum.cpu_features()
    env = {k: v for k, v in os.environ.items() if k != "NETSTACK_CPU"}
    found = checks(env=env)["cpu", "checksum and copy"]
    assert found["found"] == f"{have[-1]} in use, of {', '.join(have)}"
    if len(have) > 1:
        capped = checks(env={**env, "NETSTACK_CPU": "baseline"})["cpu", "checksum and copy"]
        assert capped["state"] == "limited" and capped["found"].startswith("baseline in use")
        assert "unset" in capped["advice"]


def test_a_running_router_is_found_and_a_dead_one_is_not(runtime):
    none = checks()["router", "default"]
    assert none["state"] == "missing" and "netstack router" in none["advice"]
    (runtime / "dead.sock").touch(0o600)
    with netstack.Router("10.88.0.0/16", "other") as router, router.attach():
        found = checks()
    assert found["router", "other"]["state"] == "ok" and "1 attached" in found["router", "other"]["found"]
    assert str(os.getpid()) in found["router", "other"]["found"]
    assert ("router", "dead") not in found and ("router", "default") not in found


def test_a_folder_that_others_may_enter_is_told(runtime):
    runtime.chmod(0o755)
    folder = checks()["router", "folder"]
    assert folder["state"] == "missing" and "0700" in folder["found"]


def test_few_descriptors_are_told(runtime):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    done = subprocess.run([*NETSTACK, "doctor", "--json"], cwd=ROOT, preexec_fn=limit, capture_output=True, text=True,
                          check=True)
    files, = (c for c in json.loads(done.stdout) if c["name"] == "open files")
    assert files["state"] == "limited" and "17 stacks" in files["advice"]


def test_no_shared_memory(tmp_path):
    missing, = machine.check_posix_memory(str(tmp_path / "shm"))
    assert missing.state == "missing" and "memfd" in missing.advice


def test_devices_are_told_apart_by_kind(tmp_path):
    for name, flags, owner in (("tap1", "0x1002", NOBODY), ("tun1", "0x1001", 0), ("odd", "?", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tun_flags").write_text(flags + "\n")
        (tmp_path / name / "owner").write_text(f"{owner}\n")
    assert machine.devices(machine.IFF_TAP, str(tmp_path)) == [("tap1", NOBODY)]
    assert machine.devices(machine.IFF_TUN, str(tmp_path)) == [("tun1", 0)]


def test_a_check_that_fails_itself_ends_no_other(monkeypatch):
    def broken():
        raise RuntimeError("out of order")
        yield

    monkeypatch.setattr(machine, "CHECKS", (broken, machine.check_system))
    first, second = machine.examine()
    assert first.state == "missing" and "out of order" in first.found and second.name == "system"


def answers_of_a_child(function, uid=None):
    """What a function says in a forked child of another user."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            os.write(write, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text)


def privileges_and_links():
    return {c.name: [c.state, c.advice, c.found] for f in (machine.check_privileges, machine.check_links) for c in f()}


@pytest.mark.root
def test_privileges_are_those_that_the_kernel_grants(netns):
    netns.run("ip", "tuntap", "add", "dev", "tap7", "mode", "tap", "user", str(NOBODY))
    with netns.enter():
        mine = answers_of_a_child(privileges_and_links)
        others = answers_of_a_child(privileges_and_links, NOBODY)
    assert mine["CAP_NET_ADMIN"][0] == mine["CAP_NET_RAW"][0] == mine["kernel's IP (hybrid)"][0] == "ok"
    assert others["CAP_NET_ADMIN"][0] == others["CAP_NET_RAW"][0] == others["kernel's IP (hybrid)"][0] == "missing"
    assert "ip tuntap add" in others["CAP_NET_ADMIN"][1] and "setcap" in others["kernel's IP (hybrid)"][1]
    for kind in ("packet (AF_PACKET)", "xdp (AF_XDP)"):
        assert mine[kind][0] == "ok" and others[kind][0] == "missing" and "cap_net_raw" in others[kind][1]
    assert mine["TUN"][0] == "ok" and others["TUN"][0] == "missing" and "mode tun" in others["TUN"][1]
