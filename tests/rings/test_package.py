"""The package as a whole: its example runs, and importing it costs nothing that is not used."""

import doctest
import subprocess
import sys

import rings


def test_the_example_at_the_top_runs():
    failed, tried = doctest.testmod(rings, optionflags=doctest.ELLIPSIS)
    assert tried > 15
    assert failed == 0


def modules_after(code):
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_rings_imports_next_to_nothing():
    loaded = modules_after("import rings")
    assert not loaded & {"numpy", "asyncio", "posix_ipc", "socket", "multiprocessing", "rings.endpoint"}


def test_a_working_ring_needs_neither_numpy_nor_asyncio():
    loaded = modules_after(
        "import rings; p, c = rings.ring(); p.put(b'x'); c.get(timeout=5); rings.channel_pair(4096)"
    )
    assert "rings.endpoint" in loaded
    assert not loaded & {"numpy", "asyncio", "multiprocessing", "ssl", "ctypes"}


def test_every_name_of_the_package_is_there():
    for name in rings.__all__:
        assert getattr(rings, name).__name__ == name
    assert set(dir(rings)) == set(rings.__all__)
    assert subprocess.run([sys.executable, "-c", "from rings import *"]).returncode == 0
