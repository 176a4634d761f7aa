"""Line coverage of the input paths, from the gcov counters of a build with NETSTACK_COVERAGE=1 (see ci/coverage)."""

import json
import pathlib
import re
import subprocess
import sys
from collections import defaultdict

# What a received packet walks through, from the frame to the socket's buffer.
INPUT_PATHS = [
    "wire/arp", "wire/ethernet", "wire/icmp", "wire/ipv4", "wire/tcp", "wire/udp",
    "ip/arp", "ip/icmp", "ip/interface", "ip/neighbor",
    "udp/endpoint",
    "tcp/accounting", "tcp/ack", "tcp/buffers", "tcp/connection", "tcp/input", "tcp/isn", "tcp/mtu", "tcp/rack",
    "tcp/ranges", "tcp/recovery", "tcp/rtt", "tcp/scoreboard", "tcp/tcb", "tcp/timers",
]
GATE, GATE_TCP = 75.0, 85.0      # percent of the lines of all, and of those of tcp/, together


MARK = re.compile(r'\s*/\* "([^"]+\.p[xy][xd])":(\d+)$')    # what Cython writes above the code of a line


def marks(source):
    """Which line of which source each line of the C code belongs to: {C line: (path, line)} where it changes."""
    text = pathlib.Path(source).read_text(errors="replace").splitlines()
    return {number: (m[1], int(m[2])) for number, line in enumerate(text, 1) if (m := MARK.match(line))}


def counts(build):
    """How often each line of the C-level functions ran: {source: {line: count}}.

    Only functions of the packet path count, not what Cython adds: wrappers for Python, the start of a module.
    """
    out = defaultdict(lambda: defaultdict(int))
    for notes in sorted(pathlib.Path(build).rglob("*.gcno")):
        if not notes.with_suffix(".gcda").exists():
            continue
        done = subprocess.run(["gcov", "--json-format", "--stdout", str(notes)], capture_output=True, timeout=300)
        for file in (file for line in done.stdout.splitlines() for file in json.loads(line)["files"]):
            if not file["file"].endswith(".c") or not pathlib.Path(file["file"]).exists():
                continue
            where = marks(file["file"])
            ran = {}
            for entry in file["lines"]:
                if entry.get("function_name", "").startswith("__pyx_f_"):
                    ran[entry["line_number"]] = max(ran.get(entry["line_number"], 0), entry["count"])
            starts = {f["start_line"] for f in file["functions"]}
            place = None
            for number in range(1, max(ran, default=0) + 1):
                if number in starts:
                    place = None                     # declarations before the first line of the function
                place = where.get(number, place)
                if number in ran and place:
                    path, line = place
                    out[path][line] = max(out[path][line], ran[number])
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
    total, reached = defaultdict(int), defaultdict(int)
    for module in INPUT_PATHS:
        lines = {}
        for suffix in (".pyx", ".pxd"):
            for line, count in found.get(f"netstack/{module}{suffix}", {}).items():
                lines[suffix, line] = count
        hit = sum(count > 0 for count in lines.values())
        for group in ("input paths", module.partition("/")[0]):
            total[group] += len(lines)
            reached[group] += hit
        print(f"{module:16} {hit:5} of {len(lines):5} lines  {100 * hit / max(len(lines), 1):5.1f} %")
        if "--missed" in sys.argv:
            for suffix in (".pyx", ".pxd"):
                missed = sorted(line for (s, line), count in lines.items() if s == suffix and not count)
                if missed:
                    print(f"    {suffix}: {ranges(missed)}")
    good = True
    for group, gate in (("tcp", GATE_TCP), ("input paths", GATE)):
        percent = 100 * reached[group] / max(total[group], 1)
        good &= bool(total[group]) and percent >= gate
        print(f"{group:16} {reached[group]:5} of {total[group]:5} lines  {percent:5.1f} %   (at least {gate:.0f} %)")
    return 0 if good else 1


sys.exit(main())
