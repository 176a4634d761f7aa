"""What this machine and this user offer to stacks, and what to do about what is missing: for ``netstack doctor``.

Each check looks and changes nothing: no device is made, no module loaded, no packet sent.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import platform
import resource
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from netstack.router.peers import SO_PEERPIDFD

CAP_NET_ADMIN, CAP_NET_RAW = 12, 13  # linux/capability.h
SIOCSIFMTU = 0x8922                  # linux/sockios.h
IFF_TUN, IFF_TAP = 1, 2              # linux/if_tun.h
TUN_DEVICE = "/dev/net/tun"
DESCRIPTORS_PER_STACK = 8            # of a router
SHM_MIN_BYTES = 64 << 20             # a router with a few stacks
AF_XDP = 44  # <bits/socket.h>; the socket module has no name for it
ROOT_OR = "run as root, or give the interpreter the capability (setcap {cap}+ep, on a copy that only you may execute)"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    Attributes
    ----------
    group : str
        ``"machine"``, ``"cpu"``, ``"privileges"``, ``"links"`` or ``"router"``.
    name : str
    state : str
        ``"ok"``, ``"limited"`` (works, but not as it could) or ``"missing"``.
    found : str
        What there is.
    advice : str
        What to do about it; empty where nothing has to be done.
    """

    group: str
    name: str
    state: str
    found: str
    advice: str = ""


def capabilities() -> int:
    """The effective capabilities of this process, a bit each; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("CapEff:"):
                    return int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        pass
    return 0


def may_configure_network() -> bool:
    """Whether the kernel takes CAP_NET_ADMIN from this process, in this network namespace.

    It is asked to change a device that cannot exist, whose name has a slash: the privilege is judged first.
    """
    request = struct.pack("16si20x", b"no/such/device", 1500)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            fcntl.ioctl(s, SIOCSIFMTU, request)
        except OSError as error:
            if error.errno == errno.EPERM:
                return False
            if error.errno == errno.ENODEV:
                return True
    return bool(capabilities() >> CAP_NET_ADMIN & 1)


def raw_socket_error() -> str:
    """Why raw sockets cannot be had; empty if they can."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def devices(kind: int, base: str = "/sys/class/net") -> list[tuple[str, int]]:
    """``(name, uid)`` of the kernel's TAPs (2) or TUNs (1): who may open each, -1 where only root may."""
    out = []
    for path in sorted(glob.glob(f"{base}/*/tun_flags")):
        folder = os.path.dirname(path)
        try:
            with open(path) as file:
                flags = int(file.read(), 16)
            with open(os.path.join(folder, "owner")) as file:
                owner = int(file.read())
        except (OSError, ValueError):
            continue
        if flags & 3 == kind:
            out.append((os.path.basename(folder), owner))
    return out


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


# ---- the machine


def check_system() -> Iterator[Check]:
    yield Check("machine", "system", "ok", f"{platform.system()} {platform.release()} on {platform.machine()}, "
                f"{platform.python_implementation()} {platform.python_version()}")


def check_posix_memory(folder: str = "/dev/shm") -> Iterator[Check]:
    """POSIX shared memory: the rings of stacks of one owner."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        yield Check("machine", "shared memory (posix)", "missing", f"{folder}: {error.strerror}",
                    f"mount a tmpfs at {folder}, or start routers with --backend memfd")
        return
    free = status.f_bavail * status.f_frsize
    found = f"{folder}, {_size(free)} free"
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Check("machine", "shared memory (posix)", "missing", f"{folder} is not writable",
                    f"make it so (chmod 1777 {folder}), or start routers with --backend memfd")
    elif free < SHM_MIN_BYTES:
        yield Check("machine", "shared memory (posix)", "limited", found,
                    f"room for few rings: mount -o remount,size=1G {folder} (containers: --shm-size=1g), smaller rings "
                    "(--ring 256KiB), or --backend memfd")
    else:
        yield Check("machine", "shared memory (posix)", "ok", found)


def check_sealed_memory() -> Iterator[Check]:
    """Sealed memfds: the rings of strangers, and the daemon's sockets."""
    name = "shared memory (memfd)"
    try:
        fd = os.memfd_create("netstack-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        yield Check("machine", name, "missing", f"memfd_create: {error.strerror}",
                    "Linux 3.17 or newer is needed for --backend memfd and for `netstack daemon`")
        return
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        yield Check("machine", name, "ok", "memory files can be sealed")
    except OSError as error:
        yield Check("machine", name, "missing", f"sealing: {error.strerror}",
                    "--backend memfd and `netstack daemon` need a kernel that seals memory files")
    finally:
        os.close(fd)


def check_process_ends() -> Iterator[Check]:
    """How a router hears of the death of a process whose child still has its socket."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        try:
            os.close(here.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
            yield Check("machine", "end of processes", "ok", "SO_PEERPIDFD")
            return
        except OSError:
            pass
    try:
        os.close(os.pidfd_open(os.getpid()))
        yield Check("machine", "end of processes", "ok", "pidfd_open (before Linux 6.5 a number may be somebody else's "
                    "already)")
    except OSError as error:
        yield Check("machine", "end of processes", "limited", f"pidfd_open: {error.strerror}",
                    "Linux 5.3 or newer tells a router of the death of a stack while a child of it still lives")


def check_ipv6() -> Iterator[Check]:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6") as file:
            off = file.read().strip() == "1"
    except OSError:
        off = True
    if off:
        yield Check("machine", "kernel's IPv6", "limited", "off", "only hybrid stacks need it: "
                    "sysctl net.ipv6.conf.all.disable_ipv6=0")
    else:
        yield Check("machine", "kernel's IPv6", "ok", "on")


def check_descriptors() -> Iterator[Check]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    stacks = max(0, (1 << 62 if hard == resource.RLIM_INFINITY else hard) - 64) // DESCRIPTORS_PER_STACK
    found = f"{soft} descriptors, at most {'any number' if hard == resource.RLIM_INFINITY else hard}"
    if stacks < 1024:
        yield Check("machine", "open files", "limited", found,
                    f"a router of this user serves about {stacks} stacks, {DESCRIPTORS_PER_STACK} descriptors each: "
                    "raise the limit (ulimit -Hn, LimitNOFILE=)")
    else:
        yield Check("machine", "open files", "ok", found)


# ---- the processor


def check_cpu() -> Iterator[Check]:
    from netstack.wire import checksum

    have, used = checksum.cpu_features(), checksum.level()
    wanted = "neon" if platform.machine() == "aarch64" else "avx2"
    found = f"{used} in use, of {', '.join(have)}"
    cap = os.environ.get("NETSTACK_CPU")
    if cap and used != have[-1]:
        yield Check("cpu", "checksum and copy", "limited", found, f"NETSTACK_CPU={cap} holds it back: unset it")
    elif wanted not in have:
        yield Check("cpu", "checksum and copy", "limited", found,
                    f"this processor, or the machine that is emulated, has no {wanted}: sums take longer; in a virtual "
                    "machine pass the host's processor on")
    else:
        yield Check("cpu", "checksum and copy", "ok", found)


def check_cores() -> Iterator[Check]:
    from netstack.link.channel import default_capacity

    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        yield Check("cpu", "cores", "limited", "1 core for this process",
                    "nothing spins with a single core, so each message costs a wake-up: give it two (taskset, cpuset)")
    else:
        yield Check("cpu", "cores", "ok", f"{cores} for this process, of {os.cpu_count()}")
    yield Check("cpu", "ring size", "ok", f"{_size(default_capacity())} a direction, by the L2 cache")


# ---- privileges and links


def check_privileges() -> Iterator[Check]:
    yield Check("privileges", "user", "ok", f"uid {os.geteuid()}" + (" (root)" if os.geteuid() == 0 else ""))
    if may_configure_network():
        yield Check("privileges", "CAP_NET_ADMIN", "ok", "may make TAP and TUN devices")
    else:
        yield Check("privileges", "CAP_NET_ADMIN", "missing", "may not make network devices",
                    "let root make one for you, once: ip tuntap add dev tap0 mode tap user $USER; only uplinks and "
                    "hosts on a TAP or TUN need one")
    refused = raw_socket_error()
    if refused:
        yield Check("privileges", "CAP_NET_RAW", "missing", f"raw sockets: {refused}",
                    "needed by --mode hybrid only: " + ROOT_OR.format(cap="cap_net_raw"))
    else:
        yield Check("privileges", "CAP_NET_RAW", "ok", "may open raw sockets")


def check_links() -> Iterator[Check]:
    yield Check("links", "channel", "ok", "stacks and a router of this machine, no privilege")
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
        problem = advice = ""
    except FileNotFoundError:
        problem, advice = f"{TUN_DEVICE} is missing", ("modprobe tun; in a container pass the device on "
                                                       f"(--device {TUN_DEVICE})")
    except OSError as error:
        problem, advice = f"{TUN_DEVICE}: {error.strerror}", f"let this user open it: chmod 0666 {TUN_DEVICE}"
    for name, kind in (("TAP", IFF_TAP), ("TUN", IFF_TUN)):
        if problem:
            yield Check("links", name, "missing", problem, advice)
            continue
        all_there = devices(kind)
        mine = [device for device, owner in all_there if owner == os.geteuid()]
        if may_configure_network():
            there = f" ({', '.join(device for device, _ in all_there)} exist)" if all_there else ""
            yield Check("links", name, "ok", f"any device{there}")
        elif mine:
            yield Check("links", name, "ok", f"of this user: {', '.join(mine)}")
        else:
            yield Check("links", name, "missing", "no device of this user",
                        f"as root: ip tuntap add dev {name.lower()}0 mode {name.lower()} user $USER")
    yield from check_uplink_sockets()
    refused = raw_socket_error()
    if refused:
        yield Check("links", "kernel's IP (hybrid)", "missing", f"raw sockets: {refused}",
                    ROOT_OR.format(cap="cap_net_raw"))
    else:
        yield Check("links", "kernel's IP (hybrid)", "ok", "netstack run --mode hybrid")


def check_uplink_sockets() -> Iterator[Check]:
    """What uplinks on an interface of the kernel need: ``packet:NAME`` and ``xdp:NAME``."""
    for name, family, capabilities in (("packet (AF_PACKET)", socket.AF_PACKET, "cap_net_raw,cap_net_admin"),
                                       ("xdp (AF_XDP)", AF_XDP, "cap_net_raw,cap_net_admin,cap_bpf")):
        try:
            socket.socket(family, socket.SOCK_RAW, 0).close()
        except PermissionError:
            yield Check("links", name, "missing", "not permitted", "only for uplinks of a router: " +
                        ROOT_OR.format(cap=capabilities))
        except OSError as error:
            yield Check("links", name, "missing", error.strerror or str(error),
                        "this kernel lacks it (CONFIG_PACKET, CONFIG_XDP_SOCKETS): use an uplink on a TAP")
        else:
            yield Check("links", name, "ok", f"uplinks on any Ethernet interface: {name.split()[0]}:NAME")


# ---- routers


def check_routers() -> Iterator[Check]:
    from netstack.errors import NetstackError
    from netstack.router.client import ControlClient
    from netstack.router.paths import router_name, running, runtime_folder

    try:
        folder = runtime_folder()
        yield Check("router", "folder", "ok", folder)
        names = running()
    except (NetstackError, OSError) as error:
        yield Check("router", "folder", "missing", getattr(error, "strerror", None) or str(error),
                    "set NETSTACK_RUNTIME_DIR to a folder of yours with mode 0700")
        return
    answering = 0
    for name in names:
        try:
            with ControlClient(name, timeout=2) as client:
                yield Check("router", name, "ok", f"process {client.router_pid}, {client.backend}, mtu {client.mtu}, "
                            f"{len(client.attachments())} attached")
                answering += 1
        except (NetstackError, OSError):
            continue
    if not answering:
        yield Check("router", router_name(None), "missing", "none is running",
                    "netstack router & (`netstack run` brings its own)")


CHECKS = (check_system, check_posix_memory, check_sealed_memory, check_process_ends, check_ipv6, check_descriptors,
          check_cpu, check_cores, check_privileges, check_links, check_routers)


def examine() -> list[Check]:
    """All checks, in order; one that fails itself says so instead of ending the others."""
    out: list[Check] = []
    for check in CHECKS:
        try:
            out += check()
        except Exception as error:  # noqa: BLE001
            out.append(Check("machine", check.__name__, "missing", f"{type(error).__name__}: {error}",
                             "the check itself failed: please report it"))
    return out
