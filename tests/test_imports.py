"""What an import loads: starting a program must not cost what it does not use."""

import sys

import pytest

from tests.support import ROOT, run

HEAVY = {"numpy", "ssl", "asyncio", "click", "rich", "multiprocessing", "hypothesis", "scapy"}


PATHS = [str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]


def loaded_by(statement: str) -> set[str]:
    """Modules in a fresh interpreter (without site) after a statement."""
    program = f"import sys\nsys.path[:0] = {PATHS!r}\n{statement}\nprint(*sys.modules)"
    return set(run([sys.executable, "-I", "-S", "-c", program]).stdout.split())


@pytest.mark.parametrize("statement", ["import netstack", "import rings", "import netstack.wire.checksum",
                                       "import netstack.config, netstack.errors"])
def test_import_loads_nothing_heavy(statement):
    loaded = loaded_by(statement)
    assert "netstack" in loaded or "rings" in loaded
    assert not HEAVY & loaded


def test_a_blocking_host_at_work_loads_nothing_heavy():
    loaded = loaded_by("""
import netstack
host = netstack.Host(address="10.0.0.1/24")
listener = host.create_server(("10.0.0.1", 80))
client = host.create_connection(("10.0.0.1", 80), timeout=10)
server, _ = listener.accept()
client.sendall(b"hello")
assert server.recv(100) == b"hello"
for s in (client, server, listener):
    s.close()
host.close()
""")
    assert "netstack.stack.stack" in loaded
    assert not HEAVY & loaded


def test_this_test_can_see_a_heavy_import():
    assert "asyncio" in loaded_by("import netstack, asyncio")
