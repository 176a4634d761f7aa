"""How a TAP or TUN is opened for an uplink."""

from __future__ import annotations

import fcntl
import os
import struct

from netstack.link.tap import device_mtu, open_tun

# <linux/if_tun.h>
IFF_VNET_HDR = 0x4000
TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454D0, 0x400454D8
OFFLOADS = 1 | 2 | 4 | 8  # TUN_F_CSUM, TSO4, TSO6, TSO_ECN: the kernel may leave checksums and cutting to us
VNET_BYTES = 10


def open_tuntap(kind: str, name: str, *, offload: bool = True) -> tuple[int, int]:
    """A TAP (Ethernet frames) or TUN (IP packets): a network device of the kernel whose other side is the router.

    Parameters
    ----------
    kind : {"tap", "tun"}
    name : str
        The device. It is made if it does not exist (needs CAP_NET_ADMIN).
    offload : bool
        Exchange TCP packets of up to 64 KiB with the kernel, whatever the mtu, and leave checksums of such to it.

    Returns
    -------
    tuple
        ``(descriptor, mtu)`` for `netstack.router.devices.device.FileDevice`.

    Raises
    ------
    netstack.errors.LinkError
        Missing, not permitted, busy, or of the other kind.
    ValueError
        A name that no interface can have.
    """
    fd = open_tun(name, kind, flags=IFF_VNET_HDR if offload else 0)
    try:
        if offload:
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_BYTES))
        fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS if offload else 0)  # the device may remember who had it before
        return fd, device_mtu(name, kind)
    except BaseException:
        os.close(fd)
        raise
