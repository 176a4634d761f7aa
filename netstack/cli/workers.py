"""The workers of ``netstack run --addressing core``: a program on each core, with a stack and an address of its own.

Packets find their core by their destination address: no lock, no ring and no cache line is shared between cores
(section 3.2 of the paper).
"""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
from collections.abc import Sequence

import click

VARIABLE = "NETSTACK_WORKER"     # which of them a program is, from 0
_TERMINAL = (signal.SIGINT, signal.SIGQUIT)                    # a terminal sends them to all by itself
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def cores(workers: int | None) -> list[int]:
    """A core for each worker, those that this process may use; all of them by default.

    Raises
    ------
    click.UsageError
        There are not so many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if workers is None:
        return allowed
    if not 1 <= workers <= len(allowed):
        raise click.UsageError(f"--workers {workers}: 1 to {len(allowed)}, the cores that this program may use")
    return allowed[:workers]


def addresses(first: Sequence[str] | None, count: int) -> list[list[str] | None]:
    """For each worker those of *first* and what follows them (``0.0.0.0`` and ``::``, of the router's choice, stay);
    None each without them.

    Raises
    ------
    click.UsageError
        No address, or there are not so many behind it.
    """
    if first is None:
        return [None] * count
    try:
        begins = [ipaddress.ip_address(each) for each in first]
        return [[str(a if a.is_unspecified else a + n) for a in begins] for n in range(count)]
    except ValueError as error:
        raise click.UsageError(f"--address {', '.join(first)}: {error}") from None


def start(command: list[str], env: dict[str, str], core: int, restore) -> subprocess.Popen:
    """One worker on its core, where all its threads and children stay unless they say otherwise."""
    def prepare() -> None:
        restore()
        os.sched_setaffinity(0, {core})

    return subprocess.Popen(command, env=env, preexec_fn=prepare)  # noqa: PLW1509


def run_workers(command: list[str], environments: Sequence[dict[str, str]], where: Sequence[int]) -> int:
    """Start a worker on each of the cores and wait for all.

    Returns what became of the first that did not end well (its exit code, or minus its signal), else 0. A worker
    that ends takes down itself alone: the others go on. Signals that are meant for the program go to all.
    """
    before = {s: signal.signal(s, signal.SIG_IGN) for s in _TERMINAL}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    children: list[subprocess.Popen] = []

    def forward(number, frame) -> None:
        for child in children:
            child.send_signal(number)                  # nothing, when it has been waited for

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)     # until all are there to hear them

    def unblocked() -> None:
        restore()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    try:
        for n, (env, core) in enumerate(zip(environments, where, strict=True)):
            children.append(start(command, {**env, VARIABLE: str(n)}, core, unblocked))
    except BaseException:
        for child in children:
            child.kill()
            child.wait()
        raise
    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    codes = [child.wait() for child in children]
    return next((code for code in codes if code), 0)
