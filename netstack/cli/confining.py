"""How the long-running commands, the router and the daemon, give up what they do not need."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import pkgutil
import pwd
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

# Read by Python itself (the local time of log lines), by what counts caches and names processes or networks.
READ = ("/proc", "/sys/devices/system/cpu", "/etc/localtime", "/usr/share/zoneinfo", "/etc/machine-id")
NAMES = ("/etc/hosts", "/etc/resolv.conf", "/etc/services", "/run/systemd/resolve")     # and by resolvers
SHARED_MEMORY = "/dev/shm"
CAP_NET_BIND_SERVICE = 10                # ports below 1024 of the machine
ENVIRONMENT = "NETSTACK_CONFINE"         # "0": --no-confine, for debuggers and sanitizers that need to look inside

# Modules of the standard library, extensions among them, that are imported late.
STANDARD = ("array", "encodings.ascii", "encodings.idna", "encodings.latin_1", "fcntl", "hashlib", "hmac", "json",
            "linecache", "mmap", "resource", "select", "selectors", "termios", "tokenize", "traceback", "unicodedata",
            "zlib")
ROUTER = ("netstack.router", "netstack.link", "rings", "posix_ipc")
DAEMON = (*ROUTER, "netstack.daemon", "netstack.resolver", "netstack.host", "dns.message")

log = logging.getLogger("netstack")


def confining_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--confine`` and ``--user``; the command gets two functions, to be called in this order when it has what needs
    privileges and before it starts threads: ``become(packages)`` and ``confine(read=, write=, families=)``."""

    @click.option("--confine/--no-confine", default=os.environ.get(ENVIRONMENT) != "0",
                  help="Give up capabilities, other files, most system calls and core dumps at the start (default).")
    @click.option("--user", metavar="NAME", help="As root: become this user when what needs privileges is open.")
    @functools.wraps(command)
    def wrapped(*, confine, user, **values):
        return command(confine=functools.partial(give_up, confine), become=functools.partial(become, user), **values)

    return wrapped


def become(name: str | None, packages: Iterable[str]) -> None:
    """This user, with his group alone, who may not even be allowed to read these packages: they are loaded before.

    Raises
    ------
    click.UsageError
        No such user, or we are not root.
    """
    load(packages)
    if name is None:
        return
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise click.UsageError(f"--user {name}: there is no such user") from None
    if user.pw_uid == os.geteuid():
        return
    if os.geteuid():
        raise click.UsageError(f"--user {name}: only root can become another user")
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    os.environ.pop("XDG_RUNTIME_DIR", None)              # root's


def load(packages: Iterable[str]) -> None:
    """Import all modules of these packages: what a function would import later could not be loaded any more."""
    for name in STANDARD:
        importlib.import_module(name)
    for name in packages:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{name}."):
            importlib.import_module(module.name)


def give_up(wanted: bool, *, read: Iterable[str] = (), write: Iterable[str] = (), families: Iterable[int] = (),
            capabilities: Iterable[int] = ()) -> None:
    """Confine this process to these files, address families and capabilities (as far as it has them), beside what every
    process of ours needs."""
    if not wanted:
        return
    from netstack.confinement import confine

    modules = [path or os.getcwd() for path in sys.path]
    done = confine(read=[*READ, *modules, *read], write=list(write), families={socket.AF_UNIX, *families},
                   capabilities=capabilities)
    missing = [name for name, here in (("Landlock", done.landlock), ("seccomp", done.seccomp)) if not here]
    if missing:
        log.warning("this kernel has no %s: the process is less confined than it could be", " and no ".join(missing))
