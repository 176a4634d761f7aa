"""Build of the compiled modules: one extension for every ``.pyx``, and the library for LD_PRELOAD.

Everything else stands in ``pyproject.toml``. Environment:

``NETSTACK_SANITIZE=address|thread``
    build with ASan+UBSan, or with TSan (``ci/sanitize`` does it and runs tests on it);
``NETSTACK_DEBUG=1``
    build with the debug checks (``check_invariants``);
``NETSTACK_COVERAGE=1``
    build with gcov counters;
``NETSTACK_CFLAGS``
    more compiler flags, appended;
``NETSTACK_BUILD_JOBS``
    how many files are translated and compiled at a time (the number of cores).

ccache is used where it is installed and ``CC`` says nothing else.
A changed flag builds everything anew: the flags are part of what a module depends on.
"""

import functools
import os
import pathlib
import re
import shlex
import shutil
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent
os.chdir(ROOT)

JOBS = int(os.environ.get("NETSTACK_BUILD_JOBS") or os.cpu_count() or 1)

CFLAGS = [
    "-std=gnu11", "-O3", "-g1", "-fno-strict-aliasing", "-fno-plt",
    "-Wall", "-Wextra",
    # Cython writes converters of enums and structs into every module that could need them.
    "-Wno-unused-function",
    "-fstack-protector-strong", "-fvisibility=hidden",
]
LDFLAGS = ["-Wl,-z,relro", "-Wl,-z,now"]
MACROS = []

sanitize = os.environ.get("NETSTACK_SANITIZE", "")
if sanitize == "address":
    flags = "-fsanitize=address,undefined"
    CFLAGS += ["-O1", "-fno-omit-frame-pointer", flags, "-fno-sanitize-recover=undefined"]
    LDFLAGS += [flags]
elif sanitize == "thread":
    CFLAGS += ["-O1", "-fno-omit-frame-pointer", "-fsanitize=thread", "-Wno-tsan"]
    LDFLAGS += ["-fsanitize=thread"]
elif sanitize:
    raise SystemExit(f"NETSTACK_SANITIZE={sanitize!r}: say address or thread")
else:
    CFLAGS += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
if os.environ.get("NETSTACK_COVERAGE") == "1":
    CFLAGS += ["-O1", "--coverage"]
    LDFLAGS += ["--coverage"]
if os.environ.get("NETSTACK_DEBUG") == "1":
    MACROS.append(("NETSTACK_DEBUG", "1"))
CFLAGS += shlex.split(os.environ.get("NETSTACK_CFLAGS", ""))

if "CC" not in os.environ and shutil.which("ccache"):
    os.environ["CC"] = f"ccache {sysconfig.get_config_var('CC') or 'cc'}"
    os.environ.setdefault("CCACHE_NOHASHDIR", "1")   # what one checkout compiled serves the others

INCLUDES = ["netstack/include", "rings/include"]
FLAGS_FILE = pathlib.Path("build/cython/flags")
PRELOAD = "netstack.preload.netstack_preload"


def sources_of(text):
    """Headers and .pxd files of ours that a source names."""
    for name in re.findall(r'["<]((?:netstack|rings)/[\w/]+\.h)[">]', text):
        yield from (path for folder in INCLUDES if (path := pathlib.Path(folder, name)).exists())
    for module, names in re.findall(r"^\s*from ((?:netstack|rings)[\w.]*) cimport (\([^)]*|[^(\n]*)", text, re.M):
        folder = pathlib.Path(*module.split("."))
        candidates = [folder, *(folder / name.split()[0] for name in names.strip("(").split(",") if name.strip())]
        yield from (path for each in candidates if (path := each.with_suffix(".pxd")).exists())


@functools.cache
def named_by(path):
    return sorted(set(sources_of(path.read_text())))


def headers_of(pyx):
    """The headers that an extension is compiled from, by way of what it cimports and what they include."""
    seen, todo = set(), [pyx, *(p for p in [pyx.with_suffix(".pxd")] if p.exists())]
    while todo:
        for path in named_by(todo.pop()):
            if path not in seen:
                seen.add(path)
                todo.append(path)
    return sorted(str(path) for path in seen if path.suffix == ".h")


def extensions():
    """One Extension for each .pyx below the two packages, named after its path."""
    for package in ("netstack", "rings"):
        for pyx in sorted(pathlib.Path(package).rglob("*.pyx")):
            yield Extension(
                ".".join(pyx.with_suffix("").parts),
                [str(pyx)],
                include_dirs=INCLUDES,
                define_macros=MACROS,
                extra_compile_args=CFLAGS,
                extra_link_args=LDFLAGS,
                depends=[*headers_of(pyx), str(FLAGS_FILE)],
            )


def preload_library():
    """The library for LD_PRELOAD: plain C. A sanitizer's runtime would have to come before it in any program."""
    flags = [flag for flag in CFLAGS if "sanitize" not in flag and "FORTIFY" not in flag]
    return Extension(
        PRELOAD,
        sorted(map(str, pathlib.Path("netstack/preload").glob("*.c"))),
        include_dirs=["netstack/include"],
        extra_compile_args=[*flags, "-U_FORTIFY_SOURCE"],
        extra_link_args=[*(flag for flag in LDFLAGS if "sanitize" not in flag), "-ldl", "-pthread"],
        depends=[*(str(p) for d in ("netstack/include", "netstack/preload") for p in pathlib.Path(d).rglob("*.h")),
                 str(FLAGS_FILE)],
    )


class BuildExtensions(build_ext):
    """Translate all modules with Cython, then compile them, several at a time."""

    def get_ext_filename(self, fullname):
        if fullname.rpartition(".")[2] == PRELOAD.rpartition(".")[2]:
            return fullname.replace(".", "/") + ".so"    # no module: without the interpreter's suffix
        return super().get_ext_filename(fullname)

    def finalize_options(self):
        from Cython.Build import cythonize  # here: metadata alone needs no Cython

        FLAGS_FILE.parent.mkdir(parents=True, exist_ok=True)
        said = repr((CFLAGS, LDFLAGS, MACROS))
        if not FLAGS_FILE.exists() or FLAGS_FILE.read_text() != said:
            FLAGS_FILE.write_text(said)
        self.distribution.ext_modules = cythonize(
            self.distribution.ext_modules,
            build_dir="build/cython",
            nthreads=JOBS if JOBS > 1 else 0,
            compiler_directives={
                "language_level": 3,
                "boundscheck": False,
                "wraparound": False,
                "cdivision": True,
                "initializedcheck": False,
                "embedsignature": True,
            },
        )
        super().finalize_options()
        self.parallel = self.parallel or JOBS


setup(ext_modules=[*extensions(), preload_library()], cmdclass={"build_ext": BuildExtensions})
