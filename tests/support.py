"""What the tests share: counts that scale, compiled C programs, network namespaces."""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = ["-I", str(ROOT / "netstack/include"), "-I", str(ROOT / "rings/include")]

SANITIZED = any(name in os.environ.get("LD_PRELOAD", "") for name in ("libasan", "libtsan"))  # ci/sanitize


def scale(count: int, minimum: int = 1) -> int:
    """`count` times NETSTACK_TEST_SCALE (0.1 unless set; ``ci/test --full`` sets 1)."""
    return max(minimum, int(count * float(os.environ.get("NETSTACK_TEST_SCALE", "0.1"))))


def compile_c(source: str | os.PathLike, out_dir: str | os.PathLike, *flags: str, name: str | None = None,
              compiler: str | None = None) -> str:
    """Compile a C program on the headers of both packages; a warning is an error. Returns its path."""
    source = ROOT / source
    out = pathlib.Path(out_dir) / (name or source.stem)
    compiler = compiler or os.environ.get("CC", "cc").split()[0]
    command = [compiler, "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", *INCLUDE, *flags,
               str(source), "-o", str(out), "-pthread", "-lm"]
    plain = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}   # a sanitizer is not for the compiler
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=plain)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return str(out)


def unsanitized(argv, options: dict) -> dict:
    """Options of `subprocess.Popen`: no sanitizer is preloaded into programs of others, which leak at their end."""
    if not SANITIZED or sys.executable in map(str, argv):
        return options
    environment = options.get("env") or os.environ
    return {**options, "env": {name: value for name, value in environment.items() if name != "LD_PRELOAD"}}


def run(argv, timeout: float = 120, check: bool = True, **options) -> subprocess.CompletedProcess:
    """A program's output as text; with `check` its failure shows what it wrote."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=timeout,
                          **unsanitized(argv, options))
    if check:
        assert done.returncode == 0, f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def descriptors() -> dict[int, str]:
    """What this process has open, and what each is, when what earlier tests let go has been collected: that it goes
    amid a test must not count."""
    gc.collect()
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):                   # the listing's own
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}").split(":")[0]
    return found


# ---- network namespaces ------------------------------------------------------

CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


class NetNamespace:
    """A network namespace of its own with ``lo`` up; made by the fixture ``netns``."""

    def __init__(self, name: str):
        self.name = name
        self.prefix = ["ip", "netns", "exec", name]

    def run(self, *argv, **options) -> subprocess.CompletedProcess:
        """Run a program inside; see `run`."""
        return run([*self.prefix, *argv], **options)

    def popen(self, *argv, **options) -> subprocess.Popen:
        return subprocess.Popen([*self.prefix, *(str(a) for a in argv)], **unsanitized(argv, options))

    @contextmanager
    def enter(self):
        """The calling thread is inside: sockets and TAPs it opens belong to the namespace."""
        libc = ctypes.CDLL(None, use_errno=True)

        def switch(fd):
            if libc.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(f"/var/run/netns/{self.name}", os.O_RDONLY)
        try:
            switch(inside)
            try:
                yield self
            finally:
                switch(before)
        finally:
            os.close(inside)
            os.close(before)


def record_header(index: int, length: int, kind: int = 1, body_at: int = 8, head_length: int = 0) -> int:
    """The first word of a ring's record at `index`, check included, as ``rings/spsc_ring.h`` lays it out."""
    fields = length | body_at // 4 << 32 | kind << 40 | head_length << 42
    check = fields * 0x91B7584A2265B1F5 + index * 0xCD613E30D8F16ADF + 0x5BD1E995A7C6F04B
    return fields | check & 0xFFF << 52


@contextmanager
def network_namespace():
    name = f"netstack-{os.getpid()}-{next(_numbers)}"
    run(["ip", "netns", "add", name])
    try:
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        yield NetNamespace(name)
    finally:
        run(["ip", "netns", "del", name], check=False)


@functools.cache
def root_missing() -> str | None:
    """Why tests marked ``root`` cannot run here, or None."""
    if os.geteuid() != 0:
        return "needs root (network namespace, TAP)"
    if not shutil.which("ip"):
        return "needs ip (iproute2)"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    try:
        with network_namespace() as ns:
            ns.run("ip", "tuntap", "add", "dev", "probe0", "mode", "tap")
    except AssertionError as error:
        return f"cannot make a network namespace with a TAP: {str(error).strip().splitlines()[-1]}"
    return None


# For tshark: malformed up to the transport's header, or in what is known to be spoken there. Any other payload is
# random bytes on random ports, some of which belong to protocols that tshark knows and does not find in them.
STRANGE_PAYLOAD = r'frame.protocols matches "(tcp|udp|udplite):(?!dns|dhcp)"'
MALFORMED = f"(_ws.malformed && !({STRANGE_PAYLOAD}))"
