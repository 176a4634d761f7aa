"""Which way imports point (ARCHITECTURE.md): down only, read from every import and cimport.

A new top-level module of the package gets its place in `LAYERS` here.
"""

import ast
import pathlib
import re

import pytest

from tests.support import ROOT

# From the bottom. A module may import what stands below it, and its own line unless that is PEERS.
LAYERS = [
    {"address", "ancillary", "clock", "config", "confinement", "counters", "errors", "log_limit", "reports", "siphash",
     "sock", "trace", "units", "link.link"},      # what a link is: the type that media and their users share
    {"wire"},
    {"tcp", "udp", "ip", "link"},
    {"congestion"},
    {"demux", "stack"},
    {"driver", "doorbells", "pollers", "readiness", "reporting"},
    {"handle", "face", "calls", "resolver", "socket", "placing", "exporting", "tls", "aio", "patching", "connecting",
     "key_log"},
    {"host", "stacks", "router", "daemon", "migration", "vpn", "dht", "dhcp", "dhcp6", "adapters", "socks"},
]
PEERS = {"tcp", "udp", "ip", "link"}            # none imports another
ABOVE_ALL = {"testing", "cli", "__main__", ""}  # nobody imports them; "" is netstack/__init__

SOURCES = sorted(p.relative_to(ROOT) for package in ("netstack", "rings")
                 for p in (ROOT / package).rglob("*.p*") if p.suffix in (".py", ".pyi", ".pyx", ".pxd"))


def module_of(path: pathlib.PurePath) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(p) for p in SOURCES}


def statements(path: pathlib.PurePath):
    """(module, names) of each import and cimport; names is empty for ``import module``."""
    text = (ROOT / path).read_text()
    if path.suffix in (".py", ".pyi"):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []   # names in annotations; nothing is loaded
            if isinstance(node, ast.Import):
                yield from ((alias.name, []) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]
        return
    text = re.sub(r'""".*?"""' + "|'''.*?'''", "", text, flags=re.S)
    text = re.sub(r"#.*", "", text).replace("\\\n", " ")
    named = r"^[ \t]*from\s+([.\w]+)\s+c?import\s+(\([^)]*\)|[^\n;]+)"
    for module, names in re.findall(named, text, flags=re.M):
        yield module, re.findall(r"(\w+|\*)(?:\s+as\s+\w+)?", names.strip("()"))
    for names in re.findall(r"^[ \t]*c?import\s+([^\n;]+)", text, flags=re.M):
        yield from ((name.split()[0], []) for name in names.split(","))


def imported(path: pathlib.PurePath):
    """The project's modules that a file imports, by full name."""
    package = list(path.parts[:-1])
    for module, names in statements(path):
        if module.startswith("."):
            up = len(module) - len(module.lstrip("."))
            module = ".".join([*package[:len(package) - up + 1], *filter(None, [module.lstrip(".")])])
        if module.split(".")[0] not in ("netstack", "rings"):
            continue
        for name in names or [""]:
            yield f"{module}.{name}" if f"{module}.{name}" in MODULES else module


def place(module: str) -> tuple[int, str]:
    """(layer, name in LAYERS) of a module of netstack."""
    inside = module.removeprefix("netstack").lstrip(".")
    for name in (inside, inside.split(".")[0]):
        for rank, layer in enumerate(LAYERS):
            if name in layer:
                return rank, name
    assert inside.split(".")[0] in ABOVE_ALL, f"{module} has no layer: give it one in LAYERS ({__file__})"
    return len(LAYERS), inside.split(".")[0]


def complaint(importer: str, target: str) -> str | None:
    """Why `importer` must not import `target`, or None."""
    if importer.startswith("rings"):
        return "rings knows nothing of netstack" if target.startswith("netstack") else None
    if target.startswith("rings"):
        return None if place(importer)[0] >= 2 else "leaves and wire do not know rings"
    rank, name = place(importer)
    target_rank, target_name = place(target)
    if target_name in ABOVE_ALL:
        return None if name in ABOVE_ALL else f"nothing imports {target_name or 'the package itself'}"
    if target_rank > rank:
        return f"{target_name} stands above {name}"
    if target_rank == rank and name != target_name and {name, target_name} <= PEERS:
        return f"{name} and {target_name} are peers"
    return None


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_down(path):
    importer = module_of(path)
    wrong = {f"{importer} imports {target}: {why}" for target in imported(path)
             if target != importer and (why := complaint(importer, target))}
    assert not wrong


@pytest.mark.parametrize("importer, target, allowed", [
    ("netstack.tcp.input", "netstack.wire.tcp", True),
    ("netstack.tcp.input", "netstack.tcp.tcb", True),
    ("netstack.tcp.input", "netstack.ip.route", False),
    ("netstack.ip.interface", "netstack.link.link", True),
    ("netstack.ip.interface", "netstack.link.tap", False),
    ("netstack.wire.tcp", "netstack.stack.core", False),
    ("netstack.wire.tcp", "netstack.errors", True),
    ("netstack.link.channel", "rings.spsc_ring", True),
    ("rings.channel", "netstack.errors", False),
    ("netstack.router.router", "netstack.testing.clock", False),
    ("netstack.cli.main", "netstack.testing.clock", True),
    ("netstack.host", "netstack.socket", True),
    ("netstack.socket", "netstack.host", False),
    ("netstack.socket", "netstack", False),
])
def test_the_rule_itself(importer, target, allowed):
    assert (complaint(importer, target) is None) == allowed


def test_the_readers_see_every_form_of_import(tmp_path):
    source = tmp_path / "netstack" / "tcp" / "x.pyx"
    source.parent.mkdir(parents=True)
    source.write_text(
        '"""from netstack.cli import main"""\nfrom netstack.wire cimport (tcp,\n    udp as u)\n'
        "from . cimport tcb  # import netstack.host\ncimport netstack.ip.route as r, rings.spsc_ring\n"
        "def f():\n    from ..link import tap\n    import netstack.socket\n")
    assert list(statements(source)) == [
        ("netstack.wire", ["tcp", "udp"]), (".", ["tcb"]), ("..link", ["tap"]),
        ("netstack.ip.route", []), ("rings.spsc_ring", []), ("netstack.socket", [])]
