"""Where the control sockets of daemons are: beside those of routers, in a folder of mode 0700."""

from __future__ import annotations

import os

from netstack.errors import ConfigError
from netstack.router.listener import Listener
from netstack.router.paths import _NAME, DEFAULT_NAME, runtime_folder

NAME_VARIABLE = "NETSTACK_DAEMON"          # which daemon this process and its children use


def daemon_name(name: str | None) -> str:
    """A checked name: the one given, else ``$NETSTACK_DAEMON``, else ``default``."""
    name = name or os.environ.get(NAME_VARIABLE) or DEFAULT_NAME
    if not _NAME.fullmatch(name):
        raise ConfigError(f"daemon name {name!r}: 1 to 48 letters, digits, '.', '_' or '-', a letter or digit first")
    return name


def socket_path(name: str | None) -> str:
    """The control socket of a daemon."""
    return os.path.join(runtime_folder(), daemon_name(name) + ".daemon")


def listen(name: str | None) -> Listener:
    """The control socket of a daemon that begins.

    Raises
    ------
    RouterError
        EADDRINUSE: one of that name runs already.
    """
    path = socket_path(name)
    return Listener(path, path + ".lock", ("daemon", daemon_name(name)))
