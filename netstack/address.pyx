"""Addresses as text at the Python border; inside they are 16 bytes (see ``address.pxd``)."""

import ipaddress

from libc.string cimport memcpy


cdef int address_parse(object text, address_t *out) except -1:
    """Read an IPv4 or IPv6 address from text, an ``ipaddress`` object, or 4 or 16 bytes."""
    cdef bytes packed
    if isinstance(text, (bytes, bytearray)):
        packed = bytes(text)
    else:
        packed = ipaddress.ip_address(text).packed
    if len(packed) == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    if len(packed) != 16:
        raise ValueError(f"an address has 4 or 16 bytes, not {len(packed)}")
    memcpy(out, <const char *> packed, 16)
    return 0


cdef object address_format(const address_t *a):
    """The address as text, IPv4 in dotted form."""
    cdef bytes packed = (<const char *> a)[:16]
    if address_is_v4(a):
        return "%d.%d.%d.%d" % tuple(packed[12:])
    return str(ipaddress.IPv6Address(packed))
