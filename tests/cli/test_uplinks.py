"""What `netstack ps` and `netstack top` show of a router's uplinks."""

import json
import os

import pytest

import netstack
from tests.cli.conftest import NETSTACK, netstack_command
from tests.router.lan import wait_until
from tests.router.test_uplinks import Site, connected, exchange
from tests.support import ROOT


def told(router, *arguments):
    done = netstack_command(*arguments, "--name", router.name)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.root
def test_uplinks_are_shown_with_what_they_carry_and_when_they_are_lost(runtime, netns):
    netns.run("ip", "tuntap", "add", "dev", "up0", "mode", "tap")
    netns.run("ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
    netns.run("ip", "link", "set", "up0", "up")
    netns.run("ip", "route", "add", "10.77.0.0/16", "dev", "up0")
    netns.run("ip", "tuntap", "add", "dev", "up1", "mode", "tun")
    with netns.enter():
        router = netstack.Router(uplinks=["tap:up0", "tun:up1"])
    with router, netstack.attach(router.name) as host:
        address = host.addresses[0].split("/")[0]
        netns.run("ping", "-c", 2, "-i", 0.05, "-W", 20, address)
        first, second = json.loads(told(router, "ps", "--uplinks", "--json"))
        assert (first["uplink"], first["state"], first["mtu"]) == ("tap:up0", "up", 1500)
        assert first["packets_from"] >= 2 and first["packets_to"] >= 2 and first["bytes_from"] >= 2 * 84
        assert (second["uplink"], second["packets_from"]) == ("tun:up1", 0)
        assert [row["pid"] for row in json.loads(told(router, "ps", "--json"))] == [os.getpid()]
        shown = told(router, "ps")
        assert address in shown and "tap:up0" in shown and "tun:up1" in shown
        assert address not in told(router, "ps", "--uplinks")
        netns.run("ip", "link", "del", "up1")
        wait_until(lambda: router.uplinks()["up1"] is None)
        assert [row["state"] for row in json.loads(told(router, "ps", "--uplinks", "--json"))] == ["up", "lost"]
        top = json.loads(told(router, "top", "--once", "--interval", "0.05", "--json"))
        assert [(row["uplink"], row["state"]) for row in top["uplinks"]] == [("tap:up0", "up"), ("tun:up1", "lost")]
        assert all(row["packets_from_s"] >= 0 for row in top["uplinks"])
        assert "tap:up0" in told(router, "top", "--once", "--interval", "0.05")


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tap", "packet"])
def test_f18_a_router_without_privileges_gets_its_uplink_back(runtime, netns, kind):
    """As `netstack router` runs: confined, its devices opened by another process."""
    site = Site(netns)
    site.make(kind)
    router = netns.popen(*NETSTACK, "router", "--name", "confined", "--uplink", f"{kind}:up0", "--quiet", cwd=ROOT)
    try:
        def state():
            done = netstack_command("ps", "--name", "confined", "--uplinks", "--json")
            return json.loads(done.stdout)[0]["state"] if done.returncode == 0 else None

        wait_until(lambda: state() == "up", 60)
        with open(f"/proc/{router.pid}/status") as file:
            assert "Seccomp:\t2" in file.read()
        with netstack.attach("confined") as host:
            with connected(site, host, 4, "kernel") as ends:
                exchange(*ends)
            site.ip("link", "del", "up0")
            wait_until(lambda: state() == "lost", 60)
            site.make(kind)
            wait_until(lambda: state() == "up", 60)
            with connected(site, host, 4, "kernel") as ends:
                exchange(*ends)
    finally:
        router.terminate()
        assert router.wait(60) == 0


def test_a_router_without_uplinks_says_so(runtime):
    with netstack.Router() as router:
        assert "no uplinks" in told(router, "ps", "--uplinks")
        assert json.loads(told(router, "ps", "--uplinks", "--json")) == []
        assert "nobody is attached" in told(router, "ps")
