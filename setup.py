"""Build of the compiled modules: one extension for every ``.pyx``.

Everything else stands in ``pyproject.toml``. Environment:

``NETSTACK_SANITIZE=address|thread``
    build with ASan+UBSan, or with TSan (see CONTRIBUTING.md for how to run such a build);
``NETSTACK_DEBUG=1``
    build with the debug checks (``check_invariants``);
``NETSTACK_COVERAGE=1``
    build with gcov counters and Cython line tracing off the packet path;
``NETSTACK_CFLAGS``
    more compiler flags, appended.
"""

import os
import pathlib
import shlex

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = pathlib.Path(__file__).resolve().parent
os.chdir(ROOT)

JOBS = int(os.environ.get("NETSTACK_BUILD_JOBS", os.cpu_count() or 1))

CFLAGS = [
    "-std=gnu11", "-O3", "-g1", "-fno-strict-aliasing", "-fno-plt",
    "-Wall", "-Wextra",
    "-fstack-protector-strong", "-fvisibility=hidden",
]
LDFLAGS = ["-Wl,-z,relro", "-Wl,-z,now"]
MACROS = [("CYTHON_USE_TYPE_SPECS", "0")]

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

HEADERS = [str(p) for d in ("netstack/include", "rings/include") for p in pathlib.Path(d).rglob("*.h")]


def extensions():
    """One Extension for each .pyx below the two packages, named after its path."""
    for package in ("netstack", "rings"):
        for pyx in sorted(pathlib.Path(package).rglob("*.pyx")):
            yield Extension(
                ".".join(pyx.with_suffix("").parts),
                [str(pyx)],
                include_dirs=["netstack/include", "rings/include"],
                define_macros=MACROS,
                extra_compile_args=CFLAGS,
                extra_link_args=LDFLAGS,
                depends=HEADERS,
            )


setup(
    ext_modules=cythonize(
        list(extensions()),
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
    ),
    options={"build_ext": {"parallel": JOBS}},
)
