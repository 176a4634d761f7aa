"""Where the control sockets of routers are: one folder per user, mode 0700."""

from __future__ import annotations

import os
import re
import stat

from netstack.errors import ConfigError, RouterError

DEFAULT_NAME = "default"
NAME_VARIABLE = "NETSTACK_ROUTER"  # which router this process and its children join
FOLDER_VARIABLE = "NETSTACK_RUNTIME_DIR"  # where its control socket is
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")


def runtime_folder() -> str:
    """The folder of this user's control sockets; made if need be.

    ``$NETSTACK_RUNTIME_DIR``, else ``$XDG_RUNTIME_DIR/netstack``, else ``/tmp/netstack-UID``.

    Raises
    ------
    RouterError
        It belongs to somebody else or others may enter it.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        base = os.environ.get("XDG_RUNTIME_DIR")
        if base and os.path.isdir(base) and os.access(base, os.W_OK | os.X_OK):
            folder = os.path.join(base, "netstack")
        else:
            folder = f"/tmp/netstack-{os.geteuid()}"
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise RouterError(
            error.errno,
            f"make the folder for control sockets, {folder}: {error.strerror}; "
            f"set {FOLDER_VARIABLE} to a folder of yours",
        ) from None
    check_folder(folder)
    return folder


def check_folder(folder: str) -> None:
    """Only its owner may enter the folder of control sockets (security R15)."""
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o077:
        raise RouterError(
            1,
            f"{folder} must be a folder of this user with mode 0700: make it so, or set "
            f"{FOLDER_VARIABLE} to another one",
        )


def router_name(name: str | None) -> str:
    """A checked name: the one given, else ``$NETSTACK_ROUTER``, else ``default``."""
    name = name or os.environ.get(NAME_VARIABLE) or DEFAULT_NAME
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"router name {name!r}: 1 to 48 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return name


def socket_path(name: str | None) -> str:
    """The control socket of a router."""
    return os.path.join(runtime_folder(), router_name(name) + ".sock")


def running() -> list[str]:
    """Names of the routers that have a control socket here (of which some may be dead)."""
    return sorted(entry[:-5] for entry in os.listdir(runtime_folder()) if entry.endswith(".sock"))
