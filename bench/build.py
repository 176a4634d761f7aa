"""Compiles what the measurements need, into ``build/bench``: C and C++ programs of ``bench/c``, the Cython programs of
``bench/_programs``. A program is compiled again when its sources, a header, a ``.pxd`` or the flags changed."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
INCLUDE = [f"-I{ROOT / 'netstack/include'}", f"-I{ROOT / 'rings/include'}"]
CFLAGS = ["-O3", "-march=native", "-g1", "-Wall", "-Wextra"]


class BuildError(Exception):
    """A program could not be compiled; says with what and why."""


def run(command, timeout=300):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, cwd=ROOT)
    if done.returncode:
        raise BuildError(f"{' '.join(str(c) for c in command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def digest(paths, *more):
    h = hashlib.sha256(repr(more).encode())
    for path in sorted(paths):
        h.update(path.read_bytes())
    return h.hexdigest()[:16]


def compilers():
    cc = os.environ.get("CC", "cc").split()[0]
    return cc, shutil.which("g++") or shutil.which("c++") or cc


def headers():
    return [*ROOT.glob("netstack/include/**/*.h"), *ROOT.glob("rings/include/**/*.h"), *ROOT.glob("bench/c/*.h")]


@functools.cache
def c_program(name, *sources, flags=(), libraries=()):
    """Compile ``bench/c`` sources into one program; its path. ``.cpp`` files are compiled as C++20."""
    cc, cxx = compilers()
    paths = [ROOT / "bench/c" / s for s in sources]
    key = digest([*paths, *headers()], cc, CFLAGS, flags, libraries)
    out = OUT / f"{name}-{key}"
    if out.exists():
        return out
    OUT.mkdir(parents=True, exist_ok=True)
    objects = []
    for path in paths:
        obj = OUT / f"{name}-{key}-{path.stem}.{os.getpid()}.o"
        plus = path.suffix == ".cpp"
        run([cxx if plus else cc, "-std=gnu++20" if plus else "-std=gnu11", *CFLAGS, *INCLUDE, *flags,
             "-c", path, "-o", obj])
        objects.append(obj)
    temporary = out.with_suffix(f".{os.getpid()}")
    run([cxx if any(p.suffix == ".cpp" for p in paths) else cc, *objects, "-o", temporary, *libraries,
         "-pthread", "-lm"])
    temporary.rename(out)
    for obj in objects:
        obj.unlink()
    return out


def compiles(source, *flags):
    """Whether a C++ translation unit of one line compiles: is a peer's header there?"""
    done = subprocess.run([compilers()[1], "-std=gnu++20", "-march=native", *flags, "-x", "c++", "-fsyntax-only", "-"],
                          input=source, capture_output=True, text=True, timeout=60)
    return done.returncode == 0


@functools.cache
def cython_program(name, flags=()):
    """Compile ``bench/_programs/NAME.pyx`` against the declarations of this tree and import it."""
    source = ROOT / "bench/_programs" / f"{name}.pyx"
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    pxds = [*ROOT.glob("netstack/**/*.pxd"), *ROOT.glob("rings/**/*.pxd")]
    key = digest([source, *pxds, *headers()], CFLAGS, flags, suffix)
    module = f"netstack_bench_{name}"
    where = OUT / f"{name}-{key}"
    out = where / f"{module}{suffix}"
    if not out.exists():
        where.mkdir(parents=True, exist_ok=True)
        c_file = where / f"{module}.{os.getpid()}.c"
        run([sys.executable, "-m", "cython", "-3", "-I", ROOT, "--module-name", module,
             *(f"-X{d}=False" for d in ("boundscheck", "wraparound", "initializedcheck")), "-Xcdivision=True",
             source, "-o", c_file])
        temporary = out.with_suffix(f".{os.getpid()}")
        run([compilers()[0], "-shared", "-fPIC", *CFLAGS, *flags, "-Wno-unused-function", "-fno-strict-aliasing",
             *INCLUDE, f"-I{sysconfig.get_path('include')}", c_file, "-o", temporary])
        temporary.rename(out)
        c_file.unlink()
    spec = importlib.util.spec_from_file_location(module, out)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    return loaded
