"""The C headers, and what the core may use of C.

Every header stands alone: C11, no warning, no Python.h, with gcc and clang. The core (design: wire to
stack, and the ring) uses no Linux-only call, so that it can go to other systems: pure C11 and SIMD headers.
"""

import re
import shutil
import subprocess

import pytest

from tests.support import INCLUDE, ROOT

CORE = {"wire", "ip", "udp", "tcp", "demux", "stack", "trace", "testing"}
CORE_HEADERS = ["netstack/include/netstack/byte_order.h", "netstack/include/netstack/inet_checksum.h",
                "rings/include/rings/cache_line.h", "rings/include/rings/spsc_ring.h"]
PORTABLE = {"assert.h", "errno.h", "immintrin.h", "arm_neon.h", "stdalign.h", "stdatomic.h", "stdbool.h",
            "stddef.h", "stdint.h", "stdlib.h", "string.h"}
HEADERS = sorted(str(p.relative_to(ROOT)) for package in ("netstack", "rings")
                 for p in (ROOT / package / "include").rglob("*.h"))
CORE_MODULES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "netstack").rglob("*.p[yx][xd]")
                      if p.relative_to(ROOT / "netstack").with_suffix("").parts[0] in CORE)


def compiled(compiler, header, *flags):
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    return subprocess.run(
        [compiler, *flags, "-Wall", "-Wextra", "-Werror", *INCLUDE, "-x", "c", "-", "-c", "-o", "/dev/null"],
        input=f'#include "{header.split("/include/")[1]}"\nint main(void) {{ return 0; }}\n',
        capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("header", HEADERS)
def test_header_compiles_alone(header, compiler):
    assert "Python.h" not in re.findall(r'#\s*include\s+[<"]([^>"]+)', (ROOT / header).read_text())
    for level in ("-O0", "-O3"):
        done = compiled(compiler, header, "-std=gnu11", level)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("header", CORE_HEADERS)
def test_core_header_compiles_as_strict_c11_without_linux(header):
    included = set(re.findall(r"#\s*include\s+<([^>]+)>", (ROOT / header).read_text()))
    assert included <= PORTABLE
    done = compiled("gcc", header, "-std=c11", "-Wpedantic", "-O2",
                    "-U__linux__", "-U__linux", "-U__gnu_linux__")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", CORE_MODULES)
def test_core_module_uses_only_portable_headers(path):
    text = (ROOT / path).read_text()
    headers = set(re.findall(r"cdef\s+extern\s+from\s+[\"']<?([^\"'>]+)>?[\"']", text))
    ours = {h for h in headers if h.startswith(("netstack/", "rings/"))}
    assert headers - ours <= PORTABLE
    assert {f"{h.split('/')[0]}/include/{h}" for h in ours} <= set(CORE_HEADERS)
    system = r"^\s*(?:from|c?import)\s+(?:posix|socket|select|fcntl|os|time)\b.*"
    assert not re.findall(system, text, flags=re.M)
