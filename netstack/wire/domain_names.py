"""Domain names as advertisements and DHCPv6 carry them: labels one after the other, without compression.

>>> read_names(b"\\x03lan\\x07example\\0\\x01x\\0")
['lan.example', 'x']
>>> write_name("lan.example")
b'\\x03lan\\x07example\\x00'
"""

from __future__ import annotations

_LABEL = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def read_names(wire: bytes) -> list[str]:
    """The names that a host could have or search, without their last dots (RFC 1035 section 3.1, RFC 8415 section 10).

    Raises
    ------
    ValueError
        A label or a name that is too long, or that has no end.
    """
    names = []
    at = 0
    while at < len(wire):
        labels = []
        start = at
        while at < len(wire) and wire[at]:
            if wire[at] > 63 or at + 1 + wire[at] > len(wire):
                raise ValueError("a label that reaches beyond its name")
            labels.append(wire[at + 1:at + 1 + wire[at]])
            at += 1 + wire[at]
        if at == len(wire) or at + 1 - start > 255:
            raise ValueError("a name without an end")
        at += 1
        if labels and all(_LABEL.issuperset(label) for label in labels):
            names.append(b".".join(labels).decode("ascii"))
    return names


def write_name(name: str) -> bytes:
    """A name of ASCII labels.

    Raises
    ------
    ValueError
        It has a label that is empty or too long.
    """
    out = b""
    for label in name.rstrip(".").split("."):
        raw = label.encode("ascii")
        if not 0 < len(raw) < 64:
            raise ValueError(f"{name!r}: a label has 1 to 63 bytes")
        out += bytes([len(raw)]) + raw
    return out + b"\0"
