"""What a source distribution and a wheel carry, and that both work away from this tree."""

import json
import os
import shutil
import sys
import sysconfig
import tarfile
import zipfile

import pytest

from tests.support import ROOT, SANITIZED, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1600),
              pytest.mark.serial,                     # compiles everything, twice the cores' work
              pytest.mark.skipif(SANITIZED, reason="the compiler does not run under a sanitizer")]

ENV = dict(os.environ)
if not shutil.which("ccache"):                        # which remembers what the build of this tree compiled
    ENV["NETSTACK_CFLAGS"] = "-O1 -g0"                # what it is like, not how fast


def sources(*ends: str) -> set[str]:
    return {str(p.relative_to(ROOT)) for package in ("netstack", "rings") for p in (ROOT / package).rglob("*")
            if p.name.endswith(ends)}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The unpacked source distribution of a copy of this tree, with Cython's output of the last build."""
    copy = tmp_path_factory.mktemp("tree") / "copy"
    ignored = shutil.ignore_patterns(".*", "*.so", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    if (ROOT / "build/cython").is_dir():                 # what has been translated need not be once more
        shutil.copytree(ROOT / "build/cython", copy / "build/cython")
    out = tmp_path_factory.mktemp("sdist")
    build = "import setuptools.build_meta as b, sys; b.build_sdist(sys.argv[1])"
    run([sys.executable, "-c", build, out], cwd=copy)
    [archive] = out.glob("netstack-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(out)
    [tree] = [p for p in out.iterdir() if p.is_dir()]
    return tree


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """A wheel built from the source distribution."""
    out = tmp_path_factory.mktemp("wheel")
    if (ROOT / "build/cython").is_dir():
        shutil.copytree(ROOT / "build/cython", sdist / "build/cython")
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, "."],
        cwd=sdist, env=ENV, timeout=1500)
    [path] = out.glob("netstack-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A directory with the wheel's content, first on the path of a program run elsewhere."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_sdist_has_what_a_build_and_the_tests_need(sdist):
    have = {str(p.relative_to(sdist)) for p in sdist.rglob("*")}
    assert sources(".py", ".pyx", ".pxd", ".pyi", ".h", "py.typed") <= have
    assert {"setup.py", "pyproject.toml", "LICENSE", "conftest.py", "ci/test", "tests/support.py"} <= have
    assert not any(name.endswith((".so", ".o", ".pyc")) for name in have)


def test_wheel_has_modules_headers_declarations_stubs_and_the_marker(wheel):
    with zipfile.ZipFile(wheel) as archive:
        have = set(archive.namelist())
        metadata = archive.read(next(n for n in have if n.endswith(".dist-info/METADATA"))).decode()
    private = {"netstack/preload/preload.h"}              # of C files that are compiled here and not carried
    assert sources(".py", ".pxd", ".pyi", ".h", "py.typed") - private <= have
    assert "netstack/preload/netstack_preload.so" in have
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {name.removesuffix(".pyx") + suffix for name in sources(".pyx")} <= have
    assert {name.split("/")[0] for name in have if ".dist-info/" not in name} == {"netstack", "rings"}
    assert "License-Expression: Apache-2.0" in metadata
    assert any(name.endswith("/licenses/LICENSE") for name in have)


def test_other_projects_compile_against_the_wheel(installed, tmp_path):
    """cimport of our declarations, and the headers through get_include()."""
    (tmp_path / "user.pyx").write_text(
        "# cython: language_level=3\n"
        "from netstack.wire.checksum cimport checksum_finish, checksum_partial\n"
        "def field(bytes data):\n"
        "    return checksum_finish(checksum_partial(<const char *> data, len(data)))\n")
    (tmp_path / "build.py").write_text(
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import netstack, rings\n"
        "from setuptools import Extension, setup\n"
        "from Cython.Build import cythonize\n"
        "setup(name='user', ext_modules=cythonize([Extension('user', ['user.pyx'],\n"
        "      include_dirs=[netstack.get_include(), rings.get_include()])], include_path=sys.path))\n")
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    build = [sys.executable, "build.py", installed, "-q", "build_ext", "--inplace"]
    run(build, cwd=tmp_path, env=environment)
    program = "import user, netstack; print(netstack.__file__); print(user.field(b'\\x12\\x34'))"
    place, field = run([sys.executable, "-c", program], cwd=tmp_path, env=environment).stdout.split()
    assert place.startswith(str(installed))
    assert int(field).to_bytes(2, sys.byteorder) == b"\xed\xcb"


def test_the_installed_demo_runs_inside_a_source_tree(installed, tmp_path):
    """As the README has it: installed, then started in the tree it came from, which must not get in the way."""
    script = tmp_path / "netstack-demo"
    script.write_text("from netstack.cli.main import main\n\nmain(prog_name='netstack')\n")
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "netstack", tree / "netstack",
                    ignore=shutil.ignore_patterns("*.so", "*.pyx", "*.pxd", "__pycache__"))
    done = run([sys.executable, script, "demo", "--json", "--size", "1"], cwd=tree, timeout=280,
               env={**ENV, "PYTHONPATH": str(installed)})
    assert json.loads(done.stdout)["ok"]
