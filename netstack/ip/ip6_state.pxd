"""What an interface knows of IPv6 as a dictionary and back; a snapshot's header holds it."""

from libc.stdint cimport int64_t

from netstack.ip.interface cimport interface_t

# Settings, and what `ip6_t` holds; times as what remains.
cdef dict ip6_save(const interface_t *ifc, int64_t now_ns)
# Into an interface whose addresses are there. KeyError, ValueError, TypeError for what is no such state.
cdef int ip6_restore(interface_t *ifc, dict state, int64_t now_ns) except -1
