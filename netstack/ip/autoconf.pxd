"""Addresses of an interface that are made, tried and outlived (RFC 4862, 7217, 7527).

An address is on trial before it is one of the interface's: until then packets to it are not ours, nobody speaks from it,
and only solicitations for it are heard. On media without neighbour discovery there is nobody to ask: it counts at once.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.ip.interface cimport interface_t
from netstack.ip.ip6 cimport held_t

# Make interface_t.ip6; 0 or -ENOMEM. On Ethernet neighbour discovery begins with the next advance.
cdef int ip6_make(interface_t *ifc) noexcept nogil
# Put an address on trial, or take it at once where there is none: 0 or -errno as interface_add_address.
cdef int ip6_add_address(interface_t *ifc, const address_t *a, uint8_t prefix_length, int64_t now_ns) noexcept nogil
# The same address as a router's prefix promises it (RFC 4862 section 5.5.3); lifetimes in ns.
cdef void autoconf_prefix(interface_t *ifc, const address_t *prefix, int64_t preferred_ns, int64_t valid_ns,
                          int64_t now_ns) noexcept nogil
cdef held_t *trial_of(interface_t *ifc, const address_t *a) noexcept nogil       # NULL: not on trial
# Somebody else has it (RFC 4862 section 5.4.5): another one is made where we made it, a configured one is given up.
cdef void trial_conflict(interface_t *ifc, held_t *trial, int64_t now_ns) noexcept nogil
cdef void ip6_schedule(interface_t *ifc) noexcept nogil                          # next_deadline_ns anew
cdef int64_t random_ns(interface_t *ifc, int64_t below_ns) noexcept nogil
