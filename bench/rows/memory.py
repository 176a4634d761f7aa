"""Memory of silent connections and silent stacks."""

from __future__ import annotations

import functools

from bench.measure import Contestant, Row, Settings, ours, python_program

CONNECTION = "memory per idle connection"
STACK = "memory per idle stack, with its rings (USS)"


@functools.cache                               # a count, not a time: the same in every round
def connection(settings: Settings):
    return ours("idle_connections", n=20000 if settings.quick else 100000)["bytes"]


@functools.cache                               # a count, not a time: the same in every round
def connection_with_handles(settings: Settings):
    return ours("idle_connections", n=20000 if settings.quick else 100000, handles=True)["bytes"]


@functools.cache                               # a count, not a time: the same in every round
def stack(settings: Settings):
    bare = python_program("bench.idle_stack", "bare")
    return (python_program("bench.idle_stack", "with_host") - bare) / 1024


def rows():
    return [
        Row(CONNECTION, "B", Contestant("stack", connection), (), "<= 1 KiB", "<= 512 B", 1024, 512,
            by_value=True, less_is_better=True,
            note="RSS growth over 100,000 established connections, both ends, without Python objects"),
        Row(f"{CONNECTION}, with its Python object", "B", Contestant("stack", connection_with_handles), (),
            less_is_better=True, note="the same with a netstack.stack.StackSocket for each end"),
        Row(STACK, "KiB", Contestant("Host on a channel", stack), (), "<= 4 MiB over the bare interpreter",
            "<= 512 KiB", 4096, 512, by_value=True, less_is_better=True,
            note="private memory of a process with a Host on a channel, less that of a bare interpreter"),
    ]
