"""Addresses as text at the Python border; inside they are 16 bytes (see ``address.pxd``)."""

import ipaddress

from libc.string cimport memcpy


cdef int address_parse(object text, address_t *out) except -1:
    """Read an IPv4 or IPv6 address from text, an ``ipaddress`` object, or 4 or 16 bytes (as they are inside).

    A zone, ``fe80::1%1``, is the number of an interface: the first is 1.
    """
    cdef bytes packed
    zone = None
    if isinstance(text, (bytes, bytearray)):
        packed = bytes(text)
    else:
        ip = ipaddress.ip_address(text)
        packed = ip.packed
        zone = getattr(ip, "scope_id", None)
        if ip.version == 6 and ip.is_link_local and packed[2:8] != bytes(6):
            raise ValueError(f"{text}: a link-local address has zeros in its bits 10 to 63 (RFC 4291 section 2.5.6)")
    if len(packed) == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    if len(packed) != 16:
        raise ValueError(f"an address has 4 or 16 bytes, not {len(packed)}")
    memcpy(out, <const char *> packed, 16)
    if zone is not None:
        if not zone.isdigit() or not 0 < int(zone) < 256:
            raise ValueError(f"{text}: the zone is the number of an interface")
        address_set_zone(out, int(zone))
    return 0


cdef int endpoint_parse(object address, str host, int family, endpoint_t *out) except -1:
    """An address tuple of the standard library whose host is *host*, a literal; flow information and zone of AF_INET6 too.

    Raises
    ------
    ValueError
        Not a literal address.
    OverflowError, TypeError
        As the standard library's sockets do.
    """
    cdef uint32_t zone
    if not 0 <= address[1] <= 65535:
        raise OverflowError("port must be 0-65535.")
    out.port = address[1]
    out.scope = 0
    address_parse(host if host else ("::" if family == 10 else "0.0.0.0"), &out.address)
    if family != 10:
        return 0
    if len(address) > 2 and not 0 <= address[2] <= 0xfffff:
        raise OverflowError("flowinfo must be 0-1048575.")
    _, _, text = host.partition("%")
    number = address[3] if len(address) > 3 else 0
    if not number and text.isdigit():
        number = int(text)
    if not 0 <= number <= 0xffffffff:
        raise OverflowError("scope_id must be 0-4294967295.")
    zone = <uint32_t> number
    if zone and address_is_link_local(&out.address):
        address_set_zone(&out.address, zone if zone < 256 else 255)
    out.scope = zone
    return 0


cdef object endpoint_tuple(const endpoint_t *e, int family):
    """As the standard library writes it: a zone stands in its own place, an IPv4 peer of AF_INET6 is ::ffff:a.b.c.d."""
    cdef address_t plain = e.address
    if family != 10:
        return address_format(&e.address), e.port
    if address_is_v4(&e.address):
        return "::ffff:" + address_format(&e.address), e.port, 0, 0
    address_set_zone(&plain, 0)
    return address_format(&plain), e.port, 0, address_zone(&e.address) or e.scope


cdef object address_format(const address_t *a):
    """The address as text, IPv4 in dotted form, a link-local one with its zone."""
    cdef bytes packed = (<const char *> a)[:16]
    if address_is_v4(a):
        return "%d.%d.%d.%d" % tuple(packed[12:])
    if address_zone(a):
        return f"{ipaddress.IPv6Address(packed[:2] + bytes(2) + packed[4:])}%{address_zone(a)}"
    return str(ipaddress.IPv6Address(packed))
