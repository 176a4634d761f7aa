"""How a station asks for neighbours and answers for itself: ARP (RFC 826) and neighbour discovery (RFC 4861), read and
written as one thing.

What is heard is a question or an answer, with a claim in it: that an address is at a hardware address. Whether to believe
the claim, and whom to answer, is ``station``'s to say.
"""

from libc.stdint cimport uint8_t, uint32_t

from netstack.address cimport address_t
from netstack.router.devices.device cimport device_t

cdef enum:
    NOTHING = 0                      # not of these protocols
    MALFORMED = 1                    # of them, and not to be listened to
    QUESTION = 2
    ANSWER = 3


cdef struct heard_t:
    address_t claimed                # whose address is told; zero or 0.0.0.0: nobody's
    uint8_t mac[6]                   # where it is said to be
    bint located                     # that is said at all
    address_t about                  # QUESTION: who is asked for
    address_t to                     # ANSWER: whom it was told; QUESTION: who wants to know, zero: whoever listens
    bint solicited                   # ANSWER: it says that it answers a question


cdef int hear(const uint8_t *frame, uint32_t length, heard_t *out) noexcept nogil
cdef bint is_discovery(const uint8_t *packet, uint32_t length) noexcept nogil    # an IPv6 packet that stays on its link
# Who has `about`? `source` asks; NULL for `to`: everybody is asked.
cdef void send_question(device_t *device, const uint8_t *mac, const address_t *source, const address_t *about,
                        const uint8_t *to) noexcept nogil
# `about` is here, says the station with `mac`. To who asked, or to everybody (`to` zero).
cdef void send_answer(device_t *device, const uint8_t *mac, const address_t *about, const uint8_t *to_mac,
                      const address_t *to, bint router) noexcept nogil
# The same without a question, to all on the link (RFC 5227 section 2.3, RFC 4861 section 7.2.6).
cdef void send_announcement(device_t *device, const uint8_t *mac, const address_t *about) noexcept nogil
cdef void link_local_of(const uint8_t *mac, address_t *out) noexcept nogil       # RFC 4291 appendix A
