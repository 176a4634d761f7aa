"""``python -m bench.instructions [--json FILE]``: instructions per operation under callgrind, the same on every run.

Each program runs its operation n and 2n times; the difference, divided by n, leaves out everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from bench import build, tables


def instructions(command):
    """Instructions of a whole run. valgrind has no AVX-512, so programs choose AVX2."""
    with tempfile.NamedTemporaryFile() as out:
        env = {**os.environ, "NETSTACK_CPU": "avx2", "PYTHONHASHSEED": "0",
               "PYTHONPATH": os.pathsep.join([str(build.ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", *map(str, command)],
                              capture_output=True, text=True, timeout=600, env=env)
        if done.returncode:
            raise RuntimeError(f"{command[0]}: exit {done.returncode}: {done.stderr[-500:]}")
        return int(re.search(r"Collected : (\d+)", done.stderr)[1])


def per_operation(command_of, n):
    """(instructions of 2n operations - of n) / n."""
    return (instructions(command_of(2 * n)) - instructions(command_of(n))) / n


CFLAGS = ("-march=x86-64-v3",) if os.uname().machine == "x86_64" else ()


def checksum(size):
    exe = build.c_program("checksum_bench_v3", "checksum_bench.c", flags=CFLAGS)
    return per_operation(lambda n: [exe, "--once", "copy", size, n], 20000)


def ring(size):
    exe = build.c_program("ring_count", "ring_count.c", flags=CFLAGS)
    return per_operation(lambda n: [exe, size, n], 20000)


def segment(lend):
    """One data segment at MTU 1500 through two stacks, acknowledgements included."""
    build.cython_program("stacks", flags=CFLAGS)
    code = (f"import sys; from bench import build; build.cython_program('stacks', flags={CFLAGS}).count_segments("
            f"int(sys.argv[1]), {lend})")
    return per_operation(lambda n: [sys.executable, "-c", code, n], 16384)


def lookup():
    """One address among 100,000 prefixes of the Internet's shape."""
    tables.wanted("inside", 100_000)                     # the files, made once, outside of what is counted
    code = "import sys; from bench import tables; tables.count_lookups(int(sys.argv[1]))"
    return per_operation(lambda n: [sys.executable, "-c", code, n], 1 << 17)


def forwarding(with_limit=False, tcp=None):
    """One packet of 64 B from ring to ring by way of the router, both stacks' work included."""
    code = f"import sys; from bench import forwarding; forwarding.count(int(sys.argv[1]), {with_limit}, {tcp!r})"
    return per_operation(lambda n: [sys.executable, "-c", code, n], 1 << 14)


ROWS = {
    "checksum-and-copy, 64 B": lambda: checksum(64),
    "checksum-and-copy, 1460 B": lambda: checksum(1460),
    "checksum-and-copy, 8960 B": lambda: checksum(8960),
    "ring, a 64 B record in and out": lambda: ring(64),
    "ring, a 1500 B record in and out": lambda: ring(1500),
    "forwarding table, one lookup among 100,000 prefixes": lookup,
    "router, a packet of 64 B forwarded": lambda: forwarding(False),
    "router, a packet of 64 B forwarded, its sender limited": lambda: forwarding(True),
    "router, a TCP segment of 64 B forwarded, nobody watched": lambda: forwarding(tcp="off"),
    "router, a TCP segment of 64 B forwarded, its connection watched": lambda: forwarding(tcp="count"),
    "one TCP segment of 1448 B, both ends, through the receive buffer": lambda: segment(False),
    "one TCP segment of 1448 B, both ends, into a waiting buffer": lambda: segment(True),
}


def main(argv=None):
    """Count and print; exit status 0, also without valgrind."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="only rows whose name contains this")
    parser.add_argument("--json", metavar="FILE", help="write the counts there")
    arguments = parser.parse_args(argv)
    if not shutil.which("valgrind"):
        print("valgrind is not installed: nothing counted")
        return 0
    out = {}
    for name, count in ROWS.items():
        if not arguments.rows or any(text.lower() in name.lower() for text in arguments.rows):
            out[name] = round(count(), 1)
            print(f"{out[name]:12,.1f}  {name}", flush=True)
    if arguments.json:
        with open(arguments.json, "w") as f:
            json.dump(out, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
