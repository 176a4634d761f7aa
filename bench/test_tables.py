"""The forwarding table's measurements do what they say; the figures are those of the scoreboard."""

import pytest

from bench import forwarding, table_growth, tables
from bench.route_tables import addresses, bgp_like
from netstack.router.prefixes import PrefixTable


def test_tables_are_distinct_seeded_and_of_the_size_asked_for():
    for version, size in ((4, 8), (6, 20)):
        packed = bgp_like(3000, version=version)
        entries = {packed[at : at + size - 3] for at in range(0, len(packed), size)}
        assert len(entries) == 3000 and packed == bgp_like(3000, version=version)
        assert packed != bgp_like(3000, version=version, seed=2)


def test_addresses_inside_are_found():
    packed = bgp_like(2000)
    table = PrefixTable()
    table.load(packed)
    found = addresses(500, inside=packed)
    assert all(table.find(".".join(map(str, found[at : at + 4]))) for at in range(0, len(found), 4))


@pytest.mark.parametrize("kind", ["random", "inside", "sequential"])
def test_lookups_are_counted(kind):
    assert tables.lookups(0.001, kind, 5000) > 1000


def test_memory_loading_and_changes():
    assert tables.memory(5000)["prefixes"] < 9 and tables.load(5000) > 0 and tables.updates(0.001, 5000) > 100


@pytest.mark.parametrize("routes", [0, 1, 5000])
def test_packets_go_by_routes(routes):
    assert forwarding.run(0.001, routes=routes) > 1000


def test_latency_is_a_time():
    assert forwarding.latency(100) > 0


def test_growth_is_what_the_schemes_say(capsys):
    assert table_growth.main(["--quick"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [int(row[3]) for row in rows] == [8, 128, 128, 8 + 1, 8 + 13]


@pytest.mark.parametrize("scheme", table_growth.SCHEMES)
def test_every_process_is_found_where_it_is(scheme):
    m = table_growth.measured(scheme, 4, 32, 0)
    assert m["routes"] in (4, 128, 4 + 1, 4 + 13)
