"""The policy about TCPs that misbehave, changed while the router runs, and who was found, as it is shown."""

import io
import json

import pytest
from click.testing import CliRunner
from rich.console import Console

import netstack
from netstack.cli import ps, top
from netstack.cli.main import main
from netstack.errors import RouterError
from netstack.router import protocol
from netstack.router.client import ControlClient, attach
from netstack.router.control import Connection
from netstack.router.greedy import MISDEEDS, POLICIES
from netstack.router.pool import pack_address
from tests.router.forged import PORT, acknowledge_early, address_of, attached
from tests.router.lan import wait_until

NOBODY = dict.fromkeys(MISDEEDS, 0)


def misbehave(name):
    """One finding: an attachment that acknowledged what it had not got."""
    with netstack.attach(name, drain=0) as server, server.create_server((address_of(server), PORT)) as listener:
        offender = attach(name)
        forged = attached(offender, address_of(server))
        with listener.accept()[0] as cheated:
            cheated.sendall(bytes(1000))
            acknowledge_early(forged)
            with ControlClient(name) as client:
                wait_until(lambda: client.greedy()[1]["optimistic_ack"])
    return offender


def test_the_policy_is_the_owners_to_change_and_everybodys_to_see(runtime, monkeypatch):
    with netstack.Router() as router, ControlClient(router.name) as client:
        assert client.greedy() == ("off", NOBODY)
        for policy in POLICIES:
            assert client.set_greedy(policy) == (policy, NOBODY) and router.greedy == policy
        with pytest.raises(RouterError, match="off, count, mark"):
            client.set_greedy("shame")
        monkeypatch.setattr(Connection, "is_owner", False)
        with pytest.raises(RouterError, match="owner"):
            client.set_greedy("off")
        assert client.greedy() == ("detach", NOBODY)


def test_a_policy_that_needs_fair_queues_is_refused_without_them(runtime):
    with netstack.Router(fair=False, greedy="count") as router, ControlClient(router.name) as client:
        with pytest.raises(RouterError, match="fair"):
            client.set_greedy("penalty")
        assert client.greedy()[0] == "count"


def test_the_command_shows_and_changes_and_ps_and_top_show_who_was_found(runtime):
    def said(*words, code=0):
        done = CliRunner().invoke(main, words, env={"COLUMNS": "200"})
        assert done.exit_code == code, done.output
        return done.output.strip()

    assert "netstack router" in said("greedy", code=1), "there is none"
    with netstack.Router(name="default"):
        assert said("greedy") == "off: found nobody"
        assert said("greedy", "count") == "count: found nobody"
        with misbehave("default") as offender:
            assert said("greedy") == "count: found 1 optimistic_ack"
            assert json.loads(said("greedy", "off", "--json")) == {"policy": "off",
                                                                   "found": {**NOBODY, "optimistic_ack": 1}}
            row = json.loads(said("ps", "--json"))[0]
            assert row["addresses"][0] == offender.address and row["greedy"] == {**NOBODY, "optimistic_ack": 1}
            row = json.loads(said("top", "--once", "--json", "--interval", "0.1"))["stacks"][0]
            assert row["greedy"] == {**NOBODY, "optimistic_ack": 1}
            assert "1 optimistic_ack" in said("ps") and "1 optimistic_ack" in said("top", "--once", "--interval", "0.1")
        assert "shame" in said("greedy", "shame", code=2)
        assert "Show and change what a router does about TCPs" in said("--help")


def drawn(table):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_a_column_is_there_only_while_somebody_was_found():
    def attachment(ident, **values):
        return protocol.AttachmentInfo(ident, 7, 0, 1, 1, 10**9, 0, 0, 0, 0, 0, 0, 1500, (pack_address("10.77.0.2"),),
                                       "prog", **values)

    good, bad = attachment(1), attachment(2, greedy=(0, 1500, 0, 2))
    way, bad_way = (protocol.UplinkInfo(n, n, kind="tap", name=f"tap{n}", greedy=(0, 0, n - 1, 0)) for n in (1, 2))
    for info in (good, bad, way, bad_way):
        assert type(info).unpack(info.pack()) == info
    for infos, ways, wanted in (([good], [way], False), ([good, bad], [way, bad_way], True)):
        rows, ups = [ps.describe(info) for info in infos], [ps.describe_uplink(info) for info in ways]
        look = top.Look(0.0, {info.id: (info, 0) for info in infos}, {}, uplinks={u.number: u for u in ways})
        for stacks in (ps.table(rows, ""), top.table(top.rates(look, look), "")):
            text = drawn(stacks)
            assert ("greedy" in text) == ("1,500 ack_division" in text) == ("2 window_overrun" in text) == wanted
        for uplinks in (ps.uplink_table(ups), top.uplink_table(top.uplink_rates(look, look))):
            text = drawn(uplinks)
            assert ("greedy" in text) == ("1 optimistic_ack" in text) == wanted
