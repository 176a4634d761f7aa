"""Line coverage of the input paths, from the gcov counters of a build with NETSTACK_COVERAGE=1 (see ci/coverage)."""

import json
import pathlib
import subprocess
import sys
from collections import defaultdict

# What a received packet walks through, from the frame to the socket's buffer.
INPUT_PATHS = [
    "wire/arp", "wire/checksum", "wire/ethernet", "wire/icmp", "wire/ipv4", "wire/tcp", "wire/udp",
    "ip/arp", "ip/icmp", "ip/interface", "ip/neighbor",
    "udp/endpoint",
    "tcp/buffers", "tcp/connection", "tcp/input", "tcp/isn", "tcp/ranges", "tcp/recovery", "tcp/rtt", "tcp/tcb",
    "tcp/timers",
]
GATE = 75.0                      # percent of their lines together


def counts(build):
    """How often each line ran: {source: {line: count}}. A line stands in several functions of the C code."""
    out = defaultdict(lambda: defaultdict(int))
    for notes in sorted(pathlib.Path(build).rglob("*.gcno")):
        if not notes.with_suffix(".gcda").exists():
            continue
        done = subprocess.run(["gcov", "--json-format", "--stdout", str(notes)], capture_output=True, timeout=300)
        for line in done.stdout.splitlines():
            for file in json.loads(line)["files"]:
                if file["file"].endswith((".pyx", ".pxd")):
                    for entry in file["lines"]:
                        out[file["file"]][entry["line_number"]] += entry["count"]
    return out


def ranges(lines):
    """[1, 2, 3, 7] as "1-3 7"."""
    out = []
    for line in lines:
        if out and out[-1][1] == line - 1:
            out[-1][1] = line
        else:
            out.append([line, line])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def main():
    found = counts("build")
    total = reached = 0
    for module in INPUT_PATHS:
        lines = {}
        for suffix in (".pyx", ".pxd"):
            for line, count in found.get(f"netstack/{module}{suffix}", {}).items():
                lines[suffix, line] = count
        hit = sum(count > 0 for count in lines.values())
        total += len(lines)
        reached += hit
        print(f"{module:16} {hit:5} of {len(lines):5} lines  {100 * hit / max(len(lines), 1):5.1f} %")
        if "--missed" in sys.argv:
            for suffix in (".pyx", ".pxd"):
                missed = sorted(line for (s, line), count in lines.items() if s == suffix and not count)
                if missed:
                    print(f"    {suffix}: {ranges(missed)}")
    percent = 100 * reached / max(total, 1)
    print(f"{'input paths':16} {reached:5} of {total:5} lines  {percent:5.1f} %   (at least {GATE:.0f} %)")
    return 0 if total and percent >= GATE else 1


sys.exit(main())
