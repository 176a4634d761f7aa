"""TAP and TUN as devices of an uplink."""

from __future__ import annotations

from netstack.link.tap import device_mtu, open_tun
from netstack.router.devices.device import FileDevice


class TunTap(FileDevice):
    """A TAP (Ethernet frames) or TUN (IP packets): a network device of the kernel whose other side is the router.

    Parameters
    ----------
    kind : {"tap", "tun"}
    name : str
        The device. It is made if it does not exist (needs CAP_NET_ADMIN).

    Raises
    ------
    netstack.errors.LinkError
        Missing, not permitted, busy, or of the other kind.
    ValueError
        A name that no interface can have.
    """

    def __init__(self, kind: str, name: str):
        fd = open_tun(name, kind)
        super().__init__(fd, ethernet=kind == "tap", name=name, mtu=device_mtu(name, kind))
