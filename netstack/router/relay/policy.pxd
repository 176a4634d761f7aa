"""Where a packet of a stack may go, and what the kernel calls that place."""

from libc.stdint cimport uint16_t

from netstack.address cimport address_t
from netstack.router.relay.kernel cimport kernel_name_t
from netstack.router.relay.state cimport relay_t

cdef enum:                       # what policy_judge says
    POLICY_AS_IS = 0             # the address is what it says
    POLICY_ALIAS = 1             # it stands for another one of the machine
    POLICY_NAMES = 2             # the machine's name servers are meant
    POLICY_DENIED = -1
    POLICY_OURS = -2             # it is ours, and we have nothing there


cdef bint policy_is_own(const relay_t *r, const address_t *a) noexcept nogil
# The first of ours of that version of IP; False: there is none.
cdef bint policy_own(const relay_t *r, bint v4, address_t *out) noexcept nogil
# POLICY_*; target and length are written unless it is below 0.
cdef int policy_judge(const relay_t *r, const address_t *to, uint16_t port, kernel_name_t *target,
                      unsigned int *length) noexcept nogil
# What stacks may see as a sender: False for addresses that cannot be those of another machine.
cdef bint policy_foreign(const relay_t *r, const address_t *a) noexcept nogil
cdef bint policy_loopback(const address_t *a) noexcept nogil
# A name server did not answer: if it is the one that is asked, the next is from now on.
cdef void policy_server_failed(relay_t *r, const kernel_name_t *server) noexcept nogil
