"""The addresses of the kernel's devices, asked by netlink (rtnetlink(7)): the standard library knows no other way."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# <linux/rtnetlink.h>, <linux/if_addr.h>, <linux/if_link.h>, <linux/if.h>
RTM_GETLINK, RTM_NEWLINK, RTM_GETADDR, RTM_NEWADDR = 18, 16, 22, 20
NLM_F_REQUEST, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 1, 0x300, 2, 3
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFLA_MTU = 1, 2, 8, 4
IFF_UP, IFF_LOOPBACK = 1, 8
IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x08, 0x20, 0x40
ADDRESSES_MOST = 16              # an interface of a stack has no more


class Found(NamedTuple):
    """What the kernel has at the moment.

    Attributes
    ----------
    addresses : tuple of str
        With prefix length; none of a loopback, none on trial, link-local ones of the only device, those that are given
        out first before those that are going out of use.
    mtu : int
        The smallest of the devices that are up and have an address, bytes; 65535 when only the loopback is.
    scope : int
        The number of the device that has the link-local addresses; 0 when there is more than one, or none.
    ipv6 : bool
        The kernel speaks IPv6.
    """

    addresses: tuple[str, ...]
    mtu: int
    scope: int
    ipv6: bool

    def choose(self, wanted: str | Iterable[str] | None) -> tuple[str, ...]:
        """All of them, or those that are wanted.

        Raises
        ------
        LinkAddressError
            The kernel has no such address.
        """
        if wanted is None:
            return self.addresses[:ADDRESSES_MOST]
        from netstack.link.kernel_ip import LinkAddressError

        ours = {str(ipaddress.ip_interface(a).ip): a for a in self.addresses}
        chosen = []
        for text in (wanted,) if isinstance(wanted, str) else wanted:
            name = text.partition("/")[0]
            try:
                chosen.append(ours[str(ipaddress.ip_address(name))])
            except (ValueError, KeyError):
                has = ", ".join(ours) or "none but the loopback's"
                raise LinkAddressError(f"address {text}: the kernel has no such address here; it has {has}") from None
        return tuple(chosen)


def _dump(s: socket.socket, what: int) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each message of an answer."""
    s.send(struct.pack("=IHHII", 17, what, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + b"\0")
    while True:
        data = s.recv(1 << 16)
        while len(data) >= 16:
            length, kind, _, _, _ = struct.unpack_from("=IHHII", data)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise OSError(-struct.unpack_from("=i", data, 16)[0], "netlink")
            if length < 16:
                return
            yield kind, data[16:length]
            data = data[(length + 3) & ~3:]


def _attributes(data: bytes) -> dict[int, bytes]:
    out = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        out[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3:]
    return out


def kernel_addresses() -> Found:
    """Of the network namespace of the calling thread."""
    devices: dict[int, tuple[int, int]] = {}                   # by number: flags, mtu
    rows: list[tuple[int, int, ipaddress.IPv4Interface | ipaddress.IPv6Interface]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as s:
        for kind, body in _dump(s, RTM_GETLINK):
            if kind == RTM_NEWLINK:
                _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
                mtu = _attributes(body[16:]).get(IFLA_MTU, b"\xdc\5\0\0")
                devices[index] = flags, struct.unpack("=I", mtu)[0]
        for kind, body in _dump(s, RTM_GETADDR):
            if kind != RTM_NEWADDR:
                continue
            _, prefix, flags, _, index = struct.unpack_from("=BBBBI", body)
            attributes = _attributes(body[8:])
            if IFA_FLAGS in attributes:
                flags, = struct.unpack("=I", attributes[IFA_FLAGS])
            raw = attributes.get(IFA_LOCAL, attributes.get(IFA_ADDRESS, b""))
            if len(raw) in (4, 16) and not flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED):
                rows.append((index, flags, ipaddress.ip_interface((raw, prefix))))
    up = [index for index, (flags, _) in devices.items() if flags & IFF_UP and not flags & IFF_LOOPBACK]
    on_links = {index for index, _, a in rows if a.ip.is_link_local and a.version == 6 and index in up}
    scope = on_links.pop() if len(on_links) == 1 else 0
    usable = [(flags & IFA_F_DEPRECATED, index, a) for index, flags, a in rows
              if index in up and (a.version == 4 or not a.ip.is_link_local or index == scope)]
    usable.sort(key=lambda row: row[0])
    return Found(
        tuple(str(a) for _, _, a in usable),
        min((devices[index][1] for _, index, _ in usable), default=65535),
        scope,
        any(a.version == 6 for _, _, a in rows),
    )
