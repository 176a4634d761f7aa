"""What a script of another operating system may be spared (see README.md); nothing else is ever changed in a script."""

import re

OUTBOUND = re.compile(r"^\s*(?:[+0-9.~*%]\S*\s+|\*\s+)?>\s")
SYN = re.compile(r"(>\s+(?:\([^)]*\)\s+)?S[A-Z.]*\s[^<]*)<[^>]*>")
WINDOW = re.compile(r"\s+win\s+\d+")
# FreeBSD's names of states, where Linux spells another.
STATES = {"CLOSED": "CLOSE", "SYN_RECEIVED": "SYN_RECV", "FIN_WAIT_1": "FIN_WAIT1", "FIN_WAIT_2": "FIN_WAIT2"}
BUFFER_CHECK = re.compile(r"getsockopt\(.*SO_(?:RCV|SND)BUF\b")


def relaxes(repository):
    """Whether scripts of this repository may be relaxed at all: FreeBSD's and nplab's."""
    return repository.startswith(("freebsd-net/", "nplab/"))


def relax(text):
    """The script with the allowed changes: windows and SYN options of ours, buffer sizes, names of tcp_info."""
    lines = text.splitlines(keepends=True)
    timestamps_later = [False] * (len(lines) + 1)
    for i in range(len(lines) - 1, -1, -1):
        shown = OUTBOUND.match(lines[i]) and "TS val" in lines[i] and not SYN.search(lines[i])
        timestamps_later[i] = timestamps_later[i + 1] or bool(shown)
    out = []
    for i, line in enumerate(lines):
        if BUFFER_CHECK.search(line):
            continue
        if OUTBOUND.match(line):
            line = WINDOW.sub("", line, count=1)
            if not timestamps_later[i + 1]:
                line = SYN.sub(r"\1<...>", line)
        out.append(re.sub(r"\bTCPI_(\w+)", lambda m: "TCP_" + STATES.get(m[1], m[1]), line))
    return "".join(out)
