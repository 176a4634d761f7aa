"""Which address to speak from (RFC 6724 section 5)."""

from libc.stdint cimport int64_t

from netstack.address cimport address_t
from netstack.ip.interface cimport interface_t

# The best of the interface's IPv6 addresses towards dst, by rules 1 to 8; False: it has none for that.
cdef bint source_address(const interface_t *ifc, const address_t *dst, int64_t now_ns, address_t *out) noexcept nogil
